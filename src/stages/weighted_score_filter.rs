//! `weighted_score_filter`: scores each row by the weighted mean of several columns, and keeps the best (MDCure, Liu et al. 2024).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::carry::{number_column, number_values};
use super::columns::{row_column, row_schema};
use super::quota::{self, Quota};
use super::ranked::{self, Bounds, Ranking, SCORE};
use super::score_filter::MIN;
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::Engine;
use crate::engine::sort::SortKey;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::select::weighted::{self, Scale};
use crate::words;

words! {
    /// What becomes of a row that lacks a criterion.
    pub enum OnMissing {
        /// The run fails.
        Fail = "fail",
        /// The row has no score, and is dropped.
        Drop = "drop",
        /// The criteria that it has are averaged by their weights; a row that has none is dropped.
        Renormalize = "renormalize",
    }
}

/// One judged quality.
#[derive(Debug, Clone, PartialEq)]
pub struct Criterion {
    /// The column, of any type of numbers.
    pub column: String,
    /// Its weight beside the others'; default 1.
    pub weight: f64,
}

/// `weighted_score_filter: {criteria, scale, min, keep_..., report, on_missing}`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedScoreFilterConfig {
    /// The criteria; at least one.
    pub criteria: Vec<Criterion>,
    /// The scale to which every criterion is moved before it is weighted.
    pub scale: Scale,
    /// The least score that passes.
    pub min: Option<f64>,
    /// How much is kept of what passes; `None` keeps all.
    pub quota: Option<Quota>,
    /// Least scores whose rows are counted.
    pub report: Vec<f64>,
    /// What becomes of a row that lacks a criterion; default: the run fails.
    pub on_missing: OnMissing,
}

const CRITERION: &[Field] = &[
    required("column", Shape::Text, "The column of the criterion, of any type of numbers; null and NaN are missing."),
    defaulted("weight", Shape::Float { min: 0.0, max: 1e9, exclusive: true }, Presence::Float(1.0), "Its weight beside the others'."),
];

const SCALE: &[Field] = &[
    required("from", Shape::List(&Shape::NUMBER), "The two ends of the scale that the columns are on, such as `[0, 1]`."),
    required("to", Shape::List(&Shape::NUMBER), "The two ends of the scale that the score is on, such as `[1, 5]`."),
];

/// The keys of `weighted_score_filter`.
pub const FIELDS: &[Field] = &[
    required(
        "criteria",
        Shape::List(&Shape::Map(CRITERION)),
        "The columns that are averaged, each with a weight: `[{column: relevance}, {column: depth, weight: 2}]`.",
    ),
    optional(
        "scale",
        Shape::Map(SCALE),
        "Moves every criterion from one scale to another before it is weighted. Default: they are taken as they are.",
    ),
    MIN,
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    defaulted("report", Shape::List(&Shape::NUMBER), Presence::EmptyList, "Further least scores; the rows at or above each are counted."),
    defaulted(
        "on_missing",
        Shape::Choice(OnMissing::WORDS),
        Presence::Text("fail"),
        "What becomes of a row that lacks a criterion: `fail` the run, `drop` it, or `renormalize`: average those that it has.",
    ),
];

impl WeightedScoreFilterConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let criteria: Vec<Criterion> = fields
            .maps("criteria", CRITERION)
            .iter()
            .map(|one| Criterion { column: one.text("column").unwrap_or_default(), weight: one.float("weight").unwrap_or(1.0) })
            .collect();
        let columns: Vec<String> = criteria.iter().map(|criterion| criterion.column.clone()).filter(|column| !column.is_empty()).collect();
        fields.refuse_repeats(out, "criteria", &columns);
        if fields.is_empty_list("criteria") {
            fields.problem(out, "criteria", "no criterion is named", Some("name at least one: `criteria: [{column: quality}]`".into()));
        }
        let scale =
            fields.map("scale", SCALE).map_or(Scale::NONE, |scale| Scale { from: ends(&scale, "from", out), to: ends(&scale, "to", out) });
        let quota = Quota::read_optional(fields, out);
        if quota.is_none() && !fields.has("min") {
            let hint = "give a bound, such as `min: 3.5`, or a budget, such as `keep_rows: 10000`";
            fields.problem(out, "", "nothing says which scores are kept", Some(hint.into()));
        }
        let on_missing = fields.text("on_missing").and_then(|word| OnMissing::from_word(&word)).unwrap_or(OnMissing::Fail);
        Self { criteria, scale, min: fields.float("min"), quota, report: fields.floats("report"), on_missing }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "keep": self.quota.as_ref().map(Quota::canonical),
            "min": self.min,
            "report": self.report,
            "score": self.score_canonical(),
        })
    }

    /// What makes the score.
    fn score_canonical(&self) -> Value {
        let criteria: Vec<Value> = self.criteria.iter().map(|one| json!({"column": one.column, "weight": one.weight})).collect();
        let scale = json!({"from": self.scale.from, "to": self.scale.to});
        json!({"criteria": criteria, "on_missing": self.on_missing.word(), "scale": scale})
    }
}

/// The two ends of a scale; they differ.
fn ends(scale: &Fields<'_>, key: &str, out: &mut Diagnostics) -> [f64; 2] {
    match scale.floats(key).as_slice() {
        [low, high] if low != high => [*low, *high],
        // What is no list of numbers has been told already.
        [] if !scale.is_empty_list(key) => [0.0, 1.0],
        _ => {
            scale.problem(out, key, "a scale has two ends that differ", Some(format!("write `{key}: [0, 1]`")));
            [0.0, 1.0]
        }
    }
}

impl Stage for WeightedScoreFilterConfig {
    fn kind(&self) -> &'static str {
        "weighted_score_filter"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"carried": self.quota.as_ref().and_then(Quota::carried), "score": self.score_canonical()}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        let mut needs = Needs { columns: self.criteria.iter().map(|one| one.column.clone()).collect(), ..Needs::default() };
        if let Some(quota) = &self.quota {
            quota.add_needs(&mut needs);
        }
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let score: Box<dyn RowLocal> = Box::new(Weigh::try_new(self, cx)?);
        match &self.quota {
            Some(quota) => quota.carry(cx, Some(score)),
            None => Ok(Some(score)),
        }
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(Best { config: self.clone() }))
    }
}

/// Gives each row its score.
struct Weigh {
    config: WeightedScoreFilterConfig,
    columns: Vec<usize>,
    weights: Vec<f64>,
    row: usize,
    output: SchemaRef,
}

impl Weigh {
    fn try_new(config: &WeightedScoreFilterConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let columns = config.criteria.iter().map(|one| number_column(cx, &one.column)).collect::<Result<Vec<_>>>()?;
        let weights = config.criteria.iter().map(|one| one.weight).collect();
        let fields: ArrowFields = vec![ArrowField::new(SCORE, DataType::Float64, true)].into();
        Ok(Self { config: config.clone(), columns, weights, row: row_column(cx)?, output: row_schema(&fields) })
    }
}

impl RowLocal for Weigh {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns.iter().map(|index| number_values(batch.column(*index))).collect::<Result<Vec<_>>>()?;
        let mut values = vec![None; columns.len()];
        let mut scores = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            for (value, column) in values.iter_mut().zip(&columns) {
                *value = column.get(row).copied().flatten();
            }
            let partial = self.config.on_missing == OnMissing::Renormalize;
            let missing = values.iter().zip(&self.config.criteria).find(|(value, _)| value.is_none());
            if let (OnMissing::Fail, Some((_, criterion))) = (self.config.on_missing, missing) {
                let hint = "mend the row, or set `on_missing: drop` or `renormalize`";
                return Err(Error::input(format!("a row lacks a criterion column=`{}`", criterion.column)).hint(hint));
            }
            scores.push(weighted::mean(&values, &self.weights, self.config.scale, partial));
        }
        let columns: Vec<ArrayRef> = vec![Arc::clone(batch.column(self.row)), Arc::new(Float64Array::from(scores))];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build scores".into())
    }
}

/// Keeps the best scores.
#[derive(Debug)]
struct Best {
    config: WeightedScoreFilterConfig,
}

impl Barrier for Best {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            // Without a bound of the user's, every score passes, and a row without one does not.
            let bounds = Bounds { min: Some(self.config.min.unwrap_or(f64::NEG_INFINITY)), max: None };
            let (quota, counted) = (self.config.quota, self.config.report);
            ranked::select(engine, input, Ranking { order: SortKey::descending(SCORE), bounds, quota, counted }).await
        })
    }
}
