//! Speed of words, shingles, signatures and band keys on one thread, by the time it computes, the best of some repeats:
//! `cargo bench --bench shingle -- [TEXT_FILE] [--mebibytes N] [--only WHAT] [--repeats N]`.
//! Without a file it makes an English-like text. A text file is cut into documents at lines that hold a form feed alone, or each
//! 6,000 bytes.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads files and clocks, and prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use trommel::random::Random;
use trommel::sketch::{Bands, Family, MinHash, jaccard, to_set};
use trommel::text::normalise::{Buffers, Step, normalise};
use trommel::text::shingle::{Shingle, ShingleHash, Shingler, Unit};
use trommel::text::words::words;

const STEPS: [Step; 3] = [Step::Nfc, Step::Lowercase, Step::CollapseWhitespace];

/// Sentences without and with many words that are not ASCII.
const LANGUAGES: [(&str, &str); 7] = [
    (
        "French",
        "L\u{2019}été dernier, les élèves ont visité le château où le duc fut enfermé\u{a0}; « c\u{2019}était très beau », dit\u{2011}elle. ",
    ),
    ("Russian", "Прошлым летом ученики посетили замок, где был заключён герцог; «это было очень красиво», — сказала она. "),
    ("Arabic", "في الصيف الماضي زار الطلاب القلعة التي سُجن فيها الدوق، وقالت إنها كانت جميلة جدا. "),
    ("Hindi", "पिछली गर्मियों में छात्रों ने उस किले का दौरा किया जहाँ ड्यूक को कैद किया गया था। "),
    ("Chinese", "去年夏天，学生们参观了公爵被囚禁的城堡；她说：“那里非常美丽。”"),
    ("Japanese", "去年の夏、生徒たちは公爵が幽閉されていたキャッスルを訪れた。「とても美しかった」と彼女は言った。"),
    ("Thai", "ฤดูร้อนที่แล้วนักเรียนได้ไปเยี่ยมชมปราสาทที่ดยุกถูกคุมขัง เธอบอกว่ามันสวยงามมาก "),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned();
    let bytes = value("--mebibytes").map_or(64, |text| text.parse().unwrap()) << 20;
    let repeats = value("--repeats").map_or(5, |text| text.parse().unwrap());
    let only = value("--only").unwrap_or_default();
    measure("generated", &generated(bytes), &only, repeats);
    for (name, sentence) in LANGUAGES {
        let document = sentence.repeat(6_000 / sentence.len() + 1);
        measure(name, &vec![document; bytes / 6_000 / 8], &only, repeats);
    }
    if let Some(path) = arguments.first().filter(|argument| !argument.starts_with("--")) {
        let text = std::fs::read_to_string(path).unwrap();
        measure(path, &documents(&text), &only, repeats);
    }
}

fn measure(name: &str, texts: &[String], only: &str, repeats: usize) {
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{name}: {} documents, {:.1} MB", texts.len(), bytes as f64 / 1e6);
    let time = |what: &str, work: &mut dyn FnMut() -> u64| {
        if !what.contains(only) {
            return;
        }
        let seconds = (0..repeats)
            .map(|_| {
                let begin = seconds();
                black_box(work());
                seconds() - begin
            })
            .fold(f64::INFINITY, f64::min);
        println!("  {what:<44} {:7.0} MB/s  {seconds:.3} s", bytes as f64 / 1e6 / seconds);
    };
    time("read", &mut || texts.iter().flat_map(String::as_bytes).map(|byte| u64::from(*byte)).sum());
    let mut buffers = Buffers::default();
    time("normalise", &mut || texts.iter().map(|text| normalise(&STEPS, text, &mut buffers).len() as u64).sum());
    time("words", &mut || {
        let mut count = 0;
        for text in texts {
            words(text, |word| count += black_box(word.len() as u64));
        }
        count
    });
    let mut shingles = Vec::new();
    for (what, unit, size) in
        [("words 1", Unit::Words, 1), ("words 5", Unit::Words, 5), ("chars 24", Unit::Chars, 24), ("bytes 24", Unit::Bytes, 24)]
    {
        let mut shingler = Shingler::new(&STEPS, Shingle { unit, size }, ShingleHash::Trommel);
        time(&format!("shingles, {what}"), &mut || {
            let mut count = 0;
            for text in texts {
                shingler.shingles(text, &mut shingles);
                count += shingles.len() as u64;
            }
            count
        });
    }
    for (what, mut shingler) in [("datatrove", Shingler::datatrove(5)), ("data_prep_kit", Shingler::data_prep_kit(5))] {
        time(&format!("shingles, {what}"), &mut || {
            let mut count = 0;
            for text in texts {
                shingler.shingles(text, &mut shingles);
                count += shingles.len() as u64;
            }
            count
        });
    }
    let mut shingler = Shingler::new(&STEPS, Shingle { unit: Unit::Words, size: 5 }, ShingleHash::Trommel);
    let bands = Bands { bands: 14, rows: 8 };
    let mut all = Vec::new();
    for text in texts {
        shingler.shingles(text, &mut shingles);
        all.push(shingles.clone());
    }
    let minhash = MinHash::new(112, 1);
    let mut signature = vec![0; 112];
    time("signatures, 112 values", &mut || {
        let mut sum = 0;
        for shingles in &all {
            minhash.signature(shingles, &mut signature);
            sum += u64::from(signature[0]);
        }
        sum
    });
    let count = all.iter().map(Vec::len).sum::<usize>();
    println!("  {:<44} {:.2} M", "  shingles", count as f64 / 1e6);
    for (what, family) in [
        ("trommel", Family::Trommel { permutations: 112, seed: 1 }),
        ("datatrove", Family::Datatrove { permutations: 112, seed: 1 }),
        ("data_prep_kit", Family::DataPrepKit { permutations: 112, seed: 42 }),
    ] {
        let mut sketcher = family.sketcher(bands);
        let mut keys = Vec::new();
        time(&format!("keys, {what}"), &mut || {
            let mut sum = 0_u64;
            for shingles in &all {
                sketcher.keys(shingles, &mut keys);
                sum = keys.iter().fold(sum, |sum, key| sum.wrapping_add(*key));
            }
            sum
        });
    }
    let mut sketcher = Family::Trommel { permutations: 112, seed: 1 }.sketcher(bands);
    let mut keys = Vec::new();
    time("shingles, signatures and keys", &mut || {
        let mut sum = 0_u64;
        for text in texts {
            shingler.shingles(text, &mut shingles);
            sketcher.keys(&shingles, &mut keys);
            sum = keys.iter().fold(sum, |sum, key| sum.wrapping_add(*key));
        }
        sum
    });
    let mut sets = all.clone();
    time("sets", &mut || {
        sets.clone_from(&all);
        sets.iter_mut().for_each(to_set);
        sets.len() as u64
    });
    time("exact similarity of neighbours", &mut || sets.windows(2).map(|pair| (jaccard(&pair[0], &pair[1]) * 1e9) as u64).sum());
}

/// Seconds that this thread has computed, where the system tells; else the time.
fn seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = statistics.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.get_or_init(Instant::now).elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// Documents of some hundred words with the lengths, capitals and punctuation of English prose.
fn generated(bytes: usize) -> Vec<String> {
    let mut draws = Random::new(1, "bench").sequence(b"text");
    let vocabulary: Vec<String> = (0..20_000)
        .map(|_| {
            let length = 1 + (draws.unit() * draws.unit() * 12.0) as usize + draws.below(4) as usize;
            (0..length).map(|_| char::from(b"etaoinshrdlucmfwygpbvkxqjz"[(draws.unit() * draws.unit() * 26.0) as usize])).collect()
        })
        .collect();
    let (mut texts, mut written) = (Vec::new(), 0);
    while written < bytes {
        let mut text = String::new();
        let words = 100 + draws.below(1_500);
        let mut capital = true;
        for _ in 0..words {
            let word = &vocabulary[(draws.unit() * draws.unit() * draws.unit() * vocabulary.len() as f64) as usize];
            let (first, rest) = word.split_at(1);
            if std::mem::take(&mut capital) {
                text.push_str(&first.to_uppercase());
                text.push_str(rest);
            } else {
                text.push_str(word);
            }
            match draws.below(64) {
                0..=3 => text.push_str(", "),
                4..=7 => {
                    text.push_str(if draws.below(4) == 0 { ".\n" } else { ". " });
                    capital = true;
                }
                8 => text.extend([" (", &draws.below(10_000).to_string(), ") "]),
                9 => text.push_str(" \u{2014} "),
                10 => text.push_str("\u{2019}s "),
                11 => text.push_str("'s "),
                12 => text.push_str("3.14 "),
                _ => text.push(' '),
            }
        }
        written += text.len();
        texts.push(text);
    }
    texts
}

fn documents(text: &str) -> Vec<String> {
    let pages: Vec<&str> = text.split("\n\u{c}\n").collect();
    if pages.len() > 1 {
        return pages.into_iter().map(str::to_owned).collect();
    }
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = rest.len().min(6_000);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (document, after) = rest.split_at(end);
        found.push(document.to_owned());
        rest = after;
    }
    found
}
