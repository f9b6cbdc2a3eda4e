//! Embedding throughput: `cargo bench --bench embed -- [--texts GLOB] [--column NAME] [--rows N] [--max-tokens N] [--threads N]
//! [--chunk N --overlap N] [--provider cpu|cuda|tensorrt|auto] [--batch-tokens N] [--repeat N]
//! [--model MODEL.onnx --tokenizer TOKENIZER.json] [--onnxruntime PATH]`. Without a model it measures the built-in one on tract.
//! It first tokenises the texts alone, with one thread, with twice as many, and so on: the model waits for the tokenizer only where
//! it takes more tokens a second than that.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads files and clocks, and prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::path::PathBuf;
use std::time::Instant;

use arrow::array::AsArray;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trommel::embed::runtime::{Provider, Wanted, start};
use trommel::embed::tokenise::Tokeniser;
use trommel::embed::{Chunking, EmbedOptions, Embedder, ModelFiles, ModelSource};
use trommel::limits::EMBED_WINDOW_ROWS;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned();
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let Some(pattern) = value("--texts") else {
        println!("embed: not run, --texts GLOB names no Parquet files");
        return;
    };
    let column = value("--column").unwrap_or_else(|| "text".into());
    let texts = read(&pattern, &column, number("--rows", 20_000));
    let threads = number("--threads", std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let options = EmbedOptions {
        max_tokens: number("--max-tokens", if value("--chunk").is_some() { 1 << 20 } else { 256 }),
        chunk: value("--chunk").map(|tokens| Chunking { tokens: tokens.parse().unwrap(), overlap: number("--overlap", 0) }),
        batch_tokens: value("--batch-tokens").map(|text| text.parse().unwrap()),
        provider: match value("--provider").as_deref() {
            Some("cuda") => Provider::Cuda,
            Some("tensorrt") => Provider::TensorRt,
            Some("auto") => Provider::Auto,
            _ => Provider::Cpu,
        },
        threads,
        session_bytes: number("--session-bytes", 1 << 30) as u64,
        ..EmbedOptions::default()
    };
    let (wanted, files) = match value("--model").map(PathBuf::from) {
        None => (Wanted::Tract, ModelFiles::builtin()),
        Some(model) => {
            let tokenizer = value("--tokenizer").unwrap().into();
            let source = ModelSource::File { model, tokenizer, sha256: None, tokenizer_sha256: None };
            let files = ModelFiles::load(&source, |path, _| Ok(std::fs::read(path).unwrap())).unwrap();
            (Wanted::OnnxRuntime { library: value("--onnxruntime").map(PathBuf::from) }, files)
        }
    };
    let runtime = start(&wanted).unwrap_or_else(|error| panic!("{}", error.report()));

    let tokeniser = Tokeniser::new(files.tokenizer(), options.max_tokens, !files.is_builtin()).unwrap();
    let mut tokenised = 0.0;
    for threads in (0..).map(|power| 1 << power).take_while(|power| *power < threads).chain([threads]) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let all = || texts.chunks(EMBED_WINDOW_ROWS).map(|window| count(&tokeniser, window)).sum::<usize>();
        let mut runs: Vec<(f64, usize)> = (0..3).map(|_| timed(|| pool.install(all))).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (seconds, tokens) = runs[1];
        tokenised = tokens as f64 / seconds;
        println!("tokenise, {threads} threads: {} rows, {tokens} tokens, {seconds:.3} s: {tokenised:.0} tokens/s", texts.len());
    }

    let embedder = Embedder::open(runtime, &files, options).unwrap_or_else(|error| panic!("{}", error.report()));
    embedder.notes().iter().for_each(|note| println!("{note}"));
    let repeat = number("--repeat", 1);
    for _ in 0..repeat {
        let mut hasher = blake3::Hasher::new();
        let begin = Instant::now();
        let windows = texts.chunks(EMBED_WINDOW_ROWS).map(|window| Ok(window.to_vec()));
        let mut tokens = 0;
        let sink = |window: trommel::embed::Embedded| {
            tokens += window.tokens;
            let bytes: Vec<u8> = window.vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.update(&bytes);
            Ok(())
        };
        embedder.run(windows, sink).unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{} on {} {}, {threads} threads: {} rows, {tokens} tokens, {seconds:.2} s: {:.0} rows/s, {:.0} tokens/s, tokenising alone {:.1} x as fast, bits {}",
            files.name(),
            runtime.backend().as_str(),
            runtime.version(),
            texts.len(),
            texts.len() as f64 / seconds,
            tokens as f64 / seconds,
            tokenised * seconds / tokens as f64,
            &hasher.finalize().to_hex()[..12]
        );
    }
}

/// Seconds of a piece of work, and what it gives.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let made = work();
    (begin.elapsed().as_secs_f64(), made)
}

fn count(tokeniser: &Tokeniser, window: &[Option<String>]) -> usize {
    tokeniser.encode_all(window).unwrap().iter().flatten().map(|tokens| tokens.ids.len()).sum()
}

fn read(pattern: &str, column: &str, rows: usize) -> Vec<Option<String>> {
    let mut paths: Vec<PathBuf> = glob::glob(pattern).unwrap().map(Result::unwrap).collect();
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        let mask = ProjectionMask::columns(builder.parquet_schema(), [column]);
        for batch in builder.with_projection(mask).build().unwrap() {
            let array = arrow::compute::cast(batch.unwrap().column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            texts.extend(array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
        }
        if texts.len() >= rows {
            break;
        }
    }
    texts.truncate(rows);
    texts
}
