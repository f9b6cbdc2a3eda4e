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
        self.keys_of(signature, out);
    }

    /// The keys of a signature of any width.
    pub(super) fn keys_of<T: Copy + Into<u64>>(self, signature: &[T], out: &mut Vec<u64>) {
        out.clear();
        out.extend(signature.chunks_exact(self.rows.max(1)).take(self.bands).enumerate().map(|(band, values)| {
            let start = mix(band as u64 ^ SALT);
            values.iter().fold(start, |key, value| mix(key.wrapping_mul(SPREAD) ^ (*value).into()))
        }));
    }
}

/// Keeps keys apart from other hashes of small numbers.
const SALT: u64 = 0x7472_6F6D_6D65_6C31;
/// An odd number without structure, so that the key depends on the order of its values.
const SPREAD: u64 = 0xD6E8_FEB8_6659_FD93;

/// A bijection of 64 bits that spreads each bit over all (the finaliser of SplitMix64, Steele et al. 2014).
pub(super) fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_curve_of_a_peer() {
        let fineweb = Bands { bands: 14, rows: 8 };
        for (similarity, wanted) in [(0.0, 0.0), (0.7, 0.565), (0.75, 0.772), (0.8, 0.924), (0.85, 0.988), (1.0, 1.0)] {
            assert!((fineweb.probability(similarity) - wanted).abs() < 5e-4, "{similarity}");
        }
        assert!((Bands { bands: 20, rows: 13 }.probability(0.8) - 0.678).abs() < 1e-3);
    }

    #[test]
    fn bands_are_the_longest_that_find_enough() {
        assert_eq!(Bands::for_threshold(0.8, 112), Bands { bands: 14, rows: 8 });
        for permutations in [1, 7, 64, 112, 128, 1000] {
            for threshold in [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0] {
                let chosen = Bands::for_threshold(threshold, permutations);
                assert!(chosen.values() <= permutations);
                if chosen.rows > 1 {
                    assert!(chosen.probability(threshold) >= FOUND);
                }
                for rows in chosen.rows + 1..=permutations {
                    assert!(Bands { bands: permutations / rows, rows }.probability(threshold) < FOUND, "{threshold} {permutations} {rows}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn keys_agree_where_bands_do(a in prop::collection::vec(0..3_u32, 24), b in prop::collection::vec(0..3_u32, 24), rows in 1..7_usize) {
            let bands = Bands { bands: 24 / rows, rows };
            let (mut x, mut y) = (vec![9], Vec::new());
            bands.keys(&a, &mut x);
            bands.keys(&b, &mut y);
            prop_assert_eq!(x.len(), bands.bands);
            for band in 0..bands.bands {
                let values = band * rows..(band + 1) * rows;
                prop_assert_eq!(x[band] == y[band], a[values.clone()] == b[values]);
            }
        }
    }

    #[test]
    fn equal_values_in_other_bands_or_another_order_give_other_keys() {
        let mut all = Vec::new();
        for signature in [[1, 2, 1, 2], [2, 1, 2, 1], [1, 1, 2, 2], [0, 0, 0, 0]] {
            let mut keys = Vec::new();
            Bands { bands: 2, rows: 2 }.keys(&signature, &mut keys);
            all.extend(keys);
        }
        let distinct: HashSet<u64> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
    }

    /// These values stand in artefacts.
    #[test]
    fn keys_never_change() {
        let mut keys = Vec::new();
        Bands { bands: 2, rows: 2 }.keys(&[1, 2, 3, 4, 5], &mut keys);
        assert_eq!(keys, [2_171_152_129_432_007_201, 11_575_424_005_832_461_305]);
    }
}
