//! Bad pipelines: what each is told, as snapshots; and the laws that hold for all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::prelude::*;
use serde_json::Value;
use trommel::config::model::{Layout, Pipeline};
use trommel::config::schema::json_schema;
use trommel::diagnostic::Diagnostics;
use trommel::error::Kind;
use trommel::plan::checked::Checked;
use trommel::stages::StageConfig;
use trommel::stages::semantic_dedup::Epsilon;
use trommel::storage::uri::Root;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipelines").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn problems(text: &[u8], file: &Path, sets: &[(&str, &str)]) -> Diagnostics {
    let sets: Vec<(String, String)> = sets.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    Checked::read(text, file, &sets, None).map(|checked| checked.pipeline.name).expect_err("the pipeline is valid")
}

fn good(name: &str, sets: &[(&str, &str)]) -> Pipeline {
    let file = files("good").into_iter().find(|file| stem(file) == name).unwrap();
    let sets: Vec<(String, String)> = sets.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    match Checked::read(std::fs::read(&file).unwrap(), &file, &sets, None) {
        Ok(checked) => checked.pipeline,
        Err(problems) => panic!("{}", problems.render(name)),
    }
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn every_bad_pipeline_is_told_all_its_problems() {
    let files = files("bad");
    assert!(files.len() >= 30, "{} bad pipelines", files.len());
    for file in files {
        let name = stem(&file);
        let problems = problems(&std::fs::read(&file).unwrap(), &file, &[]);
        snapshot(&format!("bad_{name}"), &problems.render(&format!("{name}.yaml")));
    }
}

#[test]
fn no_problem_prints_a_secret_or_a_control_character() {
    for file in files("bad") {
        let text = problems(&std::fs::read(&file).unwrap(), &file, &[]).render("f");
        assert!(!text.contains("canary") && !text.contains("CANARY"), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn good_pipelines_are_valid_and_read_as_written() {
    for file in files("good") {
        good(&stem(&file), &[]);
    }
    let pipeline = good("branches", &[]);
    assert_eq!(pipeline.sink.layout, Layout::Packed { target_bytes: 64 << 20 });
    snapshot("good_branches_canonical", &serde_json::to_string_pretty(&pipeline.canonical()).unwrap());
    snapshot("good_quickstart_canonical", &serde_json::to_string_pretty(&good("quickstart", &[]).canonical()).unwrap());
}

#[test]
fn the_graph_of_branches_is_in_topological_file_order() {
    let file = files("good").into_iter().find(|file| stem(file) == "branches").unwrap();
    let checked = Checked::read(std::fs::read(&file).unwrap(), &file, &[], None).unwrap();
    let stages = &checked.pipeline.stages;
    let order: Vec<&str> = checked.graph.order().iter().map(|stage| stages[*stage].id.as_str()).collect();
    assert_eq!(order, ["both", "vectors", "short", "long", "long_distinct", "core", "some", "urls"]);
    let embedding = |id: &str| {
        let stage = stages.iter().position(|stage| stage.id.as_str() == id).unwrap();
        checked.graph.embedding(stage).map(|stage| stages[stage].id.as_str())
    };
    assert_eq!((embedding("core"), embedding("long_distinct"), embedding("both")), (Some("vectors"), Some("vectors"), None));
    assert_eq!(stages[checked.graph.sink()].id.as_str(), "urls");
    assert!(!checked.graph.is_chain());
}

#[test]
fn set_replaces_what_its_path_names() {
    let sets = [
        ("name", "renamed"),
        ("sources.crawl.parquet.uri", "/data/a: b #c/*.parquet"),
        ("sources.crawl.parquet.id", "doc"),
        ("stages.long_enough.where", "text = '{a: b}' -- # no YAML\n"),
        ("stages.exact.columns", "[text, url]"),
        ("stages.exact.normalize[1]", "collapse_whitespace"),
        ("stages.exact.normalize[2]", "lowercase"),
        ("stages.semantic.epsilon", "0.5"),
        ("stages.semantic.k", "7"),
        ("stages.semantic.input", "vectors"),
        ("stages.semantic.report", "[0.1, 1]"),
        ("stages.coreset.k", "auto"),
        ("sink.parquet.compression", "zstd(19)"),
        ("sink.parquet.layout", "packed"),
        ("sink.input", "coreset"),
        ("work.uri", "/elsewhere"),
    ];
    let pipeline = good("quickstart", &sets);
    assert_eq!(pipeline.name, "renamed");
    assert_eq!(pipeline.sources[0].uri, "/data/a: b #c/*.parquet");
    assert_eq!(pipeline.sources[0].id_column.as_deref(), Some("doc"));
    assert_eq!((pipeline.sink.zstd_level, pipeline.work_uri.as_str()), (19, "/elsewhere"));
    let [StageConfig::Filter(filter), StageConfig::ExactDedup(exact), _, StageConfig::SemanticDedup(semantic), _] =
        &[0, 1, 2, 3, 4].map(|stage| pipeline.stages[stage].config.clone())
    else {
        panic!("other kinds")
    };
    assert_eq!(filter.predicate, "text = '{a: b}' -- # no YAML\n");
    assert_eq!(exact.columns, ["text", "url"]);
    assert_eq!((semantic.epsilon, semantic.report.as_slice()), (Epsilon::Fixed(0.5), [0.1, 1.0].as_slice()));
}

#[test]
fn set_never_adds_structure_and_names_the_nearest_path() {
    let file = files("good").into_iter().find(|file| stem(file) == "quickstart").unwrap();
    let text = std::fs::read(&file).unwrap();
    let mut out = String::new();
    for (path, value) in [
        ("stages.semantc.epsilon", "0.1"),
        ("stages.semantic.epsilom", "0.1"),
        ("sources.crawl.parqet.uri", "a"),
        ("sources.other.parquet.uri", "a"),
        ("sinks.parquet.uri", "a"),
        ("sink", "{parquet: {uri: a}}"),
        ("stages", "[]"),
        ("stages.semantic", "x"),
        ("stages.semantic.keep.by", "score"),
        ("stages.semantic.epsilon.deep", "1"),
        ("stages.exact.normalize[9]", "nfc"),
        ("stages.exact.columns", "[text, {a: b}]"),
        ("stages.exact.columns", "[text"),
        ("name", "a\nsink: {}"),
        ("stages.semantic.epsilon", "{a: 1}"),
        ("stages.vectors.model", "{path: a.onnx}"),
        ("stages.exact.keep", "{by: score}"),
        ("version", "2"),
        ("", "1"),
        ("stages..epsilon", "1"),
    ] {
        let problems = problems(&text, &file, &[(path, value)]);
        writeln!(out, "--set '{}={}'\n{}", path, value.escape_debug(), problems.render("quickstart.yaml")).unwrap();
    }
    snapshot("bad_sets", &out);
}

#[test]
fn root_confines_every_path_of_the_operator() {
    let file = files("good").into_iter().find(|file| stem(file) == "branches").unwrap();
    let text = std::fs::read(&file).unwrap();
    let root = Root::new(file.parent().unwrap()).unwrap();
    let problems = Checked::read(&text, &file, &[], Some(&root)).unwrap_err();
    assert_eq!(problems.len(), 1, "{}", problems.render("f"));
    assert!(problems.render("f").contains("work.uri"));
    let sets = [("work.uri", "work"), ("stages.vectors.model.path", "../../m.onnx"), ("sources.web.parquet.uri", "web/../../../x/*")];
    let sets = sets.map(|(path, value)| (path.to_owned(), value.to_owned()));
    let problems = Checked::read(&text, &file, &sets, Some(&root)).unwrap_err();
    assert_eq!(problems.len(), 2, "{}", problems.render("f"));
}

#[test]
fn hostile_files_are_refused_at_once() {
    let keys = (0..100_000).map(|key| format!("key{key}: 1\n")).collect::<Vec<String>>().concat();
    let unknown = (0..9_000).map(|key| format!("nmae{key}: 1\n")).collect::<Vec<String>>().concat();
    let cases = [
        ("huge scalar", format!("name: {}\n", "a".repeat(2 << 20))),
        ("large scalar", format!("name: {}\n", "a".repeat(1_000_000))),
        ("large word", format!("stages: [{{id: a, sample: {{seed: {}}}}}]\n", "b".repeat(1_000_000))),
        ("large key", format!("? {}\n: 1\n", "k".repeat(1_000_000))),
        ("100,000 keys", keys),
        ("9,000 unknown keys", unknown),
        ("deep", format!("a: {}", "[".repeat(500_000))),
        ("anchored scalar", format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(60))),
        ("brackets", "{".repeat(500_000)),
        ("dashes", "- ".repeat(300_000)),
        ("quotes", "'".repeat(1_000_001)),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let problems = problems(text.as_bytes(), Path::new("hostile.yaml"), &[]);
        let rendered = problems.render("hostile.yaml");
        assert!(rendered.len() < 20_000, "{name}: {} bytes", rendered.len());
        assert!(start.elapsed().as_millis() < 1_000, "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let file = files("good").into_iter().find(|file| stem(file) == "quickstart").unwrap();
    let mut text = b"\xEF\xBB\xBF".to_vec();
    text.extend(std::fs::read(&file).unwrap());
    assert!(Checked::read(&text, &file, &[], None).is_ok());
}

#[test]
fn a_work_folder_that_no_listing_sees_may_lie_beside_the_shards() {
    let pipeline = good("quickstart", &[("sources.crawl.parquet.uri", "*.parquet")]);
    assert_eq!(pipeline.work_uri, ".trommel/web_curation/");
    let file = files("good").into_iter().find(|file| stem(file) == "quickstart").unwrap();
    let text = std::fs::read(&file).unwrap();
    problems(&text, &file, &[("sources.crawl.parquet.uri", ".trommel/**/*.parquet")]);
    problems(&text, &file, &[("sources.crawl.parquet.uri", "./"), ("work.uri", "work")]);
}

#[test]
fn a_link_does_not_hide_that_two_folders_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::os::unix::fs::symlink("data", folder.path().join("elsewhere")).unwrap();
    let text = std::fs::read(files("bad").into_iter().find(|file| stem(file) == "version_2").unwrap()).unwrap();
    let read = |uri: &str| {
        let sets = [("version".to_owned(), "1".to_owned()), ("sink.parquet.uri".to_owned(), uri.to_owned())];
        Checked::read(&text, &file, &sets, None).unwrap()
    };
    assert!(read("out").follow_links(&file, None).is_ok());
    for uri in ["elsewhere", "elsewhere/out"] {
        let problems = read(uri).follow_links(&file, None).unwrap_err();
        assert!(problems.render("p").contains("source"), "{}", problems.render("p"));
    }
    let root = Root::new(folder.path()).unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("away")).unwrap();
    assert!(read("away/out").follow_links(&file, Some(&root)).is_err());
}

/// The keys of the JSON Schema: each must be misused by some bad pipeline.
#[test]
fn every_key_of_the_schema_has_a_negative_case() {
    fn keys(schema: &Value, out: &mut BTreeSet<String>) {
        match schema {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    out.extend(properties.keys().cloned());
                }
                object.values().for_each(|child| keys(child, out));
            }
            Value::Array(items) => items.iter().for_each(|child| keys(child, out)),
            _ => {}
        }
    }
    let mut wanted = BTreeSet::new();
    keys(&json_schema(), &mut wanted);
    let mut misused = BTreeSet::new();
    for file in files("bad") {
        for problem in problems(&std::fs::read(&file).unwrap(), &file, &[]).sorted() {
            let last = problem.path.rsplit('.').next().unwrap_or_default();
            misused.insert(last.split('[').next().unwrap_or_default().to_owned());
            // A kind has no place in a stage's path: it is named in the message.
            misused.extend(problem.message.split('`').skip(1).step_by(2).map(str::to_owned));
            misused.extend(
                problem.hint.as_deref().and_then(|hint| hint.strip_prefix("did you mean `")?.strip_suffix("`?")).map(str::to_owned),
            );
        }
    }
    let missing: Vec<&String> = wanted.iter().filter(|key| !misused.contains(*key)).collect();
    assert!(missing.is_empty(), "no bad pipeline misuses {missing:?}");
}

#[test]
fn the_schema_and_its_defaults_agree_with_the_reader() {
    snapshot("schema", &serde_json::to_string_pretty(&json_schema()).unwrap());
}

#[test]
fn validate_prints_text_and_json() {
    let bad = files("bad").into_iter().find(|file| stem(file) == "unused_source").unwrap();
    let text = std::fs::read(&bad).unwrap();
    let mut out = Vec::new();
    let error = trommel::cli::validate::run(&text, Path::new("unused_source.yaml"), &[], None, true, &mut out).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let printed: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(printed["problems"][0]["path"], "sources.b");
    assert_eq!(printed["problems"][0]["line"], 5);
    let good = files("good").into_iter().find(|file| stem(file) == "quickstart").unwrap();
    let mut out = Vec::new();
    trommel::cli::validate::run(&std::fs::read(&good).unwrap(), Path::new("quickstart.yaml"), &[], None, false, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "quickstart.yaml: the pipeline `web_curation` is valid: 1 source, 5 stages\n");
}

fn sorted_keys(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.keys().is_sorted() && object.values().all(sorted_keys),
        Value::Array(items) => items.iter().all(sorted_keys),
        _ => true,
    }
}

#[test]
fn canonical_forms_have_sorted_keys_and_differ_where_a_key_differs() {
    let base = good("branches", &[]).canonical();
    assert!(sorted_keys(&base));
    for (path, value) in [
        ("stages.both.columns", "[text, url]"),
        ("stages.both.normalize", "[nfc]"),
        ("stages.both.keep", "first"),
        ("stages.both.keep.by", "other"),
        ("stages.both.keep.order", "asc"),
        ("stages.vectors.column", "body"),
        ("stages.vectors.model", "builtin"),
        ("stages.vectors.max_tokens", "64"),
        ("stages.vectors.chunk.tokens", "65"),
        ("stages.vectors.chunk.overlap", "15"),
        ("stages.vectors.batch_tokens", "64"),
        ("stages.vectors.pooling", "cls"),
        ("stages.vectors.normalize", "false"),
        ("stages.vectors.dims", "64"),
        ("stages.vectors.precision", "f32"),
        ("stages.vectors.on_bad_vector", "keep"),
        ("stages.short.where", "length(text) < 501"),
        ("stages.long_distinct.epsilon", "0.051"),
        ("stages.long_distinct.rule", "star"),
        ("stages.long_distinct.keep", "easy"),
        ("stages.long_distinct.on_equal", "keep"),
        ("stages.long_distinct.k", "auto"),
        ("stages.long_distinct.iterations", "11"),
        ("stages.long_distinct.seed", "8"),
        ("stages.long_distinct.report", "[0.01]"),
        ("stages.long_distinct.on_bad_vector", "keep"),
        ("stages.core.keep_rows", "1001"),
        ("stages.core.k", "3"),
        ("stages.core.balance", "0.25"),
        ("stages.core.seed", "2"),
        ("stages.core.input", "short"),
        ("stages.some.keep_fraction", "0.25"),
        ("stages.some.seed", "4"),
        ("sink.parquet.layout", "mirror"),
        ("sink.parquet.write", "data"),
        ("sink.parquet.compression", "zstd(8)"),
        ("sink.parquet.row_group_rows", "5"),
        ("sink.parquet.add", "[]"),
        ("sources.web.parquet.text", "body"),
    ] {
        // Taking an input away leaves a stage unused: read without the graph.
        let file = files("good").into_iter().find(|file| stem(file) == "branches").unwrap();
        let sets = [(path.to_owned(), value.to_owned())];
        let mut out = Diagnostics::new();
        let draft = trommel::config::model::read(std::fs::read(&file).unwrap(), &file, &sets, &mut out);
        assert!(out.is_empty(), "{}", out.render(path));
        assert_ne!(draft.pipeline.unwrap().canonical(), base, "{path} is not in the canonical form");
    }
    for (path, value) in [
        ("name", "other"),
        ("work.uri", "w"),
        ("sources.web.parquet.uri", "w"),
        ("stages.vectors.provider", "auto"),
        ("sink.parquet.uri", "o"),
    ] {
        assert_eq!(good("branches", &[(path, value)]).canonical(), base, "{path} is in the canonical form");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever becomes of a file's bytes, reading it ends in a pipeline or in problems.
    #[test]
    fn damaged_files_never_panic(cuts in prop::collection::vec((0usize..4_000, 0usize..40, "[\\[\\]{}:,&*!|>'\"# \n\ta-c0-9-]{0,6}"), 1..6)) {
        for file in files("good") {
            let mut text = std::fs::read(&file).unwrap();
            for (at, length, insert) in &cuts {
                let start = (*at).min(text.len());
                let end = (start + length).min(text.len());
                text.splice(start..end, insert.bytes());
            }
            if let Err(problems) = Checked::read(&text, &file, &[], None) {
                prop_assert!(!problems.is_empty());
            }
        }
    }

    /// A value of `--set` is one value: all else stays as it was.
    #[test]
    fn set_changes_nothing_but_its_place(value in "[\\PC\n\t]{1,40}") {
        let base = good("quickstart", &[]);
        let file = files("good").into_iter().find(|file| stem(file) == "quickstart").unwrap();
        let sets = [("sources.crawl.parquet.text".to_owned(), value.clone())];
        match Checked::read(std::fs::read(&file).unwrap(), &file, &sets, None) {
            Ok(checked) => {
                let mut expected = base;
                expected.sources[0].text = Some(value);
                prop_assert_eq!(checked.pipeline, expected);
            }
            Err(problems) => prop_assert!(value.trim().is_empty(), "{}", problems.render("f")),
        }
    }
}
