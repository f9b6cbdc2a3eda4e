//! What shards hold, from their footers alone: for the commands that make a pipeline instead of reading one.

use std::path::Path;

use arrow::array::{Array as _, RecordBatch};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use serde_json::{Value, json};

use super::excerpt::printable;
use crate::config::model;
use crate::dataset::preflight::{load_footer, reader_options};
use crate::dataset::quarantine::OnCorrupt;
use crate::dataset::reader::{ReadRequest, ShardReader, read};
use crate::dataset::schema::{common_type, is_text};
use crate::dataset::snapshot::{self, SourceSpec};
use crate::diagnostic::nearest;
use crate::error::{Context as _, Error, Kind, Result};
use crate::storage::local::{self, Listed, Selection, list_files, open_shard};
use crate::storage::uri::{self, Location, Root};
use crate::telemetry::{bytes, count};

/// Footers that are read; the rest of the shards is taken to be alike, and a run says where it is not.
const FOOTERS: usize = 1000;
/// Rows that are looked at to see whether a column names them.
const SAMPLE_ROWS: usize = 1000;
/// Names of columns that name rows.
const ID_NAMES: [&str; 14] = [
    "id",
    "doc_id",
    "docid",
    "document_id",
    "_id",
    "uid",
    "uuid",
    "guid",
    "row_id",
    "record_id",
    "key",
    "sample_id",
    "image_id",
    "item_id",
];

/// A column that all shards have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Its name.
    pub name: String,
    /// The type that all shards' values fit; `None`: the types do not go together, or a shard lacks the column or has it twice.
    pub data_type: Option<DataType>,
    /// Bytes when decompressed, still encoded.
    pub bytes: u64,
}

impl Column {
    /// Whether every shard has texts in it.
    pub(crate) fn is_text(&self) -> bool {
        self.data_type.as_ref().is_some_and(is_text)
    }

    fn can_name_rows(&self) -> bool {
        self.data_type.as_ref().is_some_and(|data_type| is_text(data_type) || data_type.is_integer())
    }

    /// Its type in the words of the field.
    pub(crate) fn type_name(&self) -> String {
        match &self.data_type {
            Some(data_type) if is_text(data_type) => "text".to_owned(),
            Some(data_type) => printable(&data_type.to_string()),
            None => "not the same in all shards".to_owned(),
        }
    }
}

/// What shards hold.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// Where they are, as written and as it resolves.
    pub location: Location,
    /// How many shards there are.
    pub shards: usize,
    /// How many footers were read.
    pub looked_at: usize,
    /// Rows of those.
    pub rows: u64,
    /// The columns, in the order of the first shard.
    pub columns: Vec<Column>,
    /// A shard that has rows.
    sample: Option<Listed>,
}

/// Looks at the shards that `glob` names, relative to the working directory.
pub(crate) fn survey(glob: &str, root: Option<&Root>) -> Result<Survey> {
    let location = uri::resolve(&working_folder(), glob)?;
    let base = root.map_or_else(|| Ok(location.base().to_owned()), |root| root.confine(location.base()))?;
    let (folder, selection) = match location.pattern() {
        Some(pattern) => (base, Selection::Glob(pattern.to_owned())),
        None if local::is_dir(&base) => (base, Selection::Folder(".parquet".to_owned())),
        None => {
            let name = base.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            (base.parent().unwrap_or(&base).to_owned(), Selection::File(name))
        }
    };
    let files = list_files(&folder, &selection)?;
    if files.is_empty() {
        return Err(Error::input(format!("no shards uri=`{location}`"))
            .hint("the pattern matches no file; quote it, so that the shell leaves it alone, such as 'data/*.parquet'"));
    }
    let mut found =
        Survey { location, shards: files.len(), looked_at: files.len().min(FOOTERS), rows: 0, columns: Vec::new(), sample: None };
    for (index, file) in files.into_iter().take(FOOTERS).enumerate() {
        let footer = load_footer(&ShardReader::new(open_shard(&file.path)?), reader_options())?;
        let metadata = footer.metadata();
        let descriptor = metadata.file_metadata().schema_descr();
        let mut sizes = vec![0_u64; footer.schema().fields().len()];
        for group in metadata.row_groups() {
            for (leaf, chunk) in group.columns().iter().enumerate() {
                if let Some(size) = sizes.get_mut(descriptor.get_column_root_idx(leaf)) {
                    *size += u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
                }
            }
        }
        let rows: u64 = metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum();
        found.rows += rows;
        found.add(index == 0, footer.schema().fields().iter().map(|field| (field.name().as_str(), field.data_type())).zip(sizes));
        if rows > 0 && found.sample.is_none() {
            found.sample = Some(file);
        }
    }
    Ok(found)
}

/// The folder that relative paths on the command line are taken from.
pub(crate) fn working_folder() -> std::path::PathBuf {
    model::folder(Path::new("pipeline.yaml"))
}

impl Survey {
    /// Adds what one shard has. Columns that only later shards have name nothing, since all must have them.
    fn add<'a>(&mut self, is_first: bool, fields: impl Iterator<Item = ((&'a str, &'a DataType), u64)>) {
        let mut seen = vec![false; self.columns.len()];
        for ((name, data_type), bytes) in fields {
            let Some(place) = self.columns.iter().position(|column| column.name == name) else {
                if is_first {
                    self.columns.push(Column { name: name.to_owned(), data_type: Some(data_type.clone()), bytes });
                    seen.push(true);
                }
                continue;
            };
            let (Some(column), Some(before)) = (self.columns.get_mut(place), seen.get_mut(place)) else { continue };
            column.bytes += bytes;
            column.data_type = if *before { None } else { column.data_type.as_ref().and_then(|known| common_type(known, data_type)) };
            *before = true;
        }
        for (column, seen) in self.columns.iter_mut().zip(seen) {
            if !seen {
                column.data_type = None;
            }
        }
    }

    /// The columns of texts, longest first.
    pub(crate) fn texts(&self) -> Vec<&Column> {
        let mut texts: Vec<&Column> = self.columns.iter().filter(|column| column.is_text()).collect();
        texts.sort_by_key(|column| std::cmp::Reverse(column.bytes));
        texts
    }

    /// The column that the user named as the text.
    pub(crate) fn named_text(&self, name: &str) -> Result<&Column> {
        let column = self.named(name)?;
        if column.is_text() {
            return Ok(column);
        }
        Err(Error::usage(format!("the column does not hold texts column=`{name}` type=`{}`", column.type_name()))
            .hint(format!("columns of texts: {}", names(&self.texts()))))
    }

    /// The column that the user named.
    pub(crate) fn named(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let all: Vec<&Column> = self.columns.iter().collect();
            let near = nearest(name, all.iter().map(|column| column.name.as_str()));
            let hint = near.map_or_else(|| format!("columns: {}", names(&all)), |near| format!("did you mean `{near}`?"));
            Error::usage(format!("the shards have no such column column=`{name}`")).hint(hint)
        })
    }

    /// The column that names rows by its own name, `text` apart.
    pub(crate) fn id_by_name(&self, text: &str) -> Option<&Column> {
        let fit = || self.columns.iter().filter(|column| column.can_name_rows() && column.name != text);
        let known = ID_NAMES.iter().find_map(|name| fit().find(|column| column.name.eq_ignore_ascii_case(name)));
        known.or_else(|| fit().find(|column| column.name.to_lowercase().ends_with("_id")))
    }

    /// The first column of texts or integers that no two of the first rows share, `text` apart.
    pub(crate) fn id_by_values(&self, text: &str, root: Option<&Root>) -> Result<Option<&Column>> {
        let Some(sample) = &self.sample else { return Ok(None) };
        let fit: Vec<&Column> = self.columns.iter().filter(|column| column.can_name_rows() && column.name != text).collect();
        if fit.is_empty() {
            return Ok(None);
        }
        let path = root.map_or_else(|| Ok(sample.path.clone()), |root| root.confine(&sample.path))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let base = path.parent().unwrap_or(&path).to_owned();
        let spec = SourceSpec {
            name: "sample".into(),
            uri: path.display().to_string(),
            base,
            selection: Selection::File(name),
            on_corrupt: OnCorrupt::Fail,
        };
        let shards = snapshot::take(&[spec])?.shards;
        let Some(shard) = shards.first() else { return Ok(None) };
        let columns: Vec<&str> = fit.iter().map(|column| column.name.as_str()).collect();
        let request = ReadRequest { columns: &columns, schema: None, selection: None, batch_rows: SAMPLE_ROWS };
        let Some(batch) = read(shard, request)?.next().transpose()? else { return Ok(None) };
        for (index, column) in fit.into_iter().enumerate() {
            if all_differ(&batch, index)? {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let columns = self.columns.iter().map(|column| json!({"name": column.name, "type": column.type_name(), "bytes": column.bytes}));
        json!({"shards": self.shards, "footers": self.looked_at, "rows": self.rows, "columns": columns.collect::<Vec<_>>()})
    }

    /// How much there is, in words.
    pub(crate) fn extent(&self) -> String {
        let noun = if self.shards == 1 { "shard" } else { "shards" };
        if self.looked_at < self.shards {
            format!(
                "{} {noun}, the first {} of which hold {} rows",
                count(self.shards as u64),
                count(self.looked_at as u64),
                count(self.rows)
            )
        } else {
            format!("{} {noun}, {} rows", count(self.shards as u64), count(self.rows))
        }
    }
}

/// Names of columns with their sizes, as messages list them.
pub(crate) fn names(columns: &[&Column]) -> String {
    if columns.is_empty() {
        return "none".to_owned();
    }
    columns.iter().map(|column| format!("`{}` ({})", printable(&column.name), bytes(column.bytes))).collect::<Vec<_>>().join(", ")
}

/// Whether a column of the batch has no null and no value twice.
fn all_differ(batch: &RecordBatch, index: usize) -> Result<bool> {
    let Some(column) = batch.columns().get(index).filter(|column| column.null_count() == 0) else { return Ok(false) };
    let failed = || "cannot compare the values of a column".to_owned();
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).context(Kind::Internal, failed)?;
    let rows = converter.convert_columns(std::slice::from_ref(column)).context(Kind::Internal, failed)?;
    let mut values: Vec<_> = rows.iter().collect();
    values.sort_unstable();
    // One row says nothing.
    Ok(values.len() > 1 && values.windows(2).all(|pair| pair.first() != pair.last()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shards: &[&[(&str, DataType, u64)]]) -> Survey {
        let location = uri::resolve(Path::new("/p"), "data").unwrap();
        let mut survey = Survey { location, shards: shards.len(), looked_at: shards.len(), rows: 0, columns: Vec::new(), sample: None };
        for (index, shard) in shards.iter().enumerate() {
            survey.add(index == 0, shard.iter().map(|(name, data_type, bytes)| ((*name, data_type), *bytes)));
        }
        survey
    }

    #[test]
    fn only_what_all_shards_have_counts() {
        use DataType::{Int8, Int64, LargeUtf8, Utf8};
        let survey = of(&[
            &[("a", Utf8, 5), ("b", Utf8, 9), ("c", Int8, 1), ("d", Utf8, 1), ("twice", Utf8, 1), ("twice", Utf8, 1)],
            &[("c", Int64, 1), ("a", LargeUtf8, 2), ("b", Int64, 1), ("e", Utf8, 100)],
        ]);
        assert_eq!(survey.texts().iter().map(|column| (column.name.as_str(), column.bytes)).collect::<Vec<_>>(), [("a", 7)]);
        let type_of = |name: &str| survey.named(name).unwrap().data_type.clone();
        assert_eq!((type_of("c"), type_of("b"), type_of("d"), type_of("twice")), (Some(Int64), None, None, None));
        assert!(survey.named("e").is_err());
        assert_eq!(survey.named_text("c").unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn ids_are_known_by_their_names() {
        use DataType::{Float32, Int64, Utf8};
        let name = |shard: &[(&str, DataType, u64)]| of(&[shard]).id_by_name("text").map(|column| column.name.clone());
        assert_eq!(name(&[("text", Utf8, 1), ("key", Utf8, 1), ("ID", Int64, 1)]), Some("ID".into()));
        assert_eq!(name(&[("id", Float32, 1), ("page_id", Int64, 1)]), Some("page_id".into()));
        assert_eq!(name(&[("text", Utf8, 1), ("idea", Utf8, 1)]), None);
    }
}
