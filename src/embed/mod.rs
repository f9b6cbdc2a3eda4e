//! Embeddings: texts in, vectors out, by an ONNX model and a tokenizer. One interface over two runtimes (`runtime`): the built-in
//! static model on tract, model files on ONNX Runtime.
//!
//! A window of rows goes through five steps: its texts are tokenised (`tokenise`), long ones cut into chunks where that is asked
//! for (`chunk`), the chunks put into batches by length (`batch`), run through the model (`runtime`), and checked and put back into
//! row order (`guard`). Tokenising the next windows overlaps the
//! inference of this one. Only the texts of a window shape its batches, so the vectors are the same bits for any number of threads.

pub mod batch;
mod chunk;
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
pub use self::chunk::Chunking;
use self::chunk::{Chunk, Cutter};
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
    /// How texts of more tokens than the model takes are cut into chunks; `None` gives it `max_tokens` at once.
    pub chunk: Option<Chunking>,
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
            chunk: None,
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
    /// Tokens that went through the model, padding not counted; a token that two chunks share counts twice.
    pub tokens: u64,
    /// Rows whose text was cut to `max_tokens`.
    pub truncated: u64,
    /// Rows whose text was cut into several chunks.
    pub chunked: u64,
    /// Chunks that went through the model; a text that was not cut is one.
    pub chunks: u64,
}

/// A model and a tokenizer, ready to embed.
#[derive(Debug)]
pub struct Embedder {
    tokeniser: Tokeniser,
    cutter: Cutter,
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
        let cutter = Cutter::new(options.chunk, tokeniser.special())?;
        let Opened { sessions, provider, notes } =
            runtime.open(files, options.provider, options.pooling, options.threads, options.session_bytes)?;
        let batch_tokens = options.batch_tokens.unwrap_or_else(|| provider.batch_tokens());
        let identity = identity(runtime, files, &options, batch_tokens, provider);
        let name = files.name().to_owned();
        let mut embedder = Self { tokeniser, cutter, sessions, options, batch_tokens, provider, dimensions: 0, identity, notes, name };
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

    /// Runs the model on a made-up text of one token and on the longest that it will get, so that what does not fit shows at once.
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
        match self.options.chunk {
            Some(chunk) if chunk.tokens < self.options.max_tokens => {
                run(chunk.tokens, "set `tokens` of `chunk` to what the model was made for (512 for most BERT models)")?
            }
            _ => run(self.options.max_tokens, "set `max_tokens` to what the model was made for (512 for most BERT models)")?,
        };
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
        let rows = self.tokeniser.encode_all(texts)?;
        let statuses = rows
            .iter()
            .map(|tokens| match tokens {
                None => Status::Null,
                Some(tokens) if tokens.ids.is_empty() => Status::Empty,
                Some(_) => Status::Ok,
            })
            .collect();
        let special = self.tokeniser.special();
        let (mut chunks, mut chunked) = (Vec::with_capacity(rows.len()), 0);
        for (row, tokens) in (0..).zip(&rows) {
            let own = tokens.as_ref().map_or(0, |tokens| tokens.ids.len().saturating_sub(special));
            let cut = self.cutter.cut(own);
            let of = cut.len();
            chunked += u64::from(of > 1);
            chunks.extend(cut.map(|tokens| Chunk { row, tokens, of }));
        }
        let counts: Vec<u32> = chunks.iter().map(|chunk| (chunk.tokens.len() + special) as u32).collect();
        let batches = batch::pack(&counts, self.batch_tokens);
        let tokens = counts.iter().map(|count| u64::from(*count)).sum();
        let truncated = rows.iter().flatten().filter(|tokens| tokens.truncated).count() as u64;
        Ok(Prepared { texts: Texts { rows, chunks, tokens, truncated, chunked }, batches, statuses })
    }

    /// The padded tensors of a batch: ids and mask, chunks x longest.
    fn tensors(&self, batch: &Batch, texts: &Texts) -> (Vec<i64>, Vec<i64>) {
        let size = batch.chunks.len() * batch.longest;
        let (mut ids, mut mask) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for (end, place) in (1..).zip(&batch.chunks) {
            if let Some(chunk) = texts.chunks.get(*place as usize)
                && let Some(Some(tokens)) = texts.rows.get(chunk.row as usize)
            {
                ids.extend(self.tokeniser.part(tokens, &chunk.tokens).map(i64::from));
                mask.resize(ids.len(), 1);
            }
            ids.resize(end * batch.longest, self.tokeniser.padding());
            mask.resize(end * batch.longest, 0);
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
    texts: Texts,
    batches: Vec<Batch>,
    statuses: Vec<Status>,
}

/// The texts of a window as tokens, and what is counted of them.
struct Texts {
    rows: Vec<Option<Tokens>>,
    /// In the order of rows, then of the text.
    chunks: Vec<Chunk>,
    tokens: u64,
    truncated: u64,
    chunked: u64,
}

fn identity(runtime: &Runtime, files: &ModelFiles, options: &EmbedOptions, batch_tokens: usize, provider: Provider) -> blake3::Hash {
    let EmbedOptions { max_tokens, chunk, batch_tokens: _, provider: _, pooling, normalize, dims, threads: _, session_bytes: _ } = options;
    let [backend, version, build] = runtime.maker(files);
    let name = Fingerprint::new("trommel embedder 1")
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
        .part(provider.as_str());
    // Only where there are chunks: vectors without them keep their name.
    let name = match chunk {
        Some(Chunking { tokens, overlap }) => name.part("chunks, mean").number(*tokens as u64).number(*overlap as u64),
        None => name,
    };
    name.finish()
}

#[cfg(test)]
mod tests;
