//! Shingles and signatures from text to band: what two peers give, bit for bit.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trommel::sketch::{Bands, DataPrepKitMinHash, DatatroveMinHash, Family, agreement};
use trommel::text::shingle::Shingler;

const TEXT: &str = "The quick brown fox jumps over the lazy dog. It was 42 degrees on Monday, wasn't it?";
const BANDS: Bands = Bands { bands: 14, rows: 8 };

/// Values of datatrove 0.10.1.
#[test]
fn datatrove_gives_its_golden_vector() {
    let mut shingles = Vec::new();
    Shingler::datatrove(5).shingles(TEXT, &mut shingles);
    assert_eq!((shingles.len(), shingles[0]), (14, 7_797_000_677_988_824_208));
    let mut signature = [0; 112];
    assert!(DatatroveMinHash::new(112, 1).signature(&shingles, &mut signature));
    let first = [
        85_330_943_174_081_874,
        175_021_855_724_751_277,
        302_227_827_184_868_053,
        34_440_879_854_629_237,
        117_354_482_006_515_297,
        43_550_438_846_664_003,
        228_810_239_478_729_124,
        91_093_929_357_790_382,
    ];
    let last = [
        138_080_280_408_424_662,
        212_222_752_476_155_101,
        200_020_302_528_876_325,
        66_167_128_343_108_654,
        1_765_945_916_311_590,
        215_129_921_294_762_436,
        100_051_045_979_413_572,
        3_963_570_588_256_049,
    ];
    assert_eq!((&signature[..8], &signature[104..]), (&first[..], &last[..]));
}

/// Values of data-prep-kit 1.1.8's classes with mmh3 5.3.
#[test]
fn data_prep_kit_gives_its_signature_and_band_hashes() {
    let mut shingles = Vec::new();
    Shingler::data_prep_kit(5).shingles(TEXT, &mut shingles);
    assert_eq!((shingles.len(), shingles[0]), (14, 4_122_809_567));
    let mut signature = [0; 112];
    assert!(DataPrepKitMinHash::new(112, 42).signature(&shingles, &mut signature));
    assert_eq!(signature[..4], [909_061_889, 1_196_278_085, 288_606_770, 162_705_552]);
    assert_eq!(signature[110..], [75_025_112, 101_652_637]);
    assert_eq!(DataPrepKitMinHash::band_hash(BANDS, &signature, 0), 10_979_485_570_991_280_700);
    assert_eq!(DataPrepKitMinHash::band_hash(BANDS, &signature, 13), 10_972_381_886_537_053_412);
}

#[test]
fn similar_texts_share_a_key_and_others_do_not() {
    let families = [
        (Shingler::datatrove(2), Family::Datatrove { permutations: 112, seed: 1 }),
        (Shingler::data_prep_kit(2), Family::DataPrepKit { permutations: 112, seed: 42 }),
    ];
    for (mut shingler, family) in families {
        let mut sketcher = family.sketcher(BANDS);
        let mut keys = |text: &str| {
            let (mut shingles, mut keys) = (Vec::new(), Vec::new());
            shingler.shingles(text, &mut shingles);
            sketcher.keys(&shingles, &mut keys);
            keys
        };
        let (a, same, other) =
            (keys(TEXT), keys(&TEXT.to_uppercase().replace("42", "43.5")), keys("Nothing of this is said over there, nor was it ever."));
        assert_eq!(a, same);
        assert!(a.iter().all(|key| !other.contains(key)));
    }
}

/// Id and text of the rows of its own test data.
fn data_prep_kit_rows() -> Vec<(i64, String)> {
    let files: [&[u8]; 2] =
        [include_bytes!("../golden/data_prep_kit/input_1.parquet"), include_bytes!("../golden/data_prep_kit/input_2.parquet")];
    let mut rows = Vec::new();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from_static(file)).unwrap().build().unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let ids: &Int64Array = batch.column_by_name("int_id_column").unwrap().as_primitive::<Int64Type>();
            let texts = batch.column_by_name("contents").unwrap().as_string::<i64>();
            rows.extend(ids.values().iter().zip(texts.iter()).map(|(id, text)| (*id, text.unwrap().to_owned())));
        }
    }
    rows
}

/// Its rule: each band decides alone, the longest text first, then the least id, by the estimate.
#[test]
fn data_prep_kit_keeps_what_it_keeps_of_its_test_data() {
    let rows = data_prep_kit_rows();
    let mut shingler = Shingler::data_prep_kit(5);
    let mut sketcher = Family::DataPrepKit { permutations: 112, seed: 42 }.sketcher(BANDS);
    let mut signatures = BTreeMap::new();
    let mut buckets: BTreeMap<u64, Vec<(std::cmp::Reverse<usize>, i64)>> = BTreeMap::new();
    for (id, text) in &rows {
        let (mut shingles, mut keys) = (Vec::new(), Vec::new());
        shingler.shingles(text, &mut shingles);
        assert!(sketcher.keys(&shingles, &mut keys));
        signatures.insert(*id, sketcher.signature().to_vec());
        for key in keys {
            buckets.entry(key).or_default().push((std::cmp::Reverse(text.chars().count()), *id));
        }
    }
    let mut removed = BTreeSet::new();
    for bucket in buckets.values_mut() {
        bucket.sort_unstable();
        while let Some((_, first)) = bucket.first().copied() {
            let similar = |id: i64| agreement(&signatures[&first], &signatures[&id]) >= 0.75;
            removed.extend(bucket.iter().map(|(_, id)| *id).filter(|id| *id != first && similar(*id)));
            bucket.retain(|(_, id)| !similar(*id));
        }
    }
    let kept: Vec<i64> = rows.iter().map(|(id, _)| *id).filter(|id| !removed.contains(id)).collect();
    assert_eq!(kept, [1, 4, 12, 15]);
}
