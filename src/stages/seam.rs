//! The seams of a stage: what it is to the planner ([`Stage`]) and what it does to rows ([`RowLocal`], [`Feature`], [`Barrier`]).

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::{Field, Fields, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::policy::OnBadVector;
use super::quota::Quota;
use crate::embed::Embedder;
use crate::engine::{Engine, RowStream};
use crate::error::Result;
use crate::ids::StageId;
use crate::vector::affine::Affine;

/// The row's number inside its shard (u64), in what a scan gives to row-local stages and features.
pub const ROW: &str = "trommel_row";
/// The row's [`crate::ids::RowId`] (u64), in what a barrier reads and decides.
pub const ROW_ID: &str = "trommel_row_id";
/// The embedding (fixed-size list of f32), in what a barrier that needs vectors reads; null where `STATUS` is not `ok`.
pub const VECTOR: &str = "trommel_vector";
/// The embedding's status (u8, see [`crate::embed::guard::Status`]).
pub const STATUS: &str = "trommel_status";
/// The status of a row that came to a barrier around the stage that makes its vectors.
pub const NO_VECTOR: u8 = u8::MAX;

/// What a stage means to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Decides each row by itself, inside the first scan.
    RowLocal,
    /// Makes one expensive narrow row for each live row: a scan of its own.
    Feature,
    /// Sees the narrow rows of all shards at once.
    Barrier,
    /// Fits a map to the vectors of all shards, then makes a narrow row for each live row by it: a barrier that decides nothing, then a
    /// feature.
    Fitted,
}

/// What names mean in one source: stages see columns under their own names, and `text` and `id` as names for the roles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    /// The column that is the text.
    pub text: Option<String>,
    /// The column that is the id.
    pub id: Option<String>,
}

impl Roles {
    /// The column that `name` means.
    #[must_use]
    pub fn column<'a>(&'a self, name: &'a str) -> &'a str {
        match (name, &self.text, &self.id) {
            ("text", Some(column), _) | ("id", _, Some(column)) => column,
            _ => name,
        }
    }
}

/// Which columns of a shard a stage reads in the first scan, by the names that it uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Columns by name or role.
    pub columns: Vec<String>,
    /// Columns that must hold text.
    pub text: Vec<String>,
    /// Those of the columns that are compared by nothing but what the stage's own operator makes of them: sources may hold them in
    /// different types.
    pub apart: Vec<String>,
    /// Every column, of shards that may have rows without an id: these are told apart by all that they hold.
    pub content: bool,
}

/// What a stage is built for: one shard's columns, renamed so that roles and names both resolve.
#[derive(Debug)]
pub struct ScanContext<'a> {
    /// The stage.
    pub stage: &'a StageId,
    /// The names of the source.
    pub roles: &'a Roles,
    /// The columns that the scan gives, [`ROW`] last.
    pub schema: &'a SchemaRef,
    /// Whether these are all columns of the shard.
    pub whole: bool,
}

/// What a stage is: read from YAML, hashed into the plan, checked and built. No I/O before the operators run.
pub trait Stage: Debug + Send + Sync {
    /// The key in the pipeline file, such as `exact_dedup`.
    fn kind(&self) -> &'static str;
    /// Raised when output bytes may change for the same input and configuration.
    fn version(&self) -> u32;
    /// The configuration with its defaults filled in, keys sorted: what the plan hashes.
    fn canonical(&self) -> Value;
    /// How much it keeps, for a stage that keeps no more of the rows than a budget allows: what the budget counts is carried to the barrier.
    fn quota(&self) -> Option<&Quota> {
        None
    }
    /// What of the configuration shapes what the stage leaves in the first scan's artefact; `None` if it leaves nothing there. A
    /// threshold that only the barrier looks at is no part of it, so that changing it scans nothing again.
    fn scanned(&self) -> Option<Value> {
        self.quota().and_then(Quota::carried)
    }
    /// Its place in the plan.
    fn shape(&self) -> Shape;
    /// What it reads of a source's shards.
    fn needs(&self, _roles: &Roles) -> Needs {
        self.quota().map(Quota::needs).unwrap_or_default()
    }
    /// The decision of a row-local stage, or a barrier's cheap feature; `None` if the barrier has none.
    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        self.quota().map_or(Ok(None), |quota| quota.carry(cx, None))
    }
    /// The columns that the barrier reads of the rows that it names, by name or role; none if it reads no rows again.
    fn named(&self) -> Vec<&str> {
        Vec::new()
    }
    /// What the barrier asks of the rows that it names: it is given the columns made.
    fn named_rows(&self, _cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(None)
    }
    /// The stage whose vectors it takes, if the user named it; `None` if it takes none.
    fn embedding(&self) -> Option<Option<&StageId>> {
        None
    }
    /// What becomes of rows with bad vectors, for a stage that makes vectors: a column that is named by its id.
    fn made_vectors(&self) -> Option<OnBadVector> {
        None
    }
    /// The table in which it says how often each row that it keeps is to be taken, where it takes some more than once: ([`ROW_ID`], u64)
    /// in row order. The lineage tells of it, and the sink may add it as a column that is named by the stage.
    fn repeats(&self) -> Option<&'static str> {
        None
    }
    /// Whether it compares sources with each other, so that there have to be several.
    fn compares_sources(&self) -> bool {
        false
    }
    /// What it does with the rows of earlier increments.
    fn incremental(&self) -> Incremental {
        Incremental::Alone
    }
    /// What a plan says of the stage beside its keys: odds, guarantees.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// The barrier; `None` for other shapes.
    fn barrier(&self, _stage: &StageId) -> Option<Box<dyn Barrier>> {
        None
    }
    /// What fits the map of a fitted stage; `None` for other shapes.
    fn fit(&self, _stage: &StageId) -> Option<Box<dyn Fit>> {
        None
    }
    /// What makes a fitted stage's vectors by its map: the scan gives a table of vectors ([`ROW`], [`VECTOR`], [`STATUS`]); `None` for
    /// other shapes.
    fn transform(&self, _map: Affine) -> Option<Box<dyn Feature>> {
        None
    }
}

/// Decides or describes each row by itself.
///
/// Law: `apply(a ++ b) == apply(a) ++ apply(b)`.
pub trait RowLocal: Send {
    /// The narrow columns that it makes, [`ROW`] not among them; none if it only decides.
    fn makes(&self) -> Fields;
    /// Gives [`ROW`] and the columns made, for the rows that stay, in their order.
    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch>;
}

/// Writes a batch of a feature's table.
pub type WriteBatch<'a> = Box<dyn FnMut(&RecordBatch) -> Result<()> + 'a>;
/// Starts a feature's table: takes its schema ([`ROW`] first) and gives what writes a batch.
pub type Start<'a> = dyn FnMut(&SchemaRef) -> Result<WriteBatch<'a>> + 'a;

/// An expensive narrow row for each live row of a shard.
pub trait Feature: Send + Sync {
    /// Live rows of one shard in, in row order; one narrow row for each out, in the same order. Gives what it counted.
    fn run(&self, rows: &mut (dyn Iterator<Item = Result<RecordBatch>> + Send), start: &mut Start<'_>) -> Result<Map<String, Value>>;
}

/// What a stage does where a state keeps what earlier increments kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incremental {
    /// It decides rows by themselves, or among those of the increment.
    Alone,
    /// It compares with the rows that it kept before as well; what it keeps goes into the state. What it compares rows by
    /// ([`Stage::named_rows`]) are lists of u64.
    Compares,
    /// It cannot be told apart from a stage that would give something else over all rows.
    Refused(&'static str),
}

/// The narrow rows that a barrier sees: [`ROW_ID`], the stage's cheap feature, and vectors where it needs them; in row order.
pub struct Narrow {
    /// How many rows come, incumbents aside.
    pub rows: u64,
    /// The rows.
    pub stream: RowStream,
    /// Rows that the stage kept in earlier increments.
    pub incumbents: Option<Incumbents>,
    /// What the stage fits to rows, and increments to come go on with.
    pub frozen: Frozen,
    /// The length of the vectors; 0 where there are none.
    pub dimensions: usize,
    /// The source of each shard, by the shard's ordinal.
    pub sources: Vec<usize>,
    /// The ids of the sources.
    pub source_names: Vec<String>,
    /// The rows themselves, for a barrier that must see more of some of them.
    pub named: Arc<dyn NamedRows>,
}

/// Rows that a stage kept in earlier increments: their ids come before those of the run, they come before all of them in whatever order
/// rows are kept, and none of them is dropped.
pub struct Incumbents {
    /// How many they are.
    pub rows: u64,
    /// The rows, with the columns of [`Narrow::stream`].
    pub stream: RowStream,
}

/// What a stage fits to rows where there are increments: it is fitted once.
#[derive(Debug, Clone, PartialEq)]
pub enum Frozen {
    /// There are none: it is fitted for this run alone.
    Never,
    /// Nothing was fitted yet: [`Outcome::frozen`] will be asked for.
    Wanted,
    /// What an earlier increment gave in [`Outcome::frozen`].
    Given(RecordBatch),
}

/// Takes [`crate::ids::RowId`] bits and what [`Stage::named_rows`] made of these rows, [`ROW`] first.
pub type TakeRows<'a> = dyn Fn(&[u64], &RecordBatch) -> Result<()> + Sync + 'a;

/// Rows of the corpus, read once more by row selection: wide data goes to the barrier only so, row by named row.
pub trait NamedRows: Send + Sync {
    /// Reads the rows `wanted` ([`crate::ids::RowId`] bits, ascending), several shards at once, and gives each row once, the rows
    /// of a shard in their order.
    fn read(&self, wanted: &[u64], take: &TakeRows<'_>) -> Result<()>;
}

/// Decides over all rows at once.
///
/// Law: the result depends on the set of rows, not on arrival order or thread count.
pub trait Barrier: Send {
    /// Runs it.
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>>;
}

/// What a barrier decided. Every input row that `drops` does not name is kept.
pub struct Outcome {
    /// Rows of [`drop_fields`], sorted by [`ROW_ID`], each at most once.
    pub drops: RowStream,
    /// The stage's section of the report.
    pub report: Map<String, Value>,
    /// What it was asked to leave in the dataset beside its decisions.
    pub tables: Vec<Table>,
    /// What it fitted, where [`Narrow::frozen`] is wanted: a table of its own.
    pub frozen: Option<RecordBatch>,
}

/// A table that a stage leaves in the dataset.
pub struct Table {
    /// Its name, a plain word.
    pub name: &'static str,
    /// Its rows. A column [`ROW_ID`] is written as `source`, `shard` and `row`.
    pub rows: RowStream,
}

/// Fits a map of vectors to all rows at once.
///
/// Law: as that of [`Barrier`].
pub trait Fit: Send {
    /// Runs it.
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Fitted>>;
}

/// What was fitted.
pub struct Fitted {
    /// The map.
    pub map: Affine,
    /// The stage's section of the report.
    pub report: Map<String, Value>,
}

/// The schema of a barrier's drops: which row, why, which kept row it duplicates (RowId bits), how similar, and a JSON object
/// with sorted keys.
#[must_use]
pub fn drop_fields() -> SchemaRef {
    use arrow::datatypes::{DataType, Schema};
    Arc::new(Schema::new(vec![
        Field::new(ROW_ID, DataType::UInt64, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("kept", DataType::UInt64, true),
        Field::new("score", DataType::Float64, true),
        Field::new("detail", DataType::Utf8, true),
    ]))
}

/// The embedder that a feature stage runs on, opened once a run.
pub type SharedEmbedder = Arc<Embedder>;
