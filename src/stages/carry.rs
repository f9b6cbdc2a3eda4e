//! Carries columns into a barrier: what orders the rows (a column of the shard, or the length of what the stage reads), and numbers.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, SchemaRef};

use super::columns::{cast_strictly, column, order_type, order_values, row_column, row_schema};
use super::policy::Keep;
use super::seam::{RowLocal, ScanContext};
use crate::error::{Context as _, Error, Kind, Result};

/// The column that it makes.
pub(super) const ORDER: &str = "order";

/// What orders the rows beside the row id, for a stage whose features are made anyway.
pub(super) enum OrderKey {
    /// Bytes of what the stage reads of a row, as they stand in the shard.
    Length,
    /// A column of the shard.
    Column(usize, DataType),
}

impl OrderKey {
    /// What `keep` asks for, if anything, and its column.
    pub(super) fn try_new(keep: &Keep, cx: &ScanContext<'_>) -> Result<Option<(Self, Field)>> {
        Ok(match keep {
            Keep::Longest | Keep::Shortest => Some((Self::Length, Field::new(ORDER, DataType::Int64, false))),
            Keep::By { column: name, .. } => {
                let index = column(cx, name)?;
                let kind = order_type(cx, cx.schema.field(index))?;
                let field = Field::new(ORDER, kind.clone(), true);
                Some((Self::Column(index, kind), field))
            }
            _ => None,
        })
    }

    /// The values of a batch; `lengths` gives those of its rows.
    pub(super) fn values(&self, batch: &RecordBatch, lengths: impl IntoIterator<Item = usize>) -> Result<ArrayRef> {
        match self {
            Self::Length => Ok(Arc::new(lengths.into_iter().map(|length| Some(length as i64)).collect::<Int64Array>())),
            Self::Column(index, kind) => order_values(batch.column(*index), kind),
        }
    }
}

/// Gives one column of the shard as `order`.
pub(super) struct Carry {
    column: usize,
    order: DataType,
    row: usize,
    output: SchemaRef,
}

impl Carry {
    pub(super) fn try_new(cx: &ScanContext<'_>, name: &str) -> Result<Self> {
        let column = column(cx, name)?;
        let order = order_type(cx, cx.schema.field(column))?;
        let fields: Fields = vec![Field::new(ORDER, order.clone(), true)].into();
        Ok(Self { column, order, row: row_column(cx)?, output: row_schema(&fields) })
    }
}

impl RowLocal for Carry {
    fn makes(&self) -> Fields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = vec![Arc::clone(batch.column(self.row)), order_values(batch.column(self.column), &self.order)?];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot carry a column".into())
    }
}

/// The place of the column of numbers that `name` means.
pub(super) fn number_column(cx: &ScanContext<'_>, name: &str) -> Result<usize> {
    let index = column(cx, name)?;
    let kind = cx.schema.field(index).data_type();
    let kind = match kind {
        DataType::Dictionary(_, values) => values.as_ref(),
        kind => kind,
    };
    if kind.is_numeric() || matches!(kind, DataType::Boolean | DataType::Null) {
        return Ok(index);
    }
    let message = format!("a column is no number stage=`{}` column=`{name}` type=`{kind}`", cx.stage);
    Err(Error::input(message).hint("name a column of whole numbers, floats, decimals or truth values"))
}

/// Its values as doubles; null and NaN are none, and the two zeros are one.
pub(super) fn number_values(array: &ArrayRef) -> Result<Vec<Option<f64>>> {
    let values = cast_strictly(array, &DataType::Float64)?;
    Ok(values.as_primitive::<Float64Type>().iter().map(|value| value.filter(|value| !value.is_nan()).map(|value| value + 0.0)).collect())
}

/// Gives columns of the shard as doubles: null where the row has no number.
pub(super) struct CarryNumbers {
    columns: Vec<usize>,
    row: usize,
    output: SchemaRef,
}

impl CarryNumbers {
    /// Of columns by name or role, each under a narrow name.
    pub(super) fn try_new(cx: &ScanContext<'_>, columns: &[(&str, String)]) -> Result<Self> {
        let fields: Fields = columns.iter().map(|(_, narrow)| Field::new(narrow, DataType::Float64, true)).collect();
        let columns = columns.iter().map(|(name, _)| number_column(cx, name)).collect::<Result<_>>()?;
        Ok(Self { columns, row: row_column(cx)?, output: row_schema(&fields) })
    }
}

impl RowLocal for CarryNumbers {
    fn makes(&self) -> Fields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = vec![Arc::clone(batch.column(self.row))];
        for index in &self.columns {
            columns.push(Arc::new(Float64Array::from(number_values(batch.column(*index))?)));
        }
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot carry numbers".into())
    }
}

/// An operator that gives the columns of both, which describe all rows that they are given.
pub(super) fn together(first: Box<dyn RowLocal>, second: Box<dyn RowLocal>) -> Box<dyn RowLocal> {
    let fields: Fields = first.makes().iter().chain(&second.makes()).cloned().collect();
    Box::new(Together { first, second, output: row_schema(&fields) })
}

struct Together {
    first: Box<dyn RowLocal>,
    second: Box<dyn RowLocal>,
    output: SchemaRef,
}

impl RowLocal for Together {
    fn makes(&self) -> Fields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = self.first.apply(batch)?.columns().to_vec();
        columns.extend(self.second.apply(batch)?.columns().iter().skip(1).cloned());
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot join columns".into())
    }
}
