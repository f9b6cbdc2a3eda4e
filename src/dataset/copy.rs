//! Copying a row group as it is: its column chunks are spliced into the output without being decompressed.

use std::io::BufReader;

use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::Type;

use crate::dataset::pages;
use crate::dataset::reader::{At, ShardReader};
use crate::dataset::snapshot::OpenShard;
use crate::error::Result;

/// Bytes read at once while copying.
const COPY_BYTES: usize = 256 << 10;

/// Whether two Parquet schemas lay values out alike: same names, nesting, repetition and physical types. Annotations may
/// differ (older writers leave the newer kind out), for the output keeps the input's own.
#[must_use]
pub fn same_layout(a: &Type, b: &Type) -> bool {
    let (a_info, b_info) = (a.get_basic_info(), b.get_basic_info());
    let same_info = a_info.name() == b_info.name()
        && a_info.has_repetition() == b_info.has_repetition()
        && (!a_info.has_repetition() || a_info.repetition() == b_info.repetition());
    same_info
        && match (a, b) {
            (
                Type::PrimitiveType { physical_type: a_type, type_length: a_length, .. },
                Type::PrimitiveType { physical_type: b_type, type_length: b_length, .. },
            ) => {
                // Only fixed-length values have a length; elsewhere writers put 0 or -1.
                let fixed = *a_type == PhysicalType::FIXED_LEN_BYTE_ARRAY;
                (a_type == b_type && (!fixed || a_length == b_length)) || same_decimal(a, b)
            }
            (Type::GroupType { fields: a, .. }, Type::GroupType { fields: b, .. }) => same_fields(a, b),
            _ => false,
        }
}

/// Whether both are decimals of one precision and scale that the encoder can write either way: as bytes of the least length
/// (what other writers choose) or as an integer (what the Arrow schema gives back).
fn same_decimal(a: &Type, b: &Type) -> bool {
    let (
        Type::PrimitiveType { physical_type: PhysicalType::FIXED_LEN_BYTE_ARRAY, type_length, precision, scale, basic_info },
        Type::PrimitiveType {
            physical_type: PhysicalType::INT32 | PhysicalType::INT64,
            precision: other_precision,
            scale: other_scale,
            ..
        },
    ) = (a, b)
    else {
        return false;
    };
    let decimal =
        matches!(basic_info.logical_type_ref(), Some(LogicalType::Decimal { .. })) || basic_info.converted_type() == ConvertedType::DECIMAL;
    // An integer holds at most 18 digits; n bytes hold those below 2^(8n-1).
    let least = (1..=8).find(|bytes| 10_u64.checked_pow(precision.unsigned_abs()).is_some_and(|top| top <= 1 << (8 * bytes - 1)));
    decimal && precision == other_precision && scale == other_scale && least == Some(*type_length)
}

/// [`same_layout`] for two lists of fields.
#[must_use]
pub fn same_fields<T: AsRef<Type>>(a: &[T], b: &[T]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_layout(a.as_ref(), b.as_ref()))
}

/// Whether the page headers of a row group add up to what its footer says in every column: what is copied unseen must at
/// least be what it claims to be.
///
/// # Errors
/// Kind input when a page header cannot be read.
pub fn adds_up(open: &OpenShard, group: usize, place: &dyn Fn() -> String) -> Result<bool> {
    let Some(metadata) = open.footer.metadata().row_groups().get(group) else { return Ok(false) };
    for chunk in metadata.columns() {
        let place = || format!("{} column=`{}`", place(), chunk.column_path().string());
        if !pages::walk(open.reader.file(), chunk, &place)?.adds_up {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What closing the copied chunk says: its own metadata with statistics and encodings; bloom filter and page index are left
/// behind, as in every file that is written here.
#[must_use]
pub fn close_result(chunk: &ColumnChunkMetaData, rows: u64) -> ColumnCloseResult {
    ColumnCloseResult {
        bytes_written: chunk.compressed_size() as u64,
        rows_written: rows,
        metadata: chunk.clone(),
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    }
}

/// A shard's file read in large pieces.
#[derive(Debug)]
pub struct CopyReader<'a>(pub &'a ShardReader);

impl Length for CopyReader<'_> {
    fn len(&self) -> u64 {
        Length::len(self.0)
    }
}

impl ChunkReader for CopyReader<'_> {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::with_capacity(COPY_BYTES, self.0.at(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        self.0.get_bytes(start, length)
    }
}
