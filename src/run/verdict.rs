//! What became of each row of a shard, read forward: kept, or dropped by which stage and why.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::context::RunContext;
use crate::dataset::snapshot::Shard;
use crate::embed::guard::Status;
use crate::error::{Error, Result};
use crate::ids::{RowId, ShardId};
use crate::stages::StageConfig;
use crate::stages::seam::Shape;
use crate::state::artefacts::{read_table, unreadable};
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Float64Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// Why a row is not in the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drop {
    pub(super) stage: usize,
    pub(super) reason: String,
    pub(super) kept: Option<RowId>,
    pub(super) score: Option<f64>,
    pub(super) detail: Option<String>,
}

/// Where a stage says why it dropped a row.
enum Why {
    /// In its table of drops.
    Table(Cursor),
    /// Nowhere: its configuration says all.
    Own,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// All drops of it, one a branch, in the order of the plan after the main one: the first that names a kept row, else the first. None:
    /// it is kept.
    pub(super) drops: Vec<Drop>,
    /// Why its vector cannot be compared, if a stage that makes vectors found so.
    pub(super) embedding_status: Option<Status>,
}

/// The verdicts on one shard, in row order.
pub(super) struct Verdicts {
    cx: Arc<RunContext>,
    kept: BooleanBuffer,
    /// For each stage that saw rows of this shard: the rows that it dropped, and where it says why.
    stages: Vec<(usize, BooleanBuffer, Why)>,
    /// Rows whose vectors cannot be compared.
    bad: BTreeMap<u64, Status>,
    row: usize,
}

impl Verdicts {
    pub(super) fn open(cx: &Arc<RunContext>, shard: &Shard) -> Result<Self> {
        let live = cx.live_at_end(shard)?;
        let kept = live.on(cx.plan.sink_input);
        let mut stages = Vec::new();
        let mut bad = BTreeMap::new();
        for (index, planned) in cx.plan.stages.iter().enumerate() {
            if planned.config.made_vectors().is_some() && planned.reached_by[shard.source] {
                bad.extend(cx.bad_vectors(shard, index)?);
            }
            let Some(dropped) = live.dropped_by(index).filter(|dropped| dropped.count_set_bits() > 0) else { continue };
            let why = match planned.config.shape() {
                Shape::Barrier => {
                    let file = cx.decisions.get(&index).and_then(|decided| decided.file(&cx.artefacts, shard));
                    Why::Table(Cursor::open(file.ok_or_else(|| Error::internal("a barrier dropped rows and left no table"))?)?)
                }
                Shape::Feature | Shape::Fitted | Shape::RowLocal => Why::Own,
            };
            stages.push((index, dropped, why));
        }
        Ok(Self { cx: Arc::clone(cx), kept, stages, bad, row: 0 })
    }

    /// The rows that the sink receives.
    pub(super) fn kept(&self) -> &BooleanBuffer {
        &self.kept
    }

    fn verdict(&mut self, row: usize) -> Result<Verdict> {
        let embedding_status = self.bad.get(&(row as u64)).copied();
        let mut drops: Vec<Drop> = Vec::new();
        for (stage, dropped, why) in &mut self.stages {
            if !dropped.value(row) {
                continue;
            }
            let drop = match why {
                Why::Table(cursor) => cursor.seek(row as u64, *stage)?,
                Why::Own => {
                    Drop { stage: *stage, reason: row_local_reason(&self.cx, *stage).into(), kept: None, score: None, detail: None }
                }
            };
            drops.push(drop);
        }
        if self.kept.value(row) {
            return Ok(Verdict { drops: Vec::new(), embedding_status });
        }
        if drops.is_empty() {
            return Err(Error::internal(format!("a row neither reaches the sink nor was dropped row=`{row}`")));
        }
        if let Some(main) = drops.iter().position(|drop| drop.kept.is_some()) {
            drops[..=main].rotate_right(1);
        }
        Ok(Verdict { drops, embedding_status })
    }
}

fn row_local_reason(cx: &RunContext, stage: usize) -> &'static str {
    let config = &cx.plan.stages[stage].config;
    match config {
        StageConfig::Sample(_) => "not_selected",
        _ if config.made_vectors().is_some() => "bad_vector",
        _ => "filtered",
    }
}

impl Iterator for Verdicts {
    type Item = Result<Verdict>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row;
        (row < self.kept.len()).then(|| {
            self.row += 1;
            self.verdict(row)
        })
    }
}

/// The verdicts on all rows of the corpus, in order, one shard after the other.
pub(super) struct Fates {
    cx: Arc<RunContext>,
    next_shard: usize,
    open: Option<(ShardId, u64, Verdicts)>,
}

impl Fates {
    /// From the first row of shard `from` on.
    pub(super) fn open(cx: Arc<RunContext>, from: usize) -> Self {
        Self { cx, next_shard: from, open: None }
    }

    fn read(&mut self) -> Result<Option<(RowId, Vec<Drop>)>> {
        loop {
            if let Some((shard, row, verdicts)) = &mut self.open
                && let Some(verdict) = verdicts.next()
            {
                let id = RowId::try_new(*shard, *row).ok_or_else(|| Error::internal("a row number above the limit"))?;
                *row += 1;
                return Ok(Some((id, verdict?.drops)));
            }
            let Some(shard) = self.cx.snapshot.shards.get(self.next_shard) else { return Ok(None) };
            self.cx.engine.stop().check()?;
            self.next_shard += 1;
            self.open = Some((shard.id, 0, Verdicts::open(&self.cx, shard)?));
        }
    }
}

impl Iterator for Fates {
    type Item = Result<(RowId, Vec<Drop>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A barrier's table of one shard's drops, read forward.
struct Cursor {
    path: std::path::PathBuf,
    table: ParquetRecordBatchReader,
    pending: VecDeque<(u64, Drop)>,
}

impl Cursor {
    fn open(path: std::path::PathBuf) -> Result<Self> {
        let table = read_table(&path, None, 4096)?;
        Ok(Self { path, table, pending: VecDeque::new() })
    }

    fn seek(&mut self, row: u64, stage: usize) -> Result<Drop> {
        loop {
            while let Some((at, drop)) = self.pending.pop_front() {
                if at == row {
                    return Ok(drop);
                }
            }
            let batch =
                self.table.next().ok_or_else(|| Error::state(format!("a table of drops ends early path=`{}`", self.path.display())))?;
            self.fill(&batch.map_err(|error| unreadable(&self.path, error))?, stage);
        }
    }

    fn fill(&mut self, batch: &RecordBatch, stage: usize) {
        let rows = batch.column(0).as_primitive::<UInt64Type>();
        let reasons = batch.column(1).as_string::<i32>();
        let kept = batch.column(2).as_primitive::<UInt64Type>();
        let scores = batch.column(3).as_primitive::<Float64Type>();
        let details = batch.column(4).as_string::<i32>();
        for index in 0..batch.num_rows() {
            let drop = Drop {
                stage,
                reason: reasons.value(index).to_owned(),
                kept: kept.is_valid(index).then(|| RowId::from_bits(kept.value(index))),
                score: scores.is_valid(index).then(|| scores.value(index)),
                detail: details.is_valid(index).then(|| details.value(index).to_owned()),
            };
            self.pending.push_back((rows.value(index), drop));
        }
    }
}
