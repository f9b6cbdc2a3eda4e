//! Shingles: runs of n consecutive units of a text, hashed (Broder 1997).

use super::normalise::{Buffers, Step, normalise};
use super::words::words;

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Words as [`words`] cuts them.
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

/// How a shingle becomes a number. The values are part of artefacts: fixed for ever, on every platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShingleHash {
    /// A hash of each unit, then one of their sequence.
    Trommel,
    /// XXH64, seed 0, of the words joined by one space (of the text of the shingle, for characters and bytes).
    XxHash64,
    /// MurmurHash3_x86_32, seed 0, of the same bytes.
    Murmur32,
}

/// Makes the shingles of texts; holds space that is used again for each row.
#[derive(Debug)]
pub struct Shingler {
    steps: Vec<Step>,
    shingle: Shingle,
    hash: ShingleHash,
    buffers: Buffers,
}

impl Shingler {
    /// Shingles of the text after `steps`.
    #[must_use]
    pub fn new(steps: &[Step], shingle: Shingle, hash: ShingleHash) -> Self {
        Self { steps: steps.to_vec(), shingle, hash, buffers: Buffers::default() }
    }

    /// The shingles of datatrove 0.10: `simplify_text`, its English tokens, XXH64. A text of fewer than `size` tokens has none.
    #[must_use]
    pub fn datatrove(size: usize) -> Self {
        todo!("{size}")
    }

    /// The shingles of data-prep-kit's `fdedup`: its simplification, tokens between white space, MurmurHash3. A text of fewer than
    /// `size` tokens has one; one of none has none, other than there, where it has that of the empty string.
    #[must_use]
    pub fn data_prep_kit(size: usize) -> Self {
        todo!("{size}")
    }

    /// The hashes of the shingles of `text` after normalisation, in text order, repeats included. A text with fewer units than a
    /// shingle gives one shingle of all it has; a text without units gives none. `out` is cleared first.
    pub fn shingles(&mut self, text: &str, out: &mut Vec<u64>) {
        out.clear();
        let text = normalise(&self.steps, text, &mut self.buffers);
        let _ = (text, self.shingle, self.hash);
        words(text, |_| ());
    }
}
