//! Selection by columns that users supply: exact counts, which rows, and what the lineage says of those that are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, Decimal128Array, Float32Array, Float64Array, Int32Array, RecordBatch, StringArray};
use serde_json::Value;

use crate::fixture::{Corpus, Row};

/// A corpus of columns of 200 rows, in shards of 70 rows; ids are `r0` and on.
fn corpus(columns: &[(&str, ArrayRef)]) -> Corpus {
    let corpus = Corpus::new();
    let rows = columns[0].1.len();
    let ids: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("r{row}"))).collect::<StringArray>());
    let texts: ArrayRef = Arc::new((0..rows).map(|row| Some("word ".repeat(row % 7 + 1))).collect::<StringArray>());
    let all = [("id", ids), ("text", texts)].into_iter().chain(columns.iter().cloned());
    let whole = RecordBatch::try_from_iter_with_nullable(all.map(|(name, column)| (name, column, true))).unwrap();
    for (shard, from) in (0..rows).step_by(70).enumerate() {
        corpus.batch(&format!("{shard}.parquet"), &whole.slice(from, 70.min(rows - from)), 20 + shard);
    }
    corpus
}

/// Runs the stages twice, with other threads and batches; the bytes are the same and `verify` passes.
fn run(corpus: &Corpus, stages: &str) -> Vec<Row> {
    let mut hashes = BTreeSet::new();
    for (threads, batch) in [("1", "8192"), ("2", "13")] {
        let _ = std::fs::remove_dir_all(corpus.at(".trommel"));
        corpus.pipeline(stages).run(&["--overwrite", "--threads", threads, "--batch-rows", batch]).ok();
        hashes.insert(corpus.tree_hash().to_string());
        corpus.verify().ok();
    }
    assert_eq!(hashes.len(), 1, "{stages}");
    corpus.lineage()
}

fn detail(row: &Row) -> Value {
    serde_json::from_str(row.detail.as_deref().unwrap_or("null")).unwrap()
}

fn report(corpus: &Corpus) -> Value {
    corpus.manifest()["stages"].as_array().unwrap().last().unwrap()["report"].clone()
}

/// Row `row`'s score: many ties; one in eleven has none.
fn score(row: usize) -> Option<f64> {
    (row % 11 != 4).then(|| ((row * 37) % 50) as f64 / 10.0 - 1.0)
}

/// Nulls and NaN alike are no score.
fn scores(rows: usize) -> ArrayRef {
    Arc::new((0..rows).map(|row| score(row).or((row % 2 == 0).then_some(f64::NAN))).collect::<Float64Array>())
}

/// By definition: rows with a score come first, best first, ties by row; `best` is 1 for the greatest.
fn ranking(rows: impl Iterator<Item = usize>, best: f64) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.collect();
    rows.sort_by(|a, b| {
        let key = |row: usize| score(row).map_or((1, 0.0), |score| (0, -best * score));
        key(*a).partial_cmp(&key(*b)).unwrap().then(a.cmp(b))
    });
    rows
}

/// Checks a lineage against a ranking: those of the first `keep` ranks stay, of the others rank, budget and score are told.
#[track_caller]
fn follows(lineage: &[Row], ranking: &[usize], keep: usize, score: impl Fn(usize) -> Option<f64>) {
    for (place, row) in ranking.iter().enumerate() {
        let row_of = &lineage[*row];
        if place < keep {
            assert_eq!(row_of.decision, "keep", "{row}");
            continue;
        }
        assert_eq!((row_of.decision.as_str(), row_of.reason.as_deref()), ("drop", Some("not_selected")), "{row}");
        assert_eq!(row_of.score, score(*row), "{row}");
        let detail = detail(row_of);
        assert_eq!((detail["rank"].as_u64(), detail["budget"].as_u64()), (Some(place as u64 + 1), Some(keep as u64)), "{row}");
    }
}

#[test]
fn the_best_scores_are_kept_and_rows_without_a_score_come_last() {
    let corpus = corpus(&[("s", scores(200))]);
    for (keys, best, keep) in [
        ("keep_rows: 60", 1.0, 60),
        ("keep_fraction: 0.25, order: asc", -1.0, 50),
        // 182 rows have a score: the first of the others are kept too.
        ("keep_rows: 190", 1.0, 190),
        ("keep_rows: 5000", 1.0, 200),
    ] {
        let lineage = run(&corpus, &format!("  - {{ id: best, score_filter: {{ column: s, {keys} }} }}"));
        follows(&lineage, &ranking(0..200, best), keep, score);
        let report = report(&corpus);
        assert_eq!((report["budget"].as_u64(), report["used"].as_u64()), (Some(keep as u64), Some(keep as u64)));
        assert_eq!(report["without_score"], 18);
    }
}

#[test]
fn bounds_come_before_the_budget() {
    let corpus = corpus(&[("s", scores(200))]);
    for (keys, min, max, keep) in [
        ("min: 0.5", 0.5, f64::INFINITY, 200),
        ("min: -0.9, max: 3.1, keep_rows: 10", -0.9, 3.1, 10),
        ("max: -0.2, keep_fraction: 0.5, order: asc", f64::NEG_INFINITY, -0.2, 0),
        ("min: 3.9, keep_rows: 10", 3.9, f64::INFINITY, 10),
        ("min: 7", 7.0, f64::INFINITY, 0),
    ] {
        let lineage = run(&corpus, &format!("  - {{ id: best, score_filter: {{ column: s, {keys} }} }}"));
        let passes = |row: usize| score(row).is_some_and(|score| score >= min && score <= max);
        for row in (0..200).filter(|row| !passes(*row)) {
            assert_eq!((lineage[row].reason.as_deref(), lineage[row].score), (Some("filtered"), score(row)), "{keys} {row}");
        }
        let ranked = ranking((0..200).filter(|row| passes(*row)), if keys.contains("asc") { -1.0 } else { 1.0 });
        // A share is one of the rows that pass.
        let keep = if keys.contains("fraction") { (ranked.len() as f64 / 2.0).round() as usize } else { keep };
        follows(&lineage, &ranked, keep.min(ranked.len()), score);
    }
}

/// Per-group budgets: ranks and budgets are those of the group.
#[test]
fn the_best_of_each_group_are_kept() {
    let labels: ArrayRef = Arc::new((0..200).map(|row| Some(["a", "b", "b", "b"][row % 4])).collect::<StringArray>());
    let corpus = corpus(&[("s", scores(200)), ("label", labels)]);
    for (allocation, budgets) in [("proportional", [10, 30]), ("balanced", [20, 20])] {
        let keys = format!("column: s, keep_rows: 40, group: label, allocation: {allocation}");
        let lineage = run(&corpus, &format!("  - {{ id: best, score_filter: {{ {keys} }} }}"));
        follows(&lineage, &ranking((0..200).filter(|row| row % 4 == 0), 1.0), budgets[0], score);
        follows(&lineage, &ranking((0..200).filter(|row| row % 4 != 0), 1.0), budgets[1], score);
    }
    // Bytes: five for each word, and a row has up to seven words.
    let lineage = run(&corpus, "  - { id: best, score_filter: { column: s, keep_bytes: 1KiB } }");
    let (mut used, ranked) = (0, ranking(0..200, 1.0));
    let keep = ranked
        .iter()
        .take_while(|row| {
            used += 5 * (*row % 7 + 1);
            used <= 1024
        })
        .count();
    assert!(ranked.iter().enumerate().all(|(place, row)| (lineage[*row].decision == "keep") == (place < keep)));
    assert_eq!(detail(&lineage[ranked[199]]).to_string(), r#"{"budget":1024,"rank":200,"unit":"bytes"}"#);
}

#[test]
fn scores_of_all_number_types_rank_alike_and_others_are_refused() {
    let values: Vec<Option<i32>> = (0..200).map(|row| (row % 11 != 4).then(|| (row * 37) % 50)).collect();
    let decimals = values.iter().map(|value| value.map(|value| i128::from(value) * 100)).collect::<Decimal128Array>();
    let columns: [(&str, ArrayRef); 4] = [
        ("int", Arc::new(Int32Array::from(values.clone()))),
        ("float", Arc::new(values.iter().map(|value| value.map(|value| value as f32)).collect::<Float32Array>())),
        ("decimal", Arc::new(decimals.with_precision_and_scale(10, 2).unwrap())),
        ("word", Arc::new(values.iter().map(|value| value.map(|value| value.to_string())).collect::<StringArray>())),
    ];
    let corpus = corpus(&columns);
    let stage = |column: &str| format!("  - {{ id: best, score_filter: {{ column: {column}, keep_rows: 40 }} }}");
    for column in ["int", "float", "decimal"] {
        run(&corpus, &stage(column));
        let kept: BTreeSet<String> = ranking(0..200, 1.0)[..40].iter().map(|row| format!("r{row}")).collect();
        assert_eq!(corpus.kept().into_iter().collect::<BTreeSet<_>>(), kept, "{column}");
    }
    let refused = corpus.pipeline(&stage("word")).run(&["--overwrite"]).failed(3);
    assert!(refused.contains("a column is no number stage=`best` column=`word`"), "{refused}");
}

/// MDCure: six criteria in [0, 1], half of them twice as heavy, on a scale from 1 to 5.
#[test]
fn weighted_scores_are_those_of_the_formula() {
    let names = ["rel", "coh", "cre", "ctx", "between", "cplx"];
    let value = |row: usize, at: usize| ((row * (13 + at) + at * 5) % 21) as f64 / 20.0;
    let columns = names
        .iter()
        .enumerate()
        .map(|(at, name)| -> (&str, ArrayRef) { (name, Arc::new((0..200).map(|row| Some(value(row, at))).collect::<Float64Array>())) });
    let corpus = corpus(&columns.collect::<Vec<_>>());
    let score = |row: usize| {
        let raw = |at: usize| 4.0 * value(row, at) + 1.0;
        (raw(0) + raw(1) + raw(2)) / 9.0 + 2.0 * (raw(3) + raw(4) + raw(5)) / 9.0
    };
    let criteria = "[{ column: rel }, { column: coh }, { column: cre, weight: 1 }, { column: ctx, weight: 2 }, { column: between, weight: 2 }, { column: cplx, weight: 2 }]";
    let stage = |keys: &str| {
        format!("  - {{ id: best, weighted_score_filter: {{ criteria: {criteria}, scale: {{ from: [0, 1], to: [1, 5] }}, {keys} }} }}")
    };
    let lineage = run(&corpus, &stage("min: 3.5, report: [3, 3.5, 4]"));
    for (row, told) in lineage.iter().enumerate() {
        assert_eq!(told.decision == "keep", score(row) >= 3.5, "{row}");
        if told.decision == "drop" {
            assert_eq!(told.reason.as_deref(), Some("filtered"));
            assert!((told.score.unwrap() - score(row)).abs() < 1e-12);
        }
    }
    // Thresholds are nested.
    let at_least = |least: f64| (0..200).filter(|row| score(*row) >= least).count();
    let counted: Vec<(f64, usize)> = report(&corpus)["by_min"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["min"].as_f64().unwrap(), entry["rows"].as_u64().unwrap() as usize))
        .collect();
    assert_eq!(counted, [(3.0, at_least(3.0)), (3.5, at_least(3.5)), (4.0, at_least(4.0))]);
    assert!(at_least(4.0) > 0 && at_least(4.0) < at_least(3.5) && at_least(3.5) < at_least(3.0) && at_least(3.0) < 200);
    // The best of those that pass.
    let lineage = run(&corpus, &stage("min: 3, keep_rows: 30"));
    let mut ranked: Vec<usize> = (0..200).filter(|row| score(*row) >= 3.0).collect();
    ranked.sort_by(|a, b| lineage_score(&lineage[*b], score(*b)).total_cmp(&lineage_score(&lineage[*a], score(*a))).then(a.cmp(b)));
    let worst_kept = ranked.iter().filter(|row| lineage[**row].decision == "keep").map(|row| score(*row)).fold(f64::MAX, f64::min);
    let best_left = ranked.iter().filter(|row| lineage[**row].decision == "drop").map(|row| score(*row)).fold(f64::MIN, f64::max);
    assert!(worst_kept >= best_left - 1e-12, "{worst_kept} {best_left}");
    assert_eq!(corpus.kept().len(), 30);
}

/// A dropped row's own score, which is rounded as the program rounds.
fn lineage_score(row: &Row, computed: f64) -> f64 {
    row.score.unwrap_or(computed)
}

#[test]
fn a_missing_criterion_fails_drops_or_is_left_out_of_the_mean() {
    let a: ArrayRef = Arc::new((0..200).map(|row| (row % 5 != 0).then_some(1.0)).collect::<Float64Array>());
    let b: ArrayRef = Arc::new((0..200).map(|row| Some(if row % 10 == 0 { f64::NAN } else { 3.0 })).collect::<Float64Array>());
    let corpus = corpus(&[("a", a), ("b", b)]);
    let stage = |keys: &str| {
        format!("  - {{ id: best, weighted_score_filter: {{ criteria: [{{ column: a, weight: 3 }}, {{ column: b }}], min: 2, {keys} }} }}")
    };
    let failed = corpus.pipeline(&stage("report: [1]")).run(&["--overwrite"]).failed(3);
    assert!(
        failed.contains("a row lacks a criterion column=`a`") && failed.contains("row=`0`") && failed.contains("on_missing"),
        "{failed}"
    );
    let by_reason = |lineage: &[Row]| -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for row in lineage {
            let key = (row.decision.clone(), row.score.map_or_else(|| "none".into(), |score| score.to_string()));
            *counts.entry(key).or_insert(0) += 1;
        }
        counts
    };
    let counts = |wanted: &[(&str, &str, usize)]| -> BTreeMap<(String, String), usize> {
        wanted.iter().map(|(decision, score, count)| (((*decision).to_owned(), (*score).to_owned()), *count)).collect()
    };
    // 160 rows have both: (3 + 3) / 4. Of the other 40, 20 have `b` alone, and 20 nothing.
    let lineage = run(&corpus, &stage("on_missing: drop"));
    assert_eq!(by_reason(&lineage), counts(&[("drop", "1.5", 160), ("drop", "none", 40)]));
    let lineage = run(&corpus, &stage("on_missing: renormalize"));
    assert_eq!(by_reason(&lineage), counts(&[("drop", "1.5", 160), ("drop", "none", 20), ("keep", "none", 20)]));
    assert!(lineage.iter().filter(|row| row.decision == "drop").all(|row| row.reason.as_deref() == Some("filtered")));
}
