//! Sorts that spill: barriers sort by key and walk the groups, because hash joins cannot leave memory.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan as _;
use datafusion::physical_plan::sorts::sort::SortExec;

use super::RowStream;
use super::failure::from_datafusion;
use super::session::Engine;
use super::shard_exec::{ShardOperator, descriptors, then};
use crate::error::{Error, Result};

/// One sort key: a column and its direction; nulls come last either way.
#[derive(Debug, Clone)]
pub struct SortKey {
    column: String,
    descending: bool,
}

impl SortKey {
    /// Smallest first.
    pub fn ascending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: false }
    }

    /// Largest first.
    pub fn descending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: true }
    }

    /// The column.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }
}

/// The rows of `input` sorted by `keys`, within the engine's pool, spilling where it is full. The order of rows that are equal
/// in all keys is not stated: end the keys with the row id.
pub fn sort(engine: &Engine, input: RowStream, keys: &[SortKey]) -> Result<RowStream> {
    let schema = input.schema();
    let ordering = keys
        .iter()
        .map(|key| {
            let index = schema.index_of(&key.column).map_err(|error| Error::internal("no such sort column").caused_by(error))?;
            let options = SortOptions { descending: key.descending, nulls_first: false };
            Ok(PhysicalSortExpr::new(Arc::new(Column::new(&key.column, index)), options))
        })
        .collect::<Result<Vec<_>>>()?;
    let ordering = LexOrdering::new(ordering).ok_or_else(|| Error::internal("a sort without keys"))?;
    let empty = Arc::new(Schema::empty());
    let start = descriptors(&empty, vec![RecordBatch::new_empty(Arc::clone(&empty))])?;
    let source = then(start, Arc::new(Given { schema, stream: Mutex::new(Some(input)) }));
    SortExec::new(ordering, source).execute(0, engine.context()).map_err(from_datafusion)
}

/// A stream that is already there, as the leaf of a plan that is run once.
struct Given {
    schema: SchemaRef,
    stream: Mutex<Option<RowStream>>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl ShardOperator for Given {
    fn name(&self) -> &'static str {
        "Given"
    }

    fn output_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn run(&self, _: RowStream) -> Result<RowStream> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| Error::internal("a given stream is read once"))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, UInt64Array};
    use arrow::datatypes::{DataType, Field, UInt64Type};

    use super::*;
    use crate::engine::{EngineOptions, next, rows_of};

    fn engine(memory_bytes: usize) -> (Engine, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions { threads: 2, memory_bytes, batch_rows: 1000, spill_folder: folder.path().to_owned() };
        (Engine::start(options).unwrap(), folder)
    }

    /// More rows than the pool holds are sorted through spill, and equal the sort of a vector.
    #[test]
    fn sorts_more_than_fits() {
        let (engine, _folder) = engine(32 << 20);
        let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::UInt64, false), Field::new("row", DataType::UInt64, false)]));
        let key = |row: u64| row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
        let total = 3_000_000_u64;
        let batch_schema = Arc::clone(&schema);
        let batches = (0..total / 1000).map(move |block| {
            let range = block * 1000..(block + 1) * 1000;
            let keys = UInt64Array::from_iter_values(range.clone().map(key));
            Ok(RecordBatch::try_new(Arc::clone(&batch_schema), vec![Arc::new(keys), Arc::new(UInt64Array::from_iter_values(range))])
                .unwrap())
        });
        let mut expected: Vec<(u64, u64)> = (0..total).map(|row| (u64::MAX - key(row), row)).collect();
        expected.sort_unstable();
        let input = rows_of(schema, batches);
        let sorted = engine.block_on(async {
            let mut stream = sort(&engine, input, &[SortKey::descending("key"), SortKey::ascending("row")]).unwrap();
            let mut sorted = Vec::new();
            while let Some(batch) = next(&mut stream).await {
                let batch = batch.unwrap();
                let keys = batch.column(0).as_primitive::<UInt64Type>().values();
                let rows = batch.column(1).as_primitive::<UInt64Type>().values();
                sorted.extend(keys.iter().zip(rows.iter()).map(|(key, row)| (u64::MAX - key, *row)));
            }
            sorted
        });
        assert!(sorted == expected);
    }
}
