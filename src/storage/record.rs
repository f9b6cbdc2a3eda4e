//! What the storage did, in order, with the bytes: enough to rebuild the disk as it was, or as a power loss may leave it, after any
//! operation. Only when it is asked for (`fault`): one operation at a time then, so that the order is the true one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::checksum;
use super::local::io_error;
use crate::error::{Error, Result};
use crate::fault::{self, Operation};

/// The log in the folder of a record: one JSON object a line. Beside it lie the bytes of files, named by their BLAKE3.
const LOG: &str = "log";

/// One operation that was carried out. Bytes of a file are noted by their hash, at the moments that matter for them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "operation")]
pub(super) enum Entry {
    Create { path: PathBuf },
    Sync { path: PathBuf, bytes: String },
    SyncDir { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, bytes: Option<String> },
    Link { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    Folder { path: PathBuf },
}

static ORDER: Mutex<()> = Mutex::new(());

/// Carries out an operation, unless a fault is set for it, and notes it if that is asked for.
pub(super) fn noted<T>(
    operation: Operation,
    work: impl FnOnce() -> io::Result<T>,
    entry: impl FnOnce(&Path) -> io::Result<Entry>,
) -> io::Result<T> {
    let Some(folder) = fault::record_folder() else {
        fault::operation(operation)?;
        return work();
    };
    let _order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    // Here, so that a process that is killed has noted all that it did.
    fault::operation(operation)?;
    let done = work()?;
    let mut line = serde_json::to_vec(&entry(folder)?)?;
    line.push(b'\n');
    OpenOptions::new().create(true).append(true).open(folder.join(LOG))?.write_all(&line)?;
    Ok(done)
}

/// Keeps the bytes of a file, and gives their hash.
pub(super) fn keep(path: &Path, folder: &Path) -> io::Result<String> {
    let (hash, _) = checksum::hash_path(path).map_err(io::Error::other)?;
    fs::copy(path, folder.join(hash.to_string()))?;
    Ok(hash.to_string())
}

/// Writes how often each point was hit, if that is asked for.
///
/// # Errors
/// Kind storage.
pub fn write_counts() -> Result<()> {
    let Some((path, text)) = fault::counts() else { return Ok(()) };
    fs::write(path, text).map_err(|error: io::Error| -> Error { io_error("cannot write counts", path, error) })
}
