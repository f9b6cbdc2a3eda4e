//! What the phases of one run share, and which rows are live where: computed shard by shard from artefacts, never held for all.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray as _, BooleanBufferBuilder, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{UInt8Type, UInt64Type};

use super::increment::Increment;
use super::scan::TABLE;
use super::{barrier, feature};
use crate::dataset::snapshot::{Shard, Snapshot};
use crate::embed::guard::Status;
use crate::engine::Engine;
use crate::engine::cluster::LocalCluster;
use crate::error::{Error, Result};
use crate::ids::TaskKey;
use crate::plan::compile::{Input, Plan};
use crate::stages::policy::OnBadVector;
use crate::stages::seam::{ROW, STATUS, Shape};
use crate::state::artefacts::{Artefacts, read_table, unreadable};
use crate::telemetry::Telemetry;

/// One run.
pub(super) struct RunContext {
    pub(super) engine: Arc<Engine>,
    pub(super) cluster: LocalCluster,
    pub(super) artefacts: Artefacts,
    pub(super) plan: Arc<Plan>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) telemetry: Telemetry,
    /// The first scan's artefact of each shard.
    pub(super) scans: Vec<TaskKey>,
    /// For each stage that makes vectors and is done, the artefact of each shard that reaches it.
    pub(super) features: BTreeMap<usize, Vec<Option<TaskKey>>>,
    /// For each barrier that is done, its artefact, and which shards it dropped rows of.
    pub(super) decisions: BTreeMap<usize, barrier::Decided>,
    /// The state that the run goes on from.
    pub(super) increment: Option<Arc<Increment>>,
}

/// The live rows of one shard: what reaches each stage and what each stage lets through.
pub(super) struct Live {
    reaches: Vec<Option<BooleanBuffer>>,
    through: Vec<Option<BooleanBuffer>>,
    rows: usize,
    source: usize,
}

impl Live {
    /// The rows that reach a stage.
    pub(super) fn reaching(&self, stage: usize) -> BooleanBuffer {
        self.reaches.get(stage).cloned().flatten().unwrap_or_else(|| BooleanBuffer::new_unset(self.rows))
    }

    /// The rows that a stage saw and dropped; `None` where none reach it.
    pub(super) fn dropped_by(&self, stage: usize) -> Option<BooleanBuffer> {
        let (reaches, through) = (self.reaches.get(stage)?.as_ref()?, self.through.get(stage)?.as_ref()?);
        Some(reaches & &!through)
    }

    /// The rows on an edge.
    pub(super) fn on(&self, input: Input) -> BooleanBuffer {
        match input {
            Input::Source(source) if source == self.source => BooleanBuffer::new_set(self.rows),
            Input::Source(_) => BooleanBuffer::new_unset(self.rows),
            Input::Stage(stage) => self.through.get(stage).cloned().flatten().unwrap_or_else(|| BooleanBuffer::new_unset(self.rows)),
        }
    }
}

impl RunContext {
    /// Shards of earlier increments: a barrier's row ids begin behind them.
    pub(super) fn known_shards(&self) -> usize {
        self.increment.as_ref().map_or(0, |increment| increment.known())
    }

    /// The live rows of `shard` at stage `upto` and before it; all stages before it must be done.
    pub(super) fn live(&self, shard: &Shard, upto: usize) -> Result<Live> {
        let rows = shard.rows_used as usize;
        let stages = self.plan.stages.len();
        let mut live = Live { reaches: vec![None; stages], through: vec![None; stages], rows, source: shard.source };
        let decided = self.scan_decisions(shard, upto)?;
        for stage in 0..stages.min(upto + 1) {
            let planned = &self.plan.stages[stage];
            if !planned.reached_by[shard.source] {
                continue;
            }
            let mut reaches = BooleanBuffer::new_unset(rows);
            for input in &planned.inputs {
                reaches = &reaches | &live.on(*input);
            }
            if stage < upto {
                let through = match planned.config.shape() {
                    Shape::RowLocal => {
                        let mask = decided.get(&stage).ok_or_else(|| Error::internal("a row-local stage was not scanned"))?;
                        &reaches & mask
                    }
                    Shape::Feature | Shape::Fitted => self.without_bad_vectors(shard, stage, &reaches)?,
                    Shape::Barrier => self.without_drops(shard, stage, &reaches)?,
                };
                live.through[stage] = Some(through);
            }
            live.reaches[stage] = Some(reaches);
        }
        Ok(live)
    }

    /// The live rows of `shard` behind all stages.
    pub(super) fn live_at_end(&self, shard: &Shard) -> Result<Live> {
        self.live(shard, self.plan.stages.len())
    }

    fn scan_decisions(&self, shard: &Shard, upto: usize) -> Result<BTreeMap<usize, BooleanBuffer>> {
        let steps = &self.plan.sources[shard.source].steps;
        let deciding: Vec<usize> =
            steps.iter().copied().filter(|stage| *stage < upto && self.plan.stages[*stage].config.shape() == Shape::RowLocal).collect();
        if deciding.is_empty() {
            return Ok(BTreeMap::new());
        }
        let columns: Vec<&str> = deciding.iter().map(|stage| self.plan.stages[*stage].id.as_str()).collect();
        let mut masks: Vec<BooleanBufferBuilder> = deciding.iter().map(|_| BooleanBufferBuilder::new(shard.rows_used as usize)).collect();
        let path = self.artefacts.file(&self.scans[shard.id.ordinal()], TABLE);
        for batch in read_table(&path, Some(&columns), self.engine.batch_rows().max(8192))? {
            let batch = batch.map_err(|error| unreadable(&path, error))?;
            for (mask, column) in masks.iter_mut().zip(&columns) {
                let column = batch.column_by_name(column).ok_or_else(|| Error::state("an artefact lacks a column"))?;
                mask.append_buffer(column.as_boolean().values());
            }
        }
        Ok(deciding.into_iter().zip(masks.into_iter().map(|mut mask| mask.finish())).collect())
    }

    fn without_drops(&self, shard: &Shard, stage: usize, reaches: &BooleanBuffer) -> Result<BooleanBuffer> {
        let mut mask = BooleanBufferBuilder::new(reaches.len());
        mask.append_buffer(reaches);
        self.for_each_drop_batch(shard, stage, Some(&[ROW]), |batch| {
            for row in batch.column(0).as_primitive::<UInt64Type>().values() {
                mask.set_bit(*row as usize, false);
            }
            Ok(())
        })?;
        Ok(mask.finish())
    }

    /// Gives a barrier's drops of one shard, in row order.
    pub(super) fn for_each_drop_batch(
        &self,
        shard: &Shard,
        stage: usize,
        columns: Option<&[&str]>,
        mut each: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let decided = self.decisions.get(&stage).ok_or_else(|| Error::internal("a barrier was not run"))?;
        let Some(path) = decided.file(&self.artefacts, shard) else { return Ok(()) };
        for batch in read_table(&path, columns, 8192)? {
            each(batch.map_err(|error| unreadable(&path, error))?)?;
        }
        Ok(())
    }

    fn without_bad_vectors(&self, shard: &Shard, stage: usize, reaches: &BooleanBuffer) -> Result<BooleanBuffer> {
        if self.plan.stages[stage].config.made_vectors() != Some(OnBadVector::Drop) {
            return Ok(reaches.clone());
        }
        let mut mask = BooleanBufferBuilder::new(reaches.len());
        mask.append_buffer(reaches);
        for row in self.bad_vectors(shard, stage)?.into_keys() {
            mask.set_bit(row as usize, false);
        }
        Ok(mask.finish())
    }

    /// The rows of one shard whose vectors cannot be compared, and what is wrong with them.
    pub(super) fn bad_vectors(&self, shard: &Shard, stage: usize) -> Result<BTreeMap<u64, Status>> {
        let mut bad = BTreeMap::new();
        let Some(path) = self.feature_file(shard, stage) else { return Ok(bad) };
        for batch in read_table(&path, Some(&[ROW, STATUS]), 8192)? {
            let batch = batch.map_err(|error| unreadable(&path, error))?;
            let rows = batch.column(0).as_primitive::<UInt64Type>().values();
            let codes = batch.column(1).as_primitive::<UInt8Type>().values();
            for (row, code) in rows.iter().zip(codes.iter()) {
                let status =
                    Status::from_code(*code).ok_or_else(|| Error::state(format!("an artefact holds an unknown status code=`{code}`")))?;
                if status != Status::Ok {
                    bad.insert(*row, status);
                }
            }
        }
        Ok(bad)
    }

    /// The artefact of a stage that makes vectors for one shard.
    pub(super) fn feature_key(&self, shard: &Shard, stage: usize) -> Option<TaskKey> {
        self.features.get(&stage)?.get(shard.id.ordinal()).copied()?
    }

    /// The table of a stage that makes vectors for one shard.
    pub(super) fn feature_file(&self, shard: &Shard, stage: usize) -> Option<std::path::PathBuf> {
        Some(self.artefacts.file(&self.feature_key(shard, stage)?, feature::TABLE))
    }
}
