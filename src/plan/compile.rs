//! From a checked pipeline to a plan: which stages a source's first scan decides, which columns it reads, what stands below what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::graph::Graph;
pub use super::graph::Input;
use crate::config::model::{Pipeline, Sink};
use crate::dataset::snapshot::Shard;
use crate::ids::StageId;
use crate::stages::StageConfig;
use crate::stages::seam::Roles;

/// A pipeline that can be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// The sources, as written.
    pub sources: Vec<PlannedSource>,
    /// The stages, inputs before what reads them, else in file order.
    pub stages: Vec<PlannedStage>,
    /// What the sink receives.
    pub sink_input: Input,
    /// The sink.
    pub sink: Sink,
    /// The stages whose columns the output gets, as places in `stages`.
    pub add: Vec<usize>,
    declared: Value,
}

/// A source in a plan.
#[derive(Debug, Clone)]
pub struct PlannedSource {
    /// Its id.
    pub id: StageId,
    /// Which columns are the text and the id.
    pub roles: Roles,
    /// The stages that its first scan decides or makes features for, in order.
    pub steps: Vec<usize>,
    /// The columns that the first scan reads of every shard.
    pub columns: Vec<String>,
    /// Whether it reads all columns of shards that may have rows without an id.
    pub content: bool,
}

impl PlannedSource {
    /// The columns that the first scan reads of `shard`, and whether these are all that it has.
    #[must_use]
    pub fn reads<'a>(&'a self, shard: &'a Shard) -> (Vec<&'a str>, bool) {
        let has_ids = self.roles.id.as_deref().is_some_and(|id| shard.has_no_nulls(id));
        if self.content && !has_ids {
            (shard.schema.fields().iter().map(|field| field.name().as_str()).collect(), true)
        } else {
            (self.columns.iter().map(String::as_str).collect(), false)
        }
    }
}

/// A stage in a plan.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// Its id.
    pub id: StageId,
    /// Its configuration.
    pub config: StageConfig,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// The stage whose vectors it takes, as a place in the plan.
    pub embedding: Option<usize>,
    /// For each source, whether its rows can reach this stage.
    pub reached_by: Vec<bool>,
    /// The stages that it stands below, as places in the plan.
    above: BTreeSet<usize>,
}

impl Plan {
    /// Compiles a pipeline whose graph has been checked.
    #[must_use]
    pub fn compile(pipeline: &Pipeline, graph: &Graph) -> Self {
        // The graph counts stages as the file does, the plan as they are run.
        let place = |stage: usize| graph.order().iter().position(|other| *other == stage).unwrap_or(0);
        let input = |input: &Input| match input {
            Input::Source(source) => Input::Source(*source),
            Input::Stage(stage) => Input::Stage(place(*stage)),
        };
        let mut stages: Vec<PlannedStage> = Vec::with_capacity(graph.order().len());
        for index in graph.order() {
            let entry = &pipeline.stages[*index];
            let inputs: Vec<Input> = graph.inputs(*index).iter().map(input).collect();
            let reached_by = (0..pipeline.sources.len())
                .map(|source| {
                    inputs.iter().any(|input| match input {
                        Input::Source(other) => *other == source,
                        Input::Stage(stage) => stages.get(*stage).is_some_and(|stage| stage.reached_by[source]),
                    })
                })
                .collect();
            let embedding = graph.embedding(*index).map(place);
            let mut above = BTreeSet::new();
            for input in &inputs {
                if let Input::Stage(stage) = input {
                    above.insert(*stage);
                    above.extend(stages.get(*stage).into_iter().flat_map(|stage| &stage.above));
                }
            }
            stages.push(PlannedStage { id: entry.id.clone(), config: entry.config.clone(), inputs, embedding, reached_by, above });
        }
        let sources = pipeline.sources.iter().enumerate().map(|(index, source)| {
            let roles = Roles { text: source.text.clone(), id: source.id_column.clone() };
            let steps: Vec<usize> =
                (0..stages.len()).filter(|stage| stages[*stage].reached_by[index] && stages[*stage].config.scanned().is_some()).collect();
            let mut columns: Vec<String> = roles.id.iter().cloned().collect();
            let mut content = false;
            for step in &steps {
                let needs = stages[*step].config.needs(&roles);
                content |= needs.content;
                columns.extend(needs.columns.iter().map(|name| roles.column(name).to_owned()));
            }
            columns.sort_unstable();
            columns.dedup();
            PlannedSource { id: source.id.clone(), roles, steps, columns, content }
        });
        Self {
            name: pipeline.name.clone(),
            sources: sources.collect(),
            sink_input: Input::Stage(place(graph.sink())),
            add: pipeline.sink.add.iter().filter_map(|id| stages.iter().position(|stage| stage.id == *id)).collect(),
            sink: pipeline.sink.clone(),
            declared: pipeline.canonical(),
            stages,
        }
    }

    /// Whether rows that stage `above` lets through can reach stage `below`.
    #[must_use]
    pub fn is_below(&self, below: usize, above: usize) -> bool {
        self.stages.get(below).is_some_and(|stage| stage.above.contains(&above))
    }

    /// The plan as manifests hold it and run ids hash it: everything that can change the output, nothing that cannot. That is the
    /// declaration, with the version of each stage kind, with `models`, which names the model of each embed stage that has one, and
    /// with `limit_rows`, if only so many rows of the corpus were asked for.
    #[must_use]
    pub fn canonical(&self, models: &BTreeMap<usize, String>, limit_rows: Option<u64>) -> Value {
        let mut plan = self.declared.clone();
        if let (Some(plan), Some(rows)) = (plan.as_object_mut(), limit_rows) {
            plan.insert("limit_rows".into(), json!(rows));
        }
        for entry in plan.get_mut("stages").and_then(Value::as_array_mut).into_iter().flatten() {
            let place = self.stages.iter().position(|stage| entry.get("id").and_then(Value::as_str) == Some(stage.id.as_str()));
            if let (Some(entry), Some(place)) = (entry.as_object_mut(), place) {
                entry.insert("model".into(), json!(models.get(&place)));
                entry.insert("version".into(), json!(self.stages[place].config.version()));
            }
        }
        plan
    }
}
