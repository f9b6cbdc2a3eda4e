//! Faults on purpose: the tests of the promises about crashes, full disks and failing storage run the very binary that users run.
//!
//! Off unless the hidden environment variable [`VARIABLE`] is set when the program starts, and then one read of a cell for each operation
//! on a file; nothing in a pipeline file reaches it. It can end or stop this process, fail an operation of the storage, or note what the
//! storage does, and nothing else. Directives, joined by commas:
//!
//! | directive | effect |
//! |---|---|
//! | `kill@POINT:N` | SIGKILL at the N-th hit of a point, counted from 1 |
//! | `stop@POINT:N` | SIGSTOP there: the process goes on when it is told to |
//! | `fail@OPERATION:N` | the N-th operation of that sort, or of `any`, fails with an I/O error before it is carried out |
//! | `full@BYTES` | as soon as so many bytes were written, writing fails as on a full disk |
//! | `count@FILE` | writes how often each point was hit, and the bytes written, when the program ends |
//! | `record@FOLDER` | writes each operation of the storage, with the bytes that it made durable or gave a name (`storage::record`) |
//!
//! Each [`Operation`] is a point of its own name, hit before it is carried out; others are named where they stand, by [`point`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::error::{Error, Result};

/// The environment variable.
pub const VARIABLE: &str = "TROMMEL_FAULT";

/// A change that the storage makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Makes a file.
    Create,
    /// Writes bytes.
    Write,
    /// Makes the bytes of a file durable.
    Sync,
    /// Makes the names in a folder durable.
    SyncDir,
    /// Gives a file or folder another name.
    Rename,
    /// Gives a file a second name.
    Link,
    /// Removes a file or an empty folder.
    Remove,
    /// Makes a folder.
    Folder,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 8] = [Self::Create, Self::Write, Self::Sync, Self::SyncDir, Self::Rename, Self::Link, Self::Remove, Self::Folder];

    /// Its name as a point.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SyncDir => "sync_dir",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Remove => "remove",
            Self::Folder => "folder",
        }
    }
}

/// What is to happen, and what has.
#[derive(Debug, Default)]
struct Faults {
    /// Point, hit, signal.
    signals: Vec<(String, u64, Signal)>,
    /// Name of an operation or `any`, and which of them.
    fail: Option<(String, u64)>,
    full: Option<u64>,
    count: Option<PathBuf>,
    record: Option<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    hits: BTreeMap<&'static str, u64>,
    operations: u64,
    bytes: u64,
}

static FAULTS: OnceLock<Faults> = OnceLock::new();

impl Faults {
    fn parse(text: &str) -> Result<Self> {
        let mut faults = Self::default();
        for directive in text.split(',') {
            let wrong = || Error::usage(format!("a fault that is none value=`{directive}`")).hint(format!("unset {VARIABLE}"));
            let (kind, rest) = directive.split_once('@').ok_or_else(wrong)?;
            let at = || {
                let (name, number) = rest.rsplit_once(':')?;
                Some((name.to_owned(), number.parse::<u64>().ok().filter(|number| *number > 0)?))
            };
            match kind {
                "kill" | "stop" => {
                    let (point, hit) = at().ok_or_else(wrong)?;
                    faults.signals.push((point, hit, if kind == "kill" { Signal::KILL } else { Signal::STOP }));
                }
                "fail" => {
                    let (name, number) = at().ok_or_else(wrong)?;
                    if name != "any" && Operation::ALL.iter().all(|operation| operation.name() != name) {
                        return Err(wrong());
                    }
                    faults.fail = Some((name, number));
                }
                "full" => faults.full = Some(rest.parse().map_err(|_| wrong())?),
                "count" => faults.count = Some(rest.into()),
                "record" => faults.record = Some(rest.into()),
                _ => return Err(wrong()),
            }
        }
        Ok(faults)
    }

    fn hit(&self, point: &'static str) -> u64 {
        let hit = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let hits = seen.hits.entry(point).or_default();
            *hits += 1;
            *hits
        };
        for (name, number, signal) in &self.signals {
            if name == point && *number == hit {
                // A signal that ends or stops a process does so before the call comes back.
                let _ = kill_process(getpid(), *signal).is_ok();
            }
        }
        hit
    }
}

/// Sets what is to happen in this process, once, from the text of [`VARIABLE`].
///
/// # Errors
/// Kind usage where it is no list of directives.
pub fn start(text: &str) -> Result<()> {
    let faults = Faults::parse(text)?;
    FAULTS.set(faults).map_err(|_| Error::internal("faults are set twice"))
}

/// Whether any fault is set.
#[must_use]
pub fn is_set() -> bool {
    FAULTS.get().is_some()
}

/// The program passes a point that has a name.
pub fn point(name: &'static str) {
    if let Some(faults) = FAULTS.get() {
        faults.hit(name);
    }
}

/// An operation is about to be carried out.
///
/// # Errors
/// The failure that was asked for.
pub fn operation(operation: Operation) -> io::Result<()> {
    let Some(faults) = FAULTS.get() else { return Ok(()) };
    let hit = faults.hit(operation.name());
    let all = {
        let mut seen = faults.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.operations += 1;
        seen.operations
    };
    match &faults.fail {
        Some((name, number)) if name == operation.name() && *number == hit || name == "any" && *number == all => Err(Errno::IO.into()),
        _ => Ok(()),
    }
}

/// So many bytes are about to be written.
///
/// # Errors
/// That of a full disk, if it was asked for.
pub fn room(bytes: usize) -> io::Result<()> {
    let Some(faults) = FAULTS.get() else { return Ok(()) };
    let mut seen = faults.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.bytes = seen.bytes.saturating_add(bytes as u64);
    if faults.full.is_some_and(|limit| seen.bytes > limit) { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

/// Where operations are to be recorded.
#[must_use]
pub fn record_folder() -> Option<&'static Path> {
    FAULTS.get()?.record.as_deref()
}

/// The file that counts are to be written to, and the counts: a line a point, and one of the bytes written.
#[must_use]
pub fn counts() -> Option<(&'static Path, String)> {
    let faults = FAULTS.get()?;
    let file = faults.count.as_deref()?;
    let seen = faults.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let hits = seen.hits.iter().map(|(point, hits)| format!("{point} {hits}"));
    let lines: Vec<String> = hits.chain([format!("bytes {}", seen.bytes)]).collect();
    Some((file, lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn directives_are_read_and_others_refused() {
        let faults = Faults::parse("kill@commit.before:1,stop@write:3,fail@sync_dir:2,full@100,count@/c,record@/r").unwrap();
        assert_eq!(faults.signals, [("commit.before".into(), 1, Signal::KILL), ("write".into(), 3, Signal::STOP)]);
        assert_eq!((faults.fail, faults.full), (Some(("sync_dir".into(), 2)), Some(100)));
        assert_eq!((faults.count, faults.record), (Some("/c".into()), Some("/r".into())));
        for wrong in ["", "kill", "kill@x", "kill@x:0", "kill@x:y", "fail@reading:1", "full@much", "full@1,", "other@x:1"] {
            assert_eq!(Faults::parse(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn without_directives_nothing_happens() {
        assert!(!is_set() && counts().is_none() && record_folder().is_none());
        point("somewhere");
        operation(Operation::Write).unwrap();
        room(1 << 30).unwrap();
    }
}
