//! `score_filter`: keeps the rows that one column scores best.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::carry::CarryNumbers;
use super::policy::Order;
use super::quota::{self, Quota};
use super::ranked::{self, Bounds, Ranking, SCORE};
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::Engine;
use crate::engine::sort::SortKey;
use crate::error::Result;
use crate::ids::StageId;

/// `score_filter: {column, order, min, max, keep_...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreFilterConfig {
    /// The column of scores, of any type of numbers.
    pub column: String,
    /// Whether the greatest scores are the best (`desc`, the default) or the smallest.
    pub order: Order,
    /// The least score that passes.
    pub min: Option<f64>,
    /// The greatest score that passes.
    pub max: Option<f64>,
    /// How much is kept of what passes; `None` keeps all.
    pub quota: Option<Quota>,
}

/// The key `min`.
pub const MIN: Field =
    optional("min", Shape::NUMBER, "The least score that passes, itself included; rows below it and rows without a score are dropped.");

/// The keys of `score_filter`.
pub const FIELDS: &[Field] = &[
    required("column", Shape::Text, "The column of scores, of any type of numbers; null and NaN are no score."),
    defaulted(
        "order",
        Shape::Choice(Order::WORDS),
        Presence::Text("desc"),
        "Which scores are the best: the greatest (`desc`) or the smallest (`asc`).",
    ),
    MIN,
    optional("max", Shape::NUMBER, "The greatest score that passes, itself included; rows above it and rows without a score are dropped."),
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
];

impl ScoreFilterConfig {
    /// Reads the checked map; that nothing is dropped is a problem, and that nothing can be kept.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let quota = Quota::read_optional(fields, out);
        let (min, max) = (fields.float("min"), fields.float("max"));
        if quota.is_none() && !fields.has("min") && !fields.has("max") {
            let hint = "give a bound, such as `min: 0.5`, or a budget, such as `keep_fraction: 0.5`";
            fields.problem(out, "", "nothing says which scores are kept", Some(hint.into()));
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            fields.problem(out, "max", format!("no score is at least {min} and at most {max}"), Some("exchange the two".into()));
        }
        let order = fields.text("order").and_then(|word| Order::from_word(&word)).unwrap_or(Order::Descending);
        Self { column: fields.text("column").unwrap_or_default(), order, min, max, quota }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let keep = self.quota.as_ref().map(Quota::canonical);
        json!({"column": self.column, "keep": keep, "max": self.max, "min": self.min, "order": self.order.word()})
    }
}

impl Stage for ScoreFilterConfig {
    fn kind(&self) -> &'static str {
        "score_filter"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"carried": self.quota.as_ref().and_then(Quota::carried), "column": self.column}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        let mut needs = Needs { columns: vec![self.column.clone()], ..Needs::default() };
        if let Some(quota) = &self.quota {
            quota.add_needs(&mut needs);
        }
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let score: Box<dyn RowLocal> = Box::new(CarryNumbers::try_new(cx, &[(self.column.as_str(), SCORE.to_owned())])?);
        match &self.quota {
            Some(quota) => quota.carry(cx, Some(score)),
            None => Ok(Some(score)),
        }
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(Best { config: self.clone() }))
    }
}

/// Keeps the best scores.
#[derive(Debug)]
struct Best {
    config: ScoreFilterConfig,
}

impl Barrier for Best {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let order = match self.config.order {
                Order::Ascending => SortKey::ascending(SCORE),
                Order::Descending => SortKey::descending(SCORE),
            };
            let bounds = Bounds { min: self.config.min, max: self.config.max };
            ranked::select(engine, input, Ranking { order, bounds, quota: self.config.quota, counted: Vec::new() }).await
        })
    }
}
