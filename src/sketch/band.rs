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
        out.clear();
        out.extend(signature.chunks_exact(self.rows.max(1)).take(self.bands).enumerate().map(|(band, values)| {
            let start = mix(band as u64 ^ 0x7472_6F6D_6D65_6C31);
            values.iter().fold(start, |key, value| mix(key.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ u64::from(*value)))
        }));
    }
}

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
