//! `label_consistency_screen` on the real binary: what one source calls an organisation, another may not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int32Builder, ListBuilder, RecordBatch, StringArray, StringBuilder, StructBuilder};
use arrow::datatypes::{DataType, Field, Float64Type, UInt64Type};
use serde_json::Value;

use crate::fixture::{Corpus, read_parquet, trommel, write_shard};

/// A text and its annotations: name, label, first character, and the one after the last.
type Annotated = (String, Option<Vec<(Option<String>, Option<String>, i32, i32)>>);

/// A text in which each of these parts bears a label.
fn annotated(text: &str, entities: &[(&str, &str)]) -> Annotated {
    let entity = |(name, label): &(&str, &str)| {
        let start = text[..text.find(name).unwrap()].chars().count() as i32;
        (Some((*name).to_owned()), Some((*label).to_owned()), start, start + name.chars().count() as i32)
    };
    (text.to_owned(), Some(entities.iter().map(entity).collect()))
}

/// A shard of ids, which are the texts behind a prefix, texts and entities; the field of the names is called so, or there is none.
fn shard(path: &Path, prefix: &str, rows: &[Annotated], names: Option<&str>) {
    let mut fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    fields.push(Field::new("type", DataType::Utf8, true));
    fields.extend(["start", "end"].map(|name| Field::new(name, DataType::Int32, true)));
    let mut lists = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    for (_, entities) in rows {
        for (name, label, start, end) in entities.iter().flatten() {
            let (entity, first) = (lists.values(), usize::from(names.is_some()));
            if names.is_some() {
                entity.field_builder::<StringBuilder>(0).unwrap().append_option(name.as_deref());
            }
            entity.field_builder::<StringBuilder>(first).unwrap().append_option(label.as_deref());
            entity.field_builder::<Int32Builder>(first + 1).unwrap().append_value(*start);
            entity.field_builder::<Int32Builder>(first + 2).unwrap().append_value(*end);
            entity.append(true);
        }
        lists.append(entities.is_some());
    }
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("{prefix}{}", row.0))));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0)));
    let columns = [("id", ids), ("text", texts), ("entities", Arc::new(lists.finish()) as ArrayRef)];
    write_shard(path, &RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap(), 30);
}

const SOURCES: &str = "  one: { parquet: { uri: one, text: text, id: id } }\n  two: { parquet: { uri: two, text: text, id: id } }";

fn pipeline<'a>(corpus: &'a Corpus, keys: &str) -> &'a Corpus {
    let stage = format!("  - {{ id: screen, input: [one, two], label_consistency_screen: {{ entities: entities, {keys} }} }}");
    corpus.pipeline_with(SOURCES, &stage, "parquet: { uri: out }")
}

/// Runs the stage with other threads and batches; the bytes are the same, nothing is dropped, and `verify` passes.
fn run<'a>(corpus: &'a Corpus, keys: &str) -> &'a Corpus {
    let mut hashes = BTreeSet::new();
    for (threads, batch) in [("1", "8192"), ("2", "7")] {
        pipeline(corpus, keys).run(&["--overwrite", "--fresh", "--threads", threads, "--batch-rows", batch]).ok();
        hashes.insert(corpus.tree_hash().to_string());
        corpus.verify().ok();
    }
    assert_eq!(hashes.len(), 1);
    assert!(corpus.lineage().iter().all(|row| row.decision == "keep"));
    corpus
}

fn report(corpus: &Corpus) -> Value {
    corpus.manifest()["stages"][0]["report"].clone()
}

/// A row of the table of labels: names_of > texts_of label, names, [same, wrong, span, missing], ratio, flagged.
type Label = (String, u64, [u64; 4], Option<f64>, bool);

fn labels(corpus: &Corpus) -> Vec<Label> {
    let table = read_parquet(&corpus.at("out/tables/screen/labels.parquet"));
    let text = |name: &str, row: usize| table.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
    let count = |name: &str, row: usize| table.column_by_name(name).unwrap().as_primitive::<UInt64Type>().value(row);
    let one = |row: usize| {
        let classes = ["same", "wrong", "span", "missing"].map(|name| count(name, row));
        assert_eq!(count("matched", row), classes.iter().sum::<u64>());
        let ratio = table.column_by_name("ratio").unwrap().as_primitive::<Float64Type>();
        let key = format!("{} > {} {}", text("names_of", row), text("texts_of", row), text("label", row));
        let flagged = table.column_by_name("flagged").unwrap().as_boolean().value(row);
        (key, count("names", row), classes, ratio.is_valid(row).then(|| ratio.value(row)), flagged)
    };
    (0..table.num_rows()).map(one).collect()
}

/// A row of the table of examples: names_of, label, name, class, instead, excerpt, and the text's source, shard and row.
fn examples(corpus: &Corpus) -> Vec<[String; 7]> {
    let table = read_parquet(&corpus.at("out/tables/screen/examples.parquet"));
    let text = |name: &str, row: usize| {
        let column = arrow::compute::cast(table.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
        let column = column.as_string::<i32>();
        if column.is_valid(row) { column.value(row).to_owned() } else { "-".to_owned() }
    };
    let one = |row: usize| {
        let place = format!("{}/{}:{}", text("source", row), text("shard", row), text("row", row));
        let [of, label, name, class, instead, excerpt] =
            ["names_of", "label", "name", "class", "instead", "excerpt"].map(|name| text(name, row));
        [of, label, name, class, instead, excerpt, place]
    };
    (0..table.num_rows()).map(one).collect()
}

/// 28 companies and 12 universities that source `one` calls ORG; the other calls the companies Org, and the universities nothing.
fn planted() -> (Vec<Annotated>, Vec<Annotated>) {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let name = if number < 28 { format!("Firm{number} Inc") } else { format!("University of Town{number}") };
        let person = format!("Person{}", number % 25);
        one.push(annotated(&format!("{person} went to {name}."), &[(&person, "PER"), (&name, "ORG")]));
        let text = format!("They say that {name} knows {person} well");
        let mut entities = vec![(person.as_str(), "per")];
        entities.extend((number < 28).then_some((name.as_str(), "Org")));
        two.push(annotated(&text, &entities));
    }
    (one, two)
}

/// Seeds S12: the conflict ranks first, and its ratio is the share that was planted.
#[test]
fn a_label_that_means_more_in_one_source_ranks_first() {
    let (one, two) = planted();
    let corpus = Corpus::new();
    shard(&corpus.at("one/a.parquet"), "a", &one[..15], Some("name"));
    shard(&corpus.at("one/b.parquet"), "b", &one[15..], Some("name"));
    shard(&corpus.at("two/a.parquet"), "c", &two, Some("name"));
    run(&corpus, "flag_ratio: 0.3");
    let row = |key: &str, names, classes, ratio, flagged| -> Label { (key.to_owned(), names, classes, Some(ratio), flagged) };
    assert_eq!(
        labels(&corpus),
        [
            row("one > two org", 40, [28, 0, 0, 12], 0.3, true),
            // Labels are equal but for their case; of equal ratios, what rests on more names comes first.
            row("two > one org", 28, [28, 0, 0, 0], 0.0, false),
            row("one > two per", 25, [25, 0, 0, 0], 0.0, false),
            row("two > one per", 25, [25, 0, 0, 0], 0.0, false),
        ]
    );
    let examples = examples(&corpus);
    assert_eq!(examples.len(), 12);
    for [of, label, name, class, instead, excerpt, place] in &examples {
        assert_eq!([of, label, class, instead], ["one", "org", "missing", "-"]);
        let number: usize = name.strip_prefix("University of Town").unwrap().parse().unwrap();
        assert_eq!((excerpt, place), (&two[number].0, &format!("two/a.parquet:{number}")));
    }
    let said = report(&corpus);
    assert_eq!((&said["compared_pairs"], &said["compared_labels"], &said["flagged_labels"]), (&2.into(), &4.into(), &1.into()));
    assert_eq!(said["worst_labels"][0]["ratio"], 0.3);
    assert_eq!((&said["not_annotated"], &said["unsound_entities"]), (&0.into(), &0.into()));
}

/// What is drawn does not depend on how the rows are cut into shards, whether ids or contents key the draw.
#[test]
fn samples_depend_on_content_alone() {
    let (one, two) = planted();
    let mut seen = BTreeSet::new();
    for (sources, wanted) in [(SOURCES.to_owned(), 1), (SOURCES.replace(", id: id", ""), 2)] {
        for cuts in [vec![0, 40], vec![0, 7, 31, 40]] {
            let corpus = Corpus::new();
            for cut in cuts.windows(2) {
                for (source, rows) in [("one", &one), ("two", &two)] {
                    shard(&corpus.at(&format!("{source}/{:02}.parquet", cut[0])), "", &rows[cut[0]..cut[1]], Some("name"));
                }
            }
            let stage = "  - { id: screen, input: [one, two], label_consistency_screen: { entities: entities, sample_entities: 10, sample_texts: 20 } }";
            corpus.pipeline_with(&sources, stage, "parquet: { uri: out }").run(&["--overwrite"]).ok();
            let labels = labels(&corpus);
            assert!(labels.iter().all(|(_, names, classes, ..)| *names == 10 && classes.iter().sum::<u64>() <= 10));
            // Names that stand in none of the texts that were drawn.
            assert!(labels.iter().any(|(_, _, classes, ..)| classes.iter().sum::<u64>() < 10));
            seen.insert(format!("{labels:?}"));
        }
        assert_eq!(seen.len(), wanted);
    }
}

#[test]
fn sources_that_are_equal_agree() {
    let (one, _) = planted();
    let corpus = Corpus::new();
    shard(&corpus.at("one/a.parquet"), "a", &one, Some("text"));
    shard(&corpus.at("two/a.parquet"), "a", &one, Some("text"));
    run(&corpus, "flag_ratio: 0.01");
    let labels = labels(&corpus);
    assert_eq!(labels.len(), 4);
    assert!(labels.iter().all(|(_, names, classes, ratio, flagged)| {
        [*names, 0, 0, 0] == *classes && *ratio == Some(0.0) && !flagged && [25, 40].contains(names)
    }));
    assert_eq!(examples(&corpus).len(), 0);
}

#[test]
fn each_class_is_told_with_an_example() {
    let corpus = Corpus::new();
    let one = [
        annotated(
            "Paris, Jordan, New York University, École Normale and the Rhine",
            &[("Paris", "LOC"), ("Jordan", "LOC"), ("New York University", "LOC"), ("École Normale", "LOC"), ("Rhine", "LOC")],
        ),
        annotated("Texas is LOC twice: Texas", &[("Texas", "LOC")]),
    ];
    let two = [
        // What lies in a longer span is none: the first text answers for nothing.
        annotated("The University of Paris and the Jordanian Rhineland", &[("University of Paris", "ORG")]),
        annotated("In Paris", &[("Paris", "loc")]),
        annotated("Michael Jordan met Jordan", &[("Jordan", "PER")]),
        annotated("At New York University", &[("New York", "Loc")]),
        // Places are counted in characters, of which É is one.
        annotated("À l’École Normale, Supérieure", &[("Supérieure", "LOC")]),
    ];
    shard(&corpus.at("one/a.parquet"), "a", &one, Some("name"));
    shard(&corpus.at("two/a.parquet"), "b", &two, None);
    run(&corpus, "");
    let found = labels(&corpus);
    // Neither Texas nor the Rhine stand in the other source: no word is a part of another one.
    assert_eq!(found[0], ("one > two loc".into(), 6, [1, 1, 1, 1], Some(0.75), true));
    assert_eq!(found[1].0, "two > one loc");
    // New York is a part of what the other source labels, and Supérieure stands nowhere in it.
    assert_eq!((found[1].1, found[1].2), (3, [1, 0, 0, 0]));
    let told: BTreeSet<[String; 7]> = examples(&corpus).into_iter().filter(|row| row[0] == "one").collect();
    let wanted = [
        ["Jordan", "wrong", "per", "Michael Jordan met Jordan", "two/a.parquet:2"],
        ["New York University", "span", "New York", "At New York University", "two/a.parquet:3"],
        ["École Normale", "missing", "-", "À l’École Normale, Supérieure", "two/a.parquet:4"],
    ];
    let wanted = wanted.map(|row| {
        let [name, class, instead, excerpt, place] = row.map(str::to_owned);
        ["one".to_owned(), "loc".to_owned(), name, class, instead, excerpt, place]
    });
    assert_eq!(told, wanted.into_iter().collect());
}

/// Rows that nobody annotated are no texts, and entities that do not stand in their text are counted.
#[test]
fn what_is_not_annotated_or_not_sound_is_left_out_and_counted() {
    let corpus = Corpus::new();
    shard(&corpus.at("one/a.parquet"), "a", &[annotated("In Rome", &[("Rome", "LOC")])], Some("name"));
    let entity = |name: Option<&str>, label: Option<&str>, start, end| (name.map(str::to_owned), label.map(str::to_owned), start, end);
    let unsound = vec![
        entity(Some("Bern"), Some("LOC"), 0, 3),
        entity(None, Some("LOC"), -1, 3),
        entity(None, Some("LOC"), 3, 9),
        entity(None, Some("LOC"), 3, 3),
        entity(None, Some("LOC"), i32::MAX, i32::MIN),
        entity(None, None, 0, 2),
        entity(None, Some(""), 0, 2),
        // This one is sound: no name is told.
        entity(None, Some("LOC"), 3, 7),
    ];
    let two = [("To Rome".to_owned(), None), ("At Bern".to_owned(), Some(unsound)), ("Rome".to_owned(), Some(Vec::new()))];
    shard(&corpus.at("two/a.parquet"), "b", &two, Some("name"));
    run(&corpus, "");
    let said = report(&corpus);
    assert_eq!((&said["not_annotated"], &said["unsound_entities"]), (&1.into(), &7.into()));
    let found = labels(&corpus);
    assert_eq!(found[0], ("one > two loc".into(), 1, [0, 0, 0, 1], Some(1.0), true));
    assert_eq!(found[1], ("two > one loc".into(), 1, [0; 4], None, false));
    assert_eq!(report(&corpus)["worst_labels"].as_array().unwrap().len(), 1);
    assert_eq!(examples(&corpus)[0][6], "two/a.parquet:2");
}

#[test]
fn columns_without_entities_are_refused_by_type() {
    let corpus = Corpus::new();
    let (one, two) = planted();
    shard(&corpus.at("one/a.parquet"), "a", &one, None);
    shard(&corpus.at("two/a.parquet"), "b", &two, None);
    let stage = "  - { id: screen, input: [one, two], label_consistency_screen: { entities: text } }";
    let said = corpus.pipeline_with(SOURCES, stage, "parquet: { uri: out }").run(&[]).failed(3);
    assert!(said.contains("a column holds no entities stage=`screen` column=`text`"), "{said}");
    let tight = pipeline(&corpus, "").run(&["--overwrite", "--memory", "64MiB"]);
    tight.ok();
}

/// A shard that goes to another source changes what is compared, and a source of another name what is told: neither is taken from an
/// earlier run.
#[test]
fn other_sources_are_another_result() {
    let (one, two) = planted();
    let corpus = Corpus::new();
    shard(&corpus.at("in/a.parquet"), "a", &one, None);
    shard(&corpus.at("in/b.parquet"), "b", &two, None);
    shard(&corpus.at("in/c.parquet"), "c", &two[..9], None);
    let run = |sources: [(&str, &str); 2]| {
        let source = |(id, shards): (&str, &str)| format!("  {id}: {{ parquet: {{ uri: \"in/{shards}.parquet\", text: text, id: id }} }}");
        let [first, second] = sources.map(|(id, _)| id);
        let stage = format!("  - {{ id: screen, input: [{first}, {second}], label_consistency_screen: {{ entities: entities }} }}");
        corpus.pipeline_with(&sources.map(source).join("\n"), &stage, "parquet: { uri: out }").run(&["--overwrite"]).ok();
        labels(&corpus)
    };
    let first = run([("one", "a"), ("two", "[bc]")]);
    let other = run([("one", "[ab]"), ("two", "c")]);
    assert_eq!((first[0].2, other[0].2), ([28, 0, 0, 12], [9, 0, 0, 0]), "{first:?} {other:?}");
    let renamed = run([("one", "a"), ("three", "[bc]")]);
    assert_eq!((first[0].0.as_str(), renamed[0].0.as_str()), ("one > two org", "one > three org"));
    assert_eq!(run([("one", "a"), ("two", "[bc]")]), first);
}

/// Under a state the screen compares what is new, and its examples name rows of the run.
#[test]
fn an_increment_is_screened_by_itself() {
    let (one, two) = planted();
    let corpus = Corpus::new();
    let run = || {
        let stage = "  - { id: screen, input: [one, two], label_consistency_screen: { entities: entities } }";
        let text = format!(
            "version: 1\nname: t\nsources:\n{SOURCES}\nstages:\n{stage}\nsink: {{ parquet: {{ uri: \"out/{{version}}\" }} }}\nstate: {{ uri: state }}\n"
        );
        std::fs::write(corpus.at("p.yaml"), text).unwrap();
        trommel(corpus.path(), &["run", "p.yaml", "--quiet"]).ok();
    };
    shard(&corpus.at("one/a.parquet"), "a", &one[..5], None);
    shard(&corpus.at("two/a.parquet"), "b", &two[..5], None);
    run();
    shard(&corpus.at("one/b.parquet"), "c", &one, None);
    shard(&corpus.at("two/b.parquet"), "d", &two, None);
    run();
    let table = read_parquet(&corpus.at("out/2/tables/screen/examples.parquet"));
    let shards = arrow::compute::cast(table.column_by_name("shard").unwrap(), &DataType::Utf8).unwrap();
    assert_eq!(table.num_rows(), 12);
    assert!(shards.as_string::<i32>().iter().all(|shard| shard == Some("b.parquet")));
    let rows = table.column_by_name("row").unwrap().as_primitive::<UInt64Type>();
    let names = table.column_by_name("name").unwrap().as_string::<i32>();
    assert!(names.iter().zip(rows.values()).all(|(name, row)| name == Some(&format!("University of Town{row}"))));
}
