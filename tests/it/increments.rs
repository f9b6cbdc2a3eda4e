//! Runs that go on from a state: the law that increments keep what one run over all shards keeps, what is recognised, what is refused,
//! and what several processes, kills and damage leave.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use arrow::array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Float32Type;
use proptest::prelude::*;

use crate::fixture::{Corpus, list, texts, trommel, write_shard};
use crate::reliability::scenario::{STAGES, draws};
use crate::reliability::{figures, long};

/// Writes a pipeline that goes on from `state`.
fn incremental(corpus: &Corpus, stages: &str) {
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    corpus.pipeline_with(source, stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
}

fn shard(corpus: &Corpus, name: &str, texts: &[String]) {
    let rows: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    corpus.shard(name, &rows);
}

/// Each dropped row with the row that it names, by ids.
fn named(corpus: &Corpus, out: &str) -> BTreeMap<String, Option<String>> {
    let rows = corpus.lineage_of(out).into_iter().filter(|row| row.decision == "drop");
    rows.map(|row| (row.doc_id.unwrap(), row.kept.is_some().then_some(row.kept_doc_id).flatten())).collect()
}

/// Texts of few words from a small vocabulary, so that many are equal, many near, and many have words in common.
fn corpora() -> impl Strategy<Value = Vec<Vec<String>>> {
    let word = prop::sample::select(vec!["ash", "birch", "cedar", "elm", "fir", "Oak", "pine", "yew"]);
    let text = prop::collection::vec(word, 0..9).prop_map(|words| words.join(" "));
    prop::collection::vec(prop::collection::vec(text, 1..30), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// survivors(A, then B, ..) = survivors(one run over all), each dropped row for the same one.
    #[test]
    fn increments_keep_what_one_run_keeps(shards in corpora(), keep in prop::sample::select(vec!["", ", verify: estimate"]), threads in 1_u8..3) {
        let stages = STAGES.replace("words: 2 } }", &format!("words: 2 }}{keep} }}"));
        let whole = Corpus::new();
        let parts = Corpus::new();
        incremental(&parts, &stages);
        let threads = threads.to_string();
        let (mut kept, mut dropped) = (Vec::new(), BTreeMap::new());
        for (place, texts) in shards.iter().enumerate() {
            let name = format!("{place}.parquet");
            shard(&whole, &name, texts);
            shard(&parts, &name, texts);
            parts.run(&["--threads", &threads]).ok();
            let out = format!("out/{}", place + 1);
            trommel(parts.path(), &["verify", &out]).ok();
            kept.extend(parts.kept_of(&out));
            dropped.extend(named(&parts, &out));
        }
        whole.pipeline(&stages).run(&[]).ok();
        prop_assert_eq!(kept, whole.kept());
        prop_assert_eq!(dropped, named(&whole, "out"));
        trommel(parts.path(), &["state", "verify", "state"]).ok();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The same of vectors, all pairs compared or all cells probed, with bad vectors among them.
    #[test]
    fn vectors_too(shards in vectors(), keys in prop::sample::select(vec!["", ", method: ivf, k: 3, probe: 3"])) {
        let stages = format!("  - {{ id: v, embed: {{ from: vec }} }}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.05{keys} }} }}");
        let source = "  c: { parquet: { uri: \"in/\", id: id } }";
        let (whole, parts) = (Corpus::new(), Corpus::new());
        parts.pipeline_with(source, &stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
        let (mut kept, mut dropped) = (Vec::new(), BTreeMap::new());
        for (place, rows) in shards.iter().enumerate() {
            let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows.len()).map(|row| format!("{place}-{row}"))));
            let lists = rows.iter().map(|row| row.map(|(a, b)| [Some(a), Some(b)]));
            let lists: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, 2));
            let batch = RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("vec", lists, true)]).unwrap();
            let name = format!("{place}.parquet");
            whole.batch(&name, &batch, 7);
            parts.batch(&name, &batch, 7);
            parts.run(&[]).ok();
            let out = format!("out/{}", place + 1);
            trommel(parts.path(), &["verify", &out]).ok();
            kept.extend(parts.kept_of(&out));
            dropped.extend(named(&parts, &out));
        }
        whole.pipeline_with(source, &stages, "parquet: { uri: out }").run(&[]).ok();
        prop_assert_eq!(kept, whole.kept());
        prop_assert_eq!(dropped, named(&whole, "out"));
    }
}

/// Directions in a plane, null or without direction here and there.
fn vectors() -> impl Strategy<Value = Vec<Vec<Option<(f32, f32)>>>> {
    let one = (0_u16..400, 0_u8..20).prop_map(|(angle, kind)| match kind {
        0 => None,
        1 => Some((0.0, 0.0)),
        _ => Some((f32::from(angle) / 60.0).sin_cos()),
    });
    prop::collection::vec(prop::collection::vec(one, 1..40), 1..5)
}

/// Vectors around `middle`, as a shard of `rows` rows drawn by a rule: every run of the test sees the same.
fn cloud(corpus: &Corpus, name: &str, rows: usize, middle: [f32; 4], spread: f32) {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("{name}-{row}"))));
    let wave = |row: usize, dimension: usize| ((row * (7 + 5 * dimension) + 3 * dimension) as f32 * 0.7).sin();
    let vectors = (0..rows).map(|row| Some((0..4).map(|at| Some(middle[at] + spread * wave(row, at))).collect::<Vec<_>>()));
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 4));
    corpus.batch(&format!("{name}.parquet"), &RecordBatch::try_from_iter([("id", ids), ("vec", vectors)]).unwrap(), 50);
}

/// What is fitted is fitted once: a copy of a known row gets the vector, and comes into the cell, that the known row has.
#[test]
fn what_was_fitted_goes_on() {
    let source = "  c: { parquet: { uri: \"in/\", id: id } }";
    let sink = "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state";
    let whiten = "\n  - { id: w, embedding_whitening: {} }";
    for (fitted, keys) in [
        ("", "method: kmeans, k: 7"),
        ("", "keep: hard"),
        ("", "method: ivf, k: 7, probe: 2"),
        (whiten, ""),
        (whiten, "method: kmeans, k: 5"),
    ] {
        let corpus = Corpus::new();
        let stages =
            format!("  - {{ id: v, embed: {{ from: vec }} }}{fitted}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.0001, {keys} }} }}");
        corpus.pipeline_with(source, &stages, sink);
        cloud(&corpus, "1", 300, [1.0, 0.2, 0.1, 0.0], 0.6);
        corpus.run(&[]).ok();
        cloud(&corpus, "2", 40, [0.1, 0.2, 1.0, 0.5], 0.6);
        let planned = trommel(corpus.path(), &["plan", "p.yaml"]).ok().stdout;
        assert_eq!(planned.contains("fits once"), !fitted.is_empty(), "{planned}");
        corpus.run(&[]).ok();
        let kept: Vec<String> = [corpus.kept_of("out/1"), corpus.kept_of("out/2")].concat();
        // The same rows again, and one more: the shard is another.
        cloud(&corpus, "3", 301, [1.0, 0.2, 0.1, 0.0], 0.6);
        corpus.run(&[]).ok();
        let rows = corpus.lineage_of("out/3");
        for row in &rows[..300] {
            let of = row.kept_doc_id.as_ref().unwrap_or_else(|| panic!("{keys}: a copy of a known row is kept {row:?}"));
            assert!(kept.contains(of), "{row:?}");
        }
        for out in ["out/1", "out/2", "out/3"] {
            trommel(corpus.path(), &["verify", out]).ok();
        }
        trommel(corpus.path(), &["state", "verify", "state"]).ok();
    }
}

#[test]
fn rows_that_drift_away_are_seen() {
    let corpus = Corpus::new();
    let source = "  c: { parquet: { uri: \"in/\", id: id } }";
    let stages = "  - { id: v, embed: { from: vec } }\n  - { id: near, semantic_dedup: { epsilon: 0.0001, method: kmeans, k: 6 } }";
    corpus.pipeline_with(source, stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
    cloud(&corpus, "1", 400, [1.0, 0.2, 0.1, 0.0], 0.5);
    let first = corpus.run(&[]).ok().stdout;
    assert!(!first.contains("drift"), "{first}");
    cloud(&corpus, "2", 397, [1.0, 0.2, 0.1, 0.0], 0.5);
    let alike = corpus.run(&[]).ok().stdout;
    assert!(alike.contains("drift: rows are 1.0") && !alike.contains("rebuild"), "{alike}");
    cloud(&corpus, "3", 200, [-1.0, 0.5, 0.1, 1.0], 0.5);
    let far = corpus.run(&[]).ok().stdout;
    assert!(far.contains("`trommel state rebuild` fits them anew"), "{far}");
    let manifest = corpus.manifest_of("out/3");
    let drift = &manifest["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "near").unwrap()["report"]["drift"];
    let number = |name: &str| drift[name].as_f64().unwrap();
    assert!((number("ratio") - number("mean_distance") / number("fitted")).abs() < 1e-9, "{drift}");
    // Fitted to all rows, the new ones are near.
    trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet"]).ok();
    cloud(&corpus, "4", 190, [-1.0, 0.5, 0.1, 1.0], 0.5);
    let near = corpus.run(&[]).ok().stdout;
    assert!(near.contains("drift") && !near.contains("fits them anew"), "{near}");
}

fn two_days() -> Corpus {
    two_days_of(STAGES)
}

fn two_days_of(stages: &str) -> Corpus {
    let corpus = Corpus::new();
    incremental(&corpus, stages);
    let pages = |from: usize| (from..from + 40).map(|n| format!("page{0} has{0} the{0} number{0}", n % 50)).collect::<Vec<_>>();
    shard(&corpus, "1.parquet", &pages(0));
    corpus.run(&[]).ok();
    shard(&corpus, "2.parquet", &pages(30));
    corpus
}

#[test]
fn lineage_names_rows_of_earlier_runs() {
    let corpus = two_days();
    corpus.run(&[]).ok();
    let first = corpus.manifest_of("out/1")["run_id"].as_str().unwrap().to_owned();
    let rows = corpus.lineage_of("out/2");
    assert_eq!(rows.len(), 40);
    let earlier: Vec<_> = rows.iter().filter(|row| row.kept_run_id.is_some()).collect();
    // Numbers 30 to 39 and 0 to 19 were there.
    assert_eq!(earlier.len(), 30);
    for row in earlier {
        assert_eq!((row.kept_run_id.as_deref(), row.kept.as_ref().unwrap().0.as_str()), (Some(first.as_str()), "1.parquet"));
        assert!(row.kept_doc_id.as_ref().unwrap().starts_with("1-"), "{row:?}");
    }
    let why = trommel(corpus.path(), &["why", "out/2", "--id", "2-0"]).ok().stdout;
    assert!(why.contains("which duplicates 1.parquet:30  id `1-30` of the run"), "{why}");
    let pairs = trommel(corpus.path(), &["pairs", "out/2"]).ok().stdout;
    assert!(pairs.contains("name a row that an earlier run kept"), "{pairs}");
}

#[test]
fn nothing_new_leaves_no_trace() {
    let corpus = two_days();
    corpus.run(&[]).ok();
    let said = corpus.run(&[]).ok().stdout;
    assert!(said.contains("nothing new: the state knows all 2 shards (version 2)"), "{said}");
    // The same bytes under other names, read again or not.
    fs::rename(corpus.at("in/1.parquet"), corpus.at("in/0.parquet")).unwrap();
    fs::copy(corpus.at("in/2.parquet"), corpus.at("in/3.parquet")).unwrap();
    let said = corpus.run(&["--format", "json"]).ok().stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["nothing_new"], &said["known_shards"], &said["state_version"]), (&true.into(), &3.into(), &2.into()));
    assert!(!corpus.at("out/3").exists());
    let history = trommel(corpus.path(), &["state", "history", "state"]).ok().stdout;
    assert_eq!(history.lines().count(), 2, "{history}");
}

/// Five copies of a page that is known: all fall, each named. No other tool's index does that.
#[test]
fn copies_of_a_known_page_all_fall() {
    let corpus = Corpus::new();
    incremental(&corpus, "  - { id: near, minhash_dedup: { threshold: 0.8 } }");
    let page = "the quick brown fox jumps over the lazy dog while nobody looks at it".to_owned();
    shard(&corpus, "day1.parquet", std::slice::from_ref(&page));
    corpus.run(&[]).ok();
    shard(&corpus, "day2.parquet", &vec![page; 5]);
    corpus.run(&[]).ok();
    let rows = corpus.lineage_of("out/2");
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row.kept_doc_id.as_deref() == Some("day1-0") && row.score == Some(1.0)), "{rows:?}");
    assert!(corpus.kept_of("out/2").is_empty());
}

/// A row that is near to two that were kept apart takes back neither, and is counted.
#[test]
fn bridges_are_counted() {
    let corpus = Corpus::new();
    incremental(&corpus, "  - { id: near, minhash_dedup: { threshold: 0.5, bands: 64, rows: 1, shingle: { words: 1 } } }");
    corpus.shard("1.parquet", &[Some("ash birch cedar elm"), Some("cedar elm fir oak")]);
    corpus.run(&[]).ok();
    assert_eq!(corpus.kept_of("out/1").len(), 2);
    corpus.shard("2.parquet", &[Some("birch cedar elm fir"), Some("ash birch cedar elm"), Some("yew")]);
    let said = corpus.run(&[]).ok().stdout;
    assert!(said.contains("rows near to several rows that earlier runs kept: 1"), "{said}");
    assert_eq!(corpus.kept_of("out/2"), ["2-2"]);
    assert_eq!(corpus.lineage_of("out/2")[0].kept_doc_id.as_deref(), Some("1-0"));
}

#[test]
fn another_pipeline_is_refused_with_the_reason() {
    let corpus = two_days();
    for (from, to, reason) in [
        ("threshold: 0.5", "threshold: 0.6", "in stage `near` `threshold` was 0.5 and is 0.6"),
        ("id: near", "id: nearly", "stage `near` is gone"),
        ("exact_dedup: { columns: [text], normalize: [lowercase] }", "filter: { where: \"true\" }", "stage `exact` is gone"),
    ] {
        incremental(&corpus, &STAGES.replace(from, to));
        let said = corpus.run(&[]).failed(2);
        assert!(said.contains(reason) && said.contains("hint:"), "{said}");
    }
    for (stage, reason) in [
        ("minhash_dedup: { threshold: 0.8, rule: components }", "rule: star"),
        ("semantic_dedup: { epsilon: 0.1, rule: components }", "rule: star"),
        ("semantic_dedup: { epsilon: 0.1, method: hnsw }", "`kmeans` and `flat` go on"),
        ("semantic_dedup: { target_keep_fraction: 0.5 }", "another epsilon each time"),
    ] {
        incremental(&corpus, &format!("  - {{ id: v, embed: {{ model: builtin }} }}\n  - {{ id: s, {stage} }}"));
        let said = corpus.run(&[]).failed(2);
        assert!(said.contains(reason) && said.contains("hint:"), "{said}");
    }
    incremental(&corpus, STAGES);
    let said = corpus.run(&["--limit-rows", "5"]).failed(2);
    assert!(said.contains("--limit-rows"), "{said}");
    // What decides each row by itself may change.
    incremental(&corpus, &STAGES.replace("> 3", "> 4"));
    corpus.run(&[]).ok();
}

/// Two sources: only the second has something new. A stage that only rows of the first reach sees nothing, whatever it is.
#[test]
fn a_source_may_have_nothing_new() {
    for stage in [
        "exact_dedup: { columns: [text] }",
        "minhash_dedup: { threshold: 0.8, verify: estimate, keep: longest }",
        "minhash_dedup: { threshold: 0.8 }",
        "sample: { keep_rows: 50 }",
    ] {
        let corpus = Corpus::new();
        let stages =
            format!("  - {{ id: one, input: a, {stage} }}\n  - {{ id: two, input: [one, b], exact_dedup: {{ columns: [text] }} }}");
        let sources = "  a: { parquet: { uri: \"a/\", text: text, id: id } }\n  b: { parquet: { uri: \"b/\", text: text, id: id } }";
        corpus.pipeline_with(sources, &stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
        let rows = |from: usize| (from..from + 30).map(|n| format!("a text of its own: {n} {}", n * 7)).collect::<Vec<_>>();
        let write = |name: &str, from: usize| {
            let (texts_of, prefix) = (rows(from), format!("{from}-"));
            let rows: Vec<Option<&str>> = texts_of.iter().map(|text| Some(text.as_str())).collect();
            write_shard(&corpus.at(name), &texts(&prefix, &rows), 7);
        };
        write("a/1.parquet", 0);
        write("b/1.parquet", 100);
        corpus.run(&[]).ok();
        write("b/2.parquet", 120);
        corpus.run(&[]).ok();
        assert_eq!(corpus.kept_of("out/2").len(), 20, "{stage}");
        // The bytes of a shard of one source are new to the other.
        fs::copy(corpus.at("b/2.parquet"), corpus.at("a/2.parquet")).unwrap();
        corpus.run(&[]).ok();
        assert_eq!(corpus.lineage_of("out/3").len(), 30, "{stage}");
        // Shards that were moved away are known all the same.
        fs::remove_dir_all(corpus.at("b")).unwrap();
        fs::create_dir(corpus.at("b")).unwrap();
        assert!(corpus.run(&[]).ok().stdout.contains("nothing new"));
    }
}

/// The column that is the text is part of what a stage compares, and so is its type.
#[test]
fn columns_that_are_read_stay_the_same() {
    let corpus = Corpus::new();
    let column = |texts: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let columns = [("title", column(["a", "b"])), ("body", column(["c", "d"])), ("number", Arc::clone(&numbers))];
    let run = |text: &str, stage: &str| {
        let source = format!("  c: {{ parquet: {{ uri: \"in/\", text: {text} }} }}");
        corpus.pipeline_with(&source, stage, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state").run(&[])
    };
    let stage = "  - { id: exact, exact_dedup: { columns: [text, number] } }";
    corpus.batch("1.parquet", &RecordBatch::try_from_iter(columns).unwrap(), 2);
    run("body", stage).ok();
    let columns = [("title", column(["c", "d"])), ("body", column(["e", "f"])), ("number", numbers)];
    corpus.batch("2.parquet", &RecordBatch::try_from_iter(columns).unwrap(), 2);
    let said = run("title", stage).failed(2);
    assert!(said.contains("stage `exact` read `c.text` as `body: text` and reads it as `title: text`"), "{said}");
    let columns = [("title", column(["c", "d"])), ("body", column(["e", "f"])), ("number", column(["1", "2"]))];
    corpus.batch("2.parquet", &RecordBatch::try_from_iter(columns).unwrap(), 2);
    let said = run("body", stage).failed(3);
    assert!(said.contains("stage `exact` read `c.number` as `number: Int64` and reads it as `number: text`"), "{said}");
}

#[test]
fn what_would_lose_rows_is_refused() {
    let corpus = two_days();
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    let sink = "parquet: { uri: \"out/1\" } }\nstate: { uri: state";
    for more in [&[][..], &["--overwrite"]] {
        let said = corpus.pipeline_with(source, STAGES, sink).run(more).failed(2);
        assert!(said.contains("put `{version}` into"), "{said}");
    }
    incremental(&corpus, STAGES);
    // A file that is gone is missed before anything rests on it, also where all is cached.
    corpus.run(&["--dry-run"]).ok();
    let mut files = Vec::new();
    list(&corpus.at("state/segments"), &mut files);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let said = corpus.run(&[]).failed(4);
        assert!(said.contains("hint:") && said.contains(file.file_name().unwrap().to_str().unwrap()), "{said}");
        fs::write(&file, bytes).unwrap();
    }
    corpus.run(&[]).ok();
    fs::remove_file(corpus.at("state/manifest/00000000000000000001.json")).unwrap();
    let verified = trommel(corpus.path(), &["state", "verify", "state"]);
    assert!(verified.code == 4 && verified.stdout.contains("version=`1`"), "{} {}", verified.stdout, verified.stderr);
}

/// A process that was killed between the commit and the renaming of its dataset: the next one finishes it.
#[test]
fn a_committed_dataset_gets_its_name() {
    let corpus = two_days();
    corpus.run(&[]).ok();
    let run = corpus.manifest_of("out/2")["run_id"].as_str().unwrap()[..16].to_owned();
    let part = corpus.at(&format!("out/2.{run}.part"));
    fs::rename(corpus.at("out/2"), &part).unwrap();
    corpus.run(&[]).ok();
    assert!(!part.exists());
    trommel(corpus.path(), &["verify", "out/2"]).ok();
}

#[test]
fn a_dry_run_says_and_writes_nothing() {
    let corpus = two_days();
    let files = |folder: &str| {
        let mut files = Vec::new();
        list(&corpus.at(folder), &mut files);
        files
    };
    let (state, out) = (files("state"), files("out"));
    let said = corpus.run(&["--dry-run"]).ok().stdout;
    assert!(said.contains("dry run: nothing was written") && said.contains("rows kept"), "{said}");
    assert_eq!((files("state"), files("out")), (state, out));
    let dry: serde_json::Value = serde_json::from_str(&corpus.run(&["--dry-run", "--format", "json"]).ok().stdout).unwrap();
    let run: serde_json::Value = serde_json::from_str(&corpus.run(&["--format", "json"]).ok().stdout).unwrap();
    assert_eq!((&dry["rows"], &dry["stages"], &dry["run_id"]), (&run["rows"], &run["stages"], &run["run_id"]));
    assert_eq!((&dry["dry_run"], &run["dry_run"]), (&true.into(), &false.into()));
    // Without a state it does not mind an output that is there.
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    corpus.pipeline_with(source, STAGES, "parquet: { uri: plain }").run(&[]).ok();
    corpus.run(&["--dry-run"]).ok();
}

/// Killed at any time, on one thread or two: the state is whole, a dataset is there whole or not at all, and what is made in the end is
/// what an undisturbed run makes.
#[test]
fn killed_increments_end_alike() {
    let undisturbed = two_days();
    let since = Instant::now();
    undisturbed.run(&[]).ok();
    let whole = since.elapsed();
    let tree = |corpus: &Corpus, out: &str| {
        let mut files = Vec::new();
        list(&corpus.at(out), &mut files);
        let name = |file: &PathBuf| file.strip_prefix(corpus.path()).unwrap().to_str().unwrap().to_owned();
        files
            .iter()
            .filter(|file| !file.ends_with("run.json"))
            .map(|file| (name(file), blake3::hash(&fs::read(file).unwrap()).to_string()))
            .collect::<Vec<_>>()
    };
    let (mut killed, mut runs, mut alike) = (0, 0, 0);
    let mut draws = draws("random kills");
    let wanted = if long() { 200 } else { 24 };
    for round in 0..wanted {
        if killed >= wanted {
            break;
        }
        let corpus = two_days();
        for attempt in 0..8_u32 {
            let mut child = Command::new(env!("CARGO_BIN_EXE_trommel"))
                .args(["run", "p.yaml", "--quiet", "--threads", if attempt % 2 == 0 { "1" } else { "2" }])
                .args(["--batch-rows", ["1", "7", "512", "8192"][draws.below(4) as usize]])
                .current_dir(corpus.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            sleep(whole.mul_f64(1.2 * draws.unit()));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            runs += 1;
            trommel(corpus.path(), &["state", "verify", "state"]).ok();
            if corpus.at("out/2").exists() {
                assert_eq!(tree(&corpus, "out/2"), tree(&undisturbed, "out/2"));
            }
        }
        corpus.run(&[]).ok();
        assert_eq!(tree(&corpus, "out"), tree(&undisturbed, "out"), "round {round}");
        assert_eq!(trommel(corpus.path(), &["state", "history", "state"]).ok().stdout.lines().count(), 2);
        alike += 1;
    }
    assert!(killed > 0);
    figures("killed at random", "second increment", &format!("runs {runs}, killed {killed}, increments that ended alike {alike}"));
}

#[test]
fn garbage_in_a_state_is_what_no_version_lists() {
    let corpus = two_days();
    corpus.run(&[]).ok();
    let mut files = Vec::new();
    list(&corpus.at("state"), &mut files);
    for name in ["segments/0123.parquet", "segments/.segment.parquet.1.0.tmp", "manifest/.00000000000000000003.json.1.0.tmp"] {
        fs::write(corpus.at("state").join(name), "left by a killed run").unwrap();
    }
    let said = trommel(corpus.path(), &["gc", "p.yaml"]).ok().stdout;
    assert!(said.contains("removed") && !said.starts_with("0 files"), "{said}");
    let mut left = Vec::new();
    list(&corpus.at("state"), &mut left);
    assert_eq!(left, files);
    trommel(corpus.path(), &["state", "verify", "state"]).ok();
    assert!(corpus.run(&[]).ok().stdout.contains("nothing new"));
}

#[test]
fn of_many_processes_one_commits() {
    let rounds = if long() { 100 } else { 12 };
    let mut won = 0;
    for round in 0..rounds {
        let corpus = two_days();
        let count = 2 + round % 7;
        let children: Vec<_> = (0..count)
            .map(|_| {
                Command::new(env!("CARGO_BIN_EXE_trommel"))
                    .args(["run", "p.yaml", "--quiet"])
                    .current_dir(corpus.path())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let (mut published, mut nothing) = (0, 0);
        for child in children {
            let ended = child.wait_with_output().unwrap();
            let (said, failed) = (String::from_utf8_lossy(&ended.stdout).into_owned(), String::from_utf8_lossy(&ended.stderr).into_owned());
            match ended.status.code().unwrap() {
                0 if said.contains("nothing new") => nothing += 1,
                0 => published += 1,
                code => assert_eq!(code, 5, "{failed}"),
            }
        }
        assert_eq!(published, 1, "round {round}: {nothing} found nothing new");
        won += published;
        assert!(corpus.at("out/2").exists() && !corpus.at("out/3").exists());
        trommel(corpus.path(), &["verify", "out/2"]).ok();
        trommel(corpus.path(), &["state", "verify", "state"]).ok();
    }
    figures("one of many commits", "2 to 8 processes", &format!("rounds {rounds}, with one winner {won}"));
}

/// Every file of a state with one byte changed: `state verify` names it, and no run uses it in silence.
#[test]
fn a_damaged_state_is_named_and_not_used() {
    let corpus = two_days_of("  - { id: near, minhash_dedup: { threshold: 0.5, bands: 32, rows: 2, shingle: { words: 2 } } }");
    let mut files: Vec<PathBuf> = Vec::new();
    list(&corpus.at("state"), &mut files);
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let whole = fs::read(&file).unwrap();
        for place in (0..whole.len()).step_by(1 + whole.len() / 40) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x21;
            fs::write(&file, &bytes).unwrap();
            let verified = trommel(corpus.path(), &["state", "verify", "state"]);
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(verified.code == 4, "{} at {place}: {}", file.display(), verified.stderr);
            assert!(format!("{}{}", verified.stdout, verified.stderr).contains(name), "{}", verified.stdout);
        }
        let mut bytes = whole.clone();
        bytes.iter_mut().skip(8).take(whole.len() / 2).for_each(|byte| *byte ^= 0x55);
        fs::write(&file, &bytes).unwrap();
        let ran = corpus.run(&[]);
        assert!(ran.code == 4 && ran.stderr.contains("hint:") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
        assert!(!corpus.at("out/2").exists());
        fs::write(&file, &whole).unwrap();
    }
    corpus.run(&[]).ok();
}
