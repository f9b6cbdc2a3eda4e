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

/// The place of a character in UAX #29, as far as it is simple.
mod class {
    /// A letter that makes words.
    pub(super) const LETTER: u8 = 1;
    /// A digit.
    pub(super) const DIGIT: u8 = 1 << 1;
    /// An underscore.
    pub(super) const UNDERSCORE: u8 = 1 << 2;
    /// All that makes words.
    pub(super) const WORD: u8 = LETTER | DIGIT | UNDERSCORE;
    /// Belongs to a word if it stands between two letters.
    pub(super) const BETWEEN_LETTERS: u8 = 1 << 3;
    /// Belongs to a word if it stands between two digits.
    pub(super) const BETWEEN_DIGITS: u8 = 1 << 4;
    /// Either.
    pub(super) const BETWEEN: u8 = BETWEEN_LETTERS | BETWEEN_DIGITS;
    /// Belongs to nothing, but marks after it belong to it: the start of a segment, and if it is a letter or a number, of a word.
    pub(super) const ALONE: u8 = 1 << 5;
    /// The same, and the rule of the final sigma looks through it.
    pub(super) const TRANSPARENT: u8 = 1 << 6;
    /// Not known here: marks, joiners, emoji, Hebrew, and whatever is not worth a range. The crate knows it.
    pub(super) const OTHER: u8 = 1 << 7;
}

/// Classes of ASCII.
const ASCII: [u8; 128] = {
    let mut classes = [class::ALONE; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => class::LETTER,
            b'0'..=b'9' => class::DIGIT,
            b'_' => class::UNDERSCORE,
            b'\'' | b'.' => class::BETWEEN,
            b':' => class::BETWEEN_LETTERS,
            b',' | b';' => class::BETWEEN_DIGITS,
            b'^' | b'`' => class::TRANSPARENT,
            _ => class::ALONE,
        };
        byte += 1;
    }
    classes
};

/// The class of a character. The ranges are those of common scripts; the tests compare them with the crate.
fn class_of(character: char) -> u8 {
    match character {
        '\0'..='\u{7F}' => ASCII[character as usize],
        '\u{C0}'..='\u{D6}'
        | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{24F}'
        | '\u{388}'..='\u{38A}'
        | '\u{38E}'..='\u{3A1}'
        | '\u{3A3}'..='\u{3F5}'
        | '\u{400}'..='\u{481}'
        | '\u{48A}'..='\u{52F}'
        | '\u{620}'..='\u{64A}'
        | '\u{3005}'
        | '\u{AC00}'..='\u{D7A3}' => class::LETTER,
        '\u{660}'..='\u{669}' => class::DIGIT,
        '\u{2018}'..='\u{2019}' | '\u{FF0E}' => class::BETWEEN,
        '\u{B7}' | '\u{FF1A}' => class::BETWEEN_LETTERS,
        '\u{FF0C}' | '\u{FF1B}' => class::BETWEEN_DIGITS,
        _ if is_plain(character) || is_ideograph(character) || is_katakana(character) => class::ALONE,
        '\u{A1}'..='\u{A7}' | '\u{AB}' | '\u{AC}' | '\u{B0}'..='\u{B3}' | '\u{B9}' | '\u{BB}'..='\u{BF}' | '\u{D7}' | '\u{F7}' => {
            class::ALONE
        }
        '\u{3001}'..='\u{3003}'
        | '\u{3007}'..='\u{3029}'
        | '\u{FF01}'
        | '\u{FF08}'
        | '\u{FF09}'
        | '\u{FF1F}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFD}' => class::ALONE,
        _ => class::OTHER,
    }
}

/// Common symbols that no normalisation changes: as long as ASCII follows, they are like an ASCII separator.
fn is_plain(character: char) -> bool {
    matches!(character,
        '\u{2013}'..='\u{2014}' | '\u{201C}'..='\u{201E}' | '\u{2020}'..='\u{2022}' | '\u{2190}'..='\u{2193}' | '\u{2500}'..='\u{257F}')
}

/// The common blocks of Han and Hiragana: all of them letters.
fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3041}'..='\u{3096}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}')
}

/// Word_Break=Katakana, all of it.
fn is_katakana(character: char) -> bool {
    matches!(character,
        '\u{3031}'..='\u{3035}' | '\u{309B}'..='\u{309C}' | '\u{30A0}'..='\u{30FA}' | '\u{30FC}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}'
        | '\u{32D0}'..='\u{32FE}' | '\u{3300}'..='\u{3357}' | '\u{FF66}'..='\u{FF9D}' | '\u{1AFF0}'..='\u{1AFF3}'
        | '\u{1AFF5}'..='\u{1AFFB}' | '\u{1AFFD}'..='\u{1AFFE}' | '\u{1B000}' | '\u{1B120}'..='\u{1B122}' | '\u{1B155}'
        | '\u{1B164}'..='\u{1B167}')
}

/// The class of a byte; none if it is not ASCII.
fn byte_class(byte: u8) -> u8 {
    ASCII.get(usize::from(byte)).copied().unwrap_or(0)
}

/// Whether an island may end before this byte: it is ASCII and ties nothing together.
fn separates(byte: u8) -> bool {
    byte_class(byte) == class::ALONE
}

/// White space of ASCII.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
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
        if let Some(length) = plain_length(text, other) {
            ascii_words(bytes, at, other, found);
            at = other + length;
            continue;
        }
        let start = island_start(bytes, at, other);
        let end = island_end(bytes, other);
        ascii_words(bytes, at, start, found);
        found.island(start, end);
        at = end;
    }
}

/// The length of the character at `at` if it does not make an island.
fn plain_length(text: &str, at: usize) -> Option<usize> {
    let character = text[at..].chars().next().filter(|character| is_plain(*character))?;
    let length = character.len_utf8();
    text.as_bytes().get(at + length).is_none_or(u8::is_ascii).then_some(length)
}

/// Where the island starts that holds the first other character after `from`: at a separator before it, at all white space if that
/// is one, for white space and marks after it belong together.
fn island_start(bytes: &[u8], from: usize, other: usize) -> usize {
    let before = &bytes[from..other];
    let tied = before.iter().rev().take_while(|byte| !separates(**byte)).count();
    let before = &before[..before.len() - tied];
    let spaces = before.iter().rev().take_while(|byte| is_space(**byte)).count();
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
    classes_join(byte_class(before), byte_class(middle), byte_class(after))
}

fn classes_join(before: u8, middle: u8, after: u8) -> bool {
    middle & class::BETWEEN_LETTERS != 0 && before & after & class::LETTER != 0
        || middle & class::BETWEEN_DIGITS != 0 && before & after & class::DIGIT != 0
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

/// The words of an island: found here where all is simple, and by the crate in the pieces around what is not.
pub(super) fn island_words<'a>(island: &'a str, each: &mut impl FnMut(&'a str)) {
    let first = |at: usize| island[at..].chars().next().map(|character| (character, class_of(character)));
    let mut at = 0;
    // The classes of the character before and of the word that is open, and where the former and the latter start.
    let (mut before, mut word, mut previous, mut start) = (class::ALONE, 0, 0, 0);
    let mut next = first(0);
    while let Some((character, class)) = next {
        let end = at + character.len_utf8();
        next = first(end);
        let after = next.map_or(class::ALONE, |(_, class)| class);
        if class & class::OTHER != 0 || word != 0 && class & class::BETWEEN != 0 && after & class::OTHER != 0 {
            // What stands before may belong to it, if only as what a mark marks.
            let from = if word != 0 { start } else { white_space_before(island, at, previous) };
            let to = piece_end(island, end);
            piece_words(&island[from..to], each);
            (at, before, word, next) = (to, class::ALONE, 0, first(to));
            previous = to;
            continue;
        }
        if class & class::WORD != 0 {
            if word == 0 {
                start = at;
            }
            word |= class;
        } else if word == 0 || !classes_join(before, class, after) {
            if word & !class::UNDERSCORE != 0 {
                each(&island[start..at]);
            }
            word = 0;
            if class & class::ALONE != 0 && after & class::OTHER == 0 && (is_ideograph(character) || character.is_alphanumeric()) {
                each(&island[at..end]);
            }
        }
        (previous, before, at) = (at, class, end);
    }
    if word & !class::UNDERSCORE != 0 {
        each(&island[start..]);
    }
}

/// Where the piece starts whose first unknown character is at `at`: at the character before it, or at all white space there.
fn white_space_before(island: &str, at: usize, previous: usize) -> usize {
    let spaces = island.as_bytes()[..at].iter().rev().take_while(|byte| is_space(**byte)).count();
    if spaces == 0 { previous } else { at - spaces }
}

/// Where a piece with unknown characters ends that goes on at `at`: before a character that nothing can tie to them.
fn piece_end(island: &str, at: usize) -> usize {
    // Quotation marks may stand between Hebrew letters, and white space may follow other white space.
    let ends = |character: char| class_of(character) == class::ALONE && character != '"' && !character.is_whitespace();
    island[at..].find(ends).map_or(island.len(), |length| at + length)
}

/// The words of a piece, in which Katakana stands at the start only.
fn piece_words<'a>(piece: &'a str, each: &mut impl FnMut(&'a str)) {
    match piece.chars().next().filter(|first| is_katakana(*first)) {
        None => piece.unicode_words().for_each(each),
        Some(first) => {
            let (han, length) = ('一', first.len_utf8());
            let as_han = format!("{han}{}", &piece[length..]);
            let edges = as_han.split_word_bound_indices().map(|(start, _)| start).skip(1).chain([as_han.len()]);
            let mut start = 0;
            for end in edges.map(|edge| edge - han.len_utf8() + length) {
                if piece[start..end].contains(char::is_alphanumeric) {
                    each(&piece[start..end]);
                }
                start = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::oracle::{self, awkward, plain_words as plain};

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

    /// Each class is that of the crate: by what it is tied to.
    #[test]
    fn classes_are_those_of_unicode() {
        let segments = |text: String| text.split_word_bounds().count();
        for character in '\0'..=char::MAX {
            let class = class_of(character);
            assert_eq!(is_katakana(character), oracle::is_katakana(character), "{character:?}");
            if class == class::OTHER {
                continue;
            }
            // Between letters, digits and spaces; after a joiner and an emoji; before a mark; between Hebrew letters.
            let c = character;
            let ties = [
                segments(format!("a{c}")),
                segments(format!("1{c}")),
                segments(format!("_{c}")),
                segments(format!("{c}{c}")),
                segments(format!("a{c}b")),
                segments(format!("1{c}2")),
                segments(format!("\u{200d}{c}")),
                segments(format!("{c}\u{301}")),
            ];
            let wanted = match class {
                class::LETTER => [1, 1, 1, 1, 1, 1, 2, 1],
                class::DIGIT => [1, 1, 1, 1, 1, 1, 2, 1],
                class::UNDERSCORE => [1, 1, 1, 1, 1, 1, 2, 1],
                class::BETWEEN_LETTERS => [2, 2, 2, 2, 1, 3, 2, 1],
                class::BETWEEN_DIGITS => [2, 2, 2, 2, 3, 1, 2, 1],
                _ if class == class::BETWEEN => [2, 2, 2, 2, 1, 1, 2, 1],
                _ if is_katakana(character) => [2, 2, 1, 1, 3, 3, 2, 1],
                _ if c == ' ' => [2, 2, 2, 1, 3, 3, 2, 1],
                _ if matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}') => [2, 2, 2, 2, 3, 3, 2, 2],
                _ => [2, 2, 2, 2, 3, 3, 2, 1],
            };
            assert_eq!(ties, wanted, "{character:?} {class}");
            if class == class::LETTER || class == class::DIGIT {
                let joined = if class == class::LETTER { [1, 3] } else { [3, 1] };
                assert_eq!([segments(format!("a:{c}")), segments(format!("1,{c}"))], joined, "{character:?}");
                assert!(character.is_alphanumeric());
            }
            assert!(!is_ideograph(c) || c.is_alphanumeric(), "{character:?}");
            assert!(!is_plain(character) || !c.is_alphanumeric() && !c.is_whitespace(), "{character:?}");
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
