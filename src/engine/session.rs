//! One engine a process: its threads, its memory budget, its spill folder, and the flag that stops it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::failure::from_datafusion;
use crate::error::{Context as _, Error, Kind, Result};

/// The share of `--memory` that is the engine's pool; the rest is for what the pool does not see: Parquet decoding and
/// encoding, models, tokenizers, the allocator's slack.
const POOL_SHARE: f64 = 0.6;

/// What an engine may use.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Worker threads.
    pub threads: usize,
    /// The whole budget in bytes, of which a stated share becomes the pool.
    pub memory_bytes: usize,
    /// Rows in a record batch; changes speed, never a result.
    pub batch_rows: usize,
    /// Where sorts spill to.
    pub spill_folder: PathBuf,
}

/// Asks running work to stop at the next task or batch boundary.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for it.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error of kind interrupted once stopping was asked for.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, "stopped by the user").hint("run the same command again: finished work is kept"));
        }
        Ok(())
    }
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    context: Arc<TaskContext>,
    runtime: tokio::runtime::Runtime,
    options: EngineOptions,
    stop: Stop,
}

/// Bytes of the pool that something of ours holds; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    what: String,
    held: MemoryReservation,
}

impl Reservation {
    /// Takes `bytes` of the same pool for something else.
    pub fn beside(&self, what: &str, bytes: usize) -> Result<Self> {
        let beside = Self { what: what.to_owned(), held: self.held.new_empty() };
        beside.grow(bytes)?;
        Ok(beside)
    }

    /// Takes `bytes` more before they are allocated.
    pub fn grow(&self, bytes: usize) -> Result<()> {
        self.held.try_grow(bytes).map_err(|error| {
            let missing = format!("{} needs more memory than the budget has left bytes=`{bytes}`", self.what);
            from_datafusion(error).context(missing).hint("give more with --memory")
        })
    }
}

impl Engine {
    /// Starts threads and pool.
    pub fn start(options: EngineOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("trommel")
            .enable_all()
            .build()
            .context(Kind::Resources, || format!("cannot start threads threads=`{}`", options.threads))?;
        // A second engine in one process (tests) finds the pool already there: the results do not depend on its size.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global().is_ok();
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![options.spill_folder.clone()]));
        let pool = FairSpillPool::new((options.memory_bytes as f64 * POOL_SHARE) as usize);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(from_datafusion)?;
        // What a sort keeps aside for its merge: a share of the pool, so that small budgets are not refused and large ones merge
        // many runs at once.
        let merge_bytes = ((options.memory_bytes as f64 * POOL_SHARE) as usize / 5).clamp(1 << 20, 64 << 20);
        let config = SessionConfig::new()
            .with_batch_size(options.batch_rows)
            .with_target_partitions(options.threads)
            .with_sort_spill_reservation_bytes(merge_bytes)
            // What fits the pool is sorted in one piece: merging thousands of small batches takes a cursor's memory for each.
            .with_sort_in_place_threshold_bytes(options.memory_bytes);
        let context = SessionContext::new_with_config_rt(config, environment).task_ctx();
        Ok(Self { context, runtime, options, stop: Stop::default() })
    }

    /// Runs a future to its end on the engine's threads.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Starts something that goes on beside the run, such as waiting for a signal; it ends with the engine.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }

    /// Takes `bytes` of the pool before something of ours allocates them.
    pub fn reserve(&self, what: &str, bytes: usize) -> Result<Reservation> {
        let reservation = Reservation { what: what.to_owned(), held: MemoryConsumer::new(what).register(self.context.memory_pool()) };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Worker threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// Rows in a record batch.
    #[must_use]
    pub fn batch_rows(&self) -> usize {
        self.options.batch_rows
    }

    /// The whole budget in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.options.memory_bytes
    }

    /// Where what does not fit memory goes.
    #[must_use]
    pub fn spill_folder(&self) -> &Path {
        &self.options.spill_folder
    }

    /// The flag that stops this engine's work.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(super) fn context(&self) -> Arc<TaskContext> {
        Arc::clone(&self.context)
    }
}
