//! `trommel pairs`: dropped rows beside the rows that they duplicate, the most doubtful first.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::difference::{Side, difference, paragraph};
use super::evidence::{Dropped, Evidence, Lines, Text};
use super::excerpt::{Excerpt, printable};
use super::why::{detail_json, score_text};
use super::{Format, Global, output};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::ids::RowId;
use crate::state::manifest::Manifest;
use crate::telemetry::count;

/// The reason of rows that are equal: there is no threshold to be near to.
const EXACT: &str = "exact_duplicate";

/// Arguments of `pairs`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel pairs out/quickstart
  trommel pairs out/quickstart --stage semantic -n 50
  trommel pairs out/quickstart --reason exact_duplicate --format json

The pairs come closest to the threshold first: if those are duplicates, the threshold is not too loose.
Words that only the dropped row has stand as [-so-], words that only the kept row has as {+so+}.")]
pub struct PairsArguments {
    /// The folder of the dataset
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Only rows that this stage dropped
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only rows that were dropped for this reason, such as `semantic_duplicate`
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// How many pairs
    #[arg(short = 'n', long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
}

/// What orders the pairs.
#[derive(Debug, Clone, Copy)]
struct Rank {
    /// 0: the stage has a threshold; 1: only a score; 2: equal rows; 3: no score.
    class: u8,
    /// How far the score lies above the threshold, or the score.
    closeness: f64,
    row: RowId,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.class.cmp(&other.class).then(self.closeness.total_cmp(&other.closeness)).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

impl Rank {
    fn of(row: RowId, reason: Option<&str>, score: Option<f64>, threshold: Option<f64>) -> Self {
        let (class, closeness) = match (score, threshold) {
            (None, _) => (3, 0.0),
            (Some(score), _) if reason == Some(EXACT) => (2, score),
            (Some(score), Some(threshold)) => (0, score - threshold),
            (Some(score), None) => (1, score),
        };
        Self { class, closeness, row }
    }
}

/// A dropped row and the row that it names.
struct Pair {
    row: RowId,
    doc_id: Option<String>,
    dropped: Dropped,
    kept: RowId,
    kept_doc_id: Option<String>,
    /// The least similarity that the stage takes for a duplicate, if it has one.
    threshold: Option<f64>,
}

/// Runs the command.
pub(crate) fn pairs(arguments: &PairsArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let evidence = Evidence::open(&arguments.output, global)?;
    check_names(&evidence, arguments)?;
    let thresholds = thresholds(evidence.manifest());
    let Closest { rows, found, elsewhere } = closest(&evidence, arguments, &thresholds)?;
    let mut pairs = Vec::with_capacity(rows.len());
    for row in rows {
        let line = evidence.line(row)?;
        let changed = || Error::state("lineage changed while it was read");
        let dropped = line.drops.into_iter().next().ok_or_else(changed)?;
        let kept = dropped.kept.as_ref().ok_or_else(changed)?;
        let (kept, kept_doc_id) = (evidence.kept_row(kept)?, kept.doc_id.clone());
        let threshold = thresholds.get(&dropped.stage).copied();
        pairs.push(Pair { row, doc_id: line.doc_id, dropped, kept, kept_doc_id, threshold });
    }
    let shown: BTreeSet<RowId> = pairs.iter().flat_map(|pair| [pair.row, pair.kept]).collect();
    let texts = evidence.texts(&shown)?;
    let hidden = Text::Hidden("the shard has no such row".into());
    let text_of = |row: RowId| texts.get(&row).unwrap_or(&hidden);
    match global.format {
        Format::Json => {
            let pairs = pairs.iter().map(|pair| pair_json(&evidence, pair, &text_of)).collect::<Result<Vec<Value>>>()?;
            output::json(out, &json!({"found": found, "of_earlier_runs": elsewhere, "pairs": pairs}))
        }
        Format::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let mut text = if found == 0 && elsewhere > 0 { String::new() } else { heading(pairs.len(), found) };
            if elsewhere > 0 {
                text.push_str(&count(elsewhere));
                text.push_str(if found == 0 { " dropped rows name" } else { " more name" });
                text.push_str(" a row that an earlier run kept: `trommel why` says which\n");
            }
            for (index, pair) in pairs.iter().enumerate() {
                text.push_str(&pair_text(&evidence, index + 1, pair, &text_of, colour)?);
            }
            output::text(out, &text)
        }
    }
}

fn heading(shown: usize, found: u64) -> String {
    match found {
        0 => "no row was dropped because of another one\n".to_owned(),
        _ => format!(
            "{} of {} pairs, closest to the threshold first; [-only in the dropped row-] {{+only in the kept row+}}\n",
            count(shown as u64),
            count(found)
        ),
    }
}

fn check_names(evidence: &Evidence, arguments: &PairsArguments) -> Result<()> {
    let stages = || evidence.manifest().stages.iter();
    let named = |what: &str, given: Option<&str>, known: BTreeSet<&str>| match given {
        Some(given) if !known.contains(given) => {
            let all = if known.is_empty() { "none".to_owned() } else { known.iter().copied().collect::<Vec<_>>().join(", ") };
            let near = nearest(given, known.iter().copied());
            let hint = near.map_or_else(|| format!("there are: {all}"), |near| format!("did you mean `{near}`?"));
            Err(Error::usage(format!("the run has no such {what} {what}=`{given}`")).hint(hint))
        }
        _ => Ok(()),
    };
    named("stage", arguments.stage.as_deref(), stages().map(|stage| stage.stage.as_str()).collect())?;
    named("reason", arguments.reason.as_deref(), stages().flat_map(|stage| stage.dropped.keys().map(String::as_str)).collect())
}

/// The least similarity of a duplicate, by stage, where the stage has one.
fn thresholds(manifest: &Manifest) -> BTreeMap<String, f64> {
    let stages = manifest.plan.get("stages").and_then(Value::as_array);
    let one = |stage: &Value| {
        let config = stage.get("config")?;
        // Pairs that nobody compared have no score to be near it.
        if config.get("verify").and_then(Value::as_str) == Some("none") {
            return None;
        }
        let epsilon = config.get("epsilon").and_then(Value::as_f64).map(|epsilon| 1.0 - epsilon);
        let id = stage.get("id")?.as_str()?;
        // One that the run itself chose stands in the report.
        let chosen =
            || manifest.stages.iter().find(|stage| stage.stage == id)?.report.get("epsilon")?.as_f64().map(|epsilon| 1.0 - epsilon);
        let threshold = epsilon.or_else(|| config.get("threshold").and_then(Value::as_f64)).or_else(chosen)?;
        Some((id.to_owned(), threshold))
    };
    stages.into_iter().flatten().filter_map(one).collect()
}

/// The closest pairs.
struct Closest {
    /// Their dropped rows, in order.
    rows: Vec<RowId>,
    /// How many pairs there are.
    found: u64,
    /// How many more there are whose kept row is of an earlier run: its text is not in this run's shards.
    elsewhere: u64,
}

/// Memory is bounded by the rows asked for.
fn closest(evidence: &Evidence, arguments: &PairsArguments, thresholds: &BTreeMap<String, f64>) -> Result<Closest> {
    const COLUMNS: [&str; 6] = ["row", "stage", "reason", "kept_row", "kept_run_id", "score"];
    let wanted = usize::from(arguments.count);
    let mut heap: BinaryHeap<Rank> = BinaryHeap::with_capacity(wanted + 1);
    let (mut found, mut elsewhere) = (0, 0);
    for (ordinal, input) in evidence.manifest().inputs.iter().enumerate() {
        for batch in evidence.batches(input, &COLUMNS)? {
            let batch = batch?;
            let lines = Lines::try_new(&batch)?;
            for index in (0..batch.num_rows()).filter(|index| lines.number("kept_row", *index).is_some()) {
                let (stage, reason) = (lines.text("stage", index), lines.text("reason", index));
                let other = |given: Option<&str>, value: Option<&str>| given.is_some() && value != given;
                if other(arguments.stage.as_deref(), stage) || other(arguments.reason.as_deref(), reason) {
                    continue;
                }
                if lines.text("kept_run_id", index).is_some() {
                    elsewhere += 1;
                    continue;
                }
                found += 1;
                let row = lines.number("row", index).ok_or_else(|| Error::state("lineage lacks a column column=`row`"))?;
                let threshold = stage.and_then(|stage| thresholds.get(stage)).copied();
                let rank = Rank::of(Evidence::row(ordinal, row)?, reason, lines.score(index), threshold);
                if heap.len() < wanted {
                    heap.push(rank);
                } else if heap.peek().is_some_and(|last| rank < *last) {
                    heap.pop();
                    heap.push(rank);
                }
            }
        }
    }
    Ok(Closest { rows: heap.into_sorted_vec().into_iter().map(|rank| rank.row).collect(), found, elsewhere })
}

fn pair_json<'a>(evidence: &Evidence, pair: &Pair, text_of: &dyn Fn(RowId) -> &'a Text) -> Result<Value> {
    let row = |row: RowId, doc_id: Option<&str>| -> Result<Value> {
        let input = evidence.input(row)?;
        Ok(json!({"source": input.source, "shard": input.shard, "row": row.row(), "doc_id": doc_id, "text": text_of(row).json()}))
    };
    let differences = match (text_of(pair.row), text_of(pair.kept)) {
        (Text::Shown(dropped), Text::Shown(kept)) => {
            let stretches = difference(&dropped.text, &kept.text);
            let side = |side| match side {
                Side::Both => "both",
                Side::First => "dropped",
                Side::Second => "kept",
            };
            let stretches = stretches.iter().map(|stretch| json!({"in": side(stretch.side), "words": stretch.text()}));
            Value::Array(stretches.collect())
        }
        _ => Value::Null,
    };
    Ok(json!({
        "detail": pair.dropped.detail.as_deref().map(detail_json),
        "differences": differences,
        "dropped": row(pair.row, pair.doc_id.as_deref())?,
        "kept": row(pair.kept, pair.kept_doc_id.as_deref())?,
        "reason": pair.dropped.reason,
        "score": pair.dropped.score,
        "stage": pair.dropped.stage,
        "threshold": pair.threshold,
    }))
}

fn pair_text<'a>(evidence: &Evidence, number: usize, pair: &Pair, text_of: &dyn Fn(RowId) -> &'a Text, colour: bool) -> Result<String> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{number}. `{}`: {}", printable(&pair.dropped.stage), printable(&pair.dropped.reason));
    if let Some(score) = pair.dropped.score {
        let _ = write!(text, ", score {}", score_text(score));
    }
    if let Some(threshold) = pair.threshold {
        let _ = write!(text, " (threshold {})", score_text(threshold));
    }
    text.push('\n');
    for (word, row, doc_id) in [("dropped", pair.row, &pair.doc_id), ("kept", pair.kept, &pair.kept_doc_id)] {
        let _ = write!(text, "   {word:<7}  {}", evidence.label(row)?);
        if let Some(doc_id) = doc_id {
            let _ = write!(text, "  id `{}`", printable(doc_id));
        }
        text.push('\n');
    }
    match (text_of(pair.row), text_of(pair.kept)) {
        (Text::Shown(dropped), Text::Shown(kept)) => text.push_str(&beside(dropped, kept, colour)),
        (dropped, kept) => {
            for (word, shown) in [("dropped", dropped), ("kept", kept)] {
                let _ = match shown {
                    Text::Shown(excerpt) => writeln!(text, "   {word} text: {}", printable(&excerpt.text)),
                    Text::Null => writeln!(text, "   {word} text is null"),
                    Text::Hidden(why) => writeln!(text, "   {word} text not shown: {}", printable(why)),
                };
            }
        }
    }
    Ok(text)
}

/// Both texts as one, with what differs marked.
fn beside(dropped: &Excerpt, kept: &Excerpt, colour: bool) -> String {
    let stretches = difference(&dropped.text, &kept.text);
    let mut text = format!("   {}\n", paragraph(&stretches, colour));
    let is_same = stretches.iter().all(|stretch| stretch.side == Side::Both);
    let is_clipped = dropped.is_clipped() || kept.is_clipped();
    let note = match (dropped.hash == kept.hash, is_same, is_clipped) {
        (true, _, true) => format!("the texts are equal; {}", dropped.length()),
        (true, _, false) => "the texts are equal".to_owned(),
        (false, true, false) => "the texts differ in white space alone".to_owned(),
        (false, true, true) => format!("the texts differ further on, or in white space; {}, {}", dropped.length(), kept.length()),
        (false, false, true) => format!("of the dropped row: {}; of the kept row: {}", dropped.length(), kept.length()),
        (false, false, false) => return text,
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "   ({note})");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_doubtful_pairs_come_first() {
        let row = |row| Evidence::row(0, row).unwrap();
        let ranks = [
            Rank::of(row(0), Some("semantic_duplicate"), Some(0.91), Some(0.9)),
            Rank::of(row(2), Some("near_duplicate"), Some(0.85), Some(0.8)),
            Rank::of(row(3), Some("near_duplicate"), Some(0.85), Some(0.8)),
            Rank::of(row(1), Some("other"), Some(0.2), None),
            Rank::of(row(4), Some(EXACT), Some(1.0), None),
            Rank::of(row(5), Some(EXACT), None, None),
        ];
        assert!(ranks.is_sorted());
        // An orphan of another rule lies under the threshold: it is the most doubtful of all.
        assert!(Rank::of(row(9), Some("semantic_duplicate"), Some(0.7), Some(0.9)) < ranks[0]);
    }

    #[test]
    fn what_the_marks_cannot_say_is_said_in_words() {
        let beside = |a: &str, b: &str| beside(&Excerpt::of(a), &Excerpt::of(b), false);
        assert_eq!(beside("a b", "a c"), "   a [-b-]{+c+}\n");
        assert_eq!(beside("a b", "a b"), "   a b\n   (the texts are equal)\n");
        assert_eq!(beside("a  b", "a b"), "   a b\n   (the texts differ in white space alone)\n");
        let long = "word ".repeat(500);
        assert!(
            beside(&long, &format!("{long}more"))
                .contains("(the texts differ further on, or in white space; first 2,000 of 2,500 characters")
        );
    }
}
