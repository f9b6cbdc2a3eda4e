//! Overflow of one process: bytes that are written once, read back by offset, and gone with the process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk;
use super::local::io_error;
use crate::error::Result;

/// A file without a name: its space is given back when it is dropped, also by a kill.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    /// Where it was, for messages.
    path: PathBuf,
    end: AtomicU64,
}

/// Tells the scratch files of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    /// Makes one on the file system of `folder`.
    ///
    /// # Errors
    /// Kind storage when it cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("scratch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| io_error("cannot make a scratch file", &path, error))?;
        fs::remove_file(&path).map_err(|error| io_error("cannot unlink a scratch file", &path, error))?;
        Ok(Self { file, path, end: AtomicU64::new(0) })
    }

    /// Adds bytes behind all others and gives their offset; several threads may add at once.
    ///
    /// # Errors
    /// Kind storage, a full disk among them.
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        let offset = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        disk::write_at(&self.file, bytes, offset).map_err(|error| io_error("cannot write a scratch file", &self.path, error))?;
        Ok(offset)
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Kind storage; also where nothing was written.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| io_error("cannot read a scratch file", &self.path, error))
    }

    /// Bytes written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_no_name_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(folder.path()).unwrap();
        let other = Scratch::create(folder.path()).unwrap();
        let offsets: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u8)
                .map(|thread| {
                    scope.spawn({
                        let scratch = &scratch;
                        move || scratch.append(&[thread; 100]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (thread, offset) in offsets.iter().enumerate() {
            let mut bytes = [9; 100];
            scratch.read_exact_at(&mut bytes, *offset).unwrap();
            assert_eq!(bytes, [thread as u8; 100]);
        }
        assert_eq!((scratch.bytes(), other.bytes()), (400, 0));
        assert!(scratch.read_exact_at(&mut [0; 1], 400).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
