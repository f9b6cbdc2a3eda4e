//! Long texts in chunks. A text of more tokens than a chunk holds is cut into chunks, each goes through the model as a text of its
//! own, special tokens and all, and the mean of their vectors is the text's. A text that fits is one chunk, and its vector is what
//! it is without chunks, bit for bit if its batch is the same.

use std::ops::Range;

use super::guard::{self, Status};
use crate::error::{Error, Result};

/// How long texts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// The most tokens of a chunk, special tokens included.
    pub tokens: usize,
    /// Tokens of the text that a chunk shares with the one before it.
    pub overlap: usize,
}

/// A piece of a text that goes through the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The text's row in its window.
    pub row: u32,
    /// Which of the text's own tokens, special tokens not counted.
    pub tokens: Range<usize>,
    /// Chunks of this text.
    pub of: usize,
}

/// Cuts texts of any number of tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutter {
    /// The most own tokens of a chunk.
    room: usize,
    overlap: usize,
}

impl Cutter {
    /// Cuts as `chunking` says, or nothing. A model adds `special` tokens to each chunk.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage): a chunk has no room for a token that the one before it does not have.
    pub(super) fn new(chunking: Option<Chunking>, special: usize) -> Result<Self> {
        let Some(Chunking { tokens, overlap }) = chunking else { return Ok(Self { room: usize::MAX, overlap: 0 }) };
        match tokens.checked_sub(special) {
            Some(room) if room > overlap => Ok(Self { room, overlap }),
            _ => {
                let least = special + overlap + 1;
                Err(Error::usage(format!(
                    "chunk leaves no room for new tokens tokens=`{tokens}` overlap=`{overlap}` special_tokens=`{special}`"
                ))
                .hint(format!("use at least `tokens: {least}`, or a smaller overlap")))
            }
        }
    }

    /// The chunks of a text with `own` tokens: each starts `room - overlap` tokens after the one before, the last ends with the text
    /// (the windows that the tokenizers library gives for `stride`). No tokens, no chunk.
    pub(super) fn cut(self, own: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
        let Self { room, overlap } = self;
        let step = room - overlap;
        let count = if own == 0 { 0 } else { 1 + own.saturating_sub(room).div_ceil(step) };
        (0..count).map(move |chunk| {
            let start = chunk * step;
            start..own.min(start.saturating_add(room))
        })
    }
}

/// A chunk's place among those of its text, its vector and what became of it.
pub(super) type Part = (u32, Vec<f32>, Status);

/// Writes the mean of the parts' vectors, each of which was finished like a text's, and finishes it the same way. A part without a
/// sound vector leaves its text without one. Sums are doubles in the order of the text, so the order in which parts came moves no bit.
pub(super) fn mean(parts: &mut [Part], normalize: bool, into: &mut [f32]) -> Status {
    parts.sort_unstable_by_key(|(place, _, _)| *place);
    if let Some((_, _, status)) = parts.iter().find(|(_, _, status)| *status != Status::Ok) {
        into.fill(0.0);
        return *status;
    }
    for (at, value) in into.iter_mut().enumerate() {
        let sum: f64 = parts.iter().filter_map(|(_, vector, _)| vector.get(at)).map(|value| f64::from(*value)).sum();
        *value = (sum / parts.len() as f64) as f32;
    }
    guard::finish(into, normalize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    fn cutter(tokens: usize, overlap: usize, special: usize) -> Cutter {
        Cutter::new(Some(Chunking { tokens, overlap }), special).unwrap()
    }

    /// The obvious way: a step at a time, until the end is reached.
    fn oracle(own: usize, room: usize, overlap: usize) -> Vec<Range<usize>> {
        let mut chunks: Vec<Range<usize>> = Vec::new();
        while own > 0 && chunks.last().is_none_or(|last| last.end < own) {
            let start = chunks.last().map_or(0, |last| last.end - overlap);
            chunks.push(start..own.min(start + room));
        }
        chunks
    }

    #[test]
    fn special_tokens_take_room_in_every_chunk() {
        let cut = |own| cutter(8, 2, 2).cut(own).collect::<Vec<_>>();
        assert!(cut(0).is_empty());
        assert_eq!(cut(6), vec![0..6]);
        assert_eq!(cut(7), [0..6, 4..7]);
        assert_eq!(cut(10), [0..6, 4..10]);
        assert_eq!(cut(11), [0..6, 4..10, 8..11]);
        assert_eq!(Cutter::new(None, 2).unwrap().cut(1 << 40).collect::<Vec<_>>(), vec![0..1 << 40]);
    }

    #[test]
    fn chunks_without_new_tokens_are_refused() {
        for (tokens, overlap, special) in [(8, 6, 2), (8, 9, 0), (2, 0, 2), (1, 0, 2)] {
            let error = Cutter::new(Some(Chunking { tokens, overlap }), special).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.hint_text().unwrap().contains(&format!("tokens: {}", special + overlap + 1)), "{error}");
        }
    }

    #[test]
    fn one_bad_part_leaves_no_vector() {
        let part = |place, vector: [f32; 2], status| (place, vector.to_vec(), status);
        let mut into = [9.0; 2];
        let mut parts = [part(2, [0.0, 0.0], Status::ZeroNorm), part(0, [1.0, 0.0], Status::Ok), part(1, [0.0, 0.0], Status::NotFinite)];
        assert_eq!((mean(&mut parts, true, &mut into), into), (Status::NotFinite, [0.0; 2]));
        let mut opposite = [part(0, [1.0, 0.0], Status::Ok), part(1, [-1.0, 0.0], Status::Ok)];
        assert_eq!((mean(&mut opposite, true, &mut into), into), (Status::ZeroNorm, [0.0; 2]));
        let mut right = [part(1, [0.0, 1.0], Status::Ok), part(0, [1.0, 0.0], Status::Ok)];
        assert_eq!((mean(&mut right, false, &mut into), into), (Status::Ok, [0.5; 2]));
    }

    proptest! {
        #[test]
        fn chunks_cover_a_text_as_the_obvious_loop_does(own in 0_usize..200, room in 1_usize..20, overlap in 0_usize..20) {
            prop_assume!(overlap < room);
            let found: Vec<_> = cutter(room + 2, overlap, 2).cut(own).collect();
            prop_assert_eq!(found, oracle(own, room, overlap));
        }

        #[test]
        fn the_order_of_arrival_moves_no_bit(vectors in proptest::collection::vec(proptest::array::uniform3(-1.0_f32..1.0), 2..9)) {
            let mut parts: Vec<Part> = (0..).zip(&vectors).map(|(place, vector)| (place, vector.to_vec(), Status::Ok)).collect();
            let (mut first, mut second) = ([0.0; 3], [0.0; 3]);
            let one = mean(&mut parts, false, &mut first);
            parts.reverse();
            prop_assert_eq!((one, first.map(f32::to_bits)), (mean(&mut parts, false, &mut second), second.map(f32::to_bits)));
        }
    }
}
