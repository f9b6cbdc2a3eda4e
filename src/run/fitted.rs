//! A fitted stage: a barrier that fits a map to the vectors of all shards, then for each shard a table of the vectors that it makes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, Float64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Float64Type, UInt32Type, UInt64Type};
use serde_json::Map;

use super::barrier;
use super::context::RunContext;
use super::feature::{self, Made};
use crate::dataset::snapshot::Shard;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{Fingerprint, TaskKey};
use crate::plan::task;
use crate::stages::seam::Feature;
use crate::state::artefacts::{Receipt, ReceiptFile, TableWriter, read_table, unreadable};
use crate::state::store::Segment;
use crate::vector::affine::Affine;

/// The table that holds a fitted map: a number in each row, with the row of the map that it belongs to. Row 0 is the mean.
const MAP: &str = "map.parquet";
/// Rows of vectors that are mapped at a time.
const BATCH_ROWS: usize = 4096;

/// The key of the fit: where the state holds it, that of what it holds.
pub(super) fn key(cx: &RunContext, stage: usize) -> Result<TaskKey> {
    match frozen(cx, stage) {
        Some(segment) => Ok(Fingerprint::new("trommel frozen map").part(&segment.blake3).finish().into()),
        None => barrier::key(cx, stage).map(|(key, _)| key),
    }
}

/// Whether the map is there: in the state, or as an artefact.
pub(super) fn is_done(cx: &RunContext, stage: usize) -> Result<bool> {
    Ok(frozen(cx, stage).is_some() || cx.artefacts.receipt(&key(cx, stage)?)?.is_some())
}

/// What an earlier increment fitted.
fn frozen(cx: &RunContext, stage: usize) -> Option<&Segment> {
    cx.increment.as_ref()?.fitted(cx.plan.stages[stage].id.as_str())
}

/// Where the map of a run lies that fitted one to some rows.
pub(super) fn made_map(cx: &RunContext, stage: usize) -> Result<Option<PathBuf>> {
    let key = key(cx, stage)?;
    let of_rows = |receipt: &Receipt| receipt.facts.get("fitted_rows").and_then(serde_json::Value::as_u64).is_some_and(|rows| rows > 0);
    Ok(cx.artefacts.receipt(&key)?.filter(of_rows).map(|_| cx.artefacts.file(&key, MAP)))
}

/// The artefact of each shard.
pub(super) fn tasks(cx: &RunContext, stage: usize, fit: &TaskKey) -> Result<Vec<Option<TaskKey>>> {
    let planned = &cx.plan.stages[stage];
    let each = cx.snapshot.shards.iter().map(|shard| {
        if !planned.reached_by[shard.source] {
            return Ok(None);
        }
        let vectors = planned.embedding.and_then(|embedding| cx.feature_key(shard, embedding));
        let vectors = vectors.ok_or_else(|| Error::internal("a fitted stage without vectors"))?;
        Ok(Some(task::mapped(fit, &vectors, &cx.live(shard, stage)?.reaching(stage))))
    });
    each.collect()
}

/// Fits the map, unless it is there, and makes the vectors of every shard that does not have them yet.
pub(super) async fn run(cx: &Arc<RunContext>, stage: usize) -> Result<Made> {
    let planned = &cx.plan.stages[stage];
    let name = format!("{} {}", planned.config.kind(), planned.id);
    let key = key(cx, stage)?;
    let mut was_cached = 1;
    let phase = cx.telemetry.phase(&format!("{name}: fit"), 1, 0);
    let (path, facts) = if let Some(segment) = frozen(cx, stage) {
        let increment = cx.increment.as_ref().ok_or_else(|| Error::internal("a state that is none"))?;
        (increment.checked(segment)?, Map::from_iter([("frozen".to_owned(), true.into())]))
    } else {
        let receipt = if let Some(receipt) = cx.artefacts.receipt(&key)? {
            receipt
        } else {
            was_cached = 0;
            fit(cx, stage, &key).await?
        };
        (cx.artefacts.file(&key, MAP), receipt.facts)
    };
    phase.finish();
    let map = read(&path)?;
    let transform = planned.config.transform(map).ok_or_else(|| Error::internal("a stage that maps nothing"))?;
    let made =
        feature::make_missing(cx, &name, tasks(cx, stage, &key)?, move |cx, shard, key| make(cx, shard, stage, key, transform.as_ref()));
    let mut made = made.await?;
    made.cached += was_cached;
    made.ran += 1 - was_cached;
    made.report.extend(facts);
    Ok(made)
}

async fn fit(cx: &Arc<RunContext>, stage: usize, key: &TaskKey) -> Result<Receipt> {
    let planned = &cx.plan.stages[stage];
    let (_, rows) = barrier::key(cx, stage)?;
    let fit = planned.config.fit(&planned.id).ok_or_else(|| Error::internal("a stage that fits nothing"))?;
    let fitted = fit
        .run(&cx.engine, barrier::input(cx, stage, rows)?)
        .await
        .map_err(|error| error.context(format!("stage `{}` failed", planned.id)))?;
    let file = write(&cx.artefacts.begin(key)?, &fitted.map)?;
    let receipt = Receipt::new(vec![file], fitted.report);
    cx.artefacts.commit(key, &receipt)?;
    Ok(receipt)
}

fn write(folder: &Path, map: &Affine) -> Result<ReceiptFile> {
    let values: Vec<f64> = map.mean().iter().chain(map.weights()).copied().collect();
    let rows = UInt32Array::from_iter_values((0..values.len()).map(|place| (place / map.mean().len()) as u32));
    let columns = [("row", Arc::new(rows) as ArrayRef, false), ("value", Arc::new(Float64Array::from(values)), false)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).context(Kind::Internal, || "cannot build a map".into())?;
    let mut writer = TableWriter::create(folder, MAP, &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()
}

fn read(path: &Path) -> Result<Affine> {
    let (mut mean, mut weights) = (Vec::new(), Vec::new());
    for batch in read_table(path, None, 1 << 16)? {
        let batch = batch.map_err(|error| unreadable(path, error))?;
        let rows = batch.column(0).as_primitive::<UInt32Type>().values();
        let values = batch.column(1).as_primitive::<Float64Type>().values();
        for (row, value) in rows.iter().zip(values) {
            if *row == 0 { &mut mean } else { &mut weights }.push(*value);
        }
    }
    Affine::try_new(mean, weights)
}

fn make(cx: &RunContext, shard: &Shard, stage: usize, key: &TaskKey, transform: &dyn Feature) -> Result<()> {
    let live = cx.live(shard, stage)?.reaching(stage);
    let vectors = cx.plan.stages[stage].embedding.and_then(|embedding| cx.feature_file(shard, embedding));
    let path = vectors.ok_or_else(|| Error::internal("a fitted stage without vectors"))?;
    let stop = cx.engine.stop().clone();
    let mut rows = read_table(&path, None, BATCH_ROWS)?.map(|batch| {
        stop.check()?;
        only_live(&batch.map_err(|error| unreadable(&path, error))?, &live)
    });
    feature::write_table(cx, shard, live.count_set_bits() as u64, key, transform, &mut rows)
}

/// The rows of a table of vectors that are still live.
fn only_live(batch: &RecordBatch, live: &BooleanBuffer) -> Result<RecordBatch> {
    let rows: &UInt64Array = batch.column(0).as_primitive::<UInt64Type>();
    let mask: BooleanArray = rows.values().iter().map(|row| Some(live.value(*row as usize))).collect();
    filter_record_batch(batch, &mask).context(Kind::Internal, || "cannot take the live rows of vectors".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_comes_back_bit_for_bit() {
        for (mean, weights) in
            [(vec![0.1, -2.5e-17], vec![1.0 / 3.0, 0.0, -0.0, 7.0e300]), (vec![1.0], Vec::new()), (Vec::new(), Vec::new())]
        {
            let map = Affine::try_new(mean, weights).unwrap();
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &map).unwrap();
            assert_eq!(read(&folder.path().join(MAP)).unwrap(), map);
        }
    }
}
