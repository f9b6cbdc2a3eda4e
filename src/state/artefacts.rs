//! The work folder: one artefact a task, named by its key, with a receipt that is written last.
//!
//! An artefact without a receipt is garbage from a run that ended early; one with a receipt is the task's result, whoever made
//! it. A file that does not have the length and hash of its receipt is not used, and its task runs again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::vectors;
use crate::dataset::write_error;
use crate::error::{Context as _, Error, Kind, Result};
use crate::fault;
use crate::ids::TaskKey;
use crate::storage::lock::Lock;
use crate::storage::{checksum, local};

/// The format of artefacts; part of every task key.
pub const FORMAT: u64 = 1;

/// What a task left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its files, by name inside the artefact's folder.
    pub files: Vec<ReceiptFile>,
    /// What it counted.
    pub facts: Map<String, Value>,
}

/// One file of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// Name.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal digits.
    pub blake3: String,
    /// Rows.
    pub rows: u64,
}

impl Receipt {
    /// A receipt of these files. Numbers are rounded to the 15 digits that survive being written and read: what is told of a task is the
    /// same whether it has just been done or is found done.
    #[must_use]
    pub fn new(files: Vec<ReceiptFile>, mut facts: Map<String, Value>) -> Self {
        facts.values_mut().for_each(round);
        Self { files, facts }
    }
}

fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().and_then(|number| format!("{number:.14e}").parse().ok());
            if let Some(rounded) = rounded.and_then(serde_json::Number::from_f64) {
                *number = rounded;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(values) => values.values_mut().for_each(round),
        _ => {}
    }
}

/// The folder of all artefacts in a work folder.
const FOLDER: &str = "artefacts";
/// Names in a work folder: of the lock that runs share, and of the list of what the newest one used.
const LOCK: &str = ".lock";
const USED: &str = "used.json";

/// The artefacts of a work folder.
#[derive(Debug, Clone)]
pub struct Artefacts {
    folder: PathBuf,
    /// What this process has found or made; whether it made it.
    used: Arc<Mutex<BTreeMap<TaskKey, bool>>>,
    /// Whether only what this process makes counts.
    fresh: bool,
    _lock: Option<Arc<Lock>>,
}

impl Artefacts {
    /// Those under `work`; `fresh`: what is there does not count. As long as they are held, none is collected as garbage.
    ///
    /// # Errors
    /// Kind conflict while garbage is collected, kind storage.
    pub fn open(work: &Path, fresh: bool) -> Result<Self> {
        let folder = work.join(FOLDER);
        local::create_dir_all(&folder)?;
        let lock = Lock::share(&work.join(LOCK), "the work folder")?;
        Ok(Self { folder, used: Arc::default(), fresh, _lock: Some(Arc::new(lock)) })
    }

    /// Keeps all runs out of a work folder.
    pub(super) fn hold_alone(work: &Path) -> Result<Lock> {
        Lock::take(&work.join(LOCK), "the work folder")
    }

    /// Writes which artefacts this process has used: what the garbage collector keeps.
    ///
    /// # Errors
    /// Kind storage.
    pub fn write_used(&self, work: &Path) -> Result<()> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<String> = used.keys().map(ToString::to_string).collect();
        let text = serde_json::to_vec(&keys).context(Kind::Internal, || "cannot list artefacts".into())?;
        local::write_file_unsynced(&work.join(USED), &text)?;
        Ok(())
    }

    /// The folders of artefacts that the newest finished run did not use; all of them where none has finished.
    pub(super) fn unused(work: &Path) -> Result<Vec<PathBuf>> {
        let (folder, list) = (work.join(FOLDER), work.join(USED));
        if !local::exists(&folder)? {
            return Ok(Vec::new());
        }
        let used: BTreeSet<String> = if local::exists(&list)? {
            // A list that is damaged costs time, and never a result.
            serde_json::from_slice(&local::read_to_vec(&list, 1 << 30)?).unwrap_or_default()
        } else {
            BTreeSet::new()
        };
        let mut folders = BTreeSet::new();
        for file in local::list_all_files(&folder)? {
            let mut parts = file.split('/');
            if let (Some(start), Some(rest), Some(_)) = (parts.next(), parts.next(), parts.next())
                && !used.contains(&format!("{start}{rest}"))
            {
                folders.insert(folder.join(start).join(rest));
            }
        }
        Ok(folders.into_iter().collect())
    }

    fn note(&self, key: &TaskKey, made: bool) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner).entry(*key).or_default() |= made;
    }

    /// Those under `work`, if the folder is there: for `plan`, which writes nothing.
    #[must_use]
    pub fn existing(work: &Path) -> Self {
        Self { folder: work.join(FOLDER), used: Arc::default(), fresh: false, _lock: None }
    }

    /// The folder of one artefact.
    #[must_use]
    pub fn folder(&self, key: &TaskKey) -> PathBuf {
        let name = key.to_string();
        self.folder.join(&name[..2]).join(&name[2..])
    }

    /// A file of one artefact.
    #[must_use]
    pub fn file(&self, key: &TaskKey, name: &str) -> PathBuf {
        self.folder(key).join(name)
    }

    fn receipt_path(&self, key: &TaskKey) -> PathBuf {
        self.folder(key).join("receipt.json")
    }

    /// Makes the folder of an artefact that is going to be written.
    pub fn begin(&self, key: &TaskKey) -> Result<PathBuf> {
        let folder = self.folder(key);
        local::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Ends a task: its files are there, and now they count.
    pub fn commit(&self, key: &TaskKey, receipt: &Receipt) -> Result<()> {
        let text = serde_json::to_vec(receipt).context(Kind::Internal, || "cannot write a receipt".into())?;
        fault::point("receipt.before");
        local::write_file_unsynced(&self.receipt_path(key), &text)?;
        fault::point("receipt.after");
        self.note(key, true);
        Ok(())
    }

    /// The receipt of a task that is done and whose files are whole.
    pub fn receipt(&self, key: &TaskKey) -> Result<Option<Receipt>> {
        let path = self.receipt_path(key);
        let made = self.used.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or(false);
        if !local::exists(&path)? || self.fresh && !made {
            return Ok(None);
        }
        let Ok(Receipt { files, facts }) = serde_json::from_slice(&local::read_to_vec(&path, 1 << 30)?) else { return Ok(None) };
        let receipt = Receipt::new(files, facts);
        for file in &receipt.files {
            let path = self.file(key, &file.name);
            if !local::exists(&path)? {
                return Ok(None);
            }
            let (hash, bytes) = checksum::hash_path(&path)?;
            if bytes != file.bytes || hash.to_string() != file.blake3 {
                return Ok(None);
            }
        }
        self.note(key, false);
        Ok(Some(receipt))
    }
}

/// Writes one narrow table: Parquet, so that anything can read it, without dictionaries or statistics.
pub struct TableWriter {
    name: String,
    path: PathBuf,
    stored: SchemaRef,
    writer: ArrowWriter<local::AsideFile>,
    rows: u64,
}

impl TableWriter {
    /// Starts the table `name` in `folder`.
    pub fn create(folder: &Path, name: &str, schema: &SchemaRef) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by("trommel".into())
            .set_compression(Compression::LZ4_RAW)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true);
        for field in schema.fields().iter().filter(|field| field.name() == "trommel_row") {
            // Row numbers grow by one: their differences take no room.
            properties = properties.set_column_encoding(ColumnPath::from(field.name().as_str()), Encoding::DELTA_BINARY_PACKED);
        }
        let path = folder.join(name);
        let file = local::AsideFile::create(&path)?;
        let stored = vectors::stored(schema);
        let writer = ArrowWriter::try_new(file, Arc::clone(&stored), Some(properties.build()))
            .context(Kind::Internal, || "cannot start an artefact".into())?;
        Ok(Self { name: name.to_owned(), path, stored, writer, rows: 0 })
    }

    /// Adds rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let batch = vectors::store(batch, &self.stored)?;
        self.writer.write(&batch).map_err(|error| write_error(error, &self.path))?;
        // A row group that waits in memory stays small.
        if self.writer.in_progress_size() > 32 << 20 {
            self.writer.flush().map_err(|error| write_error(error, &self.path))?;
        }
        Ok(())
    }

    /// Ends the table. It need not be on disk when this returns: a receipt counts only while the bytes have its hash.
    pub fn finish(self) -> Result<ReceiptFile> {
        let (name, rows) = (self.name, self.rows);
        let file = self.writer.into_inner().map_err(|error| write_error(error, &self.path))?;
        let written = file.finish_unsynced()?;
        Ok(ReceiptFile { name, bytes: written.bytes, blake3: written.hash.to_string(), rows })
    }
}

/// Reads the named columns of a narrow table, in the table's order; all of them for `None`.
pub fn read_table(path: &Path, columns: Option<&[&str]>, batch_rows: usize) -> Result<ParquetRecordBatchReader> {
    let file = local::open(path)?;
    let describe = || format!("cannot read an artefact path=`{}`", path.display());
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).context(Kind::State, describe)?;
    let mask = match columns {
        // By place: names of narrow columns have points in them.
        Some(columns) => {
            let roots =
                columns.iter().map(|name| builder.schema().index_of(name).context(Kind::State, describe)).collect::<Result<Vec<_>>>()?;
            ProjectionMask::roots(builder.parquet_schema(), roots)
        }
        None => ProjectionMask::all(),
    };
    builder.with_projection(mask).with_batch_size(batch_rows).build().context(Kind::State, describe)
}

/// The schema of a narrow table.
pub fn table_schema(path: &Path) -> Result<SchemaRef> {
    let file = local::open(path)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .context(Kind::State, || format!("cannot read an artefact path=`{}`", path.display()))?;
    Ok(builder.schema().clone())
}

/// The failure of a narrow table that can no longer be read.
#[must_use]
pub fn unreadable(path: &Path, error: arrow::error::ArrowError) -> Error {
    Error::state(format!("cannot read an artefact path=`{}`", path.display()))
        .caused_by(error)
        .hint("delete the work folder and run again: results do not change")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        /// A reader of JSON may be off by the last bit of a double.
        #[test]
        fn what_is_found_done_is_what_was_done(bits in any::<u64>(), plain in -1.0_f64..1.0) {
            for number in [f64::from_bits(bits), plain, plain / 3.0] {
                let facts = json!({"list": [{"number": number}], "plain": plain}).as_object().unwrap().clone();
                let receipt = Receipt::new(Vec::new(), facts);
                let Receipt { files, facts } = serde_json::from_slice(&serde_json::to_vec(&receipt).unwrap()).unwrap();
                let again = Receipt::new(files, facts);
                prop_assert_eq!(receipt.facts, again.facts);
            }
        }
    }
}
