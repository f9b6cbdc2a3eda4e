//! Embeddings: texts in, vectors out, by an ONNX model and a tokenizer. One interface over two runtimes (`runtime`): the built-in
//! static model on tract, model files on ONNX Runtime.
//!
//! A window of rows goes through four steps: its texts are tokenised (`tokenise`), cut into batches by length (`batch`), run
//! through the model (`runtime`), and checked and put back into row order (`guard`). Tokenising the next windows overlaps the
//! inference of this one. Only the texts of a window shape its batches, so the vectors are the same bits for any number of threads.

pub mod batch;
pub mod guard;
mod library;
pub mod model;
mod pipeline;
pub mod runtime;
mod signature;
pub mod tokenise;
mod tract;
mod wordpiece;

use std::sync::{Mutex, PoisonError};

use self::batch::Batch;
use self::guard::Status;
pub use self::library::{Origin, find_library};
pub use self::model::{ModelFiles, ModelSource};
use self::runtime::{Opened, Provider, Runtime, Session};
pub use self::signature::Pooling;
use self::tokenise::{Tokeniser, Tokens};
use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::limits::MAX_DIMENSIONS;

/// How a model is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedOptions {
    /// The most tokens of a text, special tokens included; what is longer is cut on the right.
    pub max_tokens: usize,
    /// The most tokens of a batch, padding included; `None` takes [`Provider::batch_tokens`] of what the model runs on.
    pub batch_tokens: Option<usize>,
    /// What the model runs on.
    pub provider: Provider,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Are vectors scaled to unit length?
    pub normalize: bool,
    /// Only the first components, for models that were trained for it (Kusupati et al. 2022); cut before vectors are scaled.
    pub dims: Option<usize>,
    /// Threads of inference. Moves no bit.
    pub threads: usize,
    /// The most bytes of weights that parallel sessions, one a thread, may hold together. Moves no bit.
    pub session_bytes: u64,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            batch_tokens: None,
            provider: Provider::Auto,
            pooling: Pooling::Auto,
            normalize: true,
            dims: None,
            threads: 1,
            session_bytes: 1 << 30,
        }
    }
}

/// The vectors of one window, in row order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// rows x dimensions, one row after the other; zeros where the status is not [`Status::Ok`].
    pub vectors: Vec<f32>,
    /// What became of each row.
    pub statuses: Vec<Status>,
    /// Tokens that went through the model, padding not counted.
    pub tokens: u64,
    /// Rows whose text was cut to `max_tokens`.
    pub truncated: u64,
}

/// A model and a tokenizer, ready to embed.
#[derive(Debug)]
pub struct Embedder {
    tokeniser: Tokeniser,
    sessions: Vec<Mutex<Session>>,
    options: EmbedOptions,
    batch_tokens: usize,
    provider: Provider,
    dimensions: usize,
    identity: blake3::Hash,
    notes: Vec<String>,
    name: String,
}

impl Embedder {
    /// Opens a model on the backend of this process and tries it once.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model): the model or tokenizer cannot be used with these options; the message names
    /// which, and the mend. [`Kind::Usage`](crate::error::Kind::Usage): an option is out of range.
    pub fn open(runtime: &'static Runtime, files: &ModelFiles, options: EmbedOptions) -> Result<Self> {
        // The static model was made without special tokens.
        let tokeniser = Tokeniser::new(files.tokenizer(), options.max_tokens, !files.is_builtin())
            .map_err(|error| error.context(format!("cannot use the tokenizer of the model model=`{}`", files.name())))?;
        let Opened { sessions, provider, notes } =
            runtime.open(files, options.provider, options.pooling, options.threads, options.session_bytes)?;
        let batch_tokens = options.batch_tokens.unwrap_or_else(|| provider.batch_tokens());
        let identity = identity(runtime, files, &options, batch_tokens, provider);
        let name = files.name().to_owned();
        let mut embedder = Self { tokeniser, sessions, options, batch_tokens, provider, dimensions: 0, identity, notes, name };
        embedder.dimensions = embedder.probe()?;
        Ok(embedder)
    }

    /// Names all that can change a bit of the vectors: model, tokenizer, options, backend, its build and the provider.
    #[must_use]
    pub fn identity(&self) -> blake3::Hash {
        self.identity
    }

    /// The dimension of the vectors.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// What the model runs on; never [`Provider::Auto`].
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// What the user should know: that `auto` fell back to the CPU, say.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Embeds windows in order. `windows` gives the texts of each (null for a row without one) and is drained on a thread of its
    /// own, at most four windows ahead; `sink` gets the vectors of each, in the same order. Texts are tokenised on rayon's pool.
    ///
    /// # Errors
    /// The first error of `windows`, of the model or of `sink`; then nothing more is embedded.
    pub fn run<I>(&self, windows: I, sink: impl FnMut(Embedded) -> Result<()>) -> Result<()>
    where
        I: Iterator<Item = Result<Vec<Option<String>>>> + Send,
    {
        pipeline::run(self, windows, sink)
    }

    /// Runs the model on a made-up text of one token and on one of `max_tokens`, so that what does not fit shows at once.
    fn probe(&self) -> Result<usize> {
        let session = self.sessions.first().ok_or_else(|| Error::internal("a model was opened without a session"))?;
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = self.tokeniser.highest_id();
        let mut run = |width: usize, hint: &str| {
            let made = session.run(&vec![highest; width], &vec![1; width], 1);
            made.map_err(|error| {
                let hint = error.hint_text().unwrap_or(hint).to_owned();
                error
                    .context(format!("the model does not take the text model=`{}` tokens=`{width}` token=`{highest}`", self.name))
                    .hint(hint)
            })
        };
        let full = run(1, "are tokenizer and model of the same make? The tokenizer's ids must be rows of the model's table")?.len();
        run(self.options.max_tokens, "set `max_tokens` to what the model was made for (512 for most BERT models)")?;
        if full > MAX_DIMENSIONS {
            let error =
                Error::model(format!("vectors have too many dimensions model=`{}` found=`{full}` limit=`{MAX_DIMENSIONS}`", self.name));
            return Err(error.hint("is the output of the model an embedding?"));
        }
        match self.options.dims {
            Some(dims) if dims == 0 || dims > full => Err(Error::usage(format!("dims is out of range dims=`{dims}` dimensions=`{full}`"))
                .hint(format!("use a number from 1 to {full}, or leave it out"))),
            Some(dims) => Ok(dims),
            None => Ok(full),
        }
    }

    /// Tokenises a window and cuts it into batches.
    fn prepare(&self, texts: &[Option<String>]) -> Result<Prepared> {
        let tokens = self.tokeniser.encode_all(texts)?;
        let count = |tokens: &Option<Tokens>| tokens.as_ref().map_or(0, |tokens| tokens.ids.len() as u32);
        let counts: Vec<u32> = tokens.iter().map(count).collect();
        let statuses = tokens
            .iter()
            .map(|tokens| match tokens {
                None => Status::Null,
                Some(tokens) if tokens.ids.is_empty() => Status::Empty,
                Some(_) => Status::Ok,
            })
            .collect();
        let batches = batch::pack(&counts, self.batch_tokens);
        let truncated = tokens.iter().flatten().filter(|tokens| tokens.truncated).count() as u64;
        Ok(Prepared { batches, statuses, total: counts.iter().map(|count| u64::from(*count)).sum(), truncated, tokens })
    }

    /// The padded tensors of a batch: ids and mask, rows x longest.
    fn tensors(&self, batch: &Batch, tokens: &[Option<Tokens>]) -> (Vec<i64>, Vec<i64>) {
        let size = batch.rows.len() * batch.longest;
        let (mut ids, mut mask) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for (place, row) in (1..).zip(&batch.rows) {
            if let Some(Some(tokens)) = tokens.get(*row as usize) {
                ids.extend(tokens.ids.iter().map(|id| i64::from(*id)));
                mask.resize(ids.len(), 1);
            }
            ids.resize(place * batch.longest, self.tokeniser.padding());
            mask.resize(place * batch.longest, 0);
        }
        (ids, mask)
    }

    /// Runs one batch and finishes its vectors: rows x dimensions, and the status of each.
    fn embed(&self, session: &mut Session, ids: &[i64], mask: &[i64], rows: usize) -> Result<(Vec<f32>, Vec<Status>)> {
        let made =
            session.run(ids, mask, rows).map_err(|error| error.context(format!("cannot embed with the model model=`{}`", self.name)))?;
        let full = made.len().checked_div(rows).unwrap_or(0);
        if full < self.dimensions || full == 0 {
            return Err(Error::model(format!(
                "the model changed its dimension model=`{}` before=`{}` now=`{full}`",
                self.name, self.dimensions
            )));
        }
        let mut vectors = Vec::with_capacity(rows * self.dimensions);
        made.chunks_exact(full).for_each(|vector| vectors.extend(vector.iter().take(self.dimensions)));
        let statuses = vectors.chunks_exact_mut(self.dimensions).map(|vector| guard::finish(vector, self.options.normalize)).collect();
        Ok((vectors, statuses))
    }
}

/// A window ready for the model.
struct Prepared {
    tokens: Vec<Option<Tokens>>,
    batches: Vec<Batch>,
    statuses: Vec<Status>,
    total: u64,
    truncated: u64,
}

fn identity(runtime: &Runtime, files: &ModelFiles, options: &EmbedOptions, batch_tokens: usize, provider: Provider) -> blake3::Hash {
    let EmbedOptions { max_tokens, batch_tokens: _, provider: _, pooling, normalize, dims, threads: _, session_bytes: _ } = options;
    let [backend, version, build] = runtime.maker(files);
    Fingerprint::new("trommel embedder 1")
        .part(blake3::hash(files.model()).as_bytes())
        .part(blake3::hash(files.tokenizer()).as_bytes())
        .number(*max_tokens as u64)
        .number(batch_tokens as u64)
        .part(pooling.as_str())
        .number(u64::from(*normalize))
        .number(dims.unwrap_or(0) as u64)
        .part(backend)
        .part(version)
        .part(build)
        .part(provider.as_str())
        .finish()
}

#[cfg(test)]
mod tests;
