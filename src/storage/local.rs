//! Files on this machine: write aside then rename, list in a fixed order, and notice when a shard changes under a run.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::ids::ContentHash;

/// Bytes that [`AsideFile`] gathers before it hashes and writes them.
const WRITE_BYTES: usize = 1 << 20;
/// Folders below one another in a listing.
const MAX_FOLDER_DEPTH: usize = 64;

/// Turns an I/O failure into an error of the right class: a full disk is kind resources, all else kind storage.
#[must_use]
pub fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge);
    let kind = if full { Kind::Resources } else { Kind::Storage };
    let message = format!("{doing} path=`{}`", path.display());
    let wrapped = Error::new(kind, message).caused_by(error);
    if full { wrapped.hint("free space on that disk, or write elsewhere, and run again: finished work is kept") } else { wrapped }
}

/// What a finished file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// BLAKE3 of its bytes.
    pub hash: ContentHash,
    /// Its length.
    pub bytes: u64,
}

/// A file that is written under a temporary name in the folder it will stand in, and gets its own name when it is whole.
/// Dropped without [`AsideFile::finish`], it leaves nothing.
#[derive(Debug)]
pub struct AsideFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
    finished: bool,
}

impl AsideFile {
    /// Creates the temporary file beside `target`, whose folder must exist.
    ///
    /// # Errors
    /// Kind storage or resources, naming the path.
    pub fn create(target: &Path) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| Error::storage(format!("no file name path=`{}`", target.display())))?;
        // The leading dot keeps it out of every listing; process id and counter keep two writers apart.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_file_name(format!(".{}.{}.{number}.tmp", name.to_string_lossy(), std::process::id()));
        let file = disk::create(&temporary).map_err(|error| io_error("cannot create", &temporary, error))?;
        Ok(Self {
            file,
            temporary,
            target: target.to_owned(),
            buffer: Vec::with_capacity(WRITE_BYTES),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            finished: false,
        })
    }

    /// The name it will have.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes + self.buffer.len() as u64
    }

    fn drain(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        if !self.buffer.is_empty() {
            disk::write(&mut self.file, &self.buffer)?;
        }
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left, syncs the file, gives it its name (replacing a file of that name) and syncs the folder.
    ///
    /// # Errors
    /// Kind storage or resources, naming the path; the temporary file is then removed.
    pub fn finish(self) -> Result<Written> {
        let target = self.target.clone();
        let written = self.finish_in_part()?;
        target.parent().map_or(Ok(()), sync_dir)?;
        Ok(written)
    }

    /// As [`AsideFile::finish`], but the folder is synced by whoever makes it visible: one sync for all its files.
    ///
    /// # Errors
    /// As [`AsideFile::finish`].
    pub fn finish_in_part(mut self) -> Result<Written> {
        self.drain().map_err(|error| io_error("cannot write", &self.target, error))?;
        disk::sync(&self.file, &self.temporary).map_err(|error| io_error("cannot sync", &self.target, error))?;
        self.rename()
    }

    /// As [`AsideFile::finish`], under a name in the same file system that the hash of its bytes says. A file of that name holds the same
    /// bytes, and is replaced by them.
    ///
    /// # Errors
    /// As [`AsideFile::finish`].
    pub fn finish_as(mut self, name: impl FnOnce(&ContentHash) -> PathBuf) -> Result<Written> {
        self.drain().map_err(|error| io_error("cannot write", &self.target, error))?;
        self.target = name(&self.hasher.finalize().into());
        self.finish()
    }

    /// As [`AsideFile::finish`], but leaves it to the system when the bytes reach the disk: for what is checked against its hash
    /// before it is used, and made again where it is gone.
    ///
    /// # Errors
    /// As [`AsideFile::finish`].
    pub fn finish_unsynced(mut self) -> Result<Written> {
        self.drain().map_err(|error| io_error("cannot write", &self.target, error))?;
        self.rename()
    }

    fn rename(mut self) -> Result<Written> {
        disk::rename(&self.temporary, &self.target).map_err(|error| io_error("cannot rename", &self.target, error))?;
        self.finished = true;
        Ok(Written { hash: self.hasher.finalize().into(), bytes: self.bytes })
    }
}

impl Write for AsideFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.drain()?;
        }
        if bytes.len() >= WRITE_BYTES {
            self.hasher.update(bytes);
            disk::write(&mut self.file, bytes)?;
            self.bytes += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Bytes count as written only after `finish`; flushing early would only cut hashing and writing into small pieces.
        Ok(())
    }
}

impl Drop for AsideFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here, and a left-over hidden file harms nobody.
            drop(disk::remove(&self.temporary));
        }
    }
}

/// Writes a whole small file aside, synced.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    let mut file = AsideFile::create(path)?;
    file.write_all(bytes).map_err(|error| io_error("cannot write", path, error))?;
    file.finish()
}

/// Writes a whole small file where there is none: synced, and all of it or nothing. Whether it did: it does not where a file of that name
/// is there, whoever makes it at the same time.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn create_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    let mut file = AsideFile::create(path)?;
    file.write_all(bytes).map_err(|error| io_error("cannot write", path, error))?;
    file.drain().map_err(|error| io_error("cannot write", path, error))?;
    disk::sync(&file.file, &file.temporary).map_err(|error| io_error("cannot sync", path, error))?;
    // A link, unlike a rename, never replaces. Dropped unfinished, the file loses its other name.
    match disk::link(&file.temporary, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(io_error("cannot link", path, error)),
    }
    fault::point("linked");
    if let Some(folder) = path.parent() {
        sync_dir(folder)?;
    }
    Ok(true)
}

/// What tells whether a file is the one that was seen before; none where there is no file.
///
/// # Errors
/// Kind storage, naming the path.
pub fn identity(path: &Path) -> Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(Identity::of(&metadata))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("cannot look at", path, error)),
    }
}

/// As [`write_file`], unsynced: see [`AsideFile::finish_unsynced`].
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn write_file_unsynced(path: &Path, bytes: &[u8]) -> Result<Written> {
    let mut file = AsideFile::create(path)?;
    file.write_all(bytes).map_err(|error| io_error("cannot write", path, error))?;
    file.finish_unsynced()
}

/// What tells whether a file is still the one that the snapshot saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Inode number.
    pub inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { bytes: metadata.len(), modified_ns, inode: metadata.ino() }
    }
}

/// A shard opened for reading at any offset from any thread. Clones share one file handle.
#[derive(Debug, Clone)]
pub struct ShardFile {
    file: Arc<File>,
    path: Arc<Path>,
    identity: Identity,
}

impl ShardFile {
    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was when it was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its length when it was opened.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.identity.bytes
    }

    pub(in crate::storage) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The I/O error; end of file is `UnexpectedEof`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads up to the buffer's length from `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// The I/O error.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Checks that neither the open file nor the name has changed since `expected` was taken.
    ///
    /// # Errors
    /// Kind input when it changed, kind storage when it cannot be looked at.
    pub fn check_unchanged(&self, expected: Identity) -> Result<()> {
        let by_name = fs::metadata(&self.path).map_err(|error| io_error("cannot look at shard", &self.path, error))?;
        let by_handle = self.file.metadata().map_err(|error| io_error("cannot look at shard", &self.path, error))?;
        if Identity::of(&by_name) == expected && Identity::of(&by_handle) == expected {
            return Ok(());
        }
        Err(Error::input(format!("shard changed under the run path=`{}`", self.path.display()))
            .hint("let whatever writes the shards finish, then run again"))
    }
}

/// Opens a shard.
///
/// # Errors
/// Kind storage, naming the path.
pub fn open_shard(path: &Path) -> Result<ShardFile> {
    let file = File::open(path).map_err(|error| io_error("cannot open shard", path, error))?;
    let metadata = file.metadata().map_err(|error| io_error("cannot look at shard", path, error))?;
    if !metadata.is_file() {
        return Err(Error::input(format!("not a regular file path=`{}`", path.display())));
    }
    Ok(ShardFile { file: Arc::new(file), path: path.into(), identity: Identity::of(&metadata) })
}

/// Opens a file that a run wrote, for reading.
///
/// # Errors
/// Kind storage when it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| io_error("cannot open", path, error))
}

/// Bytes that this process may still write to the file system of `path`; `None` where the system does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(path).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    #[cfg(not(unix))]
    None
}

/// Whether this is a folder without entries.
///
/// # Errors
/// Kind storage when the folder cannot be listed.
pub fn is_empty_dir(path: &Path) -> Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    let mut entries = fs::read_dir(path).map_err(|error| io_error("cannot list", path, error))?;
    Ok(entries.next().is_none())
}

/// The names in a folder that are UTF-8, sorted.
///
/// # Errors
/// Kind storage when it cannot be listed.
pub fn list_entries(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| io_error("cannot list", folder, error))? {
        let entry = entry.map_err(|error| io_error("cannot list", folder, error))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Every file below a folder, whatever its name: paths relative to it, parts joined with `/`, sorted.
///
/// # Errors
/// Kind storage when a folder cannot be listed.
pub fn list_all_files(folder: &Path) -> Result<Vec<String>> {
    fn visit(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|error| io_error("cannot list", folder, error))? {
            let entry = entry.map_err(|error| io_error("cannot list", folder, error))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|error| io_error("cannot look at", &entry.path(), error))?;
            if kind.is_dir() { visit(&entry.path(), &format!("{name}/"), found)? } else { found.push(name) }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(folder, "", &mut found)?;
    found.sort_unstable();
    Ok(found)
}

/// A folder of its own for one command, removed when it is dropped.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes one in the system's folder for temporary files.
    ///
    /// # Errors
    /// Kind storage when it cannot be made.
    pub fn create() -> Result<Self> {
        Self::create_in(&std::env::temp_dir())
    }

    /// Makes one in this folder.
    ///
    /// # Errors
    /// Kind storage when it cannot be made.
    pub fn create_in(base: &Path) -> Result<Self> {
        let process = std::process::id();
        for attempt in 0..1000_u32 {
            let path = base.join(format!("trommel-{process}-{attempt}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("cannot make a folder", &path, error)),
            }
        }
        Err(Error::storage(format!("cannot make a folder for temporary files path=`{}`", base.display())))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clear.
        let _ = fs::remove_dir_all(&self.0).is_ok();
    }
}

/// Which files of a folder are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// One file of this name in the folder. The operator named it, so a link is followed.
    File(String),
    /// All files below the folder whose names end in this suffix; names that start with `.` or `_` are skipped.
    Folder(String),
    /// All files whose path below the folder matches this glob pattern (`*`, `?`, `[..]`, `**`); hidden names only where the
    /// pattern writes the dot.
    Glob(String),
}

/// A file of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The path below the folder, parts joined with `/`.
    pub relative: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Lists files below `base`, sorted by the bytes of their relative paths. Names that come from data stay in the folder they
/// were found in: a link that leaves it is refused, and so are a link to a folder (which would name files twice) and names
/// with control characters or that are not UTF-8.
///
/// # Errors
/// Kind input when the folder is missing or a name is refused, kind usage for a malformed pattern, kind storage otherwise.
pub fn list_files(base: &Path, selection: &Selection) -> Result<Vec<Listed>> {
    let base_missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::input(format!("no such file or folder path=`{}`", base.display())),
        _ => io_error("cannot look at", base, error),
    };
    let jail = fs::canonicalize(base).map_err(base_missing)?;
    let mut found = match selection {
        Selection::File(name) => {
            let path = base.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => vec![Listed { relative: name.clone(), path }],
                Ok(_) => return Err(Error::input(format!("not a regular file path=`{}`", path.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
                Err(error) => return Err(io_error("cannot look at", &path, error)),
            }
        }
        Selection::Folder(suffix) => {
            let mut walk = Walk { jail: &jail, found: vec![], max_depth: MAX_FOLDER_DEPTH, folder_rules: true };
            walk.folder(base, "", 1, &|relative| relative.ends_with(suffix.as_str()))?;
            walk.found
        }
        Selection::Glob(text) => {
            let pattern = glob::Pattern::new(text)
                .map_err(|error| Error::usage(format!("malformed glob pattern pattern=`{text}`")).caused_by(error))?;
            let options = glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
            let parts = text.split('/').count();
            let max_depth = if text.contains("**") { MAX_FOLDER_DEPTH } else { parts };
            let mut walk = Walk { jail: &jail, found: vec![], max_depth, folder_rules: false };
            walk.folder(base, "", 1, &|relative| pattern.matches_with(relative, options))?;
            walk.found
        }
    };
    found.sort_by(|a, b| a.relative.as_bytes().cmp(b.relative.as_bytes()));
    Ok(found)
}

struct Walk<'a> {
    jail: &'a Path,
    found: Vec<Listed>,
    max_depth: usize,
    folder_rules: bool,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let entries = fs::read_dir(folder).map_err(|error| io_error("cannot list", folder, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| io_error("cannot list", folder, error))?;
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(Error::input(format!("file name is not UTF-8 path=`{}`", path.display())));
            };
            if self.folder_rules && name.starts_with(['.', '_']) {
                continue;
            }
            let relative = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().map_err(|error| io_error("cannot look at", &path, error))?;
            if kind.is_dir() {
                if depth < self.max_depth {
                    self.folder(&path, &relative, depth + 1, wanted)?;
                } else if self.max_depth == MAX_FOLDER_DEPTH {
                    return Err(Error::input(format!("folders nested too deep limit=`{MAX_FOLDER_DEPTH}` path=`{}`", path.display())));
                }
            } else if wanted(&relative) {
                if name.chars().any(char::is_control) {
                    return Err(Error::input(format!("control character in a file name path=`{}`", relative.escape_debug())));
                }
                self.file(path, relative, kind.is_symlink())?;
            } else if kind.is_symlink() && path.is_dir() && depth < self.max_depth && !name.starts_with('.') {
                return Err(linked_folder(&path));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, relative: String, is_link: bool) -> Result<()> {
        // Opening a pipe would wait for whoever writes to it.
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Err(Error::input(format!("not a regular file path=`{}`", path.display())).hint("take it out of the source's folder"));
        }
        if is_link {
            let target = fs::canonicalize(&path).map_err(|error| io_error("cannot follow link", &path, error))?;
            if !target.starts_with(self.jail) {
                return Err(Error::input(format!(
                    "link leaves the folder it was found in path=`{}` target=`{}`",
                    path.display(),
                    target.display()
                ))
                .hint("name the folder that the files are in, or name the file itself"));
            }
            if target.is_dir() {
                return Err(linked_folder(&path));
            }
        }
        self.found.push(Listed { relative, path });
        Ok(())
    }
}

fn linked_folder(path: &Path) -> Error {
    Error::input(format!("link to a folder inside a corpus path=`{}`", path.display()))
        .hint("name the linked folder as a source of its own")
}

/// Joins a relative name that came from data to a folder, part by part.
///
/// # Errors
/// Kind input when a part is empty, `.`, `..`, or holds a control character, or the name is absolute.
pub fn join_confined(folder: &Path, relative: &str) -> Result<PathBuf> {
    let refused = || Error::input(format!("path leaves its folder path={relative:?}"));
    let mut joined = folder.to_owned();
    for part in relative.split('/') {
        if part.is_empty() || part.contains('\\') || part.chars().any(char::is_control) {
            return Err(refused());
        }
        let mut components = Path::new(part).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(normal)), None) => joined.push(normal),
            _ => return Err(refused()),
        }
    }
    Ok(joined)
}

/// Reads a whole file of at most `max_bytes`.
///
/// # Errors
/// Kind resources when it is longer, kind storage otherwise.
pub fn read_to_vec(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| io_error("cannot open", path, error))?;
    let mut bytes = vec![];
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| io_error("cannot read", path, error))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::resources(format!("file is too long limit=`{max_bytes}` path=`{}`", path.display())));
    }
    Ok(bytes)
}

/// Reads a whole UTF-8 file of at most `max_bytes`.
///
/// # Errors
/// As [`read_to_vec`]; kind input when it is not UTF-8.
pub fn read_to_string(path: &Path, max_bytes: u64) -> Result<String> {
    String::from_utf8(read_to_vec(path, max_bytes)?)
        .map_err(|error| Error::input(format!("file is not UTF-8 path=`{}`", path.display())).caused_by(error))
}

/// Whether something stands at `path` (a link that leads nowhere counts).
///
/// # Errors
/// Kind storage when it cannot be told.
pub fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(io_error("cannot look at", path, error)),
    }
}

/// Whether `path` is a folder, links followed.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Length of a file in bytes.
///
/// # Errors
/// Kind storage, naming the path.
pub fn file_bytes(path: &Path) -> Result<u64> {
    fs::metadata(path).map(|metadata| metadata.len()).map_err(|error| io_error("cannot look at", path, error))
}

/// The absolute path with all links followed.
///
/// # Errors
/// Kind storage, naming the path.
pub fn canonicalize(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| io_error("cannot look at", path, error))
}

/// Creates a folder and those above it.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn create_dir_all(path: &Path) -> Result<()> {
    for folder in missing(path) {
        disk::folder(folder).map_err(|error| io_error("cannot create folder", path, error))?;
    }
    Ok(())
}

/// As [`create_dir_all`], and the names of these folders survive a power loss.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn create_dir_all_synced(path: &Path) -> Result<()> {
    let missing = missing(path);
    // Folders are made and synced from the top: of those that are there, a process that was cut off may have left the last one un-synced.
    let there = missing.first().map_or(Some(path), |top| top.parent());
    if let Some(above) = there.and_then(Path::parent) {
        match disk::sync_dir(or_here(above)) {
            // Somebody else's folder, in which this process can have made none.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done.map_err(|error| io_error("cannot sync folder", above, error))?,
        }
    }
    for folder in missing {
        disk::folder(folder).map_err(|error| io_error("cannot create folder", path, error))?;
        folder.parent().map_or(Ok(()), sync_dir)?;
    }
    Ok(())
}

/// Makes the names in a folder and in all folders below it survive a power loss.
///
/// # Errors
/// Kind storage, naming the path.
pub fn sync_dirs(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|error| io_error("cannot list", path, error))? {
        let entry = entry.map_err(|error| io_error("cannot list", path, error))?;
        if entry.file_type().map_err(|error| io_error("cannot look at", &entry.path(), error))?.is_dir() {
            sync_dirs(&entry.path())?;
        }
    }
    sync_dir(path)
}

/// Folders on the way to `path`, itself among them, that are not there; the topmost first.
fn missing(path: &Path) -> Vec<&Path> {
    let mut folders: Vec<&Path> = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()).collect();
    folders.reverse();
    folders
}

/// Renames a folder and syncs the folders that hold the two names. `to` must not exist, or be an empty folder.
///
/// # Errors
/// Kind storage or resources, naming the new path.
pub fn rename_dir(from: &Path, to: &Path) -> Result<()> {
    disk::rename(from, to).map_err(|error| io_error("cannot rename folder to", to, error))?;
    for parent in [to.parent(), from.parent()].into_iter().flatten() {
        sync_dir(parent)?;
    }
    Ok(())
}

/// Makes the names in a folder survive a power loss.
///
/// # Errors
/// Kind storage, naming the path.
pub fn sync_dir(path: &Path) -> Result<()> {
    let path = or_here(path);
    disk::sync_dir(path).map_err(|error| io_error("cannot sync folder", path, error))
}

/// The folder above a bare name is the one that this process is in.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Removes a folder with all that is in it; links in it are removed and not followed. A missing folder is no error.
///
/// # Errors
/// Kind storage, naming the path.
pub fn remove_dir(path: &Path) -> Result<()> {
    match disk::remove_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove folder", path, error)),
        _ => Ok(()),
    }
}

/// Removes a file. A missing file is no error.
///
/// # Errors
/// Kind storage, naming the path.
pub fn remove_file(path: &Path) -> Result<()> {
    match disk::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path, error)),
        _ => Ok(()),
    }
}

/// Copies a file aside, so that the new name is whole and synced.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn copy(from: &Path, to: &Path) -> Result<Written> {
    let mut target = AsideFile::create(to)?;
    append(from, &mut target)?;
    target.finish()
}

/// Adds the bytes of a file.
///
/// # Errors
/// Kind storage or resources, naming the path.
pub fn append(from: &Path, target: &mut AsideFile) -> Result<()> {
    let mut source = File::open(from).map_err(|error| io_error("cannot open", from, error))?;
    let mut buffer = vec![0_u8; WRITE_BYTES];
    loop {
        let read = source.read(&mut buffer).map_err(|error| io_error("cannot read", from, error))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        target.write_all(bytes).map_err(|error| io_error("cannot write", &target.target, error))?;
    }
}

/// Gives a file a second name; the way to create a name only if it is absent.
///
/// # Errors
/// Kind conflict when the name exists, kind storage otherwise.
pub fn hard_link(from: &Path, to: &Path) -> Result<()> {
    disk::link(from, to).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::new(Kind::Conflict, format!("file exists already path=`{}`", to.display())),
        _ => io_error("cannot link", to, error),
    })?;
    to.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(listed: &[Listed]) -> Vec<&str> {
        listed.iter().map(|file| file.relative.as_str()).collect()
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        folder
    }

    #[test]
    fn a_finished_file_has_its_name_and_the_hash_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut file = AsideFile::create(&path).unwrap();
        let mut all = vec![];
        for length in [3, WRITE_BYTES, 0, WRITE_BYTES + 1, 17, WRITE_BYTES - 1] {
            let bytes = vec![length as u8; length];
            file.write_all(&bytes).unwrap();
            all.extend(bytes);
        }
        assert!(!path.exists());
        assert_eq!(file.bytes(), all.len() as u64);
        assert_eq!(file.finish().unwrap(), Written { hash: blake3::hash(&all).into(), bytes: all.len() as u64 });
        assert_eq!(fs::read(&path).unwrap(), all);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_dropped_before_it_is_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AsideFile::create(&folder.path().join("a")).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_a_resource_error() {
        let full = io_error("cannot write", Path::new("x"), io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), Kind::Resources);
        assert_eq!(io_error("cannot write", Path::new("x"), io::Error::from_raw_os_error(13)).kind(), Kind::Storage);
    }

    #[test]
    fn folders_list_in_byte_order_without_hidden_and_underscored_names() {
        let folder =
            tree(&["b.parquet", "a/z.parquet", "a.parquet", "B.parquet", "_delta_log/x.parquet", ".h.parquet", "note.txt", "_s.parquet"]);
        let listed = list_files(folder.path(), &Selection::Folder(".parquet".into())).unwrap();
        assert_eq!(names(&listed), ["B.parquet", "a.parquet", "a/z.parquet", "b.parquet"]);
    }

    #[test]
    fn globs_match_relative_paths_and_stars_stop_at_separators() {
        let folder = tree(&["a.parquet", "x/a.parquet", "x/y/a.parquet", ".a.parquet", "x/b.json"]);
        let list = |pattern: &str| list_files(folder.path(), &Selection::Glob(pattern.into())).unwrap();
        assert_eq!(names(&list("*.parquet")), ["a.parquet"]);
        assert_eq!(names(&list("*/*.parquet")), ["x/a.parquet"]);
        assert_eq!(names(&list("**/*.parquet")), ["a.parquet", "x/a.parquet", "x/y/a.parquet"]);
        assert_eq!(names(&list("x/[ab].*")), ["x/a.parquet", "x/b.json"]);
        assert_eq!(list_files(folder.path(), &Selection::Glob("[".into())).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn links_that_leave_the_folder_and_links_to_folders_are_refused() {
        let outside = tree(&["secret.parquet"]);
        let folder = tree(&["in/a.parquet"]);
        symlink(folder.path().join("in/a.parquet"), folder.path().join("ok.parquet")).unwrap();
        let all = Selection::Folder(".parquet".into());
        assert_eq!(names(&list_files(folder.path(), &all).unwrap()), ["in/a.parquet", "ok.parquet"]);
        symlink(outside.path().join("secret.parquet"), folder.path().join("bad.parquet")).unwrap();
        assert_eq!(list_files(folder.path(), &all).unwrap_err().kind(), Kind::Input);
        assert_eq!(list_files(folder.path(), &Selection::Glob("*.parquet".into())).unwrap_err().kind(), Kind::Input);
        fs::remove_file(folder.path().join("bad.parquet")).unwrap();
        symlink(folder.path(), folder.path().join("loop")).unwrap();
        assert_eq!(list_files(folder.path(), &all).unwrap_err().kind(), Kind::Input);
    }

    #[test]
    fn a_missing_folder_is_an_input_error_and_a_missing_file_an_empty_list() {
        let folder = tree(&[]);
        let missing = list_files(&folder.path().join("no"), &Selection::Folder(String::new())).unwrap_err();
        assert_eq!(missing.kind(), Kind::Input);
        assert_eq!(list_files(folder.path(), &Selection::File("no.parquet".into())).unwrap(), []);
    }

    #[test]
    fn confined_names_cannot_leave() {
        let folder = Path::new("/f");
        assert_eq!(join_confined(folder, "a=1/b.parquet").unwrap(), Path::new("/f/a=1/b.parquet"));
        for bad in ["", "/a", "a//b", "../a", "a/..", ".", "a/./b", "a\0b", "a\nb", "a/", "a\\b"] {
            assert!(join_confined(folder, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_changed_shard_is_noticed() {
        let folder = tree(&["a"]);
        let path = folder.path().join("a");
        let shard = open_shard(&path).unwrap();
        shard.check_unchanged(shard.identity()).unwrap();
        let other = folder.path().join("b");
        fs::write(&other, b"y").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(shard.check_unchanged(shard.identity()).unwrap_err().kind(), Kind::Input);
    }

    #[test]
    fn a_hard_link_never_replaces() {
        let folder = tree(&["a", "b"]);
        let error = hard_link(&folder.path().join("a"), &folder.path().join("b")).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        hard_link(&folder.path().join("a"), &folder.path().join("c")).unwrap();
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_file(&path, b"12345").unwrap();
        assert_eq!(read_to_vec(&path, 5).unwrap(), b"12345");
        assert_eq!(read_to_vec(&path, 4).unwrap_err().kind(), Kind::Resources);
    }
}
