//! What integration tests share: shards made in a temporary folder, the real binary run on them, its output read back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

/// A folder with shards, a pipeline and its output.
pub(crate) struct Corpus {
    folder: tempfile::TempDir,
}

/// One lineage row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub source: String,
    pub shard: String,
    pub row: u64,
    pub doc_id: Option<String>,
    pub decision: String,
    pub stage: Option<String>,
    pub reason: Option<String>,
    pub kept: Option<(String, u64)>,
    pub kept_doc_id: Option<String>,
    pub kept_run_id: Option<String>,
    pub score: Option<f64>,
    pub copies: u64,
    pub detail: Option<String>,
}

/// What a run of the binary printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless the program ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the program ended with this code, and gives what it said.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// Runs the binary in `folder`.
pub(crate) fn trommel(folder: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_trommel")).args(arguments).current_dir(folder).output().unwrap();
    ran(&output)
}

fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout.clone()).unwrap(),
        stderr: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

/// A batch of columns `id` (s:i) and `text`.
pub(crate) fn texts(prefix: &str, texts: &[Option<&str>]) -> RecordBatch {
    let ids: Vec<String> = (0..texts.len()).map(|row| format!("{prefix}{row}")).collect();
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("text", DataType::Utf8, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(ids)), Arc::new(StringArray::from(texts.to_vec()))]).unwrap()
}

/// Writes one shard with row groups of `group_rows`.
pub(crate) fn write_shard(path: &Path, batch: &RecordBatch, group_rows: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// All rows of a Parquet file as one batch.
pub(crate) fn read_parquet(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

impl Corpus {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        // A run syncs what it publishes: in memory, a test does not wait for the disk.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { folder: folder.unwrap() }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Adds a shard `in/NAME` of ids and texts, two rows a row group.
    pub(crate) fn shard(&self, name: &str, rows: &[Option<&str>]) -> &Self {
        let prefix = format!("{}-", name.trim_end_matches(".parquet"));
        write_shard(&self.at("in").join(name), &texts(&prefix, rows), 2);
        self
    }

    /// Adds a shard `in/NAME` of any columns.
    pub(crate) fn batch(&self, name: &str, batch: &RecordBatch, group_rows: usize) -> &Self {
        write_shard(&self.at("in").join(name), batch, group_rows);
        self
    }

    /// Writes `p.yaml`: one source over `in/`, the given stages (YAML list items), a sink `out/`.
    pub(crate) fn pipeline(&self, stages: &str) -> &Self {
        self.pipeline_with("  c: { parquet: { uri: \"in/\", text: text, id: id } }", stages, "parquet: { uri: \"out/\" }")
    }

    /// Writes `p.yaml` from its parts.
    pub(crate) fn pipeline_with(&self, sources: &str, stages: &str, sink: &str) -> &Self {
        let text = format!("version: 1\nname: t\nsources:\n{sources}\nstages:\n{stages}\nsink: {{ {sink} }}\n");
        fs::write(self.at("p.yaml"), text).unwrap();
        self
    }

    /// Runs `trommel run p.yaml` with further arguments.
    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        let mut arguments = vec!["run", "p.yaml", "--quiet"];
        arguments.extend(more);
        trommel(self.path(), &arguments)
    }

    /// Runs `trommel verify out`.
    pub(crate) fn verify(&self) -> Ran {
        trommel(self.path(), &["verify", "out"])
    }

    /// The manifest of `out`.
    pub(crate) fn manifest(&self) -> Value {
        self.manifest_of("out")
    }

    /// The manifest of a dataset.
    pub(crate) fn manifest_of(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(out).join("manifest.json")).unwrap()).unwrap()
    }

    /// The lineage of `out`, in the order of the corpus.
    pub(crate) fn lineage(&self) -> Vec<Row> {
        self.lineage_of("out")
    }

    /// The lineage of a dataset, in the order of the corpus.
    pub(crate) fn lineage_of(&self, out: &str) -> Vec<Row> {
        let manifest = self.manifest_of(out);
        let inputs = manifest["inputs"].as_array().unwrap();
        inputs.iter().flat_map(|input| lineage_rows(&read_parquet(&self.at(out).join(input["lineage"].as_str().unwrap())))).collect()
    }

    /// `doc_id -> reason` of the dropped rows.
    pub(crate) fn dropped(&self) -> BTreeMap<String, String> {
        let rows = self.lineage().into_iter().filter(|row| row.decision == "drop");
        rows.map(|row| (row.doc_id.unwrap(), row.reason.unwrap())).collect()
    }

    /// Changes a text column of the lineage, by the row's place in the corpus, and makes the manifest agree with the files again.
    pub(crate) fn edit_lineage(&self, column: &str, change: impl Fn(usize, Option<String>) -> Option<String>) {
        let mut manifest = self.manifest();
        let mut first = 0;
        let names: Vec<String> =
            manifest["inputs"].as_array().unwrap().iter().map(|input| input["lineage"].as_str().unwrap().to_owned()).collect();
        for name in names {
            let path = self.at("out").join(&name);
            let batch = read_parquet(&path);
            let place = batch.schema().index_of(column).unwrap();
            let old = batch.column(place).as_string::<i32>();
            let new = (0..old.len()).map(|row| change(first + row, old.is_valid(row).then(|| old.value(row).to_owned())));
            let mut columns = batch.columns().to_vec();
            columns[place] = Arc::new(new.collect::<StringArray>());
            write_shard(&path, &RecordBatch::try_new(batch.schema(), columns).unwrap(), 1 << 20);
            first += batch.num_rows();
            let bytes = fs::read(&path).unwrap();
            let file = manifest["files"].as_array_mut().unwrap().iter_mut().find(|file| file["path"] == name.as_str()).unwrap();
            file["bytes"] = bytes.len().into();
            file["blake3"] = blake3::hash(&bytes).to_string().into();
        }
        manifest.as_object_mut().unwrap().remove("checksum");
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        let text = text.strip_suffix("\n}").unwrap();
        let sealed = format!("{text},\n  \"checksum\": \"{}\"\n}}\n", blake3::hash(text.as_bytes()));
        fs::write(self.at("out/manifest.json"), sealed).unwrap();
    }

    /// The ids of the rows in `out/data`, by file in the order of their names.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.kept_of("out")
    }

    /// The ids of the rows in a dataset's `data`, by file in the order of their names.
    pub(crate) fn kept_of(&self, out: &str) -> Vec<String> {
        let mut files = Vec::new();
        list(&self.at(out).join("data"), &mut files);
        let ids = |path: &PathBuf| -> Vec<String> {
            let batch = read_parquet(path);
            let column = batch.column_by_name("id").unwrap();
            let column = arrow::compute::cast(column, &DataType::Utf8).unwrap();
            column.as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).collect()
        };
        files.iter().flat_map(ids).collect()
    }

    /// One hash over names and bytes of `out`, `run.json` apart.
    pub(crate) fn tree_hash(&self) -> blake3::Hash {
        let mut files = Vec::new();
        list(&self.at("out"), &mut files);
        let mut hasher = blake3::Hasher::new();
        for file in files.iter().filter(|file| !file.ends_with("run.json")) {
            hasher.update(file.strip_prefix(self.path()).unwrap().to_str().unwrap().as_bytes());
            hasher.update(&fs::read(file).unwrap());
        }
        hasher.finalize()
    }
}

/// All files below a folder, sorted.
pub(crate) fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

fn lineage_rows(batch: &RecordBatch) -> Vec<Row> {
    let column = |name: &str| -> ArrayRef { Arc::clone(batch.column_by_name(name).unwrap()) };
    let text = |name: &str, row: usize| {
        let column = column(name);
        let column = column.as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let number = |name: &str, row: usize| {
        let column = column(name);
        let column = column.as_primitive::<UInt64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    let float = |name: &str, row: usize| {
        let column = column(name);
        let column = column.as_primitive::<Float64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    (0..batch.num_rows())
        .map(|row| Row {
            source: text("source", row).unwrap(),
            shard: text("shard", row).unwrap(),
            row: number("row", row).unwrap(),
            doc_id: text("doc_id", row),
            decision: text("decision", row).unwrap(),
            stage: text("stage", row),
            reason: text("reason", row),
            kept: text("kept_shard", row).zip(number("kept_row", row)),
            kept_doc_id: text("kept_doc_id", row),
            kept_run_id: text("kept_run_id", row),
            score: float("score", row),
            copies: number("copies", row).unwrap(),
            detail: text("detail", row),
        })
        .collect()
}
