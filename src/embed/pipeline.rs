//! The threads of an embedder: one tokenises windows ahead, one a session runs batches, and the caller's puts results back into
//! row order. Batches are handed out to whoever is free; where a result goes depends on its window and row alone. All batches of a
//! window are handed out at once, as lists of rows: the tokeniser never waits for a session, only for whole windows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::batch::Batch;
use super::guard::Status;
use super::runtime::Session;
use super::tokenise::Tokens;
use super::{Embedded, Embedder, Prepared};
use crate::error::{Error, Result};

/// Windows that are tokenised and wait for their results to be collected, beside the one that is being collected.
const AHEAD: usize = 2;

/// A window whose batches are on their way.
struct Head {
    batches: usize,
    statuses: Vec<Status>,
    tokens: u64,
    truncated: u64,
}

/// A batch to run, and the tokens of its window.
struct Job {
    window: u64,
    batch: Batch,
    tokens: Arc<[Option<Tokens>]>,
}

/// A batch that was run.
struct Done {
    window: u64,
    rows: Vec<u32>,
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
        let collected = collect(embedder.dimensions, heads, &done, &mut sink);
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
        let Prepared { tokens, batches, statuses, total, truncated } = prepared;
        let head = Head { batches: batches.len(), statuses, tokens: total, truncated };
        if heads.send(Ok(head)).is_err() {
            return;
        }
        let tokens: Arc<[Option<Tokens>]> = tokens.into();
        for batch in batches {
            if stop.load(Ordering::Relaxed) || jobs.send(Job { window, batch, tokens: Arc::clone(&tokens) }).is_err() {
                return;
            }
        }
    }
}

/// Runs batches with one session until there are none left.
fn infer(embedder: &Embedder, session: &Mutex<Session>, jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>, stop: &AtomicBool) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { window, batch, tokens }) = job else { return };
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        let embed = || {
            let (ids, mask) = embedder.tensors(&batch, &tokens);
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            embedder.embed(&mut session, &ids, &mask, batch.rows.len())
        };
        // A panic must not leave the collector waiting for a result that never comes.
        let made = catch_unwind(AssertUnwindSafe(embed)).unwrap_or_else(|_| Err(Error::internal("the model's runtime panicked")));
        if done.send(Done { window, rows: batch.rows, made }).is_err() {
            return;
        }
    }
}

/// Puts the results of each window into row order, one window after the other.
fn collect(
    dimensions: usize,
    heads: Receiver<Result<Head>>,
    done: &Receiver<Done>,
    sink: &mut impl FnMut(Embedded) -> Result<()>,
) -> Result<()> {
    // Results of windows whose turn has not come.
    let mut early: BTreeMap<u64, Vec<Done>> = BTreeMap::new();
    for (window, head) in (0..).zip(heads) {
        let Head { mut batches, mut statuses, tokens, truncated } = head?;
        let mut vectors = vec![0.0; statuses.len() * dimensions];
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
            for ((row, vector), mark) in result.rows.iter().zip(made.chunks_exact(dimensions)).zip(marks) {
                let start = *row as usize * dimensions;
                if let (Some(place), Some(status)) = (vectors.get_mut(start..start + dimensions), statuses.get_mut(*row as usize)) {
                    place.copy_from_slice(vector);
                    *status = mark;
                }
            }
            batches -= 1;
        }
        sink(Embedded { vectors, statuses, tokens, truncated })?;
    }
    Ok(())
}
