//! MurmurHash3_x64_128 (Appleby, public domain): the hash of the bands of data-prep-kit.

/// The first 64 bits of MurmurHash3_x64_128, as `mmh3.hash64(bytes, seed, signed=False)[0]`.
pub(super) fn murmur3_x64(bytes: &[u8], seed: u32) -> u64 {
    const C1: u64 = 0x87C3_7B91_1142_53D5;
    const C2: u64 = 0x4CF5_AD43_2745_937F;
    let scramble1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let scramble2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let [k1, k2] = halves(block);
        h1 = (h1 ^ scramble1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52DC_E729);
        h2 = (h2 ^ scramble2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5AB5);
    }
    let mut block = [0; 16];
    block[..tail.len()].copy_from_slice(tail);
    let [k1, k2] = halves(&block);
    h2 ^= scramble2(k2);
    h1 ^= scramble1(k1);
    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn halves(block: &[u8; 16]) -> [u64; 2] {
    let (words, _) = block.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    k ^= k >> 33;
    k = k.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of mmh3 5 for Python.
    #[test]
    fn known_answers() {
        let cases = [
            ("", 0, 0x0000_0000_0000_0000_u64),
            ("a", 0, 0x8555_5565_F659_7889_u64),
            ("hello", 0, 0xCBD8_A7B3_41BD_9B02_u64),
            ("hello, world", 42, 0xB918_64D7_97CA_A956_u64),
            ("The quick brown fox", 7, 0x8598_5B51_42F0_2CC8_u64),
            ("ünïcode", 1, 0xE5CA_8754_2D34_9BF0_u64),
            ("a text of more than thirty-two bytes, two blocks", 42, 0x4F5F_8E6F_AD3A_B3AC_u64),
        ];
        for (text, seed, wanted) in cases {
            assert_eq!(murmur3_x64(text.as_bytes(), seed), wanted, "{text}");
        }
    }
}
