//! Reading a shard: some of its columns, some of its rows, in batches bounded by rows and by bytes, each row with its number.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::FormatOptions;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::arrow::{ProjectionMask, RowNumber};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::dataset::snapshot::{OpenShard, Shard};
use crate::dataset::{isolate, preflight, read_error};
use crate::error::{Context, Error, Kind, Result};
use crate::storage::local::{Identity, ShardFile};

/// The last column of every batch: the row's number inside its shard, from 0, as `Int64`.
pub const ROW_COLUMN: &str = "trommel_row";
/// Bytes that a batch is cut to, by the average row of the row groups it is read from; one row may be larger.
pub const BATCH_BYTES: u64 = 8 << 20;
/// Bytes of a batch that is read, about: what fits a core's cache is read again from there, and its memory is used again at once.
const READ_BYTES: u64 = 2 << 20;

/// A shard's file as the Parquet crate reads it: by offset, so that threads can share it.
#[derive(Debug, Clone)]
pub struct ShardReader(ShardFile);

impl ShardReader {
    /// Wraps an open file.
    #[must_use]
    pub fn new(file: ShardFile) -> Self {
        Self(file)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &ShardFile {
        &self.0
    }

    /// A cursor of its own from `offset`.
    #[must_use]
    pub fn at(&self, offset: u64) -> At {
        At { file: self.0.clone(), offset }
    }
}

impl Length for ShardReader {
    fn len(&self) -> u64 {
        self.0.bytes()
    }
}

impl ChunkReader for ShardReader {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::with_capacity(4 << 10, self.at(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // The length may come from damaged metadata: refuse before allocating.
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.bytes()) {
            return Err(ParquetError::EOF(format!("bytes {start}+{length} of a file of {}", self.0.bytes())));
        }
        let mut bytes = vec![0_u8; length];
        self.0.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A cursor of its own over a shared file.
#[derive(Debug)]
pub struct At {
    file: ShardFile,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// What to read of a shard.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest<'a> {
    /// Columns by name, nested ones whole; batches have them in this order, then [`ROW_COLUMN`]. Texts come as views, which
    /// are read without copying them.
    pub columns: &'a [&'a str],
    /// The types that the columns shall have; those that differ in the shard are cast. `None`: as the shard has them.
    pub schema: Option<&'a Schema>,
    /// Which rows, one bit a row of `rows_used`; `None`: all of those.
    pub selection: Option<&'a BooleanBuffer>,
    /// Rows of a batch at most; wide rows cut it further.
    pub batch_rows: usize,
}

/// Batches of one shard, in row order.
pub struct ShardBatches {
    inner: ParquetRecordBatchReader,
    open: OpenShard,
    identity: Identity,
    /// For each output column: where the reader has it, and the type to cast to.
    order: Vec<(usize, Option<DataType>)>,
    schema: SchemaRef,
    place: String,
    done: bool,
}

impl std::fmt::Debug for ShardBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardBatches").field("place", &self.place).field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Starts reading a shard. The file is checked to be the snapshot's at the start and after the last batch.
///
/// # Errors
/// Kind input when the shard changed, is damaged, lacks a column or holds a value that cannot be cast.
pub fn read(shard: &Shard, request: ReadRequest<'_>) -> Result<ShardBatches> {
    let row_field = Arc::new(Field::new(ROW_COLUMN, DataType::Int64, false).with_extension_type(RowNumber));
    let options = preflight::reader_options()
        .with_virtual_columns(vec![row_field])
        .context(Kind::Internal, || "cannot ask for row numbers".into())?
        .with_schema(Arc::new(viewed(&shard.schema)));
    let open = shard.open_with(options)?;
    let place = format!("path=`{}`", shard.file.display());
    let mut roots = vec![];
    for name in request.columns {
        roots.push(shard.schema.index_of(name).map_err(|_| {
            Error::input(format!("no such column column=`{name}` {place}")).hint(format!("columns: {}", column_names(&shard.schema)))
        })?);
    }
    let mut in_file = roots.clone();
    in_file.sort_unstable();
    in_file.dedup();
    let mut order: Vec<(usize, Option<DataType>)> = vec![];
    let mut fields: Vec<Arc<Field>> = vec![];
    for (root, name) in roots.iter().zip(request.columns) {
        let found = Arc::clone(shard.schema.fields().get(*root).ok_or_else(|| Error::internal("column index out of schema"))?);
        let found = Arc::new(viewed_field(&found));
        let wanted = request.schema.and_then(|schema| schema.field_with_name(name).ok()).map(viewed_field);
        let cast = wanted.as_ref().filter(|wanted| wanted.data_type() != found.data_type()).map(|wanted| wanted.data_type().clone());
        fields.push(match wanted {
            Some(wanted) => {
                let nullable = wanted.is_nullable() || found.is_nullable();
                Arc::new(wanted.with_nullable(nullable))
            }
            None => found,
        });
        order.push((in_file.partition_point(|index| index < root), cast));
    }
    order.push((in_file.len(), Some(DataType::UInt64)));
    fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)));

    let (groups, selection) = select(shard, request.selection)?;
    let widest = groups.iter().filter_map(|group| row_bytes(&open, *group, &in_file)).max().unwrap_or(0);
    let batch_rows = request.batch_rows.min(usize::try_from(READ_BYTES / widest.max(1)).unwrap_or(usize::MAX)).max(1);
    let mask = ProjectionMask::roots(open.footer.parquet_schema(), in_file.iter().copied());
    let inner = isolate(
        || place.clone(),
        || {
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(open.reader.clone(), open.footer.clone())
                .with_batch_size(batch_rows)
                .with_projection(mask)
                .with_row_groups(groups);
            if let Some(selection) = selection {
                builder = builder.with_row_selection(selection);
            }
            builder.build().map_err(|error| read_error(error, &place))
        },
    )?;
    Ok(ShardBatches { inner, open, identity: shard.identity, order, schema: Arc::new(Schema::new(fields)), place, done: false })
}

/// A schema with its texts as views.
fn viewed(schema: &Schema) -> Schema {
    Schema::new_with_metadata(schema.fields().iter().map(|field| viewed_field(field)).collect::<Vec<_>>(), schema.metadata().clone())
}

fn viewed_field(field: &Field) -> Field {
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => field.clone().with_data_type(DataType::Utf8View),
        _ => field.clone(),
    }
}

/// The row groups that hold a wanted row, and the rows wanted of these; no selection when it is all of them.
fn select(shard: &Shard, wanted: Option<&BooleanBuffer>) -> Result<(Vec<usize>, Option<RowSelection>)> {
    if wanted.is_some_and(|wanted| wanted.len() as u64 != shard.rows_used) {
        return Err(Error::internal(format!("selection is of another length path=`{}`", shard.path)));
    }
    let (mut groups, mut ranges, mut whole) = (vec![], vec![], true);
    // Rows before the group in the shard, and before it among the groups taken.
    let (mut first, mut base) = (0_usize, 0_usize);
    for (index, group) in shard.row_groups.iter().enumerate() {
        let rows = group.rows as usize;
        let used = rows.min((shard.rows_used as usize).saturating_sub(first));
        let before = ranges.len();
        match wanted {
            Some(wanted) => {
                ranges.extend(wanted.slice(first.min(wanted.len()), used).set_slices().map(|(from, to)| base + from..base + to));
            }
            None if used > 0 => ranges.push(base..base + used),
            None => {}
        }
        if ranges.len() > before {
            whole &= ranges.len() == before + 1 && ranges.last().is_some_and(|range| range.len() == rows);
            groups.push(index);
            base += rows;
        }
        first += rows;
    }
    let selection = (!whole).then(|| RowSelection::from_consecutive_ranges(ranges.into_iter(), base));
    Ok((groups, selection))
}

/// Average bytes of a row of these columns in a row group; `None` for an empty one.
fn row_bytes(open: &OpenShard, group: usize, roots: &[usize]) -> Option<u64> {
    let descriptor = open.footer.metadata().file_metadata().schema_descr();
    let group = open.footer.metadata().row_groups().get(group)?;
    let chunks = group.columns().iter().enumerate();
    let bytes: u64 = chunks
        .filter(|(leaf, _)| roots.binary_search(&descriptor.get_column_root_idx(*leaf)).is_ok())
        .map(|(_, chunk)| chunk.uncompressed_size() as u64)
        .sum();
    bytes.checked_div(group.num_rows() as u64)
}

pub(crate) fn column_names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

impl ShardBatches {
    /// The schema of the batches: the columns in the order asked for, then [`ROW_COLUMN`].
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        let place = self.place.clone();
        let inner = &mut self.inner;
        let read = isolate(
            || place.clone(),
            || inner.next().transpose().map_err(|error| Error::input(format!("damaged shard {place}")).caused_by(error)),
        )?;
        let Some(batch) = read else {
            self.open.reader.file().check_unchanged(self.identity)?;
            return Ok(None);
        };
        let mut columns: Vec<ArrayRef> = vec![];
        for (index, cast) in &self.order {
            let column = batch.columns().get(*index).ok_or_else(|| Error::internal("column missing in a batch"))?;
            columns.push(match cast {
                None => Arc::clone(column),
                Some(to) => {
                    let strict = CastOptions { safe: false, format_options: FormatOptions::default() };
                    arrow::compute::cast_with_options(column, to, &strict)
                        .context(Kind::Input, || format!("cannot read a column as {to} {place}"))?
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map(Some)
            .context(Kind::Internal, || format!("batch does not fit its schema {place}"))
    }
}

impl Iterator for ShardBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let result = self.advance().transpose();
        // After an error the decoder may be in any state: nothing more is taken from it.
        self.done = !matches!(result, Some(Ok(_)));
        result
    }
}
