//! Whole runs: what goes in, what comes out, and what becomes of odd input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;

use serde_json::Value;

use crate::fixture::{Corpus, Ran, list, read_parquet, texts, trommel, write_shard};

const EXACT: &str = "  - { id: exact, exact_dedup: { columns: [text] } }";

/// Texts of few words, so that they repeat, over four shards of odd sizes.
fn repeated(corpus: &Corpus) -> Vec<(String, String)> {
    let words = ["alpha", "Beta", "gamma  delta", "", "épée", "beta"];
    let mut state = 7_u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut rows = Vec::new();
    for (shard, count) in [("a", 37), ("b", 1), ("c", 100), ("d", 64)] {
        let own: Vec<String> = (0..count).map(|_| format!("{} {}", words[next(6) as usize], next(12))).collect();
        corpus.shard(&format!("{shard}.parquet"), &own.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
        rows.extend(own.into_iter().enumerate().map(|(row, text)| (format!("{shard}-{row}"), text)));
    }
    rows
}

/// The oracle: the first row of each text, in corpus order, by a hash map.
fn first_of_each(rows: &[(String, String)], key: impl Fn(&str) -> String) -> (Vec<String>, BTreeMap<String, String>) {
    let mut first: HashMap<String, String> = HashMap::new();
    let (mut kept, mut dropped) = (Vec::new(), BTreeMap::new());
    for (id, text) in rows {
        if let Some(of) = first.get(&key(text)) {
            dropped.insert(id.clone(), of.clone());
        } else {
            first.insert(key(text), id.clone());
            kept.push(id.clone());
        }
    }
    (kept, dropped)
}

#[test]
fn exact_dedup_equals_a_hash_map() {
    let corpus = Corpus::new();
    let rows = repeated(&corpus);
    corpus.pipeline(EXACT).run(&[]).ok();
    let (kept, dropped) = first_of_each(&rows, str::to_owned);
    assert_eq!(corpus.kept(), kept);
    let lineage = corpus.lineage();
    assert_eq!(lineage.len(), rows.len());
    for (row, (id, _)) in lineage.iter().zip(&rows) {
        assert_eq!(row.doc_id.as_ref(), Some(id));
        assert_eq!(row.kept_doc_id.as_ref(), dropped.get(id), "{row:?}");
        assert_eq!(row.copies, dropped.values().filter(|of| *of == id).count() as u64, "{row:?}");
        assert_eq!(row.decision == "keep", !dropped.contains_key(id));
    }
    corpus.verify().ok();
}

#[test]
fn normalisation_widens_what_is_equal() {
    let corpus = Corpus::new();
    let rows = repeated(&corpus);
    corpus.pipeline("  - { id: exact, exact_dedup: { columns: [text], normalize: [nfkc, lowercase, collapse_whitespace] } }").run(&[]).ok();
    let plain = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(corpus.kept(), first_of_each(&rows, plain).0);
}

#[test]
fn keep_policies_choose_the_representative() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("X  "), Some(" x "), Some("y")]);
    for (keep, kept) in [("first", "a-0"), ("last", "a-2"), ("longest", "a-1"), ("{ by: id, order: desc }", "a-2"), ("{ by: id }", "a-0")] {
        let stage =
            format!("  - {{ id: exact, exact_dedup: {{ columns: [text], normalize: [lowercase, collapse_whitespace], keep: {keep} }} }}");
        corpus.pipeline(&stage).run(&["--overwrite"]).ok();
        assert_eq!(corpus.kept(), [kept, "a-3"], "keep: {keep}");
    }
}

#[test]
fn the_same_bytes_for_any_threads_batches_and_listing_order() {
    let mut hashes = BTreeSet::new();
    let stages = "  - { id: long, filter: { where: \"length(text) > 6\" } }\n  - { id: some, sample: { keep_fraction: 0.9, seed: 3 } }\n  - { id: exact, exact_dedup: { columns: [text] } }\n  - { id: v, embed: { model: builtin } }\n  - { id: near, semantic_dedup: { epsilon: 0.2, k: 3, keep: hard } }\n  - { id: core, prototypes: { keep_fraction: 0.7, k: 4 } }";
    for reversed in [false, true] {
        for threads in ["1", "2"] {
            for batch in ["1", "7", "8192"] {
                let corpus = Corpus::new();
                repeated(&corpus);
                if reversed {
                    // Made in another order, a folder lists its files in another order.
                    let mut names: Vec<_> = fs::read_dir(corpus.at("in")).unwrap().map(|entry| entry.unwrap().path()).collect();
                    names.sort();
                    fs::create_dir(corpus.at("moved")).unwrap();
                    for name in names.iter().rev() {
                        fs::copy(name, corpus.at("moved").join(name.file_name().unwrap())).unwrap();
                    }
                    fs::remove_dir_all(corpus.at("in")).unwrap();
                    fs::rename(corpus.at("moved"), corpus.at("in")).unwrap();
                }
                corpus.pipeline(stages).run(&["--threads", threads, "--batch-rows", batch]).ok();
                hashes.insert(corpus.tree_hash().to_string());
                corpus.verify().ok();
            }
        }
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_cached_run_gives_the_same_bytes_and_embeds_nothing_again() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline("  - { id: v, embed: { model: builtin } }\n  - { id: near, semantic_dedup: { epsilon: 0.2 } }").run(&[]).ok();
    let first = corpus.tree_hash();
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(corpus.tree_hash(), first);
    let record: Value = serde_json::from_slice(&fs::read(corpus.at("out/run.json")).unwrap()).unwrap();
    assert_eq!(record["tasks_run"], 0, "{record}");
    corpus.run(&["--overwrite", "--set", "stages.near.epsilon=0.3"]).ok();
    let record: Value = serde_json::from_slice(&fs::read(corpus.at("out/run.json")).unwrap()).unwrap();
    assert_eq!(record["tasks_run"], 1, "a changed threshold runs its barrier alone: {record}");
}

/// Vectors are the dear part of a run: each shard's are made once, and stay while anything else changes.
#[test]
fn changes_downstream_embed_nothing_and_new_shards_only_themselves() {
    let corpus = Corpus::new();
    let shard = |name: &str| {
        corpus.shard(&format!("{name}.parquet"), &[Some(format!("what {name} says of itself").as_str()), Some(name), Some("shared words")]);
    };
    // Which vectors there are, and when each was made.
    let vectors = || {
        let mut files = Vec::new();
        list(&corpus.at(".trommel/t/artefacts"), &mut files);
        files.retain(|file| file.ends_with("vectors.parquet"));
        files.into_iter().map(|file| (file.clone(), fs::metadata(file).unwrap().modified().unwrap())).collect::<BTreeSet<_>>()
    };
    let run = |more: &[&str]| corpus.run(&[&["--overwrite"], more].concat()).ok();
    for name in ["b", "c", "d"] {
        shard(name);
    }
    corpus.pipeline(
        "  - { id: v, embed: { model: builtin } }\n  - { id: near, semantic_dedup: { epsilon: 0.2 } }\n  - { id: core, prototypes: { keep_fraction: 0.9, k: 1 } }",
    );
    run(&[]);
    let first = vectors();
    assert_eq!(first.len(), 3);
    for change in [
        "stages.near.epsilon=0.3",
        "stages.near.keep=hard",
        "stages.near.rule=components",
        "stages.core.keep_fraction=0.5",
        "stages.core.seed=9",
    ] {
        run(&["--set", change]);
        assert_eq!(vectors(), first, "{change}");
    }
    // Names and places in the listing are no part of what vectors depend on.
    fs::rename(corpus.at("in/b.parquet"), corpus.at("in/z.parquet")).unwrap();
    run(&[]);
    assert_eq!(vectors(), first);
    for name in ["a", "e"] {
        shard(name);
    }
    run(&[]);
    let grown = vectors();
    assert!(grown.len() == 5 && grown.is_superset(&first), "{grown:?}");
    // What the vectors do depend on makes them anew, or the assertions above would show nothing.
    run(&["--set", "stages.v.max_tokens=2"]);
    assert_eq!(vectors().difference(&grown).count(), 5);
    run(&["--set", "stages.v.chunk.tokens=2"]);
    assert_eq!(vectors().difference(&grown).count(), 10);
}

/// Long texts in chunks, through the whole program: counts, the printed line, and no bit moved by threads or batches.
#[test]
fn long_texts_go_through_the_model_in_chunks() {
    let rows: Vec<String> = (0..700).map(|row| format!("row {row} says {} ", row % 97).repeat(1 + row % 40)).collect();
    let mut hashes = BTreeSet::new();
    for (threads, batch) in [("1", "1000"), ("2", "8192"), ("2", "33")] {
        let corpus = Corpus::new();
        corpus.batch("a.parquet", &texts("r", &rows.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>()), 200);
        corpus.pipeline(
            "  - { id: v, embed: { chunk: { tokens: 32, overlap: 8 } } }\n  - { id: near, semantic_dedup: { epsilon: 0.001, k: 4 } }",
        );
        let ran = corpus.run(&["--threads", threads, "--batch-rows", batch]).ok();
        let report = corpus.manifest()["stages"][0]["report"].clone();
        let number = |name: &str| report[name].as_u64().unwrap();
        assert_eq!((number("truncated"), report["statuses"]["ok"].as_u64()), (0, Some(700)));
        // Four words a repetition, or more tokens: 8 repetitions fit, 40 do not.
        assert!((400..600).contains(&number("chunked")) && number("chunks") > 2 * number("chunked"), "{report}");
        assert!(number("tokens") > rows.iter().map(|text| text.split(' ').count() as u64 - 1).sum::<u64>(), "{report}");
        assert!(ran.stdout.contains("v: texts cut into chunks: "), "{}", ran.stdout);
        hashes.insert(corpus.tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_damaged_artefact_is_made_again() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline(EXACT).run(&[]).ok();
    let first = corpus.tree_hash();
    let mut files = Vec::new();
    list(&corpus.at(".trommel/t/artefacts"), &mut files);
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "parquet")) {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(corpus.tree_hash(), first);
}

/// Each file of the work folder lost in turn: what is missing is made again, and nothing is lost.
#[test]
fn a_lost_artefact_is_made_again() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline(EXACT).run(&[]).ok();
    let first = corpus.tree_hash();
    let mut files = Vec::new();
    list(&corpus.at(".trommel/t/artefacts"), &mut files);
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        fs::remove_file(&file).unwrap();
        corpus.run(&["--overwrite"]).ok();
        assert_eq!(corpus.tree_hash(), first, "{}", file.display());
    }
}

/// Nothing of what surrounds a process is in what it writes (run.json apart).
#[test]
fn surroundings_move_no_byte() {
    let mut hashes = BTreeSet::new();
    let stages = "  - { id: some, sample: { keep_fraction: 0.9, seed: 3 } }\n  - { id: exact, exact_dedup: { columns: [text], keep: longest } }\n  - { id: near, minhash_dedup: { threshold: 0.6 } }\n  - { id: v, embed: { model: builtin } }\n  - { id: core, prototypes: { keep_fraction: 0.7, k: 4 } }";
    for variables in [
        &[][..],
        &[("TMPDIR", "/var/tmp"), ("LC_ALL", "tr_TR.UTF-8"), ("TZ", "Asia/Kathmandu"), ("HOME", "/nowhere"), ("HOSTNAME", "other")],
        &[("LANG", "C"), ("TZ", "UTC-14"), ("RAYON_NUM_THREADS", "1"), ("USER", "someone"), ("COLUMNS", "20")],
    ] {
        let corpus = Corpus::new();
        repeated(&corpus);
        corpus.pipeline(stages);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trommel"));
        command.args(["run", "--quiet"]).arg(corpus.at("p.yaml")).current_dir(if variables.is_empty() { "/" } else { "/tmp" });
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        hashes.insert(corpus.tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
}

fn record(corpus: &Corpus) -> Value {
    serde_json::from_slice(&fs::read(corpus.at("out/run.json")).unwrap()).unwrap()
}

#[test]
fn fresh_runs_use_nothing_and_give_the_same() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline("  - { id: exact, exact_dedup: { columns: [text] } }").run(&[]).ok();
    let (wanted, tasks) = (corpus.tree_hash(), record(&corpus)["tasks_run"].clone());
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(record(&corpus)["tasks_run"], 0);
    corpus.run(&["--overwrite", "--fresh"]).ok();
    assert_eq!((&record(&corpus)["tasks_run"], &record(&corpus)["tasks_cached"]), (&tasks, &0.into()));
    assert_eq!(corpus.tree_hash(), wanted);
}

#[test]
fn garbage_is_what_the_newest_run_did_not_use() {
    let corpus = Corpus::new();
    repeated(&corpus);
    let (old, new) =
        ("  - { id: exact, exact_dedup: { columns: [text] } }", "  - { id: exact, exact_dedup: { columns: [text], keep: last } }");
    corpus.pipeline(old).run(&[]).ok();
    corpus.pipeline(new).run(&["--overwrite"]).ok();
    fs::write(corpus.at(".trommel/t/spill/scratch-1-0"), "left by a killed run").unwrap();
    let gc = |more: &[&str]| trommel(corpus.path(), &[&["gc", "p.yaml", "--format", "json"], more].concat());
    let listed = |ran: &Ran| serde_json::from_str::<Value>(&ran.stdout).unwrap()["files"].as_array().unwrap().len();
    let would = gc(&["--dry-run"]).ok();
    assert!(listed(&would) > 1 && would.stdout.contains("scratch-1-0"), "{}", would.stdout);
    // While a run holds the folder, nothing is removed.
    let running = ::trommel::storage::lock::Lock::share(&corpus.at(".trommel/t/.lock"), "it").unwrap();
    assert!(gc(&[]).failed(5).contains("hint:"));
    drop(running);
    assert_eq!(listed(&gc(&[]).ok()), listed(&would));
    assert_eq!(listed(&gc(&[]).ok()), 0);
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(record(&corpus)["tasks_run"], 0);
    corpus.pipeline(old).run(&["--overwrite"]).ok();
    assert!(record(&corpus)["tasks_run"].as_u64().unwrap() > 0);
}

#[test]
fn empty_things_have_a_result() {
    let corpus = Corpus::new();
    // No rows at all, and no row groups.
    write_shard(&corpus.at("in/empty.parquet"), &texts("e", &[]), 2);
    corpus.pipeline(EXACT).run(&[]).ok();
    assert_eq!(corpus.manifest()["rows"]["input"], 0);
    assert_eq!(read_parquet(&corpus.at("out/data/empty.parquet")).schema(), texts("e", &[]).schema());
    corpus.verify().ok();

    // One row; nulls are equal, empty texts are equal, and the two differ.
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[None]).shard("b.parquet", &[None, Some(""), Some("")]);
    corpus.pipeline(EXACT).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0", "b-1"]);

    // A shard that loses all rows is written empty.
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("x")]).shard("b.parquet", &[Some("x"), Some("x"), Some("x")]);
    corpus.pipeline(EXACT).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0"]);
    assert_eq!(read_parquet(&corpus.at("out/data/b.parquet")).num_rows(), 0);
    corpus.verify().ok();
}

#[test]
fn no_shards_is_an_error_that_names_the_pattern() {
    let corpus = Corpus::new();
    fs::create_dir(corpus.at("in")).unwrap();
    let said = corpus.pipeline(EXACT).run(&[]).failed(3);
    assert!(said.contains("no shards") && said.contains("in/"), "{said}");
    assert!(!corpus.at("out").exists());
}

#[test]
fn an_existing_output_is_kept_unless_overwrite() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("x")]);
    corpus.pipeline(EXACT).run(&[]).ok();
    let first = corpus.tree_hash();
    let said = corpus.run(&[]).failed(2);
    assert!(said.contains("--overwrite"), "{said}");
    assert_eq!(corpus.tree_hash(), first);
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(corpus.tree_hash(), first);
    assert!(!corpus.at("out.old").exists());
}

#[test]
fn verify_finds_every_kind_of_damage() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline(EXACT).run(&[]).ok();
    corpus.verify().ok();
    for path in ["data/c.parquet", "lineage/part-000002.parquet"] {
        let file = corpus.at("out").join(path);
        let whole = fs::read(&file).unwrap();
        for place in [0, whole.len() / 3, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            fs::write(&file, &bytes).unwrap();
            let found = corpus.verify();
            assert_eq!(found.code, 4);
            assert!(found.stdout.contains(path), "{}", found.stdout);
        }
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(corpus.verify().code, 4);
        fs::remove_file(&file).unwrap();
        assert_eq!(corpus.verify().code, 4);
        fs::write(&file, &whole).unwrap();
    }
    fs::write(corpus.at("out/data/stray.parquet"), "x").unwrap();
    assert!(corpus.verify().stdout.contains("stray.parquet"));
    fs::remove_file(corpus.at("out/data/stray.parquet")).unwrap();
    corpus.verify().ok();
    fs::write(corpus.at("in/a.parquet"), "changed").unwrap();
    corpus.verify().ok();
    assert_eq!(trommel(corpus.path(), &["verify", "out", "--deep"]).code, 4);
}

#[test]
fn branches_are_sets_and_a_union_keeps_what_any_branch_keeps() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("one"), Some("three"), Some("one"), Some("seventeen")]);
    let stages = "  - { id: short, input: c, filter: { where: \"length(text) <= 3\" } }\n  - { id: unique, input: short, exact_dedup: { columns: [text] } }\n  - { id: long, input: c, filter: { where: \"length(text) > 5\" } }\n  - { id: both, input: [unique, long], filter: { where: \"true\" } }";
    corpus.pipeline(stages).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0", "a-3"]);
    let lineage = corpus.lineage();
    // Dropped on both paths: the drop with a representative is named, the other stands in the detail.
    assert_eq!(lineage[2].reason.as_deref(), Some("exact_duplicate"));
    assert_eq!(lineage[2].kept, Some(("a.parquet".into(), 0)));
    assert_eq!(lineage[2].detail.as_deref(), Some(r#"{"also":[{"reason":"filtered","stage":"long"}]}"#));
    assert_eq!(lineage[1].stage.as_deref(), Some("short"));
    corpus.verify().ok();
}

#[test]
fn a_representative_may_be_dropped_downstream_and_on_another_path() {
    let corpus = Corpus::new();
    // `first` keeps a-0 for a-1; below it a-0 is filtered; beside it a-0 duplicates a-2 of another column's making.
    corpus.shard("a.parquet", &[Some("dup"), Some("dup"), Some("DUP"), Some("other")]);
    let stages = "  - { id: first, input: c, exact_dedup: { columns: [text] } }\n  - { id: below, input: first, filter: { where: \"text <> 'dup'\" } }\n  - { id: beside, input: c, exact_dedup: { columns: [text], normalize: [lowercase], keep: { by: id, order: desc } } }\n  - { id: none, input: beside, filter: { where: \"text = 'other'\" } }\n  - { id: end, input: [below, none], filter: { where: \"true\" } }";
    corpus.pipeline(stages).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-2", "a-3"]);
    corpus.verify().ok();
}

#[test]
fn several_sources_are_ordered_as_written_and_written_apart() {
    let corpus = Corpus::new();
    write_shard(&corpus.at("web/z.parquet"), &texts("w", &[Some("x"), Some("only web")]), 10);
    write_shard(&corpus.at("books/a.parquet"), &texts("b", &[Some("x"), Some("only book")]), 10);
    let sources =
        "  web: { parquet: { uri: \"web/*.parquet\", text: text, id: id } }\n  books: { parquet: { uri: books, text: text, id: id } }";
    corpus
        .pipeline_with(sources, "  - { id: exact, input: [web, books], exact_dedup: { columns: [text] } }", "parquet: { uri: out }")
        .run(&[])
        .ok();
    assert_eq!(corpus.kept(), ["b1", "w0", "w1"], "files under data/books come before data/web by name");
    assert!(corpus.at("out/data/web/z.parquet").exists() && corpus.at("out/data/books/a.parquet").exists());
    assert_eq!(corpus.lineage()[2].kept, Some(("z.parquet".into(), 0)), "the first source wins");
    corpus.verify().ok();
    // Rows are named with their source: shards of several sources may have one name.
    let ran = |arguments: &[&str]| trommel(corpus.path(), arguments);
    let pairs = ran(&["pairs", "out"]).ok().stdout;
    assert!(pairs.contains("books/a.parquet:0") && pairs.contains("web/z.parquet:0"), "{pairs}");
    let why = ran(&["why", "out", "--row", "books/a.parquet:0"]).ok().stdout;
    assert_eq!(why, ran(&["why", "out", "--row", "a.parquet:0", "--source", "books"]).ok().stdout);
    assert!(why.contains("which duplicates\nz.parquet:0  id `w0`  source `web`"), "{why}");
    corpus.edit_lineage("kept_doc_id", |_, old| old.map(|_| "nobody".into()));
    let said = corpus.verify();
    assert!(said.code == 4 && said.stdout.contains("row=`books/a.parquet:0` names row=`web/z.parquet:0`"), "{}", said.stdout);
}

#[test]
fn what_the_sink_writes_can_be_chosen() {
    let corpus = Corpus::new();
    corpus.shard("x/a.parquet", &[Some("one"), Some("one"), Some("two"), None]);
    let source = "  c: { parquet: { uri: \"in/**/*.parquet\", text: text, id: id } }";
    corpus.pipeline_with(source, EXACT, "parquet: { uri: out, write: both }").run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0", "a-2", "a-3"].map(|id| format!("x/{id}")));
    assert_eq!(read_parquet(&corpus.at("out/dropped/x/a.parquet")).num_rows(), 1);
    corpus.verify().ok();
    corpus.pipeline_with(source, EXACT, "parquet: { uri: out, write: annotate }").run(&["--overwrite"]).ok();
    let annotated = read_parquet(&corpus.at("out/data/x/a.parquet"));
    assert_eq!(annotated.num_rows(), 4);
    assert!(annotated.column_by_name("trommel_decision").is_some() && annotated.column_by_name("trommel_kept_row").is_some());
    corpus.verify().ok();
    corpus.pipeline_with(source, EXACT, "parquet: { uri: out, layout: { packed: { target: 1MiB } } }").run(&["--overwrite"]).ok();
    assert_eq!(read_parquet(&corpus.at("out/data/part-000000.parquet")).num_rows(), 3);
    corpus.verify().ok();
    let embed = format!("{EXACT}\n  - {{ id: v, embed: {{ model: builtin }} }}");
    corpus.pipeline_with(source, &embed, "parquet: { uri: out, add: [v] }").run(&["--overwrite"]).ok();
    let added = read_parquet(&corpus.at("out/data/x/a.parquet"));
    let vectors = added.column_by_name("v").unwrap();
    assert_eq!((vectors.len(), vectors.null_count()), (3, 1), "the null text has no vector");
    corpus.verify().ok();
}

#[test]
fn a_sample_depends_on_rows_and_not_on_shards() {
    let rows: Vec<String> = (0..400).map(|row| format!("text {row}")).collect();
    let mut samples = BTreeSet::new();
    for cut in [1, 3, 40] {
        let corpus = Corpus::new();
        for (shard, part) in rows.chunks(400_usize.div_ceil(cut)).enumerate() {
            // The text is the id here, for the shard's name must not matter.
            let batch = texts("", &part.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>()).project(&[1]).unwrap();
            corpus.batch(&format!("{shard:03}.parquet"), &batch, 16);
        }
        let source = "  c: { parquet: { uri: \"in/\", text: text, id: text } }";
        for budget in ["keep_fraction: 0.25", "keep_rows: 100"] {
            let stage = format!("  - {{ id: s, sample: {{ {budget}, seed: 5 }} }}");
            corpus.pipeline_with(source, &stage, "parquet: { uri: out }").run(&["--overwrite"]).ok();
            let kept: Vec<String> =
                corpus.lineage().into_iter().filter(|row| row.decision == "keep").map(|row| row.doc_id.unwrap()).collect();
            assert!((60..140).contains(&kept.len()), "{}", kept.len());
            if budget.starts_with("keep_rows") {
                assert_eq!(kept.len(), 100);
            }
            samples.insert((budget, kept));
        }
    }
    assert_eq!(samples.len(), 2, "one sample a budget, however the rows are cut into shards");
}

#[test]
fn limit_rows_reads_the_first_rows_alone() {
    let corpus = Corpus::new();
    repeated(&corpus);
    corpus.pipeline(EXACT).run(&["--limit-rows", "50"]).ok();
    assert_eq!(corpus.manifest()["rows"]["input"], 50);
    assert_eq!(corpus.manifest()["plan"]["limit_rows"], 50);
    corpus.verify().ok();
    let run = |more: &[&str]| {
        corpus.run(&[more, &["--overwrite"]].concat()).ok();
        let manifest = corpus.manifest();
        (manifest["run_id"].clone(), manifest["plan"].get("limit_rows").cloned(), corpus.tree_hash())
    };
    let (limited, full) = (run(&["--limit-rows", "1000000"]), run(&[]));
    // The limit is said, and is part of the run's id, even where it cuts nothing off.
    assert_eq!((&limited.1, &full.1), (&Some(1_000_000.into()), &None));
    assert_ne!(limited.0, full.0);
    assert_eq!((run(&["--limit-rows", "1000000"]), run(&[])), (limited, full));
}

#[test]
fn a_row_that_a_filter_fails_on_is_named() {
    let corpus = Corpus::new();
    let mut rows = vec!["7"; 5000];
    rows[3210] = "0";
    rows[4000] = "0";
    rows[17] = "skipped";
    corpus.shard("a.parquet", &[Some("1"), None]);
    corpus.batch("b.parquet", &texts("b", &rows.into_iter().map(Some).collect::<Vec<_>>()), 1000);
    let stages = "  - { id: digits, filter: { where: \"text <> 'skipped'\" } }\n  - { id: big, filter: { where: \"10 / cast(text as bigint) > 0\" } }";
    corpus.pipeline(stages);
    for batch in ["1", "1000", "8192"] {
        let said = corpus.run(&["--batch-rows", batch, "--threads", "1"]).failed(3);
        assert!(said.contains("stage `big` failed row=`3210` source=`c`") && said.contains("b.parquet"), "{said}");
        assert!(said.contains("Divide by zero") && said.contains("hint: guard the expression"), "{said}");
    }
}

/// Rows whose id is null are drawn by all that they hold: some of them are kept, whatever the shards and their statistics are.
#[test]
fn rows_without_an_id_are_sampled_by_content() {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    use std::sync::Arc;
    let batch = |rows: std::ops::Range<i64>| {
        let ids = StringArray::from_iter(rows.clone().map(|row| (row % 2 == 0).then(|| format!("id {row}"))));
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(ids)),
            ("text", Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("text {row}"))))),
            ("n", Arc::new(Int64Array::from_iter_values(rows))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
    };
    let write = |corpus: &Corpus, name: &str, batch: &RecordBatch, statistics: bool| {
        let statistics = if statistics { EnabledStatistics::Chunk } else { EnabledStatistics::None };
        let properties = WriterProperties::builder().set_statistics_enabled(statistics).set_max_row_group_row_count(Some(60)).build();
        fs::create_dir_all(corpus.at("in")).unwrap();
        let file = fs::File::create(corpus.at("in").join(name)).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    };
    // The rows kept, by their number in the whole.
    let kept = |corpus: &Corpus, id: &str, budget: &str| -> Vec<i64> {
        let source = format!("  c: {{ parquet: {{ uri: \"in/\", text: text{id} }} }}");
        corpus.pipeline_with(&source, &format!("  - {{ id: s, sample: {{ {budget}, seed: 5 }} }}"), "parquet: { uri: out }");
        corpus.run(&["--overwrite"]).ok();
        corpus.verify().ok();
        let mut files = Vec::new();
        list(&corpus.at("out/data"), &mut files);
        let numbers = |path: &std::path::PathBuf| {
            let batch = read_parquet(path);
            let numbers = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column_by_name("n").unwrap());
            numbers.values().to_vec()
        };
        let mut all: Vec<i64> = files.iter().flat_map(numbers).collect();
        all.sort_unstable();
        all
    };
    for budget in ["keep_fraction: 0.25", "keep_rows: 100"] {
        let mut samples = BTreeSet::new();
        let mut by_content = BTreeSet::new();
        for (shards, statistics) in [(1, true), (1, false), (8, true), (8, false)] {
            let corpus = Corpus::new();
            for shard in 0..shards {
                write(&corpus, &format!("{shard}.parquet"), &batch(shard * 400 / shards..(shard + 1) * 400 / shards), statistics);
            }
            samples.insert(kept(&corpus, ", id: id", budget));
            by_content.insert(kept(&corpus, "", budget));
        }
        assert_eq!((samples.len(), by_content.len()), (1, 1), "{budget}");
        let without = |rows: &BTreeSet<Vec<i64>>| rows.iter().flatten().copied().filter(|row| row % 2 == 1).collect::<Vec<i64>>();
        let found = without(&samples);
        assert!((30..70).contains(&found.len()), "some of 200 rows without an id: {found:?}");
        if budget.starts_with("keep_fraction") {
            assert_eq!(found, without(&by_content), "as where the source declares no id");
        }
    }
    // A shard whose footer counts no null is read for its ids alone, and so is one that can have none.
    let reads = |corpus: &Corpus| {
        let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
        corpus.pipeline_with(source, "  - { id: s, sample: { keep_rows: 3 } }", "parquet: { uri: out }");
        let plan = trommel(corpus.path(), &["plan", "p.yaml", "--quiet", "--format", "json"]).ok().stdout;
        let plan: Value = serde_json::from_str(&plan).unwrap();
        plan["phases"][0]["reads"].as_str().unwrap().to_owned()
    };
    let corpus = Corpus::new();
    let whole = batch(0..100);
    let ids = arrow::array::BooleanArray::from_iter((0..100).map(|row| Some(row % 2 == 0)));
    let sound = arrow::compute::filter_record_batch(&whole, &ids).unwrap();
    write(&corpus, "a.parquet", &sound, true);
    assert_eq!(reads(&corpus), "c: id");
    write(&corpus, "b.parquet", &sound, false);
    assert_eq!(reads(&corpus), "c: id; all columns of 1 of 2 shards");
    fs::remove_file(corpus.at("in/a.parquet")).unwrap();
    assert_eq!(reads(&corpus), "c: all columns");
    corpus.shard("b.parquet", &[Some("required ids")]);
    assert_eq!(reads(&corpus), "c: id");
}

#[test]
fn a_filter_guards_the_next_one() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("12"), Some("x"), Some("7")]);
    let stages = "  - { id: digits, filter: { where: \"regexp_like(text, '^[0-9]+$')\" } }\n  - { id: big, filter: { where: \"cast(text as bigint) > 10\" } }";
    corpus.pipeline(stages).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0"]);
    assert_eq!(corpus.dropped().into_iter().collect::<Vec<_>>(), [("a-1".into(), "filtered".into()), ("a-2".into(), "filtered".into())]);
}

#[test]
fn a_missing_column_names_shards_and_columns() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]);
    let said = corpus.pipeline("  - { id: exact, exact_dedup: { columns: [txt] } }").run(&[]).failed(3);
    assert!(said.contains("txt") && said.contains("a.parquet") && said.contains("did you mean `text`"), "{said}");
}

#[test]
fn a_damaged_shard_is_named() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]);
    fs::write(corpus.at("in/b.parquet"), "PAR1 this is not Parquet PAR1").unwrap();
    let said = corpus.pipeline(EXACT).run(&[]).failed(3);
    assert!(said.contains("b.parquet"), "{said}");
    assert!(!corpus.at("out").exists());
}

#[test]
fn overwrite_leaves_a_copy_of_the_old_output_alone() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("x")]);
    corpus.pipeline(EXACT).run(&[]).ok();
    fs::create_dir(corpus.at("out.old")).unwrap();
    fs::write(corpus.at("out.old/mine"), "kept").unwrap();
    corpus.run(&["--overwrite"]).ok();
    assert_eq!(fs::read_to_string(corpus.at("out.old/mine")).unwrap(), "kept");
}

#[test]
fn two_runs_do_not_write_one_output() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("x")]);
    corpus.pipeline(EXACT);
    let lock = fs::File::create(corpus.at(".out.lock")).unwrap();
    lock.lock().unwrap();
    let said = corpus.run(&[]).failed(5);
    assert!(said.contains("another run holds the output") && said.contains("hint:"), "{said}");
    drop(lock);
    corpus.run(&[]).ok();
    assert!(!corpus.at(".out.lock").exists());
}

/// An artefact of an earlier plan or corpus is used only where it is what this run would make.
#[test]
fn a_warm_work_folder_gives_what_a_cold_one_gives() {
    let same_as_cold = |corpus: &Corpus| {
        corpus.run(&["--overwrite"]).ok();
        let warm = corpus.kept();
        fs::remove_dir_all(corpus.at(".trommel")).unwrap();
        corpus.run(&["--overwrite"]).ok();
        assert_eq!(warm, corpus.kept());
        warm
    };
    // What a scan looks at depends on the inputs of stages that leave nothing in it.
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("one"), Some("seventeen"), Some("two"), Some("eighteen")]);
    let stages = |input: &str| {
        format!(
            "  - {{ id: f1, input: c, filter: {{ where: \"length(text) > 5\" }} }}\n  - {{ id: v, input: {input}, embed: {{ model: builtin }} }}\n  - {{ id: f2, input: v, filter: {{ where: \"true\" }} }}\n  - {{ id: end, input: [f1, f2], filter: {{ where: \"true\" }} }}"
        )
    };
    corpus.pipeline(&stages("f1")).run(&[]).ok();
    assert_eq!(corpus.kept().len(), 2);
    assert_eq!(same_as_cold(corpus.pipeline(&stages("c"))).len(), 4);

    // Another shard may widen the type that a column is read in.
    use arrow::array::{ArrayRef, Float32Array, Float64Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let corpus = Corpus::new();
    let batch = |ids: Vec<&str>, x: ArrayRef| {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(StringArray::from(ids.clone()))), ("text", Arc::new(StringArray::from(ids))), ("x", x)];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    corpus.batch("a.parquet", &batch(vec!["a", "b"], Arc::new(Float32Array::from(vec![0.1, 0.3]))), 2);
    corpus.pipeline("  - { id: exact, exact_dedup: { columns: [x] } }").run(&[]).ok();
    corpus.batch("b.parquet", &batch(vec!["c", "d"], Arc::new(Float64Array::from(vec![f64::from(0.1_f32), 0.5]))), 2);
    assert_eq!(same_as_cold(&corpus), ["a", "b", "d"]);
}

#[test]
fn bytes_in_dictionaries_are_compared_as_bytes() {
    use arrow::array::{BinaryArray, DictionaryArray, Int32Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let corpus = Corpus::new();
    let values = BinaryArray::from_vec(vec![b"\xff\x01", b"\xfe\x02"]);
    let bytes = DictionaryArray::new(Int32Array::from(vec![0, 1, 0]), Arc::new(values));
    let ids = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let batch = RecordBatch::try_from_iter(vec![("id", ids.clone() as _), ("text", ids as _), ("bytes", Arc::new(bytes) as _)]).unwrap();
    corpus.batch("a.parquet", &batch, 10);
    corpus.pipeline("  - { id: exact, exact_dedup: { columns: [bytes] } }").run(&[]).ok();
    assert_eq!(corpus.kept(), ["a", "b"]);
}

#[test]
fn names_of_the_program_are_refused() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]);
    let said = corpus.pipeline("  - { id: trommel_row, filter: { where: \"true\" } }").run(&[]).failed(2);
    assert!(said.contains("trommel_row"), "{said}");
    let said = corpus.pipeline("  - { id: v, embed: { model: builtin, provider: cuda } }").run(&[]).failed(2);
    assert!(said.contains("built-in model runs on the processor"), "{said}");
}

#[test]
fn sources_that_one_stage_compares_must_go_together() {
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let corpus = Corpus::new();
    let numbers = RecordBatch::try_from_iter(vec![("n", Arc::new(Int64Array::from(vec![1, 2])) as _)]).unwrap();
    let words = RecordBatch::try_from_iter(vec![("n", Arc::new(StringArray::from(vec!["1", "2"])) as _)]).unwrap();
    write_shard(&corpus.at("s1/a.parquet"), &numbers, 10);
    write_shard(&corpus.at("s2/a.parquet"), &words, 10);
    let sources = "  s1: { parquet: { uri: s1 } }\n  s2: { parquet: { uri: s2 } }";
    corpus.pipeline_with(sources, "  - { id: exact, input: [s1, s2], exact_dedup: { columns: [n] } }", "parquet: { uri: out }");
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("s1") && said.contains("s2") && said.contains("Int64"), "{said}");
}

#[test]
fn windows_of_a_model_are_cut_by_rows_alone() {
    let rows: Vec<String> = (0..9_000).map(|row| format!("row {row} says {} of {}", row % 97, row % 13)).collect();
    let mut hashes = BTreeSet::new();
    for (threads, batch) in [("1", "1000"), ("2", "8192"), ("2", "333")] {
        let corpus = Corpus::new();
        corpus.batch("a.parquet", &texts("r", &rows.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>()), 2_000);
        corpus.pipeline("  - { id: v, embed: { model: builtin } }\n  - { id: near, semantic_dedup: { epsilon: 0.01, k: 4 } }");
        corpus.run(&["--threads", threads, "--batch-rows", batch]).ok();
        hashes.insert(corpus.tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn packed_files_are_cut_at_row_groups() {
    let corpus = Corpus::new();
    let rows: Vec<String> = (0..4_000_u64).map(|row| blake3::hash(&row.to_le_bytes()).to_hex().repeat(8)).collect();
    corpus.batch("a.parquet", &texts("r", &rows.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>()), 500);
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    corpus.pipeline_with(source, EXACT, "parquet: { uri: out, layout: { packed: { target: 100KiB } } }").run(&[]).ok();
    let mut files = Vec::new();
    list(&corpus.at("out/data"), &mut files);
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(corpus.kept(), (0..4_000).map(|row| format!("r{row}")).collect::<Vec<_>>());
    corpus.verify().ok();
}
