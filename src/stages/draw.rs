//! A uniform number for each row, keyed by seed, stage and what the row is: its id where the source has one, else the content of
//! all its columns. It depends neither on sharding nor on threads.

use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::columns::{cast_strictly, row_column, row_schema};
use super::seam::{Needs, ROW, Roles, RowLocal, ScanContext};
use crate::dataset::schema::text_values;
use crate::error::{Context as _, Kind, Result};
use crate::random::Random;

/// The column that a draw makes.
pub(super) const COLUMN: &str = "draw";

/// What a draw reads.
pub(super) fn needs(roles: &Roles) -> Needs {
    match &roles.id {
        Some(_) => Needs { columns: vec!["id".into()], ..Needs::default() },
        None => Needs { all_columns: true, ..Needs::default() },
    }
}

/// Draws a number for each row.
pub(super) struct Draw {
    random: Random,
    id: Option<usize>,
    /// The columns that are the row's content, where there is no id: by name, so that their order in a shard does not matter.
    content: Vec<usize>,
    row: usize,
    output: SchemaRef,
}

impl Draw {
    pub(super) fn try_new(cx: &ScanContext<'_>, seed: u64) -> Result<Self> {
        let id = match &cx.roles.id {
            Some(_) => Some(super::columns::column(cx, "id")?),
            None => None,
        };
        let mut content: Vec<usize> = (0..cx.schema.fields().len()).filter(|index| cx.schema.field(*index).name() != ROW).collect();
        content.sort_by_key(|index| cx.schema.field(*index).name().clone());
        let fields: Fields = vec![Field::new(COLUMN, DataType::UInt64, false)].into();
        Ok(Self { random: Random::new(seed, cx.stage.as_str()), id, content, row: row_column(cx)?, output: row_schema(&fields) })
    }
}

impl RowLocal for Draw {
    fn makes(&self) -> Fields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let draws: UInt64Array = if let Some(id) = self.id {
            let ids = cast_strictly(batch.column(id), &DataType::Utf8)?;
            let ids = text_values(ids.as_ref())?;
            // Rows without an id draw alike: nothing tells them apart.
            (0..batch.num_rows()).map(|row| Some(self.random.draw(ids.get(row).map_or(&[][..], str::as_bytes)))).collect()
        } else {
            let fields = self.content.iter().map(|index| SortField::new(batch.column(*index).data_type().clone())).collect();
            let columns: Vec<_> = self.content.iter().map(|index| Arc::clone(batch.column(*index))).collect();
            let converter = RowConverter::new(fields).context(Kind::Input, || "rows of these types cannot be sampled by content".into())?;
            let rows = converter.convert_columns(&columns).context(Kind::Input, || "rows cannot be sampled by content".into())?;
            rows.iter().map(|row| Some(self.random.draw(row.as_ref()))).collect()
        };
        let columns = vec![Arc::clone(batch.column(self.row)), Arc::new(draws) as _];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build draws".into())
    }
}
