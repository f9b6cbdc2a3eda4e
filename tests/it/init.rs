//! `trommel init`: what is guessed, and that the pipeline that it prints is valid and runs as printed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::Value;

use crate::fixture::{Corpus, trommel, write_shard};

fn columns(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().map(|(name, values)| (*name, Arc::clone(values)))).unwrap()
}

fn strings(rows: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(rows.to_vec()))
}

fn numbers(rows: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(rows.to_vec()))
}

const LONG: [&str; 3] = ["a text that is long enough to stay", "A text that is long  enough to stay", "another one that is long enough"];

fn init(folder: &Path, arguments: &[&str]) -> String {
    trommel(folder, &[&["init"], arguments].concat()).ok().stdout
}

/// Writes the pipeline and runs it as it was printed.
fn run(folder: &Path, yaml: &str) {
    fs::write(folder.join("made.yaml"), yaml).unwrap();
    trommel(folder, &["validate", "made.yaml"]).ok();
    trommel(folder, &["run", "made.yaml", "--quiet"]).ok();
}

#[test]
fn the_pipeline_is_valid_and_runs_as_printed() {
    let corpus = Corpus::new();
    let batch = columns(&[("url", strings(&["u", "u", "v"])), ("body", strings(&LONG)), ("doc_id", numbers(&[7, 7, 8]))]);
    corpus.batch("x.parquet", &batch, 8).batch("sub/y.parquet", &batch, 8);
    let yaml = init(corpus.path(), &["in/"]);
    insta::with_settings!({filters => vec![(r"\d+(\.\d)? (B|KiB)", "[size]")]}, { insta::assert_snapshot!(yaml) });
    run(corpus.path(), &yaml);
    let manifest: Value = serde_json::from_slice(&fs::read(corpus.at("out/in/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["rows"]["input"], &manifest["rows"]["kept"]), (&6.into(), &2.into()));
    trommel(corpus.path(), &["verify", "out/in"]).ok();
    // What is commented out is right as well.
    let uncommented =
        yaml.replace("  # - id:", "  - id:").replace("  #   embed:", "    embed:").replace("  #   semantic_dedup:", "    semantic_dedup:");
    assert_ne!(uncommented, yaml);
    fs::write(corpus.at("all.yaml"), uncommented).unwrap();
    trommel(corpus.path(), &["validate", "all.yaml"]).ok();
}

#[test]
fn the_longest_strings_are_the_text_and_unique_values_the_id() {
    let corpus = Corpus::new();
    let batch = columns(&[("page", strings(&["1", "2", "3"])), ("lang", strings(&["en", "en", "en"])), ("content", strings(&LONG))]);
    corpus.batch("x.parquet", &batch, 8);
    let json: Value = serde_json::from_str(&init(corpus.path(), &["in/*.parquet", "--format", "json"])).unwrap();
    assert_eq!((&json["text"], &json["id"]), (&"content".into(), &"page".into()));
    assert_eq!(json["survey"]["rows"], 3);
    let yaml = init(corpus.path(), &["in/*.parquet", "--text", "lang", "--id", "content"]);
    assert!(yaml.contains("text: lang") && yaml.contains("id: content"), "{yaml}");
    assert!(trommel(corpus.path(), &["init", "in/", "--text", "contend"]).failed(2).contains("did you mean `content`?"));
}

#[test]
fn a_column_called_text_that_is_not_the_text_is_no_trap() {
    let corpus = Corpus::new();
    corpus.batch("x.parquet", &columns(&[("text", strings(&["a", "b", "c"])), ("Full \"body\"", strings(&LONG))]), 8);
    let yaml = init(corpus.path(), &["in/"]);
    run(corpus.path(), &yaml);
    let manifest: Value = serde_json::from_slice(&fs::read(corpus.at("out/in/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["rows"]["kept"], 2);
}

#[test]
fn names_from_the_shards_cannot_write_yaml() {
    let corpus = Corpus::new();
    let hostile = "x\nsink: { parquet: { uri: \"/etc\" } } # \u{2028}\u{1b}[2J";
    corpus.batch("x.parquet", &columns(&[(hostile, strings(&LONG)), ("id\nstate: 1", numbers(&[1, 2, 3]))]), 8);
    let yaml = init(corpus.path(), &["in/"]);
    assert!(!yaml.contains("\nsink: { parquet: { uri: \"/etc\"") && !yaml.contains("\nstate:") && !yaml.contains('\u{1b}'), "{yaml}");
    run(corpus.path(), &yaml);
}

#[test]
fn the_output_lies_beside_the_shards_and_never_among_them() {
    let corpus = Corpus::new();
    corpus.batch("x.parquet", &columns(&[("text", strings(&LONG))]), 8);
    let inside = corpus.at("in");
    let yaml = init(&inside, &["*.parquet"]);
    assert!(yaml.contains("uri: \"../out/in/\""), "{yaml}");
    run(&inside, &yaml);
}

#[test]
fn shards_without_texts_or_without_rows_are_said() {
    let corpus = Corpus::new();
    corpus.batch("x.parquet", &columns(&[("n", numbers(&[1]))]), 8);
    assert!(trommel(corpus.path(), &["init", "in/"]).failed(3).contains("columns: `n`"));
    assert!(trommel(corpus.path(), &["init", "in/*.csv"]).failed(3).contains("no shards"));
    let empty = Corpus::new();
    write_shard(&empty.at("in/e.parquet"), &columns(&[("text", strings(&[]))]), 8);
    run(empty.path(), &init(empty.path(), &["in/"]));
}
