//! `trommel pairs`: the order of the pairs, what is shown of them, and what is asked for.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use serde_json::Value;

use crate::fixture::{Corpus, trommel};

/// Unit vectors at these angles, in degrees, with a text each.
fn vectors(prefix: &str, rows: &[(f32, &str)]) -> RecordBatch {
    let values: Vec<f32> = rows.iter().flat_map(|(degrees, _)| [degrees.to_radians().cos(), degrees.to_radians().sin()]).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let ids: Vec<String> = (0..rows.len()).map(|row| format!("{prefix}-{row}")).collect();
    let texts: Vec<&str> = rows.iter().map(|(_, text)| *text).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(StringArray::from(ids))),
        ("text", Arc::new(StringArray::from(texts))),
        ("vector", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(Float32Array::from(values)), None))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

const STAGES: &str = "  - { id: exact, exact_dedup: { columns: [text] } }
  - { id: vectors, embed: { from: vector } }
  - { id: semantic, semantic_dedup: { epsilon: 0.05 } }";

fn corpus() -> Corpus {
    let corpus = Corpus::new();
    let rows = [
        (0.0, "the drum turns and the gravel falls"),
        (17.0, "the sieve turns and the gravel falls"),
        (5.0, "the drum turns and gravel falls"),
        (90.0, "another thing altogether"),
        (90.0, "another thing altogether"),
    ];
    corpus.batch("a.parquet", &vectors("a", &rows), 2);
    corpus.batch(
        "b.parquet",
        &vectors("b", &[(10.0, "the drum turns: gravel falls"), (98.0, "another thing, \u{1b}[2Jaltogether"), (180.0, "far off")]),
        8,
    );
    corpus.pipeline(STAGES).run(&[]).ok();
    corpus
}

fn pairs(corpus: &Corpus, more: &[&str]) -> Value {
    let arguments = [&["pairs", "out", "--format", "json"], more].concat();
    serde_json::from_str(&trommel(corpus.path(), &arguments).ok().stdout).unwrap()
}

fn ids(pairs: &Value) -> Vec<(&str, &str)> {
    let pairs = pairs["pairs"].as_array().unwrap();
    pairs.iter().map(|pair| (pair["dropped"]["doc_id"].as_str().unwrap(), pair["kept"]["doc_id"].as_str().unwrap())).collect()
}

#[test]
fn pairs_are_readable_without_colour() {
    let shown = trommel(corpus().path(), &["pairs", "out"]).ok().stdout;
    assert!(!shown.contains('\u{1b}'));
    insta::assert_snapshot!(shown);
}

#[test]
fn the_pair_nearest_to_the_threshold_comes_first_and_equal_rows_last() {
    let corpus = corpus();
    let all = pairs(&corpus, &[]);
    // 17, 10, 8 and 5 degrees apart; the limit is 18.
    assert_eq!(ids(&all), [("a-1", "a-0"), ("b-0", "a-0"), ("b-1", "a-3"), ("a-2", "a-0"), ("a-4", "a-3")]);
    assert_eq!(all["found"], 5);
    let scores: Vec<f64> = all["pairs"].as_array().unwrap().iter().take(4).map(|pair| pair["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted(), "{scores:?}");
    assert_eq!(ids(&pairs(&corpus, &["-n", "2"])), ids(&all)[..2]);
    assert_eq!(ids(&pairs(&corpus, &["--stage", "exact"])), [("a-4", "a-3")]);
    assert_eq!(ids(&pairs(&corpus, &["--reason", "semantic_duplicate"])), ids(&all)[..4]);
    assert_eq!(pairs(&corpus, &["--stage", "vectors"])["found"], 0);
}

#[test]
fn differences_put_together_give_both_texts() {
    for pair in pairs(&corpus(), &[])["pairs"].as_array().unwrap() {
        for side in ["dropped", "kept"] {
            let stretches =
                pair["differences"].as_array().unwrap().iter().filter(|stretch| stretch["in"] == side || stretch["in"] == "both");
            let words: Vec<&str> = stretches.flat_map(|stretch| stretch["words"].as_str().unwrap().split(' ')).collect();
            let text: Vec<&str> = pair[side]["text"]["text"].as_str().unwrap().split_whitespace().collect();
            assert_eq!(words, text);
        }
    }
}

#[test]
fn names_that_the_run_does_not_have_are_refused() {
    let corpus = corpus();
    let failed = |more: &[&str]| trommel(corpus.path(), &[&["pairs", "out"], more].concat()).failed(2);
    assert!(failed(&["--stage", "semantics"]).contains("did you mean `semantic`?"));
    assert!(failed(&["--reason", "duplicate"]).contains("there are: exact_duplicate, semantic_duplicate"));
    failed(&["-n", "0"]);
}

#[test]
fn a_run_without_pairs_says_so() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("one"), Some("two")]);
    corpus.pipeline("  - { id: long, filter: { where: \"length(text) > 9\" } }").run(&[]).ok();
    assert_eq!(trommel(corpus.path(), &["pairs", "out"]).ok().stdout, "no row was dropped because of another one\n");
}
