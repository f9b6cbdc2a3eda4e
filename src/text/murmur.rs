//! MurmurHash3_x86_32 (Appleby, public domain): the hash of the shingles of data-prep-kit.

/// MurmurHash3_x86_32, as `mmh3.hash(bytes, seed, signed=False)`.
pub(super) fn murmur3_x86(bytes: &[u8], seed: u32) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = blocks.iter().fold(seed, |hash, block| {
        let hash = hash ^ scramble(u32::from_le_bytes(*block));
        hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64)
    });
    let mut block = [0; 4];
    block[..tail.len()].copy_from_slice(tail);
    hash ^= scramble(u32::from_le_bytes(block));
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of mmh3 5 for Python.
    #[test]
    fn known_answers() {
        let cases = [
            ("", 0, 0x0000_0000_u32),
            ("a", 0, 0x3C25_69B2_u32),
            ("hello", 0, 0x248B_FA47_u32),
            ("hello, world", 42, 0x7EC7_C6C2_u32),
            ("The quick brown fox", 7, 0x5EE2_283F_u32),
            ("ünïcode", 1, 0x9CA7_A476_u32),
        ];
        for (text, seed, wanted) in cases {
            assert_eq!(murmur3_x86(text.as_bytes(), seed), wanted, "{text}");
        }
    }
}
