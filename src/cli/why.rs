//! `trommel why`: the chain of decisions from a row down to the row that was kept.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::evidence::{Dropped, Evidence, Kept, Line, Lines, Text};
use super::excerpt::printable;
use super::{Format, Global, output};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::ids::RowId;
use crate::state::chain::Stages;
use crate::state::manifest::InputShard;
use crate::telemetry::count;

/// Rows of one id that are shown.
const SHOWN_ROWS: usize = 20;
/// Ids that are compared with one that is not there.
const COMPARED_IDS: u64 = 1 << 20;
/// Ids that are offered instead.
const OFFERED_IDS: usize = 3;

/// Arguments of `why`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel why out/quickstart --id verse/YLT/nt7257
  trommel why out/quickstart --row verses-0.parquet:17
  trommel why out/quickstart --row part-0.parquet:17 --source crawl --format json

Where there are several sources, --row also takes SOURCE/SHARD:N, as `pairs` and `verify` name rows.
Of the reasons of a row that several branches dropped, that one comes first which the chain follows.
Texts are read from the shards where the run found them (run.json), or below --root if they have moved there.
A text is shown only if its shard is byte for byte what the run read.")]
#[command(group = clap::ArgGroup::new("which").required(true).args(["id", "row"]))]
pub struct WhyArguments {
    /// The folder of the dataset
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The document's id, as the column that the source declares as `id` holds it; all rows that have it are shown
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// A shard as lineage names it, and a row in it, from 0
    #[arg(long, value_name = "SHARD:N", value_parser = shard_row)]
    row: Option<(String, u64)>,
    /// Only rows of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
}

fn shard_row(text: &str) -> Result<(String, u64), String> {
    let wrong = || "write SHARD:N, such as `part-0.parquet:17`".to_owned();
    let (shard, row) = text.rsplit_once(':').ok_or_else(wrong)?;
    Ok((shard.to_owned(), row.parse().map_err(|_| wrong())?))
}

/// Why a chain ends where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// At a row that names no other.
    Row,
    /// At a row that another run kept.
    OtherRun(String),
    /// At a row that no stage below the one that names it dropped, and that is not kept: the lineage is damaged.
    Broken,
}

/// A row, the row that it names, and so on. Each line has that drop first which the chain follows.
#[derive(Debug, Clone, PartialEq)]
struct Chain {
    lines: Vec<Line>,
    end: End,
}

/// Runs the command.
pub(crate) fn why(arguments: &WhyArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let evidence = Evidence::open(&arguments.output, global)?;
    check_source(&evidence, arguments.source.as_deref())?;
    let source = arguments.source.as_deref();
    let (rows, found) = match (&arguments.id, &arguments.row) {
        (Some(id), _) => with_id(&evidence, id, source)?,
        (None, Some((shard, row))) => (vec![at(&evidence, shard, *row, source)?], 1),
        (None, None) => return Err(Error::usage("which row is meant?").hint("name it with --id ID or --row SHARD:N")),
    };
    let chains = rows.iter().map(|row| follow(&evidence, *row)).collect::<Result<Vec<Chain>>>()?;
    let shown: BTreeSet<RowId> = chains.iter().flat_map(|chain| chain.lines.iter().map(|line| line.row)).collect();
    let texts = evidence.texts(&shown)?;
    let text_of = |row: RowId| texts.get(&row).cloned().unwrap_or_else(|| Text::Hidden("the shard has no such row".into()));
    match global.format {
        Format::Json => {
            let chains = chains.iter().map(|chain| chain_json(&evidence, chain, &text_of)).collect::<Result<Vec<Value>>>()?;
            output::json(out, &json!({"found": found, "rows": chains}))
        }
        Format::Text => {
            let mut text = String::new();
            for (index, chain) in chains.iter().enumerate() {
                if index > 0 {
                    text.push('\n');
                }
                text.push_str(&chain_text(&evidence, chain, &text_of)?);
            }
            if found > rows.len() as u64 {
                let _ = writeln!(text, "\n{} more rows have this id", count(found - rows.len() as u64));
            }
            output::text(out, &text)
        }
    }
}

fn check_source(evidence: &Evidence, source: Option<&str>) -> Result<()> {
    let Some(source) = source else { return Ok(()) };
    let sources: BTreeSet<&str> = evidence.manifest().inputs.iter().map(|input| input.source.as_str()).collect();
    if sources.contains(source) {
        return Ok(());
    }
    let names = sources.into_iter().collect::<Vec<_>>().join(", ");
    Err(Error::usage(format!("the run has no such source source=`{source}`")).hint(format!("sources: {names}")))
}

/// The row `row` of the shard that lineage calls `shard`.
fn at(evidence: &Evidence, shard: &str, row: u64, source: Option<&str>) -> Result<RowId> {
    let inputs = &evidence.manifest().inputs;
    let of_source = || inputs.iter().enumerate().filter(move |(_, input)| source.is_none_or(|source| input.source == source));
    let is_named = |input: &InputShard| {
        let below = shard.strip_prefix(input.source.as_str()).and_then(|rest| rest.strip_prefix('/'));
        input.shard == shard || below == Some(input.shard.as_str())
    };
    let mut named = of_source().filter(|(_, input)| is_named(input));
    match (named.next(), named.next()) {
        (Some((_, first)), Some((_, second))) => Err(Error::usage(format!("several sources have a shard of this name shard=`{shard}`"))
            .hint(format!("name one with --source: `--source {}` or `--source {}`", first.source, second.source))),
        (Some((_, input)), None) if row >= input.rows => {
            let last = input.rows.checked_sub(1);
            let hint = last.map_or_else(|| "it has no row".to_owned(), |last| format!("its rows are 0 to {last}"));
            Err(Error::input(format!("the run read no such row of the shard shard=`{shard}` row=`{row}`")).hint(hint))
        }
        (Some((ordinal, _)), None) => Evidence::row(ordinal, row),
        (None, _) => {
            let ends = of_source().map(|(_, input)| input.shard.as_str()).find(|name| shard.ends_with(&format!("/{name}")));
            let near = ends.or_else(|| nearest(shard, of_source().map(|(_, input)| input.shard.as_str())));
            let some = of_source().map(|(_, input)| input.shard.as_str()).take(OFFERED_IDS).collect::<Vec<_>>().join(", ");
            let hint = near.map_or_else(
                || format!("lineage names shards by their path below the source's folder, such as {some}"),
                |near| format!("did you mean `{near}`?"),
            );
            Err(Error::input(format!("the run read no such shard shard=`{shard}`")).hint(hint))
        }
    }
}

/// The first rows with this id, and how many there are.
fn with_id(evidence: &Evidence, id: &str, source: Option<&str>) -> Result<(Vec<RowId>, u64)> {
    let (mut rows, mut found, mut any_id) = (Vec::new(), 0, false);
    for_each_id(evidence, source, |row, doc_id| {
        any_id = true;
        if doc_id == id {
            found += 1;
            if rows.len() < SHOWN_ROWS {
                rows.push(row);
            }
        }
        true
    })?;
    if found > 0 {
        return Ok((rows, found));
    }
    let error = Error::input(format!("no row has this id id=`{id}`"));
    if !any_id {
        return Err(error.hint("the sources declare no `id` column: name the row with --row SHARD:N"));
    }
    let near = near_ids(evidence, id, source)?;
    Err(if near.is_empty() {
        error.hint("ids are compared byte by byte, case included")
    } else {
        error.hint(format!("the nearest: {}", near.join(", ")))
    })
}

/// Goes over the ids of all rows, in the order of the corpus, until `visit` says `false`.
fn for_each_id(evidence: &Evidence, source: Option<&str>, mut visit: impl FnMut(RowId, &str) -> bool) -> Result<()> {
    let inputs = evidence.manifest().inputs.iter().enumerate();
    for (ordinal, input) in inputs.filter(|(_, input)| source.is_none_or(|source| input.source == source)) {
        let mut row = 0;
        for batch in evidence.batches(input, &["doc_id"])? {
            let batch = batch?;
            let lines = Lines::try_new(&batch)?;
            for index in 0..batch.num_rows() {
                if let Some(doc_id) = lines.text("doc_id", index)
                    && !visit(Evidence::row(ordinal, row)?, doc_id)
                {
                    return Ok(());
                }
                row += 1;
            }
        }
    }
    Ok(())
}

/// Ids that begin with `id`, else those that differ in few letters, nearest first.
fn near_ids(evidence: &Evidence, id: &str, source: Option<&str>) -> Result<Vec<String>> {
    let wanted = id.to_lowercase();
    let length = wanted.chars().count();
    let mut near: BTreeSet<(usize, String)> = BTreeSet::new();
    let mut compared = 0;
    for_each_id(evidence, source, |_, doc_id| {
        compared += 1;
        let other = doc_id.to_lowercase();
        let other_length = other.chars().count();
        let limit = 1 + length.max(other_length) / 4;
        let distance = if length >= 3 && other.starts_with(&wanted) {
            Some(0)
        } else if other_length.abs_diff(length) <= limit {
            Some(strsim::osa_distance(&wanted, &other)).filter(|distance| *distance <= limit)
        } else {
            None
        };
        if let Some(distance) = distance {
            near.insert((distance, printable(doc_id)));
            if near.len() > OFFERED_IDS {
                near.pop_last();
            }
        }
        compared < COMPARED_IDS
    })?;
    Ok(near.into_iter().map(|(_, doc_id)| format!("`{doc_id}`")).collect())
}

/// Follows a row to the end of its chain, which only moves downstream.
fn follow(evidence: &Evidence, row: RowId) -> Result<Chain> {
    let stages = Stages::read(&evidence.manifest().plan)?;
    let mut lines: Vec<Line> = Vec::new();
    let mut next = row;
    // The stage that names the next row as kept.
    let mut by: Option<usize> = None;
    let end = loop {
        let mut line = evidence.line(next)?;
        if let Some(by) = by
            && line.decision != "keep"
        {
            let drops = line.drops.iter().map(|drop| Ok((stages.place(&drop.stage)?, drop.kept.is_some()))).collect::<Result<Vec<_>>>()?;
            let Some(followed) = stages.followed(drops.into_iter(), by) else {
                lines.push(line);
                break End::Broken;
            };
            line.drops[..=followed].rotate_right(1);
        }
        let drop = line.drops.first().cloned();
        lines.push(line);
        match drop.and_then(|drop| Some((drop.stage, drop.kept?))) {
            None => break End::Row,
            Some((stage, kept)) => match &kept.run_id {
                Some(run) if *run != evidence.manifest().run_id => break End::OtherRun(run.clone()),
                _ => (next, by) = (evidence.kept_row(&kept)?, Some(stages.place(&stage)?)),
            },
        }
    };
    Ok(Chain { lines, end })
}

fn chain_json(evidence: &Evidence, chain: &Chain, text_of: &dyn Fn(RowId) -> Text) -> Result<Value> {
    let kept = |kept: &Kept| {
        json!({
            "source": kept.source, "shard": kept.shard, "row": kept.row, "doc_id": kept.doc_id, "run_id": kept.run_id,
        })
    };
    let also = |drop: &Dropped| {
        json!({
            "detail": drop.detail.as_deref().map(detail_json),
            "kept": drop.kept.as_ref().map(kept),
            "reason": drop.reason,
            "score": drop.score,
            "stage": drop.stage,
        })
    };
    let one = |line: &Line| -> Result<Value> {
        let input = evidence.input(line.row)?;
        let drop = line.drops.first();
        Ok(json!({
            "also": line.drops.iter().skip(1).map(also).collect::<Vec<_>>(),
            "copies": line.copies,
            "decision": line.decision,
            "detail": line.detail().map(detail_json),
            "doc_id": line.doc_id,
            "kept": line.kept().map(kept),
            "reason": drop.map(|drop| &drop.reason),
            "row": line.row.row(),
            "score": drop.and_then(|drop| drop.score),
            "shard": input.shard,
            "source": input.source,
            "stage": drop.map(|drop| &drop.stage),
            "text": text_of(line.row).json(),
        }))
    };
    Ok(json!({"chain": chain.lines.iter().map(one).collect::<Result<Vec<_>>>()?}))
}

/// The detail as the object that it is; as text if it is damaged.
pub(crate) fn detail_json(detail: &str) -> Value {
    serde_json::from_str(detail).unwrap_or_else(|_| Value::String(detail.to_owned()))
}

fn chain_text(evidence: &Evidence, chain: &Chain, text_of: &dyn Fn(RowId) -> Text) -> Result<String> {
    let mut text = String::new();
    for (index, line) in chain.lines.iter().enumerate() {
        // Writing to a string cannot fail.
        if index > 0 {
            let _ = writeln!(text, "which duplicates");
        }
        let input = evidence.input(line.row)?;
        let _ = write!(text, "{}:{}", printable(&input.shard), line.row.row());
        if let Some(doc_id) = &line.doc_id {
            let _ = write!(text, "  id `{}`", printable(doc_id));
        }
        let _ = writeln!(text, "  source `{}`", input.source);
        let _ = writeln!(text, "  {}", decision(line));
        for drop in line.drops.iter().skip(1) {
            let label = |kept: &Kept| match &kept.run_id {
                Some(run) => Ok(format!("{}:{} of the run `{}`", printable(&kept.shard), kept.row, printable(run))),
                None => evidence.label(evidence.kept_row(kept)?),
            };
            let of = drop.kept.as_ref().map(label).transpose()?;
            let of = of.map(|label| format!(", for {label}")).unwrap_or_default();
            let _ = writeln!(text, "  on another branch dropped{}{of}", reason(drop));
        }
        if let Some(detail) = line.detail() {
            let _ = writeln!(text, "  detail {}", printable(detail));
        }
        match text_of(line.row) {
            Text::Shown(excerpt) => {
                let _ = writeln!(text, "  text, {}:", excerpt.length());
                text.push_str(&excerpt.block("    "));
            }
            Text::Null => {
                let _ = writeln!(text, "  text is null");
            }
            Text::Hidden(why) => {
                let _ = writeln!(text, "  text not shown: {}", printable(&why));
            }
        }
    }
    match (&chain.end, chain.lines.last().and_then(Line::kept)) {
        (End::OtherRun(run), Some(kept)) => {
            let id = kept.doc_id.as_ref().map(|id| format!("  id `{}`", printable(id))).unwrap_or_default();
            let _ = writeln!(text, "which duplicates {}:{}{id} of the run `{}`", printable(&kept.shard), kept.row, printable(run));
            let _ = writeln!(text, "  `trommel state history` says which dataset that run left: ask `why` there");
        }
        (End::Broken, _) => {
            let _ = writeln!(text, "which the stage that names it did not keep: `trommel verify` says what is wrong with the lineage");
        }
        _ => {}
    }
    Ok(text)
}

/// What became of a row, in one line.
fn decision(line: &Line) -> String {
    let copies = match line.copies {
        0 => String::new(),
        1 => ", 1 row names it".to_owned(),
        copies => format!(", {} rows name it", count(copies)),
    };
    let word = match line.decision.as_str() {
        "keep" => "kept",
        "drop" => "dropped",
        "reject" => "rejected",
        other => other,
    };
    format!("{}{}{copies}", printable(word), line.drops.first().map(reason).unwrap_or_default())
}

/// Why a row was dropped, in few words.
fn reason(drop: &Dropped) -> String {
    let score = drop.score.map(|score| format!(", score {}", score_text(score))).unwrap_or_default();
    format!(" by `{}`: {}{score}", printable(&drop.stage), printable(&drop.reason))
}

/// A score as people read it: six places behind the point, trailing zeros left out.
pub(crate) fn score_text(score: f64) -> String {
    let text = format!("{score:.6}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short.is_empty() || short == "-0" { "0".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_by_shard_and_number() {
        assert_eq!(shard_row("a/b:c.parquet:17"), Ok(("a/b:c.parquet".into(), 17)));
        for wrong in ["a.parquet", "a.parquet:", "a.parquet:-1", "a.parquet:x", ""] {
            assert!(shard_row(wrong).unwrap_err().contains("SHARD:N"), "{wrong}");
        }
    }

    #[test]
    fn scores_are_short() {
        assert_eq!([1.0, 0.93, 0.933_333_333, 0.0, -0.0, -0.5].map(score_text), ["1", "0.93", "0.933333", "0", "0", "-0.5"]);
    }
}
