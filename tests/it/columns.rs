//! Columns of every kind, in shards that differ: what stages name is read alike, and what they do not name passes through untouched.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float16Array, Int32Array, Int64Array, Int64Builder, LargeBinaryArray, LargeStringArray, ListArray, MapBuilder,
    RecordBatch, StringArray, StringBuilder, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt8Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Int8Type, Schema, i256};

use crate::fixture::{Corpus, read_parquet, texts};

const EXACT: &str = "  - { id: exact, exact_dedup: { columns: [text] } }";

fn with_text(prefix: &str, texts: ArrayRef) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..texts.len()).map(|row| format!("{prefix}-{row}"))));
    RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("text", texts, true)]).unwrap()
}

#[test]
fn texts_of_all_encodings_are_compared_with_each_other() {
    let corpus = Corpus::new();
    let encodings = [
        ("a", DataType::Utf8),
        ("b", DataType::LargeUtf8),
        ("c", DataType::Utf8View),
        ("d", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))),
    ];
    for (shard, encoding) in &encodings {
        let own = format!("a text of {shard} alone, longer than a view holds");
        let rows = StringArray::from(vec![Some("shared by all"), Some(&own), None, Some(""), Some(&own), Some("shared by all")]);
        corpus.batch(&format!("{shard}.parquet"), &with_text(shard, cast(&rows, encoding).unwrap()), 4);
    }
    let wanted = ["a-0", "a-1", "a-2", "a-3", "b-1", "c-1", "d-1"];
    let stages = [
        EXACT.to_owned(),
        "  - { id: exact, exact_dedup: { columns: [text], normalize: [lowercase, collapse_whitespace] } }".to_owned(),
        format!(
            "  - {{ id: some, filter: {{ where: \"text is null or length(text) < 1000\" }} }}\n{EXACT}\n  - {{ id: v, embed: {{ model: builtin }} }}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.000001 }} }}"
        ),
    ];
    for stages in stages {
        corpus.pipeline(&stages).run(&["--overwrite"]).ok();
        assert_eq!(corpus.kept(), wanted, "{stages}");
        corpus.verify().ok();
        for (shard, encoding) in &encodings {
            let written = read_parquet(&corpus.at(&format!("out/data/{shard}.parquet")));
            assert_eq!(written.schema().field(1).data_type(), encoding, "a shard keeps its encoding");
            assert_eq!(written.schema(), read_parquet(&corpus.at(&format!("in/{shard}.parquet"))).schema());
        }
    }
}

/// Which row of equal ones `keep: {by}` keeps: the same by `exact_dedup` and by `semantic_dedup`, in the exact order of the values.
#[test]
fn keep_by_a_column_is_exact_and_alike_in_all_stages() {
    let vectors = |rows: usize| -> ArrayRef {
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>((0..rows).map(|_| Some(vec![Some(1.0), Some(0.5)])), 2))
    };
    let run = |parts: &[ArrayRef], order: &str, semantic: bool| {
        let corpus = Corpus::new();
        let mut sources = Vec::new();
        for (source, part) in parts.iter().enumerate() {
            let texts: ArrayRef = Arc::new(StringArray::from(vec!["same"; part.len()]));
            let batch = with_text(&format!("s{source}"), texts);
            let columns = [
                ("id", Arc::clone(batch.column(0))),
                ("text", Arc::clone(batch.column(1))),
                ("v", vectors(part.len())),
                ("by", Arc::clone(part)),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap();
            crate::fixture::write_shard(&corpus.at(&format!("s{source}/a.parquet")), &batch, 2);
            sources.push(format!("  s{source}: {{ parquet: {{ uri: s{source}, text: text, id: id }} }}"));
        }
        let names: Vec<String> = (0..parts.len()).map(|source| format!("s{source}")).collect();
        let keep = format!("keep: {{ by: by, order: {order} }}");
        let stage = if semantic {
            format!(
                "  - {{ id: e, input: [{}], embed: {{ from: v }} }}\n  - {{ id: near, semantic_dedup: {{ epsilon: 0.1, {keep} }} }}",
                names.join(", ")
            )
        } else {
            format!("  - {{ id: exact, input: [{}], exact_dedup: {{ columns: [text], {keep} }} }}", names.join(", "))
        };
        corpus.pipeline_with(&sources.join("\n"), &stage, "parquet: { uri: out }").run(&[]).ok();
        corpus.verify().ok();
        let kept = corpus.kept();
        assert_eq!(kept.len(), 1);
        kept[0].clone()
    };
    let check = |parts: &[ArrayRef], least: &str, greatest: &str| {
        for (order, wanted) in [("asc", least), ("desc", greatest)] {
            for semantic in [false, true] {
                let kinds: Vec<_> = parts.iter().map(|part| part.data_type().to_string()).collect();
                assert_eq!(run(parts, order, semantic), wanted, "{kinds:?} {order} semantic: {semantic}");
            }
        }
    };
    let decimal = |values: &[Option<i128>], precision: u8, scale: i8| -> ArrayRef {
        Arc::new(values.iter().copied().collect::<Decimal128Array>().with_precision_and_scale(precision, scale).unwrap())
    };
    // Doubles have 53 bits: all of these would be one.
    let large = 12_345_678_901_234_567_890_123_456_789_i128;
    check(&[decimal(&[Some(large), None, Some(large + 1), Some(large - 1), Some(large)], 38, 4)], "s0-3", "s0-2");
    // Sources of different scales compare by value.
    check(&[decimal(&[Some(large), Some(150)], 38, 2), decimal(&[Some(large * 100 + 1), Some(14_999)], 38, 4)], "s1-1", "s1-0");
    check(&[decimal(&[Some(2)], 38, 0), decimal(&[Some(-1), Some(1)], 38, 38)], "s1-0", "s0-0");
    check(
        &[cast(&decimal(&[Some(3), Some(1)], 9, 0), &DataType::Decimal32(9, 0)).unwrap(), decimal(&[Some(301), Some(99)], 20, 2)],
        "s1-1",
        "s1-0",
    );
    let wide = |values: &[i128]| -> ArrayRef {
        let values = values.iter().map(|value| Some(i256::from_i128(i128::MAX) + i256::from_i128(*value)));
        Arc::new(values.collect::<Decimal256Array>().with_precision_and_scale(60, 10).unwrap())
    };
    check(&[wide(&[5, 7, 4, 6])], "s0-2", "s0-1");
    // Nanoseconds are not cut to microseconds.
    check(
        &[Arc::new(TimestampNanosecondArray::from(vec![1_000_000_000_000_000_500, 1_000_000_000_000_000_400, 1_000_000_000_000_000_501]))],
        "s0-1",
        "s0-2",
    );
    check(&[Arc::new(Int64Array::from(vec![None, Some(i64::MAX - 1), Some(i64::MAX), Some(i64::MIN)]))], "s0-3", "s0-2");
    check(&[Arc::new(arrow::array::UInt64Array::from(vec![u64::MAX, u64::MAX - 1]))], "s0-1", "s0-0");
    check(
        &[Arc::new(arrow::array::Float64Array::from(vec![Some(0.0), Some(-0.0), None, Some(1e300), Some(f64::NAN), Some(-1e300)]))],
        "s0-5",
        "s0-4",
    );
    check(&[Arc::new(BooleanArray::from(vec![None, Some(true), Some(false)]))], "s0-2", "s0-1");
    check(&[Arc::new(StringArray::from(vec![None, Some("b"), Some("a"), Some("é")]))], "s0-2", "s0-3");
    check(&[Arc::new(Date32Array::from(vec![3, -4, 9]))], "s0-1", "s0-2");
    // Ties go to the first, nulls come last.
    check(&[decimal(&[None, Some(1), Some(1), None], 10, 2)], "s0-1", "s0-1");
}

/// A source that two stages compare with others is read in one type for both.
#[test]
fn types_are_widened_over_all_stages() {
    let corpus = Corpus::new();
    for (source, scale) in [("s1", 2_i8), ("s2", 3), ("s3", 4)] {
        let values: Decimal128Array = [15, 7].into_iter().map(|value| Some(value * 10_i128.pow(u32::from(scale.unsigned_abs())))).collect();
        let prices: ArrayRef = Arc::new(values.with_precision_and_scale(10, scale).unwrap());
        let ids: ArrayRef = Arc::new(StringArray::from(vec![format!("{source}-0"), format!("{source}-1")]));
        let batch = RecordBatch::try_from_iter([("id", ids), ("price", prices)]).unwrap();
        crate::fixture::write_shard(&corpus.at(&format!("{source}/a.parquet")), &batch, 2);
    }
    let sources = ["s1", "s2", "s3"].map(|source| format!("  {source}: {{ parquet: {{ uri: {source}, id: id }} }}")).join("\n");
    let stages = "  - { id: x, input: [s1, s2], exact_dedup: { columns: [price], keep: { by: price } } }
  - { id: y, input: [s2, s3], exact_dedup: { columns: [price], keep: { by: price } } }
  - { id: end, input: [x, y], filter: { where: \"true\" } }";
    corpus.pipeline_with(&sources, stages, "parquet: { uri: out }").run(&[]).ok();
    // Of s2 the second branch keeps what the first drops.
    assert_eq!(corpus.kept(), ["s1-0", "s1-1", "s2-0", "s2-1"]);
    corpus.verify().ok();
}

/// A batch of many types; a row's values depend on its number, and every nullable column has nulls.
fn everything(rows: usize) -> RecordBatch {
    let null = |row: usize, every: usize| row % every == every - 1;
    let number = |every: usize| (0..rows).map(move |row| (!null(row, every)).then_some(row as i64));
    let nulls = |every: usize| Some(NullBuffer::from_iter((0..rows).map(|row| !null(row, every))));
    let text: StringArray = (0..rows).map(|row| Some(format!("text {}", row * row % 17))).collect();
    let id: StringArray = (0..rows).map(|row| Some(format!("r{row}"))).collect();

    // list<struct<a: int32, b: list<utf8>>>, row r holding r % 3 structs.
    let lengths: Vec<usize> = (0..rows).map(|row| if null(row, 5) { 0 } else { row % 3 }).collect();
    let structs: usize = lengths.iter().sum();
    let words: StringArray = (0..structs * 2).map(|at| (at % 4 != 1).then(|| format!("w{at}"))).collect();
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let inner = ListArray::new(item(DataType::Utf8), OffsetBuffer::from_lengths(vec![2; structs]), Arc::new(words), None);
    let fields = Fields::from(vec![
        Field::new("a", DataType::Int32, true).with_metadata(HashMap::from([("unit".into(), "parsec".into())])),
        Field::new("b", inner.data_type().clone(), false),
    ]);
    let a = Int32Array::from_iter((0..structs).map(|at| (at % 3 != 0).then_some(at as i32)));
    let made =
        StructArray::new(fields, vec![Arc::new(a), Arc::new(inner)], Some(NullBuffer::from_iter((0..structs).map(|at| at % 7 != 3))));
    let list = ListArray::new(item(made.data_type().clone()), OffsetBuffer::from_lengths(lengths), Arc::new(made), nulls(5));

    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..rows {
        for entry in 0..row % 4 {
            map.keys().append_value(format!("k{entry}"));
            map.values().append_option((entry != 2).then_some(row as i64));
        }
        map.append(!null(row, 6)).unwrap();
    }

    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("nested", Arc::new(list), true),
        ("id", Arc::new(id), false),
        ("map", Arc::new(map.finish()), true),
        (
            "decimal",
            Arc::new(
                number(4)
                    .map(|n| n.map(|n| i128::from(n) * -12_345_678_901))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(20, 4)
                    .unwrap(),
            ),
            true,
        ),
        (
            "decimal256",
            Arc::new(
                number(3)
                    .map(|n| n.map(|n| i256::from_i128(i128::MAX) + i256::from_i128(n.into())))
                    .collect::<Decimal256Array>()
                    .with_precision_and_scale(60, 10)
                    .unwrap(),
            ),
            true,
        ),
        ("at", Arc::new(number(7).collect::<TimestampMicrosecondArray>().with_timezone("Europe/Berlin")), true),
        ("at_ns", Arc::new(number(8).collect::<TimestampNanosecondArray>()), true),
        ("text", Arc::new(text), true),
        ("binary", Arc::new(number(3).map(|n| n.map(i64::to_le_bytes)).collect::<BinaryArray>()), true),
        ("large_binary", Arc::new(number(4).map(|n| n.map(|n| vec![0xff; n as usize % 5])).collect::<LargeBinaryArray>()), true),
        (
            "fixed_binary",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(number(3).map(|n| n.map(|n| (n as u32).to_be_bytes())), 4).unwrap(),
            ),
            true,
        ),
        (
            "dictionary",
            Arc::new((0..rows).map(|row| (!null(row, 4)).then_some(["x", "y"][row % 2])).collect::<DictionaryArray<Int8Type>>()),
            true,
        ),
        (
            "view",
            Arc::new(
                (0..rows).map(|row| (!null(row, 4)).then(|| format!("a text that no view can hold {row}"))).collect::<StringViewArray>(),
            ),
            true,
        ),
        ("large", Arc::new((0..rows).map(|row| Some(format!("{row}"))).collect::<LargeStringArray>()), true),
        (
            "vector",
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                (0..rows).map(|row| (!null(row, 9)).then(|| vec![Some(row as f32), Some(f32::NAN), None])),
                3,
            )),
            true,
        ),
        ("half", Arc::new((0..rows).map(|row| Some(half::f16::from_f32(row as f32))).collect::<Float16Array>()), true),
        ("day", Arc::new(number(3).map(|n| n.map(|n| n as i32)).collect::<Date32Array>()), true),
        ("time", Arc::new(number(3).collect::<Time64MicrosecondArray>()), true),
        ("byte", Arc::new((0..rows).map(|row| row as u8).map(Some).collect::<UInt8Array>()), false),
        ("flag", Arc::new((0..rows).map(|row| (row % 3 != 0).then_some(row % 2 == 0)).collect::<BooleanArray>()), true),
        ("never", Arc::new(arrow::array::NullArray::new(rows)), true),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array, nullable)| {
            let metadata = HashMap::from([("origin".to_owned(), format!("column {name}")), ("empty".to_owned(), String::new())]);
            Field::new(*name, array.data_type().clone(), *nullable).with_metadata(metadata)
        })
        .collect();
    let metadata = HashMap::from([("corpus".to_owned(), "ünïcode \"quoted\"".to_owned()), ("pandas".to_owned(), "{}".to_owned())]);
    RecordBatch::try_new(Arc::new(Schema::new(fields).with_metadata(metadata)), columns.into_iter().map(|(_, array, _)| array).collect())
        .unwrap()
}

/// `NaN` is not equal to itself: batches are compared as text, and by type.
#[track_caller]
fn assert_same(found: &RecordBatch, wanted: &RecordBatch) {
    assert_eq!(found.schema(), wanted.schema());
    assert_eq!(found.num_rows(), wanted.num_rows());
    for (index, field) in wanted.schema().fields().iter().enumerate() {
        let (found, wanted) = (found.column(index).to_data(), wanted.column(index).to_data());
        if field.name() == "vector" {
            assert_eq!(format!("{:?}", arrow::array::make_array(found)), format!("{:?}", arrow::array::make_array(wanted)));
        } else {
            assert_eq!(found, wanted, "column `{}`", field.name());
        }
    }
}

#[test]
fn columns_that_no_stage_names_pass_through_untouched() {
    let corpus = Corpus::new();
    corpus.batch("a.parquet", &everything(60), 7).batch("b.parquet", &everything(31), 1000);
    let stages = format!("  - {{ id: some, filter: {{ where: \"byte % 5 <> 2 and flag is not false\" }} }}\n{EXACT}");
    let source = "  c: { parquet: { uri: in, text: text, id: id } }";
    for (layout, batch_rows) in [("mirror", "8192"), ("mirror", "3"), ("{ packed: { target: 1MiB } }", "8192")] {
        corpus
            .pipeline_with(source, &stages, &format!("parquet: {{ uri: out, layout: {layout} }}"))
            .run(&["--overwrite", "--batch-rows", batch_rows])
            .ok();
        let lineage = corpus.lineage();
        let mut kept = Vec::new();
        for shard in ["a.parquet", "b.parquet"] {
            let input = read_parquet(&corpus.at("in").join(shard));
            let mask: BooleanArray = lineage.iter().filter(|row| row.shard == shard).map(|row| Some(row.decision == "keep")).collect();
            assert_eq!(mask.len(), input.num_rows());
            kept.push(filter_record_batch(&input, &mask).unwrap());
        }
        assert!(kept[0].num_rows() > 5 && kept[0].num_rows() < 40);
        if layout == "mirror" {
            assert_same(&read_parquet(&corpus.at("out/data/a.parquet")), &kept[0]);
            assert_same(&read_parquet(&corpus.at("out/data/b.parquet")), &kept[1]);
        } else {
            let all = arrow::compute::concat_batches(&kept[0].schema(), &kept).unwrap();
            assert_same(&read_parquet(&corpus.at("out/data/part-000000.parquet")), &all);
        }
        corpus.verify().ok();
    }
    // Annotated: all rows, the input's columns first.
    corpus.pipeline_with(source, &stages, "parquet: { uri: out, write: annotate }").run(&["--overwrite"]).ok();
    let (input, annotated) = (read_parquet(&corpus.at("in/a.parquet")), read_parquet(&corpus.at("out/data/a.parquet")));
    let own: Vec<usize> = (0..input.num_columns()).collect();
    assert_same(&annotated.project(&own).unwrap(), &input);
    corpus.verify().ok();
}

#[test]
fn shards_differ_in_columns_that_no_stage_names() {
    let corpus = Corpus::new();
    let base = |shard: &str| with_text(shard, Arc::new(StringArray::from(vec!["same", "same", shard])));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let added = |batch: &RecordBatch, name: &str, array: ArrayRef| {
        let columns = batch.schema().fields().iter().map(|field| field.name().clone()).zip(batch.columns().to_vec()).collect::<Vec<_>>();
        RecordBatch::try_from_iter(columns.into_iter().chain([(name.to_owned(), array)])).unwrap()
    };
    let a = added(&base("a"), "n", Arc::clone(&numbers));
    // The same name with another type, and another order of columns.
    let b = added(&base("b"), "n", Arc::new(StringArray::from(vec![Some("x"), None, Some("z")]))).project(&[2, 1, 0]).unwrap();
    let c = added(&base("c"), "flags", Arc::new(BooleanArray::from(vec![true, false, true])));
    corpus.batch("a.parquet", &a, 10).batch("b.parquet", &b, 10).batch("c.parquet", &c, 10);
    corpus.pipeline(EXACT).run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-0", "a-2", "b-2", "c-2"]);
    for (shard, input, rows) in
        [("a", &a, vec![true, false, true]), ("b", &b, vec![false, false, true]), ("c", &c, vec![false, false, true])]
    {
        assert_same(&read_parquet(&corpus.at(&format!("out/data/{shard}.parquet"))), &filter_record_batch(input, &rows.into()).unwrap());
    }
    corpus.verify().ok();
}

#[test]
fn types_that_do_not_go_together_are_one_message_by_schema() {
    let corpus = Corpus::new();
    for shard in ["a", "b", "d"] {
        corpus.batch(&format!("{shard}.parquet"), &with_text(shard, Arc::new(StringArray::from(vec!["x"]))), 10);
    }
    for shard in ["c", "e"] {
        corpus.batch(&format!("{shard}.parquet"), &with_text(shard, Arc::new(Int64Array::from(vec![1]))), 10);
    }
    let said = corpus.pipeline(EXACT).run(&[]).failed(3);
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    for part in
        ["column `text` must be text", "of type Int64 in `c.parquet`, `e.parquet`", "of type Utf8 in `a.parquet`, `b.parquet`, `d.parquet`"]
    {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!corpus.at("out").exists());
    // A column that is no text in any shard, and one whose numbers do not go together.
    let corpus = Corpus::new();
    let one =
        |array: ArrayRef| RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["i"])) as ArrayRef), ("n", array)]).unwrap();
    corpus.batch("a.parquet", &one(Arc::new(Int64Array::from(vec![1]))), 10).batch(
        "b.parquet",
        &one(Arc::new(StringArray::from(vec!["1"]))),
        10,
    );
    let source = "  c: { parquet: { uri: in, id: id } }";
    let said = corpus.pipeline_with(source, "  - { id: f, filter: { where: \"n > 0\" } }", "parquet: { uri: out }").run(&[]).failed(3);
    assert!(said.contains("column `n` must have one type"), "{said}");
}

#[test]
fn integers_of_several_widths_are_read_as_the_widest() {
    let corpus = Corpus::new();
    let one = |shard: &str, array: ArrayRef| {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..array.len()).map(|row| format!("{shard}-{row}"))));
        RecordBatch::try_from_iter([("id", ids), ("n", array)]).unwrap()
    };
    corpus.batch("a.parquet", &one("a", Arc::new(Int32Array::from(vec![1, 7]))), 10);
    corpus.batch("b.parquet", &one("b", Arc::new(Int64Array::from(vec![7, 1 << 40]))), 10);
    let source = "  c: { parquet: { uri: in, id: id } }";
    let stages = "  - { id: f, filter: { where: \"n > 1\" } }\n  - { id: exact, exact_dedup: { columns: [n], keep: { by: n } } }";
    corpus.pipeline_with(source, stages, "parquet: { uri: out }").run(&[]).ok();
    assert_eq!(corpus.kept(), ["a-1", "b-1"]);
    assert_eq!(read_parquet(&corpus.at("out/data/a.parquet")).schema().field(1).data_type(), &DataType::Int32);
}

#[test]
fn partitions_and_odd_names_keep_their_paths() {
    let corpus = Corpus::new();
    let names = ["year=2024/month=01/x.parquet", "year=2024/month=02/x.parquet", "größe und maß/日本 1.parquet", "a%20b#c[1] 'q'.parquet"];
    for (at, name) in names.iter().enumerate() {
        corpus.batch(name, &texts(&format!("s{at}-"), &[Some("same"), Some(name)]), 10);
    }
    for (uri, shards) in [("in/", &names[..]), ("in/**/*.parquet", &names[..]), ("in/year=*/month=0[12]/*.parquet", &names[..2])] {
        corpus
            .pipeline_with(&format!("  c: {{ parquet: {{ uri: \"{uri}\", text: text, id: id }} }}"), EXACT, "parquet: { uri: out }")
            .run(&["--overwrite"])
            .ok();
        for name in shards {
            assert_eq!(read_parquet(&corpus.at("out/data").join(name)).schema(), texts("", &[]).schema(), "{name}");
        }
        let mut lineage: Vec<String> = corpus.lineage().into_iter().map(|row| row.shard).collect();
        lineage.dedup();
        let mut wanted = shards.to_vec();
        wanted.sort_unstable();
        assert_eq!(lineage, wanted, "in the order of the bytes of their paths");
        corpus.verify().ok();
    }
}

#[test]
fn a_link_that_leaves_the_folder_is_refused() {
    let corpus = Corpus::new();
    corpus.shard("a.parquet", &[Some("x")]);
    std::fs::create_dir(corpus.at("outside")).unwrap();
    std::fs::rename(corpus.at("in/a.parquet"), corpus.at("outside/a.parquet")).unwrap();
    corpus.shard("b.parquet", &[Some("x")]);
    std::os::unix::fs::symlink(corpus.at("outside/a.parquet"), corpus.at("in/a.parquet")).unwrap();
    let said = corpus.pipeline(EXACT).run(&[]).failed(3);
    assert!(said.contains("link leaves the folder") && said.contains("in/a.parquet"), "{said}");
    std::fs::remove_file(corpus.at("in/a.parquet")).unwrap();
    std::os::unix::fs::symlink(corpus.at("outside"), corpus.at("in/more")).unwrap();
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("link to a folder"), "{said}");
    assert!(!corpus.at("out").exists());
    // A link that stays inside is a shard of its own name.
    std::fs::remove_file(corpus.at("in/more")).unwrap();
    std::os::unix::fs::symlink("b.parquet", corpus.at("in/c.parquet")).unwrap();
    corpus.run(&[]).ok();
    assert_eq!(corpus.kept(), ["b-0"]);
}
