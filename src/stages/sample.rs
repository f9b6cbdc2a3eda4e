//! `sample`: keeps a random share or number of rows, independent of sharding and threads.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::Fields as ArrowFields;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::columns::{numbers, row_schema};
use super::draw::{self, Draw};
use super::policy;
use super::quota::{self, Amount, Quota};
use super::ranked::{self, Bounds, Ranking};
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::{Field, Fields};
use crate::diagnostic::Diagnostics;
use crate::engine::Engine;
use crate::engine::sort::SortKey;
use crate::error::{Context as _, Kind, Result};
use crate::ids::StageId;
use crate::random;

/// `sample: {keep_fraction | keep_rows | keep_bytes | keep_tokens, group, per_source, allocation, seed}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleConfig {
    /// How much is kept.
    pub quota: Quota,
    /// Keys the hash of each row; default 1234.
    pub seed: u64,
}

/// The keys of `sample`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::SEED,
];

impl SampleConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self { quota: Quota::read(fields, out), seed: policy::read_seed(fields) }
    }

    /// The share that each row is kept by for itself; `None` where rows are ranked.
    fn share(&self) -> Option<f64> {
        match self.quota.amount {
            Amount::Fraction(fraction) if !self.quota.grouped() => Some(fraction),
            _ => None,
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"keep": self.quota.canonical(), "seed": self.seed})
    }
}

impl Stage for SampleConfig {
    fn kind(&self) -> &'static str {
        "sample"
    }

    fn version(&self) -> u32 {
        2
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(match self.share() {
            Some(_) => Self::canonical(self),
            None => json!({"carried": self.quota.carried(), "seed": self.seed}),
        })
    }

    fn shape(&self) -> StageShape {
        if self.share().is_some() { StageShape::RowLocal } else { StageShape::Barrier }
    }

    fn needs(&self, roles: &Roles) -> Needs {
        let mut needs = draw::needs(roles);
        self.quota.add_needs(&mut needs);
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let draw = Draw::try_new(cx, self.seed)?;
        match self.share() {
            Some(fraction) => Ok(Some(Box::new(Share { draw, fraction }))),
            None => self.quota.carry(cx, Some(Box::new(draw))),
        }
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        match self.share() {
            Some(_) => None,
            None => Some(Box::new(Smallest { quota: self.quota.clone() })),
        }
    }
}

/// Keeps the rows whose draw lies in the first `fraction` of all draws.
struct Share {
    draw: Draw,
    fraction: f64,
}

impl RowLocal for Share {
    fn makes(&self) -> ArrowFields {
        ArrowFields::empty()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let drawn = self.draw.apply(batch)?;
        let draws = numbers(&drawn, draw::COLUMN)?;
        let kept: BooleanArray = draws.values().iter().map(|draw| Some(random::as_unit(*draw) < self.fraction)).collect();
        let rows = filter(drawn.column(0), &kept).context(Kind::Internal, || "cannot filter row numbers".into())?;
        RecordBatch::try_new(row_schema(&ArrowFields::empty()), vec![rows]).context(Kind::Internal, || "cannot build a sample".into())
    }
}

/// Keeps the rows with the smallest draws.
#[derive(Debug)]
struct Smallest {
    quota: Quota,
}

impl Barrier for Smallest {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let order = SortKey::ascending(draw::COLUMN);
            let ranking = Ranking { order, bounds: Bounds::default(), quota: Some(self.quota), counted: Vec::new() };
            ranked::select(engine, input, ranking).await
        })
    }
}
