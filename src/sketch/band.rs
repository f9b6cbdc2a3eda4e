//! Bands of locality-sensitive hashing: a signature of `bands` x `rows` values is cut into bands, and two documents are candidates
//! when all values of one band are equal (Indyk & Motwani 1998; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4).

/// How a signature is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bands {
    /// Bands: each gives one key.
    pub bands: usize,
    /// Values of the signature in each band.
    pub rows: usize,
}

/// With which probability [`Bands::for_threshold`] finds a pair at the threshold.
const FOUND: f64 = 0.9;

impl Bands {
    /// Values of the signature that are used.
    #[must_use]
    pub fn values(self) -> usize {
        self.bands * self.rows
    }

    /// The probability that two documents of this Jaccard similarity share a band, `1 - (1 - s^r)^b`: the S-curve.
    #[must_use]
    pub fn probability(self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powf(self.rows as f64)).powf(self.bands as f64)
    }

    /// The longest bands of at most `permutations` values, which must not be 0, that find a pair exactly at `threshold` with
    /// probability [`FOUND`]; bands of one value where none do. Long bands make few false candidates, and as candidates are verified,
    /// the ones that count are those that are missed.
    #[must_use]
    pub fn for_threshold(threshold: f64, permutations: usize) -> Self {
        let bands = |rows: usize| Self { bands: (permutations / rows).max(1), rows };
        let found = (1..=permutations).rev().map(bands).find(|bands| bands.probability(threshold) >= FOUND);
        found.unwrap_or_else(|| bands(1))
    }

    /// One key for each band, in band order; `out` is cleared first. Keys of two signatures are equal in a place if and only if the
    /// values of that band are (but for 2^-64), and those of different bands differ, so that the keys of all bands may share a table.
    /// The signature must have at least [`Bands::values`] values.
    pub fn keys(self, signature: &[u32], out: &mut Vec<u64>) {
        out.clear();
        out.extend(signature.chunks_exact(self.rows.max(1)).take(self.bands).enumerate().map(|(band, values)| {
            let start = mix(band as u64 ^ 0x7472_6F6D_6D65_6C31);
            values.iter().fold(start, |key, value| mix(key.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ u64::from(*value)))
        }));
    }
}

/// A bijection of 64 bits that spreads each bit over all (the finaliser of SplitMix64, Steele et al. 2014).
pub(super) fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
