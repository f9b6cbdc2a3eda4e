//! `prototypes`: keeps the rows that are hardest to tell from their cluster's centroid (Sorscher et al. 2022).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::columns::{Drop, Drops};
use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Quota, RowSizes, Tally, noted, noting};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::Clustered;
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, spawn};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::select::prototypes;
use crate::vector::Training;

/// `prototypes: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrototypesConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of clusters; `auto` is the square root of the number of rows.
    pub k: Clusters,
    /// How far the budget is spread evenly over clusters: 0 not at all, 1 wholly. Default 0.
    pub balance: f64,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `prototypes`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    defaulted("k", Clusters::SHAPE, Presence::Text("auto"), "Number of clusters; `auto` is the square root of the number of rows."),
    defaulted(
        "balance",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.0),
        "How far the budget is spread evenly over the clusters: 0 not at all, 1 wholly.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl PrototypesConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            balance: fields.float("balance").unwrap_or_default(),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn clusters(&self, rows: usize) -> usize {
        self.k.of(rows, |rows| (rows as f64).sqrt().round() as usize)
    }

    fn training(&self) -> Training {
        Training::thorough(self.iterations as usize)
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "balance": self.balance,
            "budget": self.quota.canonical(),
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}

impl Stage for PrototypesConfig {
    fn kind(&self) -> &'static str {
        "prototypes"
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

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(Prototypes { config: self.clone(), stage: stage.clone() }))
    }
}

/// Clusters the rows that reach it anew, and drops the most prototypical until the budget is met.
#[derive(Debug)]
struct Prototypes {
    config: PrototypesConfig,
    stage: StageId,
}

impl Barrier for Prototypes {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let trained_rows = self.config.training().rows(self.config.clusters(usize::try_from(input.rows).unwrap_or(usize::MAX)));
            let tally = Tally::try_new(engine, &self.config.quota, &input.sources)?;
            let (stream, sized) = noting(tally, input.stream);
            let gathered = gather(engine, Narrow { stream, ..input }, trained_rows, Form::Unit).await?;
            let decide = move || self.decide(&gathered, &noted(&sized));
            let (drops, report) = spawn::blocking("selecting prototypes", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
        })
    }
}

impl Prototypes {
    fn decide(&self, gathered: &Gathered, sized: &RowSizes) -> Result<(Drops, Map<String, Value>)> {
        let config = &self.config;
        let rows = gathered.rows.len();
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        // The budget is of all rows that reach the stage; those that cannot be placed use it up first.
        let budgets = sized.budgets_beside(&gathered.bad, config.on_bad_vector)?;
        let mut used = 0;
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + rows)?;
        bad.for_each(|drop| drops.push(drop));
        if rows == 0 {
            sized.tally().report(&budgets, used, &mut report);
            return Ok((drops, report));
        }
        let source = gathered.vectors.source();
        let random = Random::new(config.seed, self.stage.as_str());
        let Clustered { cells, distances, sizes: of_cells, .. } =
            Clustered::fit(source, config.clusters(rows), &config.training(), &random)?;
        let cell_count = of_cells.len();
        let (groups, sizes): (Vec<usize>, Vec<u64>) =
            gathered.rows.iter().map(|row| sized.of(*row)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let mut members = vec![Vec::new(); budgets.len()];
        for (row, group) in groups.into_iter().enumerate() {
            members[group].push(row);
        }
        for (members, budget) in members.iter().zip(&budgets) {
            let of = |values: &[f64]| members.iter().map(|row| values[*row]).collect::<Vec<_>>();
            let (own_cells, own_distances): (Vec<u32>, _) = (members.iter().map(|row| cells[*row]).collect(), of(&distances));
            let own_sizes: Vec<u64> = members.iter().map(|row| sizes[*row]).collect();
            let order = prototypes::order(&own_distances);
            let kept = prototypes::select(&own_cells, cell_count, &order, &own_sizes, *budget, config.balance);
            used += own_sizes.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(size, _)| size).sum::<u64>();
            for (rank, place) in order.into_iter().map(|place| place as usize).enumerate().filter(|(_, place)| !kept[*place]) {
                let (row, rank) = (members[place], rank as u64 + 1);
                let detail = config.quota.detail(*budget, rank, Some(cells[row]));
                drops.push(Drop { row: gathered.rows[row], reason: "not_selected", kept: None, score: Some(distances[row]), detail });
            }
        }
        sized.tally().report(&budgets, used, &mut report);
        report.insert("cells".into(), json!(cell_count));
        Ok((drops, report))
    }
}
