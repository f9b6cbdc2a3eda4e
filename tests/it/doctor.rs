//! `trommel doctor`: what it says whatever the machine has.

use serde_json::Value;

use crate::fixture::{Corpus, trommel};

#[test]
fn it_says_what_the_machine_has() {
    let corpus = Corpus::new();
    let json: Value = serde_json::from_str(&trommel(corpus.path(), &["doctor", "--format", "json", "--threads", "3"]).ok().stdout).unwrap();
    assert_eq!(
        (&json["version"], &json["threads"], &json["builtin_model"]),
        (&env!("CARGO_PKG_VERSION").into(), &3.into(), &"tract".into())
    );
    assert!(json["memory_bytes"].as_u64().unwrap() > json["budget_bytes"].as_u64().unwrap());
    let library = &json["onnxruntime"];
    match library["status"].as_str().unwrap() {
        "found" => assert!(library["providers"].as_array().unwrap().contains(&"cpu".into()), "{library}"),
        _ => assert!(library["mend"].as_str().unwrap().contains("pip install onnxruntime"), "{library}"),
    }
    let text = trommel(corpus.path(), &["doctor"]).ok().stdout;
    for line in ["trommel  ", "cores  ", "memory  ", "free disk  ", "open files  ", "built-in model  ", "ONNX Runtime  ", "NVIDIA driver  "]
    {
        assert_eq!(text.lines().filter(|found| found.starts_with(line)).count(), 1, "{line}: {text}");
    }
}

#[test]
fn a_library_that_is_not_there_is_a_finding_and_no_failure() {
    let corpus = Corpus::new();
    let text = trommel(corpus.path(), &["doctor", "--onnxruntime", "nowhere.so"]).ok().stdout;
    assert!(text.contains("there is no ONNX Runtime library") && text.contains("to use model files:"), "{text}");
}
