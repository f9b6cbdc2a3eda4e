//! What the stages share that keep as much as a budget allows by their vectors.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::columns::{Drop, Drops};
use super::policy::OnBadVector;
use super::quota::{Quota, RowSizes, Tally, noted, noting};
use super::seam::{Narrow, Outcome};
use super::vectors::{Form, Gathered, gather};
use crate::engine::{Engine, Reservation, Stop, spawn};
use crate::error::Result;
use crate::random::Random;
use crate::select::{Allowance, Meter};
use crate::vector::{Cells, KMeans, Source, Subset, Training};
use crate::words;

/// What is asked of every selecting stage.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// How much is kept.
    pub(super) quota: Quota,
    /// What becomes of rows with bad vectors.
    pub(super) on_bad_vector: OnBadVector,
    /// How vectors are held.
    pub(super) form: Form,
    /// Rows that are copied to memory to train on.
    pub(super) trained_rows: usize,
}

/// Rows to choose among: all that reach the stage, or those of one group.
pub(super) struct Candidates<'a> {
    /// Their vectors.
    pub(super) source: Source<'a>,
    /// The [`crate::ids::RowId`] bits of each.
    pub(super) ids: Vec<u64>,
    /// The labels of each; empty where the stage reads none.
    pub(super) labels: &'a [Box<[u8]>],
    /// What may be kept of them.
    pub(super) allowance: Allowance,
    /// What the pool counts.
    pub(super) memory: &'a Reservation,
}

/// A row that a selector did not choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// The place of the row among those to choose among.
    pub(super) row: u32,
    /// What the selector goes by.
    pub(super) score: f64,
    /// The row's place in the order of the selection, from 1, and how much of that order is kept.
    pub(super) rank: u64,
    /// See `rank`.
    pub(super) budget: u64,
    /// The row's cell, where the order is that of a cell or rows are compared inside cells.
    pub(super) cell: Option<u32>,
}

/// Groups of which the report says what was decided, at most.
const TOLD_GROUPS: usize = 100;

/// Gathers the vectors and lets `decide` choose among those that are sound: it is given the rows, and a section of the report, and gives
/// the rows that it leaves. Where the budget is one of groups, it chooses in each by itself. The budget is of all rows that reach the
/// stage; those whose vectors are bad and that are kept all the same use it up first.
pub(super) async fn select<F>(engine: &Arc<Engine>, input: Narrow, what: &'static str, asked: Asked, decide: F) -> Result<Outcome>
where
    F: Fn(&Candidates<'_>, &Stop, &mut Map<String, Value>) -> Result<Vec<Left>> + Send + 'static,
{
    let names = input.source_names.clone();
    let (stream, sized) = noting(Tally::try_new(engine, &asked.quota, &input.sources)?, input.stream);
    let gathered = gather(engine, Narrow { stream, ..input }, asked.trained_rows, asked.form).await?;
    let stop = engine.stop().clone();
    let choose = move || choose(&gathered, &noted(&sized), &names, &asked, what, |candidates, report| decide(candidates, &stop, report));
    let (drops, report) = spawn::blocking(what, choose).await?;
    Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
}

fn choose(
    gathered: &Gathered,
    sized: &RowSizes,
    source_names: &[String],
    asked: &Asked,
    what: &str,
    decide: impl Fn(&Candidates<'_>, &mut Map<String, Value>) -> Result<Vec<Left>>,
) -> Result<(Drops, Map<String, Value>)> {
    let (quota, memory) = (&asked.quota, &gathered.memory);
    let mut report = Map::new();
    let bad = gathered.settle_bad(asked.on_bad_vector, &mut report)?;
    let budgets = sized.budgets_beside(&gathered.bad, asked.on_bad_vector)?;
    let mut members: Vec<(Vec<u32>, Vec<u64>)> = vec![Default::default(); budgets.len()];
    for (row, place) in gathered.rows.iter().zip(0..) {
        let (group, size) = sized.of(*row)?;
        members[group].0.push(place);
        members[group].1.push(size);
    }
    let mut drops = Drops::for_rows(memory, bad.len() + gathered.rows.len())?;
    bad.for_each(|drop| drops.push(drop));
    let (mut used, mut told) = (0, Vec::new());
    let all = gathered.vectors.source();
    for (source, name, group) in sized.tally().groups() {
        let (places, sizes) = std::mem::take(&mut members[group]);
        let mut said = Map::new();
        let size: u64 = sizes.iter().sum();
        let budget = budgets[group].min(size);
        let allowance = if quota.measures() { Allowance::of_sizes(budget, sizes) } else { Allowance::of_rows(budget) };
        let left = if places.is_empty() {
            Vec::new()
        } else if !quota.grouped() {
            let (ids, labels) = (gathered.rows.clone(), gathered.labels.as_slice());
            decide(&Candidates { source: all, ids, labels, allowance: allowance.clone(), memory }, &mut said)?
        } else {
            // Only where as much is left for what is chosen by.
            let bytes = places.len() * all.dimensions() * size_of::<f32>();
            let twice = memory.beside(what, 2 * bytes).ok();
            let room = twice.and_then(|twice| {
                drop(twice);
                memory.beside(what, bytes).ok()
            });
            let (subset, mut buffer) = (Subset::new(all, &places), Vec::new());
            let own = if room.is_some() { Source::Memory(all.gather(&places, &mut buffer)?) } else { Source::File(&subset) };
            let ids = places.iter().map(|place| gathered.rows[*place as usize]).collect();
            decide(&Candidates { source: own, ids, labels: &[], allowance: allowance.clone(), memory }, &mut said)?
        };
        let taken = size - left.iter().map(|left| allowance.takes(left.row)).sum::<u64>();
        used += taken;
        if quota.group.is_some() {
            said.insert("group".into(), json!(name));
        }
        if quota.per_source {
            said.insert("source".into(), json!(source_names.get(source)));
        }
        if quota.grouped() {
            said.insert("rows".into(), json!(places.len()));
            said.insert("budget".into(), json!(budget));
            said.insert("used".into(), json!(taken));
        }
        if told.len() < TOLD_GROUPS {
            told.push(said);
        }
        for Left { row, score, rank, budget, cell } in left {
            let (row, detail) = (gathered.rows[places[row as usize] as usize], quota.detail(budget, rank, cell));
            drops.push(Drop { row, reason: "not_selected", kept: None, score: Some(score), detail });
        }
    }
    sized.tally().report(&budgets, used, &mut report);
    if quota.grouped() {
        report.insert("by_group".into(), json!(told));
    } else {
        // What a stage without a budget keeps, it says itself.
        for said in &mut told {
            report.append(said);
        }
    }
    Ok((drops, report))
}

/// What is left of `scores` when the rows `chosen` are kept: those of highest score rank first, ties by row order.
pub(super) fn ranked(candidates: &Candidates<'_>, scores: &[f64], chosen: &[bool], cells: Option<&[u32]>) -> Vec<Left> {
    let keep = chosen.iter().filter(|chosen| **chosen).count() as u64;
    let left = descending(scores).into_iter().filter(|row| !chosen[*row as usize]);
    let one = |(place, row): (usize, u32)| Left {
        row,
        score: scores[row as usize],
        rank: keep + place as u64 + 1,
        budget: candidates.allowance.budget(),
        cell: cells.map(|cells| cells[row as usize]),
    };
    left.enumerate().map(one).collect()
}

/// What is left when the first rows of `order` are kept, which names each row once: as many as may be.
pub(super) fn first(candidates: &Candidates<'_>, order: &[u32], scores: &[f64]) -> Vec<Left> {
    let place = |(place, row): (usize, &u32)| Left {
        row: *row,
        score: scores[*row as usize],
        rank: place as u64 + 1,
        budget: candidates.allowance.budget(),
        cell: None,
    };
    order.iter().enumerate().skip(candidates.allowance.beginning(order)).map(place).collect()
}

/// What is left when of each cell the first rows of `order` are kept, as its quota says; ranks are those in the cell. A cell of bytes or
/// tokens ends with the first row that does not fit; what all cells leave goes to the first rows of `order`, again until one does not fit.
pub(super) fn first_of_cells(candidates: &Candidates<'_>, order: &[u32], cells: &[u32], quotas: &[u64], scores: &[f64]) -> Vec<Left> {
    let mut meters: Vec<Meter> = quotas.iter().copied().map(Meter::new).collect();
    let mut left: Vec<Left> = Vec::new();
    for row in order {
        let cell = cells[*row as usize];
        let meter = &mut meters[cell as usize];
        if !meter.offer(candidates.allowance.takes(*row)) {
            let (rank, budget) = (meter.rank(), meter.budget());
            left.push(Left { row: *row, score: scores[*row as usize], rank, budget, cell: Some(cell) });
        }
    }
    let mut rest = Meter::new(quotas.iter().sum::<u64>() - meters.iter().map(Meter::used).sum::<u64>());
    left.retain(|left| !rest.offer(candidates.allowance.takes(left.row)));
    left
}

/// All rows by score, lowest first, ties by row order.
pub(super) fn ascending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]));
    order
}

/// All rows by score, highest first, ties by row order.
pub(super) fn descending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    order
}

/// All rows in the order of draws keyed by their vectors: neither shards nor rows beside move a row. Of equal vectors each copy has a draw
/// of its own, so that they do not stay or go together: the vectors that come first are the same in whatever order copies lie.
pub(super) fn shuffled(source: Source<'_>, random: &Random) -> Result<Vec<u32>> {
    let draws = source.pieces(|_, rows| {
        let mut bytes = Vec::new();
        let draw = |row: usize| {
            bytes.clear();
            bytes.extend(rows.row(row).iter().flat_map(|value| value.to_le_bytes()));
            random.draw(&bytes)
        };
        Ok((0..rows.rows()).map(draw).collect::<Vec<u64>>())
    })?;
    let mut draws = draws.concat();
    let mut order: Vec<u32> = (0..draws.len() as u32).collect();
    order.sort_by_key(|row| draws[*row as usize]);
    let (mut before, mut copy) = (None, 0_u64);
    for row in &order {
        let draw = draws[*row as usize];
        copy = if before == Some(draw) { copy + 1 } else { 0 };
        before = Some(draw);
        if copy > 0 {
            draws[*row as usize] = random.draw(&[draw.to_le_bytes(), copy.to_le_bytes()].concat());
        }
    }
    order.sort_by_key(|row| (draws[*row as usize], *row));
    Ok(order)
}

words! {
    /// Which rows of a cluster are kept first.
    pub enum CellOrder {
        /// Those farthest from the centroid.
        Hard = "hard",
        /// Those nearest to the centroid.
        Easy = "easy",
        /// Those that the seed draws.
        Random = "random",
    }
}

impl CellOrder {
    /// All rows in this order.
    pub(super) fn order(self, clustered: &Clustered, source: Source<'_>, random: &Random) -> Result<Vec<u32>> {
        Ok(match self {
            Self::Hard => descending(&clustered.distances),
            Self::Easy => ascending(&clustered.distances),
            Self::Random => shuffled(source, random)?,
        })
    }
}

/// Rows with the cluster of each.
#[derive(Debug)]
pub(super) struct Clustered {
    pub(super) model: KMeans,
    /// The cluster of each row.
    pub(super) cells: Vec<u32>,
    /// 1 - cosine of each row to its centroid.
    pub(super) distances: Vec<f64>,
    /// Rows of each cluster.
    pub(super) sizes: Vec<usize>,
}

impl Clustered {
    /// Fits a k-means to unit vectors.
    pub(super) fn fit(source: Source<'_>, k: usize, training: &Training, random: &Random) -> Result<Self> {
        let model = KMeans::fit_to(source, k, training, random)?;
        let (cells, similarities) = Cells::nearest(source, &model, 1, f64::NEG_INFINITY)?;
        let distances = similarities.iter().map(|similarity| 1.0 - similarity).collect();
        Ok(Self { model, cells: cells.owns(), distances, sizes: cells.sizes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::Vectors;

    /// 200 copies of one vector and 200 others: among the first 200 in the order of draws lies about half of each, and which vectors lie
    /// there does not depend on where they lay before.
    #[test]
    fn copies_are_drawn_one_by_one_and_order_moves_none() {
        let numbers: Vec<f32> = (0..400_u16).map(|row| if row % 2 == 0 { 0.0 } else { f32::from(row) }).collect();
        let first = |rows: &[usize]| {
            let data: Vec<f32> = rows.iter().flat_map(|row| [1.0, numbers[*row]]).collect();
            let vectors = Vectors::try_new(data, 2).unwrap();
            let order = shuffled(Source::Memory(vectors.matrix()), &Random::new(7, "s")).unwrap();
            let mut first: Vec<u32> = order[..200].iter().map(|row| vectors.row(*row as usize)[1] as u32).collect();
            first.sort_unstable();
            (first, order.len())
        };
        let (found, all) = first(&(0..400).collect::<Vec<_>>());
        let copies = found.iter().filter(|number| **number == 0).count();
        assert!((70..130).contains(&copies) && all == 400, "{copies}");
        assert_eq!(first(&(0..400).rev().collect::<Vec<_>>()).0, found);
    }
}
