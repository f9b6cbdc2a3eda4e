//! What a run would do, without doing it: scans with columns and bytes, barriers, and which artefacts are there already.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::context::RunContext;
use super::increment::Increment;
use super::runner::{Prepared, RunOptions, TakeOver, scan_keys, schemas};
use super::{barrier, feature, fitted};
use crate::dataset::snapshot::Shard;
use crate::engine::cluster::LocalCluster;
use crate::engine::{Engine, EngineOptions};
use crate::error::Result;
use crate::stages::seam::{Incremental, Shape, SharedEmbedder};
use crate::state::artefacts::Artefacts;
use crate::storage::local;
use crate::telemetry::{Telemetry, bytes, count};

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Shards of the snapshot.
    pub shards: u64,
    /// Shards that the state knows, which are left out, if there is a state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_shards: Option<u64>,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The phases, in order.
    pub phases: Vec<PhasePlan>,
    /// Compressed bytes of columns that the phases together expect to read; what is cached is not read.
    pub bytes_to_read: u64,
}

/// One phase.
#[derive(Debug, Clone, Serialize)]
pub struct PhasePlan {
    /// `scan`, `feature`, `barrier`, `lineage` or `write`.
    pub kind: &'static str,
    /// The stages that it carries out.
    pub stages: Vec<String>,
    /// What it reads.
    pub reads: String,
    /// How many tasks it has.
    pub tasks: u64,
    /// How many of them are done; `None`: not known before earlier phases have run.
    pub cached: Option<u64>,
    /// Compressed bytes of columns that it would read.
    pub bytes: u64,
    /// What its stage promises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Explains a run.
pub fn explain(prepared: &Prepared, options: &RunOptions, telemetry: &Telemetry) -> Result<Explanation> {
    let spill = local::TemporaryFolder::create()?;
    let engine = Arc::new(Engine::start(EngineOptions {
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        batch_rows: options.batch_rows,
        spill_folder: spill.path().to_owned(),
    })?);
    let increment = match &prepared.state {
        Some(folder) => Some(Increment::open(folder, &prepared.plan, false, TakeOver::Everything)?),
        None => None,
    };
    let (snapshot, known) = match &increment {
        Some(increment) => prepared.new_shards(increment, options.limit_rows)?,
        None => (prepared.snapshot(options.limit_rows)?, 0),
    };
    let snapshot = Arc::new(snapshot);
    let schemas = schemas(&prepared.plan, &snapshot)?;
    let embedders = prepared.embedders(options, telemetry)?;
    let models = embedders.iter().map(|(stage, embedder)| (*stage, embedder.identity().to_string())).collect();
    let increment =
        increment.map(|increment| increment.identified(&prepared.plan, &models, &snapshot, &schemas)).transpose()?.map(Arc::new);
    let mut context = RunContext {
        cluster: LocalCluster::new(Arc::clone(&engine)),
        engine,
        artefacts: Artefacts::existing(&prepared.work),
        plan: Arc::clone(&prepared.plan),
        scans: scan_keys(&prepared.plan, &snapshot, &schemas),
        snapshot,
        telemetry: telemetry.clone(),
        features: BTreeMap::new(),
        decisions: BTreeMap::new(),
        increment,
    };
    let mut phases = scan_phases(&context)?;
    let mut all_known = phases.iter().all(|phase| phase.cached == Some(phase.tasks));
    for stage in 0..context.plan.stages.len() {
        let phase = match context.plan.stages[stage].config.shape() {
            Shape::RowLocal => continue,
            Shape::Feature => feature_phase(&mut context, stage, embedders.get(&stage), all_known)?,
            Shape::Barrier => barrier_phase(&mut context, stage, all_known)?,
            Shape::Fitted => {
                let fit = fit_phase(&context, stage, all_known)?;
                all_known &= fit.cached == Some(fit.tasks);
                phases.push(fit);
                mapped_phase(&mut context, stage, all_known)?
            }
        };
        all_known &= phase.cached == Some(phase.tasks);
        phases.push(phase);
    }
    let shards = context.snapshot.shards.len() as u64;
    let all: u64 = context.snapshot.shards.iter().map(|shard| shard.bytes).sum();
    phases.push(PhasePlan {
        kind: "lineage",
        stages: Vec::new(),
        reads: "decisions and ids".into(),
        tasks: shards,
        cached: Some(0),
        bytes: 0,
        notes: Vec::new(),
    });
    phases.push(PhasePlan {
        kind: "write",
        stages: Vec::new(),
        reads: "all columns".into(),
        tasks: shards,
        cached: Some(0),
        bytes: all,
        notes: Vec::new(),
    });
    for phase in phases.iter_mut().filter(|phase| context.increment.is_some() && phase.kind == "barrier") {
        let of_phase = context.plan.stages.iter().find(|stage| phase.stages.first().is_some_and(|id| *id == stage.id.as_str()));
        let of_phase = of_phase.map(|stage| (stage.config.shape(), stage.config.incremental()));
        phase.notes.push(match of_phase {
            Some((Shape::Fitted, _)) => "fits once: increments to come go on with its map".into(),
            Some((_, Incremental::Compares)) => "compares with the rows that it kept in earlier increments too, which stay".into(),
            _ => "its budget and what it fits are of the new rows alone".into(),
        });
    }
    let cached = |phase: &PhasePlan| phase.cached == Some(phase.tasks) && phase.tasks > 0;
    let bytes_to_read = phases.iter().filter(|phase| !cached(phase)).map(|phase| phase.bytes).sum();
    Ok(Explanation {
        shards,
        known_shards: prepared.state.is_some().then_some(known),
        rows: context.snapshot.rows(),
        bytes: all,
        phases,
        bytes_to_read,
    })
}

fn scan_phases(cx: &RunContext) -> Result<Vec<PhasePlan>> {
    let mut phases = Vec::new();
    for (index, source) in cx.plan.sources.iter().enumerate() {
        let (mut tasks, mut cached, mut size, mut whole) = (0, 0, 0, 0);
        for shard in cx.snapshot.shards.iter().filter(|shard| shard.source == index) {
            tasks += 1;
            let (columns, all) = source.reads(shard);
            whole += u64::from(all);
            size += if all { shard.bytes } else { columns.into_iter().map(|column| column_bytes(shard, column)).sum() };
            cached += u64::from(cx.artefacts.receipt(&cx.scans[shard.id.ordinal()])?.is_some());
        }
        let stages = source.steps.iter().map(|stage| cx.plan.stages[*stage].id.to_string()).collect();
        let columns = if source.columns.is_empty() { "row counts".to_owned() } else { source.columns.join(", ") };
        let reads = match whole {
            0 => format!("{}: {columns}", source.id),
            all if all == tasks => format!("{}: all columns", source.id),
            some => format!("{}: {columns}; all columns of {some} of {tasks} shards", source.id),
        };
        phases.push(PhasePlan { kind: "scan", stages, reads, tasks, cached: Some(cached), bytes: size, notes: Vec::new() });
    }
    Ok(phases)
}

fn column_bytes(shard: &Shard, column: &str) -> u64 {
    shard.schema.index_of(column).ok().and_then(|index| shard.columns.get(index)).map_or(0, |column| column.compressed)
}

fn feature_phase(cx: &mut RunContext, stage: usize, embedder: Option<&SharedEmbedder>, known: bool) -> Result<PhasePlan> {
    let planned = &cx.plan.stages[stage];
    let mut size = 0;
    let mut tasks = 0;
    let mut reads = String::new();
    for shard in cx.snapshot.shards.iter().filter(|shard| planned.reached_by[shard.source]) {
        tasks += 1;
        let column = feature::column(cx, shard, stage)?;
        size += column_bytes(shard, &column);
        reads = format!("{column} of live rows");
    }
    let (id, planned_notes) = (planned.id.to_string(), planned.config.notes());
    let mut cached = None;
    if known {
        let keys = feature::tasks(cx, stage, &feature::model_hash(embedder))?;
        let mut done = 0;
        for key in keys.iter().flatten() {
            done += u64::from(cx.artefacts.receipt(key)?.is_some());
        }
        cached = Some(done);
        cx.features.insert(stage, keys);
    }
    Ok(PhasePlan { kind: "feature", stages: vec![id], reads, tasks, cached, bytes: size, notes: planned_notes })
}

fn fit_phase(cx: &RunContext, stage: usize, known: bool) -> Result<PhasePlan> {
    let planned = &cx.plan.stages[stage];
    let cached = if known { Some(u64::from(fitted::is_done(cx, stage)?)) } else { None };
    let (stages, reads) = (vec![planned.id.to_string()], "vectors, to fit a map".to_owned());
    Ok(PhasePlan { kind: "barrier", stages, reads, tasks: 1, cached, bytes: 0, notes: planned.config.notes() })
}

fn mapped_phase(cx: &mut RunContext, stage: usize, known: bool) -> Result<PhasePlan> {
    let planned = &cx.plan.stages[stage];
    let tasks = cx.snapshot.shards.iter().filter(|shard| planned.reached_by[shard.source]).count() as u64;
    let stages = vec![planned.id.to_string()];
    let mut phase =
        PhasePlan { kind: "feature", stages, reads: "vectors of live rows".into(), tasks, cached: None, bytes: 0, notes: Vec::new() };
    if known {
        let keys = fitted::tasks(cx, stage, &fitted::key(cx, stage)?)?;
        let mut done = 0;
        for key in keys.iter().flatten() {
            done += u64::from(cx.artefacts.receipt(key)?.is_some());
        }
        phase.cached = Some(done);
        cx.features.insert(stage, keys);
    }
    Ok(phase)
}

fn barrier_phase(cx: &mut RunContext, stage: usize, known: bool) -> Result<PhasePlan> {
    let planned = &cx.plan.stages[stage];
    let (mut reads, mut size) = ("narrow rows".to_owned(), 0);
    let named = planned.config.named();
    if !named.is_empty() {
        reads = format!("narrow rows, {} of candidates", named.join(" and "));
        let shards = cx.snapshot.shards.iter().filter(|shard| planned.reached_by[shard.source]);
        let of = |shard| named.iter().map(|name| column_bytes(shard, cx.plan.sources[shard.source].roles.column(name))).sum::<u64>();
        size = shards.map(of).sum();
    }
    let stages = vec![planned.id.to_string()];
    let mut phase = PhasePlan { kind: "barrier", stages, reads, tasks: 1, cached: None, bytes: size, notes: planned.config.notes() };
    if known {
        let done = barrier::done(cx, stage)?;
        phase.cached = Some(u64::from(done.is_some()));
        if let Some(done) = done {
            cx.decisions.insert(stage, done);
        }
    }
    Ok(phase)
}

impl Explanation {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = match self.known_shards {
            Some(known) => format!("{} of the shards are known to the state; new: ", count(known)),
            None => String::new(),
        };
        let _ = writeln!(text, "{} shards, {} rows, {}", count(self.shards), count(self.rows), bytes(self.bytes));
        if self.known_shards.is_some() && self.shards == 0 {
            text.push_str("nothing to do\n");
            return text;
        }
        for (index, phase) in self.phases.iter().enumerate() {
            let cached = match phase.cached {
                None => "not known yet".to_owned(),
                Some(cached) => format!("{} of {} cached", count(cached), count(phase.tasks)),
            };
            // Writing to a string cannot fail.
            let _ = write!(text, "{:>2}. {:<8} {:<44} {cached}", index + 1, phase.kind, phase.reads);
            let _ = if phase.bytes > 0 { write!(text, ", {}", bytes(phase.bytes)) } else { Ok(()) };
            let _ = if phase.stages.is_empty() { writeln!(text) } else { writeln!(text, "\n             {}", phase.stages.join(", ")) };
            for note in &phase.notes {
                let _ = writeln!(text, "             - {note}");
            }
        }
        let _ = writeln!(text, "about {} to read", bytes(self.bytes_to_read));
        text
    }
}
