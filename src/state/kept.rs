//! What the stages kept up to a version of a state: the files of each stage in row order, and which of their rows are forgotten.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::UInt64Type;

use super::segments::{self, read_forgotten};
use super::store::{Content, Segment, Store, Version};
use crate::error::{Context as _, Error, Kind, Result};

/// The rows that a stage kept of some shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The ordinal of the first shard.
    pub first: u64,
    /// The ordinal of the last one.
    pub last: u64,
    /// The narrow rows.
    pub rows: Segment,
    /// What the stage compares them by, if that lies apart.
    pub named: Option<Segment>,
}

/// All that the stages kept.
#[derive(Debug, Default)]
pub struct Kept {
    stages: BTreeMap<String, Vec<Stored>>,
    forgotten: BTreeMap<String, Vec<u64>>,
    fitted: BTreeMap<String, Segment>,
}

impl Kept {
    /// Reads which rows are forgotten, and puts the files in order.
    ///
    /// # Errors
    /// Kind state where files do not go together or one is damaged.
    pub fn open(store: &Store, version: &Version) -> Result<Self> {
        let mut kept = Self::default();
        let mut named = BTreeMap::new();
        for segment in &version.segments {
            match &segment.content {
                Content::Shards => {}
                Content::Rows { stage, first, last } => {
                    let stored = Stored { first: *first, last: *last, rows: segment.clone(), named: None };
                    kept.stages.entry(stage.clone()).or_default().push(stored);
                }
                Content::Named { stage, first, last } => {
                    named.insert((stage.clone(), *first, *last), segment.clone());
                }
                Content::Forgotten => {
                    for (stage, rows) in read_forgotten(store, segment)? {
                        kept.forgotten.entry(stage).or_default().extend(rows);
                    }
                }
                Content::Fitted { stage } => {
                    kept.fitted.insert(stage.clone(), segment.clone());
                }
            }
        }
        for (stage, files) in &mut kept.stages {
            files.sort_by_key(|stored| stored.first);
            for stored in &mut *files {
                stored.named = named.remove(&(stage.clone(), stored.first, stored.last));
            }
            if files.windows(2).any(|pair| pair[0].last >= pair[1].first) || files.iter().any(|stored| stored.first > stored.last) {
                return Err(Error::state(format!("files of the state hold the same shards stage=`{stage}`")).hint(super::store::MEND));
            }
        }
        kept.forgotten.values_mut().for_each(|rows| rows.sort_unstable());
        Ok(kept)
    }

    /// The files of a stage, in row order.
    #[must_use]
    pub fn stage(&self, stage: &str) -> &[Stored] {
        self.stages.get(stage).map_or(&[], Vec::as_slice)
    }

    /// The stages that kept rows.
    pub fn stages(&self) -> impl Iterator<Item = (&str, &[Stored])> {
        self.stages.iter().map(|(stage, files)| (stage.as_str(), files.as_slice()))
    }

    /// The file with the rows of a shard.
    #[must_use]
    pub fn of_shard(&self, stage: &str, shard: u64) -> Option<&Stored> {
        let files = self.stage(stage);
        files.get(files.partition_point(|stored| stored.last < shard)).filter(|stored| stored.first <= shard)
    }

    /// The rows of a stage that are forgotten, rising.
    #[must_use]
    pub fn forgotten(&self, stage: &str) -> &[u64] {
        self.forgotten.get(stage).map_or(&[], Vec::as_slice)
    }

    /// How many rows a stage keeps.
    #[must_use]
    pub fn rows(&self, stage: &str) -> u64 {
        self.stage(stage).iter().map(|stored| stored.rows.rows).sum::<u64>().saturating_sub(self.forgotten(stage).len() as u64)
    }

    /// What a stage fitted.
    #[must_use]
    pub fn fitted(&self, stage: &str) -> Option<&Segment> {
        self.fitted.get(stage)
    }
}

/// The row ids of a batch of the state.
///
/// # Errors
/// Kind state where it has none.
pub fn row_ids(batch: &RecordBatch) -> Result<&[u64]> {
    let rows = batch.column_by_name(segments::ROW_ID).and_then(|rows| rows.as_primitive_opt::<UInt64Type>());
    rows.map(|rows| &**rows.values()).ok_or_else(|| Error::state("the state's rows have no numbers"))
}

/// The rows of a batch that are not forgotten.
///
/// # Errors
/// Kind state where it has no row ids.
pub fn remembered(batch: RecordBatch, forgotten: &[u64]) -> Result<RecordBatch> {
    let ids = row_ids(&batch)?;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(batch) };
    let within = &forgotten[forgotten.partition_point(|row| row < first)..forgotten.partition_point(|row| row <= last)];
    if within.is_empty() {
        return Ok(batch);
    }
    let mask: BooleanArray = ids.iter().map(|id| Some(within.binary_search(id).is_err())).collect();
    filter_record_batch(&batch, &mask).context(Kind::Internal, || "cannot leave out rows".into())
}

/// Calls `take` with the row id and the document id of each row of a file, those that are forgotten among them.
///
/// # Errors
/// Kind state where the file cannot be read; what `take` gives.
pub fn each_doc_id(path: &Path, mut take: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    for batch in segments::read(path, Some(&[segments::ROW_ID, segments::DOC_ID]))? {
        let batch = batch?;
        let ids = batch.column_by_name(segments::DOC_ID).and_then(|ids| ids.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| Error::state("the state's rows have no document ids"))?;
        for (place, row) in row_ids(&batch)?.iter().enumerate().filter(|(place, _)| ids.is_valid(*place)) {
            take(*row, ids.value(place))?;
        }
    }
    Ok(())
}
