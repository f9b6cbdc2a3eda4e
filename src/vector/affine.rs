//! A fitted map of vectors: `z = W (x - mean)`.

use crate::error::{Error, Result};
use crate::vector::double::dot;

/// The rounding of a number to single precision: half of the last of 24 bits.
const ROUNDING: f64 = 1.0 / (1_u64 << 24) as f64;

/// `z = W (x - mean)`, in double precision and a fixed order; only `z` is rounded.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    mean: Vec<f64>,
    /// The rows of `W`.
    weights: Vec<f64>,
    /// For each row of `W` its one entry that is not 0, where each has just one: most of a product would be zeros.
    picks: Option<Vec<usize>>,
    /// The length of the longest row of `W`.
    gain: f64,
}

impl Affine {
    /// With the rows of `W` in `weights`, each as long as `mean`.
    ///
    /// # Errors
    /// Internal, if `weights` is no whole number of rows, or a number is not finite.
    pub fn try_new(mean: Vec<f64>, weights: Vec<f64>) -> Result<Self> {
        let d = mean.len();
        if !weights.len().is_multiple_of(d.max(1)) || mean.iter().chain(&weights).any(|x| !x.is_finite()) {
            return Err(Error::internal(format!("a map of vectors is malformed numbers=`{}` dimensions=`{d}`", weights.len())));
        }
        let rows = || weights.chunks_exact(d.max(1));
        let pick = |row: &[f64]| {
            let mut set = row.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(place, _)| place);
            set.next().filter(|_| set.next().is_none())
        };
        let picks = rows().map(pick).collect();
        let gain = rows().map(|row| dot(row, row).sqrt()).fold(0.0, f64::max);
        Ok(Self { mean, weights, picks, gain })
    }

    /// Only shifts.
    ///
    /// # Errors
    /// As [`Affine::try_new`].
    pub fn shift(mean: Vec<f64>) -> Result<Self> {
        let all: Vec<usize> = (0..mean.len()).collect();
        Self::picking(mean, &all)
    }

    /// Shifts, and takes these dimensions.
    ///
    /// # Errors
    /// As [`Affine::try_new`].
    pub fn picking(mean: Vec<f64>, dimensions: &[usize]) -> Result<Self> {
        let mut weights = vec![0.0; dimensions.len() * mean.len()];
        for (row, place) in dimensions.iter().enumerate() {
            weights[row * mean.len() + place] = 1.0;
        }
        Self::try_new(mean, weights)
    }

    /// What is subtracted.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The rows of `W`, row after row.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Numbers in `z`.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.weights.len() / self.mean.len().max(1)
    }

    /// Writes `z` for the vector `x`; `false`, and zeros, where `z` has no direction: it is not longer than what the rounding of `x`
    /// to single precision alone can have made of nothing, as for a row at the mean.
    ///
    /// # Panics
    /// If `x` or `z` have another length than the map.
    #[must_use]
    pub fn apply(&self, x: &[f32], z: &mut [f32]) -> bool {
        assert_eq!((x.len(), z.len()), (self.mean.len(), self.dimensions()), "a vector of other dimensions");
        let centred: Vec<f64> = x.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        let mut square = 0.0;
        let rows = self.weights.chunks_exact(self.mean.len().max(1));
        for (place, (z, row)) in z.iter_mut().zip(rows).enumerate() {
            let value = match &self.picks {
                Some(picks) => row[picks[place]] * centred[picks[place]],
                None => dot(row, &centred),
            };
            square += value * value;
            *z = value as f32;
        }
        let has_direction = square.sqrt() > ROUNDING * self.gain * crate::vector::dot::dot(x, x).sqrt();
        if !has_direction {
            z.fill(0.0);
        }
        has_direction
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_map_is_its_definition(
            d in 1_usize..20, r in 1_usize..20, numbers in prop::collection::vec(-2.0_f64..2.0, 20 * 22),
        ) {
            let (mean, x) = (&numbers[..d], numbers[20..20 + d].iter().map(|x| *x as f32).collect::<Vec<_>>());
            let map = Affine::try_new(mean.to_vec(), numbers[40..40 + r * d].to_vec()).unwrap();
            let mut z = vec![0.0; r];
            prop_assert!(map.apply(&x, &mut z));
            for (i, z) in z.iter().enumerate() {
                let plain: f64 = (0..d).map(|j| numbers[40 + i * d + j] * (f64::from(x[j]) - mean[j])).sum();
                prop_assert!((f64::from(*z) - plain).abs() < 1e-5 * (1.0 + plain.abs()));
            }
        }
    }

    #[test]
    fn single_entries_are_picked() {
        let map = Affine::picking(vec![0.0, 1.0, 0.0], &[2, 1]).unwrap();
        let mut z = [0.0; 2];
        assert!(map.apply(&[7.0, 3.0, 5.0], &mut z));
        assert_eq!(z, [5.0, 2.0]);
    }

    #[test]
    fn a_row_at_the_mean_has_no_direction() {
        // 0.1 is no single: what is left of the difference is its rounding.
        let map = Affine::shift(vec![0.1, -0.3]).unwrap();
        let mut z = [1.0; 2];
        assert!(!map.apply(&[0.1, -0.3], &mut z));
        assert_eq!(z, [0.0; 2]);
        assert!(map.apply(&[0.1001, -0.3], &mut z));
        // A map without any direction.
        assert!(!Affine::try_new(vec![0.0; 2], vec![0.0; 2]).unwrap().apply(&[1.0, 2.0], &mut [0.0]));
    }

    #[test]
    fn malformed_maps_are_refused() {
        assert!(Affine::try_new(vec![0.0; 2], vec![1.0; 3]).is_err());
        assert!(Affine::try_new(vec![f64::NAN], vec![1.0]).is_err());
    }
}
