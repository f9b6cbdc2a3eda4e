//! Vectors of a real transformer on ONNX Runtime, beside those that Python's onnxruntime gave for the same texts.
//!
//! `TROMMEL_MINILM` names a folder with `model.onnx` and `tokenizer.json` (tests/models/minilm_to_onnx.py) and `reference.parquet`
//! (tests/models/reference_vectors.py, at most 256 tokens a text). Each test runs itself again in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trommel::embed::guard::Status;
use trommel::embed::runtime::{Provider, Wanted, start};
use trommel::embed::{EmbedOptions, Embedded, Embedder, ModelFiles, ModelSource, Pooling, find_library};

/// Runs an ignored test of this file in its own process, if there is an ONNX Runtime and a model.
fn child(test: &str) {
    let required = env::var_os("TROMMEL_REQUIRE_ONNXRUNTIME").is_some_and(|value| value == "1");
    if let Err(error) = find_library(None) {
        assert!(!required, "{}", error.report());
        println!("not run: no ONNX Runtime");
        return;
    }
    if env::var_os("TROMMEL_MINILM").is_none() {
        assert!(!required, "TROMMEL_MINILM names no folder");
        println!("not run: no model, TROMMEL_MINILM names no folder");
        return;
    }
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    let name = if module.is_empty() { test.to_owned() } else { format!("{module}::{test}") };
    let output = Command::new(env::current_exe().unwrap()).args([&name, "--exact", "--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{text}");
}

fn folder() -> PathBuf {
    env::var_os("TROMMEL_MINILM").unwrap().into()
}

fn minilm() -> ModelFiles {
    let source = ModelSource::File {
        model: folder().join("model.onnx"),
        tokenizer: folder().join("tokenizer.json"),
        sha256: None,
        tokenizer_sha256: None,
    };
    ModelFiles::load(&source, |path, _| Ok(fs::read(path).unwrap())).unwrap()
}

fn open(change: impl FnOnce(&mut EmbedOptions)) -> trommel::error::Result<Embedder> {
    let mut options = EmbedOptions { provider: Provider::Cpu, ..EmbedOptions::default() };
    change(&mut options);
    Embedder::open(start(&Wanted::OnnxRuntime { library: None }).unwrap(), &minilm(), options)
}

fn embed(embedder: &Embedder, texts: &[Option<String>]) -> Embedded {
    let mut all = Vec::new();
    let keep = |window| {
        all.push(window);
        Ok(())
    };
    embedder.run([Ok(texts.to_vec())].into_iter(), keep).unwrap();
    all.remove(0)
}

/// Texts, their tokens, and the vectors of Python's onnxruntime, one after the other.
fn reference(path: &Path) -> (Vec<Option<String>>, u64, Vec<f32>) {
    let (mut texts, mut tokens, mut vectors) = (Vec::new(), 0, Vec::new());
    for batch in ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        texts.extend(batch["text"].as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
        tokens += batch["tokens"].as_primitive::<Int64Type>().values().iter().sum::<i64>() as u64;
        vectors.extend_from_slice(batch["vector"].as_fixed_size_list().values().as_primitive::<Float32Type>().values());
    }
    (texts, tokens, vectors)
}

#[test]
fn vectors_equal_those_of_python() {
    child("child_vectors");
}

#[test]
#[ignore = "run by vectors_equal_those_of_python in a process of its own"]
fn child_vectors() {
    let (texts, tokens, expected) = reference(&folder().join("reference.parquet"));
    assert!(texts.len() >= 200, "texts={}", texts.len());
    let embedder = open(|_| {}).unwrap();
    let found = embed(&embedder, &texts);
    assert_eq!(embedder.dimensions() * texts.len(), expected.len());
    assert_eq!(found.tokens, tokens);
    assert!(found.statuses.iter().all(|status| *status == Status::Ok));
    let far = found.vectors.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("texts={} largest difference={far:e}", texts.len());
    assert!(far < 1e-5, "far={far}");

    let some: Vec<Option<String>> = texts.into_iter().take(60).chain([None, Some(" ".into())]).collect();
    let reference = embed(&embedder, &some);
    assert_eq!(reference.statuses[60..], [Status::Null, Status::Empty]);
    for threads in [2, 3] {
        assert_eq!(embed(&open(|options| options.threads = threads).unwrap(), &some), reference, "threads={threads}");
    }
}

#[test]
fn what_the_model_cannot_do_is_refused() {
    child("child_refused");
}

#[test]
#[ignore = "run by what_the_model_cannot_do_is_refused in a process of its own"]
fn child_refused() {
    let report = |change: fn(&mut EmbedOptions)| open(change).unwrap_err().report();
    let long = report(|options| options.max_tokens = 513);
    assert!(long.contains("tokens=`513`") && long.contains("hint: set `max_tokens`"), "{long}");
    let pooled = report(|options| options.pooling = Pooling::Cls);
    assert!(pooled.contains("no output of the model fits the pooling pooling=`cls`"), "{pooled}");
    let embedder = open(|options| options.provider = Provider::Auto).unwrap();
    assert_eq!(embedder.notes().is_empty(), embedder.provider() == Provider::Cuda);
}
