//! The first scan: one read of a shard gives the decisions of all its row-local stages and the cheap features of its barriers.
//!
//! A step sees only rows that the row-local stages before it let through, so that an expression that an earlier filter guards
//! never meets the rows that it is guarded from. What barriers will drop is not known yet; their rows are looked at as well.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, BooleanBufferBuilder, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use serde_json::Map;

use crate::dataset::reader::{self, ReadRequest};
use crate::dataset::snapshot::Shard;
use crate::engine::Stop;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::plan::compile::{Input, Plan};
use crate::stages::columns::cast_strictly;
use crate::stages::seam::{ROW, Roles, RowLocal, ScanContext};
use crate::state::artefacts::{Receipt, ReceiptFile, TableWriter};

/// The document id in the first scan's artefact.
pub(super) const DOC_ID: &str = "#id";
/// The table of a scan's artefact.
pub(super) const TABLE: &str = "rows.parquet";

/// The name of a stage's narrow column in the artefact: stage ids have no point, so names cannot collide.
pub(super) fn narrow_name(stage: &StageId, column: &str) -> String {
    format!("{stage}.{column}")
}

/// What the first scan of one source does to a shard: plain data.
#[derive(Debug, Clone)]
pub(super) struct ScanTask {
    pub(super) plan: Arc<Plan>,
    pub(super) source: usize,
    /// The types in which the columns that stages name are read.
    pub(super) schema: SchemaRef,
    pub(super) batch_rows: usize,
}

/// A step while it runs.
struct Step {
    stage: usize,
    operator: Option<Box<dyn RowLocal>>,
    decides: bool,
    columns: Vec<Field>,
}

impl ScanTask {
    /// Scans `shard` into a table in `folder`.
    pub(super) fn run(&self, shard: &Shard, folder: &Path, stop: &Stop) -> Result<Receipt> {
        let source = &self.plan.sources[self.source];
        let (columns, whole) = source.reads(shard);
        let request = ReadRequest { columns: &columns, schema: Some(&self.schema), selection: None, batch_rows: self.batch_rows };
        let mut batches = reader::read(shard, request)?;
        let schema = batches.schema();
        let mut steps = self.steps(&source.roles, &schema, whole)?;
        let output = output_schema(&self.plan, &steps, source.roles.id.is_some());
        let mut writer = TableWriter::create(folder, TABLE, &output)?;
        for batch in batches.by_ref() {
            stop.check()?;
            let batch = batch?;
            let scanned = self.scan(&batch, &mut steps, &source.roles, &output);
            writer.write(&scanned.map_err(|error| error.context(format!("cannot scan shard path=`{}`", shard.path)))?)?;
        }
        let file = writer.finish()?;
        if file.rows != shard.rows_used {
            return Err(Error::input(format!(
                "a shard gave another number of rows than its footer says path=`{}` footer=`{}` read=`{}`",
                shard.path, shard.rows_used, file.rows
            )));
        }
        Ok(receipt(file))
    }

    fn steps(&self, roles: &Roles, schema: &SchemaRef, whole: bool) -> Result<Vec<Step>> {
        self.plan.sources[self.source]
            .steps
            .iter()
            .map(|index| {
                let stage = &self.plan.stages[*index];
                let operator = stage.config.row_local(&ScanContext { stage: &stage.id, roles, schema, whole })?;
                let decides = stage.config.shape() == crate::stages::seam::Shape::RowLocal;
                let columns = operator
                    .as_ref()
                    .map_or_else(Vec::new, |operator| operator.makes().iter().map(|field| field.as_ref().clone()).collect());
                Ok(Step { stage: *index, operator, decides, columns })
            })
            .collect()
    }

    fn scan(&self, batch: &RecordBatch, steps: &mut [Step], roles: &Roles, output: &SchemaRef) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let row = batch.column_by_name(ROW).ok_or_else(|| Error::internal("a scan without row numbers"))?;
        let first = row.as_primitive::<UInt64Type>().values().first().copied().unwrap_or(0);
        let mut columns: Vec<ArrayRef> = vec![Arc::clone(row)];
        if let Some(id) = &roles.id {
            let ids = batch.column_by_name(id).ok_or_else(|| Error::internal("a scan without ids"))?;
            let ids = cast_strictly(ids, &DataType::Utf8);
            columns.push(ids.map_err(|error| error.context(format!("the id column cannot be written as text column=`{id}`")))?);
        }
        // What each stage of the plan may let through; barriers and features let everything through here.
        let mut through: Vec<Option<BooleanBuffer>> = vec![None; self.plan.stages.len()];
        for (index, planned) in self.plan.stages.iter().enumerate() {
            if !planned.reached_by[self.source] {
                continue;
            }
            let mut live = BooleanBuffer::new_unset(rows);
            for input in &planned.inputs {
                match input {
                    Input::Source(source) if *source == self.source => live = BooleanBuffer::new_set(rows),
                    Input::Source(_) => {}
                    Input::Stage(stage) => {
                        if let Some(from) = &through[*stage] {
                            live = &live | from;
                        }
                    }
                }
            }
            if let Some(step) = steps.iter_mut().find(|step| step.stage == index)
                && let Some(operator) = step.operator.as_mut()
            {
                let all = live.count_set_bits() == rows;
                let seen = if all {
                    batch.clone()
                } else {
                    filter_record_batch(batch, &BooleanArray::new(live.clone(), None))
                        .context(Kind::Internal, || "cannot narrow a batch".into())?
                };
                let result = operator.apply(&seen).map_err(|error| {
                    let (place, error) = blame(operator.as_mut(), &seen, error);
                    error.context(format!("stage `{}` failed {place} source=`{}`", planned.id, self.plan.sources[self.source].id))
                })?;
                if step.decides {
                    live = passed(&result, first, rows)?;
                    columns.push(Arc::new(BooleanArray::new(live.clone(), None)));
                } else {
                    let places = if all { None } else { Some(places(&live)) };
                    for made in result.columns().iter().skip(1) {
                        columns.push(match &places {
                            None => Arc::clone(made),
                            Some(places) => take(made, places, None).context(Kind::Internal, || "cannot spread a feature".into())?,
                        });
                    }
                }
            }
            through[index] = Some(live);
        }
        RecordBatch::try_new(Arc::clone(output), columns).context(Kind::Internal, || "cannot build a scan's rows".into())
    }
}

/// Which row a stage failed on, and the failure on that row; all that it saw where no row fails by itself.
fn blame(operator: &mut dyn RowLocal, seen: &RecordBatch, error: Error) -> (String, Error) {
    if error.kind() == Kind::Input
        && let Some((row, error)) = first_failure(operator, seen)
    {
        return (format!("row=`{row}`"), error);
    }
    let rows = row_numbers(seen);
    let (first, last) = (rows.first().copied().unwrap_or(0), rows.last().copied().unwrap_or(0));
    (format!("rows=`{first}..={last}`"), error)
}

/// The first row that fails by itself, found by halves: a row-local stage fails on a batch where it fails on one of its rows.
fn first_failure(operator: &mut dyn RowLocal, batch: &RecordBatch) -> Option<(u64, Error)> {
    let error = operator.apply(batch).err()?;
    if batch.num_rows() <= 1 {
        return row_numbers(batch).first().map(|row| (*row, error));
    }
    let half = batch.num_rows() / 2;
    first_failure(operator, &batch.slice(0, half)).or_else(|| first_failure(operator, &batch.slice(half, batch.num_rows() - half)))
}

fn row_numbers(batch: &RecordBatch) -> &[u64] {
    batch.column_by_name(ROW).and_then(|rows| rows.as_primitive_opt::<UInt64Type>()).map_or(&[], |rows| rows.values())
}

/// A receipt of one table.
pub(super) fn receipt(file: ReceiptFile) -> Receipt {
    Receipt::new(vec![file], Map::new())
}

fn output_schema(plan: &Plan, steps: &[Step], has_id: bool) -> SchemaRef {
    let mut fields = vec![Field::new(ROW, DataType::UInt64, false)];
    if has_id {
        fields.push(Field::new(DOC_ID, DataType::Utf8, true));
    }
    for step in steps {
        let id = &plan.stages[step.stage].id;
        if step.decides {
            fields.push(Field::new(id.as_str(), DataType::Boolean, false));
        }
        fields.extend(step.columns.iter().map(|field| Field::new(narrow_name(id, field.name()), field.data_type().clone(), true)));
    }
    Arc::new(Schema::new(fields))
}

/// The rows of a decision's result as a mask over a batch whose first row is `first`.
fn passed(result: &RecordBatch, first: u64, rows: usize) -> Result<BooleanBuffer> {
    let mut mask = BooleanBufferBuilder::new(rows);
    mask.append_n(rows, false);
    for row in result.column(0).as_primitive::<UInt64Type>().values() {
        let place = row.checked_sub(first).and_then(|place| usize::try_from(place).ok()).filter(|place| *place < rows);
        mask.set_bit(place.ok_or_else(|| Error::internal("a row-local stage gave a row that it was not given"))?, true);
    }
    Ok(mask.finish())
}

/// For each row, its place among the set ones; null for the others.
fn places(live: &BooleanBuffer) -> UInt32Array {
    let mut next = 0;
    live.iter()
        .map(|is_live| {
            is_live.then(|| {
                next += 1;
                next - 1
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_the_live_rows() {
        let live = BooleanBuffer::from(vec![false, true, true, false, true]);
        assert_eq!(places(&live), UInt32Array::from(vec![None, Some(0), Some(1), None, Some(2)]));
    }
}
