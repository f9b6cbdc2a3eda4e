//! The door to DataFusion: streams of record batches, sorts that spill, one memory budget, and the seam between a plan and the
//! machines that run it. Nothing outside this folder names `datafusion`.

pub mod cluster;
pub mod expr;
pub mod failure;
pub mod session;
pub mod shard_exec;
pub mod sort;
pub mod spawn;

pub use datafusion::execution::SendableRecordBatchStream;
pub use datafusion::physical_expr::PhysicalExpr;
pub use session::{Engine, EngineOptions, Reservation, Stop};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt};

use crate::error::Result;

/// Record batches of one schema, in order.
pub type RowStream = SendableRecordBatchStream;

/// Makes a stream of our results a [`RowStream`].
pub fn rows(schema: SchemaRef, stream: impl Stream<Item = Result<RecordBatch>> + Send + 'static) -> RowStream {
    let adapted = stream.map(|batch| batch.map_err(failure::into_datafusion));
    Box::pin(RecordBatchStreamAdapter::new(schema, adapted))
}

/// Makes an iterator of our results a [`RowStream`]; each step runs on the thread that polls.
pub fn rows_of(schema: SchemaRef, batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static) -> RowStream {
    rows(schema, futures::stream::iter(batches))
}

/// All rows of one stream, then those of another of the same schema, which is not asked for any before.
#[must_use]
pub fn chain(first: RowStream, then: RowStream) -> RowStream {
    let schema = first.schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, first.chain(then)))
}

/// The next batch of a stream, with the engine's failure made ours.
pub async fn next(stream: &mut RowStream) -> Option<Result<RecordBatch>> {
    stream.next().await.map(|batch| batch.map_err(failure::from_datafusion))
}

/// Each batch of `input` made into one of `schema`; `step` may carry state from batch to batch.
pub fn map(input: RowStream, schema: SchemaRef, mut step: impl FnMut(RecordBatch) -> Result<RecordBatch> + Send + 'static) -> RowStream {
    rows(schema, input.map(move |batch| step(batch.map_err(failure::from_datafusion)?)))
}
