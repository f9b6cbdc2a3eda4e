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

/// Width of a step of [`Bands::best`]'s integrals, that of datasketch.
const STEP: f64 = 0.001;
/// What a false positive weighs in [`Bands::best`] beside a false negative, as in datasketch.
const WEIGHT: f64 = 0.5;

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

    /// The bands of at most `permutations` values, which must not be 0, whose curve lies nearest to a step at `threshold`: the sum of
    /// the area under the curve below the threshold (false positives) and the area over it above (false negatives), weighed .5 and
    /// .5, is least; of equals the one with the fewest bands, then rows. Equals datasketch 2.0, whose integrals by the midpoint rule
    /// with step .001 are part of the definition.
    #[must_use]
    pub fn best(threshold: f64, permutations: usize) -> Self {
        let (below, above) = (points(0.0, threshold), points(threshold, 1.0));
        let mut powers: Vec<f64> = vec![1.0; below.len() + above.len()];
        let mut best = (f64::INFINITY, Self { bands: 1, rows: 1 });
        for rows in 1..=permutations {
            powers.iter_mut().zip(below.iter().chain(&above)).for_each(|(power, point)| *power *= point);
            let mut missed = vec![1.0; powers.len()];
            for bands in 1..=permutations / rows {
                missed.iter_mut().zip(&powers).for_each(|(missed, power)| *missed *= 1.0 - power);
                let (low, high) = missed.split_at(below.len());
                let false_positive: f64 = low.iter().map(|missed| (1.0 - missed) * STEP).sum();
                let false_negative: f64 = high.iter().map(|missed| missed * STEP).sum();
                let error = WEIGHT * false_positive + WEIGHT * false_negative;
                let this = Self { bands, rows };
                if error < best.0 || error == best.0 && bands < best.1.bands {
                    best = (error, this);
                }
            }
        }
        best.1
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

/// The middles of the steps of an interval.
fn points(from: f64, to: f64) -> Vec<f64> {
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        found.push(at + 0.5 * STEP);
        at += STEP;
    }
    found
}

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

    /// What datasketch 2.0.0 answers.
    #[test]
    fn the_best_bands_are_those_of_datasketch() {
        let cases: &[(f64, usize, usize, usize)] = &[
            (0.1, 1, 1, 1),
            (0.1, 16, 15, 1),
            (0.1, 64, 15, 1),
            (0.1, 112, 56, 2),
            (0.1, 128, 64, 2),
            (0.1, 256, 117, 2),
            (0.1, 260, 117, 2),
            (0.3, 1, 1, 1),
            (0.3, 16, 8, 2),
            (0.3, 64, 21, 3),
            (0.3, 112, 37, 3),
            (0.3, 128, 37, 3),
            (0.3, 256, 64, 4),
            (0.3, 260, 65, 4),
            (0.5, 1, 1, 1),
            (0.5, 16, 5, 3),
            (0.5, 64, 14, 4),
            (0.5, 112, 22, 5),
            (0.5, 128, 25, 5),
            (0.5, 256, 42, 6),
            (0.5, 260, 43, 6),
            (0.7, 1, 1, 1),
            (0.7, 16, 3, 5),
            (0.7, 64, 8, 8),
            (0.7, 112, 12, 9),
            (0.7, 128, 14, 9),
            (0.7, 256, 25, 10),
            (0.7, 260, 26, 10),
            (0.75, 1, 1, 1),
            (0.75, 16, 2, 6),
            (0.75, 64, 7, 9),
            (0.75, 112, 11, 10),
            (0.75, 128, 11, 11),
            (0.75, 256, 21, 12),
            (0.75, 260, 20, 13),
            (0.8, 1, 1, 1),
            (0.8, 16, 2, 8),
            (0.8, 64, 5, 11),
            (0.8, 112, 9, 12),
            (0.8, 128, 9, 13),
            (0.8, 256, 17, 15),
            (0.8, 260, 17, 15),
            (0.85, 1, 1, 1),
            (0.85, 16, 2, 8),
            (0.85, 64, 4, 15),
            (0.85, 112, 7, 16),
            (0.85, 128, 8, 16),
            (0.85, 256, 13, 19),
            (0.85, 260, 13, 20),
            (0.9, 1, 1, 1),
            (0.9, 16, 1, 15),
            (0.9, 64, 3, 21),
            (0.9, 112, 5, 22),
            (0.9, 128, 5, 25),
            (0.9, 256, 9, 28),
            (0.9, 260, 9, 28),
            (0.95, 1, 1, 1),
            (0.95, 16, 1, 16),
            (0.95, 64, 2, 32),
            (0.95, 112, 3, 37),
            (0.95, 128, 3, 42),
            (0.95, 256, 5, 51),
            (0.95, 260, 5, 51),
            (1.0, 1, 1, 1),
            (1.0, 16, 1, 16),
            (1.0, 64, 1, 64),
            (1.0, 112, 1, 112),
            (1.0, 128, 1, 128),
            (1.0, 256, 1, 256),
            (1.0, 260, 1, 260),
        ];
        for (threshold, permutations, bands, rows) in cases {
            assert_eq!(Bands::best(*threshold, *permutations), Bands { bands: *bands, rows: *rows }, "{threshold} {permutations}");
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
