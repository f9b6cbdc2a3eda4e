//! What the operators of stages read of record batches, and the drops that barriers write.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit, UInt64Type};
use arrow::util::display::FormatOptions;

use super::seam::{ROW, ROW_ID, ScanContext, drop_fields};
use crate::engine::{RowStream, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, StageId};

/// The place of the column that `name` means.
pub(super) fn column(cx: &ScanContext<'_>, name: &str) -> Result<usize> {
    cx.schema.index_of(cx.roles.column(name)).map_err(|_| missing(cx.stage, name))
}

/// The error for a column that a shard does not have.
pub(super) fn missing(stage: &StageId, name: &str) -> Error {
    Error::input(format!("a shard lacks a column that a stage names stage=`{stage}` column=`{name}`"))
}

/// The place of [`ROW`].
pub(super) fn row_column(cx: &ScanContext<'_>) -> Result<usize> {
    cx.schema.index_of(ROW).map_err(|error| Error::internal("a scan without row numbers").caused_by(error))
}

/// [`ROW`], then `fields`.
pub(super) fn row_schema(fields: &Fields) -> SchemaRef {
    let row = Arc::new(Field::new(ROW, DataType::UInt64, false));
    Arc::new(Schema::new(std::iter::once(row).chain(fields.iter().cloned()).collect::<Fields>()))
}

/// The type in which an ordering column is carried: one for all integers, one for all floats, one for all texts, so that shards
/// whose columns differ in width still compare.
pub(super) fn order_type(cx: &ScanContext<'_>, field: &Field) -> Result<DataType> {
    Ok(match field.data_type() {
        DataType::Dictionary(_, value) if value.is_string() => DataType::Utf8,
        DataType::Boolean | DataType::UInt64 => DataType::Decimal128(20, 0),
        kind if kind.is_integer() => DataType::Decimal128(20, 0),
        kind if kind.is_floating() => DataType::Float64,
        kind if kind.is_string() => DataType::Utf8,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal128(..) | DataType::Decimal32(..) | DataType::Decimal64(..) => DataType::Float64,
        other => {
            return Err(Error::input(format!(
                "rows cannot be ordered by this column stage=`{}` column=`{}` type=`{other}`",
                cx.stage,
                field.name()
            ))
            .hint("order by a column of numbers, times or text"));
        }
    })
}

/// The values of an ordering column in the type of [`order_type`].
pub(super) fn order_values(array: &ArrayRef, order: &DataType) -> Result<ArrayRef> {
    // Booleans have no direct way to decimals.
    let array = if *array.data_type() == DataType::Boolean { cast_strictly(array, &DataType::Int8)? } else { Arc::clone(array) };
    cast_strictly(&array, order)
}

/// Values in another type; one that does not fit is an error and never a null.
pub(crate) fn cast_strictly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(array, to, &strict)
        .context(Kind::Input, || format!("a value of this type cannot be compared type=`{}` as=`{to}`", array.data_type()))
}

/// A column of 64-bit numbers.
pub(super) fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt64Array> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::internal(format!("no such narrow column column=`{name}`")))?;
    column.as_primitive_opt::<UInt64Type>().ok_or_else(|| Error::internal(format!("a narrow column of another type column=`{name}`")))
}

/// Drops on their way to a record batch of [`drop_fields`].
#[derive(Debug, Default)]
pub(super) struct Drops {
    rows: Vec<u64>,
    reasons: Vec<&'static str>,
    kept: Vec<Option<u64>>,
    scores: Vec<Option<f64>>,
    details: Vec<Option<String>>,
}

impl Drops {
    /// Adds one; `row` and `kept` are [`RowId`] bits.
    pub(super) fn push(&mut self, row: u64, reason: &'static str, kept: Option<u64>, score: Option<f64>, detail: Option<String>) {
        debug_assert_ne!(Some(RowId::from_bits(row)), kept.map(RowId::from_bits), "no row is its own duplicate");
        self.rows.push(row);
        self.reasons.push(reason);
        self.kept.push(kept);
        self.scores.push(score);
        self.details.push(detail);
    }

    /// The batch.
    pub(super) fn finish(self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.rows)),
            Arc::new(StringArray::from(self.reasons)),
            Arc::new(UInt64Array::from(self.kept)),
            Arc::new(Float64Array::from(self.scores)),
            Arc::new(StringArray::from(self.details)),
        ];
        RecordBatch::try_new(drop_fields(), columns).context(Kind::Internal, || "cannot build drops".into())
    }

    /// The drops as a stream sorted by [`ROW_ID`], in pieces.
    pub(super) fn into_stream(self) -> Result<RowStream> {
        let batch = self.finish()?;
        let ids = numbers(&batch, ROW_ID)?;
        let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
        order.sort_unstable_by_key(|index| ids.value(*index as usize));
        let order = arrow::array::UInt32Array::from(order);
        let sorted = arrow::compute::take_record_batch(&batch, &order).context(Kind::Internal, || "cannot sort drops".into())?;
        const PIECE: usize = 8192;
        let pieces = (0..sorted.num_rows()).step_by(PIECE).map(move |from| Ok(sorted.slice(from, PIECE.min(sorted.num_rows() - from))));
        Ok(rows_of(drop_fields(), pieces))
    }
}
