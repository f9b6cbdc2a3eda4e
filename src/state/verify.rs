//! Re-derives trust in a dataset from nothing: every file against its hash, every input row exactly once in the lineage, sums
//! against files, every representative and every chain against the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::chain::Stages;
use super::lineage::{self, Place};
use super::manifest::{InputShard, Manifest, RunRecord};
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, RowStream, next, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, ShardId};
use crate::storage::{checksum, local};

/// Problems that are told one by one; more are counted.
const MAX_TOLD: usize = 20;

/// What a verification looked at and found.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Files hashed.
    pub files: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Lineage rows checked.
    pub rows: u64,
    /// Dropped rows whose representative was checked.
    pub representatives: u64,
    /// Input shards hashed again.
    pub inputs: u64,
    /// What is wrong; the first few in words.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl Verification {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_TOLD {
            self.problems.push(text);
        }
    }
}

/// Verifies the dataset in `folder`; with `deep`, hashes the input shards again as well.
pub async fn verify(engine: &Arc<Engine>, folder: &Path, deep: bool) -> Result<Verification> {
    let manifest = Manifest::read(folder)?;
    let stages = Arc::new(Stages::read(&manifest.plan)?);
    let mut found = Verification::default();
    check_files(folder, &manifest, &mut found)?;
    if found.problem_count == 0 {
        check_rows(folder, &manifest, &stages, &mut found)?;
    }
    if found.problem_count == 0 {
        check_representatives(engine, folder, &manifest, &stages, &mut found).await?;
    }
    if deep {
        check_inputs(folder, &manifest, &mut found)?;
    }
    Ok(found)
}

fn check_files(folder: &Path, manifest: &Manifest, found: &mut Verification) -> Result<()> {
    let mut known = BTreeSet::from(["manifest.json".to_owned(), "run.json".to_owned()]);
    for file in &manifest.files {
        known.insert(file.path.clone());
        let path = local::join_confined(folder, &file.path)?;
        if !local::exists(&path)? {
            found.problem(format!("a file is missing path=`{}`", file.path));
            continue;
        }
        let (hash, bytes) = checksum::hash_path(&path)?;
        found.files += 1;
        found.bytes += bytes;
        if bytes != file.bytes {
            found.problem(format!("a file has another length path=`{}` manifest=`{}` found=`{bytes}`", file.path, file.bytes));
        } else if hash.to_string() != file.blake3 {
            found.problem(format!("a file has another hash path=`{}` manifest=`{}` found=`{hash}`", file.path, file.blake3));
        }
    }
    for file in local::list_all_files(folder)? {
        if !known.contains(&file) {
            found.problem(format!("a file is not in the manifest path=`{file}`"));
        }
    }
    Ok(())
}

/// Row numbers without a gap, words that are known, and sums that agree: rows, shards, stages, data files.
fn check_rows(folder: &Path, manifest: &Manifest, stages: &Stages, found: &mut Verification) -> Result<()> {
    let mut dropped: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut kept_total, mut rejected) = (0, 0);
    for (ordinal, input) in manifest.inputs.iter().enumerate() {
        let path = local::join_confined(folder, &input.lineage)?;
        let (mut expected, mut kept) = (0, 0);
        for batch in lineage::read(&path, &["row", "decision", "stage", "reason", "source", "shard", "run_id"])? {
            let batch = batch.context(Kind::State, || format!("cannot read lineage path=`{}`", input.lineage))?;
            let rows = column(&batch, "row")?.as_primitive::<UInt64Type>();
            let text = |name: &str| Ok::<_, Error>(column(&batch, name)?.as_string::<i32>().clone());
            let (decision, stage, reason, source, shard, run_id) =
                (text("decision")?, text("stage")?, text("reason")?, text("source")?, text("shard")?, text("run_id")?);
            for index in 0..batch.num_rows() {
                if rows.value(index) != expected {
                    found.problem(format!(
                        "lineage skips or repeats a row shard=`{}` expected=`{expected}` found=`{}`",
                        manifest.label(input),
                        rows.value(index)
                    ));
                    return Ok(());
                }
                expected += 1;
                if source.value(index) != input.source || shard.value(index) != input.shard || run_id.value(index) != manifest.run_id {
                    found.problem(format!("lineage names another shard or run file=`{}` ordinal=`{ordinal}`", input.lineage));
                    return Ok(());
                }
                match decision.value(index) {
                    "keep" if stage.is_null(index) => kept += 1,
                    "drop" if stage.is_valid(index) && stages.has(stage.value(index)) => {
                        *dropped.entry((stage.value(index).to_owned(), reason.value(index).to_owned())).or_insert(0) += 1;
                    }
                    "reject" => rejected += 1,
                    other => {
                        found.problem(format!(
                            "a decision has no meaning shard=`{}` row=`{}` decision=`{other}`",
                            manifest.label(input),
                            rows.value(index)
                        ));
                        return Ok(());
                    }
                }
            }
        }
        found.rows += expected;
        kept_total += kept;
        if (expected, kept) != (input.rows, input.kept) {
            found.problem(format!(
                "lineage and manifest count differently shard=`{}` rows=`{expected}/{}` kept=`{kept}/{}`",
                manifest.label(input),
                input.rows,
                input.kept
            ));
        }
    }
    let dropped_total: u64 = dropped.values().sum();
    let counts = &manifest.rows;
    if (found.rows, kept_total, dropped_total, rejected) != (counts.input, counts.kept, counts.dropped, counts.rejected) {
        found.problem(format!(
            "rows do not add up input=`{}` kept=`{kept_total}` dropped=`{dropped_total}` rejected=`{rejected}`",
            found.rows
        ));
    }
    for stage in &manifest.stages {
        for (reason, rows) in &stage.dropped {
            if dropped.remove(&(stage.stage.clone(), reason.clone())).unwrap_or(0) != *rows {
                found
                    .problem(format!("a stage's sum differs from the lineage stage=`{}` reason=`{reason}` manifest=`{rows}`", stage.stage));
            }
        }
    }
    if let Some(((stage, reason), rows)) = dropped.first_key_value() {
        found.problem(format!("the manifest leaves out dropped rows stage=`{stage}` reason=`{reason}` rows=`{rows}`"));
    }
    let in_files = |kind: &str| manifest.files.iter().filter(|file| file.kind == kind).map(|file| file.rows).sum::<u64>();
    let write = manifest.plan.pointer("/sink/write").and_then(|write| write.as_str()).unwrap_or("data");
    let (data, dropped) = match write {
        "annotate" => (counts.input, 0),
        "dropped" => (0, counts.dropped),
        "both" => (counts.kept, counts.dropped),
        _ => (counts.kept, 0),
    };
    if (in_files("data"), in_files("dropped")) != (data, dropped) {
        found.problem(format!(
            "files hold another number of rows data=`{}/{data}` dropped=`{}/{dropped}`",
            in_files("data"),
            in_files("dropped")
        ));
    }
    Ok(())
}

/// Each row that a drop names is kept, or a stage below the one that names it dropped it in turn, for another row or for what it is itself:
/// as this holds for the drops on all branches, each chain ends, and ends well. `copies` and `kept_doc_id` agree with the
/// rows that they speak of.
async fn check_representatives(
    engine: &Arc<Engine>,
    folder: &Path,
    manifest: &Manifest,
    stages: &Arc<Stages>,
    found: &mut Verification,
) -> Result<()> {
    let name = |(ordinal, input): (usize, &InputShard)| ((input.source.clone(), input.shard.clone()), ordinal);
    let shards: BTreeMap<(String, String), usize> = manifest.inputs.iter().enumerate().map(name).collect();
    let paths = manifest.inputs.iter().map(|input| local::join_confined(folder, &input.lineage)).collect::<Result<Vec<_>>>()?;
    let edges = edges(paths.clone(), shards, Arc::clone(stages));
    let edges = sort(engine, edges, &[SortKey::ascending("kept"), SortKey::ascending("row")])?;
    let mut nodes = Nodes { paths, stages: Arc::clone(stages), shard: 0, table: None, batch: None, place: 0 };
    let mut edges = Edges { stream: edges, batch: None, place: 0 };
    let mut edge = edges.next().await?;
    while let Some(node) = nodes.next()? {
        let mut copies = 0;
        while let Some(current) = edge.as_ref().filter(|edge| edge.kept <= node.row) {
            if current.kept < node.row {
                break;
            }
            copies += u64::from(current.main);
            found.representatives += u64::from(current.main);
            if let Some(problem) = node.problem(stages, current.stage as usize) {
                found.problem(format!("{problem} {} names {}", show(manifest, current.row), show(manifest, node.row)));
            }
            if current.main && current.kept_doc_id != node.doc_id {
                found.problem(format!(
                    "a representative has another document id {} names {}",
                    show(manifest, current.row),
                    show(manifest, node.row)
                ));
            }
            edge = edges.next().await?;
        }
        if copies != node.copies {
            found.problem(format!("`copies` is wrong {} lineage=`{}` counted=`{copies}`", show(manifest, node.row), node.copies));
        }
    }
    if let Some(edge) = edge {
        found.problem(format!("a representative is not in the corpus {}", show(manifest, edge.row)));
    }
    Ok(())
}

fn show(manifest: &Manifest, row: u64) -> String {
    let id = RowId::from_bits(row);
    let shard = manifest.inputs.get(id.shard().ordinal()).map_or_else(|| "?".to_owned(), |input| manifest.label(input));
    format!("row=`{shard}:{}`", id.row())
}

fn check_inputs(folder: &Path, manifest: &Manifest, found: &mut Verification) -> Result<()> {
    let Some(record) = RunRecord::read(folder) else {
        found.problem("run.json is missing: the inputs cannot be found".into());
        return Ok(());
    };
    for input in &manifest.inputs {
        let Some(base) = record.sources.get(&input.source) else {
            found.problem(format!("run.json does not name a source source=`{}`", input.source));
            continue;
        };
        let path = local::join_confined(Path::new(base), &input.shard)?;
        if !local::exists(&path)? {
            found.problem(format!("an input shard is gone source=`{}` shard=`{}`", input.source, input.shard));
            continue;
        }
        found.inputs += 1;
        let (hash, _) = checksum::hash_path(&path)?;
        if hash.to_string() != input.blake3 {
            found.problem(format!("an input shard has changed since the run source=`{}` shard=`{}`", input.source, input.shard));
        }
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::state(format!("lineage lacks a column column=`{name}`")))
}

fn edge_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("kept", DataType::UInt64, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("stage", DataType::UInt32, false),
        Field::new("kept_doc_id", DataType::Utf8, true),
        Field::new("main", DataType::Boolean, false),
    ]))
}

fn row_id(shard: usize, row: u64) -> Result<u64> {
    let id = ShardId::try_new(shard).and_then(|shard| RowId::try_new(shard, row));
    id.map(RowId::to_bits).ok_or_else(|| Error::state("lineage names a row above the limit"))
}

/// Each dropped row with each row that one of its drops names, on whatever branch.
fn edges(paths: Vec<PathBuf>, shards: BTreeMap<(String, String), usize>, stages: Arc<Stages>) -> RowStream {
    const COLUMNS: [&str; 8] = ["row", "stage", "kept_source", "kept_shard", "kept_row", "kept_doc_id", "kept_run_id", "detail"];
    let tables = paths.into_iter().enumerate().flat_map(|(ordinal, path)| {
        let batches: Box<dyn Iterator<Item = Result<(usize, RecordBatch)>> + Send> = match lineage::read(&path, &COLUMNS) {
            Err(error) => Box::new(std::iter::once(Err(error))),
            Ok(table) => Box::new(table.map(move |batch| Ok((ordinal, batch.context(Kind::State, || "cannot read lineage".into())?)))),
        };
        batches
    });
    let edges = tables.map(move |next| {
        let (ordinal, batch) = next?;
        let rows = column(&batch, "row")?.as_primitive::<UInt64Type>();
        let kept_rows = column(&batch, "kept_row")?.as_primitive::<UInt64Type>();
        let text = |name: &str| Ok::<_, Error>(column(&batch, name)?.as_string::<i32>());
        let (stage, source, shard) = (text("stage")?, text("kept_source")?, text("kept_shard")?);
        let (doc_id, run_id, detail) = (text("kept_doc_id")?, text("kept_run_id")?, text("detail")?);
        let mut edges = Named::default();
        for index in 0..batch.num_rows() {
            let mut edge = |stage: &str, place: &Place, doc_id: Option<Option<&str>>| {
                // A row of an earlier increment is in the lineage of that run.
                if place.run_id.is_some() {
                    return Ok(());
                }
                let name = (place.source.clone(), place.shard.clone());
                let of = shards.get(&name).ok_or_else(|| {
                    Error::state(format!("lineage names a shard that was not read source=`{}` shard=`{}`", place.source, place.shard))
                })?;
                edges.kept.push(row_id(*of, place.row)?);
                edges.rows.push(row_id(ordinal, rows.value(index))?);
                edges.stages.push(stages.place(stage)? as u32);
                edges.main.push(doc_id.is_some());
                edges.doc_ids.push(doc_id.flatten().map(str::to_owned));
                Ok::<_, Error>(())
            };
            if kept_rows.is_valid(index) {
                let place = Place {
                    source: source.value(index).into(),
                    shard: shard.value(index).into(),
                    row: kept_rows.value(index),
                    run_id: run_id.is_valid(index).then(|| run_id.value(index).into()),
                };
                edge(stage.value(index), &place, Some(doc_id.is_valid(index).then(|| doc_id.value(index))))?;
            }
            if stage.is_valid(index) && detail.is_valid(index) {
                for other in lineage::split(detail.value(index))?.1 {
                    if let Some(kept) = &other.kept {
                        edge(&other.stage, kept, None)?;
                    }
                }
            }
        }
        edges.batch()
    });
    rows_of(edge_schema(), edges)
}

/// Edges on their way to a batch.
#[derive(Default)]
struct Named {
    kept: Vec<u64>,
    rows: Vec<u64>,
    stages: Vec<u32>,
    doc_ids: Vec<Option<String>>,
    main: Vec<bool>,
}

impl Named {
    fn batch(self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.kept)),
            Arc::new(UInt64Array::from(self.rows)),
            Arc::new(UInt32Array::from(self.stages)),
            Arc::new(StringArray::from(self.doc_ids)),
            Arc::new(BooleanArray::from(self.main)),
        ];
        RecordBatch::try_new(edge_schema(), columns).context(Kind::Internal, || "cannot build edges".into())
    }
}

struct Edge {
    kept: u64,
    row: u64,
    stage: u32,
    kept_doc_id: Option<String>,
    /// Whether it stands in the row's columns, and not in its detail.
    main: bool,
}

struct Edges {
    stream: RowStream,
    batch: Option<RecordBatch>,
    place: usize,
}

impl Edges {
    async fn next(&mut self) -> Result<Option<Edge>> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.place < batch.num_rows()) {
                let index = self.place;
                self.place += 1;
                let ids = batch.column(3).as_string::<i32>();
                return Ok(Some(Edge {
                    kept: batch.column(0).as_primitive::<UInt64Type>().value(index),
                    row: batch.column(1).as_primitive::<UInt64Type>().value(index),
                    stage: batch.column(2).as_primitive::<UInt32Type>().value(index),
                    kept_doc_id: ids.is_valid(index).then(|| ids.value(index).to_owned()),
                    main: batch.column(4).as_boolean().value(index),
                }));
            }
            match next(&mut self.stream).await {
                None => return Ok(None),
                Some(batch) => (self.batch, self.place) = (Some(batch?), 0),
            }
        }
    }
}

struct Node {
    row: u64,
    is_kept: bool,
    /// Its drops on all branches, in the order of the lineage: the stage, whether it names a kept row, whether a chain may end there.
    drops: Vec<(usize, bool, bool)>,
    copies: u64,
    doc_id: Option<String>,
}

impl Node {
    /// What is wrong with naming this row as kept by stage `by`.
    fn problem(&self, stages: &Stages, by: usize) -> Option<&'static str> {
        if self.is_kept {
            return None;
        }
        match stages.followed(self.drops.iter().map(|(stage, names, _)| (*stage, *names)), by).and_then(|place| self.drops.get(place)) {
            None => Some("a representative was not kept by the stage that names it"),
            Some((_, names, ends)) => (!names && !ends).then_some("a chain ends in a duplicate that names no row"),
        }
    }
}

/// All lineage rows in the order of the corpus.
struct Nodes {
    paths: Vec<PathBuf>,
    stages: Arc<Stages>,
    shard: usize,
    table: Option<ParquetRecordBatchReader>,
    batch: Option<RecordBatch>,
    place: usize,
}

impl Nodes {
    fn next(&mut self) -> Result<Option<Node>> {
        const COLUMNS: [&str; 8] = ["row", "decision", "stage", "reason", "kept_row", "copies", "doc_id", "detail"];
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.place < batch.num_rows()) {
                let index = self.place;
                self.place += 1;
                let text = |name: &str| {
                    let column = column(batch, name)?.as_string::<i32>();
                    Ok::<_, Error>(column.is_valid(index).then(|| column.value(index)))
                };
                let mut drops = Vec::new();
                if let Some(stage) = text("stage")? {
                    let mut drop = |stage: &str, reason: &str, names: bool| {
                        let place = self.stages.place(stage)?;
                        drops.push((place, names, self.stages.ends(place, reason)));
                        Ok::<_, Error>(())
                    };
                    drop(stage, text("reason")?.unwrap_or_default(), column(batch, "kept_row")?.is_valid(index))?;
                    for other in text("detail")?.map(lineage::split).transpose()?.map(|(_, others)| others).unwrap_or_default() {
                        drop(&other.stage, &other.reason, other.kept.is_some())?;
                    }
                }
                return Ok(Some(Node {
                    row: row_id(self.shard - 1, column(batch, "row")?.as_primitive::<UInt64Type>().value(index))?,
                    is_kept: text("decision")? == Some("keep"),
                    drops,
                    copies: column(batch, "copies")?.as_primitive::<UInt64Type>().value(index),
                    doc_id: text("doc_id")?.map(str::to_owned),
                }));
            }
            if let Some(batch) = self.table.as_mut().and_then(Iterator::next) {
                (self.batch, self.place) = (Some(batch.context(Kind::State, || "cannot read lineage".into())?), 0);
                continue;
            }
            let Some(path) = self.paths.get(self.shard) else { return Ok(None) };
            self.table = Some(lineage::read(path, &COLUMNS)?);
            self.shard += 1;
        }
    }
}
