//! Re-derives trust in a dataset from nothing: every file against its hash, every input row exactly once in the lineage, sums
//! against files, every representative against the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::lineage;
use super::manifest::{Manifest, RunRecord};
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

/// The plan's stages as the law needs them.
struct Stages {
    places: BTreeMap<String, usize>,
    /// For each stage, the stages that stand directly above it.
    above: Vec<Vec<usize>>,
}

impl Stages {
    fn read(manifest: &Manifest) -> Result<Self> {
        let damaged = || Error::state("the manifest's plan cannot be read");
        let stages = manifest.plan.get("stages").and_then(|stages| stages.as_array()).ok_or_else(damaged)?;
        let id = |stage: &serde_json::Value| stage.get("id").and_then(|id| id.as_str()).map(str::to_owned);
        let ids = stages.iter().map(id).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let places: BTreeMap<String, usize> = ids.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
        let inputs = |stage: &serde_json::Value| stage.get("inputs").and_then(|inputs| inputs.as_array().cloned()).unwrap_or_default();
        let above =
            stages.iter().map(|stage| inputs(stage).iter().filter_map(|input| places.get(input.as_str()?).copied()).collect()).collect();
        Ok(Self { places, above })
    }

    fn is_below(&self, below: usize, above: usize) -> bool {
        self.above.get(below).is_some_and(|inputs| inputs.iter().any(|input| *input == above || self.is_below(*input, above)))
    }
}

/// Verifies the dataset in `folder`; with `deep`, hashes the input shards again as well.
pub async fn verify(engine: &Arc<Engine>, folder: &Path, deep: bool) -> Result<Verification> {
    let manifest = Manifest::read(folder)?;
    let stages = Stages::read(&manifest)?;
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
                        input.shard,
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
                    "drop" if stage.is_valid(index) && stages.places.contains_key(stage.value(index)) => {
                        *dropped.entry((stage.value(index).to_owned(), reason.value(index).to_owned())).or_insert(0) += 1;
                    }
                    "reject" => rejected += 1,
                    other => {
                        found.problem(format!(
                            "a decision has no meaning shard=`{}` row=`{}` decision=`{other}`",
                            input.shard,
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
                input.shard, input.rows, input.kept
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

/// Each representative is kept, or the stage that dropped it stands below the one that named it; `copies` and
/// `kept_doc_id` agree with the rows they speak of.
async fn check_representatives(
    engine: &Arc<Engine>,
    folder: &Path,
    manifest: &Manifest,
    stages: &Stages,
    found: &mut Verification,
) -> Result<()> {
    let shards: BTreeMap<(String, String), usize> =
        manifest.inputs.iter().enumerate().map(|(ordinal, input)| ((input.source.clone(), input.shard.clone()), ordinal)).collect();
    let paths = manifest.inputs.iter().map(|input| local::join_confined(folder, &input.lineage)).collect::<Result<Vec<_>>>()?;
    let places: Arc<BTreeMap<String, usize>> = Arc::new(stages.places.clone());
    let edges = sort(engine, edges(paths.clone(), shards, Arc::clone(&places)), &[SortKey::ascending("kept"), SortKey::ascending("row")])?;
    let mut nodes = Nodes { paths, places, shard: 0, table: None, batch: None, place: 0 };
    let mut edges = Edges { stream: edges, batch: None, place: 0 };
    let mut edge = edges.next().await?;
    while let Some(node) = nodes.next()? {
        let mut copies = 0;
        while let Some(current) = edge.as_ref().filter(|edge| edge.kept <= node.row) {
            if current.kept < node.row {
                break;
            }
            copies += 1;
            found.representatives += 1;
            if !node.stages.is_empty() && !node.stages.iter().any(|stage| stages.is_below(*stage, current.stage as usize)) {
                found.problem(format!(
                    "a representative was not kept by the stage that names it {} names {}",
                    show(manifest, current.row),
                    show(manifest, node.row)
                ));
            }
            if current.kept_doc_id != node.doc_id {
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
    let shard = manifest.inputs.get(id.shard().ordinal()).map_or("?", |input| input.shard.as_str());
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
    ]))
}

fn row_id(shard: usize, row: u64) -> Result<u64> {
    let id = ShardId::try_new(shard).and_then(|shard| RowId::try_new(shard, row));
    id.map(RowId::to_bits).ok_or_else(|| Error::state("lineage names a row above the limit"))
}

/// Each dropped row with the row that it names.
fn edges(paths: Vec<PathBuf>, shards: BTreeMap<(String, String), usize>, places: Arc<BTreeMap<String, usize>>) -> RowStream {
    const COLUMNS: [&str; 6] = ["row", "stage", "kept_source", "kept_shard", "kept_row", "kept_doc_id"];
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
        let (stage, source, shard, doc_id) = (text("stage")?, text("kept_source")?, text("kept_shard")?, text("kept_doc_id")?);
        let (mut kept, mut from, mut by, mut ids) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for index in (0..batch.num_rows()).filter(|index| kept_rows.is_valid(*index)) {
            let name = (source.value(index).to_owned(), shard.value(index).to_owned());
            let of =
                shards.get(&name).ok_or_else(|| Error::state(format!("lineage names a shard that was not read shard=`{}`", name.1)))?;
            kept.push(row_id(*of, kept_rows.value(index))?);
            from.push(row_id(ordinal, rows.value(index))?);
            by.push(*places.get(stage.value(index)).ok_or_else(|| Error::state("lineage names an unknown stage"))? as u32);
            ids.push(doc_id.is_valid(index).then(|| doc_id.value(index)));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(kept)),
            Arc::new(UInt64Array::from(from)),
            Arc::new(UInt32Array::from(by)),
            Arc::new(arrow::array::StringArray::from(ids)),
        ];
        RecordBatch::try_new(edge_schema(), columns).context(Kind::Internal, || "cannot build edges".into())
    });
    rows_of(edge_schema(), edges)
}

struct Edge {
    kept: u64,
    row: u64,
    stage: u32,
    kept_doc_id: Option<String>,
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
    /// The stages that dropped it, on whatever path; none if it is kept.
    stages: Vec<usize>,
    copies: u64,
    doc_id: Option<String>,
}

/// All lineage rows in the order of the corpus.
struct Nodes {
    paths: Vec<PathBuf>,
    places: Arc<BTreeMap<String, usize>>,
    shard: usize,
    table: Option<ParquetRecordBatchReader>,
    batch: Option<RecordBatch>,
    place: usize,
}

/// The stages of other paths that a row's detail names.
fn also(detail: &str) -> Vec<String> {
    let detail: serde_json::Value = serde_json::from_str(detail).unwrap_or_default();
    let also = detail.get("also").and_then(|also| also.as_array()).cloned().unwrap_or_default();
    also.iter().filter_map(|drop| drop.get("stage")?.as_str().map(str::to_owned)).collect()
}

impl Nodes {
    fn place_of(&self, stage: &str) -> Result<usize> {
        self.places.get(stage).copied().ok_or_else(|| Error::state("lineage names an unknown stage"))
    }

    fn next(&mut self) -> Result<Option<Node>> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.place < batch.num_rows()) {
                let index = self.place;
                self.place += 1;
                let stage = column(batch, "stage")?.as_string::<i32>();
                let ids = column(batch, "doc_id")?.as_string::<i32>();
                let details = column(batch, "detail")?.as_string::<i32>();
                let mut dropped_by = Vec::new();
                if stage.is_valid(index) {
                    dropped_by.push(self.place_of(stage.value(index))?);
                    if details.is_valid(index) {
                        for other in also(details.value(index)) {
                            dropped_by.push(self.place_of(&other)?);
                        }
                    }
                }
                return Ok(Some(Node {
                    row: row_id(self.shard - 1, column(batch, "row")?.as_primitive::<UInt64Type>().value(index))?,
                    stages: dropped_by,
                    copies: column(batch, "copies")?.as_primitive::<UInt64Type>().value(index),
                    doc_id: ids.is_valid(index).then(|| ids.value(index).to_owned()),
                }));
            }
            if let Some(batch) = self.table.as_mut().and_then(Iterator::next) {
                (self.batch, self.place) = (Some(batch.context(Kind::State, || "cannot read lineage".into())?), 0);
                continue;
            }
            let Some(path) = self.paths.get(self.shard) else { return Ok(None) };
            self.table = Some(lineage::read(path, &["row", "stage", "copies", "doc_id", "detail"])?);
            self.shard += 1;
        }
    }
}
