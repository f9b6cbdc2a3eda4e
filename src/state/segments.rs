//! The files of a state: shards that are known, narrow rows that a stage kept, and what it compares them by.
//!
//! A file is checked against its hash before it is used, but for those of which only some rows are read: each such row has a checksum
//! among the narrow rows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::basic::Compression;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::store::{Content, MEND, Segment, Store};
use crate::dataset::write_error;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::ContentHash;
use crate::storage::{checksum, local};

/// The row: the bits of a [`crate::ids::RowId`] whose shard is counted as the state counts them.
pub const ROW_ID: &str = "row_id";
/// The document's id.
pub const DOC_ID: &str = "doc_id";
/// A checksum of what the stage compares the row by.
pub const CHECK: &str = "check";
/// Bytes of a page from which single rows are read.
const PAGE_BYTES: usize = 16 << 10;
/// Rows of a batch.
const BATCH_ROWS: usize = 4096;
/// Rows that are encoded at once: where pages end depends on it, and so it never depends on how rows come.
const ENCODED_ROWS: usize = 1024;

/// A shard of an earlier increment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownShard {
    /// Its source.
    pub source: String,
    /// Its path below the source's folder.
    pub path: String,
    /// BLAKE3 of the file.
    pub hash: ContentHash,
    /// Length in bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Time of its last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its inode number.
    pub inode: u64,
    /// The run that read it.
    pub run_id: String,
}

/// Writes one file of a state.
pub struct SegmentWriter<'a> {
    store: &'a Store,
    waiting: BatchCoalescer,
    writer: ArrowWriter<local::AsideFile>,
    rows: u64,
}

impl<'a> SegmentWriter<'a> {
    /// Starts one; `single`: single rows of it will be read.
    ///
    /// # Errors
    /// Kind storage.
    pub fn create(store: &'a Store, schema: &SchemaRef, single: bool) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by("trommel".into())
            // Hashes and vectors do not compress, and a search of the files for a document id finds it.
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(!single)
            .set_data_page_size_limit(if single { PAGE_BYTES } else { 1 << 20 });
        let writer = ArrowWriter::try_new(store.create()?, Arc::clone(schema), Some(properties.build()))
            .context(Kind::Internal, || "cannot start a file of the state".into())?;
        Ok(Self { store, waiting: BatchCoalescer::new(Arc::clone(schema), ENCODED_ROWS), writer, rows: 0 })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Kind storage.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.waiting.push_batch(batch.clone()).context(Kind::Internal, || "cannot gather rows of the state".into())?;
        self.encode()
    }

    fn encode(&mut self) -> Result<()> {
        while let Some(batch) = self.waiting.next_completed_batch() {
            self.writer.write(&batch).map_err(|error| write_error(error, self.store.folder()))?;
            if self.writer.in_progress_size() > 32 << 20 {
                self.writer.flush().map_err(|error| write_error(error, self.store.folder()))?;
            }
        }
        Ok(())
    }

    /// Ends it: it is on disk when this returns.
    ///
    /// # Errors
    /// Kind storage.
    pub fn finish(mut self, content: Content, version: u64) -> Result<Segment> {
        self.waiting.finish_buffered_batch().context(Kind::Internal, || "cannot gather rows of the state".into())?;
        self.encode()?;
        let file = self.writer.into_inner().map_err(|error| write_error(error, self.store.folder()))?;
        self.store.adopt(file, content, self.rows, version)
    }
}

fn shard_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        text("source"),
        text("path"),
        text("blake3"),
        number("bytes"),
        number("rows"),
        Field::new("modified_ns", DataType::Int64, false),
        number("inode"),
        text("run_id"),
    ]))
}

/// Writes the shards that a version adds, in order.
///
/// # Errors
/// Kind storage.
pub fn write_shards(store: &Store, shards: &[KnownShard], version: u64) -> Result<Segment> {
    let schema = shard_schema();
    let mut writer = SegmentWriter::create(store, &schema, false)?;
    let text = |of: &dyn Fn(&KnownShard) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(shards.iter().map(of))) };
    let number = |of: &dyn Fn(&KnownShard) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(shards.iter().map(of))) };
    let columns = vec![
        text(&|shard| shard.source.clone()),
        text(&|shard| shard.path.clone()),
        text(&|shard| shard.hash.to_string()),
        number(&|shard| shard.bytes),
        number(&|shard| shard.rows),
        Arc::new(Int64Array::from_iter_values(shards.iter().map(|shard| shard.modified_ns))),
        number(&|shard| shard.inode),
        text(&|shard| shard.run_id.clone()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).context(Kind::Internal, || "cannot build a list of shards".into())?)?;
    writer.finish(Content::Shards, version)
}

/// The shards of one segment.
///
/// # Errors
/// Kind state where the file is damaged.
pub fn read_shards(store: &Store, segment: &Segment) -> Result<Vec<KnownShard>> {
    let path = checked(store, segment)?;
    let mut shards = Vec::new();
    for batch in read(&path, None)? {
        let batch = batch?;
        let damaged = || damaged(&path);
        let text = |index: usize| batch.columns().get(index).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(damaged);
        let number =
            |index: usize| batch.columns().get(index).and_then(|column| column.as_primitive_opt::<UInt64Type>()).ok_or_else(damaged);
        let (source, place, hash, run_id) = (text(0)?, text(1)?, text(2)?, text(7)?);
        let (bytes, rows, inode) = (number(3)?, number(4)?, number(6)?);
        let modified = batch.column(5).as_primitive_opt::<Int64Type>().ok_or_else(damaged)?;
        for index in 0..batch.num_rows() {
            shards.push(KnownShard {
                source: source.value(index).to_owned(),
                path: place.value(index).to_owned(),
                hash: ContentHash::from_hex(hash.value(index)).ok_or_else(damaged)?,
                bytes: bytes.value(index),
                rows: rows.value(index),
                modified_ns: modified.value(index),
                inode: inode.value(index),
                run_id: run_id.value(index).to_owned(),
            });
        }
    }
    Ok(shards)
}

/// Writes which rows, by stage, count as not there.
///
/// # Errors
/// Kind storage.
pub fn write_forgotten(store: &Store, rows: &BTreeMap<String, Vec<u64>>, version: u64) -> Result<Segment> {
    let fields = vec![Field::new("stage", DataType::Utf8, false), Field::new(ROW_ID, DataType::UInt64, false)];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut writer = SegmentWriter::create(store, &schema, false)?;
    for (stage, rows) in rows {
        let stages: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|_| stage)));
        let columns = vec![stages, Arc::new(UInt64Array::from(rows.clone()))];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        writer.write(&batch.context(Kind::Internal, || "cannot build a list of rows".into())?)?;
    }
    writer.finish(Content::Forgotten, version)
}

/// The rows of one segment of [`write_forgotten`], by stage.
///
/// # Errors
/// Kind state where the file is damaged.
pub fn read_forgotten(store: &Store, segment: &Segment) -> Result<BTreeMap<String, Vec<u64>>> {
    let path = checked(store, segment)?;
    let mut forgotten: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for batch in read(&path, None)? {
        let batch = batch?;
        let stages = batch.columns().first().and_then(|column| column.as_string_opt::<i32>()).ok_or_else(|| damaged(&path))?;
        let rows = batch.columns().get(1).and_then(|column| column.as_primitive_opt::<UInt64Type>()).ok_or_else(|| damaged(&path))?;
        for (stage, row) in stages.iter().flatten().zip(rows.values()) {
            match forgotten.get_mut(stage) {
                Some(rows) => rows.push(*row),
                None => drop(forgotten.insert(stage.to_owned(), vec![*row])),
            }
        }
    }
    Ok(forgotten)
}

/// The path of a segment whose bytes are those of its hash.
///
/// # Errors
/// Kind state where they are not.
pub fn checked(store: &Store, segment: &Segment) -> Result<PathBuf> {
    let path = store.segment_path(segment);
    if !local::exists(&path)? {
        return Err(Error::state(format!("a file of the state is missing path=`{}`", path.display())).hint(MEND));
    }
    let (hash, bytes) = checksum::hash_path(&path)?;
    if bytes != segment.bytes || hash.to_string() != segment.blake3 {
        return Err(damaged(&path));
    }
    Ok(path)
}

fn damaged(path: &Path) -> Error {
    Error::state(format!("a file of the state is damaged path=`{}`", path.display())).hint(MEND)
}

/// Reads columns of a segment, all for `None`, in the file's order.
///
/// # Errors
/// Kind state where it cannot be read, or lacks a column.
pub fn read(path: &Path, columns: Option<&[&str]>) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
    let table = open(path, columns, None)?;
    let path = path.to_owned();
    Ok(table.map(move |batch| batch.map_err(|error| damaged(&path).caused_by(error))))
}

fn open(path: &Path, columns: Option<&[&str]>, selection: Option<RowSelection>) -> Result<ParquetRecordBatchReader> {
    let unreadable = || damaged(path).to_string();
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(local::open(path)?, options)
        .map_err(|error| damaged(path).caused_by(error))?;
    let mask = match columns {
        Some(columns) => {
            let roots =
                columns.iter().map(|name| builder.schema().index_of(name).context(Kind::State, unreadable)).collect::<Result<Vec<_>>>()?;
            ProjectionMask::roots(builder.parquet_schema(), roots)
        }
        None => ProjectionMask::all(),
    };
    let mut builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    builder.build().context(Kind::State, unreadable)
}

/// The schema of the file of what a stage compares rows by: `values` as its batches hold it.
#[must_use]
pub fn named_schema(values: &Field) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(ROW_ID, DataType::UInt64, false),
        Field::new("values", values.data_type().clone(), values.is_nullable()),
    ]))
}

/// A checksum of each list.
#[must_use]
pub fn checks(lists: &ListArray) -> Option<Vec<u64>> {
    let numbers = lists.values().as_primitive_opt::<UInt64Type>()?.values();
    let of = |ends: &[i32]| {
        let list = numbers.get(ends[0] as usize..ends[1] as usize)?;
        let mut hasher = blake3::Hasher::new();
        for number in list {
            hasher.update(&number.to_le_bytes());
        }
        Some(u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk()?))
    };
    lists.value_offsets().windows(2).map(of).collect()
}

/// Reads what a stage compares rows by: the rows at `places` of the file, whose checksums are `checks`.
/// `take` gets the rows and a batch whose last column are the values.
///
/// # Errors
/// Kind state where a row is damaged; what `take` gives.
pub fn read_named(
    path: &Path,
    places: &[usize],
    checks_of: &[u64],
    mut take: impl FnMut(std::ops::Range<usize>, &RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut selectors = Vec::new();
    let mut from = 0;
    for place in places {
        if *place > from {
            selectors.push(RowSelector::skip(place - from));
        }
        selectors.push(RowSelector::select(1));
        from = place + 1;
    }
    // Bytes that were not hashed may make a decoder panic.
    let mut table = guarded(path, || open(path, None, Some(RowSelection::from(selectors))))?;
    let mut done = 0;
    while let Some(batch) = guarded(path, || table.next().transpose().map_err(|error| damaged(path).caused_by(error)))? {
        let lists = batch.columns().last().and_then(|column| column.as_list_opt::<i32>());
        let found = lists.and_then(checks).ok_or_else(|| damaged(path))?;
        let range = done..done + batch.num_rows();
        if checks_of.get(range.clone()) != Some(&found[..]) {
            return Err(damaged(path));
        }
        take(range, &batch)?;
        done += batch.num_rows();
    }
    if done == places.len() { Ok(()) } else { Err(damaged(path)) }
}

fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged(path)))
}
