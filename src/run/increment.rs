//! An increment: a run that goes on from a state. Shards that the state knows are left out, rows are compared with those that earlier
//! increments kept, and what the stages keep of the new shards becomes the next version.
//!
//! A barrier sees the rows of earlier increments before its own: shards of the state have the ordinals from 0, the run's follow. In all
//! that is left on disk the run's shards have their places in the snapshot, and those of the state the places after them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray as _, BooleanArray, RecordBatch, UInt64Array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat, concat_batches, filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};

use super::context::RunContext;
use super::fitted;
use super::named::read_columns;
use super::narrow::NarrowReader;
use super::runner::TakeOver;
use super::scan::{DOC_ID, TABLE};
use super::task::{Descriptor, run_tasks};
use crate::dataset::schema::is_text;
use crate::dataset::snapshot::{Known, Shard, Snapshot};
use crate::engine::rows_of;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{ContentHash, Fingerprint, RowId, RunId, ShardId};
use crate::plan::compile::{Input, Plan};
use crate::stages::StageConfig;
use crate::stages::seam::{Incremental, Incumbents, Shape, TakeRows};
use crate::state::artefacts::{read_table, unreadable};
use crate::state::kept::{Kept, remembered, row_ids};
use crate::state::segments::{self, CHECK, KnownShard, SegmentWriter};
use crate::state::store::{Content, Dataset, FORMAT, Maker, Segment, StageIdentity, Store, Version, commit_id};
use crate::storage::local::{self, Identity};
use crate::storage::lock::Lock;

/// Rows of shards that are worth a file of their own.
const GROUP_ROWS: u64 = 1 << 18;

/// The state that a run goes on from.
pub(super) struct Increment {
    store: Store,
    base: Option<(Version, ContentHash)>,
    known: Vec<KnownShard>,
    /// The places of the shards of each source and path, and all content.
    names: BTreeMap<(String, String), Vec<usize>>,
    contents: BTreeSet<(String, ContentHash)>,
    kept: Kept,
    stages: Vec<StageIdentity>,
    /// Whether all shards are decided anew, and nothing of the versions before is taken over.
    rebuild: bool,
    /// Whether that brings rows back that were forgotten.
    forgotten: bool,
    /// The number of the newest version; 0 if there is none.
    newest: u64,
    /// The dataset that an earlier run left without its name, and that has it now.
    finished: Option<PathBuf>,
    /// Files that were hashed in this run: once is enough.
    checked: Mutex<BTreeSet<String>>,
    _lock: Option<Lock>,
}

impl Increment {
    /// Opens the state in `folder`, finishes what an earlier run left undone, and refuses one that this plan cannot go on from. A reader
    /// (`plan`) takes no lock and finishes nothing.
    pub(super) fn open(folder: &Path, plan: &Plan, writer: bool, take_over: TakeOver) -> Result<Self> {
        let rebuild = take_over == TakeOver::Nothing;
        let store = Store::new(folder);
        let lock = if writer { Some(store.hold()?) } else { None };
        let (base, newest) = match store.head() {
            Ok(base) => {
                let newest = base.as_ref().map_or(0, |(version, _)| version.version);
                (base, newest)
            }
            // What cannot be read is not gone on from, only counted.
            Err(error) if rebuild && error.kind() == Kind::State => (None, store.versions()?.last().copied().unwrap_or(0)),
            Err(error) => return Err(error),
        };
        let forgotten = rebuild && store.has_forgotten()?;
        let stages = identities(plan);
        let (mut known, mut kept, mut finished) = (Vec::new(), Kept::default(), None);
        if let Some((version, _)) = &base
            && writer
            && store.finish(version)?
        {
            finished = Some(version.dataset.folder.clone());
        }
        if let Some((version, _)) = base.as_ref().filter(|_| !rebuild) {
            store.check_lengths(version)?;
            for segment in version.segments.iter().filter(|segment| segment.content == Content::Shards) {
                known.extend(segments::read_shards(&store, segment)?);
            }
            if known.len() as u64 != version.shards {
                return Err(Error::state(format!("the state lists another number of shards version=`{}`", version.version)));
            }
            go_on_from(version, &stages, false)?;
            kept = Kept::open(&store, version)?;
        }
        let mut names: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (place, shard) in known.iter().enumerate() {
            names.entry((shard.source.clone(), shard.path.clone())).or_default().push(place);
        }
        let contents = known.iter().map(|shard| (shard.source.clone(), shard.hash)).collect();
        Ok(Self {
            store,
            base,
            known,
            names,
            contents,
            kept,
            stages,
            rebuild,
            forgotten,
            newest,
            finished,
            checked: Mutex::default(),
            _lock: lock,
        })
    }

    /// Adds the models whose vectors the stages compare, by the stage that embeds, and the columns that they read; and refuses a state
    /// that others made.
    pub(super) fn identified(
        mut self,
        plan: &Plan,
        models: &BTreeMap<usize, String>,
        snapshot: &Snapshot,
        schemas: &[SchemaRef],
    ) -> Result<Self> {
        for identity in &mut self.stages {
            let stage = plan.stages.iter().find(|stage| stage.id.as_str() == identity.id);
            if let Some(stage) = stage {
                let embedding = stage.embedding.map(|of| &plan.stages[of]);
                for (place, source) in plan.sources.iter().enumerate().filter(|(place, _)| stage.reached_by[*place]) {
                    let has_shards = snapshot.shards.iter().any(|shard| shard.source == place);
                    let needed = [Some(stage), embedding].into_iter().flatten().flat_map(|stage| stage.config.needs(&source.roles).columns);
                    for name in needed.filter(|_| has_shards) {
                        let column = source.roles.column(&name);
                        let Ok(field) = schemas[place].field_with_name(column) else { continue };
                        let kind = if is_text(field.data_type()) { "text".to_owned() } else { field.data_type().to_string() };
                        identity.reads.insert(format!("{}.{name}", source.id), format!("{column}: {kind}"));
                    }
                }
            }
            let embedding = stage.and_then(|stage| stage.embedding);
            identity.vectors = embedding.map(|of| {
                let made = &plan.stages[of];
                serde_json::json!({"config": made.config.canonical(), "kind": made.config.kind(), "model": models.get(&of), "version": made.config.version()})
            });
        }
        if let Some((version, _)) = self.base.as_ref().filter(|_| !self.rebuild) {
            go_on_from(version, &self.stages, true)?;
        }
        Ok(self)
    }

    /// The number of the version that the run will make.
    pub(super) fn version(&self) -> u64 {
        self.newest + 1
    }

    /// Whether the version that follows names this run, whichever process made it; where it cannot be told, it may.
    pub(super) fn is_made_by(&self, run_id: &RunId) -> bool {
        let names = || Ok::<_, Error>(self.store.has(self.version())? && self.store.read(self.version())?.0.run_id == run_id.to_string());
        names().unwrap_or(true)
    }

    /// What the plan of the run says of the state.
    pub(super) fn canonical(&self) -> serde_json::Value {
        // The run's id holds its plan, its inputs and its own base: no two histories have the same.
        let base = self.base.as_ref().map(|(version, _)| serde_json::json!({"run_id": version.run_id, "version": version.version}));
        let mut canonical = serde_json::json!({"base": base});
        if let Some(canonical) = canonical.as_object_mut().filter(|_| self.rebuild) {
            canonical.insert("rebuild".into(), self.version().into());
        }
        canonical
    }

    /// Shards of the state.
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    /// The shard of the state with this ordinal.
    pub(super) fn shard(&self, ordinal: usize) -> Result<&KnownShard> {
        self.known.get(ordinal).ok_or_else(|| Error::internal("a row of a shard that the state does not know"))
    }

    /// What a stage fitted in an earlier increment.
    pub(super) fn fitted(&self, stage: &str) -> Option<&Segment> {
        self.kept.fitted(stage)
    }

    /// The same, as a barrier gave it.
    pub(super) fn frozen(&self, stage: &str) -> Result<Option<RecordBatch>> {
        let Some(segment) = self.fitted(stage) else { return Ok(None) };
        let batches = segments::read(&self.checked(segment)?, None)?.collect::<Result<Vec<RecordBatch>>>()?;
        let Some(first) = batches.first() else { return Ok(None) };
        concat_batches(&first.schema(), &batches).map(Some).context(Kind::State, || "cannot read what a stage fitted".into())
    }

    /// The path of a segment whose bytes are those of its hash.
    pub(super) fn checked(&self, segment: &Segment) -> Result<PathBuf> {
        let known = |checked: &BTreeSet<String>| checked.contains(&segment.blake3);
        if known(&self.checked.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(self.store.segment_path(segment));
        }
        let path = segments::checked(&self.store, segment)?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(segment.blake3.clone());
        Ok(path)
    }

    /// Adds what a stage compares with to a key.
    pub(super) fn key(&self, mut key: Fingerprint, stage: &str) -> Fingerprint {
        for stored in self.kept.stage(stage) {
            key = key.number(stored.first).part(&stored.rows.blake3);
        }
        for row in self.kept.forgotten(stage) {
            key = key.number(*row);
        }
        if let Some(segment) = self.fitted(stage) {
            key = key.part(&segment.blake3);
        }
        key.number(self.known.len() as u64)
    }

    /// The rows that a stage kept in earlier increments, as narrow rows of `schema`; none where there are none.
    pub(super) fn incumbents(self: &Arc<Self>, stage: &str, schema: &SchemaRef) -> Option<Incumbents> {
        let files: Vec<Segment> = self.kept.stage(stage).iter().map(|stored| stored.rows.clone()).collect();
        let rows = self.kept.rows(stage);
        if rows == 0 || schema.fields().len() == 1 {
            return None;
        }
        let (state, of) = (Arc::clone(self), Arc::clone(schema));
        let stage = stage.to_owned();
        let batches = files.into_iter().flat_map(move |segment| -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
            match state.narrow(&stage, &segment, &of) {
                Ok(batches) => Box::new(batches),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        Some(Incumbents { rows, stream: rows_of(Arc::clone(schema), batches) })
    }

    fn narrow(
        self: &Arc<Self>,
        stage: &str,
        segment: &Segment,
        schema: &SchemaRef,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
        let path = self.checked(segment)?;
        let mut columns = vec![segments::ROW_ID];
        columns.extend(schema.fields().iter().skip(1).map(|field| field.name().as_str()));
        let batches = segments::read(&path, Some(&columns))?;
        let (schema, stage, state) = (Arc::clone(schema), stage.to_owned(), Arc::clone(self));
        Ok(batches.map(move |batch| {
            let batch = remembered(batch?, state.kept.forgotten(&stage))?;
            let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(row_ids(&batch)?.to_vec()))];
            // A file's columns come in its own order.
            for field in schema.fields().iter().skip(1) {
                let column = batch.column_by_name(field.name()).filter(|column| column.data_type() == field.data_type());
                columns.push(Arc::clone(column.ok_or_else(|| {
                    Error::state(format!(
                        "the state holds a column that a stage compares in another type stage=`{stage}` column=`{}`",
                        field.name()
                    ))
                    .hint("write the new shards with the type of the old ones, or start a new state")
                })?));
            }
            RecordBatch::try_new(Arc::clone(&schema), columns).context(Kind::Internal, || "cannot build rows of the state".into())
        }))
    }

    /// Gives what a stage compares rows of the state by; `wanted` rises.
    pub(super) fn read_named(&self, stage: &str, wanted: &[u64], take: &TakeRows<'_>) -> Result<()> {
        use rayon::prelude::*;
        let file_of = |row: &u64| {
            let shard = RowId::from_bits(*row).shard().ordinal() as u64;
            let lacking = || Error::state(format!("the state lacks the rows of a shard stage=`{stage}` shard=`{shard}`"));
            self.kept.of_shard(stage, shard).ok_or_else(lacking)
        };
        let mut files = Vec::new();
        let mut left = wanted;
        while let Some(row) = left.first() {
            let file = file_of(row)?;
            let here = left.partition_point(|row| RowId::from_bits(*row).shard().ordinal() as u64 <= file.last);
            let (wanted, rest) = left.split_at(here);
            files.push((file, wanted));
            left = rest;
        }
        files.par_iter().try_for_each(|(file, wanted)| {
            let named = file.named.as_ref().ok_or_else(|| Error::state(format!("the state lacks a file stage=`{stage}`")))?;
            let (mut places, mut checks) = (Vec::with_capacity(wanted.len()), Vec::with_capacity(wanted.len()));
            let (mut place, mut next) = (0, wanted.iter().peekable());
            for batch in segments::read(&self.checked(&file.rows)?, Some(&[segments::ROW_ID, CHECK]))? {
                let batch = batch?;
                let check = batch.column_by_name(CHECK).and_then(|column| column.as_primitive_opt::<UInt64Type>());
                let check = check.ok_or_else(|| Error::state("the state's rows have no checksums"))?;
                for (row, check) in row_ids(&batch)?.iter().zip(check.values()) {
                    if next.next_if_eq(&row).is_some() {
                        places.push(place);
                        checks.push(*check);
                    }
                    place += 1;
                }
            }
            if places.len() != wanted.len() {
                return Err(Error::state(format!("the state lacks rows that it kept stage=`{stage}`")));
            }
            segments::read_named(&self.store.segment_path(named), &places, &checks, |range, batch| take(&wanted[range], batch))
        })
    }

    /// The document ids of rows of the state that a stage kept, asked for in rising order: those of a shard, and of others in its file.
    pub(super) fn doc_ids(&self, stage: &str, shard: usize) -> Result<DocIds> {
        let stored = self.kept.of_shard(stage, shard as u64);
        let stored = stored.ok_or_else(|| Error::internal("a row of the state that its stage did not keep"))?;
        let batches = segments::read(&self.checked(&stored.rows)?, Some(&[segments::ROW_ID, segments::DOC_ID]))?;
        Ok(DocIds { last_shard: stored.last, batches: Box::new(batches), batch: None, place: 0 })
    }

    /// Writes what the stages keep of the run's shards.
    pub(super) async fn write(self: &Arc<Self>, cx: &Arc<RunContext>, run_id: &RunId) -> Result<Vec<Segment>> {
        let version = self.version();
        let shards = cx.snapshot.shards.iter().map(|shard| KnownShard {
            source: cx.plan.sources[shard.source].id.to_string(),
            path: shard.path.clone(),
            hash: shard.hash,
            bytes: shard.bytes,
            rows: shard.rows,
            modified_ns: shard.identity.modified_ns as i64,
            inode: shard.identity.inode,
            run_id: run_id.to_string(),
        });
        let mut written = vec![segments::write_shards(&self.store, &shards.collect::<Vec<_>>(), version)?];
        let groups = Arc::new(groups(&cx.snapshot.shards));
        for (index, planned) in cx.plan.stages.iter().enumerate().filter(|(_, planned)| self.fitted(planned.id.as_str()).is_none()) {
            let made = match planned.config.shape() {
                Shape::Fitted => fitted::made_map(cx, index)?,
                _ => cx.decisions.get(&index).and_then(|decided| decided.frozen(&cx.artefacts)),
            };
            if let Some(path) = made {
                let mut file = self.store.create()?;
                local::append(&path, &mut file)?;
                written.push(self.store.adopt(file, Content::Fitted { stage: planned.id.to_string() }, 0, version)?);
            }
        }
        let tasks = groups.iter().enumerate().map(|(ordinal, group)| Descriptor {
            ordinal,
            key: Fingerprint::new("trommel state").number(ordinal as u64).finish().into(),
            bytes: cx.snapshot.shards[group.clone()].iter().map(|shard| shard.bytes).sum(),
        });
        let tasks: Vec<Descriptor> = tasks.collect();
        let phase = cx.telemetry.phase("state", tasks.len() as u64, tasks.iter().map(|task| task.bytes).sum());
        let made: Arc<Mutex<BTreeMap<usize, Vec<Segment>>>> = Arc::default();
        let mut narrow = BTreeMap::new();
        for (index, planned) in cx.plan.stages.iter().enumerate() {
            if planned.config.incremental() == Incremental::Compares {
                let reader = NarrowReader::open(Arc::clone(cx), index)?;
                narrow.insert(index, (reader.schema(), reader.dimensions()));
            }
        }
        let (state, context, into) = (Arc::clone(self), Arc::clone(cx), Arc::clone(&made));
        run_tasks(cx, "State", tasks, cx.engine.threads(), &phase, move |descriptor| {
            let segments = state.write_group(&context, &narrow, &context.snapshot.shards[groups[descriptor.ordinal].clone()])?;
            into.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor.ordinal, segments);
            Ok(())
        })
        .await?;
        phase.finish();
        written.extend(std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner)).into_values().flatten());
        Ok(written)
    }

    /// Writes what each stage keeps of shards that follow one another.
    fn write_group(&self, cx: &Arc<RunContext>, narrow: &BTreeMap<usize, (SchemaRef, usize)>, shards: &[Shard]) -> Result<Vec<Segment>> {
        let mut writers: BTreeMap<usize, GroupWriter<'_>> = BTreeMap::new();
        for shard in shards {
            let live = cx.live_at_end(shard)?;
            for (index, narrow) in narrow {
                let (stage, planned) = (*index, &cx.plan.stages[*index]);
                let kept = live.on(Input::Stage(stage));
                // Without a single vector there is nothing to compare.
                if kept.count_set_bits() == 0 || planned.embedding.is_some() && narrow.1 == 0 {
                    continue;
                }
                let of = KeptRows { cx, stage, shard, ordinal: self.known.len() + shard.id.ordinal(), rows: &kept };
                let writer = writers.entry(stage).or_default();
                let checks = if planned.config.named().is_empty() { None } else { Some(self.write_named(&of, &mut writer.named)?) };
                self.write_rows(&of, narrow, checks.as_deref(), &mut writer.rows)?;
            }
        }
        let ordinal = |shard: Option<&Shard>| (self.known.len() + shard.map_or(0, |shard| shard.id.ordinal())) as u64;
        let (first, last) = (ordinal(shards.first()), ordinal(shards.last()));
        let mut written = Vec::new();
        for (index, writer) in writers {
            let stage = cx.plan.stages[index].id.to_string();
            if let Some(writer) = writer.named {
                written.push(writer.finish(Content::Named { stage: stage.clone(), first, last }, self.version())?);
            }
            if let Some(writer) = writer.rows {
                written.push(writer.finish(Content::Rows { stage, first, last }, self.version())?);
            }
        }
        Ok(written)
    }

    /// What the stage compares the kept rows by, and a checksum of each.
    fn write_named<'a>(&'a self, of: &KeptRows<'_>, writer: &mut Option<SegmentWriter<'a>>) -> Result<Vec<u64>> {
        let KeptRows { cx, stage, shard, rows: kept, .. } = *of;
        let mut all = Vec::with_capacity(kept.count_set_bits());
        read_columns(cx, stage, shard, kept, |made| {
            let lists = made.columns().last().and_then(|column| column.as_list_opt::<i32>());
            let lists = lists.ok_or_else(|| Error::internal("a stage that compares rows by something else than lists"))?;
            all.extend(segments::checks(lists).ok_or_else(|| Error::internal("a stage that compares rows by lists of something else"))?);
            let schema = segments::named_schema(made.schema().field(made.num_columns() - 1));
            let rows = of.row_ids(made.column(0).as_primitive::<UInt64Type>().values().iter().copied())?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![rows, Arc::new(lists.clone()) as ArrayRef]);
            let batch = batch.context(Kind::Internal, || "cannot build rows of the state".into())?;
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(SegmentWriter::create(&self.store, &schema, true)?),
            };
            writer.write(&batch)
        })?;
        if all.len() == kept.count_set_bits() { Ok(all) } else { Err(Error::internal("kept rows that were not read")) }
    }

    fn write_rows<'a>(
        &'a self,
        of: &KeptRows<'_>,
        (narrow, dimensions): &(SchemaRef, usize),
        checks: Option<&[u64]>,
        writer: &mut Option<SegmentWriter<'a>>,
    ) -> Result<()> {
        let KeptRows { cx, stage, shard, rows: kept, .. } = *of;
        let doc_ids = doc_ids(cx, shard, kept)?;
        let mut fields = vec![
            Arc::new(Field::new(segments::ROW_ID, DataType::UInt64, false)),
            Arc::new(Field::new(segments::DOC_ID, DataType::Utf8, true)),
        ];
        if checks.is_some() {
            fields.push(Arc::new(Field::new(CHECK, DataType::UInt64, false)));
        }
        fields.extend(narrow.fields().iter().skip(1).cloned());
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let writer = match writer {
            Some(writer) => writer,
            None => writer.insert(SegmentWriter::create(&self.store, &schema, false)?),
        };
        let mut done = 0;
        for batch in NarrowReader::of_shard(cx, stage, (narrow, *dimensions), shard, kept.clone())? {
            let batch = batch?;
            let rows = batch.num_rows();
            let numbers = batch.column(0).as_primitive::<UInt64Type>().values().iter().map(|id| RowId::from_bits(*id).row());
            let mut made: Vec<ArrayRef> = vec![of.row_ids(numbers)?, doc_ids.slice(done, rows)];
            if let Some(checks) = checks {
                let of = checks.get(done..done + rows).ok_or_else(|| Error::internal("kept rows that were not read"))?;
                made.push(Arc::new(UInt64Array::from(of.to_vec())));
            }
            made.extend(batch.columns().iter().skip(1).cloned());
            done += rows;
            let batch = RecordBatch::try_new(Arc::clone(&schema), made);
            writer.write(&batch.context(Kind::Internal, || "cannot build rows of the state".into())?)?;
        }
        Ok(())
    }

    /// The stages, with all that any run has read.
    fn identities(&self) -> Vec<StageIdentity> {
        let mut stages = self.stages.clone();
        for old in self.base.iter().filter(|_| !self.rebuild).flat_map(|(version, _)| &version.stages) {
            if let Some(stage) = stages.iter_mut().find(|stage| stage.id == old.id) {
                stage.reads.extend(old.reads.clone());
            }
        }
        stages
    }

    /// What an earlier run had left undone and is done now, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        let finished = self
            .finished
            .iter()
            .map(|folder| format!("the dataset of an earlier run, which was cut off, has got its name: {}", folder.display()));
        // A rebuild reads shards, and knows nothing of what was taken out of the state.
        let back = self.forgotten.then(|| "rows were forgotten in this state: they are back if the shards still hold them".to_owned());
        finished.chain(back).collect()
    }

    /// Refuses to replace the newest dataset of the state: the rows that it holds are nowhere else.
    pub(super) fn check_sink(&self, sink: &Path) -> Result<()> {
        match &self.base {
            Some((version, _)) if version.dataset.folder == sink && local::exists(sink)? => {
                Err(Error::usage(format!("the output holds what the state counts as kept path=`{}`", sink.display()))
                    .hint("each run writes its new rows alone: put `{version}` into `sink.parquet.uri`, or name another folder"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the next version: the point from which on the increment counts.
    pub(super) fn commit(&self, snapshot: &Snapshot, run_id: &RunId, dataset: Dataset, made: Vec<Segment>) -> Result<()> {
        let taken_over = self.base.as_ref().filter(|_| !self.rebuild).map(|(version, _)| version);
        let mut segments = taken_over.map(|version| version.segments.clone()).unwrap_or_default();
        segments.extend(made);
        self.store.commit(&Version {
            format: FORMAT,
            trommel: env!("CARGO_PKG_VERSION").into(),
            version: self.version(),
            base: self.base.as_ref().map(|(_, hash)| hash.to_string()),
            stages: self.identities(),
            run_id: run_id.to_string(),
            commit_id: commit_id(),
            made_by: if self.rebuild { Maker::Rebuild } else { Maker::Run },
            dataset,
            shards: (self.known.len() + snapshot.shards.len()) as u64,
            rows: taken_over.map_or(0, |version| version.rows) + snapshot.rows(),
            segments,
        })
    }
}

/// The files that a stage's rows of some shards go to.
#[derive(Default)]
struct GroupWriter<'a> {
    rows: Option<SegmentWriter<'a>>,
    named: Option<SegmentWriter<'a>>,
}

/// The rows of a shard that a stage kept.
struct KeptRows<'a> {
    cx: &'a Arc<RunContext>,
    stage: usize,
    shard: &'a Shard,
    /// The shard's ordinal in the state.
    ordinal: usize,
    rows: &'a BooleanBuffer,
}

impl KeptRows<'_> {
    fn row_ids(&self, rows: impl Iterator<Item = u64>) -> Result<ArrayRef> {
        let ids: Option<Vec<u64>> = rows.map(|row| row_id(self.ordinal, row)).collect();
        let ids = ids.ok_or_else(|| Error::resources("the state and the run have too many shards together"))?;
        Ok(Arc::new(UInt64Array::from(ids)))
    }
}

/// Shards that follow one another and whose kept rows go to one file of each stage: so many that a file is worth its name.
fn groups(shards: &[Shard]) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (place, shard) in shards.iter().enumerate() {
        rows += shard.rows;
        if rows >= GROUP_ROWS || place + 1 == shards.len() {
            groups.push(from..place + 1);
            (from, rows) = (place + 1, 0);
        }
    }
    groups
}

impl Known for Increment {
    fn file(&self, source: &str, path: &str, identity: &Identity) -> bool {
        // The same name, length, time of change and inode: the same bytes, without reading them again.
        let same = |place: &usize| {
            let shard = &self.known[*place];
            (shard.bytes, i128::from(shard.modified_ns), shard.inode) == (identity.bytes, identity.modified_ns, identity.inode)
        };
        self.names.get(&(source.to_owned(), path.to_owned())).is_some_and(|places| places.iter().any(same))
    }

    fn content(&self, source: &str, hash: &ContentHash) -> bool {
        self.contents.contains(&(source.to_owned(), *hash))
    }

    fn source(&self, source: &str) -> bool {
        self.known.iter().any(|shard| shard.source == source)
    }
}

/// Document ids of rows of the state, read forward.
pub(super) struct DocIds {
    last_shard: u64,
    batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
    batch: Option<RecordBatch>,
    place: usize,
}

impl DocIds {
    /// Whether rows of a shard may be among them, of shards asked for in rising order.
    pub(super) fn reaches(&self, shard: usize) -> bool {
        shard as u64 <= self.last_shard
    }

    /// The id of a row (as the state counts shards), or of the same again.
    pub(super) fn seek(&mut self, row: u64) -> Result<Option<String>> {
        loop {
            if let Some(batch) = &self.batch {
                let rows = row_ids(batch)?;
                while self.place < rows.len() && rows[self.place] < row {
                    self.place += 1;
                }
                if rows.get(self.place) == Some(&row) {
                    let ids = batch.column_by_name(segments::DOC_ID).and_then(|ids| ids.as_string_opt::<i32>());
                    let ids = ids.ok_or_else(|| Error::state("the state's rows have no document ids"))?;
                    return Ok(ids.is_valid(self.place).then(|| ids.value(self.place).to_owned()));
                }
                if self.place < rows.len() {
                    break;
                }
            }
            let Some(batch) = self.batches.next() else { break };
            (self.batch, self.place) = (Some(batch?), 0);
        }
        Err(Error::state(format!("the state lacks a row that it kept row=`{row}`")))
    }
}

/// The document ids of the rows of a shard that a mask takes.
fn doc_ids(cx: &RunContext, shard: &Shard, kept: &BooleanBuffer) -> Result<ArrayRef> {
    if cx.plan.sources[shard.source].roles.id.is_none() {
        return Ok(new_null_array(&DataType::Utf8, kept.count_set_bits()));
    }
    let path = cx.artefacts.file(&cx.scans[shard.id.ordinal()], TABLE);
    let (mut parts, mut first) = (Vec::new(), 0);
    for batch in read_table(&path, Some(&[DOC_ID]), 8192)? {
        let batch = batch.map_err(|error| unreadable(&path, error))?;
        let mask = BooleanArray::new(kept.slice(first, batch.num_rows()), None);
        parts.push(filter(batch.column(0), &mask).context(Kind::Internal, || "cannot narrow document ids".into())?);
        first += batch.num_rows();
    }
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    concat(&parts).context(Kind::Internal, || "cannot gather document ids".into())
}

/// The id of a row of the state.
pub(super) fn row_id(shard: usize, row: u64) -> Option<u64> {
    ShardId::try_new(shard).and_then(|shard| RowId::try_new(shard, row)).map(RowId::to_bits)
}

/// The stages that keep rows in a state, or what they fitted.
fn identities(plan: &Plan) -> Vec<StageIdentity> {
    // What is fitted once is tied to what it was fitted for.
    let lasts = |config: &StageConfig| config.incremental() == Incremental::Compares || config.shape() == Shape::Fitted;
    let keeps = plan.stages.iter().filter(|stage| lasts(&stage.config));
    keeps
        .map(|stage| StageIdentity {
            id: stage.id.to_string(),
            kind: stage.config.kind().to_owned(),
            version: stage.config.version(),
            config: stage.config.canonical(),
            vectors: None,
            reads: BTreeMap::new(),
        })
        .collect()
}

/// Refuses a state that other stages made; `read`: models and columns are known too.
fn go_on_from(version: &Version, stages: &[StageIdentity], read: bool) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::usage(format!("the state was made by another pipeline: {reason}"))
            .hint("undo the change, or decide over all shards anew: `trommel state rebuild`, or another folder as `state`"))
    };
    for old in &version.stages {
        let Some(new) = stages.iter().find(|stage| stage.id == old.id) else { return refuse(format!("stage `{}` is gone", old.id)) };
        let read_otherwise = old.reads.iter().find_map(|(name, was)| Some((name, was, new.reads.get(name).filter(|is| *is != was)?)));
        if let Some((name, was, is)) = read_otherwise {
            // The same column in another type: the shards are others, not the pipeline.
            if was.split(": ").next() == is.split(": ").next() {
                return Err(Error::input(format!(
                    "new shards hold a column in another type than those before: stage `{}` read `{name}` as `{was}` and reads it as `{is}`",
                    old.id
                ))
                .hint("write the new shards with the type of the old ones, or decide over all anew: `trommel state rebuild`"));
            }
            return refuse(format!("stage `{}` read `{name}` as `{was}` and reads it as `{is}`", old.id));
        }
        if (&new.kind, new.version) != (&old.kind, old.version) {
            return refuse(format!(
                "stage `{}` was `{}` version `{}` and is `{}` version `{}`",
                old.id, old.kind, old.version, new.kind, new.version
            ));
        }
        let nothing = serde_json::Value::Null;
        for (what, old_value, new_value) in [
            ("in stage", &old.config, &new.config),
            ("in what makes the vectors of stage", old.vectors.as_ref().unwrap_or(&nothing), new.vectors.as_ref().unwrap_or(&nothing)),
        ] {
            if old_value != new_value && (read || what == "in stage") {
                let keys = old_value.as_object().into_iter().flatten().filter(|(key, value)| new_value.get(key) != Some(value));
                let changed: Vec<String> =
                    keys.map(|(key, value)| format!("`{key}` was {value} and is {}", new_value.get(key).unwrap_or(&nothing))).collect();
                return refuse(format!("{what} `{}` {}", old.id, changed.join(", ")));
            }
        }
    }
    match stages.iter().find(|stage| version.stages.iter().all(|old| old.id != stage.id)) {
        Some(new) => refuse(format!("stage `{}` is new", new.id)),
        None => Ok(()),
    }
}
