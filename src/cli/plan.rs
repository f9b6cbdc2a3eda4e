//! `trommel plan`.

use std::io::Write;

use clap::Args;

use super::run::MachineArguments;
use super::{Format, Global, PipelineArguments, output, prepare};
use crate::error::Result;
use crate::run::explain::explain;
use crate::telemetry::Telemetry;

/// Arguments of `plan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel plan pipelines/quickstart.yaml
  trommel plan pipelines/quickstart.yaml --format json")]
pub struct PlanArguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    #[command(flatten)]
    machine: MachineArguments,
    /// Only the first N rows of the corpus
    #[arg(long, value_name = "N")]
    limit_rows: Option<u64>,
}

/// Runs the command.
pub(crate) fn plan(arguments: &PlanArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let prepared = prepare(&arguments.pipeline, global)?;
    let options = arguments.machine.options(global, false, arguments.limit_rows)?;
    let explanation = explain(&prepared, &options, &Telemetry::new(global.quiet))?;
    match global.format {
        Format::Json => output::json(out, &explanation),
        Format::Text => output::text(out, &explanation.text()),
    }
}
