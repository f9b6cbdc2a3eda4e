//! The barrier: cells, the keep order, the pairs that are looked at, drops and report.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::decide::{decide, decide_listed};
use super::efficiency::{EFFICIENCY_ROWS, efficiency, recall, recall_listed, recall_report};
use super::frozen::{FrozenCells, drift, mean};
use super::target::tune;
use super::{Epsilon, Method, OnEqual, Rule, SemanticDedupConfig};
use crate::cluster::{self, Dropped, Keep as KeepOrder, Listed, Threshold};
use crate::engine::{Engine, Stop, spawn};
use crate::error::{Error, Result};
use crate::ids::StageId;
use crate::random::Random;
use crate::stages::cells::Assigned;
use crate::stages::columns::{Detail, Drop, Drops};
use crate::stages::policy::{Keep, Order};
use crate::stages::seam::{Barrier, Frozen, Narrow, Outcome};
use crate::stages::vectors::{Form, Gathered, gather};
use crate::vector::recall::Recall;
use crate::vector::{Cells, HnswConfig, KMeans, Probed, Rows, Source, near_pairs};

/// Bytes a row of what is decided for one epsilon, and of what that is made from.
const DECISION_BYTES: usize = 2 * size_of::<Option<Dropped>>();
/// Cells a row that `probe: auto` begins with, and those that it goes on to where these do not find the pairs of the sample.
const PROBE: usize = 4;
const PROBE_AT_MOST: usize = 32;
/// The share of the sample's pairs that `probe: auto` wants...
const WANTED_RECALL: f64 = 0.998;
/// ... and the pairs that it must rest on to go below where it begins: a few pairs say little.
const PAIRS_AT_LEAST: u64 = 1000;

/// Bytes of a pair that a graph leads to, while pairs are sorted.
const PAIR_BYTES: usize = 28;

/// Compares the rows that reach it.
#[derive(Debug)]
pub(super) struct SemanticDedup {
    pub(super) config: SemanticDedupConfig,
    pub(super) stage: StageId,
}

/// Cells as a method needs them.
struct Clustered {
    model: Option<KMeans>,
    cells: Cells,
    /// 1 - cosine of each row and its centroid; 0 where there is none.
    distances: Vec<f64>,
}

/// All that comes of the rows.
struct Decided {
    drops: Drops,
    report: Map<String, Value>,
    assigned: Option<Assigned>,
    /// Centroids that were fitted to them.
    fitted: Option<RecordBatch>,
}

/// What a method looked at.
struct Searched {
    cells: Cells,
    /// On a sample, where not all pairs were compared.
    recall: Option<Recall>,
}

/// The gathered rows in keep order, with their cells.
fn probed<'a>(gathered: &'a Gathered, order: &'a [u32], cells: &'a Cells) -> Probed<'a> {
    Probed { source: gathered.vectors.source(), order, cells, block_rows: gathered.block_rows(), settled: gathered.incumbents }
}

impl Barrier for SemanticDedup {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let rows = input.rows + input.incumbents.as_ref().map_or(0, |incumbents| incumbents.rows);
            let trained_rows = self.trained_rows(usize::try_from(rows).unwrap_or(usize::MAX));
            let (frozen, dimensions) = (input.frozen.clone(), input.dimensions);
            let gathered = gather(engine, input, trained_rows, Form::Unit).await?;
            let stop = engine.stop().clone();
            let decide = move || {
                let given = match &frozen {
                    Frozen::Given(table) if !gathered.rows.is_empty() => Some(FrozenCells::read(table, dimensions)?),
                    _ => None,
                };
                let Decided { drops, report, assigned, fitted } = self.decide(&gathered, given, frozen == Frozen::Wanted, &stop)?;
                let Gathered { rows, memory, .. } = gathered;
                Ok((drops, report, assigned.map(|assigned| assigned.tables(rows, memory)).unwrap_or_default(), fitted))
            };
            let (drops, report, tables, frozen) = spawn::blocking("semantic deduplication", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables, frozen })
        })
    }
}

impl SemanticDedup {
    /// Whether k-means runs for so many rows.
    fn needs_centroids(&self, rows: usize) -> bool {
        rows > 0 && (self.config.cells_for(rows) > 1 || self.config.write_cells || matches!(self.config.keep, Keep::Hard | Keep::Easy))
    }

    /// Rows that k-means holds a copy of if the vectors lie in a file.
    fn trained_rows(&self, rows: usize) -> usize {
        if self.needs_centroids(rows) { self.config.training_for(rows).rows(self.config.cells_for(rows)) } else { 0 }
    }

    fn decide(&self, gathered: &Gathered, frozen: Option<FrozenCells>, wanted: bool, stop: &Stop) -> Result<Decided> {
        let config = &self.config;
        let rows = gathered.rows.len();
        // What is decided for one epsilon is reckoned with the vectors.
        let _memory = gathered.memory.beside("reporting further values of epsilon", rows * config.report.len() * DECISION_BYTES)?;
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        let source = gathered.vectors.source();
        let method = config.method_for(rows);
        // For other methods than `ivf` a row's own cell is all.
        let width = if method == Method::Ivf { config.probe.map_or(PROBE, |probe| probe as usize) } else { 1 };
        let fitted_distance = frozen.as_ref().map(|frozen| frozen.distance);
        let clustered = self.cluster(gathered, width, frozen)?;
        let new = clustered.distances.get(gathered.incumbents..).unwrap_or_default();
        let fitted = match (&clustered.model, fitted_distance) {
            (Some(_), Some(distance)) => {
                report.insert("drift".into(), drift(distance, new));
                None
            }
            (Some(model), None) if wanted => Some(FrozenCells::table(model, mean(&clustered.distances))?),
            _ => None,
        };
        stop.check()?;
        let order = self.order(gathered, &clustered.distances);
        let epsilon = match config.epsilon {
            Epsilon::Fixed(epsilon) => epsilon,
            Epsilon::KeepFraction(fraction) => {
                let random = Random::new(config.seed, self.stage.as_str());
                let epsilon = tune(&probed(gathered, &order, &clustered.cells), fraction, &random)?;
                report.insert("epsilon".into(), json!(epsilon));
                epsilon
            }
        };
        let on_equal = match config.on_equal {
            OnEqual::Keep => cluster::OnEqual::Keep,
            OnEqual::Drop => cluster::OnEqual::Drop,
        };
        let threshold = Threshold::epsilon(epsilon, on_equal);
        let further = config.report.iter().copied().filter(|further| *further != epsilon);
        let epsilons: Vec<f64> = std::iter::once(epsilon).chain(further).collect();
        let thresholds: Vec<Threshold> = epsilons.iter().map(|epsilon| Threshold::epsilon(*epsilon, on_equal)).collect();
        let Clustered { model, cells, distances } = clustered;
        let approximate = cells.count() > 1 && rows > 1;
        let searched = match &model {
            Some(model) if approximate => self.search(gathered, &order, model, cells, threshold, Threshold::loosest(&thresholds))?,
            _ => Searched { cells, recall: None },
        };
        let Searched { cells, mut recall } = searched;
        let mut decided = if method == Method::Hnsw {
            let (decided, found) = self.by_graph(gathered, &order, &thresholds, stop)?;
            recall = Some(found);
            decided
        } else {
            let (decided, bridges) = decide(config.rule, &probed(gathered, &order, &cells), &thresholds, stop)?;
            if gathered.incumbents > 0 {
                report.insert("bridges".into(), json!(bridges));
            }
            decided
        };
        let counts: Vec<u64> = decided.iter().map(|decisions| decisions.iter().flatten().count() as u64).collect();
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + counts[0] as usize)?;
        bad.for_each(|drop| drops.push(drop));
        let (sizes, mut orphans) = (cells.sizes(), 0_u64);
        let id = |place: u32| gathered.rows[order[place as usize] as usize];
        for (place, dropped) in decided.swap_remove(0).into_iter().enumerate().filter_map(|(place, dropped)| Some((place as u32, dropped?)))
        {
            orphans += u64::from(dropped.representative.is_none());
            // A component's survivor may be any distance away: then it is not named.
            let accepted = threshold.accepts(dropped.similarity);
            let cell = cells.own(order[place as usize]);
            let cell = (sizes[cell as usize] < rows).then_some(cell);
            let detail = Detail::Compared { cell, orphan: dropped.representative.is_none(), chained: !accepted };
            let kept = dropped.representative.filter(|_| accepted).map(id);
            drops.push(Drop { row: id(place), reason: "semantic_duplicate", kept, score: Some(dropped.similarity), detail });
        }
        report.insert("method".into(), json!(method.word()));
        report.insert("cells".into(), json!(cells.count()));
        report.insert("largest_cell".into(), json!(sizes.iter().max().copied().unwrap_or(0)));
        if config.rule == Rule::AnyEarlier {
            report.insert("orphans".into(), json!(orphans));
        }
        let by_epsilon: Vec<Value> = epsilons
            .iter()
            .zip(&counts)
            .map(
                |(epsilon, dropped)| json!({"dropped": dropped, "epsilon": epsilon, "kept": (rows - gathered.incumbents) as u64 - dropped}),
            )
            .collect();
        report.insert("by_epsilon".into(), Value::Array(by_epsilon));
        let assigned = match (&model, config.write_cells) {
            (Some(model), true) => Some(Assigned { centroids: model.centroids().clone(), cells: cells.owns(), distances }),
            _ => None,
        };
        match (method, model.filter(|_| approximate)) {
            (Method::Ivf, _) => drop(report.insert("probe".into(), json!(cells.width()))),
            (Method::Hnsw, _) => {}
            (_, Some(model)) => {
                report.insert("efficiency".into(), efficiency(source, &model, &cells, threshold, EFFICIENCY_ROWS)?);
            }
            // In one cell all pairs are compared.
            (_, None) => drop(report.insert("efficiency".into(), json!({"eta_percent": 100.0}))),
        }
        if let Some(recall) = recall {
            report.insert("recall".into(), recall_report(&recall, rows, cells.width()));
        }
        Ok(Decided { drops, report, assigned, fitted })
    }

    /// Fits centroids where the method or the keep order needs them and none are given, and places each row in the `width` nearest cells.
    fn cluster(&self, gathered: &Gathered, width: usize, frozen: Option<FrozenCells>) -> Result<Clustered> {
        let config = &self.config;
        let rows = gathered.rows.len();
        if !self.needs_centroids(rows) {
            return Ok(Clustered { model: None, cells: Cells::one(rows), distances: vec![0.0; rows] });
        }
        let source = gathered.vectors.source();
        let random = Random::new(config.seed, self.stage.as_str());
        let model = match frozen {
            Some(frozen) => frozen.model,
            None => KMeans::fit_to(source, config.cells_for(rows), &config.training_for(rows), &random)?,
        };
        // A cell that holds no near row under the loosest epsilon is left out; a tuned one is not yet known.
        let minimum = match config.epsilon {
            Epsilon::Fixed(epsilon) => 1.0 - config.report.iter().copied().fold(epsilon, f64::max),
            Epsilon::KeepFraction(_) => f64::NEG_INFINITY,
        };
        let (cells, similarities) = Cells::nearest(source, &model, width, minimum)?;
        Ok(Clustered { model: Some(model), cells, distances: similarities.iter().map(|similarity| 1.0 - similarity).collect() })
    }

    /// The rows in keep order.
    fn order(&self, gathered: &Gathered, distances: &[f64]) -> Vec<u32> {
        let order = match &self.config.keep {
            Keep::Last => KeepOrder::Last,
            Keep::Hard => KeepOrder::Hard(distances),
            Keep::Easy => KeepOrder::Easy(distances),
            Keep::Random => KeepOrder::Random(&gathered.draws),
            Keep::By { order, .. } => KeepOrder::By { ranks: &gathered.ranks, descending: *order == Order::Descending },
            Keep::First | Keep::Longest | Keep::Shortest => KeepOrder::First,
        }
        .order(gathered.rows.len());
        // Incumbents come first.
        let (mut before, run): (Vec<u32>, Vec<u32>) = order.into_iter().partition(|row| (*row as usize) < gathered.incumbents);
        before.extend(run);
        before
    }

    /// How many cells a row is compared with, and which pairs of a sample that leaves out. Under `probe: auto` the fewest that find
    /// the pairs of the sample.
    fn search(
        &self,
        gathered: &Gathered,
        order: &[u32],
        model: &KMeans,
        cells: Cells,
        threshold: Threshold,
        minimum: f64,
    ) -> Result<Searched> {
        let source = gathered.vectors.source();
        let measure = |cells: &Cells| recall(&probed(gathered, order, cells), threshold);
        let measured = measure(&cells)?;
        if self.config.method_for(order.len()) != Method::Ivf || self.config.probe.is_some() {
            return Ok(Searched { cells, recall: Some(measured) });
        }
        let enough = |recall: &Recall, probe: usize| recall.share(probe).is_none_or(|share| share >= WANTED_RECALL);
        if enough(&measured, PROBE) {
            let fewest = if measured.pairs < PAIRS_AT_LEAST { PROBE } else { 1 };
            let probe = [1, 2, PROBE].into_iter().find(|probe| *probe >= fewest && enough(&measured, *probe)).unwrap_or(PROBE);
            return Ok(Searched { cells: cells.narrowed(probe), recall: Some(measured) });
        }
        drop(cells);
        let _memory = gathered.memory.beside("probing many cells", order.len() * PROBE_AT_MOST * size_of::<u32>())?;
        let (cells, _) = Cells::nearest(source, model, PROBE_AT_MOST, minimum)?;
        let measured = measure(&cells)?;
        let probe = [8, 16].into_iter().find(|probe| enough(&measured, *probe)).unwrap_or(PROBE_AT_MOST);
        Ok(Searched { cells: cells.narrowed(probe), recall: Some(measured) })
    }

    /// Decides by the pairs that a graph of neighbours leads to, and measures which of a sample's it does not.
    fn by_graph(
        &self,
        gathered: &Gathered,
        order: &[u32],
        thresholds: &[Threshold],
        stop: &Stop,
    ) -> Result<(Vec<Vec<Option<Dropped>>>, Recall)> {
        let Source::Memory(matrix) = gathered.vectors.source() else {
            return Err(Error::resources("vectors do not fit the memory that `method: hnsw` holds them in")
                .hint("raise `--memory`, or set `method: ivf`, which compares them from a file"));
        };
        let settings = HnswConfig::default();
        let rows = Rows::some(matrix, order);
        let most = settings.bytes(rows.len(), rows.dimensions()) + rows.len() * (settings.neighbours + 1) * PAIR_BYTES;
        let _memory = gathered.memory.beside("a graph of neighbours", most)?;
        let pairs = near_pairs(rows, Threshold::loosest(thresholds), &settings, || stop.check())?;
        let listed = Listed { starts: &pairs.starts, earlier: &pairs.earlier, similarities: &pairs.similarities };
        let recall = recall_listed(rows, gathered.vectors.source(), order, listed, thresholds[0])?;
        Ok((decide_listed(self.config.rule, rows, listed, thresholds), recall))
    }
}
