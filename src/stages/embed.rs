//! `embed`: makes a vector of each row's text, or takes the vectors of a column that the user already has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, FixedSizeListArray, Float16Array, Float32Array, LargeListArray, RecordBatch, UInt8Array,
    UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, Float32Type, Schema, SchemaRef, UInt64Type};
use serde_json::{Map, Value, json};

use super::policy::{self, OnBadVector};
use super::seam::{Feature, Needs, ROW, Roles, STATUS, Shape as StageShape, SharedEmbedder, Stage, Start, VECTOR, WriteBatch};
use crate::dataset::schema::text_values;
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::{Diagnostics, nearest};
use crate::embed::guard::{self, Status};
use crate::embed::{self, Chunking, EmbedOptions, runtime};
use crate::error::{Context as _, Error, Kind, Result};
use crate::limits::{EMBED_WINDOW_BYTES, EMBED_WINDOW_ROWS, MAX_CHUNKED_TOKENS, MAX_DIMENSIONS};
use crate::words;

words! {
    /// What runs the model.
    pub enum Provider {
        /// The fastest that is there; the run says which.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// CUDA.
        Cuda = "cuda",
        /// TensorRT.
        Tensorrt = "tensorrt",
    }
}

words! {
    /// How the vectors of a text's tokens become one.
    pub enum Pooling {
        /// `none` where the graph gives one vector a row, else `mean`.
        Auto = "auto",
        /// The graph already gives one vector a row.
        None = "none",
        /// The mean over the tokens of the attention mask.
        Mean = "mean",
        /// The vector of the first token.
        Cls = "cls",
    }
}

words! {
    /// The width of a stored vector's numbers.
    pub enum Precision {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits (IEEE half).
        F16 = "f16",
    }
}

words! {
    /// How the vectors of a text's chunks become one.
    pub enum Combine {
        /// Their mean, each counted once, whatever its length.
        Mean = "mean",
    }
}

/// `embed: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedConfig {
    /// Where the vectors come from.
    pub input: EmbedInput,
    /// Whether each vector is scaled to length 1; default yes.
    pub normalize: bool,
    /// Keep only the first so many dimensions (Matryoshka models); before `normalize`.
    pub dims: Option<u32>,
    /// The width of the stored numbers; default 32 bits.
    pub precision: Precision,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// Where vectors come from.
#[derive(Debug, Clone, PartialEq)]
pub enum EmbedInput {
    /// `from: COLUMN`: a list column that the shards have.
    Column(String),
    /// A model reads a text column.
    Text(TextEmbed),
}

/// A model over a text column.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbed {
    /// The model.
    pub model: ModelSource,
    /// The text column; default the role `text`.
    pub column: String,
    /// Tokens of a text at most, special tokens included; the rest is cut off. Default 256, with `chunk` [`MAX_CHUNKED_TOKENS`].
    pub max_tokens: u32,
    /// How texts that are longer than what the model takes are cut into chunks; by default they are not.
    pub chunk: Option<ChunkConfig>,
    /// Tokens of a batch at most, padding included; by default what suits the provider that is found.
    pub batch_tokens: Option<u32>,
    /// What runs the model.
    pub provider: Provider,
    /// How token vectors become one.
    pub pooling: Pooling,
}

/// `chunk: {tokens, overlap, combine}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkConfig {
    /// Tokens of a chunk at most, special tokens included.
    pub tokens: u32,
    /// Tokens that a chunk shares with the one before; default none.
    pub overlap: u32,
    /// How the vectors of a text's chunks become one.
    pub combine: Combine,
}

/// The model of an `embed` stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The static embedder inside the binary.
    Builtin,
    /// An ONNX file and its tokenizer.
    Files {
        /// The ONNX file, as written (relative to the pipeline file, or absolute).
        path: String,
        /// The `tokenizer.json`, as written; by default the one beside the ONNX file.
        tokenizer: String,
        /// SHA-256 that the ONNX file must have, in lower case.
        sha256: Option<String>,
        /// SHA-256 that the tokenizer must have, in lower case.
        tokenizer_sha256: Option<String>,
    },
}

const MODEL_FIELDS: &[Field] = &[
    required("path", Shape::Path, "The ONNX file."),
    optional("tokenizer", Shape::Path, "The `tokenizer.json`; by default the one beside the ONNX file."),
    optional("sha256", Shape::Sha256, "SHA-256 that the ONNX file must have."),
    optional("tokenizer_sha256", Shape::Sha256, "SHA-256 that the tokenizer must have."),
];

const CHUNK_FIELDS: &[Field] = &[
    required(
        "tokens",
        Shape::Int { min: 1, max: 65_536 },
        "Tokens of a chunk at most, the special tokens that it gets included: what the model was made for, or less.",
    ),
    defaulted(
        "overlap",
        Shape::Int { min: 0, max: 65_535 },
        Presence::Int(0),
        "Tokens of the text that a chunk shares with the one before, special tokens not counted.",
    ),
    defaulted(
        "combine",
        Shape::Choice(Combine::WORDS),
        Presence::Text("mean"),
        "How the vectors of the chunks become one: `mean`, each chunk counted once; with `normalize`, of unit vectors and scaled to length 1.",
    ),
];

/// The keys of `embed`.
pub const FIELDS: &[Field] = &[
    defaulted(
        "model",
        Shape::Any(&[Shape::Path, Shape::Map(MODEL_FIELDS)]),
        Presence::Text("builtin"),
        "`builtin` (a small static embedder inside the binary), the path of an ONNX file with `tokenizer.json` beside it, or a map.",
    ),
    optional("from", Shape::Text, "Take the vectors of this column instead of running a model."),
    defaulted("column", Shape::Text, Presence::Text("text"), "The text column that the model reads; `text` names the source's role."),
    defaulted(
        "max_tokens",
        Shape::Int { min: 1, max: 65_536 },
        Presence::Int(256),
        "Tokens of a text at most, special tokens included; the rest is cut off. Beside `chunk` the default is 1,048,576.",
    ),
    optional(
        "chunk",
        Shape::Map(CHUNK_FIELDS),
        "Cut a text of more tokens than a chunk has into chunks, embed each as a text of its own, and combine their vectors.",
    ),
    optional(
        "batch_tokens",
        Shape::Int { min: 1, max: 1 << 24 },
        "Tokens of a batch at most, padding included; by default 1,024 on the processor and 16,384 on a GPU.",
    ),
    defaulted(
        "provider",
        Shape::Choice(Provider::WORDS),
        Presence::Text("auto"),
        "What runs an ONNX file: `auto` takes the fastest that is there; one that is named and not there is an error.",
    ),
    defaulted(
        "pooling",
        Shape::Choice(Pooling::WORDS),
        Presence::Text("auto"),
        "How token vectors become one: `auto` is `none` where the graph gives one vector a row, else `mean`.",
    ),
    defaulted("normalize", Shape::Bool, Presence::Bool(true), "Whether each vector is scaled to length 1."),
    optional(
        "dims",
        Shape::Int { min: 1, max: MAX_DIMENSIONS as i64 },
        "Keep only the first so many dimensions (for models trained for that), before `normalize`.",
    ),
    defaulted("precision", Shape::Choice(Precision::WORDS), Presence::Text("f32"), "The width of the stored numbers."),
    policy::ON_BAD_VECTOR,
];

/// The keys that only a model has: `from` excludes them.
const MODEL_ONLY: [&str; 7] = ["model", "column", "max_tokens", "chunk", "batch_tokens", "provider", "pooling"];

impl EmbedConfig {
    /// Reads the checked map; a model's key beside `from` and a model name that is neither `builtin` nor an ONNX file are problems.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let input = if fields.has("from") {
            for key in MODEL_ONLY.into_iter().filter(|key| fields.has(key)) {
                let message = format!("`{key}` has no meaning beside `from`: no model is run");
                fields.problem(out, key, message, Some(format!("remove `{key}`, or remove `from`")));
            }
            EmbedInput::Column(fields.text("from").unwrap_or_default())
        } else {
            let count = |key| fields.int(key).and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
            let chunk = ChunkConfig::read(fields, out);
            EmbedInput::Text(TextEmbed {
                model: ModelSource::read(fields, out),
                column: fields.text("column").unwrap_or_default(),
                max_tokens: if chunk.is_some() && !fields.has("max_tokens") { MAX_CHUNKED_TOKENS } else { count("max_tokens") },
                chunk,
                batch_tokens: fields.int("batch_tokens").and_then(|value| u32::try_from(value).ok()),
                provider: fields.text("provider").and_then(|word| Provider::from_word(&word)).unwrap_or(Provider::Auto),
                pooling: fields.text("pooling").and_then(|word| Pooling::from_word(&word)).unwrap_or(Pooling::Auto),
            })
        };
        if let EmbedInput::Text(text) = &input
            && text.model == ModelSource::Builtin
            && matches!(text.provider, Provider::Cuda | Provider::Tensorrt)
        {
            let message = format!("the built-in model runs on the processor alone, not on `{}`", text.provider.word());
            fields.problem(out, "provider", message, Some("remove `provider`, or name an ONNX file under `model`".into()));
        }
        Self {
            input,
            normalize: fields.bool("normalize").unwrap_or(true),
            dims: fields.int("dims").and_then(|value| u32::try_from(value).ok()),
            precision: fields.text("precision").and_then(|word| Precision::from_word(&word)).unwrap_or(Precision::F32),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. Paths, hashes and the provider are left
    /// out: the hashes of the model's files as read and the backend as found stand for them in the task key.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let input = match &self.input {
            EmbedInput::Column(column) => json!({"from": column}),
            EmbedInput::Text(text) => {
                let mut input = json!({
                    "batch_tokens": text.batch_tokens,
                    "column": text.column,
                    "max_tokens": text.max_tokens,
                    "model": if text.model == ModelSource::Builtin { "builtin" } else { "files" },
                    "pooling": text.pooling.word(),
                });
                // Only where it is given: vectors that were made before there were chunks are still found.
                if let Some(ChunkConfig { tokens, overlap, combine }) = text.chunk {
                    input["chunk"] = json!({"combine": combine.word(), "overlap": overlap, "tokens": tokens});
                }
                input
            }
        };
        json!({
            "dims": self.dims,
            "input": input,
            "normalize": self.normalize,
            "on_bad_vector": self.on_bad_vector.word(),
            "precision": self.precision.word(),
        })
    }
}

impl ChunkConfig {
    fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Option<Self> {
        let map = fields.map("chunk", CHUNK_FIELDS)?;
        let count = |key| map.int(key).and_then(|value| u32::try_from(value).ok());
        let (tokens, overlap) = (count("tokens")?, count("overlap").unwrap_or(0));
        if overlap >= tokens {
            let message = format!("an overlap of {overlap} tokens leaves nothing new for a chunk of {tokens}");
            map.problem(
                out,
                "overlap",
                message,
                Some("make it smaller than `tokens` less the special tokens, which are two in most models".into()),
            );
        }
        Some(Self { tokens, overlap, combine: map.text("combine").and_then(|word| Combine::from_word(&word)).unwrap_or(Combine::Mean) })
    }
}

impl ModelSource {
    fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        if let Some(map) = fields.map("model", MODEL_FIELDS) {
            let path = map.text("path").unwrap_or_default();
            let tokenizer = map.text("tokenizer").unwrap_or_else(|| beside(&path));
            let digest = |key| map.text(key).map(|text| text.to_ascii_lowercase());
            return Self::Files { path, tokenizer, sha256: digest("sha256"), tokenizer_sha256: digest("tokenizer_sha256") };
        }
        match fields.text("model") {
            None => Self::Builtin,
            Some(word) if word == "builtin" => Self::Builtin,
            Some(path) => {
                if !path.to_ascii_lowercase().ends_with(".onnx") {
                    let hint = match nearest(&path, ["builtin"]) {
                        Some(word) => format!("did you mean `{word}`?"),
                        None => "write `builtin`, or the path of a file that ends in `.onnx`".to_owned(),
                    };
                    fields.problem(out, "model", format!("unknown model `{path}`"), Some(hint));
                }
                Self::Files { tokenizer: beside(&path), path, sha256: None, tokenizer_sha256: None }
            }
        }
    }
}

/// `tokenizer.json` in the folder of `path`.
fn beside(path: &str) -> String {
    match path.rfind('/') {
        Some(slash) => format!("{}/tokenizer.json", &path[..slash]),
        None => "tokenizer.json".to_owned(),
    }
}

impl Stage for EmbedConfig {
    fn kind(&self) -> &'static str {
        "embed"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn made_vectors(&self) -> Option<OnBadVector> {
        Some(self.on_bad_vector)
    }

    fn shape(&self) -> StageShape {
        StageShape::Feature
    }

    fn needs(&self, _: &Roles) -> Needs {
        match &self.input {
            EmbedInput::Column(column) => Needs { columns: vec![column.clone()], ..Needs::default() },
            EmbedInput::Text(text) => Needs { columns: vec![text.column.clone()], text: vec![text.column.clone()], ..Needs::default() },
        }
    }
}

impl TextEmbed {
    /// How the embed floor is asked for this stage's vectors.
    #[must_use]
    pub fn options(&self, config: &EmbedConfig, threads: usize, session_bytes: u64) -> EmbedOptions {
        EmbedOptions {
            max_tokens: self.max_tokens as usize,
            chunk: self.chunk.map(|chunk| Chunking { tokens: chunk.tokens as usize, overlap: chunk.overlap as usize }),
            batch_tokens: self.batch_tokens.map(|tokens| tokens as usize),
            provider: match self.provider {
                Provider::Auto => runtime::Provider::Auto,
                Provider::Cpu => runtime::Provider::Cpu,
                Provider::Cuda => runtime::Provider::Cuda,
                Provider::Tensorrt => runtime::Provider::TensorRt,
            },
            pooling: match self.pooling {
                Pooling::Auto => embed::Pooling::Auto,
                Pooling::None => embed::Pooling::None,
                Pooling::Mean => embed::Pooling::Mean,
                Pooling::Cls => embed::Pooling::Cls,
            },
            normalize: config.normalize,
            dims: config.dims.map(|dims| dims as usize),
            threads,
            session_bytes,
        }
    }
}

/// The feature of an embed stage: what makes the vectors of one shard. The scan gives the one column that it reads, then [`ROW`].
pub fn feature(config: &EmbedConfig, embedder: Option<SharedEmbedder>) -> Result<Box<dyn Feature>> {
    match (&config.input, embedder) {
        (EmbedInput::Column(_), _) => Ok(Box::new(Supplied { config: config.clone() })),
        (EmbedInput::Text(text), Some(embedder)) => Ok(Box::new(Modelled {
            precision: config.precision,
            on_bad_vector: config.on_bad_vector,
            chunked: text.chunk.is_some(),
            embedder,
        })),
        (EmbedInput::Text(_), None) => Err(Error::internal("an embed stage without its model")),
    }
}

/// Vectors that a model makes of texts.
struct Modelled {
    precision: Precision,
    on_bad_vector: OnBadVector,
    /// Whether long texts are cut into chunks.
    chunked: bool,
    embedder: SharedEmbedder,
}

impl Feature for Modelled {
    fn run(&self, rows: &mut (dyn Iterator<Item = Result<RecordBatch>> + Send), start: &mut Start<'_>) -> Result<Map<String, Value>> {
        let mut table = VectorTable::start(self.embedder.dimensions(), self.precision, start)?;
        let numbers: Mutex<VecDeque<Vec<u64>>> = Mutex::default();
        let most_bytes = if self.chunked { EMBED_WINDOW_BYTES } else { usize::MAX };
        let windows = Windows { rows, numbers: &numbers, texts: Vec::new(), pending: Vec::new(), ended: false, most_bytes };
        let mut tally = Tally { chunks: self.chunked.then_some((0, 0)), ..Tally::default() };
        self.embedder.run(windows, |made| {
            let rows = numbers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let rows = rows.ok_or_else(|| Error::internal("an embedder gave a window that it was not given"))?;
            tally.tokens += made.tokens;
            tally.truncated += made.truncated;
            if let Some((chunked, chunks)) = &mut tally.chunks {
                *chunked += made.chunked;
                *chunks += made.chunks;
            }
            table.write(rows, made.vectors, made.statuses, &mut tally)
        })?;
        tally.finish(self.on_bad_vector)
    }
}

/// Cuts live rows into windows of [`EMBED_WINDOW_ROWS`], or fewer where their texts have `most_bytes`: nothing else shapes a batch of
/// the model.
struct Windows<'a> {
    rows: &'a mut (dyn Iterator<Item = Result<RecordBatch>> + Send),
    numbers: &'a Mutex<VecDeque<Vec<u64>>>,
    texts: Vec<Option<String>>,
    pending: Vec<u64>,
    ended: bool,
    most_bytes: usize,
}

impl Windows<'_> {
    /// Rows of the next window; of the rest, once there are no more.
    fn fill(&mut self) -> Result<usize> {
        let (mut looked_at, mut bytes) = (0, 0);
        loop {
            while let Some(text) = self.texts.get(looked_at) {
                looked_at += 1;
                bytes += text.as_ref().map_or(0, String::len);
                if looked_at == EMBED_WINDOW_ROWS || bytes >= self.most_bytes {
                    return Ok(looked_at);
                }
            }
            let Some(batch) = (if self.ended { None } else { self.rows.next() }) else {
                self.ended = true;
                return Ok(looked_at);
            };
            let batch = batch?;
            let texts = text_values(batch.column(0).as_ref())?;
            self.texts.extend((0..batch.num_rows()).map(|row| texts.get(row).map(str::to_owned)));
            self.pending.extend_from_slice(batch.column(1).as_primitive::<UInt64Type>().values());
        }
    }
}

impl Iterator for Windows<'_> {
    type Item = Result<Vec<Option<String>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = match self.fill() {
            Ok(0) => return None,
            Ok(rows) => rows,
            Err(error) => return Some(Err(error)),
        };
        let rest = self.texts.split_off(rows);
        let rest_numbers = self.pending.split_off(rows);
        let numbers = std::mem::replace(&mut self.pending, rest_numbers);
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).push_back(numbers);
        Some(Ok(std::mem::replace(&mut self.texts, rest)))
    }
}

/// Vectors that the user already has.
struct Supplied {
    config: EmbedConfig,
}

impl Feature for Supplied {
    fn run(&self, rows: &mut (dyn Iterator<Item = Result<RecordBatch>> + Send), start: &mut Start<'_>) -> Result<Map<String, Value>> {
        let mut table: Option<VectorTable<'_>> = None;
        let mut start = Some(start);
        let mut tally = Tally::default();
        // Batches wait until the dimension is known; those vectors are few.
        let mut waiting: Vec<RecordBatch> = Vec::new();
        let mut lengths = Lengths::default();
        for batch in rows {
            let batch = batch?;
            if table.is_none() {
                let full = lengths.look(batch.column(0))?;
                waiting.push(batch);
                if let Some((dimensions, start)) = full.then(|| lengths.usual()).flatten().and_then(|usual| Some((usual, start.take()?))) {
                    let table = table.insert(VectorTable::start(self.kept(dimensions)?, self.config.precision, start)?);
                    for batch in waiting.drain(..) {
                        self.write(&batch, dimensions, table, &mut tally)?;
                    }
                }
            } else if let Some(table) = &mut table {
                self.write(&batch, table.full, table, &mut tally)?;
            }
        }
        if let Some(start) = start {
            let dimensions = lengths.usual().unwrap_or(0);
            let mut table = VectorTable::start(self.kept(dimensions)?, self.config.precision, start)?;
            for batch in waiting {
                self.write(&batch, dimensions, &mut table, &mut tally)?;
            }
        }
        tally.finish(self.config.on_bad_vector)
    }
}

impl Supplied {
    fn kept(&self, dimensions: usize) -> Result<usize> {
        match self.config.dims.map(|dims| dims as usize) {
            Some(dims) if dims > dimensions && dimensions > 0 => {
                Err(Error::input(format!("`dims` is above the dimension of the vectors dims=`{dims}` dimensions=`{dimensions}`"))
                    .hint("remove `dims`, or make it smaller"))
            }
            Some(dims) => Ok(dims.min(dimensions)),
            None => Ok(dimensions),
        }
    }

    fn write(&self, batch: &RecordBatch, dimensions: usize, table: &mut VectorTable<'_>, tally: &mut Tally) -> Result<()> {
        table.full = dimensions;
        let kept = self.kept(dimensions)?;
        let rows = batch.column(1).as_primitive::<UInt64Type>().values().to_vec();
        let mut data = Vec::with_capacity(rows.len() * kept);
        let mut statuses = Vec::with_capacity(rows.len());
        let lists = Lists::of(batch.column(0))?;
        for row in 0..rows.len() {
            let from = data.len();
            let status = match lists.get(row) {
                None => Status::Null,
                Some(values) if values.len() != dimensions => Status::WrongDimension,
                Some(values) => {
                    data.extend_from_slice(&values.values()[..kept]);
                    if values.null_count() > 0 {
                        Status::NotFinite
                    } else {
                        guard::check_supplied(&mut data[from..], kept, self.config.normalize)
                    }
                }
            };
            if status != Status::Ok {
                data.truncate(from);
                data.resize(from + kept, 0.0);
            }
            statuses.push(status);
        }
        table.write(rows, data, statuses, tally)
    }
}

/// The vectors of a list column, of whatever kind of list and float.
enum Lists {
    Fixed(FixedSizeListArray),
    Variable(LargeListArray),
}

impl Lists {
    fn of(array: &ArrayRef) -> Result<Self> {
        let wrong = || {
            Error::input(format!("a column of this type holds no vectors type=`{}`", array.data_type()))
                .hint("`from` takes a list or fixed-size list of numbers")
        };
        let item = |field: &ArrowField| Arc::new(ArrowField::new("item", DataType::Float32, field.is_nullable()));
        Ok(match array.data_type() {
            DataType::FixedSizeList(field, size) if field.data_type().is_numeric() => {
                let array =
                    cast(array, &DataType::FixedSizeList(item(field), *size)).context(Kind::Input, || "cannot read vectors".into())?;
                Self::Fixed(array.as_fixed_size_list().clone())
            }
            DataType::List(field) | DataType::LargeList(field) if field.data_type().is_numeric() => {
                let array = cast(array, &DataType::LargeList(item(field))).context(Kind::Input, || "cannot read vectors".into())?;
                Self::Variable(array.as_list::<i64>().clone())
            }
            _ => return Err(wrong()),
        })
    }

    fn get(&self, row: usize) -> Option<Float32Array> {
        let (valid, values) = match self {
            Self::Fixed(lists) => (lists.is_valid(row), lists.value(row)),
            Self::Variable(lists) => (lists.is_valid(row), lists.value(row)),
        };
        valid.then(|| values.as_primitive::<Float32Type>().clone())
    }
}

/// Vectors that are looked at before the dimension is settled: one wrong vector in front must not take all others out.
const LOOKED_AT: usize = 1_000;

/// The lengths of the first vectors of a column.
#[derive(Debug, Default)]
struct Lengths {
    counts: BTreeMap<usize, usize>,
    seen: usize,
}

impl Lengths {
    /// Looks at a batch; true once enough is known.
    fn look(&mut self, array: &ArrayRef) -> Result<bool> {
        if let DataType::FixedSizeList(_, size) = array.data_type() {
            self.counts.insert(*size as usize, 1);
            return Ok(true);
        }
        let lists = Lists::of(array)?;
        for row in 0..array.len() {
            if self.seen == LOOKED_AT {
                break;
            }
            if let Some(vector) = lists.get(row).filter(|values| !values.is_empty()) {
                *self.counts.entry(vector.len()).or_insert(0) += 1;
                self.seen += 1;
            }
        }
        Ok(self.seen == LOOKED_AT)
    }

    /// The most frequent length, of several the smallest.
    fn usual(&self) -> Option<usize> {
        self.counts.iter().max_by_key(|(length, count)| (**count, std::cmp::Reverse(**length))).map(|(length, _)| *length)
    }
}

/// Writes vectors as an artefact holds them: row, vector (null where it is not sound), status.
pub(super) struct VectorTable<'a> {
    schema: SchemaRef,
    dimensions: usize,
    /// The dimension before `dims` cut it.
    full: usize,
    write: WriteBatch<'a>,
}

impl<'a> VectorTable<'a> {
    /// Starts the table.
    pub(super) fn start(dimensions: usize, precision: Precision, start: &'a mut Start<'_>) -> Result<Self> {
        let float = match precision {
            Precision::F32 => DataType::Float32,
            Precision::F16 => DataType::Float16,
        };
        let item = Arc::new(ArrowField::new("item", float, false));
        let schema = Arc::new(Schema::new(vec![
            ArrowField::new(ROW, DataType::UInt64, false),
            ArrowField::new(VECTOR, DataType::FixedSizeList(item, dimensions as i32), true),
            ArrowField::new(STATUS, DataType::UInt8, false),
        ]));
        let write = start(&schema)?;
        Ok(Self { schema, dimensions, full: dimensions, write })
    }

    /// Writes the vectors of `rows`, counted in `tally`. Half precision may find more of them unsound.
    pub(super) fn write(&mut self, rows: Vec<u64>, vectors: Vec<f32>, mut statuses: Vec<Status>, tally: &mut Tally) -> Result<()> {
        let internal = || "cannot build vectors".to_owned();
        let DataType::FixedSizeList(item, size) = self.schema.field(1).data_type() else { return Err(Error::internal(internal())) };
        debug_assert_eq!(vectors.len(), rows.len() * self.dimensions);
        let values: ArrayRef = if item.data_type() == &DataType::Float16 {
            let mut halves = Vec::with_capacity(vectors.len());
            for (row, status) in statuses.iter_mut().enumerate() {
                let found = guard::to_f16(&vectors[row * self.dimensions..(row + 1) * self.dimensions], &mut halves);
                if *status == Status::Ok {
                    *status = found;
                }
            }
            Arc::new(Float16Array::from(halves))
        } else {
            Arc::new(Float32Array::from(vectors))
        };
        tally.count(&statuses);
        let valid: NullBuffer = statuses.iter().map(|status| *status == Status::Ok).collect::<Vec<bool>>().into();
        let list = FixedSizeListArray::try_new_with_length(Arc::clone(item), *size, values, Some(valid), rows.len())
            .context(Kind::Internal, internal)?;
        let codes = UInt8Array::from_iter_values(statuses.iter().map(|status| status.code()));
        let columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(rows)), Arc::new(list), Arc::new(codes)];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).context(Kind::Internal, internal)?;
        (self.write)(&batch)
    }
}

/// What a stage that makes vectors counts of one shard.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tokens: u64,
    truncated: u64,
    /// Texts that were cut into chunks, and chunks of all texts; only where the stage cuts.
    chunks: Option<(u64, u64)>,
    statuses: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, statuses: &[Status]) {
        for status in statuses {
            *self.statuses.entry(status.as_str()).or_insert(0) += 1;
        }
    }

    /// The facts of the shard.
    ///
    /// # Errors
    /// Input, if there are bad vectors and the policy is to fail.
    pub(super) fn finish(self, policy: OnBadVector) -> Result<Map<String, Value>> {
        let bad: u64 = self.statuses.iter().filter(|(status, _)| **status != Status::Ok.as_str()).map(|(_, count)| count).sum();
        if policy == OnBadVector::Fail && bad > 0 {
            return Err(Error::input(format!("rows have no sound vector rows=`{bad}` statuses=`{}`", json!(self.statuses)))
                .hint("mend the rows, filter them out, or set `on_bad_vector: keep`"));
        }
        let Value::Object(mut facts) = json!({"statuses": self.statuses, "tokens": self.tokens, "truncated": self.truncated}) else {
            return Err(Error::internal("a tally is an object"));
        };
        if let Some((chunked, chunks)) = self.chunks {
            facts.insert("chunked".into(), chunked.into());
            facts.insert("chunks".into(), chunks.into());
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    /// Windows of texts with these lengths (null is `None`), read in engine batches of `batch` rows: their row numbers.
    fn windows(lengths: &[Option<usize>], batch: usize, most_bytes: usize) -> Vec<Vec<u64>> {
        let schema =
            Arc::new(Schema::new(vec![ArrowField::new("text", DataType::Utf8, true), ArrowField::new(ROW, DataType::UInt64, false)]));
        let mut rows = lengths.chunks(batch).scan(0_u64, |row, part| {
            let texts: StringArray = part.iter().map(|length| length.map(|length| "x".repeat(length))).collect();
            let numbers = UInt64Array::from_iter_values(*row..*row + part.len() as u64);
            *row += part.len() as u64;
            Some(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(texts), Arc::new(numbers)]).context(Kind::Internal, String::new))
        });
        let numbers: Mutex<VecDeque<Vec<u64>>> = Mutex::default();
        let windows = Windows { rows: &mut rows, numbers: &numbers, texts: Vec::new(), pending: Vec::new(), ended: false, most_bytes };
        let texts: Vec<usize> = windows.map(|window| window.unwrap().len()).collect();
        let numbers = Vec::from(numbers.into_inner().unwrap());
        assert_eq!(texts, numbers.iter().map(Vec::len).collect::<Vec<_>>());
        numbers
    }

    #[test]
    fn windows_end_by_rows_or_bytes_whatever_the_batches() {
        let lengths: Vec<Option<usize>> = (0..9_000).map(|row| (row % 7 != 3).then_some(row * row % 50)).collect();
        for (most_bytes, expected) in [(usize::MAX, 3), (40_000, 5)] {
            let reference = windows(&lengths, 1, most_bytes);
            assert_eq!(reference.len(), expected);
            assert_eq!(reference.concat(), (0..9_000).collect::<Vec<_>>());
            for batch in [333, 4_096, 8_192, 9_000] {
                assert_eq!(windows(&lengths, batch, most_bytes), reference, "batch={batch}");
            }
        }
        assert_eq!(windows(&[Some(9), Some(1), Some(5), Some(5), None], 2, 10), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(windows(&[Some(99), Some(99)], 2, 10), [vec![0], vec![1]]);
        assert!(windows(&[], 2, 10).is_empty());
    }
}
