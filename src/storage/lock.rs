//! Locks between processes: held while a handle lives, gone with its process whatever ends it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::local::io_error;
use crate::error::{Error, Kind, Result};

/// Tries again when the file that was locked has been removed by the holder before.
const ATTEMPTS: usize = 100;

/// A lock file that this process holds. It is removed when the lock is given back, unless others may share it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    shared: bool,
    _file: File,
}

impl Lock {
    /// Takes the lock of `path`, whose folder must be there. `what` names the thing that is locked.
    ///
    /// # Errors
    /// Kind conflict when another process holds it, kind storage when the file cannot be made.
    pub fn take(path: &Path, what: &str) -> Result<Self> {
        Self::acquire(path, what, false)
    }

    /// As [`Lock::take`], but others may share it: only who takes it alone is kept out. The file stays.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn share(path: &Path, what: &str) -> Result<Self> {
        Self::acquire(path, what, true)
    }

    fn acquire(path: &Path, what: &str, shared: bool) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            let file = open.map_err(|error| io_error("cannot make a lock file", path, error))?;
            match if shared { file.try_lock_shared() } else { file.try_lock() } {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(Kind::Conflict, format!("another run holds {what} lock=`{}`", path.display()))
                        .hint("wait until it has ended, or write to another folder"));
                }
                Err(TryLockError::Error(error)) => return Err(io_error("cannot lock", path, error)),
            }
            // The holder before may have removed the file between our opening and our locking: then it is nobody's lock.
            if same_file(&file, path) {
                return Ok(Self { path: path.to_owned(), shared, _file: file });
            }
        }
        Err(Error::new(Kind::Conflict, format!("other runs take and give back {what} all the time lock=`{}`", path.display())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked; a file that stays behind locks nothing.
        if !self.shared {
            let _ = fs::remove_file(&self.path).is_ok();
        }
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

    #[test]
    fn many_share_what_one_has_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let (one, other) = (Lock::share(&path, "the folder").unwrap(), Lock::share(&path, "the folder").unwrap());
        drop(one);
        assert_eq!(Lock::take(&path, "the folder").unwrap_err().kind(), Kind::Conflict);
        drop(other);
        let alone = Lock::take(&path, "the folder").unwrap();
        assert_eq!(Lock::share(&path, "the folder").unwrap_err().kind(), Kind::Conflict);
        drop(alone);
        drop(Lock::share(&path, "the folder").unwrap());
    }
}
