//! `trommel verify`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::run::MachineArguments;
use super::{Format, Global, output};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, Result};
use crate::state::{commit, verify};
use crate::storage::local;
use crate::telemetry::{bytes, count};

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel verify out/quickstart
  trommel verify out/quickstart --deep")]
pub struct VerifyArguments {
    /// The folder of the dataset
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Hash the input shards again as well
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// Runs the command.
pub(crate) fn verify(arguments: &VerifyArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    commit::recover(&arguments.output)?;
    let options = arguments.machine.options(global, false, None)?;
    let spill = local::TemporaryFolder::create()?;
    let engine = EngineOptions {
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        batch_rows: options.batch_rows,
        spill_folder: spill.path().to_owned(),
    };
    let engine = Arc::new(Engine::start(engine)?);
    let found = engine.block_on(verify::verify(&engine, &arguments.output, arguments.deep))?;
    match global.format {
        Format::Json => output::json(
            out,
            &json!({
                "bytes": found.bytes, "files": found.files, "inputs": found.inputs, "ok": found.problem_count == 0,
                "problem_count": found.problem_count, "problems": found.problems, "representatives": found.representatives, "rows": found.rows,
            }),
        )?,
        Format::Text => {
            let mut text = String::new();
            let _ = write!(
                text,
                "{} files, {}, {} rows, {} representatives",
                count(found.files),
                bytes(found.bytes),
                count(found.rows),
                count(found.representatives)
            );
            let _ = if arguments.deep { writeln!(text, ", {} input shards", count(found.inputs)) } else { writeln!(text) };
            for problem in &found.problems {
                let _ = writeln!(text, "problem: {problem}");
            }
            let _ = if found.problem_count == 0 { writeln!(text, "verified") } else { Ok(()) };
            output::text(out, &text)?;
        }
    }
    if found.problem_count > 0 {
        let noun = if found.problem_count == 1 { "problem" } else { "problems" };
        return Err(Error::state(format!(
            "the dataset is not what its run left: {} {noun} path=`{}`",
            found.problem_count,
            arguments.output.display()
        ))
        .hint("run the pipeline again with --overwrite"));
    }
    Ok(())
}
