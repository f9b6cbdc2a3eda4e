//! What changes a state beside runs: rows taken out on demand, files merged, everything decided anew; and any sequence of such steps
//! against a plain map.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::fixture::{Corpus, list, trommel};
use crate::reliability::{figures, long};

const EXACT: &str = "  - { id: exact, exact_dedup: { columns: [text], normalize: [lowercase] } }";
const NEAR: &str = "  - { id: exact, exact_dedup: { columns: [text] } }\n  - { id: near, minhash_dedup: { threshold: 0.5, bands: 32, rows: 2, shingle: { words: 2 } } }";

fn incremental(stages: &str) -> Corpus {
    let corpus = Corpus::new();
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    corpus.pipeline_with(source, stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
    corpus
}

/// Rows of these texts; the ids are the shard's name and the row's number.
fn shard(corpus: &Corpus, name: &str, texts: &[String]) {
    let rows: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    corpus.shard(&format!("{name}.parquet"), &rows);
}

fn pages(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|n| format!("page{n} has{n} the{n} number{n}")).collect()
}

fn json(corpus: &Corpus, arguments: &[&str]) -> Value {
    let ran = trommel(corpus.path(), &[arguments, &["--format", "json"]].concat()).ok();
    serde_json::from_str(&ran.stdout).unwrap()
}

fn forget(corpus: &Corpus, ids: &[&str], more: &[&str]) -> Value {
    fs::write(corpus.at("ids.txt"), ids.join("\n")).unwrap();
    json(corpus, &[&["state", "forget", "state", "--ids", "ids.txt"], more].concat())
}

/// Whether some file below a folder holds these bytes, packed or not.
fn holds(corpus: &Corpus, folder: &str, wanted: &[u8]) -> bool {
    let mut files = Vec::new();
    list(&corpus.at(folder), &mut files);
    files.iter().any(|file| {
        let bytes = fs::read(file).unwrap();
        bytes.windows(wanted.len()).any(|window| window == wanted)
    })
}

#[test]
fn forgotten_rows_match_nothing_and_are_listed_where_they_stand() {
    let corpus = incremental(NEAR);
    shard(&corpus, "1", &pages(0..20));
    corpus.run(&[]).ok();
    shard(&corpus, "2", &pages(5..25));
    corpus.run(&[]).ok();
    // Known pages are 0 to 19 of the first day and 20 to 24 of the second.
    let dry = forget(&corpus, &["1-7", "2-15", "2-0", "none"], &["--dry-run"]);
    let said = forget(&corpus, &["1-7", "2-15", "2-0", "none"], &[]);
    for field in ["forgotten", "standing", "dropped_for_their_sake", "not_in_the_state", "found_nowhere"] {
        assert_eq!(dry[field], said[field], "{field}");
    }
    assert_eq!((&dry["version"], &said["version"]), (&2.into(), &3.into()));
    assert_eq!(said["forgotten"], serde_json::json!({"exact": 2, "near": 2}));
    assert_eq!((&said["not_in_the_state"], &said["found_nowhere"]), (&serde_json::json!(["2-0"]), &serde_json::json!(["none"])));
    let ids =
        |field: &str| said[field].as_array().unwrap().iter().map(|row| row["doc_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids("standing"), ["1-7", "2-0", "2-15"]);
    assert_eq!(ids("dropped_for_their_sake"), ["2-2"]);
    // A second time there is nothing to do.
    let again = forget(&corpus, &["1-7", "2-15"], &[]);
    assert_eq!((&again["version"], &again["forgotten"]), (&3.into(), &serde_json::json!({})));
    // Pages 7 and 20 are new again; 7 is there twice, and its second copy falls for the first.
    shard(&corpus, "3", &[pages(5..25), pages(7..8)].concat());
    corpus.run(&[]).ok();
    assert_eq!(corpus.kept_of("out/4"), ["3-2", "3-15"]);
    trommel(corpus.path(), &["verify", "out/4"]).ok();
    trommel(corpus.path(), &["state", "verify", "state"]).ok();
    let history = trommel(corpus.path(), &["state", "history", "state"]).ok().stdout;
    assert!(history.contains("version 3: 4 rows were forgotten") && history.lines().count() == 4, "{history}");
}

#[test]
fn compaction_keeps_what_is_kept_and_removes_what_is_forgotten() {
    let corpus = incremental(NEAR);
    for day in 0..5 {
        shard(&corpus, &format!("document{day}"), &pages(day * 10..day * 10 + 15));
        corpus.run(&[]).ok();
    }
    let before = json(&corpus, &["state", "show", "state"]);
    forget(&corpus, &["document0-3", "document4-12"], &[]);
    let rows = |value: &Value| value["stages"].as_array().unwrap().iter().map(|stage| stage["rows"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(rows(&before), [55, 55]);
    assert!(holds(&corpus, "state/segments", b"document0-3"), "document ids of a small file are found in its bytes");
    let said = json(&corpus, &["state", "compact", "state"]);
    assert_eq!(said["version"], 7, "{said}");
    let after = json(&corpus, &["state", "show", "state"]);
    // Shards, and one file of rows a stage, and what the near stage compares them by.
    assert_eq!((rows(&after), &after["files"]), (vec![53, 53], &4.into()));
    let mut files = Vec::new();
    list(&corpus.at("state/segments"), &mut files);
    assert_eq!(files.len(), 4, "nothing else is left");
    trommel(corpus.path(), &["state", "verify", "state"]).ok();
    // Read as any tool reads them, no row of them is left.
    for id in ["document0-3", "document4-12"] {
        assert!(!holds(&corpus, "state", id.as_bytes()), "{id}");
    }
    let said = json(&corpus, &["state", "compact", "state"]);
    assert_eq!((&said["version"], &said["removed"]["files"]), (&7.into(), &0.into()));
    shard(&corpus, "document5", &pages(0..60));
    corpus.run(&[]).ok();
    assert_eq!(
        corpus.kept_of("out/8"),
        ["document5-3", "document5-52", "document5-55", "document5-56", "document5-57", "document5-58", "document5-59"]
    );
    let history = trommel(corpus.path(), &["state", "history", "state"]).ok().stdout;
    assert!(history.starts_with("version 1: shards 1, rows 15, kept 15, run"), "{history}");
}

#[test]
fn a_rebuild_decides_over_all_shards_anew() {
    let corpus = incremental(NEAR);
    for day in 0..3 {
        shard(&corpus, &format!("{day}"), &pages(day * 10..day * 10 + 15));
        corpus.run(&[]).ok();
    }
    // Another threshold: refused with the way out, which works.
    shard(&corpus, "3", &pages(30..45));
    let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
    let stages = NEAR.replace("threshold: 0.5", "threshold: 0.6");
    corpus.pipeline_with(source, &stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
    let said = corpus.run(&[]).failed(2);
    assert!(said.contains("trommel state rebuild"), "{said}");
    // Also where there is nothing new.
    fs::rename(corpus.at("in/3.parquet"), corpus.at("3.parquet")).unwrap();
    corpus.run(&[]).failed(2);
    fs::rename(corpus.at("3.parquet"), corpus.at("in/3.parquet")).unwrap();
    let dry = trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet", "--dry-run", "--format", "json"]).ok().stdout;
    assert!(dry.contains("\"dry_run\": true"), "{dry}");
    trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet"]).ok();
    let plain = corpus.at("out/4");
    corpus.pipeline_with(source, &stages, "parquet: { uri: whole }").run(&[]).ok();
    assert_eq!(corpus.kept_of("out/4"), corpus.kept_of("whole"));
    assert!(plain.exists());
    corpus.pipeline_with(source, &stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
    assert!(corpus.run(&[]).ok().stdout.contains("nothing new: the state knows all 4 shards (version 4)"));
    let history = trommel(corpus.path(), &["state", "history", "state"]).ok().stdout;
    assert!(history.contains("version 4: shards 4, rows 60, kept 45, anew"), "{history}");
    // A damaged file is mended by it, too.
    let mut files = Vec::new();
    list(&corpus.at("state/segments"), &mut files);
    for file in &files {
        fs::write(file, "damaged").unwrap();
    }
    shard(&corpus, "4", &pages(40..55));
    corpus.run(&[]).failed(4);
    // What cannot be used keeps all else from being removed.
    for file in &files {
        fs::write(file, "damage").unwrap();
    }
    for command in [&["state", "compact", "state"][..], &["gc", "p.yaml"]] {
        trommel(corpus.path(), command).failed(4);
    }
    trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet"]).ok();
    assert_eq!(corpus.kept_of("out/5").len(), 55);
    // So is a damaged manifest.
    fs::write(corpus.at("state/manifest/00000000000000000005.json"), "{").unwrap();
    let said = corpus.run(&[]).failed(4);
    assert!(said.contains("trommel state rebuild"), "{said}");
    trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet"]).ok();
    assert_eq!(corpus.kept_of("out/6").len(), 55);
    trommel(corpus.path(), &["state", "verify", "state"]).ok();
}

/// Lists as editors leave them; and what lies outside the root is neither read nor told.
#[test]
fn lists_of_ids_are_read_as_they_are() {
    let corpus = incremental(EXACT);
    shard(&corpus, "1", &pages(0..4));
    corpus.run(&[]).ok();
    fs::write(corpus.at("ids.txt"), "\u{feff}1-0\r\n\n1-1").unwrap();
    let said = json(&corpus, &["state", "forget", "state", "--ids", "ids.txt", "--dry-run"]);
    assert_eq!(said["forgotten"], serde_json::json!({"exact": 2}));
    fs::create_dir(corpus.at("inside")).unwrap();
    fs::rename(corpus.at("state"), corpus.at("inside/state")).unwrap();
    let outside =
        trommel(corpus.path(), &["--root", "inside", "state", "forget", "inside/state", "--ids", "ids.txt", "--dry-run"]).failed(2);
    assert!(outside.contains("--root"), "{outside}");
    fs::rename(corpus.at("ids.txt"), corpus.at("inside/ids.txt")).unwrap();
    let said = json(&corpus, &["--root", "inside", "state", "forget", "inside/state", "--ids", "inside/ids.txt", "--dry-run"]);
    assert_eq!((said["standing"].as_array().unwrap().len(), said["unread"].as_array().unwrap().len()), (0, 1), "{said}");
    // A folder that is no state stays as it is.
    trommel(corpus.path(), &["state", "forget", "in", "--ids", "inside/ids.txt"]).failed(4);
    assert_eq!(fs::read_dir(corpus.at("in")).unwrap().count(), 1);
}

#[test]
fn what_needs_a_state_says_so() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]).pipeline(EXACT);
    fs::write(corpus.at("ids.txt"), "a-0\n").unwrap();
    for (arguments, code, reason) in [
        (&["state", "forget", "state", "--ids", "ids.txt"][..], 4, "there is no state"),
        (&["state", "compact", "state"], 4, "there is no state"),
        (&["state", "rebuild", "p.yaml"], 2, "no state to rebuild"),
    ] {
        let said = trommel(corpus.path(), arguments).failed(code);
        assert!(said.contains(reason) && said.contains("hint:"), "{said}");
        assert!(!corpus.at("state").exists());
    }
    let corpus = incremental(EXACT);
    corpus.shard("a.parquet", &[Some("x")]);
    corpus.run(&[]).ok();
    fs::write(corpus.at("ids.txt"), "\n\r\n").unwrap();
    let said = trommel(corpus.path(), &["state", "forget", "state", "--ids", "ids.txt"]).failed(2);
    assert!(said.contains("empty") && said.contains("hint:"), "{said}");
    trommel(corpus.path(), &["state", "forget", "state", "--ids", "nowhere.txt"]).failed(6);
}

/// A state that a later release wrote is neither read nor written: not by a run, not by what changes it beside runs.
#[test]
fn a_later_format_is_refused() {
    let corpus = incremental(EXACT);
    shard(&corpus, "1", &pages(0..4));
    corpus.run(&[]).ok();
    let manifest = corpus.at("state/manifest/00000000000000000001.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let later = text.replacen("\"format\": 1,", "\"format\": 99,", 1);
    assert_ne!(text, later);
    fs::write(&manifest, later).unwrap();
    shard(&corpus, "2", &pages(2..6));
    fs::write(corpus.at("ids.txt"), "1-0").unwrap();
    for arguments in [
        &["run", "p.yaml", "--quiet"][..],
        &["plan", "p.yaml"],
        &["state", "show", "state"],
        &["state", "verify", "state"],
        &["state", "compact", "state"],
        &["state", "forget", "state", "--ids", "ids.txt"],
        &["gc", "p.yaml"],
    ] {
        let said = trommel(corpus.path(), arguments).failed(4);
        assert!(said.contains("a later release wrote this state format=`99`") && said.contains("hint:"), "{arguments:?}: {said}");
    }
    assert_eq!(fs::read_dir(corpus.at("state/manifest")).unwrap().count(), 1);
    assert!(!corpus.at("out/2").exists());
}

/// What runs that were killed wrote and nobody will ask for; beside what somebody else has there.
#[test]
fn gc_removes_datasets_that_were_never_committed() {
    let corpus = incremental(EXACT);
    shard(&corpus, "1", &pages(0..4));
    corpus.run(&[]).ok();
    for name in ["out/7.0123456789abcdef.part/data", "out/x.0123456789abcdef.part", "out/7.part"] {
        fs::create_dir_all(corpus.at(name)).unwrap();
    }
    fs::write(corpus.at("out/7.0123456789abcdef.part/data/a.parquet"), "half").unwrap();
    fs::write(corpus.at("out/.7.lock"), "").unwrap();
    let names = || {
        let mut names: Vec<String> =
            fs::read_dir(corpus.at("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let said = trommel(corpus.path(), &["gc", "p.yaml", "--dry-run"]).ok().stdout;
    assert!(said.contains("a.parquet") && names().contains(&"7.0123456789abcdef.part".to_owned()), "{said}");
    trommel(corpus.path(), &["gc", "p.yaml"]).ok();
    assert_eq!(names(), ["1", "7.part", "x.0123456789abcdef.part"]);
    trommel(corpus.path(), &["verify", "out/1"]).ok();
    // One that is committed and has no name yet stays, and gets it.
    let run = corpus.manifest_of("out/1")["run_id"].as_str().unwrap()[..16].to_owned();
    fs::rename(corpus.at("out/1"), corpus.at(&format!("out/1.{run}.part"))).unwrap();
    trommel(corpus.path(), &["gc", "p.yaml"]).ok();
    corpus.run(&[]).ok();
    trommel(corpus.path(), &["verify", "out/1"]).ok();
}

/// A step in the life of a state.
#[derive(Debug, Clone)]
enum Step {
    /// A shard of these texts comes, and a run with so many threads and rows a batch.
    Add(Vec<u8>, u8, u16),
    /// The same, killed after so many milliseconds, then run again.
    Killed(Vec<u8>, u64),
    /// A run with nothing new.
    Again,
    /// A shard comes once more under another name.
    Copy(u8),
    Gc,
    /// Documents, by the place of what is kept.
    Forget(Vec<u8>),
    Compact,
    Rebuild,
    /// The work folder is lost.
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let texts = || prop::collection::vec(0_u8..25, 1..8);
    let step = prop_oneof![
        5 => (texts(), 1_u8..4, 1_u16..50).prop_map(|(texts, threads, batch)| Step::Add(texts, threads, batch)),
        2 => (texts(), 0_u64..120).prop_map(|(texts, delay)| Step::Killed(texts, delay)),
        1 => Just(Step::Again),
        1 => any::<u8>().prop_map(Step::Copy),
        1 => Just(Step::Gc),
        2 => prop::collection::vec(any::<u8>(), 1..4).prop_map(Step::Forget),
        1 => Just(Step::Compact),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 1..steps_in_a_sequence())
}

/// More where the long loops are asked for.
fn steps_in_a_sequence() -> usize {
    if long() { 30 } else { 12 }
}

/// The state as anyone would write it: of each text the document that stands for it.
#[derive(Debug, Default)]
struct Model {
    known: BTreeMap<String, String>,
    shards: Vec<Vec<String>>,
    version: u64,
}

impl Model {
    /// The documents kept, and for each dropped one the one that it names.
    fn add(&mut self, shard: usize) -> (Vec<String>, BTreeMap<String, String>) {
        let (mut kept, mut dropped) = (Vec::new(), BTreeMap::new());
        for (row, text) in self.shards[shard].iter().enumerate() {
            let id = format!("{shard:03}-{row}");
            if let Some(of) = self.known.get(&text.to_lowercase()) {
                dropped.insert(id, of.clone());
            } else {
                self.known.insert(text.to_lowercase(), id.clone());
                kept.push(id);
            }
        }
        (kept, dropped)
    }
}

fn check(corpus: &Corpus, version: u64, (kept, dropped): (Vec<String>, BTreeMap<String, String>)) {
    let out = format!("out/{version}");
    assert_eq!(corpus.kept_of(&out), kept, "version {version}");
    let named = corpus.lineage_of(&out).into_iter().filter(|row| row.decision == "drop");
    let named: BTreeMap<String, String> = named.map(|row| (row.doc_id.unwrap(), row.kept_doc_id.unwrap())).collect();
    assert_eq!(named, dropped, "version {version}");
    trommel(corpus.path(), &["verify", &out]).ok();
}

fn live(sequence: &[Step]) {
    let corpus = incremental(EXACT);
    let mut model = Model::default();
    fs::create_dir_all(corpus.at("in")).unwrap();
    for step in sequence {
        match step {
            Step::Add(texts, ..) | Step::Killed(texts, _) => {
                let case = |n: usize, text: &u8| if n.is_multiple_of(2) { format!("Text {text}") } else { format!("text {text}") };
                let texts: Vec<String> = texts.iter().enumerate().map(|(n, text)| case(n, text)).collect();
                let name = model.shards.len();
                // The number of the shard is in a text of its own: no shard is another's copy.
                let texts = [texts, vec![format!("shard {name}")]].concat();
                shard(&corpus, &format!("{name:03}"), &texts);
                model.shards.push(texts);
                if let Step::Killed(_, delay) = step {
                    let mut child = Command::new(env!("CARGO_BIN_EXE_trommel"))
                        .args(["run", "p.yaml", "--quiet"])
                        .current_dir(corpus.path())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap();
                    sleep(Duration::from_millis(*delay));
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
                match step {
                    Step::Add(_, threads, batch) => {
                        corpus.run(&["--threads", &threads.to_string(), "--batch-rows", &batch.to_string()]).ok()
                    }
                    _ => corpus.run(&[]).ok(),
                };
                model.version += 1;
                let wanted = model.add(name);
                check(&corpus, model.version, wanted);
            }
            Step::Again => {
                if model.version > 0 {
                    assert!(corpus.run(&[]).ok().stdout.contains("nothing new"));
                }
            }
            Step::Copy(which) => {
                if let Some(of) = (*which as usize).checked_rem(model.shards.len()) {
                    // The same bytes: the shard is known whatever it is called.
                    fs::copy(corpus.at(&format!("in/{of:03}.parquet")), corpus.at("in/zzz.parquet")).unwrap();
                    assert!(corpus.run(&[]).ok().stdout.contains("nothing new"));
                    fs::remove_file(corpus.at("in/zzz.parquet")).unwrap();
                }
            }
            Step::Gc => drop(trommel(corpus.path(), &["gc", "p.yaml"]).ok()),
            Step::Forget(places) => {
                if model.known.is_empty() {
                    continue;
                }
                let ids: Vec<String> =
                    places.iter().map(|place| model.known.values().nth(*place as usize % model.known.len()).unwrap().clone()).collect();
                model.known.retain(|_, id| !ids.contains(id));
                forget(&corpus, &ids.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
                model.version += 1;
            }
            Step::Compact => {
                if model.version > 0 {
                    model.version = json(&corpus, &["state", "compact", "state"])["version"].as_u64().unwrap();
                }
            }
            Step::Rebuild => {
                if model.version > 0 && !model.shards.is_empty() {
                    trommel(corpus.path(), &["state", "rebuild", "p.yaml", "--quiet"]).ok();
                    model.version += 1;
                    model.known.clear();
                    let (mut kept, mut dropped) = (Vec::new(), BTreeMap::new());
                    for shard in 0..model.shards.len() {
                        let (more, fell) = model.add(shard);
                        kept.extend(more);
                        dropped.extend(fell);
                    }
                    check(&corpus, model.version, (kept, dropped));
                }
            }
            Step::Clear => fs::remove_dir_all(corpus.at(".trommel")).unwrap_or_default(),
        }
        if model.version > 0 {
            trommel(corpus.path(), &["state", "verify", "state"]).ok();
            let shown = json(&corpus, &["state", "show", "state"]);
            assert_eq!(
                (shown["version"].as_u64(), shown["stages"][0]["rows"].as_u64()),
                (Some(model.version), Some(model.known.len() as u64))
            );
        }
    }
}

/// Sequences of steps, each step checked, against a plain map.
#[test]
fn any_life_of_a_state_equals_a_plain_map() {
    let cases = if long() { 200 } else { 12 };
    let (lived, taken) = (Cell::new(0_u32), Cell::new(0_usize));
    let mut runner = TestRunner::new(ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(cases) });
    let result = runner.run(&steps(), |sequence| {
        live(&sequence);
        lived.set(lived.get() + 1);
        taken.set(taken.get() + sequence.len());
        Ok(())
    });
    result.unwrap();
    figures(
        "any life of a state equals a plain map (H5)",
        "sequences of steps",
        &format!("{} sequences, {} steps, 0 violations", lived.get(), taken.get()),
    );
}
