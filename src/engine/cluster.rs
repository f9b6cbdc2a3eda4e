//! The seam between a plan and the machines that run it.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::ExecutionPlanProperties as _;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};

use super::failure::from_datafusion;
use super::session::Engine;
use super::shard_exec::Plan;
use super::{next, spawn};
use crate::error::Result;

/// Runs the partitions of a plan and gives the receipts of its sinks, in no order. Receipts are news, not truth: after
/// success, failure or deadline the runner looks at the artefacts.
pub trait Cluster: Send + Sync {
    /// Runs every partition once, `at_once` of them at a time; `done` hears of each receipt as it comes.
    fn run<'a>(
        &'a self,
        plan: Plan,
        at_once: usize,
        done: &'a (dyn Fn(&RecordBatch) + Send + Sync),
    ) -> BoxFuture<'a, Result<Vec<RecordBatch>>>;
}

/// This process.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    engine: Arc<Engine>,
}

impl LocalCluster {
    /// A cluster of this process alone.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

impl Cluster for LocalCluster {
    fn run<'a>(
        &'a self,
        plan: Plan,
        at_once: usize,
        done: &'a (dyn Fn(&RecordBatch) + Send + Sync),
    ) -> BoxFuture<'a, Result<Vec<RecordBatch>>> {
        let partitions = plan.output_partitioning().partition_count();
        let engine = &self.engine;
        let started = futures::stream::iter(0..partitions).map(move |partition| {
            let (plan, context, stop) = (Arc::clone(&plan), engine.context(), engine.stop().clone());
            async move {
                // Between tasks is where a run stops.
                stop.check()?;
                spawn::task("a task", async move {
                    let mut receipts = Vec::new();
                    let mut stream = plan.execute(partition, context).map_err(from_datafusion)?;
                    while let Some(batch) = next(&mut stream).await {
                        receipts.push(batch?);
                    }
                    Ok(receipts)
                })
                .await
                .inspect(|receipts| receipts.iter().for_each(done))
            }
        });
        // A failed task does not cut off its siblings: what they finish is kept as artefacts.
        Box::pin(async move {
            let results: Vec<Result<Vec<RecordBatch>>> = started.buffer_unordered(at_once.max(1)).collect().await;
            futures::stream::iter(results)
                .try_fold(Vec::new(), |mut all, receipts| async move {
                    all.extend(receipts);
                    Ok(all)
                })
                .await
        })
    }
}
