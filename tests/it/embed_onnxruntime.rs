//! Vectors of a real transformer on ONNX Runtime, beside those that Python's onnxruntime gave for the same texts.
//!
//! `TROMMEL_MINILM` names a folder with `model.onnx`, `model_int8.onnx`, `model_fp16.onnx` and `tokenizer.json`
//! (tests/models/minilm_to_onnx.py) and what tests/models/reference_vectors.py made with them: `reference.parquet`,
//! `reference_int8.parquet` and `reference_fp16.parquet` (at most 256 tokens a text), and `reference_chunks.parquet` (chunks of 256
//! tokens that share 32). Each test runs itself again in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trommel::embed::guard::Status;
use trommel::embed::runtime::{Provider, Wanted, start};
use trommel::embed::{Chunking, EmbedOptions, Embedded, Embedder, ModelFiles, ModelSource, Pooling, find_library};

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

fn minilm(file: &str) -> ModelFiles {
    let source =
        ModelSource::File { model: folder().join(file), tokenizer: folder().join("tokenizer.json"), sha256: None, tokenizer_sha256: None };
    ModelFiles::load(&source, |path, _| Ok(fs::read(path).unwrap())).unwrap()
}

fn open(change: impl FnOnce(&mut EmbedOptions)) -> trommel::error::Result<Embedder> {
    open_file("model.onnx", change)
}

fn open_file(file: &str, change: impl FnOnce(&mut EmbedOptions)) -> trommel::error::Result<Embedder> {
    let mut options = EmbedOptions { provider: Provider::Cpu, ..EmbedOptions::default() };
    change(&mut options);
    Embedder::open(start(&Wanted::OnnxRuntime { library: None }).unwrap(), &minilm(file), options)
}

fn embed(embedder: &Embedder, texts: &[Option<String>]) -> Embedded {
    windows(embedder, vec![texts.to_vec()]).remove(0)
}

/// The vectors of texts that share no batch, one after the other.
fn embed_alone(embedder: &Embedder, texts: &[Option<String>]) -> Vec<f32> {
    let made = windows(embedder, texts.iter().map(|text| vec![text.clone()]).collect());
    made.into_iter().flat_map(|window| window.vectors).collect()
}

fn windows(embedder: &Embedder, windows: Vec<Vec<Option<String>>>) -> Vec<Embedded> {
    let mut all = Vec::new();
    let keep = |window| {
        all.push(window);
        Ok(())
    };
    embedder.run(windows.into_iter().map(Ok), keep).unwrap();
    all
}

fn farthest(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The smallest cosine. Lengths are divided out: those that fp16 rounded are not quite 1.
fn least_cosine(found: &[f32], expected: &[f32], dimensions: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    found.chunks_exact(dimensions).zip(expected.chunks_exact(dimensions)).map(cosine).fold(1.0, f64::min)
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
    let far = farthest(&found.vectors, &expected);
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
fn chunks_equal_those_of_python() {
    child("child_chunks");
}

#[test]
#[ignore = "run by chunks_equal_those_of_python in a process of its own"]
fn child_chunks() {
    let (texts, tokens, expected) = reference(&folder().join("reference_chunks.parquet"));
    let chunks = |threads| {
        let chunk = Some(Chunking { tokens: 256, overlap: 32 });
        open(|options| (options.chunk, options.max_tokens, options.threads) = (chunk, 1 << 20, threads)).unwrap()
    };
    let found = embed(&chunks(1), &texts);
    // The tokenizers library cuts where the program does, so they count the same tokens.
    assert_eq!((found.tokens, found.truncated), (tokens, 0));
    let texts_whole = texts.len() as u64 - found.chunked;
    assert!(found.chunked >= 20 && texts_whole >= 2 && found.chunks > 100, "{} {} {texts_whole}", found.chunked, found.chunks);
    let far = farthest(&found.vectors, &expected);
    println!("texts={} chunks={} largest difference={far:e}", texts.len(), found.chunks);
    assert!(far < 1e-5, "far={far}");
    assert_eq!(embed(&chunks(3), &texts), found);
}

#[test]
fn smaller_models_equal_python() {
    child("child_smaller");
}

#[test]
#[ignore = "run by smaller_models_equal_python in a process of its own"]
fn child_smaller() {
    let (_, _, whole) = reference(&folder().join("reference.parquet"));
    for (name, close) in [("fp16", 2e-4), ("int8", 1e-5)] {
        let file = format!("model_{name}.onnx");
        let (texts, _, expected) = reference(&folder().join(format!("reference_{name}.parquet")));
        let embedder = open_file(&file, |_| {}).unwrap();
        let dimensions = embedder.dimensions();
        let alone = farthest(&embed_alone(&embedder, &texts), &expected);
        let packed = embed(&embedder, &texts);
        let (batched, kept) =
            (least_cosine(&packed.vectors, &expected, dimensions), least_cosine(&expected, &whole[..expected.len()], dimensions));
        println!("{name}: alone {alone:e}, batched cosine {batched:.6}, fp32 cosine {kept:.6}");
        assert!(alone < close, "{name}: {alone}");
        // A dynamically quantised model rounds activations by the range of the whole batch: a text's vector depends on the others.
        let (least_batched, least_kept) = if name == "int8" { (0.97, 0.97) } else { (0.99999, 0.9999) };
        assert!(batched > least_batched && kept > least_kept, "{name}: {batched} {kept}");
        // But the batches depend on the rows alone.
        for threads in [2, 3] {
            assert_eq!(embed(&open_file(&file, |options| options.threads = threads).unwrap(), &texts), packed, "{name} {threads}");
        }
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
    let long = report(|options| (options.chunk, options.max_tokens) = (Some(Chunking { tokens: 513, overlap: 0 }), 1 << 20));
    assert!(long.contains("tokens=`513`") && long.contains("hint: set `tokens` of `chunk`"), "{long}");
    let full = report(|options| options.chunk = Some(Chunking { tokens: 34, overlap: 32 }));
    assert!(full.contains("special_tokens=`2`") && full.contains("hint: use at least `tokens: 35`"), "{full}");
    let pooled = report(|options| options.pooling = Pooling::Cls);
    assert!(pooled.contains("no output of the model fits the pooling pooling=`cls`"), "{pooled}");
    let embedder = open(|options| options.provider = Provider::Auto).unwrap();
    assert_eq!(embedder.notes().is_empty(), embedder.provider() == Provider::Cuda);
}
