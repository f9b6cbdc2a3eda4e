//! Carries an ordering column into a barrier.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};

use super::columns::{column, order_type, order_values, row_column, row_schema};
use super::seam::{RowLocal, ScanContext};
use crate::error::{Context as _, Kind, Result};

/// The column that it makes.
pub(super) const ORDER: &str = "order";

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
