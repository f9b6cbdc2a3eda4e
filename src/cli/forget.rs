//! `trommel state forget`: documents that must not count any more.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::excerpt::printable;
use super::{Format, Global, output, root};
use crate::error::{Error, Result};
use crate::ids::ContentHash;
use crate::state::forget::{self, Standing, standing};
use crate::state::store::{Store, Version};
use crate::storage::local;
use crate::telemetry::count;

/// Bytes of a list of ids.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// Arguments of `state forget`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel state forget ../state --ids takedown.txt --dry-run
  trommel state forget ../state --ids takedown.txt && trommel state compact ../state")]
pub(crate) struct ForgetArguments {
    /// The folder of the state
    #[arg(value_name = "STATE")]
    state: PathBuf,
    /// A text file with one document id a line, as it is: spaces count
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// List what would be forgotten and where it stands, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl ForgetArguments {
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Runs the command; the state is held.
pub(super) fn forget(
    arguments: &ForgetArguments,
    store: &Store,
    head: &(Version, ContentHash),
    global: &Global,
    out: &mut dyn Write,
) -> Result<()> {
    let root = root(global)?;
    if let Some(root) = &root {
        root.confine(&arguments.ids)?;
    }
    let text = local::read_to_string(&arguments.ids, MAX_LIST_BYTES)?;
    // Some editors put a mark before the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let ids: BTreeSet<String> =
        text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line)).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if ids.is_empty() {
        return Err(
            Error::usage(format!("the list of ids is empty path=`{}`", arguments.ids.display())).hint("write one document id a line")
        );
    }
    if !arguments.dry_run {
        store.finish(&head.0)?;
    }
    let found = forget::find(store, &head.0, &ids)?;
    let (mut of_ids, mut for_their_sake, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for number in store.versions()? {
        let (version, _) = store.read(number)?;
        if !version.made_by.is_run() {
            continue;
        }
        // A dataset may have been moved: that keeps nothing from being forgotten.
        let folder = &version.dataset.folder;
        let allowed = root.as_ref().map_or(Ok(()), |root| root.confine(folder).map(drop));
        match allowed.and_then(|()| standing(folder, &ids)) {
            Ok((ids, sakes)) => {
                of_ids.extend(ids);
                for_their_sake.extend(sakes);
            }
            Err(error) => unread.push((version.dataset.folder, error)),
        }
    }
    let new = !found.rows.is_empty() && !arguments.dry_run;
    let version = if new { forget::forget(store, head, &found.rows)?.version } else { head.0.version };
    let stand: BTreeSet<&String> = of_ids.iter().filter_map(|row| row.doc_id.as_ref()).collect();
    let (dropped, unknown): (Vec<&String>, Vec<&String>) =
        ids.iter().filter(|id| !found.ids.contains(*id)).partition(|id| stand.contains(id));
    match global.format {
        Format::Json => {
            let rows: Value = found.rows.iter().map(|(stage, rows)| (stage.clone(), json!(rows.len()))).collect();
            let lines = |rows: &[Standing]| rows.iter().map(line).collect::<Vec<_>>();
            let unread: Vec<_> = unread.iter().map(|(folder, error)| json!({"dataset": folder, "error": error.to_string()})).collect();
            output::json(
                out,
                &json!({
                    "dropped_for_their_sake": lines(&for_their_sake), "dry_run": arguments.dry_run, "forgotten": rows,
                    "found_nowhere": unknown, "not_in_the_state": dropped, "standing": lines(&of_ids), "unread": unread, "version": version,
                }),
            )
        }
        Format::Text => {
            let mut text = String::new();
            let done = if arguments.dry_run { "would be forgotten" } else { "forgotten" };
            for (stage, rows) in &found.rows {
                let _ = writeln!(text, "{stage}: {} rows {done}", count(rows.len() as u64));
            }
            let _ = match (new, found.rows.is_empty()) {
                (true, _) => writeln!(text, "version {version}: they match nothing from here on; `state compact` removes their bytes"),
                (false, true) => writeln!(text, "no stage keeps a row of these ids that is not forgotten already; version {version} stays"),
                (false, false) => writeln!(text, "dry run: version {version} stays"),
            };
            if !found.rows.is_empty() {
                let _ =
                    writeln!(text, "centroids and maps that were fitted to such rows among others stay: `state rebuild` fits them anew");
            }
            if !dropped.is_empty() {
                let _ = writeln!(text, "ids of which no stage keeps a row, for it was dropped: {}", count(dropped.len() as u64));
            }
            if !unknown.is_empty() {
                let _ =
                    writeln!(text, "ids that were found nowhere, neither in the state nor in a dataset: {}", count(unknown.len() as u64));
            }
            for id in &unknown {
                let _ = writeln!(text, "  {}", printable(id));
            }
            list(&mut text, "rows of these ids in published datasets, which stay as they are", &of_ids);
            list(&mut text, "rows that were dropped for their sake", &for_their_sake);
            for (folder, error) in &unread {
                let _ = writeln!(text, "cannot say what stands in {}: {error}", printable(&folder.display().to_string()));
            }
            output::text(out, &text)
        }
    }
}

fn list(text: &mut String, what: &str, rows: &[Standing]) {
    let _ = writeln!(text, "{what}: {}", count(rows.len() as u64));
    for row in rows {
        let id = row.doc_id.as_deref().map_or(String::new(), |id| format!("  id `{}`", printable(id)));
        let kept = row.kept_doc_id.as_deref().map_or(String::new(), |id| format!("  for `{}`", printable(id)));
        let place = printable(&format!("{}  {}/{}:{}", row.dataset.display(), row.source, row.shard, row.row));
        let _ = writeln!(text, "  {}  {place}{id}{kept}", row.decision);
    }
}

fn line(row: &Standing) -> Value {
    json!({
        "dataset": row.dataset, "decision": row.decision, "doc_id": row.doc_id, "kept_doc_id": row.kept_doc_id, "row": row.row,
        "shard": row.shard, "source": row.source,
    })
}
