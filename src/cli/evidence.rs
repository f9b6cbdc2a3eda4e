//! What a dataset says of single rows: their lineage, and their texts in the shards that the run read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, AsArray as _, BooleanBufferBuilder, RecordBatch};
use arrow::datatypes::{Float64Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::excerpt::{Excerpt, printable};
use super::{Global, root};
use crate::dataset::quarantine::OnCorrupt;
use crate::dataset::reader::{ROW_COLUMN, ReadRequest, read};
use crate::dataset::schema::text_values;
use crate::dataset::snapshot::{self, Shard, SourceSpec};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, ShardId};
use crate::state::lineage::Fate;
use crate::state::manifest::{InputShard, Manifest, RunRecord};
use crate::state::{commit, lineage};
use crate::storage::local::{self, Selection};
use crate::storage::uri::{Root, normal};

/// Rows of a batch of texts: few, for one of them may be long.
const TEXT_ROWS: usize = 64;

/// A dataset that is looked at.
#[derive(Debug)]
pub(crate) struct Evidence {
    folder: PathBuf,
    manifest: Manifest,
    record: Option<RunRecord>,
    root: Option<Root>,
    shards: BTreeMap<(String, String), usize>,
}

/// The row that another one duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its source.
    pub source: String,
    /// Its shard.
    pub shard: String,
    /// Its number in the shard.
    pub row: u64,
    /// Its document id.
    pub doc_id: Option<String>,
    /// The run that kept it; `None`: this one.
    pub run_id: Option<String>,
}

/// What the lineage says of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// The row.
    pub row: RowId,
    /// The document's id.
    pub doc_id: Option<String>,
    /// `keep`, `drop` or `reject`.
    pub decision: String,
    /// Why it is not kept: the main reason first, then what other branches dropped it for.
    pub drops: Vec<Dropped>,
    /// How many rows name this one.
    pub copies: u64,
    /// What else is known of a row that no stage dropped: a JSON object.
    pub detail: Option<String>,
}

/// A reason why a row is not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dropped {
    /// The stage that dropped it.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// The row that it duplicates.
    pub kept: Option<Kept>,
    /// How similar the two are, or by what a selection left it out.
    pub score: Option<f64>,
    /// What else the stage says: a JSON object.
    pub detail: Option<String>,
}

impl Line {
    /// The first reason, and the row that it names.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.drops.first().and_then(|drop| drop.kept.as_ref())
    }

    /// What else is said of the first reason, or of the row where there is none.
    pub(crate) fn detail(&self) -> Option<&str> {
        self.drops.first().map_or(self.detail.as_deref(), |drop| drop.detail.as_deref())
    }
}

impl From<Fate> for Dropped {
    fn from(fate: Fate) -> Self {
        let kept = fate.kept.map(|kept| Kept { source: kept.source, shard: kept.shard, row: kept.row, doc_id: None, run_id: kept.run_id });
        Self { stage: fate.stage, reason: fate.reason, kept, score: fate.score, detail: fate.detail }
    }
}

/// The text of a row, or why there is none to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    /// Its beginning.
    Shown(Excerpt),
    /// The row has none.
    Null,
    /// It cannot be shown, and why.
    Hidden(String),
}

impl Text {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Shown(excerpt) => excerpt.json(),
            Self::Null => Value::Null,
            Self::Hidden(why) => json!({"not_shown": why}),
        }
    }
}

impl Evidence {
    /// Opens the dataset in `output`.
    pub(crate) fn open(output: &Path, global: &Global) -> Result<Self> {
        let root = root(global)?;
        // `.` and `..` taken away: what a cut-off replacement left stands beside the folder's name.
        let absolute = std::path::absolute(output).context(Kind::Usage, || format!("cannot resolve path=`{}`", output.display()))?;
        let folder = normal(&absolute);
        let folder = root.as_ref().map_or_else(|| Ok(folder.clone()), |root| root.confine(&folder))?;
        commit::recover(&folder)?;
        let manifest = Manifest::read(&folder)?;
        let name = |(ordinal, input): (usize, &InputShard)| ((input.source.clone(), input.shard.clone()), ordinal);
        let shards = manifest.inputs.iter().enumerate().map(name).collect();
        Ok(Self { record: RunRecord::read(&folder), folder, manifest, root, shards })
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The input shard of a row.
    pub(crate) fn input(&self, row: RowId) -> Result<&InputShard> {
        self.manifest.inputs.get(row.shard().ordinal()).ok_or_else(|| Error::internal("a row of no shard"))
    }

    /// The row with this number in the shard with this place in the manifest.
    pub(crate) fn row(ordinal: usize, row: u64) -> Result<RowId> {
        let id = ShardId::try_new(ordinal).and_then(|shard| RowId::try_new(shard, row));
        id.ok_or_else(|| Error::state(format!("lineage names a row above the limit ordinal=`{ordinal}` row=`{row}`")))
    }

    /// The row that lineage names.
    pub(crate) fn kept_row(&self, kept: &Kept) -> Result<RowId> {
        let place = self.shards.get(&(kept.source.clone(), kept.shard.clone())).copied();
        let place = place.ok_or_else(|| {
            Error::state(format!("lineage names a shard that was not read source=`{}` shard=`{}`", kept.source, kept.shard))
                .hint("`trommel verify` says what else is wrong with the dataset")
        })?;
        Self::row(place, kept.row)
    }

    /// `shard:row`, or `source/shard:row` where there are several sources: as people name a row and as `--row` takes it.
    pub(crate) fn label(&self, row: RowId) -> Result<String> {
        Ok(format!("{}:{}", printable(&self.manifest.label(self.input(row)?)), row.row()))
    }

    /// Some columns of a shard's lineage, batch by batch.
    pub(crate) fn batches(&self, input: &InputShard, columns: &[&str]) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let path = self.lineage(input)?;
        let batches = lineage::read(&path, columns)?;
        Ok(batches.map(move |batch| batch.context(Kind::State, || format!("cannot read lineage path=`{}`", path.display()))))
    }

    fn lineage(&self, input: &InputShard) -> Result<PathBuf> {
        local::join_confined(&self.folder, &input.lineage)
    }

    /// What the lineage says of one row.
    pub(crate) fn line(&self, row: RowId) -> Result<Line> {
        let path = self.lineage(self.input(row)?)?;
        let describe = || format!("cannot read lineage path=`{}`", path.display());
        // Row `n` of a shard is the lineage file's row `n`; the file's own number is checked below.
        let reader = ParquetRecordBatchReaderBuilder::try_new(local::open(&path)?)
            .and_then(|builder| builder.with_offset(row.row() as usize).with_limit(1).with_batch_size(1).build());
        let batch = reader.context(Kind::State, describe)?.next().transpose().context(Kind::State, describe)?;
        let batch = batch.filter(|batch| batch.num_rows() == 1).ok_or_else(|| {
            Error::state(format!("lineage has no such row row=`{}` path=`{}`", row.row(), path.display()))
                .hint("`trommel verify` says what else is wrong with the dataset")
        })?;
        let line = Lines::try_new(&batch)?.line(row.shard().ordinal(), 0)?;
        if line.row == row { Ok(line) } else { Err(Error::state(describe()).caused_by("rows are not in order")) }
    }

    /// The texts of rows, each clipped. What cannot be shown says why: this fails only on a bug.
    pub(crate) fn texts(&self, rows: &BTreeSet<RowId>) -> Result<BTreeMap<RowId, Text>> {
        let mut by_shard: BTreeMap<usize, Vec<RowId>> = BTreeMap::new();
        for row in rows {
            by_shard.entry(row.shard().ordinal()).or_default().push(*row);
        }
        let mut texts = BTreeMap::new();
        for rows in by_shard.into_values() {
            let Some(first) = rows.first() else { continue };
            match self.texts_of(self.input(*first)?, &rows) {
                Ok(found) => texts.extend(found),
                Err(why) => texts.extend(rows.into_iter().map(|row| (row, Text::Hidden(why.clone())))),
            }
        }
        Ok(texts)
    }

    fn texts_of(&self, input: &InputShard, rows: &[RowId]) -> Result<Vec<(RowId, Text)>, String> {
        let column = self.text_column(&input.source).ok_or_else(|| format!("the source `{}` declares no text column", input.source))?;
        let shard = self.find(input)?;
        read_texts(&shard, &column, rows).map_err(|error| error.to_string())
    }

    /// The column that has the role `text` in a source.
    fn text_column(&self, source: &str) -> Option<String> {
        let sources = self.manifest.plan.get("sources")?.as_array()?;
        let source = sources.iter().find(|entry| entry.get("id").and_then(Value::as_str) == Some(source))?;
        source.get("text")?.as_str().map(str::to_owned)
    }

    /// The shard as the run read it, wherever it is now.
    fn find(&self, input: &InputShard) -> Result<Shard, String> {
        let mut changed = None;
        for folder in self.folders(input) {
            let Ok(path) = local::join_confined(&folder, &input.shard) else { continue };
            let allowed = self.root.as_ref().is_none_or(|root| root.confine(&path).is_ok());
            if !allowed || !local::exists(&path).unwrap_or(false) {
                continue;
            }
            let source = SourceSpec {
                name: input.source.clone(),
                uri: path.display().to_string(),
                base: folder,
                selection: Selection::File(input.shard.clone()),
                on_corrupt: OnCorrupt::Fail,
            };
            // A length that differs spares the hash.
            let same_length = local::file_bytes(&path).is_ok_and(|bytes| bytes == input.bytes);
            let shard =
                if same_length { snapshot::take(&[source]).map(|snapshot| snapshot.shards).unwrap_or_default() } else { Vec::new() };
            match shard.into_iter().next().filter(|shard| shard.hash.to_string() == input.blake3) {
                Some(shard) => return Ok(shard),
                None => changed = changed.or(Some(path)),
            }
        }
        Err(match changed {
            Some(path) => format!("the shard has changed since the run path=`{}`", path.display()),
            None => format!("the shard is not where the run read it shard=`{}`; --root DIR looks below DIR", input.shard),
        })
    }

    /// Where a source's folder may be: where the run read it, then below `--root`, where the last parts of its path are looked
    /// for, as many of them as are there.
    fn folders(&self, input: &InputShard) -> Vec<PathBuf> {
        let read = self.record.as_ref().and_then(|record| record.sources.get(&input.source)).map(PathBuf::from);
        let mut folders: Vec<PathBuf> = read.iter().cloned().collect();
        if let Some(root) = &self.root {
            let parts: Vec<_> = read.iter().flat_map(|folder| folder.components()).collect();
            for skipped in 1..=parts.len() {
                let below: PathBuf = parts.iter().skip(skipped).collect();
                folders.push(root.folder().join(below));
            }
        }
        folders
    }
}

fn read_texts(shard: &Shard, column: &str, rows: &[RowId]) -> Result<Vec<(RowId, Text)>> {
    let mut selection = BooleanBufferBuilder::new(shard.rows_used as usize);
    selection.append_n(shard.rows_used as usize, false);
    for row in rows.iter().filter(|row| row.row() < shard.rows_used) {
        selection.set_bit(row.row() as usize, true);
    }
    let selection = selection.finish();
    let request = ReadRequest { columns: &[column], schema: None, selection: Some(&selection), batch_rows: TEXT_ROWS };
    let mut texts = Vec::with_capacity(rows.len());
    for batch in read(shard, request)? {
        let batch = batch?;
        let (Some(values), Some(numbers)) = (batch.columns().first(), batch.column_by_name(ROW_COLUMN)) else {
            return Err(Error::internal("a batch without the columns that were asked for"));
        };
        let values = text_values(values.as_ref())?;
        for (index, number) in numbers.as_primitive::<UInt64Type>().values().iter().enumerate() {
            let text = values.get(index).map_or(Text::Null, |text| Text::Shown(Excerpt::of(text)));
            texts.push((RowId::try_new(shard_of(rows)?, *number).ok_or_else(|| Error::internal("row above the limit"))?, text));
        }
    }
    Ok(texts)
}

/// The shard that all these rows are in, by its place in the manifest.
fn shard_of(rows: &[RowId]) -> Result<ShardId> {
    rows.first().map(|row| row.shard()).ok_or_else(|| Error::internal("no row to read"))
}

/// A batch of lineage.
pub(crate) struct Lines<'a> {
    batch: &'a RecordBatch,
}

impl<'a> Lines<'a> {
    /// Checks the types of the columns that are there.
    pub(crate) fn try_new(batch: &'a RecordBatch) -> Result<Self> {
        let schema = lineage::schema();
        for field in batch.schema_ref().fields() {
            if schema.field_with_name(field.name()).is_ok_and(|known| known.data_type() != field.data_type()) {
                return Err(Error::state(format!("lineage has a column of another type column=`{}`", field.name())));
            }
        }
        Ok(Self { batch })
    }

    /// A text of a row.
    pub(crate) fn text(&self, name: &str, index: usize) -> Option<&'a str> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        (index < column.len() && column.is_valid(index)).then(|| column.value(index))
    }

    /// A number of a row.
    pub(crate) fn number(&self, name: &str, index: usize) -> Option<u64> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>()?;
        (index < column.len() && column.is_valid(index)).then(|| column.value(index))
    }

    /// The score of a row.
    pub(crate) fn score(&self, index: usize) -> Option<f64> {
        let column = self.batch.column_by_name("score")?.as_primitive_opt::<Float64Type>()?;
        (index < column.len() && column.is_valid(index)).then(|| column.value(index))
    }

    /// The whole row; `ordinal` is its shard's place in the manifest.
    pub(crate) fn line(&self, ordinal: usize, index: usize) -> Result<Line> {
        let owned = |name: &str| self.text(name, index).map(str::to_owned);
        let missing = |name: &str| Error::state(format!("lineage has a null where none may be column=`{name}`"));
        let (detail, also) = self.text("detail", index).map(lineage::split).transpose()?.unwrap_or_default();
        let kept = match (owned("kept_source"), owned("kept_shard"), self.number("kept_row", index)) {
            (Some(source), Some(shard), Some(row)) => {
                Some(Kept { source, shard, row, doc_id: owned("kept_doc_id"), run_id: owned("kept_run_id") })
            }
            _ => None,
        };
        let mut line = Line {
            row: Evidence::row(ordinal, self.number("row", index).ok_or_else(|| missing("row"))?)?,
            doc_id: owned("doc_id"),
            decision: owned("decision").ok_or_else(|| missing("decision"))?,
            drops: Vec::new(),
            copies: self.number("copies", index).unwrap_or(0),
            detail: None,
        };
        match owned("stage") {
            Some(stage) => {
                let reason = owned("reason").ok_or_else(|| missing("reason"))?;
                line.drops.push(Dropped { stage, reason, kept, score: self.score(index), detail });
                line.drops.extend(also.into_iter().map(Dropped::from));
            }
            None => line.detail = detail,
        }
        Ok(line)
    }
}
