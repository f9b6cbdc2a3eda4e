//! `codebook_select`: keeps one row in so many of each cluster, so that a corpus is thinned evenly.
//!
//! TL;DR (Wang et al., Too Large; Data Reduction for Vision-Language Pre-Training, 2023): rows are clustered by their codes of a learned
//! codebook, whitened (a stage `embed: {from}` and one of `embedding_whitening` above), and each cluster is thinned.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::cells::{self, Assigned};
use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, CellOrder, Clustered, Left};
use super::vectors::Form;
use crate::declare::shape::{defaulted, optional};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Reservation, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::select::allocation;
use crate::vector::{Source, Training};
use crate::words;

/// Rows of a cluster of `k: auto`, about.
const CLUSTER_ROWS: usize = 3_000;

words! {
    /// Which rows of a cluster are kept.
    pub enum Keep {
        /// Those farthest from the centroid.
        Hard = "hard",
        /// Those nearest to the centroid.
        Easy = "easy",
        /// Those that the seed draws.
        Random = "random",
        /// The first of every so many in the order of the corpus, as released.
        Stride = "stride",
    }
}

/// `codebook_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookSelectConfig {
    /// How much is kept of each cluster.
    pub share: Share,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is one for 3,000 rows.
    pub k: Clusters,
    /// Which rows of a cluster are kept; default `random`.
    pub keep: Keep,
    /// Whether the dataset gets the clustering; default no.
    pub write_cells: bool,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means and of `random`; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// How much is kept of each cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Share {
    /// One row in so many, and at least one.
    Every(u64),
    /// The same share of each, as much as a budget allows.
    Budget(Quota),
}

/// The keys of `codebook_select`.
pub const FIELDS: &[Field] = &[
    optional("every", Shape::Int { min: 1, max: i64::MAX }, "Of each cluster one row in so many is kept, rounded up; instead of a budget."),
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is one for 3,000 rows."),
    defaulted(
        "keep",
        Shape::Choice(Keep::WORDS),
        Presence::Text("random"),
        "Which rows of a cluster are kept: `random`, those drawn; `hard`, those farthest from its centroid; `easy`, the nearest; `stride`, the first of each `every` in the order of the corpus.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    cells::WRITE_CELLS,
    policy::ON_BAD_VECTOR,
];

impl Share {
    /// Reads `every`, or a budget; both or neither is a problem.
    fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let quota = Quota::read_optional(fields, out);
        if !fields.has("every") {
            return Self::Budget(quota.unwrap_or_else(|| {
                let hint = "say `every: 2`, or a budget such as `keep_rows: 100000`";
                fields.problem(out, "", "neither `every` nor a budget is given", Some(hint.into()));
                Quota::all()
            }));
        }
        let every = fields.int("every").unwrap_or(1);
        if quota.is_some() {
            let hint = Some("keep the one that you mean and remove the other".to_owned());
            fields.problem(out, "every", "`every` and a budget exclude each other", hint);
        }
        for key in ["group", "per_source", "allocation"].into_iter().filter(|key| quota.is_none() && fields.has(key)) {
            fields.problem(
                out,
                key,
                "`every` is no budget to divide among groups",
                Some("say a budget such as `keep_fraction: 0.5`".into()),
            );
        }
        Self::Every(every.unsigned_abs())
    }

    fn canonical(&self) -> Value {
        match self {
            Self::Every(every) => json!({"every": every}),
            Self::Budget(quota) => quota.canonical(),
        }
    }
}

impl Keep {
    /// All rows in this order.
    fn order(self, share: &Share, clustered: &Clustered, source: Source<'_>, random: &Random) -> Result<Vec<u32>> {
        match (self, share) {
            (Self::Hard, _) => CellOrder::Hard.order(clustered, source, random),
            (Self::Easy, _) => CellOrder::Easy.order(clustered, source, random),
            (Self::Stride, Share::Every(every)) => Ok(strided(&clustered.cells, clustered.sizes.len(), *every)),
            (Self::Random | Self::Stride, _) => CellOrder::Random.order(clustered, source, random),
        }
    }
}

/// All rows, before the others those that are the first of every so many of their cell.
fn strided(cells: &[u32], count: usize, every: u64) -> Vec<u32> {
    let mut met = vec![0_u64; count];
    let mut first = |row: &u32| {
        let place = &mut met[cells[*row as usize] as usize];
        *place += 1;
        (*place - 1).is_multiple_of(every)
    };
    let (mut order, rest): (Vec<u32>, Vec<u32>) = (0..cells.len() as u32).partition(&mut first);
    order.extend(rest);
    order
}

impl CodebookSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let keep = fields.text("keep").and_then(|word| Keep::from_word(&word)).unwrap_or(Keep::Random);
        let share = Share::read(fields, out);
        if keep == Keep::Stride && matches!(share, Share::Budget(_)) {
            let hint = Some("say `every: 2`, or keep `random` rows".to_owned());
            fields.problem(out, "keep", "`stride` steps by `every`, and has no meaning under a budget", hint);
        }
        let write_cells = fields.bool("write_cells").unwrap_or(false);
        if write_cells && matches!(&share, Share::Budget(quota) if quota.grouped()) {
            let hint = Some("cluster all rows together: remove the groups, or `write_cells`".to_owned());
            fields.problem(out, "write_cells", "each group has a clustering of its own", hint);
        }
        Self {
            share,
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            keep,
            write_cells,
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn clusters(&self, rows: usize) -> usize {
        self.k.of(rows, |rows| rows.div_ceil(CLUSTER_ROWS))
    }

    fn training(&self) -> Training {
        Training::thorough(self.iterations as usize)
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "share": self.share.canonical(),
            "write_cells": self.write_cells,
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "keep": self.keep.word(),
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}

impl Stage for CodebookSelectConfig {
    fn kind(&self) -> &'static str {
        "codebook_select"
    }

    fn version(&self) -> u32 {
        2
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn quota(&self) -> Option<&Quota> {
        match &self.share {
            Share::Every(_) => None,
            Share::Budget(quota) => Some(quota),
        }
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(CodebookSelect { config: self.clone(), stage: stage.clone() }))
    }
}

/// Clusters the rows that reach it, and thins each cluster.
#[derive(Debug)]
struct CodebookSelect {
    config: CodebookSelectConfig,
    stage: StageId,
}

impl Barrier for CodebookSelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let config = &self.config;
        let trained_rows = config.training().rows(config.clusters(usize::try_from(input.rows).unwrap_or(usize::MAX)));
        // Where what is kept follows from the sizes of the clusters, a budget of all rows bounds nothing.
        let quota = config.quota().cloned().unwrap_or_else(Quota::all);
        let asked = Asked { quota, on_bad_vector: config.on_bad_vector, form: Form::Unit, trained_rows };
        let placed: Arc<Mutex<Option<Placed>>> = Arc::default();
        let found = Arc::clone(&placed);
        Box::pin(async move {
            let decide = move |candidates: &Candidates<'_>, _: &Stop, report: &mut Map<String, Value>| {
                let (left, placed) = self.decide(candidates, report)?;
                *found.lock().unwrap_or_else(PoisonError::into_inner) = placed;
                Ok(left)
            };
            let outcome = selecting::select(engine, input, "selecting from clusters", asked, decide).await?;
            let placed = placed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let tables = placed.map(|(assigned, rows, memory)| assigned.tables(rows, memory)).unwrap_or_default();
            Ok(Outcome { tables, ..outcome })
        })
    }
}

/// The rows with their cells, and what the pool counts for them.
type Placed = (Assigned, Vec<u64>, Reservation);

impl CodebookSelect {
    fn decide(&self, candidates: &Candidates<'_>, report: &mut Map<String, Value>) -> Result<(Vec<Left>, Option<Placed>)> {
        let config = &self.config;
        let source = candidates.source;
        let random = Random::new(config.seed, self.stage.as_str());
        let clustered = Clustered::fit(source, config.clusters(source.rows()), &config.training(), &random)?;
        let quotas: Vec<u64> = match &config.share {
            Share::Every(every) => clustered.sizes.iter().map(|size| (*size as u64).div_ceil(*every)).collect(),
            Share::Budget(_) => {
                let held = candidates.allowance.held(&clustered.cells, clustered.sizes.len());
                let weights: Vec<f64> = held.iter().map(|held| *held as f64).collect();
                allocation::divide(&held, &weights, candidates.allowance.budget())
            }
        };
        report.insert("budget".into(), json!(quotas.iter().sum::<u64>()));
        report.insert("cells".into(), json!(quotas.len()));
        let order = config.keep.order(&config.share, &clustered, source, &random)?;
        let left = selecting::first_of_cells(candidates, &order, &clustered.cells, &quotas, &clustered.distances);
        if !config.write_cells {
            return Ok((left, None));
        }
        let bytes = source.rows() * (size_of::<u64>() + size_of::<u32>() + size_of::<f64>());
        let memory = candidates.memory.beside("listing the rows of clusters", bytes)?;
        let Clustered { model, cells, distances, .. } = clustered;
        let assigned = Assigned { centroids: model.centroids().clone(), cells, distances };
        Ok((left, Some((assigned, candidates.ids.clone(), memory))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells hold the rows 0 2 4 5 and 1 3.
    #[test]
    fn strides_are_those_of_each_cell() {
        let cells = [0, 1, 0, 1, 0, 0];
        assert_eq!(strided(&cells, 2, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(strided(&cells, 2, 2), [0, 1, 4, 2, 3, 5]);
        assert_eq!(strided(&cells, 2, 3), [0, 1, 5, 2, 3, 4]);
    }
}
