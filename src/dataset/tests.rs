//! The oracle of pruning is Arrow's own `filter` over what an independent reader gives back.

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{BooleanBuffer, OffsetBuffer};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::*;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use proptest::prelude::*;

use crate::dataset::quarantine::OnCorrupt;
use crate::dataset::reader::{ROW_COLUMN, ReadRequest, read};
use crate::dataset::schema::{NeededColumn, Wanted, reconcile};
use crate::dataset::snapshot::{Snapshot, SourceSpec, take};
use crate::dataset::writer::{ShardWriter, WriterOptions, Written};
use crate::dataset::{pack, preflight};
use crate::error::Kind;
use crate::storage::local::Selection;

fn snapshot(folder: &Path) -> crate::error::Result<Snapshot> {
    take(&[SourceSpec {
        name: "crawl".into(),
        uri: "in/*.parquet".into(),
        base: folder.to_owned(),
        selection: Selection::Folder(".parquet".into()),
        on_corrupt: OnCorrupt::Fail,
    }])
}

fn write(path: &Path, batches: &[RecordBatch], properties: WriterPropertiesBuilder, group_rows: usize) {
    let properties = properties.set_max_row_group_row_count(Some(group_rows.max(1))).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
}

fn read_all(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let schema = Arc::clone(builder.schema());
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Prunes the only shard of a folder.
fn prune(folder: &Path, keep: &BooleanBuffer, options: WriterOptions) -> (RecordBatch, Written) {
    let snapshot = snapshot(folder).unwrap();
    let path = folder.join("pruned.out");
    let mut writer = ShardWriter::create(&path, &snapshot.shards[0], options).unwrap();
    writer.append(&snapshot.shards[0], keep, &[]).unwrap();
    let written = writer.finish().unwrap();
    assert_eq!(written.bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(written.hash, blake3::hash(&std::fs::read(&path).unwrap()).into());
    (read_all(&path), written)
}

fn filtered(batch: &RecordBatch, keep: &BooleanBuffer) -> RecordBatch {
    filter_record_batch(batch, &BooleanArray::new(keep.clone(), None)).unwrap()
}

fn texts(rows: usize) -> StringArray {
    (0..rows).map(|row| (row % 7 != 3).then(|| format!("text {row} {}", "word ".repeat(row % 50)))).collect()
}

/// One column of nearly every type, some with nulls, nested ones too.
fn every_type(rows: usize) -> RecordBatch {
    let some = |row: usize| row % 5 != 2;
    let ints: Vec<Option<i32>> = (0..rows).map(|row| some(row).then_some(row as i32 - 3)).collect();
    let int32: ArrayRef = Arc::new(Int32Array::from(ints.clone()));
    let cast = |to: DataType| arrow::compute::cast(&int32, &to).unwrap();
    let text: ArrayRef = Arc::new(texts(rows));
    let text_as = |to: DataType| arrow::compute::cast(&text, &to).unwrap();
    let lengths = || OffsetBuffer::<i32>::from_lengths((0..rows).map(|row| row % 3));
    let total = (0..rows).map(|row| row % 3).sum::<usize>();
    let list_field = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let list = ListArray::new(list_field, lengths(), Arc::new(texts(total)), Some((0..rows).map(some).collect::<Vec<_>>().into()));
    let large = LargeListArray::new(
        Arc::new(Field::new_list_field(DataType::Float32, false)),
        OffsetBuffer::<i64>::from_lengths((0..rows).map(|row| row % 4)),
        Arc::new(Float32Array::from_iter_values((0..(0..rows).map(|row| row % 4).sum::<usize>()).map(|x| x as f32))),
        None,
    );
    let fixed = FixedSizeListArray::new(
        Arc::new(Field::new_list_field(DataType::Float32, true)),
        3,
        Arc::new(Float32Array::from_iter_values((0..rows * 3).map(|x| x as f32))),
        None,
    );
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int32, true)), Arc::clone(&int32)),
        (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::clone(&text)),
    ]);
    let nested = StructArray::from(vec![
        (Arc::new(Field::new("list", list.data_type().clone(), true)), Arc::new(list.clone()) as ArrayRef),
        (Arc::new(Field::new("inner", inner.data_type().clone(), false)), Arc::new(inner) as ArrayRef),
    ]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..rows {
        for key in 0..row % 3 {
            map.keys().append_value(format!("k{key}"));
            map.values().append_option(some(row).then_some(row as i64));
        }
        map.append(some(row)).unwrap();
    }
    let dictionary: DictionaryArray<Int16Type> = (0..rows).map(|row| some(row).then_some(["x", "y", "z"][row % 3])).collect();
    let constant: StringArray = (0..rows).map(|_| Some("en")).collect();
    let binary: BinaryArray = (0..rows).map(|row| some(row).then(|| vec![row as u8; row % 9])).collect();
    let fixed_binary = FixedSizeBinaryArray::try_from_iter((0..rows.max(1)).map(|row| [row as u8; 5])).unwrap().slice(0, rows);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::clone(&text)),
        ("large_text", text_as(DataType::LargeUtf8)),
        ("view_text", text_as(DataType::Utf8View)),
        ("required_text", Arc::new((0..rows).map(|row| Some(format!("id-{row}"))).collect::<StringArray>())),
        ("constant", Arc::new(constant)),
        ("dictionary", Arc::new(dictionary)),
        ("binary", Arc::new(binary)),
        ("fixed_binary", Arc::new(fixed_binary)),
        ("bool", Arc::new((0..rows).map(|row| some(row).then_some(row % 2 == 0)).collect::<BooleanArray>())),
        ("int8", cast(DataType::Int8)),
        ("uint16", Arc::new(UInt16Array::from_iter_values((0..rows).map(|row| row as u16)))),
        ("int32", Arc::clone(&int32)),
        ("uint64", Arc::new(UInt64Array::from_iter_values((0..rows).map(|row| u64::MAX - row as u64)))),
        ("float16", cast(DataType::Float16)),
        ("float64", cast(DataType::Float64)),
        ("decimal", cast(DataType::Decimal128(20, 3))),
        ("decimal256", cast(DataType::Decimal256(50, 2))),
        ("date32", cast(DataType::Date32)),
        ("date64", arrow::compute::cast(&cast(DataType::Date32), &DataType::Date64).unwrap()),
        ("time", cast(DataType::Time32(TimeUnit::Millisecond))),
        ("timestamp", arrow::compute::cast(&cast(DataType::Int64), &DataType::Timestamp(TimeUnit::Nanosecond, None)).unwrap()),
        (
            "zoned",
            arrow::compute::cast(&cast(DataType::Int64), &DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Paris".into()))).unwrap(),
        ),
        ("seconds", arrow::compute::cast(&cast(DataType::Int64), &DataType::Timestamp(TimeUnit::Second, None)).unwrap()),
        ("duration", arrow::compute::cast(&cast(DataType::Int64), &DataType::Duration(TimeUnit::Millisecond)).unwrap()),
        ("list", Arc::new(list)),
        ("large_list", Arc::new(large)),
        ("fixed_list", Arc::new(fixed)),
        ("struct", Arc::new(nested)),
        ("map", Arc::new(map.finish())),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| {
            let nullable = !matches!(*name, "required_text" | "uint16" | "uint64" | "fixed_binary" | "large_list" | "fixed_list");
            Field::new(*name, array.data_type().clone(), nullable).with_metadata([("unit".to_owned(), format!("of {name}"))].into())
        })
        .collect();
    let schema = Schema::new_with_metadata(fields, [("origin".to_owned(), "test".to_owned())].into());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
}

fn codec(index: usize) -> Compression {
    [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
    ][index % 6]
}

fn properties(codec_index: usize, dictionary: bool, version2: bool, page_rows: usize) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(codec(codec_index))
        .set_dictionary_enabled(dictionary)
        .set_writer_version(if version2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows.min(16))
        .set_dictionary_page_size_limit(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn a_pruned_shard_is_the_filtered_shard(
        rows in 1_usize..160, group_rows in 1_usize..90, page_rows in 1_usize..40, codec_index in 0_usize..6, dictionary: bool,
        version2: bool, copy: bool, density in 0_usize..6, seed: u64, cut in proptest::option::of(1_u64..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("a.parquet");
        // Version 2 of the writer uses delta encodings for some columns unless told otherwise.
        write(&input, &[every_type(rows)], properties(codec_index, dictionary, version2, page_rows), group_rows);
        let mut random = crate::random::Random::new(seed, "mask").sequence(b"");
        // From nothing kept to everything kept, and masks that lose whole runs so that pages and row groups stay untouched.
        let keep = match density {
            0 => BooleanBuffer::new_unset(rows),
            1 => BooleanBuffer::new_set(rows),
            2 => { let lost = random.below(rows as u64) as usize; BooleanBuffer::collect_bool(rows, |row| row != lost) }
            3 => { let from = random.below(rows as u64) as usize; BooleanBuffer::collect_bool(rows, |row| row < from) }
            _ => BooleanBuffer::collect_bool(rows, |_| random.unit() < 0.5),
        };
        let before = read_all(&input);
        let options = WriterOptions { copy, row_group_rows: cut, ..WriterOptions::default() };
        let (after, written) = prune(folder.path(), &keep, options);
        prop_assert_eq!(after.schema(), before.schema());
        prop_assert_eq!(written.rows, keep.count_set_bits() as u64);
        prop_assert_eq!(after, filtered(&before, &keep));
        if density == 1 && copy && cut.is_none() {
            prop_assert_eq!(written.bytes_encoded, 0);
        }
    }

    #[test]
    fn selected_rows_come_with_their_numbers(
        rows in 1_usize..200, group_rows in 1_usize..90, batch_rows in 1_usize..70, limit in 0_u64..250, seed: u64, select: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let batch = every_type(rows);
        write(&folder.path().join("a.parquet"), std::slice::from_ref(&batch), properties(3, true, false, 20), group_rows);
        let mut snapshot = snapshot(folder.path()).unwrap();
        snapshot.limit_rows(limit);
        let shard = &snapshot.shards[0];
        let used = shard.rows_used as usize;
        prop_assert_eq!(used, rows.min(limit as usize));
        let mut random = crate::random::Random::new(seed, "mask").sequence(b"");
        let mask = BooleanBuffer::collect_bool(used, |_| random.unit() < 0.4);
        let request = ReadRequest { columns: &["int32", "text"], schema: None, selection: select.then_some(&mask), batch_rows };
        let (mut numbers, mut seen) = (vec![], vec![]);
        for read in read(shard, request).unwrap() {
            let read = read.unwrap();
            prop_assert!(read.num_rows() <= batch_rows);
            let schema = read.schema();
            prop_assert_eq!(schema.field(2).name(), ROW_COLUMN);
            numbers.extend(read.column(2).as_primitive::<UInt64Type>().values().iter().map(|row| *row as usize));
            // Texts are read as views.
            seen.extend(read.column(1).as_string_view().iter().map(|text| text.map(str::to_owned)));
        }
        let wanted: Vec<usize> = (0..used).filter(|row| !select || mask.value(*row)).collect();
        let oracle = batch.column_by_name("text").unwrap().as_string::<i32>();
        prop_assert_eq!(seen, wanted.iter().map(|row| oracle.is_valid(*row).then(|| oracle.value(*row).to_owned())).collect::<Vec<_>>());
        prop_assert_eq!(numbers, wanted);
    }
}

#[test]
fn copied_and_encoded_shards_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("a.parquet");
    write(&input, &[every_type(500)], properties(3, true, false, 30), 100);
    let keep = BooleanBuffer::collect_bool(500, |row| row != 250);
    let (copied, with) = prune(folder.path(), &keep, WriterOptions::default());
    let (encoded, without) = prune(folder.path(), &keep, WriterOptions { copy: false, ..WriterOptions::default() });
    assert_eq!(copied, encoded);
    assert!(with.bytes_copied > with.bytes_encoded && without.bytes_copied == 0, "{with:?} {without:?}");
    assert_eq!(with.row_groups, 5);
}

#[test]
fn pages_that_lose_no_row_are_copied_and_dropped_values_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret that must go";
    let text: StringArray =
        (0..4_000)
            .map(|row| {
                if row == 1_234 {
                    Some(secret.to_owned())
                } else {
                    Some(format!("{row} {}", blake3::hash(&[row as u8, (row / 256) as u8])))
                }
            })
            .collect();
    let batch = RecordBatch::try_from_iter([("text", Arc::new(text) as ArrayRef)]).unwrap();
    let keep = BooleanBuffer::collect_bool(4_000, |row| row != 1_234);
    for dictionary in [false, true] {
        let level = properties(3, dictionary, false, 100).set_dictionary_page_size_limit(1 << 24);
        write(&folder.path().join("a.parquet"), std::slice::from_ref(&batch), level, 4_000);
        let (after, written) = prune(folder.path(), &keep, WriterOptions { zstd_level: 1, ..WriterOptions::default() });
        assert_eq!(after, filtered(&batch, &keep));
        assert_eq!(written.bytes_copied > written.bytes_encoded, !dictionary, "{written:?}");
        // Nothing that was dropped may stay in the file, statistics and dictionaries included.
        let reader = parquet::file::reader::SerializedFileReader::try_from(folder.path().join("pruned.out").as_path()).unwrap();
        use parquet::file::reader::FileReader;
        let group = reader.get_row_group(0).unwrap();
        for page in group.get_column_page_reader(0).unwrap() {
            let page = page.unwrap();
            assert!(!page.buffer().windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
        assert!(!format!("{:?}", group.metadata().column(0).statistics()).contains("secret"));
    }
}

#[test]
fn shards_whose_schema_does_not_come_back_are_decoded_and_keep_their_types() {
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type as ParquetInt32, Int96, Int96Type};
    use parquet::file::writer::SerializedFileWriter;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema =
        "message legacy { optional int96 time; optional group list (LIST) { repeated int32 array; } required binary text (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, Arc::new(WriterProperties::default())).unwrap();
    for _ in 0..2 {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let mut time = Int96::new();
        time.set_data(0, 0, 2_440_589);
        column.typed::<Int96Type>().write_batch(&[time, time], Some(&[1, 0, 1]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ParquetInt32>().write_batch(&[1, 2, 3], Some(&[2, 2, 1, 2]), Some(&[0, 1, 0, 0])).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&[ByteArray::from("a"), ByteArray::from("b"), ByteArray::from("c")], None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    let before = read_all(&path);
    assert_eq!(before.schema().field(0).data_type(), &DataType::Timestamp(TimeUnit::Nanosecond, None));
    for keep in [BooleanBuffer::new_set(6), BooleanBuffer::collect_bool(6, |row| row != 1)] {
        let (after, written) = prune(folder.path(), &keep, WriterOptions::default());
        assert_eq!(after.schema().fields(), before.schema().fields());
        assert_eq!(after.columns(), filtered(&before, &keep).columns());
        assert_eq!(written.bytes_copied, 0);
    }
}

#[test]
fn extra_columns_follow_the_inputs_own() {
    let folder = tempfile::tempdir().unwrap();
    let batch = every_type(300);
    write(&folder.path().join("a.parquet"), std::slice::from_ref(&batch), properties(3, true, false, 50), 100);
    let snapshot = snapshot(folder.path()).unwrap();
    let decision: ArrayRef = Arc::new((0..300).map(|row| Some(if row % 2 == 0 { "keep" } else { "drop" })).collect::<StringArray>());
    let score: ArrayRef = Arc::new((0..300).map(|row| (row % 3 == 0).then_some(f64::from(row))).collect::<Float64Array>());
    let extra = vec![
        Arc::new(Field::new("trommel_decision", DataType::Utf8, false)),
        Arc::new(Field::new("trommel_score", DataType::Float64, true)),
    ];
    for (keep, cut) in [
        (BooleanBuffer::new_set(300), None),
        (BooleanBuffer::collect_bool(300, |row| !(120..130).contains(&row)), None),
        (BooleanBuffer::collect_bool(300, |row| row % 7 != 0), Some(64)),
    ] {
        let path = folder.path().join("out");
        let options = WriterOptions { extra: extra.clone(), row_group_rows: cut, ..WriterOptions::default() };
        let mut writer = ShardWriter::create(&path, &snapshot.shards[0], options).unwrap();
        writer.append(&snapshot.shards[0], &keep, &[Arc::clone(&decision), Arc::clone(&score)]).unwrap();
        let written = writer.finish().unwrap();
        let after = read_all(&path);
        let wanted = filtered(&batch, &keep);
        let own: Vec<usize> = (0..batch.num_columns()).collect();
        assert_eq!(after.project(&own).unwrap().columns(), wanted.columns());
        let mask = BooleanArray::new(keep.clone(), None);
        assert_eq!(after.column_by_name("trommel_decision").unwrap(), &arrow::compute::filter(&decision, &mask).unwrap());
        assert_eq!(after.column_by_name("trommel_score").unwrap(), &arrow::compute::filter(&score, &mask).unwrap());
        assert_eq!(after.schema().field(21), batch.schema().field(21), "types that Parquet has no word for are kept");
        assert_eq!(written.bytes_copied > 0, cut.is_none());
    }
}

#[test]
fn the_same_rows_give_the_same_bytes_whatever_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[every_type(2_000)], properties(1, true, false, 64), 300);
    let keep = BooleanBuffer::collect_bool(2_000, |row| row % 11 != 0);
    for cut in [None, Some(333)] {
        let hashes: Vec<_> = [1, 2, 5]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| prune(folder.path(), &keep, WriterOptions { row_group_rows: cut, ..WriterOptions::default() }).1.hash)
            })
            .collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn several_shards_pack_into_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let batch = every_type(200);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        write(
            &folder.path().join(format!("{name}.parquet")),
            &[batch.slice(index * 50, 100)],
            properties(index, index != 1, false, 20),
            40,
        );
    }
    let snapshot = snapshot(folder.path()).unwrap();
    let keep = BooleanBuffer::collect_bool(100, |row| row % 10 != 4);
    for cut in [None, Some(70)] {
        let path = folder.path().join("out");
        let mut writer =
            ShardWriter::create(&path, &snapshot.shards[0], WriterOptions { row_group_rows: cut, ..WriterOptions::default() }).unwrap();
        for shard in &snapshot.shards {
            writer.append(shard, &keep, &[]).unwrap();
        }
        let written = writer.finish().unwrap();
        let wanted: Vec<RecordBatch> = (0..3).map(|index| filtered(&batch.slice(index * 50, 100), &keep)).collect();
        assert_eq!(read_all(&path), concat_batches(&batch.schema(), &wanted).unwrap());
        assert_eq!(written.row_groups, if cut.is_some() { 4 } else { 9 });
    }
    let shards: Vec<_> = snapshot.shards.iter().collect();
    let plan = |kept: [[u64; 3]; 3], target| {
        let kept: Vec<Vec<u64>> = kept.iter().map(|groups| groups.to_vec()).collect();
        let parts = |pack: pack::Pack| pack.parts.into_iter().map(|part| (part.shard, part.rows)).collect::<Vec<_>>();
        pack::plan(&shards, &kept, target).into_iter().map(parts).collect::<Vec<_>>()
    };
    let all = vec![(0, 0..100), (1, 0..100), (2, 0..100)];
    assert_eq!(plan([[36, 36, 18]; 3], u64::MAX), vec![all.clone()]);
    // A shard larger than the target is cut at its row groups.
    assert_eq!(plan([[36, 36, 18]; 3], 1).len(), 9);
    assert_eq!(plan([[36, 36, 18]; 3], 1)[1], [(0, 40..80)]);
    assert_eq!(plan([[36, 0, 0], [0; 3], [0, 36, 0]], 1), [vec![(0, 0..40)], vec![(0, 40..100), (1, 0..100), (2, 0..80)]]);
    assert_eq!(plan([[0; 3]; 3], 1), vec![all]);
}

#[test]
fn empty_things_have_defined_results() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(snapshot(folder.path()).unwrap_err().kind(), Kind::Input);
    // No rows and no row group.
    let batch = every_type(10);
    let input = folder.path().join("a.parquet");
    write(&input, &[batch.slice(0, 0)], WriterProperties::builder(), 10);
    assert_eq!(snapshot(folder.path()).unwrap().shards[0].row_groups.len(), 0);
    let (after, written) = prune(folder.path(), &BooleanBuffer::new_set(0), WriterOptions::default());
    assert_eq!((after, written.row_groups), (batch.slice(0, 0), 0));
    // All rows lost; one row; texts that are all null.
    write(&input, std::slice::from_ref(&batch), WriterProperties::builder(), 4);
    let (after, written) = prune(folder.path(), &BooleanBuffer::new_unset(10), WriterOptions::default());
    assert_eq!((after, written.row_groups), (batch.slice(0, 0), 0));
    let nulls = RecordBatch::try_from_iter([("text", Arc::new(StringArray::new_null(5)) as ArrayRef)]).unwrap();
    write(&input, std::slice::from_ref(&nulls), WriterProperties::builder(), 3);
    let keep = BooleanBuffer::collect_bool(5, |row| row != 1);
    assert_eq!(prune(folder.path(), &keep, WriterOptions::default()).0, filtered(&nulls, &keep));
    write(&input, &[batch.slice(3, 1)], WriterProperties::builder(), 3);
    assert_eq!(prune(folder.path(), &BooleanBuffer::new_set(1), WriterOptions::default()).0.num_rows(), 1);
    let mut snapshot = snapshot(folder.path()).unwrap();
    snapshot.limit_rows(0);
    let request = ReadRequest { columns: &[], schema: None, selection: None, batch_rows: 10 };
    assert_eq!(read(&snapshot.shards[0], request).unwrap().count(), 0);
}

#[test]
fn row_numbers_can_be_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[every_type(10)], WriterProperties::builder(), 4);
    let snapshot = snapshot(folder.path()).unwrap();
    let request = ReadRequest { columns: &[], schema: None, selection: None, batch_rows: 100 };
    let numbers: Vec<u64> = read(&snapshot.shards[0], request)
        .unwrap()
        .flat_map(|batch| batch.unwrap().column(0).as_primitive::<UInt64Type>().values().to_vec())
        .collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
}

#[test]
fn shards_of_different_schemas_are_reported_in_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str, columns: Vec<(&str, ArrayRef)>| {
        write(&folder.path().join(name), &[RecordBatch::try_from_iter(columns).unwrap()], WriterProperties::builder(), 10);
    };
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let view: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    shard("a.parquet", vec![("text", Arc::clone(&text)), ("n", Arc::new(Int32Array::from(vec![1])))]);
    shard("b.parquet", vec![("n", Arc::clone(&number)), ("text", view)]);
    let needed = |name: &str, wanted| NeededColumn { name: name.into(), wanted };
    let all = snapshot(folder.path()).unwrap();
    let merged = reconcile(&all, 0, &[needed("text", Wanted::Text), needed("n", Wanted::Any)]).unwrap();
    assert_eq!((merged.field(0).data_type(), merged.field(1).data_type()), (&DataType::Utf8View, &DataType::Int64));
    let request = ReadRequest { columns: &["text", "n"], schema: Some(&merged), selection: None, batch_rows: 10 };
    for shard in &all.shards {
        let batch = read(shard, request).unwrap().next().unwrap().unwrap();
        assert_eq!((batch.column(0).data_type(), batch.column(1).data_type()), (&DataType::Utf8View, &DataType::Int64));
    }
    shard("c.parquet", vec![("texts", Arc::clone(&text)), ("n", text)]);
    shard("d.parquet", vec![("text", number.clone()), ("n", number)]);
    let error = reconcile(&snapshot(folder.path()).unwrap(), 0, &[needed("text", Wanted::Text), needed("n", Wanted::Any)]).unwrap_err();
    insta::assert_snapshot!(error.report(), @r"
    error: shards do not have the columns that the pipeline needs source=`crawl`
      column `text` must be text; it is
        missing among columns texts, n in `c.parquet`
        of type Int64 in `d.parquet`
        of type Utf8 in `a.parquet`
        of type Utf8View in `b.parquet`
      column `n` must have one type; it is
        of type Int32 in `a.parquet`
        of type Int64 in `b.parquet`, `d.parquet`
        of type Utf8 in `c.parquet`
    hint: did you mean `texts`?
    ");
}

#[test]
fn a_shard_that_changes_under_the_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &[every_type(50)], WriterProperties::builder(), 10);
    let snapshot = snapshot(folder.path()).unwrap();
    let request = ReadRequest { columns: &["text"], schema: None, selection: None, batch_rows: 10 };
    let mut batches = read(&snapshot.shards[0], request).unwrap();
    batches.next().unwrap().unwrap();
    write(&folder.path().join("b"), &[every_type(50)], WriterProperties::builder(), 10);
    std::fs::rename(folder.path().join("b"), &path).unwrap();
    assert_eq!(batches.find_map(Result::err).unwrap().kind(), Kind::Input);
    assert_eq!(read(&snapshot.shards[0], request).unwrap_err().kind(), Kind::Input);
}

/// Takes a snapshot of what may be damaged, and if it passes reads and prunes all of it.
fn use_all(folder: &Path) -> crate::error::Result<()> {
    let snapshot = snapshot(folder)?;
    let shard = &snapshot.shards[0];
    let names: Vec<String> = shard.schema.fields().iter().map(|field| field.name().clone()).collect();
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    let read = read(shard, ReadRequest { columns: &columns, schema: None, selection: None, batch_rows: 64 })
        .and_then(|batches| batches.map(|batch| batch.map(|batch| batch.num_rows())).sum::<crate::error::Result<usize>>());
    let keep = BooleanBuffer::collect_bool(shard.rows as usize, |row| row % 9 != 4);
    let pruned = ShardWriter::create(&folder.join("out"), shard, WriterOptions::default()).and_then(|mut writer| {
        writer.append(shard, &keep, &[])?;
        writer.finish()
    });
    read.and(pruned.map(|_| ()))
}

#[test]
fn damaged_shards_give_one_named_error_and_never_a_panic() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = crate::random::Random::new(59, "damage").sequence(b"");
    let (mut refused, mut passed) = (0, 0);
    for codec_index in [0, 1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, &[every_type(120).project(&[0, 4, 11, 14, 24]).unwrap()], properties(codec_index, true, false, 25), 40);
        let whole = std::fs::read(&path).unwrap();
        for _ in 0..180 {
            let mut bytes = whole.clone();
            match random.below(6) {
                0 => bytes.truncate(random.below(whole.len() as u64) as usize),
                1 => bytes.extend_from_slice(&whole[..random.below(64) as usize]),
                // The footer is small beside the pages: aim at it too.
                2 | 3 => {
                    let at = whole.len() - 1 - random.below(3_000.min(whole.len() as u64)) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
                _ => {
                    let at = random.below(whole.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match use_all(folder.path()) {
                Ok(()) => passed += 1,
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Input | Kind::Resources), "{}", error.report());
                    assert!(error.report().contains("a.parquet"), "{}", error.report());
                    refused += 1;
                }
            }
        }
    }
    std::panic::set_hook(quiet);
    assert!(refused > 100, "refused={refused} passed={passed}");
}

#[test]
fn crafted_footers_are_refused_before_anything_is_decoded() {
    use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataBuilder};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &[every_type(50)], WriterProperties::builder(), 25);
    let open = snapshot(folder.path()).unwrap().shards[0].open().unwrap();
    let whole = open.footer.metadata();
    preflight::check_footer(whole, open.reader.file()).unwrap();
    let crafted = |change: &dyn Fn(ColumnChunkMetaData) -> ColumnChunkMetaData| {
        let mut builder = ParquetMetaDataBuilder::new_from_metadata(whole.as_ref().clone());
        let mut groups = builder.take_row_groups();
        let mut group = groups.remove(0).into_builder();
        let mut chunks = group.take_columns();
        let changed = change(chunks.remove(1));
        chunks.insert(1, changed);
        groups.insert(0, group.set_column_metadata(chunks).build().unwrap());
        preflight::check_footer(&builder.set_row_groups(groups).build(), open.reader.file()).unwrap_err().report()
    };
    let length = open.reader.file().bytes() as i64;
    type Change = Box<dyn Fn(ColumnChunkMetaData) -> ColumnChunkMetaData>;
    let cases: Vec<(&str, Change)> = vec![
        ("outside the file", Box::new(move |chunk| chunk.into_builder().set_total_compressed_size(length).build().unwrap())),
        ("negative", Box::new(|chunk| chunk.into_builder().set_total_compressed_size(-1).build().unwrap())),
        ("negative", Box::new(|chunk| chunk.into_builder().set_dictionary_page_offset(Some(-5)).build().unwrap())),
        ("thousandfold", Box::new(|chunk| chunk.into_builder().set_total_uncompressed_size(1 << 32).build().unwrap())),
        ("values and rows differ", Box::new(|chunk| chunk.into_builder().set_num_values(7).build().unwrap())),
        (
            "overlap",
            Box::new(|chunk| {
                let longer = chunk.compressed_size() + 1;
                chunk.into_builder().set_total_compressed_size(longer).build().unwrap()
            }),
        ),
        ("another file", Box::new(|chunk| chunk.into_builder().set_file_path("/etc/passwd".into()).build().unwrap())),
    ];
    for (words, change) in cases {
        let report = crafted(&change);
        assert!(report.contains(words) && report.contains("column=`large_text`") | report.contains("overlap"), "{words}: {report}");
    }
}
