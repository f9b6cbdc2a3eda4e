//! The persistent state: what earlier increments kept, stage by stage, so that new rows are compared with it and nothing old is read
//! again.
//!
//! A state is a folder of immutable files. `manifest/<version>.json` is one version: it lists all files that belong to it, by name,
//! length and BLAKE3. `segments/<BLAKE3>.parquet` are these files. A version is made by creating the manifest of the next number where
//! there is none: of several processes that try, one succeeds, whatever locks say. Nothing that a manifest lists is ever changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{commit, seal};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::ids::ContentHash;
use crate::storage::lock::Lock;
use crate::storage::{checksum, local};

/// The version of the format. A reader refuses newer ones.
pub const FORMAT: u64 = 1;
/// What mends a damaged state.
pub(super) const MEND: &str =
    "restore the state from a copy, or decide over all shards anew: `trommel state rebuild`, or another folder as `state`";
/// Bytes of a manifest that a reader accepts.
const MAX_BYTES: u64 = 1 << 30;

/// One version of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// [`FORMAT`].
    pub format: u64,
    /// The release that wrote it.
    pub trommel: String,
    /// Its number, from 1.
    pub version: u64,
    /// BLAKE3 of the manifest of the version before; none for the first.
    pub base: Option<String>,
    /// The stages that keep rows here, and all that decides what they keep: a run with others cannot go on from it.
    pub stages: Vec<StageIdentity>,
    /// The run that made it.
    pub run_id: String,
    /// Told apart from all other attempts at this version.
    pub commit_id: String,
    /// What made it.
    pub made_by: Maker,
    /// The dataset of that run.
    pub dataset: Dataset,
    /// Shards known, the base's first.
    pub shards: u64,
    /// Rows of these shards.
    pub rows: u64,
    /// Its files, those of the base first.
    pub segments: Vec<Segment>,
}

/// What made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Maker {
    /// A run that went on from the version before.
    Run,
    /// A run over all shards that took nothing over.
    Rebuild,
    /// `state forget`.
    Forget,
    /// `state compact`.
    Compact,
}

impl Maker {
    /// Whether the version came with a dataset of its own.
    #[must_use]
    pub fn is_run(self) -> bool {
        matches!(self, Self::Run | Self::Rebuild)
    }
}

/// What decides which rows a stage keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageIdentity {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// The version of its code.
    pub version: u32,
    /// Its configuration with defaults filled in.
    pub config: Value,
    /// What makes the vectors that it compares, if it compares any: kind, version, configuration, model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<Value>,
    /// What it reads: for `source.name`, as the stage names a column, the column and its type.
    #[serde(default)]
    pub reads: BTreeMap<String, String>,
}

/// The dataset that goes with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its folder.
    pub folder: PathBuf,
    /// BLAKE3 of its manifest.
    pub manifest: String,
    /// Whether it takes the place of another.
    pub overwrite: bool,
    /// Rows of its lineage.
    pub rows: u64,
    /// Rows kept.
    pub kept: u64,
}

/// What a file of a state holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Content {
    /// The shards of one version: ordinal, names, hash, what tells that a file is the same.
    Shards,
    /// The narrow rows that a stage kept of some shards that follow one another, in row order: row id, document id, features.
    Rows {
        /// The stage.
        stage: String,
        /// The ordinal of the first shard.
        first: u64,
        /// The ordinal of the last one.
        last: u64,
    },
    /// What the stage compares these rows by, where that is too much to read for all: row id and values.
    Named {
        /// The stage.
        stage: String,
        /// The ordinal of the first shard.
        first: u64,
        /// The ordinal of the last one.
        last: u64,
    },
    /// Rows that count as not there: stage and row id.
    Forgotten,
    /// What a stage fitted once, and goes on with.
    Fitted {
        /// The stage.
        stage: String,
    },
}

/// A file of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What it holds.
    #[serde(flatten)]
    pub content: Content,
    /// BLAKE3 of the file, which names it.
    pub blake3: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// The version that it came with.
    pub version: u64,
}

/// A name for one attempt at a version. Chance from outside on purpose: two processes that do the same work must differ in it.
#[must_use]
pub fn commit_id() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let draw = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}-{}", draw(), draw(), std::process::id())
}

/// A state's folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The state in a folder, which need not be there yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn manifests(&self) -> PathBuf {
        self.folder.join("manifest")
    }

    fn segments(&self) -> PathBuf {
        self.folder.join("segments")
    }

    fn manifest_path(&self, version: u64) -> PathBuf {
        self.manifests().join(format!("{version:020}.json"))
    }

    /// Where a segment lies.
    #[must_use]
    pub fn segment_path(&self, segment: &Segment) -> PathBuf {
        self.segments().join(format!("{}.parquet", segment.blake3))
    }

    /// Makes the folders, and takes the lock that tells other runs to wait; safety does not rest on it.
    ///
    /// # Errors
    /// Kind conflict where another run holds it, kind storage.
    pub fn hold(&self) -> Result<Lock> {
        local::create_dir_all_synced(&self.manifests())?;
        local::create_dir_all_synced(&self.segments())?;
        let lock = Lock::take(&self.folder.join(".lock"), "the state")?;
        // A process that was killed may have given a version its name and not made it durable: from here on it is built upon.
        local::sync_dir(&self.manifests())?;
        Ok(lock)
    }

    /// The numbers of its versions, rising.
    ///
    /// # Errors
    /// Kind storage; kind state where a name is none of ours.
    pub fn versions(&self) -> Result<Vec<u64>> {
        if !local::exists(&self.manifests())? {
            return Ok(Vec::new());
        }
        let mut versions = Vec::new();
        for name in local::list_all_files(&self.manifests())? {
            // What a process that was killed had not linked yet.
            if name.starts_with('.') {
                continue;
            }
            let number = name.strip_suffix(".json").filter(|number| number.len() == 20).and_then(|number| number.parse().ok());
            versions.push(number.ok_or_else(|| {
                Error::state(format!("a file in the state is none of a state's path=`{}`", self.manifests().join(&name).display()))
                    .hint("move it away, or name another folder as `state`")
            })?);
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// The newest version with the hash of its manifest; none where there is no state.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn head(&self) -> Result<Option<(Version, ContentHash)>> {
        self.versions()?.last().map(|version| self.read(*version)).transpose()
    }

    /// One version.
    ///
    /// # Errors
    /// Kind state where it is damaged or a later release wrote it, kind storage.
    pub fn read(&self, number: u64) -> Result<(Version, ContentHash)> {
        let path = self.manifest_path(number);
        let damaged = || Error::state(format!("cannot read the state path=`{}`", path.display())).hint(MEND);
        let bytes = local::read_to_vec(&path, MAX_BYTES)?;
        let (value, wrong) = match seal::open(&bytes) {
            Ok(value) => (value, None),
            Err((wrong, Some(value))) => (value, Some(wrong)),
            Err((wrong, None)) => return Err(damaged().caused_by(wrong)),
        };
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if format <= FORMAT => {}
            Some(format) => {
                return Err(Error::state(format!(
                    "a later release wrote this state format=`{format}` known=`{FORMAT}` path=`{}`",
                    path.display()
                ))
                .hint("use that release, or a later one"));
            }
            None => return Err(damaged()),
        }
        if let Some(wrong) = wrong {
            return Err(damaged().caused_by(wrong));
        }
        let version: Version = serde_json::from_value(value).map_err(|error| damaged().caused_by(error))?;
        if version.version != number {
            return Err(damaged().caused_by(format!("it says that it is version {}", version.version)));
        }
        Ok((version, blake3::hash(&bytes).into()))
    }

    /// Whether a version since the last rebuild forgot rows; versions that cannot be read are passed over.
    ///
    /// # Errors
    /// Kind storage.
    pub fn has_forgotten(&self) -> Result<bool> {
        for number in self.versions()?.into_iter().rev() {
            match self.read(number).map(|(version, _)| version.made_by) {
                Ok(Maker::Forget) => return Ok(true),
                Ok(Maker::Rebuild) => return Ok(false),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Takes a finished file into the state, under the name of its hash, synced. One that is there already is the same.
    ///
    /// # Errors
    /// Kind storage.
    pub fn adopt(&self, file: local::AsideFile, content: Content, rows: u64, version: u64) -> Result<Segment> {
        let written = file.finish_as(|hash| self.segments().join(format!("{hash}.parquet")))?;
        Ok(Segment { content, blake3: written.hash.to_string(), bytes: written.bytes, rows, version })
    }

    /// Starts a file of the state.
    ///
    /// # Errors
    /// Kind storage.
    pub fn create(&self) -> Result<local::AsideFile> {
        local::AsideFile::create(&self.segments().join("segment.parquet"))
    }

    /// Makes `version` the newest one.
    ///
    /// # Errors
    /// Kind conflict where another process has made one of that number.
    pub fn commit(&self, version: &Version) -> Result<()> {
        let text = seal::seal(version)?;
        fault::point("commit.before");
        let created = local::create_new(&self.manifest_path(version.version), &text);
        match created {
            Ok(true) => {
                fault::point("commit.after");
                return Ok(());
            }
            Err(error) if !self.has(version.version)? => return Err(error),
            // What is there may be ours all the same: a step was repeated below us, or one failed after the name was given.
            _ => {}
        }
        if self.read(version.version)?.0.commit_id == version.commit_id {
            return created.map(drop);
        }
        Err(Error::new(Kind::Conflict, format!("another run has made this version of the state version=`{}`", version.version))
            .hint("run again: it starts from that version, and what is finished is kept"))
    }

    /// Whether there is such a version.
    ///
    /// # Errors
    /// Kind storage.
    pub fn has(&self, number: u64) -> Result<bool> {
        local::exists(&self.manifest_path(number))
    }

    /// Refuses a version of which a file is missing or has another length, before anything rests on it.
    ///
    /// # Errors
    /// Kind state, kind storage.
    pub fn check_lengths(&self, version: &Version) -> Result<()> {
        for segment in &version.segments {
            let path = self.segment_path(segment);
            if local::identity(&path)?.is_none_or(|identity| identity.bytes != segment.bytes) {
                return Err(Error::state(format!("a file of the state is missing or damaged path=`{}`", path.display())).hint(MEND));
            }
        }
        Ok(())
    }

    /// Carries out what the run that made `version` may have left undone: its dataset gets its name. Whether there was something.
    ///
    /// # Errors
    /// Kind storage.
    pub fn finish(&self, version: &Version) -> Result<bool> {
        commit::finish_committed(&version.dataset.folder, &version.run_id, version.dataset.overwrite)
    }

    /// The files that a version does not list, with their lengths: what no run will read, and what a killed process had not given its name.
    ///
    /// # Errors
    /// Kind storage.
    pub fn unlisted(&self, head: Option<&Version>) -> Result<Vec<(PathBuf, u64)>> {
        let listed: BTreeSet<PathBuf> =
            head.iter().flat_map(|version| &version.segments).map(|segment| self.segment_path(segment)).collect();
        let mut files = Vec::new();
        for (folder, is_segments) in [(self.segments(), true), (self.manifests(), false)] {
            if !local::exists(&folder)? {
                continue;
            }
            for name in local::list_all_files(&folder)? {
                let path = folder.join(&name);
                if name.starts_with('.') || is_segments && !listed.contains(&path) {
                    let bytes = local::identity(&path)?.map_or(0, |identity| identity.bytes);
                    files.push((path, bytes));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Removes these files; who calls it holds the state.
    ///
    /// # Errors
    /// Kind storage.
    pub fn remove_unlisted(&self, head: &Version) -> Result<Vec<(PathBuf, u64)>> {
        let files = self.unlisted(Some(head))?;
        files.iter().try_for_each(|(path, _)| local::remove_file(path))?;
        Ok(files)
    }

    /// What is wrong with the files of a version, each in words; and how many files and bytes were looked at.
    ///
    /// # Errors
    /// Kind storage where a file cannot be read.
    pub fn verify(&self, version: &Version) -> Result<(Vec<String>, u64, u64)> {
        let (mut problems, mut files, mut bytes) = (Vec::new(), 0, 0);
        for segment in &version.segments {
            let path = self.segment_path(segment);
            if !local::exists(&path)? {
                problems.push(format!("a file is missing path=`{}`", path.display()));
                continue;
            }
            let (hash, length) = checksum::hash_path(&path)?;
            files += 1;
            bytes += length;
            if length != segment.bytes || hash.to_string() != segment.blake3 {
                problems.push(format!("a file has changed path=`{}` found=`{hash}`", path.display()));
            }
        }
        Ok((problems, files, bytes))
    }
}
