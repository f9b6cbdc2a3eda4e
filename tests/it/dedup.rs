//! `trommel dedup`: the pipeline that it stands for, and what it refuses.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::fixture::{Corpus, trommel};

fn corpus() -> Corpus {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("One"), Some("two"), None, Some("one ")]);
    corpus.shard("b.parquet", &[Some("ＯＮＥ"), Some("three"), None]);
    corpus
}

#[test]
fn it_gives_what_the_pipeline_gives() {
    let corpus = corpus();
    let printed = trommel(corpus.path(), &["dedup", "in/*.parquet", "-o", "out", "--quiet"]).ok().stdout;
    assert!(printed.contains("rows in") && printed.contains("exact (exact_duplicate)"), "{printed}");
    corpus.verify().ok();
    let (kept, lineage) = (corpus.kept(), corpus.lineage());
    assert_eq!(kept, ["a-0", "a-1", "a-2", "b-1"]);
    assert!(corpus.at(".trommel/out").is_dir(), "the work folder lies beside the output");
    corpus.pipeline_with(
        "  corpus: { parquet: { uri: \"in/*.parquet\", text: text, id: id } }",
        "  - { id: exact, exact_dedup: { columns: [text], normalize: [nfkc, lowercase, collapse_whitespace] } }\n  - { id: near, minhash_dedup: { threshold: 0.8 } }",
        "parquet: { uri: \"out/\" }",
    );
    corpus.run(&["--overwrite"]).ok();
    assert_eq!((corpus.kept(), corpus.lineage()), (kept, lineage));
}

#[test]
fn an_output_that_is_there_is_replaced_only_when_asked() {
    let corpus = corpus();
    let dedup = |more: &[&str]| trommel(corpus.path(), &[&["dedup", "in", "-o", "deep/er/out/", "--quiet"], more].concat());
    dedup(&[]).ok();
    assert!(dedup(&[]).failed(2).contains("--overwrite"));
    dedup(&["--overwrite", "--format", "json"]).ok();
    assert!(corpus.at("deep/er/.trommel/out").is_dir());
    trommel(corpus.path(), &["verify", "deep/er/out"]).ok();
}

#[test]
fn folders_that_would_hold_one_another_are_refused() {
    let corpus = corpus();
    for output in ["in/out", ".", "", "in", ".."] {
        let said = trommel(corpus.path(), &["dedup", "in", "-o", output, "--quiet"]).failed(2);
        assert!(said.contains("hint:") && !corpus.at("in/out").exists(), "{output}: {said}");
    }
}

#[test]
fn a_text_column_that_cannot_be_told_apart_is_asked_for() {
    let corpus = Corpus::new();
    let strings = |rows: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(rows.to_vec())) };
    let two = [("question", strings(["what is it", "what was it"])), ("answer", strings(["it is this", "it is this"]))];
    corpus.batch("a.parquet", &RecordBatch::try_from_iter(two).unwrap(), 8);
    let said = trommel(corpus.path(), &["dedup", "in", "-o", "out"]).failed(2);
    assert!(said.contains("which column holds the text?") && said.contains("`question`") && said.contains("`answer`"), "{said}");
    assert!(trommel(corpus.path(), &["dedup", "in", "-o", "out", "--text", "answers"]).failed(2).contains("did you mean `answer`?"));
    trommel(corpus.path(), &["dedup", "in", "-o", "out", "--text", "answer", "--quiet"]).ok();
    assert_eq!(corpus.manifest()["rows"]["kept"], 1);
}
