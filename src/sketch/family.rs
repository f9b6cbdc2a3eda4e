//! Families of hash functions behind one face: that of this product, and those of two peers, whose signatures and bands are reproduced
//! for parity.
#![expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]

use super::band::{Bands, mix};
use super::mersenne_twister::MersenneTwister;
use super::minhash::MinHash;
use super::murmur::murmur3_x64;
use super::wide::{Lanes, lower};

/// Which functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Those of this product: [`MinHash`].
    Trommel {
        /// Values of the signature.
        permutations: usize,
        /// Draws the functions.
        seed: u64,
    },
    /// Those of datatrove 0.10: [`DatatroveMinHash`].
    Datatrove {
        /// Values of the signature; all functions depend on their number. There it is bands x rows.
        permutations: usize,
        /// Seed of NumPy's generator; there 1.
        seed: u32,
    },
    /// Those of data-prep-kit: [`DataPrepKitMinHash`].
    DataPrepKit {
        /// Values of the signature.
        permutations: usize,
        /// Seed of NumPy's generator; there 42.
        seed: u32,
    },
}

impl Family {
    /// Draws the functions. `bands` may use fewer values than the signature has, not more.
    #[must_use]
    pub fn sketcher(self, bands: Bands) -> Sketcher {
        let functions = match self {
            Self::Trommel { permutations, seed } => Functions::Trommel(MinHash::new(permutations, seed)),
            Self::Datatrove { permutations, seed } => Functions::Datatrove(DatatroveMinHash::new(permutations, seed)),
            Self::DataPrepKit { permutations, seed } => Functions::DataPrepKit(DataPrepKitMinHash::new(permutations, seed)),
        };
        Sketcher { functions, bands, signature: vec![0; self.permutations()], wide: Vec::new() }
    }

    /// Values of a signature.
    #[must_use]
    pub fn permutations(self) -> usize {
        match self {
            Self::Trommel { permutations, .. } | Self::Datatrove { permutations, .. } | Self::DataPrepKit { permutations, .. } => {
                permutations
            }
        }
    }
}

/// Makes signatures and band keys; holds the functions, and space that is used again for each row.
#[derive(Debug, Clone)]
pub struct Sketcher {
    functions: Functions,
    bands: Bands,
    signature: Vec<u32>,
    wide: Vec<u64>,
}

#[derive(Debug, Clone)]
enum Functions {
    Trommel(MinHash),
    Datatrove(DatatroveMinHash),
    DataPrepKit(DataPrepKitMinHash),
}

impl Sketcher {
    /// The keys of a set of shingle hashes: one for each band, in band order, equal to that of another set in a place if and only if
    /// all values of that band are (but for 2^-64); those of different bands differ, so that they may share a table. `keys` is cleared
    /// first. An empty set has none and never matches: false.
    pub fn keys(&mut self, shingles: &[u64], keys: &mut Vec<u64>) -> bool {
        keys.clear();
        if shingles.is_empty() {
            return false;
        }
        match &self.functions {
            Functions::Trommel(functions) => {
                functions.signature(shingles, &mut self.signature);
                self.bands.keys(&self.signature, keys);
            }
            Functions::Datatrove(functions) => {
                self.wide.resize(self.signature.len(), 0);
                functions.signature(shingles, &mut self.wide);
                self.signature.iter_mut().zip(&self.wide).for_each(|(low, value)| *low = *value as u32);
                self.bands.keys_of(&self.wide, keys);
            }
            Functions::DataPrepKit(functions) => {
                functions.signature(shingles, &mut self.signature);
                let hashes = (0..self.bands.bands).map(|band| DataPrepKitMinHash::band_hash(self.bands, &self.signature, band));
                keys.extend(hashes.enumerate().map(|(band, hash)| mix(hash ^ mix(band as u64))));
            }
        }
        true
    }

    /// The signature behind the keys that were made last, for [`super::agreement`]. Of values of 64 bits it holds the low 32.
    #[must_use]
    pub fn signature(&self) -> &[u32] {
        &self.signature
    }
}

/// The functions of datatrove 0.10 at 64 bits of precision: `(a x + b mod 2^64) mod (2^61 - 1)`.
#[derive(Debug, Clone)]
pub struct DatatroveMinHash {
    multipliers: Vec<u64>,
    offsets: Vec<u64>,
}

#[derive(Clone, Copy)]
struct WrappingMersenne;

impl WrappingMersenne {
    const PRIME: u64 = (1 << 61) - 1;
}

impl Lanes<2> for WrappingMersenne {
    // Values are below 2^61: as signed numbers they compare the same, and faster.
    type Value = i64;
    type Parameter = u64;

    #[inline(always)]
    fn value([multiplier, offset]: [u64; 2], shingle: u64) -> i64 {
        let hash = shingle.wrapping_mul(multiplier).wrapping_add(offset);
        // 2^61 is 1 modulo the prime.
        let sum = ((hash & Self::PRIME) + (hash >> 61)) as i64;
        let prime = Self::PRIME as i64;
        if sum >= prime { sum - prime } else { sum }
    }
}

impl DatatroveMinHash {
    /// `permutations` functions as `numpy.random.RandomState(seed)` draws them.
    #[must_use]
    pub fn new(permutations: usize, seed: u32) -> Self {
        let mut draws = MersenneTwister::new(seed);
        let multipliers = (0..permutations).map(|_| draws.between(1, WrappingMersenne::PRIME)).collect();
        let offsets = (0..permutations).map(|_| draws.between(0, WrappingMersenne::PRIME)).collect();
        Self { multipliers, offsets }
    }

    /// Writes the signature of a set of shingle hashes to the first values of `out`. An empty set has none: false, and `out` stays as
    /// it is.
    pub fn signature(&self, shingles: &[u64], out: &mut [u64]) -> bool {
        if shingles.is_empty() {
            return false;
        }
        let mut least = vec![i64::MAX; self.multipliers.len()];
        lower::<2, WrappingMersenne>([&self.multipliers, &self.offsets], shingles, &mut least);
        out.iter_mut().zip(least).for_each(|(out, least)| *out = least as u64);
        true
    }
}

/// The functions of data-prep-kit's `fdedup`: `(a x mod 2^64) >> 32` for odd `a` and hashes `x` of 32 bits.
#[derive(Debug, Clone)]
pub struct DataPrepKitMinHash {
    multipliers: Vec<u64>,
}

#[derive(Clone, Copy)]
struct HighHalf;

impl Lanes<1> for HighHalf {
    type Value = u32;
    type Parameter = u64;

    #[inline(always)]
    fn value([multiplier]: [u64; 1], shingle: u64) -> u32 {
        (shingle.wrapping_mul(multiplier) >> 32) as u32
    }
}

impl DataPrepKitMinHash {
    /// The seed of its band hashes, whatever that of its functions is.
    const BAND_SEED: u32 = 42;

    /// `permutations` functions as `numpy.random.RandomState(seed)` draws them.
    #[must_use]
    pub fn new(permutations: usize, seed: u32) -> Self {
        let mut draws = MersenneTwister::new(seed);
        Self { multipliers: (0..permutations).map(|_| draws.between(0, u64::MAX) | 1).collect() }
    }

    /// Writes the signature of a set of shingle hashes to the first values of `out`. An empty set has none: false, and `out` stays as
    /// it is.
    pub fn signature(&self, shingles: &[u64], out: &mut [u32]) -> bool {
        if shingles.is_empty() {
            return false;
        }
        let out = &mut out[..self.multipliers.len()];
        out.fill(u32::MAX);
        lower::<1, HighHalf>([&self.multipliers], shingles, out);
        true
    }

    /// Its own hash of one band, without the number of the band.
    #[must_use]
    pub fn band_hash(bands: Bands, signature: &[u32], band: usize) -> u64 {
        let values = &signature[band * bands.rows..(band + 1) * bands.rows];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        murmur3_x64(&bytes, Self::BAND_SEED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sketch::agreement;

    const BANDS: Bands = Bands { bands: 14, rows: 8 };
    const FAMILIES: [Family; 3] = [
        Family::Trommel { permutations: 112, seed: 1 },
        Family::Datatrove { permutations: 112, seed: 1 },
        Family::DataPrepKit { permutations: 112, seed: 42 },
    ];

    #[test]
    fn the_same_set_has_the_same_keys_and_an_empty_one_none() {
        for family in FAMILIES {
            let mut sketcher = family.sketcher(BANDS);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            assert!(sketcher.keys(&[3, 5, 3], &mut a));
            let signature = sketcher.signature().to_vec();
            assert!(sketcher.keys(&[5, 3], &mut b));
            assert_eq!((a.len(), &a), (14, &b));
            assert_eq!(agreement(&signature, sketcher.signature()), 1.0);
            assert!(!sketcher.keys(&[], &mut b));
            assert!(b.is_empty());
            sketcher.keys(&[6, 4], &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn the_vector_forms_equal_the_definitions() {
        let mut draws = crate::random::Random::new(1, "test").sequence(b"families");
        let (datatrove, kit) = (DatatroveMinHash::new(19, 1), DataPrepKitMinHash::new(19, 42));
        for count in [1, 2, 7, 100] {
            let shingles: Vec<u64> = (0..count).map(|_| draws.next_u64()).chain([0, u64::MAX]).collect();
            let (mut wide, mut narrow) = (vec![0; 19], vec![0; 19]);
            datatrove.signature(&shingles, &mut wide);
            kit.signature(&shingles, &mut narrow);
            for index in 0..19 {
                let (a, b) = (u128::from(datatrove.multipliers[index]), u128::from(datatrove.offsets[index]));
                let value = |shingle: &u64| (u128::from(*shingle) * a + b) % (1 << 64) % ((1 << 61) - 1);
                assert_eq!(u128::from(wide[index]), shingles.iter().map(value).min().unwrap());
                let a = u128::from(kit.multipliers[index]);
                let value = |shingle: &u64| (u128::from(*shingle) * a % (1 << 64)) >> 32;
                assert_eq!(u128::from(narrow[index]), shingles.iter().map(value).min().unwrap());
            }
        }
    }
}
