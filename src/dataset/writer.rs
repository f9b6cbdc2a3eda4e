//! Writing pruned shards. The bytes depend on the shards, the kept rows and the options alone: row groups are those of the
//! input (or cut at a fixed number of rows), decoding is cut by each row group's own metadata, every writer property is
//! stated here, and threads only change who encodes which column.
//!
//! Three ways to bring a column chunk over, fastest first: a row group that loses no row is copied (`copy`); a flat column of
//! texts has its pages spliced (`splice`); anything else is decoded, filtered and encoded. Files are Parquet 1.0 with data
//! pages of version 1, which every reader takes, with chunk statistics and without page indexes and bloom filters, so that
//! copied and encoded chunks look alike.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, ProjectionMask, encode_arrow_schema};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};
use rayon::prelude::*;

use crate::dataset::copy::{self, CopyReader};
use crate::dataset::pages::Page;
use crate::dataset::reader::BATCH_BYTES;
use crate::dataset::snapshot::{OpenShard, Shard};
use crate::dataset::splice::{self, PAGE_BYTES, Spliced, Splicer};
use crate::dataset::{isolate, pages, read_error, write_error};
use crate::error::{Context, Error, Kind, Result};
use crate::ids::ContentHash;
use crate::storage::local::AsideFile;

/// Uncompressed bytes of row groups that are encoded side by side.
const WAVE_BYTES: u64 = 64 << 20;
/// What wrote the file. It carries no version: a new release writes the same bytes unless a format version says otherwise.
const CREATED_BY: &str = "trommel";

/// How a pruned shard is written.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// zstd's level, 1 to 22.
    pub zstd_level: i32,
    /// Rows of a row group; `None`: one for each row group of the input that keeps a row.
    pub row_group_rows: Option<u64>,
    /// Columns added after those of the input; [`ShardWriter::append`] takes their values.
    pub extra: Vec<FieldRef>,
    /// Whether row groups and pages that lose no row may be copied as they are.
    pub copy: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { zstd_level: 3, row_group_rows: None, extra: vec![], copy: true }
    }
}

/// A finished shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows written.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub hash: ContentHash,
    /// Row groups written.
    pub row_groups: u64,
    /// Bytes of column data that were copied compressed.
    pub bytes_copied: u64,
    /// Bytes of column data that were encoded anew.
    pub bytes_encoded: u64,
}

/// The file under the Parquet writer, which can be taken back when the footer is written.
#[derive(Debug)]
struct Sink(Option<AsideFile>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("file is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Writes the kept rows of one or more shards of one schema into one file.
pub struct ShardWriter {
    path: PathBuf,
    writer: SerializedFileWriter<Sink>,
    factory: ArrowRowGroupWriterFactory,
    /// The input's Arrow schema.
    input: SchemaRef,
    /// The input's columns and the extra ones, in file order, each with its leaves.
    columns: Vec<Column>,
    options: WriterOptions,
    pending: Pending,
    rows: u64,
    row_groups: u64,
    bytes_copied: u64,
    bytes_encoded: u64,
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// A root column of the output.
#[derive(Debug, Clone)]
struct Column {
    field: FieldRef,
    leaves: Range<usize>,
    /// Whether its first leaf is written with a dictionary.
    dictionary: bool,
}

/// Rows that wait for their row group to fill, where row groups are cut by rows.
#[derive(Debug, Default)]
struct Pending {
    batches: VecDeque<RecordBatch>,
    rows: u64,
}

/// One row group of the input, as it goes to the output.
struct Group {
    index: usize,
    /// Its first row in the shard.
    first: usize,
    keep: BooleanBuffer,
    /// Whether it is copied as it is.
    copied: bool,
    uncompressed_bytes: u64,
}

enum Chunk {
    Encoded(ArrowColumnChunk),
    Spliced(Spliced),
}

/// A column of a row group to be encoded.
struct Job<'a> {
    group: &'a Group,
    column: &'a Column,
    root: usize,
    way: Way,
}

/// How a column chunk comes over.
enum Way {
    /// Page by page.
    Splice { leaf: usize, pages: Vec<Page> },
    /// Through Arrow, into these writers, one a leaf.
    Encode(Vec<ArrowColumnWriter>),
}

impl ShardWriter {
    /// Starts a file at `path` (its folder must exist) for shards like `template`.
    ///
    /// # Errors
    /// Kind input when the shard changed or its schema cannot be written back, kind storage or resources for the file.
    pub fn create(path: &Path, template: &Shard, options: WriterOptions) -> Result<Self> {
        let open = template.open()?;
        let place = || format!("path=`{}`", template.file.display());
        let input = Arc::clone(open.footer.schema());
        let fields = input.fields().iter().chain(&options.extra).cloned().collect::<Vec<_>>();
        let full = Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()));
        let metadata = open.footer.metadata().file_metadata();
        let unwritable = || format!("schema cannot be written back {}", place());
        let (root, kept_schema) = isolate(place, || {
            let converted = |schema: &Schema| ArrowSchemaConverter::new().with_coerce_types(false).convert(schema);
            let back = converted(&full).context(Kind::Input, unwritable)?;
            let (own, back_fields) = (metadata.schema().get_fields(), back.root_schema().get_fields());
            let keeps = back_fields.get(..own.len()).is_some_and(|back| copy::same_fields(own, back));
            if !keeps {
                return Ok((back.root_schema_ptr(), false));
            }
            let added = back_fields.get(own.len()..).unwrap_or_default();
            let fields: Vec<TypePtr> = own.iter().chain(added).cloned().collect();
            let root = Type::group_type_builder(metadata.schema().name()).with_fields(fields).build().context(Kind::Input, unwritable)?;
            Ok((Arc::new(root), true))
        })?;
        let properties = {
            let mut entries = metadata.key_value_metadata().cloned().unwrap_or_default();
            let embedded = entries.iter().any(|entry| entry.key == ARROW_SCHEMA_META_KEY);
            // The embedded Arrow schema must tell of added columns, and make up for types that Parquet has no word for.
            if !kept_schema || (embedded && !options.extra.is_empty()) {
                entries.retain(|entry| entry.key != ARROW_SCHEMA_META_KEY);
                entries.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&full)));
            }
            let level = ZstdLevel::try_new(options.zstd_level).context(Kind::Usage, || format!("no zstd level={}", options.zstd_level))?;
            let mut properties = WriterProperties::builder()
                .set_created_by(CREATED_BY.to_owned())
                .set_writer_version(WriterVersion::PARQUET_1_0)
                .set_compression(Compression::ZSTD(level))
                .set_data_page_size_limit(PAGE_BYTES)
                .set_data_page_row_count_limit(1 << 20)
                .set_dictionary_page_size_limit(1 << 20)
                .set_write_batch_size(1024)
                .set_statistics_enabled(EnabledStatistics::Chunk)
                .set_write_page_header_statistics(false)
                .set_statistics_truncate_length(Some(64))
                .set_offset_index_disabled(true)
                .set_bloom_filter_enabled(false)
                .set_coerce_types(false)
                .set_dictionary_enabled(true)
                .set_key_value_metadata((!entries.is_empty()).then_some(entries));
            for leaf in plain_leaves(&open, &place)? {
                let columns = open.footer.parquet_schema().columns();
                if let Some(column) = columns.get(leaf) {
                    properties = properties.set_column_dictionary_enabled(column.path().clone(), false);
                }
            }
            Arc::new(properties.build())
        };
        let writer = SerializedFileWriter::new(Sink(Some(AsideFile::create(path)?)), root, Arc::clone(&properties))
            .map_err(|error| write_error(error, path))?;
        let factory = ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&full));
        let columns = columns_of(&full, writer.schema_descr(), &properties)?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            factory,
            input,
            columns,
            options,
            pending: Pending::default(),
            rows: 0,
            row_groups: 0,
            bytes_copied: 0,
            bytes_encoded: 0,
        })
    }

    /// Appends the kept rows of a shard. `keep` has one bit, and each extra column one value, for each of the shard's
    /// `rows_used` rows.
    ///
    /// # Errors
    /// Kind input when the shard changed, is damaged or has another schema; kind storage or resources for the file.
    pub fn append(&mut self, shard: &Shard, keep: &BooleanBuffer, extra: &[ArrayRef]) -> Result<()> {
        let rows_used = shard.rows_used as usize;
        let extra_fits = extra.len() == self.options.extra.len()
            && extra
                .iter()
                .zip(&self.options.extra)
                .all(|(array, field)| array.len() == rows_used && array.data_type() == field.data_type());
        if keep.len() != rows_used || !extra_fits {
            return Err(Error::internal(format!("decisions do not fit the shard path=`{}`", shard.path)));
        }
        let open = shard.open()?;
        if open.footer.schema().fields() != self.input.fields() {
            return Err(Error::input(format!("shards of different schemas in one file path=`{}`", shard.file.display())));
        }
        if let Some(rows) = self.options.row_group_rows {
            self.append_cut(shard, &open, keep, extra, rows.max(1))?;
        } else {
            self.append_groups(shard, &open, keep, extra)?;
        }
        open.reader.file().check_unchanged(shard.identity)
    }

    /// Row group by row group.
    fn append_groups(&mut self, shard: &Shard, open: &OpenShard, keep: &BooleanBuffer, extra: &[ArrayRef]) -> Result<()> {
        let own = open.footer.metadata().file_metadata().schema().get_fields();
        let same_schema = self.writer.schema_descr().root_schema().get_fields().get(..own.len()) == Some(own);
        let (mut groups, mut first) = (vec![], 0);
        for (index, group) in shard.row_groups.iter().enumerate() {
            let rows = group.rows as usize;
            let used = rows.min(keep.len().saturating_sub(first));
            let mask = keep.slice(first.min(keep.len()), used);
            let kept = mask.count_set_bits();
            if kept > 0 {
                let whole = kept == rows && same_schema && self.options.copy;
                groups.push(Group { index, first, keep: padded(mask, rows), copied: whole, uncompressed_bytes: group.uncompressed_bytes });
            }
            first += rows;
        }
        groups.par_iter_mut().filter(|group| group.copied).try_for_each(|group| {
            let place = || format!("path=`{}` row_group=`{}`", shard.file.display(), group.index);
            group.copied = copy::adds_up(open, group.index, &place)?;
            Ok::<(), Error>(())
        })?;
        let mut rest = groups.as_slice();
        while !rest.is_empty() {
            let (mut bytes, mut count) = (0, 0);
            for group in rest {
                bytes += if group.copied { 0 } else { group.uncompressed_bytes };
                if count > 0 && bytes > WAVE_BYTES {
                    break;
                }
                count += 1;
            }
            let (wave, after) = rest.split_at(count);
            self.write_wave(shard, open, wave, extra, same_schema)?;
            rest = after;
        }
        Ok(())
    }

    /// Encodes the columns of a few row groups side by side, then writes them in order.
    fn write_wave(&mut self, shard: &Shard, open: &OpenShard, wave: &[Group], extra: &[ArrayRef], same_schema: bool) -> Result<()> {
        let inputs = self.input.fields().len();
        let (options, columns) = (&self.options, &self.columns);
        let planned: Vec<Result<Vec<Option<Way>>>> = wave
            .par_iter()
            .map(|group| {
                let own = if group.copied { inputs } else { 0 };
                let place = |column: &Column| {
                    format!("path=`{}` row_group=`{}` column=`{}`", shard.file.display(), group.index, column.field.name())
                };
                let roots = columns.iter().enumerate().skip(own);
                let way = |(root, column): (usize, &Column)| {
                    if root >= inputs || !same_schema || !options.copy || column.dictionary {
                        return Ok(None);
                    }
                    plan_splice(open, group.index, column, &|| place(column))
                };
                roots.map(way).collect()
            })
            .collect();
        let mut jobs: Vec<Job<'_>> = vec![];
        for (group, ways) in wave.iter().zip(planned) {
            let ways = ways?;
            let first = columns.len() - ways.len();
            // Making the encoder's column writers costs more than encoding a small row group: only where one is used.
            let mut writers = if ways.iter().any(Option::is_none) {
                self.factory.create_column_writers(0).map_err(|error| write_error(error, &self.path))?
            } else {
                vec![]
            }
            .into_iter();
            let skipped: usize = columns.iter().take(first).map(|column| column.leaves.len()).sum();
            for _ in writers.by_ref().take(skipped) {}
            for ((root, column), way) in columns.iter().enumerate().skip(first).zip(ways) {
                let writers = writers.by_ref().take(column.leaves.len()).collect();
                jobs.push(Job { group, column, root, way: way.unwrap_or(Way::Encode(writers)) });
            }
        }
        let descriptor = self.writer.schema_descr();
        let encoded: Vec<Result<Vec<Chunk>>> = jobs
            .into_par_iter()
            .map_init(
                || Splicer::new(options.zstd_level),
                |splicer, job| {
                    let place =
                        || format!("path=`{}` row_group=`{}` column=`{}`", shard.file.display(), job.group.index, job.column.field.name());
                    isolate(place, || match job.root.checked_sub(inputs) {
                        Some(added) => {
                            let array = extra.get(added).ok_or_else(|| Error::internal("extra column missing"))?;
                            let rows = job.group.keep.len().min(array.len().saturating_sub(job.group.first));
                            let mask = BooleanArray::new(job.group.keep.slice(0, rows), None);
                            let kept =
                                filter(&array.slice(job.group.first, rows), &mask).context(Kind::Internal, || "cannot filter".into())?;
                            let Way::Encode(writers) = job.way else { return Err(Error::internal("extra column without a writer")) };
                            encode(&job.column.field, [Ok(kept)], writers, &place)
                        }
                        None => encode_column(open, job, descriptor, splicer, &place),
                    })
                },
            )
            .collect();
        let mut encoded = encoded.into_iter();
        for group in wave {
            let metadata = open.footer.metadata().row_groups().get(group.index).ok_or_else(|| Error::internal("row group missing"))?;
            let rows = group.keep.count_set_bits() as u64;
            let mut output = self.writer.next_row_group().map_err(|error| write_error(error, &self.path))?;
            if group.copied {
                for chunk in metadata.columns() {
                    output
                        .append_column(&CopyReader(&open.reader), copy::close_result(chunk, rows))
                        .map_err(|error| write_error(error, &self.path))?;
                    self.bytes_copied += chunk.compressed_size() as u64;
                }
            }
            let left = if group.copied { self.columns.len() - inputs } else { self.columns.len() };
            for chunks in encoded.by_ref().take(left) {
                for chunk in chunks? {
                    match chunk {
                        Chunk::Encoded(chunk) => {
                            self.bytes_encoded += chunk.close().bytes_written;
                            chunk.append_to_row_group(&mut output)
                        }
                        Chunk::Spliced(Spliced { bytes, close, copied }) => {
                            self.bytes_copied += copied;
                            self.bytes_encoded += close.bytes_written - copied;
                            output.append_column(&bytes, close)
                        }
                    }
                    .map_err(|error| write_error(error, &self.path))?;
                }
            }
            output.close().map_err(|error| write_error(error, &self.path))?;
            self.rows += rows;
            self.row_groups += 1;
        }
        Ok(())
    }

    /// Row groups of a fixed number of rows, filled across the row groups and shards of the input.
    fn append_cut(&mut self, shard: &Shard, open: &OpenShard, keep: &BooleanBuffer, extra: &[ArrayRef], rows: u64) -> Result<()> {
        let place = || format!("path=`{}`", shard.file.display());
        let schema = Arc::new(Schema::new(self.columns.iter().map(|column| Arc::clone(&column.field)).collect::<Vec<_>>()));
        let mask = BooleanArray::new(keep.clone(), None);
        let extra = extra
            .iter()
            .map(|array| filter(array, &mask))
            .collect::<Result<Vec<_>, _>>()
            .context(Kind::Internal, || "cannot filter".into())?;
        let mut taken = 0;
        let mut first = 0_usize;
        for (index, group) in shard.row_groups.iter().enumerate() {
            let group_rows = group.rows as usize;
            let kept = padded(keep.slice(first.min(keep.len()), group_rows.min(keep.len().saturating_sub(first))), group_rows);
            first += group_rows;
            if kept.count_set_bits() == 0 {
                continue;
            }
            let place = || format!("{} row_group=`{index}`", place());
            let mut decoded = decode(open, index, &kept, ProjectionMask::all(), group.uncompressed_bytes, &place)?;
            while let Some(batch) = isolate(place, || decoded.next().transpose())? {
                let added = extra.iter().map(|array| array.slice(taken, batch.num_rows()));
                let columns: Vec<ArrayRef> = batch.columns().iter().cloned().chain(added).collect();
                taken += batch.num_rows();
                self.pending.rows += batch.num_rows() as u64;
                let batch = RecordBatch::try_new(Arc::clone(&schema), columns).context(Kind::Internal, || "batch does not fit".into())?;
                self.pending.batches.push_back(batch);
                while self.pending.rows >= rows {
                    self.flush_cut(rows as usize)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the first `rows` pending rows as a row group.
    fn flush_cut(&mut self, rows: usize) -> Result<()> {
        let (mut taken, mut left) = (vec![], rows);
        while let Some(batch) = self.pending.batches.pop_front() {
            if batch.num_rows() > left {
                self.pending.batches.push_front(batch.slice(left, batch.num_rows() - left));
                taken.push(batch.slice(0, left));
                break;
            }
            left -= batch.num_rows();
            taken.push(batch);
            if left == 0 {
                break;
            }
        }
        self.pending.rows -= rows as u64;
        let mut writers = self.factory.create_column_writers(0).map_err(|error| write_error(error, &self.path))?.into_iter();
        let jobs: Vec<(usize, &Column, Vec<ArrowColumnWriter>)> = self
            .columns
            .iter()
            .enumerate()
            .map(|(root, column)| (root, column, writers.by_ref().take(column.leaves.len()).collect()))
            .collect();
        let path = &self.path;
        let encoded: Vec<Result<Vec<Chunk>>> = jobs
            .into_par_iter()
            .map(|(root, column, writers)| {
                let arrays = taken.iter().map(|batch| Ok(Arc::clone(batch.column(root))));
                encode(&column.field, arrays, writers, &|| format!("path=`{}` column=`{}`", path.display(), column.field.name()))
            })
            .collect();
        let mut output = self.writer.next_row_group().map_err(|error| write_error(error, &self.path))?;
        for chunks in encoded {
            for chunk in chunks? {
                if let Chunk::Encoded(chunk) = chunk {
                    self.bytes_encoded += chunk.close().bytes_written;
                    chunk.append_to_row_group(&mut output).map_err(|error| write_error(error, &self.path))?;
                }
            }
        }
        output.close().map_err(|error| write_error(error, &self.path))?;
        self.rows += rows as u64;
        self.row_groups += 1;
        Ok(())
    }

    /// Writes the footer and gives the file its name. A file without rows is valid and has the schema.
    ///
    /// # Errors
    /// Kind storage or resources, naming the path.
    pub fn finish(mut self) -> Result<Written> {
        if self.pending.rows > 0 {
            self.flush_cut(self.pending.rows as usize)?;
        }
        self.writer.finish().map_err(|error| write_error(error, &self.path))?;
        let file = self.writer.inner_mut().0.take().ok_or_else(|| Error::internal("file is finished twice"))?;
        let written = file.finish_in_part()?;
        Ok(Written {
            rows: self.rows,
            bytes: written.bytes,
            hash: written.hash,
            row_groups: self.row_groups,
            bytes_copied: self.bytes_copied,
            bytes_encoded: self.bytes_encoded,
        })
    }
}

/// Extends a mask over the rows beyond `--limit-rows`, which are not kept.
fn padded(mask: BooleanBuffer, rows: usize) -> BooleanBuffer {
    if mask.len() == rows { mask } else { BooleanBuffer::collect_bool(rows, |row| row < mask.len() && mask.value(row)) }
}

/// The leaves that are written without a dictionary: those that have none in the largest row group of the template, that gave
/// it up half-way, or whose dictionary has more than half as many entries as the column has values.
fn plain_leaves(open: &OpenShard, place: &dyn Fn() -> String) -> Result<Vec<usize>> {
    let groups = open.footer.metadata().row_groups();
    let mut largest = None;
    for group in groups {
        if largest.is_none_or(|other: &parquet::file::metadata::RowGroupMetaData| group.num_rows() > other.num_rows()) {
            largest = Some(group);
        }
    }
    let Some(group) = largest.filter(|group| group.num_rows() > 0) else { return Ok(vec![]) };
    let mut leaves = vec![];
    for (leaf, chunk) in group.columns().iter().enumerate() {
        let place = || format!("{} column=`{}`", place(), chunk.column_path().string());
        let pages = pages::walk(open.reader.file(), chunk, &place)?.pages;
        let entries = pages.first().filter(|page| page.kind == pages::PageKind::Dictionary).map(|page| page.values);
        let throughout = pages.iter().filter(|page| page.is_data()).all(Page::is_dictionary_encoded);
        if !throughout || entries.is_none_or(|entries| entries * 2 > chunk.num_values() as u64) {
            leaves.push(leaf);
        }
    }
    Ok(leaves)
}

fn columns_of(schema: &Schema, descriptor: &SchemaDescriptor, properties: &WriterProperties) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = vec![];
    let mut leaf = 0;
    for (root, field) in schema.fields().iter().enumerate() {
        let start = leaf;
        while leaf < descriptor.num_columns() && descriptor.get_column_root_idx(leaf) == root {
            leaf += 1;
        }
        let first = descriptor.columns().get(start).ok_or_else(|| Error::internal("column without leaves"))?;
        columns.push(Column { field: Arc::clone(field), leaves: start..leaf, dictionary: properties.dictionary_enabled(first.path()) });
    }
    Ok(columns)
}

/// The kept rows of a row group, decoded in batches whose size follows from the row group's own metadata.
fn decode(
    open: &OpenShard,
    group: usize,
    keep: &BooleanBuffer,
    mask: ProjectionMask,
    bytes: u64,
    place: &dyn Fn() -> String,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let row_bytes = bytes.checked_div(keep.len() as u64).unwrap_or(0).max(1);
    let batch_rows = usize::try_from((BATCH_BYTES / row_bytes).clamp(1, 1 << 16)).unwrap_or(1);
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(open.reader.clone(), open.footer.clone())
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_batch_size(batch_rows);
    if keep.count_set_bits() < keep.len() {
        builder = builder.with_row_selection(RowSelection::from_boolean_buffer(keep.clone()));
    }
    let reader = builder.build().map_err(|error| read_error(error, &place()))?;
    let place = place();
    Ok(reader.map(move |batch| batch.map_err(|error| Error::input(format!("damaged shard {place}")).caused_by(error))))
}

/// The pages of a column chunk, if it can be pruned page by page.
fn plan_splice(open: &OpenShard, group: usize, column: &Column, place: &dyn Fn() -> String) -> Result<Option<Way>> {
    let leaf = column.leaves.start;
    let chunk = open.footer.metadata().row_groups().get(group).and_then(|group| group.columns().get(leaf));
    let Some(chunk) = chunk.filter(|_| column.leaves.len() == 1) else { return Ok(None) };
    let walked = pages::walk(open.reader.file(), chunk, place)?;
    let applies = walked.adds_up && splice::applies(chunk.column_descr(), &walked.pages);
    Ok(applies.then_some(Way::Splice { leaf, pages: walked.pages }))
}

/// Prunes one column of one row group.
fn encode_column(
    open: &OpenShard,
    job: Job<'_>,
    descriptor: &SchemaDescriptor,
    splicer: &mut Splicer,
    place: &dyn Fn() -> String,
) -> Result<Vec<Chunk>> {
    let metadata = open.footer.metadata().row_groups().get(job.group.index).ok_or_else(|| Error::internal("row group missing"))?;
    let writers = match job.way {
        Way::Splice { leaf, pages } => {
            let (Some(chunk), Some(column)) = (metadata.columns().get(leaf), descriptor.columns().get(leaf)) else {
                return Err(Error::internal("column missing"));
            };
            let made = splicer.splice(&open.reader, chunk, column, &pages, &job.group.keep, place)?;
            return Ok(vec![Chunk::Spliced(made)]);
        }
        Way::Encode(writers) => writers,
    };
    let own: SchemaDescPtr = open.footer.metadata().file_metadata().schema_descr_ptr();
    let leaves = metadata.columns().iter().enumerate().filter(|(leaf, _)| own.get_column_root_idx(*leaf) == job.root);
    let bytes: u64 = leaves.map(|(_, chunk)| chunk.uncompressed_size() as u64).sum();
    let mask = ProjectionMask::roots(open.footer.parquet_schema(), [job.root]);
    let decoded = decode(open, job.group.index, &job.group.keep, mask, bytes, place)?;
    let arrays = decoded.map(|batch| {
        let batch = batch?;
        batch.columns().first().cloned().ok_or_else(|| Error::internal("column missing in a batch"))
    });
    encode(&job.column.field, arrays, writers, place)
}

/// Encodes the arrays of one column, one after another, into its leaves.
fn encode(
    field: &Field,
    arrays: impl IntoIterator<Item = Result<ArrayRef>>,
    mut writers: Vec<ArrowColumnWriter>,
    place: &dyn Fn() -> String,
) -> Result<Vec<Chunk>> {
    let failed = || format!("cannot encode {}", place());
    for array in arrays {
        let leaves = compute_leaves(field, &array?).context(Kind::Internal, failed)?;
        for (writer, leaf) in writers.iter_mut().zip(&leaves) {
            writer.write(leaf).context(Kind::Internal, failed)?;
        }
    }
    writers.into_iter().map(|writer| writer.close().map(Chunk::Encoded).context(Kind::Internal, failed)).collect()
}
