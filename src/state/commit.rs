//! Publishing a dataset: everything is written beside the sink, then one rename makes it visible. Replacing an existing dataset
//! goes through an intent file, which the next command that meets it carries out or takes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::error::{Context as _, Error, Kind, Result};
use crate::fault;
use crate::ids::RunId;
use crate::storage::local;
use crate::storage::lock::Lock;

/// A dataset on its way to its folder. Dropped before it is published, it removes what was written so far.
#[derive(Debug)]
pub struct Publication {
    sink: PathBuf,
    part: PathBuf,
    overwrite: bool,
    _lock: Lock,
    /// From here on the folder may be the dataset, or named by an intent.
    settled: bool,
}

/// A sink that this run alone writes to.
#[derive(Debug)]
pub struct Held {
    sink: PathBuf,
    overwrite: bool,
    lock: Lock,
}

impl Held {
    /// Takes the sink for the time of a run, ends what an earlier run was cut off in, and refuses an existing dataset unless
    /// `overwrite`, and then replaces only what a run has left.
    pub fn take(sink: &Path, overwrite: bool) -> Result<Self> {
        // An output that will be refused is refused without a trace.
        if !local::exists(&beside(sink, "intent")?)? {
            check_free(sink, overwrite)?;
        }
        let lock = hold(sink)?;
        finish_intent(sink)?;
        check_free(sink, overwrite)?;
        Ok(Self { sink: sink.to_owned(), overwrite, lock })
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if !self.settled {
            // The failure that ended the run is the one to report; what is left here the next run of the same work removes.
            let _ = local::remove_dir(&self.part).is_ok();
        }
    }
}

/// What a replacement is about to do: written before the first rename, removed after the last.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    part: String,
    old: String,
}

/// `<sink>` with `.<suffix>` behind its last name.
fn beside(sink: &Path, suffix: &str) -> Result<PathBuf> {
    let name = sink.file_name().ok_or_else(|| Error::usage(format!("the sink has no name path=`{}`", sink.display())))?;
    let mut name = name.to_owned();
    name.push(".");
    name.push(suffix);
    Ok(sink.with_file_name(name))
}

impl Publication {
    /// Starts one in the sink that this run holds.
    pub fn begin(held: Held, run_id: &RunId) -> Result<Self> {
        let Held { sink, overwrite, lock } = held;
        let part = part_of(&sink, &run_id.to_string())?;
        if local::exists(&part)? {
            // An earlier run of the same work was killed: its files are not trusted, for no journal names them.
            local::remove_dir(&part)?;
        }
        local::create_dir_all(&part)?;
        Ok(Self { sink, part, overwrite, _lock: lock, settled: false })
    }

    /// The folder to write into.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.part
    }

    /// Says that the dataset belongs to something that is committed: from here on it stays, whatever happens to this process.
    pub fn committed(&mut self) {
        self.settled = true;
    }

    /// Makes what was written so far survive a power loss: files are synced one by one, and here the names of the folders that hold them.
    pub fn sync(&self) -> Result<()> {
        local::sync_dirs(&self.part)?;
        self.part.parent().map_or(Ok(()), local::sync_dir)
    }

    /// Makes the dataset visible.
    pub fn publish(mut self) -> Result<()> {
        // One that is committed was synced before.
        if !self.settled {
            self.sync()?;
        }
        fault::point("publish.before");
        if !local::exists(&self.sink)? {
            self.settled = true;
            local::rename_dir(&self.part, &self.sink)?;
            fault::point("publish.after");
            return Ok(());
        }
        check_free(&self.sink, self.overwrite)?;
        // A name of our own: `out.old` may be somebody's copy.
        let old = self.part.with_extension("old");
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let intent = serde_json::to_vec(&Intent { part: name(&self.part), old: name(&old) })
            .context(Kind::Internal, || "cannot write the intent".into())?;
        self.settled = true;
        local::write_file(&beside(&self.sink, "intent")?, &intent)?;
        fault::point("intent.after");
        finish(&self.sink, &self.part, &old)?;
        fault::point("publish.after");
        Ok(())
    }
}

/// Makes the dataset of a committed run visible, if a run was cut off before it did that itself.
pub fn finish_committed(sink: &Path, run_id: &str, overwrite: bool) -> Result<bool> {
    let part = part_of(sink, run_id)?;
    if !local::exists(&part)? && !local::exists(&beside(sink, "intent")?)? {
        return Ok(false);
    }
    let lock = hold(sink)?;
    finish_intent(sink)?;
    if local::exists(&part)? {
        check_free(sink, overwrite)?;
        Publication { sink: sink.to_owned(), part, overwrite, _lock: lock, settled: true }.publish()?;
    }
    Ok(true)
}

/// Where a run writes until it is whole.
fn part_of(sink: &Path, run_id: &str) -> Result<PathBuf> {
    let start = run_id.get(..16).ok_or_else(|| Error::state(format!("a run without an id run=`{run_id}`")))?;
    beside(sink, &format!("{start}.part"))
}

/// Refuses a sink that holds something which a run may not replace.
pub fn check_free(sink: &Path, overwrite: bool) -> Result<()> {
    if !local::exists(sink)? {
        return Ok(());
    }
    if !overwrite {
        return Err(Error::usage(format!("the output exists already path=`{}`", sink.display()))
            .hint("name another folder, or replace it with --overwrite"));
    }
    if local::exists(&Manifest::path(sink))? || local::is_empty_dir(sink)? {
        return Ok(());
    }
    Err(Error::usage(format!("the output is a folder that no run has made path=`{}`", sink.display()))
        .hint("--overwrite replaces only datasets that trommel wrote: name another folder"))
}

/// The lock of a sink: one run at a time writes it.
fn hold(sink: &Path) -> Result<Lock> {
    let name = sink.file_name().ok_or_else(|| Error::usage(format!("the sink has no name path=`{}`", sink.display())))?;
    if let Some(parent) = sink.parent() {
        local::create_dir_all_synced(parent)?;
    }
    Lock::take(&sink.with_file_name(format!(".{}.lock", name.to_string_lossy())), "the output")
}

/// What killed runs left beside a sink whose name may hold `{version}`: folders of datasets that were never committed, `committed` (if any)
/// apart; and the locks of their sinks, so that no run is active there while they live. What an active run writes is not among it.
pub fn leftovers(sink: &Path, committed: Option<&Path>) -> Result<(Vec<PathBuf>, Vec<Lock>)> {
    let (mut folders, mut locks) = (Vec::new(), BTreeMap::new());
    let (Some(parent), Some(name)) = (sink.parent(), sink.file_name().and_then(|name| name.to_str())) else {
        return Ok((folders, Vec::new()));
    };
    if !local::is_dir(parent) {
        return Ok((folders, Vec::new()));
    }
    for entry in local::list_entries(parent)? {
        let of_part = entry.strip_suffix(".part").and_then(|rest| rest.rsplit_once('.'));
        let of_part = of_part.filter(|(_, run)| run.len() == 16 && run.bytes().all(|byte| byte.is_ascii_hexdigit())).map(|(base, _)| base);
        let of_lock = entry.strip_prefix('.').and_then(|rest| rest.strip_suffix(".lock"));
        let Some(base) = of_part.or(of_lock).filter(|base| is_version_of(base, name)) else { continue };
        if !locks.contains_key(base) {
            match hold(&parent.join(base)) {
                Ok(lock) => drop(locks.insert(base.to_owned(), lock)),
                Err(error) if error.kind() == Kind::Conflict => continue,
                Err(error) => return Err(error),
            }
        }
        let path = parent.join(&entry);
        if of_part.is_some() && committed != Some(&path) {
            folders.push(path);
        }
    }
    Ok((folders, locks.into_values().collect()))
}

/// Whether a name is the sink's, with a number for `{version}`.
fn is_version_of(name: &str, sink: &str) -> bool {
    match sink.split_once("{version}") {
        Some((before, after)) => name
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())),
        None => name == sink,
    }
}

/// Where the dataset of a committed run lies as long as it has no name.
pub fn unnamed(sink: &Path, run_id: &str) -> Result<PathBuf> {
    part_of(sink, run_id)
}

/// Carries out or takes back a replacement that was cut off.
pub fn recover(sink: &Path) -> Result<()> {
    if !local::exists(&beside(sink, "intent")?)? {
        return Ok(());
    }
    let _lock = hold(sink)?;
    finish_intent(sink)
}

fn finish_intent(sink: &Path) -> Result<()> {
    let path = beside(sink, "intent")?;
    if !local::exists(&path)? {
        return Ok(());
    }
    let intent: Intent = serde_json::from_slice(&local::read_to_vec(&path, 1 << 16)?)
        .context(Kind::State, || format!("cannot read an intent path=`{}`", path.display()))?;
    let confined = |name: &str| -> Result<PathBuf> {
        let plain = !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
        if plain {
            Ok(sink.with_file_name(name))
        } else {
            Err(Error::state(format!("an intent names a path outside its folder name=`{name}`")))
        }
    };
    finish(sink, &confined(&intent.part)?, &confined(&intent.old)?)
}

/// From any point of a replacement to its end. Each step can be repeated.
fn finish(sink: &Path, part: &Path, old: &Path) -> Result<()> {
    if local::exists(part)? {
        // The new dataset is whole: the intent was written after it was synced.
        if local::exists(sink)? {
            if local::exists(old)? {
                local::remove_dir(old)?;
            }
            local::rename_dir(sink, old)?;
        }
        local::rename_dir(part, sink)?;
    } else if !local::exists(sink)? && local::exists(old)? {
        local::rename_dir(old, sink)?;
    }
    if local::exists(old)? {
        local::remove_dir(old)?;
    }
    local::remove_file(&beside(sink, "intent")?)?;
    // An intent that came back after a power loss would publish what a later run had only begun.
    sink.parent().map_or(Ok(()), local::sync_dir)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the states that a killed run leaves")]
mod tests {
    use super::*;

    fn dataset(folder: &Path, word: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("manifest.json"), word).unwrap();
    }

    fn word(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("manifest.json")).unwrap()
    }

    /// From every state that a killed replacement can leave, recovery ends with one whole dataset and no trace.
    #[test]
    fn a_replacement_is_finished_from_every_point() {
        for point in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            let sink = folder.path().join("out");
            let (part, old) = (folder.path().join("out.x.part"), folder.path().join("out.old"));
            dataset(&sink, "old");
            dataset(&part, "new");
            std::fs::write(folder.path().join("out.intent"), r#"{"part":"out.x.part","old":"out.old"}"#).unwrap();
            if point >= 1 {
                std::fs::rename(&sink, &old).unwrap();
            }
            if point >= 2 {
                std::fs::rename(&part, &sink).unwrap();
            }
            if point >= 3 {
                std::fs::remove_dir_all(&old).unwrap();
            }
            recover(&sink).unwrap();
            assert_eq!(word(&sink), "new", "point {point}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "point {point}");
        }
    }

    #[test]
    fn an_existing_folder_is_replaced_only_if_asked_and_only_if_a_run_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let sink = folder.path().join("out");
        let run = RunId::from(blake3::hash(b"r"));
        dataset(&sink, "old");
        assert_eq!(Held::take(&sink, false).unwrap_err().kind(), Kind::Usage);
        let publication = Publication::begin(Held::take(&sink, true).unwrap(), &run).unwrap();
        dataset(publication.folder(), "new");
        assert_eq!(word(&sink), "old");
        publication.publish().unwrap();
        assert_eq!(word(&sink), "new");
        let failed = Publication::begin(Held::take(&sink, true).unwrap(), &run).unwrap();
        dataset(failed.folder(), "half");
        drop(failed);
        assert_eq!((word(&sink), std::fs::read_dir(folder.path()).unwrap().count()), ("new".into(), 1));
        let photos = folder.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        std::fs::write(photos.join("cat.jpg"), "x").unwrap();
        assert_eq!(Held::take(&photos, true).unwrap_err().kind(), Kind::Usage);
        assert!(photos.join("cat.jpg").exists());
    }

    #[test]
    fn an_intent_cannot_reach_outside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out.intent"), r#"{"part":"../x","old":"out.old"}"#).unwrap();
        assert_eq!(recover(&folder.path().join("out")).unwrap_err().kind(), Kind::State);
    }
}
