//! `codebook_select`: keeps one row in so many of each cluster, so that a corpus is thinned evenly.
//!
//! TL;DR (Wang et al., Too Large; Data Reduction for Vision-Language Pre-Training, 2023): rows are clustered by their codes of a learned
//! codebook, whitened (a stage `embed: {from}` and one of `embedding_whitening` above), and each cluster is thinned.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::policy::{self, Clusters, OnBadVector};
use super::quota::Quota;
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, CellOrder, Clustered, Left};
use super::vectors::Form;
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::Engine;
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::vector::Training;

/// Rows of a cluster of `k: auto`, about.
const CLUSTER_ROWS: usize = 3_000;

/// `codebook_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookSelectConfig {
    /// Of each cluster one row in so many is kept, and at least one.
    pub every: u64,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is one for 3,000 rows.
    pub k: Clusters,
    /// Which rows of a cluster are kept; default `random`.
    pub keep: CellOrder,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means and of `random`; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `codebook_select`.
pub const FIELDS: &[Field] = &[
    required("every", Shape::Int { min: 1, max: i64::MAX }, "Of each cluster one row in so many is kept, rounded up."),
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is one for 3,000 rows."),
    selecting::keep_in_cells("random"),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl CodebookSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        Self {
            every: fields.int("every").unwrap_or(1).unsigned_abs(),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            keep: fields.text("keep").and_then(|word| CellOrder::from_word(&word)).unwrap_or(CellOrder::Random),
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
            "every": self.every,
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
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
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
        // What is kept follows from the sizes of the clusters; a budget of all rows bounds nothing.
        let asked = Asked { quota: Quota::all(), on_bad_vector: config.on_bad_vector, form: Form::Unit, trained_rows };
        Box::pin(selecting::select(engine, input, "selecting from clusters", asked, move |candidates, _, report| {
            self.decide(candidates, report)
        }))
    }
}

impl CodebookSelect {
    fn decide(&self, candidates: &Candidates<'_>, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
        let config = &self.config;
        let source = candidates.source;
        let random = Random::new(config.seed, self.stage.as_str());
        let clustered = Clustered::fit(source, config.clusters(source.rows()), &config.training(), &random)?;
        let quotas: Vec<u64> = clustered.sizes.iter().map(|size| (*size as u64).div_ceil(config.every)).collect();
        report.insert("budget".into(), json!(quotas.iter().sum::<u64>()));
        report.insert("cells".into(), json!(quotas.len()));
        let order = config.keep.order(&clustered, source, &random)?;
        Ok(selecting::first_of_cells(candidates, &order, &clustered.cells, &quotas, &clustered.distances))
    }
}
