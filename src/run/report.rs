//! The closing table of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::state::manifest::{Manifest, RunRecord};
use crate::telemetry::{bytes, count};

/// What a run left.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The folder of the dataset.
    pub sink: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// The circumstances.
    pub record: RunRecord,
}

impl Summary {
    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "output": self.sink.display().to_string(),
            "run_id": self.manifest.run_id,
            "rows": {"input": self.manifest.rows.input, "kept": self.manifest.rows.kept, "dropped": self.manifest.rows.dropped, "rejected": self.manifest.rows.rejected},
            "stages": self.manifest.stages,
            "run": self.record,
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let rows = &self.manifest.rows;
        let share = |part: u64| if rows.input == 0 { String::new() } else { format!("{:5.1} %", 100.0 * part as f64 / rows.input as f64) };
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<34} {:>12}", "rows in", count(rows.input));
        for stage in &self.manifest.stages {
            for (reason, dropped) in &stage.dropped {
                let _ = writeln!(text, "  {:<32} {:>12}  {}", format!("{} ({reason})", stage.stage), count(*dropped), share(*dropped));
            }
        }
        let _ = writeln!(text, "{:<34} {:>12}  {}", "rows kept", count(rows.kept), share(rows.kept));
        for stage in &self.manifest.stages {
            for line in stage_lines(&stage.report) {
                let _ = writeln!(text, "{}: {line}", stage.stage);
            }
        }
        let _ = writeln!(text, "{:<34} {:>12}", "phase", "seconds");
        for phase in &self.record.phases {
            let rate = if phase.bytes > 0 && phase.seconds > 0.0 {
                format!("  {}/s", bytes((phase.bytes as f64 / phase.seconds) as u64))
            } else {
                String::new()
            };
            let _ = writeln!(text, "  {:<32} {:>12.2}{rate}", phase.name, phase.seconds);
        }
        let data: u64 = self.manifest.files.iter().filter(|file| file.kind != "lineage").map(|file| file.bytes).sum();
        let input: u64 = self.manifest.inputs.iter().map(|input| input.bytes).sum();
        let _ = write!(text, "{} of shards read, {} written", bytes(input), bytes(data));
        if self.record.bytes_written > 0 {
            let _ = write!(
                text,
                " ({:.0} % copied without decoding)",
                100.0 * self.record.bytes_copied as f64 / self.record.bytes_written as f64
            );
        }
        let _ = write!(text, "\n{:.1} s with {} threads", self.record.seconds, self.record.threads);
        if let Some(peak) = self.record.peak_memory_bytes {
            let _ = write!(text, ", peak memory {}", bytes(peak));
        }
        let _ = write!(
            text,
            ", {} of {} tasks cached",
            count(self.record.tasks_cached),
            count(self.record.tasks_cached + self.record.tasks_run)
        );
        let _ = writeln!(text, "\n{}", self.sink.display());
        text
    }
}

/// What a stage that compares candidates found of them.
fn candidate_lines(report: &serde_json::Map<String, Value>) -> Vec<String> {
    let number = |path: &[&str]| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(report.get(*first)?, |value, key| value.get(*key))?.as_u64()
    };
    let mut lines = Vec::new();
    if let (Some(compared @ 1..), Some(rejected)) = (number(&["pairs", "compared"]), number(&["pairs", "rejected"]))
        && report.contains_key("by_threshold")
    {
        lines.push(format!(
            "candidate pairs compared: {}; under the threshold, which bands alone would have joined: {} ({:.1} %), close to it {}",
            count(compared),
            count(rejected),
            100.0 * rejected as f64 / compared as f64,
            count(number(&["pairs", "rejected_near"]).unwrap_or(0))
        ));
    }
    if let Some(cut) = number(&["bounds", "cut_rows"]).filter(|cut| *cut > 0) {
        lines.push(format!(
            "rows with more candidates than are compared: {}; candidate pairs left out: at most {}",
            count(cut),
            count(number(&["bounds", "pairs_left_out"]).unwrap_or(0))
        ));
    }
    lines
}

/// What a stage counted that is worth a line.
fn stage_lines(report: &serde_json::Map<String, Value>) -> Vec<String> {
    let mut lines = Vec::new();
    let nonzero = |value: &Value| {
        value.as_object().is_some_and(|counts| counts.iter().any(|(status, count)| status != "ok" && count.as_u64() != Some(0)))
    };
    for name in ["statuses", "bad_vectors"] {
        if let Some(counts) = report.get(name).filter(|counts| nonzero(counts)) {
            let bad: Vec<String> = counts
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(status, count)| *status != "ok" && count.as_u64() != Some(0))
                .map(|(status, number)| format!("{} {}", count(number.as_u64().unwrap_or(0)), status.replace('_', " ")))
                .collect();
            lines.push(format!("vectors that cannot be compared: {}", bad.join(", ")));
        }
    }
    for (name, word) in [("orphans", "dropped rows without a kept row within epsilon"), ("truncated", "texts cut at max_tokens")] {
        if let Some(number) = report.get(name).and_then(Value::as_u64).filter(|number| *number > 0) {
            lines.push(format!("{word}: {}", count(number)));
        }
    }
    lines.extend(candidate_lines(report));
    if let Some(entries) = report.get("by_threshold").and_then(Value::as_array).filter(|entries| entries.len() > 1) {
        for entry in entries {
            lines.push(format!("threshold {}: kept {}, dropped {}", entry["threshold"], entry["kept"], entry["dropped"]));
        }
    }
    if let Some(entries) = report.get("by_epsilon").and_then(Value::as_array).filter(|entries| entries.len() > 1) {
        for entry in entries {
            lines.push(format!("epsilon {}: kept {}, dropped {}", entry["epsilon"], entry["kept"], entry["dropped"]));
        }
    }
    if let Some(epsilon) = report.get("epsilon").and_then(Value::as_f64) {
        lines.push(format!("epsilon chosen for target_keep_fraction: {epsilon:.6}"));
    }
    if let Some(eta) = report
        .get("efficiency")
        .filter(|efficiency| efficiency.get("rows").is_some())
        .and_then(|efficiency| efficiency.get("eta_percent"))
        .and_then(Value::as_f64)
    {
        lines.push(format!("duplicate pairs found inside cells: {eta:.1} % (estimated)"));
    }
    if let Some(recall) = report.get("recall") {
        let number = |name: &str| recall.get(name).and_then(Value::as_u64).unwrap_or(0);
        let share = recall.get("percent").and_then(Value::as_f64).map_or_else(String::new, |percent| format!(" ({percent:.2} %)"));
        let probe = report.get("probe").and_then(Value::as_u64).map_or_else(String::new, |probe| format!(", {probe} cells a row"));
        lines.push(format!(
            "duplicate pairs of {} rows with all others that were compared: {} of {}{share}{probe}",
            count(number("rows")),
            count(number("found")),
            count(number("pairs"))
        ));
    }
    lines
}
