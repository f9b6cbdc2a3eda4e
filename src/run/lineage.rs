//! Builds the lineage of a run: joins each dropped row with the rows that its drops name, by two sorts that spill, and checks the law
//! on the way: a representative is kept, or a stage below the one that names it dropped it.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array as _, AsArray as _, BooleanArray, RecordBatch, StringArray, StringBuilder, UInt32Array, UInt64Array, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};

use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::context::RunContext;
use super::increment::{self, Increment};
use super::repeats::Repeats;
use super::scan::{DOC_ID, TABLE};
use super::verdict::{Drop, Fates, Verdicts};
use crate::dataset::snapshot::Shard;
use crate::embed::guard::Status;
use crate::engine::sort::{SortKey, sort};
use crate::engine::{RowStream, next, rows, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::RowId;
use crate::state::artefacts::{read_table, unreadable};
use crate::state::lineage::{Entry, Fate, LineageWriter, Place, file_name};
use crate::storage::local::Written;

/// Rows in a batch of edges or nodes.
const BATCH_ROWS: usize = 4096;

/// What the lineage of one shard says in numbers.
#[derive(Debug, Clone)]
pub(super) struct ShardLineage {
    pub(super) file: Written,
    pub(super) rows: u64,
    pub(super) kept: u64,
    /// Rows dropped by (stage, reason).
    pub(super) dropped: BTreeMap<(usize, String), u64>,
}

/// Writes one lineage file a shard under `folder`.
pub(super) async fn write(cx: &Arc<RunContext>, folder: &Path, run_id: &str) -> Result<Vec<ShardLineage>> {
    let edges = sort(&cx.engine, edges(cx), &[SortKey::ascending("kept"), SortKey::ascending("row")])?;
    let resolved = resolve(Arc::clone(cx), edges);
    let notes = sort(&cx.engine, resolved, &[SortKey::ascending("row")])?;
    let repeats = Repeats::read(cx, |_| true)?;
    let mut notes = Notes { stream: notes, pending: VecDeque::new(), ended: false };
    let mut written = Vec::with_capacity(cx.snapshot.shards.len());
    for shard in &cx.snapshot.shards {
        cx.engine.stop().check()?;
        written.push(write_shard(cx, shard, folder, run_id, &mut notes, &repeats).await?);
    }
    if notes.peek().await?.is_some() {
        return Err(Error::internal("a dropped row names a row that is not in the corpus"));
    }
    Ok(written)
}

async fn write_shard(
    cx: &Arc<RunContext>,
    shard: &Shard,
    folder: &Path,
    run_id: &str,
    notes: &mut Notes,
    repeats: &Repeats,
) -> Result<ShardLineage> {
    let source = cx.plan.sources[shard.source].id.as_str();
    let mut writer = LineageWriter::create(&folder.join(file_name(shard.id.ordinal())), source, &shard.path, run_id)?;
    let verdicts = Verdicts::open(cx, shard)?;
    let expected = verdicts.kept().count_set_bits() as u64;
    let mut doc_ids = DocIds::open(cx, shard)?;
    let (mut kept, mut dropped) = (0, BTreeMap::new());
    for (row, verdict) in (0..).zip(verdicts) {
        let id = RowId::try_new(shard.id, row).ok_or_else(|| Error::internal("a row number above the limit"))?;
        let mut entry = Entry { row, doc_id: doc_ids.next()?, ..Entry::default() };
        while notes.peek().await?.is_some_and(|note| note.row == id.to_bits()) {
            if let Some(note) = notes.pending.pop_front() {
                entry.copies += note.copies.unwrap_or(0);
                entry.kept_doc_id = entry.kept_doc_id.or(note.kept_doc_id);
            }
        }
        let verdict = verdict?;
        match verdict.drops.first() {
            None => kept += 1,
            Some(main) => *dropped.entry((main.stage, main.reason.clone())).or_insert(0) += 1,
        }
        entry.drops = verdict.drops.into_iter().map(|drop| fate(cx, drop)).collect::<Result<_>>()?;
        if entry.drops.is_empty() {
            entry.repeat = repeats.of(id);
        }
        entry.embedding_status = verdict.embedding_status.map(Status::as_str);
        writer.push(entry)?;
    }
    let (file, rows) = writer.finish()?;
    // Conservation: every row once, and as many kept as the sink receives.
    if rows != shard.rows_used || kept != expected || kept + dropped.values().sum::<u64>() != rows {
        return Err(Error::internal(format!(
            "rows are lost or invented shard=`{}` rows=`{}` lineage=`{rows}` kept=`{kept}`",
            shard.path, shard.rows_used
        )));
    }
    Ok(ShardLineage { file, rows, kept, dropped })
}

/// A drop by its names.
fn fate(cx: &RunContext, drop: Drop) -> Result<Fate> {
    let place = |kept: RowId| {
        let row = kept.row();
        if let Some((increment, ordinal)) = incumbent(cx, kept) {
            let of = increment.shard(ordinal)?;
            return Ok(Place { source: of.source.clone(), shard: of.path.clone(), row, run_id: Some(of.run_id.clone()) });
        }
        let of = &cx.snapshot.shards[kept.shard().ordinal()];
        Ok(Place { source: cx.plan.sources[of.source].id.to_string(), shard: of.path.clone(), row, run_id: None })
    };
    let kept = drop.kept.map(place).transpose()?;
    Ok(Fate { stage: cx.plan.stages[drop.stage].id.to_string(), reason: drop.reason, kept, score: drop.score, detail: drop.detail })
}

/// The ordinal in the state of the shard of a row that an earlier increment kept: such shards are counted behind those of the run.
fn incumbent(cx: &RunContext, row: RowId) -> Option<(&Increment, usize)> {
    Some((cx.increment.as_deref()?, row.shard().ordinal().checked_sub(cx.snapshot.shards.len())?))
}

fn edge_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("kept", DataType::UInt64, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("stage", DataType::UInt32, false),
        Field::new("main", DataType::Boolean, false),
    ]))
}

/// Each dropped row with each row that one of its drops names.
fn edges(cx: &Arc<RunContext>) -> RowStream {
    let mut fates = Fates::open(Arc::clone(cx), 0);
    let batches = std::iter::from_fn(move || next_edges(&mut fates).transpose());
    rows_of(edge_schema(), batches)
}

fn next_edges(fates: &mut Fates) -> Result<Option<RecordBatch>> {
    let (mut kept, mut rows, mut stages, mut main) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for fate in fates {
        let (row, drops) = fate?;
        for (place, drop) in drops.iter().enumerate() {
            if let Some(of) = drop.kept {
                kept.push(of.to_bits());
                rows.push(row.to_bits());
                stages.push(drop.stage as u32);
                main.push(place == 0);
            }
        }
        if rows.len() >= BATCH_ROWS {
            break;
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(UInt64Array::from(kept)),
        Arc::new(UInt64Array::from(rows)),
        Arc::new(UInt32Array::from(stages)),
        Arc::new(BooleanArray::from(main)),
    ];
    RecordBatch::try_new(edge_schema(), columns).context(Kind::Internal, || "cannot build edges".into()).map(Some)
}

fn note_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("row", DataType::UInt64, false),
        Field::new("kept_doc_id", DataType::Utf8, true),
        Field::new("copies", DataType::UInt64, true),
    ]))
}

/// Walks edges that are sorted by the named row beside all rows in order, and gives notes: to the row whose main drop it is the named
/// row's document id, to the named row how many main drops name it.
fn resolve(cx: Arc<RunContext>, edges: RowStream) -> RowStream {
    struct State {
        cx: Arc<RunContext>,
        edges: RowStream,
        nodes: Nodes,
        /// Document ids of rows of the state, by stage.
        incumbents: BTreeMap<usize, increment::DocIds>,
        group: Option<(u64, u64)>,
        ended: bool,
    }
    let nodes = Nodes { fates: None, doc_ids: None, current: None };
    let state = State { nodes, incumbents: BTreeMap::new(), cx, edges, group: None, ended: false };
    let stream = futures::stream::unfold(state, |mut state| async move {
        if state.ended {
            return None;
        }
        let (mut row, mut doc, mut copies) = (UInt64Builder::new(), StringBuilder::new(), UInt64Builder::new());
        let mut note = |at: u64, kept_doc_id: Option<&str>, count: Option<u64>| {
            row.append_value(at);
            doc.append_option(kept_doc_id);
            copies.append_option(count);
        };
        let result = match next(&mut state.edges).await {
            None => {
                state.ended = true;
                if let Some((kept, count)) = state.group.take() {
                    note(kept, None, Some(count));
                }
                Ok(())
            }
            Some(Err(error)) => Err(error),
            Some(Ok(batch)) => (|| {
                let kept = batch.column(0).as_primitive::<UInt64Type>().values();
                let rows = batch.column(1).as_primitive::<UInt64Type>().values();
                let stages = batch.column(2).as_primitive::<UInt32Type>().values();
                let main = batch.column(3).as_boolean();
                for index in 0..batch.num_rows() {
                    if let Some((increment, ordinal)) = incumbent(&state.cx, RowId::from_bits(kept[index])) {
                        // Nothing is said of such a row: it is in another lineage. It was kept by the stage that names it.
                        if let Some((of, count)) = state.group.take() {
                            note(of, None, Some(count));
                        }
                        let by = stages[index] as usize;
                        if state.incumbents.get(&by).is_none_or(|ids| !ids.reaches(ordinal)) {
                            let ids = increment.doc_ids(state.cx.plan.stages[by].id.as_str(), ordinal)?;
                            state.incumbents.insert(by, ids);
                        }
                        let row = increment::row_id(ordinal, RowId::from_bits(kept[index]).row());
                        let row = row.ok_or_else(|| Error::state("the state names a row above the limit"))?;
                        let ids = state.incumbents.get_mut(&by).map(|ids| ids.seek(row));
                        if main.value(index) {
                            note(rows[index], ids.transpose()?.flatten().as_deref(), None);
                        }
                        continue;
                    }
                    let one = u64::from(main.value(index));
                    state.group = match state.group {
                        Some((of, count)) if of == kept[index] => Some((of, count + one)),
                        other => {
                            if let Some((of, count)) = other {
                                note(of, None, Some(count));
                            }
                            Some((kept[index], one))
                        }
                    };
                    let (fate, doc_id) = state.nodes.seek(&state.cx, kept[index])?;
                    let by = stages[index] as usize;
                    if !fate.is_empty() && !fate.iter().any(|stage| state.cx.plan.is_below(*stage, by)) {
                        let stage = &state.cx.plan.stages[by].id;
                        return Err(Error::internal(format!("a dropped row names a row that was not kept stage=`{stage}`")));
                    }
                    if main.value(index) {
                        note(rows[index], doc_id.as_deref(), None);
                    }
                }
                Ok(())
            })(),
        };
        let batch = result.and_then(|()| {
            RecordBatch::try_new(note_schema(), vec![Arc::new(row.finish()), Arc::new(doc.finish()), Arc::new(copies.finish())])
                .context(Kind::Internal, || "cannot build notes".into())
        });
        state.ended |= batch.is_err();
        Some((batch, state))
    });
    rows(note_schema(), stream)
}

/// Which stages dropped a row (none: it is kept) and its document id, for rows that are asked for in rising order.
struct Nodes {
    fates: Option<(usize, Fates)>,
    doc_ids: Option<(usize, DocIds)>,
    current: Option<(u64, Vec<usize>, Option<String>)>,
}

impl Nodes {
    fn seek(&mut self, cx: &Arc<RunContext>, row: u64) -> Result<(Vec<usize>, Option<String>)> {
        let wanted = RowId::from_bits(row).shard().ordinal();
        // Shards between two representatives are not read.
        if self.fates.as_ref().is_none_or(|(at, _)| *at < wanted) {
            let shard =
                cx.snapshot.shards.get(wanted).ok_or_else(|| Error::internal("a dropped row names a shard that is not in the corpus"))?;
            self.fates = Some((wanted, Fates::open(Arc::clone(cx), wanted)));
            self.doc_ids = Some((wanted, DocIds::open(cx, shard)?));
            self.current = None;
        }
        loop {
            // Edges that share a representative ask for the same row again.
            if let Some((at, fate, doc_id)) = &self.current {
                if *at == row {
                    return Ok((fate.clone(), doc_id.clone()));
                }
                if *at > row {
                    break;
                }
            }
            let (Some((_, fates)), Some((_, doc_ids))) = (&mut self.fates, &mut self.doc_ids) else { break };
            let Some(next) = fates.next() else { break };
            let (id, drops) = next?;
            if id.shard().ordinal() != wanted {
                break;
            }
            self.current = Some((id.to_bits(), drops.iter().map(|drop| drop.stage).collect(), doc_ids.next()?));
        }
        Err(Error::internal("a dropped row names a row that is not in the corpus"))
    }
}

/// The document ids of a shard, read forward; none where its source has no ids.
struct DocIds {
    path: std::path::PathBuf,
    table: Option<ParquetRecordBatchReader>,
    batch: Option<StringArray>,
    place: usize,
}

impl DocIds {
    fn open(cx: &RunContext, shard: &Shard) -> Result<Self> {
        let path = cx.artefacts.file(&cx.scans[shard.id.ordinal()], TABLE);
        let has_id = cx.plan.sources[shard.source].roles.id.is_some();
        let table = if has_id { Some(read_table(&path, Some(&[DOC_ID]), BATCH_ROWS)?) } else { None };
        Ok(Self { path, table, batch: None, place: 0 })
    }

    fn next(&mut self) -> Result<Option<String>> {
        let Some(table) = &mut self.table else { return Ok(None) };
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.place < batch.len()) {
                self.place += 1;
                return Ok(batch.is_valid(self.place - 1).then(|| batch.value(self.place - 1).to_owned()));
            }
            let batch = table.next().ok_or_else(|| Error::state("an artefact has fewer rows than its shard"))?;
            let batch = batch.map_err(|error| unreadable(&self.path, error))?;
            (self.batch, self.place) = (Some(batch.column(0).as_string::<i32>().clone()), 0);
        }
    }
}

/// Notes sorted by row, read forward.
struct Notes {
    stream: RowStream,
    pending: VecDeque<Note>,
    ended: bool,
}

struct Note {
    row: u64,
    kept_doc_id: Option<String>,
    copies: Option<u64>,
}

impl Notes {
    async fn peek(&mut self) -> Result<Option<&Note>> {
        while self.pending.is_empty() && !self.ended {
            match next(&mut self.stream).await {
                None => self.ended = true,
                Some(batch) => {
                    let batch = batch?;
                    let rows = batch.column(0).as_primitive::<UInt64Type>();
                    let docs = batch.column(1).as_string::<i32>();
                    let copies = batch.column(2).as_primitive::<UInt64Type>();
                    self.pending.extend((0..batch.num_rows()).map(|index| Note {
                        row: rows.value(index),
                        kept_doc_id: docs.is_valid(index).then(|| docs.value(index).to_owned()),
                        copies: copies.is_valid(index).then(|| copies.value(index)),
                    }));
                }
            }
        }
        Ok(self.pending.front())
    }
}
