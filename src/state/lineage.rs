//! The lineage table: one row an input row, saying what became of it and because of which other row.
//!
//! A row that was dropped on several branches has several drops. The columns hold the main one, `detail` the others, under `also`:
//! a list of objects with the columns' names, those left out that have no value.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use serde_json::{Map, Value, json};

use crate::dataset::write_error;
use crate::error::{Context as _, Error, Kind, Result};
use crate::storage::local::{self, AsideFile, Written};

/// Rows written at once: a fixed number, so that the bytes of the file depend on its rows alone.
const CHUNK_ROWS: usize = 4096;
/// Rows in a row group.
const GROUP_ROWS: usize = 1 << 17;

/// What became of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// Row inside the shard.
    pub row: u64,
    /// The document's id, if the source has one.
    pub doc_id: Option<String>,
    /// Why it is not kept, the main reason first; none: it is.
    pub drops: Vec<Fate>,
    /// The document id of the row that the main drop names.
    pub kept_doc_id: Option<String>,
    /// How many rows name this one in their columns.
    pub copies: u64,
    /// How often it is to be taken, where a stage takes rows more than once.
    pub repeat: Option<u64>,
    /// Why its vector cannot be compared.
    pub embedding_status: Option<&'static str>,
}

/// A row by its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The source.
    pub source: String,
    /// The shard.
    pub shard: String,
    /// The row's number in it.
    pub row: u64,
    /// The earlier run that read it; none: this one.
    pub run_id: Option<String>,
}

/// Why a row was dropped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fate {
    /// The stage that dropped it.
    pub stage: String,
    /// The reason, such as `exact_duplicate`.
    pub reason: String,
    /// The row that it duplicates.
    pub kept: Option<Place>,
    /// How similar the two are, or the score by which a selection left it out.
    pub score: Option<f64>,
    /// What else the stage says: a JSON object with sorted keys.
    pub detail: Option<String>,
}

/// The key of the drops on other branches in `detail`.
const ALSO: &str = "also";

impl Fate {
    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("reason".into(), json!(self.reason));
        object.insert("stage".into(), json!(self.stage));
        if let Some(kept) = &self.kept {
            object.insert("kept_row".into(), json!(kept.row));
            if let Some(run_id) = &kept.run_id {
                object.insert("kept_run_id".into(), json!(run_id));
            }
            object.insert("kept_shard".into(), json!(kept.shard));
            object.insert("kept_source".into(), json!(kept.source));
        }
        if let Some(score) = self.score {
            object.insert("score".into(), json!(score));
        }
        if let Some(detail) = &self.detail {
            object.insert("detail".into(), Value::Object(object_of(detail)));
        }
        Value::Object(object)
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let kept = match (text("kept_source"), text("kept_shard"), value.get("kept_row")) {
            (None, None, None) => None,
            (Some(source), Some(shard), Some(row)) => Some(Place { source, shard, row: row.as_u64()?, run_id: text("kept_run_id") }),
            _ => return None,
        };
        Some(Self {
            stage: text("stage")?,
            reason: text("reason")?,
            kept,
            score: value.get("score").and_then(Value::as_f64),
            detail: value.get("detail").map(Value::to_string),
        })
    }
}

/// The object that a detail is.
fn object_of(detail: &str) -> Map<String, Value> {
    serde_json::from_str(detail).unwrap_or_default()
}

/// The column `detail` of an entry.
fn joined(drops: &[Fate], embedding_status: Option<&str>, repeat: Option<u64>) -> Option<String> {
    let own = drops.first().and_then(|drop| drop.detail.as_ref());
    let others = drops.get(1..).unwrap_or_default();
    if others.is_empty() && embedding_status.is_none() && repeat.is_none() {
        return own.cloned();
    }
    let mut detail = own.map(|own| object_of(own)).unwrap_or_default();
    if !others.is_empty() {
        detail.insert(ALSO.into(), others.iter().map(Fate::json).collect());
    }
    if let Some(status) = embedding_status {
        detail.insert("embedding_status".into(), json!(status));
    }
    if let Some(repeat) = repeat {
        detail.insert("repeat".into(), json!(repeat));
    }
    Some(Value::Object(detail).to_string())
}

/// The column `detail` taken apart: what it says of the row and of its main drop, and the drops on other branches.
///
/// # Errors
/// Kind state where it cannot be read.
pub fn split(detail: &str) -> Result<(Option<String>, Vec<Fate>)> {
    // Most details have no other drops, and need not be read.
    if !detail.contains(ALSO) {
        return Ok((Some(detail.to_owned()), Vec::new()));
    }
    let damaged = || Error::state(format!("lineage has a detail that cannot be read detail=`{detail}`"));
    let mut object: Map<String, Value> = serde_json::from_str(detail).context(Kind::State, || damaged().to_string())?;
    let Some(also) = object.remove(ALSO) else { return Ok((Some(detail.to_owned()), Vec::new())) };
    let also = also.as_array().and_then(|also| also.iter().map(Fate::read).collect::<Option<Vec<_>>>()).ok_or_else(damaged)?;
    Ok(((!object.is_empty()).then(|| Value::Object(object).to_string()), also))
}

/// The schema of a lineage file.
#[must_use]
pub fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("source", false),
        text("shard", false),
        Field::new("row", DataType::UInt64, false),
        text("doc_id", true),
        text("decision", false),
        text("stage", true),
        text("reason", true),
        text("kept_source", true),
        text("kept_shard", true),
        Field::new("kept_row", DataType::UInt64, true),
        text("kept_doc_id", true),
        text("kept_run_id", true),
        Field::new("score", DataType::Float64, true),
        Field::new("copies", DataType::UInt64, false),
        text("detail", true),
        text("run_id", false),
    ]))
}

/// The lineage file of the shard with this ordinal.
#[must_use]
pub fn file_name(ordinal: usize) -> String {
    format!("lineage/part-{ordinal:06}.parquet")
}

/// How lineage and what stages leave beside it are written.
pub fn properties() -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(3).context(Kind::Internal, || "no such compression level".into())?;
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("trommel".into())
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    Ok(properties.build())
}

/// Writes the lineage of one shard, row by row in row order.
pub struct LineageWriter {
    writer: ArrowWriter<AsideFile>,
    path: PathBuf,
    source: String,
    shard: String,
    run_id: String,
    pending: Vec<Entry>,
    next: u64,
}

impl LineageWriter {
    /// Starts the file.
    pub fn create(path: &Path, source: &str, shard: &str, run_id: &str) -> Result<Self> {
        let file = AsideFile::create(path)?;
        let writer =
            ArrowWriter::try_new(file, schema(), Some(properties()?)).context(Kind::Internal, || "cannot start a lineage file".into())?;
        Ok(Self {
            writer,
            path: path.to_owned(),
            source: source.into(),
            shard: shard.into(),
            run_id: run_id.into(),
            pending: Vec::new(),
            next: 0,
        })
    }

    /// Adds the next row.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        if entry.row != self.next {
            return Err(Error::internal(format!("lineage is not in row order expected=`{}` row=`{}`", self.next, entry.row)));
        }
        self.next += 1;
        self.pending.push(entry);
        if self.pending.len() == CHUNK_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let rows = self.pending.len();
        let mut texts: Vec<StringBuilder> = (0..12).map(|_| StringBuilder::new()).collect();
        let [source, shard, doc_id, decision, stage, reason, kept_source, kept_shard, kept_doc_id, kept_run_id, detail, run_id] =
            texts.as_mut_slice()
        else {
            return Err(Error::internal("lineage has twelve text columns"));
        };
        let (mut row, mut kept_row, mut copies) =
            (UInt64Builder::with_capacity(rows), UInt64Builder::with_capacity(rows), UInt64Builder::with_capacity(rows));
        let mut score = Float64Builder::with_capacity(rows);
        for entry in self.pending.drain(..) {
            source.append_value(&self.source);
            shard.append_value(&self.shard);
            row.append_value(entry.row);
            doc_id.append_option(entry.doc_id);
            let fate = entry.drops.first();
            decision.append_value(if fate.is_some() { "drop" } else { "keep" });
            stage.append_option(fate.map(|fate| &fate.stage));
            reason.append_option(fate.map(|fate| &fate.reason));
            let kept = fate.and_then(|fate| fate.kept.as_ref());
            kept_source.append_option(kept.map(|kept| &kept.source));
            kept_shard.append_option(kept.map(|kept| &kept.shard));
            kept_row.append_option(kept.map(|kept| kept.row));
            kept_doc_id.append_option(entry.kept_doc_id);
            kept_run_id.append_option(kept.and_then(|kept| kept.run_id.as_ref()));
            score.append_option(fate.and_then(|fate| fate.score));
            copies.append_value(entry.copies);
            detail.append_option(joined(&entry.drops, entry.embedding_status, entry.repeat));
            run_id.append_value(&self.run_id);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(source.finish()),
            Arc::new(shard.finish()),
            Arc::new(row.finish()),
            Arc::new(doc_id.finish()),
            Arc::new(decision.finish()),
            Arc::new(stage.finish()),
            Arc::new(reason.finish()),
            Arc::new(kept_source.finish()),
            Arc::new(kept_shard.finish()),
            Arc::new(kept_row.finish()),
            Arc::new(kept_doc_id.finish()),
            Arc::new(kept_run_id.finish()),
            Arc::new(score.finish()),
            Arc::new(copies.finish()),
            Arc::new(detail.finish()),
            Arc::new(run_id.finish()),
        ];
        let batch = RecordBatch::try_new(schema(), columns).context(Kind::Internal, || "cannot build lineage rows".into())?;
        self.writer.write(&batch).map_err(|error| write_error(error, &self.path))
    }

    /// Ends the file; its bytes are on disk when this returns, its name once the folder is synced.
    pub fn finish(mut self) -> Result<(Written, u64)> {
        self.flush()?;
        let file = self.writer.into_inner().map_err(|error| write_error(error, &self.path))?;
        Ok((file.finish_in_part()?, self.next))
    }
}

/// Reads lineage columns of one file, in row order.
pub fn read(path: &Path, columns: &[&str]) -> Result<ParquetRecordBatchReader> {
    let describe = || format!("cannot read lineage path=`{}`", path.display());
    let builder = ParquetRecordBatchReaderBuilder::try_new(local::open(path)?).context(Kind::State, describe)?;
    let mask = parquet::arrow::ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    builder.with_projection(mask).with_batch_size(8192).build().context(Kind::State, describe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(stage: &str, kept: Option<u64>, detail: Option<&str>) -> Fate {
        let kept =
            kept.map(|row| Place { source: "s".into(), shard: "x/\"y\".parquet".into(), row, run_id: (row == 0).then(|| "r".into()) });
        Fate { stage: stage.into(), reason: "r".into(), kept, score: kept_score(stage), detail: detail.map(str::to_owned) }
    }

    fn kept_score(stage: &str) -> Option<f64> {
        (stage != "a").then_some(0.1 + 0.2)
    }

    #[test]
    fn what_was_joined_is_split_again() {
        for own in [None, Some(r#"{"cell":3}"#)] {
            for others in
                [vec![], vec![fate("a", None, None)], vec![fate("b", Some(u64::MAX), Some(r#"{"also":1}"#)), fate("a", Some(0), None)]]
            {
                let drops = [vec![fate("main", Some(1), own)], others.clone()].concat();
                let detail = joined(&drops, None, None);
                let split = detail.as_deref().map_or((None, Vec::new()), |detail| split(detail).unwrap());
                assert_eq!(split, (own.map(str::to_owned), others), "{detail:?}");
            }
        }
        let marked = joined(&[fate("a", None, Some(r#"{"z":1}"#)), fate("b", None, None)], Some("null"), None).unwrap();
        assert_eq!(marked, r#"{"also":[{"reason":"r","score":0.30000000000000004,"stage":"b"}],"embedding_status":"null","z":1}"#);
        assert_eq!(joined(&[], Some("null"), Some(3)).unwrap(), r#"{"embedding_status":"null","repeat":3}"#);
        assert_eq!(split(&marked).unwrap().0.unwrap(), r#"{"embedding_status":"null","z":1}"#);
    }

    #[test]
    fn a_damaged_detail_is_an_error() {
        for damaged in
            [r#"{"also":"#, r#"{"also":1}"#, r#"{"also":[{"stage":"a"}]}"#, r#"{"also":[{"reason":"r","stage":"a","kept_row":1}]}"#]
        {
            assert_eq!(split(damaged).unwrap_err().kind(), Kind::State, "{damaged}");
        }
    }
}
