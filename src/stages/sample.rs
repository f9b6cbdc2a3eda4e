//! `sample`: keeps a random share or number of rows, independent of sharding and threads.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::Fields as ArrowFields;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::columns::{Detail, Drop, drop_batch, numbers, row_schema};
use super::draw::{self, Draw};
use super::policy::{self, Budget};
use super::seam::{Barrier, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, drop_fields};
use crate::declare::{Field, Fields};
use crate::diagnostic::Diagnostics;
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, map};
use crate::error::{Context as _, Kind, Result};
use crate::ids::StageId;
use crate::random;

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
        Some(match self.budget {
            Budget::Fraction(_) => Self::canonical(self),
            Budget::Rows(_) => json!({"seed": self.seed}),
        })
    }

    fn shape(&self) -> StageShape {
        match self.budget {
            Budget::Fraction(_) => StageShape::RowLocal,
            Budget::Rows(_) => StageShape::Barrier,
        }
    }

    fn needs(&self, roles: &Roles) -> Needs {
        draw::needs(roles)
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let draw = Draw::try_new(cx, self.seed)?;
        Ok(Some(match self.budget {
            Budget::Fraction(fraction) => Box::new(Share { draw, fraction }),
            Budget::Rows(_) => Box::new(draw),
        }))
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        match self.budget {
            Budget::Fraction(_) => None,
            Budget::Rows(rows) => Some(Box::new(Smallest { rows })),
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
    rows: u64,
}

impl Barrier for Smallest {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let sorted = sort(engine, input.stream, &[SortKey::ascending(draw::COLUMN), SortKey::ascending(ROW_ID)])?;
            let mut rank = 0_u64;
            let budget = self.rows;
            let left_out = map(sorted, drop_fields(), move |batch| {
                let mut drops = Vec::new();
                for row in numbers(&batch, ROW_ID)?.values() {
                    rank += 1;
                    if rank > budget {
                        let detail = Detail::Rank { budget, rank, cell: None };
                        drops.push(Drop { row: *row, reason: "not_selected", kept: None, score: None, detail });
                    }
                }
                drop_batch(&drops)
            });
            Ok(Outcome {
                drops: sort(engine, left_out, &[SortKey::ascending(ROW_ID)])?,
                report: Map::new(),
                tables: Vec::new(),
                frozen: None,
            })
        })
    }
}
