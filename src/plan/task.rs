//! Task keys: a hash of all that can change a task's artefact and of nothing else, so that a task whose artefact is there is done.

use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Schema;

use super::compile::{Input, Plan};
use crate::ids::{ContentHash, Fingerprint, ShardId, StageId, TaskKey};
use crate::state::artefacts::FORMAT;

/// The first scan of one shard: its content, the stages that its rows can reach, and the types that its columns are read in.
#[must_use]
pub fn scan(plan: &Plan, source: usize, shard: &ContentHash, rows: u64, types: &Schema) -> TaskKey {
    let source_index = source;
    let source = &plan.sources[source_index];
    let mut key = Fingerprint::new("trommel scan").number(FORMAT).part(shard.as_bytes()).number(rows);
    key = key.part(source.roles.id.as_deref().unwrap_or("")).part(source.roles.text.as_deref().unwrap_or(""));
    for field in types.fields() {
        key = key.part(field.name()).part(field.data_type().to_string());
    }
    // Stages that leave nothing in the artefact still say which rows the ones below them see.
    for planned in plan.stages.iter().filter(|stage| stage.reached_by[source_index]) {
        key = key.part(planned.id.as_str()).part(planned.config.kind()).number(u64::from(planned.config.version()));
        key = key.part(planned.config.scanned().map_or_else(String::new, |config| config.to_string()));
        key = key.number(planned.inputs.len() as u64);
        for input in &planned.inputs {
            key = match input {
                Input::Source(other) => key.part(if *other == source_index { "source" } else { "other" }),
                Input::Stage(stage) => key.part(plan.stages[*stage].id.as_str()),
            };
        }
    }
    key.finish().into()
}

/// An expensive feature of one shard: its content, which of its rows are live, and the identity of the model.
#[must_use]
pub fn feature(plan: &Plan, index: usize, shard: &ContentHash, column: &str, live: &BooleanBuffer, model: &blake3::Hash) -> TaskKey {
    let key = Fingerprint::new("trommel feature").number(FORMAT).part(shard.as_bytes()).part(column);
    let config = &plan.stages[index].config;
    let key = key.part(config.kind()).number(u64::from(config.version())).part(config.canonical().to_string());
    live_rows(key, live).part(model.as_bytes()).finish().into()
}

/// The vectors that a fitted map makes of one shard: the fit (which knows the configuration), the vectors that it takes, and which of
/// their rows are live.
#[must_use]
pub fn mapped(fit: &TaskKey, vectors: &TaskKey, live: &BooleanBuffer) -> TaskKey {
    let key = Fingerprint::new("trommel mapped").number(FORMAT).part(fit.as_bytes()).part(vectors.as_bytes());
    live_rows(key, live).finish().into()
}

/// Adds which rows are live.
fn live_rows(key: Fingerprint, live: &BooleanBuffer) -> Fingerprint {
    let bits: Vec<u8> = live.iter().collect::<arrow::array::BooleanArray>().values().sliced().to_vec();
    key.number(live.len() as u64).part(bits)
}

/// A barrier: the artefacts that it reads, in the order of the corpus, and which of their rows are live.
#[derive(Debug)]
pub struct BarrierKey(Fingerprint);

impl BarrierKey {
    /// The key of stage `index`, before its inputs.
    #[must_use]
    pub fn new(plan: &Plan, index: usize) -> Self {
        Self(stage(Fingerprint::new("trommel barrier").number(FORMAT), plan, index))
    }

    /// Adds what the barrier reads of one shard. Its source's id is part of it, as no other name is: barriers that tell sources apart name
    /// them in what they report.
    #[must_use]
    pub fn shard(self, shard: ShardId, source: &StageId, artefacts: &[TaskKey], live: &BooleanBuffer) -> Self {
        let mut key = self.0.number(shard.ordinal() as u64).part(source.as_str()).number(artefacts.len() as u64);
        for artefact in artefacts {
            key = key.part(artefact.as_bytes());
        }
        Self(live_rows(key, live))
    }

    /// Adds the rows of earlier increments that the barrier compares with.
    #[must_use]
    pub fn state(self, add: impl FnOnce(Fingerprint) -> Fingerprint) -> Self {
        Self(add(self.0.part("state")))
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> TaskKey {
        self.0.finish().into()
    }
}

/// A stage as keys see it. Its id is part of them: draws are keyed by it, and it names columns of artefacts.
fn stage(key: Fingerprint, plan: &Plan, index: usize) -> Fingerprint {
    let stage = &plan.stages[index];
    let config = &stage.config;
    key.part(stage.id.as_str()).part(config.kind()).number(u64::from(config.version())).part(config.canonical().to_string())
}
