//! The simplified texts of two peers, for parity: lower case; each number becomes `0`; punctuation and control characters become
//! spaces; runs of white space become one; canonical decomposition, without nonspacing marks (`simplify_text` of datatrove 0.10,
//! from which data-prep-kit's `fdedup` has it; they differ in what separates decimals).

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::normalise::{Buffers, Step, normalise};

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
        self.decomposed.extend(self.spaced.nfd().filter(|c| c.is_ascii() || c.general_category() != GeneralCategory::NonspacingMark));
        self.decomposed.trim()
    }
}

/// Numbers, punctuation and white space.
fn space(peer: Peer, text: &str, out: &mut String) {
    out.clear();
    let mut rest = text.chars();
    let mut between = false;
    while let Some(character) = rest.next() {
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

fn is_digit(character: char) -> bool {
    character.is_ascii_digit() || !character.is_ascii() && character.general_category() == GeneralCategory::DecimalNumber
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
