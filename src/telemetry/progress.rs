//! Phases of a run: a bar with rate and time left on a terminal, one line at the end elsewhere, nothing when quiet.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Stopwatch, bytes};

/// How long a phase took and how much it read.
#[derive(Debug, Clone)]
pub struct PhaseTime {
    /// Its name, as the plan prints it.
    pub name: String,
    /// Wall time.
    pub time: Duration,
    /// Bytes of shards that it read; 0 where it reads none.
    pub bytes: u64,
}

/// Where a run reports to. Clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    quiet: bool,
    terminal: bool,
    phases: Arc<Mutex<Vec<PhaseTime>>>,
}

impl Telemetry {
    /// To standard error, unless `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: !quiet && std::io::stderr().is_terminal(), phases: Arc::default() }
    }

    /// Starts a phase of `steps` steps (shards, mostly) that is going to read `size` bytes.
    #[must_use]
    pub fn phase(&self, name: &str, steps: u64, size: u64) -> Phase {
        let bar = if self.terminal {
            let bar = ProgressBar::with_draw_target(Some(size.max(1)), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg:24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            Some(bar)
        } else {
            None
        };
        Phase { telemetry: self.clone(), name: name.to_owned(), steps, size, bar, start: Stopwatch::start() }
    }

    /// A line for the user: a warning or a note.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // A closed standard error is no reason to fail a run.
            let _ = writeln!(std::io::stderr(), "{text}").is_ok();
        }
    }

    /// The phases that have ended, in order.
    #[must_use]
    pub fn phases(&self) -> Vec<PhaseTime> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A phase that is running.
#[derive(Debug)]
pub struct Phase {
    telemetry: Telemetry,
    name: String,
    steps: u64,
    size: u64,
    bar: Option<ProgressBar>,
    start: Stopwatch,
}

impl Phase {
    /// `size` more bytes of shards are done.
    pub fn advance(&self, size: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(size);
        }
    }

    /// The phase is over.
    pub fn finish(self) {
        let time = self.start.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = time.as_secs_f64();
        let rate =
            if self.size > 0 && seconds > 0.0 { format!(", {}/s", bytes((self.size as f64 / seconds) as u64)) } else { String::new() };
        let took = if seconds < 60.0 { format!("{seconds:.1} s") } else { HumanDuration(time).to_string() };
        self.telemetry.note(&format!("{:<24} {:>6} tasks  {took}{rate}", self.name, self.steps));
        let phase = PhaseTime { name: self.name, time, bytes: self.size };
        self.telemetry.phases.lock().unwrap_or_else(PoisonError::into_inner).push(phase);
    }
}
