//! Tasks on the cluster: one descriptor a task, one receipt a descriptor, and the artefacts as the truth.

use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};

use super::context::RunContext;
use crate::engine::cluster::Cluster as _;
use crate::engine::shard_exec::{ShardOperator, descriptors, only_row, then};
use crate::engine::{RowStream, rows, spawn};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::TaskKey;
use crate::telemetry::Phase;

/// What identifies a task: never a partition number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// The shard, by its place in the snapshot.
    pub(super) ordinal: usize,
    /// The task's key.
    pub(super) key: TaskKey,
    /// Bytes of the shard, for progress.
    pub(super) bytes: u64,
}

fn descriptor_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("bytes", DataType::UInt64, false),
    ]))
}

impl Descriptor {
    fn to_row(self) -> Result<RecordBatch> {
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(UInt64Array::from(vec![self.ordinal as u64])),
            Arc::new(StringArray::from(vec![self.key.to_string()])),
            Arc::new(UInt64Array::from(vec![self.bytes])),
        ];
        RecordBatch::try_new(descriptor_schema(), columns).context(Kind::Internal, || "cannot build a descriptor".into())
    }

    fn from_row(row: &RecordBatch) -> Result<Self> {
        let key =
            TaskKey::from_hex(row.column(1).as_string::<i32>().value(0)).ok_or_else(|| Error::internal("a descriptor without a key"))?;
        let number = |column: usize| row.column(column).as_primitive::<UInt64Type>().value(0);
        Ok(Self { ordinal: number(0) as usize, key, bytes: number(2) })
    }
}

/// The work of one phase on one shard.
struct ShardTask {
    name: &'static str,
    work: Arc<dyn Fn(Descriptor) -> Result<()> + Send + Sync>,
}

impl std::fmt::Debug for ShardTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardTask").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ShardOperator for ShardTask {
    fn name(&self) -> &str {
        self.name
    }

    fn output_schema(&self) -> SchemaRef {
        descriptor_schema()
    }

    fn run(&self, mut input: RowStream) -> Result<RowStream> {
        let work = Arc::clone(&self.work);
        let receipt = async move {
            let row = only_row(&mut input).await?;
            let descriptor = Descriptor::from_row(&row)?;
            // Decoding, models and files block: not on a thread that drives streams.
            spawn::blocking("a task", move || work(descriptor)).await?;
            Ok(row)
        };
        Ok(rows(descriptor_schema(), futures::stream::once(receipt)))
    }
}

/// Runs `work` once for each descriptor, at most `at_once` at a time.
pub(super) async fn run_tasks(
    cx: &RunContext,
    name: &'static str,
    tasks: Vec<Descriptor>,
    at_once: usize,
    phase: &Phase,
    work: impl Fn(Descriptor) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let rows = tasks.into_iter().map(Descriptor::to_row).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok(());
    }
    let plan = then(descriptors(&descriptor_schema(), rows)?, Arc::new(ShardTask { name, work: Arc::new(work) }));
    let done = |receipt: &RecordBatch| {
        if let Ok(descriptor) = Descriptor::from_row(receipt) {
            phase.advance(descriptor.bytes);
        }
    };
    cx.cluster.run(plan, at_once, &done).await.map(drop)
}
