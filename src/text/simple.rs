//! What is simple about a character: where word boundaries, composition and lower case need no look at its neighbours. The tables of
//! the Unicode crates and of the standard library answer each question after a search; these answers are kept for the characters of
//! common scripts, and the tests compare them with those tables for every character.

use std::sync::OnceLock;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfc_quick};

/// A letter that makes words (Word_Break=ALetter of UAX #29).
pub(super) const LETTER: u16 = 1;
/// A digit (Numeric).
pub(super) const DIGIT: u16 = 1 << 1;
/// An underscore.
pub(super) const UNDERSCORE: u16 = 1 << 2;
/// All that makes words.
pub(super) const WORD: u16 = LETTER | DIGIT | UNDERSCORE;
/// Belongs to a word if it stands between two letters (MidLetter).
pub(super) const BETWEEN_LETTERS: u16 = 1 << 3;
/// Belongs to a word if it stands between two digits (MidNum).
pub(super) const BETWEEN_DIGITS: u16 = 1 << 4;
/// Either or both (`BETWEEN_LETTERS | BETWEEN_DIGITS` is MidNumLet).
pub(super) const BETWEEN: u16 = BETWEEN_LETTERS | BETWEEN_DIGITS;
/// Belongs to nothing that stands before it: the start of a segment, to which marks may be added (Word_Break=Other and no emoji;
/// Katakana counts as such here; white space, which joins white space).
pub(super) const ALONE: u16 = 1 << 5;
/// Belongs to what stands before it (Extend or Format).
pub(super) const MARK: u16 = 1 << 6;
/// Not known here: joiners, emoji, Hebrew, and whatever is not worth a range.
pub(super) const OTHER: u16 = 1 << 7;
/// A letter or a number, as [`char::is_alphanumeric`].
pub(super) const ALPHANUMERIC: u16 = 1 << 8;
/// Form NFC leaves it alone if it leaves all others alone and marks stand in their order (NFC_Quick_Check=Yes of UAX #15).
pub(super) const COMPOSED: u16 = 1 << 9;
/// Stands in no order among marks (Canonical_Combining_Class=0).
pub(super) const STARTER: u16 = 1 << 12;
/// Its own lower case.
pub(super) const LOWER: u16 = 1 << 10;
/// White space, as [`char::is_whitespace`].
pub(super) const SPACE: u16 = 1 << 11;

/// Ends of the first range in the table, and of the second, which follows it.
const FIRST: u32 = 0x3100;
const SECOND: std::ops::RangeInclusive<u32> = 0xFF00..=0xFFFF;

/// The answers.
#[derive(Clone, Copy)]
pub(super) struct Simple(&'static [u16]);

impl Simple {
    /// The table, which is made at the first call: some milliseconds.
    pub(super) fn table() -> Self {
        static TABLE: OnceLock<Vec<u16>> = OnceLock::new();
        Self(TABLE.get_or_init(|| {
            let characters = (0..FIRST).chain(SECOND).map(|code| char::from_u32(code).unwrap_or_default());
            characters.map(ask).collect()
        }))
    }

    /// All that is known of a character.
    #[inline]
    pub(super) fn of(self, character: char) -> u16 {
        let code = u32::from(character);
        let place = match code {
            0x3400..=0x4DBF | 0x4E00..=0x9FFF => return ALONE | ALPHANUMERIC | COMPOSED | STARTER | LOWER,
            0xAC00..=0xD7A3 => return LETTER | ALPHANUMERIC | COMPOSED | STARTER | LOWER,
            0..FIRST => code,
            code if SECOND.contains(&code) => FIRST + code - SECOND.start(),
            _ => return ask(character),
        };
        self.0.get(place as usize).map_or_else(|| ask(character), |flags| *flags)
    }
}

/// Whether composition leaves a character alone that stands after another which it leaves alone; both by their flags.
#[inline]
pub(super) fn is_composed(before: u16, flags: u16) -> bool {
    flags & COMPOSED != 0 && (before | flags) & STARTER != 0
}

/// The answers, searched for.
fn ask(character: char) -> u16 {
    let flags = [
        (character.is_alphanumeric(), ALPHANUMERIC),
        (is_nfc_quick(std::iter::once(character)) == IsNormalized::Yes, COMPOSED),
        (canonical_combining_class(character) == 0, STARTER),
        (character.to_lowercase().eq([character]), LOWER),
        (character.is_whitespace(), SPACE),
    ];
    flags.iter().filter(|(is, _)| *is).fold(class_of(character), |all, (_, flag)| all | flag)
}

/// The place in UAX #29.
const fn class_of(character: char) -> u16 {
    match character {
        '_' => UNDERSCORE,
        // Latin, Greek, Cyrillic, Arabic, Devanagari, Hangul; an iteration mark that UAX #29 takes for a letter.
        'a'..='z'
        | 'A'..='Z'
        | '\u{C0}'..='\u{D6}'
        | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{24F}'
        | '\u{388}'..='\u{38A}'
        | '\u{38E}'..='\u{3A1}'
        | '\u{3A3}'..='\u{3F5}'
        | '\u{400}'..='\u{481}'
        | '\u{48A}'..='\u{52F}'
        | '\u{620}'..='\u{64A}'
        | '\u{671}'..='\u{6D3}'
        | '\u{904}'..='\u{939}'
        | '\u{93D}'
        | '\u{958}'..='\u{961}'
        | '\u{1E00}'..='\u{1EFF}'
        | '\u{3005}'
        | '\u{AC00}'..='\u{D7A3}' => LETTER,
        '0'..='9' | '\u{660}'..='\u{669}' | '\u{6F0}'..='\u{6F9}' | '\u{966}'..='\u{96F}' | '\u{E50}'..='\u{E59}' => DIGIT,
        '\'' | '.' | '\u{2018}'..='\u{2019}' | '\u{FF0E}' => BETWEEN,
        ':' | '\u{B7}' | '\u{FF1A}' => BETWEEN_LETTERS,
        ',' | ';' | '\u{60C}' | '\u{FF0C}' | '\u{FF1B}' => BETWEEN_DIGITS,
        // Diacritics of Latin and Cyrillic, Arabic and Devanagari vowels, Thai vowels and tones, those of Katakana; soft hyphen,
        // non-joiner, variation selectors.
        '\u{AD}'
        | '\u{300}'..='\u{36F}'
        | '\u{483}'..='\u{489}'
        | '\u{64B}'..='\u{65F}'
        | '\u{670}'
        | '\u{900}'..='\u{903}'
        | '\u{93A}'..='\u{93C}'
        | '\u{93E}'..='\u{94F}'
        | '\u{951}'..='\u{957}'
        | '\u{962}'..='\u{963}'
        | '\u{E31}'
        | '\u{E34}'..='\u{E3A}'
        | '\u{E47}'..='\u{E4E}'
        | '\u{200C}'
        | '\u{3099}'..='\u{309A}'
        | '\u{FE00}'..='\u{FE0F}'
        | '\u{FF9E}'..='\u{FF9F}' => MARK,
        // The rest of ASCII, symbols, punctuation, Thai, Hiragana, Han.
        '\0'..='\u{7F}'
        | '\u{A0}'..='\u{A7}'
        | '\u{AB}'
        | '\u{AC}'
        | '\u{B0}'..='\u{B3}'
        | '\u{B9}'
        | '\u{BB}'..='\u{BF}'
        | '\u{D7}'
        | '\u{F7}'
        | '\u{61B}'
        | '\u{61F}'
        | '\u{964}'..='\u{965}'
        | '\u{E01}'..='\u{E30}'
        | '\u{E32}'..='\u{E33}'
        | '\u{E40}'..='\u{E46}'
        | '\u{2010}'..='\u{2016}'
        | '\u{201A}'..='\u{2022}'
        | '\u{2026}'
        | '\u{2030}'..='\u{203A}'
        | '\u{20A0}'..='\u{20C0}'
        | '\u{2190}'..='\u{2193}'
        | '\u{2200}'..='\u{22FF}'
        | '\u{2500}'..='\u{259F}'
        | '\u{3000}'..='\u{3003}'
        | '\u{3007}'..='\u{3029}'
        | '\u{3041}'..='\u{3096}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{FF01}'
        | '\u{FF08}'
        | '\u{FF09}'
        | '\u{FF1F}'
        | '\u{20000}'..='\u{3FFFD}' => ALONE,
        _ if is_katakana(character) => ALONE,
        _ => OTHER,
    }
}

/// Word_Break=Katakana, all of it.
pub(super) const fn is_katakana(character: char) -> bool {
    matches!(character,
        '\u{3031}'..='\u{3035}' | '\u{309B}'..='\u{309C}' | '\u{30A0}'..='\u{30FA}' | '\u{30FC}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}'
        | '\u{32D0}'..='\u{32FE}' | '\u{3300}'..='\u{3357}' | '\u{FF66}'..='\u{FF9D}' | '\u{1AFF0}'..='\u{1AFF3}'
        | '\u{1AFF5}'..='\u{1AFFB}' | '\u{1AFFD}'..='\u{1AFFE}' | '\u{1B000}' | '\u{1B120}'..='\u{1B122}' | '\u{1B155}'
        | '\u{1B164}'..='\u{1B167}')
}

#[cfg(test)]
mod tests {
    use unicode_segmentation::UnicodeSegmentation;

    use super::*;
    use crate::text::oracle::{self, characters};

    /// Each class is that of the crate, by what the character is tied to.
    #[test]
    fn classes_are_those_of_unicode() {
        let table = Simple::table();
        let segments = |text: String| text.split_word_bounds().count();
        for c in characters() {
            assert_eq!(table.of(c), ask(c), "{c:?}");
            assert_eq!(is_katakana(c), oracle::is_katakana(c), "{c:?}");
            let class = class_of(c);
            if class == OTHER {
                continue;
            }
            // After letters, digits and itself; between letters and digits; after a joiner; before a mark.
            let ties = [
                segments(format!("a{c}")),
                segments(format!("1{c}")),
                segments(format!("_{c}")),
                segments(format!("漢{c}")),
                segments(format!("{c}{c}")),
                segments(format!("a{c}b")),
                segments(format!("1{c}2")),
                segments(format!("a:{c}")),
                segments(format!("1,{c}")),
                segments(format!("א\"{c}")),
                segments(format!("\u{200d}{c}")),
                segments(format!("{c}\u{301}")),
            ];
            let wanted = match class {
                LETTER => [1, 1, 1, 2, 1, 1, 1, 1, 3, 3, 2, 1],
                DIGIT => [1, 1, 1, 2, 1, 1, 1, 3, 1, 3, 2, 1],
                UNDERSCORE => [1, 1, 1, 2, 1, 1, 1, 3, 3, 3, 2, 1],
                BETWEEN_LETTERS => [2, 2, 2, 2, 2, 1, 3, 3, 3, 3, 2, 1],
                BETWEEN_DIGITS => [2, 2, 2, 2, 2, 3, 1, 3, 3, 3, 2, 1],
                BETWEEN => [2, 2, 2, 2, 2, 1, 1, 3, 3, 3, 2, 1],
                MARK => [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1],
                _ if is_katakana(c) => [2, 2, 1, 2, 1, 3, 3, 3, 3, 3, 2, 1],
                _ if matches!(c, ' ' | '\u{3000}') => [2, 2, 2, 2, 1, 3, 3, 3, 3, 3, 2, 1],
                _ if matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}') => [2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 2, 2],
                _ => [2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 2, 1],
            };
            assert_eq!(ties, wanted, "{c:?} {class}");
            assert!(class & (LETTER | DIGIT) == 0 || c.is_alphanumeric(), "{c:?}");
        }
    }

    #[test]
    fn composition_leaves_what_it_should_alone() {
        let table = Simple::table();
        for character in characters().filter(|character| is_composed(table.of('a'), table.of(*character))) {
            for others in ["a", "é", "漢", "가"] {
                let text = format!("{others}{character}{others}{character}{others}");
                assert_eq!(is_nfc_quick(text.chars()), IsNormalized::Yes, "{character:?}");
            }
        }
        let flags = ['\u{301}', '\u{323}'].map(|mark| table.of(mark));
        assert!(!is_composed(flags[0], flags[1]));
    }
}
