//! One run from a checked pipeline to a published dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use super::context::RunContext;
use super::increment::Increment;
use super::prune::{DataFile, annotation_names};
use super::report::Summary;
use super::scan::ScanTask;
use super::task::{Descriptor, run_tasks};
use super::{barrier, feature, fitted, lineage, prune, tables};
use crate::config::model::{Source, Write};
use crate::dataset::schema::{NeededColumn, Wanted, common_type, reconcile};
use crate::dataset::snapshot::{self, Snapshot, SourceSpec};
use crate::embed::{Embedder, ModelFiles, runtime};
use crate::engine::cluster::LocalCluster;
use crate::engine::{Engine, EngineOptions, spawn};
use crate::error::{Error, Result};
use crate::ids::TaskKey;
use crate::plan::checked::Checked;
use crate::plan::compile::Plan;
use crate::plan::task;
use crate::stages::StageConfig;
use crate::stages::embed::{EmbedInput, ModelSource};
use crate::stages::seam::{ROW, Shape, SharedEmbedder};
use crate::state::artefacts::Artefacts;
use crate::state::commit::{Held, Publication, check_free};
use crate::state::lineage::file_name;
use crate::state::manifest::{self, Counts, InputShard, Manifest, OutputFile, PhaseRecord, RunRecord, StageCounts};
use crate::state::store::Dataset;
use crate::storage::local::{self, Selection};
use crate::storage::uri::{self, Root};
use crate::telemetry::{Stopwatch, Telemetry, memory, unix_seconds};

/// The folder for overflow in the work folder.
const SPILL: &str = "spill";

/// What the command line says of a run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Worker threads.
    pub threads: usize,
    /// The memory budget in bytes.
    pub memory_bytes: usize,
    /// Rows in a record batch; moves no bit of the result.
    pub batch_rows: usize,
    /// Only the first so many rows of the corpus.
    pub limit_rows: Option<u64>,
    /// Replace an existing dataset.
    pub overwrite: bool,
    /// Use nothing that earlier runs have computed.
    pub fresh: bool,
    /// What is taken over from the state.
    pub take_over: TakeOver,
    /// Decide, and write neither a dataset nor a version of the state.
    pub dry_run: bool,
    /// Where every path must lie.
    pub root: Option<Root>,
    /// The ONNX Runtime library.
    pub onnxruntime: Option<PathBuf>,
}

/// What a run takes over from its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// All: it goes on from what was kept.
    Everything,
    /// Nothing: it decides over all shards, those that the state knows too.
    Nothing,
}

/// A pipeline with its paths resolved.
#[derive(Debug)]
pub struct Prepared {
    /// The pipeline file as named in messages.
    pub file: PathBuf,
    pub(super) checked: Checked,
    pub(super) plan: Arc<Plan>,
    pub(super) sources: Vec<SourceSpec>,
    /// `{version}` in it becomes the state's.
    sink: PathBuf,
    pub(super) state: Option<PathBuf>,
    pub(super) work: PathBuf,
}

impl Prepared {
    /// Resolves what the pipeline names against its folder, inside `root` if there is one.
    pub fn new(file: &Path, checked: Checked, root: Option<&Root>) -> Result<Self> {
        let pipeline = &checked.pipeline;
        let plain = |written: &str| -> Result<PathBuf> {
            let location = uri::resolve_plain(&pipeline.folder, written)?;
            confine(root, location.base())
        };
        let sources = pipeline.sources.iter().map(|source| source_spec(&pipeline.folder, source, root)).collect::<Result<Vec<_>>>()?;
        let (sink, work) = (plain(&pipeline.sink.uri)?, plain(&pipeline.work_uri)?);
        let state = pipeline.state.as_deref().map(plain).transpose()?;
        let plan = Arc::new(Plan::compile(pipeline, &checked.graph));
        Ok(Self { file: file.to_owned(), plan, sources, sink, state, work, checked })
    }

    /// The compiled plan.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The folder of the dataset of this version of the state.
    #[must_use]
    pub(super) fn sink(&self, increment: Option<&Increment>) -> PathBuf {
        match (increment, self.sink.to_str()) {
            (Some(increment), Some(sink)) => PathBuf::from(sink.replace("{version}", &increment.version().to_string())),
            _ => self.sink.clone(),
        }
    }

    /// The folder of the dataset, `{version}` as it is written.
    #[must_use]
    pub fn written_sink(&self) -> &Path {
        &self.sink
    }

    /// The work folder.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The folder of the state, if there is one.
    #[must_use]
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Looks at the shards that are new to a state; and how many are known.
    pub(super) fn new_shards(&self, increment: &Increment, limit_rows: Option<u64>) -> Result<(Snapshot, u64)> {
        if limit_rows.is_some() {
            return Err(Error::usage("`--limit-rows` leaves shards half read, which a state cannot know")
                .hint("try without `state`, or with another state that is thrown away, on fewer shards"));
        }
        snapshot::take_new(&self.sources, increment)
    }

    /// Looks at the shards.
    pub fn snapshot(&self, limit_rows: Option<u64>) -> Result<Snapshot> {
        let mut snapshot = snapshot::take(&self.sources)?;
        if let Some(rows) = limit_rows {
            snapshot.limit_rows(rows);
        }
        Ok(snapshot)
    }

    /// Reads the models that the plan names and starts the one backend of this process; by stage.
    pub(super) fn embedders(&self, options: &RunOptions, telemetry: &Telemetry) -> Result<BTreeMap<usize, SharedEmbedder>> {
        let mut wanted = Vec::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            if let StageConfig::Embed(config) = &stage.config
                && let EmbedInput::Text(text) = &config.input
            {
                wanted.push((index, config, text));
            }
        }
        let files = wanted.iter().any(|(_, _, text)| matches!(text.model, ModelSource::Files { .. }));
        let mut embedders = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(embedders);
        }
        let backend = if files { runtime::Wanted::OnnxRuntime { library: options.onnxruntime.clone() } } else { runtime::Wanted::Tract };
        let backend = runtime::start(&backend)?;
        // A model may take a quarter of the budget; what is over goes to one session instead of several.
        let session_bytes = options.memory_bytes as u64 / 4;
        for (index, config, text) in wanted {
            let stage = &self.plan.stages[index].id;
            let source = self.model_source(&text.model, options.root.as_ref())?;
            let files = ModelFiles::load(&source, local::read_to_vec)?;
            let embedder = Embedder::open(backend, &files, text.options(config, options.threads, session_bytes))
                .map_err(|error| error.context(format!("stage `{stage}` cannot embed")))?;
            for note in embedder.notes() {
                telemetry.note(&format!("stage `{stage}`: {note}"));
            }
            embedders.insert(index, Arc::new(embedder));
        }
        Ok(embedders)
    }

    fn model_source(&self, model: &ModelSource, root: Option<&Root>) -> Result<crate::embed::ModelSource> {
        let ModelSource::Files { path, tokenizer, sha256, tokenizer_sha256 } = model else { return Ok(crate::embed::ModelSource::Builtin) };
        let place = |written: &str| -> Result<PathBuf> {
            let location = uri::resolve_plain(&self.checked.pipeline.folder, written)?;
            confine(root, location.base())
        };
        Ok(crate::embed::ModelSource::File {
            model: place(path)?,
            tokenizer: place(tokenizer)?,
            sha256: sha256.clone(),
            tokenizer_sha256: tokenizer_sha256.clone(),
        })
    }
}

fn confine(root: Option<&Root>, path: &Path) -> Result<PathBuf> {
    match root {
        Some(root) => root.confine(path),
        None => Ok(path.to_owned()),
    }
}

fn source_spec(folder: &Path, source: &Source, root: Option<&Root>) -> Result<SourceSpec> {
    let location = uri::resolve(folder, &source.uri)?;
    let place = confine(root, location.base())?;
    let (base, selection) = match location.pattern() {
        Some(pattern) => (place, Selection::Glob(pattern.to_owned())),
        None if local::is_dir(&place) => (place, Selection::Folder(".parquet".into())),
        None => {
            let name = place.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.ok_or_else(|| Error::usage(format!("a source without a name source=`{}`", source.id)))?;
            (place.parent().unwrap_or(Path::new("/")).to_owned(), Selection::File(name))
        }
    };
    Ok(SourceSpec { name: source.id.to_string(), uri: location.to_string(), base, selection, on_corrupt: source.on_corrupt })
}

/// What the first scan of each source reads, and in which types.
pub(super) fn schemas(plan: &Plan, snapshot: &Snapshot) -> Result<Vec<SchemaRef>> {
    for shard in &snapshot.shards {
        if shard.schema.field_with_name(ROW).is_ok() {
            return Err(Error::input(format!(
                "a shard has a column of a name that the program needs column=`{ROW}` path=`{}`",
                shard.path
            ))
            .hint("rename the column"));
        }
    }
    let own = plan
        .sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let mut needed: BTreeMap<String, Wanted> = BTreeMap::new();
            let mut need = |name: &str, wanted: Wanted| {
                let entry = needed.entry(source.roles.column(name).to_owned()).or_insert(wanted);
                if wanted == Wanted::Text {
                    *entry = Wanted::Text;
                }
            };
            if source.roles.text.is_some() {
                need("text", Wanted::Text);
            }
            if source.roles.id.is_some() {
                need("id", Wanted::Any);
            }
            for stage in plan.stages.iter().filter(|stage| stage.reached_by[index]) {
                let needs = stage.config.needs(&source.roles);
                for (role, declared) in [("text", &source.roles.text), ("id", &source.roles.id)] {
                    let shadowed = |name: &String| name == role && declared.as_deref().is_some_and(|column| column != role);
                    let in_shards = snapshot.shards.iter().any(|shard| shard.source == index && shard.schema.field_with_name(role).is_ok());
                    if needs.columns.iter().any(shadowed) && in_shards {
                        return Err(Error::input(format!(
                            "`{role}` is ambiguous: the role is another column than the one of that name stage=`{}` source=`{}`",
                            stage.id, source.id
                        ))
                        .hint(format!("rename the column `{role}`, or declare it as the role")));
                    }
                }
                for name in &needs.columns {
                    need(name, if needs.text.contains(name) { Wanted::Text } else { Wanted::Any });
                }
            }
            let needed: Vec<NeededColumn> = needed.into_iter().map(|(name, wanted)| NeededColumn { name, wanted }).collect();
            reconcile(snapshot, index, &needed)
        })
        .collect::<Result<Vec<_>>>()?;
    across_sources(plan, own)
}

/// Refuses added columns that shards have already, before any work is done.
fn check_added(plan: &Plan, snapshot: &Snapshot) -> Result<()> {
    let made: Vec<String> = plan.add.iter().map(|stage| plan.stages[*stage].id.to_string()).collect();
    let annotated: Vec<String> = if plan.sink.write == Write::Annotate { annotation_names() } else { Vec::new() };
    for shard in &snapshot.shards {
        for (names, mend) in [
            (&made, "give the stage another id"),
            (&annotated, "rename the column, or do not annotate a dataset that is annotated already"),
        ] {
            if let Some(name) = names.iter().find(|name| shard.schema.field_with_name(name).is_ok()) {
                return Err(
                    Error::input(format!("an added column is in the shards already column=`{name}` path=`{}`", shard.path)).hint(mend)
                );
            }
        }
    }
    Ok(())
}

/// Sources that one stage compares are read in one type, column by column. Where a source is widened for one stage, what other stages
/// compare it with is widened too: types only grow, so that this ends.
fn across_sources(plan: &Plan, mut schemas: Vec<SchemaRef>) -> Result<Vec<SchemaRef>> {
    loop {
        let wider = widened(plan, schemas.clone())?;
        if wider == schemas {
            return Ok(schemas);
        }
        schemas = wider;
    }
}

fn widened(plan: &Plan, mut schemas: Vec<SchemaRef>) -> Result<Vec<SchemaRef>> {
    for stage in &plan.stages {
        let reached: Vec<usize> = (0..plan.sources.len()).filter(|source| stage.reached_by[*source]).collect();
        let Some(first) = reached.first() else { continue };
        let needs = stage.config.needs(&plan.sources[*first].roles);
        for name in needs.columns.into_iter().filter(|name| !needs.apart.contains(name)) {
            let column = |source: usize| plan.sources[source].roles.column(&name).to_owned();
            let mut common: Option<(usize, DataType)> = None;
            for source in &reached {
                let Ok(field) = schemas[*source].field_with_name(&column(*source)) else { continue };
                common = Some(match common {
                    None => (*source, field.data_type().clone()),
                    Some((of, kind)) => match common_type(&kind, field.data_type()) {
                        Some(kind) => (of, kind),
                        None => {
                            return Err(Error::input(format!(
                                "sources hold a column in types that do not go together stage=`{}` column=`{name}` `{}`=`{kind}` `{}`=`{}`",
                                stage.id,
                                plan.sources[of].id,
                                plan.sources[*source].id,
                                field.data_type()
                            ))
                            .hint("write the shards with one type for that column"));
                        }
                    },
                });
            }
            let Some((_, kind)) = common else { continue };
            for source in &reached {
                let column = column(*source);
                let fields = schemas[*source].fields().iter().map(|field| {
                    if *field.name() == column { Arc::new(field.as_ref().clone().with_data_type(kind.clone())) } else { Arc::clone(field) }
                });
                schemas[*source] = Arc::new(Schema::new(fields.collect::<Fields>()));
            }
        }
    }
    Ok(schemas)
}

/// What a run came to.
#[derive(Debug)]
pub enum Ran {
    /// A dataset was published.
    Published(Box<Summary>),
    /// All shards were known to the state: nothing was done.
    NothingNew {
        /// The shards.
        known: u64,
        /// The newest version of the state.
        version: u64,
    },
}

impl Ran {
    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Published(summary) => summary.json(),
            Self::NothingNew { known, version } => json!({"known_shards": known, "nothing_new": true, "state_version": version}),
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Published(summary) => summary.text(),
            Self::NothingNew { known, version } => {
                format!("nothing new: the state knows all {known} shards (version {version}); no dataset was written\n")
            }
        }
    }
}

/// Runs a pipeline.
pub fn run(prepared: &Prepared, options: &RunOptions, telemetry: &Telemetry, stop_on: impl FnOnce(&Engine)) -> Result<Ran> {
    let started = (unix_seconds(), Stopwatch::start());
    // What would be refused at the end is refused before the work: folders that are one through links, an output that is there.
    if let Err(problems) = prepared.checked.follow_links(&prepared.file, options.root.as_ref()) {
        problems.into_result(&prepared.file.display().to_string())?;
    }
    let increment = match &prepared.state {
        Some(folder) => Some(Increment::open(folder, &prepared.plan, !options.dry_run, options.take_over)?),
        None => None,
    };
    let sink = prepared.sink(increment.as_ref());
    if let Some(increment) = &increment {
        increment.notes().iter().for_each(|note| telemetry.note(note));
    }
    // With a state, what is new is known only after the shards were listed: with nothing new, an output that is there is no conflict.
    let mut held = if increment.is_none() && !options.dry_run { Some(Held::take(&sink, options.overwrite)?) } else { None };
    local::create_dir_all(&prepared.work)?;
    // Held from here on: garbage is not collected beside a run.
    let artefacts = Artefacts::open(&prepared.work, options.fresh)?;
    let spill_folder = prepared.work.join(SPILL);
    local::create_dir_all(&spill_folder)?;
    let engine = Arc::new(Engine::start(EngineOptions {
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        batch_rows: options.batch_rows,
        spill_folder,
    })?);
    stop_on(&engine);
    let phase = telemetry.phase("snapshot", 1, 0);
    let (snapshot, known) = match &increment {
        Some(increment) => prepared.new_shards(increment, options.limit_rows)?,
        None => (prepared.snapshot(options.limit_rows)?, 0),
    };
    for aside in &snapshot.quarantined {
        telemetry.note(&format!("shard set aside source=`{}` path=`{}`: {}", aside.source, aside.path, aside.error));
    }
    if let Some(increment) = increment.as_ref().filter(|_| snapshot.shards.is_empty()) {
        phase.finish();
        return Ok(Ran::NothingNew { known, version: increment.version() - 1 });
    }
    if let Some(increment) = &increment {
        increment.check_sink(&sink)?;
        if !options.dry_run {
            held = Some(Held::take(&sink, options.overwrite)?);
        }
    }
    if options.dry_run
        && let Err(error) = check_free(&sink, options.overwrite)
    {
        telemetry.note(&format!("a run will be refused: {error}"));
    }
    if increment.is_some() {
        telemetry.note(&format!("shards known to the state: {known}; new: {}", snapshot.shards.len()));
    }
    let snapshot = Arc::new(snapshot);
    let schemas = schemas(&prepared.plan, &snapshot)?;
    check_added(&prepared.plan, &snapshot)?;
    phase.finish();
    let embedders = prepared.embedders(options, telemetry)?;
    let models = embedders.iter().map(|(stage, embedder)| (*stage, embedder.identity().to_string())).collect();
    let increment =
        increment.map(|increment| increment.identified(&prepared.plan, &models, &snapshot, &schemas)).transpose()?.map(Arc::new);
    let context = RunContext {
        engine: Arc::clone(&engine),
        cluster: LocalCluster::new(Arc::clone(&engine)),
        artefacts,
        plan: Arc::clone(&prepared.plan),
        scans: scan_keys(&prepared.plan, &snapshot, &schemas),
        snapshot,
        telemetry: telemetry.clone(),
        features: BTreeMap::new(),
        decisions: BTreeMap::new(),
        increment,
    };
    let summary = engine.block_on(carry_out(prepared, options, (sink, held), context, &schemas, &embedders, started))?;
    Ok(Ran::Published(Box::new(summary)))
}

/// The first scan's artefact of each shard.
pub(super) fn scan_keys(plan: &Plan, snapshot: &Snapshot, schemas: &[SchemaRef]) -> Vec<TaskKey> {
    snapshot.shards.iter().map(|shard| task::scan(plan, shard.source, &shard.hash, shard.rows_used, &schemas[shard.source])).collect()
}

async fn carry_out(
    prepared: &Prepared,
    options: &RunOptions,
    (sink, held): (PathBuf, Option<Held>),
    mut context: RunContext,
    schemas: &[SchemaRef],
    embedders: &BTreeMap<usize, SharedEmbedder>,
    (started_unix, clock): (u64, Stopwatch),
) -> Result<Summary> {
    let telemetry = context.telemetry.clone();
    let (mut tasks_cached, mut tasks_run) = scan(&context, schemas).await?;
    let mut reports: BTreeMap<usize, Map<String, Value>> = BTreeMap::new();
    let plan = Arc::clone(&context.plan);
    let mut cx = Arc::new(context);
    for (stage, planned) in plan.stages.iter().enumerate() {
        cx.engine.stop().check()?;
        match planned.config.shape() {
            Shape::RowLocal => continue,
            Shape::Feature | Shape::Fitted => {
                let made = match planned.config.shape() {
                    Shape::Fitted => fitted::run(&cx, stage).await?,
                    _ => feature::run(&cx, stage, embedders.get(&stage).cloned()).await?,
                };
                tasks_cached += made.cached;
                tasks_run += made.ran;
                reports.insert(stage, made.report);
                context = unshare(cx)?;
                context.features.insert(stage, made.keys);
            }
            Shape::Barrier => {
                let phase = telemetry.phase(&format!("{} {}", planned.config.kind(), planned.id), 1, 0);
                let (decided, cached) = barrier::run(&cx, stage).await?;
                phase.finish();
                *(if cached { &mut tasks_cached } else { &mut tasks_run }) += 1;
                reports.insert(stage, decided.report.clone());
                context = unshare(cx)?;
                context.decisions.insert(stage, decided);
            }
        }
        cx = Arc::new(context);
    }

    let models = embedders.iter().map(|(stage, embedder)| (*stage, embedder.identity().to_string())).collect();
    let mut canonical = cx.plan.canonical(&models, options.limit_rows);
    if let (Some(increment), Some(plan)) = (&cx.increment, canonical.as_object_mut()) {
        plan.insert("state".into(), increment.canonical());
    }
    let inputs: Vec<_> = cx
        .snapshot
        .shards
        .iter()
        .map(|shard| (cx.plan.sources[shard.source].id.to_string(), shard.path.clone(), shard.hash, shard.rows_used))
        .collect();
    let run_id = manifest::run_id(&canonical, &inputs);
    let Some(held) = held else {
        // The lineage is what counts what every stage dropped, and what checks that no row is lost.
        let folder = local::TemporaryFolder::create_in(&prepared.work.join(SPILL))?;
        local::create_dir_all(&folder.path().join("lineage"))?;
        let lineages = lineage::write(&cx, folder.path(), &run_id.to_string()).await?;
        let manifest = manifest_of(&cx, canonical, run_id.to_string(), &lineages, &[], &reports);
        let record = record(&cx, prepared, options, (started_unix, clock), &[], (tasks_cached, tasks_run));
        return Ok(Summary { sink, published: false, manifest, record });
    };
    let mut publication = Publication::begin(held, &run_id)?;
    let folder = publication.folder().to_owned();
    local::create_dir_all(&folder.join("lineage"))?;
    let phase = telemetry.phase("lineage", cx.snapshot.shards.len() as u64, 0);
    let run_name = run_id.to_string();
    let (lineage_cx, lineage_folder) = (Arc::clone(&cx), folder.clone());
    let lineage = spawn::task("the lineage", async move { lineage::write(&lineage_cx, &lineage_folder, &run_name).await });
    // The shards do not wait for the lineage, unless they are annotated with it.
    let (lineages, data) = if cx.plan.sink.write == Write::Annotate {
        let lineages = lineage.await?;
        phase.finish();
        (lineages, prune::write(&cx, &folder).await?)
    } else {
        let lineage = async {
            let lineages = lineage.await;
            phase.finish();
            lineages
        };
        let (lineages, data) = futures::join!(lineage, prune::write(&cx, &folder));
        (lineages?, data?)
    };

    let mut manifest = manifest_of(&cx, canonical, run_id.to_string(), &lineages, &data, &reports);
    manifest.files.extend(tables::write(&cx, &folder)?);
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    check_sums(&manifest, &data)?;
    let manifest_hash = manifest.write(&folder)?;
    let segments = match &cx.increment {
        Some(increment) => increment.write(&cx, &run_id).await?,
        None => Vec::new(),
    };
    let record = record(&cx, prepared, options, (started_unix, clock), &data, (tasks_cached, tasks_run));
    record.write(&folder)?;
    cx.engine.stop().check()?;
    if let Some(increment) = &cx.increment {
        publication.sync()?;
        let dataset = Dataset {
            folder: sink.clone(),
            manifest: manifest_hash.to_string(),
            overwrite: options.overwrite,
            rows: manifest.rows.input,
            kept: manifest.rows.kept,
        };
        let committed = increment.commit(&cx.snapshot, &run_id, dataset, segments);
        // What is left is carried out by the next run if not by this one. A failure may come after the version has got its name, or another
        // process have done the same work: the version counts, and so does its dataset.
        if committed.is_ok() || increment.is_made_by(&run_id) {
            publication.committed();
        }
        committed?;
    }
    publication.publish()?;
    cx.artefacts.write_used(&prepared.work)?;
    Ok(Summary { sink, published: true, manifest, record })
}

/// The circumstances of a run.
fn record(
    cx: &RunContext,
    prepared: &Prepared,
    options: &RunOptions,
    (started_unix, clock): (u64, Stopwatch),
    data: &[DataFile],
    (tasks_cached, tasks_run): (u64, u64),
) -> RunRecord {
    RunRecord {
        started_unix,
        seconds: clock.elapsed().as_secs_f64(),
        trommel: env!("CARGO_PKG_VERSION").into(),
        threads: options.threads,
        memory_bytes: options.memory_bytes as u64,
        peak_memory_bytes: memory::peak_bytes(),
        pipeline: prepared.file.display().to_string(),
        sources: prepared.sources.iter().map(|source| (source.name.clone(), source.base.display().to_string())).collect(),
        work: prepared.work.display().to_string(),
        phases: cx
            .telemetry
            .phases()
            .into_iter()
            .map(|phase| PhaseRecord { name: phase.name, seconds: phase.time.as_secs_f64(), bytes: phase.bytes })
            .collect(),
        bytes_copied: data.iter().map(|file| file.written.bytes_copied).sum(),
        bytes_written: data.iter().map(|file| file.written.bytes_copied + file.written.bytes_encoded).sum(),
        tasks_cached,
        tasks_run,
    }
}

/// The context alone again: tasks that shared it have ended.
fn unshare(context: Arc<RunContext>) -> Result<RunContext> {
    Arc::try_unwrap(context).map_err(|_| Error::internal("a task outlived its phase"))
}

async fn scan(context: &RunContext, schemas: &[SchemaRef]) -> Result<(u64, u64)> {
    let mut wanted: BTreeMap<TaskKey, Descriptor> = BTreeMap::new();
    let mut cached = 0;
    for (shard, key) in context.snapshot.shards.iter().zip(&context.scans) {
        if context.artefacts.receipt(key)?.is_some() {
            cached += 1;
        } else {
            wanted.insert(*key, Descriptor { ordinal: shard.id.ordinal(), key: *key, bytes: shard.bytes });
        }
    }
    // In the order of the corpus, for readers' sake; the result does not depend on it.
    let mut tasks: Vec<Descriptor> = wanted.into_values().collect();
    tasks.sort_by_key(|task| task.ordinal);
    let ran = tasks.len() as u64;
    let scans: Vec<ScanTask> = (0..context.plan.sources.len())
        .map(|source| ScanTask {
            plan: Arc::clone(&context.plan),
            source,
            schema: Arc::clone(&schemas[source]),
            batch_rows: context.engine.batch_rows(),
        })
        .collect();
    let phase = context.telemetry.phase("scan", ran, tasks.iter().map(|task| task.bytes).sum());
    let (snapshot, artefacts, stop) = (Arc::clone(&context.snapshot), context.artefacts.clone(), context.engine.stop().clone());
    run_tasks(context, "Scan", tasks, context.engine.threads(), &phase, move |descriptor| {
        let shard = &snapshot.shards[descriptor.ordinal];
        let folder = artefacts.begin(&descriptor.key)?;
        let receipt = scans[shard.source].run(shard, &folder, &stop)?;
        artefacts.commit(&descriptor.key, &receipt)
    })
    .await?;
    phase.finish();
    Ok((cached, ran))
}

fn manifest_of(
    cx: &RunContext,
    plan: Value,
    run_id: String,
    lineages: &[lineage::ShardLineage],
    data: &[DataFile],
    reports: &BTreeMap<usize, Map<String, Value>>,
) -> Manifest {
    let mut files: Vec<OutputFile> = data
        .iter()
        .map(|file| OutputFile {
            path: file.path.clone(),
            kind: file.kind.into(),
            bytes: file.written.bytes,
            blake3: file.written.hash.to_string(),
            rows: file.written.rows,
        })
        .collect();
    files.extend(lineages.iter().enumerate().map(|(ordinal, lineage)| OutputFile {
        path: file_name(ordinal),
        kind: "lineage".into(),
        bytes: lineage.file.bytes,
        blake3: lineage.file.hash.to_string(),
        rows: lineage.rows,
    }));
    let inputs = cx.snapshot.shards.iter().zip(lineages).map(|(shard, lineage)| InputShard {
        source: cx.plan.sources[shard.source].id.to_string(),
        shard: shard.path.clone(),
        bytes: shard.bytes,
        blake3: shard.hash.to_string(),
        rows: shard.rows_used,
        kept: lineage.kept,
        lineage: file_name(shard.id.ordinal()),
    });
    let mut dropped: BTreeMap<usize, BTreeMap<String, u64>> = BTreeMap::new();
    for lineage in lineages {
        for ((stage, reason), rows) in &lineage.dropped {
            *dropped.entry(*stage).or_default().entry(reason.clone()).or_insert(0) += rows;
        }
    }
    let stages = cx.plan.stages.iter().enumerate().map(|(index, stage)| StageCounts {
        stage: stage.id.to_string(),
        kind: stage.config.kind().into(),
        dropped: dropped.remove(&index).unwrap_or_default(),
        report: reports.get(&index).cloned().unwrap_or_default(),
    });
    let input: u64 = lineages.iter().map(|lineage| lineage.rows).sum();
    let kept: u64 = lineages.iter().map(|lineage| lineage.kept).sum();
    Manifest {
        quarantined: cx.snapshot.quarantined.clone(),
        version: manifest::VERSION,
        trommel: env!("CARGO_PKG_VERSION").into(),
        name: cx.plan.name.clone(),
        run_id,
        plan,
        inputs: inputs.collect(),
        files,
        rows: Counts { input, kept, dropped: input - kept, rejected: 0 },
        stages: stages.collect(),
    }
}

/// Sums of the lineage against what the files hold.
fn check_sums(manifest: &Manifest, data: &[DataFile]) -> Result<()> {
    let of = |kind: &str| data.iter().filter(|file| file.kind == kind).map(|file| file.written.rows).sum::<u64>();
    let write = manifest.plan.pointer("/sink/write").and_then(Value::as_str).and_then(Write::from_word).unwrap_or(Write::Data);
    let rows = &manifest.rows;
    let expected = match write {
        Write::Data => (rows.kept, 0),
        Write::Dropped => (0, rows.dropped),
        Write::Both => (rows.kept, rows.dropped),
        Write::Annotate => (rows.input, 0),
    };
    if (of("data"), of("dropped")) != expected {
        let found = json!({"data": of("data"), "dropped": of("dropped"), "expected": [expected.0, expected.1]});
        return Err(Error::internal(format!("files and lineage hold different rows {found}")));
    }
    Ok(())
}
