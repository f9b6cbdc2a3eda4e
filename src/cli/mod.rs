//! The surface: one file a command. Standard output is data, standard error is progress and logs.

pub mod dedup;
mod difference;
pub mod doctor;
mod evidence;
mod excerpt;
mod forget;
pub mod gc;
pub mod init;
pub mod output;
pub mod pairs;
pub mod plan;
pub mod run;
pub mod schema;
pub mod state;
mod survey;
pub mod validate;
pub mod verify;
pub mod why;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::limits::MAX_PIPELINE_BYTES;
use crate::plan::checked::Checked;
use crate::run::runner::Prepared;
use crate::storage::uri::Root;
use crate::storage::{local, record};

/// Deduplicates training corpora held in Parquet: exact and semantic duplicates, coresets, and lineage that says why.
#[derive(Debug, Parser)]
#[command(name = "trommel", version, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// How standard output is written.
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub format: Format,
    /// No progress and no notes on standard error.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Refuse every path that leads outside this folder, links followed.
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// How standard output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A pipeline file and what replaces its values.
#[derive(Debug, Clone, Args)]
pub struct PipelineArguments {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: PathBuf,
    /// Replace a value of the file, such as `stages.semantic.epsilon=0.05`; may be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = set_pair)]
    pub sets: Vec<(String, String)>,
}

fn set_pair(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("write PATH=VALUE, such as `stages.semantic.epsilon=0.05`")?;
    Ok((path.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline: read the shards, drop duplicates, write the dataset with its lineage
    Run(run::RunArguments),
    /// Check a pipeline file without reading any shard; all problems at once
    #[command(after_help = "Examples:
  trommel validate pipelines/quickstart.yaml
  trommel validate daily.yaml --set stages.semantic.epsilon=0.1 --format json")]
    Validate(PipelineArguments),
    /// Show what a run would do: scans, barriers, cached artefacts, bytes to read
    Plan(plan::PlanArguments),
    /// Check a dataset: every file against its hash, every input row once in the lineage, every representative
    Verify(verify::VerifyArguments),
    /// Show why a row was kept or dropped: the chain of decisions, with the texts
    Why(why::WhyArguments),
    /// Show dropped rows beside the rows that they duplicate, closest to the threshold first
    Pairs(pairs::PairsArguments),
    /// Print a first pipeline file, made from the shards' schema
    Init(init::InitArguments),
    /// Drop exact or near duplicates without a pipeline file
    Dedup(dedup::DedupArguments),
    /// Print the JSON Schema of the pipeline file, for editors
    #[command(after_help = "Examples:
  trommel schema > trommel.schema.json

An editor with a YAML language server takes it from the first line of a pipeline file:
  # yaml-language-server: $schema=trommel.schema.json")]
    Schema,
    /// Remove what no run will ask for again from the work folder of a pipeline, and from its state
    Gc(gc::GcArguments),
    /// Look at a state, take documents out of it, merge its files, or decide over all shards anew
    State(state::StateArguments),
    /// Show what this machine has: cores, CPU features, memory, ONNX Runtime
    Doctor(doctor::DoctorArguments),
}

/// The program: reads the arguments, runs the command, prints a failure, gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let faults = std::env::var_os(fault::VARIABLE).map_or(Ok(()), |text| fault::start(&text.to_string_lossy()));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not failures.
            let code = if error.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            let _ = error.print().is_ok();
            return ExitCode::from(code);
        }
    };
    let ended = faults.and_then(|()| dispatch(arguments)).and_then(|()| record::write_counts());
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", error.report()).is_ok();
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<()> {
    let Arguments { command, global } = arguments;
    let mut out = std::io::stdout().lock();
    match command {
        Command::Run(arguments) => run::run(&arguments, &global, &mut out),
        Command::Validate(arguments) => {
            let root = root(&global)?;
            let bytes = pipeline_bytes(&arguments.pipeline)?;
            validate::run(&bytes, &arguments.pipeline, &arguments.sets, root.as_ref(), global.format == Format::Json, &mut out)
        }
        Command::Plan(arguments) => plan::plan(&arguments, &global, &mut out),
        Command::Verify(arguments) => verify::verify(&arguments, &global, &mut out),
        Command::Why(arguments) => why::why(&arguments, &global, &mut out),
        Command::Pairs(arguments) => pairs::pairs(&arguments, &global, &mut out),
        Command::Init(arguments) => init::init(&arguments, &global, &mut out),
        Command::Dedup(arguments) => dedup::dedup(&arguments, &global, &mut out),
        Command::Gc(arguments) => gc::gc(&arguments, &global, &mut out),
        Command::State(arguments) => state::state(&arguments, &global, &mut out),
        Command::Schema => schema::run(&mut out),
        Command::Doctor(arguments) => doctor::doctor(&arguments, &global, &mut out),
    }
}

/// The folder of `--root`.
pub(crate) fn root(global: &Global) -> Result<Option<Root>> {
    global.root.as_deref().map(Root::new).transpose()
}

/// The bytes of a pipeline file; what is too long to be one is read no further than is needed to say so.
fn pipeline_bytes(file: &Path) -> Result<Vec<u8>> {
    local::read_to_vec(file, MAX_PIPELINE_BYTES as u64 + 1)
        .map_err(|error| Error::usage(format!("cannot read the pipeline file path=`{}`", file.display())).caused_by(error))
}

/// Reads, checks and resolves a pipeline file.
pub(crate) fn prepare(arguments: &PipelineArguments, global: &Global) -> Result<Prepared> {
    let root = root(global)?;
    let file = &arguments.pipeline;
    let bytes = pipeline_bytes(file)?;
    let checked = match Checked::read(&bytes, file, &arguments.sets, root.as_ref()) {
        Ok(checked) => checked,
        Err(problems) => {
            problems.into_result(&file.display().to_string())?;
            return Err(Error::internal("a pipeline was refused without a problem"));
        }
    };
    Prepared::new(file, checked, root.as_ref())
}
