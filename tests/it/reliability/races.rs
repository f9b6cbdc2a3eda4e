//! Writers of one state whose locks hold nobody, as on a file system that has none: the version that is created first counts, whoever
//! stood still or collected garbage meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::scenario::{Scenario, made};
use super::{figures, long};
use crate::fixture::{texts, trommel, write_shard};

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

/// Starts a run that stands still at a point, and waits until it does.
fn stopped_at(scenario: &Scenario, point: &str, more: &[&str]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_trommel"))
        .args(&scenario.arguments)
        .args(more)
        .env("TROMMEL_FAULT", format!("stop@{point}:1"))
        .current_dir(scenario.corpus.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (_, status) = waitpid(Some(pid(&child)), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "the run ended before {point}: {status:?}");
    // Its locks hold nobody any longer.
    for lock in ["state/of/it/.lock", "out/.2.lock", ".trommel/t/.lock"] {
        let _ = fs::remove_file(scenario.corpus.at(lock)).is_ok();
    }
    child
}

/// Lets a run that stands still go on to its end: exit code, and what it said.
fn go_on(child: Child) -> (i32, String) {
    kill_process(pid(&child), Signal::CONT).unwrap();
    ended(child)
}

fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_stalled_writer_cannot_publish_over_a_newer_history() {
    let scenario = Scenario::second();
    let mut interleavings = 0;
    for point in ["commit.before", "link"] {
        for same_work in [true, false] {
            for collect in [false, true] {
                let case = format!("{point}, same work {same_work}, gc {collect}");
                scenario.restore();
                let third = scenario.corpus.at("in/3.parquet");
                let stalled = stopped_at(&scenario, point, &[]);
                if !same_work {
                    write_shard(&third, &texts("3-", &[Some("something entirely new")]), 1);
                }
                scenario.corpus.run(&["--threads", "1"]).ok();
                if collect {
                    trommel(scenario.corpus.path(), &["gc", "p.yaml"]).ok();
                }
                let newer = made(scenario.corpus.path());
                let (code, said) = go_on(stalled);
                assert_eq!(code, 5, "{case}: {said}");
                assert!(said.contains("another run has made this version"), "{case}: {said}");
                scenario.check_whole(&case);
                // Of its own, segments may lie there, which no version lists; what it had written of its dataset is gone.
                let whole = |path: &&String| !path.contains(".part");
                let segment = |path: &&String| whole(path) && !path.contains("/segments/");
                let after = made(scenario.corpus.path());
                assert!(newer.keys().filter(whole).all(|path| after.get(path) == newer.get(path)), "{case}");
                let others = |all: &BTreeMap<String, String>| all.keys().filter(segment).cloned().collect::<BTreeSet<_>>();
                assert_eq!(others(&after), others(&newer), "{case}");
                assert!(after.keys().all(|path| whole(&path)), "{case}: {:?}", after.keys());
                trommel(scenario.corpus.path(), &["gc", "p.yaml"]).ok();
                scenario.check_whole(&case);
                assert!(scenario.corpus.run(&[]).ok().stdout.contains("nothing new"), "{case}");
                let _ = fs::remove_file(third).is_ok();
                interleavings += 1;
            }
        }
    }
    figures(
        "a stalled writer goes on",
        "locks removed, with gc and without",
        &format!("interleavings {interleavings}, each refused with code 5"),
    );
}

/// Two to eight writers that all stand before the commit, each with another dataset, go on at once.
#[test]
fn of_many_writers_without_locks_one_commits() {
    let scenario = Scenario::second();
    let rounds = if long() { 100 } else { 8 };
    let mut won = 0;
    for round in 0..rounds {
        scenario.restore();
        let limits: Vec<String> = (0..2 + round % 7).map(|writer| format!("stages.long.where=length(text) > {}", 3 + writer)).collect();
        let writers: Vec<Child> = limits.iter().map(|limit| stopped_at(&scenario, "commit.before", &["--set", limit])).collect();
        for writer in &writers {
            kill_process(pid(writer), Signal::CONT).unwrap();
        }
        let ended: Vec<(i32, String)> = writers.into_iter().map(ended).collect();
        let winners = ended.iter().filter(|(code, _)| *code == 0).count();
        assert!(winners == 1 && ended.iter().all(|(code, _)| [0, 5].contains(code)), "round {round}: {ended:?}");
        scenario.check_whole(&format!("round {round}"));
        assert!(scenario.corpus.at("out/2").is_dir(), "round {round}");
        let left: Vec<String> = made(scenario.corpus.path()).into_keys().filter(|path| path.contains(".part")).collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
        assert!(scenario.corpus.run(&[]).ok().stdout.contains("nothing new"), "round {round}");
        won += winners;
    }
    figures("one of many commits", "2 to 8 processes at the commit, locks removed", &format!("rounds {rounds}, with one winner {won}"));
}
