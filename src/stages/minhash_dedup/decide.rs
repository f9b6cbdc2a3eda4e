//! The barrier: candidates from the bands, then each component by itself, in keep order.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::candidates::{self, Candidates};
use super::verify::{Compared, NEAR, Pairs, exactly};
use super::{MinhashDedupConfig, Rule, Verify};
use crate::cluster::{
    self, Bounds, Buckets, Components, Cuts, Dropped, Effort, Keep as KeepOrder, OnEqual, Star, Threshold, compare_in_buckets,
};
use crate::engine::{Engine, spawn};
use crate::error::Result;
use crate::ids::RowId;
use crate::limits::{MAX_BUCKET_ROWS, MAX_COMPARED_ROWS};
use crate::stages::columns::{Detail, Drop, Drops};
use crate::stages::policy::{Keep, Order};
use crate::stages::seam::{Barrier, NamedRows, Narrow, Outcome};
use crate::stages::vectors::ranks;

const BOUNDS: Bounds = Bounds { bucket_rows: MAX_BUCKET_ROWS, compared_rows: MAX_COMPARED_ROWS };
/// The share of the budget in which rows are held while others are compared with them.
const HELD_SHARE: usize = 10;

/// Near duplicates.
#[derive(Debug)]
pub(super) struct MinhashDedup {
    pub(super) config: MinhashDedupConfig,
}

impl Barrier for MinhashDedup {
    fn run(self: Box<Self>, engine: &Arc<Engine>, mut input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let (named, sources) = (Arc::clone(&input.named), std::mem::take(&mut input.sources));
            let candidates = candidates::find(engine, input).await?;
            let shared = Arc::clone(engine);
            let decide = move || self.decide(&shared, &candidates, named.as_ref(), &sources);
            let (drops, report) = spawn::blocking("near deduplication", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
        })
    }
}

/// What became of the rows of one component.
struct Decided {
    /// The candidate, its shared bands with the representative, and why.
    dropped: Vec<(u32, Option<u32>, u32, Dropped)>,
    /// Rows dropped at each threshold.
    counts: Vec<u64>,
    effort: Effort,
    /// Rows near to several of earlier increments.
    bridges: u64,
}

impl MinhashDedup {
    fn decide(
        &self,
        engine: &Arc<Engine>,
        candidates: &Candidates,
        named: &dyn NamedRows,
        sources: &[usize],
    ) -> Result<(Drops, Map<String, Value>)> {
        let config = &self.config;
        let compared = match config.verify {
            Verify::Exact => Some(Compared::shingles(engine, candidates, named)?),
            Verify::Estimate => Some(Compared::signatures(candidates, config.permutations())?),
            Verify::None => None,
        };
        let thresholds: Vec<Threshold> = match config.verify {
            // All that shares a band is taken for similar.
            Verify::None => vec![Threshold::new(0.0, OnEqual::Drop)],
            _ => config.thresholds().map(|minimum| Threshold::new(minimum, OnEqual::Drop)).collect(),
        };
        let order = self.order(candidates)?;
        let room = engine.memory_bytes() / HELD_SHARE;
        let held = engine.reserve("comparing near duplicates", room)?;
        let room = room / engine.threads().max(1);
        let groups: Vec<Range<usize>> = order
            .chunk_by(|a, b| candidates.components[*a as usize] == candidates.components[*b as usize])
            .scan(0, |from, group| {
                *from += group.len();
                Some(*from - group.len()..*from)
            })
            .collect();
        let sources = if config.across { sources } else { &[] };
        let decided = groups.par_iter().map(|group| {
            let members = &order[group.clone()];
            self.decide_component(engine, candidates, compared.as_ref(), members, sources, &thresholds, room)
        });
        let decided = decided.collect::<Result<Vec<_>>>()?;
        let (mut effort, mut bridges) = (Effort::default(), 0);
        let mut counts = vec![0_u64; thresholds.len()];
        let dropped = decided.iter().map(|component| component.dropped.len()).sum();
        let mut drops = Drops::for_rows(&held, dropped)?;
        let id = |candidate: u32| candidates.ids[candidates.rows[candidate as usize] as usize];
        for component in decided {
            effort += component.effort;
            bridges += component.bridges;
            counts.iter_mut().zip(&component.counts).for_each(|(sum, count)| *sum += count);
            for (row, kept, shared, dropped) in component.dropped {
                let verified = config.verify != Verify::None;
                // A component's survivor may be any distance away: then it is not named.
                let accepted = thresholds.first().is_some_and(|threshold| threshold.accepts(dropped.similarity));
                let estimated = config.verify == Verify::Estimate;
                let detail = Detail::Bands { shared, estimated, unverified: !verified, chained: verified && !accepted };
                let kept = kept.filter(|_| accepted).map(id);
                let score = verified.then_some(dropped.similarity);
                drops.push(Drop { row: id(row), reason: "near_duplicate", kept, score, detail });
            }
        }
        let largest = groups.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut report = self.report(candidates, groups.len(), largest, &counts, effort);
        if candidates.ids.len() > candidates.new {
            report.insert("bridges".into(), json!(bridges));
        }
        Ok((drops, report))
    }

    /// The candidates by component, in keep order inside each.
    fn order(&self, candidates: &Candidates) -> Result<Vec<u32>> {
        let rows = candidates.new;
        let ranks = ranks(&candidates.orders)?;
        let visits = match &self.config.keep {
            Keep::Longest | Keep::By { order: Order::Descending, .. } => KeepOrder::By { ranks: &ranks, descending: true },
            Keep::Shortest | Keep::By { .. } => KeepOrder::By { ranks: &ranks, descending: false },
            Keep::Last => KeepOrder::Last,
            Keep::First | Keep::Hard | Keep::Easy | Keep::Random => KeepOrder::First,
        };
        // Incumbents come first, in the order in which they were read.
        let incumbents = candidates.ids.len() - rows;
        let mut rank = vec![0_u32; candidates.ids.len()];
        for (place, row) in visits.order(rows).into_iter().enumerate() {
            rank[row as usize] = (incumbents + place) as u32;
        }
        for (place, rank) in rank[rows..].iter_mut().enumerate() {
            *rank = place as u32;
        }
        let mut order: Vec<u32> = (0..candidates.rows.len() as u32).collect();
        order.sort_unstable_by_key(|candidate| {
            (candidates.components[*candidate as usize], rank[candidates.rows[*candidate as usize] as usize])
        });
        Ok(order)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one barrier, shared by its components")]
    fn decide_component(
        &self,
        engine: &Engine,
        candidates: &Candidates,
        compared: Option<&Compared>,
        members: &[u32],
        sources: &[usize],
        thresholds: &[Threshold],
        room: usize,
    ) -> Result<Decided> {
        let (mut starts, mut numbers) = (Vec::with_capacity(members.len() + 1), Vec::new());
        for member in members {
            starts.push(numbers.len());
            let (from, to) = (candidates.starts[*member as usize], candidates.starts[*member as usize + 1]);
            numbers.extend_from_slice(&candidates.numbers[from..to]);
        }
        starts.push(numbers.len());
        let buckets = Buckets { starts: &starts, numbers: &numbers };
        let of_sources = if sources.is_empty() {
            Vec::new()
        } else {
            let id = |member: &u32| candidates.ids[candidates.rows[*member as usize] as usize];
            members.iter().map(|member| sources[RowId::from_bits(id(member)).shard().ordinal()] as u32).collect()
        };
        let first = thresholds[0].minimum();
        let cuts = Cuts { loosest: Threshold::loosest(thresholds), first, near: first - NEAR };
        let is_incumbent = |member: &&u32| candidates.rows[**member as usize] as usize >= candidates.new;
        let incumbents = members.iter().take_while(is_incumbent).count() as u32;
        let mut pairs = Pairs::new(compared, members, (of_sources, incumbents), self.config.bands, cuts, room);
        let stop = || engine.stop().check();
        let mut bridges = 0;
        let (results, effort) = match self.config.rule {
            Rule::Star => {
                let mut star = Star::new(members.len(), thresholds).with_incumbents(incumbents as usize);
                let mut rule = cluster::Rule {
                    rule: &mut star,
                    wants: Star::wants,
                    wants_first: Star::wants_first,
                    offer: Star::offer,
                    decide: Star::decide,
                };
                let effort = compare_in_buckets(buckets, BOUNDS, cuts, &mut rule, &mut pairs, stop)?;
                bridges = star.bridges();
                (star.finish(), effort)
            }
            Rule::Components => {
                let mut rule = Components::new(members.len(), thresholds);
                let effort = if compared.is_none() && sources.is_empty() {
                    // Whoever shares a band is joined: the members are one component already.
                    (1..members.len() as u32).for_each(|row| rule.offer(row, 0, 1.0));
                    Effort::default()
                } else {
                    let mut rule = cluster::Rule {
                        rule: &mut rule,
                        wants: Components::wants,
                        wants_first: Components::wants_first,
                        offer: Components::offer,
                        decide: Components::decide,
                    };
                    compare_in_buckets(buckets, BOUNDS, cuts, &mut rule, &mut pairs, stop)?
                };
                let (pairs, failure) = (RefCell::new(&mut pairs), RefCell::new(None));
                let results = rule.finish(|a, b| {
                    if compared.is_none() {
                        return 1.0;
                    }
                    exactly(&mut pairs.borrow_mut(), a, b).unwrap_or_else(|error| {
                        failure.borrow_mut().get_or_insert(error);
                        0.0
                    })
                });
                if let Some(error) = failure.into_inner() {
                    return Err(error);
                }
                (results, effort)
            }
        };
        let counts = results.iter().map(|rows| rows.iter().flatten().count() as u64).collect();
        let first = results.into_iter().next().unwrap_or_default();
        let dropped = first.into_iter().enumerate().filter_map(|(place, dropped)| {
            let dropped = dropped?;
            let kept = dropped.representative;
            let shared = kept.map_or(0, |kept| buckets.shared(place as u32, kept));
            Some((members[place], kept.map(|kept| members[kept as usize]), shared, dropped))
        });
        Ok(Decided { dropped: dropped.collect(), counts, effort, bridges })
    }

    fn report(&self, candidates: &Candidates, components: usize, largest: usize, counts: &[u64], effort: Effort) -> Map<String, Value> {
        let config = &self.config;
        let rows = candidates.new as u64;
        let mut report = Map::new();
        report.insert("bands".into(), json!({"bands": config.bands, "rows": config.rows}));
        report.insert("candidates".into(), json!({"components": components, "largest_component": largest, "rows": candidates.rows.len()}));
        report.insert("rows_without_shingles".into(), json!(candidates.empty));
        let pairs = json!({
            "candidates": effort.candidates,
            "compared": effort.compared,
            "near_below": if config.verify == Verify::None { 0.0 } else { NEAR },
            "rejected": effort.rejected,
            "rejected_near": effort.rejected_near,
            "ruled_out": effort.ruled_out,
        });
        report.insert("pairs".into(), pairs);
        report.insert("bounds".into(), json!({"cut_rows": effort.cut_rows, "pairs_left_out": effort.left_out}));
        if config.verify != Verify::None {
            let bands = config.layout();
            let entries = config.thresholds().zip(counts).map(|(threshold, dropped)| {
                let found_with = bands.probability(threshold);
                json!({"dropped": dropped, "found_with": found_with, "kept": rows - dropped, "threshold": threshold})
            });
            report.insert("by_threshold".into(), Value::Array(entries.collect()));
        }
        report
    }
}
