//! `trommel state`: what a state holds, how it came about, whether its files are whole; and what changes it beside runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::excerpt::printable;
use super::forget::{self, ForgetArguments};
use super::run::{self, RunArguments};
use super::{Format, Global, output, root};
use crate::error::{Error, Kind, Result};
use crate::ids::ContentHash;
use crate::state::compact;
use crate::state::kept::Kept;
use crate::state::segments::{KnownShard, read_shards};
use crate::state::store::{Content, Maker, Store, Version};
use crate::telemetry::{bytes, count};

/// Arguments of `state`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel state show ../state
  trommel state history ../state --format json
  trommel state verify ../state
  trommel state compact ../state
  trommel state rebuild daily.yaml")]
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
    /// Take documents out: from the next version on they match nothing
    Forget(ForgetArguments),
    /// Merge small files, and remove what the newest version does not list: rows that were forgotten are gone
    Compact(Folder),
    /// Decide over all shards anew, as a run that takes nothing over: after a change of stages or models, or when rows have drifted
    Rebuild(RunArguments),
}

#[derive(Debug, Clone, Args)]
struct Folder {
    /// The folder of the state
    #[arg(value_name = "STATE")]
    state: PathBuf,
}

/// Runs the command.
pub(crate) fn state(arguments: &StateArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let folder = match &arguments.command {
        Command::Rebuild(arguments) => return run::rebuild(arguments, global, out),
        Command::Forget(arguments) => arguments.state(),
        Command::Show(folder) | Command::History(folder) | Command::Verify(folder) | Command::Compact(folder) => &folder.state,
    };
    let store = Store::new(folder);
    if let Some(root) = root(global)? {
        root.confine(store.folder())?;
    }
    let missing = || {
        Error::state(format!("there is no state path=`{}`", store.folder().display()))
            .hint("name the folder that `state` of a pipeline names, after a run has ended")
    };
    if store.versions()?.is_empty() {
        return Err(missing());
    }
    // Held before the newest version is read, by what makes another.
    let _lock = match &arguments.command {
        Command::Compact(_) => Some(store.hold()?),
        Command::Forget(arguments) if !arguments.dry_run() => Some(store.hold()?),
        _ => None,
    };
    // Files of a version that was read may be merged away meanwhile: then there is a newer one.
    let mut printed = Vec::new();
    let result = loop {
        printed.clear();
        let (head, hash) = store.head()?.ok_or_else(missing)?;
        let number = head.version;
        let result = carry_out(&arguments.command, &store, (head, hash), global, &mut printed);
        let newer = store.versions()?.last().is_some_and(|newest| *newest > number);
        let looks = matches!(arguments.command, Command::Show(_) | Command::History(_) | Command::Verify(_));
        match result {
            Err(error) if looks && newer && error.kind() == Kind::State => {}
            result => break result,
        }
    };
    output::text(out, &String::from_utf8_lossy(&printed))?;
    result
}

fn carry_out(command: &Command, store: &Store, (head, hash): (Version, ContentHash), global: &Global, out: &mut dyn Write) -> Result<()> {
    match command {
        Command::Show(_) => show(store, &head, &hash.to_string(), global.format, out),
        Command::History(_) => history(store, &head, global.format, out),
        Command::Verify(_) => verify(store, &head, global.format, out),
        Command::Forget(arguments) => forget::forget(arguments, store, &(head, hash), global, out),
        Command::Compact(_) => compact(store, &(head, hash), global.format, out),
        Command::Rebuild(_) => Ok(()),
    }
}

fn compact(store: &Store, head: &(Version, ContentHash), format: Format, out: &mut dyn Write) -> Result<()> {
    store.finish(&head.0)?;
    let before = head.0.segments.len();
    let made = compact::compact(store, head)?;
    let version = made.as_ref().unwrap_or(&head.0);
    let removed = store.remove_unlisted(version)?;
    let (files, size) = (removed.len(), removed.iter().map(|(_, bytes)| bytes).sum::<u64>());
    match format {
        Format::Json => output::json(
            out,
            &json!({
                "files": {"after": version.segments.len(), "before": before}, "removed": {"bytes": size, "files": files},
                "version": version.version,
            }),
        ),
        Format::Text => {
            let done = match &made {
                Some(version) => format!("version {}: {} files, before {}", version.version, version.segments.len(), before),
                None => format!("version {}: nothing to merge", version.version),
            };
            output::text(out, &format!("{done}\n{} files removed, {}\n", count(files as u64), bytes(size)))
        }
    }
}

fn show(store: &Store, head: &Version, hash: &str, format: Format, out: &mut dyn Write) -> Result<()> {
    let stored = Kept::open(store, head)?;
    let mut kept: BTreeMap<&str, u64> = BTreeMap::new();
    for segment in &head.segments {
        if let Content::Rows { stage, .. } | Content::Named { stage, .. } | Content::Fitted { stage } = &segment.content {
            *kept.entry(stage.as_str()).or_default() += segment.bytes;
        }
    }
    let all: u64 = head.segments.iter().map(|segment| segment.bytes).sum();
    let stages = head.stages.iter().map(|stage| (stage, stored.rows(&stage.id), kept.get(stage.id.as_str()).copied().unwrap_or_default()));
    if format == Format::Json {
        let stages: Vec<_> = stages
            .map(|(stage, rows, size)| {
                let forgotten = stored.forgotten(&stage.id).len();
                json!({"bytes": size, "config": stage.config, "forgotten": forgotten, "id": stage.id, "kind": stage.kind, "rows": rows})
            })
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

fn history(store: &Store, head: &Version, format: Format, out: &mut dyn Write) -> Result<()> {
    let (mut text, mut versions) = (String::new(), Vec::new());
    // The newest version lists the shards of all that it goes on from, with the run that read each.
    let mut shards: BTreeMap<String, Vec<KnownShard>> = BTreeMap::new();
    for segment in head.segments.iter().filter(|segment| segment.content == Content::Shards) {
        for shard in read_shards(store, segment)? {
            shards.entry(shard.run_id.clone()).or_default().push(shard);
        }
    }
    for number in store.versions()? {
        let (version, _) = store.read(number)?;
        let mut value = json!({"made_by": version.made_by, "version": number});
        let _ = match version.made_by {
            Maker::Forget => {
                let lists = version.segments.iter().filter(|segment| segment.content == Content::Forgotten && segment.version == number);
                writeln!(text, "version {number}: {} rows were forgotten, counted in each stage", count(lists.map(|list| list.rows).sum()))
            }
            Maker::Compact => writeln!(text, "version {number}: files were merged"),
            Maker::Run | Maker::Rebuild => {
                let read = shards.get(&version.run_id).map_or(&[][..], Vec::as_slice);
                let names: Vec<_> =
                    read.iter().map(|shard| json!({"path": shard.path, "rows": shard.rows, "source": shard.source})).collect();
                if let Some(value) = value.as_object_mut() {
                    value.insert("dataset".into(), json!(version.dataset));
                    value.insert("run_id".into(), json!(version.run_id));
                    value.insert("shards".into(), json!(names));
                }
                let folder = printable(&version.dataset.folder.display().to_string());
                let anew = if version.made_by == Maker::Rebuild { ", anew" } else { "" };
                // Those that a rebuild has replaced are no longer listed.
                let shards = if read.is_empty() { String::new() } else { format!("shards {}, ", count(read.len() as u64)) };
                let (rows, kept) = (count(version.dataset.rows), count(version.dataset.kept));
                writeln!(text, "version {number}: {shards}rows {rows}, kept {kept}{anew}, run {}, {folder}", version.run_id)
            }
        };
        versions.push(value);
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
