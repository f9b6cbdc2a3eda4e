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
#![expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]

use unicode_segmentation::UnicodeSegmentation;

use super::normalise::ascii_length;
use super::simple::{
    ALONE, ALPHANUMERIC, BETWEEN, BETWEEN_DIGITS, BETWEEN_LETTERS, DIGIT, LETTER, LOWER, MARK, OTHER, SPACE, Simple, UNDERSCORE, WORD,
    is_katakana,
};

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
            island_words(&self.text[start..end], &mut |word, _| (self.each)(word));
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

/// How ASCII ties things together.
const ASCII: [u16; 128] = {
    let mut classes = [ALONE; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => DIGIT,
            b'_' => UNDERSCORE,
            b'\'' | b'.' => BETWEEN,
            b':' => BETWEEN_LETTERS,
            b',' | b';' => BETWEEN_DIGITS,
            // The rule of the final sigma looks through them, as through some of the above.
            b'^' | b'`' => OTHER,
            _ => ALONE,
        };
        byte += 1;
    }
    classes
};

/// The class of a byte; none if it is not ASCII.
fn byte_class(byte: u8) -> u16 {
    ASCII.get(usize::from(byte)).copied().unwrap_or(0)
}

/// Whether an island may end before this byte: it is ASCII and ties nothing together.
fn separates(byte: u8) -> bool {
    byte_class(byte) == ALONE
}

/// White space of ASCII.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

/// Common symbols that no normalisation changes: as long as ASCII follows, they are like an ASCII separator. So is a no-break space.
fn is_plain(character: char) -> bool {
    matches!(character,
        '\u{2013}'..='\u{2014}' | '\u{201C}'..='\u{201E}' | '\u{2020}'..='\u{2022}' | '\u{2190}'..='\u{2193}' | '\u{2500}'..='\u{257F}')
}

/// Walks over a text, with the instructions that the machine has.
pub(super) fn scan(text: &str, found: &mut impl Found) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Scan<'a, F>(&'a str, &'a mut F);
        impl<F: Found> pulp::NullaryFnOnce for Scan<'_, F> {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                portable_scan(self.0, self.1);
            }
        }
        return simd.vectorize(Scan(text, found));
    }
    portable_scan(text, found);
}

#[inline(always)]
fn portable_scan(text: &str, found: &mut impl Found) {
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

/// The length of the character at `at` if it does not make an island: no mark follows, and if it is white space, none before it.
fn plain_length(text: &str, at: usize) -> Option<usize> {
    let character = text[at..].chars().next()?;
    let bytes = text.as_bytes();
    let plain = is_plain(character) || character == '\u{A0}' && at > 0 && !is_space(bytes[at - 1]);
    let length = character.len_utf8();
    (plain && bytes.get(at + length).is_none_or(u8::is_ascii)).then_some(length)
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
#[inline(always)]
fn ascii_words(bytes: &[u8], from: usize, to: usize, found: &mut impl Found) {
    // Where the word starts that is open.
    let mut open = None;
    let mut at = from;
    while at < to {
        let mask = block_words(bytes, from, to, at);
        // Each bit is an edge: a word starts or ends.
        let mut edges = mask ^ (mask << 1 | u64::from(open.is_some()));
        while edges != 0 {
            let edge = at + edges.trailing_zeros() as usize;
            edges &= edges - 1;
            match open.take() {
                None => open = Some(edge),
                Some(start) => ascii_word(bytes, start, edge, found),
            }
        }
        at += BLOCK;
    }
    if let Some(start) = open {
        ascii_word(bytes, start, to, found);
    }
}

/// Hands a word on; underscores alone are none.
#[inline(always)]
fn ascii_word(bytes: &[u8], start: usize, end: usize, found: &mut impl Found) {
    if bytes[start] != b'_' || bytes[start..end].iter().any(|byte| *byte != b'_') {
        found.ascii(start, end);
    }
}

/// A bit for each byte of the block at `at` of the stretch `from..to` that belongs to a word.
#[inline(always)]
fn block_words(bytes: &[u8], from: usize, to: usize, at: usize) -> u64 {
    let (mut words, mut middles) = if let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        masks(block)
    } else {
        let mut block = [0; BLOCK];
        block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        masks(&block)
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

fn classes_join(before: u16, middle: u16, after: u16) -> bool {
    middle & BETWEEN_LETTERS != 0 && before & after & LETTER != 0 || middle & BETWEEN_DIGITS != 0 && before & after & DIGIT != 0
}

/// Which bytes make words, and which may stand inside one.
#[expect(clippy::needless_bitwise_bool, reason = "without branches the loops become wide instructions")]
#[inline(always)]
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
#[inline(always)]
fn gather(bytes: &[u8; BLOCK]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().rev().fold(0, |mask, word| {
        // The product brings bit 8k + 7 to bit 56 + k, and nothing else comes there.
        let bits = (u64::from_le_bytes(*word) & 0x8080_8080_8080_8080).wrapping_mul(0x0002_0408_1020_4081) >> 56;
        mask << 8 | bits
    })
}

/// The words of an island: found here where all is simple, and by the crate in the pieces around what is not. The flag says that a
/// word is known to be in lower case.
pub(super) fn island_words<'a>(island: &'a str, each: &mut impl FnMut(&'a str, bool)) {
    let table = Simple::table();
    let read = |at: usize| match island.as_bytes().get(at) {
        Some(byte) if byte.is_ascii() => Some((at + 1, table.of(char::from(*byte)))),
        _ => island[at..].chars().next().map(|character| (at + character.len_utf8(), table.of(character))),
    };
    // Where the character before starts, and its class, marks left out. Of the segment that is open: where it starts, what is true of
    // one of its characters, and what is true of all.
    let (mut previous, mut before, mut start, mut some, mut all) = (0, 0, 0, 0, 0);
    let (mut at, mut next) = (0, read(0));
    while let Some((end, flags)) = next {
        next = read(end);
        let after = next.map_or(ALONE, |(_, flags)| flags);
        let marked_middle = some & WORD != 0 && flags & BETWEEN != 0 && after & (MARK | OTHER) != 0;
        if flags & OTHER != 0 || flags & MARK != 0 && some == 0 || marked_middle {
            // What stands before may belong to it, if only as what a mark marks.
            let from = if some != 0 { start } else { white_space_before(table, island, at, previous) };
            let to = piece_end(table, island, end);
            piece_words(&island[from..to], &mut |word| each(word, false));
            (previous, before, some) = (to, 0, 0);
            (at, next) = (to, read(to));
            continue;
        }
        let extends =
            flags & MARK != 0 || some & WORD != 0 && (flags & WORD != 0 || flags & BETWEEN != 0 && classes_join(before, flags, after));
        if extends {
            (some, all) = (some | flags & !BETWEEN, all & flags);
        } else {
            if some & ALPHANUMERIC != 0 {
                each(&island[start..at], all & LOWER != 0);
            }
            // What is neither makes no word and takes marks as a piece.
            let opens = flags & (WORD | ALPHANUMERIC) != 0 || flags & (ALONE | SPACE) == ALONE && end - at > 1;
            (start, some, all) = (at, if opens { flags } else { 0 }, flags);
        }
        if flags & MARK == 0 {
            before = flags;
        }
        (previous, at) = (at, end);
        if some & WORD != 0 {
            // The usual case: the word goes on.
            while let Some((end, flags)) = next
                && flags & WORD != 0
            {
                (some, all, before) = (some | flags, all & flags, flags);
                (previous, at, next) = (at, end, read(end));
            }
        }
    }
    if some & ALPHANUMERIC != 0 {
        each(&island[start..], all & LOWER != 0);
    }
}

/// Where the piece starts whose first unknown character is at `at`: at the character before it, or at all white space there.
fn white_space_before(table: Simple, island: &str, at: usize, previous: usize) -> usize {
    let without = island[..at].trim_end_matches(|character| table.of(character) & SPACE != 0);
    if without.len() == at { previous } else { without.len() }
}

/// Where a piece with unknown characters ends that goes on at `at`: before a character that nothing can tie to them.
fn piece_end(table: Simple, island: &str, at: usize) -> usize {
    let mut after_space = true;
    let ends = |character: char| {
        // Quotation marks may stand between Hebrew letters, and white space joins other white space.
        let flags = table.of(character);
        let ends = flags & ALONE != 0 && character != '"' && !(flags & SPACE != 0 && after_space);
        after_space = flags & SPACE != 0;
        ends
    };
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
    use crate::text::oracle::{awkward, characters, plain_words as plain};
    use crate::text::simple::{COMPOSED, STARTER};

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
        for character in characters() {
            let text = format!("a{character}b {character} 1{character}2{character}{character}.{character} 漢{character}");
            assert_eq!(found(&text), plain(&text), "{character:?}");
        }
    }

    #[test]
    fn ascii_has_the_classes_of_all_characters() {
        let table = Simple::table();
        for byte in 0..128_u8 {
            let class = table.of(char::from(byte)) & (WORD | BETWEEN | ALONE);
            assert!(byte_class(byte) == class || matches!(byte, b'^' | b'`'), "{byte}");
            let transparent = "aΣ\u{0}b".replace('\0', &char::from(byte).to_string()).to_lowercase().starts_with("aσ");
            assert_eq!(transparent, !separates(byte) && byte != b'_' && !byte.is_ascii_digit() && !matches!(byte, b',' | b';'), "{byte}");
        }
        for c in characters().filter(|c| is_plain(*c)) {
            assert_eq!(table.of(c), ALONE | COMPOSED | STARTER | LOWER, "{c:?}");
            assert!("aΣ\0b".replace('\0', &c.to_string()).to_lowercase().starts_with("aς"));
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
