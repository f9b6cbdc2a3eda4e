//! Near duplicates through the real binary, against the definition computed from the texts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::fixture::{Corpus, Row, trommel, write_shard};

fn stage(keys: &str) -> String {
    format!("  - {{ id: near, minhash_dedup: {{ {keys} }} }}")
}

/// A pseudo-random sequence that owes nothing to the program.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

fn word(number: usize) -> String {
    let letters = b"bcdfghklmnprstvw";
    let vowels = b"aeiou";
    let mut text = String::new();
    let mut rest = number + 17;
    while rest > 0 {
        text.push(char::from(letters[rest % 16]));
        text.push(char::from(vowels[rest / 16 % 5]));
        rest /= 80;
    }
    text
}

fn page(draws: &mut Draws, words: usize) -> Vec<String> {
    (0..words).map(|_| word(draws.below(3000))).collect()
}

fn edited(draws: &mut Draws, page: &[String], edits: usize) -> Vec<String> {
    let mut words = page.to_vec();
    for _ in 0..edits {
        let at = draws.below(words.len());
        match draws.below(3) {
            0 => words[at] = word(draws.below(3000)),
            1 => words.insert(at, word(draws.below(3000))),
            _ if words.len() > 1 => drop(words.remove(at)),
            _ => {}
        }
    }
    words
}

/// Families of edited pages, from copies to strangers, mixed; written in other letters and white space here and there.
fn families(seed: u64, families: usize) -> Vec<String> {
    let mut draws = Draws(seed);
    let mut texts = Vec::new();
    for _ in 0..families {
        let length = 20 + draws.below(200);
        let first = page(&mut draws, length);
        for _ in 0..=draws.below(6) {
            let edits = draws.below(1 + length / 15);
            let words = edited(&mut draws, &first, edits);
            let text = words.join(if draws.below(4) == 0 { "  \n" } else { " " });
            texts.push(if draws.below(4) == 0 { text.to_uppercase() } else { text });
        }
    }
    for at in (1..texts.len()).rev() {
        texts.swap(at, draws.below(at + 1));
    }
    texts
}

/// The shingles of a text of plain words, by their definition.
fn shingles(text: &str, size: usize) -> BTreeSet<String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        BTreeSet::new()
    } else if words.len() < size {
        BTreeSet::from([words.join(" ")])
    } else {
        words.windows(size).map(|window| window.join(" ")).collect()
    }
}

fn jaccard(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let shared = a.intersection(b).count();
    let all = a.len() + b.len() - shared;
    if all == 0 { 0.0 } else { shared as f64 / all as f64 }
}

/// Texts over three shards; ids are a-0, a-1, ...; b-0, ...
fn corpus(texts: &[String]) -> (Corpus, Vec<String>) {
    let corpus = Corpus::new();
    let mut ids = Vec::new();
    let size = texts.len().div_ceil(3).max(1);
    for (name, part) in ["a", "b", "c"].iter().zip(texts.chunks(size)) {
        let rows: Vec<Option<&str>> = part.iter().map(|text| Some(text.as_str())).collect();
        corpus.shard(&format!("{name}.parquet"), &rows);
        ids.extend((0..part.len()).map(|row| format!("{name}-{row}")));
    }
    (corpus, ids)
}

fn by_id(rows: Vec<Row>) -> BTreeMap<String, Row> {
    rows.into_iter().map(|row| (row.doc_id.clone().unwrap(), row)).collect()
}

/// With a band for every value nearly each similar pair is a candidate: the result is the star rule over all pairs.
#[test]
fn star_equals_brute_force_over_all_pairs() {
    let texts = families(1, 60);
    let sets: Vec<_> = texts.iter().map(|text| shingles(text, 5)).collect();
    for (threshold, order) in [(0.8, "first"), (0.5, "first"), (0.6, "last"), (0.6, "longest"), (0.6, "shortest")] {
        let (corpus, ids) = corpus(&texts);
        corpus.pipeline(&stage(&format!("threshold: {threshold}, bands: 256, rows: 1, keep: {order}"))).run(&[]).ok();
        let mut visits: Vec<usize> = (0..texts.len()).collect();
        match order {
            "last" => visits.reverse(),
            "longest" => visits.sort_by_key(|row| std::cmp::Reverse(texts[*row].len())),
            "shortest" => visits.sort_by_key(|row| texts[*row].len()),
            _ => {}
        }
        let rows = by_id(corpus.lineage());
        let (mut kept, mut dropped): (Vec<usize>, usize) = (Vec::new(), 0);
        for row in visits {
            let mut best: Option<(usize, f64)> = None;
            for earlier in &kept {
                let similarity = jaccard(&sets[row], &sets[*earlier]);
                if similarity >= threshold && best.is_none_or(|(_, highest)| similarity > highest) {
                    best = Some((*earlier, similarity));
                }
            }
            let found = &rows[&ids[row]];
            match best {
                None => {
                    kept.push(row);
                    assert_eq!(found.decision, "keep", "{} keep {order} threshold {threshold}", ids[row]);
                }
                Some((earlier, similarity)) => {
                    dropped += 1;
                    assert_eq!(found.reason.as_deref(), Some("near_duplicate"), "{}", ids[row]);
                    assert_eq!(found.kept_doc_id.as_ref(), Some(&ids[earlier]));
                    assert_eq!(found.score, Some(similarity));
                    let detail: serde_json::Value = serde_json::from_str(found.detail.as_deref().unwrap()).unwrap();
                    assert!(detail["bands"].as_u64().unwrap() >= 1, "{detail}");
                }
            }
        }
        assert!(dropped > 20, "{dropped}");
        corpus.verify().ok();
    }
}

/// The drift chain: neighbours are alike, the ends have nothing in common.
fn chain() -> Vec<String> {
    let mut draws = Draws(5);
    let mut words = page(&mut draws, 200);
    (0..60)
        .map(|step| {
            if step > 0 {
                for _ in 0..2 {
                    let at = draws.below(words.len());
                    words[at] = word(3000 + draws.below(3000));
                }
            }
            words.join(" ")
        })
        .collect()
}

#[test]
fn on_a_drift_chain_star_has_no_orphans_and_components_has_many() {
    let texts = chain();
    let sets: Vec<_> = texts.iter().map(|text| shingles(text, 5)).collect();
    let mut orphans = BTreeMap::new();
    for rule in ["star", "components"] {
        let (corpus, ids) = corpus(&texts);
        corpus.pipeline(&stage(&format!("threshold: 0.8, bands: 56, rows: 2, rule: {rule}"))).run(&[]).ok();
        let rows = by_id(corpus.lineage());
        let kept: Vec<usize> = (0..texts.len()).filter(|row| rows[&ids[*row]].decision == "keep").collect();
        let apart = (0..texts.len())
            .filter(|row| rows[&ids[*row]].decision == "drop")
            .filter(|row| kept.iter().all(|kept| jaccard(&sets[*row], &sets[*kept]) < 0.8));
        orphans.insert(rule, (kept.len(), apart.count()));
        for (id, row) in &rows {
            // No row is named as duplicated that is not.
            if let Some(of) = &row.kept_doc_id {
                let place = |id: &String| ids.iter().position(|other| other == id).unwrap();
                assert!(jaccard(&sets[place(id)], &sets[place(of)]) >= 0.8, "{id} names {of}");
            }
        }
        corpus.verify().ok();
    }
    assert_eq!(orphans["star"].1, 0);
    assert!(orphans["star"].0 > 5, "{orphans:?}");
    assert_eq!(orphans["components"].0, 1);
    assert!(orphans["components"].1 > 40, "{orphans:?}");
}

#[test]
fn the_same_bytes_for_any_threads_batches_memory_and_group_sizes() {
    let texts = families(2, 40);
    let mut hashes = BTreeSet::new();
    for (threads, batch, memory) in [("1", "1", "512MiB"), ("2", "7", "256MiB"), ("2", "8192", "4GiB"), ("1", "8192", "512MiB")] {
        let (corpus, _) = corpus(&texts);
        corpus
            .pipeline(&stage("threshold: 0.7, report: [0.5, 0.9]"))
            .run(&["--threads", threads, "--batch-rows", batch, "--memory", memory])
            .ok();
        hashes.insert(corpus.tree_hash().to_string());
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_changed_threshold_sketches_nothing_again() {
    let texts = families(3, 10);
    let (corpus, _) = corpus(&texts);
    corpus.pipeline(&stage("threshold: 0.7, bands: 16, rows: 4")).run(&[]).ok();
    corpus.run(&["--overwrite", "--set", "stages.near.threshold=0.6"]).ok();
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(corpus.at("out/run.json")).unwrap()).unwrap();
    assert_eq!(record["tasks_run"], 1, "{record}");
}

#[test]
fn several_thresholds_come_from_one_pass() {
    let texts = families(4, 40);
    let count = |keys: &str| {
        let (corpus, _) = corpus(&texts);
        corpus.pipeline(&stage(keys)).run(&[]).ok();
        corpus.manifest()["stages"][0]["report"]["by_threshold"].clone()
    };
    let all = count("threshold: 0.8, bands: 64, rows: 2, report: [0.5, 0.65, 0.95]");
    for (place, threshold) in [0.8, 0.5, 0.65, 0.95].iter().enumerate() {
        let alone = count(&format!("threshold: {threshold}, bands: 64, rows: 2"));
        assert_eq!(all[place], alone[0], "{threshold}");
    }
    let dropped = |place: usize| all[place]["dropped"].as_u64().unwrap();
    assert!(dropped(1) > dropped(0) && dropped(0) > dropped(3) && dropped(3) > 0, "{all}");
    // The stage's own threshold stands once, and a looser one says how few pairs the bands find at it.
    let (corpus, _) = corpus(&texts);
    let said = corpus.pipeline(&stage("threshold: 0.8, bands: 14, rows: 8, report: [0.3, 0.8]")).run(&[]).ok().stdout;
    assert_eq!(said.matches("threshold 0.8: kept").count(), 1, "{said}");
    assert!(said.contains("(a pair at it is found with probability 0.001)"), "{said}");
}

#[test]
fn only_rows_of_one_group_or_of_different_sources_are_compared() {
    use arrow::array::{RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    let texts = ["one two three four five six seven", "one two three four five six seven", "one two three four five six seven"];
    let languages = [Some("en"), None, Some("en")];
    let batch = |prefix: &str| {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("lang", DataType::Utf8, true),
        ]);
        let ids: Vec<String> = (0..3).map(|row| format!("{prefix}{row}")).collect();
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(StringArray::from(languages.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    };
    let corpus = Corpus::new();
    write_shard(&corpus.at("x/x.parquet"), &batch("x"), 2);
    write_shard(&corpus.at("y/y.parquet"), &batch("y"), 2);
    let sources = "  x: { parquet: { uri: \"x/\", text: text, id: id } }\n  y: { parquet: { uri: \"y/\", text: text, id: id } }";
    let run = |keys: &str| {
        let stage = format!("  - {{ id: near, input: [x, y], minhash_dedup: {{ threshold: 0.8, {keys} }} }}");
        corpus.pipeline_with(sources, &stage, "parquet: { uri: \"out/\" }").run(&["--overwrite"]).ok();
        corpus.verify().ok();
        corpus.dropped().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(run("seed: 1"), ["x1", "x2", "y0", "y1", "y2"]);
    assert_eq!(run("within: lang"), ["x2", "y0", "y1", "y2"]);
    assert_eq!(run("across: true"), ["y0", "y1", "y2"]);
    assert_eq!(run("across: true, rule: components"), ["x1", "x2", "y0", "y1", "y2"]);
}

#[test]
fn a_nested_column_makes_no_groups() {
    use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    let tags: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), Some(vec![Some(2)])]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a b c d e f", "a b c d e g"]));
    let corpus = Corpus::new();
    corpus.batch("a.parquet", &RecordBatch::try_from_iter([("text", texts), ("tags", tags)]).unwrap(), 10);
    let stages = stage("threshold: 0.8, within: tags");
    corpus.pipeline_with("  c: { parquet: { uri: in, text: text } }", &stages, "parquet: { uri: out }");
    let said = corpus.run(&[]).failed(3);
    assert!(said.contains("within=`tags`") && said.contains("hint:"), "{said}");
}

#[test]
fn rows_without_text_match_nothing_and_short_ones_match_their_like() {
    let corpus = Corpus::new();
    corpus.shard(
        "a.parquet",
        &[
            None,
            None,
            Some(""),
            Some(""),
            Some(" \n"),
            Some("..."),
            Some("..."),
            Some("two words"),
            Some("Two  words"),
            Some("two other"),
            Some("two words more"),
        ],
    );
    corpus.pipeline(&stage("threshold: 0.8")).run(&[]).ok();
    assert_eq!(corpus.dropped().into_keys().collect::<Vec<_>>(), ["a-8"]);
    assert_eq!(corpus.manifest()["stages"][0]["report"]["rows_without_shingles"], 7);
    corpus.verify().ok();
}

#[test]
fn what_is_not_verified_says_so() {
    let texts = families(6, 30);
    let (corpus, _) = corpus(&texts);
    let run = |keys: &str| {
        corpus.pipeline(&stage(keys)).run(&["--overwrite"]).ok();
        corpus.verify().ok();
        by_id(corpus.lineage())
    };
    let dropped = |rows: &BTreeMap<String, Row>| rows.values().filter(|row| row.decision == "drop").cloned().collect::<Vec<_>>();
    let estimated = dropped(&run("threshold: 0.7, bands: 64, rows: 4, verify: estimate"));
    let exact = dropped(&run("threshold: 0.7, bands: 64, rows: 4"));
    // 256 values estimate a similarity to about .03: only pairs close to the threshold can differ.
    assert!(estimated.len().abs_diff(exact.len()) <= 5, "{} {}", estimated.len(), exact.len());
    assert!(estimated.iter().all(|row| row.kept.is_some() && (row.score.unwrap() * 256.0).fract() == 0.0));
    assert!(estimated.iter().all(|row| row.detail.as_ref().unwrap().contains("\"estimated\":true")));
    assert!(exact.iter().all(|row| !row.detail.as_ref().unwrap().contains("estimated")));
    let joined = dropped(&run("bands: 64, rows: 2, verify: none, rule: components"));
    assert!(joined.len() >= exact.len());
    assert!(
        joined.iter().all(|row| row.kept.is_some() && row.score.is_none() && row.detail.as_ref().unwrap().contains("\"unverified\":true"))
    );
}

/// The fixture of data-prep-kit's fuzzy deduplication, under `preset: data_prep_kit` and its keep policy.
#[test]
fn the_presets_keep_what_their_tools_keep() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/near");
    let corpus = Corpus::new();
    std::fs::create_dir_all(corpus.at("in")).unwrap();
    std::fs::copy(folder.join("data_prep_kit.parquet"), corpus.at("in/a.parquet")).unwrap();
    let source = "  c: { parquet: { uri: \"in/\", text: contents, id: int_id_column } }";
    corpus.pipeline_with(
        source,
        &stage("preset: data_prep_kit, threshold: 0.75, verify: estimate, keep: longest"),
        "parquet: { uri: \"out/\" }",
    );
    corpus.run(&[]).ok();
    let kept: BTreeSet<u64> =
        corpus.lineage().into_iter().filter(|row| row.decision == "keep").map(|row| row.doc_id.unwrap().parse().unwrap()).collect();
    assert_eq!(kept, BTreeSet::from([1, 4, 12, 15]));
}

/// The committed pages, their words joined by spaces, and all pairs of them from Jaccard .5 on, found by brute force in Python.
fn pages() -> (Vec<String>, Vec<(usize, usize, f64)>) {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{DataType, Float64Type, UInt64Type};

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/near");
    let documents = crate::fixture::read_parquet(&folder.join("documents.parquet"));
    let words = arrow::compute::cast(documents.column_by_name("words").unwrap(), &DataType::Utf8).unwrap();
    let words = words.as_string::<i32>().iter().map(|words| words.unwrap().to_owned()).collect();
    let pairs = crate::fixture::read_parquet(&folder.join("pairs.parquet"));
    let rows = |name: &str| {
        let rows = arrow::compute::cast(pairs.column_by_name(name).unwrap(), &DataType::UInt64).unwrap();
        rows.as_primitive::<UInt64Type>().values().iter().map(|row| *row as usize).collect::<Vec<_>>()
    };
    let similarity = arrow::compute::cast(pairs.column_by_name("jaccard").unwrap(), &DataType::Float64).unwrap();
    let similarity = similarity.as_primitive::<Float64Type>().values().to_vec();
    let pairs = rows("a").into_iter().zip(rows("b")).zip(similarity).map(|((a, b), similarity)| (a, b, similarity)).collect();
    (words, pairs)
}

/// In each range of similarity the share of the true pairs that the bands find is what their curve says.
#[test]
fn recall_follows_the_curve_of_the_bands_on_real_pages() {
    use trommel::sketch::{Bands, Family, jaccard, to_set};
    use trommel::text::shingle::{Shingle, ShingleHash, Shingler, Unit};

    let (words, pairs) = pages();
    let bands = Bands { bands: 14, rows: 8 };
    let mut shingler = Shingler::new(&[], Shingle { unit: Unit::Words, size: 5 }, ShingleHash::Trommel);
    let sets: Vec<Vec<u64>> = words
        .iter()
        .map(|words| {
            let mut shingles = Vec::new();
            shingler.shingles(words, &mut shingles);
            to_set(&mut shingles);
            shingles
        })
        .collect();
    for (a, b, similarity) in &pairs {
        assert_eq!(jaccard(&sets[*a], &sets[*b]), *similarity, "rows {a} and {b}");
    }
    let (mut found, mut expected, mut variance, mut tried) = ([0.0; 5], [0.0; 5], [0.0; 5], [0; 5]);
    // Pairs of one family share rows, so that one seed finds many of them or few: several seeds tell.
    for seed in 0..20 {
        let mut sketcher = Family::Trommel { permutations: bands.values(), seed }.sketcher(bands);
        let mut keys = Vec::new();
        let keys: Vec<BTreeSet<u64>> = sets
            .iter()
            .map(|set| {
                sketcher.keys(set, &mut keys);
                keys.iter().copied().collect()
            })
            .collect();
        for (a, b, similarity) in &pairs {
            let bin = (((similarity - 0.5) * 10.0) as usize).min(4);
            let probability = bands.probability(*similarity);
            found[bin] += f64::from(u8::from(!keys[*a].is_disjoint(&keys[*b])));
            expected[bin] += probability;
            variance[bin] += probability * (1.0 - probability);
            tried[bin] += 1;
        }
    }
    for bin in 0..5 {
        // A family of n versions has about n pairs a version that come and go together.
        let spread = 3.0 * (variance[bin] * 4.0).sqrt().max(1.0);
        assert!((found[bin] - expected[bin]).abs() <= spread, "bin {bin}: {} of {}, expected {}", found[bin], tried[bin], expected[bin]);
    }
}

/// Through the program: every dropped page is as similar to its representative as brute force says, and whoever is dropped or kept
/// otherwise than by the star rule over all true pairs has a true pair that the bands do not find.
#[test]
fn star_on_real_pages_is_that_of_the_true_pairs() {
    let (words, pairs) = pages();
    let truth: BTreeMap<(usize, usize), f64> = pairs.into_iter().map(|(a, b, similarity)| ((a, b), similarity)).collect();
    let corpus = Corpus::new();
    let rows: Vec<Option<&str>> = words.iter().map(|words| Some(words.as_str())).collect();
    corpus.shard("a.parquet", &rows);
    corpus.pipeline(&stage("threshold: 0.8")).run(&[]).ok();
    let (mut kept, mut missed, mut differ) = (Vec::new(), 0, 0);
    let found = corpus.lineage();
    for (row, of) in found.iter().enumerate() {
        let true_pairs = kept.iter().filter(|earlier| truth.get(&(**earlier, row)).is_some_and(|similarity| *similarity >= 0.8)).count();
        if of.decision == "drop" {
            let representative = of.kept.as_ref().unwrap().1 as usize;
            assert_eq!(of.score, truth.get(&(representative, row)).copied(), "row {row}");
            assert!(kept.contains(&representative) && of.score.unwrap() >= 0.8);
        } else {
            missed += true_pairs;
            differ += usize::from(true_pairs > 0);
            kept.push(row);
        }
    }
    let dropped = found.len() - kept.len();
    assert!(dropped > 60, "{dropped}");
    // .924 of the pairs at .8 are found, more of nearer ones.
    assert!(missed * 20 <= dropped && differ <= missed, "{missed} pairs missed, {differ} rows kept for it, {dropped} dropped");
}

#[test]
fn the_plan_says_what_is_found_and_what_is_promised() {
    let texts = families(7, 3);
    let (corpus, _) = corpus(&texts);
    corpus.pipeline(&stage("threshold: 0.8"));
    let plan = trommel(corpus.path(), &["plan", "p.yaml"]).ok().stdout;
    for said in [
        "14 bands of 8 values find a pair at 0.8 with probability 0.924",
        "each pair acted on is verified",
        "every dropped row is similar to the kept row that it names",
        "text of candidates",
    ] {
        assert!(plan.contains(said), "{said} in\n{plan}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// A document that shares no shingle with any other changes nothing else.
    #[test]
    fn an_unrelated_document_changes_nothing_else(seed in 0_u64..1000, at in 0_usize..20) {
        let texts = families(seed, 8);
        let fates = |texts: &[String]| {
            let corpus = Corpus::new();
            let rows: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
            corpus.shard("a.parquet", &rows);
            corpus.pipeline(&stage("threshold: 0.6")).run(&[]).ok();
            corpus.lineage().into_iter().map(|row| (row.decision, row.kept.map(|kept| kept.1), row.score)).collect::<Vec<_>>()
        };
        let before = fates(&texts);
        let at = at.min(texts.len());
        let mut more = texts.clone();
        more.insert(at, (0..30).map(|number| format!("unrelated{number}")).collect::<Vec<_>>().join(" "));
        let mut after = fates(&more);
        let added = after.remove(at);
        prop_assert_eq!(added.0, "keep");
        let moved: Vec<_> = before
            .into_iter()
            .map(|(decision, kept, score)| (decision, kept.map(|row| if row as usize >= at { row + 1 } else { row }), score))
            .collect();
        prop_assert_eq!(after, moved);
    }
}
