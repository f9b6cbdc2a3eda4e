//! Every byte of a dataset and of a state changed in turn, and files cut: verification names the file each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trommel::engine::{Engine, EngineOptions};
use trommel::random::Sequence;
use trommel::state::store::Store;
use trommel::state::verify;

use super::scenario::{Scenario, draws};
use super::{figures, long};
use crate::fixture::{list, trommel};

/// A seeded place of every `step`.
fn places(bytes: usize, step: usize, draws: &mut Sequence) -> Vec<usize> {
    (0..bytes).step_by(step).map(|place| (place + draws.below(step as u64) as usize).min(bytes - 1)).collect()
}

/// Damages one file in each way in turn; `found` gives what verification says of it, or nothing where it says that all is well.
fn damage(file: &Path, step: usize, found: &dyn Fn() -> Option<String>) -> (usize, usize) {
    let whole = fs::read(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let mut draws = draws(name);
    let told = |case: &str| {
        let said = found().unwrap_or_else(|| panic!("{} {case}: not found", file.display()));
        assert!(said.contains(name), "{} {case}: {said}", file.display());
    };
    let flips = places(whole.len(), step, &mut draws);
    for place in &flips {
        let mut bytes = whole.clone();
        bytes[*place] ^= 1 << draws.below(8);
        fs::write(file, &bytes).unwrap();
        told(&format!("byte {place}"));
    }
    let cuts = places(whole.len(), step, &mut draws);
    for place in &cuts {
        fs::write(file, &whole[..*place]).unwrap();
        told(&format!("cut at {place}"));
    }
    fs::write(file, [&whole[..], b"\n"].concat()).unwrap();
    told("one byte more");
    fs::write(file, &whole).unwrap();
    assert_eq!(found(), None);
    (flips.len(), cuts.len())
}

#[test]
fn every_byte_of_a_dataset_is_verified() {
    let scenario = Scenario::replacement();
    let out = scenario.corpus.at("out");
    let spill = tempfile::tempdir().unwrap();
    let options = EngineOptions { threads: 1, memory_bytes: 1 << 30, batch_rows: 8192, spill_folder: spill.path().to_owned() };
    let engine = Arc::new(Engine::start(options).unwrap());
    // As `trommel verify` calls it.
    let found = || match engine.block_on(verify::verify(&engine, &out, false)) {
        Ok(found) if found.problem_count == 0 => None,
        Ok(found) => Some(found.problems.join("\n")),
        Err(error) => Some(error.report()),
    };
    let mut files = Vec::new();
    list(&out, &mut files);
    files.retain(|file| !file.ends_with("run.json"));
    let (mut flips, mut cuts) = (0, 0);
    for file in &files {
        let (flipped, cut) = damage(file, if long() { 1 } else { 5 }, &found);
        (flips, cuts) = (flips + flipped, cuts + cut);
    }
    figures("a byte is changed", "dataset", &format!("files {}, flips found and named {flips}, cuts {cuts}", files.len()));
}

#[test]
fn every_byte_of_a_state_is_verified() {
    let scenario = Scenario::second();
    let folder = scenario.corpus.at("state/of/it");
    let store = Store::new(&folder);
    let head = store.head().unwrap().unwrap().0;
    let segments = || match store.verify(&head) {
        Ok((problems, ..)) if problems.is_empty() => None,
        Ok((problems, ..)) => Some(problems.join("\n")),
        Err(error) => Some(error.report()),
    };
    let manifests = || store.versions().and_then(|all| all.into_iter().try_for_each(|version| store.read(version).map(drop))).err();
    let manifests = || manifests().map(|error| error.report());
    // What the command says of the same, less often: a process each time.
    let command = || {
        let ran = trommel(scenario.corpus.path(), &["state", "verify", "state/of/it"]);
        assert!([0, 4].contains(&ran.code), "{}", ran.stderr);
        (ran.code == 4).then(|| format!("{}{}", ran.stdout, ran.stderr))
    };
    let mut files: Vec<PathBuf> = Vec::new();
    list(&folder, &mut files);
    let (mut flips, mut cuts, mut told, step) = (0, 0, 0, if long() { 1 } else { 3 });
    for file in &files {
        let found: &dyn Fn() -> Option<String> = if file.parent().unwrap().ends_with("manifest") { &manifests } else { &segments };
        let (flipped, cut) = damage(file, step, found);
        told += damage(file, 120 * step, &command).0;
        (flips, cuts) = (flips + flipped, cuts + cut);
    }
    let numbers = format!("files {}, flips found and named {flips}, cuts {cuts}, by the command as well {told}", files.len());
    figures("a byte is changed", "state", &numbers);
}
