//! Shards that are set aside because they cannot be read: found before anything rests on them, by reading them whole.

use serde::{Deserialize, Serialize};

use super::reader::{ReadRequest, read};
use super::snapshot::Shard;
use crate::error::{Error, Kind, Result};
use crate::words;

/// Rows of a batch that is decoded and thrown away.
const BATCH_ROWS: usize = 8192;

words! {
    /// What becomes of a shard that is damaged.
    pub enum OnCorrupt {
        /// The run fails and names it.
        Fail = "fail",
        /// It is set aside and named; the run goes on without it.
        Quarantine = "quarantine",
    }
}

/// A shard that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its source.
    pub source: String,
    /// Its path below the source's folder.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its rows, if its footer can be read.
    pub rows: Option<u64>,
    /// Why.
    pub error: String,
}

/// Decodes every column of a shard once.
///
/// # Errors
/// Kind input where it is damaged, kind storage where it cannot be read.
pub(super) fn read_whole(shard: &Shard) -> Result<()> {
    let columns: Vec<&str> = shard.schema.fields().iter().map(|field| field.name().as_str()).collect();
    for batch in read(shard, ReadRequest { columns: &columns, schema: None, selection: None, batch_rows: BATCH_ROWS })? {
        batch?;
    }
    Ok(())
}

/// Whether an error says that a shard is damaged, rather than that the storage or a limit keeps it from being read.
pub(super) fn is_damage(error: &Error) -> bool {
    error.kind() == Kind::Input
}

/// The error with its causes, in one line.
pub(super) fn in_one_line(error: &Error) -> String {
    let report = error.report();
    report
        .lines()
        .filter(|line| !line.starts_with("hint:"))
        .map(|line| line.trim_start().trim_start_matches("error: "))
        .collect::<Vec<_>>()
        .join("; ")
}
