//! Words of a text: the segments of Unicode's default word boundaries (UAX #29) that hold a letter or a digit, with one change for
//! the scripts that are written without spaces.
//!
//! * Chinese and Japanese: each Han, Hiragana and Katakana character is a word of its own, together with the marks that follow it.
//!   UAX #29 does the same for Han and Hiragana; it keeps runs of Katakana together (rules WB13 to WB13b), which are cut here as if
//!   its characters were Han.
//! * Thai, Lao, Khmer, Myanmar and the other scripts of line break class SA: each base character is a word of its own, together with
//!   the marks that follow it, as UAX #29 leaves them. Digits stay together as numbers.
//!
//! So there a shingle of n words is one of n characters. Everything else, Hangul included, is cut as UAX #29 says: `don't`, `3.14`,
//! `1,000`, `snake_case`, `e.g` and `naïve` are one word each; `well-known` is two, `C++` is `C`.
//!
//! ASCII is cut by bit masks over blocks of 64 bytes, without a branch for each byte. A stretch that holds other characters, reaching
//! from one ASCII separator to another, is an *island*, which is cut by the crate `unicode-segmentation`.

use unicode_segmentation::UnicodeSegmentation;

use super::normalise::ascii_length;

/// Calls `each` with the words of `text`, in order.
pub fn words<'a>(text: &'a str, each: impl FnMut(&'a str)) {
    struct Words<'a, F> {
        text: &'a str,
        each: F,
    }
    impl<'a, F: FnMut(&'a str)> Found for Words<'a, F> {
        fn ascii(&mut self, start: usize, end: usize) {
            (self.each)(&self.text[start..end]);
        }

        fn island(&mut self, start: usize, end: usize) {
            island_words(&self.text[start..end], &mut self.each);
        }
    }
    scan(text, &mut Words { text, each });
}

/// What [`scan`] finds in a text, in text order.
pub(super) trait Found {
    /// A word of ASCII characters: these bytes of the text.
    fn ascii(&mut self, start: usize, end: usize);
    /// A stretch with other characters, to be given to [`island_words`]: nothing outside it bears on its words, on its composition or
    /// on its lower case. White space at its start is all that stands there.
    fn island(&mut self, start: usize, end: usize);
}

/// The place of an ASCII character in UAX #29, and in what else ties characters together across an edge of an island.
mod class {
    /// A letter, a digit or an underscore: makes words.
    pub(super) const WORD: u8 = 1;
    /// Belongs to a word if it stands between two letters: `'`, `.` or `:`.
    pub(super) const BETWEEN_LETTERS: u8 = 2;
    /// Belongs to a word if it stands between two digits: `'`, `.`, `,` or `;`.
    pub(super) const BETWEEN_DIGITS: u8 = 4;
    /// Is looked through by the rule of the final sigma: `^` or a backtick, and some of the above.
    pub(super) const TRANSPARENT: u8 = 8;
    /// White space.
    pub(super) const SPACE: u8 = 16;
}

/// Classes of all bytes; those that are not ASCII have none.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => class::WORD,
            b'\'' | b'.' => class::BETWEEN_LETTERS | class::BETWEEN_DIGITS,
            b':' => class::BETWEEN_LETTERS,
            b',' | b';' => class::BETWEEN_DIGITS,
            b'^' | b'`' => class::TRANSPARENT,
            b' ' | 9..=13 => class::SPACE,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

fn is_class(byte: u8, classes: u8) -> bool {
    CLASSES[usize::from(byte)] & classes != 0
}

/// Whether an island may end before this byte: it is ASCII and ties nothing together.
fn separates(byte: u8) -> bool {
    byte.is_ascii() && !is_class(byte, !class::SPACE)
}

/// Walks over a text.
pub(super) fn scan(text: &str, found: &mut impl Found) {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let other = at + ascii_length(&bytes[at..]);
        if other == bytes.len() {
            return ascii_words(bytes, at, other, found);
        }
        let start = island_start(bytes, at, other);
        let end = island_end(bytes, other);
        ascii_words(bytes, at, start, found);
        found.island(start, end);
        at = end;
    }
}

/// Where the island starts that holds the first other character after `from`: at a separator before it, at all white space if that
/// is one, for white space and marks after it belong together.
fn island_start(bytes: &[u8], from: usize, other: usize) -> usize {
    let before = &bytes[from..other];
    let tied = before.iter().rev().take_while(|byte| !separates(**byte)).count();
    let before = &before[..before.len() - tied];
    let spaces = before.iter().rev().take_while(|byte| is_class(**byte, class::SPACE)).count();
    from + before.len() - spaces.max(usize::from(!before.is_empty()))
}

/// Islands that are fewer bytes apart are one: to start one costs more than to cut these.
const GAP: usize = 16;

/// Where the island ends that holds the other character at `at`: before a separator that is followed by ASCII only for some bytes.
fn island_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at += bytes[at..].iter().take_while(|byte| !separates(**byte)).count();
        let gap = &bytes[at..bytes.len().min(at + GAP)];
        match gap.iter().rposition(|byte| !byte.is_ascii()) {
            Some(other) => at += other,
            None => return at,
        }
    }
}

/// Bytes of a block: one bit of a mask for each.
const BLOCK: usize = 64;

/// The words of an ASCII stretch that starts and ends where a word may.
fn ascii_words(bytes: &[u8], from: usize, to: usize, found: &mut impl Found) {
    let mut open = None;
    let mut emit = |start: usize, end: usize| {
        // Underscores alone are no word.
        if bytes[start] != b'_' || bytes[start..end].iter().any(|byte| *byte != b'_') {
            found.ascii(start, end);
        }
    };
    let mut at = from;
    while at < to {
        let mask = block_words(bytes, from, to, at);
        // Each bit is an edge: a word starts or ends.
        let mut edges = mask ^ (mask << 1 | u64::from(open.is_some()));
        if let Some(start) = open {
            if edges == 0 {
                at += BLOCK;
                continue;
            }
            emit(start, at + edges.trailing_zeros() as usize);
            edges &= edges - 1;
            open = None;
        }
        while edges != 0 {
            let start = at + edges.trailing_zeros() as usize;
            edges &= edges - 1;
            if edges == 0 {
                open = Some(start);
                break;
            }
            emit(start, at + edges.trailing_zeros() as usize);
            edges &= edges - 1;
        }
        at += BLOCK;
    }
    if let Some(start) = open {
        emit(start, to);
    }
}

/// A bit for each byte of the block at `at` of the stretch `from..to` that belongs to a word.
#[inline]
fn block_words(bytes: &[u8], from: usize, to: usize, at: usize) -> u64 {
    let (mut words, mut middles) = match bytes[at..].first_chunk::<BLOCK>() {
        Some(block) => masks(block),
        None => {
            let mut block = [0; BLOCK];
            block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            masks(&block)
        }
    };
    if to - at < BLOCK {
        let within = (1 << (to - at)) - 1;
        words &= within;
        middles &= within;
    }
    // What may stand inside a word is looked at if it has a word on both sides; beyond the block, that is seen then.
    middles &= (words << 1 | 1) & (words >> 1 | 1 << (BLOCK - 1));
    while middles != 0 {
        let bit = middles & middles.wrapping_neg();
        middles ^= bit;
        let middle = at + bit.trailing_zeros() as usize;
        if middle > from && middle + 1 < to && joins(bytes[middle - 1], bytes[middle], bytes[middle + 1]) {
            words |= bit;
        }
    }
    words
}

/// Whether `middle` stands inside a word (rules WB6, WB7, WB11 and WB12).
fn joins(before: u8, middle: u8, after: u8) -> bool {
    is_class(middle, class::BETWEEN_LETTERS) && before.is_ascii_alphabetic() && after.is_ascii_alphabetic()
        || is_class(middle, class::BETWEEN_DIGITS) && before.is_ascii_digit() && after.is_ascii_digit()
}

/// Which bytes make words, and which may stand inside one.
#[inline]
fn masks(block: &[u8; BLOCK]) -> (u64, u64) {
    let words = block.map(|byte| {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        u8::from(letter | digit | (byte == b'_')) << 7
    });
    let middles = block.map(|byte| {
        let colon = byte == b':' || byte == b';';
        u8::from(colon | (byte == b'\'') | (byte == b',') | (byte == b'.')) << 7
    });
    (gather(&words), gather(&middles))
}

/// The highest bits of all bytes.
#[inline]
fn gather(bytes: &[u8; BLOCK]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().rev().fold(0, |mask, word| {
        // The product brings bit 8k + 7 to bit 56 + k, and nothing else comes there.
        let bits = (u64::from_le_bytes(*word) & 0x8080_8080_8080_8080).wrapping_mul(0x0002_0408_1020_4081) >> 56;
        mask << 8 | bits
    })
}

/// The words of an island. Between characters that stand alone nothing is looked up.
pub(super) fn island_words<'a>(island: &'a str, each: &mut impl FnMut(&'a str)) {
    let mut rest = island;
    while !rest.is_empty() {
        let alone = rest.find(stands_alone).unwrap_or(rest.len());
        let (before, after) = rest.split_at(alone);
        before.unicode_words().for_each(&mut *each);
        rest = after;
        while let Some(character) = rest.chars().next().filter(|character| stands_alone(*character)) {
            let (word, after) = rest.split_at(alone_length(character, rest));
            if word.contains(char::is_alphanumeric) {
                each(word);
            }
            rest = after;
        }
    }
}

/// Bytes of the word that starts with a character that stands alone: itself, the marks after it, and what a joiner among them joins.
fn alone_length(character: char, text: &str) -> usize {
    let rest = &text[character.len_utf8()..];
    if !rest.starts_with(is_mark) {
        return character.len_utf8();
    }
    let others = &rest[..rest.find(stands_alone).unwrap_or(rest.len())];
    let as_han = format!("一{others}");
    let first = as_han.split_word_bounds().next().map_or(0, |word| word.len() - '一'.len_utf8());
    character.len_utf8() + first
}

/// Han, Hiragana and Katakana: the common blocks of the first two, and all characters of Word_Break=Katakana. None of them is a mark.
fn stands_alone(character: char) -> bool {
    matches!(character,
        '\u{3031}'..='\u{3035}' | '\u{3041}'..='\u{3096}' | '\u{309B}'..='\u{309C}' | '\u{30A0}'..='\u{30FA}'
        | '\u{30FC}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{32D0}'..='\u{32FE}' | '\u{3300}'..='\u{3357}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF66}'..='\u{FF9D}'
        | '\u{1AFF0}'..='\u{1AFF3}' | '\u{1AFF5}'..='\u{1AFFB}' | '\u{1AFFD}'..='\u{1AFFE}' | '\u{1B000}'
        | '\u{1B120}'..='\u{1B122}' | '\u{1B155}' | '\u{1B164}'..='\u{1B167}' | '\u{20000}'..='\u{3FFFD}')
}

/// Whether a character joins what stands before it whatever that is (rule WB4).
fn is_mark(character: char) -> bool {
    if character.is_ascii() || stands_alone(character) || matches!(character, '\u{3000}'..='\u{3029}' | '\u{FF01}'..='\u{FF65}') {
        return false;
    }
    // The crate does not tell classes, but it cuts between a Han character and whatever is no mark.
    let mut pair = [0; 8];
    let han = '一'.encode_utf8(&mut pair).len();
    let both = han + character.encode_utf8(&mut pair[han..]).len();
    std::str::from_utf8(&pair[..both]).is_ok_and(|pair| pair.split_word_bounds().nth(1).is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::oracle::{awkward, is_katakana, plain_words as plain};

    fn found(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        words(text, |word| found.push(word));
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn ascii_is_cut_as_unicode_says(text in "[a-cA-C0-2_'.:,; \"\n-]{0,150}") {
            prop_assert_eq!(found(&text), text.unicode_words().collect::<Vec<_>>());
        }

        #[test]
        fn equals_the_definition_on_awkward_texts(text in awkward()) {
            prop_assert_eq!(found(&text), plain(&text), "{:?}", text);
        }

        #[test]
        fn equals_the_definition_on_any_text(text in any::<String>(), ascii in "[ -~\t\n]{0,300}") {
            prop_assert_eq!(found(&text), plain(&text));
            prop_assert_eq!(found(&ascii), plain(&ascii));
        }

        #[test]
        fn without_katakana_it_is_unicode(text in awkward()) {
            let text: String = text.chars().filter(|character| !is_katakana(*character)).collect();
            prop_assert_eq!(found(&text), text.unicode_words().collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_pair_of_ascii_characters_between_letters_and_digits() {
        for first in 0..128_u8 {
            for second in 0..128_u8 {
                for (before, after) in [('a', 'b'), ('1', '2'), ('a', '1')] {
                    let (first, second) = (char::from(first), char::from(second));
                    let text = format!("{before}{first}{second}{after} {first}{after}{second}");
                    assert_eq!(found(&text), text.unicode_words().collect::<Vec<_>>(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn every_place_of_an_edge_in_a_block() {
        for length in 0..140 {
            let a = "a".repeat(length);
            for text in [
                format!("{a} b'c 1.5"),
                format!("{a}'b {a}"),
                format!("{a}. {a}"),
                format!(" {a}_"),
                format!("{a}é {a}"),
                format!("{a}\n—{a}"),
            ] {
                assert_eq!(found(&text), text.unicode_words().collect::<Vec<_>>(), "{text:?}");
            }
        }
    }

    #[test]
    fn every_character_amid_letters_digits_and_itself() {
        for character in '\0'..=char::MAX {
            let text = format!("a{character}b {character} 1{character}2{character}{character}.{character} 漢{character}");
            assert_eq!(found(&text), plain(&text), "{character:?}");
        }
    }

    #[test]
    fn characters_that_stand_alone_are_no_marks_and_hold_all_katakana() {
        for character in '\0'..=char::MAX {
            let alone = stands_alone(character);
            assert!(alone || !is_katakana(character), "{character:?}");
            if alone && !is_katakana(character) {
                for other in ["a", "1", "_", "漢", "ア"] {
                    assert_eq!(format!("{other}{character}{other}").split_word_bounds().count(), 3, "{character:?}");
                }
            }
        }
    }

    #[test]
    fn languages() {
        let cases: &[(&str, &[&str])] = &[
            (
                "The quick (\"brown\") fox can't jump 32.3 feet, right?",
                &["The", "quick", "brown", "fox", "can't", "jump", "32.3", "feet", "right"],
            ),
            (
                "don’t well-known C++ snake_case e.g. U.S.A. 1,000 a1b2 __ _x",
                &["don’t", "well", "known", "C", "snake_case", "e.g", "U.S.A", "1,000", "a1b2", "_x"],
            ),
            ("naïve café — Ångström", &["naïve", "café", "Ångström"]),
            ("我喜欢看书。2024年", &["我", "喜", "欢", "看", "书", "2024", "年"]),
            ("東京タワーへ行った、ｶﾞ", &["東", "京", "タ", "ワ", "ー", "へ", "行", "っ", "た", "ｶﾞ"]),
            ("ภาษาไทยง่าย ๑๒", &["ภ", "า", "ษ", "า", "ไ", "ท", "ย", "ง่", "า", "ย", "๑๒"]),
            ("ສະບາຍດີ", &["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
            ("ភាសាខ្មែរ", &["ភា", "សា", "ខ្", "មែ", "រ"]),
            ("မြန်မာ", &["မြ", "န်", "မာ"]),
            ("한국어 텍스트", &["한국어", "텍스트"]),
            ("Привет, мир", &["Привет", "мир"]),
            ("مرحبا بالعالم", &["مرحبا", "بالعالم"]),
            ("!? … —", &[]),
            ("", &[]),
        ];
        for (text, wanted) in cases {
            assert_eq!(found(text), *wanted, "{text}");
        }
    }
}
