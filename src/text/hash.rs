//! The hash of shingles: 64 bits, sensitive to order and to where one unit ends and the next begins, equal on every platform. Its
//! values are part of artefacts and never change.
//!
//! A unit's hash is a chain of folded products over its 16-byte blocks. With `u` the hashes of n consecutive units, the hash of the
//! shingle is `mix(u[0] M^(n-1) + u[1] M^(n-2) + .. + u[n-1])` modulo 2^64: a sum that rolls along the text by two products a unit,
//! and a bijection that spreads every bit over all (the finaliser of SplitMix64, Steele et al. 2014).
#![expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]

/// Odd numbers without structure: digits of pi.
pub(super) const START: u64 = 0x243F_6A88_85A3_08D3;
pub(super) const LENGTH: u64 = 0x1319_8A2E_0370_7345;
pub(super) const HIGH: u64 = 0xA409_3822_299F_31D1;
pub(super) const M: u64 = 0x4528_21E6_38D0_1377;

/// Bytes of a block.
const BLOCK: usize = 16;

/// The hash of one unit.
#[inline]
pub(super) fn unit(bytes: &[u8]) -> u64 {
    let (mut state, mut rest) = (start(bytes.len()), bytes);
    while rest.len() > BLOCK {
        let (block, after) = rest.split_at(BLOCK);
        state = absorb(state, block);
        rest = after;
    }
    absorb(state, rest)
}

/// [`unit`] of one byte.
#[inline]
pub(super) fn byte(byte: u8) -> u64 {
    fold(u64::from(byte) ^ start(1), HIGH)
}

/// [`unit`] of the UTF-8 of a character.
#[inline]
pub(super) fn character(character: char) -> u64 {
    if character.is_ascii() {
        return byte(character as u8);
    }
    let mut bytes = [0; 8];
    let length = character.encode_utf8(&mut bytes).len();
    fold(u64::from_le_bytes(bytes) ^ start(length), HIGH)
}

/// [`unit`] of the ASCII characters `bytes[from..to]`, in lower case if `LOWER`, else as they stand.
#[inline(always)]
pub(super) fn ascii_unit<const LOWER: bool>(bytes: &[u8], from: usize, to: usize) -> u64 {
    let length = to - from;
    let mut state = start(length);
    if length > BLOCK {
        return long_ascii_unit::<LOWER>(state, &bytes[from..to]);
    }
    // A block is read whole though the unit ends within it, and what is not the unit's is cleared.
    let (low, high) = match bytes[from..].first_chunk::<BLOCK>() {
        Some(block) => halves(block),
        None => padded(&bytes[from..to]),
    };
    let (low_mask, high_mask) = MASKS[length];
    let (low, high) = (low & low_mask, high & high_mask);
    state ^= if LOWER { lowercase(low) } else { low };
    fold(state, if LOWER { lowercase(high) } else { high } ^ HIGH)
}

#[cold]
fn long_ascii_unit<const LOWER: bool>(mut state: u64, bytes: &[u8]) -> u64 {
    let mut take = |(low, high): (u64, u64)| {
        state = if LOWER { fold(lowercase(low) ^ state, lowercase(high) ^ HIGH) } else { fold(low ^ state, high ^ HIGH) };
    };
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        take(halves(block));
    }
    if !tail.is_empty() {
        take(padded(tail));
    }
    state
}

/// The hashes of all runs of `size` consecutive units, in order; of one run of all if there are fewer, of none if there are none.
pub(super) fn sequences(units: &[u64], size: usize, out: &mut Vec<u64>) {
    if units.is_empty() {
        return;
    }
    let size = size.clamp(1, units.len());
    let mut sum = units[..size].iter().fold(0_u64, |sum, unit| sum.wrapping_mul(M).wrapping_add(*unit));
    let leading = (0..size).fold(1_u64, |power, _| power.wrapping_mul(M));
    out.push(mix(sum));
    out.extend(units.iter().zip(&units[size..]).map(|(leaving, entering)| {
        sum = sum.wrapping_mul(M).wrapping_add(entering.wrapping_sub(leaving.wrapping_mul(leading)));
        mix(sum)
    }));
}

fn start(length: usize) -> u64 {
    START.wrapping_add(LENGTH.wrapping_mul(length as u64))
}

/// Takes up to 16 bytes in, padded by zeros.
#[inline]
fn absorb(state: u64, bytes: &[u8]) -> u64 {
    let (low, high) = padded(bytes);
    fold(low ^ state, high ^ HIGH)
}

/// Up to 16 bytes as two little-endian numbers, the rest zeros. Reads that overlap take the place of a loop over the length.
#[inline]
fn padded(bytes: &[u8]) -> (u64, u64) {
    let length = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let high = u128::from(u64::from_le_bytes(*last)) >> (8 * (BLOCK - length.min(BLOCK)));
        return (u64::from_le_bytes(*first), high as u64);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let (low, high) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return (u64::from(low) | u64::from(high) << (8 * (length - 4)), 0);
    }
    let byte = |at: usize| bytes.get(at).map_or(0, |byte| u64::from(*byte) << (8 * at));
    (byte(0) | byte(1) | byte(2), 0)
}

#[inline]
fn halves(block: &[u8; BLOCK]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*block);
    (whole as u64, (whole >> 64) as u64)
}

/// The two halves of the product, one over the other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The lowest bytes of a block, by their number.
const MASKS: [(u64, u64); BLOCK + 1] = {
    let mut masks = [(0, 0); BLOCK + 1];
    let mut length = 0;
    while length <= BLOCK {
        let whole = if length == BLOCK { u128::MAX } else { (1 << (8 * length)) - 1 };
        masks[length] = (whole as u64, (whole >> 64) as u64);
        length += 1;
    }
    masks
};

/// Eight ASCII bytes in lower case.
#[inline]
fn lowercase(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Nothing is carried from byte to byte, as all are below 128.
    let from_a = word + (0x80 - u64::from(b'A')) * EACH;
    let beyond_z = word + (0x7F - u64::from(b'Z')) * EACH;
    word | (from_a & !beyond_z & (0x80 * EACH)) >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::oracle::{plain_sequences, plain_unit};

    proptest! {
        #[test]
        fn units_equal_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(unit(&bytes), plain_unit(&bytes));
        }

        #[test]
        fn bytes_and_characters_equal_the_definition(of in any::<u8>(), wide in any::<char>()) {
            prop_assert_eq!(byte(of), plain_unit(&[of]));
            prop_assert_eq!(character(wide), plain_unit(wide.to_string().as_bytes()));
        }

        #[test]
        fn ascii_units_equal_the_definition_wherever_they_lie(text in "[ -~]{1,80}", edges in (0..80_usize, 0..80_usize)) {
            let (from, to) = (edges.0.min(edges.1) % text.len(), edges.0.max(edges.1) % text.len());
            prop_assume!(from < to);
            let part = &text[from..to];
            prop_assert_eq!(ascii_unit::<false>(text.as_bytes(), from, to), plain_unit(part.as_bytes()));
            prop_assert_eq!(ascii_unit::<true>(text.as_bytes(), from, to), plain_unit(part.to_ascii_lowercase().as_bytes()));
        }

        #[test]
        fn sequences_equal_the_definition(units in prop::collection::vec(any::<u64>(), 0..40), size in 1..9_usize) {
            let mut out = Vec::new();
            sequences(&units, size, &mut out);
            prop_assert_eq!(out, plain_sequences(&units, size));
        }
    }

    /// These values stand in artefacts.
    #[test]
    fn values_never_change() {
        let units: Vec<u64> = ["the", "quick", "brown", "fox", "internationalisation"].iter().map(|word| unit(word.as_bytes())).collect();
        assert_eq!(
            units,
            [
                3_912_660_371_366_484_541,
                17_759_904_337_761_861_436,
                4_959_275_027_558_992_554,
                12_962_533_897_070_076_729,
                16_129_755_140_427_219_650
            ]
        );
        let mut out = Vec::new();
        sequences(&units, 3, &mut out);
        assert_eq!(out, [1_892_605_481_635_839_875, 6_248_299_948_830_971_051, 14_697_318_955_868_122_388]);
    }

    #[test]
    fn order_and_edges_count() {
        let hash = |words: &[&str]| {
            let (units, mut out) = (words.iter().map(|word| unit(word.as_bytes())).collect::<Vec<_>>(), Vec::new());
            sequences(&units, words.len(), &mut out);
            out[0]
        };
        let all = [
            hash(&["ab", "c"]),
            hash(&["a", "bc"]),
            hash(&["c", "ab"]),
            hash(&["abc"]),
            hash(&["ab", "c", ""]),
            hash(&["ab", "ab"]),
            hash(&["c", "c"]),
        ];
        for (at, value) in all.iter().enumerate() {
            assert!(!all[..at].contains(value));
        }
    }

    /// Every bit is set in about half the values, and a flipped bit of a word flips about half the bits of its shingle.
    #[test]
    fn bits_are_balanced_and_spread() {
        let shingle = |words: [u64; 5]| {
            let (units, mut out) = (words.map(|word| unit(&word.to_le_bytes())), Vec::new());
            sequences(&units, 5, &mut out);
            out[0]
        };
        let count = 4_000;
        let mut set = [0_u32; 64];
        let mut flipped = [0_u32; 64];
        for seed in 0..count {
            let words = [seed, 1, 2, 3, 4];
            let hash = shingle(words);
            let mut other = words;
            other[seed as usize % 5] ^= 1 << (seed / 5 % 64);
            let change = hash ^ shingle(other);
            for bit in 0..64 {
                set[bit] += (hash >> bit & 1) as u32;
                flipped[bit] += (change >> bit & 1) as u32;
            }
        }
        // Six standard deviations: sqrt(4000) / 2 = 32.
        for bit in 0..64 {
            assert!(set[bit].abs_diff(2_000) < 190 && flipped[bit].abs_diff(2_000) < 190, "bit {bit}: {} {}", set[bit], flipped[bit]);
        }
    }

    /// Pairs that agree in 40 bits, whichever, are as rare as chance: of 300,000 hashes 2^-40 n^2 / 2 = 0.04 are expected.
    #[test]
    fn hashes_of_numbered_words_do_not_collide() {
        for shift in [0, 12, 24] {
            let mut hashes: Vec<u64> =
                (0..300_000_u32).map(|number| mix(unit(format!("word{number}").as_bytes())) >> shift & ((1 << 40) - 1)).collect();
            hashes.sort_unstable();
            let equal = hashes.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(equal <= 2, "{equal}");
        }
    }
}
