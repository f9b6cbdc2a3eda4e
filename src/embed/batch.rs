//! Windows cut into batches. Only the token counts of a window's chunks shape its batches (a text that is not cut is one chunk), never the number of threads or the size
//! of the engine's record batches: the model sees the same padded tensors in every run, and gives the same bits.

/// Chunks of one window that go through the model together, padded to the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Places of chunks in the window, by (tokens, place).
    pub chunks: Vec<u32>,
    /// Tokens of its longest chunk; the width of the padded tensor.
    pub longest: usize,
}

/// Sorts the chunks of a window by (tokens, place) and cuts them so that chunks x longest is at most `batch_tokens`, with at least
/// one chunk a batch. `tokens[place]` is the number of tokens of a chunk; one without tokens goes into no batch.
#[must_use]
pub fn pack(tokens: &[u32], batch_tokens: usize) -> Vec<Batch> {
    let mut order: Vec<(u32, u32)> = (0..).zip(tokens).filter(|(_, count)| **count > 0).map(|(place, count)| (*count, place)).collect();
    order.sort_unstable();
    let mut batches: Vec<Batch> = Vec::new();
    for (count, place) in order {
        // Chunks come in ascending order, so the one that joins is the longest.
        let longest = count as usize;
        match batches.last_mut() {
            Some(batch) if (batch.chunks.len() + 1) * longest <= batch_tokens => {
                batch.chunks.push(place);
                batch.longest = longest;
            }
            _ => batches.push(Batch { chunks: vec![place], longest }),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunks_are_sorted_and_cut_by_padded_tokens() {
        let batches = pack(&[5, 0, 2, 9, 2, 30], 10);
        let expected = [(vec![2, 4], 2), (vec![0], 5), (vec![3], 9), (vec![5], 30)];
        assert_eq!(batches, expected.map(|(chunks, longest)| Batch { chunks, longest }));
        assert_eq!(pack(&[0, 0], 10), []);
        assert_eq!(pack(&[], 10), []);
    }

    proptest! {
        #[test]
        fn every_chunk_with_tokens_is_in_one_batch_that_fits(tokens in proptest::collection::vec(0_u32..50, 0..200), limit in 1_usize..300) {
            let batches = pack(&tokens, limit);
            let order: Vec<u32> = batches.iter().flat_map(|batch| batch.chunks.iter().copied()).collect();
            let mut expected: Vec<u32> = (0..tokens.len() as u32).filter(|row| tokens[*row as usize] > 0).collect();
            expected.sort_by_key(|row| (tokens[*row as usize], *row));
            prop_assert_eq!(&order, &expected);
            for batch in &batches {
                let longest = batch.chunks.iter().map(|row| tokens[*row as usize] as usize).max().unwrap_or(0);
                prop_assert_eq!(longest, batch.longest);
                prop_assert!(batch.chunks.len() == 1 || batch.chunks.len() * longest <= limit);
            }
            // No two neighbours would have fit together with the first chunk of the second.
            for pair in batches.windows(2) {
                let joined = tokens[pair[1].chunks[0] as usize] as usize;
                prop_assert!((pair[0].chunks.len() + 1) * joined > limit);
            }
        }
    }
}
