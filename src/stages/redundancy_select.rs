//! `redundancy_select`: keeps the rows that correlate least, on average, with all others (PRISM).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

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
use crate::vector::redundancy::{self, redundancy};
use crate::words;

words! {
    /// What is subtracted from each vector.
    pub enum Center {
        /// The mean of all rows.
        Corpus = "corpus",
        /// The mean of its own numbers.
        Features = "features",
    }
}

/// `redundancy_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedundancySelectConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// What is subtracted from each vector; default `corpus`.
    pub center: Center,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `redundancy_select`.
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
        "center",
        Shape::Choice(Center::WORDS),
        Presence::Text("corpus"),
        "What is subtracted from each vector: `corpus`, the mean of all rows; `features`, the mean of its own numbers (Pearson's correlation).",
    ),
    policy::ON_BAD_VECTOR,
];

impl RedundancySelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            center: fields.text("center").and_then(|word| Center::from_word(&word)).unwrap_or(Center::Corpus),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"budget": self.quota.canonical(), "center": self.center.word(), "on_bad_vector": self.on_bad_vector.word()})
    }
}

impl Stage for RedundancySelectConfig {
    fn kind(&self) -> &'static str {
        "redundancy_select"
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

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(RedundancySelect(self.clone())))
    }
}

/// Scores each row against the sum of all, and keeps the lowest.
#[derive(Debug)]
struct RedundancySelect(RedundancySelectConfig);

impl Barrier for RedundancySelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let RedundancySelectConfig { quota, on_bad_vector, center, .. } = self.0;
        let asked = Asked { quota, on_bad_vector, form: Form::Stored, trained_rows: 0 };
        let center = match center {
            Center::Corpus => redundancy::Center::Corpus,
            Center::Features => redundancy::Center::Features,
        };
        let decide = move |candidates: &Candidates<'_>, _: &Stop, report: &mut Map<String, Value>| {
            let scores = redundancy(candidates.source, center)?;
            let order = selecting::ascending(&scores);
            let kept = &order[..candidates.allowance.beginning(&order)];
            let most = kept.last().map(|row| scores[*row as usize]);
            report.insert("redundancy_mean".into(), json!(scores.iter().sum::<f64>() / scores.len() as f64));
            report.insert("redundancy_kept_at_most".into(), json!(most));
            Ok(selecting::first(candidates, &order, &scores))
        };
        Box::pin(selecting::select(engine, input, "selecting by redundancy", asked, decide))
    }
}
