//! The methods of `semantic_dedup` through whole runs: what each looks at, what it reports, and vectors larger than memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, UInt32Type, UInt64Type};
use serde_json::Value;
use trommel::random::Random;

use crate::fixture::{Corpus, read_parquet};

/// Vectors in families of about `copies`, each a direction with some noise; every tenth row is the same as the one before.
fn families(rows: usize, dimensions: usize, copies: usize, noise: f32) -> Vec<f32> {
    let mut draws = Random::new(6, "methods").sequence(b"families");
    let mut normal = || ((-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()) as f32;
    let bases: Vec<f32> = (0..rows.div_ceil(copies) * dimensions).map(|_| normal()).collect();
    let mut data: Vec<f32> = Vec::with_capacity(rows * dimensions);
    for row in 0..rows {
        if row % 10 == 9 {
            data.extend_from_within(data.len() - dimensions..);
        } else {
            let base = row * 7919 % rows.div_ceil(copies);
            data.extend(bases[base * dimensions..][..dimensions].iter().map(|x| x + noise * normal()));
        }
    }
    data
}

fn corpus(data: &[f32], dimensions: usize) -> Corpus {
    let corpus = Corpus::new();
    for (at, part) in data.chunks(4000 * dimensions).enumerate() {
        let rows = part.len() / dimensions;
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("{:06}", at * 4000 + row))));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let values: ArrayRef = Arc::new(Float32Array::from(part.to_vec()));
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item, dimensions as i32, values, None));
        corpus.batch(&format!("{at}.parquet"), &RecordBatch::try_from_iter([("id", ids), ("vec", vectors)]).unwrap(), 1000);
    }
    corpus
}

fn stages(keys: &str) -> String {
    format!("  - {{ id: v, embed: {{ from: vec }} }}\n  - {{ id: near, semantic_dedup: {{ {keys} }} }}")
}

fn kept(corpus: &Corpus, keys: &str) -> (Vec<String>, Value) {
    let source = "  c: { parquet: { uri: in, id: id } }";
    corpus.pipeline_with(source, &stages(keys), "parquet: { uri: out }").run(&["--overwrite"]).ok();
    (corpus.kept(), corpus.manifest()["stages"][1]["report"].clone())
}

fn cosine(data: &[f32], dimensions: usize, a: &str, b: &str) -> f64 {
    let row = |id: &str| &data[id.parse::<usize>().unwrap() * dimensions..][..dimensions];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(row(a), row(b)) / (dot(row(a), row(a)) * dot(row(b), row(b))).sqrt()
}

#[test]
fn methods_find_what_they_say() {
    let data = families(3000, 8, 5, 0.25);
    let corpus = corpus(&data, 8);
    let (all, report) = kept(&corpus, "epsilon: 0.1");
    assert_eq!((&report["method"], report.get("recall"), &report["efficiency"]["eta_percent"]), (&"flat".into(), None, &100.0.into()));
    assert!(all.len() < 2500 && all.len() > 500, "{}", all.len());
    assert_eq!(kept(&corpus, "epsilon: 0.1, method: flat").0, all);
    // Who probes every cell compares all pairs.
    for keys in ["epsilon: 0.1, method: ivf, k: 30, probe: 30", "epsilon: 0.1, method: ivf, probe: 1024"] {
        let (found, report) = kept(&corpus, keys);
        assert_eq!(found, all, "{keys}");
        assert_eq!(report["recall"]["percent"], 100.0, "{report}");
    }
    // Who probes fewer misses some, and says how many; all that is dropped has a kept row within epsilon.
    let mut shares = Vec::new();
    for keys in ["method: kmeans, k: 30", "method: ivf, k: 30, probe: 1", "method: ivf, k: 30, probe: 2", "method: ivf, k: 30"] {
        let (found, report) = kept(&corpus, &format!("epsilon: 0.1, {keys}"));
        assert!(found.len() >= all.len(), "{keys}");
        let (pairs, share) = (report["recall"]["pairs"].as_u64().unwrap(), report["recall"]["percent"].as_f64().unwrap());
        assert!(pairs > 300 && report["recall"]["rows"] == 256, "{report}");
        shares.push(share);
        for row in corpus.lineage().iter().filter(|row| row.decision == "drop") {
            let found = cosine(&data, 8, row.doc_id.as_ref().unwrap(), row.kept_doc_id.as_ref().unwrap());
            assert!(found > 0.9 - 1e-6 && (found - row.score.unwrap()).abs() < 1e-6, "{row:?}");
        }
        corpus.verify().ok();
    }
    assert!(shares[1] < shares[2] && shares[2] <= shares[3] && shares[3] >= 99.8, "{shares:?}");
    assert!(shares[0] < 100.0, "{shares:?}");
    // Other rules find their pairs in the same way.
    for rule in ["any_earlier", "components"] {
        let wanted = kept(&corpus, &format!("epsilon: 0.1, rule: {rule}")).0;
        assert_eq!(kept(&corpus, &format!("epsilon: 0.1, rule: {rule}, method: ivf, k: 30, probe: 30")).0, wanted, "{rule}");
    }
}

/// A graph leads to nearly all pairs, the run says to how many, and no thread moves a bit.
#[test]
fn a_graph_finds_nearly_all_pairs() {
    let data = families(3000, 8, 5, 0.25);
    let corpus = corpus(&data, 8);
    for rule in ["star", "any_earlier", "components"] {
        let wanted = kept(&corpus, &format!("epsilon: 0.1, rule: {rule}")).0;
        let (found, report) = kept(&corpus, &format!("epsilon: 0.1, rule: {rule}, method: hnsw, keep: first"));
        let share = report["recall"]["percent"].as_f64().unwrap();
        assert!(report["method"] == "hnsw" && share >= 99.5, "{report}");
        let (wanted, kept) = (wanted.into_iter().collect::<BTreeSet<_>>(), found.into_iter().collect::<BTreeSet<_>>());
        assert!(wanted.symmetric_difference(&kept).count() <= 15, "{rule}: {share}");
        corpus.verify().ok();
        let hash = corpus.tree_hash().to_string();
        corpus.run(&["--overwrite", "--threads", "1"]).ok();
        assert_eq!(corpus.tree_hash().to_string(), hash, "{rule}");
    }
}

#[test]
fn a_share_to_keep_chooses_epsilon() {
    let data = families(3000, 8, 5, 0.25);
    let corpus = corpus(&data, 8);
    for (fraction, method) in [(0.5, "flat"), (0.8, "ivf")] {
        let keys = format!("target_keep_fraction: {fraction}, method: {method}, rule: any_earlier");
        let (found, report) = kept(&corpus, &keys);
        assert!((found.len() as f64 / 3000.0 - fraction).abs() < 0.02, "{fraction} {} {report}", found.len());
        let epsilon = report["epsilon"].as_f64().unwrap();
        assert_eq!(report["by_epsilon"][0]["epsilon"], epsilon);
        // Given by hand it does the same.
        assert_eq!(kept(&corpus, &format!("epsilon: {epsilon}, method: {method}, rule: any_earlier")).0, found);
    }
}

/// The clustering as the dataset gets it: each row is in the cell whose centroid is the nearest, at the distance that is told.
#[test]
fn cells_are_left_in_the_dataset() {
    let dimensions = 8;
    let data = families(9000, dimensions, 5, 0.25);
    let corpus = corpus(&data, dimensions);
    for (keys, count) in [("epsilon: 0.1, method: ivf, k: 30", 30), ("epsilon: 0.1, k: 7", 7), ("epsilon: 0.1", 1)] {
        let (without, _) = kept(&corpus, keys);
        assert!(!corpus.at("out/tables").exists());
        assert_eq!(kept(&corpus, &format!("{keys}, write_cells: true")).0, without, "{keys}");
        corpus.verify().ok();
        let centroids = read_parquet(&corpus.at("out/tables/near/centroids.parquet"));
        let cells = read_parquet(&corpus.at("out/tables/near/cells.parquet"));
        assert_eq!((centroids.num_rows(), cells.num_rows()), (count, 9000), "{keys}");
        let number = |batch: &RecordBatch, name: &str| batch.column_by_name(name).unwrap().clone();
        let sizes = number(&centroids, "rows").as_primitive::<UInt64Type>().values().to_vec();
        let vectors = number(&centroids, "vector").as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec();
        let shards = cast(&number(&cells, "shard"), &DataType::Utf8).unwrap();
        let rows = number(&cells, "row").as_primitive::<UInt64Type>().values().to_vec();
        let of = number(&cells, "cell").as_primitive::<UInt32Type>().values().to_vec();
        let distances = number(&cells, "distance").as_primitive::<Float64Type>().values().to_vec();
        let mut counted = vec![0; count];
        for place in 0..9000 {
            let shard: usize = shards.as_string::<i32>().value(place).strip_suffix(".parquet").unwrap().parse().unwrap();
            assert_eq!(shard * 4000 + rows[place] as usize, place);
            counted[of[place] as usize] += 1;
            let row = &data[place * dimensions..][..dimensions];
            let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let near = |cell: usize| {
                let centroid = &vectors[cell * dimensions..][..dimensions];
                1.0 - row.iter().zip(centroid).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / length
            };
            let nearest = (0..count).map(near).fold(f64::INFINITY, f64::min);
            assert!((near(of[place] as usize) - nearest).abs() < 1e-6 && (distances[place] - nearest).abs() < 1e-6, "{keys} {place}");
        }
        assert_eq!(counted, sizes);
    }
    // What lies there is part of the dataset.
    std::fs::remove_file(corpus.at("out/tables/near/cells.parquet")).unwrap();
    let found = corpus.verify();
    assert!(found.code == 4 && found.stdout.contains("tables/near/cells.parquet"), "{}", found.stdout);
}

/// 44 MB of vectors in a pool of 40: they go to a file, and no byte changes.
#[test]
fn vectors_larger_than_memory_give_the_same_bytes() {
    let data = families(11_000, 1000, 20, 0.3);
    let corpus = corpus(&data, 1000);
    let source = "  c: { parquet: { uri: in, id: id } }";
    for keys in [
        "epsilon: 0.15",
        "epsilon: 0.15, method: ivf, k: 40, rule: components, keep: hard",
        "epsilon: 0.15, method: ivf, k: 40, rule: any_earlier, keep: random",
    ] {
        let mut hashes = BTreeSet::new();
        for (memory, threads) in [("64MiB", "1"), ("64MiB", "2"), ("1GiB", "2")].into_iter().skip(usize::from(keys == "epsilon: 0.15")) {
            let arguments = ["--overwrite", "--memory", memory, "--threads", threads];
            let _ = std::fs::remove_dir_all(corpus.at(".trommel"));
            corpus.pipeline_with(source, &stages(keys), "parquet: { uri: out }").run(&arguments).ok();
            hashes.insert(corpus.tree_hash().to_string());
        }
        assert_eq!(hashes.len(), 1, "{keys}");
        assert!(corpus.kept().len() < 10_000, "{keys}");
    }
    // A graph holds its vectors.
    let refused = corpus.pipeline_with(source, &stages("epsilon: 0.15, method: hnsw"), "parquet: { uri: out }").run(&[
        "--overwrite",
        "--memory",
        "64MiB",
    ]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("method: ivf"), "{}", refused.stderr);
}
