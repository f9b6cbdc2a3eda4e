//! MinHash signatures: for each of k hash functions the least hash of a set; two sets agree in a value with probability equal to
//! their Jaccard similarity (Broder 1997).

use super::band::{Bands, mix};
use super::mersenne_twister::MersenneTwister;
use super::murmur::murmur3_x64;
use crate::random::Random;

/// Signatures of this product.
#[derive(Debug, Clone)]
pub struct MinHash {
    multipliers: Vec<u32>,
}

impl MinHash {
    /// `permutations` functions drawn from `seed`; those for fewer are the first of those for more.
    #[must_use]
    pub fn new(permutations: usize, seed: u64) -> Self {
        let mut draws = Random::new(seed, "minhash").sequence(b"multipliers");
        let mut taken = std::collections::HashSet::new();
        let mut multipliers = Vec::with_capacity(permutations);
        while multipliers.len() < permutations {
            let multiplier = draws.next_u64() as u32;
            if taken.insert(multiplier as u16) {
                multipliers.push(multiplier);
            }
        }
        Self { multipliers }
    }

    /// Writes the signature of a set of shingle hashes; repeats do not matter. An empty set has none: false, and `out` is left as it is.
    pub fn signature(&self, shingles: &[u64], out: &mut [u32]) -> bool {
        if shingles.is_empty() {
            return false;
        }
        for (multiplier, least) in self.multipliers.iter().zip(out) {
            let values = shingles.iter().map(|shingle| (*shingle as u32).wrapping_mul(*multiplier).wrapping_add((shingle >> 32) as u32));
            *least = values.min().unwrap_or(u32::MAX);
        }
        true
    }
}

/// The estimate of the Jaccard similarity: the share of equal values of two signatures of one length; 0 for empty ones.
#[must_use]
pub fn agreement(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    if a.is_empty() { 0.0 } else { equal as f64 / a.len() as f64 }
}

/// A family of hash functions, and how its signatures become band keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// That of this product.
    Trommel {
        /// Values of the signature; at least those that the bands use.
        permutations: usize,
        /// Draws the functions.
        seed: u64,
    },
    /// That of datatrove 0.10 with 64 bits of precision; its seed is 1.
    Datatrove {
        /// Values of the signature; the functions depend on their number.
        permutations: usize,
        /// Seed of NumPy's generator.
        seed: u32,
    },
    /// That of data-prep-kit; its seed is 42.
    DataPrepKit {
        /// Values of the signature.
        permutations: usize,
        /// Seed of NumPy's generator.
        seed: u32,
    },
}

impl Family {
    /// Makes the functions.
    #[must_use]
    pub fn sketcher(self, bands: Bands) -> Sketcher {
        todo!("{bands:?}")
    }
}

/// Makes signatures and band keys; holds the functions, and space that is used again for each row.
#[derive(Debug, Clone)]
pub struct Sketcher {
    bands: Bands,
    signature: Vec<u32>,
}

impl Sketcher {
    /// One key for each band in band order, `keys` being cleared first; none and false for a text without shingles, which never matches.
    pub fn keys(&mut self, shingles: &[u64], keys: &mut Vec<u64>) -> bool {
        keys.clear();
        todo!("{shingles:?}")
    }

    /// The signature behind the keys that were made last; of 64-bit values the low half, which is as good for [`agreement`].
    #[must_use]
    pub fn signature(&self) -> &[u32] {
        &self.signature
    }
}
