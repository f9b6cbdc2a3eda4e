//! Stages that choose a coreset by vectors, through whole runs: counts, lineage, the same bytes, and what each promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use serde_json::Value;
use trommel::random::Random;

use crate::fixture::{Corpus, Row, read_parquet};

type Vector = Option<Vec<f64>>;

const SOURCE: &str = "  c: { parquet: { uri: in, id: id } }";

/// Each stage with keys beside its budget.
const BUDGETED: &[(&str, &str)] = &[
    ("k_center", ""),
    ("facility_location", ""),
    ("facility_location", "k: 5, iterations: 4"),
    ("log_det_select", ""),
    ("log_det_select", "ridge: 1"),
    ("density_pruning", "k: 8"),
    ("density_pruning", "keep: random, complexity: size, balance: 0, iterations: 3"),
    ("redundancy_select", ""),
    ("redundancy_select", "center: features"),
    ("variance_select", ""),
    ("variance_select", "score: leverage, explained: 0.8"),
    ("cluster_permanent_pruning", ""),
    ("cluster_permanent_pruning", "k: 4, balance: 0, iterations: 3"),
];

fn corpus(rows: &[Vector]) -> Corpus {
    let corpus = Corpus::new();
    for (at, part) in rows.chunks(70).enumerate() {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..part.len()).map(|row| format!("{:04}", at * 70 + row))));
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(
            part.iter().map(|row| row.as_ref().map(|row| row.iter().copied().map(Some).collect::<Vec<_>>())),
        );
        let batch = RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("vec", Arc::new(lists) as ArrayRef, true)]).unwrap();
        corpus.batch(&format!("{at:03}.parquet"), &batch, 64);
    }
    corpus
}

/// Vectors around centres of unequal weight, some of them copies.
fn clustered(rows: usize, dimensions: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut draws = Random::new(seed, "selectors").sequence(b"rows");
    let centres: Vec<Vec<f64>> = (0..9).map(|_| (0..dimensions).map(|_| draws.unit() * 4.0 - 2.0).collect()).collect();
    let mut made: Vec<Vec<f64>> = Vec::new();
    for row in 0..rows {
        let centre = &centres[(draws.below(81) as f64).sqrt() as usize];
        let near = if row % 11 == 10 { made[row / 2].clone() } else { centre.iter().map(|x| x + draws.unit() - 0.5).collect() };
        made.push(near);
    }
    made
}

/// 240 rows, ten of them without a vector.
fn with_bad_rows() -> Vec<Vector> {
    let mut rows: Vec<Vector> = clustered(230, 6, 1).into_iter().map(Some).collect();
    rows.splice(50..50, [const { None }; 10]);
    rows
}

fn run(corpus: &Corpus, stage: &str, more: &[&str]) {
    let stages = format!("  - {{ id: v, embed: {{ from: vec }} }}\n  - {{ id: s, {stage} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&[&["--overwrite"], more].concat()).ok();
}

/// The numbers of the rows kept.
fn kept(corpus: &Corpus, stage: &str) -> Vec<usize> {
    run(corpus, stage, &[]);
    corpus.kept().iter().map(|id| id.parse().unwrap()).collect()
}

fn report(corpus: &Corpus) -> Value {
    corpus.manifest()["stages"].as_array().unwrap().iter().find(|found| found["stage"] == "s").unwrap()["report"].clone()
}

fn dropped(corpus: &Corpus) -> Vec<Row> {
    corpus.lineage().into_iter().filter(|row| row.decision == "drop").collect()
}

fn unit(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    rows.iter().map(|row| row.iter().map(|x| x / norm(row)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn budgets_are_met_exactly_and_each_dropped_row_says_its_rank() {
    let corpus = corpus(&with_bad_rows());
    for (stage, keys) in BUDGETED {
        for (budget, count, bad) in [
            ("keep_rows: 50", 50, 10),
            ("keep_fraction: 0.25, on_bad_vector: drop", 60, 0),
            ("keep_rows: 1, on_bad_vector: drop", 1, 0),
            ("keep_rows: 5", 10, 10),
            ("keep_rows: 1000", 240, 10),
        ] {
            let stage =
                format!("{stage}: {{ {} }}", [*keys, budget].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "));
            let survivors = kept(&corpus, &stage);
            assert_eq!(survivors.len(), count, "{stage}");
            assert_eq!(survivors.iter().filter(|row| (50..60).contains(*row)).count(), bad, "{stage}");
            let (mut ranks, mut cells) = (BTreeSet::new(), BTreeMap::<u64, BTreeSet<u64>>::new());
            // Quotas of cells rank rows inside the cell.
            let in_cells = ["density_pruning", "cluster_permanent_pruning"].iter().any(|kind| stage.starts_with(kind));
            for row in dropped(&corpus) {
                if row.reason.as_deref() == Some("bad_vector") {
                    continue;
                }
                assert_eq!(
                    (row.reason.as_deref(), &row.kept, row.score.is_some()),
                    (Some("not_selected"), &None, true),
                    "{stage}: {row:?}"
                );
                let detail: Value = serde_json::from_str(row.detail.as_deref().unwrap()).unwrap();
                assert!(row.score.is_some_and(f64::is_finite), "{stage}: {row:?}");
                let (rank, budget) = (detail["rank"].as_u64().unwrap(), detail["budget"].as_u64().unwrap());
                assert!(rank > budget, "{stage}: {row:?}");
                if in_cells {
                    cells.entry(detail["cell"].as_u64().unwrap()).or_default().insert(rank - budget);
                } else {
                    assert_eq!(budget, (count - bad) as u64, "{stage}");
                    ranks.insert(rank);
                }
            }
            assert!(cells.into_values().all(|ranks| ranks.iter().copied().eq(1..=ranks.len() as u64)), "{stage}");
            assert!(in_cells || ranks.into_iter().eq((count - bad) as u64 + 1..=230), "{stage}");
            assert_eq!(report(&corpus)["budget"], count - bad);
            corpus.verify().ok();
        }
    }
}

#[test]
fn the_same_bytes_for_any_threads_and_batches() {
    let budgeted = BUDGETED.iter().map(|(stage, keys)| {
        let separator = if keys.is_empty() { "" } else { ", " };
        format!("{stage}: {{ {keys}{separator}keep_fraction: 0.3 }}")
    });
    let others = ["maxvol_select: { keep_rows: 40, rank: 4 }", "codebook_select: { every: 3, k: 7 }"].map(str::to_owned);
    for stage in budgeted.chain(others) {
        let mut hashes = BTreeSet::new();
        for (threads, batch) in [("1", "8192"), ("2", "7"), ("2", "8192")] {
            // A folder of its own: nothing is taken from an earlier run.
            let corpus = corpus(&with_bad_rows());
            run(&corpus, &stage, &["--threads", threads, "--batch-rows", batch]);
            hashes.insert(corpus.tree_hash().to_string());
        }
        assert_eq!(hashes.len(), 1, "{stage}");
    }
}

/// In double precision from the start, where the program holds singles: no tie is so near.
#[test]
fn k_center_is_the_farthest_first_traversal() {
    let rows = clustered(300, 5, 2);
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>());
    let units = unit(&rows);
    let mean: Vec<f64> = (0..5).map(|i| units.iter().map(|row| row[i]).sum()).collect();
    let first = |score: &dyn Fn(usize) -> f64| (0..300).rev().max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
    let mut chosen = vec![first(&|row| dot(&units[row], &mean))];
    let distance = |row: usize, chosen: &[usize]| chosen.iter().map(|c| 1.0 - dot(&units[row], &units[*c])).fold(2.0, f64::min);
    while chosen.len() < 30 {
        chosen.push(first(&|row| distance(row, &chosen)));
    }
    let found = kept(&corpus, "k_center: { keep_rows: 30 }");
    let mut wanted = chosen.clone();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    for row in dropped(&corpus) {
        let own = distance(row.doc_id.as_deref().unwrap().parse().unwrap(), &chosen);
        assert!((row.score.unwrap() - own).abs() < 1e-6, "{row:?}");
    }
    let radius = (0..300).map(|row| distance(row, &chosen)).fold(0.0, f64::max);
    assert!((report(&corpus)["radius"].as_f64().unwrap() - radius).abs() < 1e-6);
}

#[test]
fn facility_location_is_the_greedy_cover() {
    let rows = clustered(200, 5, 3);
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>());
    let units = unit(&rows);
    let covered = |row: usize, chosen: &[usize]| chosen.iter().map(|c| dot(&units[row], &units[*c])).fold(0.0, f64::max);
    let mut chosen = Vec::new();
    let mut cover = vec![0.0_f64; 200];
    while chosen.len() < 20 {
        let gain = |j: usize| (0..200).map(|row| (dot(&units[row], &units[j]) - cover[row]).max(0.0)).sum::<f64>();
        let gains: Vec<f64> = (0..200).map(gain).collect();
        let best = (0..200).rev().max_by(|a, b| gains[*a].total_cmp(&gains[*b])).unwrap();
        chosen.push(best);
        (0..200).for_each(|row| cover[row] = covered(row, &chosen));
    }
    let found = kept(&corpus, "facility_location: { keep_rows: 20 }");
    let report = report(&corpus);
    assert!((report["covered"].as_f64().unwrap() - cover.iter().sum::<f64>()).abs() < 1e-3, "{report}");
    assert_eq!(report["cells"], 1);
    chosen.sort_unstable();
    assert_eq!(found, chosen);
    // In cells less is compared; what is covered hardly differs.
    kept(&corpus, "facility_location: { keep_rows: 20, k: 4 }");
    let cells = self::report(&corpus);
    assert_eq!(cells["cells"], 4);
    assert!(cells["covered"].as_f64().unwrap() > 0.95 * report["covered"].as_f64().unwrap(), "{cells}");
}

/// The axes span more than copies of one of them, however small the ridge.
#[test]
fn log_det_select_takes_one_row_of_each_direction_first() {
    let rows: Vec<Vector> = (0..40).map(|row| Some((0..5).map(|i| f64::from(u8::from(i == row % 8 % 5))).collect())).collect();
    let corpus = corpus(&rows);
    assert_eq!(kept(&corpus, "log_det_select: { keep_rows: 5 }"), [0, 1, 2, 3, 4]);
    let value = report(&corpus)["log_det"].as_f64().unwrap();
    assert!((value - 5.0 * 101.0_f64.ln()).abs() < 1e-9, "{value}");
    // Then a second one of each: all directions count the same again.
    assert_eq!(kept(&corpus, "log_det_select: { keep_rows: 10 }"), [0, 1, 2, 3, 4, 5, 6, 7, 11, 12]);
}

/// Of two clusters of one size the loose one keeps more (seeds S3); rotating all vectors changes nothing.
#[test]
fn density_pruning_keeps_more_of_a_loose_cluster() {
    let mut draws = Random::new(3, "density").sequence(b"rows");
    let rows: Vec<Vec<f64>> = (0..400)
        .map(|row| {
            let (axis, spread) = if row % 2 == 0 { (0, 0.1) } else { (1, 1.2) };
            (0..4).map(|i| f64::from(u8::from(i == axis)) + spread * (draws.unit() - 0.5)).collect()
        })
        .collect();
    let (sine, cosine) = 0.7_f64.sin_cos();
    let turned = rows.iter().map(|row| vec![cosine * row[0] - sine * row[2], row[3], sine * row[0] + cosine * row[2], row[1]]);
    let stage = "density_pruning: { keep_rows: 100, k: 2, temperature: 0.1, balance: 0.2 }";
    let survivors = kept(&corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>()), stage);
    let loose = survivors.iter().filter(|row| **row % 2 == 1).count();
    assert!(survivors.len() == 100 && loose > 60, "{loose}");
    assert_eq!(kept(&corpus(&turned.map(Some).collect::<Vec<_>>()), stage), survivors);
}

/// Seeds S6, through a run: lengths count, so vectors are taken as they are stored.
#[test]
fn redundancy_select_keeps_the_odd_one_first() {
    let rows: Vec<Vector> = [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 4.0]].map(|row| Some(row.to_vec())).to_vec();
    let corpus = corpus(&rows);
    let stages = "  - { id: v, embed: { from: vec, normalize: false } }\n  - { id: s, redundancy_select: { keep_rows: 1 } }";
    corpus.pipeline_with(SOURCE, stages, "parquet: { uri: out }").run(&[]).ok();
    assert_eq!(corpus.kept(), ["0003"]);
    let scores: Vec<f64> = dropped(&corpus).iter().map(|row| row.score.unwrap()).collect();
    assert!(scores.iter().zip([0.041_345, 0.156_081, 0.041_345]).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}");
}

/// Every row that is left out is a combination of the rows kept with coefficients of norm 1 at most, by least squares of the normal
/// equations; no copy is kept. A budget below that is met exactly.
#[test]
fn maxvol_select_keeps_what_the_others_are_combinations_of() {
    let rows = clustered(200, 4, 6);
    let corpus = corpus(&rows.iter().cloned().map(Some).collect::<Vec<_>>());
    let survivors = kept(&corpus, "maxvol_select: { keep_fraction: 1.0 }");
    assert!((4..=12).contains(&survivors.len()), "{survivors:?}");
    let said = report(&corpus);
    assert_eq!((&said["rank"], &said["within_tolerance"], &said["kept"]), (&4.into(), &true.into(), &survivors.len().into()));
    let units = unit(&rows);
    // G = A_I^T A_I; the norm of the coefficients of x is x^T G^-1 x, solved by elimination.
    for row in (0..200).filter(|row| !survivors.contains(row)) {
        let mut work: Vec<Vec<f64>> = (0..4)
            .map(|i| {
                let gram = (0..4).map(|j| survivors.iter().map(|s| units[*s][i] * units[*s][j]).sum());
                gram.chain([units[row][i]]).collect()
            })
            .collect();
        for i in 0..4 {
            let line: Vec<f64> = work[i].iter().map(|x| x / work[i][i]).collect();
            for (other, numbers) in work.iter_mut().enumerate() {
                let factor = if other == i { 0.0 } else { numbers[i] };
                if other == i {
                    numbers.clone_from(&line);
                }
                numbers.iter_mut().zip(&line).for_each(|(x, y)| *x -= factor * y);
            }
        }
        let norm: f64 = (0..4).map(|i| work[i][4] * units[row][i]).sum::<f64>().sqrt();
        assert!(norm <= 1.0 + 1e-5, "{row}: {norm}");
        let line = corpus.lineage()[row].clone();
        assert!((line.score.unwrap() - norm).abs() < 1e-4, "{line:?} {norm}");
    }
    for budget in [0.005, 0.01, 0.025] {
        assert_eq!(kept(&corpus, &format!("maxvol_select: {{ keep_fraction: {budget} }}")).len(), (200.0 * budget) as usize);
    }
    corpus.verify().ok();
}

/// Seeds S14: outliers of one direction are kept; both measures, one half after the other, meet exact sizes.
#[test]
fn variance_select_keeps_what_lies_far_out() {
    let mut draws = Random::new(8, "variance").sequence(b"rows");
    let rows: Vec<Vec<f64>> =
        (0..200).map(|row| (0..4).map(|i| 1.0 + 0.1 * draws.unit() + if row % 20 == 0 && i == 2 { 1.5 } else { 0.0 }).collect()).collect();
    let corpus = corpus(&rows.into_iter().map(Some).collect::<Vec<_>>());
    let outliers: Vec<usize> = (0..200).step_by(20).collect();
    for score in ["energy", "leverage"] {
        assert_eq!(kept(&corpus, &format!("variance_select: {{ keep_rows: 10, score: {score} }}")), outliers, "{score}");
    }
    let stages = "  - { id: v, embed: { from: vec } }\n  - { id: s, variance_select: { keep_fraction: 0.5 } }\n  - { id: t, variance_select: { keep_rows: 30, score: leverage } }";
    corpus.pipeline_with(SOURCE, stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    assert_eq!(corpus.kept().len(), 30);
}

/// Seeds S9: of each theme one row in so many, rounded up; every theme stays.
#[test]
fn codebook_select_thins_each_theme_alike() {
    let mut draws = Random::new(9, "codebook").sequence(b"rows");
    let rows: Vec<Vec<f64>> =
        (0..300).map(|row| (0..10).map(|i| f64::from(u8::from(i == row % 10)) + 0.1 * (draws.unit() - 0.5)).collect()).collect();
    let corpus = corpus(&rows.into_iter().map(Some).collect::<Vec<_>>());
    for keep in ["random", "hard", "easy", "stride"] {
        for every in [1, 2, 7, 100] {
            let survivors = kept(&corpus, &format!("codebook_select: {{ every: {every}, k: 10, keep: {keep} }}"));
            for theme in 0..10 {
                let of_theme = survivors.iter().filter(|row| **row % 10 == theme).count();
                assert_eq!(of_theme, 30_usize.div_ceil(every), "{keep} {every}");
            }
            if keep == "stride" {
                assert!(survivors.iter().all(|row| (row / 10) % every == 0), "{every}");
            }
        }
    }
    let line = &dropped(&corpus)[0];
    let detail: Value = serde_json::from_str(line.detail.as_deref().unwrap()).unwrap();
    assert_eq!((line.reason.as_deref(), &detail["budget"]), (Some("not_selected"), &1.into()));
    corpus.verify().ok();
    // A budget keeps the same share of each.
    let survivors = kept(&corpus, "codebook_select: { keep_rows: 100, k: 10 }");
    assert!((0..10).all(|theme| survivors.iter().filter(|row| **row % 10 == theme).count() == 10));
}

/// Seeds S9: one row in two of each of ten themes of a thousand rows, then the better half by a score of alignment: a quarter.
#[test]
fn a_thinned_codebook_and_its_better_half_are_a_quarter() {
    let mut draws = Random::new(12, "themes").sequence(b"rows");
    let corpus = Corpus::new();
    for shard in 0..4 {
        let rows = shard * 2500..(shard + 1) * 2500;
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("{row:05}"))));
        let vectors: Vec<Option<Vec<Option<f64>>>> = rows
            .clone()
            .map(|row| Some((0..10).map(|i| Some(f64::from(u8::from(i == row % 10)) + 0.1 * (draws.unit() - 0.5))).collect()))
            .collect();
        let vectors: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(vectors));
        let scores: ArrayRef = Arc::new(arrow::array::Float64Array::from_iter_values(rows.map(|_| draws.unit())));
        let low: ArrayRef = Arc::new(arrow::array::Float64Array::from_iter_values(
            (shard * 2500..(shard + 1) * 2500).map(|row| if row % 10 == 9 { -1.0 } else { draws.unit() }),
        ));
        let columns = [("id", ids), ("vec", vectors), ("itm", scores), ("low", low)];
        corpus.batch(&format!("{shard}.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 1000);
    }
    let stages = "  - { id: v, embed: { from: vec } }\n  - { id: s, codebook_select: { every: 2, k: 10 } }";
    corpus.pipeline_with(SOURCE, stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    let themes = |corpus: &Corpus| {
        let mut counts = [0; 10];
        corpus.kept().iter().for_each(|id| counts[id.parse::<usize>().unwrap() % 10] += 1);
        counts
    };
    assert_eq!(themes(&corpus), [500; 10]);
    let stages = format!("{stages}\n  - {{ id: itm, score_filter: {{ column: itm, keep_fraction: 0.5 }} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    let counts = themes(&corpus);
    assert_eq!(counts.iter().sum::<usize>(), 2500);
    assert!(counts.iter().all(|count| (200..300).contains(count)), "{counts:?}");
    // Which cluster a score cuts wholly, the cells tell beside the lineage.
    let codebook = "  - { id: v, embed: { from: vec } }\n  - { id: s, codebook_select: { every: 2, k: 10, write_cells: true } }";
    let stages = format!("{codebook}\n  - {{ id: low, score_filter: {{ column: low, keep_fraction: 0.5 }} }}");
    corpus.pipeline_with(SOURCE, &stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    corpus.verify().ok();
    let table = read_parquet(&corpus.at("out/tables/s/cells.parquet"));
    let cells = table.column_by_name("cell").unwrap().as_primitive::<arrow::datatypes::UInt32Type>().values().to_vec();
    // The table has all rows in the order of the corpus, and the ids are that order.
    assert_eq!(cells.len(), 10_000);
    let left: BTreeSet<u32> = corpus.kept().iter().map(|id| cells[id.parse::<usize>().unwrap()]).collect();
    let lost: Vec<u32> = (0..10).filter(|cell| !left.contains(cell)).collect();
    assert_eq!(lost, [cells[9]]);
    assert!((0..10_000).all(|row| (cells[row] == cells[9]) == (row % 10 == 9)));
}

/// Seeds S8: a pool that is pruned for good takes in new rows step by step; it never holds more than its budget, and a step that is run
/// again, from its artefacts or afresh, leaves the same bytes.
#[test]
fn a_pool_stays_within_its_budget_step_after_step() {
    let rows: Vec<Vector> = clustered(700, 5, 13).into_iter().map(Some).collect();
    let first = corpus(&rows[..400]);
    let stage = "cluster_permanent_pruning: { keep_rows: 100, k: 4 }";
    run(&first, stage, &[]);
    assert_eq!(first.kept().len(), 100);
    let second = corpus(&rows[400..]);
    std::fs::rename(first.at("out"), second.at("pool")).unwrap();
    let sources = "  pool: { parquet: { uri: pool/data, id: id } }\n  new: { parquet: { uri: in, id: id } }";
    let stages = format!("  - {{ id: v, input: [pool, new], embed: {{ from: vec }} }}\n  - {{ id: s, {stage} }}");
    let mut hashes = BTreeSet::new();
    for more in [&[][..], &["--overwrite"], &["--overwrite", "--fresh", "--threads", "1", "--batch-rows", "7"]] {
        second.pipeline_with(sources, &stages, "parquet: { uri: out }").run(more).ok();
        hashes.insert(second.tree_hash().to_string());
        let kept = second.lineage().into_iter().filter(|row| row.decision == "keep").map(|row| row.source).collect::<Vec<_>>();
        assert_eq!(kept.len(), 100);
        assert!(["pool", "new"].iter().all(|source| kept.iter().any(|of| of == source)), "{kept:?}");
    }
    assert_eq!(hashes.len(), 1);
    second.verify().ok();
}

/// Seeds S8: a rare theme keeps its full size under equal shares, and its share in proportion; what repeats goes first.
#[test]
fn cluster_permanent_pruning_spares_rare_themes() {
    let mut draws = Random::new(10, "pool").sequence(b"rows");
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for row in 0..400_usize {
        let theme = usize::from(row % 100 == 7);
        // Every other row of the common theme is a copy of the row before it.
        let made = (0..5).map(|i| f64::from(u8::from(i == theme)) + 0.05 * (draws.unit() - 0.5)).collect();
        rows.push(if theme == 0 && row % 2 == 1 { rows[row - 1].clone() } else { made });
    }
    let corpus = corpus(&rows.into_iter().map(Some).collect::<Vec<_>>());
    let rare: Vec<usize> = (0..400).filter(|row| row % 100 == 7).collect();
    let survivors = kept(&corpus, "cluster_permanent_pruning: { keep_rows: 100, k: 2 }");
    assert_eq!((survivors.len(), survivors.iter().filter(|row| rare.contains(row)).count()), (100, 4));
    assert!(survivors.iter().all(|row| row % 2 == 0 || rare.contains(row)), "no copy is kept: {survivors:?}");
    let survivors = kept(&corpus, "cluster_permanent_pruning: { keep_rows: 100, k: 2, balance: 0 }");
    assert_eq!((survivors.len(), survivors.iter().filter(|row| rare.contains(row)).count()), (100, 1));
}

/// Seeds S12: rare labels wholly, frequent ones up to their quota, no two rows of a label alike, a share of the rows without labels.
#[test]
fn type_balanced_select_meets_its_quotas() {
    let rows = clustered(300, 6, 12);
    let labels = |row: usize| match row % 10 {
        1 if row < 80 => vec!["rare", "org"],
        0 | 1 => vec!["org"],
        8 | 9 => vec![],
        2 => vec!["", "place", "place"],
        _ => vec!["person"],
    };
    let corpus = Corpus::new();
    for (at, part) in rows.chunks(70).enumerate() {
        let first = at * 70;
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..part.len()).map(|row| format!("{:04}", first + row))));
        let vectors = ListArray::from_iter_primitive::<Float64Type, _, _>(
            part.iter().map(|row| Some(row.iter().copied().map(Some).collect::<Vec<_>>())),
        );
        let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        for row in first..first + part.len() {
            for label in labels(row) {
                builder.values().append_value(label);
            }
            builder.append(row % 10 != 9);
        }
        let own: ArrayRef = Arc::new(builder.finish());
        let columns = [("id", ids, false), ("vec", Arc::new(vectors) as ArrayRef, true), ("kinds", own, true)];
        corpus.batch(&format!("{at:03}.parquet"), &RecordBatch::try_from_iter_with_nullable(columns).unwrap(), 64);
    }
    let units = unit(&rows);
    let mut hashes = BTreeSet::new();
    for (threads, batch) in [("1", "8192"), ("2", "7")] {
        run(
            &corpus,
            "type_balanced_select: { labels: kinds, quota: 12, threshold: 0.99, empty_fraction: 0.25 }",
            &["--threads", threads, "--batch-rows", batch, "--fresh"],
        );
        hashes.insert(corpus.tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
    let survivors: Vec<usize> = corpus.kept().iter().map(|id| id.parse().unwrap()).collect();
    let of = |label: &str| survivors.iter().copied().filter(|row| labels(*row).contains(&label)).collect::<Vec<usize>>();
    let near = |a: usize, b: usize| dot(&units[a], &units[b]) >= 0.99;
    for label in ["rare", "org", "place", "person"] {
        let own = of(label);
        assert!(own.len() <= 12 && (own.len() > 5 || label == "rare"), "{label}: {own:?}");
        for (at, a) in own.iter().enumerate() {
            assert!(own[..at].iter().all(|b| !near(*a, *b)), "{label}: {a}");
        }
    }
    for row in (0..80).filter(|row| row % 10 == 1 && !survivors.contains(row)) {
        assert!(
            of("rare").into_iter().chain(of("org")).any(|kept| near(kept, row)),
            "a rare row is left out though nothing is near: {row}"
        );
    }
    let empty = |row: &usize| labels(*row).iter().all(|label| label.is_empty());
    assert_eq!((survivors.iter().filter(|row| empty(row)).count(), (0..300).filter(|row| empty(row)).count()), (15, 60));
    let said = report(&corpus);
    assert_eq!((&said["labels"], &said["rows_without_labels"], &said["budget"]), (&4.into(), &60.into(), &survivors.len().into()));
    assert!(
        dropped(&corpus).iter().all(|row| row.reason.as_deref() == Some("not_selected") && row.score.is_some() && row.detail.is_some())
    );
    corpus.verify().ok();
    // Filled: each label has its quota or all of its rows, and what was chosen before is among them.
    let kept = |keys: &str| -> Vec<usize> {
        run(&corpus, &format!("type_balanced_select: {{ labels: kinds, quota: 12, threshold: 0.4, {keys} }}"), &[]);
        corpus.kept().iter().map(|id| id.parse().unwrap()).collect()
    };
    let (survivors, more) = (kept("fill: false"), kept("fill: true"));
    let of = |label: &str| survivors.iter().copied().filter(|row| labels(*row).contains(&label)).collect::<Vec<usize>>();
    assert!(survivors.iter().all(|row| more.contains(row)));
    for label in ["rare", "org", "place", "person"] {
        let all: Vec<usize> = (0..300).filter(|row| labels(*row).contains(&label)).collect();
        let own: Vec<usize> = all.iter().copied().filter(|row| more.contains(row)).collect();
        // Rows of a rare label may be more of another one than its quota.
        assert!(own.len() >= all.len().min(12) && (own.len() <= 12 || label == "org"), "{label}: {own:?}");
        // A row that was added is at least as far from those that were chosen as any that was left out.
        let highest = |row: usize| of(label).into_iter().map(|kept| dot(&units[row], &units[kept])).fold(-1.0, f64::max);
        let first_added = own.iter().filter(|row| !survivors.contains(row)).map(|row| highest(*row)).fold(f64::INFINITY, f64::min);
        let none_added = first_added.is_infinite();
        let nearest_left = all.iter().filter(|row| !more.contains(row)).map(|row| highest(*row)).fold(f64::INFINITY, f64::min);
        assert!(none_added || first_added <= nearest_left + 1e-9 || label == "org", "{label}: {first_added} {nearest_left}");
    }
    assert_eq!(report(&corpus)["filled"], more.len() - survivors.len());
    assert!(more.len() > survivors.len() && report(&corpus)["labels_below_quota"].as_u64() <= Some(1));
    corpus.verify().ok();
    let said = corpus
        .pipeline_with(
            SOURCE,
            "  - { id: v, embed: { from: vec } }\n  - { id: s, type_balanced_select: { labels: vec } }",
            "parquet: { uri: out }",
        )
        .run(&["--overwrite"])
        .failed(3);
    assert!(said.contains("labels are texts or lists of texts"), "{said}");
    // A quota in each source: 3 rows of a label in each, and still none near to another.
    let sources = "  one: { parquet: { uri: in/000.parquet, id: id } }\n  two: { parquet: { uri: in/001.parquet, id: id } }";
    let embed = "  - { id: v, input: [one, two], embed: { from: vec } }";
    let stages =
        format!("{embed}\n  - {{ id: s, type_balanced_select: {{ labels: kinds, quota: 3, per_source: true, threshold: 0.99 }} }}");
    corpus.pipeline_with(sources, &stages, "parquet: { uri: out }").run(&["--overwrite"]).ok();
    corpus.verify().ok();
    let survivors: Vec<usize> = corpus.kept().iter().map(|id| id.parse().unwrap()).collect();
    for label in ["org", "place", "person"] {
        let own: Vec<usize> = survivors.iter().copied().filter(|row| labels(*row).contains(&label)).collect();
        let of_one = own.iter().filter(|row| **row < 70).count();
        assert_eq!([of_one, own.len() - of_one], [3, 3], "{label}: {own:?}");
        assert!(own.iter().enumerate().all(|(at, a)| own[..at].iter().all(|b| !near(*a, *b))), "{label}");
    }
}
