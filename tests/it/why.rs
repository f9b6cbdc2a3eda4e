//! `trommel why`: the chain of a row, by id and by place, and what it says when a text cannot be shown.

use std::fs;

use serde_json::Value;

use crate::fixture::{Corpus, texts, trommel, write_shard};

/// Two stages, so that a chain has two steps: equal bytes keep the first, equal words the last. What is short is filtered.
const STAGES: &str = "  - { id: exact, exact_dedup: { columns: [text] } }
  - { id: words, exact_dedup: { columns: [text], normalize: [lowercase, collapse_whitespace], keep: last } }
  - { id: long, filter: { where: \"length(text) > 3\" } }";

fn corpus() -> Corpus {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("The trommel\nturns"), Some("The trommel\nturns"), None, Some("abc")]);
    corpus.shard("b.parquet", &[Some("the  TROMMEL turns"), Some("abc"), Some("gravel \u{1b}[31mred")]);
    corpus.pipeline(STAGES).run(&[]).ok();
    corpus
}

fn why(corpus: &Corpus, more: &[&str]) -> String {
    let mut arguments = vec!["why", "out"];
    arguments.extend(more);
    trommel(corpus.path(), &arguments).ok().stdout
}

#[test]
fn a_chain_goes_down_to_the_kept_row() {
    let corpus = corpus();
    insta::assert_snapshot!(why(&corpus, &["--id", "a-1"]));
    assert_eq!(why(&corpus, &["--row", "a.parquet:1"]), why(&corpus, &["--id", "a-1", "--source", "c"]));
    let json: Value = serde_json::from_str(&why(&corpus, &["--id", "a-1", "--format", "json"])).unwrap();
    let chain = json["rows"][0]["chain"].as_array().unwrap();
    let step = |index: usize, key: &str| chain[index][key].clone();
    assert_eq!(chain.len(), 3);
    assert_eq!([step(0, "stage"), step(1, "stage"), step(2, "stage")], ["exact".into(), "words".into(), Value::Null]);
    assert_eq!(step(0, "kept")["doc_id"], "a-0");
    assert_eq!((step(2, "decision"), step(2, "shard"), step(2, "row")), ("keep".into(), "b.parquet".into(), 0.into()));
    assert_eq!(step(2, "text")["text"], "the  TROMMEL turns");
}

#[test]
fn a_chain_may_end_at_a_row_that_a_filter_dropped() {
    let shown = why(&corpus(), &["--id", "b-1"]);
    assert!(shown.contains("dropped by `exact`: exact_duplicate"), "{shown}");
    assert!(shown.contains("which duplicates\na.parquet:3"), "{shown}");
    assert!(shown.contains("dropped by `long`: filtered"), "{shown}");
}

#[test]
fn texts_give_the_terminal_no_orders_and_nulls_are_said() {
    let corpus = corpus();
    assert!(why(&corpus, &["--id", "b-2"]).contains("| gravel \\u{1b}[31mred\n"));
    assert!(why(&corpus, &["--id", "a-2"]).contains("text is null"));
}

#[test]
fn all_rows_of_an_id_are_shown() {
    let corpus = Corpus::new();
    for name in ["a.parquet", "b.parquet"] {
        write_shard(&corpus.at("in").join(name), &texts("same-", &[Some(name), Some("x")]), 2);
    }
    corpus.pipeline(STAGES).run(&[]).ok();
    let shown = why(&corpus, &["--id", "same-0"]);
    assert!(shown.contains("a.parquet:0") && shown.contains("b.parquet:0"), "{shown}");
}

#[test]
fn what_is_not_there_is_said_with_the_nearest() {
    let corpus = corpus();
    let failed = |more: &[&str], code: i32| {
        let mut arguments = vec!["why", "out"];
        arguments.extend(more);
        trommel(corpus.path(), &arguments).failed(code)
    };
    let said = failed(&["--id", "a-11"], 3);
    assert!(said.contains("no row has this id") && said.contains("`a-1`"), "{said}");
    assert!(failed(&["--row", "a.parquet:4"], 3).contains("its rows are 0 to 3"));
    assert!(failed(&["--row", "in/b.parquet:0"], 3).contains("did you mean `b.parquet`?"));
    assert!(failed(&["--row", "c.parquet:0"], 3).contains("hint:"));
    assert!(failed(&["--id", "a-0", "--source", "d"], 2).contains("sources: c"));
    failed(&["--id", "a-0", "--row", "a.parquet:0"], 2);
    failed(&[], 2);
    failed(&["--row", "a.parquet"], 2);
    trommel(corpus.path(), &["why", "nowhere", "--id", "x"]).failed(4);
}

#[test]
fn a_source_without_ids_is_named_by_row() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("one"), Some("one")]);
    corpus.pipeline_with(
        "  c: { parquet: { uri: \"in/\" } }",
        "  - { id: exact, exact_dedup: { columns: [text] } }",
        "parquet: { uri: \"out/\" }",
    );
    corpus.run(&[]).ok();
    assert!(trommel(corpus.path(), &["why", "out", "--id", "a-0"]).failed(3).contains("--row SHARD:N"));
    assert!(why(&corpus, &["--row", "a.parquet:1"]).contains("text not shown: the source `c` declares no text column"));
}

#[test]
fn a_shard_that_changed_or_went_shows_no_text() {
    let corpus = corpus();
    corpus.shard("b.parquet", &[Some("another text"), Some("abc"), Some("gravel")]);
    let shown = why(&corpus, &["--id", "a-1"]);
    assert!(shown.contains("text not shown: the shard has changed since the run"), "{shown}");
    assert!(shown.contains("| The trommel"), "the other shard is still what it was: {shown}");
    fs::remove_file(corpus.at("in/b.parquet")).unwrap();
    assert!(why(&corpus, &["--id", "a-1"]).contains("text not shown: the shard is not where the run read it"));
}

#[test]
fn shards_that_moved_are_found_below_the_root() {
    let corpus = corpus();
    // Beside the corpus: a folder is renamed inside one file system.
    let elsewhere = tempfile::tempdir_in(corpus.path().parent().unwrap()).unwrap();
    for name in ["in", "out"] {
        fs::rename(corpus.at(name), elsewhere.path().join(name)).unwrap();
    }
    let shown = |more: &[&str]| trommel(elsewhere.path(), &[&["why", "out", "--id", "b-0"], more].concat()).ok().stdout;
    assert!(shown(&[]).contains("text not shown: the shard is not where the run read it"));
    assert!(shown(&["--root", "."]).contains("| the  TROMMEL turns"));
    trommel(elsewhere.path(), &["why", "out", "--id", "b-0", "--root", "in"]).failed(2);
}
