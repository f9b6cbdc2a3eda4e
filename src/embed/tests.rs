use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::runtime::{self, Backend, Wanted};
use super::*;
use crate::error::Kind;

const TEXTS: [&str; 8] = [
    "A man is playing a guitar.",
    "Someone plays the guitar",
    "The stock market fell sharply on Monday, wiping out last week's gains.",
    "",
    " \n\t",
    "caf\u{e9} \u{4e2d}\u{6587} na\u{ef}ve",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen",
    "guitar",
];

/// Windows of different sizes over texts of many lengths.
fn windows() -> Vec<Vec<Option<String>>> {
    let text = |row: usize| match row % 7 {
        3 => None,
        part => Some(format!("{} {}", TEXTS[row % TEXTS.len()], "some more words ".repeat(part * (row % 5)))),
    };
    [300, 1, 0, 97].iter().map(|rows| (0..*rows).map(text).collect()).collect()
}

fn builtin(change: impl FnOnce(&mut EmbedOptions)) -> Embedder {
    let mut options = EmbedOptions::default();
    change(&mut options);
    Embedder::open(runtime::start(&Wanted::Tract).unwrap(), &ModelFiles::builtin(), options).unwrap()
}

fn embed(embedder: &Embedder, windows: Vec<Vec<Option<String>>>) -> Vec<Embedded> {
    let mut all = Vec::new();
    let keep = |window| {
        all.push(window);
        Ok(())
    };
    embedder.run(windows.into_iter().map(Ok), keep).unwrap();
    all
}

fn bits(windows: &[Embedded]) -> String {
    let mut hasher = blake3::Hasher::new();
    for window in windows {
        for value in &window.vectors {
            hasher.update(&value.to_bits().to_le_bytes());
        }
        let codes: Vec<u8> = window.statuses.iter().map(|status| status.code()).collect();
        hasher.update(&codes);
    }
    hasher.finalize().to_hex().to_string()
}

#[test]
fn texts_of_one_meaning_are_close_and_rows_without_tokens_are_marked() {
    let embedder = builtin(|_| {});
    let texts = TEXTS.iter().map(|text| Some((*text).to_owned())).chain([None]).collect();
    let window = embed(&embedder, vec![texts]).remove(0);
    assert_eq!(embedder.dimensions(), 128);
    let expected = [Status::Ok, Status::Ok, Status::Ok, Status::Empty, Status::Empty, Status::Ok, Status::Ok, Status::Ok, Status::Null];
    assert_eq!(window.statuses, expected);
    let vector = |row: usize| &window.vectors[row * 128..(row + 1) * 128];
    let dot = |a: usize, b: usize| vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum::<f32>();
    assert!((dot(0, 0) - 1.0).abs() < 1e-5);
    assert!(dot(0, 1) > dot(0, 2), "{} {}", dot(0, 1), dot(0, 2));
    assert!(vector(3).iter().chain(vector(8)).all(|value| *value == 0.0));
}

#[test]
fn threads_move_no_bit() {
    let reference = bits(&embed(&builtin(|_| {}), windows()));
    for threads in [2, 3, 8] {
        assert_eq!(bits(&embed(&builtin(|options| options.threads = threads), windows())), reference, "threads={threads}");
    }
    assert_eq!(bits(&embed(&builtin(|options| (options.threads, options.session_bytes) = (4, 1)), windows())), reference);
}

#[test]
fn every_row_gets_its_own_vector() {
    // The oracle: each text alone in its window.
    let embedder = builtin(|options| options.batch_tokens = Some(512));
    let texts: Vec<Option<String>> = windows().concat();
    let together = embed(&embedder, vec![texts.clone()]).remove(0);
    let alone = embed(&embedder, texts.iter().map(|text| vec![text.clone()]).collect());
    for (row, alone) in alone.iter().enumerate() {
        assert_eq!(together.statuses[row], alone.statuses[0], "row={row}");
        let vector = &together.vectors[row * 128..(row + 1) * 128];
        let far = vector.iter().zip(&alone.vectors).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-6, "row={row} far={far}");
    }
    assert_eq!(together.tokens, alone.iter().map(|window| window.tokens).sum::<u64>());
}

#[test]
fn dims_are_cut_before_vectors_are_scaled() {
    let whole = embed(&builtin(|options| options.normalize = false), windows());
    let cut = embed(&builtin(|options| options.dims = Some(32)), windows());
    for (whole, cut) in whole.iter().zip(&cut) {
        for (whole, cut) in whole.vectors.chunks_exact(128).zip(cut.vectors.chunks_exact(32)) {
            let mut expected = whole[..32].to_vec();
            guard::finish(&mut expected, true);
            assert_eq!(expected, cut);
        }
    }
}

#[test]
fn long_texts_are_counted() {
    let embedder = builtin(|options| options.max_tokens = 4);
    let texts = ["one two three four", "one two three four five", ""].map(|text| Some(text.to_owned()));
    let window = embed(&embedder, vec![texts.to_vec()]).remove(0);
    assert_eq!((window.tokens, window.truncated), (8, 1));
}

/// Cuts by hand: a whole text's tokens in slices, each alone through the model, the mean of the vectors.
fn chunked_by_hand(embedder: &Embedder, ids: &[u32], tokens: usize, overlap: usize, normalize: bool) -> Vec<f32> {
    let mut session = embedder.sessions[0].lock().unwrap();
    let (mut sums, mut chunks, mut start) = (vec![0.0; embedder.dimensions()], 0.0, 0);
    loop {
        let part: Vec<i64> = ids[start..ids.len().min(start + tokens)].iter().map(|id| i64::from(*id)).collect();
        let mut vector = session.run(&part, &vec![1; part.len()], 1).unwrap();
        guard::finish(&mut vector, normalize);
        sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(value));
        chunks += 1.0;
        if start + tokens >= ids.len() {
            break;
        }
        start += tokens - overlap;
    }
    let mut mean: Vec<f32> = sums.iter().map(|sum| (sum / chunks) as f32).collect();
    guard::finish(&mut mean, normalize);
    mean
}

fn chunks(tokens: usize, overlap: usize) -> impl Fn(&mut EmbedOptions) {
    move |options| (options.chunk, options.max_tokens) = (Some(Chunking { tokens, overlap }), 1 << 20)
}

#[test]
fn long_texts_are_the_mean_of_their_chunks() {
    let texts: Vec<Option<String>> = windows().concat();
    for (tokens, overlap, normalize) in [(7, 3, true), (16, 0, true), (16, 15, true), (11, 4, false)] {
        let embedder = builtin(|options| {
            chunks(tokens, overlap)(options);
            options.normalize = normalize;
        });
        let made = embed(&embedder, vec![texts.clone()]).remove(0);
        let (mut cut, mut total) = (0, 0);
        for (row, text) in texts.iter().enumerate().filter_map(|(row, text)| Some((row, text.as_deref()?))) {
            let ids = embedder.tokeniser.encode(text).unwrap().ids;
            let own = ids.len();
            cut += u64::from(own > tokens);
            total += if own > tokens { 1 + (own - tokens).div_ceil(tokens - overlap) } else { own.min(1) };
            if own > 0 {
                let expected = chunked_by_hand(&embedder, &ids, tokens, overlap, normalize);
                let found = &made.vectors[row * 128..(row + 1) * 128];
                let size = expected.iter().map(|value| value.abs()).fold(1.0, f32::max);
                let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-6 * size, "row={row} tokens={tokens} overlap={overlap} far={far}");
            }
        }
        assert_eq!((made.chunked, made.chunks, made.truncated), (cut, total as u64, 0));
        assert!(cut > 100 && total > texts.len());
    }
}

#[test]
fn chunks_move_no_bit_of_texts_that_fit() {
    // A window of texts that all fit has the same batches.
    let short: Vec<Option<String>> =
        windows().concat().into_iter().filter(|text| text.as_ref().is_none_or(|text| text.len() < 100)).collect();
    let without = embed(&builtin(|_| {}), vec![short.clone()]);
    let with = embed(&builtin(chunks(256, 32)), vec![short]);
    assert_eq!(with, without);
    assert_eq!(with[0].chunked, 0);
}

#[test]
fn threads_move_no_bit_of_chunks() {
    let run = |threads, batch_tokens| {
        bits(&embed(
            &builtin(|options| {
                chunks(9, 4)(options);
                (options.threads, options.batch_tokens) = (threads, Some(batch_tokens));
            }),
            windows(),
        ))
    };
    for batch_tokens in [1, 64, 4_096] {
        let reference = run(1, batch_tokens);
        for threads in [2, 3, 8] {
            assert_eq!(run(threads, batch_tokens), reference, "threads={threads} batch_tokens={batch_tokens}");
        }
    }
}

#[test]
fn a_chunked_text_may_be_cut_too() {
    let embedder = builtin(|options| (options.chunk, options.max_tokens) = (Some(Chunking { tokens: 4, overlap: 1 }), 9));
    let texts = ["one two three four", "one two three four five six seven eight nine ten", ""].map(|text| Some(text.to_owned()));
    let window = embed(&embedder, vec![texts.to_vec()]).remove(0);
    // Nine of ten tokens stay: 0..4, 3..7, 6..9.
    assert_eq!((window.tokens, window.truncated, window.chunked, window.chunks), (4 + 11, 1, 1, 4));
    assert_eq!(window.statuses, [Status::Ok, Status::Ok, Status::Empty]);
}

#[test]
fn errors_of_either_end_stop_the_run() {
    let embedder = builtin(|options| options.threads = 2);
    let broken = windows().into_iter().map(Ok).chain([Err(Error::input("bad row group"))]).chain(windows().into_iter().map(Ok));
    let mut seen = 0;
    let error = embedder.run(broken, |_| {
        seen += 1;
        Ok(())
    });
    assert_eq!((error.unwrap_err().to_string(), seen), ("bad row group".into(), 4));

    let endless = std::iter::repeat_with(|| Ok(windows().remove(0)));
    let error = embedder.run(endless, |_| Err(Error::storage("disk full"))).unwrap_err();
    assert_eq!(error.to_string(), "disk full");

    let panics = (0..3).map(|window| if window < 2 { Ok(windows().remove(0)) } else { panic!("a bug in the source") });
    assert_eq!(embedder.run(panics, |_| Ok(())).unwrap_err().kind(), Kind::Internal);
}

#[test]
fn identity_holds_what_moves_bits_and_nothing_else() {
    let reference = builtin(|_| {}).identity();
    assert_eq!(builtin(|options| options.threads = 7).identity(), reference);
    assert_eq!(builtin(|options| options.session_bytes = 1).identity(), reference);
    assert_eq!(builtin(|options| options.provider = Provider::Cpu).identity(), reference);
    assert_ne!(builtin(|options| options.max_tokens = 255).identity(), reference);
    assert_ne!(builtin(|options| options.batch_tokens = Some(4_095)).identity(), reference);
    assert_eq!(builtin(|options| options.batch_tokens = Some(1_024)).identity(), reference);
    assert_ne!(builtin(|options| options.normalize = false).identity(), reference);
    assert_ne!(builtin(|options| options.dims = Some(64)).identity(), reference);
    assert_ne!(builtin(|options| options.pooling = Pooling::None).identity(), reference);
    let chunked = |tokens, overlap| builtin(|options| options.chunk = Some(Chunking { tokens, overlap })).identity();
    let found = [reference, chunked(64, 0), chunked(63, 0), chunked(64, 1)];
    assert!((0..4).all(|one| (0..one).all(|other| found[one] != found[other])));
}

#[test]
fn what_cannot_work_is_refused_when_it_is_opened() {
    let open = |options| Embedder::open(runtime::start(&Wanted::Tract).unwrap(), &ModelFiles::builtin(), options).unwrap_err();
    for dims in [0, 129] {
        let error = open(EmbedOptions { dims: Some(dims), ..EmbedOptions::default() });
        assert_eq!((error.kind(), error.to_string()), (Kind::Usage, format!("dims is out of range dims=`{dims}` dimensions=`128`")));
    }
    let error = open(EmbedOptions { pooling: Pooling::Mean, ..EmbedOptions::default() });
    assert!(error.report().contains("no output of the model fits the pooling"), "{}", error.report());
    assert_eq!(open(EmbedOptions { max_tokens: 0, ..EmbedOptions::default() }).kind(), Kind::Usage);
    let error = open(EmbedOptions { chunk: Some(Chunking { tokens: 8, overlap: 8 }), ..EmbedOptions::default() });
    assert_eq!(error.to_string(), "chunk leaves no room for new tokens tokens=`8` overlap=`8` special_tokens=`0`");
}

/// A model that is only one node, `operator`: enough for what is checked before a session is made.
fn one_node(operator: &str) -> ModelFiles {
    let node = [&[34, operator.len() as u8][..], operator.as_bytes()].concat();
    let graph = [&[10, node.len() as u8][..], &node].concat();
    let model = [&[8, 8, 58, graph.len() as u8][..], &graph].concat();
    let source = ModelSource::File { model: "m.onnx".into(), tokenizer: "t.json".into(), sha256: None, tokenizer_sha256: None };
    let tokenizer = ModelFiles::builtin().tokenizer().to_vec();
    ModelFiles::load(&source, |path, _| Ok(if path.ends_with("m.onnx") { model.clone() } else { tokenizer.clone() })).unwrap()
}

#[test]
fn tract_refuses_transformers_and_says_how_to_get_the_other_runtime() {
    let runtime = runtime::start(&Wanted::Tract).unwrap();
    let error = Embedder::open(runtime, &one_node("MatMul"), EmbedOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "a transformer needs ONNX Runtime model=`m.onnx`");
    assert!(error.hint_text().unwrap().contains("pip install onnxruntime"));
    let error = Embedder::open(runtime, &one_node("Relu"), EmbedOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{}", error.report());
    for provider in [Provider::Cuda, Provider::TensorRt] {
        let error = Embedder::open(runtime, &one_node("Relu"), EmbedOptions { provider, ..EmbedOptions::default() }).unwrap_err();
        assert!(error.to_string().starts_with("the runtime does not have the provider"), "{error}");
    }
}

/// Runs an ignored test of this file in a process of its own, which may use the other backend. False, after a line that says
/// so, where there is no ONNX Runtime and none is required.
fn with_onnxruntime(test: &str, variables: &[(&str, OsString)]) -> bool {
    if let Err(error) = find_library(None) {
        assert!(env::var_os("TROMMEL_REQUIRE_ONNXRUNTIME").is_none_or(|value| value != "1"), "{}", error.report());
        println!("not run: no ONNX Runtime");
        return false;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let output = Command::new(env::current_exe().unwrap())
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .envs(variables.iter().cloned())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    println!("{printed}");
    true
}

#[test]
fn the_built_in_model_gives_the_same_bits_beside_onnx_runtime() {
    let expected = bits(&embed(&builtin(|_| {}), windows()));
    with_onnxruntime("child_built_in", &[("TROMMEL_TEST_BITS", expected.into())]);
}

#[test]
#[ignore = "run by the_built_in_model_gives_the_same_bits_beside_onnx_runtime in a process of its own"]
fn child_built_in() {
    let runtime = runtime::start(&Wanted::OnnxRuntime { library: None }).unwrap();
    assert_eq!(runtime.backend(), Backend::OnnxRuntime);
    let beside = Embedder::open(runtime, &ModelFiles::builtin(), EmbedOptions::default()).unwrap();
    let tract = embed(&beside, windows());
    assert_eq!(Some(bits(&tract).into()), env::var_os("TROMMEL_TEST_BITS"));
    assert_eq!(beside.identity(), builtin(|_| {}).identity());

    // The same graph on ONNX Runtime: an independent reading of it, which sums in another order.
    let model = ModelFiles::builtin();
    let source = ModelSource::File { model: "m.onnx".into(), tokenizer: "t.json".into(), sha256: None, tokenizer_sha256: None };
    let read = |path: &Path, _: u64| Ok(if path.ends_with("m.onnx") { model.model() } else { model.tokenizer() }.to_vec());
    let files = ModelFiles::load(&source, read).unwrap();
    let mut found = Vec::new();
    for threads in [1, 2] {
        // Special tokens are added to the texts of a file: none of both runs may have them.
        let options = EmbedOptions { threads, ..EmbedOptions::default() };
        let mut embedder = Embedder::open(runtime, &files, options.clone()).unwrap();
        assert_ne!(embedder.identity(), beside.identity());
        embedder.tokeniser = Tokeniser::new(files.tokenizer(), options.max_tokens, false).unwrap();
        found.push(embed(&embedder, windows()));
    }
    assert_eq!(bits(&found[0]), bits(&found[1]));
    let mut embedder = Embedder::open(runtime, &files, EmbedOptions::default()).unwrap();
    embedder.tokeniser = Tokeniser::new(files.tokenizer(), 256, false).unwrap();
    embedder.sessions.iter().for_each(|session| session.lock().unwrap().bind());
    assert_eq!(bits(&embed(&embedder, windows())), bits(&found[0]));
    for (tract, other) in tract.iter().zip(&found[0]) {
        assert_eq!(tract.statuses, other.statuses);
        let far = tract.vectors.iter().zip(&other.vectors).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "far={far}");
    }
}

#[test]
fn onnx_runtime_refuses_what_it_cannot_run() {
    with_onnxruntime("child_refusals", &[]);
}

#[test]
#[ignore = "run by onnx_runtime_refuses_what_it_cannot_run in a process of its own"]
fn child_refusals() {
    let runtime = runtime::start(&Wanted::OnnxRuntime { library: None }).unwrap();
    assert!(runtime.version().starts_with("1.") && runtime.library().is_some());
    let error = Embedder::open(runtime, &one_node("NoSuchOperator"), EmbedOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (Kind::Model, "the model cannot be loaded model=`m.onnx`".into()));
    for provider in [Provider::Cuda, Provider::TensorRt] {
        if !runtime.providers().contains(&provider) {
            let options = EmbedOptions { provider, ..EmbedOptions::default() };
            let error = Embedder::open(runtime, &one_node("Relu"), options).unwrap_err();
            assert!(error.to_string().contains(&format!("provider=`{}`", provider.as_str())), "{error}");
        }
    }
}

#[test]
fn what_is_no_library_is_refused_once_and_for_all() {
    with_onnxruntime("child_no_library", &[]);
}

#[test]
#[ignore = "run by what_is_no_library_is_refused_once_and_for_all in a process of its own"]
fn child_no_library() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so.1.32.0");
    std::fs::OpenOptions::new().create(true).append(true).open(&text).unwrap();
    let missing = Wanted::OnnxRuntime { library: Some(folder.path().join("nowhere.so")) };
    assert!(runtime::start(&missing).unwrap_err().to_string().contains("there is no ONNX Runtime library"));
    let error = runtime::start(&Wanted::OnnxRuntime { library: Some(text) }).unwrap_err();
    assert!(error.to_string().starts_with("the ONNX Runtime library cannot be loaded"), "{}", error.report());
    let error = runtime::start(&Wanted::OnnxRuntime { library: None }).unwrap_err();
    assert!(error.to_string().contains("could not be loaded earlier"), "{}", error.report());
    assert!(runtime::start(&Wanted::Tract).is_ok());
}
