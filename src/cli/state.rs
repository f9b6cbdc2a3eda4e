//! `trommel state`: what a state holds, how it came about, and whether its files are whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::excerpt::printable;
use super::{Format, Global, output, root};
use crate::error::{Error, Result};
use crate::state::segments::read_shards;
use crate::state::store::{Content, Store, Version};
use crate::telemetry::{bytes, count};

/// Arguments of `state`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel state show ../state
  trommel state history ../state --format json
  trommel state verify ../state")]
pub struct StateArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Show the newest version: shards, stages, rows that each keeps, files
    Show(Folder),
    /// List the versions: which run made each, and of what
    History(Folder),
    /// Hash every file of the newest version
    Verify(Folder),
}

#[derive(Debug, Clone, Args)]
struct Folder {
    /// The folder of the state
    #[arg(value_name = "STATE")]
    state: PathBuf,
}

/// Runs the command.
pub(crate) fn state(arguments: &StateArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let (Command::Show(folder) | Command::History(folder) | Command::Verify(folder)) = &arguments.command;
    let store = Store::new(&folder.state);
    if let Some(root) = root(global)? {
        root.confine(store.folder())?;
    }
    let Some((head, hash)) = store.head()? else {
        return Err(Error::state(format!("there is no state path=`{}`", store.folder().display()))
            .hint("name the folder that `state` of a pipeline names, after a run has ended"));
    };
    match &arguments.command {
        Command::Show(_) => show(&store, &head, &hash.to_string(), global.format, out),
        Command::History(_) => history(&store, global.format, out),
        Command::Verify(_) => verify(&store, &head, global.format, out),
    }
}

fn show(store: &Store, head: &Version, hash: &str, format: Format, out: &mut dyn Write) -> Result<()> {
    let mut kept: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for segment in &head.segments {
        if let Content::Rows { stage, .. } | Content::Named { stage, .. } = &segment.content {
            let (rows, size) = kept.entry(stage.as_str()).or_default();
            *rows += if matches!(segment.content, Content::Rows { .. }) { segment.rows } else { 0 };
            *size += segment.bytes;
        }
    }
    let all: u64 = head.segments.iter().map(|segment| segment.bytes).sum();
    let stages = head.stages.iter().map(|stage| {
        let (rows, size) = kept.get(stage.id.as_str()).copied().unwrap_or_default();
        (stage, rows, size)
    });
    if format == Format::Json {
        let stages: Vec<_> = stages
            .map(|(stage, rows, size)| json!({"bytes": size, "config": stage.config, "id": stage.id, "kind": stage.kind, "rows": rows}))
            .collect();
        let files = head.segments.len();
        return output::json(
            out,
            &json!({
                "bytes": all, "dataset": head.dataset, "files": files, "manifest": hash, "rows": head.rows, "run_id": head.run_id,
                "shards": head.shards, "stages": stages, "version": head.version,
            }),
        );
    }
    let mut text = String::new();
    let _ = writeln!(text, "version {} of {}", head.version, store.folder().display());
    let _ = writeln!(text, "{} rows of {} shards are known", count(head.rows), count(head.shards));
    for (stage, rows, size) in stages {
        let _ = writeln!(text, "  {} ({}) keeps {} rows in {}", stage.id, stage.kind, count(rows), bytes(size));
    }
    let _ = writeln!(text, "{} files, {}", count(head.segments.len() as u64), bytes(all));
    let _ = writeln!(text, "newest dataset {}", printable(&head.dataset.folder.display().to_string()));
    output::text(out, &text)
}

fn history(store: &Store, format: Format, out: &mut dyn Write) -> Result<()> {
    let (mut text, mut versions) = (String::new(), Vec::new());
    for number in store.versions()? {
        let (version, _) = store.read(number)?;
        let mut shards = Vec::new();
        for segment in version.segments.iter().filter(|segment| segment.content == Content::Shards && segment.version == number) {
            shards.extend(read_shards(store, segment)?);
        }
        let _ = writeln!(
            text,
            "version {number}: shards {}, rows {}, kept {}, run {}, {}",
            count(shards.len() as u64),
            count(version.dataset.rows),
            count(version.dataset.kept),
            version.run_id,
            printable(&version.dataset.folder.display().to_string())
        );
        let names: Vec<_> = shards.iter().map(|shard| json!({"path": shard.path, "rows": shard.rows, "source": shard.source})).collect();
        versions.push(json!({"dataset": version.dataset, "run_id": version.run_id, "shards": names, "version": number}));
    }
    match format {
        Format::Json => output::json(out, &versions),
        Format::Text => output::text(out, &text),
    }
}

fn verify(store: &Store, head: &Version, format: Format, out: &mut dyn Write) -> Result<()> {
    let (mut problems, files, size) = store.verify(head)?;
    // Each version's manifest names the one before by its hash.
    let mut version = head.clone();
    while let Some(base) = &version.base {
        let number = version.version - 1;
        match store.read(number) {
            Ok((before, hash)) if hash.to_string() == *base => version = before,
            Ok(_) => {
                problems.push(format!("a manifest has changed version=`{number}`"));
                break;
            }
            Err(error) => {
                problems.push(format!("a manifest cannot be read version=`{number}`: {error}"));
                break;
            }
        }
    }
    match format {
        Format::Json => output::json(out, &json!({"bytes": size, "files": files, "ok": problems.is_empty(), "problems": problems}))?,
        Format::Text => {
            let mut text = format!("{} files, {}\n", count(files), bytes(size));
            for problem in &problems {
                let _ = writeln!(text, "  {}", printable(problem));
            }
            output::text(out, &text)?;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::state(format!("the state is damaged problems=`{}`", problems.len()))) }
}
