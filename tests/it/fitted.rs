//! Stages that fit a map to all vectors, through whole runs: what they write against plain sums, and what stands below them.

use std::fs;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, Float64Type};
use serde_json::{Value, json};
use trommel::random::{Random, Sequence};

use crate::fixture::{Corpus, list, read_parquet, trommel};

type Vector = Option<Vec<f64>>;

const SOURCE: &str = "  c: { parquet: { uri: in, id: id } }";
const RAW: &str = "  - { id: v, embed: { from: vec, normalize: false } }\n";

fn corpus(rows: &[Vector], shard_rows: usize) -> Corpus {
    let corpus = Corpus::new();
    for (at, part) in rows.chunks(shard_rows).enumerate() {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..part.len()).map(|row| format!("{:04}", at * shard_rows + row))));
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(
            part.iter().map(|row| row.as_ref().map(|row| row.iter().copied().map(Some).collect::<Vec<_>>())),
        );
        let batch = RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("vec", Arc::new(lists) as ArrayRef, true)]).unwrap();
        corpus.batch(&format!("{at:03}.parquet"), &batch, 64);
    }
    corpus
}

/// Runs `embed` and one stage `z`, whose vectors are added to the output; gives them, in the order of the corpus.
fn made(corpus: &Corpus, stage: &str, more: &[&str]) -> Vec<Option<Vec<f64>>> {
    let stages = format!("{RAW}  - {{ id: z, {stage} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out, add: [z] }").run(&[&["--overwrite"], more].concat()).ok();
    column(corpus, "z")
}

fn column(corpus: &Corpus, name: &str) -> Vec<Option<Vec<f64>>> {
    let mut files = Vec::new();
    list(&corpus.at("out/data"), &mut files);
    let mut vectors = Vec::new();
    for file in files {
        let batch = read_parquet(&file);
        let lists = batch.column_by_name(name).unwrap().as_fixed_size_list().clone();
        vectors.extend((0..lists.len()).map(|row| {
            let values = || lists.value(row).as_primitive::<Float32Type>().values().iter().map(|x| f64::from(*x)).collect();
            lists.is_valid(row).then(values)
        }));
    }
    vectors
}

fn report(corpus: &Corpus, stage: &str) -> Value {
    let manifest = corpus.manifest();
    let stages = manifest["stages"].as_array().unwrap();
    stages.iter().find(|found| found["stage"] == stage).unwrap()["report"].clone()
}

fn tasks_run(corpus: &Corpus) -> u64 {
    let record: Value = serde_json::from_slice(&fs::read(corpus.at("out/run.json")).unwrap()).unwrap();
    record["tasks_run"].as_u64().unwrap()
}

fn normal(draws: &mut Sequence) -> f64 {
    (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()
}

/// Rows around six centres far from the origin, five dimensions of them correlated and of unequal strength; singles.
fn rows(count: usize) -> Vec<Vec<f64>> {
    let mut draws = Random::new(4, "fitted").sequence(b"rows");
    let centres: Vec<Vec<f64>> = (0..6).map(|_| (0..5).map(|_| 2.0 * normal(&mut draws)).collect()).collect();
    let row = |at: usize| {
        let own: Vec<f64> = centres[at % 6].iter().map(|x| x + 0.5 * normal(&mut draws)).collect();
        let mixed = [own[0] + 7.0, 0.3 * own[0] + own[1] - 4.0, 3.0 * own[2] + own[1], 0.2 * own[3] + 1.0, own[4] - own[2]];
        mixed.map(|x| f64::from(x as f32)).to_vec()
    };
    (0..count).map(row).collect()
}

/// Mean and covariance by two plain passes.
fn moments(rows: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (n, d) = (rows.len() as f64, rows[0].len());
    let mean: Vec<f64> = (0..d).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / n).collect();
    let entry = |i: usize, j: usize| rows.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / n;
    let covariance = (0..d).map(|i| (0..d).map(|j| entry(i, j)).collect()).collect();
    (mean, covariance)
}

/// The inverse, by elimination.
fn inverse(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let d = matrix.len();
    let mut work: Vec<Vec<f64>> =
        (0..d).map(|i| matrix[i].iter().copied().chain((0..d).map(|j| f64::from(u8::from(i == j)))).collect()).collect();
    for i in 0..d {
        let pivot = (i..d).max_by(|a, b| work[*a][i].abs().total_cmp(&work[*b][i].abs())).unwrap();
        work.swap(i, pivot);
        let scale = work[i][i];
        work[i].iter_mut().for_each(|x| *x /= scale);
        for j in (0..d).filter(|j| *j != i) {
            let factor = work[j][i];
            let row = work[i].clone();
            work[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    work.into_iter().map(|row| row[d..].to_vec()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// What whitening is, without eigenvectors: products of whitened rows are `(x - mu)^T S^-1 (y - mu)`.
#[test]
fn whitened_vectors_are_those_of_plain_sums() {
    let rows = rows(300);
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 70);
    let (mean, covariance) = moments(&rows);
    let inverse = inverse(&covariance);
    let centred: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().zip(&mean).map(|(x, mean)| x - mean).collect()).collect();
    let product = |a: usize, b: usize| -> f64 { inverse.iter().zip(&centred[a]).map(|(row, x)| x * dot(row, &centred[b])).sum() };
    for method in ["pca", "zca"] {
        let white: Vec<Vec<f64>> = made(&corpus, &format!("embedding_whitening: {{ method: {method}, normalize: false }}"), &[])
            .into_iter()
            .map(Option::unwrap)
            .collect();
        for (a, b) in (0..300).flat_map(|a| (0..300).step_by(7).map(move |b| (a, b))) {
            let (found, wanted) = (dot(&white[a], &white[b]), product(a, b));
            assert!((found - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{method} {a} {b}: {found} {wanted}");
        }
        // Of length 1 they are the same directions.
        let unit = made(&corpus, &format!("embedding_whitening: {{ method: {method} }}"), &[]);
        for (unit, white) in unit.into_iter().flatten().zip(&white) {
            assert!((dot(&unit, &unit) - 1.0).abs() < 1e-6 && cosine(&unit, white) > 1.0 - 1e-6);
        }
        let report = report(&corpus, "z");
        assert!(
            (report["rank"] == 5) && (report["fitted_rows"] == 300) && report["explained_variance"].as_f64().unwrap() > 1.0 - 1e-9,
            "{report}"
        );
        assert_eq!(report["statuses"], json!({"ok": 300}));
    }
    // ZCA stays as near to its input as whitening can: S^(-1/2) is symmetric and positive.
    let zca: Vec<Vec<f64>> = made(&corpus, "embedding_whitening: { method: zca, normalize: false }", &[]).into_iter().flatten().collect();
    let across: Vec<Vec<f64>> =
        (0..5).map(|i| (0..5).map(|j| (0..300).map(|row| zca[row][i] * centred[row][j]).sum::<f64>()).collect()).collect();
    assert!((0..5).all(|i| across[i][i] > 0.0 && (0..5).all(|j| (across[i][j] - across[j][i]).abs() < 1e-3)), "{across:?}");
    // PCA's axes come strongest first, and `dims` takes the first of them.
    let pca: Vec<Vec<f64>> = made(&corpus, "embedding_whitening: { power: 0, normalize: false }", &[]).into_iter().flatten().collect();
    let (_, turned) = moments(&pca);
    assert!(
        (0..4).all(|i| turned[i][i] >= turned[i + 1][i + 1]) && (0..5).all(|i| (0..i).all(|j| turned[i][j].abs() < 1e-4)),
        "{turned:?}"
    );
    let first: Vec<Vec<f64>> =
        made(&corpus, "embedding_whitening: { power: 0, dims: 2, normalize: false }", &[]).into_iter().flatten().collect();
    assert!(first.iter().zip(&pca).all(|(first, all)| first == &all[..2]));
    let moved: Vec<Vec<f64>> =
        made(&corpus, "embedding_whitening: { method: center, normalize: false }", &[]).into_iter().flatten().collect();
    assert!(moved.iter().zip(&centred).all(|(a, b)| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)));
    corpus.verify().ok();
}

/// What twin CCA is: the new dimensions have the identity as covariance, and between neighbours each correlates with itself alone, as
/// much as the report says.
#[test]
fn neighbours_correlate_as_reported() {
    let rows = rows(240);
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 50);
    let short: Vec<Vec<f64>> =
        made(&corpus, "neighbor_dim_reduction: { dims: 3, neighbors: 4, normalize: false }", &[]).into_iter().map(Option::unwrap).collect();
    let (_, covariance) = moments(&short);
    let mut across = vec![vec![0.0; 3]; 3];
    for (row, vector) in rows.iter().enumerate() {
        let mut others: Vec<usize> = (0..rows.len()).filter(|other| *other != row).collect();
        others.sort_by(|a, b| cosine(vector, &rows[*b]).total_cmp(&cosine(vector, &rows[*a])).then(a.cmp(b)));
        for (other, i, j) in others[..4].iter().flat_map(|other| (0..3).flat_map(move |i| (0..3).map(move |j| (*other, i, j)))) {
            across[i][j] += f64::midpoint(short[row][i] * short[other][j], short[row][j] * short[other][i]) / (4 * rows.len()) as f64;
        }
    }
    let report = report(&corpus, "z");
    let correlations: Vec<f64> = report["correlations"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert!(correlations.windows(2).all(|pair| pair[0] >= pair[1]) && correlations[0] > 0.5, "{correlations:?}");
    for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
        let same = f64::from(u8::from(i == j));
        assert!((covariance[i][j] - same).abs() < 1e-4, "{covariance:?}");
        assert!((across[i][j] - same * correlations[i]).abs() < 1e-4, "{across:?} {correlations:?}");
    }
    assert_eq!((&report["rank"], &report["queries"], &report["dimensions"]), (&json!(5), &json!(240), &json!({"from": 5, "to": 3})));
    corpus.verify().ok();
}

#[test]
fn chosen_dimensions_are_taken_as_they_are() {
    // Dimension 5 is a copy of 2, dimension 6 is constant.
    let rows: Vec<Vec<f64>> = rows(200).into_iter().map(|row| [row.as_slice(), &[row[2], 0.5]].concat()).collect();
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 60);
    for (keys, count) in [("dims: 4", Some(4)), ("cut: two_means", None), ("cut: histogram", None), ("alpha: 1, dims: 5", Some(5))] {
        let some = made(&corpus, &format!("dimension_select: {{ {keys}, normalize: false }}"), &[]);
        let report = report(&corpus, "z");
        let chosen: Vec<usize> = report["chosen"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
        assert!(count.is_none_or(|count| chosen.len() == count) && !chosen.is_empty(), "{keys}: {report}");
        assert!(!chosen.contains(&2) || !chosen.contains(&5), "{keys}: {report}");
        assert!(!chosen.contains(&6) && report["twins"] == 1, "{keys}: {report}");
        for (row, vector) in some.iter().enumerate() {
            let wanted: Vec<f64> = chosen.iter().map(|dimension| rows[row][*dimension]).collect();
            assert_eq!(vector.as_ref().unwrap(), &wanted);
        }
    }
    corpus.verify().ok();
}

const KINDS: [&str; 4] = [
    "embedding_whitening: { method: zca }",
    "embedding_whitening: { method: group, groups: 2, seed: 5 }",
    "neighbor_dim_reduction: { dims: 3 }",
    "dimension_select: { dims: 3 }",
];

#[test]
fn threads_batches_and_shards_move_no_bit() {
    let rows: Vec<Vector> = rows(150).into_iter().map(Some).collect();
    for kind in KINDS {
        let whole = corpus(&rows, 150);
        let vectors = made(&whole, kind, &[]);
        let parts = corpus(&rows, 31);
        assert_eq!(made(&parts, kind, &[]), vectors, "{kind}");
        let bytes = parts.tree_hash();
        for (threads, batch) in [("1", "3"), ("2", "8192"), ("3", "64")] {
            let again = corpus(&rows, 31);
            made(&again, kind, &["--threads", threads, "--batch-rows", batch]);
            assert_eq!(again.tree_hash(), bytes, "{kind} {threads} {batch}");
        }
    }
}

#[test]
fn bad_vectors_are_left_out_of_the_fit_and_stay_bad() {
    let good = rows(60);
    // A row at the mean of all others moves the mean nowhere; it has a direction before and none after.
    let (mean, _) = moments(&good);
    let mut all: Vec<Vector> = good.iter().cloned().map(Some).collect();
    let bad = [Some(vec![f64::NAN; 5]), None, Some(vec![0.0; 5]), Some(vec![1.0, 2.0]), Some(vec![f64::INFINITY; 5])];
    all.splice(20..20, bad.clone());
    let plain = corpus(&good.iter().cloned().map(Some).collect::<Vec<_>>(), 25);
    let with = corpus(&all, 25);
    for kind in KINDS {
        let wanted: Vec<Option<Vec<f64>>> = made(&plain, kind, &[]);
        let mut found = made(&with, kind, &[]);
        assert!(found.drain(20..25).all(|vector| vector.is_none()), "{kind}");
        assert_eq!(found, wanted, "{kind}: what cannot be compared shapes nothing");
        let report = report(&with, "z");
        let left_out = json!({"not_finite": 2, "null": 1, "wrong_dimension": 1, "zero_norm": 1});
        assert!(report["left_out"] == left_out && report["fitted_rows"] == 60 && report["statuses"]["ok"] == 60, "{kind}: {report}");
    }
    let mut at_mean = all;
    at_mean.push(Some(mean));
    let at_mean = corpus(&at_mean, 25);
    let stage = |policy: &str| format!("embedding_whitening: {{ on_bad_vector: {policy} }}");
    let found = made(&at_mean, &stage("keep"), &[]);
    assert!(found[65].is_none() && found[64].is_some());
    let counts = report(&at_mean, "z");
    assert!(counts["statuses"]["zero_norm"] == 2 && counts["fitted_rows"] == 61, "{counts}");
    let last = at_mean.lineage().pop().unwrap();
    assert!(last.decision == "keep" && last.detail.as_ref().is_some_and(|detail| detail.contains("zero_norm")), "{last:?}");
    made(&at_mean, &stage("drop"), &[]);
    let dropped = at_mean.dropped();
    assert!(dropped.len() == 6 && dropped.values().all(|reason| reason == "bad_vector") && dropped.contains_key("0065"), "{dropped:?}");
    at_mean.verify().ok();
    let stages = format!("{RAW}  - {{ id: z, {} }}", stage("fail"));
    let said = at_mean.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&["--overwrite"]).failed(3);
    assert!(said.contains("rows have no sound vector"), "{said}");
}

#[test]
fn too_little_to_fit_is_borne() {
    let good = rows(40);
    let equal = vec![Some(vec![1.0, 2.0, 3.0]); 6];
    let none: Vec<Vector> = vec![None; 3];
    let few: Vec<Vector> = good[..3].iter().cloned().map(Some).collect();
    let constant: Vec<Vector> = good.iter().map(|row| Some(vec![row[0], 3.0, row[1], row[0] + row[1]])).collect();
    for kind in ["embedding_whitening: { method: pca }", "embedding_whitening: { method: center }"].iter().chain(&KINDS) {
        for (name, rows) in [("equal", &equal), ("none", &none), ("few", &few), ("constant", &constant)] {
            let corpus = corpus(rows, 4);
            let found = made(&corpus, kind, &[]);
            let sound: Vec<&Vec<f64>> = found.iter().flatten().collect();
            assert!(sound.iter().all(|vector| vector.iter().all(|x| x.is_finite())), "{kind} {name}");
            // Where all rows are one point, and where there is none, no direction is left; a choice of dimensions moves nothing.
            let wanted = match name {
                "equal" if kind.starts_with("dimension_select") => 6,
                "equal" | "none" => 0,
                _ => rows.len(),
            };
            assert_eq!(sound.len(), wanted, "{kind} {name}: {}", report(&corpus, "z"));
            corpus.verify().ok();
        }
    }
}

#[test]
fn a_map_to_nothing_is_refused() {
    let rows: Vec<Vector> = rows(40).into_iter().map(Some).collect();
    let corpus = corpus(&rows, 20);
    for (keys, wanted) in [
        ("method: pca, skip_top: 12", "`skip_top` leaves no direction"),
        ("method: zca, skip_top: 4000", "`skip_top` leaves no direction"),
        ("method: group, groups: 4000", "more groups than dimensions"),
    ] {
        let stages = format!("{RAW}  - {{ id: z, embedding_whitening: {{ {keys} }} }}");
        let said = corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&["--overwrite"]).failed(2);
        assert!(said.contains(wanted) && said.contains("hint:"), "{keys}: {said}");
    }
}

/// Vectors with a strong common part: as they are, all of them are near; what sets them apart shows once the mean is taken off.
#[test]
fn stages_below_take_the_new_vectors() {
    let rows: Vec<Vec<f64>> = rows(120).into_iter().map(|row| row.iter().map(|x| f64::from((x + 60.0) as f32)).collect()).collect();
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>(), 50);
    let survivors = |vectors: &[Vec<f64>]| {
        let mut kept: Vec<usize> = Vec::new();
        for row in 0..vectors.len() {
            if kept.iter().all(|other| 1.0 - cosine(&vectors[row], &vectors[*other]) >= 0.05) {
                kept.push(row);
            }
        }
        kept
    };
    let run = |stages: &str| -> Vec<usize> {
        corpus.pipeline_with(SOURCE, stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
        corpus.verify().ok();
        corpus.kept().iter().map(|id| id.parse().unwrap()).collect()
    };
    let centre = "  - { id: z, embedding_whitening: { method: center } }\n";
    let (mean, _) = moments(&rows);
    let moved: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().zip(&mean).map(|(x, mean)| x - mean).collect()).collect();
    let (near, far) = (survivors(&rows), survivors(&moved));
    assert!(near.len() < 3 && far.len() > 10, "{} {}", near.len(), far.len());
    assert_eq!(run(&format!("{RAW}{centre}  - {{ id: s, semantic_dedup: {{ epsilon: 0.05 }} }}")), far);
    assert_eq!(run(&format!("{RAW}{centre}  - {{ id: s, semantic_dedup: {{ epsilon: 0.05, embedding: v }} }}")), near);
    // One fitted stage takes the vectors of another, and a stage between drops rows from the fit.
    let half = run(&format!(
        "{RAW}{centre}  - {{ id: half, prototypes: {{ keep_fraction: 0.5 }} }}\n  - {{ id: w, embedding_whitening: {{ dims: 3 }} }}\n  - {{ id: s, semantic_dedup: {{ epsilon: 0.05 }} }}"
    ));
    assert!(!half.is_empty() && half.len() <= 60 && report(&corpus, "w")["fitted_rows"] == 60);
}

#[test]
fn what_is_fitted_is_not_fitted_again() {
    let rows: Vec<Vector> = rows(100).into_iter().map(Some).collect();
    let corpus = corpus(&rows, 30);
    let stages = format!("{RAW}  - {{ id: z, embedding_whitening: {{}} }}\n  - {{ id: s, semantic_dedup: {{ epsilon: 0.01 }} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }");
    let plan = |corpus: &Corpus| trommel(corpus.path(), &["plan", "p.yaml", "--quiet"]).ok().stdout;
    insta::with_settings!({filters => vec![(r"\d+(\.\d)? (B|KiB)", "[size]")]}, { insta::assert_snapshot!(plan(&corpus)) });
    corpus.run(&[]).ok();
    let first = corpus.tree_hash();
    assert!(plan(&corpus).contains("1 of 1 cached") && plan(&corpus).matches("4 of 4 cached").count() == 3, "{}", plan(&corpus));
    corpus.run(&["--overwrite"]).ok();
    assert_eq!((tasks_run(&corpus), corpus.tree_hash()), (0, first));
    corpus.run(&["--overwrite", "--set", "stages.s.epsilon=0.02"]).ok();
    assert_eq!(tasks_run(&corpus), 1, "a threshold below moves no vector");
    corpus.run(&["--overwrite", "--set", "stages.z.power=0.5"]).ok();
    assert_eq!(tasks_run(&corpus), 6, "the fit, the vectors of four shards and the stage below");
    // Vectors that are lost are made again from the fit.
    corpus.run(&["--overwrite"]).ok();
    let mut files = Vec::new();
    list(&corpus.at(".trommel/t/artefacts"), &mut files);
    for file in files.iter().filter(|file| file.ends_with("vectors.parquet")) {
        fs::remove_file(file).unwrap();
    }
    corpus.run(&["--overwrite"]).ok();
    assert_eq!((tasks_run(&corpus), corpus.tree_hash()), (8, first), "four shards read, and mapped, again");
}
