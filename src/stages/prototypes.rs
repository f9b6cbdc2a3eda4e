//! `prototypes`: keeps the rows that are hardest to tell from their cluster's centroid (Sorscher et al. 2022).

use serde_json::{Value, json};

use super::policy::{self, Budget, Clusters, OnBadVector};
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::ids::StageId;

/// `prototypes: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrototypesConfig {
    /// How much is kept.
    pub budget: Budget,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is the square root of the number of rows.
    pub k: Clusters,
    /// How far the budget is spread evenly over clusters: 0 not at all, 1 wholly. Default 0.
    pub balance: f64,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `prototypes`.
pub const FIELDS: &[Field] = &[
    policy::KEEP_FRACTION,
    policy::KEEP_ROWS,
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is the square root of the number of rows."),
    defaulted(
        "balance",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.0),
        "How far the budget is spread evenly over the clusters: 0 not at all, 1 wholly.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl PrototypesConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            budget: Budget::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            balance: fields.float("balance").unwrap_or_default(),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "balance": self.balance,
            "budget": self.budget.canonical(),
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}
