//! The promises about power losses. A process records what its storage does; a disk is built on which a name is durable only after its
//! folder was synced, and bytes only after their file was; from each point of the record, what such a disk may hold is put in place, and
//! the command that is given again must end as an undisturbed one does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;
use trommel::random::Sequence;

use super::scenario::{Scenario, Tree, difference, draws, made, some};
use super::{figures, long};
use crate::fixture::trommel;

/// Seeded choices of what un-synced operations left, for each point of the record.
const CHOICES: usize = 3;

/// A disk: what is durable of each file and folder, and what is not yet.
#[derive(Clone)]
struct Disk {
    nodes: Vec<Node>,
    /// The record's bytes, by hash.
    bytes: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
enum Node {
    File { durable: Option<Vec<u8>>, latest: Vec<u8> },
    Folder { durable: BTreeMap<String, usize>, pending: Vec<Change>, live: BTreeMap<String, usize> },
}

/// A change of the names in a folder, whole or not at all.
#[derive(Clone, Default)]
struct Change {
    gone: Option<String>,
    new: Option<(String, usize)>,
}

/// How the un-synced part of a disk comes out of a power loss.
enum Loss<'a> {
    /// Nothing that was not synced is there.
    All,
    /// All is there: the process was killed, the machine was not.
    Nothing,
    /// Some names, and of un-synced bytes all, none, a part, or zeros.
    Some(&'a mut Sequence),
}

impl Disk {
    /// One on which all of this is durable.
    fn of(tree: &Tree, record: &Path) -> Self {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let files = fs::read_dir(record).unwrap().map(|entry| entry.unwrap().path());
        let bytes = files.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
        let mut disk = Self { nodes: vec![Node::folder()], bytes };
        // A folder comes before what is in it, for it is the beginning of its path.
        for (path, bytes) in tree {
            let node = match bytes {
                Some(bytes) => Node::File { durable: Some(bytes.clone()), latest: bytes.clone() },
                None => Node::folder(),
            };
            let place = disk.add(node);
            disk.change(path, Some(place));
            disk.sync_folder(parent(path));
        }
        disk
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &str) -> usize {
        path.split('/').filter(|part| !part.is_empty()).fold(0, |place, part| match &self.nodes[place] {
            Node::Folder { live, .. } => *live.get(part).unwrap_or_else(|| panic!("the record names what is not there: {path}")),
            Node::File { .. } => panic!("the record names a file as a folder: {path}"),
        })
    }

    /// A name comes, or goes for `None`.
    fn change(&mut self, path: &str, node: Option<usize>) {
        let name = path.rsplit('/').next().unwrap().to_owned();
        let change = match node {
            Some(node) => Change { gone: None, new: Some((name, node)) },
            None => Change { gone: Some(name), new: None },
        };
        self.push(parent(path), change);
    }

    fn push(&mut self, folder: &str, change: Change) {
        let place = self.find(folder);
        let Node::Folder { pending, live, .. } = &mut self.nodes[place] else { panic!("{folder} is no folder") };
        change.apply(live);
        pending.push(change);
    }

    fn sync_folder(&mut self, path: &str) {
        let place = self.find(path);
        let Node::Folder { durable, pending, live } = &mut self.nodes[place] else { panic!("{path} is no folder") };
        durable.clone_from(live);
        pending.clear();
    }

    fn carry_out(&mut self, entry: &Entry) {
        let Entry { operation, path, to, bytes } = entry;
        let bytes = bytes.as_ref().map(|hash| self.bytes[hash].clone());
        match operation.as_str() {
            "create" => {
                let file = self.add(Node::File { durable: None, latest: Vec::new() });
                self.change(path, Some(file));
            }
            "folder" => {
                let folder = self.add(Node::folder());
                self.change(path, Some(folder));
            }
            "sync" => {
                let place = self.find(path);
                self.nodes[place] = Node::File { durable: bytes.clone(), latest: bytes.unwrap() };
            }
            "sync_dir" => self.sync_folder(path),
            "rename" => {
                assert_eq!(parent(path), parent(to), "a rename from folder to folder is not modelled");
                let place = self.find(path);
                if let (Node::File { latest, .. }, Some(bytes)) = (&mut self.nodes[place], bytes) {
                    *latest = bytes;
                }
                let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
                self.push(parent(path), Change { gone: Some(name(path)), new: Some((name(to), place)) });
            }
            "link" => {
                let place = self.find(path);
                self.change(to, Some(place));
            }
            "remove" => self.change(path, None),
            other => panic!("the record holds an operation that is none: {other}"),
        }
    }

    /// What is there after a power loss.
    fn after(&self, loss: &mut Loss<'_>) -> Tree {
        let mut tree = Tree::new();
        self.visit(0, "", loss, &mut tree);
        tree
    }

    fn visit(&self, place: usize, path: &str, loss: &mut Loss<'_>, tree: &mut Tree) {
        match &self.nodes[place] {
            Node::File { durable, latest } => {
                let whole = durable.as_ref() == Some(latest);
                let bytes = match loss {
                    Loss::All => durable.clone().unwrap_or_default(),
                    Loss::Nothing => latest.clone(),
                    Loss::Some(_) if whole => latest.clone(),
                    Loss::Some(draws) => match draws.below(4) {
                        0 => durable.clone().unwrap_or_default(),
                        1 => latest[..draws.below(latest.len() as u64 + 1) as usize].to_vec(),
                        2 => vec![0; latest.len()],
                        _ => latest.clone(),
                    },
                };
                tree.insert(path.to_owned(), Some(bytes));
            }
            Node::Folder { durable, pending, .. } => {
                let mut names = durable.clone();
                for change in pending {
                    let kept = match loss {
                        Loss::All => false,
                        Loss::Nothing => true,
                        Loss::Some(draws) => draws.below(2) == 1,
                    };
                    if kept {
                        change.apply(&mut names);
                    }
                }
                if !path.is_empty() {
                    tree.insert(path.to_owned(), None);
                }
                for (name, node) in names {
                    self.visit(node, &if path.is_empty() { name } else { format!("{path}/{name}") }, loss, tree);
                }
            }
        }
    }
}

impl Node {
    fn folder() -> Self {
        Self::Folder { durable: BTreeMap::new(), pending: Vec::new(), live: BTreeMap::new() }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.gone {
            names.remove(name);
        }
        if let Some((name, node)) = &self.new {
            names.insert(name.clone(), *node);
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A line of a record, with paths below the folder of the test.
struct Entry {
    operation: String,
    path: String,
    to: String,
    bytes: Option<String>,
}

fn entries(record: &Path, root: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(record.join("log")).unwrap();
    let entry = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        // The folder of the test is itself a name in another, which is synced with it.
        if line.get("path").is_some_and(|path| root.starts_with(path.as_str().unwrap()) && Path::new(path.as_str().unwrap()) != root) {
            return None;
        }
        let path = |key: &str| {
            let below =
                line.get(key).map(|path| Path::new(path.as_str().unwrap()).strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            below.unwrap_or_default()
        };
        Some(Entry {
            operation: line["operation"].as_str().unwrap().to_owned(),
            path: if line.get("path").is_some() { path("path") } else { path("from") },
            to: path("to"),
            bytes: line.get("bytes").and_then(Value::as_str).map(str::to_owned),
        })
    };
    text.lines().filter_map(entry).collect()
}

fn lose_power_everywhere(scenario: &Scenario, most: usize) {
    scenario.restore();
    let record = tempfile::tempdir().unwrap();
    scenario.disturbed(&format!("record@{}", record.path().display()), &[]).ran.ok();
    let entries = entries(record.path(), scenario.corpus.path());
    let mut disk = Disk::of(&scenario.before, record.path());
    let mut draws = draws(scenario.name);
    let (mut images, mut seen): (Vec<(String, Tree)>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
    for done in 0..=entries.len() {
        let choices = if long() { 4 * CHOICES } else { CHOICES };
        for choice in 0..choices + 2 {
            let mut loss = match choice {
                0 => Loss::All,
                1 => Loss::Nothing,
                _ => Loss::Some(&mut draws),
            };
            let image = disk.after(&mut loss);
            let name = format!("power lost after {done} of {} operations, choice {choice}", entries.len());
            // What was promised is there, whatever was not synced.
            if done == entries.len() && scenario.arguments[0] == "run" {
                scenario.put(&image);
                scenario.check_whole("the end");
                let made = made(scenario.corpus.path());
                assert!(made == scenario.wanted, "{}: lost after the end: {:#?}", scenario.name, difference(&made, &scenario.wanted));
            }
            if seen.insert(blake3::hash(format!("{image:?}").as_bytes()).to_string()) {
                images.push((name, image));
            }
        }
        if let Some(entry) = entries.get(done) {
            disk.carry_out(entry);
        }
    }
    let total = images.len();
    let images = some(images, most, &mut draws);
    let mut alike = 0;
    for (place, (case, image)) in images.iter().enumerate() {
        scenario.put(image);
        scenario.check_whole(case);
        scenario.resume(&["--threads", ["1", "2"][place % 2]], case);
        alike += 1;
    }
    let syncs = entries.iter().filter(|entry| entry.operation.starts_with("sync")).count();
    let numbers = format!("operations {}, syncs {syncs}, disk images {total}, tried {}, ended alike {alike}", entries.len(), images.len());
    figures("power is lost", scenario.name, &numbers);
}

/// A process is killed, the next one ends the work, and then the power is lost: what the first had not synced, the second was built on.
fn lose_power_after_a_kill(scenario: &Scenario, most: usize) {
    let operations = ["create", "sync", "sync_dir", "rename", "link", "folder"];
    let mut draws = draws(scenario.name);
    let all: Vec<(&str, u64)> = operations.iter().flat_map(|name| (1..=30).map(move |hit| (*name, hit))).collect();
    let (mut killed, mut alike) = (0, 0);
    for (name, hit) in some(all, most, &mut draws) {
        scenario.restore();
        let record = tempfile::tempdir().unwrap();
        let recorded = format!("record@{}", record.path().display());
        if !scenario.disturbed(&format!("{recorded},kill@{name}:{hit}"), &[]).killed {
            continue;
        }
        killed += 1;
        scenario.disturbed(&recorded, &[]).ran.ok();
        let mut disk = Disk::of(&scenario.before, record.path());
        for entry in entries(record.path(), scenario.corpus.path()) {
            disk.carry_out(&entry);
        }
        for mut loss in [Loss::All, Loss::Some(&mut draws)] {
            let case = format!("killed at {name}, hit {hit}; ended; power lost");
            scenario.put(&disk.after(&mut loss));
            scenario.check_whole(&case);
            scenario.resume(&[], &case);
            alike += 1;
        }
    }
    figures("killed, ended by the next process, then power is lost", scenario.name, &format!("kills {killed}, ended alike {alike}"));
    assert!(killed > 0);
}

#[test]
fn an_increment_that_a_second_process_ended_survives_a_power_loss() {
    lose_power_after_a_kill(&Scenario::first(), 16);
    lose_power_after_a_kill(&Scenario::second(), 16);
}

#[test]
fn a_replacement_that_a_second_process_ended_survives_a_power_loss() {
    lose_power_after_a_kill(&Scenario::replacement(), 16);
}

#[test]
fn a_first_increment_survives_a_power_loss() {
    lose_power_everywhere(&Scenario::first(), 50);
}

#[test]
fn a_second_increment_survives_a_power_loss() {
    lose_power_everywhere(&Scenario::second(), 50);
}

#[test]
fn a_replacement_survives_a_power_loss() {
    lose_power_everywhere(&Scenario::replacement(), 50);
}

#[test]
fn a_collection_survives_a_power_loss() {
    lose_power_everywhere(&Scenario::collection(), 30);
}

/// The record of a process is what it did: carried out on a model of the disk, it gives the disk.
#[test]
fn a_record_rebuilds_the_disk() {
    let scenario = Scenario::second();
    scenario.restore();
    let record = tempfile::tempdir().unwrap();
    scenario.disturbed(&format!("record@{}", record.path().display()), &[]).ran.ok();
    let mut disk = Disk::of(&scenario.before, record.path());
    for entry in entries(record.path(), scenario.corpus.path()) {
        disk.carry_out(&entry);
    }
    scenario.put(&disk.after(&mut Loss::Nothing));
    assert_eq!(made(scenario.corpus.path()), scenario.wanted);
    assert!(trommel(scenario.corpus.path(), &["run", "p.yaml", "--quiet"]).ok().stdout.contains("nothing new"));
}
