//! `exact_dedup`: of the rows whose normalised columns are equal, keeps one.

use std::sync::{Arc, Mutex};

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, BooleanArray, RecordBatch, StringArray, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, Schema, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::carry::{ORDER, OrderKey};
use super::columns::{Detail, Drop, cast_strictly, column, drop_batch, numbers, row_column, row_schema};
use super::incumbents::{self, KeySet, SharedKeys};
use super::policy::{Keep, Normalize, Order};
use super::seam::{
    Barrier, Incremental, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, drop_fields,
};
use crate::dataset::schema::{TextValues, is_text, text_values};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, RowStream, chain, map};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::text::normalise::{Buffers, Step, normalise};

/// `exact_dedup: {columns, normalize, keep}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExactDedupConfig {
    /// The columns that are compared, in the order written; at least one.
    pub columns: Vec<String>,
    /// What is done to each text before it is hashed, in the order written; default nothing: bytes are compared.
    pub normalize: Vec<Normalize>,
    /// Which row of equal ones is kept; default the first.
    pub keep: Keep,
}

/// The keys of `exact_dedup`.
pub const FIELDS: &[Field] = &[
    required("columns", Shape::OneOrMany(&Shape::Text), "The columns that are compared; `text` and `id` also name the source's roles."),
    defaulted(
        "normalize",
        Normalize::SHAPE,
        Presence::EmptyList,
        "What is done to each text before it is compared, in this order. Default: nothing, bytes are compared.",
    ),
    defaulted(
        "keep",
        Shape::Any(&[Shape::Choice(&["first", "last", "longest", "shortest"]), Shape::Map(Keep::BY)]),
        Presence::Text("first"),
        "Which row of equal ones is kept: by the order of the corpus, by the bytes of the named columns together, or by the value of a column.",
    ),
];

impl ExactDedupConfig {
    /// Reads the checked map; a column or a step that is named twice, and both Unicode forms together, are problems.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let columns = fields.texts("columns");
        fields.refuse_repeats(out, "columns", &columns);
        if fields.is_empty_list("columns") {
            fields.problem(out, "columns", "no column is named", Some("name at least one, such as `columns: [text]`".into()));
        }
        let normalize = Normalize::read(fields, out);
        Self { columns, normalize, keep: Keep::read(fields) }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let normalize: Vec<&str> = self.normalize.iter().map(|step| step.word()).collect();
        json!({"columns": self.columns, "keep": self.keep.canonical(), "normalize": normalize})
    }
}

impl Stage for ExactDedupConfig {
    fn kind(&self) -> &'static str {
        "exact_dedup"
    }

    fn version(&self) -> u32 {
        2
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(Self::canonical(self))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        let mut columns = self.columns.clone();
        if let Keep::By { column, .. } = &self.keep {
            columns.push(column.clone());
        }
        Needs { columns, ..Needs::default() }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(Fingerprinter::try_new(self, cx)?)))
    }

    fn incremental(&self) -> Incremental {
        Incremental::Compares
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(ExactDedup { keep: self.keep.clone() }))
    }
}

const HIGH: &str = "hash_high";
const LOW: &str = "hash_low";

/// Hashes the normalised columns of each row: BLAKE3, 128 bits.
///
/// A value is hashed as a tag (null, text, binary or other), its length and its bytes, so that no two rows that differ run together;
/// nulls equal nulls and empty texts equal empty texts.
struct Fingerprinter {
    columns: Vec<usize>,
    steps: Vec<Step>,
    order: Option<OrderKey>,
    row: usize,
    output: SchemaRef,
    buffer: Vec<u8>,
    normaliser: Buffers,
}

impl Fingerprinter {
    fn try_new(config: &ExactDedupConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let columns = config.columns.iter().map(|name| column(cx, name)).collect::<Result<Vec<_>>>()?;
        for index in &columns {
            let field = cx.schema.field(*index);
            if field.data_type().is_nested() && !matches!(field.data_type(), DataType::Dictionary(..)) {
                return Err(Error::input(format!("a nested column cannot be compared stage=`{}` column=`{}`", cx.stage, field.name()))
                    .hint("name columns of text, numbers, times or bytes"));
            }
        }
        let mut fields = vec![ArrowField::new(HIGH, DataType::UInt64, false), ArrowField::new(LOW, DataType::UInt64, false)];
        let order = OrderKey::try_new(&config.keep, cx)?;
        let order = order.map(|(order, field)| {
            fields.push(field);
            order
        });
        Ok(Self {
            columns,
            steps: config.normalize.iter().map(|step| step.step()).collect(),
            order,
            row: row_column(cx)?,
            output: row_schema(&fields.into()),
            buffer: Vec::new(),
            normaliser: Buffers::default(),
        })
    }
}

impl RowLocal for Fingerprinter {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let values = self.columns.iter().map(|index| Values::of(batch.column(*index))).collect::<Result<Vec<_>>>()?;
        let rows = batch.num_rows();
        let (mut high, mut low, mut lengths) = (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::with_capacity(rows));
        for row in 0..rows {
            let (hash, length) = self.hash(&values, row);
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *hash.as_bytes();
            high.push(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            low.push(u64::from_le_bytes([i, j, k, l, m, n, o, p]));
            lengths.push(length);
        }
        let mut columns: Vec<ArrayRef> =
            vec![Arc::clone(batch.column(self.row)), Arc::new(UInt64Array::from(high)), Arc::new(UInt64Array::from(low))];
        if let Some(order) = &self.order {
            columns.push(order.values(batch, lengths)?);
        }
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build fingerprints".into())
    }
}

impl Fingerprinter {
    /// The hash of a row's values, and their bytes in the shard.
    fn hash(&mut self, values: &[Values<'_>], row: usize) -> (blake3::Hash, usize) {
        // A long text that is taken as it stands is hashed where it lies.
        if let ([Values::Text(text)], []) = (values, self.steps.as_slice())
            && let Some(text) = text.get(row).filter(|text| text.len() >= LONG_TEXT)
        {
            self.buffer.clear();
            tag(TEXT, text.len(), &mut self.buffer);
            return (blake3::Hasher::new().update(&self.buffer).update(text.as_bytes()).finalize(), text.len());
        }
        self.buffer.clear();
        let length = values.iter().map(|column| column.append(row, &self.steps, &mut self.normaliser, &mut self.buffer)).sum();
        (blake3::hash(&self.buffer), length)
    }
}

/// From this length on, copying a text costs more than starting a hasher.
const LONG_TEXT: usize = 2048;
/// The tag of a text.
const TEXT: u8 = 1;

/// One column's values as bytes.
enum Values<'a> {
    Text(TextValues<'a>),
    Binary(BinaryArray),
    /// Anything else, as the engine writes it.
    Other(StringArray),
}

impl<'a> Values<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self> {
        if is_text(array.data_type()) {
            return text_values(array.as_ref()).map(Self::Text);
        }
        let kind = match array.data_type() {
            DataType::Dictionary(_, values) => values.as_ref(),
            kind => kind,
        };
        let binary = matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_));
        let target = if binary { DataType::Binary } else { DataType::Utf8 };
        let array = cast_strictly(array, &target)?;
        Ok(if binary { Self::Binary(array.as_binary::<i32>().clone()) } else { Self::Other(array.as_string::<i32>().clone()) })
    }

    /// Appends the value's tag, length and bytes; gives the bytes that it has in the shard.
    fn append(&self, row: usize, steps: &[Step], normaliser: &mut Buffers, buffer: &mut Vec<u8>) -> usize {
        let (tag, bytes) = match self {
            Self::Text(text) => {
                let Some(text) = text.get(row) else { return null(buffer) };
                let length = text.len();
                tagged(TEXT, normalise(steps, text, normaliser).as_bytes(), buffer);
                return length;
            }
            Self::Binary(array) if array.is_valid(row) => (2, array.value(row)),
            Self::Other(array) if array.is_valid(row) => (3, array.value(row).as_bytes()),
            Self::Binary(_) | Self::Other(_) => return null(buffer),
        };
        tagged(tag, bytes, buffer);
        bytes.len()
    }
}

fn null(buffer: &mut Vec<u8>) -> usize {
    buffer.push(0);
    0
}

fn tag(tag: u8, length: usize, buffer: &mut Vec<u8>) {
    buffer.push(tag);
    buffer.extend_from_slice(&(length as u64).to_le_bytes());
}

fn tagged(kind: u8, bytes: &[u8], buffer: &mut Vec<u8>) {
    tag(kind, bytes.len(), buffer);
    buffer.extend_from_slice(bytes);
}

/// Whether a row is one of the run's.
const NEW: &str = "new";

/// The run's rows with those of earlier increments that may equal one of them.
fn beside(engine: &Engine, stream: RowStream, incumbents: RowStream, rows: u64) -> Result<RowStream> {
    let keys: SharedKeys = Arc::new(Mutex::new(KeySet::with_capacity(engine, usize::try_from(rows).unwrap_or(usize::MAX))?));
    let fields =
        stream.schema().fields().iter().cloned().chain([Arc::new(ArrowField::new(NEW, DataType::Boolean, false))]).collect::<Vec<_>>();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let marked = |schema: &SchemaRef, batch: &RecordBatch, new: bool| {
        let marks: ArrayRef = Arc::new(BooleanArray::from(vec![new; batch.num_rows()]));
        let columns = batch.columns().iter().cloned().chain([marks]).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).context(Kind::Internal, || "cannot mark rows".into())
    };
    let (of, seen) = (Arc::clone(&schema), Arc::clone(&keys));
    let new = map(stream, Arc::clone(&schema), move |batch| {
        incumbents::with(&seen, |seen| numbers(&batch, HIGH)?.values().iter().try_for_each(|high| seen.insert(*high)))?;
        marked(&of, &batch, true)
    });
    let of = Arc::clone(&schema);
    let old = map(incumbents, schema, move |batch| {
        let mask = incumbents::with(&keys, |keys| {
            Ok::<_, Error>(numbers(&batch, HIGH)?.values().iter().map(|high| Some(keys.contains(*high))).collect::<BooleanArray>())
        })?;
        let batch = filter_record_batch(&batch, &mask).context(Kind::Internal, || "cannot narrow rows of the state".into())?;
        marked(&of, &batch, false)
    });
    Ok(chain(new, old))
}

/// Sorts by (hash, keep order, row) and walks the groups: the first of each is kept, the others name it.
#[derive(Debug)]
struct ExactDedup {
    keep: Keep,
}

impl Barrier for ExactDedup {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let mut keys = vec![SortKey::ascending(HIGH), SortKey::ascending(LOW)];
            match &self.keep {
                Keep::Longest | Keep::By { order: Order::Descending, .. } => keys.push(SortKey::descending(ORDER)),
                Keep::Shortest | Keep::By { order: Order::Ascending, .. } => keys.push(SortKey::ascending(ORDER)),
                _ => {}
            }
            keys.push(if matches!(self.keep, Keep::Last) { SortKey::descending(ROW_ID) } else { SortKey::ascending(ROW_ID) });
            let rows = match input.incumbents {
                Some(incumbents) => {
                    // In whatever order rows are kept, those that were kept before come first.
                    keys.insert(2, SortKey::ascending(NEW));
                    beside(engine, input.stream, incumbents.stream, input.rows)?
                }
                None => input.stream,
            };
            let grouped = sort(engine, rows, &keys)?;
            let mut group: Option<(u64, u64, u64)> = None;
            let duplicates = map(grouped, drop_fields(), move |batch| {
                let (high, low, rows) = (numbers(&batch, HIGH)?, numbers(&batch, LOW)?, numbers(&batch, ROW_ID)?);
                let mut drops = Vec::new();
                for ((high, low), row) in high.values().iter().zip(low.values()).zip(rows.values()) {
                    match group {
                        Some((of_high, of_low, kept)) if (of_high, of_low) == (*high, *low) => {
                            let (kept, score) = (Some(kept), Some(1.0));
                            drops.push(Drop { row: *row, reason: "exact_duplicate", kept, score, detail: Detail::None });
                        }
                        _ => group = Some((*high, *low, *row)),
                    }
                }
                drop_batch(&drops)
            });
            let drops = sort(engine, duplicates, &[SortKey::ascending(ROW_ID)])?;
            Ok(Outcome { drops, report: Map::new(), tables: Vec::new(), frozen: None })
        })
    }
}
