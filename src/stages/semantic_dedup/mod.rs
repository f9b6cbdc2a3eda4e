//! `semantic_dedup`: of rows whose vectors are near to each other, keeps one (SemDeDup, Abbas et al. 2023).

use serde_json::{Value, json};

use self::search::SemanticDedup;
use super::carry::Carry;
use super::cells;
use super::draw;
use super::policy::{self, Clusters, Keep, OnBadVector};
use super::seam::{Barrier, Incremental, Needs, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, optional};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::error::Result;
use crate::ids::StageId;
use crate::limits::MAX_PROBE;
use crate::vector::Training;
use crate::words;

mod decide;
mod efficiency;
mod frozen;
mod search;
mod target;

words! {
    /// Which pairs of rows are looked at.
    pub enum Method {
        /// `flat` below 20,000 rows, else `ivf`; `kmeans` where `k` is given.
        Auto = "auto",
        /// All of them.
        Flat = "flat",
        /// Those of rows in one k-means cell, as in the paper.
        Kmeans = "kmeans",
        /// Those of rows in one k-means cell or in near ones (an inverted file).
        Ivf = "ivf",
        /// Those that a graph of neighbours leads to.
        Hnsw = "hnsw",
    }
}

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

/// How near duplicates are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epsilon {
    /// 1 - cosine is below this; 0 to 2.
    Fixed(f64),
    /// Below what keeps about this share of the rows.
    KeepFraction(f64),
}

/// `semantic_dedup: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SemanticDedupConfig {
    /// Below which 1 - cosine two rows are duplicates. Required: it means something else for each corpus and model.
    pub epsilon: Epsilon,
    /// Which pairs are looked at; never `Auto` where `k` is given.
    pub method: Method,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Which rows of the graph of near pairs are dropped; default `star`.
    pub rule: Rule,
    /// The keep order; default `first`.
    pub keep: Keep,
    /// What a pair at exactly epsilon is; default not a duplicate.
    pub on_equal: OnEqual,
    /// Number of cells.
    pub k: Clusters,
    /// k-means iterations at most; `None`: what the method needs.
    pub iterations: Option<u32>,
    /// Cells whose rows a row is compared with, its own counted; `None`: as many as find the pairs of a sample.
    pub probe: Option<u32>,
    /// Seed of k-means and of `keep: random`; default 1234.
    pub seed: u64,
    /// Further values of epsilon whose counts are reported, from one pass over the pairs.
    pub report: Vec<f64>,
    /// Whether centroids and each row's cell are left in the dataset; default not.
    pub write_cells: bool,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

const EPSILON: Shape = Shape::Float { min: 0.0, max: 2.0, exclusive: false };

/// The keys of `semantic_dedup`.
pub const FIELDS: &[Field] = &[
    optional(
        "epsilon",
        EPSILON,
        "Two rows are duplicates if 1 - cosine of their vectors is below this; it depends on corpus and model. Exactly one of `epsilon` and `target_keep_fraction` is given.",
    ),
    optional(
        "target_keep_fraction",
        Shape::Float { min: 0.0, max: 1.0, exclusive: true },
        "Chooses `epsilon` on a sample of rows, so that about this share of the rows has no earlier row within it.",
    ),
    defaulted(
        "method",
        Shape::Choice(Method::WORDS),
        Presence::Text("auto"),
        "Which pairs are looked at. `flat`: all. `kmeans`: those inside a cell, as in the paper. `ivf`: those inside a cell and between near cells. `hnsw`: those that a graph of neighbours leads to; it holds all vectors in memory. `auto`: `flat` below 20,000 rows, else `ivf`; `kmeans` where `k` is given.",
    ),
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
    defaulted(
        "k",
        Clusters::SHAPE,
        Presence::Text("auto"),
        "Number of k-means cells; `auto` is the square root of the rows for `ivf`, and for `kmeans` 1 below 20,000 rows, else one for 8,800.",
    ),
    optional("iterations", Shape::Int { min: 1, max: 10_000 }, "The greatest number of k-means iterations. Default: 20, for `ivf` 5."),
    defaulted(
        "probe",
        Shape::Any(&[Shape::Int { min: 1, max: MAX_PROBE }, Shape::Choice(&["auto"])]),
        Presence::Text("auto"),
        "Cells whose rows a row is compared with under `ivf`, its own counted; `auto`: as many as find 99.8 % of the pairs of a sample.",
    ),
    policy::SEED,
    defaulted(
        "report",
        Shape::List(&EPSILON),
        Presence::EmptyList,
        "Further values of epsilon whose counts are reported from the same pass.",
    ),
    cells::WRITE_CELLS,
    policy::ON_BAD_VECTOR,
];

impl SemanticDedupConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let report = fields.floats("report");
        let words: Vec<String> = report.iter().map(f64::to_string).collect();
        fields.refuse_repeats(out, "report", &words);
        Self {
            epsilon: Self::read_epsilon(fields, out),
            method: Self::read_method(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            rule: fields.text("rule").and_then(|word| Rule::from_word(&word)).unwrap_or(Rule::Star),
            keep: Keep::read(fields),
            on_equal: fields.text("on_equal").and_then(|word| OnEqual::from_word(&word)).unwrap_or(OnEqual::Keep),
            k: Clusters::read(fields),
            iterations: fields.int("iterations").and_then(|value| u32::try_from(value).ok()),
            probe: fields.int("probe").and_then(|value| u32::try_from(value).ok()),
            seed: policy::read_seed(fields),
            report,
            write_cells: fields.bool("write_cells").unwrap_or(false),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn read_epsilon(fields: &Fields<'_>, out: &mut Diagnostics) -> Epsilon {
        match (fields.has("epsilon"), fields.has("target_keep_fraction")) {
            (true, true) => fields.problem(
                out,
                "target_keep_fraction",
                "`epsilon` and `target_keep_fraction` exclude each other",
                Some("keep the one that you mean and remove the other".into()),
            ),
            (false, false) => fields.problem(
                out,
                "",
                "`epsilon` is missing",
                Some("say below which 1 - cosine two rows are duplicates, such as `epsilon: 0.05`, or give `target_keep_fraction`".into()),
            ),
            _ => {}
        }
        fields
            .float("target_keep_fraction")
            .map_or_else(|| Epsilon::Fixed(fields.float("epsilon").unwrap_or_default()), Epsilon::KeepFraction)
    }

    fn read_method(fields: &Fields<'_>, out: &mut Diagnostics) -> Method {
        let asked = fields.text("method").and_then(|word| Method::from_word(&word)).unwrap_or(Method::Auto);
        let method = match (asked, Clusters::read(fields)) {
            (Method::Auto, Clusters::Fixed(_)) => Method::Kmeans,
            _ => asked,
        };
        let mut refuse = |key: &str, message: &str, hint: &str| {
            if fields.has(key) {
                fields.problem(out, key, message, Some(hint.into()));
            }
        };
        match (method, asked) {
            (Method::Flat | Method::Hnsw, _) => {
                for key in ["k", "iterations", "probe", "write_cells"] {
                    let message = format!("`{key}` has no meaning with `method: {}`, which has no cells", method.word());
                    refuse(key, &message, &format!("remove `{key}`, or set `method: ivf`"));
                }
            }
            (Method::Kmeans, Method::Auto) => refuse(
                "probe",
                "`probe` has no meaning where `k` is given without `method`: rows are compared inside their cell alone",
                "add `method: ivf`, or remove `probe`",
            ),
            (Method::Kmeans, _) => refuse(
                "probe",
                "`probe` has no meaning with `method: kmeans`: rows are compared inside their cell alone",
                "set `method: ivf`, or remove `probe`",
            ),
            _ => {}
        }
        method
    }

    /// The method for so many rows: never `Auto`.
    fn method_for(&self, rows: usize) -> Method {
        match self.method {
            Method::Auto if rows < EXACT_BELOW => Method::Flat,
            Method::Auto => Method::Ivf,
            method => method,
        }
    }

    /// The number of cells for so many rows.
    fn cells_for(&self, rows: usize) -> usize {
        let k = match (self.method_for(rows), self.k) {
            (Method::Flat | Method::Hnsw, _) => 1,
            (_, Clusters::Fixed(k)) => k as usize,
            (Method::Kmeans, _) if rows < EXACT_BELOW => 1,
            (Method::Kmeans, _) => rows.div_ceil(CELL_ROWS),
            _ => (rows as f64).sqrt().round() as usize,
        };
        k.clamp(1, rows.max(1))
    }

    /// How k-means is trained for so many rows.
    fn training_for(&self, rows: usize) -> Training {
        let thorough = Training::thorough(self.iterations.map_or(ITERATIONS, |count| count as usize));
        match self.method_for(rows) {
            Method::Ivf => {
                let quick = Training::quick();
                Training { iterations: self.iterations.map_or(quick.iterations, |count| count as usize), ..quick }
            }
            _ => thorough,
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let (epsilon, target) = match self.epsilon {
            Epsilon::Fixed(epsilon) => (Some(epsilon), None),
            Epsilon::KeepFraction(fraction) => (None, Some(fraction)),
        };
        json!({
            "epsilon": epsilon,
            "iterations": self.iterations.map_or(json!("auto"), |count| json!(count)),
            "k": self.k.canonical(),
            "keep": self.keep.canonical(),
            "method": self.method.word(),
            "on_bad_vector": self.on_bad_vector.word(),
            "on_equal": self.on_equal.word(),
            "probe": self.probe.map_or(json!("auto"), |count| json!(count)),
            "report": self.report,
            "rule": self.rule.word(),
            "seed": self.seed,
            "target_keep_fraction": target,
            "write_cells": self.write_cells,
        })
    }
}

impl Stage for SemanticDedupConfig {
    fn kind(&self) -> &'static str {
        "semantic_dedup"
    }

    fn version(&self) -> u32 {
        3
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        match &self.keep {
            Keep::By { column, .. } => Some(json!({"by": column})),
            Keep::Random => Some(json!({"seed": self.seed})),
            _ => None,
        }
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, roles: &Roles) -> Needs {
        match &self.keep {
            Keep::By { column, .. } => Needs { columns: vec![column.clone()], ..Needs::default() },
            Keep::Random => draw::needs(roles),
            _ => Needs::default(),
        }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(match &self.keep {
            Keep::By { column, .. } => Some(Box::new(Carry::try_new(cx, column)?)),
            Keep::Random => Some(Box::new(draw::Draw::try_new(cx, self.seed)?)),
            _ => None,
        })
    }

    fn notes(&self) -> Vec<String> {
        let all = "all pairs are compared";
        let cells = "rows are compared inside k-means cells alone: duplicates on both sides of a border stay";
        let near = match self.probe {
            Some(1) => "rows are compared inside k-means cells alone: duplicates on both sides of a border stay".to_owned(),
            Some(probe) => format!("rows are compared with those of the {probe} nearest k-means cells"),
            None => "rows are compared with those of as many near k-means cells as find 99.8 % of the pairs of a sample".to_owned(),
        };
        let measured = "; the share of pairs found is measured on a sample and reported";
        let mut notes = vec![match self.method {
            Method::Flat => all.to_owned(),
            Method::Kmeans => format!("{cells}{measured}"),
            Method::Ivf => format!("{near}{measured}"),
            Method::Hnsw => format!("rows are compared with those that a graph of neighbours leads to{measured}"),
            Method::Auto => format!("below {EXACT_BELOW} rows {all}; above, {near}{measured}"),
        }];
        notes.push(
            match self.rule {
                Rule::Star => "star: every dropped row is within epsilon of the kept row that it names",
                Rule::AnyEarlier => "any_earlier: a dropped row may have no kept row within epsilon",
                Rule::Components => "components: a chain is dropped whole, its ends may be any distance apart",
            }
            .to_owned(),
        );
        notes
    }

    fn incremental(&self) -> Incremental {
        let refusals = [
            (
                self.rule != Rule::Star,
                "only `rule: star` goes on: the others depend on rows that were dropped, or join rows that were kept",
            ),
            (self.method == Method::Hnsw, "a graph of neighbours is not kept: `method: auto`, `ivf`, `kmeans` and `flat` go on"),
            (matches!(self.epsilon, Epsilon::KeepFraction(_)), "`target_keep_fraction` would choose another epsilon each time"),
            (self.write_cells, "the tables of `write_cells` would hold rows of other datasets"),
        ];
        refusals.iter().find(|(refused, _)| *refused).map_or(Incremental::Compares, |(_, reason)| Incremental::Refused(reason))
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(SemanticDedup { config: self.clone(), stage: stage.clone() }))
    }
}

/// Below this many rows `auto` compares all pairs.
const EXACT_BELOW: usize = 20_000;
/// Rows a cell that `method: kmeans` aims at: the mean cell of the paper's largest run (440M images, 50,000 cells).
const CELL_ROWS: usize = 8_800;
/// Iterations of the paper's smaller run (C4).
const ITERATIONS: usize = 20;
