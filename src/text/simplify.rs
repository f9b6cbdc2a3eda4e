//! The simplified texts of two peers, for parity: lower case; each number becomes `0`; punctuation and control characters become
//! spaces; runs of white space become one; canonical decomposition, without nonspacing marks (`simplify_text` of datatrove 0.10,
//! from which data-prep-kit's `fdedup` has it; they differ in what separates decimals).

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::normalise::{Buffers, Step, cut, normalise};

/// Whose simplification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Datatrove,
    DataPrepKit,
}

impl Peer {
    /// Whether this character between two digits belongs to the number.
    fn is_decimal_separator(self, character: char) -> bool {
        match self {
            Self::Datatrove => matches!(character, '.' | ',' | '،' | '٫' | '⎖' | '⎗' | '⎘'),
            Self::DataPrepKit => character == '.',
        }
    }
}

/// Space for a text on its way; kept between rows.
#[derive(Debug, Default)]
pub(super) struct Simplifier {
    lower: Buffers,
    spaced: String,
    decomposed: String,
}

impl Simplifier {
    pub(super) fn simplify(&mut self, peer: Peer, text: &str) -> &str {
        let lower = normalise(&[Step::Lowercase], text, &mut self.lower);
        space(peer, lower, &mut self.spaced);
        if self.spaced.is_ascii() {
            return &self.spaced;
        }
        self.decomposed.clear();
        let mut rest = self.spaced.as_str();
        while !rest.is_empty() {
            // ASCII is its own decomposition, and marks are ordered among themselves.
            let (ascii, other, after) = cut(rest);
            self.decomposed.push_str(ascii);
            self.decomposed.extend(other.nfd().filter(|character| !is_nonspacing(*character)));
            rest = after;
        }
        self.decomposed.trim()
    }
}

/// Numbers, punctuation and white space.
fn space(peer: Peer, text: &str, out: &mut String) {
    out.clear();
    let mut rest = text.chars();
    let mut between = false;
    while let Some(character) = rest.next() {
        if character.is_ascii_alphabetic() {
            if std::mem::take(&mut between) && !out.is_empty() {
                out.push(' ');
            }
            // Most of a text.
            let word = rest.as_str().bytes().take_while(u8::is_ascii_alphabetic).count();
            out.push(character);
            out.push_str(&rest.as_str()[..word]);
            rest = rest.as_str()[word..].chars();
            continue;
        }
        let written = if is_digit(character) {
            skip_digits(&mut rest);
            let mut after = rest.clone();
            if after.next().is_some_and(|next| peer.is_decimal_separator(next)) && after.next().is_some_and(is_digit) {
                skip_digits(&mut after);
                rest = after;
            }
            '0'
        } else if character.is_whitespace() || is_punctuation(character) {
            between = true;
            continue;
        } else {
            character
        };
        if std::mem::take(&mut between) && !out.is_empty() {
            out.push(' ');
        }
        out.push(written);
    }
}

/// Letters of which there are too many to look them up.
fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
        || !character.is_ascii() && !is_ideograph(character) && character.general_category() == GeneralCategory::DecimalNumber
}

fn is_nonspacing(character: char) -> bool {
    !is_ideograph(character) && character.general_category() == GeneralCategory::NonspacingMark
}

fn skip_digits(rest: &mut std::str::Chars) {
    let mut after = rest.clone();
    while after.next().is_some_and(is_digit) {
        *rest = after.clone();
    }
}

/// What both peers turn into a space: ASCII punctuation and symbols, control characters, and a list of others.
fn is_punctuation(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_punctuation() || character.is_ascii_control();
    }
    matches!(character, '\u{80}'..='\u{9F}') || "—”％１〈、━【「」，】；“《„’∶´．（–？！：～«〉》）。…►»".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simplify(peer: Peer, text: &str) -> String {
        Simplifier::default().simplify(peer, text).to_owned()
    }

    /// What `simplify_text` of datatrove 0.10.1 answers, and the words of data-prep-kit's.
    #[test]
    fn texts_are_those_of_the_peers() {
        let cases: &[(&str, &str, &str)] = &[
            (
                "The quick brown fox jumps over the lazy dog. It was 42 degrees on Monday, wasn't it?",
                "the quick brown fox jumps over the lazy dog it was 0 degrees on monday wasn t it",
                "the quick brown fox jumps over the lazy dog it was 0 degrees on monday wasn t it",
            ),
            ("1,000.50 1.2.3 3,5 1|2|3 v1.0", "0 0 0 0 0 0 0 0 v0", "0 0 0 0 0 0 0 0 0 v0"),
            ("١٢٫٥ ١٢,٥ १२.३ 12 １２", "0 0 0 0 0", "0٫0 0 0 0 0 0"),
            ("", "", ""),
            ("  \n\t ", "", ""),
            ("!?…", "", ""),
            ("don’t “quote” ‘single’ — – - _", "don t quote ‘single", "don t quote ‘single"),
            ("naïve Ångström ÉTÉ İstanbul ΟΔΟΣ ß", "naive angstrom ete istanbul οδος ß", "naive angstrom ete istanbul οδος ß"),
            ("e\u{301} \u{301} a\u{338} =\u{338} ≠ ≮ a≠b", "e  a  = < a=b", "e a = < a=b"),
            ("漢字、カタカナ。ガ が", "漢字 カタカナ カ か", "漢字 カタカナ カ か"),
            (
                "한국어",
                "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}\u{110b}\u{1165}",
                "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}\u{110b}\u{1165}",
            ),
            ("ภาษา", "ภาษา", "ภาษา"),
            ("x² ½ ⅷ Ⅷ ﬁ", "x² ½ ⅷ ⅷ ﬁ", "x² ½ ⅷ ⅷ ﬁ"),
            ("１位 ％ ￥ ＃ ：", "0位 ￥ ＃", "0位 ￥ ＃"),
            ("a\u{a0}b\u{3000}c\u{2028}d\u{200b}e\u{feff}f", "a b c d\u{200b}e\u{feff}f", "a b c d\u{200b}e\u{feff}f"),
            ("\u{0}a\u{7f}b\u{85}c\u{9f}d", "a b c d", "a b c d"),
            ("€5 £3 §4 ©", "€0 £0 §0 ©", "€0 £0 §0 ©"),
            ("\u{37e} \u{1fef} \u{212b} K", "; ` a k", "; ` a k"),
            ("1. 2.a .5 5. 0.0.0", "0 0 a 0 0 0 0", "0 0 a 0 0 0 0"),
            ("a\tb\nc\u{d}\nd", "a b c d", "a b c d"),
        ];
        for (text, datatrove, data_prep_kit) in cases {
            assert_eq!(simplify(Peer::Datatrove, text), *datatrove, "{text:?}");
            let words: Vec<String> = simplify(Peer::DataPrepKit, text).split_whitespace().map(str::to_owned).collect();
            assert_eq!(words.join(" "), *data_prep_kit, "{text:?}");
        }
    }

    #[test]
    fn every_ascii_character_is_kept_or_becomes_a_space() {
        for byte in 0..128_u8 {
            let wanted = match byte {
                b'0'..=b'9' => "a0b".to_owned(),
                b'a'..=b'z' | b'A'..=b'Z' => format!("a{}b", char::from(byte).to_ascii_lowercase()),
                _ => "a b".to_owned(),
            };
            assert_eq!(simplify(Peer::Datatrove, &format!("a{}b", char::from(byte))), wanted, "{byte}");
        }
    }
}
