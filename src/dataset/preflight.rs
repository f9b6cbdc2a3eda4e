//! Checks on a shard before anything in it is decoded: the footer's claims must fit the file and the limits, and page headers
//! must fit their column chunks.

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::schema::types::Type;

use crate::dataset::reader::ShardReader;
use crate::dataset::{isolate, pages, read_error};
use crate::error::{Context, Error, Kind, Result};
use crate::limits::{MAX_COLUMNS, MAX_FOOTER_BYTES, MAX_ROW_GROUP_BYTES, MAX_ROW_GROUPS, MAX_ROWS_PER_SHARD};
use crate::storage::local::ShardFile;

/// Uncompressed bytes over compressed bytes of a chunk or page.
pub const MAX_COMPRESSION_RATIO: u64 = 1_000;
/// A chunk or page this small when decompressed may have any ratio: a column of one value is no bomb.
pub const SMALL_BYTES: u64 = 64 << 20;
/// Groups inside one another in a schema.
pub const MAX_SCHEMA_DEPTH: usize = 64;

/// How a shard's footer is read: the embedded Arrow schema is used, for it gives time zones, durations and dictionary types
/// back; page indexes are not read, and encoding statistics are kept whole, for a copied chunk carries them on.
#[must_use]
pub fn reader_options() -> ArrowReaderOptions {
    ArrowReaderOptions::new()
        .with_skip_arrow_metadata(false)
        .with_page_index_policy(PageIndexPolicy::Skip)
        .with_encoding_stats_as_mask(false)
}

/// Reads and checks the footer of a shard.
///
/// # Errors
/// Kind input, naming the shard, the row group and the column where one is at fault; kind resources at a limit.
pub fn load_footer(reader: &ShardReader, options: ArrowReaderOptions) -> Result<ArrowReaderMetadata> {
    let file = reader.file();
    let place = || format!("path=`{}`", file.path().display());
    check_trailer(file)?;
    let loaded = isolate(place, || ArrowReaderMetadata::load(reader, options).map_err(|error| read_error(error, &place())))?;
    check_footer(loaded.metadata(), file)?;
    Ok(loaded)
}

fn check_trailer(file: &ShardFile) -> Result<()> {
    let damaged = |what: &str| Error::input(format!("not a whole Parquet file: {what} path=`{}`", file.path().display()));
    if file.bytes() < 12 {
        return Err(damaged("it is shorter than a footer"));
    }
    let mut trailer = [0_u8; 8];
    file.read_exact_at(&mut trailer, file.bytes() - 8)
        .context(Kind::Storage, || format!("cannot read shard path=`{}`", file.path().display()))?;
    let [a, b, c, d, magic @ ..] = trailer;
    if &magic == b"PARE" {
        return Err(Error::input(format!("encrypted shard path=`{}`", file.path().display())));
    }
    if &magic != b"PAR1" {
        return Err(damaged("it does not end with PAR1"));
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer > file.bytes() - 8 {
        return Err(damaged("its footer is longer than the file"));
    }
    if footer > MAX_FOOTER_BYTES as u64 {
        let message = format!("footer too long limit=`{MAX_FOOTER_BYTES}` bytes=`{footer}` path=`{}`", file.path().display());
        return Err(Error::resources(message));
    }
    if footer + 12 > file.bytes() {
        return Err(damaged("its footer is longer than the file"));
    }
    Ok(())
}

/// Checks what a footer claims against the file's length and the limits.
///
/// # Errors
/// As [`load_footer`].
pub fn check_footer(metadata: &ParquetMetaData, file: &ShardFile) -> Result<()> {
    let shard = file.path().display();
    let bad = |what: &str| Error::input(format!("damaged footer: {what} path=`{shard}`"));
    let over = |what: &str, limit: u64| Error::resources(format!("{what} limit=`{limit}` path=`{shard}`"));
    let columns = metadata.file_metadata().schema_descr().num_columns();
    if columns > MAX_COLUMNS {
        return Err(over("too many columns", MAX_COLUMNS as u64));
    }
    if depth(metadata.file_metadata().schema()) > MAX_SCHEMA_DEPTH {
        return Err(over("schema nested too deep", MAX_SCHEMA_DEPTH as u64));
    }
    if metadata.num_row_groups() > MAX_ROW_GROUPS {
        return Err(over("too many row groups", MAX_ROW_GROUPS as u64));
    }
    let mut rows = 0_u64;
    let mut ranges: Vec<(u64, u64)> = vec![];
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let group_rows = u64::try_from(group.num_rows()).map_err(|_| bad(&format!("negative rows row_group=`{index}`")))?;
        rows = rows.saturating_add(group_rows);
        if group.num_columns() != columns {
            return Err(bad(&format!("columns missing row_group=`{index}`")));
        }
        let mut group_bytes = 0_i64;
        for chunk in group.columns() {
            let at = || format!("row_group=`{index}` column=`{}`", chunk.column_path().string());
            let bad = |what: &str| bad(&format!("{what} {}", at()));
            if chunk.file_path().is_some() {
                return Err(bad("values in another file"));
            }
            let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
            let (Ok(start), Ok(length), Ok(uncompressed), Ok(values)) = (
                u64::try_from(start),
                u64::try_from(chunk.compressed_size()),
                u64::try_from(chunk.uncompressed_size()),
                u64::try_from(chunk.num_values()),
            ) else {
                return Err(bad("negative offset, size or count"));
            };
            if chunk.column_descr().max_rep_level() == 0 && values != group_rows {
                return Err(bad("values and rows differ"));
            }
            if uncompressed > SMALL_BYTES && uncompressed / MAX_COMPRESSION_RATIO > length {
                return Err(bad("claims to decompress more than a thousandfold"));
            }
            group_bytes = group_bytes.saturating_add(chunk.uncompressed_size());
            if length > 0 {
                let end = start.checked_add(length).ok_or_else(|| bad("offset too large"))?;
                if start < 4 || end > file.bytes() - 8 {
                    return Err(bad("column chunk outside the file"));
                }
                // A chunk without values may have no data page at all.
                if values > 0 && (chunk.data_page_offset() < start as i64 || chunk.data_page_offset() as u64 >= end) {
                    return Err(bad("first data page outside its column chunk"));
                }
                ranges.push((start, end));
            } else if group_rows > 0 {
                return Err(bad("empty column chunk"));
            }
        }
        if group_bytes > MAX_ROW_GROUP_BYTES {
            return Err(over(&format!("row group too large row_group=`{index}`"), MAX_ROW_GROUP_BYTES as u64)
                .hint("write the shard again with smaller row groups"));
        }
    }
    if u64::try_from(metadata.file_metadata().num_rows()) != Ok(rows) {
        return Err(bad("rows of the row groups do not add up to the rows of the file"));
    }
    if rows > MAX_ROWS_PER_SHARD {
        return Err(over("too many rows", MAX_ROWS_PER_SHARD));
    }
    ranges.sort_unstable();
    if ranges.iter().zip(ranges.iter().skip(1)).any(|(a, b)| b.0 < a.1) {
        return Err(bad("column chunks overlap"));
    }
    Ok(())
}

/// Walks the page headers of every column chunk.
///
/// # Errors
/// Kind input, naming shard, row group and column.
pub fn check_pages(metadata: &ParquetMetaData, file: &ShardFile) -> Result<()> {
    for (index, group) in metadata.row_groups().iter().enumerate() {
        for chunk in group.columns() {
            let place = || format!("path=`{}` row_group=`{index}` column=`{}`", file.path().display(), chunk.column_path().string());
            pages::walk(file, chunk, &place)?;
        }
    }
    Ok(())
}

fn depth(node: &Type) -> usize {
    match node {
        Type::PrimitiveType { .. } => 1,
        Type::GroupType { fields, .. } => 1 + fields.iter().map(|field| depth(field)).max().unwrap_or(0),
    }
}
