//! `embed`: makes a vector of each row's text, or takes the vectors of a column that the user already has.

use serde_json::{Value, json};

use super::policy::{self, OnBadVector};
use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::{Diagnostics, nearest};
use crate::limits::MAX_DIMENSIONS;
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
    /// Tokens of a text at most, special tokens included; the rest is cut off. Default 256.
    pub max_tokens: u32,
    /// Tokens of a batch at most, padding included; default 4,096.
    pub batch_tokens: u32,
    /// What runs the model.
    pub provider: Provider,
    /// How token vectors become one.
    pub pooling: Pooling,
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
        "Tokens of a text at most, special tokens included; the rest is cut off.",
    ),
    defaulted("batch_tokens", Shape::Int { min: 1, max: 1 << 24 }, Presence::Int(4096), "Tokens of a batch at most, padding included."),
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
const MODEL_ONLY: [&str; 6] = ["model", "column", "max_tokens", "batch_tokens", "provider", "pooling"];

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
            EmbedInput::Text(TextEmbed {
                model: ModelSource::read(fields, out),
                column: fields.text("column").unwrap_or_default(),
                max_tokens: count("max_tokens"),
                batch_tokens: count("batch_tokens"),
                provider: fields.text("provider").and_then(|word| Provider::from_word(&word)).unwrap_or(Provider::Auto),
                pooling: fields.text("pooling").and_then(|word| Pooling::from_word(&word)).unwrap_or(Pooling::Auto),
            })
        };
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
            EmbedInput::Text(text) => json!({
                "batch_tokens": text.batch_tokens,
                "column": text.column,
                "max_tokens": text.max_tokens,
                "model": if text.model == ModelSource::Builtin { "builtin" } else { "files" },
                "pooling": text.pooling.word(),
            }),
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
