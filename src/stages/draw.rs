//! A uniform number for each row, keyed by seed, stage and what the row is: its id where it has one, else the content of all its
//! columns. It depends neither on sharding nor on threads.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::columns::{cast_strictly, row_column, row_schema};
use super::seam::{Needs, ROW, Roles, RowLocal, ScanContext};
use crate::dataset::schema::text_values;
use crate::error::{Context as _, Error, Kind, Result};
use crate::random::Random;

/// The column that a draw makes.
pub(super) const COLUMN: &str = "draw";

/// What a draw reads.
pub(super) fn needs(roles: &Roles) -> Needs {
    Needs { columns: roles.id.iter().map(|_| "id".to_owned()).collect(), content: true, ..Needs::default() }
}

/// Draws a number for each row.
pub(super) struct Draw {
    random: Random,
    id: Option<usize>,
    /// The columns that are the row's content, where there is no id: by name, so that their order in a shard does not matter. `None`: the
    /// shard's footer says that all its rows have an id, and not all its columns are read.
    content: Option<Vec<usize>>,
    row: usize,
    output: SchemaRef,
}

impl Draw {
    pub(super) fn try_new(cx: &ScanContext<'_>, seed: u64) -> Result<Self> {
        let id = match &cx.roles.id {
            Some(_) => Some(super::columns::column(cx, "id")?),
            None => None,
        };
        let content = cx.whole.then(|| {
            let mut content: Vec<usize> = (0..cx.schema.fields().len()).filter(|index| cx.schema.field(*index).name() != ROW).collect();
            content.sort_by_key(|index| cx.schema.field(*index).name().clone());
            content
        });
        let fields: Fields = vec![Field::new(COLUMN, DataType::UInt64, false)].into();
        Ok(Self { random: Random::new(seed, cx.stage.as_str()), id, content, row: row_column(cx)?, output: row_schema(&fields) })
    }

    /// The draws of rows that have no id.
    fn by_content(&self, rows: &RecordBatch) -> Result<Vec<u64>> {
        let content = self.content.as_ref().ok_or_else(|| {
            Error::input("a row has no id, and the shard's footer says that each has one")
                .hint("write the shard anew: its statistics are wrong")
        })?;
        let columns: Vec<ArrayRef> = content.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let converter = RowConverter::new(fields).context(Kind::Input, || "rows of these types cannot be sampled by content".into())?;
        let rows = converter.convert_columns(&columns).context(Kind::Input, || "rows cannot be sampled by content".into())?;
        Ok(rows.iter().map(|row| self.random.draw(row.as_ref())).collect())
    }

    fn draws(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        let Some(id) = self.id else { return self.by_content(batch) };
        let ids = cast_strictly(batch.column(id), &DataType::Utf8)?;
        let ids = text_values(ids.as_ref())?;
        let draw = |id: Option<&str>| id.map(|id| self.random.draw(id.as_bytes()));
        let drawn: Vec<Option<u64>> = ids.iter().map(draw).collect();
        let without: UInt32Array = (0_u32..).zip(&drawn).filter(|(_, draw)| draw.is_none()).map(|(row, _)| Some(row)).collect();
        if without.is_empty() {
            return Ok(drawn.into_iter().flatten().collect());
        }
        let rows = take_record_batch(batch, &without).context(Kind::Internal, || "cannot take the rows without an id".into())?;
        let mut others = self.by_content(&rows)?.into_iter();
        drawn.into_iter().map(|draw| draw.or_else(|| others.next()).ok_or_else(|| Error::internal("a row was not drawn"))).collect()
    }
}

impl RowLocal for Draw {
    fn makes(&self) -> Fields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![Arc::clone(batch.column(self.row)), Arc::new(UInt64Array::from(self.draws(batch)?))];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build draws".into())
    }
}
