//! `trommel dedup`: exact and near duplicates out, without a pipeline file. The command writes the file that a user would write and runs
//! that, so that there is one path.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use clap::Args;

use super::init::{no_text, quoted};
use super::run::{MachineArguments, stop_on_interrupt};
use super::survey::{Column, Survey, names, survey};
use super::{Format, Global, output, root};
use crate::error::{Error, Result};
use crate::plan::checked::Checked;
use crate::run::runner::{self, Prepared};
use crate::telemetry::Telemetry;

/// Names that say that a column is the text.
const TEXT_NAMES: [&str; 5] = ["text", "content", "document", "body", "raw_content"];
/// The share of all bytes of strings that tells the text apart where its name does not.
const TEXT_SHARE: f64 = 0.8;

/// Arguments of `dedup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel dedup 'data/*.parquet' -o out/data
  trommel dedup data/ -o out/data --text body --memory 8GiB
  trommel pairs out/data

Exact duplicates: texts that are equal after Unicode NFKC, in lower case, with white space collapsed. Then near duplicates:
texts whose 5-word shingles have a Jaccard similarity of at least --threshold; candidates come from MinHash bands, and each
pair is verified. The first row is kept, as it was. For more, start from `trommel init GLOB`.
The work folder is .trommel/NAME beside OUT; it makes a second run short, and may be deleted.")]
pub struct DedupArguments {
    /// The shards: a Parquet file, a folder of such files, or a glob in quotes
    #[arg(value_name = "GLOB")]
    glob: String,
    /// The folder that the run creates
    #[arg(short, long, value_name = "OUT")]
    output: String,
    /// The column that is compared; needed where several could be meant
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// The column that lineage names rows by; default: one called `id`, `doc_id` and the like
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
    /// The share of shingles from which on two texts are near duplicates, above 0 and at most 1
    #[arg(long, value_name = "SIMILARITY", default_value_t = 0.8)]
    threshold: f64,
    /// Replace the dataset that an earlier run left
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// Runs the command.
pub(crate) fn dedup(arguments: &DedupArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let root = root(global)?;
    let survey = survey(&arguments.glob, root.as_ref())?;
    let text = match &arguments.text {
        Some(name) => survey.named_text(name)?,
        None => tell_text(&survey)?,
    };
    let id = match &arguments.id {
        Some(name) => Some(survey.named(name)?),
        None => survey.id_by_name(&text.name),
    };
    let yaml = pipeline(arguments, text, id)?;
    // Stands for the file in messages and in run.json; relative paths are those of the command line.
    let file = Path::new("trommel dedup");
    let checked = Checked::read(&yaml, file, &[], root.as_ref()).map_err(|problems| {
        let problems = problems.sorted();
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        let error = Error::usage(messages.join("; "));
        match problems.iter().find_map(|problem| problem.hint.as_deref()) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    let prepared = Prepared::new(file, checked, root.as_ref())?;
    let options = arguments.machine.options(global, arguments.overwrite, None)?;
    let telemetry = Telemetry::new(global.quiet);
    telemetry.note(&format!("rows are compared by `{}`", super::excerpt::printable(&text.name)));
    let ran = runner::run(&prepared, &options, &telemetry, stop_on_interrupt)?;
    match global.format {
        Format::Json => output::json(out, &ran.json()),
        Format::Text => output::text(out, &ran.text()),
    }
}

/// The column that is surely the text: by its name, as the only one, or because it holds nearly all that there is.
fn tell_text(survey: &Survey) -> Result<&Column> {
    let texts = survey.texts();
    let named = TEXT_NAMES.iter().find_map(|name| texts.iter().find(|column| column.name.eq_ignore_ascii_case(name)));
    if let Some(column) = named {
        return Ok(column);
    }
    let all: u64 = texts.iter().map(|column| column.bytes).sum();
    match texts.first() {
        None => Err(no_text(survey)),
        Some(longest) if texts.len() == 1 || longest.bytes as f64 >= TEXT_SHARE * all as f64 => Ok(longest),
        Some(_) => Err(Error::usage("which column holds the text?").hint(format!("name it with --text COLUMN: {}", names(&texts)))),
    }
}

/// The pipeline file that the command stands for.
fn pipeline(arguments: &DedupArguments, text: &Column, id: Option<&Column>) -> Result<String> {
    let output = arguments.output.trim_end_matches('/');
    let (folder, name) = output.rsplit_once('/').unwrap_or(("", output));
    if matches!(name, "" | "." | "..") {
        return Err(Error::usage(format!("the output has no name path=`{}`", arguments.output))
            .hint("name a folder that the run creates, such as `-o out/data`"));
    }
    let work = if output.contains('/') { format!("{folder}/.trommel/{name}/") } else { format!(".trommel/{name}/") };
    let mut yaml = String::from("version: 1\nname: dedup\nsources:\n  corpus:\n    parquet:\n");
    // Writing to a string cannot fail.
    let _ = writeln!(yaml, "      uri: {}\n      text: {}", quoted(&arguments.glob), quoted(&text.name));
    if let Some(id) = id {
        let _ = writeln!(yaml, "      id: {}", quoted(&id.name));
    }
    let _ = write!(
        yaml,
        "stages:
  - id: exact
    exact_dedup: {{ columns: [{text}], normalize: [nfkc, lowercase, collapse_whitespace] }}
  - id: near
    minhash_dedup: {{ column: {text}, threshold: {} }}
sink: {{ parquet: {{ uri: {} }} }}
work: {{ uri: {} }}
",
        arguments.threshold,
        quoted(&arguments.output),
        quoted(&work),
        text = quoted(&text.name),
    );
    Ok(yaml)
}
