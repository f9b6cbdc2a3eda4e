//! Normalisation of texts before they are compared. Exact deduplication runs it over all text, so ASCII, and ASCII runs inside other
//! text, take wide steps; every step equals its one-line definition, which the tests hold beside it.

use std::mem::swap;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::simple::{LOWER, STARTER, Simple, is_composed};

/// One step of a normalisation. Steps are applied in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Unicode normalisation form C (UAX #15).
    Nfc,
    /// Unicode normalisation form KC (UAX #15).
    Nfkc,
    /// Lower case as [`str::to_lowercase`]: full mappings, final sigma by context, no locale.
    Lowercase,
    /// Each run of characters with the property White_Space becomes one U+0020; none is left at either end.
    CollapseWhitespace,
    /// Characters of general category P (Pc Pd Ps Pe Pi Pf Po) are removed; symbols, such as `$ + < = > ^ | ~`, stay.
    StripPunctuation,
}

/// Space for intermediate texts; kept between rows, it makes normalisation free of allocations.
#[derive(Debug, Default)]
pub struct Buffers {
    front: String,
    back: String,
}

/// Applies `steps` to `text`. The result lies in `buffers`, or is `text` itself where no step changed a form.
pub fn normalise<'a>(steps: &[Step], text: &'a str, buffers: &'a mut Buffers) -> &'a str {
    let Buffers { front, back } = buffers;
    let is_ascii = text.is_ascii();
    let (mut written, mut lower) = (false, false);
    for step in steps {
        // ASCII stays ASCII: it is its own composed form, and as no other step looks at case, lower case can wait to the end.
        match step {
            Step::Nfc | Step::Nfkc if is_ascii => continue,
            Step::Lowercase if is_ascii => {
                lower = true;
                continue;
            }
            _ => {}
        }
        let source = if written { front.as_str() } else { text };
        back.clear();
        let changed = match step {
            Step::Nfc => compose(source, back, is_nfc, |part, out| out.extend(part.nfc())),
            Step::Nfkc => compose(source, back, is_nfkc, |part, out| out.extend(part.nfkc())),
            Step::Lowercase => lowercase(source, back),
            Step::CollapseWhitespace => collapse(source, back),
            Step::StripPunctuation => strip(source, back),
        };
        if changed {
            swap(front, back);
            written = true;
        }
    }
    if lower {
        if !written {
            front.clear();
            front.push_str(text);
            written = true;
        }
        front.make_ascii_lowercase();
    }
    if written { front } else { text }
}

/// Bytes that one wide step looks at.
const WIDE: usize = 32;

/// Length of the ASCII run at the start.
pub(super) fn ascii_length(bytes: &[u8]) -> usize {
    let wide = bytes.chunks_exact(WIDE).take_while(|part| part.is_ascii()).count() * WIDE;
    wide + bytes[wide..].iter().take_while(|byte| byte.is_ascii()).count()
}

/// Cuts off an ASCII run and the run of other characters that follows it; either may be empty, not both unless `text` is.
pub(super) fn cut(text: &str) -> (&str, &str, &str) {
    let (ascii, rest) = text.split_at(ascii_length(text.as_bytes()));
    let other = rest.bytes().take_while(|byte| !byte.is_ascii()).count();
    let (other, rest) = rest.split_at(other);
    (ascii, other, rest)
}

/// Brings runs of other characters, each with the ASCII character before it, into a composed form. That is enough: an ASCII
/// character is a starter that never composes with what stands before it, so that the form has a boundary there, and between two of
/// them nothing changes. Nothing is written, and the answer is false, if the text has the form.
fn compose(text: &str, out: &mut String, quick: fn(&str) -> bool, full: fn(&str, &mut String)) -> bool {
    let (mut at, mut written) = (0, 0);
    while at < text.len() {
        let (ascii, other, _) = cut(&text[at..]);
        let end = at + ascii.len() + other.len();
        let base = at + ascii.len().saturating_sub(1);
        if !quick(&text[base..end]) {
            out.push_str(&text[written..base]);
            full(&text[base..end], out);
            written = end;
        }
        at = end;
    }
    if written > 0 {
        out.push_str(&text[written..]);
    }
    written > 0
}

fn is_nfc(text: &str) -> bool {
    let table = Simple::table();
    let mut before = STARTER;
    let composed = text.chars().map(|character| table.of(character)).all(|flags| is_composed(std::mem::replace(&mut before, flags), flags));
    composed || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

fn is_nfkc(text: &str) -> bool {
    is_nfkc_quick(text.chars()) == IsNormalized::Yes
}

fn lowercase(text: &str, out: &mut String) -> bool {
    // The one mapping that depends on context is left to the standard library, which allocates.
    if text.contains('Σ') {
        out.push_str(&text.to_lowercase());
        return true;
    }
    let table = Simple::table();
    let is_lower = |character: char| table.of(character) & LOWER != 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (ascii, other, after) = cut(rest);
        let start = out.len();
        out.push_str(ascii);
        out[start..].make_ascii_lowercase();
        let lower: usize = other.chars().take_while(|character| is_lower(*character)).map(char::len_utf8).sum();
        let (lower, other) = other.split_at(lower);
        out.push_str(lower);
        other.chars().for_each(|character| if is_lower(character) { out.push(character) } else { out.extend(character.to_lowercase()) });
        rest = after;
    }
    true
}

/// A step that looks at each character once and writes it, another one, or nothing.
trait Filter {
    /// Eight ASCII bytes, the first in the lowest byte: what to write for them, and a mask with the highest bit of each byte that
    /// is left out.
    fn word(&mut self, word: u64) -> (u64, u64);
    /// One character of any kind: what to write for it.
    fn character<'a>(&mut self, character: &'a str) -> &'a str;
}

/// Bytes of a word.
const WORD: usize = 8;
/// The highest bit of each byte of a word; ASCII has none of them.
const HIGH: u64 = u64::from_ne_bytes([0x80; WORD]);

/// Runs a filter over a text, word by word where it is ASCII.
fn filter(text: &str, out: &mut String, filter: &mut impl Filter) {
    let bytes = text.as_bytes();
    let mut space = std::mem::take(out).into_bytes();
    // A word is written whole, then counted without what is left out: it may reach one word beyond the text.
    let room = bytes.len() + WORD;
    if space.len() < room {
        space.resize(room, 0);
    }
    let (mut at, mut length) = (0, 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + WORD);
        if let Some(part) = bytes[at..].first_chunk::<WORD>() {
            let word = u64::from_le_bytes(*part);
            if word & HIGH == 0 {
                let (written, left_out) = filter.word(word);
                let target = &mut space[length..length + WORD];
                if left_out == 0 {
                    target.copy_from_slice(&written.to_le_bytes());
                    length += WORD;
                } else if left_out != HIGH {
                    // No branch depends on a byte: each is written, and overwritten by the next if it is left out.
                    let mut kept = 0;
                    for (index, byte) in written.to_le_bytes().into_iter().enumerate() {
                        target[kept % WORD] = byte;
                        kept += 1 - (left_out >> (8 * index + 7) & 1) as usize;
                    }
                    length += kept;
                }
                at = end;
                continue;
            }
        }
        while at < end {
            let width = match bytes[at] {
                0xF0.. => 4,
                0xE0.. => 3,
                0xC0.. => 2,
                _ => 1,
            };
            for byte in filter.character(&text[at..at + width]).bytes() {
                space[length] = byte;
                length += 1;
            }
            at += width;
        }
    }
    space.truncate(length);
    // Whole characters went in and whole characters came out: the check, which costs little, always passes.
    *out = String::from_utf8(space).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
}

/// The highest bit of each byte of an ASCII word that is at least `least`, which is from 1 to 127.
fn at_least(word: u64, least: u8) -> u64 {
    // Below 128 + 128: nothing is carried from byte to byte.
    (word + u64::from_ne_bytes([0x80 - least; WORD])) & HIGH
}

/// Collapses white space, but may leave one space at the end.
struct Collapse {
    /// The next white space is left out: at the start, and after a space that was written.
    after_space: bool,
}

impl Filter for Collapse {
    fn word(&mut self, word: u64) -> (u64, u64) {
        let control = at_least(word, 9) & !at_least(word, 14);
        let space = control | (at_least(word, b' ') & !at_least(word, b' ' + 1));
        let left_out = space & (space << 8 | u64::from(self.after_space) << 7);
        self.after_space = space >> 63 == 1;
        // Control characters become U+0020: their bytes are cleared, and one bit is set in them.
        let whole = (control >> 7) * 0xFF;
        (word & !whole | control >> 2, left_out)
    }

    fn character<'a>(&mut self, character: &'a str) -> &'a str {
        let space = character.starts_with(char::is_whitespace);
        match (space, std::mem::replace(&mut self.after_space, space)) {
            (false, _) => character,
            (true, false) => " ",
            (true, true) => "",
        }
    }
}

fn collapse(text: &str, out: &mut String) -> bool {
    let mut state = Collapse { after_space: true };
    filter(text, out, &mut state);
    if state.after_space {
        out.pop();
    }
    true
}

/// ASCII of general category P.
const PUNCTUATION: [bool; 128] = {
    let mut table = [false; 128];
    let mut at = 0;
    let all = b"!\"#%&'()*,-./:;?@[\\]_{}";
    while at < all.len() {
        table[all[at] as usize] = true;
        at += 1;
    }
    table
};

/// Leaves out punctuation.
struct Strip;

impl Filter for Strip {
    fn word(&mut self, word: u64) -> (u64, u64) {
        let bits = word.to_le_bytes().map(|byte| u8::from(PUNCTUATION[usize::from(byte & 0x7F)]) << 7);
        (word, u64::from_le_bytes(bits))
    }

    fn character<'a>(&mut self, character: &'a str) -> &'a str {
        if character.starts_with(is_punctuation) { "" } else { character }
    }
}

fn strip(text: &str, out: &mut String) -> bool {
    filter(text, out, &mut Strip);
    true
}

fn is_punctuation(character: char) -> bool {
    character.general_category_group() == GeneralCategoryGroup::Punctuation
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definitions.
    fn plain(steps: &[Step], text: &str) -> String {
        steps.iter().fold(text.to_owned(), |text, step| match step {
            Step::Nfc => text.nfc().collect(),
            Step::Nfkc => text.nfkc().collect(),
            Step::Lowercase => text.to_lowercase(),
            Step::CollapseWhitespace => text.split(char::is_whitespace).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "),
            Step::StripPunctuation => text.chars().filter(|c| !is_punctuation(*c)).collect(),
        })
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let all = vec![Step::Nfc, Step::Nfkc, Step::Lowercase, Step::CollapseWhitespace, Step::StripPunctuation];
        prop::collection::vec(prop::sample::select(all), 0..5)
    }

    /// Texts made of what the steps treat in special ways, amid runs long enough for wide steps.
    fn texts() -> impl Strategy<Value = String> {
        let pieces = vec![
            " ",
            "  ",
            "\t",
            "\n",
            " \n",
            "\u{b}",
            "\u{85}",
            "\u{a0}",
            "\u{2003}",
            "\u{3000}",
            "\u{200b}",
            "a",
            "Bc",
            "é",
            "e",
            "\u{301}",
            "\u{323}",
            "Σ",
            "ΑΣ",
            "σ",
            "ﬁ",
            "İ",
            "ǅ",
            "-",
            "—",
            "«",
            "$",
            "_",
            "~",
            "!",
            "한",
            "\u{1100}",
            "\u{1161}",
            "\u{11a8}",
            "½",
            "\u{1f600}",
            "\u{0}",
            "\u{1c}",
            "The quick brown FOX jumps over the lazy dog again",
            "abcdefghijklmnopqrstuvwxyz012345",
        ];
        prop::collection::vec(prop::sample::select(pieces), 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn equals_the_definitions_on_awkward_texts(steps in steps(), a in texts(), b in texts()) {
            let mut buffers = Buffers::default();
            prop_assert_eq!(normalise(&steps, &a, &mut buffers), plain(&steps, &a));
            prop_assert_eq!(normalise(&steps, &b, &mut buffers), plain(&steps, &b));
        }

        #[test]
        fn equals_the_definitions_on_any_text(steps in steps(), text in any::<String>(), ascii in "[ -~\t\n]{0,200}") {
            let mut buffers = Buffers::default();
            prop_assert_eq!(normalise(&steps, &text, &mut buffers), plain(&steps, &text));
            prop_assert_eq!(normalise(&steps, &ascii, &mut buffers), plain(&steps, &ascii));
        }
    }

    #[test]
    fn the_order_of_steps_is_the_written_one() {
        let mut buffers = Buffers::default();
        let run = |steps: &[Step], buffers: &mut Buffers| normalise(steps, "a - b", buffers).to_owned();
        assert_eq!(run(&[Step::CollapseWhitespace, Step::StripPunctuation], &mut buffers), "a  b");
        assert_eq!(run(&[Step::StripPunctuation, Step::CollapseWhitespace], &mut buffers), "a b");
    }

    #[test]
    fn final_sigma_depends_on_context() {
        assert_eq!(normalise(&[Step::Lowercase], "ΟΔΟΣ ΣΑΣ", &mut Buffers::default()), "οδος σας");
    }

    #[test]
    fn every_character_alone_and_after_a_letter() {
        let mut buffers = Buffers::default();
        for character in '\0'..=char::MAX {
            for step in [Step::Nfc, Step::Nfkc, Step::Lowercase, Step::CollapseWhitespace, Step::StripPunctuation] {
                let text = format!("a{character}b");
                assert_eq!(normalise(&[step], &text, &mut buffers), plain(&[step], &text), "{step:?} {character:?}");
            }
        }
    }

    #[test]
    fn ascii_punctuation_is_that_of_unicode() {
        for byte in 0..128_u8 {
            let wanted = is_punctuation(char::from(byte));
            assert_eq!(PUNCTUATION[usize::from(byte)], wanted, "{byte}");
        }
    }

    #[test]
    fn nothing_is_copied_when_no_step_applies() {
        let text = String::from("plain");
        assert!(std::ptr::eq(normalise(&[Step::Nfkc, Step::Nfc], &text, &mut Buffers::default()), text.as_str()));
        assert!(std::ptr::eq(normalise(&[], &text, &mut Buffers::default()), text.as_str()));
    }
}
