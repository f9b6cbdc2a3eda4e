//! Vectors that the user already has, through whole runs: kinds of lists and floats, bad vectors, rules against brute force.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Float64Array, ListArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use serde_json::{Value, json};
use trommel::random::Random;

use crate::fixture::{Corpus, read_parquet};

type Vector = Option<Vec<f64>>;

const SOURCE: &str = "  c: { parquet: { uri: in, id: id } }";
const EMBED: &str = "  - { id: v, embed: { from: vec } }";

/// A list column of doubles.
fn lists(rows: &[Vector]) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(
        rows.iter().map(|row| row.as_ref().map(|row| row.iter().copied().map(Some).collect::<Vec<_>>())),
    ))
}

fn batch(first: usize, columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..columns[0].1.len()).map(|row| format!("{:04}", first + row))));
    RecordBatch::try_from_iter_with_nullable(
        std::iter::once(("id", ids, false)).chain(columns.iter().map(|(name, array)| (*name, Arc::clone(array), true))),
    )
    .unwrap()
}

/// A corpus of one column `vec` over shards of `shard_rows` rows.
fn corpus(rows: &[Vector], shard_rows: usize) -> Corpus {
    let corpus = Corpus::new();
    for (at, part) in rows.chunks(shard_rows).enumerate() {
        corpus.batch(&format!("{at:03}.parquet"), &batch(at * shard_rows, &[("vec", lists(part))]), 64);
    }
    corpus
}

/// Runs stages over it and gives the numbers of the rows kept.
fn kept(corpus: &Corpus, stages: &str) -> Vec<usize> {
    corpus.pipeline_with(SOURCE, stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    corpus.kept().iter().map(|id| id.parse().unwrap()).collect()
}

fn report(corpus: &Corpus, stage: &str) -> Value {
    let manifest = corpus.manifest();
    let stages = manifest["stages"].as_array().unwrap();
    stages.iter().find(|found| found["stage"] == stage).unwrap()["report"].clone()
}

fn near(keys: &str) -> String {
    format!("{EMBED}\n  - {{ id: semantic, semantic_dedup: {{ {keys} }} }}")
}

/// Points on the unit circle.
fn circle(degrees: &[f64]) -> Vec<Vector> {
    degrees.iter().map(|angle| Some(vec![angle.to_radians().cos(), angle.to_radians().sin()])).collect()
}

fn random_vectors(rows: usize, dimensions: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut draws = Random::new(seed, "vectors").sequence(b"it");
    (0..rows).map(|_| (0..dimensions).map(|_| draws.unit() * 2.0 - 1.0).collect()).collect()
}

/// The cosine of two vectors as the program sees them: single precision.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a as f32) * f64::from(*b as f32)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn lists_of_every_kind_hold_vectors() {
    let rows = circle(&[0., 50., 1., 90., 51., 180.]);
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let kinds = [
        list(DataType::Float64),
        list(DataType::Float32),
        list(DataType::Float16),
        DataType::LargeList(Arc::new(Field::new("item", DataType::Float64, true))),
        DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), 2),
        DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float64, true)), 2),
        DataType::FixedSizeList(Arc::new(Field::new("element", DataType::Float16, true)), 2),
    ];
    for kind in &kinds {
        let corpus = Corpus::new();
        corpus.batch("a.parquet", &batch(0, &[("vec", cast(&lists(&rows), kind).unwrap())]), 4);
        assert_eq!(kept(&corpus, &near("epsilon: 0.01")), [0, 1, 3, 5], "{kind}");
        assert_eq!(report(&corpus, "v")["statuses"], json!({"ok": 6}), "{kind}");
        corpus.verify().ok();
    }
    // Shards may differ in how they hold them.
    let corpus = Corpus::new();
    for (at, kind) in kinds.iter().enumerate() {
        corpus.batch(&format!("{at}.parquet"), &batch(at * 6, &[("vec", cast(&lists(&rows), kind).unwrap())]), 4);
    }
    let ran = corpus.pipeline_with(SOURCE, &near("epsilon: 0.01"), "parquet: { uri: out }").run(&[]);
    if ran.code == 0 {
        assert_eq!(corpus.kept(), ["0000", "0001", "0003", "0005"]);
    } else {
        let said = ran.failed(3);
        assert!(said.contains("column `vec` must have one type") && said.matches("error:").count() == 1, "{said}");
    }
    // What holds no vectors is said so.
    let corpus = Corpus::new();
    corpus.batch("a.parquet", &batch(0, &[("vec", Arc::new(StringArray::from(vec!["1,2"])))]), 4);
    let said = corpus.pipeline_with(SOURCE, &near("epsilon: 0.01"), "parquet: { uri: out }").run(&[]).failed(3);
    assert!(said.contains("holds no vectors"), "{said}");
}

/// Good ones, and each kind of bad one twice: bad vectors are never duplicates of each other.
fn with_bad() -> Vec<Vector> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    vec![
        Some(vec![1., 0.]),
        Some(vec![nan, 0.]),
        Some(vec![nan, 0.]),
        Some(vec![inf, 1.]),
        Some(vec![-inf, 1.]),
        Some(vec![0., 0.]),
        Some(vec![0., 0.]),
        None,
        None,
        Some(vec![1., 0., 0.]),
        Some(vec![1.]),
        Some(vec![]),
        Some(vec![2., 0.]),
        Some(vec![0., 3.]),
    ]
}

#[test]
fn bad_vectors_are_counted_marked_and_never_compared() {
    let bad: Vec<usize> = (1..12).collect();
    let good = [0, 13];
    let all: Vec<usize> = (0..14).filter(|row| *row != 12).collect();
    let counts = json!({"null": 2, "not_finite": 4, "zero_norm": 2, "wrong_dimension": 3});
    let corpus = corpus(&with_bad(), 100);
    assert_eq!(kept(&corpus, &near("epsilon: 0.1")), all);
    let mut with_ok = counts.clone();
    with_ok["ok"] = json!(3);
    assert_eq!(report(&corpus, "v")["statuses"], with_ok);
    assert_eq!(report(&corpus, "semantic")["bad_vectors"], counts);
    assert_eq!(corpus.lineage()[12].kept_doc_id.as_deref(), Some("0000"));
    assert!(corpus.lineage().iter().all(|row| row.doc_id.as_deref() == Some("0012") || row.kept.is_none()));
    corpus.verify().ok();

    // The policies, in the stage that makes the vectors and in those that read them.
    let drop_in_embed = "  - { id: v, embed: { from: vec, on_bad_vector: drop } }\n  - { id: semantic, semantic_dedup: { epsilon: 0.1 } }";
    let select =
        |policy: &str| format!("{EMBED}\n  - {{ id: semantic, prototypes: {{ keep_fraction: 1.0, k: 1, on_bad_vector: {policy} }} }}");
    for (stages, stage, kept_rows) in [
        (drop_in_embed.to_owned(), "v", good.to_vec()),
        (near("epsilon: 0.1, on_bad_vector: drop"), "semantic", good.to_vec()),
        (select("drop"), "semantic", vec![0, 12, 13]),
        (select("keep"), "semantic", (0..14).collect()),
    ] {
        assert_eq!(kept(&corpus, &stages), kept_rows, "{stages}");
        let dropped: Vec<usize> = (0..14).filter(|row| !kept_rows.contains(row) && *row != 12).collect();
        assert!(dropped.is_empty() || dropped == bad);
        for row in dropped {
            let line = &corpus.lineage()[row];
            assert_eq!((line.reason.as_deref(), line.stage.as_deref()), (Some("bad_vector"), Some(stage)), "{line:?}");
            assert!(line.kept.is_none() && line.detail.as_ref().is_some_and(|detail| detail.contains("embedding_status")), "{line:?}");
        }
        corpus.verify().ok();
    }
    let before = corpus.tree_hash();
    let fail_in_embed = drop_in_embed.replace("drop", "fail");
    for stages in [fail_in_embed, near("epsilon: 0.1, on_bad_vector: fail"), select("fail")] {
        let said = corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&["--overwrite"]).failed(3);
        assert!(said.contains("rows=`11`") && said.contains("zero_norm"), "{said}");
        assert_eq!(corpus.tree_hash(), before, "the old dataset stays");
    }
}

#[test]
fn bad_vectors_change_nothing_for_the_others() {
    let good: Vec<Vector> = random_vectors(120, 2, 3).into_iter().map(Some).collect();
    let mixed: Vec<Vector> =
        good.iter().zip(with_bad().into_iter().skip(1).take(11).cycle()).flat_map(|(good, bad)| [good.clone(), bad]).collect();
    for keys in ["epsilon: 0.001", "epsilon: 0.001, k: 4, keep: hard"] {
        let alone: Vec<usize> = kept(&corpus(&good, 50), &near(keys));
        assert!(alone.len() < 120 && alone.len() > 20);
        // The first row of each shard is a good one: it says the dimension.
        let among: Vec<usize> = kept(&corpus(&mixed, 60), &near(keys));
        assert_eq!(among.iter().filter(|row| *row % 2 == 1).count(), 120);
        assert_eq!(among.into_iter().filter(|row| row % 2 == 0).map(|row| row / 2).collect::<Vec<_>>(), alone);
    }
}

#[test]
fn shards_without_any_sound_vector_pass() {
    let corpus = Corpus::new();
    corpus.batch("a.parquet", &batch(0, &[("vec", lists(&[None, None]))]), 4);
    corpus.batch("b.parquet", &batch(2, &[("vec", lists(&circle(&[0., 1., 90.])))]), 4);
    corpus.batch("c.parquet", &batch(5, &[("vec", lists(&[]))]), 4);
    assert_eq!(kept(&corpus, &near("epsilon: 0.01")), [0, 1, 2, 4]);
    fs::remove_file(corpus.at("in/b.parquet")).unwrap();
    for stage in ["semantic_dedup: { epsilon: 0.01, k: 3 }", "prototypes: { keep_rows: 2 }"] {
        assert_eq!(kept(&corpus, &format!("{EMBED}\n  - {{ id: s, {stage} }}")), [0, 1], "{stage}");
    }
}

/// Seeds S1, check 1.
#[test]
fn fixed_vectors_give_the_golden_removals() {
    let rows: Vec<Vector> =
        [[1., 2., 3.], [4., 5., 6.], [7., 8., 9.], [10., 11., 12.], [1., 2., 3.], [1., 2., 3.]].map(|row| Some(row.to_vec())).to_vec();
    let corpus = corpus(&rows, 4);
    for (epsilon, wanted) in [("0.0001", vec![0, 1, 2, 3]), ("0.001", vec![0, 1, 2]), ("0.01", vec![0, 1]), ("0.03", vec![0])] {
        assert_eq!(kept(&corpus, &near(&format!("epsilon: {epsilon}, rule: any_earlier"))), wanted, "epsilon {epsilon}");
    }
    assert_eq!(kept(&corpus, &near("epsilon: 0.03, rule: any_earlier, report: [0.0001, 0.001, 0.01]")), [0]);
    let by_epsilon: BTreeMap<String, u64> = report(&corpus, "semantic")["by_epsilon"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["epsilon"].to_string(), entry["dropped"].as_u64().unwrap()))
        .collect();
    let wanted = [("0.0001", 2), ("0.001", 3), ("0.01", 4), ("0.03", 5)];
    assert_eq!(by_epsilon, wanted.map(|(epsilon, dropped)| (epsilon.to_owned(), dropped)).into());
    let first = &corpus.lineage()[1];
    assert!((first.score.unwrap() - 0.974_632).abs() < 1e-6, "{first:?}");
}

/// Seeds S1, check 2.
#[test]
fn rules_part_on_chains() {
    let epsilon = format!("{}", 1.0 - 12_f64.to_radians().cos());
    for (degrees, star, any_earlier) in [
        (vec![0., 10., 20.], vec![0, 2], vec![0]),
        (vec![0., 20., 10.], vec![0, 1], vec![0, 1]),
        (vec![0., 10., 20., 30.], vec![0, 2], vec![0]),
    ] {
        let corpus = corpus(&circle(&degrees), 2);
        assert_eq!(kept(&corpus, &near(&format!("epsilon: {epsilon}"))), star, "{degrees:?}");
        assert!(corpus.lineage().iter().all(|row| row.decision == "keep" || row.kept.is_some()));
        assert_eq!(kept(&corpus, &near(&format!("epsilon: {epsilon}, rule: any_earlier"))), any_earlier, "{degrees:?}");
        assert_eq!(kept(&corpus, &near(&format!("epsilon: {epsilon}, rule: components"))), [0], "{degrees:?}");
        corpus.verify().ok();
    }
}

/// The test data of NeMo Curator: 1,500 points in three dimensions, five clusters, epsilon .01, equality drops.
#[test]
fn nemo_blobs_give_the_golden_counts_through_a_run() {
    let bytes = include_bytes!("../golden/nemo_blobs.npy");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let numbers: Vec<f64> = bytes[header..].chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap())).collect();
    let rows: Vec<Vec<f64>> = numbers.chunks(3).map(<[f64]>::to_vec).collect();
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 400);
    for (keep, rule, left) in [("hard", "any_earlier", 29), ("easy", "any_earlier", 5), ("hard", "star", 52), ("easy", "star", 38)] {
        let survivors = kept(&corpus, &near(&format!("epsilon: 0.01, on_equal: drop, k: 5, iterations: 100, keep: {keep}, rule: {rule}")));
        assert_eq!(survivors.len(), left, "{keep} {rule}");
        let mut orphans = 0;
        for (row, line) in corpus.lineage().iter().enumerate() {
            assert_eq!(line.decision == "keep", survivors.contains(&row));
            match &line.kept_doc_id {
                Some(kept) => {
                    let of: usize = kept.parse().unwrap();
                    let cosine = cosine(&rows[row], &rows[of]);
                    assert!(survivors.contains(&of) && cosine > 0.99 - 1e-6 && (line.score.unwrap() - cosine).abs() < 1e-6, "{line:?}");
                }
                None => orphans += usize::from(line.decision == "drop"),
            }
        }
        if rule == "star" {
            assert_eq!(orphans, 0, "every dropped row has a representative");
        } else {
            assert_eq!(report(&corpus, "semantic")["orphans"], orphans);
        }
        corpus.verify().ok();
    }
}

/// Seeds S1, check 7, through whole runs: the star by hand, in any keep order.
#[test]
fn one_cell_equals_brute_force_for_any_keep_order() {
    let rows = random_vectors(300, 4, 11);
    let mut draws = Random::new(5, "scores").sequence(b"it");
    let scores: Vec<f64> = (0..300).map(|_| draws.unit()).collect();
    let corpus = Corpus::new();
    for (at, part) in (0..300).collect::<Vec<usize>>().chunks(70).enumerate() {
        let vectors: Vec<Vector> = part.iter().map(|row| Some(rows[*row].clone())).collect();
        let score: ArrayRef = Arc::new(Float64Array::from_iter_values(part.iter().map(|row| scores[*row])));
        corpus.batch(&format!("{at}.parquet"), &batch(at * 70, &[("vec", lists(&vectors)), ("score", score)]), 16);
    }
    let (epsilon, forwards) = (0.05, (0..300).collect::<Vec<usize>>());
    let by_score = |sign: f64| {
        let mut order = forwards.clone();
        order.sort_by(|a, b| (sign * scores[*a]).total_cmp(&(sign * scores[*b])));
        order
    };
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    for (keep, order) in
        [("first", forwards.clone()), ("last", backwards), ("{ by: score }", by_score(1.0)), ("{ by: score, order: desc }", by_score(-1.0))]
    {
        let mut survivors: Vec<usize> = Vec::new();
        let mut representative: BTreeMap<usize, usize> = BTreeMap::new();
        for row in order {
            let mut best: Option<(f64, usize)> = None;
            for earlier in &survivors {
                let cosine = cosine(&rows[row], &rows[*earlier]);
                assert!((cosine - (1.0 - epsilon)).abs() > 1e-9, "choose other vectors: this pair lies on the threshold");
                if cosine > 1.0 - epsilon && best.is_none_or(|(so_far, _)| cosine > so_far) {
                    best = Some((cosine, *earlier));
                }
            }
            match best {
                Some((_, of)) => {
                    representative.insert(row, of);
                }
                None => survivors.push(row),
            }
        }
        survivors.sort_unstable();
        assert!(survivors.len() < 290);
        assert_eq!(kept(&corpus, &near(&format!("epsilon: {epsilon}, keep: {keep}, k: 1"))), survivors, "{keep}");
        for (row, line) in corpus.lineage().iter().enumerate() {
            assert_eq!(line.kept_doc_id, representative.get(&row).map(|of| format!("{of:04}")), "{keep}: {line:?}");
        }
        corpus.verify().ok();
    }
}

/// Seeds S1, check 7, through a run: with few rows all of them are looked at, and eta is that of all pairs.
#[test]
fn eta_of_a_run_equals_brute_force() {
    use trommel::vector::{KMeans, Vectors, normalise, similarity};
    let base = random_vectors(20, 4, 3);
    let noise = random_vectors(120, 4, 4);
    let rows: Vec<Vec<f64>> = (0..120).map(|row| base[row * 7 % 20].iter().zip(&noise[row]).map(|(x, e)| x + 0.3 * e).collect()).collect();
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 50);
    let sink = "parquet: { uri: out, write: annotate, add: [v] }";
    corpus.pipeline_with(SOURCE, &near("epsilon: 0.1, k: 4"), sink).run(&["--overwrite"]).ok();
    // The vectors as the program holds them: where centroids start depends on each bit.
    let made = ["000", "001", "002"].map(|shard| read_parquet(&corpus.at(&format!("out/data/{shard}.parquet"))));
    let made = made.iter().flat_map(|batch| {
        let lists = batch.column_by_name("v").unwrap().as_fixed_size_list().clone();
        lists.values().as_primitive::<Float32Type>().values().to_vec()
    });
    let mut data: Vec<f32> = made.collect();
    data.chunks_mut(4).for_each(|row| assert!(normalise(row)));
    let vectors = Vectors::try_new(data, 4).unwrap();
    let (cells, _) = KMeans::fit(vectors.matrix(), 4, 20, &Random::new(1234, "semantic")).unwrap().assign(vectors.matrix());
    let pairs = (0..120).flat_map(|a| (0..120).map(move |b| (a, b)));
    let near: Vec<(usize, usize)> = pairs.filter(|(a, b)| a != b && similarity(vectors.row(*a), vectors.row(*b)) > 1.0 - 0.1).collect();
    let within = near.iter().filter(|(a, b)| cells[*a] == cells[*b]).count();
    assert!(within < near.len() && within > 0);
    let found = report(&corpus, "semantic")["efficiency"].clone();
    // A report keeps 15 digits.
    assert!((found["eta_percent"].as_f64().unwrap() - 100.0 * within as f64 / near.len() as f64).abs() < 1e-11, "{found}");
    assert_eq!((&found["pairs_within"], &found["pairs_near"], &found["rows"]), (&json!(within), &json!(near.len()), &json!(120)));
}

#[test]
fn prototypes_meet_their_budget_exactly() {
    let mut rows: Vec<Vector> = random_vectors(190, 3, 17).into_iter().map(Some).collect();
    rows.splice(50..50, [const { None }; 10]);
    let corpus = corpus(&rows, 60);
    for (keys, budget) in [
        ("keep_rows: 50", 50),
        ("keep_rows: 50, balance: 1.0, k: 7", 50),
        ("keep_fraction: 0.25, k: 3, balance: 0.5", 50),
        ("keep_rows: 1, on_bad_vector: drop", 1),
        ("keep_rows: 1000", 200),
        ("keep_fraction: 1.0", 200),
        ("keep_rows: 50, on_bad_vector: drop", 50),
    ] {
        let survivors = kept(&corpus, &format!("{EMBED}\n  - {{ id: core, prototypes: {{ {keys} }} }}"));
        assert_eq!(survivors.len(), budget, "{keys}");
        // Rows that cannot be placed are kept first.
        assert_eq!(survivors.iter().filter(|row| (50..60).contains(*row)).count(), if keys.contains("drop") { 0 } else { 10 }, "{keys}");
        corpus.verify().ok();
    }
}

/// Seeds S2, check 3, through runs: D4 that keeps all prototypes is semantic deduplication, D4 that drops no duplicate is prototypes.
#[test]
fn either_half_of_d4_alone_is_that_stage() {
    let corpus = corpus(&random_vectors(190, 3, 17).into_iter().map(Some).collect::<Vec<_>>(), 60);
    let dedup = |epsilon: f64| format!("\n  - {{ id: d, semantic_dedup: {{ epsilon: {epsilon} }} }}");
    let core = |fraction: f64| format!("\n  - {{ id: core, prototypes: {{ keep_fraction: {fraction}, k: 5 }} }}");
    let kept = |stages: &[String]| kept(&corpus, &[&[EMBED.to_owned()], stages].concat().concat());
    let unlike = kept(&[dedup(0.01)]);
    assert!((50..150).contains(&unlike.len()), "{}", unlike.len());
    assert_eq!(kept(&[dedup(0.01), core(1.0)]), unlike);
    assert_eq!(kept(&[dedup(1e-9)]).len(), 190);
    assert_eq!(kept(&[dedup(1e-9), core(0.5)]), kept(&[core(0.5)]));
    assert_eq!(kept(&[dedup(0.01), core(0.5)]).len(), (unlike.len() as f64 / 2.0).round() as usize);
}

#[test]
fn a_stage_names_the_vectors_that_it_compares() {
    let corpus = Corpus::new();
    let (a, b) = (lists(&circle(&[0., 0., 90.])), lists(&circle(&[0., 90., 90.])));
    corpus.batch("a.parquet", &batch(0, &[("a", a), ("b", b)]), 10);
    let both = "  - { id: va, embed: { from: a } }\n  - { id: vb, embed: { from: b } }";
    for (keys, wanted) in [("", [0, 1]), (", embedding: va", [0, 2]), (", embedding: vb", [0, 1])] {
        assert_eq!(kept(&corpus, &format!("{both}\n  - {{ id: s, semantic_dedup: {{ epsilon: 0.01{keys} }} }}")), wanted, "{keys}");
        assert_eq!(kept(&corpus, &format!("{both}\n  - {{ id: s, prototypes: {{ keep_rows: 3{keys} }} }}")), [0, 1, 2], "{keys}");
    }
    let said = corpus
        .pipeline_with(
            SOURCE,
            &format!("{both}\n  - {{ id: s, semantic_dedup: {{ epsilon: 0.01, embedding: vc }} }}"),
            "parquet: { uri: out }",
        )
        .run(&["--overwrite"])
        .failed(2);
    assert!(said.contains("vc"), "{said}");
}

/// The column that `sink.add` adds, as doubles.
fn added(corpus: &Corpus, embed: &str) -> (DataType, Vec<Vector>) {
    let stages = format!("  - {{ id: v, embed: {{ from: vec{embed} }} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out, add: [v] }").run(&["--overwrite"]).ok();
    corpus.verify().ok();
    let column = Arc::clone(read_parquet(&corpus.at("out/data/000.parquet")).column_by_name("v").unwrap());
    let lists = cast(&column, &DataType::List(Arc::new(Field::new("item", DataType::Float32, true)))).unwrap();
    let lists = lists.as_list::<i32>().clone();
    let row = |row: usize| {
        lists.is_valid(row).then(|| lists.value(row).as_primitive::<Float32Type>().values().iter().map(|x| f64::from(*x)).collect())
    };
    (column.data_type().clone(), (0..lists.len()).map(row).collect())
}

#[track_caller]
fn assert_close(found: &[Vector], wanted: &[Vector], within: f64) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        match (found, wanted) {
            (None, None) => {}
            (Some(found), Some(wanted)) if found.len() == wanted.len() => {
                assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= within), "{found:?} {wanted:?}");
            }
            _ => panic!("{found:?} {wanted:?}"),
        }
    }
}

#[test]
fn vectors_that_were_made_can_be_added_to_the_output() {
    let corpus = corpus(&[Some(vec![3., 4., 0.]), None, Some(vec![0., 0., 0.]), Some(vec![1., 2., -2.])], 10);
    let unit = [Some(vec![0.6, 0.8, 0.]), None, None, Some(vec![1. / 3., 2. / 3., -2. / 3.])];
    let (wide, found) = added(&corpus, "");
    assert_close(&found, &unit, 1e-7);
    assert!(matches!(wide, DataType::FixedSizeList(item, 3) if item.data_type() == &DataType::Float32));
    assert_close(&added(&corpus, ", precision: f16").1, &unit, 3e-4);
    assert_close(&added(&corpus, ", normalize: false").1, &[Some(vec![3., 4., 0.]), None, None, Some(vec![1., 2., -2.])], 0.0);
    assert_close(
        &added(&corpus, ", dims: 2").1,
        &[Some(vec![0.6, 0.8]), None, None, Some(vec![1. / 5_f64.sqrt(), 2. / 5_f64.sqrt()])],
        1e-7,
    );
}

#[test]
fn half_precision_moves_no_decision_far_from_the_threshold_and_holds_no_infinity() {
    let rows: Vec<Vector> =
        random_vectors(60, 6, 23).into_iter().flat_map(|row| [Some(row.clone()), Some(row.iter().map(|x| x * 3.0).collect())]).collect();
    let copies = corpus(&rows, 50);
    let half = |precision: &str| {
        format!(
            "  - {{ id: v, embed: {{ from: vec, precision: {precision} }} }}\n  - {{ id: semantic, semantic_dedup: {{ epsilon: 0.00001 }} }}"
        )
    };
    let wide = kept(&copies, &half("f32"));
    assert_eq!(wide, (0..120).step_by(2).collect::<Vec<_>>());
    assert_eq!(kept(&copies, &half("f16")), wide);
    // Beyond 65,504 half precision has infinity alone, and below 6e-8 zero alone.
    let far = corpus(&[Some(vec![1.0e6, 0.]), Some(vec![1.0e-9, 0.]), Some(vec![2., 0.]), Some(vec![1., 0.])], 10);
    assert_close(&added(&far, ", normalize: false, precision: f16").1, &[None, None, Some(vec![2., 0.]), Some(vec![1., 0.])], 0.0);
    assert_eq!(report(&far, "v")["statuses"], json!({"not_finite": 1, "ok": 2, "zero_norm": 1}));
    assert_close(&added(&far, ", normalize: true, precision: f16").1, &vec![Some(vec![1., 0.]); 4], 0.0);
}
