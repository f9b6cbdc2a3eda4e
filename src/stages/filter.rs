//! `filter`: keeps the rows for which an SQL expression holds; NULL counts as false.

use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, prep_null_mask_filter};
use arrow::datatypes::{Fields as ArrowFields, Schema, SchemaRef};
use serde_json::{Value, json};

use super::columns::{missing, row_column, row_schema};
use super::seam::{Needs, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::shape::required;
use crate::declare::{Field, Fields, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::PhysicalExpr;
use crate::engine::expr::{self, check_predicate};
use crate::error::{Context as _, Kind, Result};

/// `filter: {where: SQL}`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterConfig {
    /// A boolean expression over the columns of one row; no aggregate, window, subquery or volatile function.
    pub predicate: String,
}

/// The keys of `filter`.
pub const FIELDS: &[Field] = &[required(
    "where",
    Shape::Sql,
    "A boolean SQL expression (DataFusion) over the columns of one row, such as `length(text) >= 200`; rows for which it is false or NULL are dropped.",
)];

impl FilterConfig {
    /// Reads the checked map and checks the expression as far as that is possible without a schema.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let predicate = fields.text("where");
        if let Some(sql) = &predicate
            && let Err((message, hint)) = check_predicate(sql)
        {
            fields.problem(out, "where", message, hint);
        }
        Self { predicate: predicate.unwrap_or_default() }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"where": self.predicate})
    }
}

impl Stage for FilterConfig {
    fn kind(&self) -> &'static str {
        "filter"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(Self::canonical(self))
    }

    fn shape(&self) -> StageShape {
        StageShape::RowLocal
    }

    fn needs(&self, _: &Roles) -> Needs {
        Needs { columns: expr::columns_of(&self.predicate), ..Needs::default() }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(Filter::try_new(&self.predicate, cx)?)))
    }
}

/// Keeps the rows for which the predicate is true.
#[derive(Debug)]
struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
    /// The columns of the scan that the predicate reads, in the order of `schema`.
    columns: Vec<usize>,
    /// Those columns under the names that the predicate uses.
    schema: SchemaRef,
    row: usize,
    output: SchemaRef,
}

impl Filter {
    fn try_new(predicate: &str, cx: &ScanContext<'_>) -> Result<Self> {
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        for name in expr::columns_of(predicate) {
            let index = cx.schema.index_of(cx.roles.column(&name)).map_err(|_| missing(cx.stage, &name))?;
            columns.push(index);
            fields.push(cx.schema.field(index).clone().with_name(name));
        }
        let schema = Arc::new(Schema::new(fields));
        let predicate = expr::compile(predicate, Arc::clone(&schema))
            .map_err(|error| error.context(format!("cannot use the predicate stage=`{}`", cx.stage)))?;
        let row = row_column(cx)?;
        Ok(Self { predicate, columns, schema, row, output: row_schema(&ArrowFields::empty()) })
    }
}

impl RowLocal for Filter {
    fn makes(&self) -> ArrowFields {
        ArrowFields::empty()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns.iter().map(|index| Arc::clone(batch.column(*index))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let named = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .context(Kind::Internal, || "cannot name columns".into())?;
        let passes = expr::evaluate(&self.predicate, &named)?;
        // SQL's third value counts as false.
        let passes = if passes.null_count() > 0 { prep_null_mask_filter(&passes) } else { passes };
        let rows = filter(batch.column(self.row), &passes).context(Kind::Internal, || "cannot filter row numbers".into())?;
        RecordBatch::try_new(Arc::clone(&self.output), vec![rows]).context(Kind::Internal, || "cannot build the rows that pass".into())
    }
}
