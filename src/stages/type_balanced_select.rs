//! `type_balanced_select`: keeps for each label about a quota of rows that lie apart: rare labels wholly, frequent ones thinly.
//!
//! See [`crate::select::type_balanced`].

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::columns::{cast_strictly, column, label_hash, row_column, row_schema};
use super::policy::{self, OnBadVector};
use super::quota::Quota;
use super::seam::{Barrier, Narrow, Needs, Outcome, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Left};
use super::vectors::{Form, LABELS};
use crate::dataset::schema::is_text;
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, StageId};
use crate::random::Random;
use crate::select::share;
use crate::select::type_balanced::{Labels, fill, select};
use crate::vector::similarity;

/// `type_balanced_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeBalancedSelectConfig {
    /// The column of labels: a text or a list of texts.
    pub labels: String,
    /// Rows of a label, about; default 400.
    pub quota: u64,
    /// Whether each source has a quota of each label of its own; default no.
    pub per_source: bool,
    /// Rows of one label at least so similar are not both kept; default 0.85.
    pub threshold: f64,
    /// Whether labels below their quota take similar rows after all; default no.
    pub fill: bool,
    /// The share of the rows without a label that is kept; default 0.1.
    pub empty_fraction: f64,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Seed of the order of rows; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `type_balanced_select`.
pub const FIELDS: &[Field] = &[
    required("labels", Shape::Text, "The column of labels: a text, or a list of texts."),
    defaulted(
        "quota",
        Shape::Int { min: 1, max: i64::MAX },
        Presence::Int(400),
        "Rows of a label; a label goes above it only by rows that it shares with other labels.",
    ),
    defaulted("per_source", Shape::Bool, Presence::Bool(false), "Whether each source has a quota of each label of its own."),
    defaulted(
        "threshold",
        Shape::Float { min: -1.0, max: 1.0, exclusive: false },
        Presence::Float(0.85),
        "Rows of one label whose cosine is at least this are not both kept.",
    ),
    defaulted(
        "fill",
        Shape::Bool,
        Presence::Bool(false),
        "Whether labels that are then below their quota take similar rows after all, always the one that is farthest from the kept rows of its labels, until the quota is met.",
    ),
    defaulted(
        "empty_fraction",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.1),
        "The share of the rows without a label that is kept.",
    ),
    policy::EMBEDDING,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl TypeBalancedSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        Self {
            labels: fields.text("labels").unwrap_or_default(),
            quota: fields.int("quota").unwrap_or_default().unsigned_abs(),
            per_source: fields.bool("per_source").unwrap_or(false),
            threshold: fields.float("threshold").unwrap_or(1.0),
            fill: fields.bool("fill").unwrap_or(false),
            empty_fraction: fields.float("empty_fraction").unwrap_or_default(),
            embedding: fields.text("embedding").map(StageId::new),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "empty_fraction": self.empty_fraction,
            "fill": self.fill,
            "labels": self.labels,
            "on_bad_vector": self.on_bad_vector.word(),
            "per_source": self.per_source,
            "quota": self.quota,
            "seed": self.seed,
            "threshold": self.threshold,
        })
    }
}

impl Stage for TypeBalancedSelectConfig {
    fn kind(&self) -> &'static str {
        "type_balanced_select"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"labels": self.labels}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        Needs { columns: vec![self.labels.clone()], ..Needs::default() }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(LabelHashes::try_new(&self.labels, cx)?)))
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(TypeBalancedSelect { config: self.clone(), stage: stage.clone() }))
    }
}

/// Gives the distinct labels of each row as hashes of eight bytes, one behind the other. Nulls and empty texts are no labels.
struct LabelHashes {
    column: usize,
    row: usize,
    /// What the column is read as.
    kind: DataType,
    output: SchemaRef,
}

impl LabelHashes {
    fn try_new(name: &str, cx: &ScanContext<'_>) -> Result<Self> {
        let column = column(cx, name)?;
        let field = cx.schema.field(column);
        let list = || DataType::List(Arc::new(ArrowField::new("item", DataType::Utf8, true)));
        let kind = match field.data_type() {
            kind if is_text(kind) => DataType::Utf8,
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) if is_text(item.data_type()) => list(),
            other => {
                return Err(Error::input(format!(
                    "labels are texts or lists of texts stage=`{}` column=`{}` type=`{other}`",
                    cx.stage,
                    field.name()
                ))
                .hint("name a column of text, or of lists of text"));
            }
        };
        let fields: ArrowFields = vec![ArrowField::new(LABELS, DataType::Binary, false)].into();
        Ok(Self { column, row: row_column(cx)?, kind, output: row_schema(&fields) })
    }
}

impl RowLocal for LabelHashes {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let labels = cast_strictly(batch.column(self.column), &self.kind)?;
        let bytes = |values: &ArrayRef| {
            let mut hashes: Vec<u64> =
                values.as_string::<i32>().iter().flatten().filter(|label| !label.is_empty()).map(label_hash).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes.into_iter().flat_map(u64::to_be_bytes).collect::<Vec<u8>>()
        };
        let one = |row: usize| match labels.as_list_opt::<i32>() {
            Some(lists) if lists.is_null(row) => Vec::new(),
            Some(lists) => bytes(&lists.value(row)),
            None => bytes(&labels.slice(row, 1)),
        };
        let made = BinaryArray::from_iter_values((0..batch.num_rows()).map(one));
        let columns: Vec<ArrayRef> = vec![Arc::clone(batch.column(self.row)), Arc::new(made)];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build labels".into())
    }
}

/// Bytes a label of a row: its hash, its number, and where all labels differ a list and two counts of its own.
const LABEL_BYTES: usize = 192;

/// Accepts rows label by label, the rarest first.
#[derive(Debug)]
struct TypeBalancedSelect {
    config: TypeBalancedSelectConfig,
    stage: StageId,
}

impl Barrier for TypeBalancedSelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let sources = input.sources.clone();
        // What is kept follows from the quotas; a budget of all rows bounds nothing.
        let asked = Asked { quota: Quota::all(), on_bad_vector: self.config.on_bad_vector, form: Form::Unit, trained_rows: 0 };
        let decide = move |candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>| {
            self.decide(candidates, &sources, stop, report)
        };
        Box::pin(selecting::select(engine, input, "selecting by labels", asked, decide))
    }
}

impl TypeBalancedSelect {
    fn decide(&self, candidates: &Candidates<'_>, sources: &[usize], stop: &Stop, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
        let config = &self.config;
        let source = candidates.source;
        let hashes = |row: &[u8]| row.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect::<Vec<u64>>();
        let mut known: Vec<u64> = candidates.labels.iter().flat_map(|row| hashes(row)).collect();
        let _memory = candidates.memory.beside("selecting by labels", LABEL_BYTES * known.len())?;
        known.sort_unstable();
        known.dedup();
        let mut labels = Labels::default();
        for (row, id) in candidates.labels.iter().zip(&candidates.ids) {
            let shard = RowId::from_bits(*id).shard().ordinal();
            let source = if config.per_source { sources.get(shard).copied().unwrap_or_default() } else { 0 };
            let own = hashes(row).into_iter().filter_map(|hash| known.binary_search(&hash).ok()).map(|label| label as u32);
            labels.push(own, source as u32);
        }
        let random = Random::new(config.seed, self.stage.as_str());
        let order = selecting::shuffled(source, &random)?;
        let quota = usize::try_from(config.quota).unwrap_or(usize::MAX);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let mut nearest = |row: u32, others: &[u32]| -> Result<f64> {
            let own = source.row(row, &mut one)?;
            let mut highest = -1.0_f64;
            for accepted in others {
                highest = highest.max(similarity(own, source.row(*accepted, &mut other)?));
            }
            Ok(highest)
        };
        let near = |row: u32, others: &[u32]| {
            stop.check()?;
            Ok(!others.is_empty() && nearest(row, others)? >= config.threshold)
        };
        let mut accepted = select(&labels, known.len(), &order, quota, near)?;
        if config.fill {
            let nearest = |row: u32, others: &[u32]| {
                stop.check()?;
                nearest(row, others)
            };
            report.insert("filled".into(), json!(fill(&labels, &order, quota, &mut accepted, nearest)?));
        }
        let empty: Vec<u32> = order.iter().copied().filter(|row| labels.of(*row).is_empty()).collect();
        let wanted = share(config.empty_fraction, empty.len() as u64);
        empty.iter().take(wanted as usize).for_each(|row| accepted.kept[*row as usize] = true);
        // A row's place among those of its rarest label.
        let rows_of = labels.rows_of(known.len(), &order);
        let mut ranks = vec![0_u64; source.rows()];
        empty.iter().zip(1..).for_each(|(row, rank)| ranks[*row as usize] = rank);
        let mut left = Vec::new();
        let mut by_frequency: Vec<usize> = (0..known.len()).collect();
        by_frequency.sort_by_key(|label| std::cmp::Reverse(rows_of[*label].len()));
        for label in by_frequency {
            rows_of[label].iter().zip(1..).for_each(|(row, rank)| ranks[*row as usize] = rank);
        }
        for row in (0..source.rows() as u32).filter(|row| !accepted.kept[*row as usize]) {
            stop.check()?;
            let own = labels.of(row);
            let budget = if own.is_empty() { wanted } else { config.quota };
            let mut score = 0.0_f64;
            for label in own {
                score = score.max(nearest(row, &accepted.rows[*label as usize])?);
            }
            left.push(Left { row, score, rank: ranks[row as usize], budget, cell: None });
        }
        report.insert("budget".into(), json!(source.rows() - left.len()));
        report.insert("labels".into(), json!(known.len()));
        let below = labels.sizes().keys().filter(|place| accepted.counts.get(place).is_none_or(|count| *count < quota)).count();
        report.insert("labels_below_quota".into(), json!(below));
        report.insert("rows_without_labels".into(), json!(empty.len()));
        Ok(left)
    }
}
