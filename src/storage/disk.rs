//! Each change to a file system, one function each: the one place where tests make it fail, stop at it, or note it (`fault`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, absolute};

use super::record::{Entry, keep, noted};
use crate::fault::{self, Operation};

/// Makes a file that is not there, for writing.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    noted(Operation::Create, open, |_| Ok(Entry::Create { path: absolute(path)? }))
}

/// Adds bytes to a file.
pub(super) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    fault::operation(Operation::Write)?;
    fault::room(bytes.len())?;
    file.write_all(bytes)
}

/// Writes bytes at an offset of a file that has no name.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    fault::operation(Operation::Write)?;
    fault::room(bytes.len())?;
    file.write_all_at(bytes, offset)
}

/// Makes the bytes of a file, whose name is `path`, durable.
pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    noted(Operation::Sync, || file.sync_all(), |folder| Ok(Entry::Sync { path: absolute(path)?, bytes: keep(path, folder)? }))
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    noted(Operation::SyncDir, || File::open(path)?.sync_all(), |_| Ok(Entry::SyncDir { path: absolute(path)? }))
}

/// Gives a file or folder another name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let entry = |folder: &Path| {
        let bytes = if to.is_file() { Some(keep(to, folder)?) } else { None };
        Ok(Entry::Rename { from: absolute(from)?, to: absolute(to)?, bytes })
    };
    noted(Operation::Rename, || fs::rename(from, to), entry)
}

/// Gives a file a second name.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    noted(Operation::Link, || fs::hard_link(from, to), |_| Ok(Entry::Link { from: absolute(from)?, to: absolute(to)? }))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    noted(Operation::Remove, || fs::remove_file(path), |_| Ok(Entry::Remove { path: absolute(path)? }))
}

/// Removes a folder with all that is in it.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    // The system's way is safe against links that appear meanwhile; where faults are set, each step is one to fail or stop at.
    if !fault::is_set() {
        return fs::remove_dir_all(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { remove_all(&entry.path())? } else { remove(&entry.path())? }
    }
    noted(Operation::Remove, || fs::remove_dir(path), |_| Ok(Entry::Remove { path: absolute(path)? }))
}

/// Makes a folder; one that is there is as good.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    let made = noted(Operation::Folder, || fs::create_dir(path), |_| Ok(Entry::Folder { path: absolute(path)? }));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}
