//! The scan of an expensive feature: its own column, over the live rows of each shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use serde_json::{Map, Value, json};

use super::context::RunContext;
use super::task::{Descriptor, run_tasks};
use crate::dataset::reader::{self, ReadRequest};
use crate::dataset::snapshot::Shard;
use crate::error::{Error, Result};
use crate::ids::TaskKey;
use crate::plan::task;
use crate::stages::StageConfig;
use crate::stages::embed;
use crate::stages::seam::{Feature, SharedEmbedder};
use crate::state::artefacts::{Receipt, TableWriter};

/// The table of a feature's artefact.
pub(super) const TABLE: &str = "vectors.parquet";

/// A feature stage that is done.
pub(super) struct Made {
    /// For each shard that reaches the stage, its artefact.
    pub(super) keys: Vec<Option<TaskKey>>,
    /// What the stage counted over all shards.
    pub(super) report: Map<String, Value>,
    /// Tasks that were found done.
    pub(super) cached: u64,
    /// Tasks that were run.
    pub(super) ran: u64,
}

/// The artefact of each shard. Which of its rows are live is not held: the task that makes it finds out again.
pub(super) fn tasks(cx: &RunContext, stage: usize, model: &blake3::Hash) -> Result<Vec<Option<TaskKey>>> {
    let planned = &cx.plan.stages[stage];
    let each = cx.snapshot.shards.iter().map(|shard| {
        if !planned.reached_by[shard.source] {
            return Ok(None);
        }
        let live = cx.live(shard, stage)?.reaching(stage);
        let column = column(cx, shard, stage)?;
        Ok(Some(task::feature(&cx.plan, stage, &shard.hash, &column, &live, model)))
    });
    each.collect()
}

/// What stands for the model in task keys; vectors that are supplied have none.
pub(super) fn model_hash(embedder: Option<&SharedEmbedder>) -> blake3::Hash {
    embedder.map_or_else(|| blake3::hash(b"supplied"), |embedder| embedder.identity())
}

/// The one column that the stage reads of a shard.
pub(super) fn column(cx: &RunContext, shard: &Shard, stage: usize) -> Result<String> {
    let roles = &cx.plan.sources[shard.source].roles;
    let needs = cx.plan.stages[stage].config.needs(roles);
    let name = needs.columns.first().ok_or_else(|| Error::internal("a feature without a column"))?;
    Ok(roles.column(name).to_owned())
}

/// Makes the feature of every shard that does not have it yet.
pub(super) async fn run(cx: &Arc<RunContext>, stage: usize, embedder: Option<SharedEmbedder>) -> Result<Made> {
    let planned = &cx.plan.stages[stage];
    let StageConfig::Embed(config) = &planned.config else { return Err(Error::internal("a feature stage of another kind")) };
    let model = model_hash(embedder.as_ref());
    let keys = tasks(cx, stage, &model)?;
    let feature: Arc<dyn Feature> = embed::feature(config, embedder)?.into();
    make_missing(cx, &format!("embed {}", planned.id), keys, move |cx, shard, key| {
        let live = cx.live(shard, stage)?.reaching(stage);
        make(cx, shard, stage, &live, key, feature.as_ref())
    })
    .await
}

/// Runs `make` for each shard whose artefact is not there yet, one after the other: the work on one uses all threads by itself.
pub(super) async fn make_missing(
    cx: &Arc<RunContext>,
    name: &str,
    keys: Vec<Option<TaskKey>>,
    make: impl Fn(&RunContext, &Shard, &TaskKey) -> Result<()> + Send + Sync + 'static,
) -> Result<Made> {
    let mut wanted: BTreeMap<TaskKey, Descriptor> = BTreeMap::new();
    let mut cached = 0;
    for (shard, key) in cx.snapshot.shards.iter().zip(&keys) {
        let Some(key) = key else { continue };
        if cx.artefacts.receipt(key)?.is_some() {
            cached += 1;
        } else {
            wanted.insert(*key, Descriptor { ordinal: shard.id.ordinal(), key: *key, bytes: shard.bytes });
        }
    }
    let ran = wanted.len() as u64;
    let phase = cx.telemetry.phase(name, ran, wanted.values().map(|task| task.bytes).sum());
    let context = Arc::clone(cx);
    run_tasks(cx, "Feature", wanted.into_values().collect(), 1, &phase, move |descriptor| {
        make(&context, &context.snapshot.shards[descriptor.ordinal], &descriptor.key)
    })
    .await?;
    phase.finish();
    Ok(Made { report: report(cx, &keys)?, keys, cached, ran })
}

fn make(cx: &RunContext, shard: &Shard, stage: usize, live: &BooleanBuffer, key: &TaskKey, feature: &dyn Feature) -> Result<()> {
    let column = column(cx, shard, stage)?;
    let request = ReadRequest { columns: &[&column], schema: None, selection: Some(live), batch_rows: cx.engine.batch_rows() };
    let stop = cx.engine.stop().clone();
    let mut rows = reader::read(shard, request)?.map(|batch| {
        stop.check()?;
        batch
    });
    write_table(cx, shard, live.count_set_bits() as u64, key, feature, &mut rows)
}

/// Writes the artefact of one shard: what `feature` makes of `rows`, a row for each of the `live` ones.
pub(super) fn write_table(
    cx: &RunContext,
    shard: &Shard,
    live: u64,
    key: &TaskKey,
    feature: &dyn Feature,
    rows: &mut (dyn Iterator<Item = Result<RecordBatch>> + Send),
) -> Result<()> {
    let folder = cx.artefacts.begin(key)?;
    let writer: std::cell::RefCell<Option<TableWriter>> = std::cell::RefCell::default();
    let facts = feature.run(rows, &mut |schema| {
        *writer.borrow_mut() = Some(TableWriter::create(&folder, TABLE, schema)?);
        let writer = &writer;
        Ok(Box::new(move |batch| match writer.borrow_mut().as_mut() {
            Some(writer) => writer.write(batch),
            None => Err(Error::internal("a feature's table was not started")),
        }))
    })?;
    let writer = writer.into_inner().ok_or_else(|| Error::internal("a feature wrote no table"))?;
    let file = writer.finish()?;
    if file.rows != live {
        return Err(Error::internal(format!(
            "a feature gave another number of rows shard=`{}` live=`{live}` made=`{}`",
            shard.path, file.rows
        )));
    }
    cx.artefacts.commit(key, &Receipt::new(vec![file], facts))
}

/// The sums of what the tasks counted.
fn report(cx: &RunContext, keys: &[Option<TaskKey>]) -> Result<Map<String, Value>> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    for key in keys.iter().flatten() {
        let receipt = cx.artefacts.receipt(key)?.ok_or_else(|| Error::state("an artefact was lost during the run"))?;
        for (name, value) in &receipt.facts {
            match value {
                Value::Object(counts) => {
                    for (status, count) in counts {
                        *statuses.entry(status.clone()).or_insert(0) += count.as_u64().unwrap_or(0);
                    }
                }
                value => *sums.entry(name.clone()).or_insert(0) += value.as_u64().unwrap_or(0),
            }
        }
    }
    let mut report: Map<String, Value> = sums.into_iter().map(|(name, sum)| (name, json!(sum))).collect();
    report.insert("statuses".into(), json!(statuses));
    Ok(report)
}
