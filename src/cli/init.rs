//! `trommel init`: a first pipeline, made from the shards' schema.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde_json::json;

use super::excerpt::{acts, printable};
use super::survey::{Column, Survey, names, survey, working_folder};
use super::{Format, Global, output, root};
use crate::error::{Error, Result};
use crate::limits::MAX_ID_LENGTH;
use crate::storage::uri::{Relation, relation, resolve_plain};
use crate::telemetry::bytes;

/// Columns that the comment lists.
const LISTED_COLUMNS: usize = 100;

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel init 'data/*.parquet' > pipeline.yaml
  trommel init data/ --text body --id url > pipeline.yaml

Paths of a pipeline file are relative to that file: write it into the folder that this command is run in.
Only footers are read, and the first rows of one shard where no column is called like an id.")]
pub struct InitArguments {
    /// The shards: a Parquet file, a folder of such files, or a glob in quotes
    #[arg(value_name = "GLOB")]
    glob: String,
    /// The column of texts; default: the longest column of strings, by bytes
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// The column that names rows; default: one called `id`, `doc_id` and the like, or one whose values look unique
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
}

/// Runs the command.
pub(crate) fn init(arguments: &InitArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let root = root(global)?;
    let survey = survey(&arguments.glob, root.as_ref())?;
    let text = match &arguments.text {
        Some(name) => survey.named_text(name)?,
        None => survey.texts().first().copied().ok_or_else(|| no_text(&survey))?,
    };
    let id = match &arguments.id {
        Some(name) => Some((survey.named(name)?, "as asked for")),
        None => match survey.id_by_name(&text.name) {
            Some(column) => Some((column, "by its name")),
            None => survey.id_by_values(&text.name, root.as_ref())?.map(|column| (column, "no two of the first rows share a value")),
        },
    };
    let yaml = pipeline(&survey, &arguments.glob, text, id)?;
    match global.format {
        Format::Json => output::json(
            out,
            &json!({"pipeline": yaml, "survey": survey.json(), "text": text.name, "id": id.map(|(column, _)| &column.name)}),
        ),
        Format::Text => output::text(out, &yaml),
    }
}

/// No column can be the text.
pub(crate) fn no_text(survey: &Survey) -> Error {
    let all: Vec<&Column> = survey.columns.iter().collect();
    Error::input(format!("no column of texts that all shards have uri=`{}`", survey.location)).hint(format!("columns: {}", names(&all)))
}

/// How stages name the text and, in SQL, too: by its role, unless a column that is not the text has that name.
fn text_names(survey: &Survey, text: &Column) -> (String, String) {
    if text.name == "text" || survey.columns.iter().all(|column| column.name != "text") {
        return ("text".to_owned(), "text".to_owned());
    }
    (scalar(&text.name), format!("\"{}\"", text.name.replace('"', "\"\"")))
}

fn pipeline(survey: &Survey, glob: &str, text: &Column, id: Option<(&Column, &str)>) -> Result<String> {
    let name = name(survey);
    let (column, in_sql) = text_names(survey, text);
    let sink = sink(survey, &name)?;
    let long_enough = quoted(&format!("length({in_sql}) >= 20"));
    let embed = if column == "text" { "{ model: builtin }".to_owned() } else { format!("{{ model: builtin, column: {column} }}") };
    let mut yaml = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        yaml,
        "# Made by `trommel init` from {extent}. Next, with FILE for the name of this file:
#   trommel validate FILE      is it right?
#   trommel plan FILE          what would a run read?
#   trommel run FILE           run it; a first try: --limit-rows 10000
# Paths are relative to the folder of this file.
version: 1
name: {name}
sources:
  corpus:
    parquet:
      uri: {uri}
      text: {text_column}  # {text_bytes}
",
        extent = survey.extent(),
        uri = quoted(glob),
        text_column = scalar(&text.name),
        text_bytes = bytes(text.bytes),
    );
    let _ = match id {
        Some((id, why)) => writeln!(yaml, "      id: {}  # {why}; lineage names rows by it", scalar(&id.name)),
        None => writeln!(yaml, "      # id: COLUMN  # lineage would name rows by it; no column looks like one"),
    };
    let _ = writeln!(yaml, "# The columns, with their sizes. All of them pass through untouched.");
    for column in survey.columns.iter().take(LISTED_COLUMNS) {
        let _ = writeln!(yaml, "#   {}: {}, {}", printable(&column.name), column.type_name(), bytes(column.bytes));
    }
    if survey.columns.len() > LISTED_COLUMNS {
        let _ = writeln!(yaml, "#   and {} more", survey.columns.len() - LISTED_COLUMNS);
    }
    let _ = write!(
        yaml,
        "stages:
  # Rows for which the expression is not true are dropped: any SQL over the columns of one row. NULL counts as false.
  - id: long_enough
    filter: {{ where: {long_enough} }}
  # Of rows whose texts are equal after these steps, the first is kept, as it was.
  - id: exact
    exact_dedup: {{ columns: [{column}], normalize: [nfkc, lowercase, collapse_whitespace] }}
  # Of rows that share most of their 5-word shingles, the first is kept; each pair is verified. `trommel pairs OUT --stage near`
  # shows the pairs nearest to the threshold first.
  - id: near
    minhash_dedup: {{ column: {column}, threshold: 0.8 }}
  # Of rows that say nearly the same, the first is kept: epsilon is 1 - cosine. What it means differs from corpus to corpus:
  # run, look at `trommel pairs OUT --stage semantic`, and set it so that the pairs shown first are still duplicates.
  # - id: vectors
  #   embed: {embed}
  # - id: semantic
  #   semantic_dedup: {{ epsilon: 0.1 }}
# The run creates this folder: pruned shards, their lineage, a manifest.
sink: {{ parquet: {{ uri: {sink} }} }}
",
        sink = quoted(&sink),
    );
    Ok(yaml)
}

/// The pipeline's name: that of the shards' folder.
fn name(survey: &Survey) -> String {
    let base = survey.location.base();
    let folder = if base.extension().is_some_and(|extension| extension == "parquet") { base.parent().unwrap_or(base) } else { base };
    let last = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let letters: String = last.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    let name: String = letters.trim_matches('_').chars().skip_while(|letter| !letter.is_ascii_alphabetic()).take(MAX_ID_LENGTH).collect();
    if name.is_empty() { "corpus".to_owned() } else { name }
}

/// A folder for the output that neither holds the shards nor lies among them.
fn sink(survey: &Survey, name: &str) -> Result<String> {
    let folder = working_folder();
    let mut above = String::new();
    for _ in 0..=folder.components().count() {
        let written = format!("{above}out/{name}/");
        let resolved = resolve_plain(&folder, &written)?;
        if relation(survey.location.base(), resolved.base()) == Relation::Apart {
            return Ok(written);
        }
        above.push_str("../");
    }
    Err(Error::usage("there is no folder beside the shards").hint("name them by a longer path, such as `data/*.parquet`"))
}

/// A text as YAML reads it back, in double quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            letter if acts(letter) => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// A text as YAML reads it back, plain where that is safe.
fn scalar(text: &str) -> String {
    let starts = text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    let plain = starts && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain && !word { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::load;
    use crate::declare::Value;

    proptest! {
        #[test]
        fn yaml_reads_back_what_was_written(text in any::<String>()) {
            for written in [quoted(&text), scalar(&text)] {
                let tree = load::parse(&format!("key: {written}  # comment\n")).unwrap();
                prop_assert_eq!(&tree.get("key").unwrap().value, &Value::Text(text.clone()), "{}", written);
            }
        }
    }

    #[test]
    fn words_of_yaml_are_quoted() {
        assert_eq!(["text", "null", "a b", "1", "", "a-b"].map(scalar), ["text", "\"null\"", "\"a b\"", "\"1\"", "\"\"", "\"a-b\""]);
    }
}
