//! Damaged shards that are set aside: named, with their rows where the footer says them, and read once they are mended.

use std::fs;

use crate::fixture::{Corpus, trommel};

const EXACT: &str = "  - { id: exact, exact_dedup: { columns: [text] } }";

/// A whole shard and three that are damaged in three ways; the bytes of the second as it was.
fn damaged() -> (Corpus, Vec<u8>) {
    let corpus = Corpus::new();
    let texts: Vec<String> = (0..200).map(|row| format!("a text of its own, the number {row}")).collect();
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let rows: Vec<Option<&str>> = texts[n * 50..n * 50 + 50].iter().map(|text| Some(text.as_str())).collect();
        corpus.shard(&format!("{name}.parquet"), &rows);
    }
    let whole = fs::read(corpus.at("in/b.parquet")).unwrap();
    fs::write(corpus.at("in/b.parquet"), &whole[..whole.len() - 20]).unwrap();
    // Inside the pages: the footer is whole, and says how many rows there are.
    let mut bytes = fs::read(corpus.at("in/c.parquet")).unwrap();
    bytes[4..120].fill(0xff);
    fs::write(corpus.at("in/c.parquet"), bytes).unwrap();
    fs::write(corpus.at("in/d.parquet"), "no Parquet at all").unwrap();
    (corpus, whole)
}

fn pipeline(corpus: &Corpus, on_corrupt: &str, sink: &str) {
    let source = format!("  c: {{ parquet: {{ uri: \"in/\", text: text, id: id{on_corrupt} }} }}");
    corpus.pipeline_with(&source, EXACT, sink);
}

#[test]
fn damaged_shards_are_set_aside_and_named() {
    let (corpus, whole) = damaged();
    pipeline(&corpus, "", "parquet: { uri: out }");
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("b.parquet"), "{said}");
    pipeline(&corpus, ", on_corrupt: quarantine", "parquet: { uri: \"out/{version}\" } }\nstate: { uri: state");
    let ran = trommel(corpus.path(), &["run", "p.yaml"]).ok();
    for name in ["b.parquet", "c.parquet", "d.parquet"] {
        assert!(ran.stderr.contains(&format!("shard set aside source=`c` path=`{name}`")), "{}", ran.stderr);
    }
    assert!(ran.stdout.contains("damaged shards set aside: 3, with 50 rows, and those whose footers cannot be read"), "{}", ran.stdout);
    let manifest = corpus.manifest_of("out/1");
    let aside = manifest["quarantined"].as_array().unwrap();
    let rows: Vec<_> = aside.iter().map(|shard| (shard["path"].as_str().unwrap(), shard["rows"].as_u64())).collect();
    assert_eq!(rows, [("b.parquet", None), ("c.parquet", Some(50)), ("d.parquet", None)]);
    assert_eq!((manifest["rows"]["input"].as_u64(), corpus.kept_of("out/1").len()), (Some(50), 50));
    trommel(corpus.path(), &["verify", "out/1"]).ok();
    // They are not known: mended, they are read.
    fs::write(corpus.at("in/b.parquet"), whole).unwrap();
    let ran = trommel(corpus.path(), &["run", "p.yaml"]).ok();
    assert!(ran.stdout.contains("damaged shards set aside: 2"), "{}", ran.stdout);
    assert_eq!(corpus.kept_of("out/2").len(), 50);
    let ran = trommel(corpus.path(), &["run", "p.yaml"]).ok();
    assert!(ran.stdout.contains("nothing new: the state knows all 2 shards") && ran.stderr.contains("d.parquet"), "{ran:?}");
}

#[test]
fn nothing_but_damage_is_an_error() {
    let (corpus, _) = damaged();
    fs::remove_file(corpus.at("in/a.parquet")).unwrap();
    pipeline(&corpus, ", on_corrupt: quarantine", "parquet: { uri: out }");
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("every shard is damaged") && said.contains("b.parquet") && said.contains("hint:"), "{said}");
    assert!(!corpus.at("out").exists());
}

/// Opening a pipe would wait for ever.
#[test]
fn what_is_no_file_is_refused() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]);
    pipeline(&corpus, "", "parquet: { uri: out }");
    assert!(std::process::Command::new("mkfifo").arg(corpus.at("in/b.parquet")).status().unwrap().success());
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("not a regular file") && said.contains("b.parquet"), "{said}");
}
