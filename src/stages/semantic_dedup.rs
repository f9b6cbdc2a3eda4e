//! `semantic_dedup`: of rows whose vectors are near to each other, keeps one (SemDeDup, Abbas et al. 2023).

use serde_json::{Value, json};

use super::policy::{self, Clusters, Keep, OnBadVector};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::ids::StageId;
use crate::words;

words! {
    /// Which rows of the graph of near pairs are dropped.
    pub enum Rule {
        /// In keep order, a row is dropped if and only if a row already kept is within epsilon.
        Star = "star",
        /// In keep order, a row is dropped if any earlier row, kept or not, is within epsilon (the paper's code).
        AnyEarlier = "any_earlier",
        /// One row of each connected component is kept.
        Components = "components",
    }
}

words! {
    /// What a pair at exactly epsilon is.
    pub enum OnEqual {
        /// Not a duplicate: both rows are kept, as in the paper.
        Keep = "keep",
        /// A duplicate.
        Drop = "drop",
    }
}

/// `semantic_dedup: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SemanticDedupConfig {
    /// 1 - cosine below which two rows are duplicates; 0 to 2. Required: it means something else for each corpus and model.
    pub epsilon: f64,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Which rows of the graph of near pairs are dropped; default `star`.
    pub rule: Rule,
    /// The keep order; default `first`.
    pub keep: Keep,
    /// What a pair at exactly epsilon is; default not a duplicate.
    pub on_equal: OnEqual,
    /// Number of clusters inside which rows are compared; `auto` is 1 below 20,000 rows.
    pub k: Clusters,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means and of `keep: random`; default 1234.
    pub seed: u64,
    /// Further values of epsilon whose counts are reported, from one pass over the pairs.
    pub report: Vec<f64>,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

const EPSILON: Shape = Shape::Float { min: 0.0, max: 2.0, exclusive: false };

/// The keys of `semantic_dedup`.
pub const FIELDS: &[Field] = &[
    required("epsilon", EPSILON, "Two rows are duplicates if 1 - cosine of their vectors is below this; it depends on corpus and model."),
    policy::EMBEDDING,
    defaulted(
        "rule",
        Shape::Choice(Rule::WORDS),
        Presence::Text("star"),
        "`star`: a row is dropped if and only if a row already kept is within epsilon. `any_earlier`: if any earlier row is, kept or not. `components`: one row of each connected component is kept.",
    ),
    defaulted(
        "keep",
        Shape::Any(&[Shape::Choice(&["first", "last", "hard", "easy", "random"]), Shape::Map(Keep::BY)]),
        Presence::Text("first"),
        "The order in which rows are visited: the corpus's, `hard` (farthest from the centroid first), `easy` (nearest first), `random`, or by a column.",
    ),
    defaulted(
        "on_equal",
        Shape::Choice(OnEqual::WORDS),
        Presence::Text("keep"),
        "What a pair at exactly epsilon is: `keep` no duplicate, `drop` a duplicate.",
    ),
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Clusters inside which rows are compared; `auto` is 1 below 20,000 rows."),
    policy::ITERATIONS,
    policy::SEED,
    defaulted(
        "report",
        Shape::List(&EPSILON),
        Presence::EmptyList,
        "Further values of epsilon whose counts are reported from the same pass.",
    ),
    policy::ON_BAD_VECTOR,
];

impl SemanticDedupConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let report = fields.floats("report");
        let words: Vec<String> = report.iter().map(f64::to_string).collect();
        fields.refuse_repeats(out, "report", &words);
        Self {
            epsilon: fields.float("epsilon").unwrap_or_default(),
            embedding: fields.text("embedding").map(StageId::new),
            rule: fields.text("rule").and_then(|word| Rule::from_word(&word)).unwrap_or(Rule::Star),
            keep: Keep::read(fields),
            on_equal: fields.text("on_equal").and_then(|word| OnEqual::from_word(&word)).unwrap_or(OnEqual::Keep),
            k: Clusters::read(fields),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            report,
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "epsilon": self.epsilon,
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "keep": self.keep.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "on_equal": self.on_equal.word(),
            "report": self.report,
            "rule": self.rule.word(),
            "seed": self.seed,
        })
    }
}
