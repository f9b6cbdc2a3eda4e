//! `redundancy_select`: keeps the rows that correlate least, on average, with all others (PRISM).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::policy::{self, Budget, OnBadVector};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked};
use super::vectors::{Form, Gathered};
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
    pub budget: Budget,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// What is subtracted from each vector; default `corpus`.
    pub center: Center,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `redundancy_select`.
pub const FIELDS: &[Field] = &[
    policy::KEEP_FRACTION,
    policy::KEEP_ROWS,
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
            budget: Budget::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            center: fields.text("center").and_then(|word| Center::from_word(&word)).unwrap_or(Center::Corpus),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"budget": self.budget.canonical(), "center": self.center.word(), "on_bad_vector": self.on_bad_vector.word()})
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
        let RedundancySelectConfig { budget, on_bad_vector, center, .. } = self.0;
        let asked = Asked { budget, on_bad_vector, form: Form::Stored, trained_rows: 0 };
        let center = match center {
            Center::Corpus => redundancy::Center::Corpus,
            Center::Features => redundancy::Center::Features,
        };
        let decide = move |gathered: &Gathered, keep: usize, _: &Stop, report: &mut Map<String, Value>| {
            let scores = redundancy(gathered.vectors.source(), center)?;
            let order = selecting::ascending(&scores);
            let most = order.get(..keep).and_then(<[u32]>::last).map(|row| scores[*row as usize]);
            report.insert("redundancy_mean".into(), json!(scores.iter().sum::<f64>() / scores.len() as f64));
            report.insert("redundancy_kept_at_most".into(), json!(most));
            Ok(selecting::first(&order, keep, &scores))
        };
        Box::pin(selecting::select(engine, input, "selecting by redundancy", asked, decide))
    }
}
