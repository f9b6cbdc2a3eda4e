//! Tree to pipeline: the table of the whole file, and the typed model that is read with it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::load;
use crate::dataset::quarantine::OnCorrupt;
use crate::declare::reader::{Refusal, check, check_id, element_path, parse_compression};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Node, Presence, Shape, set};
use crate::diagnostic::{Diagnostics, Position};
use crate::ids::StageId;
use crate::stages::embed::{EmbedInput, ModelSource};
use crate::stages::seam::Incremental;
use crate::stages::{EmbedConfig, KINDS, StageConfig};
use crate::words;

/// The version of the pipeline file that this program writes and reads.
pub const VERSION: i64 = 1;

/// A pipeline as declared: every default filled in, nothing resolved against a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// The version of the file's format.
    pub version: u32,
    /// The pipeline's name; an id.
    pub name: String,
    /// The folder of the pipeline file, absolute: what relative paths are relative to.
    pub folder: PathBuf,
    /// The sources, in the order of the file; at least one.
    pub sources: Vec<Source>,
    /// The stages, in the order of the file; at least one.
    pub stages: Vec<StageEntry>,
    /// Where the dataset goes.
    pub sink: Sink,
    /// The state's folder as written; present: the run is incremental.
    pub state: Option<String>,
    /// The work folder as written; default `.trommel/NAME/`.
    pub work_uri: String,
}

/// A named set of shards.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its id.
    pub id: StageId,
    /// Where it stands in the file.
    pub position: Option<Position>,
    /// A file, a folder or a glob, as written.
    pub uri: String,
    /// The column that has the role `text`.
    pub text: Option<String>,
    /// The column that has the role `id`.
    pub id_column: Option<String>,
    /// What becomes of damaged shards.
    pub on_corrupt: OnCorrupt,
}

/// One stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageEntry {
    /// Its id.
    pub id: StageId,
    /// Where it stands in the file.
    pub position: Option<Position>,
    /// The stages and sources whose rows it takes, by id, in the order written; at least one, defaults filled in.
    pub inputs: Vec<StageId>,
    /// Its kind and that kind's keys.
    pub config: StageConfig,
}

words! {
    /// Which rows the sink writes.
    pub enum Write {
        /// The kept rows.
        Data = "data",
        /// The dropped rows, for review.
        Dropped = "dropped",
        /// The kept rows, and the dropped rows beside them.
        Both = "both",
        /// All rows, with the decision in added `trommel_*` columns.
        Annotate = "annotate",
    }
}

/// How rows are laid out in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One output shard an input shard, under the same relative path.
    Mirror,
    /// Shards of about equal size, in row order.
    Packed {
        /// The size of a shard in bytes of Parquet, about.
        target_bytes: u64,
    },
}

/// Where the dataset goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// The folder, as written; `{version}` in it becomes the state version.
    pub uri: String,
    /// How rows are laid out in files; default mirror.
    pub layout: Layout,
    /// Which rows are written; default the kept ones.
    pub write: Write,
    /// The zstd level, 1 to 22; default 3.
    pub zstd_level: i32,
    /// Rows of a row group at most; by default those of the input.
    pub row_group_rows: Option<u64>,
    /// The stages whose made columns are added to the output.
    pub add: Vec<StageId>,
    /// The stage whose rows it takes; default the last.
    pub input: StageId,
}

const PARQUET_SOURCE: &[Field] = &[
    required(
        "uri",
        Shape::Path,
        "A Parquet file, a folder of such files, or a glob such as `data/**/*.parquet`; relative to the pipeline file.",
    ),
    optional("text", Shape::Text, "The column that stages mean by `text`."),
    optional("id", Shape::Text, "The column that names a row in lineage; it need not be unique."),
    defaulted(
        "on_corrupt",
        Shape::Choice(OnCorrupt::WORDS),
        Presence::Text("fail"),
        "What becomes of a damaged shard: `fail` the run, or `quarantine` it: each new shard is then read whole once before the run rests on it.",
    ),
];

const SOURCE: Shape = Shape::Kinds {
    noun: "source kind",
    common: &[],
    kinds: &[optional("parquet", Shape::Map(PARQUET_SOURCE), "Shards of Parquet.")],
    transparent: false,
};

const PACKED: &[Field] = &[required("packed", Shape::Map(PACKED_TARGET), "Shards of about equal size, in row order.")];
const PACKED_TARGET: &[Field] =
    &[defaulted("target", Shape::Bytes, Presence::Text("256MiB"), "The size of a shard in bytes of Parquet, about.")];

const PARQUET_SINK: &[Field] = &[
    required("uri", Shape::Path, "The folder that the run creates; relative to the pipeline file."),
    defaulted(
        "layout",
        Shape::Any(&[Shape::Choice(&["mirror", "packed"]), Shape::Map(PACKED)]),
        Presence::Text("mirror"),
        "`mirror`: one output shard an input shard, under the same relative path. `packed`: shards of about equal size, `{packed: {target: 256MiB}}`.",
    ),
    defaulted(
        "write",
        Shape::Choice(Write::WORDS),
        Presence::Text("data"),
        "`data`: the kept rows. `dropped`: the dropped rows, for review. `both`. `annotate`: all rows, with the decision in added `trommel_*` columns.",
    ),
    defaulted(
        "compression",
        Shape::Compression,
        Presence::Text("zstd(3)"),
        "The codec of the pages that are written: `zstd(LEVEL)`, 1 to 22.",
    ),
    optional("row_group_rows", Shape::Int { min: 1, max: 1 << 24 }, "Rows of a row group at most; by default those of the input."),
    defaulted("add", Shape::List(&Shape::Id), Presence::EmptyList, "Ids of stages whose made columns (vectors) are added to the output."),
];

const SINK: Shape = Shape::Kinds {
    noun: "sink kind",
    common: &[optional("input", Shape::Id, "The stage whose rows are written. Default: the last stage.")],
    kinds: &[optional("parquet", Shape::Map(PARQUET_SINK), "A dataset of Parquet shards, lineage and manifest.")],
    transparent: false,
};

const STAGE: Shape = Shape::Kinds {
    noun: "stage kind",
    common: &[
        required("id", Shape::Id, "The stage's id: a letter, then letters, digits and `_`. Lineage and paths name it so."),
        optional(
            "input",
            Shape::OneOrMany(&Shape::Id),
            "The stage or source whose rows it takes, or a list of such (their union). Default: the stage before, or the only source.",
        ),
    ],
    kinds: KINDS,
    transparent: true,
};

const FOLDER: &[Field] = &[required("uri", Shape::Path, "The folder; relative to the pipeline file.")];

/// The table of the pipeline file.
pub const ROOT: &[Field] = &[
    required("version", Shape::Int { min: 1, max: i64::MAX }, "The version of the file's format: 1."),
    required("name", Shape::Id, "The pipeline's name: a letter, then letters, digits and `_`."),
    required("sources", Shape::Named(&SOURCE), "The sources by id; rows are ordered by source as written, then shard path, then row."),
    required(
        "stages",
        Shape::Identified(&STAGE),
        "The stages: a list of maps with `id`, `input` where it is needed, and exactly one stage kind.",
    ),
    required("sink", SINK, "Where the dataset goes."),
    optional("state", Shape::Map(FOLDER), "The folder of the persistent state; present: the run is incremental."),
    optional(
        "work",
        Shape::Map(FOLDER),
        "The folder of artefacts, journal and spill; deleting it changes time, never a result. Default: `.trommel/NAME/`.",
    ),
];

/// The shape of the pipeline file.
pub const FILE: Shape = Shape::Map(ROOT);

/// What the graph's checks need of a file, faulty or not.
#[derive(Debug, Clone, Default)]
pub struct Outline {
    /// The sources.
    pub sources: Vec<Reference>,
    /// The stages.
    pub stages: Vec<StageOutline>,
    /// The sink's `input` and `add`, if there is a sink.
    pub sink: Option<SinkOutline>,
    /// All paths that the file names, with the default of the work folder.
    pub paths: Vec<DeclaredPath>,
}

/// What a path of the pipeline file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Shards that are read: the source with this id.
    Source(String),
    /// The dataset.
    Sink,
    /// The persistent state.
    State,
    /// Artefacts, journal and spill.
    Work,
    /// A model or its tokenizer.
    Model,
}

/// A path that the file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPath {
    /// What it is for.
    pub role: Role,
    /// How diagnostics and `--set` name it.
    pub path: String,
    /// As written.
    pub uri: String,
    /// Where it stands; `None` for a default.
    pub position: Option<Position>,
}

/// An id and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The id.
    pub id: String,
    /// Where it stands.
    pub position: Option<Position>,
}

/// A stage, as far as it can be read.
#[derive(Debug, Clone)]
pub struct StageOutline {
    /// Its id, if it has a valid one.
    pub id: Option<Reference>,
    /// How diagnostics name it.
    pub path: String,
    /// Where it stands.
    pub position: Option<Position>,
    /// The inputs that it names; `None` where it names none.
    pub inputs: Option<Vec<Reference>>,
    /// Its kind and keys; `None` where the kind cannot be read.
    pub config: Option<StageConfig>,
    /// Where its key `embedding` stands.
    pub embedding_position: Option<Position>,
}

/// The sink, as far as the graph needs it.
#[derive(Debug, Clone, Default)]
pub struct SinkOutline {
    /// Where it stands.
    pub position: Option<Position>,
    /// The input that it names.
    pub input: Option<Reference>,
    /// The stages whose columns it adds.
    pub add: Vec<Reference>,
}

/// A file as read: its outline and all problems of structure; the pipeline itself only where there is none.
#[derive(Debug, Clone)]
pub struct Draft {
    /// For the checks of the graph.
    pub outline: Outline,
    /// The pipeline; only to be used where no problem is found at all.
    pub pipeline: Option<Pipeline>,
}

/// Reads a pipeline file: `text` is its bytes (checked to be UTF-8), `file` its path, `sets` the pairs of `--set`. No I/O; relative
/// paths of `file` are taken from the working directory.
pub fn read(text: impl AsRef<[u8]>, file: &Path, sets: &[(String, String)], out: &mut Diagnostics) -> Draft {
    let nothing = Draft { outline: Outline::default(), pipeline: None };
    let mut root = match load::decode(text.as_ref()).and_then(load::parse) {
        Ok(root) => root,
        Err(problems) => {
            problems.sorted().into_iter().cloned().for_each(|problem| out.push(problem));
            return nothing;
        }
    };
    for (path, value) in sets {
        if let Err((message, hint)) = apply(&mut root, path, value) {
            out.add(&format!("--set {path}"), None, message, hint);
        }
    }
    let before = out.len();
    check(&root, &FILE, "", out);
    let outline = outline(&root, out);
    let fields = Fields::new(&root, ROOT, "");
    match fields.int("version") {
        Some(version) if version != VERSION => fields.problem(
            out,
            "version",
            format!("version {version} of the pipeline file is not known"),
            Some(format!("this program reads version {VERSION}: write `version: {VERSION}`, or use a later release")),
        ),
        _ => {}
    }
    if fields.node("sources").and_then(Node::entries).is_some_and(<[_]>::is_empty) {
        fields.problem(
            out,
            "sources",
            "there is no source",
            Some("name one, such as `corpus: {parquet: {uri: \"data/*.parquet\"}}`".into()),
        );
    }
    if fields.is_empty_list("stages") {
        fields.problem(
            out,
            "stages",
            "there is no stage",
            Some("give at least one, such as `- {id: exact, exact_dedup: {columns: [text]}}`".into()),
        );
    }
    if let Some(sink) = outline.paths.iter().find(|declared| declared.role == Role::Sink && declared.uri.contains("{version}"))
        && !fields.has("state")
    {
        let hint = "give `state: {uri: ...}`, or take `{version}` out of the path";
        out.add(&sink.path, sink.position, "`{version}` is the version of the state, and there is no state", Some(hint.into()));
    }
    for declared in outline.paths.iter().filter(|declared| matches!(declared.role, Role::Sink | Role::State)) {
        let rest = if declared.role == Role::Sink { declared.uri.replace("{version}", "") } else { declared.uri.clone() };
        if rest.contains(['{', '}']) {
            let known = if declared.role == Role::Sink { "known here: `{version}`" } else { "a state's folder is the same for all runs" };
            out.add(
                &declared.path,
                declared.position,
                format!("what stands in braces is not known: `{}`", declared.uri),
                Some(known.into()),
            );
        }
    }
    let pipeline = if out.len() == before { pipeline(&fields, &outline, file) } else { None };
    for stage in pipeline.iter().filter(|pipeline| pipeline.state.is_some()).flat_map(|pipeline| &pipeline.stages) {
        if let Incremental::Refused(reason) = stage.config.incremental() {
            let hint = "change or remove the stage, or remove `state`: each run then reads all shards";
            out.add(
                &format!("stages.{}", stage.id),
                stage.position,
                format!("the stage cannot go on from a state: {reason}"),
                Some(hint.into()),
            );
        }
    }
    Draft { outline, pipeline }
}

fn apply(root: &mut Node, path: &str, value: &str) -> Result<(), Refusal> {
    // What is made on the way to a place that turns out not to be there must not stay.
    let mut changed = root.clone();
    let (place, shape) = set::place(&mut changed, &FILE, path)?;
    *place = load::set_value(value, shape)?;
    *root = changed;
    Ok(())
}

fn references(fields: &Fields<'_>, key: &str) -> Vec<Reference> {
    let Some(node) = fields.node(key) else { return Vec::new() };
    let one = std::slice::from_ref(node);
    node.elements()
        .unwrap_or(one)
        .iter()
        .filter_map(|element| {
            element.text().filter(|id| check_id(id).is_ok()).map(|id| Reference { id: id.to_owned(), position: element.position })
        })
        .collect()
}

fn outline(root: &Node, out: &mut Diagnostics) -> Outline {
    let named = root.get("sources").and_then(Node::entries).unwrap_or_default();
    let sources = named
        .iter()
        .enumerate()
        // A repeated id is reported by the table; the first one counts.
        .filter(|(index, (key, _))| check_id(&key.name).is_ok() && named.iter().take(*index).all(|(earlier, _)| earlier.name != key.name))
        .map(|(_, entry)| entry)
        .map(|(key, _)| Reference { id: key.name.clone(), position: key.position })
        .collect();
    let stages = root.get("stages").and_then(Node::elements).unwrap_or_default();
    let stages: Vec<StageOutline> =
        stages.iter().enumerate().filter(|(_, node)| node.entries().is_some()).map(|(index, node)| stage(index, node, out)).collect();
    let sink = root.get("sink").filter(|node| node.entries().is_some()).map(|node| {
        let fields = Fields::new(node, &[], "sink");
        let parquet = node.get("parquet").map(|node| Fields::new(node, PARQUET_SINK, "sink.parquet"));
        SinkOutline {
            position: node.position,
            input: references(&fields, "input").into_iter().next(),
            add: parquet.map(|fields| references(&fields, "add")).unwrap_or_default(),
        }
    });
    let paths = paths(root, &stages);
    Outline { sources, stages, sink, paths }
}

fn paths(root: &Node, stages: &[StageOutline]) -> Vec<DeclaredPath> {
    let mut paths = Vec::new();
    let mut add = |role: Role, path: &str, fields: Option<Fields<'_>>| {
        if let Some(fields) = fields
            && let Some(uri) = fields.text("uri")
        {
            paths.push(DeclaredPath { role, path: path.to_owned(), uri, position: fields.position("uri") });
        }
    };
    for (key, node) in root.get("sources").and_then(Node::entries).unwrap_or_default() {
        let parquet = node.get("parquet").map(|node| Fields::new(node, PARQUET_SOURCE, ""));
        add(Role::Source(key.name.clone()), &format!("sources.{}.parquet.uri", key.name), parquet);
    }
    let sink = root.get("sink").and_then(|sink| sink.get("parquet")).map(|node| Fields::new(node, PARQUET_SINK, ""));
    add(Role::Sink, "sink.parquet.uri", sink);
    add(Role::State, "state.uri", root.get("state").map(|node| Fields::new(node, FOLDER, "")));
    add(Role::Work, "work.uri", root.get("work").map(|node| Fields::new(node, FOLDER, "")));
    if let Some(name) = Fields::new(root, ROOT, "").text("name")
        && root.get("work").is_none()
    {
        paths.push(DeclaredPath { role: Role::Work, path: "work.uri".into(), uri: default_work(&name), position: None });
    }
    for stage in stages {
        if let Some(StageConfig::Embed(EmbedConfig { input: EmbedInput::Text(text), .. })) = &stage.config
            && let ModelSource::Files { path, tokenizer, .. } = &text.model
        {
            for uri in [path, tokenizer] {
                paths.push(DeclaredPath {
                    role: Role::Model,
                    path: format!("{}.model", stage.path),
                    uri: uri.clone(),
                    position: stage.position,
                });
            }
        }
    }
    paths
}

/// The work folder of a pipeline that names none, relative to the pipeline file.
fn default_work(name: &str) -> String {
    format!(".trommel/{name}/")
}

fn stage(index: usize, node: &Node, out: &mut Diagnostics) -> StageOutline {
    let path = element_path("stages", index, node);
    let fields = Fields::new(node, &[], path.clone());
    let id = references(&fields, "id").into_iter().next();
    let inputs = fields.has("input").then(|| references(&fields, "input"));
    if fields.is_empty_list("input") {
        fields.problem(out, "input", "the list of inputs is empty", Some("name a stage or a source, or remove `input`".into()));
    }
    let ids: Vec<String> = inputs.iter().flatten().map(|reference| reference.id.clone()).collect();
    fields.refuse_repeats(out, "input", &ids);
    let mut given = KINDS.iter().filter_map(|kind| {
        let Shape::Map(table) = kind.shape else { return None };
        node.get(kind.key).filter(|node| node.entries().is_some()).map(|node| (kind.key, Fields::new(node, table, path.clone())))
    });
    let (config, embedding_position) = match (given.next(), given.next()) {
        (Some((kind, fields)), None) => (StageConfig::read(kind, &fields, out), fields.position("embedding")),
        _ => (None, None),
    };
    StageOutline { id, path, position: node.position, inputs, config, embedding_position }
}

/// The pipeline of a file in which the table found no problem.
fn pipeline(fields: &Fields<'_>, outline: &Outline, file: &Path) -> Option<Pipeline> {
    let name = fields.text("name")?;
    let sources = fields.node("sources")?.entries()?.iter().map(|(key, node)| {
        let parquet = Fields::new(node.get("parquet")?, PARQUET_SOURCE, "");
        Some(Source {
            id: StageId::new(&key.name),
            position: key.position,
            uri: parquet.text("uri")?,
            text: parquet.text("text"),
            id_column: parquet.text("id"),
            on_corrupt: parquet.text("on_corrupt").and_then(|word| OnCorrupt::from_word(&word)).unwrap_or(OnCorrupt::Fail),
        })
    });
    let sources = sources.collect::<Option<Vec<Source>>>()?;
    let mut stages: Vec<StageEntry> = Vec::new();
    for stage in &outline.stages {
        let inputs = match (&stage.inputs, stages.last(), sources.as_slice()) {
            (Some(inputs), _, _) => inputs.iter().map(|input| StageId::new(&input.id)).collect(),
            (None, Some(before), _) => vec![before.id.clone()],
            (None, None, [only]) => vec![only.id.clone()],
            // Several sources and no `input`: the graph's checks report it.
            (None, None, _) => Vec::new(),
        };
        stages.push(StageEntry {
            id: StageId::new(&stage.id.as_ref()?.id),
            position: stage.position,
            inputs,
            config: stage.config.clone()?,
        });
    }
    let sink = fields.node("sink")?;
    let parquet = Fields::new(sink.get("parquet")?, PARQUET_SINK, "");
    let sink_outline = outline.sink.as_ref()?;
    let input = match &sink_outline.input {
        Some(input) => StageId::new(&input.id),
        None => stages.last()?.id.clone(),
    };
    let sink = Sink {
        uri: parquet.text("uri")?,
        layout: layout(&parquet)?,
        write: Write::from_word(&parquet.text("write")?)?,
        zstd_level: parse_compression(&parquet.text("compression")?)?,
        row_group_rows: parquet.int("row_group_rows").map(i64::unsigned_abs),
        add: sink_outline.add.iter().map(|reference| StageId::new(&reference.id)).collect(),
        input,
    };
    let folder_of = |key| fields.map(key, FOLDER).and_then(|folder| folder.text("uri"));
    Some(Pipeline {
        version: u32::try_from(fields.int("version")?).ok()?,
        folder: folder(file),
        sources,
        stages,
        sink,
        state: folder_of("state"),
        work_uri: folder_of("work").unwrap_or_else(|| default_work(&name)),
        name,
    })
}

fn layout(parquet: &Fields<'_>) -> Option<Layout> {
    let default = Layout::Packed { target_bytes: 256 << 20 };
    match parquet.map("layout", PACKED) {
        Some(map) => Some(Layout::Packed { target_bytes: map.map("packed", PACKED_TARGET)?.bytes("target")? }),
        None if parquet.text("layout")? == "packed" => Some(default),
        None => Some(Layout::Mirror),
    }
}

/// The folder of a file, absolute as far as the working directory is known.
#[must_use]
pub fn folder(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    absolute.parent().map(Path::to_owned).unwrap_or_default()
}

impl Pipeline {
    /// The source with this id.
    #[must_use]
    pub fn source(&self, id: &StageId) -> Option<&Source> {
        self.sources.iter().find(|source| source.id == *id)
    }

    /// The stage with this id.
    #[must_use]
    pub fn stage(&self, id: &StageId) -> Option<&StageEntry> {
        self.stages.iter().find(|stage| stage.id == *id)
    }

    /// All of the declaration that can change the bytes of the dataset: stages, edges and sink, with defaults filled in and keys
    /// sorted. Names, folders and what is only for speed are left out; models stand in by the hashes that the plan adds.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let ids = |ids: &[StageId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<String>>();
        let sources: Vec<Value> = self
            .sources
            .iter()
            .map(|source| json!({"id": source.id.as_str(), "id_column": source.id_column, "text": source.text}))
            .collect();
        let stages: Vec<Value> = self
            .stages
            .iter()
            .map(|stage| {
                json!({
                    "config": stage.config.canonical(),
                    "embedding": stage.config.embedding().flatten().map(StageId::as_str),
                    "id": stage.id.as_str(),
                    "inputs": ids(&stage.inputs),
                    "kind": stage.config.kind(),
                })
            })
            .collect();
        json!({"sink": self.sink.canonical(), "sources": sources, "stages": stages, "version": self.version})
    }
}

impl Sink {
    /// All that can change the bytes written, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let layout = match self.layout {
            Layout::Mirror => json!("mirror"),
            Layout::Packed { target_bytes } => json!({"packed": {"target": target_bytes}}),
        };
        let add: Vec<&str> = self.add.iter().map(StageId::as_str).collect();
        json!({
            "add": add,
            "input": self.input.as_str(),
            "layout": layout,
            "row_group_rows": self.row_group_rows,
            "write": self.write.word(),
            "zstd_level": self.zstd_level,
        })
    }
}
