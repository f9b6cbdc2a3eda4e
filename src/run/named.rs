//! Rows that a barrier names, read from their shards once more.

use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::UInt64Type;
use rayon::prelude::*;

use super::context::RunContext;
use crate::dataset::reader::{self, ReadRequest};
use crate::dataset::snapshot::Shard;
use crate::error::{Error, Result};
use crate::ids::RowId;
use crate::limits::MAX_NAMED_ROWS;
use crate::stages::seam::{NamedRows, ScanContext, TakeRows};

/// Reads for barrier `stage`.
pub(super) struct NamedReader {
    pub(super) cx: Arc<RunContext>,
    pub(super) stage: usize,
}

impl NamedRows for NamedReader {
    fn read(&self, wanted: &[u64], take: &TakeRows<'_>) -> Result<()> {
        let planned = &self.cx.plan.stages[self.stage];
        if wanted.len() > MAX_NAMED_ROWS {
            let error = Error::resources(format!("too many rows to read again stage=`{}` rows=`{}`", planned.id, wanted.len()));
            return Err(error.hint("split the corpus, or verify less"));
        }
        let known = self.cx.known_shards();
        let shard_of = |row: &u64| RowId::from_bits(*row).shard().ordinal();
        let (incumbents, wanted) = wanted.split_at(wanted.partition_point(|row| shard_of(row) < known));
        if let Some(increment) = self.cx.increment.as_ref().filter(|_| !incumbents.is_empty()) {
            increment.read_named(planned.id.as_str(), incumbents, take)?;
        }
        let shard_of = |row: &u64| shard_of(row) - known;
        let shards: Vec<&[u64]> = wanted.chunk_by(|a, b| shard_of(a) == shard_of(b)).collect();
        let phase_name = format!("{} {}: candidates", planned.config.kind(), planned.id);
        let bytes = shards.iter().filter_map(|rows| self.cx.snapshot.shards.get(shard_of(rows.first()?))).map(|shard| shard.bytes);
        let phase = self.cx.telemetry.phase(&phase_name, shards.len() as u64, bytes.sum());
        shards.par_iter().try_for_each(|rows| {
            let shard = rows.first().and_then(|row| self.cx.snapshot.shards.get(shard_of(row)));
            let shard = shard.ok_or_else(|| Error::internal("a barrier names a shard that is not in the corpus"))?;
            let mut selected = vec![false; shard.rows_used as usize];
            rows.iter().for_each(|row| selected[RowId::from_bits(*row).row() as usize] = true);
            let selection = BooleanBuffer::from(selected);
            let mut rest = *rows;
            read_columns(&self.cx, self.stage, shard, &selection, |made| {
                let numbers = made.column(0).as_primitive::<UInt64Type>();
                let (these, after) = rest.split_at(numbers.len().min(rest.len()));
                if !these.iter().map(|row| RowId::from_bits(*row).row()).eq(numbers.values().iter().copied()) {
                    return Err(Error::internal("rows were read that were not asked for"));
                }
                take(these, made)?;
                rest = after;
                Ok(())
            })?;
            phase.advance(shard.bytes);
            if rest.is_empty() { Ok(()) } else { Err(Error::internal("rows that were asked for were not read")) }
        })?;
        phase.finish();
        Ok(())
    }
}

/// What stage `stage` makes of the rows of a shard that a mask takes, in their order; their numbers are the first column.
pub(super) fn read_columns(
    cx: &RunContext,
    stage: usize,
    shard: &Shard,
    selection: &BooleanBuffer,
    mut each: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let planned = &cx.plan.stages[stage];
    let roles = &cx.plan.sources[shard.source].roles;
    let columns: Vec<&str> = planned.config.named().into_iter().map(|name| roles.column(name)).collect();
    let request = ReadRequest { columns: &columns, schema: None, selection: Some(selection), batch_rows: cx.engine.batch_rows() };
    let batches = reader::read(shard, request)?;
    let schema = batches.schema();
    let operator = planned.config.named_rows(&ScanContext { stage: &planned.id, roles, schema: &schema, whole: false })?;
    let mut operator = operator.ok_or_else(|| Error::internal("a barrier that asks nothing of its rows"))?;
    for batch in batches {
        cx.engine.stop().check()?;
        each(&operator.apply(&batch?)?)?;
    }
    Ok(())
}
