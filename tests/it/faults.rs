//! What goes wrong around a run: signals, shards that change, storage that refuses, and what the program says and leaves behind.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use trommel::random::{Random, Sequence};

use crate::fixture::{Corpus, Ran, list, texts, trommel, write_shard};

const EXACT: &str = "  - { id: exact, exact_dedup: { columns: [text] } }";
const LONG: &str = "  - { id: long, filter: { where: \"length(text) > 20\" } }\n  - { id: exact, exact_dedup: { columns: [text], normalize: [lowercase] } }\n  - { id: v, embed: { model: builtin } }\n  - { id: core, prototypes: { keep_rows: 5000, k: 8, iterations: 2 } }";
const SHORT: &str = "  - { id: long, filter: { where: \"length(text) > 20\" } }\n  - { id: exact, exact_dedup: { columns: [text], normalize: [lowercase] } }";
const SHARDS: usize = 20;

/// Shards of 3,000 rows, a third of them repeated.
fn large(stages: &str) -> Corpus {
    let corpus = Corpus::new();
    let words = ["river", "stone", "copper", "winter", "ledger", "harbour", "signal", "meadow"];
    let mut draws = Random::new(1, "faults").sequence(b"texts");
    for shard in 0..SHARDS {
        let rows: Vec<String> = (0..3_000)
            .map(|_| {
                let count = 1 + draws.below(12) as usize;
                (0..count).map(|_| words[draws.below(8) as usize]).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let rows: Vec<Option<&str>> = rows.iter().map(|row| Some(row.as_str())).collect();
        write_shard(&corpus.at(&format!("in/{shard:02}.parquet")), &texts(&format!("{shard}-"), &rows), 1_000);
    }
    corpus.pipeline(stages);
    corpus
}

fn start(corpus: &Corpus, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_trommel"))
        .args(arguments)
        .current_dir(corpus.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(child: &Child, signal: Signal) {
    // A child that has ended is a zombie until it is waited for: the id is still its own.
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Starts a run and waits until it says that a phase is over.
fn run_until(corpus: &Corpus, phase: &str, more: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = start(corpus, &[&["run", "p.yaml"], more].concat());
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(phase) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the run ended before `{phase}`: {:?}", child.wait());
    }
    (child, said)
}

fn end(mut child: Child, mut said: BufReader<std::process::ChildStderr>) -> Ran {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    said.read_to_string(&mut stderr).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    Ran { code: child.wait().unwrap().code().unwrap_or(-1), stdout, stderr }
}

/// What stands beside the input.
fn left(corpus: &Corpus) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(corpus.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_interrupted_run_publishes_nothing_and_the_next_one_ends_alike() {
    let corpus = large(LONG);
    corpus.run(&[]).ok();
    let wanted = corpus.tree_hash();
    for (phase, signal) in [("snapshot", Signal::INT), ("scan", Signal::INT), ("scan", Signal::TERM), ("embed", Signal::INT)] {
        fs::remove_dir_all(corpus.at("out")).unwrap_or_default();
        fs::remove_dir_all(corpus.at(".trommel")).unwrap();
        let (child, said) = run_until(&corpus, phase, &[]);
        let since = Instant::now();
        send(&child, signal);
        let said = end(child, said).failed(130);
        assert!(since.elapsed() < Duration::from_secs(5), "stopped after {:?}", since.elapsed());
        assert!(said.contains("error:") && !said.contains("panicked"), "{said}");
        assert!(!corpus.at("out").exists(), "{phase}");
        corpus.run(&[]).ok();
        assert_eq!(corpus.tree_hash(), wanted, "{phase}");
        assert_eq!(left(&corpus), [".trommel", "in", "out", "p.yaml"], "{phase}");
    }
}

/// Kills a run after a random part of `whole`; gives whether it had not ended by itself.
fn kill_within(corpus: &Corpus, arguments: &[&str], whole: Duration, draws: &mut Sequence) -> bool {
    let threads = ["1", "2"][draws.below(2) as usize];
    let mut child = start(corpus, &[&["run", "p.yaml", "--quiet", "--threads", threads], arguments].concat());
    sleep(whole.mul_f64(draws.unit()));
    send(&child, Signal::KILL);
    let status = child.wait().unwrap();
    assert!(status.signal() == Some(9) || status.success(), "{status:?}");
    !status.success()
}

#[test]
fn a_killed_run_leaves_no_dataset_and_the_next_one_gives_the_same_bytes() {
    let corpus = large(SHORT);
    let since = Instant::now();
    corpus.run(&[]).ok();
    let (whole, wanted) = (since.elapsed(), corpus.tree_hash());
    let mut draws = Random::new(2, "faults").sequence(b"kills");
    let mut killed = 0;
    for round in 0..60 {
        if killed == 20 {
            break;
        }
        fs::remove_dir_all(corpus.at("out")).unwrap_or_default();
        if round % 4 == 0 {
            fs::remove_dir_all(corpus.at(".trommel")).unwrap_or_default();
        }
        if kill_within(&corpus, &[], whole, &mut draws) {
            killed += 1;
        }
        // Killed after the last rename, it has published all.
        assert!(!corpus.at("out").exists() || corpus.tree_hash() == wanted, "round {round}");
        if round % 5 == 4 && !corpus.at("out").exists() {
            corpus.run(&[]).ok();
            assert_eq!(corpus.tree_hash(), wanted, "round {round}");
            assert_eq!(left(&corpus), [".trommel", "in", "out", "p.yaml"]);
        }
    }
    // How many come before the end depends on how busy the machine is.
    assert!(killed > 0, "no kill came before the end");
    fs::remove_dir_all(corpus.at("out")).unwrap_or_default();
    corpus.run(&[]).ok();
    assert_eq!(corpus.tree_hash(), wanted);
    corpus.verify().ok();
}

#[test]
fn a_killed_replacement_leaves_the_old_dataset_or_the_new_one() {
    let corpus = large(SHORT);
    let other = ["--overwrite", "--set", "stages.long.where=length(text) > 30"];
    corpus.run(&[]).ok();
    let old = corpus.tree_hash();
    corpus.run(&other).ok();
    let new = corpus.tree_hash();
    assert_ne!(old, new);
    let since = Instant::now();
    corpus.run(&["--overwrite"]).ok();
    let whole = since.elapsed();
    let mut draws = Random::new(3, "faults").sequence(b"kills");
    let mut killed = 0;
    for round in 0..36 {
        if killed == 12 {
            break;
        }
        if kill_within(&corpus, &other, whole.mul_f64(1.1), &mut draws) {
            killed += 1;
        }
        if corpus.at("out.intent").exists() {
            // Between two renames: the next command finishes it.
            let _ = corpus.run(&["--overwrite"]).ok();
        } else {
            assert!([old, new].contains(&corpus.tree_hash()), "round {round}");
            corpus.verify().ok();
        }
        if corpus.tree_hash() != old {
            corpus.run(&["--overwrite"]).ok();
            assert_eq!(corpus.tree_hash(), old, "round {round}");
        }
    }
    assert!(killed > 0, "no kill came before the end");
    corpus.run(&other).ok();
    assert_eq!(corpus.tree_hash(), new);
    assert_eq!(left(&corpus), [".trommel", "in", "out", "p.yaml"]);
}

/// Changes a shard while the run stands still.
type Change = fn(&Path);

#[test]
fn a_shard_that_changes_under_the_run_is_an_error() {
    let corpus = large(SHORT);
    let changes: [(&str, Change); 5] = [
        ("appended to", |path| {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
        }),
        ("replaced", |path| {
            let aside = path.with_extension("aside");
            fs::copy(path, &aside).unwrap();
            fs::rename(aside, path).unwrap();
        }),
        ("cut", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("written in place", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[1_000] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
    ];
    let shard = corpus.at("in/17.parquet");
    let bytes = fs::read(&shard).unwrap();
    for (word, change) in changes {
        for phase in ["snapshot", "scan"] {
            fs::write(&shard, &bytes).unwrap();
            let _ = fs::remove_dir_all(corpus.at(".trommel")).is_ok();
            let (child, said) = run_until(&corpus, phase, &["--threads", "1"]);
            send(&child, Signal::STOP);
            change(&shard);
            send(&child, Signal::CONT);
            let ran = end(child, said);
            if word == "removed" {
                assert!([3, 6].contains(&ran.code), "{word} after {phase}: {ran:?}");
            } else {
                assert_eq!(ran.code, 3, "{word} after {phase}: {ran:?}");
                assert!(ran.stderr.contains("shard changed under the run"), "{word} after {phase}: {ran:?}");
            }
            assert!(ran.stderr.contains("17.parquet"), "{word} after {phase}: {ran:?}");
            assert!(!corpus.at("out").exists(), "{word} after {phase}");
        }
    }
    fs::write(&shard, &bytes).unwrap();
    corpus.run(&[]).ok();
    corpus.verify().ok();
}

#[test]
fn storage_that_refuses_is_named() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x"), Some("x")]).pipeline(EXACT);
    fs::write(corpus.at("file"), "not a folder").unwrap();
    for (place, path) in
        [("sink.parquet.uri=file/out", "file"), ("work.uri=file/work", "file"), ("sink.parquet.uri=/proc/trommel/out", "/proc/trommel")]
    {
        let said = corpus.run(&["--set", place]).failed(6);
        assert!(said.contains(path) && !said.contains("panicked"), "{said}");
    }
    assert_eq!(fs::read_to_string(corpus.at("file")).unwrap(), "not a folder");
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir(corpus.at("closed")).unwrap();
        fs::set_permissions(corpus.at("closed"), fs::Permissions::from_mode(0o555)).unwrap();
        let said = corpus.run(&["--set", "sink.parquet.uri=closed/out"]).failed(6);
        assert!(said.contains("closed"), "{said}");
    }
}

/// A limit on the size of files fails a write as a full disk does.
#[test]
fn a_full_disk_ends_the_run_and_leaves_the_old_dataset() {
    let corpus = large(SHORT);
    corpus.run(&["--set", "stages.long.where=length(text) > 90"]).ok();
    let old = corpus.tree_hash();
    for blocks in ["2", "60"] {
        let script =
            format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" run p.yaml --quiet --overwrite --set sink.parquet.layout=packed");
        let output = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_trommel")]).current_dir(corpus.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("path=`") && said.contains("hint:"), "{said}");
        assert_eq!(corpus.tree_hash(), old);
    }
    corpus.run(&["--overwrite"]).ok();
    corpus.verify().ok();
    assert_eq!(left(&corpus), [".trommel", "in", "out", "p.yaml"]);
}

#[test]
fn paths_are_relative_to_the_pipeline_file_and_stay_in_the_root() {
    let corpus = Corpus::new();
    write_shard(&corpus.at("data/in/a.parquet"), &texts("a-", &[Some("x"), Some("x")]), 2);
    fs::create_dir_all(corpus.at("elsewhere")).unwrap();
    fs::create_dir_all(corpus.at("data/pipelines")).unwrap();
    corpus.pipeline_with("  c: { parquet: { uri: ../in, text: text, id: id } }", EXACT, "parquet: { uri: ../out }");
    fs::rename(corpus.at("p.yaml"), corpus.at("data/pipelines/p.yaml")).unwrap();
    trommel(&corpus.at("elsewhere"), &["run", "../data/pipelines/p.yaml", "--quiet"]).ok();
    assert!(corpus.at("data/out/manifest.json").exists() && corpus.at("data/pipelines/.trommel").exists());
    assert_eq!(fs::read_dir(corpus.at("elsewhere")).unwrap().count(), 0);
    trommel(&corpus.at("elsewhere"), &["verify", "../data/out"]).ok();

    let run = |more: &[&str]| trommel(corpus.path(), &[&["run", "data/pipelines/p.yaml", "--quiet", "--overwrite"], more].concat());
    run(&["--root", "data"]).ok();
    run(&["--root", "."]).ok();
    let whole = fs::read(corpus.at("data/out/manifest.json")).unwrap();
    for more in [
        &["--root", "data/pipelines"][..],
        &["--root", "data", "--set", "sink.parquet.uri=../../out"],
        &["--root", "data", "--set", "work.uri=/trommel_outside"],
        &["--root", "data", "--set", "sources.c.parquet.uri=../../elsewhere"],
    ] {
        let said = run(more).failed(2);
        assert!(said.contains("--root"), "{said}");
    }
    std::os::unix::fs::symlink(corpus.at("elsewhere"), corpus.at("data/link")).unwrap();
    let said = run(&["--root", "data", "--set", "sink.parquet.uri=../link/out"]).failed(2);
    assert!(said.contains("--root"), "{said}");
    assert_eq!(fs::read(corpus.at("data/out/manifest.json")).unwrap(), whole);
    assert_eq!(fs::read_dir(corpus.at("elsewhere")).unwrap().count(), 0);
}

#[test]
fn quiet_says_nothing_and_json_is_json() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("one text"), Some("one text"), None]);
    corpus.pipeline(&format!(
        "{EXACT}\n  - {{ id: v, embed: {{ model: builtin }} }}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.1 }} }}"
    ));
    let ran = trommel(corpus.path(), &["run", "p.yaml", "--quiet"]).ok();
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.contains("rows kept"), "{}", ran.stdout);
    let ran = trommel(corpus.path(), &["run", "p.yaml", "--overwrite"]).ok();
    assert!(ran.stderr.contains("scan") && !ran.stderr.contains('\u{1b}'), "no colours where there is no terminal: {}", ran.stderr);
    for arguments in [
        &["run", "p.yaml", "--overwrite"][..],
        &["plan", "p.yaml"],
        &["validate", "p.yaml"],
        &["verify", "out"],
        &["validate", "p.yaml", "--set", "stages.near.epsilon=x"],
    ] {
        let ran = trommel(corpus.path(), &[arguments, &["--format", "json"]].concat());
        assert_eq!(ran.code, if arguments.contains(&"--set") { 2 } else { 0 }, "{ran:?}");
        let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", ran.stdout));
        assert!(value.is_object(), "{value}");
    }
    fs::write(corpus.at("out/data/a.parquet"), "damaged").unwrap();
    let ran = trommel(corpus.path(), &["verify", "out", "--format", "json"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    serde_json::from_str::<Value>(&ran.stdout).unwrap();
}

#[test]
fn usage_errors_have_one_code() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]).pipeline(EXACT);
    fs::write(corpus.at("bad.yaml"), "version: 1\nname: [").unwrap();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["run"],
        &["run", "p.yaml", "--no-such-flag"],
        &["run", "missing.yaml"],
        &["validate", "missing.yaml"],
        &["plan", "missing.yaml"],
        &["run", "bad.yaml"],
        &["validate", "bad.yaml"],
        &["run", "p.yaml", "--memory", "8 bananas"],
        &["run", "p.yaml", "--memory", "1KiB"],
        &["run", "p.yaml", "--threads", "0"],
        &["run", "p.yaml", "--batch-rows", "0"],
        &["run", "p.yaml", "--set", "stages.exact"],
        &["run", "p.yaml", "--set", "stages.exact.colums=[text]"],
        &["run", "p.yaml", "--format", "xml"],
    ] {
        let ran = trommel(corpus.path(), arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{arguments:?}: {ran:?}");
    }
    assert_eq!(left(&corpus), ["bad.yaml", "in", "p.yaml"]);
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        trommel(corpus.path(), arguments).ok();
    }
    assert_eq!(trommel(corpus.path(), &["verify", "nowhere"]).code, 4);
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]).pipeline(EXACT);
    for arguments in [&["run", "p.yaml"][..], &["plan", "p.yaml"], &["verify", "out"], &["schema"], &["validate", "p.yaml"], &["--help"]] {
        let mut child = start(&corpus, arguments);
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(!said.contains("panicked") && status.code() == Some(0), "{arguments:?}: {status:?} {said}");
    }
    // Neither is one of standard error.
    let mut child = start(&corpus, &["run", "p.yaml", "--overwrite"]);
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    corpus.verify().ok();
    // A full one is.
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let output = Command::new(env!("CARGO_BIN_EXE_trommel")).arg("schema").stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{output:?}");
    }
}

/// What `plan` says of each phase: its name, tasks, and how many are cached.
fn phases(corpus: &Corpus, more: &[&str]) -> Vec<(String, u64, Option<u64>)> {
    let ran = trommel(corpus.path(), &[&["plan", "p.yaml", "--format", "json", "--quiet"], more].concat()).ok();
    let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
    let phases = plan["phases"].as_array().unwrap().iter();
    phases.map(|phase| (phase["kind"].as_str().unwrap().to_owned(), phase["tasks"].as_u64().unwrap(), phase["cached"].as_u64())).collect()
}

#[test]
fn plan_knows_what_a_run_has_left() {
    let corpus = Corpus::new();
    for shard in ["a", "b", "c"] {
        corpus.shard(&format!("{shard}.parquet"), &[Some("the same text"), Some(shard), Some("a text of its own")]);
    }
    corpus.pipeline(&format!(
        "{EXACT}\n  - {{ id: v, embed: {{ model: builtin }} }}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.1 }} }}"
    ));
    let wanted = |scan: u64, exact: Option<u64>, embed: Option<u64>, near: Option<u64>| {
        let phase = |kind: &str, tasks: u64, cached: Option<u64>| (kind.to_owned(), tasks, cached);
        let read = [phase("scan", 3, Some(scan)), phase("barrier", 1, exact), phase("feature", 3, embed), phase("barrier", 1, near)];
        read.into_iter().chain([phase("lineage", 3, Some(0)), phase("write", 3, Some(0))]).collect::<Vec<_>>()
    };
    assert_eq!(phases(&corpus, &[]), wanted(0, None, None, None));
    assert_eq!(left(&corpus), ["in", "p.yaml"], "a plan writes nothing");
    corpus.run(&[]).ok();
    assert_eq!(phases(&corpus, &[]), wanted(3, Some(1), Some(3), Some(1)));
    // A threshold: scans and vectors stay.
    assert_eq!(phases(&corpus, &["--set", "stages.near.epsilon=0.2"]), wanted(3, Some(1), Some(3), Some(0)));
    // Another normalisation: the scan is another, and nothing behind it is known.
    assert_eq!(phases(&corpus, &["--set", "stages.exact.normalize=[nfc]"]), wanted(0, None, None, None));
    // A new shard that duplicates nothing: the rest is known.
    corpus.shard("d.parquet", &[Some("wholly new words")]);
    let found = phases(&corpus, &[]);
    assert_eq!(found[..2], [("scan".to_owned(), 4, Some(3)), ("barrier".to_owned(), 1, None)]);
    corpus.run(&["--overwrite"]).ok();
    let mut files = Vec::new();
    list(&corpus.at("out"), &mut files);
    let record: Value = serde_json::from_slice(&fs::read(corpus.at("out/run.json")).unwrap()).unwrap();
    // Scan and vectors of the new shard, and two barriers.
    assert_eq!((record["tasks_cached"].as_u64(), record["tasks_run"].as_u64()), (Some(6), Some(4)), "{record}");
}
