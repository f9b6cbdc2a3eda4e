//! `trommel validate`: every problem of a pipeline file at once, without looking at anything else.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::output;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::error::{Error, Result};
use crate::plan::checked::Checked;
use crate::storage::uri::Root;

/// Checks the pipeline file `file`, whose bytes are `text`. Prints one line where it is valid; else all problems, as text in the
/// error or as JSON on `out`.
///
/// # Errors
/// Kind usage when there is a problem; kind storage when `out` cannot be written.
pub fn run(text: &[u8], file: &Path, sets: &[(String, String)], root: Option<&Root>, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let name = file.display().to_string();
    let checked = Checked::read(text, file, sets, root);
    if as_json {
        let value = match &checked {
            Ok(checked) => json!({"file": name, "problems": [], "stages": checked.pipeline.stages.len(), "valid": true}),
            Err(problems) => json!({"file": name, "problems": problems_as_json(problems), "valid": false}),
        };
        output::text(out, &format!("{value}\n"))?;
        return match checked {
            Ok(_) => Ok(()),
            Err(problems) => Err(Error::usage(format!("{} in the pipeline file=`{name}`", counted(problems.len(), "problem")))),
        };
    }
    match checked {
        Ok(checked) => {
            let pipeline = checked.pipeline;
            let sources = counted(pipeline.sources.len(), "source");
            let stages = counted(pipeline.stages.len(), "stage");
            output::text(out, &format!("{name}: the pipeline `{}` is valid: {sources}, {stages}\n", pipeline.name))
        }
        Err(problems) => problems.into_result(&name),
    }
}

/// The problems as `validate --format json` prints them, in order of place.
fn problems_as_json(problems: &Diagnostics) -> Vec<Value> {
    let one = |problem: &Diagnostic| {
        json!({
            "column": problem.position.map(|at| at.column),
            "hint": problem.hint,
            "line": problem.position.map(|at| at.line),
            "message": problem.message,
            "path": problem.path,
        })
    };
    problems.sorted().into_iter().map(one).collect()
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
