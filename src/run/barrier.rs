//! Runs a barrier over the narrow rows of all shards and writes its drops, one table a shard.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use serde_json::{Map, Value, json};

use super::context::RunContext;
use super::named::NamedReader;
use super::narrow::NarrowReader;
use crate::dataset::snapshot::Shard;
use crate::engine::{next, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, ShardId, TaskKey};
use crate::plan::task::BarrierKey;
use crate::stages::seam::{Frozen, Incremental, Narrow, ROW, ROW_ID, Table, drop_fields};
use crate::state::artefacts::{Artefacts, Receipt, ReceiptFile, TableWriter};

/// A barrier that is done.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    key: TaskKey,
    files: BTreeMap<String, ReceiptFile>,
    /// The stage's section of the report: rows in, rows dropped by reason, and what the stage itself counted.
    pub(super) report: Map<String, Value>,
}

impl Decided {
    fn new(key: TaskKey, receipt: Receipt) -> Self {
        let files = receipt.files.into_iter().map(|file| (file.name.clone(), file)).collect();
        Self { key, files, report: receipt.facts }
    }

    /// The names of the tables that the stage leaves in the dataset, and where they lie.
    pub(super) fn tables(&self, artefacts: &Artefacts) -> Vec<(String, PathBuf)> {
        let names = self.files.keys().filter_map(|file| Some((file, file.strip_prefix(KEPT)?.to_owned())));
        names.map(|(file, name)| (name, artefacts.file(&self.key, file))).collect()
    }

    /// Where what the stage fitted lies, if it leaves it to further increments.
    pub(super) fn frozen(&self, artefacts: &Artefacts) -> Option<PathBuf> {
        self.files.contains_key(FROZEN).then(|| artefacts.file(&self.key, FROZEN))
    }

    /// The table of one shard's drops; `None` if it has none.
    pub(super) fn file(&self, artefacts: &Artefacts, shard: &Shard) -> Option<PathBuf> {
        let name = table_name(shard.id.ordinal());
        self.files.contains_key(&name).then(|| artefacts.file(&self.key, &name))
    }
}

/// Shards are named by their place in the list that the task key hashes.
fn table_name(ordinal: usize) -> String {
    format!("{ordinal:08}.parquet")
}

/// The key of what stage `stage` makes of the rows of all shards, and how many rows reach it.
pub(super) fn key(cx: &RunContext, stage: usize) -> Result<(TaskKey, u64)> {
    let planned = &cx.plan.stages[stage];
    let mut key = BarrierKey::new(&cx.plan, stage);
    let mut rows = 0;
    for shard in cx.snapshot.shards.iter().filter(|shard| planned.reached_by[shard.source]) {
        let live = cx.live(shard, stage)?.reaching(stage);
        rows += live.count_set_bits() as u64;
        let mut artefacts = vec![cx.scans[shard.id.ordinal()]];
        artefacts.extend(planned.embedding.and_then(|embedding| cx.feature_key(shard, embedding)));
        key = key.shard(shard.id, &cx.plan.sources[shard.source].id, &artefacts, &live);
    }
    let compares = planned.config.incremental() == Incremental::Compares;
    if let Some(increment) = cx.increment.as_ref().filter(|_| compares) {
        key = key.state(|key| increment.key(key, planned.id.as_str()));
    }
    Ok((key.finish(), rows))
}

/// The `rows` narrow rows that reach stage `stage`.
pub(super) fn input(cx: &Arc<RunContext>, stage: usize, rows: u64) -> Result<Narrow> {
    let reader = NarrowReader::open(Arc::clone(cx), stage)?;
    let (schema, dimensions) = (reader.schema(), reader.dimensions());
    let named = Arc::new(NamedReader { cx: Arc::clone(cx), stage });
    let planned = &cx.plan.stages[stage];
    let compares = rows > 0 && planned.config.incremental() == Incremental::Compares;
    let increment = cx.increment.as_ref();
    let incumbents = increment.filter(|_| compares).and_then(|increment| increment.incumbents(planned.id.as_str(), &schema));
    // Sources that the plan no longer has are told apart all the same.
    let mut names: Vec<&str> = cx.plan.sources.iter().map(|source| source.id.as_str()).collect();
    let mut sources = Vec::new();
    for ordinal in 0..cx.known_shards() {
        let Some(shard) = increment.map(|increment| increment.shard(ordinal)).transpose()? else { break };
        let place = names.iter().position(|name| *name == shard.source).unwrap_or_else(|| {
            names.push(&shard.source);
            names.len() - 1
        });
        sources.push(place);
    }
    sources.extend(cx.snapshot.shards.iter().map(|shard| shard.source));
    let frozen = match increment.filter(|_| planned.config.incremental() == Incremental::Compares) {
        Some(increment) => increment.frozen(planned.id.as_str())?.map_or(Frozen::Wanted, Frozen::Given),
        None => Frozen::Never,
    };
    let source_names = names.into_iter().map(str::to_owned).collect();
    Ok(Narrow { rows, stream: rows_of(schema, reader), incumbents, frozen, dimensions, sources, source_names, named })
}

/// Barrier `stage` if its artefact is there.
pub(super) fn done(cx: &RunContext, stage: usize) -> Result<Option<Decided>> {
    let (key, _) = key(cx, stage)?;
    Ok(cx.artefacts.receipt(&key)?.map(|receipt| Decided::new(key, receipt)))
}

/// Runs barrier `stage`, unless its artefact is there; the flag says whether it was.
pub(super) async fn run(cx: &Arc<RunContext>, stage: usize) -> Result<(Decided, bool)> {
    let (key, rows) = key(cx, stage)?;
    if let Some(receipt) = cx.artefacts.receipt(&key)? {
        return Ok((Decided::new(key, receipt), true));
    }
    let planned = &cx.plan.stages[stage];
    if !cx.snapshot.shards.iter().any(|shard| planned.reached_by[shard.source]) {
        // In an increment a source may have nothing new: there are not even columns.
        cx.artefacts.begin(&key)?;
        let facts = [("rows".to_owned(), json!(0)), ("dropped".to_owned(), json!({}))];
        let receipt = Receipt::new(Vec::new(), facts.into_iter().collect());
        cx.artefacts.commit(&key, &receipt)?;
        return Ok((Decided::new(key, receipt), false));
    }
    let barrier = planned.config.barrier(&planned.id).ok_or_else(|| Error::internal("a stage that is no barrier"))?;
    let outcome =
        barrier.run(&cx.engine, input(cx, stage, rows)?).await.map_err(|error| error.context(format!("stage `{}` failed", planned.id)))?;
    let folder = cx.artefacts.begin(&key)?;
    let mut drops = outcome.drops;
    let shards = (cx.known_shards(), cx.snapshot.shards.len());
    let mut writer = DropWriter { folder, shards, open: None, files: Vec::new(), reasons: BTreeMap::new(), last: None };
    while let Some(batch) = next(&mut drops).await {
        cx.engine.stop().check()?;
        writer.write(&batch?)?;
    }
    let (mut files, reasons) = writer.finish()?;
    for table in outcome.tables {
        files.push(keep_table(cx, &key, table).await?);
    }
    if let Some(fitted) = outcome.frozen {
        let mut writer = TableWriter::create(&cx.artefacts.folder(&key), FROZEN, &fitted.schema())?;
        writer.write(&fitted)?;
        files.push(writer.finish()?);
    }
    let dropped: u64 = reasons.values().sum();
    let mut facts = outcome.report;
    facts.insert("rows".into(), json!(rows));
    facts.insert("dropped".into(), json!(reasons));
    if dropped > rows {
        return Err(Error::internal(format!("stage `{}` dropped more rows than reach it", planned.id)));
    }
    let receipt = Receipt::new(files, facts);
    cx.artefacts.commit(&key, &receipt)?;
    Ok((Decided::new(key, receipt), false))
}

/// Writes a table that the stage leaves in the dataset, into its artefact.
async fn keep_table(cx: &RunContext, key: &TaskKey, mut table: Table) -> Result<ReceiptFile> {
    let mut writer = TableWriter::create(&cx.artefacts.folder(key), &format!("{KEPT}{}.parquet", table.name), &table.rows.schema())?;
    while let Some(batch) = next(&mut table.rows).await {
        cx.engine.stop().check()?;
        writer.write(&of_run(batch?, cx.known_shards())?)?;
    }
    writer.finish()
}

/// A batch of a table with the rows that it names numbered by the run's shards alone, as the dataset is: the barrier counts those of the
/// state first.
fn of_run(batch: RecordBatch, known: usize) -> Result<RecordBatch> {
    if known == 0 {
        return Ok(batch);
    }
    let moved = |id: &u64| {
        let id = RowId::from_bits(*id);
        let shard = id.shard().ordinal().checked_sub(known).and_then(ShardId::try_new);
        shard.and_then(|shard| RowId::try_new(shard, id.row())).map(RowId::to_bits)
    };
    let mut columns = batch.columns().to_vec();
    for (field, column) in batch.schema_ref().fields().iter().zip(&mut columns).filter(|(field, _)| field.name().ends_with(ROW_ID)) {
        let ids = column.as_primitive_opt::<UInt64Type>().and_then(|ids| ids.values().iter().map(moved).collect::<Option<Vec<u64>>>());
        let ids = ids.ok_or_else(|| Error::internal(format!("a table names a row of the state column=`{}`", field.name())))?;
        *column = Arc::new(UInt64Array::from(ids));
    }
    RecordBatch::try_new(batch.schema(), columns).context(Kind::Internal, || "cannot number the rows of a table".into())
}

/// What the names of tables for the dataset start with: the others are shards' drops.
const KEPT: &str = "kept-";

/// What a stage fitted, for further increments.
const FROZEN: &str = "frozen.parquet";

/// Splits drops that are sorted by row id into one table a shard.
struct DropWriter {
    folder: PathBuf,
    /// Shards of the state, which the barrier counts first, and those of the run.
    shards: (usize, usize),
    open: Option<(usize, TableWriter)>,
    files: Vec<ReceiptFile>,
    reasons: BTreeMap<String, u64>,
    last: Option<u64>,
}

impl DropWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let ids = batch.column(0).as_primitive::<UInt64Type>().values();
        for reason in batch.column(1).as_string::<i32>().iter().flatten() {
            match self.reasons.get_mut(reason) {
                Some(count) => *count += 1,
                None => {
                    self.reasons.insert(reason.to_owned(), 1);
                }
            }
        }
        let mut from = 0;
        while from < ids.len() {
            let shard = RowId::from_bits(ids[from]).shard();
            let ordinal =
                shard.ordinal().checked_sub(self.shards.0).ok_or_else(|| Error::internal("a barrier drops a row of the state"))?;
            let until = from + ids[from..].partition_point(|id| RowId::from_bits(*id).shard() == shard);
            let slice = batch.slice(from, until - from);
            let mut columns = slice.columns().to_vec();
            if self.shards.0 > 0 {
                columns[2] = Arc::new(self.representatives(slice.column(2).as_primitive())?);
            }
            for id in &ids[from..until] {
                if self.last.is_some_and(|last| last >= *id) {
                    return Err(Error::internal("a barrier's drops are not in row order"));
                }
                self.last = Some(*id);
            }
            let writer = match &mut self.open {
                Some((of, writer)) if *of == ordinal => writer,
                _ => {
                    self.close()?;
                    let writer = TableWriter::create(&self.folder, &table_name(ordinal), &table_fields())?;
                    &mut self.open.insert((ordinal, writer)).1
                }
            };
            let rows = UInt64Array::from_iter_values(ids[from..until].iter().map(|id| RowId::from_bits(*id).row()));
            columns[0] = Arc::new(rows);
            let table = RecordBatch::try_new(table_fields(), columns).context(Kind::Internal, || "cannot build a shard's drops".into())?;
            writer.write(&table)?;
            from = until;
        }
        Ok(())
    }

    /// Rows that drops name, with the run's shards counted first.
    fn representatives(&self, kept: &UInt64Array) -> Result<UInt64Array> {
        let (known, new) = self.shards;
        let moved = kept.iter().map(|kept| {
            let Some(id) = kept.map(RowId::from_bits) else { return Some(None) };
            let ordinal = id.shard().ordinal();
            let ordinal = if ordinal < known { new + ordinal } else { ordinal - known };
            ShardId::try_new(ordinal).and_then(|shard| RowId::try_new(shard, id.row())).map(|id| Some(id.to_bits()))
        });
        moved
            .collect::<Option<Vec<Option<u64>>>>()
            .map(UInt64Array::from)
            .ok_or_else(|| Error::resources("the state and the run have too many shards together"))
    }

    fn close(&mut self) -> Result<()> {
        if let Some((_, writer)) = self.open.take() {
            self.files.push(writer.finish()?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<ReceiptFile>, BTreeMap<String, u64>)> {
        self.close()?;
        Ok((self.files, self.reasons))
    }
}

/// Drops as a shard's table holds them: the row's number inside the shard in place of its id.
fn table_fields() -> SchemaRef {
    let mut fields: Vec<Field> = drop_fields().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[0] = Field::new(ROW, DataType::UInt64, false);
    Arc::new(Schema::new(fields))
}
