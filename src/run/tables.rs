//! Tables that stages leave in the dataset beside their decisions: `tables/<stage>/<name>.parquet`, rows named as in the lineage. A column that is
//! named by [`ROW_ID`] with something before it names another row, by the same columns with that before their names.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, DictionaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;

use super::context::RunContext;
use crate::dataset::write_error;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::RowId;
use crate::stages::seam::ROW_ID;
use crate::state::artefacts::{read_table, table_schema, unreadable};
use crate::state::lineage;
use crate::state::manifest::OutputFile;
use crate::storage::local::{self, AsideFile};

/// The kind that the manifest gives them.
const KIND: &str = "table";
/// The folder in the dataset.
const FOLDER: &str = "tables";

/// Writes the tables of all barriers under `folder`.
pub(super) fn write(cx: &RunContext, folder: &Path) -> Result<Vec<OutputFile>> {
    let mut files = Vec::new();
    for (stage, decided) in &cx.decisions {
        for (name, from) in decided.tables(&cx.artefacts) {
            let path = format!("{FOLDER}/{}/{name}", cx.plan.stages[*stage].id);
            files.push(copy(cx, &from, folder, path)?);
        }
    }
    Ok(files)
}

fn copy(cx: &RunContext, from: &Path, folder: &Path, path: String) -> Result<OutputFile> {
    let schema = published(&table_schema(from)?);
    let to = local::join_confined(folder, &path)?;
    if let Some(parent) = to.parent() {
        local::create_dir_all(parent)?;
    }
    let mut writer = ArrowWriter::try_new(AsideFile::create(&to)?, Arc::clone(&schema), Some(lineage::properties()?))
        .context(Kind::Internal, || "cannot start a table".into())?;
    let mut rows = 0;
    for batch in read_table(from, None, cx.engine.batch_rows().max(8192))? {
        cx.engine.stop().check()?;
        let batch = renamed(cx, &batch.map_err(|error| unreadable(from, error))?, &schema)?;
        rows += batch.num_rows() as u64;
        writer.write(&batch).map_err(|error| write_error(error, &to))?;
    }
    let file = writer.into_inner().map_err(|error| write_error(error, &to))?;
    let written = file.finish_in_part()?;
    Ok(OutputFile { path, kind: KIND.into(), bytes: written.bytes, blake3: written.hash.to_string(), rows })
}

/// The schema in the dataset.
fn published(schema: &SchemaRef) -> SchemaRef {
    let word = || DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
    let fields = schema.fields().iter().flat_map(|field| -> Vec<FieldRef> {
        let Some(which) = field.name().strip_suffix(ROW_ID) else { return vec![Arc::clone(field)] };
        let names = [("source", word()), ("shard", word()), ("row", DataType::UInt64)];
        names.into_iter().map(|(name, kind)| Arc::new(Field::new(format!("{which}{name}"), kind, false))).collect()
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A batch with each row's number as the source, the shard and the row that it stands for.
fn renamed(cx: &RunContext, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !field.name().ends_with(ROW_ID) {
            columns.push(Arc::clone(column));
            continue;
        }
        let ids = column.as_primitive_opt::<UInt64Type>().ok_or_else(|| Error::state("an artefact's rows have no numbers"))?;
        let ids: Vec<RowId> = ids.values().iter().map(|id| RowId::from_bits(*id)).collect();
        let shards = &cx.snapshot.shards;
        let ordinals = || ids.iter().map(|id| id.shard().ordinal() as u32);
        if ordinals().any(|ordinal| ordinal as usize >= shards.len()) {
            return Err(Error::state("an artefact names a shard that is not in the corpus"));
        }
        let sources = UInt32Array::from_iter_values(ordinals().map(|ordinal| shards[ordinal as usize].source as u32));
        let words = |keys: UInt32Array, values: Vec<&str>| -> Result<ArrayRef> {
            let array = DictionaryArray::<UInt32Type>::try_new(keys, Arc::new(StringArray::from(values)));
            Ok(Arc::new(array.context(Kind::Internal, || "cannot name rows".into())?))
        };
        columns.push(words(sources, cx.plan.sources.iter().map(|source| source.id.as_str()).collect())?);
        columns.push(words(UInt32Array::from_iter_values(ordinals()), shards.iter().map(|shard| shard.path.as_str()).collect())?);
        columns.push(Arc::new(UInt64Array::from_iter_values(ids.iter().map(|id| id.row()))));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).context(Kind::Internal, || "cannot build a table".into())
}
