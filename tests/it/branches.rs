//! Pipelines with branches: a row may be dropped on several of them, and each chain of representatives stays on a way down to its end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use trommel::random::{Random, Sequence};

use crate::fixture::{Corpus, Row, trommel};

/// The drops of a lineage row, main one first: stage, reason, and the row of `a.parquet` that it names.
fn drops(row: &Row) -> Vec<(String, String, Option<u64>)> {
    let Some(stage) = row.stage.clone() else { return Vec::new() };
    let detail: Value = row.detail.as_deref().map_or(Value::Null, |detail| serde_json::from_str(detail).unwrap());
    let also = detail.get("also").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |drop: &Value, key: &str| drop[key].as_str().unwrap().to_owned();
    std::iter::once((stage, row.reason.clone().unwrap(), row.kept.as_ref().map(|(_, row)| *row)))
        .chain(also.iter().map(|drop| (text(drop, "stage"), text(drop, "reason"), drop.get("kept_row").map(|row| row.as_u64().unwrap()))))
        .collect()
}

/// Stage and document id of each step of a row's chain, as `why` tells it.
fn chain(corpus: &Corpus, id: &str) -> Vec<(Option<String>, String)> {
    let shown = trommel(corpus.path(), &["why", "out", "--id", id, "--format", "json"]).ok().stdout;
    let json: Value = serde_json::from_str(&shown).unwrap();
    let step = |step: &Value| (step["stage"].as_str().map(str::to_owned), step["doc_id"].as_str().unwrap().to_owned());
    json["rows"][0]["chain"].as_array().unwrap().iter().map(step).collect()
}

fn step(stage: &str, id: &str) -> (Option<String>, String) {
    ((!stage.is_empty()).then(|| stage.to_owned()), id.to_owned())
}

/// `first` names a-0 for a-1, `last` names a-1 for a-0; each survivor is filtered below.
#[test]
fn stages_that_name_each_others_survivors_make_no_circle() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("dup"), Some("dup"), Some("other")]);
    let stages = "  - { id: first, input: c, exact_dedup: { columns: [text] } }
  - { id: left, input: first, filter: { where: \"text <> 'dup'\" } }
  - { id: last, input: c, exact_dedup: { columns: [text], keep: last } }
  - { id: right, input: last, filter: { where: \"text <> 'dup'\" } }
  - { id: end, input: [left, right], filter: { where: \"true\" } }";
    corpus.pipeline(stages).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-2"]);
    let lineage = corpus.lineage();
    assert_eq!((lineage[0].kept.as_ref().unwrap().1, lineage[1].kept.as_ref().unwrap().1), (1, 0));
    assert_eq!(chain(&corpus, "a-0"), [step("last", "a-0"), step("right", "a-1")]);
    assert_eq!(chain(&corpus, "a-1"), [step("first", "a-1"), step("left", "a-0")]);
    corpus.verify().ok();
}

/// `beside` comes first in the file, so that the columns of a-0 tell of it; its drop by `lower` stands in the detail.
fn detailed() -> Corpus {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("dup"), Some("dup"), Some("DUP")]);
    let stages = "  - { id: beside, input: c, exact_dedup: { columns: [text], keep: last } }
  - { id: none, input: beside, filter: { where: \"text = 'nothing'\" } }
  - { id: first, input: c, exact_dedup: { columns: [text] } }
  - { id: lower, input: first, exact_dedup: { columns: [text], normalize: [lowercase], keep: last } }
  - { id: end, input: [none, lower], filter: { where: \"true\" } }";
    corpus.pipeline(stages).run(&[]).ok();
    corpus
}

#[test]
fn a_chain_follows_a_drop_that_stands_in_the_detail() {
    let corpus = detailed();
    assert_eq!(corpus.kept(), ["a-2"]);
    let detail: Value = serde_json::from_str(corpus.lineage()[0].detail.as_deref().unwrap()).unwrap();
    let lower = json!({
        "kept_row": 2, "kept_shard": "a.parquet", "kept_source": "c", "reason": "exact_duplicate", "score": 1.0, "stage": "lower",
    });
    assert_eq!(detail, json!({"also": [lower]}));
    assert_eq!(chain(&corpus, "a-0"), [step("beside", "a-0"), step("none", "a-1")]);
    assert_eq!(chain(&corpus, "a-1"), [step("first", "a-1"), step("lower", "a-0"), step("", "a-2")]);
    insta::assert_snapshot!(trommel(corpus.path(), &["why", "out", "--id", "a-1"]).ok().stdout);
    // `copies` counts the rows that name it in their columns.
    assert_eq!(corpus.lineage().iter().map(|row| row.copies).collect::<Vec<_>>(), [1, 1, 0]);
    corpus.verify().ok();
}

#[test]
fn verify_refuses_a_chain_that_does_not_end() {
    let corpus = detailed();
    let detail = corpus.lineage()[0].detail.clone().unwrap();
    let with = |detail: Option<String>| {
        corpus.edit_lineage("detail", |row, old| if row == 0 { detail.clone() } else { old });
        let ran = corpus.verify();
        (ran.code, ran.stdout)
    };
    let said = with(None);
    assert!(
        said.0 == 4 && said.1.contains("was not kept by the stage that names it row=`a.parquet:1` names row=`a.parquet:0`"),
        "{said:?}"
    );
    let shown = trommel(corpus.path(), &["why", "out", "--id", "a-1"]).ok().stdout;
    assert!(shown.contains("did not keep") && shown.contains("trommel verify"), "{shown}");
    let said = with(Some(r#"{"also":[{"reason":"exact_duplicate","stage":"lower"}]}"#.into()));
    assert!(said.0 == 4 && said.1.contains("a chain ends in a duplicate that names no row"), "{said:?}");
    // A drop that names a row which its stage did not keep, on a branch that only the detail tells of.
    let said = with(Some(detail.replace("\"kept_row\":2", "\"kept_row\":1")));
    assert!(
        said.0 == 4 && said.1.contains("was not kept by the stage that names it row=`a.parquet:0` names row=`a.parquet:1`"),
        "{said:?}"
    );
    assert_eq!(with(Some(detail)), (0, corpus.verify().stdout));
}

/// A stage of a random graph.
#[derive(Debug)]
struct Stage {
    /// 0 is the source, n the stage n - 1.
    inputs: BTreeSet<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Equal in this column; keeps the first or the last.
    Dedup { column: usize, last: bool },
    /// Drops rows with this value in this column.
    Filter { column: usize, value: u64 },
    /// Lets all through.
    Union,
}

const COLUMNS: [&str; 2] = ["text", "other"];

fn graph(draws: &mut Sequence) -> Vec<Stage> {
    let mut below = |bound: u64| draws.next_u64() % bound;
    let count = 3 + below(6) as usize;
    let mut stages: Vec<Stage> = (0..count)
        .map(|stage| {
            let inputs = (0..=below(2)).map(|_| below(stage as u64 + 1) as usize).collect();
            let column = below(2) as usize;
            let kind = match below(4) {
                0 => Kind::Filter { column, value: below(4) },
                other => Kind::Dedup { column, last: other == 1 },
            };
            Stage { inputs, kind }
        })
        .collect();
    let used: BTreeSet<usize> = stages.iter().flat_map(|stage| stage.inputs.clone()).collect();
    let ends = (1..=count).filter(|stage| !used.contains(stage)).collect();
    stages.push(Stage { inputs: ends, kind: Kind::Union });
    stages
}

fn yaml(stages: &[Stage]) -> String {
    let name = |node: usize| if node == 0 { "c".to_owned() } else { format!("s{}", node - 1) };
    let one = |(index, stage): (usize, &Stage)| {
        let inputs: Vec<String> = stage.inputs.iter().map(|input| name(*input)).collect();
        let kind = match stage.kind {
            Kind::Dedup { column, last } => {
                format!("exact_dedup: {{ columns: [{}], keep: {} }}", COLUMNS[column], if last { "last" } else { "first" })
            }
            Kind::Filter { column, value } => format!("filter: {{ where: \"{} <> '{value}'\" }}", COLUMNS[column]),
            Kind::Union => "filter: { where: \"true\" }".to_owned(),
        };
        format!("  - {{ id: s{index}, input: [{}], {kind} }}", inputs.join(", "))
    };
    stages.iter().enumerate().map(one).collect::<Vec<_>>().join("\n")
}

/// What a stage drops, each row with the row that is kept instead.
type Dropped = BTreeMap<usize, Option<u64>>;

/// The definition: sets of rows. What the source and each stage let through, and what each stage drops.
fn carry_out(stages: &[Stage], rows: &[[u64; 2]]) -> (Vec<BTreeSet<usize>>, Vec<Dropped>) {
    let mut through: Vec<BTreeSet<usize>> = vec![(0..rows.len()).collect()];
    let mut dropped = Vec::new();
    for stage in stages {
        let seen: BTreeSet<usize> = stage.inputs.iter().flat_map(|input| through[*input].clone()).collect();
        let drops: Dropped = match stage.kind {
            Kind::Union => Dropped::new(),
            Kind::Filter { column, value } => seen.iter().filter(|row| rows[**row][column] == value).map(|row| (*row, None)).collect(),
            Kind::Dedup { column, last } => {
                let kept = |row: usize| {
                    let mut equal = seen.iter().filter(|other| rows[**other][column] == rows[row][column]);
                    *if last { equal.next_back() } else { equal.next() }.unwrap()
                };
                seen.iter().filter(|row| kept(**row) != **row).map(|row| (*row, Some(kept(*row) as u64))).collect()
            }
        };
        through.push(seen.into_iter().filter(|row| !drops.contains_key(row)).collect());
        dropped.push(drops);
    }
    (through, dropped)
}

/// Whether stage `low` stands below stage `high`.
fn is_below(stages: &[Stage], low: usize, high: usize) -> bool {
    stages[low].inputs.iter().any(|input| *input > 0 && (input - 1 == high || is_below(stages, input - 1, high)))
}

#[test]
fn every_chain_of_a_random_graph_ends_well() {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use std::sync::Arc;
    let (mut detoured, mut long) = (0, 0);
    for seed in 0..24 {
        let mut draws = Random::new(seed, "branches").sequence(b"graph");
        let stages = graph(&mut draws);
        let rows: Vec<[u64; 2]> = (0..40).map(|_| [draws.next_u64() % 9, draws.next_u64() % 5]).collect();
        let texts = |column: usize| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[column].to_string()))) };
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows.len()).map(|row| format!("a-{row}"))));
        let corpus = Corpus::new();
        corpus.batch("a.parquet", &RecordBatch::try_from_iter([("id", ids), ("text", texts(0)), ("other", texts(1))]).unwrap(), 7);
        corpus.pipeline(&yaml(&stages)).run(&[]).ok();
        corpus.verify().ok();
        let (through, dropped) = carry_out(&stages, &rows);
        let lineage = corpus.lineage();
        let found: Vec<_> = lineage.iter().map(drops).collect();
        for (row, found) in found.iter().enumerate() {
            let mut wanted: Vec<(String, Option<u64>)> = Vec::new();
            if !through[stages.len()].contains(&row) {
                wanted.extend(dropped.iter().enumerate().filter_map(|(stage, drops)| Some((format!("s{stage}"), *drops.get(&row)?))));
                let main = wanted.iter().position(|(_, kept)| kept.is_some()).unwrap_or(0);
                wanted[..=main].rotate_right(1);
            }
            let found: Vec<_> = found.iter().map(|(stage, _, kept)| (stage.clone(), *kept)).collect();
            assert_eq!(found, wanted, "seed {seed} row {row}\n{}", yaml(&stages));
        }
        let place = |stage: &str| stage[1..].parse::<usize>().unwrap();
        for (row, drops) in found.iter().enumerate() {
            for start in drops {
                let (mut at, mut steps) = (start, 0);
                while let Some(kept) = at.2 {
                    steps += 1;
                    assert!(steps <= stages.len(), "seed {seed} row {row}: a circle");
                    let next = &found[kept as usize];
                    if next.is_empty() {
                        break;
                    }
                    let below: Vec<_> = next.iter().filter(|drop| is_below(&stages, place(&drop.0), place(&at.0))).collect();
                    detoured += usize::from(below.first().is_some_and(|drop| drop.0 != next[0].0));
                    at = below.iter().find(|drop| drop.2.is_some()).or(below.first()).expect("a drop below");
                }
                assert!(at.2.is_some() || at.1 == "filtered", "seed {seed} row {row}: ends as {}", at.1);
                long = long.max(steps);
            }
            // `why` goes the same way.
            if row % 13 == 0 {
                let shown = chain(&corpus, &format!("a-{row}"));
                assert!(shown.len() <= stages.len() + 1);
                let end = shown.last().unwrap().0.as_deref();
                assert!(end.is_none_or(|end| !matches!(stages[place(end)].kind, Kind::Dedup { .. })), "{shown:?}");
            }
        }
    }
    assert!(detoured > 20 && long > 2, "the graphs do branch: {detoured} {long}");
}
