//! Keeps the first rows of a ranking, within the engine's memory: the rows are sorted, with spill, and walked once.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field as ArrowField, Float64Type, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use super::columns::{Drop, drop_batch, numbers};
use super::quota::{Quota, Tally};
use super::seam::{Narrow, Outcome, ROW_ID, drop_fields};
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, chain, map, next, rows_of};
use crate::error::{Context as _, Error, Kind, Result};
use crate::select::Meter;

/// The narrow column of scores: f64, null where the row has none.
pub(super) const SCORE: &str = "score";
/// The group of a row, by number.
const NUMBER: &str = "group_number";
/// What the row takes of its group's budget.
const TAKES: &str = "takes";

/// Which scores pass; bounds are included, and a row without a score passes only where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Bounds {
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

impl Bounds {
    fn pass(&self, score: Option<f64>) -> bool {
        match score {
            Some(score) => self.min.is_none_or(|min| score >= min) && self.max.is_none_or(|max| score <= max),
            None => self.min.is_none() && self.max.is_none(),
        }
    }
}

/// A selection by rank.
pub(super) struct Ranking {
    /// What ranks the rows, the first rank first; ties go to the row that comes first in the corpus.
    pub(super) order: SortKey,
    /// Rows whose score does not pass are dropped before ranks are given, and no part of the budget's sums.
    pub(super) bounds: Bounds,
    /// How much is kept of what passes; `None` keeps all.
    pub(super) quota: Option<Quota>,
    /// Least scores whose rows are counted.
    pub(super) counted: Vec<f64>,
}

/// What is known of the rows while they go by.
struct State {
    ranking: Ranking,
    tally: Option<Tally>,
    meters: Option<Vec<Meter>>,
    /// Rows at or above each counted score, and rows without a score.
    counts: Vec<u64>,
    missing: u64,
}

/// The score of each row; `None` where the stage makes none.
fn scores(batch: &RecordBatch) -> Option<Vec<Option<f64>>> {
    Some(batch.column_by_name(SCORE)?.as_primitive_opt::<Float64Type>()?.iter().collect())
}

impl State {
    /// Counts a batch; gives its rows with the number of their group and what they take of its budget.
    fn count(&mut self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut read = match &mut self.tally {
            Some(tally) => tally.read(batch)?,
            None => vec![(0, 0); batch.num_rows()],
        };
        if let Some(scores) = scores(batch) {
            for (score, (group, size)) in scores.iter().zip(&mut read) {
                self.missing += u64::from(score.is_none());
                for (least, count) in self.ranking.counted.iter().zip(&mut self.counts) {
                    *count += u64::from(score.is_some_and(|score| score >= *least));
                }
                if !self.ranking.bounds.pass(*score) {
                    (*group, *size) = (u64::MAX, 0);
                }
            }
        }
        if let Some(tally) = &mut self.tally {
            read.iter().filter(|(group, _)| *group != u64::MAX).for_each(|(group, size)| tally.count(*group, *size));
        }
        let column = |name: &str| -> Result<ArrayRef> {
            if name == NUMBER {
                return Ok(Arc::new(UInt64Array::from_iter_values(read.iter().map(|(group, _)| *group))));
            }
            if name == TAKES {
                return Ok(Arc::new(UInt64Array::from_iter_values(read.iter().map(|(_, size)| *size))));
            }
            batch.column_by_name(name).cloned().ok_or_else(|| Error::internal(format!("no such narrow column column=`{name}`")))
        };
        let columns = schema.fields().iter().map(|field| column(field.name())).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(Arc::clone(schema), columns).context(Kind::Internal, || "cannot group rows".into())
    }

    /// Offers ranked rows to their budgets; gives the drops.
    fn offer(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let (ids, groups, takes) = (numbers(batch, ROW_ID)?, numbers(batch, NUMBER)?, numbers(batch, TAKES)?);
        let scores = scores(batch);
        let mut drops = Vec::new();
        for (row, id) in ids.values().iter().enumerate() {
            let score = scores.as_ref().and_then(|scores| scores.get(row).copied().flatten());
            let drop = |reason, detail| Drop { row: *id, reason, kept: None, score, detail };
            if groups.value(row) == u64::MAX {
                drops.push(drop("filtered", super::columns::Detail::None));
                continue;
            }
            let (Some(tally), Some(quota)) = (&self.tally, &self.ranking.quota) else { continue };
            // The first ranked row comes after the last one was counted.
            let meter = self
                .meters
                .get_or_insert_with(|| tally.budgets().into_iter().map(Meter::new).collect())
                .get_mut(groups.value(row) as usize);
            let meter = meter.ok_or_else(|| Error::internal("a group that was not counted"))?;
            if !meter.offer(takes.value(row)) {
                drops.push(drop("not_selected", quota.detail(meter.budget(), meter.rank(), None)));
            }
        }
        drop_batch(&drops)
    }

    fn report(&self) -> Map<String, Value> {
        let mut report = Map::new();
        if let Some(tally) = &self.tally {
            let used = self.meters.iter().flatten().map(Meter::used).sum();
            tally.report(&tally.budgets(), used, &mut report);
        }
        if !self.ranking.counted.is_empty() {
            let counted = self.ranking.counted.iter().zip(&self.counts).map(|(min, rows)| json!({"min": min, "rows": rows}));
            report.insert("by_min".into(), counted.collect());
        }
        report
    }
}

/// Selects among the rows of `input`.
pub(super) async fn select(engine: &Arc<Engine>, input: Narrow, ranking: Ranking) -> Result<Outcome> {
    let has_scores = input.stream.schema().index_of(SCORE).is_ok();
    let ranks: Vec<ArrowField> =
        input.stream.schema().fields().iter().filter(|field| field.name() == ranking.order.column()).map(|f| f.as_ref().clone()).collect();
    let fields = [ArrowField::new(ROW_ID, DataType::UInt64, false)]
        .into_iter()
        .chain(ranks)
        .chain([ArrowField::new(NUMBER, DataType::UInt64, false), ArrowField::new(TAKES, DataType::UInt64, false)]);
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let tally = ranking.quota.as_ref().map(|quota| Tally::try_new(engine, quota, &input.sources)).transpose()?;
    let order = [ranking.order.clone(), SortKey::ascending(ROW_ID)];
    let counts = vec![0; ranking.counted.len()];
    let state = Arc::new(Mutex::new(State { ranking, tally, meters: None, counts, missing: 0 }));
    let lock = |state: &Mutex<State>, step: &mut dyn FnMut(&mut State) -> Result<RecordBatch>| {
        step(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let (counting, of) = (Arc::clone(&state), Arc::clone(&schema));
    let counted = map(input.stream, schema, move |batch| lock(&counting, &mut |state| state.count(&batch, &of)));
    // A sort gives its first row when it has read its last one: all groups are counted before any row is offered.
    let sorted = sort(engine, counted, &order)?;
    let offering = Arc::clone(&state);
    let drops = map(sorted, drop_fields(), move |batch| lock(&offering, &mut |state| state.offer(&batch)));
    let mut drops = sort(engine, drops, &[SortKey::ascending(ROW_ID)])?;
    // So does this one: with its first batch, all rows are decided and the report is complete.
    let first = next(&mut drops).await.transpose()?;
    let drops = chain(rows_of(drop_fields(), first.into_iter().map(Ok)), drops);
    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut report = state.report();
    if has_scores {
        report.insert("without_score".into(), json!(state.missing));
    }
    Ok(Outcome { drops, report, tables: Vec::new(), frozen: None })
}
