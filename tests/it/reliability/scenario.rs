//! What the tests of crashes, failing storage and power losses disturb: a piece of work on a folder that can be put back as it was, and
//! what an undisturbed process makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use trommel::random::{Random, Sequence};

use super::long;
use crate::fixture::{Corpus, Ran, texts, trommel, write_shard};

/// Stages that keep rows in a state: row-local, exact, near.
pub(crate) const STAGES: &str = "  - { id: long, filter: { where: \"length(text) > 3\" } }\n  - { id: exact, exact_dedup: { columns: [text], normalize: [lowercase] } }\n  - { id: near, minhash_dedup: { threshold: 0.5, bands: 32, rows: 2, shingle: { words: 2 } } }";

/// Draws that differ from test to test and not from run to run.
pub(crate) fn draws(of: &str) -> Sequence {
    Random::new(20, "reliability").sequence(of.as_bytes())
}

/// A seeded part of `all` in its order, at most `most` of them; all where the long loops are asked for.
pub(crate) fn some<T>(mut all: Vec<T>, most: usize, draws: &mut Sequence) -> Vec<T> {
    while !long() && all.len() > most {
        all.remove(draws.below(all.len() as u64) as usize);
    }
    all
}

/// Files with their bytes and folders (without), by path.
pub(crate) type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// A piece of work, and what it makes.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub corpus: Corpus,
    /// The command that does the work, and does it again.
    pub arguments: Vec<&'static str>,
    /// What was there before, the inputs apart.
    pub before: Tree,
    /// What is there afterwards.
    pub wanted: BTreeMap<String, String>,
}

/// A process that may have been killed.
pub(crate) struct Ended {
    pub killed: bool,
    pub ran: Ran,
}

/// Pages of which ten in fifty are in the day before as well.
fn pages(corpus: &Corpus, path: &str, from: usize) {
    let pages: Vec<String> = (from..from + 40).map(|n| format!("page{0} has{0} the{0} number{0}", n % 50)).collect();
    let rows: Vec<Option<&str>> = pages.iter().map(|page| Some(page.as_str())).collect();
    write_shard(&corpus.at(path), &texts(&format!("{from}-"), &rows), 9);
}

impl Scenario {
    fn of(name: &'static str, corpus: Corpus, arguments: Vec<&'static str>) -> Self {
        let before = tree(corpus.path());
        trommel(corpus.path(), &arguments).ok();
        let wanted = made(corpus.path());
        let scenario = Self { name, corpus, arguments, before, wanted };
        scenario.verify();
        scenario
    }

    /// The first increment: there is neither a state nor a folder of outputs yet. Two sources, one with a folder in it.
    pub(crate) fn first() -> Self {
        let corpus = Corpus::new();
        pages(&corpus, "in/a/day=1/1.parquet", 0);
        pages(&corpus, "in/b/2.parquet", 30);
        let sources = "  a: { parquet: { uri: \"in/a/\", text: text, id: id } }\n  b: { parquet: { uri: \"in/b/\", text: text, id: id } }";
        let stages = STAGES.replacen("id: long,", "id: long, input: [a, b],", 1);
        corpus.pipeline_with(sources, &stages, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state/of/it");
        Self::of("first increment", corpus, vec!["run", "p.yaml", "--quiet"])
    }

    /// The second increment.
    pub(crate) fn second() -> Self {
        let corpus = Corpus::new();
        let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
        corpus.pipeline_with(source, STAGES, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state/of/it");
        pages(&corpus, "in/1.parquet", 0);
        corpus.run(&[]).ok();
        pages(&corpus, "in/2.parquet", 30);
        Self::of("second increment", corpus, vec!["run", "p.yaml", "--quiet"])
    }

    /// An increment whose files are larger than what a writer gathers before it writes.
    pub(crate) fn large() -> Self {
        let corpus = Corpus::new();
        let mut draws = draws("large");
        let mut word = || (0..6).map(|_| char::from(b'a' + draws.below(26) as u8)).collect::<String>();
        let rows: Vec<String> = (0..6_000).map(|_| (0..60).map(|_| word()).collect::<Vec<_>>().join(" ")).collect();
        let rows: Vec<Option<&str>> = rows.iter().map(|row| Some(row.as_str())).collect();
        write_shard(&corpus.at("in/1.parquet"), &texts("large-", &rows), 3_000);
        let source = "  c: { parquet: { uri: \"in/\", text: text, id: id } }";
        corpus.pipeline_with(source, STAGES, "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state/of/it");
        Self::of("large increment", corpus, vec!["run", "p.yaml", "--quiet"])
    }

    /// A dataset that takes the place of another, without a state.
    pub(crate) fn replacement() -> Self {
        let corpus = Corpus::new();
        pages(&corpus, "in/day=1/1.parquet", 0);
        pages(&corpus, "in/2.parquet", 30);
        corpus.pipeline(STAGES).run(&["--set", "stages.long.where=length(text) > 22"]).ok();
        Self::of("replacement", corpus, vec!["run", "p.yaml", "--quiet", "--overwrite"])
    }

    /// Garbage that is collected: artefacts of another plan, files in the state that no version lists.
    pub(crate) fn collection() -> Self {
        let Self { corpus, .. } = Self::second();
        let state = corpus.at("state/of/it");
        corpus.run(&["--dry-run", "--set", "stages.long.where=length(text) > 22"]).ok();
        for name in ["segments/0123.parquet", "segments/.segment.parquet.1.0.tmp", "manifest/.00000000000000000003.json.1.0.tmp"] {
            fs::write(state.join(name), "left by a killed run").unwrap();
        }
        Self::of("collection", corpus, vec!["gc", "p.yaml"])
    }

    /// Puts everything but the inputs back as it was before.
    pub(crate) fn restore(&self) {
        self.put(&self.before);
    }

    /// Makes everything but the inputs be this.
    pub(crate) fn put(&self, tree: &Tree) {
        for entry in fs::read_dir(self.corpus.path()).unwrap() {
            let path = entry.unwrap().path();
            if ["in", "p.yaml"].contains(&path.file_name().unwrap().to_str().unwrap()) {
                continue;
            }
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        for (path, bytes) in tree {
            match bytes {
                Some(bytes) => fs::write(self.corpus.at(path), bytes).unwrap(),
                None => fs::create_dir(self.corpus.at(path)).unwrap(),
            }
        }
    }

    /// Does the work with a fault.
    pub(crate) fn disturbed(&self, fault: &str, more: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trommel"));
        command.args(&self.arguments).args(self.more(more)).current_dir(self.corpus.path()).env("TROMMEL_FAULT", fault);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) };
        Ended { killed: output.status.signal() == Some(9), ran }
    }

    /// Only a run has options of the machine.
    fn more<'a>(&self, more: &'a [&'a str]) -> &'a [&'a str] {
        if self.arguments.first() == Some(&"run") { more } else { &[] }
    }

    /// Does the work, with other options, to its end, and finds that all is as an undisturbed process leaves it.
    pub(crate) fn resume(&self, more: &[&str], case: &str) {
        let ran = trommel(self.corpus.path(), &[&self.arguments[..], self.more(more)].concat());
        assert_eq!(ran.code, 0, "{}: {case}: {}", self.name, ran.stderr);
        let made = made(self.corpus.path());
        assert!(made == self.wanted, "{}: {case}: other than undisturbed: {:#?}", self.name, difference(&made, &self.wanted));
        self.verify();
    }

    /// What is there in the middle of things is whole: each dataset under its name, and the state.
    pub(crate) fn check_whole(&self, case: &str) {
        if self.corpus.at("state/of/it/manifest").is_dir() && fs::read_dir(self.corpus.at("state/of/it/manifest")).unwrap().count() > 0 {
            let ran = trommel(self.corpus.path(), &["state", "verify", "state/of/it"]);
            assert!(ran.code == 0 || ran.stderr.contains("there is no state"), "{}: {case}: {} {}", self.name, ran.stdout, ran.stderr);
        }
        for out in ["out/1", "out/2"] {
            if self.corpus.at(out).is_dir() {
                let ran = trommel(self.corpus.path(), &["verify", out]);
                assert_eq!(ran.code, 0, "{}: {case}: {} {}", self.name, ran.stdout, ran.stderr);
            }
        }
        if self.name == "replacement" {
            // A command that meets a replacement which was cut off carries it out or takes it back first.
            let ran = trommel(self.corpus.path(), &["verify", "out"]);
            assert_eq!(ran.code, 0, "{}: {case}: {} {}", self.name, ran.stdout, ran.stderr);
            let manifest = fs::read(self.corpus.at("out/manifest.json")).unwrap();
            let is_old = self.before.get("out/manifest.json") == Some(&Some(manifest.clone()));
            let is_new = self.wanted.get("out/manifest.json") == Some(&blake3::hash(&manifest).to_string());
            assert!(is_old || is_new, "{}: {case}", self.name);
        }
    }

    fn verify(&self) {
        for out in ["out", "out/1", "out/2"] {
            if self.corpus.at(out).join("manifest.json").exists() {
                trommel(self.corpus.path(), &["verify", out]).ok();
            }
        }
        if self.corpus.at("state").exists() {
            trommel(self.corpus.path(), &["state", "verify", "state/of/it"]).ok();
        }
    }
}

/// What only one of two results has, `+` and `-`.
pub(crate) fn difference(made: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<String> {
    let only = |sign, of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let lines = of.iter().filter(|(path, hash)| other.get(*path) != Some(hash)).map(|(path, hash)| format!("{sign} {path} {hash}"));
        lines.collect::<Vec<_>>()
    };
    [only('+', made, wanted), only('-', wanted, made)].concat()
}

/// All that is in a folder, `in` and the pipeline file apart.
fn tree(root: &Path) -> Tree {
    fn visit(folder: &Path, prefix: &str, found: &mut Tree) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if name == "in" || name == "p.yaml" {
                continue;
            }
            if path.is_dir() {
                visit(&path, &format!("{name}/"), found);
                found.insert(name, None);
            } else {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = Tree::new();
    visit(root, "", &mut found);
    found
}

/// What counts as the result: outputs and state by name and hash. The work folder, the circumstances of a run, what tells two attempts
/// at one version apart, and hidden files that a killed process had not given their names are no part of it.
pub(crate) fn made(root: &Path) -> BTreeMap<String, String> {
    let mut made = BTreeMap::new();
    for (path, bytes) in tree(root) {
        let name = path.rsplit('/').next().unwrap();
        if path.starts_with(".trommel") || name == "run.json" || name.starts_with('.') {
            continue;
        }
        let Some(bytes) = bytes else {
            made.insert(path, "folder".into());
            continue;
        };
        let hash = if path.starts_with("state/of/it/manifest/") {
            let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
            for varying in ["commit_id", "base", "checksum"] {
                manifest.as_object_mut().unwrap().remove(varying);
            }
            manifest.to_string()
        } else {
            blake3::hash(&bytes).to_string()
        };
        made.insert(path, hash);
    }
    made
}
