//! What the tests compare with: slow and obvious definitions, and texts made of what the rules treat in special ways.

use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::hash::{HIGH, LENGTH, M, START, mix};
use super::normalise::Step;

/// All characters of the planes that hold any of interest, and some of the others.
pub(super) fn characters() -> impl Iterator<Item = char> {
    ('\0'..='\u{1FFFF}').chain('\u{2A6D0}'..='\u{2A710}').chain('\u{3FFF0}'..='\u{3FFFF}').chain('\u{DFFF0}'..='\u{E0200}')
}

/// The definition of normalisation, but for punctuation, whose own tests hold it.
pub(super) fn plain_normal(steps: &[Step], text: &str) -> String {
    steps.iter().fold(text.to_owned(), |text, step| match step {
        Step::Nfc => text.nfc().collect(),
        Step::Nfkc => text.nfkc().collect(),
        Step::Lowercase => text.to_lowercase(),
        Step::CollapseWhitespace => text.split(char::is_whitespace).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "),
        Step::StripPunctuation => {
            super::normalise::normalise(&[Step::StripPunctuation], &text, &mut super::normalise::Buffers::default()).to_owned()
        }
    })
}

/// Whether UAX #29 puts a character into the class Katakana: then it is tied to another one of it and not to a letter.
pub(super) fn is_katakana(character: char) -> bool {
    let tied = |text: String| text.split_word_bounds().count() == 1;
    tied(format!("ア{character}")) && !tied(format!("一{character}")) && !tied(format!("a{character}"))
}

/// The definition: the segments of UAX #29 that hold a letter or a digit, if characters of the class Katakana had the class of Han.
pub(super) fn plain_words(text: &str) -> Vec<&str> {
    let han = |katakana: char| if katakana.len_utf8() == 3 { '一' } else { '𠀀' };
    let other: String = text.chars().map(|character| if is_katakana(character) { han(character) } else { character }).collect();
    let segments = other.split_word_bound_indices().map(|(start, segment)| &text[start..start + segment.len()]);
    segments.filter(|segment| segment.contains(char::is_alphanumeric)).collect()
}

/// What the rules treat in special ways, amid what fills blocks.
pub(super) fn awkward() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        "Bc",
        "zebra",
        "1",
        "23",
        "_",
        "__",
        "'",
        ".",
        ":",
        ",",
        ";",
        "\"",
        "^",
        "`",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{b}",
        "(",
        "-",
        "<",
        "\u{338}",
        "é",
        "e\u{301}",
        "\u{301}",
        "\u{345}",
        "\u{200c}",
        "\u{fe0f}",
        "क",
        "ि",
        "१",
        "،",
        "❌",
        "Ạ",
        "\u{ad}",
        "\u{200d}",
        "\u{200b}",
        "\u{feff}",
        "’",
        "‘",
        "·",
        "—",
        "“",
        "”",
        "…",
        "\u{a0}",
        "\u{202f}",
        "\u{3000}",
        "\u{85}",
        "\u{2028}",
        "א",
        "״",
        "Σ",
        "σας",
        "İ",
        "ǅ",
        "ﬁ",
        "Å",
        "Я",
        "ж",
        "漢",
        "字",
        "ひ",
        "カ",
        "ー",
        "ｶ",
        "ﾞ",
        "\u{3099}",
        "〱",
        "㌀",
        "々",
        "〇",
        "、",
        "。",
        "ภ",
        "า",
        "ษ",
        "ี",
        "๑",
        "ກ",
        "ខ",
        "្",
        "မ",
        "ြ",
        "한",
        "국",
        "\u{1100}\u{1161}",
        "ا",
        "ً",
        "١",
        "٫",
        "🇩🇪",
        "🇫",
        "👩\u{200d}👧",
        "👩",
        "☺",
        "©",
        "½",
        "²",
        "Ⅷ",
        "𝐀",
        "𠀀",
        "1️⃣",
        "don't",
        "e.g.",
        "3.14",
        "1,000",
        "snake_case",
        "a:b",
        "The quick brown fox jumps over the lazy dog again and again, and then",
        "abcdefghijklmnopqrstuvwxyz012345",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..40).prop_map(|pieces| pieces.concat())
}

/// The definition of [`unit`], a byte at a time.
pub(super) fn plain_unit(bytes: &[u8]) -> u64 {
    let mut state = u128::from(START) + u128::from(LENGTH) * bytes.len() as u128;
    for block in 0..bytes.len().div_ceil(16).max(1) {
        let byte = |at: usize| u128::from(bytes.get(16 * block + at).copied().unwrap_or(0));
        let number = |from: usize| (from..from + 8).map(|at| byte(at) << (8 * (at - from))).sum::<u128>();
        let product = (number(0) ^ (state % (1 << 64))) * (number(8) ^ u128::from(HIGH));
        state = (product % (1 << 64)) ^ (product >> 64);
    }
    (state % (1 << 64)) as u64
}

/// The definition of [`sequences`].
pub(super) fn plain_sequences(units: &[u64], size: usize) -> Vec<u64> {
    let size = size.min(units.len());
    if size == 0 {
        return Vec::new();
    }
    let sum = |run: &[u64]| run.iter().fold(0_u128, |sum, unit| (sum * u128::from(M) + u128::from(*unit)) % (1 << 64));
    units.windows(size).map(|run| mix(sum(run) as u64)).collect()
}
