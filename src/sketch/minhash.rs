//! MinHash signatures: for each of k hash functions the least hash of a set. Two sets agree in a value with probability equal to their
//! Jaccard similarity J (Broder 1997), so that the share of equal values estimates J with variance J(1-J)/k.
//!
//! A shingle's hash is 64 uniform bits, that is two uniform numbers of 32 bits, and function i is `high + a[i] * low` modulo 2^32 with
//! fixed distinct `a`. Any two functions together are uniform over pairs but for the lowest bits (their difference is `low` times
//! `a[i] - a[j]`), shingles are independent of each other, and so any two values of a signature are independent: the estimate has
//! the variance of k independent permutations. One product, one sum and one minimum a function: eight at a time with AVX2.
//!
//! Two shingles tie in a function with probability 2^-32: a set of a million shingles adds 2^-12 to the estimate at worst.

use crate::random::Random;

/// The functions, and how a signature is made.
#[derive(Debug, Clone)]
pub struct MinHash {
    /// Rounded up to whole lanes.
    multipliers: Vec<u32>,
    permutations: usize,
}

/// Values that are computed together: what fits the registers of AVX2 beside the operands.
const WIDE: usize = 64;
/// The least number of values that are computed together.
const LANES: usize = 8;
/// Shingles that are read by one group of functions after the other while they lie in the nearest cache.
const CHUNK: usize = 1024;

impl MinHash {
    /// `permutations` functions, at most 65,536, drawn from `seed`; those for fewer are the first of those for more.
    #[must_use]
    pub fn new(permutations: usize, seed: u64) -> Self {
        let mut draws = Random::new(seed, "minhash").sequence(b"multipliers");
        let mut taken = vec![false; 1 << 16];
        let mut multipliers = Vec::new();
        while multipliers.len() < permutations.min(taken.len()) {
            // Distinct in their low halves: the difference of two is divisible by no power of 2 above 2^15.
            let multiplier = draws.next_u64() as u32;
            if !std::mem::replace(&mut taken[usize::from(multiplier as u16)], true) {
                multipliers.push(multiplier);
            }
        }
        let permutations = multipliers.len();
        multipliers.resize(permutations.next_multiple_of(LANES), 0);
        Self { multipliers, permutations }
    }

    /// Values of a signature.
    #[must_use]
    pub fn permutations(&self) -> usize {
        self.permutations
    }

    /// Writes the signature of a set of shingle hashes to the first [`MinHash::permutations`] values of `out`, which must have them;
    /// repeats do not matter. An empty set has no signature: false, and `out` stays as it is.
    pub fn signature(&self, shingles: &[u64], out: &mut [u32]) -> bool {
        if shingles.is_empty() {
            return false;
        }
        let mut least = vec![u32::MAX; self.multipliers.len()];
        minima(&self.multipliers, shingles, &mut least);
        out[..self.permutations].copy_from_slice(&least[..self.permutations]);
        true
    }
}

/// The estimate of the Jaccard similarity: the share of equal values of two signatures of one length; 0 for empty ones.
#[must_use]
pub fn agreement(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    if a.is_empty() { 0.0 } else { equal as f64 / a.len() as f64 }
}

/// Lowers `least` to the values of the functions.
fn minima(multipliers: &[u32], shingles: &[u64], least: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Minima<'a>(&'a [u32], &'a [u64], &'a mut [u32]);
        impl pulp::NullaryFnOnce for Minima<'_> {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                portable_minima(self.0, self.1, self.2);
            }
        }
        return simd.vectorize(Minima(multipliers, shingles, least));
    }
    portable_minima(multipliers, shingles, least);
}

/// The loops, compiled for what the machine has: the values are the same.
#[inline(always)]
fn portable_minima(multipliers: &[u32], shingles: &[u64], least: &mut [u32]) {
    for shingles in shingles.chunks(CHUNK) {
        let (wide, rest) = multipliers.as_chunks::<WIDE>();
        let (wide_least, rest_least) = least.as_chunks_mut::<WIDE>();
        wide.iter().zip(wide_least).for_each(|(multipliers, least)| fold(multipliers, shingles, least));
        let (rest, _) = rest.as_chunks::<LANES>();
        let (rest_least, _) = rest_least.as_chunks_mut::<LANES>();
        rest.iter().zip(rest_least).for_each(|(multipliers, least)| fold(multipliers, shingles, least));
    }
}

#[inline(always)]
fn fold<const N: usize>(multipliers: &[u32; N], shingles: &[u64], least: &mut [u32; N]) {
    let mut values = *least;
    for shingle in shingles {
        let (low, high) = (*shingle as u32, (*shingle >> 32) as u32);
        for lane in 0..N {
            values[lane] = values[lane].min(low.wrapping_mul(multipliers[lane]).wrapping_add(high));
        }
    }
    *least = values;
}
