//! `online_loss_filter`: replays recorded losses, and drops the rows that a model which sees them once need not train on.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray as _, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, Float64Type, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::carry::{CarryNumbers, together};
use super::columns::{Detail, Drop, column, drop_batch, numbers, row_column, row_schema};
use super::seam::{Barrier, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, drop_fields};
use crate::dataset::schema::text_values;
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, Reservation, chain, map, next, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::select::online_loss::{OnlineLoss, Settings, Verdict};
use crate::text::normalise::Step;
use crate::text::shingle::{Shingle, ShingleHash, Shingler, Unit};

/// `online_loss_filter: {loss, column, warmup_fraction, window, batch, alpha, limit, batches}`.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineLossFilterConfig {
    /// The column of recorded losses.
    pub loss: String,
    /// The column whose words tell easy rows from hard ones; default `text`.
    pub column: String,
    /// The share of the rows, from the first, that are all kept.
    pub warmup_fraction: f64,
    /// Warm-up, batches and limits; the warm-up in rows is set by the number of rows.
    pub settings: Settings,
}

/// The keys of `online_loss_filter`.
pub const FIELDS: &[Field] = &[
    required(
        "loss",
        Shape::Text,
        "The column of the losses that a model had when it came to each row: numbers; a row without one is kept.",
    ),
    defaulted("column", Shape::Text, Presence::Text("text"), "The text whose words tell easy rows from hard ones."),
    defaulted(
        "warmup_fraction",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.1),
        "The share of the rows, from the first, that are all kept. The threshold is the mean of their last losses.",
    ),
    defaulted("window", Shape::Int { min: 1, max: 1 << 20 }, Presence::Int(128), "The number of losses whose mean is the threshold."),
    defaulted("batch", Shape::Int { min: 1, max: 1 << 16 }, Presence::Int(8), "Rows after which the predictor takes in what it was shown."),
    defaulted(
        "alpha",
        Shape::Float { min: 0.0, max: 1e6, exclusive: true },
        Presence::Float(1.0),
        "What is added to the predictor's counts (Laplace).",
    ),
    defaulted(
        "limit",
        Shape::Float { min: 0.0, max: 100.0, exclusive: false },
        Presence::Float(0.4),
        "Rows are left out unseen once the predictor's mean negative log-likelihood, in nats, is at most this; 0.69 is that of a guess.",
    ),
    defaulted("batches", Shape::Int { min: 1, max: 1 << 16 }, Presence::Int(50), "The batches whose likelihoods count for `limit`."),
];

impl OnlineLossFilterConfig {
    /// Reads the checked map.
    #[must_use]
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        let count = |key| fields.int(key).and_then(|value| usize::try_from(value).ok()).unwrap_or(1);
        let float = |key| fields.float(key).unwrap_or_default();
        Self {
            loss: fields.text("loss").unwrap_or_default(),
            column: fields.text("column").unwrap_or_default(),
            warmup_fraction: float("warmup_fraction"),
            settings: Settings {
                warmup: 0,
                window: count("window"),
                batch: count("batch"),
                alpha: float("alpha"),
                limit: float("limit"),
                batches: count("batches"),
            },
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "alpha": self.settings.alpha,
            "batch": self.settings.batch,
            "batches": self.settings.batches,
            "column": self.column,
            "limit": self.settings.limit,
            "loss": self.loss,
            "warmup_fraction": self.warmup_fraction,
            "window": self.settings.window,
        })
    }
}

/// The narrow column of losses.
const LOSS: &str = "loss";
/// The narrow column of distinct words, hashed, ascending, 8 bytes each, little-endian.
const WORDS: &str = "words";

impl Stage for OnlineLossFilterConfig {
    fn kind(&self) -> &'static str {
        "online_loss_filter"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"column": self.column, "loss": self.loss}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        Needs { columns: vec![self.loss.clone(), self.column.clone()], text: vec![self.column.clone()], ..Needs::default() }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let losses = CarryNumbers::try_new(cx, &[(self.loss.as_str(), LOSS.to_owned())])?;
        Ok(Some(together(Box::new(losses), Box::new(Words::try_new(cx, &self.column)?))))
    }

    fn notes(&self) -> Vec<String> {
        vec!["depends on the order of the corpus: another order of the shards gives another selection".to_owned()]
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(OnlineLossFilter { config: self.clone() }))
    }
}

/// Gives the distinct words of a text, in lower case.
struct Words {
    text: usize,
    row: usize,
    shingler: Shingler,
    made: Vec<u64>,
    output: SchemaRef,
}

impl Words {
    fn try_new(cx: &ScanContext<'_>, name: &str) -> Result<Self> {
        let fields: ArrowFields = vec![ArrowField::new(WORDS, DataType::Binary, true)].into();
        let words = Shingle { unit: Unit::Words, size: 1 };
        let shingler = Shingler::new(&[Step::Nfc, Step::Lowercase], words, ShingleHash::Trommel);
        Ok(Self { text: column(cx, name)?, row: row_column(cx)?, shingler, made: Vec::new(), output: row_schema(&fields) })
    }
}

impl RowLocal for Words {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let texts = text_values(batch.column(self.text).as_ref())?;
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(batch.num_rows());
        for text in texts.iter() {
            self.shingler.shingles(text.unwrap_or(""), &mut self.made);
            self.made.sort_unstable();
            self.made.dedup();
            words.push(self.made.iter().flat_map(|word| word.to_le_bytes()).collect());
        }
        let words: ArrayRef = Arc::new(BinaryArray::from_iter_values(words));
        RecordBatch::try_new(Arc::clone(&self.output), vec![Arc::clone(batch.column(self.row)), words])
            .context(Kind::Internal, || "cannot build words".into())
    }
}

/// Replays the stream.
#[derive(Debug)]
struct OnlineLossFilter {
    config: OnlineLossFilterConfig,
}

/// Bytes of a word in the predictor's maps.
const WORD_BYTES: usize = 64;

/// A stream that is filtered, and what was counted of it.
struct Replay {
    filter: OnlineLoss,
    memory: Reservation,
    /// Words that memory was taken for.
    words: usize,
    trained: u64,
    skipped_backward: u64,
    skipped_forward: u64,
    without_loss: u64,
}

impl Replay {
    fn step(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let internal = || Error::internal("a replay was given no losses or no words");
        let losses = batch.column_by_name(LOSS).and_then(|losses| losses.as_primitive_opt::<Float64Type>()).ok_or_else(internal)?;
        let words = batch.column_by_name(WORDS).and_then(|words| words.as_binary_opt::<i32>()).ok_or_else(internal)?;
        let mut drops = Vec::new();
        let mut row_words = Vec::new();
        for ((row, loss), bytes) in numbers(batch, ROW_ID)?.values().iter().zip(losses.iter()).zip(words.iter()) {
            row_words.clear();
            row_words.extend(bytes.unwrap_or_default().as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
            self.without_loss += u64::from(loss.is_none());
            let skipped = match self.filter.offer(loss, &row_words) {
                Verdict::Train => {
                    self.trained += 1;
                    continue;
                }
                Verdict::SkipBackward => {
                    self.skipped_backward += 1;
                    "backward"
                }
                Verdict::SkipForward => {
                    self.skipped_forward += 1;
                    "forward"
                }
            };
            drops.push(Drop { row: *row, reason: "not_selected", kept: None, score: loss, detail: Detail::Skipped(skipped) });
        }
        let met = self.filter.vocabulary();
        self.memory.grow((met - self.words) * WORD_BYTES)?;
        self.words = met;
        drop_batch(&drops)
    }

    fn report(&self) -> Map<String, Value> {
        let told = json!({
            "skipped_backward": self.skipped_backward,
            "skipped_forward": self.skipped_forward,
            "threshold": self.filter.threshold(),
            "trained": self.trained,
            "unseen_from": self.filter.unseen_from(),
            "without_loss": self.without_loss,
        });
        told.as_object().cloned().unwrap_or_default()
    }
}

impl Barrier for OnlineLossFilter {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let warmup = (self.config.warmup_fraction * input.rows as f64).round() as u64;
            let filter = OnlineLoss::new(Settings { warmup, ..self.config.settings });
            let memory = engine.reserve("a predictor of losses", 0)?;
            let replay = Replay { filter, memory, words: 0, trained: 0, skipped_backward: 0, skipped_forward: 0, without_loss: 0 };
            let replay = Arc::new(Mutex::new(replay));
            let stepped = Arc::clone(&replay);
            let drops = map(input.stream, drop_fields(), move |batch| stepped.lock().unwrap_or_else(PoisonError::into_inner).step(&batch));
            // A sort gives its first batch when it has read all rows: then the report is complete.
            let mut drops = sort(engine, drops, &[SortKey::ascending(ROW_ID)])?;
            let first = next(&mut drops).await.transpose()?;
            let drops = chain(rows_of(drop_fields(), first.into_iter().map(Ok)), drops);
            let report = replay.lock().unwrap_or_else(PoisonError::into_inner).report();
            Ok(Outcome { drops, report, tables: Vec::new(), frozen: None })
        })
    }
}
