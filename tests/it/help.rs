//! The help of every command, as users read it: a change of it is seen in review.

use std::process::{Command, Stdio};

const COMMANDS: [&str; 12] = ["run", "validate", "plan", "verify", "why", "pairs", "init", "dedup", "state", "gc", "schema", "doctor"];

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trommel"));
    let output = command.args(arguments).env("COLUMNS", "100").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_help_with_examples() {
    let all = help(&["--help"]);
    insta::assert_snapshot!("trommel", all);
    let listed = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a long line is wrapped into stands further in.
    let names =
        listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let (mut found, mut known) = (names.collect::<Vec<&str>>(), COMMANDS.to_vec());
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
    for command in COMMANDS {
        let text = help(&[command, "--help"]);
        assert!(text.contains("Examples:\n  trommel "), "{command}: {text}");
        insta::assert_snapshot!(command, text);
    }
}

#[test]
fn examples_name_flags_that_there_are() {
    for command in COMMANDS {
        let text = help(&[command, "--help"]);
        let (options, examples) = text.split_once("Examples:").unwrap_or((&text, ""));
        for flag in examples.split_whitespace().filter(|word| word.starts_with("--")) {
            let flag = flag.trim_end_matches(['.', ',', ';', '`', ')']);
            assert!(options.contains(flag), "{command}: the examples name {flag}");
        }
    }
}
