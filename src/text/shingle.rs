//! Shingles: all runs of n consecutive units of a text, each as a hash (Broder 1997).
//!
//! The usual normalisations of Unicode form, lower case and white space are not written out: words are found in the text as it
//! stands, ASCII is brought into lower case in registers on its way into the hash, and only islands of other characters are normalised.
#![expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]

use twox_hash::XxHash64;

use super::english::English;
use super::hash;
use super::murmur::murmur3_x86;
use super::normalise::{Buffers, Step, normalise};
use super::simple::{MARK, OTHER, SPACE, STARTER, Simple, is_composed};
use super::simplify::{Peer, Simplifier};
use super::words::{Found, island_words, scan, words};

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Words as [`words`] cuts them: single characters in scripts without spaces.
    Words,
    /// Unicode scalar values, white space included.
    Chars,
    /// Bytes of UTF-8.
    Bytes,
}

/// Runs of `size` consecutive units; a size of 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shingle {
    /// What is counted.
    pub unit: Unit,
    /// Units in a shingle.
    pub size: usize,
}

/// How a shingle becomes a number. The values are part of artefacts: fixed for ever, equal on every platform. What the units of a text
/// are depends on the Unicode version of the crates: a newer one may change it for characters that are new in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShingleHash {
    /// A hash of each unit, then one of their sequence; 64 bits.
    Trommel,
    /// XXH64, seed 0, of the words joined by one space; for characters and bytes, of what the shingle covers.
    XxHash64,
    /// MurmurHash3_x86_32, seed 0, of the same bytes.
    Murmur32,
}

/// Makes the shingles of texts; holds space that is used again for each row.
#[derive(Debug)]
pub struct Shingler {
    source: Source,
    shingle: Shingle,
    hash: ShingleHash,
    /// Hashes of the units of a text.
    units: Vec<u64>,
    /// The units of a text, words with a space between them, and where each starts and ends.
    joined: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

/// Where units come from.
#[derive(Debug)]
enum Source {
    Steps { steps: Vec<Step>, forms: Vec<Step>, buffers: Buffers, island: String },
    Datatrove { simplifier: Simplifier, english: English },
    DataPrepKit { simplifier: Simplifier },
}

impl Shingler {
    /// Shingles of the text after `steps`.
    #[must_use]
    pub fn new(steps: &[Step], shingle: Shingle, hash: ShingleHash) -> Self {
        let forms = steps.iter().copied().filter(|step| *step != Step::CollapseWhitespace).collect();
        let source = Source::Steps { steps: steps.to_vec(), forms, buffers: Buffers::default(), island: String::new() };
        Self::of(source, shingle, hash)
    }

    /// The shingles of datatrove 0.10: `size` tokens of spaCy's blank English after `simplify_text`, hashed by XXH64. A text of fewer
    /// tokens has none.
    #[must_use]
    pub fn datatrove(size: usize) -> Self {
        let source = Source::Datatrove { simplifier: Simplifier::default(), english: English::new() };
        Self::of(source, Shingle { unit: Unit::Words, size }, ShingleHash::XxHash64)
    }

    /// The shingles of data-prep-kit's `fdedup`: `size` words between white space after its simplification, hashed by MurmurHash3.
    /// A text of fewer words has one; a text of none has none here, where that tool gives it the hash of the empty string.
    #[must_use]
    pub fn data_prep_kit(size: usize) -> Self {
        let source = Source::DataPrepKit { simplifier: Simplifier::default() };
        Self::of(source, Shingle { unit: Unit::Words, size }, ShingleHash::Murmur32)
    }

    fn of(source: Source, shingle: Shingle, hash: ShingleHash) -> Self {
        let shingle = Shingle { size: shingle.size.max(1), ..shingle };
        Self { source, shingle, hash, units: Vec::new(), joined: Vec::new(), spans: Vec::new() }
    }

    /// The hashes of the shingles of `text` after normalisation, in text order, repeats included. A text with fewer units than a
    /// shingle gives one shingle of all it has (datatrove's: none); a text without units gives none. `out` is cleared first.
    pub fn shingles(&mut self, text: &str, out: &mut Vec<u64>) {
        out.clear();
        match self.hash {
            ShingleHash::Trommel => {
                self.hash_units(text);
                hash::sequences(&self.units, self.shingle.size, out);
            }
            ShingleHash::XxHash64 => self.hash_joined(text, out, |bytes| XxHash64::oneshot(0, bytes)),
            ShingleHash::Murmur32 => self.hash_joined(text, out, |bytes| u64::from(murmur3_x86(bytes, 0))),
        }
    }

    fn hash_units(&mut self, text: &str) {
        let units = &mut self.units;
        units.clear();
        if let (Source::Steps { steps, forms, buffers, island }, Unit::Words) = (&mut self.source, self.shingle.unit)
            && !steps.contains(&Step::StripPunctuation)
        {
            if steps.contains(&Step::Lowercase) {
                scan(text, &mut Fused::<true> { text, steps, forms, buffers, island, units });
            } else {
                scan(text, &mut Fused::<false> { text, steps, forms, buffers, island, units });
            }
            return;
        }
        match (&mut self.source, self.shingle.unit) {
            (Source::Steps { steps, buffers, .. }, Unit::Chars) => {
                units.extend(normalise(steps, text, buffers).chars().map(hash::character));
            }
            (Source::Steps { steps, buffers, .. }, Unit::Bytes) => {
                units.extend(normalise(steps, text, buffers).bytes().map(hash::byte));
            }
            (source, unit) => source.each(unit, text, |unit| units.push(hash::unit(unit))),
        }
    }

    /// Hashes of what the shingles cover.
    fn hash_joined(&mut self, text: &str, out: &mut Vec<u64>, hash: impl Fn(&[u8]) -> u64) {
        let Self { joined, spans, .. } = self;
        joined.clear();
        spans.clear();
        let separate = self.shingle.unit == Unit::Words;
        self.source.each(self.shingle.unit, text, |unit| {
            if separate && !joined.is_empty() {
                joined.push(b' ');
            }
            let start = joined.len();
            joined.extend_from_slice(unit);
            spans.push((start, joined.len()));
        });
        let size = if matches!(self.source, Source::Datatrove { .. }) { self.shingle.size } else { self.shingle.size.min(spans.len()) };
        if size > 0 {
            out.extend(spans.windows(size).map(|shingle| hash(&joined[shingle[0].0..shingle[size - 1].1])));
        }
    }
}

impl Source {
    /// Calls `each` with the units of a text, in order.
    fn each(&mut self, unit: Unit, text: &str, mut each: impl FnMut(&[u8])) {
        match self {
            Self::Steps { steps, buffers, .. } => {
                let text = normalise(steps, text, buffers);
                match unit {
                    Unit::Words => words(text, |word| each(word.as_bytes())),
                    Unit::Chars => text.chars().for_each(|character| each(character.encode_utf8(&mut [0; 4]).as_bytes())),
                    Unit::Bytes => text.as_bytes().chunks(1).for_each(each),
                }
            }
            Self::Datatrove { simplifier, english } => {
                english.tokens(simplifier.simplify(Peer::Datatrove, text), |token| each(token.as_bytes()));
            }
            Self::DataPrepKit { simplifier } => {
                let text = simplifier.simplify(Peer::DataPrepKit, text);
                text.split(' ').filter(|word| !word.is_empty()).for_each(|word| each(word.as_bytes()));
            }
        }
    }
}

/// Hashes words while they are found. The steps, of which [`Step::StripPunctuation`] is none, leave ASCII as it is but for its case
/// and for how much white space stands where there is some, which moves no edge of a word.
struct Fused<'a, const LOWER: bool> {
    text: &'a str,
    steps: &'a [Step],
    /// The steps but for [`Step::CollapseWhitespace`].
    forms: &'a [Step],
    buffers: &'a mut Buffers,
    island: &'a mut String,
    units: &'a mut Vec<u64>,
}

impl<const LOWER: bool> Found for Fused<'_, LOWER> {
    #[inline(always)]
    fn ascii(&mut self, start: usize, end: usize) {
        self.units.push(hash::ascii_unit::<LOWER>(self.text.as_bytes(), start, end));
    }

    #[inline(never)]
    fn island(&mut self, start: usize, end: usize) {
        let Self { steps, forms, buffers, island, units, .. } = self;
        let text = &self.text[start..end];
        let Survey { inert, collapsed } = survey(text);
        if inert
            && (collapsed || steps.len() == forms.len())
            && matches!(forms, [] | [Step::Nfc | Step::Lowercase] | [Step::Nfc, Step::Lowercase])
        {
            return island_words(text, &mut |word, lower| {
                if !LOWER || lower {
                    return units.push(hash::unit(word.as_bytes()));
                }
                island.clear();
                for character in word.chars() {
                    if character.is_ascii() { island.push(character.to_ascii_lowercase()) } else { island.extend(character.to_lowercase()) }
                }
                units.push(hash::unit(island.as_bytes()));
            });
        }
        let mut each = |word: &str, _: bool| units.push(hash::unit(word.as_bytes()));
        // NFKC makes white space of characters that are none.
        if collapsed && !forms.contains(&Step::Nfkc) {
            return island_words(normalise(forms, text, buffers), &mut each);
        }
        let normal = normalise(steps, text, buffers);
        if steps.len() == forms.len() || start == 0 || !text.starts_with(char::is_whitespace) {
            return island_words(normal, &mut each);
        }
        // Not the start of the text: white space is a space there, which a mark may follow.
        island.clear();
        island.push(' ');
        island.push_str(normal);
        island_words(island, &mut each);
    }
}

/// What is true of an island.
struct Survey {
    /// Composition leaves it alone, and the lower case of each character depends on no other.
    inert: bool,
    /// Its words are the same once its white space is collapsed: all of it separates, and no mark follows any.
    collapsed: bool,
}

fn survey(island: &str) -> Survey {
    let table = Simple::table();
    let (mut before, mut inert, mut collapsed) = (STARTER, true, true);
    for character in island.chars() {
        let flags = table.of(character);
        collapsed &= flags & (SPACE | OTHER) != SPACE | OTHER && (before & SPACE == 0 || flags & (MARK | OTHER) == 0);
        inert &= is_composed(before, flags) && character != 'Σ';
        before = flags;
    }
    Survey { inert, collapsed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::oracle::{awkward, characters, plain_normal, plain_sequences, plain_unit, plain_words};

    const DEFAULT: [Step; 3] = [Step::Nfc, Step::Lowercase, Step::CollapseWhitespace];

    fn shingles(shingler: &mut Shingler, text: &str) -> Vec<u64> {
        let mut out = vec![7; 3];
        shingler.shingles(text, &mut out);
        out
    }

    /// Normalisation, then the units, each as text.
    fn plain_units(steps: &[Step], unit: Unit, text: &str) -> Vec<Vec<u8>> {
        let text = plain_normal(steps, text);
        match unit {
            Unit::Words => plain_words(&text).into_iter().map(|word| word.as_bytes().to_vec()).collect(),
            Unit::Chars => text.chars().map(|character| character.to_string().into_bytes()).collect(),
            Unit::Bytes => text.bytes().map(|byte| vec![byte]).collect(),
        }
    }

    /// The definition.
    fn plain(steps: &[Step], shingle: Shingle, hash: ShingleHash, text: &str) -> Vec<u64> {
        let units = plain_units(steps, shingle.unit, text);
        if hash == ShingleHash::Trommel {
            let units: Vec<u64> = units.iter().map(|unit| plain_unit(unit)).collect();
            return plain_sequences(&units, shingle.size);
        }
        let between: &[u8] = if shingle.unit == Unit::Words { b" " } else { b"" };
        let size = shingle.size.min(units.len()).max(1);
        let covered = units.windows(size).map(|run| run.join(between));
        covered
            .map(|bytes| if hash == ShingleHash::XxHash64 { XxHash64::oneshot(0, &bytes) } else { murmur3_x86(&bytes, 0).into() })
            .collect()
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let all = vec![Step::Nfc, Step::Nfkc, Step::Lowercase, Step::CollapseWhitespace, Step::StripPunctuation];
        prop_oneof![2 => Just(DEFAULT.to_vec()), 3 => prop::collection::vec(prop::sample::select(all), 0..5)]
    }

    fn shapes() -> impl Strategy<Value = (Shingle, ShingleHash)> {
        let unit = prop_oneof![4 => Just(Unit::Words), 1 => Just(Unit::Chars), 1 => Just(Unit::Bytes)];
        let hash = prop_oneof![4 => Just(ShingleHash::Trommel), 1 => Just(ShingleHash::XxHash64), 1 => Just(ShingleHash::Murmur32)];
        (unit, 1..7_usize, hash).prop_map(|(unit, size, hash)| (Shingle { unit, size }, hash))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn equals_the_definition_on_awkward_texts(steps in steps(), (shingle, hash) in shapes(), a in awkward(), b in awkward()) {
            let mut shingler = Shingler::new(&steps, shingle, hash);
            prop_assert_eq!(shingles(&mut shingler, &a), plain(&steps, shingle, hash, &a), "{:?}", a);
            prop_assert_eq!(shingles(&mut shingler, &b), plain(&steps, shingle, hash, &b), "{:?}", b);
        }

        #[test]
        fn equals_the_definition_on_any_text(steps in steps(), (shingle, hash) in shapes(), text in any::<String>(), ascii in "[ -~\t\n]{0,200}") {
            let mut shingler = Shingler::new(&steps, shingle, hash);
            prop_assert_eq!(shingles(&mut shingler, &text), plain(&steps, shingle, hash, &text));
            prop_assert_eq!(shingles(&mut shingler, &ascii), plain(&steps, shingle, hash, &ascii));
        }
    }

    /// NFKC makes a space and a mark of it, and a space at the start of a text is collapsed away.
    #[test]
    fn a_mark_that_brings_its_own_space() {
        let steps = [Step::Nfkc, Step::CollapseWhitespace];
        let shingle = Shingle { unit: Unit::Words, size: 1 };
        let mut shingler = Shingler::new(&steps, shingle, ShingleHash::Trommel);
        for text in ["\u{FE72}", "a,\u{FE72} b", "a \u{FE72}\u{FE72}", "\u{A8}x \u{A8}"] {
            assert_eq!(shingles(&mut shingler, text), plain(&steps, shingle, ShingleHash::Trommel, text), "{text:?}");
        }
    }

    #[test]
    fn every_character_alone_and_amid_others() {
        let shingle = Shingle { unit: Unit::Words, size: 2 };
        let mut shingler = Shingler::new(&DEFAULT, shingle, ShingleHash::Trommel);
        for character in characters() {
            let text = format!("{character}a Σ{character}B\n {character}{character} 1{character}2 {character}");
            assert_eq!(shingles(&mut shingler, &text), plain(&DEFAULT, shingle, ShingleHash::Trommel, &text), "{character:?}");
        }
    }

    /// What the peers merge, lose or crash on.
    #[test]
    fn short_and_odd_documents() {
        let long = "word ".repeat(200_000);
        // Text, shingles of five words, shingles that are the same as those of "one two three".
        let cases: &[(&str, usize, bool)] = &[
            ("", 0, false),
            (" \t\r\n\u{a0}\u{3000}\u{2028}", 0, false),
            ("!?.,;:-_()[] … — “” ¿¡ ___", 0, false),
            ("\0\u{7f}\u{200b}\u{feff}", 0, false),
            ("☺ 👩\u{200d}👧 🇩🇪", 0, false),
            ("one", 1, false),
            ("one two three", 1, true),
            ("  One,\nTWO — three!  ", 1, true),
            ("one two three four", 1, false),
            ("one two three four five", 1, false),
            ("one two three four five six", 2, false),
            ("one two three one two three one two three", 5, false),
            ("1️⃣", 1, false),
            ("我喜欢", 1, false),
            ("我喜欢看书", 1, false),
            ("我喜欢看书。", 1, false),
            ("我喜欢看书和听音乐", 5, false),
            ("東京タワーへ行った", 5, false),
            ("ภาษาไทยง่าย", 6, false),
            ("안녕 하세요", 1, false),
            (&long, 199_996, false),
        ];
        let three = plain_sequences(&["one", "two", "three"].map(|word| plain_unit(word.as_bytes())), 5);
        for (text, count, same) in cases {
            let found = shingles(&mut Shingler::new(&DEFAULT, Shingle { unit: Unit::Words, size: 5 }, ShingleHash::Trommel), text);
            let start: String = text.chars().take(30).collect();
            assert_eq!((found.len(), found == three), (*count, *same), "{start:?}");
        }
        let mut cyclic = shingles(&mut Shingler::new(&DEFAULT, Shingle { unit: Unit::Words, size: 5 }, ShingleHash::Trommel), cases[11].0);
        cyclic.sort_unstable();
        cyclic.dedup();
        assert_eq!(cyclic.len(), 3);
    }

    #[test]
    fn short_documents_of_other_units_and_of_the_peers() {
        let count = |shingler: &mut Shingler, text: &str| shingles(shingler, text).len();
        let new = |unit, size| Shingler::new(&DEFAULT, Shingle { unit, size }, ShingleHash::Trommel);
        for (unit, text, wanted) in [
            (Unit::Chars, "", 0),
            (Unit::Chars, "  ", 0),
            (Unit::Chars, "!", 1),
            (Unit::Chars, "été!", 1),
            (Unit::Chars, "été!?", 2),
            (Unit::Bytes, "", 0),
            (Unit::Bytes, "é", 1),
            (Unit::Bytes, "été", 2),
            (Unit::Words, "a b c d", 1),
        ] {
            assert_eq!(count(&mut new(unit, 4), text), wanted, "{unit:?} {text}");
        }
        assert_eq!(shingles(&mut new(Unit::Words, 0), "a b"), shingles(&mut new(Unit::Words, 1), "a b"));
        for (text, datatrove, data_prep_kit) in [
            ("", 0, 0),
            (" \n", 0, 0),
            ("!?", 0, 0),
            ("one", 0, 1),
            ("one two three four", 0, 1),
            ("one two three four five", 1, 1),
            ("one two three can't go", 2, 2),
            ("a b c d e f", 2, 2),
            ("我喜欢看书和听音乐", 0, 1),
            ("\u{301}", 0, 0),
        ] {
            let found = (count(&mut Shingler::datatrove(5), text), count(&mut Shingler::data_prep_kit(5), text));
            assert_eq!(found, (datatrove, data_prep_kit), "{text}");
        }
    }

    /// These values stand in artefacts.
    #[test]
    fn values_never_change() {
        let text = "The quick brown fox — naïve — 我们";
        let of = |unit, size| shingles(&mut Shingler::new(&DEFAULT, Shingle { unit, size }, ShingleHash::Trommel), text);
        assert_eq!(of(Unit::Words, 5), [15_529_952_071_742_042_566, 10_379_710_976_971_348_388, 13_244_910_386_954_227_965]);
        assert_eq!(of(Unit::Chars, 30), [11_193_130_158_979_948_731, 11_873_424_314_398_826_026, 3_220_635_755_947_498_201]);
        assert_eq!(of(Unit::Bytes, 40), [4_687_051_368_195_834_181, 96_474_208_384_166_988]);
    }

    #[test]
    fn datatrove_golden() {
        let text = "The quick brown fox jumps over the lazy dog. It was 42 degrees on Monday, wasn't it?";
        let found = shingles(&mut Shingler::datatrove(5), text);
        assert_eq!((found.len(), found[0]), (14, 7_797_000_677_988_824_208));
    }
}
