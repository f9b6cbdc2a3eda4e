//! `diversity_metrics` on the real binary: it drops nothing, and its numbers are those of the vectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::Float32Type;
use serde_json::Value;
use trommel::vector::diversity::{Diversity, measure};

use crate::fixture::{Corpus, trommel, write_shard};

/// Rows 0 to 99 of source `one` lie all around, and half of the 200 of `two` are copies of one row. One row has no vector.
fn vector(row: usize) -> Option<[f32; 4]> {
    let x = if row >= 200 { 7.0 } else { row as f32 };
    (row != 42).then(|| [(x * 1.7).sin(), (x * 2.3).cos(), (x * 0.9).sin(), 0.3 + (x * 3.1).cos()])
}

fn label(row: usize) -> Option<&'static str> {
    [Some("a"), Some("b"), None][row % 3]
}

fn corpus() -> Corpus {
    let corpus = Corpus::new();
    for (path, rows) in [("one/a.parquet", 0..100), ("two/b.parquet", 100..180), ("two/c.parquet", 180..300)] {
        let ids: ArrayRef = Arc::new(rows.clone().map(|row| Some(format!("r{row}"))).collect::<StringArray>());
        let labels: ArrayRef = Arc::new(rows.clone().map(label).collect::<StringArray>());
        // What is equal in its text is equal in its vector.
        let texts: ArrayRef =
            Arc::new(rows.clone().map(|row| Some((if row >= 200 { 7 } else { row }).to_string())).collect::<StringArray>());
        let vectors = rows.map(|row| vector(row).map(|vector| vector.map(Some).to_vec()));
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 4));
        let columns = [("id", ids), ("text", texts), ("label", labels), ("v", vectors)];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        write_shard(&corpus.at(path), &batch, 30);
    }
    corpus
}

fn run<'a>(corpus: &'a Corpus, stages: &str, arguments: &[&str]) -> &'a Corpus {
    let sources = "  one: { parquet: { uri: one, text: text, id: id } }\n  two: { parquet: { uri: two, text: text, id: id } }";
    corpus.pipeline_with(sources, stages, "parquet: { uri: out }").run(&[&["--overwrite"], arguments].concat()).ok();
    corpus.verify().ok();
    corpus
}

fn report(corpus: &Corpus, stage: usize) -> Value {
    corpus.manifest()["stages"][stage]["report"].clone()
}

/// What the library says of these rows' vectors.
fn wanted(rows: impl Iterator<Item = usize>) -> Diversity {
    let vectors: Vec<[f32; 4]> = rows.filter_map(vector).collect();
    measure(4, &|see| {
        for vector in &vectors {
            see(vector);
        }
        Ok(())
    })
    .unwrap()
}

#[track_caller]
fn tells(found: &Value, wanted: &Diversity) {
    assert_eq!(found["rows"].as_u64(), Some(wanted.rows as u64));
    let omega = wanted.o_information.unwrap_or(f64::NAN);
    for (name, value) in [
        ("mnn_raw", wanted.mnn_raw),
        ("mnn_pca", wanted.mnn_pca),
        ("mnn_per_row", wanted.mnn_per_row),
        ("effective_rank", wanted.effective_rank),
        ("vendi", wanted.vendi),
        ("log_det", wanted.log_det),
        ("mean_correlation", wanted.mean_correlation),
        ("o_information", omega),
    ] {
        assert!((found[name].as_f64().unwrap() - value).abs() < 1e-5, "{name}: {} {value}", found[name]);
    }
}

const VECTORS: &str = "  - { id: v, input: [one, two], embed: { from: v } }";

#[test]
fn the_numbers_are_those_of_all_rows_and_of_each_group() {
    let corpus = corpus();
    run(&corpus, &format!("{VECTORS}\n  - {{ id: d, diversity_metrics: {{ group: label, per_source: true }} }}"), &[]);
    assert_eq!(corpus.kept().len(), 300, "nothing is dropped");
    let report = report(&corpus, 1);
    assert_eq!(report["bad_vectors"]["null"], 1);
    tells(&report["diversity"], &wanted(0..300));
    let groups = report["by_group"].as_array().unwrap();
    assert_eq!(groups.len(), 6);
    for group in groups {
        let (name, source) = (group["group"].as_str(), group["source"].as_str().unwrap());
        let rows = if source == "one" { 0..100 } else { 100..300 };
        tells(group, &wanted(rows.filter(|row| label(*row) == name)));
    }
}

#[test]
fn what_a_stage_changes_is_seen_before_and_after_it() {
    let corpus = corpus();
    let stages = format!(
        "{VECTORS}\n  - {{ id: before, diversity_metrics: {{}} }}\n  - {{ id: exact, exact_dedup: {{ columns: [text] }} }}\n  - {{ id: after, diversity_metrics: {{ embedding: v }} }}"
    );
    let mut hashes = BTreeSet::new();
    for arguments in [["--threads", "1", "--batch-rows", "8192"], ["--threads", "2", "--batch-rows", "17"]] {
        let _ = std::fs::remove_dir_all(corpus.at(".trommel"));
        hashes.insert(run(&corpus, &stages, &arguments).tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
    let (before, after) = (report(&corpus, 1)["diversity"].clone(), report(&corpus, 3)["diversity"].clone());
    tells(&before, &wanted(0..300));
    // A hundred copies of row 7 are gone.
    tells(&after, &wanted(0..200));
    for name in ["mnn_pca", "mnn_per_row", "effective_rank", "vendi"] {
        assert!(after[name].as_f64() > before[name].as_f64(), "{name}: {} {}", before[name], after[name]);
    }
    let ran = trommel(corpus.path(), &["run", "p.yaml", "--overwrite"]).ok();
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("before: diversity of 299 vectors: effective rank"), "{ran:?}");
}

#[test]
fn bad_vectors_are_dropped_or_refused_where_the_user_says_so_and_groups_are_few() {
    let corpus = corpus();
    let stage = |keys: &str| format!("{VECTORS}\n  - {{ id: d, diversity_metrics: {{ {keys} }} }}");
    run(&corpus, &stage("on_bad_vector: drop"), &[]);
    assert_eq!(corpus.dropped().into_iter().collect::<Vec<_>>(), [("r42".to_owned(), "bad_vector".to_owned())]);
    let sources = "  one: { parquet: { uri: one, text: text, id: id } }\n  two: { parquet: { uri: two, text: text, id: id } }";
    let failed =
        |keys: &str, code: i32| corpus.pipeline_with(sources, &stage(keys), "parquet: { uri: out }").run(&["--overwrite"]).failed(code);
    assert!(failed("on_bad_vector: fail", 3).contains("cannot be compared"));
    assert!(failed("group: id", 7).contains("too many groups to measure groups=`300`"));
}
