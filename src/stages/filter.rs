//! `filter`: keeps the rows for which an SQL expression holds; NULL counts as false.

use serde_json::{Value, json};

use crate::declare::shape::required;
use crate::declare::{Field, Fields, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::expr::check_predicate;

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
