//! `snippet_pairing` on the real binary: it drops nothing, and its pairs are those of the definition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, UInt64Type};
use serde_json::Value;

use crate::fixture::{Corpus, read_parquet, write_shard};

const DIMENSIONS: usize = 4;

/// Some rows repeat the one before, and row 30 has no vector.
fn vector(row: usize) -> Option<[f32; DIMENSIONS]> {
    let of = if row % 9 == 5 { row - 1 } else { row } as f32;
    (row != 30).then(|| [of.sin(), (of * 1.7).cos(), (of * 0.31).sin(), 0.2])
}

/// From none to 14 words.
fn words(row: usize) -> usize {
    row * 7 % 15
}

fn label(row: usize) -> Option<&'static str> {
    [Some("a"), Some("b"), None, Some("a"), Some("b")][row % 5].filter(|_| row != 3).or((row == 3).then_some("alone"))
}

fn cosine(a: usize, b: usize) -> Option<f64> {
    let (a, b) = (vector(a)?.map(f64::from), vector(b)?.map(f64::from));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Some(dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt())
}

fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    let ids: StringArray = rows.clone().map(|row| Some(format!("r{row}"))).collect();
    let texts: StringArray = rows.clone().map(|row| Some(vec![format!("w{row}"); words(row)].join(" "))).collect();
    let labels: StringArray = rows.clone().map(label).collect();
    let lists = rows.map(|row| vector(row).map(|vector| vector.map(Some).to_vec()));
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, DIMENSIONS as i32);
    let columns: [(&str, ArrayRef); 4] =
        [("id", Arc::new(ids)), ("text", Arc::new(texts)), ("label", Arc::new(labels)), ("v", Arc::new(vectors))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// The pairs of the table: row, partner and cosine, the rows by their numbers in the corpus.
fn pairs(corpus: &Corpus) -> BTreeMap<usize, (usize, f64)> {
    let table = read_parquet(&corpus.at("out/tables/p/pairs.parquet"));
    let text = |name: &str| arrow::compute::cast(table.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
    let rows = |which: &str| {
        let (sources, shards) = (text(&format!("{which}source")), text(&format!("{which}shard")));
        let numbers = table.column_by_name(&format!("{which}row")).unwrap().as_primitive::<UInt64Type>().values().to_vec();
        let one = |((source, shard), row): ((&str, &str), u64)| {
            row as usize
                + [("one", "a"), ("one", "b"), ("two", "c")]
                    .iter()
                    .position(|of| *of == (source, shard.strip_suffix(".parquet").unwrap()))
                    .unwrap()
                    * 40
        };
        let names = sources.as_string::<i32>().iter().flatten().zip(shards.as_string::<i32>().iter().flatten());
        names.zip(numbers).map(one).collect::<Vec<usize>>()
    };
    let cosines = table.column_by_name("cosine").unwrap().as_primitive::<Float64Type>().values().to_vec();
    rows("").into_iter().zip(rows("partner_").into_iter().zip(cosines)).collect()
}

#[test]
fn each_long_row_is_paired_with_the_most_similar_one_below() {
    let corpus = Corpus::new();
    write_shard(&corpus.at("one/a.parquet"), &batch(0..40), 16);
    write_shard(&corpus.at("one/b.parquet"), &batch(40..80), 64);
    write_shard(&corpus.at("two/c.parquet"), &batch(80..120), 7);
    let sources = "  one: { parquet: { uri: one, text: text, id: id } }\n  two: { parquet: { uri: two, text: text, id: id } }";
    let run = |keys: &str| {
        let stages = format!(
            "  - {{ id: v, input: [one, two], embed: {{ from: v }} }}\n  - {{ id: p, snippet_pairing: {{ group: label, min_words: 6, {keys} }} }}"
        );
        let mut hashes = BTreeSet::new();
        for arguments in [["--threads", "1", "--batch-rows", "8192"], ["--threads", "2", "--batch-rows", "11"]] {
            let _ = std::fs::remove_dir_all(corpus.at(".trommel"));
            corpus.pipeline_with(sources, &stages, "parquet: { uri: out }").run(&[&["--overwrite"][..], &arguments].concat()).ok();
            corpus.verify().ok();
            hashes.insert(corpus.tree_hash().to_string());
        }
        assert_eq!((hashes.len(), corpus.kept().len()), (1, 120), "{keys}");
        let report: Value = corpus.manifest()["stages"].as_array().unwrap().last().unwrap()["report"].clone();
        let found = pairs(&corpus);
        assert_eq!(report["pairs"].as_u64(), Some(found.len() as u64), "{report}");
        (found, report)
    };
    let long = |row: &usize| words(*row) >= 6 && vector(*row).is_some();
    for threshold in [0.7, -0.2] {
        let (found, report) = run(&format!("threshold: {threshold}"));
        assert_eq!(report["bad_vectors"]["null"], 1);
        assert_eq!(report["asked"].as_u64(), Some((0..120).filter(long).count() as u64));
        for row in 0..120 {
            let others = (0..120).filter(|other| long(&row) && *other != row && long(other) && label(*other) == label(row));
            let best = others.filter_map(|other| cosine(row, other)).filter(|cosine| *cosine < threshold - 1e-6).reduce(f64::max);
            assert_eq!(best.is_some(), found.contains_key(&row), "{row} {threshold}");
            if let (Some(best), Some((partner, told))) = (best, found.get(&row)) {
                assert!(label(*partner) == label(row) && long(partner) && *partner != row);
                assert!((told - best).abs() < 1e-6 && (cosine(row, *partner).unwrap() - told).abs() < 1e-6, "{row} {told} {best}");
            }
        }
    }
    // Fewer rows that are asked: some of the same pairs.
    let (all, _) = run("threshold: 0.7");
    let (some, report) = run("threshold: 0.7, sample_rows: 20");
    assert_eq!(report["asked"], 20);
    assert!(some.len() > 10 && some.iter().all(|(row, pair)| all.get(row) == Some(pair)));
}
