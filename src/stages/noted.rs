//! Columns of numbers that are noted while another reader takes the stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::AsArray as _;
use arrow::datatypes::Float64Type;

use super::columns::numbers;
use super::seam::ROW_ID;
use crate::engine::{Engine, Reservation, RowStream, map};
use crate::error::{Error, Result};

/// Numbers of each row, in row order.
#[derive(Debug)]
pub(super) struct Numbers {
    rows: Vec<u64>,
    columns: Vec<Vec<Option<f64>>>,
    memory: Reservation,
}

/// What is filled while a stream is read.
pub(super) type SharedNumbers = Arc<Mutex<Numbers>>;

/// The rows of `stream` as they are, of which the named columns (f64) are noted as they go by.
pub(super) fn noting(engine: &Engine, stream: RowStream, names: Vec<String>) -> Result<(RowStream, SharedNumbers)> {
    let memory = engine.reserve("noting numbers", 0)?;
    let noted = Arc::new(Mutex::new(Numbers { rows: Vec::new(), columns: vec![Vec::new(); names.len()], memory }));
    let (shared, schema) = (Arc::clone(&noted), stream.schema());
    let stream = map(stream, schema, move |batch| {
        let mut noted = taken(&shared);
        noted.memory.grow(batch.num_rows() * (size_of::<u64>() + names.len() * size_of::<Option<f64>>()))?;
        noted.rows.extend_from_slice(numbers(&batch, ROW_ID)?.values());
        for (name, values) in names.iter().zip(&mut noted.columns) {
            let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
            values.extend(column.ok_or_else(|| Error::internal(format!("no such narrow column column=`{name}`")))?.iter());
        }
        Ok(batch)
    });
    Ok((stream, noted))
}

/// Takes what was noted, after the stream has ended.
pub(super) fn taken(shared: &SharedNumbers) -> MutexGuard<'_, Numbers> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Numbers {
    /// The numbers of a column for some rows ([`crate::ids::RowId`] bits).
    pub(super) fn of(&self, column: usize, rows: &[u64]) -> Result<Vec<Option<f64>>> {
        let values = self.columns.get(column).ok_or_else(|| Error::internal("a column that was not noted"))?;
        let one = |row: &u64| {
            let place = self.rows.binary_search(row).ok().and_then(|place| values.get(place));
            place.copied().ok_or_else(|| Error::internal("a row that was not noted"))
        };
        rows.iter().map(one).collect()
    }

    /// The rows that went by.
    pub(super) fn rows(&self) -> &[u64] {
        &self.rows
    }
}
