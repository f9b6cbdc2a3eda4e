//! The last phase: one read of all columns, and the rows that the sink receives written as shards of the dataset.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array as _, ArrayRef, AsArray as _, FixedSizeListArray, Float32Array, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, FieldRef, UInt8Type, UInt64Type};

use super::context::RunContext;
use super::repeats::Repeats;
use super::task::{Descriptor, run_tasks};
use crate::config::model::{Layout, Write};
use crate::dataset::pack::{self, Part};
use crate::dataset::snapshot::Shard;
use crate::dataset::writer::{ShardWriter, WriterOptions, Written};
use crate::embed::guard::Status;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::Fingerprint;
use crate::stages::seam::VECTOR;
use crate::state::artefacts::{read_table, table_schema, unreadable};
use crate::state::lineage;
use crate::state::vectors as stored;
use crate::storage::local;

/// A file of the dataset that was written.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    pub(super) path: String,
    pub(super) kind: &'static str,
    pub(super) written: Written,
}

/// A file to write: the rows of some shards that a mask takes.
#[derive(Debug, Clone)]
struct Job {
    path: String,
    kind: &'static str,
    parts: Vec<Part>,
}

/// The lineage columns that `annotate` adds, each with the name that it gets.
const ANNOTATIONS: [&str; 7] = ["decision", "stage", "reason", "kept_source", "kept_shard", "kept_row", "score"];

/// The names of the columns that `annotate` adds.
pub(super) fn annotation_names() -> Vec<String> {
    ANNOTATIONS.iter().map(|name| format!("trommel_{name}")).collect()
}

/// Writes the dataset's shards under `folder`. The lineage need be there only
/// where the sink annotates.
pub(super) async fn write(cx: &Arc<RunContext>, folder: &Path) -> Result<Vec<DataFile>> {
    let jobs = Arc::new(jobs(cx)?);
    let results: Arc<Mutex<Vec<DataFile>>> = Arc::default();
    let tasks = jobs.iter().enumerate().map(|(index, job)| Descriptor {
        ordinal: index,
        key: Fingerprint::new("trommel prune").part(&job.path).finish().into(),
        bytes: job.parts.iter().map(|part| cx.snapshot.shards[part.shard].bytes).sum(),
    });
    let tasks: Vec<Descriptor> = tasks.collect();
    let phase = cx.telemetry.phase("write", tasks.len() as u64, tasks.iter().map(|task| task.bytes).sum());
    let (context, list, written, folder) = (Arc::clone(cx), Arc::clone(&jobs), Arc::clone(&results), folder.to_owned());
    let repeats = Repeats::read(cx, |stage| cx.plan.add.contains(&stage))?;
    run_tasks(cx, "Prune", tasks, cx.engine.threads(), &phase, move |descriptor| {
        let job = list.get(descriptor.ordinal).ok_or_else(|| Error::internal("a task without its job"))?;
        let file = write_file(&context, &repeats, &folder, job)?;
        written.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        Ok(())
    })
    .await?;
    phase.finish();
    let mut files = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn jobs(cx: &RunContext) -> Result<Vec<Job>> {
    let sink = &cx.plan.sink;
    let kinds: &[&'static str] = match sink.write {
        Write::Data | Write::Annotate => &["data"],
        Write::Dropped => &["dropped"],
        Write::Both => &["data", "dropped"],
    };
    let several = cx.plan.sources.len() > 1;
    let under = |kind: &str, shard: &Shard, name: &str| {
        if several { format!("{kind}/{}/{name}", cx.plan.sources[shard.source].id) } else { format!("{kind}/{name}") }
    };
    let mut jobs = Vec::new();
    for kind in kinds.iter().copied() {
        match sink.layout {
            Layout::Mirror => {
                jobs.extend(cx.snapshot.shards.iter().map(|shard| Job {
                    path: under(kind, shard, &shard.path),
                    kind,
                    parts: vec![Part { shard: shard.id.ordinal(), rows: 0..shard.rows }],
                }));
            }
            Layout::Packed { target_bytes } => {
                let shards: Vec<&Shard> = cx.snapshot.shards.iter().collect();
                let rows = shards.iter().map(|shard| Ok(rows_by_group(shard, &mask(cx, shard, kind)?))).collect::<Result<Vec<_>>>()?;
                for (index, pack) in pack::plan(&shards, &rows, target_bytes).into_iter().enumerate() {
                    if let Some(first) = pack.parts.first().and_then(|part| shards.get(part.shard)) {
                        jobs.push(Job { path: under(kind, first, &format!("part-{index:06}.parquet")), kind, parts: pack.parts });
                    }
                }
            }
        }
    }
    Ok(jobs)
}

/// The rows of a shard that go into files of this kind.
fn mask(cx: &RunContext, shard: &Shard, kind: &str) -> Result<BooleanBuffer> {
    if cx.plan.sink.write == Write::Annotate {
        return Ok(BooleanBuffer::new_set(shard.rows_used as usize));
    }
    let live = cx.live_at_end(shard)?.on(cx.plan.sink_input);
    Ok(if kind == "dropped" { !&live } else { live })
}

/// How many rows of a mask lie in each row group.
fn rows_by_group(shard: &Shard, mask: &BooleanBuffer) -> Vec<u64> {
    let mut first = 0;
    let count = |rows: u64| {
        let from = first.min(mask.len());
        let until = (first + rows as usize).min(mask.len());
        first += rows as usize;
        mask.slice(from, until - from).count_set_bits() as u64
    };
    shard.row_groups.iter().map(|group| group.rows).map(count).collect()
}

fn write_file(cx: &RunContext, repeats: &Repeats, folder: &Path, job: &Job) -> Result<DataFile> {
    let sink = &cx.plan.sink;
    let path = local::join_confined(folder, &job.path)?;
    if let Some(parent) = path.parent() {
        local::create_dir_all(parent)?;
    }
    let first =
        job.parts.first().and_then(|part| cx.snapshot.shards.get(part.shard)).ok_or_else(|| Error::internal("a file of no shards"))?;
    let annotate = sink.write == Write::Annotate;
    let extra = extra_fields(cx, annotate)?;
    let options = WriterOptions { zstd_level: sink.zstd_level, row_group_rows: sink.row_group_rows, extra: extra.clone(), copy: true };
    let mut writer = ShardWriter::create(&path, first, options)?;
    for part in &job.parts {
        cx.engine.stop().check()?;
        let shard = &cx.snapshot.shards[part.shard];
        let whole = mask(cx, shard, job.kind)?;
        let mask = if part.rows == (0..shard.rows) {
            whole
        } else {
            let part = BooleanBuffer::collect_bool(whole.len(), |row| part.rows.contains(&(row as u64)));
            &whole & &part
        };
        let mut columns = Vec::new();
        if annotate {
            columns.extend(annotations(folder, shard)?);
        }
        for stage in &cx.plan.add {
            let makes_vectors = cx.plan.stages[*stage].config.made_vectors().is_some();
            columns.push(if makes_vectors { vectors(cx, shard, *stage)? } else { repeats.column(*stage, shard) });
        }
        // What earlier shards decided may be of other dimensions only if models differ, which the barrier has refused.
        writer.append(shard, &mask, &columns)?;
    }
    Ok(DataFile { path: job.path.clone(), kind: job.kind, written: writer.finish()? })
}

fn extra_fields(cx: &RunContext, annotate: bool) -> Result<Vec<FieldRef>> {
    let mut fields: Vec<FieldRef> = Vec::new();
    if annotate {
        let lineage = lineage::schema();
        for name in ANNOTATIONS {
            let field = lineage.field_with_name(name).context(Kind::Internal, || "lineage lacks a column".into())?;
            fields.push(Arc::new(Field::new(format!("trommel_{name}"), field.data_type().clone(), true)));
        }
    }
    for stage in &cx.plan.add {
        let planned = &cx.plan.stages[*stage];
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let kind = match planned.config.made_vectors() {
            Some(_) => DataType::FixedSizeList(item, dimensions(cx, *stage)? as i32),
            None => DataType::UInt64,
        };
        fields.push(Arc::new(Field::new(planned.id.as_str(), kind, true)));
    }
    Ok(fields)
}

fn dimensions(cx: &RunContext, stage: usize) -> Result<usize> {
    let mut dimensions = 0;
    for shard in &cx.snapshot.shards {
        if let Some(path) = cx.feature_file(shard, stage)
            && let Ok(field) = table_schema(&path)?.field_with_name(VECTOR)
            && let Some(size) = stored::dimensions(field.data_type())
        {
            dimensions = dimensions.max(size);
        }
    }
    Ok(dimensions)
}

fn annotations(folder: &Path, shard: &Shard) -> Result<Vec<ArrayRef>> {
    let path = folder.join(lineage::file_name(shard.id.ordinal()));
    let batches: Vec<RecordBatch> =
        lineage::read(&path, &ANNOTATIONS)?.collect::<std::result::Result<_, _>>().map_err(|error| unreadable(&path, error))?;
    ANNOTATIONS
        .iter()
        .map(|name| {
            let parts: Vec<&dyn arrow::array::Array> =
                batches.iter().filter_map(|batch| batch.column_by_name(name).map(AsRef::as_ref)).collect();
            if parts.is_empty() {
                let field = lineage::schema();
                let field = field.field_with_name(name).context(Kind::Internal, || "lineage lacks a column".into())?;
                return Ok(arrow::array::new_empty_array(field.data_type()));
            }
            concat(&parts).context(Kind::Internal, || "cannot read annotations".into())
        })
        .collect()
}

/// The vectors of a stage for every row of a shard; null where a row has none.
fn vectors(cx: &RunContext, shard: &Shard, stage: usize) -> Result<ArrayRef> {
    let internal = || "cannot add vectors".to_owned();
    let dimensions = dimensions(cx, stage)?;
    let rows = shard.rows_used as usize;
    let mut places: Vec<Option<u32>> = vec![None; rows];
    let mut values: Vec<f32> = Vec::new();
    let mut count = 0;
    if let Some(path) = cx.feature_file(shard, stage) {
        for batch in read_table(&path, None, 4096)? {
            let batch = batch.map_err(|error| unreadable(&path, error))?;
            let flat = stored::values(batch.column(1))?;
            let status = batch.column(2).as_primitive::<UInt8Type>();
            for (index, row) in batch.column(0).as_primitive::<UInt64Type>().values().iter().enumerate() {
                if status.value(index) == Status::Ok.code() {
                    places[*row as usize] = Some(count);
                    count += 1;
                    values.extend_from_slice(&flat.values()[index * dimensions..(index + 1) * dimensions]);
                }
            }
        }
    }
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let nulls: Option<NullBuffer> = None;
    let list =
        FixedSizeListArray::try_new_with_length(item, dimensions as i32, Arc::new(Float32Array::from(values)), nulls, count as usize)
            .context(Kind::Internal, internal)?;
    if list.is_empty() {
        return Ok(arrow::array::new_null_array(list.data_type(), rows));
    }
    take(&list, &UInt32Array::from(places), None).context(Kind::Internal, internal)
}
