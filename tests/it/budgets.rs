//! Budgets in rows, bytes and tokens, of all rows and of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::Float32Type;
use serde_json::Value;

use crate::fixture::{Corpus, Row, write_shard};

/// Row `row`'s text: words of four bytes and a space, from none to nine of them.
fn text(row: usize) -> String {
    (0..row % 10).map(|word| format!("w{:03} ", (row * 7 + word) % 1000)).collect::<Vec<_>>().concat()
}

/// Row `row`'s label: every tenth is rare, one in thirty has none.
fn label(row: usize) -> Option<&'static str> {
    match row % 30 {
        7 => None,
        0 | 10 | 20 => Some("rare"),
        other if other < 12 => Some("b"),
        _ => Some("a"),
    }
}

fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    batch_with(rows, |_| true)
}

/// The same with vectors for some rows only.
fn batch_with(rows: std::ops::Range<usize>, has_vector: impl Fn(usize) -> bool) -> RecordBatch {
    let ids: StringArray = rows.clone().map(|row| Some(format!("r{row}"))).collect();
    let texts: StringArray = rows.clone().map(|row| (row % 17 != 3).then(|| text(row))).collect();
    let labels: StringArray = rows.clone().map(label).collect();
    let vector = |row: usize| has_vector(row).then(|| vec![Some((row as f32).sin()), Some((row as f32 * 1.3).cos()), Some(0.1)]);
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows.map(vector), 3);
    let columns: [(&str, ArrayRef); 4] =
        [("id", Arc::new(ids)), ("text", Arc::new(texts)), ("label", Arc::new(labels)), ("v", Arc::new(vectors))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// 600 rows in three shards of two sources.
fn corpus() -> Corpus {
    let corpus = Corpus::new();
    write_shard(&corpus.at("one/a.parquet"), &batch(0..200), 50);
    write_shard(&corpus.at("one/b.parquet"), &batch(200..300), 7);
    write_shard(&corpus.at("two/c.parquet"), &batch(300..600), 64);
    corpus
}

fn run<'a>(corpus: &'a Corpus, stages: &str, arguments: &[&str]) -> &'a Corpus {
    let sources = "  one: { parquet: { uri: one, text: text, id: id } }\n  two: { parquet: { uri: two, text: text, id: id } }";
    corpus.pipeline_with(sources, stages, "parquet: { uri: out }").run(&[&["--overwrite"], arguments].concat()).ok();
    corpus.verify().ok();
    corpus
}

fn sample(keys: &str) -> String {
    format!("  - {{ id: some, input: [one, two], sample: {{ {keys} }} }}")
}

fn coreset(keys: &str) -> String {
    format!("  - {{ id: v, input: [one, two], embed: {{ from: v }} }}\n  - {{ id: some, prototypes: {{ {keys}, k: 5 }} }}")
}

/// The stages that choose by vectors, each with its keys beside the budget; whether they keep the beginning of one ranking.
const BY_VECTORS: [(&str, &str, bool); 10] = [
    ("redundancy_select", "", true),
    ("variance_select", "", true),
    ("k_center", "", true),
    ("facility_location", "", true),
    ("facility_location", ", k: 4", true),
    ("log_det_select", "", true),
    ("maxvol_select", ", rank: 2, tolerance: 0.001", true),
    ("density_pruning", ", k: 3, neighbors: 1", false),
    ("cluster_permanent_pruning", ", k: 3", false),
    ("codebook_select", ", k: 3", false),
];

fn by_vectors(stage: &str, keys: &str, only: &str) -> String {
    let filter = format!("  - {{ id: only, input: [one, two], filter: {{ where: \"{only}\" }} }}");
    format!("{filter}\n  - {{ id: v, embed: {{ from: v }} }}\n  - {{ id: some, {stage}: {{ {keys} }} }}")
}

fn number(row: &Row) -> usize {
    row.doc_id.as_ref().unwrap()[1..].parse().unwrap()
}

fn size(row: usize, unit: &str) -> u64 {
    let words = if row % 17 == 3 { 0 } else { row % 10 };
    if unit == "bytes" { 5 * words as u64 } else { words as u64 }
}

fn report(corpus: &Corpus) -> Value {
    corpus.manifest()["stages"].as_array().unwrap().last().unwrap()["report"].clone()
}

/// By definition: of rows in the order of their ranks those are kept up to the first that does not fit.
#[test]
fn bytes_and_tokens_end_with_the_first_row_that_does_not_fit() {
    let corpus = corpus();
    for (unit, keys, budget) in [("bytes", "keep_bytes: 2KiB", 2048), ("tokens", "keep_tokens: 500", 500)] {
        for stages in [sample(keys), coreset(keys)] {
            let lineage = run(&corpus, &stages, &[]).lineage();
            let used: u64 = lineage.iter().filter(|row| row.decision == "keep").map(|row| size(number(row), unit)).sum();
            let kept = lineage.iter().filter(|row| row.decision == "keep").count() as u64;
            let mut dropped = BTreeMap::new();
            for row in lineage.iter().filter(|row| row.decision == "drop") {
                let detail: Value = serde_json::from_str(row.detail.as_ref().unwrap()).unwrap();
                assert_eq!((detail["budget"].as_u64(), detail["unit"].as_str()), (Some(budget), Some(unit)), "{detail}");
                assert_eq!(row.reason.as_deref(), Some("not_selected"));
                dropped.insert(detail["rank"].as_u64().unwrap(), number(row));
            }
            assert!(dropped.keys().copied().eq(kept + 1..=600), "the rows that are left out are the last ones");
            assert!(used <= budget && used + size(dropped[&(kept + 1)], unit) > budget, "{unit} {used}");
            let report = report(&corpus);
            assert_eq!((report["budget"].as_u64(), report["used"].as_u64()), (Some(budget), Some(used)), "{report}");
        }
    }
}

/// The parts of the groups add up to the budget.
#[test]
fn groups_get_their_parts_exactly() {
    let corpus = corpus();
    let mut sizes = BTreeMap::new();
    for row in 0..600 {
        *sizes.entry(label(row)).or_insert(0) += 1;
    }
    assert_eq!(sizes.values().copied().collect::<Vec<usize>>(), [20, 340, 180, 60]);
    for (keys, wanted) in [
        ("keep_rows: 31, group: label", [1, 18, 9, 3]),
        ("keep_fraction: 0.5, group: label", [10, 170, 90, 30]),
        ("keep_fraction: 0.333, group: label", [7, 113, 60, 20]),
        ("keep_rows: 100, group: label, allocation: balanced", [20, 27, 27, 26]),
        ("keep_rows: 5000, group: label, allocation: balanced", [20, 340, 180, 60]),
    ] {
        for stages in [sample(keys), coreset(keys)] {
            let kept = run(&corpus, &stages, &[]).kept();
            let mut found: BTreeMap<_, usize> = sizes.keys().map(|label| (*label, 0)).collect();
            for id in kept {
                *found.get_mut(&label(id[1..].parse().unwrap())).unwrap() += 1;
            }
            assert_eq!(found.into_values().collect::<Vec<_>>(), wanted, "{stages}");
            assert_eq!(report(&corpus)["groups"], 4);
        }
    }
    for (keys, wanted) in [
        ("keep_rows: 100, per_source: true", [50, 50]),
        ("keep_fraction: 0.1, per_source: true", [30, 30]),
        ("keep_rows: 7, per_source: true, allocation: balanced", [4, 3]),
    ] {
        for stages in [sample(keys), coreset(keys)] {
            let kept = run(&corpus, &stages, &[]).kept();
            let two = kept.iter().filter(|id| id[1..].parse::<usize>().unwrap() >= 300).count();
            assert_eq!([kept.len() - two, two], wanted, "{stages}");
        }
    }
    // Both: each label of each source.
    run(&corpus, &sample("keep_rows: 80, group: label, per_source: true, allocation: balanced"), &[]);
    assert_eq!((corpus.kept().len(), report(&corpus)["groups"].as_u64()), (80, Some(8)));
}

/// Each group is chosen from as if it were alone, with its part of the budget.
#[test]
fn groups_are_chosen_from_one_by_one() {
    let corpus = corpus();
    let kept = |stages: &str| run(&corpus, stages, &[]).kept().into_iter().collect::<BTreeSet<String>>();
    for (stage, keys, _) in BY_VECTORS {
        let found = kept(&by_vectors(stage, &format!("keep_rows: 62, group: label{keys}"), "true"));
        let report = report(&corpus);
        assert_eq!((report["groups"].as_u64(), report["by_group"].as_array().unwrap().len()), (Some(4), 4), "{report}");
        let mut wanted = BTreeSet::new();
        for (rows, only) in [(2, "label is null"), (35, "label = 'a'"), (19, "label = 'b'"), (6, "label = 'rare'")] {
            wanted.extend(kept(&by_vectors(stage, &format!("keep_rows: {rows}{keys}"), only)));
        }
        assert_eq!(found, wanted, "{stage}{keys}");
    }
}

/// A budget in bytes or tokens keeps what a budget of so many rows keeps, and the next row would not fit.
#[test]
fn the_ranking_by_vectors_is_cut_where_the_budget_ends() {
    let corpus = corpus();
    for (stage, keys, one_ranking) in BY_VECTORS {
        for (unit, budget, key) in [("bytes", 700, "keep_bytes: 700B"), ("tokens", 150, "keep_tokens: 150")] {
            let kept = |budget: &str| {
                let ids = run(&corpus, &by_vectors(stage, &format!("{budget}{keys}"), "true"), &[]).kept();
                ids.into_iter().map(|id| id[1..].parse::<usize>().unwrap()).collect::<BTreeSet<usize>>()
            };
            let takes = |rows: &BTreeSet<usize>| rows.iter().map(|row| size(*row, unit)).sum::<u64>();
            let found = kept(key);
            let report = report(&corpus);
            let used = takes(&found);
            assert_eq!((report["budget"].as_u64(), report["used"].as_u64()), (Some(budget), Some(used)), "{stage}{keys} {report}");
            assert!(used <= budget, "{stage}{keys} {used}");
            if one_ranking {
                assert_eq!(found, kept(&format!("keep_rows: {}", found.len())), "{stage}{keys}");
                assert!(takes(&kept(&format!("keep_rows: {}", found.len() + 1))) > budget, "{stage}{keys}");
            } else {
                // What the clusters leave goes to the first rows of all.
                assert!(used + size(9, unit) > budget, "{stage}{keys} {used}");
            }
        }
    }
}

/// Rows without vectors lie in one group: kept, they use the budget up first; dropped, they use none of it up. It is met exactly all the same.
#[test]
fn rows_that_cannot_be_chosen_change_no_total() {
    let corpus = Corpus::new();
    let sound = |row: usize| label(row) != Some("b") || row > 200;
    write_shard(&corpus.at("one/a.parquet"), &batch_with(0..300, sound), 50);
    write_shard(&corpus.at("two/b.parquet"), &batch_with(300..600, sound), 50);
    let bad = (0..600).filter(|row| !sound(*row)).count();
    assert_eq!(bad, 63);
    for (stage, keys, _) in BY_VECTORS.into_iter().chain([("prototypes", ", k: 3", true)]) {
        for groups in ["", ", group: label", ", group: label, per_source: true, allocation: balanced"] {
            for (policy, kept_bad) in [("keep", bad), ("drop", 0)] {
                let keys = format!("keep_rows: 90, on_bad_vector: {policy}{groups}{keys}");
                let kept = run(&corpus, &by_vectors(stage, &keys, "true"), &[]).kept();
                let of_bad = kept.iter().filter(|id| !sound(id[1..].parse().unwrap())).count();
                assert_eq!((kept.len(), of_bad), (90, kept_bad), "{stage} {keys}");
            }
        }
    }
}

#[test]
fn neither_threads_nor_batches_nor_row_groups_move_a_byte() {
    let corpus = corpus();
    for keys in ["keep_bytes: 2KiB", "keep_tokens: 300, group: label", "keep_fraction: 0.4, group: label, per_source: true"] {
        for stages in [sample(keys), coreset(keys)] {
            let mut hashes = BTreeSet::new();
            for arguments in [["--threads", "1", "--batch-rows", "8192"], ["--threads", "2", "--batch-rows", "100"]] {
                let _ = std::fs::remove_dir_all(corpus.at(".trommel"));
                hashes.insert(run(&corpus, &stages, &arguments).tree_hash().to_string());
            }
            assert_eq!(hashes.len(), 1, "{stages}");
        }
    }
}

#[test]
fn a_group_column_that_is_nested_and_a_missing_text_are_refused() {
    let corpus = corpus();
    let source = "  one: { parquet: { uri: one, id: id } }";
    let failed = |keys: &str| {
        let stages = format!("  - {{ id: some, sample: {{ {keys} }} }}");
        corpus.pipeline_with(source, &stages, "parquet: { uri: out }").run(&["--overwrite"]).failed(3)
    };
    assert!(failed("keep_rows: 3, group: v").contains("grouped by a nested column"));
    assert!(failed("keep_rows: 3, group: labl").contains("did you mean `label`?"));
}
