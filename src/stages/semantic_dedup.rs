//! `semantic_dedup`: of rows whose vectors are near to each other, keeps one (SemDeDup, Abbas et al. 2023).

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::carry::Carry;
use super::columns::{Detail, Drop, Drops};
use super::draw;
use super::policy::{self, Clusters, Keep, OnBadVector, Order};
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use super::vectors::{Gathered, gather};
use crate::cluster::{self, AnyEarlier, Components, Dropped, Keep as KeepOrder, Star, Threshold};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop, spawn};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::vector::Matrix;
use crate::vector::dot::similarity;
use crate::vector::flat::{Rows, compare_earlier, nearest};
use crate::vector::kmeans::KMeans;
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

impl Stage for SemanticDedupConfig {
    fn kind(&self) -> &'static str {
        "semantic_dedup"
    }

    fn version(&self) -> u32 {
        2
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

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(SemanticDedup { config: self.clone(), stage: stage.clone() }))
    }
}

/// Bytes a row of what is decided for one epsilon, and of what that is made from.
const DECISION_BYTES: usize = 2 * size_of::<Option<Dropped>>();
/// Below this many rows `k: auto` compares all pairs.
const EXACT_BELOW: usize = 20_000;
/// Rows a cell that `k: auto` aims at: the mean cell of the paper's largest run (440M images, 50,000 cells).
const CELL_ROWS: usize = 8_800;
/// Rows and cells that the efficiency of the clustering is estimated from (section 5 of the paper looks at 20 cells).
const EFFICIENCY_ROWS: usize = 128;
const EFFICIENCY_CELLS: usize = 20;

/// Compares rows inside cells of a spherical k-means, in keep order.
#[derive(Debug)]
struct SemanticDedup {
    config: SemanticDedupConfig,
    stage: StageId,
}

impl Barrier for SemanticDedup {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let gathered = gather(engine, input).await?;
            let stop = engine.stop().clone();
            let (drops, report) = spawn::blocking("semantic deduplication", move || self.decide(&gathered, &stop)).await?;
            Ok(Outcome { drops: drops.into_stream(), report })
        })
    }
}

impl SemanticDedup {
    fn decide(&self, gathered: &Gathered, stop: &Stop) -> Result<(Drops, Map<String, Value>)> {
        let config = &self.config;
        let rows = gathered.rows.len();
        // What is decided for one epsilon is reckoned with the vectors.
        let _memory = gathered.memory.beside("reporting further values of epsilon", rows * config.report.len() * DECISION_BYTES)?;
        let k = match config.k {
            Clusters::Fixed(k) => k as usize,
            Clusters::Auto if rows < EXACT_BELOW => 1,
            Clusters::Auto => rows.div_ceil(CELL_ROWS),
        };
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        let matrix = gathered.vectors.matrix();
        let needs_centroids = k > 1 || matches!(config.keep, Keep::Hard | Keep::Easy);
        let model = if needs_centroids && rows > 0 {
            let random = Random::new(config.seed, self.stage.as_str());
            Some(KMeans::fit(matrix, k.min(rows), config.iterations as usize, &random)?)
        } else {
            None
        };
        let (cells, similarities) = model.as_ref().map_or_else(|| (vec![0; rows], vec![0.0; rows]), |model| model.assign(matrix));
        let distances: Vec<f64> = similarities.iter().map(|similarity| 1.0 - similarity).collect();
        let order = match &config.keep {
            Keep::Last => KeepOrder::Last,
            Keep::Hard => KeepOrder::Hard(&distances),
            Keep::Easy => KeepOrder::Easy(&distances),
            Keep::Random => KeepOrder::Random(&gathered.draws),
            Keep::By { order, .. } => KeepOrder::By { ranks: &gathered.ranks, descending: *order == Order::Descending },
            Keep::First | Keep::Longest | Keep::Shortest => KeepOrder::First,
        }
        .order(rows);
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); model.as_ref().map_or(1, |model| model.centroids().rows())];
        for row in order {
            members[cells[row as usize] as usize].push(row);
        }
        let on_equal = match config.on_equal {
            OnEqual::Keep => cluster::OnEqual::Keep,
            OnEqual::Drop => cluster::OnEqual::Drop,
        };
        let thresholds: Vec<Threshold> = std::iter::once(config.epsilon)
            .chain(config.report.iter().copied())
            .map(|epsilon| Threshold::epsilon(epsilon, on_equal))
            .collect();
        // Cells are independent; inside a large one its blocks are.
        let decided = members.par_iter().map(|members| {
            stop.check()?;
            Ok(decide_cell(config.rule, matrix, members, &thresholds))
        });
        let decided = decided.collect::<Result<Vec<_>>>()?;
        let (mut counts, mut orphans) = (vec![0_u64; thresholds.len()], 0_u64);
        for decisions in &decided {
            for (count, decisions) in counts.iter_mut().zip(decisions) {
                *count += decisions.iter().flatten().count() as u64;
            }
        }
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + counts[0] as usize)?;
        bad.for_each(|drop| drops.push(drop));
        for (cell, (members, decisions)) in members.iter().zip(decided).enumerate() {
            for (place, dropped) in
                decisions.first().into_iter().flatten().enumerate().filter_map(|(place, dropped)| Some((place, (*dropped)?)))
            {
                let id = |place: u32| gathered.rows[members[place as usize] as usize];
                orphans += u64::from(dropped.representative.is_none());
                // A component's survivor may be any distance away: then it is not named.
                let accepted = thresholds.first().is_some_and(|threshold| threshold.accepts(dropped.similarity));
                let cell = (members.len() < rows).then_some(cell as u32);
                let detail = Detail::Compared { cell, orphan: dropped.representative.is_none(), chained: !accepted };
                let kept = dropped.representative.filter(|_| accepted).map(id);
                let score = Some(dropped.similarity);
                drops.push(Drop { row: id(place as u32), reason: "semantic_duplicate", kept, score, detail });
            }
        }
        let sizes = members.iter().map(Vec::len);
        report.insert("cells".into(), json!(members.len()));
        report.insert("largest_cell".into(), json!(sizes.max().unwrap_or(0)));
        if config.rule == Rule::AnyEarlier {
            report.insert("orphans".into(), json!(orphans));
        }
        let by_epsilon: Vec<Value> = std::iter::once(&config.epsilon)
            .chain(&config.report)
            .zip(&counts)
            .map(|(epsilon, dropped)| json!({"dropped": dropped, "epsilon": epsilon, "kept": rows as u64 - dropped}))
            .collect();
        report.insert("by_epsilon".into(), Value::Array(by_epsilon));
        let efficiency = match model.filter(|_| members.len() > 1) {
            Some(model) => efficiency(matrix, &model, &cells, &members, thresholds.first(), EFFICIENCY_ROWS),
            // In one cell all pairs are compared.
            None => json!({"eta_percent": 100.0}),
        };
        report.insert("efficiency".into(), efficiency);
        Ok((drops, report))
    }
}

/// For each threshold and each member, in keep order, why it is dropped.
fn decide_cell(rule: Rule, matrix: Matrix<'_>, members: &[u32], thresholds: &[Threshold]) -> Vec<Vec<Option<Dropped>>> {
    let rows = Rows::some(matrix, members);
    let minimum = Threshold::loosest(thresholds);
    match rule {
        Rule::Star => {
            let mut star = Star::new(rows.len(), thresholds);
            compare_earlier(rows, minimum, &mut star, Star::wants, Star::offer, Star::decide);
            star.finish()
        }
        Rule::AnyEarlier => {
            let mut any = AnyEarlier::new(rows.len());
            compare_earlier(rows, minimum, &mut any, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let decisions = |threshold: &Threshold| {
                any.decisions(*threshold, |dropped, kept| {
                    let (dropped, kept) = (rows.at(dropped), rows.at(kept));
                    nearest(Rows::some(matrix, &dropped), Rows::some(matrix, &kept), threshold.minimum())
                })
            };
            thresholds.iter().map(decisions).collect()
        }
        Rule::Components => {
            let mut components = Components::new(rows.len(), thresholds);
            compare_earlier(rows, minimum, &mut components, Components::wants, Components::offer, Components::decide);
            components.finish(|a, b| similarity(rows.row(a as usize), rows.row(b as usize)))
        }
    }
}

/// Dedup efficiency of the clustering (SemDeDup's eta): of the duplicate pairs of `sampled` rows, spread evenly over all, with rows of the
/// nearest cells, the share that lies inside one cell.
fn efficiency(
    matrix: Matrix<'_>,
    model: &KMeans,
    cells: &[u32],
    members: &[Vec<u32>],
    threshold: Option<&Threshold>,
    sampled: usize,
) -> Value {
    let Some(threshold) = threshold else { return Value::Null };
    let rows = cells.len();
    let sampled = sampled.min(rows);
    let counts = (0..sampled).into_par_iter().map(|place| {
        let row = (place as u64 * rows as u64 / sampled as u64) as usize;
        pairs_of(matrix, model, cells, members, threshold, row)
    });
    let (within, near) = counts.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let percent = if near == 0 { Value::Null } else { json!(100.0 * within as f64 / near as f64) };
    json!({"eta_percent": percent, "pairs_near": near, "pairs_within": within, "rows": sampled})
}

/// The duplicates of one row in its own cell, and in that and the nearest other ones together.
fn pairs_of(matrix: Matrix<'_>, model: &KMeans, cells: &[u32], members: &[Vec<u32>], threshold: &Threshold, row: usize) -> (u64, u64) {
    let vector = matrix.row(row);
    let mut near: Vec<(f64, usize)> = (0..members.len()).map(|cell| (similarity(vector, model.centroids().row(cell)), cell)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let own = cells[row] as usize;
    let count = |cell: usize| {
        let duplicates = |other: &&u32| **other as usize != row && threshold.accepts(similarity(vector, matrix.row(**other as usize)));
        members[cell].iter().filter(duplicates).count() as u64
    };
    let within = count(own);
    let beyond: u64 = near.iter().filter(|(_, cell)| *cell != own).take(EFFICIENCY_CELLS).map(|(_, cell)| count(*cell)).sum();
    (within, within + beyond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::{Vectors, normalise};

    /// `groups` directions, each with some noisy copies: more for later groups, so that a sample of the first rows would not do.
    fn planted(groups: usize, dimensions: usize) -> Vectors {
        let mut draws = Random::new(11, "planted").sequence(b"eta");
        let mut normal = || (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos();
        let mut data: Vec<f32> = Vec::new();
        for group in 0..groups {
            let base: Vec<f64> = (0..dimensions).map(|_| normal()).collect();
            for _ in 0..2 + group % 13 + group / 20 {
                let from = data.len();
                data.extend(base.iter().map(|x| (x + 0.35 * normal()) as f32));
                assert!(normalise(&mut data[from..]));
            }
        }
        Vectors::try_new(data, dimensions).unwrap()
    }

    /// Duplicate pairs of each row inside its cell and everywhere, pair by pair.
    fn brute_force(matrix: Matrix<'_>, cells: &[u32], threshold: &Threshold) -> Vec<(u64, u64)> {
        let is_pair = |a: usize, b: usize| a != b && threshold.accepts(similarity(matrix.row(a), matrix.row(b)));
        let rows = 0..cells.len();
        let of = |a: usize| {
            let all: Vec<usize> = rows.clone().filter(|b| is_pair(a, *b)).collect();
            (all.iter().filter(|b| cells[**b] == cells[a]).count() as u64, all.len() as u64)
        };
        rows.clone().map(of).collect()
    }

    /// Seeds S1, check 7: eta over all rows is brute force's, and the sample's lies within two standard errors of it.
    #[test]
    fn eta_is_that_of_all_pairs() {
        let vectors = planted(160, 6);
        let matrix = vectors.matrix();
        let threshold = Threshold::epsilon(0.08, cluster::OnEqual::Keep);
        let rows = matrix.rows();
        assert!(rows > 8 * EFFICIENCY_ROWS, "{rows}");
        for k in [3, 8, 20] {
            let model = KMeans::fit(matrix, k, 20, &Random::new(1, "eta")).unwrap();
            let (cells, _) = model.assign(matrix);
            let mut members = vec![Vec::new(); k];
            for (row, cell) in (0_u32..).zip(&cells) {
                members[*cell as usize].push(row);
            }
            let pairs = brute_force(matrix, &cells, &threshold);
            let (within, near) = pairs.iter().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
            let eta = within as f64 / near as f64;
            assert!(eta > 0.3 && eta < 0.98, "the cells cut some groups: {eta}");

            let all = efficiency(matrix, &model, &cells, &members, Some(&threshold), rows);
            let wanted =
                json!({"eta_percent": 100.0 * within as f64 / near as f64, "pairs_near": near, "pairs_within": within, "rows": rows});
            assert_eq!(all, wanted);
            assert_eq!(efficiency(matrix, &model, &cells, &members, Some(&threshold), usize::MAX), wanted);

            // The standard error of a ratio estimated from rows drawn without return (Cochran, Sampling Techniques, 2.39).
            let sample = EFFICIENCY_ROWS as f64;
            let mean = near as f64 / rows as f64;
            let residuals: f64 = pairs.iter().map(|pair| (pair.0 as f64 - eta * pair.1 as f64).powi(2)).sum();
            let variance = (1.0 - sample / rows as f64) / sample * residuals / (rows as f64 - 1.0) / mean.powi(2);
            let sampled = efficiency(matrix, &model, &cells, &members, Some(&threshold), EFFICIENCY_ROWS);
            let off = sampled["eta_percent"].as_f64().unwrap() / 100.0 - eta;
            assert_eq!(sampled["rows"], EFFICIENCY_ROWS);
            assert!(off.abs() <= 2.0 * variance.sqrt(), "k={k} off={off} standard error={}", variance.sqrt());
        }
    }

    #[test]
    fn eta_of_no_pairs_is_null() {
        let vectors = planted(2, 6);
        let model = KMeans::fit(vectors.matrix(), 2, 20, &Random::new(1, "eta")).unwrap();
        let (cells, _) = model.assign(vectors.matrix());
        let members: Vec<Vec<u32>> =
            (0..2).map(|cell| (0..cells.len() as u32).filter(|row| cells[*row as usize] == cell).collect()).collect();
        let threshold = Threshold::epsilon(0.0, cluster::OnEqual::Keep);
        let found = efficiency(vectors.matrix(), &model, &cells, &members, Some(&threshold), EFFICIENCY_ROWS);
        assert_eq!(found, json!({"eta_percent": null, "pairs_near": 0, "pairs_within": 0, "rows": cells.len()}));
    }
}
