//! `selector_pool`: in each cluster, the one of several scores that tells its rows apart chooses what is kept (Adapt-infinity,
//! Maharana et al. 2024).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::carry::{CarryNumbers, together};
use super::columns::{Drop, Drops};
use super::draw::{self, Draw};
use super::noted::{self, Numbers};
use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Amount, Quota, RowSizes, Tally};
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use super::selecting::Clustered;
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, spawn};
use crate::error::{Error, Result};
use crate::ids::StageId;
use crate::random::Random;
use crate::select::{Meter, allocation, coverage};
use crate::vector::{KMeans, Training, similarity};
use crate::words;

words! {
    /// How a budget is divided among clusters.
    pub enum Allocation {
        /// Each cluster gets the same number of rows; what small ones cannot use goes to the others.
        Balanced = "balanced",
        /// In proportion to the standard deviation of a score in the cluster.
        ScoreStd = "score_std",
        /// In proportion to how wide a cluster is and how far it lies from the others.
        Density = "density",
    }
}

words! {
    /// How rows are picked by the score that a cluster chose.
    pub enum Pick {
        /// Coverage-centric sampling: strata of the score get equal parts.
        Ccs = "ccs",
        /// The rows in the middle of the ranking.
        Middle = "middle",
        /// The rows of lowest score.
        Lowest = "lowest",
        /// Rows drawn at random, whatever their score.
        Random = "random",
    }
}

/// `selector_pool: {scores, keep_..., k, allocation, weigh_by, pick, bins, trim, ...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectorPoolConfig {
    /// The columns of scores, from which each cluster chooses one.
    pub scores: Vec<String>,
    /// How much is kept of all rows.
    pub amount: Amount,
    /// The stage that makes the vectors that are clustered, such as gradients; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto`, the default, is 10, as released.
    pub k: Clusters,
    /// How the budget is divided among clusters; default `balanced`.
    pub allocation: Allocation,
    /// The column of the score whose deviations weigh, under `score_std`.
    pub weigh_by: Option<String>,
    /// How rows are picked; default `ccs`.
    pub pick: Pick,
    /// Bins of the histograms and strata of the sampling; default 50.
    pub bins: usize,
    /// The share of a cluster's rows that `ccs` leaves out at either end of the score; default 0.05.
    pub trim: f64,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means and of the draws; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// Clusters where nothing is said.
const K: u32 = 10;

/// The keys of `selector_pool`.
pub const FIELDS: &[Field] = &[
    required(
        "scores",
        Shape::List(&Shape::Text),
        "Columns of numbers, such as perplexity, EL2N or gradient norms. In each cluster the one of greatest entropy chooses; a row without that one is not kept.",
    ),
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is 10."),
    defaulted(
        "allocation",
        Shape::Choice(Allocation::WORDS),
        Presence::Text("balanced"),
        "How the budget is divided among clusters: the same number each (`balanced`), by the deviation of a score (`score_std`), or by how wide and how far apart they are (`density`). The parts add up exactly.",
    ),
    optional("weigh_by", Shape::Text, "The column whose standard deviation in a cluster weighs; for `allocation: score_std` alone."),
    defaulted(
        "pick",
        Shape::Choice(Pick::WORDS),
        Presence::Text("ccs"),
        "Which rows of a cluster are kept: coverage-centric sampling of the score (`ccs`), the `middle` or the `lowest` of its ranking, or `random` ones.",
    ),
    defaulted(
        "bins",
        Shape::Int { min: 2, max: 10_000 },
        Presence::Int(50),
        "Bins of the histograms whose entropy is taken, and strata of `ccs`.",
    ),
    defaulted(
        "trim",
        Shape::Float { min: 0.0, max: 0.49, exclusive: false },
        Presence::Float(0.05),
        "The share of a cluster's rows that `ccs` leaves out at either end of the score.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl SelectorPoolConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let scores = fields.texts("scores");
        fields.refuse_repeats(out, "scores", &scores);
        if fields.is_empty_list("scores") {
            fields.problem(out, "scores", "no score is named", Some("name at least one, such as `scores: [perplexity]`".into()));
        }
        let allocation = fields.text("allocation").and_then(|word| Allocation::from_word(&word)).unwrap_or(Allocation::Balanced);
        let weigh_by = fields.text("weigh_by");
        match (allocation, fields.has("weigh_by")) {
            (Allocation::ScoreStd, false) => {
                let hint = Some("name the column, such as `weigh_by: el2n`".to_owned());
                fields.problem(out, "allocation", "nothing says whose deviations weigh", hint);
            }
            (Allocation::Balanced | Allocation::Density, true) => {
                let hint = Some("remove it, or write `allocation: score_std`".to_owned());
                fields.problem(out, "weigh_by", "`weigh_by` has no meaning under this allocation", hint);
            }
            _ => {}
        }
        let pick = fields.text("pick").and_then(|word| Pick::from_word(&word)).unwrap_or(Pick::Ccs);
        if pick != Pick::Ccs && fields.has("trim") {
            fields.problem(out, "trim", "`trim` has no meaning but under `pick: ccs`", Some("remove it".into()));
        }
        Self {
            scores,
            amount: Amount::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            allocation,
            weigh_by,
            pick,
            bins: fields.int("bins").and_then(|bins| usize::try_from(bins).ok()).unwrap_or(2),
            trim: fields.float("trim").unwrap_or_default(),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "allocation": self.allocation.word(),
            "bins": self.bins,
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "keep": self.amount.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "pick": self.pick.word(),
            "scores": self.scores,
            "seed": self.seed,
            "trim": self.trim,
            "weigh_by": self.weigh_by,
        })
    }

    fn clusters(&self, rows: usize) -> usize {
        let k = match self.k {
            Clusters::Fixed(k) => k,
            Clusters::Auto => K,
        };
        (k as usize).clamp(1, rows.max(1))
    }

    fn training(&self) -> Training {
        Training::thorough(self.iterations as usize)
    }

    /// The budget: clusters are its only groups.
    fn whole(&self) -> Quota {
        Quota::of(self.amount)
    }

    /// The columns that are noted, the scores first, and their narrow names.
    fn numbers(&self) -> Vec<(&str, String)> {
        self.scores.iter().chain(&self.weigh_by).enumerate().map(|(place, name)| (name.as_str(), format!("score_{place}"))).collect()
    }
}

impl Stage for SelectorPoolConfig {
    fn kind(&self) -> &'static str {
        "selector_pool"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"carried": self.whole().carried(), "scores": self.scores, "seed": self.seed, "weigh_by": self.weigh_by}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, roles: &Roles) -> Needs {
        let mut needs = draw::needs(roles);
        needs.columns.extend(self.numbers().into_iter().map(|(name, _)| name.to_owned()));
        self.whole().add_needs(&mut needs);
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let draws = Draw::try_new(cx, self.seed)?;
        let both = together(Box::new(draws), Box::new(CarryNumbers::try_new(cx, &self.numbers())?));
        self.whole().carry(cx, Some(both))
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(SelectorPool { config: self.clone(), stage: stage.clone() }))
    }
}

/// Clusters the rows, and lets each cluster choose its score.
#[derive(Debug)]
struct SelectorPool {
    config: SelectorPoolConfig,
    stage: StageId,
}

impl Barrier for SelectorPool {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let trained_rows = self.config.training().rows(self.config.clusters(usize::try_from(input.rows).unwrap_or(usize::MAX)));
            let names = self.config.numbers().into_iter().map(|(_, name)| name).collect();
            let (stream, sized) = quota::noting(Tally::try_new(engine, &self.config.whole(), &input.sources)?, input.stream);
            let (stream, numbers) = noted::noting(engine, stream, names)?;
            let gathered = gather(engine, Narrow { stream, ..input }, trained_rows, Form::Unit).await?;
            let decide = move || self.decide(&gathered, &quota::noted(&sized), &noted::taken(&numbers));
            let (drops, report) = spawn::blocking("choosing selectors", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
        })
    }
}

/// Clusters that the report tells of.
const TOLD_CLUSTERS: usize = 100;

/// A cluster, and the score that it chose.
struct Cluster {
    /// Places of its rows.
    rows: Vec<usize>,
    /// Those that have the score, and the score.
    scored: Vec<(usize, f64)>,
    chosen: usize,
    entropy: f64,
}

impl SelectorPool {
    /// The score of greatest entropy among the rows of a cluster, the first of equal ones.
    fn choose(&self, rows: Vec<usize>, scores: &[Vec<Option<f64>>]) -> Cluster {
        let of = |place: usize| -> Vec<(usize, f64)> {
            scores.get(place).map_or_else(Vec::new, |score| rows.iter().filter_map(|row| Some((*row, score[*row]?))).collect())
        };
        let entropies: Vec<f64> = (0..self.config.scores.len())
            .map(|place| coverage::entropy(&of(place).into_iter().map(|(_, score)| score).collect::<Vec<_>>(), self.config.bins))
            .collect();
        let first_of_most = |best: usize, place: usize| if entropies[place] > entropies[best] { place } else { best };
        let chosen = (0..entropies.len()).fold(0, first_of_most);
        let (scored, entropy) = (of(chosen), entropies.get(chosen).copied().unwrap_or_default());
        Cluster { rows, scored, chosen, entropy }
    }

    /// The places of the rows of a cluster that can be kept, in the order in which they would be.
    fn ranking(&self, cluster: &Cluster, draws: &[u64]) -> Vec<usize> {
        let scores: Vec<f64> = cluster.scored.iter().map(|(_, score)| *score).collect();
        let own: Vec<u64> = cluster.scored.iter().map(|(row, _)| draws[*row]).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then((own[*a], *a).cmp(&(own[*b], *b))));
        let order = match self.config.pick {
            Pick::Ccs => coverage::open(&scores, &own, self.config.trim),
            Pick::Middle => coverage::outwards(order.len()).map(|place| order[place]).collect(),
            Pick::Lowest => order,
            Pick::Random => {
                order.sort_unstable_by_key(|place| (own[*place], *place));
                order
            }
        };
        order.into_iter().map(|place| cluster.scored[place].0).collect()
    }

    /// What a cluster weighs when the budget is divided.
    fn weights(&self, clusters: &[Cluster], model: &KMeans, distances: &[f64], scores: &[Vec<Option<f64>>]) -> Vec<f64> {
        let mean = |values: &[f64]| coverage::moments(values).0;
        let centroids = model.centroids();
        let weight = |(place, cluster): (usize, &Cluster)| match self.config.allocation {
            Allocation::Balanced => 1.0,
            Allocation::ScoreStd => {
                let of = scores.last().map_or(&[][..], Vec::as_slice);
                coverage::moments(&cluster.rows.iter().filter_map(|row| of[*row]).collect::<Vec<_>>()).1
            }
            Allocation::Density => {
                let others = (0..centroids.rows()).filter(|other| *other != place);
                let apart: Vec<f64> = others.map(|other| 1.0 - similarity(centroids.row(place), centroids.row(other))).collect();
                let own: Vec<f64> = cluster.rows.iter().map(|row| distances[*row].max(0.0)).collect();
                mean(&own) * if apart.is_empty() { 1.0 } else { mean(&apart).max(0.0) }
            }
        };
        clusters.iter().enumerate().map(weight).collect()
    }

    /// The places of the rows of a cluster that are kept, out of those that can be: all that its budget allows.
    fn pick(&self, cluster: &Cluster, ranking: &[usize], draws: &[u64], sizes: &[u64], budget: u64) -> Vec<usize> {
        if self.config.pick == Pick::Ccs {
            let place = |row: &usize| cluster.scored.binary_search_by_key(row, |(row, _)| *row).ok();
            let scores: Vec<f64> = ranking.iter().filter_map(|row| Some(cluster.scored[place(row)?].1)).collect();
            let of = |values: &[u64]| ranking.iter().map(|row| values[*row]).collect::<Vec<_>>();
            return coverage::strata(&scores, &of(draws), &of(sizes), budget, self.config.bins).into_iter().map(|at| ranking[at]).collect();
        }
        let mut meter = Meter::new(budget);
        ranking.iter().copied().take_while(|row| meter.offer(sizes[*row])).collect()
    }

    fn decide(&self, gathered: &Gathered, sized: &RowSizes, numbers: &Numbers) -> Result<(Drops, Map<String, Value>)> {
        let config = &self.config;
        let rows = gathered.rows.len();
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        let size = |row: &u64| sized.of(*row).map(|(_, size)| size);
        // The budget is of all rows that reach the stage; those that cannot be placed use it up first.
        let keep = sized.budgets_beside(&gathered.bad, config.on_bad_vector)?.iter().sum::<u64>();
        let sizes = gathered.rows.iter().map(size).collect::<Result<Vec<u64>>>()?;
        report.insert("budget".into(), json!(keep));
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + rows)?;
        bad.for_each(|drop| drops.push(drop));
        if rows == 0 {
            return Ok((drops, report));
        }
        let source = gathered.vectors.source();
        let random = Random::new(config.seed, self.stage.as_str());
        let Clustered { model, cells, distances, .. } = Clustered::fit(source, config.clusters(rows), &config.training(), &random)?;
        let scores: Vec<Vec<Option<f64>>> =
            (0..config.numbers().len()).map(|column| numbers.of(column, &gathered.rows)).collect::<Result<_>>()?;
        let mut members = vec![Vec::new(); model.centroids().rows()];
        for (row, cell) in cells.into_iter().enumerate() {
            members[cell as usize].push(row);
        }
        let clusters: Vec<Cluster> = members.into_iter().map(|rows| self.choose(rows, &scores)).collect();
        if gathered.draws.len() != rows {
            return Err(Error::internal("rows that were not drawn"));
        }
        let rankings: Vec<Vec<usize>> = clusters.iter().map(|cluster| self.ranking(cluster, &gathered.draws)).collect();
        let capacities: Vec<u64> = rankings.iter().map(|ranking| ranking.iter().map(|row| sizes[*row]).sum()).collect();
        let weights = self.weights(&clusters, &model, &distances, &scores);
        let budgets = allocation::divide(&capacities, &weights, keep);
        let (mut used, mut told) = (0, Vec::new());
        for (cell, (cluster, budget)) in clusters.iter().zip(&budgets).enumerate() {
            let mut kept = self.pick(cluster, &rankings[cell], &gathered.draws, &sizes, *budget);
            kept.sort_unstable();
            used += kept.iter().map(|row| sizes[*row]).sum::<u64>();
            // The rank is that of the chosen score, highest first; rows without it come last.
            let score = |row: usize| scores[cluster.chosen][row];
            let mut order = cluster.rows.clone();
            order.sort_by(|a, b| {
                let key = |row: usize| score(row).unwrap_or(f64::NEG_INFINITY);
                key(*b).total_cmp(&key(*a)).then(a.cmp(b))
            });
            for (rank, row) in order.into_iter().enumerate().filter(|(_, row)| kept.binary_search(row).is_err()) {
                let detail = config.whole().detail(*budget, rank as u64 + 1, Some(cell as u32));
                drops.push(Drop { row: gathered.rows[row], reason: "not_selected", kept: None, score: score(row), detail });
            }
            if cell < TOLD_CLUSTERS {
                let (name, entropy) = (&config.scores[cluster.chosen], (cluster.entropy * 1e4).round() / 1e4);
                told.push(json!({"budget": budget, "cell": cell, "entropy": entropy, "rows": cluster.rows.len(), "score": name}));
            }
        }
        report.insert("used".into(), json!(used));
        report.insert("unit".into(), json!(config.whole().unit()));
        report.insert("clusters".into(), json!(told));
        report.insert("cells".into(), json!(clusters.len()));
        Ok((drops, report))
    }
}
