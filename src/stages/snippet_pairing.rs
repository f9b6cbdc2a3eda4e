//! `snippet_pairing`: drops nothing, and pairs rows of a group that have to do with each other and do not repeat each other (MDCure).
//!
//! See [`crate::vector::pairing`]. Short rows are no partners and have none.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::columns::Drops;
use super::draw::{self, Draw};
use super::policy::{self, OnBadVector};
use super::quota::{Amount, Quota, RowSizes, Tally, noted, noting};
use super::seam::{Barrier, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, Table};
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop, rows_of, spawn};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::vector::pairing::{partners, task_bytes};
use crate::vector::{Source, Subset};

/// `snippet_pairing: {group, threshold, min_words, sample_rows, ...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SnippetPairingConfig {
    /// The column inside whose values rows are paired, such as the articles of one event.
    pub group: String,
    /// Rows whose cosine is at least this are no pair: they repeat each other. Default 0.7.
    pub threshold: f64,
    /// Rows of fewer words are in no pair; default 11.
    pub min_words: u64,
    /// How many rows a partner is looked for, drawn; default all.
    pub sample_rows: Option<u64>,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Seed of the draws; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and in no pair.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `snippet_pairing`.
pub const FIELDS: &[Field] = &[
    required(
        "group",
        Shape::Text,
        "The column inside whose values rows are paired, such as the articles of one event; nulls are one group.",
    ),
    defaulted(
        "threshold",
        Shape::Float { min: -1.0, max: 1.0, exclusive: false },
        Presence::Float(0.7),
        "Rows whose cosine is at least this repeat each other and are no pair: a partner is the most similar row below.",
    ),
    defaulted("min_words", Shape::Int { min: 0, max: i64::MAX }, Presence::Int(11), "Rows of fewer words (UAX #29) are in no pair."),
    optional("sample_rows", Shape::Int { min: 1, max: i64::MAX }, "How many rows a partner is looked for, drawn; by default all."),
    policy::EMBEDDING,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl SnippetPairingConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        Self {
            group: fields.text("group").unwrap_or_default(),
            threshold: fields.float("threshold").unwrap_or_default(),
            min_words: fields.int("min_words").unwrap_or_default().unsigned_abs(),
            sample_rows: fields.int("sample_rows").map(i64::unsigned_abs),
            embedding: fields.text("embedding").map(StageId::new),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "group": self.group,
            "min_words": self.min_words,
            "on_bad_vector": self.on_bad_vector.word(),
            "sample_rows": self.sample_rows,
            "seed": self.seed,
            "threshold": self.threshold,
        })
    }

    /// The groups, and the words of each row, as a budget counts them.
    fn counted(&self) -> Quota {
        Quota { group: Some(self.group.clone()), ..Quota::of(Amount::Tokens(u64::MAX)) }
    }
}

impl Stage for SnippetPairingConfig {
    fn kind(&self) -> &'static str {
        "snippet_pairing"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"carried": self.counted().carried(), "seed": self.seed}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, roles: &Roles) -> Needs {
        let mut needs = draw::needs(roles);
        self.counted().add_needs(&mut needs);
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        self.counted().carry(cx, Some(Box::new(Draw::try_new(cx, self.seed)?)))
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(SnippetPairing { config: self.clone() }))
    }
}

/// Looks for partners, and decides nothing.
#[derive(Debug)]
struct SnippetPairing {
    config: SnippetPairingConfig,
}

/// A row, its partner, and their cosine.
type Pair = (u64, u64, f64);

impl Barrier for SnippetPairing {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let tally = Tally::try_new(engine, &self.config.counted(), &input.sources)?;
            let (stream, sized) = noting(tally, input.stream);
            let gathered = gather(engine, Narrow { stream, ..input }, 0, Form::Unit).await?;
            let stop = engine.stop().clone();
            let decide = move || self.decide(&gathered, &noted(&sized), &stop);
            let (drops, report, pairs) = spawn::blocking("pairing rows", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables: vec![pair_table(pairs)], frozen: None })
        })
    }
}

impl SnippetPairing {
    fn decide(&self, gathered: &Gathered, sized: &RowSizes, stop: &Stop) -> Result<(Drops, Map<String, Value>, Vec<Pair>)> {
        const WHAT: &str = "pairing rows";
        let config = &self.config;
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        let mut drops = Drops::for_rows(&gathered.memory, bad.len())?;
        bad.for_each(|drop| drops.push(drop));
        let _memory = gathered.memory.beside(WHAT, gathered.rows.len() * (size_of::<Pair>() + 4 * size_of::<u64>()))?;
        // The rows of each group that are long enough.
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); sized.tally().groups().len()];
        for (row, place) in gathered.rows.iter().zip(0..) {
            let (group, words) = sized.of(*row)?;
            if words >= config.min_words {
                members[group].push(place);
            }
        }
        let mut long: Vec<u32> = members.iter().flatten().copied().collect();
        report.insert("short".into(), json!(gathered.rows.len() - long.len()));
        let draw = |place: u32| gathered.draws.get(place as usize).copied().ok_or_else(|| Error::internal("a row that was not drawn"));
        let mut asked = vec![true; gathered.rows.len()];
        if let Some(most) = config.sample_rows.and_then(|most| usize::try_from(most).ok()).filter(|most| *most < long.len()) {
            let mut drawn = long.iter().map(|place| Ok((draw(*place)?, *place))).collect::<Result<Vec<_>>>()?;
            drawn.sort_unstable();
            drawn[most..].iter().for_each(|(_, place)| asked[*place as usize] = false);
            long.truncate(most);
        }
        let source = gathered.vectors.source();
        let mut pairs = Vec::new();
        for places in members.iter().filter(|places| places.len() > 1) {
            stop.check()?;
            let _tasks = gathered.memory.beside(WHAT, rayon::current_num_threads() * task_bytes(places.len(), source.dimensions()))?;
            let room = gathered.memory.beside(WHAT, places.len() * source.dimensions() * size_of::<f32>()).ok();
            let (subset, mut buffer) = (Subset::new(source, places), Vec::new());
            let own = if room.is_some() { Source::Memory(source.gather(places, &mut buffer)?) } else { Source::File(&subset) };
            let wanted: Vec<u32> = (0..places.len() as u32).filter(|at| asked[places[*at as usize] as usize]).collect();
            let id = |at: u32| gathered.rows[places[at as usize] as usize];
            for (at, found) in wanted.iter().zip(partners(own, &wanted, config.threshold)?) {
                pairs.extend(found.map(|(other, cosine)| (id(*at), id(other), cosine)));
            }
        }
        pairs.sort_unstable_by_key(|(row, ..)| *row);
        report.insert("asked".into(), json!(long.len()));
        report.insert("pairs".into(), json!(pairs.len()));
        report.insert("groups".into(), json!(members.len()));
        Ok((drops, report, pairs))
    }
}

/// Rows of a piece of the table.
const RUN: usize = 4096;

/// The pairs: each row that has a partner once.
fn pair_table(pairs: Vec<Pair>) -> Table {
    let number = |name: String| ArrowField::new(name, DataType::UInt64, false);
    let fields = vec![number(ROW_ID.into()), number(format!("partner_{ROW_ID}")), ArrowField::new("cosine", DataType::Float64, false)];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let of = Arc::clone(&schema);
    let pieces = (0..pairs.len()).step_by(RUN).map(move |from| {
        let piece = &pairs[from..pairs.len().min(from + RUN)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(piece.iter().map(|(row, ..)| *row))),
            Arc::new(UInt64Array::from_iter_values(piece.iter().map(|(_, other, _)| *other))),
            Arc::new(Float64Array::from_iter_values(piece.iter().map(|(.., cosine)| *cosine))),
        ];
        RecordBatch::try_new(Arc::clone(&of), columns).context(Kind::Internal, || "cannot build a table of pairs".into())
    });
    Table { name: "pairs", rows: rows_of(schema, pieces) }
}
