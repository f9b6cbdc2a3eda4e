//! The threads of an embedder: one tokenises windows ahead, one a session runs batches, and the caller's puts results back into
//! row order. Batches are handed out to whoever is free; where a result goes depends on its window and chunk alone. All batches of a
//! window are handed out at once, as lists of chunks: the tokeniser never waits for a session, only for whole windows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::batch::Batch;
use super::chunk::{self, Part};
use super::guard::Status;
use super::runtime::Session;
use super::{Embedded, Embedder, Prepared, Texts};
use crate::error::{Error, Result};

/// Windows that are tokenised and wait for their results to be collected, beside the one that is being collected.
const AHEAD: usize = 2;

/// A window whose batches are on their way.
struct Head {
    texts: Arc<Texts>,
    batches: usize,
    statuses: Vec<Status>,
}

/// A batch to run, and the texts of its window.
struct Job {
    window: u64,
    batch: Batch,
    texts: Arc<Texts>,
}

/// A batch that was run.
struct Done {
    window: u64,
    chunks: Vec<u32>,
    made: Result<(Vec<f32>, Vec<Status>)>,
}

/// Embeds `windows` and gives the vectors of each to `sink`, in order.
pub(super) fn run<I>(embedder: &Embedder, windows: I, mut sink: impl FnMut(Embedded) -> Result<()>) -> Result<()>
where
    I: Iterator<Item = Result<Vec<Option<String>>>> + Send,
{
    let stop = &AtomicBool::new(false);
    let (head_sender, heads) = sync_channel(AHEAD);
    let (job_sender, jobs) = channel();
    let (done_sender, done) = channel();
    let jobs = &Mutex::new(jobs);
    thread::scope(|scope| {
        let mut threads = vec![scope.spawn(move || prepare(embedder, windows, &head_sender, &job_sender, stop))];
        for session in &embedder.sessions {
            let done_sender = done_sender.clone();
            threads.push(scope.spawn(move || infer(embedder, session, jobs, &done_sender, stop)));
        }
        drop(done_sender);
        let collected = collect(embedder, heads, &done, &mut sink);
        stop.store(true, Ordering::Relaxed);
        // All are joined, so that a panic in one is an error here and no panic of the scope.
        let panicked = threads.into_iter().map(thread::ScopedJoinHandle::join).filter(thread::Result::is_err).count();
        match collected {
            Ok(()) if panicked > 0 => Err(Error::internal("a thread of the embedder panicked")),
            other => other,
        }
    })
}

/// Tokenises windows and hands out their batches until there are none left, one fails, or nobody listens any more.
fn prepare<I>(embedder: &Embedder, windows: I, heads: &SyncSender<Result<Head>>, jobs: &Sender<Job>, stop: &AtomicBool)
where
    I: Iterator<Item = Result<Vec<Option<String>>>>,
{
    for (window, texts) in (0..).zip(windows) {
        let prepared = match texts.and_then(|texts| embedder.prepare(&texts)) {
            Ok(prepared) => prepared,
            Err(error) => {
                // Whoever is gone has an error already.
                drop(heads.send(Err(error)));
                return;
            }
        };
        let Prepared { texts, batches, statuses } = prepared;
        let texts = Arc::new(texts);
        if heads.send(Ok(Head { texts: Arc::clone(&texts), batches: batches.len(), statuses })).is_err() {
            return;
        }
        for batch in batches {
            if stop.load(Ordering::Relaxed) || jobs.send(Job { window, batch, texts: Arc::clone(&texts) }).is_err() {
                return;
            }
        }
    }
}

/// Runs batches with one session until there are none left.
fn infer(embedder: &Embedder, session: &Mutex<Session>, jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>, stop: &AtomicBool) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { window, batch, texts }) = job else { return };
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        let embed = || {
            let (ids, mask) = embedder.tensors(&batch, &texts);
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            embedder.embed(&mut session, &ids, &mask, batch.chunks.len())
        };
        // A panic must not leave the collector waiting for a result that never comes.
        let made = catch_unwind(AssertUnwindSafe(embed)).unwrap_or_else(|_| Err(Error::internal("the model's runtime panicked")));
        if done.send(Done { window, chunks: batch.chunks, made }).is_err() {
            return;
        }
    }
}

/// Puts the results of each window into row order, one window after the other.
fn collect(
    embedder: &Embedder,
    heads: Receiver<Result<Head>>,
    done: &Receiver<Done>,
    sink: &mut impl FnMut(Embedded) -> Result<()>,
) -> Result<()> {
    // Results of windows whose turn has not come.
    let mut early: BTreeMap<u64, Vec<Done>> = BTreeMap::new();
    for (window, head) in (0..).zip(heads) {
        let Head { texts, mut batches, statuses } = head?;
        let mut rows =
            Rows { embedder, texts: &texts, vectors: vec![0.0; statuses.len() * embedder.dimensions], statuses, parts: BTreeMap::new() };
        let mut ready = early.remove(&window).unwrap_or_default();
        while batches > 0 {
            let result = match ready.pop() {
                Some(result) => result,
                None => done.recv().map_err(|_| Error::internal("the embedder's threads ended before their work"))?,
            };
            if result.window != window {
                early.entry(result.window).or_default().push(result);
                continue;
            }
            let (made, marks) = result.made?;
            for ((place, vector), mark) in result.chunks.iter().zip(made.chunks_exact(embedder.dimensions)).zip(marks) {
                rows.take(*place, vector, mark);
            }
            batches -= 1;
        }
        let Rows { vectors, statuses, .. } = rows;
        let Texts { tokens, truncated, chunked, .. } = *texts;
        sink(Embedded { vectors, statuses, tokens, truncated, chunked, chunks: texts.chunks.len() as u64 })?;
    }
    Ok(())
}

/// The rows of a window, as far as their vectors are known.
struct Rows<'a> {
    embedder: &'a Embedder,
    texts: &'a Texts,
    vectors: Vec<f32>,
    statuses: Vec<Status>,
    /// By row, the chunks that wait for the others of their text. Batches come about in the order of lengths, and all chunks of a
    /// text but its last are of one length: few texts wait for more than one.
    parts: BTreeMap<u32, Vec<Part>>,
}

impl Rows<'_> {
    /// Takes the vector of the chunk at `place`.
    fn take(&mut self, place: u32, vector: &[f32], mark: Status) {
        let dimensions = self.embedder.dimensions;
        let Some(chunk) = self.texts.chunks.get(place as usize) else { return };
        let start = chunk.row as usize * dimensions;
        let (Some(into), Some(status)) = (self.vectors.get_mut(start..start + dimensions), self.statuses.get_mut(chunk.row as usize))
        else {
            return;
        };
        if chunk.of == 1 {
            into.copy_from_slice(vector);
            *status = mark;
            return;
        }
        let parts = self.parts.entry(chunk.row).or_default();
        parts.push((place, vector.to_vec(), mark));
        if parts.len() == chunk.of {
            *status = chunk::mean(parts, self.embedder.options.normalize, into);
            self.parts.remove(&chunk.row);
        }
    }
}
