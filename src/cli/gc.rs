//! `trommel gc`.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{Format, Global, PipelineArguments, output, prepare};
use crate::error::Result;
use crate::state::collect::Garbage;
use crate::state::store::Store;
use crate::telemetry::{bytes, count};

/// Arguments of `gc`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel gc daily.yaml --dry-run
  trommel gc daily.yaml")]
pub struct GcArguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// List what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub(crate) fn gc(arguments: &GcArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let prepared = prepare(&arguments.pipeline, global)?;
    let store = prepared.state().map(Store::new);
    let garbage = Garbage::find(prepared.work(), store.as_ref(), prepared.written_sink())?;
    let (files, size) = (garbage.files.clone(), garbage.files.iter().map(|(_, bytes)| bytes).sum::<u64>());
    if !arguments.dry_run {
        garbage.remove()?;
    }
    match global.format {
        Format::Json => {
            let files: Vec<_> = files.iter().map(|(path, bytes)| json!({"bytes": bytes, "path": path.display().to_string()})).collect();
            output::json(out, &json!({"bytes": size, "dry_run": arguments.dry_run, "files": files}))
        }
        Format::Text => {
            let mut text = String::new();
            for (path, length) in files.iter().filter(|_| arguments.dry_run) {
                let _ = writeln!(text, "{:>12}  {}", bytes(*length), path.display());
            }
            let done = if arguments.dry_run { "would be removed" } else { "removed" };
            let _ = writeln!(text, "{} files, {}, {done}", count(files.len() as u64), bytes(size));
            output::text(out, &text)
        }
    }
}
