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
    /// Whether it was written: not in a dry run.
    pub published: bool,
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
            "dry_run": !self.published,
            "output": self.sink.display().to_string(),
            "run_id": self.manifest.run_id,
            "rows": {"input": self.manifest.rows.input, "kept": self.manifest.rows.kept, "dropped": self.manifest.rows.dropped, "rejected": self.manifest.rows.rejected},
            "quarantined": self.manifest.quarantined,
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
        let aside = &self.manifest.quarantined;
        if !aside.is_empty() {
            let rows: u64 = aside.iter().filter_map(|shard| shard.rows).sum();
            let unknown = if aside.iter().any(|shard| shard.rows.is_none()) { ", and those whose footers cannot be read" } else { "" };
            let _ = writeln!(text, "damaged shards set aside: {}, with {} rows{unknown}", aside.len(), count(rows));
        }
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
        let _ = write!(text, "{} of shards read", bytes(input));
        if self.published {
            let _ = write!(text, ", {} written", bytes(data));
        }
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
        let unpublished = if self.published { "" } else { "dry run: nothing was written to " };
        let _ = writeln!(text, "\n{unpublished}{}", self.sink.display());
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
    let pairs = |name| number(&["pairs", name]).unwrap_or(0);
    let (looked_at, apart) = (pairs("candidates"), pairs("rejected") + pairs("ruled_out"));
    if looked_at > 0 && report.contains_key("by_threshold") {
        lines.push(format!(
            "candidate pairs with a row still kept: {}; under the threshold, which bands alone would have joined: {} ({:.1} %), of which {} by their sizes alone; close to it {}",
            count(looked_at),
            count(apart),
            100.0 * apart as f64 / looked_at as f64,
            count(pairs("ruled_out")),
            count(pairs("rejected_near"))
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

/// The counts of one of several thresholds.
fn kept_and_dropped(entry: &Value) -> String {
    let number = |name: &str| count(entry[name].as_u64().unwrap_or(0));
    format!("kept {}, dropped {}", number("kept"), number("dropped"))
}

/// What a stage that fits found.
fn fitted_lines(report: &serde_json::Map<String, Value>) -> Vec<String> {
    let number = |name: &str| report.get(name).and_then(Value::as_f64);
    let Some(dimensions) = report.get("dimensions").and_then(Value::as_object) else { return Vec::new() };
    let of = |name: &str| dimensions.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut line = format!("dimensions: {} of {}", of("to"), of("from"));
    // Writing to a string cannot fail.
    if let Some(share) = number("explained_variance") {
        let _ = write!(line, ", {:.1} % of the variance", 100.0 * share);
    }
    if let Some(rank) = number("rank") {
        let _ = write!(line, ", rank {rank}");
    }
    if let Some(correlations) = report.get("correlations").and_then(Value::as_array)
        && let (Some(first), Some(last)) = (correlations.first().and_then(Value::as_f64), correlations.last().and_then(Value::as_f64))
    {
        let _ = write!(line, ", correlations between neighbours {first:.3} to {last:.3}");
    }
    if let Some(twins) = number("twins") {
        let _ = write!(line, ", {twins} twins left out");
    }
    let mut lines = vec![line];
    if let (Some(rows), Some(rank)) = (number("fitted_rows"), number("rank"))
        && rows < FEW_ROWS_A_DIMENSION * of("from") as f64
        && rank > 0.0
    {
        lines.push(format!("fitted to only {rows} rows: with so few for each dimension, noise counts like what the texts say"));
    }
    lines
}

/// Below so many rows a dimension the smallest variances are badly known: by Marchenko and Pastur's law those of white noise then look
/// as if they differed by a factor of four.
const FEW_ROWS_A_DIMENSION: f64 = 9.0;

/// Rows that are so many times as far from the centroids as those of the fit are worth another fit.
const FAR: f64 = 1.25;

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
    for (name, word) in [
        ("orphans", "dropped rows without a kept row within epsilon"),
        ("bridges", "rows near to several rows that earlier runs kept"),
        ("truncated", "texts cut at max_tokens"),
    ] {
        if let Some(number) = report.get(name).and_then(Value::as_u64).filter(|number| *number > 0) {
            lines.push(format!("{word}: {}", count(number)));
        }
    }
    lines.extend(fitted_lines(report));
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or(0);
    if number("chunked") > 0 {
        lines.push(format!("texts cut into chunks: {}; chunks of all texts: {}", count(number("chunked")), count(number("chunks"))));
    }
    lines.extend(candidate_lines(report));
    if let Some(unit) = report.get("unit").and_then(Value::as_str).filter(|unit| *unit != "rows") {
        lines.push(format!("{unit} kept: {} of a budget of {}", count(number("used")), count(number("budget"))));
    }
    if let Some(found) = report.get("diversity") {
        let number = |name: &str| found.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        lines.push(format!(
            "diversity of {} vectors: effective rank {:.1} of {}, Vendi score {:.1}, nuclear norm {:.3} of its bound",
            count(found.get("rows").and_then(Value::as_u64).unwrap_or(0)),
            number("effective_rank"),
            report.get("dimensions_measured").and_then(Value::as_u64).unwrap_or(0),
            number("vendi"),
            number("mnn_pca")
        ));
    }
    if let Some(compared) = report.get("compared_labels").and_then(Value::as_u64) {
        let (flagged, least) = (count(number("flagged_labels")), report.get("flag_ratio").and_then(Value::as_f64).unwrap_or(0.0));
        let of = format!("{} labels of {} pairs of sources", count(compared), count(number("compared_pairs")));
        lines.push(format!("{of}: {flagged} are labelled otherwise for at least {least} of the names that were found"));
        for entry in report.get("worst_labels").and_then(Value::as_array).into_iter().flatten().filter(|entry| entry["flagged"] == true) {
            let word = |name: &str| entry[name].as_str().unwrap_or_default();
            let (ratio, matched) = (entry["ratio"].as_f64().unwrap_or(0.0), count(entry["matched"].as_u64().unwrap_or(0)));
            lines.push(format!("{} of {} in {}: {ratio:.3} of {matched}", word("label"), word("names_of"), word("texts_of")));
        }
        if number("unshared_labels") > 0 {
            lines.push(format!("{} labels of one source alone, compared with nothing", count(number("unshared_labels"))));
        }
        if number("unsound_entities") > 0 {
            lines.push(format!("entities that do not stand in their texts: {}", count(number("unsound_entities"))));
        }
    }
    for entry in report.get("by_min").and_then(Value::as_array).into_iter().flatten() {
        lines.push(format!("scores of at least {}: {}", entry["min"], count(entry["rows"].as_u64().unwrap_or(0))));
    }
    if let Some(entries) = report.get("by_threshold").and_then(Value::as_array).filter(|entries| entries.len() > 1) {
        for entry in entries {
            // Bands are chosen for the first threshold: of a looser one they may find few pairs.
            let odds = entry["found_with"].as_f64().filter(|odds| *odds < 0.9);
            let odds = odds.map_or(String::new(), |odds| format!(" (a pair at it is found with probability {odds:.3})"));
            lines.push(format!("threshold {}: {}{odds}", entry["threshold"], kept_and_dropped(entry)));
        }
    }
    if let Some(entries) = report.get("by_epsilon").and_then(Value::as_array).filter(|entries| entries.len() > 1) {
        for entry in entries {
            let epsilon = entry["epsilon"].as_f64().unwrap_or_default();
            lines.push(format!("epsilon {}: {}", (epsilon * 1e6).round() / 1e6, kept_and_dropped(entry)));
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
    if let Some(ratio) = report.get("drift").and_then(|drift| drift.get("ratio")).and_then(Value::as_f64) {
        let far = if ratio > FAR { ": `trommel state rebuild` fits them anew" } else { "" };
        lines.push(format!("drift: rows are {ratio:.2} times as far from their centroids as those that these were fitted to{far}"));
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
