//! `trommel schema`: the JSON Schema of the pipeline file.

use std::io::Write;

use super::output;
use crate::config::schema::json_schema;
use crate::error::Result;

/// Prints the JSON Schema.
///
/// # Errors
/// Kind storage when `out` cannot be written.
pub fn run(out: &mut dyn Write) -> Result<()> {
    output::json(out, &json_schema())
}
