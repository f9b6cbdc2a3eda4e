//! What the operators of stages read of record batches, and the drops that barriers write.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit, UInt64Type};
use arrow::util::display::FormatOptions;
use serde_json::{Map, Value, json};

use super::seam::{ROW, ScanContext, drop_fields};
use crate::engine::{Reservation, RowStream, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{Fingerprint, StageId};

/// The place of the column that `name` means.
pub(super) fn column(cx: &ScanContext<'_>, name: &str) -> Result<usize> {
    cx.schema.index_of(cx.roles.column(name)).map_err(|_| missing(cx.stage, name))
}

/// The error for a column that a shard does not have.
pub(super) fn missing(stage: &StageId, name: &str) -> Error {
    Error::input(format!("a shard lacks a column that a stage names stage=`{stage}` column=`{name}`"))
}

/// The place of [`ROW`].
pub(super) fn row_column(cx: &ScanContext<'_>) -> Result<usize> {
    cx.schema.index_of(ROW).map_err(|error| Error::internal("a scan without row numbers").caused_by(error))
}

/// [`ROW`], then `fields`.
pub(super) fn row_schema(fields: &Fields) -> SchemaRef {
    let row = Arc::new(Field::new(ROW, DataType::UInt64, false));
    Arc::new(Schema::new(std::iter::once(row).chain(fields.iter().cloned()).collect::<Fields>()))
}

/// The type in which an ordering column is carried, without loss: one for all integers, one for all floats, one for all texts; times
/// and decimals, which all shards are read in one type of, as they are.
pub(super) fn order_type(cx: &ScanContext<'_>, field: &Field) -> Result<DataType> {
    Ok(match field.data_type() {
        DataType::Dictionary(_, value) if value.is_string() => DataType::Utf8,
        DataType::Boolean | DataType::UInt64 => DataType::Decimal128(20, 0),
        kind if kind.is_integer() => DataType::Decimal128(20, 0),
        kind if kind.is_floating() => DataType::Float64,
        kind if kind.is_string() => DataType::Utf8,
        DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, None),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) | DataType::Decimal128(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale) => DataType::Decimal256(*precision, *scale),
        other => {
            return Err(Error::input(format!(
                "rows cannot be ordered by this column stage=`{}` column=`{}` type=`{other}`",
                cx.stage,
                field.name()
            ))
            .hint("order by a column of numbers, times or text"));
        }
    })
}

/// The values of an ordering column in the type of [`order_type`].
pub(super) fn order_values(array: &ArrayRef, order: &DataType) -> Result<ArrayRef> {
    // Booleans have no direct way to decimals.
    let array = if *array.data_type() == DataType::Boolean { cast_strictly(array, &DataType::Int8)? } else { Arc::clone(array) };
    cast_strictly(&array, order)
}

/// Values in another type; one that does not fit is an error and never a null.
pub(crate) fn cast_strictly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(array, to, &strict)
        .context(Kind::Input, || format!("a value of this type cannot be compared type=`{}` as=`{to}`", array.data_type()))
}

/// A column of 64-bit numbers.
pub(super) fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt64Array> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::internal(format!("no such narrow column column=`{name}`")))?;
    column.as_primitive_opt::<UInt64Type>().ok_or_else(|| Error::internal(format!("a narrow column of another type column=`{name}`")))
}

/// The number of a label: equal labels have equal ones.
pub(super) fn label_hash(label: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *Fingerprint::new("trommel label").part(label).finish().as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What a drop says beside its reason, in few bytes; it becomes text when it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Detail {
    /// Nothing.
    None,
    /// Why the row's vector cannot be compared.
    Status(&'static str),
    /// The row's place in the order of a selection, how many rows that one keeps, and the row's cell.
    Rank { budget: u64, rank: u64, cell: Option<u32> },
    /// The same where the selection keeps so many bytes or tokens.
    Measured { budget: u64, rank: u64, unit: &'static str, cell: Option<u32> },
    /// Which pass over the row is saved: `backward`, or `forward` and with it both.
    Skipped(&'static str),
    /// The cell in which the row was compared, if there are several; whether no kept row is near; whether its survivor is near
    /// only by a chain.
    Compared { cell: Option<u32>, orphan: bool, chained: bool },
    /// How many bands the row shares with its survivor; whether their similarity is an estimate; whether the two were not compared;
    /// whether the survivor is near only by a chain.
    Bands { shared: u32, estimated: bool, unverified: bool, chained: bool },
}

impl Detail {
    /// A JSON object with sorted keys.
    fn text(self) -> Option<String> {
        let mut object = Map::new();
        match self {
            Self::None => {}
            Self::Status(status) => drop(object.insert("embedding_status".into(), json!(status))),
            Self::Skipped(pass) => drop(object.insert("skipped".into(), json!(pass))),
            Self::Rank { budget, rank, cell } => {
                object.insert("budget".into(), json!(budget));
                object.insert("rank".into(), json!(rank));
                object.extend(cell.map(|cell| ("cell".to_owned(), json!(cell))));
            }
            Self::Measured { budget, rank, unit, cell } => {
                object.insert("budget".into(), json!(budget));
                object.insert("rank".into(), json!(rank));
                object.insert("unit".into(), json!(unit));
                object.extend(cell.map(|cell| ("cell".to_owned(), json!(cell))));
            }
            Self::Compared { cell, orphan, chained } => {
                object.extend(cell.map(|cell| ("cell".to_owned(), json!(cell))));
                object.extend(orphan.then(|| ("orphan".to_owned(), json!(true))));
                object.extend(chained.then(|| ("chained".to_owned(), json!(true))));
            }
            Self::Bands { shared, estimated, unverified, chained } => {
                object.extend((shared > 0).then(|| ("bands".to_owned(), json!(shared))));
                object.extend(chained.then(|| ("chained".to_owned(), json!(true))));
                object.extend(estimated.then(|| ("estimated".to_owned(), json!(true))));
                object.extend(unverified.then(|| ("unverified".to_owned(), json!(true))));
            }
        }
        (!object.is_empty()).then(|| Value::Object(object).to_string())
    }
}

/// A row that a barrier drops; `row` and `kept` are bits of a [`crate::ids::RowId`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Drop {
    pub(super) row: u64,
    pub(super) reason: &'static str,
    pub(super) kept: Option<u64>,
    pub(super) score: Option<f64>,
    pub(super) detail: Detail,
}

/// Rows of a batch of drops.
const PIECE: usize = 8192;

/// A record batch of [`drop_fields`].
pub(super) fn drop_batch(drops: &[Drop]) -> Result<RecordBatch> {
    debug_assert!(drops.iter().all(|drop| drop.kept != Some(drop.row)), "no row is its own duplicate");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(drops.iter().map(|drop| drop.row))),
        Arc::new(StringArray::from_iter_values(drops.iter().map(|drop| drop.reason))),
        Arc::new(drops.iter().map(|drop| drop.kept).collect::<UInt64Array>()),
        Arc::new(drops.iter().map(|drop| drop.score).collect::<Float64Array>()),
        Arc::new(drops.iter().map(|drop| drop.detail.text()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(drop_fields(), columns).context(Kind::Internal, || "cannot build drops".into())
}

/// All drops of a barrier that holds its rows in memory, which the engine's pool accounts for.
#[derive(Debug)]
pub(super) struct Drops {
    drops: Vec<Drop>,
    memory: Reservation,
}

impl Drops {
    /// Room for `rows` of them, taken from the engine's pool beside what holds the rows that are compared.
    pub(super) fn for_rows(compared: &Reservation, rows: usize) -> Result<Self> {
        let memory = compared.beside("listing dropped rows", rows * size_of::<Drop>())?;
        Ok(Self { drops: Vec::with_capacity(rows), memory })
    }

    /// Adds one.
    pub(super) fn push(&mut self, drop: Drop) {
        debug_assert!(self.drops.len() < self.drops.capacity(), "room was taken for fewer rows");
        self.drops.push(drop);
    }

    /// The drops as a stream sorted by [`ROW_ID`](super::seam::ROW_ID), in pieces.
    pub(super) fn into_stream(self) -> RowStream {
        let Self { mut drops, memory } = self;
        drops.sort_unstable_by_key(|drop| drop.row);
        rows_of(drop_fields(), Pieces { drops, from: 0, _memory: memory })
    }
}

/// Drops, some at a time.
struct Pieces {
    drops: Vec<Drop>,
    from: usize,
    _memory: Reservation,
}

impl Iterator for Pieces {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.drops.get(self.from..self.drops.len().min(self.from + PIECE)).filter(|piece| !piece.is_empty())?;
        self.from += piece.len();
        Some(drop_batch(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions, next};

    #[test]
    fn details_are_objects_with_sorted_keys() {
        assert_eq!(Detail::None.text(), None);
        assert_eq!(Detail::Compared { cell: None, orphan: false, chained: false }.text(), None);
        let all = Detail::Compared { cell: Some(3), orphan: true, chained: true };
        assert_eq!(all.text().as_deref(), Some(r#"{"cell":3,"chained":true,"orphan":true}"#));
        let bands = Detail::Bands { shared: 9, estimated: true, unverified: true, chained: true };
        assert_eq!(bands.text().as_deref(), Some(r#"{"bands":9,"chained":true,"estimated":true,"unverified":true}"#));
        let rank = Detail::Rank { budget: 2, rank: 5, cell: Some(1) };
        assert_eq!(rank.text().as_deref(), Some(r#"{"budget":2,"cell":1,"rank":5}"#));
        let bytes = Detail::Measured { budget: 2, rank: 5, unit: "bytes", cell: Some(1) };
        assert_eq!(bytes.text().as_deref(), Some(r#"{"budget":2,"cell":1,"rank":5,"unit":"bytes"}"#));
        assert_eq!(Detail::Skipped("forward").text().as_deref(), Some(r#"{"skipped":"forward"}"#));
        assert_eq!(Detail::Status("null").text().as_deref(), Some(r#"{"embedding_status":"null"}"#));
    }

    #[test]
    fn drops_are_taken_from_the_pool_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions { threads: 1, memory_bytes: 16 << 20, batch_rows: 8192, spill_folder: folder.path().to_owned() };
        let engine = Engine::start(options).unwrap();
        let compared = engine.reserve("comparing", 1 << 20).unwrap();
        let error = Drops::for_rows(&compared, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), Kind::Resources);
        assert!(error.report().contains("listing dropped rows needs more memory"), "{}", error.report());
        let rows = 80_000_u64;
        for _ in 0..3 {
            // Two at once would not fit: each round gives back what it took.
            let mut drops = Drops::for_rows(&compared, rows as usize).unwrap();
            for row in (0..rows).rev() {
                drops.push(Drop { row, reason: "not_selected", kept: None, score: None, detail: Detail::None });
            }
            let mut stream = drops.into_stream();
            assert!(Drops::for_rows(&compared, rows as usize).is_err());
            let mut seen = Vec::new();
            engine.block_on(async {
                while let Some(batch) = next(&mut stream).await {
                    seen.extend_from_slice(batch.unwrap().column(0).as_primitive::<UInt64Type>().values());
                }
            });
            assert!(seen.into_iter().eq(0..rows));
        }
    }
}
