//! Rows that are taken out of a state on demand: from the next version on they match nothing. What stands in published datasets is found
//! and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, AsArray as _, StringArray};
use arrow::datatypes::UInt64Type;

use super::kept::{Kept, each_doc_id};
use super::lineage;
use super::segments::{checked, write_forgotten};
use super::store::{Maker, Store, Version, commit_id};
use crate::error::{Error, Result};
use crate::ids::{ContentHash, Fingerprint};
use crate::storage::local;

/// Rows of a state by stage, with the document ids that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// Row ids, rising.
    pub rows: BTreeMap<String, Vec<u64>>,
    /// The ids among those asked for that some stage keeps a row of, or kept one of that is forgotten.
    pub ids: BTreeSet<String>,
}

/// The rows of these document ids that the stages of a version keep.
///
/// # Errors
/// Kind state where a file is damaged.
pub fn find(store: &Store, version: &Version, ids: &BTreeSet<String>) -> Result<Found> {
    let kept = Kept::open(store, version)?;
    let mut found = Found::default();
    for (stage, files) in kept.stages() {
        let forgotten = kept.forgotten(stage);
        let mut rows = Vec::new();
        for stored in files {
            each_doc_id(&checked(store, &stored.rows)?, |row, id| {
                if let Some(id) = ids.get(id) {
                    if !found.ids.contains(id) {
                        found.ids.insert(id.clone());
                    }
                    if forgotten.binary_search(&row).is_err() {
                        rows.push(row);
                    }
                }
                Ok(())
            })?;
        }
        if !rows.is_empty() {
            found.rows.insert(stage.to_owned(), rows);
        }
    }
    Ok(found)
}

/// Makes the version in which these rows, which some stage keeps, are forgotten.
///
/// # Errors
/// Kind conflict where another process was first, kind storage.
pub fn forget(store: &Store, (head, hash): &(Version, ContentHash), rows: &BTreeMap<String, Vec<u64>>) -> Result<Version> {
    let mut version = head.clone();
    version.version += 1;
    let segment = write_forgotten(store, rows, version.version)?;
    // Another list makes another version: what runs on it has another id.
    let run_id = Fingerprint::new("trommel forget").part(&head.run_id).part(&segment.blake3).finish();
    version.segments.push(segment);
    version.base = Some(hash.to_string());
    version.run_id = run_id.to_string();
    version.commit_id = commit_id();
    version.made_by = Maker::Forget;
    store.commit(&version)?;
    Ok(version)
}

/// A row of a published dataset that has to do with a list of document ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The dataset.
    pub dataset: PathBuf,
    /// Its source.
    pub source: String,
    /// Its shard.
    pub shard: String,
    /// Its number in the shard.
    pub row: u64,
    /// Its document id.
    pub doc_id: Option<String>,
    /// `keep`, `drop` or `reject`.
    pub decision: String,
    /// The document id of the row that it was dropped for.
    pub kept_doc_id: Option<String>,
}

/// What the lineage of a dataset says of documents of these ids (first), and of rows that were dropped for their sake.
///
/// # Errors
/// Kind state where the lineage cannot be read, kind storage.
pub fn standing(dataset: &Path, ids: &BTreeSet<String>) -> Result<(Vec<Standing>, Vec<Standing>)> {
    let (mut of_ids, mut for_their_sake) = (Vec::new(), Vec::new());
    let folder = dataset.join("lineage");
    for name in local::list_all_files(&folder)? {
        let path = folder.join(name);
        let damaged = || Error::state(format!("cannot read lineage path=`{}`", path.display()));
        for batch in lineage::read(&path, &["source", "shard", "row", "doc_id", "decision", "kept_doc_id"])? {
            let batch = batch.map_err(|error| damaged().caused_by(error))?;
            let text = |name: &str| -> Result<&StringArray> {
                batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(damaged)
            };
            let (source, shard, doc_id, decision, kept) =
                (text("source")?, text("shard")?, text("doc_id")?, text("decision")?, text("kept_doc_id")?);
            let row = batch.column_by_name("row").and_then(|row| row.as_primitive_opt::<UInt64Type>()).ok_or_else(damaged)?;
            let named = |column: &StringArray, place: usize| column.is_valid(place) && ids.contains(column.value(place));
            for place in 0..batch.num_rows() {
                let into = match (named(doc_id, place), named(kept, place)) {
                    (true, _) => &mut of_ids,
                    (false, true) => &mut for_their_sake,
                    (false, false) => continue,
                };
                let id = |column: &StringArray| column.is_valid(place).then(|| column.value(place).to_owned());
                into.push(Standing {
                    dataset: dataset.to_owned(),
                    source: source.value(place).to_owned(),
                    shard: shard.value(place).to_owned(),
                    row: row.value(place),
                    doc_id: id(doc_id),
                    decision: decision.value(place).to_owned(),
                    kept_doc_id: id(kept),
                });
            }
        }
    }
    Ok((of_ids, for_their_sake))
}
