//! Locks between processes: held while a handle lives, gone with its process whatever ends it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::local::io_error;
use crate::error::{Error, Kind, Result};

/// Tries again when the file that was locked has been removed by the holder before.
const ATTEMPTS: usize = 100;

/// A lock file that this process holds. It is removed when the lock is given back.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `path`, whose folder must be there. `what` names the thing that is locked.
    ///
    /// # Errors
    /// Kind conflict when another process holds it, kind storage when the file cannot be made.
    pub fn take(path: &Path, what: &str) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            let file = open.map_err(|error| io_error("cannot make a lock file", path, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(Kind::Conflict, format!("another run holds {what} lock=`{}`", path.display()))
                        .hint("wait until it has ended, or write to another folder"));
                }
                Err(TryLockError::Error(error)) => return Err(io_error("cannot lock", path, error)),
            }
            // The holder before may have removed the file between our opening and our locking: then it is nobody's lock.
            if same_file(&file, path) {
                return Ok(Self { path: path.to_owned(), _file: file });
            }
        }
        Err(Error::new(Kind::Conflict, format!("other runs take and give back {what} all the time lock=`{}`", path.display())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked; a file that stays behind locks nothing.
        let _ = fs::remove_file(&self.path).is_ok();
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_no_trace_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".out.lock");
        let held = Lock::take(&path, "the output").unwrap();
        assert_eq!(Lock::take(&path, "the output").unwrap_err().kind(), Kind::Conflict);
        drop(held);
        assert!(!path.exists());
        drop(Lock::take(&path, "the output").unwrap());
    }
}
