//! Our one adapter to the engine's operator trait: a unary operator that turns a stream of rows into another.
//!
//! A phase is a chain of these over one descriptor row a partition: the scan takes descriptors and opens the shard itself, the
//! stages take rows, the sink writes the artefact and gives one receipt. Each partition is one shard, and all that identifies
//! it stands in its descriptor, never in the partition number.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties};

use super::RowStream;
use super::failure::{from_datafusion, into_datafusion};
use crate::error::{Error, Result};

/// What one step of a phase does to the rows of one partition.
pub trait ShardOperator: fmt::Debug + Send + Sync {
    /// Its name in plans.
    fn name(&self) -> &str;
    /// The schema of what it gives.
    fn output_schema(&self) -> SchemaRef;
    /// Starts it on one partition.
    fn run(&self, input: RowStream) -> Result<RowStream>;
}

/// A physical plan: the only thing that crosses the seam to a cluster.
pub type Plan = Arc<dyn ExecutionPlan>;

/// The start of a phase: one partition a descriptor.
pub fn descriptors(schema: &SchemaRef, rows: Vec<RecordBatch>) -> Result<Plan> {
    let partitions: Vec<Vec<RecordBatch>> = rows.into_iter().map(|row| vec![row]).collect();
    let source = MemorySourceConfig::try_new_exec(&partitions, Arc::clone(schema), None).map_err(from_datafusion)?;
    Ok(source)
}

/// Puts `operator` on top of `input`, partition by partition.
pub fn then(input: Plan, operator: Arc<dyn ShardOperator>) -> Plan {
    let properties = PlanProperties::new(
        EquivalenceProperties::new(operator.output_schema()),
        input.output_partitioning().clone(),
        EmissionType::Incremental,
        Boundedness::Bounded,
    );
    Arc::new(ShardExec { input, operator, properties: Arc::new(properties) })
}

#[derive(Debug)]
struct ShardExec {
    input: Plan,
    operator: Arc<dyn ShardOperator>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for ShardExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operator.name())
    }
}

impl ExecutionPlan for ShardExec {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn replace_children(self: Arc<Self>, children: Vec<Plan>, _: ReplaceChildrenOptions) -> EngineResult<Plan> {
        let Ok([input]) = <[Plan; 1]>::try_from(children) else {
            return Err(DataFusionError::Internal("a shard operator has one input".into()));
        };
        Ok(then(input, Arc::clone(&self.operator)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> EngineResult<Plan> {
        use datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> EngineResult<TreeNodeRecursion>,
    ) -> EngineResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> EngineResult<RowStream> {
        let input = self.input.execute(partition, context)?;
        self.operator.run(input).map_err(into_datafusion)
    }
}

/// The only row of a one-row batch stream, as the scan and the sink read their descriptor.
pub async fn only_row(input: &mut RowStream) -> Result<RecordBatch> {
    match super::next(input).await {
        Some(batch) => {
            batch.and_then(|batch| if batch.num_rows() == 1 { Ok(batch) } else { Err(Error::internal("a descriptor is one row")) })
        }
        None => Err(Error::internal("a partition came without its descriptor")),
    }
}
