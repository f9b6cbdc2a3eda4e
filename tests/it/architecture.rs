//! The floors and doors of the house, held by a test that names file and line.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first. Modules of the floor of algorithms do not import each other; on the other floors, those to the left
/// are below those to the right.
const FLOORS: &[&[&str]] = &[
    &["error", "limits", "ids", "diagnostic", "random", "fault", "declare"],
    &["storage", "telemetry", "engine"],
    &["text", "sketch", "embed", "vector", "cluster", "select"],
    &["dataset", "state"],
    &["stages"],
    &["config", "plan"],
    &["run"],
    &["cli"],
];
const ALGORITHMS: usize = 2;

/// An outside crate or module, and the folder (or file) that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("datafusion", &["src/engine/"]),
    ("ort", &["src/embed/runtime.rs"]),
    ("tract_onnx", &["src/embed/tract.rs"]),
    ("tokenizers", &["src/embed/"]),
    ("hnsw_rs", &["src/vector/hnsw.rs"]),
    ("serde_saphyr", &["src/config/load.rs"]),
    ("indicatif", &["src/telemetry/"]),
    ("clap", &["src/cli/"]),
    ("std::fs", &["src/storage/"]),
    ("std::env", &["src/cli/", "src/embed/library.rs", "src/config/model.rs", "src/storage/"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines of a file before its unit tests, comments left out, numbered from 1.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let until = text.find("#[cfg(test)]\nmod tests {").or_else(|| text.find("#[cfg(test)]\n#[")).unwrap_or(text.len());
    let lines = text[..until].lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(index, line)| (index + 1, line.to_owned())).collect()
}

fn floor_of(module: &str) -> Option<(usize, usize)> {
    FLOORS.iter().enumerate().find_map(|(floor, modules)| Some((floor, modules.iter().position(|name| *name == module)?)))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<(String, Vec<(usize, String)>)> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    found
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| (path.strip_prefix(root()).unwrap().display().to_string(), code(&path)))
        .collect()
}

/// The modules that a line names behind `crate::`, groups in braces included.
fn named(line: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if at > 0 && line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let names = rest.strip_prefix('{').map_or_else(|| vec![rest], |group| group.split(',').collect());
        for name in names {
            let name: String = name.trim().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            modules.push(name);
        }
    }
    modules
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (file, lines) in files() {
        let module = file.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        let Some((floor, place)) = floor_of(&module) else {
            assert!(["lib", "main"].contains(&module.as_str()), "{file}: a module that stands on no floor");
            continue;
        };
        for (number, line) in lines {
            for name in named(&line) {
                let Some((other_floor, other_place)) = floor_of(&name) else { continue };
                let same = name == module;
                let allowed = same || other_floor < floor || (other_floor == floor && floor != ALGORITHMS && other_place < place);
                if !allowed {
                    wrong.push(format!("{file}:{number}: `{module}` (floor {floor}) names `{name}` (floor {other_floor})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn outside_things_are_named_behind_their_door_only() {
    let mut wrong = Vec::new();
    for (file, lines) in files() {
        for (number, line) in lines {
            for (name, doors) in DOORS {
                let needle = format!("{name}::");
                let used = line
                    .match_indices(&needle)
                    .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':'))
                    || line.trim() == format!("use {name};");
                if used && !doors.iter().any(|door| file.starts_with(door)) {
                    wrong.push(format!("{file}:{number}: `{name}` belongs behind {}", doors.join(" or ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "doors crossed:\n{}", wrong.join("\n"));
}

/// A hash join holds one side in memory whatever the budget is: barriers group by sorting, which spills.
#[test]
fn barriers_sort_and_never_join_by_hash() {
    for (file, lines) in files() {
        for (number, line) in lines {
            assert!(!line.contains("HashJoin"), "{file}:{number}: {line}");
        }
    }
}

#[test]
fn the_top_level_holds_what_the_design_names() {
    let allowed = ["Cargo.toml", "Cargo.lock", "src", "pipelines", "tests", "sample_data", "README.md", "LICENSE", "CHANGELOG.md"];
    let built = ["target", "out", "state", "proptest-regressions"];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()) || built.contains(&name.as_str()), "top level holds `{name}`");
    }
}

#[test]
fn no_file_is_a_drawer() {
    for (file, _) in files() {
        let stem = Path::new(&file).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            !["utils", "util", "helpers", "helper", "common", "misc", "manager"].contains(&stem.as_str()),
            "{file}: name it for its one idea"
        );
    }
}

#[test]
fn the_reader_of_imports_sees_groups_and_not_other_names() {
    assert_eq!(named("use crate::{ids, error::Result};"), ["ids", "error"]);
    assert_eq!(named("    crate::run::runner::run(&x)"), ["run"]);
    assert!(named("use my_crate::ids;").is_empty());
}
