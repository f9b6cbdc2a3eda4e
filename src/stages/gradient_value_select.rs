//! `gradient_value_select`: keeps the tasks and rows whose gradients a model learns most from (TIVE, Liu et al. 2024).

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::carry::{CarryNumbers, together};
use super::columns::{Drop, Drops};
use super::draw::{self, Draw};
use super::noted::{self, Numbers};
use super::policy::{self, OnBadVector};
use super::quota::{self, Amount, Quota, RowSizes, Tally};
use super::seam::{Barrier, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, Table};
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, rows_of, spawn};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::StageId;
use crate::random::as_unit;
use crate::select::Meter;
use crate::select::gradient_value::{self, Directions};
use crate::words;

words! {
    /// How rows are chosen inside a task.
    pub enum Mode {
        /// Drawn with probabilities by their values.
        Sample = "sample",
        /// The most valuable ones.
        Top = "top",
    }
}

/// `gradient_value_select: {task, gradient_norm, keep_..., inverse_temperature, mode, oversample, exclude_tasks, ...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientValueSelectConfig {
    /// The column that names a row's task; nulls are one task.
    pub task: String,
    /// The column of the norms of the gradients as they were before they were projected.
    pub gradient_norm: String,
    /// How much is kept of all rows.
    pub amount: Amount,
    /// The stage that makes the gradients vectors (`embed: {from: COLUMN}`); default the nearest above.
    pub embedding: Option<StageId>,
    /// How much a row's value counts when it is drawn; default 0.001, as released.
    pub inverse_temperature: f64,
    /// How rows are chosen inside a task; default `sample`.
    pub mode: Mode,
    /// Whether a task may get more rows than it has; default no.
    pub oversample: bool,
    /// Tasks of which nothing is kept.
    pub exclude_tasks: Vec<String>,
    /// Seed of the draws; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad gradient; default: kept, ahead of the others of its task.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `gradient_value_select`.
pub const FIELDS: &[Field] = &[
    required("task", Shape::Text, "The column that names a row's task; nulls are one task."),
    required(
        "gradient_norm",
        Shape::Text,
        "The column of the norms of the gradients before projection: numbers from 0. A task is worth their mean.",
    ),
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    policy::EMBEDDING,
    defaulted(
        "inverse_temperature",
        Shape::Float { min: 0.0, max: 1e12, exclusive: false },
        Presence::Float(0.001),
        "Rows are drawn with probabilities in proportion to exp(inverse_temperature x value), where a value lies in -1 to 1. At 0.001, as released, all rows of a task are nearly alike.",
    ),
    defaulted(
        "mode",
        Shape::Choice(Mode::WORDS),
        Presence::Text("sample"),
        "How the rows of a task are chosen: drawn by their values (`sample`), or the most valuable (`top`).",
    ),
    defaulted(
        "oversample",
        Shape::Bool,
        Presence::Bool(false),
        "Whether a task may get more rows than it has. Each is written once; `tables/<stage>/repeats.parquet` (source, shard, row, repeat) says how often each kept row is to be taken.",
    ),
    defaulted("exclude_tasks", Shape::List(&Shape::Text), Presence::EmptyList, "Tasks of which nothing is kept."),
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl GradientValueSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let exclude_tasks = fields.texts("exclude_tasks");
        fields.refuse_repeats(out, "exclude_tasks", &exclude_tasks);
        let mode = fields.text("mode").and_then(|word| Mode::from_word(&word)).unwrap_or(Mode::Sample);
        if mode == Mode::Top && fields.has("inverse_temperature") {
            let hint = Some("remove it, or write `mode: sample`".to_owned());
            fields.problem(out, "inverse_temperature", "`inverse_temperature` has no meaning under `mode: top`: nothing is drawn", hint);
        }
        let (amount, oversample) = (Amount::read(fields, out), fields.bool("oversample").unwrap_or(false));
        if oversample && Quota::of(amount).measures() {
            let hint = Some("take `keep_rows` or `keep_fraction`, or remove `oversample`".to_owned());
            fields.problem(out, "oversample", "rows are repeated to a number of rows, not of bytes or tokens", hint);
        }
        Self {
            task: fields.text("task").unwrap_or_default(),
            gradient_norm: fields.text("gradient_norm").unwrap_or_default(),
            amount,
            embedding: fields.text("embedding").map(StageId::new),
            inverse_temperature: fields.float("inverse_temperature").unwrap_or_default(),
            mode,
            oversample,
            exclude_tasks,
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "exclude_tasks": self.exclude_tasks,
            "gradient_norm": self.gradient_norm,
            "inverse_temperature": self.inverse_temperature,
            "keep": self.amount.canonical(),
            "mode": self.mode.word(),
            "on_bad_vector": self.on_bad_vector.word(),
            "oversample": self.oversample,
            "seed": self.seed,
            "task": self.task,
        })
    }

    /// The tasks as groups of a budget.
    fn tasks(&self) -> Quota {
        Quota { group: Some(self.task.clone()), ..Quota::of(self.amount) }
    }
}

/// The narrow column of gradient norms.
const NORM: &str = "norm";

impl Stage for GradientValueSelectConfig {
    fn kind(&self) -> &'static str {
        "gradient_value_select"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn repeats(&self) -> Option<&'static str> {
        self.oversample.then_some(REPEATS)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"carried": self.tasks().carried(), "gradient_norm": self.gradient_norm, "seed": self.seed}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, roles: &Roles) -> Needs {
        let mut needs = draw::needs(roles);
        needs.columns.push(self.gradient_norm.clone());
        self.tasks().add_needs(&mut needs);
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        let norms = CarryNumbers::try_new(cx, &[(self.gradient_norm.as_str(), NORM.to_owned())])?;
        let both = together(Box::new(Draw::try_new(cx, self.seed)?), Box::new(norms));
        self.tasks().carry(cx, Some(both))
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(GradientValueSelect { config: self.clone() }))
    }
}

/// Gives each task rows by its value, and each row a chance by its own.
#[derive(Debug)]
struct GradientValueSelect {
    config: GradientValueSelectConfig,
}

impl Barrier for GradientValueSelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let tally = Tally::try_new(engine, &self.config.tasks(), &input.sources)?;
            let (stream, tasks) = quota::noting(tally, input.stream);
            let (stream, norms) = noted::noting(engine, stream, vec![NORM.to_owned()])?;
            let gathered = gather(engine, Narrow { stream, ..input }, 0, Form::Unit).await?;
            let decide = move || self.decide(&gathered, &quota::noted(&tasks), &noted::taken(&norms));
            let (drops, report, tables) = spawn::blocking("selecting by gradients", decide).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables, frozen: None })
        })
    }
}

/// The rows of one task, by their place among those that were gathered, and what they are ranked by.
type Ranked = Vec<(u32, f64)>;

/// Rows that are read at a time.
const RUN: usize = 4096;

impl GradientValueSelect {
    /// What each row is worth to its task.
    fn values(gathered: &Gathered, tasks: &[usize], count: usize) -> Result<Vec<f64>> {
        let source = gathered.vectors.source();
        let mut directions = Directions::new(count, source.dimensions());
        let mut buffer = Vec::new();
        for from in (0..tasks.len()).step_by(RUN) {
            let rows = source.run(from..tasks.len().min(from + RUN), &mut buffer)?;
            for place in 0..rows.rows() {
                directions.add(tasks[from + place], rows.row(place));
            }
        }
        let of = |from: usize, rows: crate::vector::Matrix<'_>| {
            Ok((0..rows.rows()).map(|place| directions.value(tasks[from + place], rows.row(place))).collect::<Vec<f64>>())
        };
        Ok(source.pieces(of)?.concat())
    }

    /// The mean norm of each task.
    fn task_values(norms: &Numbers, sized: &RowSizes, count: usize) -> Result<Vec<f64>> {
        let mut sums = vec![(0.0, 0_u64); count];
        for (row, norm) in norms.rows().iter().zip(norms.of(0, norms.rows())?) {
            let Some(norm) = norm else { continue };
            if !(norm.is_finite() && norm >= 0.0) {
                let message = format!("a gradient norm is no finite number from 0 norm=`{norm}`");
                return Err(Error::input(message).hint("mend the column, or filter such rows out"));
            }
            let (sum, rows) = &mut sums[sized.of(*row)?.0];
            *sum += norm;
            *rows += 1;
        }
        Ok(sums.into_iter().map(|(sum, rows)| if rows > 0 { sum / rows as f64 } else { 0.0 }).collect())
    }

    fn decide(&self, gathered: &Gathered, sized: &RowSizes, norms: &Numbers) -> Result<(Drops, Map<String, Value>, Vec<Table>)> {
        let config = &self.config;
        let mut report = Map::new();
        let bad = gathered.settle_bad(config.on_bad_vector, &mut report)?;
        let all = gathered.rows.len() + gathered.bad.len();
        let names = sized.tally().names();
        let excluded: Vec<bool> =
            names.iter().map(|name| name.is_some_and(|name| config.exclude_tasks.iter().any(|task| task == name))).collect();
        // What each row takes of the budget of its task.
        let (tasks, takes): (Vec<usize>, Vec<u64>) =
            gathered.rows.iter().map(|row| sized.of(*row)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let bad_tasks = gathered.bad.iter().map(|(row, _)| sized.of(*row)).collect::<Result<Vec<_>>>()?;
        // A row without a gradient is kept ahead of the others of its task, unless the user wants such rows dropped.
        let bad_kept = |task: usize| config.on_bad_vector == OnBadVector::Keep && !excluded[task];
        let mut sizes = vec![0_u64; names.len()];
        bad_tasks.iter().filter(|(task, _)| bad_kept(*task)).for_each(|(task, size)| sizes[*task] += size);
        tasks.iter().zip(&takes).filter(|(task, _)| !excluded[**task]).for_each(|(task, size)| sizes[*task] += size);
        let worth = Self::task_values(norms, sized, names.len())?;
        let total = match config.amount {
            Amount::Rows(rows) if config.oversample => rows,
            amount => amount.of(bad_tasks.iter().map(|(_, size)| size).chain(&takes).sum()),
        };
        // Tasks in the order of their names: what is rounded does not depend on the order of the rows.
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|task| names[*task]);
        let in_order = |values: &[u64]| order.iter().map(|task| values[*task]).collect::<Vec<_>>();
        let values: Vec<f64> = order.iter().map(|task| worth[*task]).collect();
        let mut budgets = vec![0; names.len()];
        for (task, budget) in order.iter().zip(gradient_value::budgets(&in_order(&sizes), &values, total, config.oversample)) {
            budgets[*task] = budget;
        }

        let values = Self::values(gathered, &tasks, names.len())?;
        let mut ranked: Vec<Ranked> = vec![Vec::new(); names.len()];
        for (place, (task, value)) in tasks.iter().zip(&values).enumerate() {
            let draw = gathered.draws.get(place).copied().ok_or_else(|| Error::internal("a row that was not drawn"))?;
            let key = match config.mode {
                Mode::Top => *value,
                Mode::Sample => gradient_value::key(*value, config.inverse_temperature, as_unit(draw)),
            };
            ranked[*task].push((place as u32, key));
        }
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + all)?;
        let dropped_bad = bad.len();
        bad.for_each(|drop| drops.push(drop));
        let mut repeats: Vec<(u64, u64)> = Vec::new();
        let mut out = |row: u64, score: Option<f64>, task: usize, rank: u64, repeat: u64| {
            if repeat > 0 {
                repeats.push((row, repeat));
            } else {
                let detail = config.tasks().detail(budgets[task], rank + 1, None);
                drops.push(Drop { row, reason: "not_selected", kept: None, score, detail });
            }
        };
        let mut meters: Vec<Meter> = budgets.iter().copied().map(Meter::new).collect();
        let times: Vec<_> = sizes.iter().zip(&budgets).map(|(size, budget)| gradient_value::repeats(*size, *budget)).collect();
        // How often the next row of a task is kept, and its rank from 0.
        let mut take = |task: usize, size: u64| {
            let rank = meters[task].rank();
            let fits = meters[task].offer(size);
            let repeat = if config.oversample { times[task](rank) } else { u64::from(fits) };
            (if excluded[task] { 0 } else { repeat }, rank)
        };
        // Rows whose vectors are bad and dropped for it were told already; those of excluded tasks are left out like others.
        if dropped_bad == 0 {
            for ((row, _), (task, size)) in gathered.bad.iter().zip(&bad_tasks) {
                let (repeat, rank) = take(*task, *size);
                out(*row, None, *task, rank, repeat);
            }
        }
        for (task, rows) in ranked.iter_mut().enumerate() {
            rows.sort_by(|(a, of_a), (b, of_b)| of_b.total_cmp(of_a).then(a.cmp(b)));
            for (place, _) in &*rows {
                let place = *place as usize;
                let (repeat, rank) = take(task, takes[place]);
                out(gathered.rows[place], Some(values[place]), task, rank, repeat);
            }
        }
        report.insert("budget".into(), json!(budgets.iter().sum::<u64>()));
        report.insert(
            "used".into(),
            json!(if config.oversample { budgets.iter().sum() } else { meters.iter().map(Meter::used).sum::<u64>() }),
        );
        report.insert("unit".into(), json!(config.tasks().unit()));
        report.insert(
            "tasks".into(),
            order
                .iter()
                .filter(|task| !excluded[**task])
                .take(TOLD_TASKS)
                .map(|task| json!({"budget": budgets[*task], "rows": sizes[*task], "task": names[*task], "value": worth[*task]}))
                .collect(),
        );
        repeats.sort_unstable();
        let tables = if config.oversample { vec![repeat_table(repeats)] } else { Vec::new() };
        Ok((drops, report, tables))
    }
}

/// Tasks that the report tells of.
const TOLD_TASKS: usize = 100;

/// The table of [`repeat_table`].
const REPEATS: &str = "repeats";

/// How often each kept row is to be taken.
fn repeat_table(repeats: Vec<(u64, u64)>) -> Table {
    let fields = vec![ArrowField::new(ROW_ID, DataType::UInt64, false), ArrowField::new("repeat", DataType::UInt64, false)];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let of = Arc::clone(&schema);
    let pieces = (0..repeats.len()).step_by(RUN).map(move |from| {
        let piece = &repeats[from..repeats.len().min(from + RUN)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(piece.iter().map(|(row, _)| *row))),
            Arc::new(UInt64Array::from_iter_values(piece.iter().map(|(_, repeat)| *repeat))),
        ];
        RecordBatch::try_new(Arc::clone(&of), columns).context(Kind::Internal, || "cannot build a table of repeats".into())
    });
    Table { name: REPEATS, rows: rows_of(schema, pieces) }
}
