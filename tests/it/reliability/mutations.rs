//! Shards that were damaged in many ways, for each codec: reading one gives rows or one error that names it, whatever the decoder does,
//! in time and in memory that are bounded; and a run ends as an error of its input.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use trommel::dataset::reader::{ReadRequest, read};
use trommel::dataset::snapshot::{SourceSpec, take};
use trommel::dataset::writer::{ShardWriter, WriterOptions};
use trommel::error::{Kind, Result};
use trommel::random::Sequence;
use trommel::storage::local::Selection;
use trommel::telemetry::memory;

use super::long;
use super::scenario::draws;
use crate::fixture::Corpus;

/// The longest that one shard may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What reading damaged shards of a few kilobytes may add to the memory of this process, whatever sizes they claim.
const MEMORY: u64 = 1 << 30;

fn codecs() -> [(&'static str, Compression); 6] {
    [
        ("none", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4_raw", Compression::LZ4_RAW),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
        ("gzip", Compression::GZIP(GzipLevel::default())),
    ]
}

/// A small shard with what decoders differ in: nulls, dictionaries, lists, structs, several pages and row groups.
fn shard(codec: Compression, second: bool) -> Vec<u8> {
    let rows = 120;
    let text = |row: usize| (row % 7 != 3).then(|| format!("text {row} {}", "word ".repeat(row % 13)));
    let texts: ArrayRef = Arc::new((0..rows).map(text).collect::<StringArray>());
    let numbers: ArrayRef = Arc::new((0..rows).map(|row| (row % 5 != 2).then_some(row as i64 * 977)).collect::<Int64Array>());
    let lists = (0..rows).map(|row| (row % 11 != 5).then(|| (0..row % 4).map(|item| Some(item as i32))));
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int64, true)), Arc::clone(&numbers)),
        (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::clone(&texts)),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new((0..rows).map(|row| Some(format!("id-{row}"))).collect::<StringArray>())),
        ("text", texts),
        ("number", numbers),
        ("float", Arc::new((0..rows).map(|row| Some(row as f64 / 3.0)).collect::<Float64Array>())),
        ("flag", Arc::new((0..rows).map(|row| Some(row % 3 == 0)).collect::<BooleanArray>())),
        ("word", Arc::new((0..rows).map(|row| Some(["ash", "elm", "yew"][row % 3])).collect::<StringArray>())),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        ("struct", Arc::new(structs)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_writer_version(if second { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
        .set_max_row_group_row_count(Some(50))
        .set_data_page_row_count_limit(20)
        .set_write_batch_size(10);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Damages a file in one of the ways of disks, networks and programs.
fn mutate(whole: &[u8], draws: &mut Sequence) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let at = |draws: &mut Sequence| draws.below(whole.len() as u64) as usize;
    // The footer is small beside the pages and says more: aim at it as well.
    let in_footer = |draws: &mut Sequence| whole.len() - 1 - draws.below(3_000.min(whole.len() as u64)) as usize;
    match draws.below(9) {
        0 => bytes.truncate(at(draws)),
        1 => {
            let from = at(draws);
            bytes.extend_from_slice(&whole[from..(from + 200).min(whole.len())]);
        }
        2 => {
            let from = at(draws);
            bytes.splice(from..from, vec![0; 1 + draws.below(64) as usize]);
        }
        3 => {
            let from = at(draws);
            let until = (from + 1 + draws.below(64) as usize).min(whole.len());
            bytes[from..until].fill(0);
        }
        4 => {
            let place = in_footer(draws);
            bytes[place] = draws.below(256) as u8;
        }
        5 | 6 => {
            let place = in_footer(draws);
            bytes[place] ^= 1 << draws.below(8);
        }
        7 => {
            for _ in 0..=draws.below(8) {
                let place = at(draws);
                bytes[place] ^= 1 << draws.below(8);
            }
        }
        _ => {
            let place = at(draws);
            bytes[place] ^= 1 << draws.below(8);
        }
    }
    bytes
}

/// The damaged shard of a case, always the same.
fn case(codec: &str, wholes: &[Vec<u8>], number: usize) -> Vec<u8> {
    mutate(&wholes[number % wholes.len()], &mut draws(&format!("{codec} {number}")))
}

/// Reads a folder of shards as a run does: snapshot, all columns of all rows, and a pruned copy.
fn use_all(folder: &Path) -> Result<usize> {
    let source =
        SourceSpec { name: "crawl".into(), uri: "in/".into(), base: folder.to_owned(), selection: Selection::Folder(".parquet".into()) };
    let snapshot = take(&[source])?;
    let shard = &snapshot.shards[0];
    let names: Vec<String> = shard.schema.fields().iter().map(|field| field.name().clone()).collect();
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = read(shard, ReadRequest { columns: &columns, schema: None, selection: None, batch_rows: 64 })
        .and_then(|batches| batches.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<usize>>());
    let keep = BooleanBuffer::collect_bool(shard.rows as usize, |row| row % 9 != 4);
    let pruned = ShardWriter::create(&folder.join("out"), shard, WriterOptions::default()).and_then(|mut writer| {
        writer.append(shard, &keep, &[])?;
        writer.finish()
    });
    pruned.and(rows)
}

/// Panics that are caught in the program are no news here; those of tests are told as before.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            // Only threads of tests have names of theirs.
            if std::thread::current().name().is_some_and(|name| name.contains("::")) {
                before(panic);
            }
        }));
    });
}

#[derive(Default)]
struct Figures {
    rows: usize,
    errors: usize,
    longest: Duration,
}

fn mutations(codec: &'static str, compression: Compression, count: usize) {
    hush();
    let before = memory::peak_bytes().unwrap();
    let (done, progress) = channel();
    let work = std::thread::spawn(move || {
        let wholes = [shard(compression, false), shard(compression, true)];
        let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." }).unwrap();
        let mut figures = Figures::default();
        for number in 0..count {
            fs::write(folder.path().join("a.parquet"), case(codec, &wholes, number)).unwrap();
            let since = Instant::now();
            let used = catch_unwind(AssertUnwindSafe(|| use_all(folder.path())));
            figures.longest = figures.longest.max(since.elapsed());
            match used {
                Err(_) => return Err(format!("{codec} {number}: a panic escaped")),
                Ok(Ok(_)) => figures.rows += 1,
                Ok(Err(error)) if !matches!(error.kind(), Kind::Input | Kind::Resources) || !error.report().contains("a.parquet") => {
                    return Err(format!("{codec} {number}: {}", error.report()));
                }
                Ok(Err(_)) => figures.errors += 1,
            }
            done.send(number).unwrap();
        }
        Ok(figures)
    });
    let mut last = 0;
    loop {
        match progress.recv_timeout(PATIENCE) {
            Ok(number) => last = number,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{codec}: after {last} a shard took more than {PATIENCE:?}"),
        }
    }
    let figures = work.join().expect("the thread that reads shards panicked").unwrap_or_else(|problem| panic!("{problem}"));
    let grown = memory::peak_bytes().unwrap() - before;
    assert!(grown < MEMORY, "{codec}: peak memory grew by {grown} bytes");
    assert!(figures.errors > count / 4, "{codec}: {} errors of {count}", figures.errors);
    let Figures { rows, errors, longest } = figures;
    let numbers =
        format!("shards {count}, read {rows}, refused with the name {errors}, longest {longest:.0?}, peak memory +{} MiB", grown >> 20);
    super::figures("a shard is damaged: library", codec, &numbers);
}

#[test]
fn mutated_shards_give_rows_or_one_named_error() {
    for (name, codec) in codecs() {
        mutations(name, codec, if long() { 10_000 } else { 1_000 });
    }
}

/// The same through the program: an error of the input, or a dataset that is whole.
#[test]
fn runs_over_mutated_shards_end_as_errors_of_the_input() {
    for (name, codec) in codecs() {
        let count = if long() { 200 } else { 8 };
        let wholes = [shard(codec, false), shard(codec, true)];
        let corpus = Corpus::new();
        corpus.pipeline("  - { id: exact, exact_dedup: { columns: [text] } }\n  - { id: near, minhash_dedup: { threshold: 0.8 } }");
        fs::create_dir(corpus.at("in")).unwrap();
        fs::write(corpus.at("in/whole.parquet"), &wholes[0]).unwrap();
        let (mut published, mut refused) = (0, 0);
        for number in 0..count {
            fs::write(corpus.at("in/mutated.parquet"), case(name, &wholes, 1_000_000 + number)).unwrap();
            let ran = corpus.run(&["--overwrite"]);
            match ran.code {
                0 => {
                    published += 1;
                    corpus.verify().ok();
                }
                3 => {
                    refused += 1;
                    assert!(ran.stderr.contains("mutated.parquet"), "{name} {number}: {}", ran.stderr);
                }
                code => panic!("{name} {number}: exit code {code}: {}", ran.stderr),
            }
        }
        assert!(refused > 0);
        let numbers = format!("runs {count}, published {published}, refused with code 3 {refused}");
        super::figures("a shard is damaged: program", name, &numbers);
    }
}
