//! `manifest.json`: what went in, what came out, by which plan. Nothing in it varies between equal runs; what does vary (times,
//! host, folders) is in `run.json`, which no hash covers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::seal;
use crate::dataset::quarantine::Quarantined;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{ContentHash, Fingerprint, RunId};
use crate::storage::local;

/// The version of the format. A reader refuses newer ones and reads all older ones.
pub const VERSION: u64 = 1;
/// Bytes of a manifest that a reader accepts.
const MAX_BYTES: u64 = 1 << 30;

/// A dataset that a run left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u64,
    /// The release that wrote it.
    pub trommel: String,
    /// The pipeline's name.
    pub name: String,
    /// The id of the work: equal for equal plans over equal inputs.
    pub run_id: String,
    /// The plan that was run.
    pub plan: Value,
    /// The input shards, in the order of the corpus.
    pub inputs: Vec<InputShard>,
    /// Damaged shards that were set aside: no row of them is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
    /// The files of the dataset, by path.
    pub files: Vec<OutputFile>,
    /// Rows.
    pub rows: Counts,
    /// What each stage did, in the plan's order.
    pub stages: Vec<StageCounts>,
}

/// An input shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputShard {
    /// Its source.
    pub source: String,
    /// Its path below the source's folder.
    pub shard: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Rows that the run looked at.
    pub rows: u64,
    /// How many of them were kept.
    pub kept: u64,
    /// Its lineage file.
    pub lineage: String,
}

/// A file of the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Path below the dataset's folder.
    pub path: String,
    /// `data`, `dropped`, `lineage`, or `table` for what a stage left beside its decisions.
    pub kind: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Rows.
    pub rows: u64,
}

/// Rows of the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Read.
    pub input: u64,
    /// In the output.
    pub kept: u64,
    /// Dropped by a stage.
    pub dropped: u64,
    /// That could not be read.
    pub rejected: u64,
}

/// What one stage did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Its id.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Rows that the lineage says it dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What the stage itself counted.
    pub report: Map<String, Value>,
}

impl Manifest {
    /// A shard as messages name it: with its source where there are several.
    #[must_use]
    pub fn label(&self, input: &InputShard) -> String {
        let several = self.plan.get("sources").and_then(Value::as_array).is_some_and(|sources| sources.len() > 1);
        if several { format!("{}/{}", input.source, input.shard) } else { input.shard.clone() }
    }

    /// Its path in a dataset's folder.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("manifest.json")
    }

    /// Writes it into a dataset's folder and gives its hash.
    pub fn write(&self, folder: &Path) -> Result<ContentHash> {
        Ok(local::write_file(&Self::path(folder), &seal::seal(self)?)?.hash)
    }

    /// Reads it.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = Self::path(folder);
        if !local::exists(&path)? {
            return Err(Error::state(format!("no manifest in this folder path=`{}`", folder.display()))
                .hint("name the folder that `sink` of the pipeline names, after a run has ended"));
        }
        let damaged = || format!("cannot read the manifest path=`{}`", path.display());
        let (value, wrong) = match seal::open(&local::read_to_vec(&path, MAX_BYTES)?) {
            Ok(value) => (value, None),
            Err((wrong, Some(value))) => (value, Some(wrong)),
            Err((wrong, None)) => return Err(Error::state(damaged()).caused_by(wrong)),
        };
        // The version is looked at first: a newer version may have other fields.
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version <= VERSION => {}
            Some(version) => {
                return Err(Error::state(format!(
                    "a later release wrote this manifest version=`{version}` known=`{VERSION}` path=`{}`",
                    path.display()
                ))
                .hint("use that release, or a later one"));
            }
            None => return Err(Error::state(damaged())),
        }
        if let Some(wrong) = wrong {
            return Err(Error::state(damaged()).caused_by(wrong).hint("run the pipeline again with --overwrite"));
        }
        serde_json::from_value(value).context(Kind::State, damaged)
    }
}

/// The id of a run: its plan and the content and names of its inputs, for lineage holds both.
#[must_use]
pub fn run_id(plan: &Value, inputs: &[(String, String, ContentHash, u64)]) -> RunId {
    let mut key = Fingerprint::new("trommel run").number(VERSION).part(plan.to_string()).number(inputs.len() as u64);
    for (source, shard, hash, rows) in inputs {
        key = key.part(source).part(shard).part(hash.as_bytes()).number(*rows);
    }
    key.finish().into()
}

/// `run.json`: the circumstances of one run, covered by no hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When it started, in seconds since 1970.
    pub started_unix: u64,
    /// How long it took.
    pub seconds: f64,
    /// The release.
    pub trommel: String,
    /// Threads.
    pub threads: usize,
    /// The memory budget in bytes.
    pub memory_bytes: u64,
    /// The highest resident set, where the system says it.
    pub peak_memory_bytes: Option<u64>,
    /// The pipeline file.
    pub pipeline: String,
    /// The folder of each source, as `why` and `pairs` look its shards up.
    pub sources: BTreeMap<String, String>,
    /// The work folder.
    pub work: String,
    /// Time and bytes a phase.
    pub phases: Vec<PhaseRecord>,
    /// Bytes of row groups that were copied without decoding, and of all row groups written.
    pub bytes_copied: u64,
    /// See `bytes_copied`.
    pub bytes_written: u64,
    /// Tasks that were found done, and tasks that were run.
    pub tasks_cached: u64,
    /// See `tasks_cached`.
    pub tasks_run: u64,
}

/// One phase in `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Its name.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// Bytes of shards read.
    pub bytes: u64,
}

impl RunRecord {
    /// Its path in a dataset's folder.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("run.json")
    }

    /// Writes it into a dataset's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context(Kind::Internal, || "cannot write run.json".into())?;
        text.push(b'\n');
        local::write_file(&Self::path(folder), &text)?;
        Ok(())
    }

    /// Reads it; `None` if it is not there or cannot be read, since nothing depends on it.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&local::read_to_vec(&Self::path(folder), MAX_BYTES).ok()?).ok()
    }
}
