//! `cluster_permanent_pruning`: of each cluster, keeps the rows least like any row before them, up to the cluster's budget
//! (Adapt-infinity: a pool of data that is never to grow beyond a size).
//!
//! The pool shrinks for good where the rows that reach the stage are those that an earlier run kept, together with new ones.

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Clustered, Left};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::select::allocation;
use crate::vector::{Matrix, Rows, Training, nearest, similarity};

/// Rows of a cluster of `k: auto`, about.
const CLUSTER_ROWS: usize = 4_096;

/// `cluster_permanent_pruning: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPermanentPruningConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is 10, or one for 4,096 rows where these are more.
    pub k: Clusters,
    /// How far the budget is spread evenly over the clusters: 0 in proportion to their rows, 1 in equal parts. Default 1.
    pub balance: f64,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `cluster_permanent_pruning`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    defaulted(
        "k",
        Clusters::SHAPE,
        Presence::Text("auto"),
        "Number of clusters; `auto` is 10, or one for 4,096 rows where these are more.",
    ),
    defaulted(
        "balance",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(1.0),
        "How far the budget is spread evenly over the clusters: 0 in proportion to their rows, 1 in equal parts, as far as a cluster has so much.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl ClusterPermanentPruningConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            balance: fields.float("balance").unwrap_or_default(),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn clusters(&self, rows: usize) -> usize {
        self.k.of(rows, |rows| rows.div_ceil(CLUSTER_ROWS).max(10))
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
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}

impl Stage for ClusterPermanentPruningConfig {
    fn kind(&self) -> &'static str {
        "cluster_permanent_pruning"
    }

    fn version(&self) -> u32 {
        1
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
        Some(Box::new(ClusterPermanentPruning { config: self.clone(), stage: stage.clone() }))
    }
}

/// Clusters the rows that reach it, and keeps of each cluster those that repeat least of what comes before.
#[derive(Debug)]
struct ClusterPermanentPruning {
    config: ClusterPermanentPruningConfig,
    stage: StageId,
}

impl Barrier for ClusterPermanentPruning {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let config = &self.config;
        let trained_rows = config.training().rows(config.clusters(usize::try_from(input.rows).unwrap_or(usize::MAX)));
        let asked = Asked { quota: config.quota.clone(), on_bad_vector: config.on_bad_vector, form: Form::Unit, trained_rows };
        let decide = move |candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>| self.decide(candidates, stop, report);
        Box::pin(selecting::select(engine, input, "selecting from clusters", asked, decide))
    }
}

impl ClusterPermanentPruning {
    fn decide(&self, candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
        let config = &self.config;
        let source = candidates.source;
        let random = Random::new(config.seed, self.stage.as_str());
        let Clustered { cells, sizes, .. } = Clustered::fit(source, config.clusters(source.rows()), &config.training(), &random)?;
        let held = candidates.allowance.held(&cells, sizes.len());
        let even = held.iter().sum::<u64>() as f64 / held.len() as f64;
        let weights: Vec<f64> = held.iter().map(|held| config.balance * even + (1.0 - config.balance) * *held as f64).collect();
        let quotas = allocation::divide(&held, &weights, candidates.allowance.budget());
        let mut members = vec![Vec::new(); sizes.len()];
        cells.iter().zip(0..).for_each(|(cell, row)| members[*cell as usize].push(row));
        let mut scores = vec![0.0; source.rows()];
        for rows in members.iter().filter(|rows| !rows.is_empty()) {
            stop.check()?;
            let _memory =
                candidates.memory.beside("comparing the rows of a cluster", rows.len() * source.dimensions() * size_of::<f32>())?;
            let mut buffer = Vec::new();
            let found = earlier(source.gather(rows, &mut buffer)?);
            rows.iter().zip(found).for_each(|(row, score)| scores[*row as usize] = score);
        }
        report.insert("cells".into(), json!(sizes.len()));
        report.insert("smallest_quota".into(), json!(quotas.iter().min()));
        report.insert("largest_quota".into(), json!(quotas.iter().max()));
        Ok(selecting::first_of_cells(candidates, &selecting::ascending(&scores), &cells, &quotas, &scores))
    }
}

/// Rows that are compared with earlier ones in one product; among each other they are compared one by one.
const BLOCK: usize = 64;

/// For each row its highest cosine with a row before it, 0 where none is above.
fn earlier(rows: Matrix<'_>) -> Vec<f64> {
    let starts: Vec<usize> = (0..rows.rows()).step_by(BLOCK).collect();
    let of = |start: usize| {
        let end = rows.rows().min(start + BLOCK);
        let before = nearest(Rows::all(rows.run(start..end)), Rows::all(rows.run(0..start)), 0.0);
        let within = |row: usize| (start..row).map(move |other| similarity(rows.row(row), rows.row(other)));
        (start..end).zip(before).map(|(row, found)| within(row).fold(found.map_or(0.0, |(_, cosine)| cosine), f64::max)).collect::<Vec<_>>()
    };
    starts.into_par_iter().map(of).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::planted;

    #[test]
    fn each_row_is_compared_with_all_before_it() {
        let vectors = planted::vectors(300, 5, 9);
        let found = earlier(vectors.matrix());
        for (row, found) in found.into_iter().enumerate() {
            let plain = (0..row).map(|other| similarity(vectors.row(row), vectors.row(other))).fold(0.0, f64::max);
            assert_eq!(found.to_bits(), plain.to_bits());
        }
    }
}
