//! How often kept rows are to be taken, where a stage takes some of them more than once.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, UInt64Array};
use arrow::datatypes::UInt64Type;

use super::context::RunContext;
use crate::dataset::snapshot::Shard;
use crate::engine::Reservation;
use crate::error::{Error, Result};
use crate::ids::RowId;
use crate::state::artefacts::{read_table, unreadable};

/// What the stages say that take rows more than once.
#[derive(Debug)]
pub(super) struct Repeats {
    /// The stage, and how often each row that it keeps is to be taken, in row order.
    stages: Vec<(usize, Vec<(u64, u64)>)>,
    _memory: Reservation,
}

impl Repeats {
    /// Reads the tables of the stages that leave one, of those that are `wanted`.
    pub(super) fn read(cx: &RunContext, wanted: impl Fn(usize) -> bool) -> Result<Self> {
        let memory = cx.engine.reserve("reading how often rows are taken", 0)?;
        let mut stages = Vec::new();
        for (stage, decided) in cx.decisions.iter().filter(|(stage, _)| wanted(**stage)) {
            let Some(table) = cx.plan.stages[*stage].config.repeats() else { continue };
            let mut rows = Vec::new();
            for (_, path) in decided.tables(&cx.artefacts).into_iter().filter(|(name, _)| name.strip_suffix(".parquet") == Some(table)) {
                for batch in read_table(&path, None, cx.engine.batch_rows())? {
                    let batch = batch.map_err(|error| unreadable(&path, error))?;
                    memory.grow(batch.num_rows() * size_of::<(u64, u64)>())?;
                    let column = |index: usize| batch.columns().get(index).and_then(|column| column.as_primitive_opt::<UInt64Type>());
                    let (ids, times) = column(0).zip(column(1)).ok_or_else(|| Error::state("a table of repeats has no numbers"))?;
                    rows.extend(ids.values().iter().copied().zip(times.values().iter().copied()));
                }
            }
            stages.push((*stage, rows));
        }
        Ok(Self { stages, _memory: memory })
    }

    /// How often a row is to be taken by all stages together; `None` where none of them tells of it.
    pub(super) fn of(&self, row: RowId) -> Option<u64> {
        let times = self.stages.iter().filter_map(|(_, rows)| {
            let place = rows.binary_search_by_key(&row.to_bits(), |(row, _)| *row).ok()?;
            rows.get(place).map(|(_, times)| *times)
        });
        times.reduce(u64::saturating_mul)
    }

    /// How often `stage` takes each row of a shard; null where it does not tell of the row.
    pub(super) fn column(&self, stage: usize, shard: &Shard) -> ArrayRef {
        let mut times = vec![None; shard.rows_used as usize];
        let of_stage = self.stages.iter().filter(|(other, _)| *other == stage).flat_map(|(_, rows)| {
            let from = rows.partition_point(|(row, _)| RowId::from_bits(*row).shard() < shard.id);
            rows[from..].iter().take_while(|(row, _)| RowId::from_bits(*row).shard() == shard.id)
        });
        for (row, count) in of_stage {
            if let Some(times) = times.get_mut(RowId::from_bits(*row).row() as usize) {
                *times = Some(*count);
            }
        }
        Arc::new(UInt64Array::from(times))
    }
}
