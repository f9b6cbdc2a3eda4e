//! Selection by columns that users supply: exact counts, which rows, and what the lineage says of those that are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Decimal128Array, FixedSizeListArray, Float32Array, Float64Array, Int32Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::{Float32Type, UInt64Type};
use serde_json::Value;

use crate::fixture::{Corpus, Row, read_parquet};

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

/// Row `row`'s task: 100, 60, 30 rows and 10 without a name.
fn task(row: usize) -> Option<&'static str> {
    match row % 20 {
        7 => None,
        0 | 9 | 18 => Some("small"),
        other if other % 3 == 1 => Some("middle"),
        _ => Some("big"),
    }
}

/// Its gradient: none for one row in forty.
fn gradient(row: usize) -> Option<[f64; 3]> {
    let x = row as f64;
    (row % 40 != 13).then(|| [1.0 + x.sin(), (2.0 * x).cos(), (0.7 * x).sin()])
}

fn norm(row: usize) -> Option<f64> {
    let value = match task(row) {
        Some("small") => 6.0,
        Some("middle") => 2.0,
        _ => 1.0,
    };
    (row % 9 != 2).then_some(value + (row % 3) as f64 / 10.0)
}

fn gradients(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let vectors = (0..rows).map(|row| gradient(row).map(|g| g.map(|x| Some(x as f32)).to_vec()));
    vec![
        ("task", Arc::new((0..rows).map(task).collect::<StringArray>())),
        ("norm", Arc::new((0..rows).map(norm).collect::<Float64Array>())),
        ("g", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 3))),
    ]
}

/// The value of each row by all pairs of its task, and the budgets of the tasks by largest remainder.
struct Tive {
    sizes: BTreeMap<Option<&'static str>, u64>,
    worth: BTreeMap<Option<&'static str>, f64>,
}

impl Tive {
    fn of(rows: usize, excluded: &str) -> Self {
        let (mut sizes, mut norms) = (BTreeMap::new(), BTreeMap::<_, Vec<f64>>::new());
        for row in (0..rows).filter(|row| task(*row) != Some(excluded)) {
            *sizes.entry(task(row)).or_insert(0) += 1;
            norms.entry(task(row)).or_default().extend(norm(row));
        }
        let worth = norms.into_iter().map(|(task, norms)| (task, norms.iter().sum::<f64>() / norms.len() as f64)).collect();
        Self { sizes, worth }
    }

    /// Without repeats: a task that would get more than it has gets all of it, and the others share the rest.
    fn budgets(&self, total: u64, repeat: bool) -> BTreeMap<Option<&'static str>, u64> {
        let mut budgets = BTreeMap::new();
        loop {
            let left = total - budgets.values().sum::<u64>();
            let open: Vec<_> = self.sizes.keys().copied().filter(|task| !budgets.contains_key(task)).collect();
            let all: f64 = open.iter().map(|task| self.worth[task]).sum();
            let share = |task: Option<&'static str>| left as f64 * self.worth[&task] / all;
            let full: Vec<_> = open.iter().copied().filter(|task| !repeat && share(*task) >= self.sizes[task] as f64).collect();
            if full.is_empty() {
                let mut order = open.clone();
                order.sort_by(|a, b| (share(*b) % 1.0).total_cmp(&(share(*a) % 1.0)));
                let floors: u64 = open.iter().map(|task| share(*task) as u64).sum();
                for (place, task) in order.iter().enumerate() {
                    budgets.insert(*task, share(*task) as u64 + u64::from((place as u64) < left - floors));
                }
                return budgets;
            }
            budgets.extend(full.into_iter().map(|task| (task, self.sizes[&task])));
        }
    }
}

/// Of a row with a gradient: the mean cosine to all rows of its task that have one.
fn value(row: usize, rows: usize) -> Option<f64> {
    let unit = |row: usize| gradient(row).map(|g| g.map(|x| x / g.iter().map(|x| x * x).sum::<f64>().sqrt()));
    let own = unit(row)?;
    let others: Vec<[f64; 3]> = (0..rows).filter(|other| task(*other) == task(row)).filter_map(unit).collect();
    Some(others.iter().map(|other| own.iter().zip(other).map(|(a, b)| a * b).sum::<f64>()).sum::<f64>() / others.len() as f64)
}

fn tive(keys: &str) -> String {
    format!(
        "  - {{ id: g, embed: {{ from: g }} }}\n  - {{ id: best, gradient_value_select: {{ task: task, gradient_norm: norm, {keys} }} }}"
    )
}

fn kept_by_task(lineage: &[Row]) -> BTreeMap<Option<&'static str>, u64> {
    let mut counts = BTreeMap::new();
    for (row, told) in lineage.iter().enumerate() {
        *counts.entry(task(row)).or_insert(0) += u64::from(told.decision == "keep");
    }
    counts
}

#[test]
fn gradients_give_tasks_their_budgets_and_rows_their_ranks() {
    let corpus = corpus(&gradients(200));
    for (keys, total, excluded) in [
        ("keep_rows: 60, mode: top", 60, ""),
        ("keep_fraction: 0.45, mode: top", 90, ""),
        ("keep_rows: 50, mode: top, exclude_tasks: [middle]", 50, "middle"),
        ("keep_fraction: 0.3", 60, ""),
    ] {
        let lineage = run(&corpus, &tive(keys));
        let mut budgets = Tive::of(200, excluded).budgets(total, false);
        if !excluded.is_empty() {
            budgets.insert(Some("middle"), 0);
        }
        assert_eq!(kept_by_task(&lineage), budgets, "{keys}");
        assert_eq!(corpus.kept().len() as u64, total);
        for (row, told) in lineage.iter().enumerate() {
            if told.decision == "drop" {
                assert_eq!(told.reason.as_deref(), Some("not_selected"));
                assert_eq!(detail(told)["budget"].as_u64(), Some(budgets[&task(row)]));
                match (told.score, value(row, 200)) {
                    (Some(found), Some(wanted)) => assert!((found - wanted).abs() < 1e-6, "{row} {found} {wanted}"),
                    (None, None) => assert_eq!(task(row), Some("middle"), "a row without a gradient is kept first"),
                    other => panic!("{row} {other:?}"),
                }
            }
        }
        if keys.contains("top") && excluded.is_empty() {
            for name in budgets.keys() {
                let of = |decision: &str| {
                    let rows = (0..200).filter(|row| task(*row) == *name && lineage[*row].decision == decision);
                    rows.filter_map(|row| value(row, 200)).collect::<Vec<_>>()
                };
                let (worst, best) = (of("keep").into_iter().fold(f64::MAX, f64::min), of("drop").into_iter().fold(f64::MIN, f64::max));
                assert!(worst >= best - 1e-6, "{name:?}: {worst} {best}");
            }
        }
    }
    // A temperature that is high enough leaves nothing to chance; without one, values do not matter.
    let kept = |keys: &str| run(&corpus, &tive(keys)).into_iter().map(|row| row.decision).collect::<Vec<_>>();
    assert_eq!(kept("keep_rows: 60, inverse_temperature: 1e9"), kept("keep_rows: 60, mode: top"));
    assert_ne!(kept("keep_rows: 60, inverse_temperature: 0"), kept("keep_rows: 60, mode: top"));
    assert_ne!(kept("keep_rows: 60, seed: 1"), kept("keep_rows: 60, seed: 2"));
}

#[test]
fn oversampling_tells_how_often_each_row_is_taken() {
    let corpus = corpus(&gradients(200));
    let lineage = run(&corpus, &tive("keep_rows: 300, oversample: true"));
    let budgets = Tive::of(200, "").budgets(300, true);
    assert!(budgets[&Some("small")] > 30 && budgets[&Some("big")] < 100, "{budgets:?}");
    let table = read_parquet(&corpus.at("out/tables/best/repeats.parquet"));
    let column = |name: &str| table.column_by_name(name).unwrap().as_primitive::<UInt64Type>().values().to_vec();
    let shards = arrow::compute::cast(table.column_by_name("shard").unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    let (mut taken, mut times) = (BTreeMap::new(), BTreeMap::new());
    for ((row, repeat), shard) in column("row").into_iter().zip(column("repeat")).zip(shards.as_string::<i32>().iter()) {
        let row = shard.unwrap().strip_suffix(".parquet").unwrap().parse::<usize>().unwrap() * 70 + row as usize;
        assert_eq!((lineage[row].decision.as_str(), detail(&lineage[row])["repeat"].as_u64()), ("keep", Some(repeat)));
        times.insert(row, repeat);
        let size = (0..200).filter(|other| task(*other) == task(row)).count() as u64;
        assert!(repeat == budgets[&task(row)] / size || repeat == budgets[&task(row)] / size + 1, "{row} {repeat}");
        *taken.entry(task(row)).or_insert(0) += repeat;
    }
    assert_eq!((table.num_rows(), taken), (corpus.kept().len(), budgets));
    // On request the sink adds it as a column.
    for (write, rows) in [("data", times.len()), ("annotate", 200)] {
        let sink = format!("parquet: {{ uri: out, write: {write}, add: [best] }}");
        let stages = tive("keep_rows: 300, oversample: true");
        corpus.pipeline_with("  in: { parquet: { uri: in, text: text, id: id } }", &stages, &sink).run(&["--overwrite"]).ok();
        corpus.verify().ok();
        let mut found = Vec::new();
        for shard in 0..3 {
            let batch = read_parquet(&corpus.at(&format!("out/data/{shard}.parquet")));
            found.extend(batch.column_by_name("best").unwrap().as_primitive::<UInt64Type>().iter());
        }
        assert_eq!(found.len(), rows);
        assert!(found.into_iter().flatten().eq(times.values().copied()), "{write}");
    }
    let sink = "parquet: { uri: out, add: [best] }";
    let failed =
        corpus.pipeline_with("  in: { parquet: { uri: in, text: text, id: id } }", &tive("keep_rows: 9"), sink).run(&["--overwrite"]);
    assert!(failed.failed(2).contains("the stage `best` makes no column"));
}

/// A draw depends on the seed, the stage and the row's id: not on how the rows lie in shards.
#[test]
fn gradients_are_sampled_alike_in_other_shards() {
    let one = corpus(&gradients(200));
    run(&one, &tive("keep_rows: 77"));
    let other = Corpus::new();
    for shard in 0..3 {
        let batch = read_parquet(&one.at(&format!("in/{shard}.parquet")));
        other.batch(&format!("{}.parquet", 9 - shard), &batch, 11);
    }
    run(&other, &tive("keep_rows: 77"));
    assert_eq!(one.kept().into_iter().collect::<BTreeSet<_>>(), other.kept().into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn bad_gradients_are_kept_first_dropped_or_refused() {
    let corpus = corpus(&gradients(200));
    let bad: Vec<usize> = (0..200).filter(|row| gradient(*row).is_none()).collect();
    let lineage = run(&corpus, &tive("keep_rows: 60, on_bad_vector: drop"));
    assert!(bad.iter().all(|row| lineage[*row].reason.as_deref() == Some("bad_vector")));
    assert_eq!(corpus.kept().len(), 60);
    let lineage = run(&corpus, &tive("keep_rows: 60"));
    assert!(bad.iter().all(|row| lineage[*row].decision == "keep"));
    let refused = corpus.pipeline(&tive("keep_rows: 60, on_bad_vector: fail")).run(&["--overwrite"]).failed(3);
    assert!(refused.contains("rows=`5`"), "{refused}");
    let mut columns = gradients(200);
    columns[1].1 = Arc::new((0..200).map(|row| Some(f64::from(row) - 3.0)).collect::<Float64Array>());
    let refused = self::corpus(&columns).pipeline(&tive("keep_rows: 60")).run(&["--overwrite"]).failed(3);
    assert!(refused.contains("no finite number from 0"), "{refused}");
}

/// Three clusters by direction: rows 0 to 3 are a rare one, and of the others every third is in the smaller one.
fn cluster(row: usize) -> usize {
    if row < 4 { 0 } else { 1 + usize::from(!row.is_multiple_of(3)) }
}

/// The first score spreads the rows of cluster 1 and is constant in cluster 2, the second the other way round; the third is missing
/// where the row's number ends in 5, and spreads nothing else.
fn pool(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let spread = |row: usize, of: usize| if cluster(row) == of { (row * 31 % 97) as f64 } else { 4.0 };
    let vectors = (0..rows).map(|row| {
        let mut vector = [0.05 * (row as f32).sin(), 0.05 * (row as f32).cos(), 0.0];
        vector[cluster(row)] += 1.0;
        Some(vector.map(Some).to_vec())
    });
    vec![
        ("g", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 3))),
        ("first", Arc::new((0..rows).map(|row| Some(spread(row, 1))).collect::<Float64Array>())),
        (
            "second",
            Arc::new(
                (0..rows).map(|row| Some(spread(row, 2) + if cluster(row) == 0 { row as f64 } else { 0.0 })).collect::<Float64Array>(),
            ),
        ),
        ("third", Arc::new((0..rows).map(|row| (row % 10 != 5).then_some(1.0)).collect::<Float64Array>())),
    ]
}

fn selector(keys: &str) -> String {
    format!("  - {{ id: g, embed: {{ from: g }} }}\n  - {{ id: best, selector_pool: {{ k: 3, {keys} }} }}")
}

#[test]
fn each_cluster_chooses_the_score_that_spreads_it() {
    let corpus = corpus(&pool(200));
    let size = |of: usize| (0..200).filter(|row| cluster(*row) == of).count();
    assert_eq!([size(0), size(1), size(2)], [4, 65, 131]);
    let lineage = run(&corpus, &selector("scores: [first, second], keep_rows: 60"));
    let report = report(&corpus);
    let told = report["clusters"].as_array().unwrap();
    let of = |rows: usize| told.iter().find(|told| told["rows"].as_u64() == Some(rows as u64)).unwrap();
    assert_eq!(
        (of(4)["score"].as_str(), of(65)["score"].as_str(), of(131)["score"].as_str()),
        (Some("second"), Some("first"), Some("second"))
    );
    assert!(of(131)["entropy"].as_f64() > Some(3.0));
    // Balanced: the rare cluster stays whole, the others get the same.
    let kept = |lineage: &[Row], of: usize| (0..200).filter(|row| cluster(*row) == of && lineage[*row].decision == "keep").count();
    assert_eq!([0, 1, 2].map(|of| kept(&lineage, of)), [4, 28, 28]);
    // The tails are trimmed: three of 65 and six of 131 rows at either end.
    for (of, trimmed) in [(1, 3), (2, 6)] {
        let score = |row: usize| row * 31 % 97;
        let mut rows: Vec<usize> = (0..200).filter(|row| cluster(*row) == of).collect();
        rows.sort_by_key(|row| score(*row));
        let (low, high) = (score(rows[trimmed]), score(rows[rows.len() - trimmed - 1]));
        let mut strata = BTreeSet::new();
        for row in rows {
            let told = &lineage[row];
            if told.decision == "keep" {
                assert!((low..=high).contains(&score(row)), "{row}");
                strata.insert((score(row) - low) / 10);
            } else {
                assert_eq!((told.reason.as_deref(), told.score), (Some("not_selected"), Some(score(row) as f64)));
                assert_eq!(detail(told)["budget"], 28);
            }
        }
        assert!(strata.len() >= 9, "the whole range is covered: {strata:?}");
    }
}

#[test]
fn budgets_of_clusters_are_exact_under_every_allocation_and_pick() {
    let corpus = corpus(&pool(200));
    let clusters =
        |lineage: &[Row]| [0, 1, 2].map(|of| (0..200).filter(|row| cluster(*row) == of && lineage[*row].decision == "keep").count());
    for pick in ["ccs", "middle", "lowest", "random"] {
        for (allocation, wanted) in [("balanced", Some([4, 28, 28])), ("score_std, weigh_by: first", Some([0, 60, 0])), ("density", None)] {
            let trim = if pick == "ccs" { ", trim: 0" } else { "" };
            let lineage =
                run(&corpus, &selector(&format!("scores: [first, second], keep_rows: 60, pick: {pick}{trim}, allocation: {allocation}")));
            let kept = clusters(&lineage);
            assert_eq!(kept.iter().sum::<usize>(), 60, "{pick} {allocation}");
            assert!(wanted.is_none_or(|wanted| kept == wanted), "{pick} {allocation} {kept:?}");
            if allocation == "balanced" && pick != "random" && pick != "ccs" {
                let mut rows: Vec<usize> = (0..200).filter(|row| cluster(*row) == 1).collect();
                rows.sort_by_key(|row| row * 31 % 97);
                let from = if pick == "middle" { (65 - 28) / 2 } else { 0 };
                assert!(
                    rows.iter().enumerate().all(|(place, row)| (lineage[*row].decision == "keep") == (from..from + 28).contains(&place))
                );
            }
        }
    }
    // More than there is room for between the tails: all of it, and no more.
    run(&corpus, &selector("scores: [first, second], keep_fraction: 1"));
    assert_eq!(corpus.kept().len(), 200 - 2 * 3 - 2 * 6);
    // A row without the chosen score is not kept.
    let lineage = run(&corpus, &selector("scores: [third], keep_fraction: 1, trim: 0"));
    assert!((0..200).all(|row| (lineage[row].decision == "keep") == (row % 10 != 5)));
    assert!(lineage.iter().filter(|row| row.decision == "drop").all(|row| row.score.is_none()));
}

/// Row `row` of a stream: easy rows say `plain`, and have low losses; one loss in fifty was not recorded.
fn is_easy(row: usize) -> bool {
    (row * 7919 + row / 3) % 5 < 2
}

fn loss(row: usize) -> Option<f64> {
    let spread = (row * 31 % 97) as f64 / 97.0;
    (row % 50 != 49).then_some(if is_easy(row) { 0.5 * spread } else { 2.0 + spread })
}

/// The stream in shards of so many rows.
fn stream(rows: usize, shard_rows: usize) -> Corpus {
    let corpus = Corpus::new();
    let ids: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("r{row}"))).collect::<StringArray>());
    let text = |row: usize| {
        let filler: Vec<String> = (0..5).map(|at| format!("w{}", (row * 131 + at * 17) % 40)).collect();
        format!("{} {}", filler.join(" "), if is_easy(row) { "Plain" } else { "other" })
    };
    let texts: ArrayRef = Arc::new((0..rows).map(|row| Some(text(row))).collect::<StringArray>());
    let losses: ArrayRef = Arc::new((0..rows).map(loss).collect::<Float64Array>());
    let whole = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("text", texts, true), ("loss", losses, true)]).unwrap();
    for (shard, from) in (0..rows).step_by(shard_rows).enumerate() {
        corpus.batch(&format!("{shard:02}.parquet"), &whole.slice(from, shard_rows.min(rows - from)), 90 + shard);
    }
    corpus
}

#[test]
fn a_replayed_stream_leaves_out_what_it_need_not_see() {
    let rows = 2000;
    let corpus = stream(rows, 700);
    let stage = "  - { id: online, online_loss_filter: { loss: loss, window: 100, batches: 10 } }";
    let lineage = run(&corpus, stage);
    // The same order in other shards is the same stream.
    let told = |lineage: &[Row]| lineage.iter().map(|row| (row.decision.clone(), row.detail.clone())).collect::<Vec<_>>();
    assert_eq!(told(&run(&stream(rows, 190), stage)), told(&lineage));
    let report = report(&corpus);
    // The mean of the last hundred losses of the first 200 rows.
    let warm: Vec<f64> = (0..200).filter_map(loss).collect();
    let threshold = warm[warm.len() - 100..].iter().sum::<f64>() / 100.0;
    assert!((report["threshold"].as_f64().unwrap() - threshold).abs() < 1e-12);
    let count = |name: &str| report[name].as_u64().unwrap() as usize;
    assert_eq!(count("trained") + count("skipped_backward") + count("skipped_forward"), rows);
    assert_eq!((count("trained"), count("without_loss")), (corpus.kept().len(), rows / 50));
    let from = count("unseen_from");
    assert!(from > 200 && from < 1000, "{report}");
    let mut unseen = [(0, 0), (0, 0)];
    for (row, told) in lineage.iter().enumerate() {
        let skipped = detail(told)["skipped"].as_str().map(str::to_owned);
        if row < 200 {
            assert_eq!(told.decision, "keep", "{row}");
        } else if row < from {
            // Looked at, and trained on where the loss is high.
            let easy = loss(row).is_some_and(|loss| loss < threshold);
            assert_eq!(skipped.as_deref(), easy.then_some("backward"), "{row}");
        } else {
            let (skips, all) = &mut unseen[usize::from(is_easy(row))];
            *skips += usize::from(skipped.as_deref() == Some("forward"));
            *all += 1;
        }
        if told.decision == "drop" {
            assert_eq!((told.reason.as_deref(), told.score), (Some("not_selected"), loss(row)));
        }
    }
    let [(hard, hards), (easy, easies)] = unseen.map(|(skips, all)| (skips, all));
    assert!(100 * easy >= 95 * easies && 100 * hard < 5 * hards, "{unseen:?}");
    // Nothing is left out unseen where the predictor is never sure enough.
    run(&corpus, "  - { id: online, online_loss_filter: { loss: loss, window: 100, limit: 0 } }");
    let report = self::report(&corpus);
    assert_eq!((report["skipped_forward"].as_u64(), report["unseen_from"].as_u64()), (Some(0), None));
    // A plan says that the order matters.
    assert!(crate::fixture::trommel(corpus.path(), &["plan", "p.yaml"]).ok().stdout.contains("depends on the order of the corpus"));
}
