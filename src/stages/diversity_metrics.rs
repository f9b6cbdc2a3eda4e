//! `diversity_metrics`: drops nothing and reports how many directions the vectors of the rows that reach it use.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::columns::Drops;
use super::policy::{self, OnBadVector};
use super::quota::{self, Quota, RowSizes, Tally, noted, noting};
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::optional;
use crate::declare::{Field, Fields, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, spawn};
use crate::error::{Error, Result};
use crate::ids::StageId;
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::vector::diversity::{Diversity, measure};
use crate::vector::moments::Moments;

/// `diversity_metrics: {embedding, group, per_source, on_bad_vector}`.
#[derive(Debug, Clone, PartialEq)]
pub struct DiversityMetricsConfig {
    /// The stage that makes the vectors; default the nearest above.
    pub embedding: Option<StageId>,
    /// The column whose values are groups that are measured by themselves as well; nulls are one group.
    pub group: Option<String>,
    /// Whether the rows of each source are measured by themselves as well.
    pub per_source: bool,
    /// What becomes of a row with a bad vector; default: kept and not measured.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `diversity_metrics`.
pub const FIELDS: &[Field] = &[
    policy::EMBEDDING,
    optional(
        "group",
        Shape::Text,
        "A column: the rows of each of its values are measured by themselves as well; nulls are one group. At most 100 groups.",
    ),
    Field { doc: "Whether the rows of each source are measured by themselves as well.", ..quota::PER_SOURCE },
    policy::ON_BAD_VECTOR,
];

impl DiversityMetricsConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        Self {
            embedding: fields.text("embedding").map(StageId::new),
            group: fields.text("group"),
            per_source: fields.bool("per_source").unwrap_or(false),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"group": self.group, "on_bad_vector": self.on_bad_vector.word(), "per_source": self.per_source})
    }

    /// The groups, as those of a budget.
    fn groups(&self) -> Quota {
        Quota { group: self.group.clone(), per_source: self.per_source, ..Quota::all() }
    }
}

impl Stage for DiversityMetricsConfig {
    fn kind(&self) -> &'static str {
        "diversity_metrics"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        self.groups().carried()
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        let mut needs = Needs::default();
        self.groups().add_needs(&mut needs);
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        self.groups().carry(cx, None)
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(DiversityMetrics { config: self.clone() }))
    }
}

/// Measures, and decides nothing.
#[derive(Debug)]
struct DiversityMetrics {
    config: DiversityMetricsConfig,
}

impl Barrier for DiversityMetrics {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let dimensions = input.dimensions;
            if dimensions > MAX_FITTED_DIMENSIONS {
                let message = format!("too many dimensions to measure dimensions=`{dimensions}` limit=`{MAX_FITTED_DIMENSIONS}`");
                return Err(Error::resources(message).hint("shorten the vectors, such as by `embed: {dims}` or `dimension_select`"));
            }
            // Two rounds of moments, one after the other, and a few matrices of their size while eigenvalues are found.
            let _matrices = engine.reserve("measuring diversity", 2 * Moments::bytes(dimensions) + 4 * dimensions * dimensions * 8)?;
            let tally = Tally::try_new(engine, &self.config.groups(), &input.sources)?;
            let sources = input.source_names.clone();
            let (stream, sized) = noting(tally, input.stream);
            let gathered = gather(engine, Narrow { stream, ..input }, 0, Form::Unit).await?;
            let decide = move || self.decide(&gathered, &noted(&sized), dimensions, &sources);
            let (drops, report) = spawn::blocking("measuring diversity", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
        })
    }
}

/// Groups that are measured at most.
const MAX_GROUPS: usize = 100;
/// Rows that are read at a time.
const RUN: usize = 4096;

fn told(found: &Diversity) -> Value {
    json!({
        "effective_rank": found.effective_rank,
        "log_det": found.log_det,
        "mean_correlation": found.mean_correlation,
        "mnn_pca": found.mnn_pca,
        "mnn_per_row": found.mnn_per_row,
        "mnn_raw": found.mnn_raw,
        "o_information": found.o_information,
        "off_mean": found.off_mean,
        "rows": found.rows,
        "vendi": found.vendi,
    })
}

impl DiversityMetrics {
    fn decide(&self, gathered: &Gathered, sized: &RowSizes, dimensions: usize, sources: &[String]) -> Result<(Drops, Map<String, Value>)> {
        let mut report = Map::new();
        let bad = gathered.settle_bad(self.config.on_bad_vector, &mut report)?;
        let mut drops = Drops::for_rows(&gathered.memory, bad.len())?;
        bad.for_each(|drop| drops.push(drop));
        let source = gathered.vectors.source();
        let of = |rows: &[u32]| {
            measure(dimensions, &|see| {
                let mut buffer = Vec::new();
                for run in rows.chunks(RUN) {
                    let vectors = source.gather(run, &mut buffer)?;
                    (0..vectors.rows()).for_each(|row| see(vectors.row(row)));
                }
                Ok(())
            })
        };
        let all: Vec<u32> = (0..gathered.rows.len() as u32).collect();
        report.insert("diversity".into(), told(&of(&all)?));
        report.insert("dimensions_measured".into(), json!(dimensions));
        if self.config.groups().grouped() {
            let groups = sized.tally().groups();
            if groups.len() > MAX_GROUPS {
                let message = format!("too many groups to measure groups=`{}` limit=`{MAX_GROUPS}`", groups.len());
                return Err(Error::resources(message).hint("name a column of fewer values, or measure some of the rows below a `filter`"));
            }
            let mut members = vec![Vec::new(); groups.len()];
            for (place, row) in all.iter().zip(&gathered.rows) {
                members[sized.of(*row)?.0].push(*place);
            }
            let mut by_group = Vec::with_capacity(groups.len());
            for (shard_source, name, number) in groups {
                let mut entry = told(&of(&members[number])?);
                if let Some(entry) = entry.as_object_mut() {
                    if self.config.group.is_some() {
                        entry.insert("group".into(), json!(name));
                    }
                    if self.config.per_source {
                        entry.insert("source".into(), json!(sources.get(shard_source)));
                    }
                }
                by_group.push(entry);
            }
            report.insert("by_group".into(), Value::Array(by_group));
        }
        Ok((drops, report))
    }
}
