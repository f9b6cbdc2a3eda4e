//! `variance_select`: keeps the rows that lie farthest from the mean along the directions of most variance.
//!
//! The first half of an instruction-data selection in the manner of LIFT, of which only the abstract was read: vary first, then quality.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::fitting;
use super::policy::{self, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::vector::variance::{self, measure};
use crate::words;

words! {
    /// How a row is measured.
    pub enum Score {
        /// The squared distance to the mean along the directions taken.
        Energy = "energy",
        /// The same with every direction counting alike.
        Leverage = "leverage",
    }
}

/// `variance_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct VarianceSelectConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// How a row is measured; default `energy`.
    pub score: Score,
    /// The share of the variance that the directions taken hold; default 0.95.
    pub explained: f64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `variance_select`.
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
        "score",
        Shape::Choice(Score::WORDS),
        Presence::Text("energy"),
        "How a row is measured: `energy`, its squared distance to the mean; `leverage`, the same with every direction counting alike.",
    ),
    defaulted(
        "explained",
        Shape::Float { min: 0.0, max: 1.0, exclusive: true },
        Presence::Float(0.95),
        "The principal directions taken are as few as hold this share of the variance; above 0.",
    ),
    policy::ON_BAD_VECTOR,
];

impl VarianceSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            score: fields.text("score").and_then(|word| Score::from_word(&word)).unwrap_or(Score::Energy),
            explained: fields.float("explained").unwrap_or(1.0),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "budget": self.quota.canonical(),
            "explained": self.explained,
            "on_bad_vector": self.on_bad_vector.word(),
            "score": self.score.word(),
        })
    }
}

impl Stage for VarianceSelectConfig {
    fn kind(&self) -> &'static str {
        "variance_select"
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

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(VarianceSelect(self.clone())))
    }
}

/// Measures each row along the principal directions, and keeps the highest.
#[derive(Debug)]
struct VarianceSelect(VarianceSelectConfig);

impl Barrier for VarianceSelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let VarianceSelectConfig { quota, on_bad_vector, score, explained, .. } = self.0;
        let asked = Asked { quota, on_bad_vector, form: Form::Stored, trained_rows: 0 };
        let by = match score {
            Score::Energy => variance::Measure::Energy,
            Score::Leverage => variance::Measure::Leverage,
        };
        let decide = move |candidates: &Candidates<'_>, _: &Stop, report: &mut Map<String, Value>| {
            let source = candidates.source;
            let _fit = fitting::beside(candidates.memory, source.dimensions(), 0)?;
            let (scores, directions) = measure(source, explained, by)?;
            report.insert("directions".into(), json!(directions));
            Ok(selecting::first(candidates, &selecting::descending(&scores), &scores))
        };
        Box::pin(selecting::select(engine, input, "selecting by variance", asked, decide))
    }
}
