//! `trommel run`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{Format, Global, PipelineArguments, output, prepare, root};
use crate::declare::reader::parse_bytes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::run::runner::{self, RunOptions, TakeOver};
use crate::telemetry::{Telemetry, memory};

/// The share of the machine that a run takes unless `--memory` says otherwise.
const MEMORY_SHARE: f64 = 0.6;
/// The budget where the machine does not say what it has.
const MEMORY_UNKNOWN: usize = 4 << 30;

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel run pipelines/quickstart.yaml
  trommel run daily.yaml --overwrite --memory 8GiB --threads 4
  trommel run daily.yaml --limit-rows 10000 --set sink.parquet.uri=../try
  trommel run daily.yaml --dry-run")]
pub struct RunArguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    #[command(flatten)]
    machine: MachineArguments,
    /// Replace the dataset that an earlier run left
    #[arg(long)]
    overwrite: bool,
    /// Only the first N rows of the corpus: for a first try
    #[arg(long, value_name = "N")]
    limit_rows: Option<u64>,
    /// Say what would be dropped, and write neither a dataset nor a version of the state; what was computed is kept for the run
    #[arg(long)]
    dry_run: bool,
    /// Compute everything anew, whatever earlier runs have left in the work folder
    #[arg(long)]
    fresh: bool,
}

/// What a run may use of the machine.
#[derive(Debug, Clone, Args)]
pub struct MachineArguments {
    /// Worker threads; default: all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// The memory budget, such as `8GiB`; default: 60 % of the machine
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// Rows in a record batch; changes speed, never a result
    #[arg(long, value_name = "N", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    batch_rows: u32,
    /// The ONNX Runtime library, or the folder that holds it; default: `ORT_DYLIB_PATH`, then the `onnxruntime` Python package
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text).map_err(|(message, _)| message)?;
    // Less cannot hold a decoded batch a thread, a model and the sorts' merge.
    if bytes < 64 << 20 { Err("at least 64MiB are needed".into()) } else { usize::try_from(bytes).map_err(|error| error.to_string()) }
}

impl MachineArguments {
    /// The options of a run.
    pub(crate) fn options(&self, global: &Global, overwrite: bool, limit_rows: Option<u64>) -> Result<RunOptions> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let default = || memory::machine_bytes().map_or(MEMORY_UNKNOWN, |bytes| (bytes as f64 * MEMORY_SHARE) as usize);
        Ok(RunOptions {
            threads: self.threads.map_or(cores, usize::from),
            memory_bytes: self.memory.unwrap_or_else(default),
            batch_rows: self.batch_rows as usize,
            limit_rows,
            overwrite,
            take_over: TakeOver::Everything,
            dry_run: false,
            fresh: false,
            root: root(global)?,
            onnxruntime: self.onnxruntime.clone(),
        })
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &RunArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    carry_out(arguments, TakeOver::Everything, global, out)
}

/// Runs `state rebuild`: as a run, but nothing is taken over from the state.
pub(crate) fn rebuild(arguments: &RunArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    carry_out(arguments, TakeOver::Nothing, global, out)
}

fn carry_out(arguments: &RunArguments, take_over: TakeOver, global: &Global, out: &mut dyn Write) -> Result<()> {
    let prepared = prepare(&arguments.pipeline, global)?;
    if take_over == TakeOver::Nothing && prepared.state().is_none() {
        return Err(Error::usage("the pipeline has no state to rebuild").hint("name its folder: `state: { uri: ../state/ }`"));
    }
    let mut options = arguments.machine.options(global, arguments.overwrite, arguments.limit_rows)?;
    options.dry_run = arguments.dry_run;
    options.fresh = arguments.fresh;
    options.take_over = take_over;
    let telemetry = Telemetry::new(global.quiet);
    let ran = runner::run(&prepared, &options, &telemetry, stop_on_interrupt)?;
    match global.format {
        Format::Json => output::json(out, &ran.json()),
        Format::Text => output::text(out, &ran.text()),
    }
}

/// Ctrl-C and SIGTERM stop the run at the next task or batch.
pub(crate) fn stop_on_interrupt(engine: &Engine) {
    let stop = engine.stop().clone();
    engine.spawn(async move {
        #[cfg(unix)]
        let terminate = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => signal.recv().await.is_some(),
                Err(_) => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let terminate = std::future::pending::<bool>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate => {}
        }
        stop.request();
    });
}
