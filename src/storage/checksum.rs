//! BLAKE3 of whole files, streamed: a file may be larger than memory. Plain reads and not a memory map, because a file that
//! shrinks while it is mapped would end the process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::Result;
use crate::ids::ContentHash;
use crate::storage::local::{ShardFile, io_error};

/// Bytes of one read: large enough that BLAKE3 uses its widest vectors and system calls do not show.
const READ_BYTES: usize = 1 << 20;

/// BLAKE3 of the file at `path`, and its length in bytes.
///
/// # Errors
/// Kind storage, naming the path.
pub fn hash_path(path: &Path) -> Result<(ContentHash, u64)> {
    let file = File::open(path).map_err(|error| io_error("cannot open", path, error))?;
    hash_file(&file, path)
}

/// BLAKE3 of an open shard, and its length in bytes. The file's cursor is not moved.
///
/// # Errors
/// Kind storage, naming the path.
pub fn hash_shard(shard: &ShardFile) -> Result<(ContentHash, u64)> {
    hash_file(shard.file(), shard.path())
}

fn hash_file(file: &File, path: &Path) -> Result<(ContentHash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; READ_BYTES];
    let mut offset = 0_u64;
    loop {
        let read = match file.read_at(&mut buffer, offset) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("cannot read", path, error)),
        };
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        offset += read as u64;
    }
    Ok((hasher.finalize().into(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_file_is_the_hash_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, READ_BYTES - 1, READ_BYTES, 2 * READ_BYTES + 7] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let path = folder.path().join("f");
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(hash_path(&path).unwrap(), (blake3::hash(&bytes).into(), length as u64));
        }
    }
}
