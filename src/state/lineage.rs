//! The lineage table: one row an input row, saying what became of it and because of which other row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

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
    /// `None`: kept.
    pub drop: Option<Fate>,
    /// The kept row's document id.
    pub kept_doc_id: Option<String>,
    /// How many rows name this one.
    pub copies: u64,
    /// A JSON object with sorted keys.
    pub detail: Option<String>,
}

/// Why a row was dropped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fate {
    /// The stage that dropped it.
    pub stage: String,
    /// The reason, such as `exact_duplicate`.
    pub reason: String,
    /// Source, shard and row of the row that it duplicates.
    pub kept: Option<(String, String, u64)>,
    /// How similar the two are, or the score by which a selection left it out.
    pub score: Option<f64>,
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
        let level = ZstdLevel::try_new(3).context(Kind::Internal, || "no such compression level".into())?;
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by("trommel".into())
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_enabled(true)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let file = AsideFile::create(path)?;
        let writer =
            ArrowWriter::try_new(file, schema(), Some(properties)).context(Kind::Internal, || "cannot start a lineage file".into())?;
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
            decision.append_value(if entry.drop.is_some() { "drop" } else { "keep" });
            let fate = entry.drop.as_ref();
            stage.append_option(fate.map(|fate| &fate.stage));
            reason.append_option(fate.map(|fate| &fate.reason));
            let kept = fate.and_then(|fate| fate.kept.as_ref());
            kept_source.append_option(kept.map(|kept| &kept.0));
            kept_shard.append_option(kept.map(|kept| &kept.1));
            kept_row.append_option(kept.map(|kept| kept.2));
            kept_doc_id.append_option(entry.kept_doc_id);
            kept_run_id.append_null();
            score.append_option(fate.and_then(|fate| fate.score));
            copies.append_value(entry.copies);
            detail.append_option(entry.detail.as_ref());
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
        self.writer.write(&batch).context(Kind::Storage, || format!("cannot write lineage path=`{}`", self.path.display()))
    }

    /// Ends the file; it is on disk when this returns.
    pub fn finish(mut self) -> Result<(Written, u64)> {
        self.flush()?;
        let file = self.writer.into_inner().context(Kind::Storage, || format!("cannot write lineage path=`{}`", self.path.display()))?;
        Ok((file.finish()?, self.next))
    }
}

/// Reads lineage columns of one file, in row order.
pub fn read(path: &Path, columns: &[&str]) -> Result<ParquetRecordBatchReader> {
    let describe = || format!("cannot read lineage path=`{}`", path.display());
    let builder = ParquetRecordBatchReaderBuilder::try_new(local::open(path)?).context(Kind::State, describe)?;
    let mask = parquet::arrow::ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    builder.with_projection(mask).with_batch_size(8192).build().context(Kind::State, describe)
}
