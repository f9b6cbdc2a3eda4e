//! `trommel schema`: the JSON Schema of the pipeline file.

use std::io::Write;

use crate::config::schema::json_schema;
use crate::error::{Context, Kind, Result};

/// Prints the JSON Schema.
///
/// # Errors
/// Kind storage when `out` cannot be written.
pub fn run(out: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(&json_schema()).context(Kind::Internal, || "cannot print the schema".into())?;
    writeln!(out, "{text}").context(Kind::Storage, || "cannot write to the output".into())
}
