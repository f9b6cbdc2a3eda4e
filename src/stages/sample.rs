//! `sample`: keeps a random share or number of rows, independent of sharding and threads.

use serde_json::{Value, json};

use super::policy::{self, Budget};
use crate::declare::{Field, Fields};
use crate::diagnostic::Diagnostics;

/// `sample: {keep_fraction | keep_rows, seed}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleConfig {
    /// How much is kept.
    pub budget: Budget,
    /// Keys the hash of each row; default 1234.
    pub seed: u64,
}

/// The keys of `sample`.
pub const FIELDS: &[Field] = &[policy::KEEP_FRACTION, policy::KEEP_ROWS, policy::SEED];

impl SampleConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self { budget: Budget::read(fields, out), seed: policy::read_seed(fields) }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"keep": self.budget.canonical(), "seed": self.seed})
    }
}
