//! `density_pruning`: each cluster keeps a quota of its rows, larger where it is spread out and lies apart (Abbas et al. 2024).

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, CellOrder, Clustered, Left};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::select::density::{self, Cluster};
use crate::vector::{Matrix, Training, similarity};
use crate::words;

words! {
    /// What a cluster's quota goes by.
    pub enum Complexity {
        /// How far its rows are from its centroid, times how far its centroid is from the nearest others.
        Spread = "spread",
        /// Its number of rows.
        Size = "size",
        /// Nothing: each has the same.
        Uniform = "uniform",
    }
}

/// `density_pruning: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct DensityPruningConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is the square root of the number of rows.
    pub k: Clusters,
    /// What a cluster's quota goes by; default `spread`.
    pub complexity: Complexity,
    /// Centroids nearest to a cluster's that its distance to others is the mean of; default 20.
    pub neighbors: u32,
    /// The temperature of the softmax over complexities; default 0.5.
    pub temperature: f64,
    /// The share of an even quota that each cluster is guaranteed; default 0.5.
    pub balance: f64,
    /// Which rows of a cluster are kept; default `hard`.
    pub keep: CellOrder,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means and of `random`; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `density_pruning`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is the square root of the number of rows."),
    defaulted(
        "complexity",
        Shape::Choice(Complexity::WORDS),
        Presence::Text("spread"),
        "What a cluster's quota goes by: `spread`, how far its rows are from its centroid times how far that is from others; `size`; `uniform`.",
    ),
    defaulted(
        "neighbors",
        Shape::Int { min: 1, max: 1 << 24 },
        Presence::Int(20),
        "The nearest other centroids that a cluster's distance to others is the mean of.",
    ),
    defaulted(
        "temperature",
        Shape::Float { min: 1e-6, max: 1e6, exclusive: false },
        Presence::Float(0.5),
        "The temperature of the softmax over complexities: the lower, the more the complex clusters get.",
    ),
    defaulted(
        "balance",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.5),
        "The share of an even quota that each cluster is guaranteed, where it has so many rows; 0 guarantees one row.",
    ),
    defaulted(
        "keep",
        Shape::Choice(CellOrder::WORDS),
        Presence::Text("hard"),
        "Which rows of a cluster are kept first: `hard`, those farthest from its centroid; `easy`, the nearest; `random`, those drawn.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl DensityPruningConfig {
    /// Reads the checked map; a key that the complexity has no use for is a problem.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let complexity = fields.text("complexity").and_then(|word| Complexity::from_word(&word)).unwrap_or(Complexity::Spread);
        if complexity != Complexity::Spread && fields.has("neighbors") {
            let message = format!("`neighbors` has no meaning for `complexity: {}`", complexity.word());
            fields.problem(out, "neighbors", message, Some("remove `neighbors`, or take `complexity: spread`".into()));
        }
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            complexity,
            neighbors: fields.int("neighbors").and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            temperature: fields.float("temperature").unwrap_or(1.0),
            balance: fields.float("balance").unwrap_or_default(),
            keep: fields.text("keep").and_then(|word| CellOrder::from_word(&word)).unwrap_or(CellOrder::Hard),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn clusters(&self, rows: usize) -> usize {
        self.k.of(rows, |rows| (rows as f64).sqrt().round() as usize)
    }

    fn training(&self) -> Training {
        Training::thorough(self.iterations as usize)
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "balance": self.balance,
            "budget": self.quota.canonical(),
            "complexity": self.complexity.word(),
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "keep": self.keep.word(),
            "neighbors": self.neighbors,
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
            "temperature": self.temperature,
        })
    }
}

impl Stage for DensityPruningConfig {
    fn kind(&self) -> &'static str {
        "density_pruning"
    }

    fn version(&self) -> u32 {
        2
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn quota(&self) -> Option<&Quota> {
        Some(&self.quota)
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(DensityPruning { config: self.clone(), stage: stage.clone() }))
    }
}

/// Clusters the rows that reach it, divides the budget among the clusters, and keeps so many rows of each.
#[derive(Debug)]
struct DensityPruning {
    config: DensityPruningConfig,
    stage: StageId,
}

impl Barrier for DensityPruning {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let config = &self.config;
        let trained_rows = config.training().rows(config.clusters(usize::try_from(input.rows).unwrap_or(usize::MAX)));
        let asked = Asked { quota: config.quota.clone(), on_bad_vector: config.on_bad_vector, form: Form::Unit, trained_rows };
        let decide = move |candidates: &Candidates<'_>, _: &Stop, report: &mut Map<String, Value>| self.decide(candidates, report);
        Box::pin(selecting::select(engine, input, "selecting by density", asked, decide))
    }
}

impl DensityPruning {
    fn decide(&self, candidates: &Candidates<'_>, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
        let config = &self.config;
        let source = candidates.source;
        let random = Random::new(config.seed, self.stage.as_str());
        let clustered = Clustered::fit(source, config.clusters(source.rows()), &config.training(), &random)?;
        let complexities = density::complexities(
            &describe(&clustered, config.neighbors as usize),
            match config.complexity {
                Complexity::Spread => density::Complexity::Spread,
                Complexity::Size => density::Complexity::Size,
                Complexity::Uniform => density::Complexity::Uniform,
            },
        );
        let held = candidates.allowance.held(&clustered.cells, clustered.sizes.len());
        let quotas = density::quotas(&held, &complexities, candidates.allowance.budget(), config.temperature, config.balance);
        report.insert("cells".into(), json!(clustered.sizes.len()));
        report.insert("smallest_quota".into(), json!(quotas.iter().min()));
        report.insert("largest_quota".into(), json!(quotas.iter().max()));
        let order = config.keep.order(&clustered, source, &random)?;
        Ok(selecting::first_of_cells(candidates, &order, &clustered.cells, &quotas, &clustered.distances))
    }
}

/// The size and both distances of each cluster.
fn describe(clustered: &Clustered, neighbors: usize) -> Vec<Cluster> {
    let mut sums = vec![0.0; clustered.sizes.len()];
    for (cell, distance) in clustered.cells.iter().zip(&clustered.distances) {
        sums[*cell as usize] += distance;
    }
    let inter = inter(clustered.model.centroids().matrix(), neighbors);
    let one = |((rows, sum), inter): ((&usize, f64), f64)| Cluster { rows: *rows as u64, intra: sum / *rows as f64, inter };
    clustered.sizes.iter().zip(sums).zip(inter).map(one).collect()
}

/// For each centroid the mean of 1 - cosine to its `neighbors` nearest others; NaN where there is none.
fn inter(centroids: Matrix<'_>, neighbors: usize) -> Vec<f64> {
    let one = |own: usize| {
        let others = (0..centroids.rows()).filter(|other| *other != own);
        let mut distances: Vec<f64> = others.map(|other| 1.0 - similarity(centroids.row(own), centroids.row(other))).collect();
        distances.sort_by(f64::total_cmp);
        distances.truncate(neighbors);
        distances.iter().sum::<f64>() / distances.len() as f64
    };
    (0..centroids.rows()).into_par_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_other_centroids_count() {
        let at = |degrees: f64| [degrees.to_radians().cos() as f32, degrees.to_radians().sin() as f32];
        let data: Vec<f32> = [0.0, 60.0, 180.0].into_iter().flat_map(at).collect();
        let found = inter(Matrix::try_new(&data, 2).unwrap(), 1);
        assert!((found[0] - 0.5).abs() < 1e-6 && (found[1] - 0.5).abs() < 1e-6 && (found[2] - 1.5).abs() < 1e-6, "{found:?}");
        let both = inter(Matrix::try_new(&data, 2).unwrap(), 9);
        assert!((both[0] - 1.25).abs() < 1e-6, "{both:?}");
        assert!(inter(Matrix::try_new(&data[..2], 2).unwrap(), 3)[0].is_nan());
    }
}
