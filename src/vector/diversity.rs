//! How many directions a set of vectors really uses, in a few numbers.
//!
//! * The nuclear norm of the centred vectors of unit length, by the norms of the columns (Li et al., Large Language Model Evaluation via
//!   Matrix Nuclear-Norm, 2024), which is fast, an upper bound and depends on the axes; and by the eigenvalues, which is exact.
//! * The effective rank, `exp` of the entropy of the spectrum of the same vectors (Roy and Vetterli 2007).
//! * The Vendi score, `exp` of the entropy of the spectrum of the cosines (Friedman and Dieng 2023).
//! * `ln det(K + 1)` of the cosines K: the volume that the vectors span (Parker-Holder et al. 2020).
//! * The O-information of the dimensions as if they were Gaussian: above 0 they say the same, below 0 only together what they say (Rosas
//!   et al. 2019).
//!
//! All are of vectors by their direction, in double precision, and cost `O(n d^2 + d^3)`: of n rows no pair is looked at.

use super::eigen::{Eigen, symmetric};
use super::moments::{Covariance, Moments};
use super::normalise;
use crate::error::Result;

/// What is told of some vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Diversity {
    /// How many vectors.
    pub rows: usize,
    /// How many of them are not at the mean, and so have a direction from it.
    pub off_mean: usize,
    /// The sum of the largest column norms of the centred rows of unit length, divided by its bound, the root of n min(n, d): from 0 to 1.
    pub mnn_raw: f64,
    /// The nuclear norm of the same, divided by the same; at most `mnn_raw`.
    pub mnn_pca: f64,
    /// The sum of the column norms as published: divided by n.
    pub mnn_per_row: f64,
    /// From 1 to d; 0 where all rows are equal.
    pub effective_rank: f64,
    /// From 1 to min(n, d); 0 of no rows.
    pub vendi: f64,
    /// `ln det(K + 1)` of the cosines K, in nats.
    pub log_det: f64,
    /// The mean magnitude of the correlation of two dimensions.
    pub mean_correlation: f64,
    /// In nats; `None` where the covariance has no inverse, or there are fewer than three dimensions.
    pub o_information: Option<f64>,
}

/// Gives each row once to what it is given; one without a length is not measured.
pub type Visit<'a> = dyn Fn(&mut dyn FnMut(&[f32])) -> Result<()> + 'a;

/// Measures vectors of `dimensions` numbers, which `visit` shows twice in the same order.
///
/// # Errors
/// Those of `visit`; internal, if numbers are not finite.
pub fn measure(dimensions: usize, visit: &Visit<'_>) -> Result<Diversity> {
    let mut moments = Moments::new(dimensions);
    let mut unit = vec![0.0; dimensions];
    visit(&mut |row| {
        unit.copy_from_slice(row);
        if normalise(&mut unit) {
            moments.push(&unit);
        }
    })?;
    let covariance = moments.finish();
    let mut moments = Moments::new(dimensions);
    visit(&mut |row| {
        unit.copy_from_slice(row);
        if !normalise(&mut unit) {
            return;
        }
        let length = covariance.mean.iter().zip(&unit).map(|(mean, x)| (f64::from(*x) - mean).powi(2)).sum::<f64>().sqrt();
        if length > AT_MEAN {
            for (x, mean) in unit.iter_mut().zip(&covariance.mean) {
                *x = ((f64::from(*x) - mean) / length) as f32;
            }
            moments.push(&unit);
        }
    })?;
    of(&covariance, &moments.finish())
}

/// A row nearer to the mean than rounding in single precision is at it.
const AT_MEAN: f64 = 1e-6;
/// Eigenvalues below this share of the largest are rounding.
const SINGULAR: f64 = 1e-10;

/// The second moment: that of the rows from 0, not from their mean.
fn second_moment(rows: &Covariance) -> Vec<f64> {
    let d = rows.mean.len();
    (0..d * d).map(|at| rows.matrix[at] + rows.mean[at / d] * rows.mean[at % d]).collect()
}

/// `exp` of the entropy of a spectrum; 0 where there is nothing in it.
fn spread(eigen: &Eigen) -> f64 {
    let total: f64 = eigen.values.iter().map(|value| value.max(0.0)).sum();
    let shares = eigen.values.iter().map(|value| value.max(0.0) / total).filter(|share| *share > 0.0);
    if total > 0.0 { (-shares.map(|share| share * share.ln()).sum::<f64>()).exp() } else { 0.0 }
}

fn of(covariance: &Covariance, centred: &Covariance) -> Result<Diversity> {
    let d = covariance.mean.len();
    let directions = second_moment(centred);
    let n = centred.rows as f64;
    let counted = centred.rows.min(d);
    let bound = (n * counted as f64).sqrt();
    let mut norms: Vec<f64> = (0..d).map(|i| (n * directions[i * d + i].max(0.0)).sqrt()).collect();
    norms.sort_by(|a, b| b.total_cmp(a));
    let sum: f64 = norms.iter().take(counted).sum();
    let directions = symmetric(directions, d)?;
    let nuclear: f64 = directions.values.iter().map(|value| (n * value.max(0.0)).sqrt()).sum();
    let share = |value: f64| if bound > 0.0 { value / bound } else { 0.0 };
    let cosines = symmetric(second_moment(covariance), d)?;
    Ok(Diversity {
        rows: covariance.rows,
        off_mean: centred.rows,
        mnn_raw: share(sum),
        mnn_pca: share(nuclear),
        mnn_per_row: if n > 0.0 { sum / n } else { 0.0 },
        effective_rank: spread(&directions),
        vendi: spread(&cosines),
        log_det: cosines.values.iter().map(|value| (covariance.rows as f64 * value.max(0.0)).ln_1p()).sum(),
        mean_correlation: covariance.mean_correlation(),
        o_information: o_information(&covariance.matrix, d)?,
    })
}

/// The O-information of Gaussian variables of this covariance (`d` x `d`): half of the sum of the logarithms of the variances, less that of
/// the precisions, less twice the logarithm of the determinant. That is (d - 2) ln det S + sum of ln S_ii - ln det S_-i, halved, where
/// S_-i lacks variable i, since det S_-i is det S times the precision of i.
///
/// # Errors
/// Internal, if numbers are not finite.
pub fn o_information(covariance: &[f64], d: usize) -> Result<Option<f64>> {
    let eigen = symmetric(covariance.to_vec(), d)?;
    let largest = eigen.values.first().copied().unwrap_or(0.0);
    if d < 3 || eigen.values.iter().any(|value| *value <= SINGULAR * largest) {
        return Ok(None);
    }
    let determinant: f64 = eigen.values.iter().map(|value| value.ln()).sum();
    let precision = |i: usize| (0..d).map(|k| eigen.vector(k)[i].powi(2) / eigen.values[k]).sum::<f64>();
    let sum: f64 = (0..d).map(|i| covariance[i * d + i].ln() - precision(i).ln()).sum();
    Ok(Some(0.5 * (sum - 2.0 * determinant)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    fn measured(rows: &[Vec<f32>]) -> Diversity {
        measure(rows[0].len(), &|see| {
            for row in rows {
                see(row);
            }
            Ok(())
        })
        .unwrap()
    }

    fn gaussian(rows: usize, d: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut draws = Random::new(seed, "diversity").sequence(b"rows");
        let mut normal = || ((-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()) as f32;
        (0..rows).map(|_| (0..d).map(|_| normal()).collect()).collect()
    }

    #[track_caller]
    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }

    /// Seeds S17: points on two axes, and on one.
    #[test]
    fn points_on_axes() {
        let two = measured(&[vec![1.0, 0.0], vec![-1.0, 0.0], vec![0.0, 1.0], vec![0.0, -1.0]]);
        near(two.mnn_per_row * 4.0, 2.828_427);
        near(two.mnn_per_row, std::f64::consts::FRAC_1_SQRT_2);
        // The bound is the root of eight, and the nuclear norm is the same.
        near(two.mnn_raw, 1.0);
        near(two.mnn_pca, 1.0);
        near(two.effective_rank, 2.0);
        near(two.vendi, 2.0);
        let one = measured(&[vec![1.0, 0.0], vec![-1.0, 0.0], vec![2.0, 0.0], vec![-2.0, 0.0]]);
        near(one.mnn_per_row * 4.0, 2.0);
        near(one.mnn_per_row, 0.5);
        near(one.effective_rank, 1.0);
        near(one.vendi, 1.0);
    }

    /// Seeds S17: the surrogate depends on the axes. Rows along a diagonal give the root of 2 n where the nuclear norm is the root of n.
    #[test]
    fn turned_axes_raise_the_surrogate_alone() {
        let half = 0.5_f32.sqrt();
        let found = measured(&[vec![half, half], vec![-half, -half], vec![half, half], vec![-half, -half]]);
        near(found.mnn_per_row * 4.0, 8.0_f64.sqrt());
        near(found.mnn_raw, 1.0);
        near(found.mnn_pca, 0.5_f64.sqrt());
        near(found.effective_rank, 1.0);
    }

    /// Seeds S17: 1,000 x 16 numbers: .9998 and .998 of the bound.
    #[test]
    fn a_gaussian_cloud_nearly_reaches_the_bound() {
        let found = measured(&gaussian(1000, 16, 4));
        assert!((found.mnn_raw - 0.9998).abs() < 2e-4 && (found.mnn_pca - 0.998).abs() < 1e-3, "{found:?}");
        assert!(found.effective_rank > 15.5 && found.vendi > 15.5, "{found:?}");
    }

    #[test]
    fn copies_of_all_change_nothing_and_copies_of_one_lower_the_rest() {
        let rows = gaussian(300, 8, 5);
        let (once, twice) = (measured(&rows), measured(&[rows.clone(), rows.clone()].concat()));
        for (a, b) in [
            (once.mnn_raw, twice.mnn_raw),
            (once.mnn_pca, twice.mnn_pca),
            (once.effective_rank, twice.effective_rank),
            (once.vendi, twice.vendi),
        ] {
            near(a, b);
        }
        let repeated: Vec<Vec<f32>> = rows.iter().chain(std::iter::repeat_n(&rows[0], 200)).cloned().collect();
        let repeated = measured(&repeated);
        assert!(repeated.mnn_per_row < once.mnn_per_row && repeated.mnn_pca < once.mnn_pca && repeated.vendi < once.vendi);
    }

    #[test]
    fn rows_at_the_mean_are_left_out_and_nothing_is_nothing() {
        let same = measured(&vec![vec![0.6, 0.8]; 5]);
        assert_eq!((same.rows, same.off_mean, same.mnn_raw, same.effective_rank), (5, 0, 0.0, 0.0));
        near(same.vendi, 1.0);
        near(same.log_det, 6.0_f64.ln());
        assert_eq!(same.o_information, None);
        let none = measure(3, &|_| Ok(())).unwrap();
        assert_eq!((none.rows, none.vendi, none.log_det, none.o_information), (0, 0.0, 0.0, None));
    }

    /// Seeds, section 2 (record 136): three variables of correlation .5, and a sum of two with noise of variance .1.
    #[test]
    fn o_information_of_known_covariances() {
        near(o_information(&[1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 1.0], 3).unwrap().unwrap(), 0.084_950);
        near(o_information(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.1], 3).unwrap().unwrap(), -0.875_634);
        assert_eq!(o_information(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0], 3).unwrap(), None, "one is the sum of the others");
        assert_eq!(o_information(&[1.0, 0.5, 0.5, 1.0], 2).unwrap(), None);
    }

    /// The logarithm of a determinant by elimination.
    fn ln_det(mut a: Vec<f64>, n: usize) -> f64 {
        let mut sum = 0.0;
        for i in 0..n {
            sum += a[i * n + i].ln();
            for j in i + 1..n {
                let factor = a[j * n + i] / a[i * n + i];
                for k in i..n {
                    a[j * n + k] -= factor * a[i * n + k];
                }
            }
        }
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// By the definitions: over all pairs of rows and over all variables, with determinants.
        #[test]
        fn equals_the_definitions(rows in 6_usize..30, d in 3_usize..5, seed in 0_u64..1000) {
            let data = gaussian(rows, d, seed);
            let found = measured(&data);
            let unit = |row: &Vec<f32>| {
                let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                row.iter().map(|x| f64::from(*x) / length).collect::<Vec<f64>>()
            };
            let units: Vec<Vec<f64>> = data.iter().map(unit).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            // K + 1, row by row.
            let kernel = (0..rows * rows).map(|at| dot(&units[at / rows], &units[at % rows]) + f64::from(u8::from(at / rows == at % rows)));
            let log_det = ln_det(kernel.collect(), rows);
            prop_assert!((found.log_det - log_det).abs() < 1e-5, "{} {}", found.log_det, log_det);
            // The spectrum of K / n has the entropy that is told.
            let kernel: Vec<f64> = (0..rows * rows).map(|at| dot(&units[at / rows], &units[at % rows]) / rows as f64).collect();
            let spectrum = symmetric(kernel, rows).unwrap();
            let entropy: f64 = spectrum.values.iter().filter(|value| **value > 1e-12).map(|value| -value * value.ln()).sum();
            prop_assert!((found.vendi - entropy.exp()).abs() < 1e-5);
            // The nuclear norm by the spectrum of all pairs of centred rows.
            let mean: Vec<f64> = (0..d).map(|i| units.iter().map(|row| row[i]).sum::<f64>() / rows as f64).collect();
            let centred: Vec<Vec<f64>> = units.iter().map(|row| {
                let apart: Vec<f64> = row.iter().zip(&mean).map(|(x, mean)| x - mean).collect();
                let length = dot(&apart, &apart).sqrt();
                apart.into_iter().map(|x| x / length).collect()
            }).collect();
            let pairs = (0..rows * rows).map(|at| dot(&centred[at / rows], &centred[at % rows])).collect();
            let nuclear: f64 = symmetric(pairs, rows).unwrap().values.iter().map(|value| value.max(0.0).sqrt()).sum();
            let bound = ((rows * rows.min(d)) as f64).sqrt();
            prop_assert!((found.mnn_pca - nuclear / bound).abs() < 1e-5, "{} {}", found.mnn_pca, nuclear / bound);
            let column = |i: usize| centred.iter().map(|row| row[i] * row[i]).sum::<f64>().sqrt();
            prop_assert!((found.mnn_raw - (0..d).map(column).sum::<f64>() / bound).abs() < 1e-5);
            prop_assert!(found.mnn_pca <= found.mnn_raw + 1e-9 && found.mnn_raw <= 1.0 + 1e-9);
            // O-information with one determinant for each variable that is left out.
            let s = |i: usize, j: usize| units.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / rows as f64;
            let without = |out: Option<usize>| {
                let kept: Vec<usize> = (0..d).filter(|i| Some(*i) != out).collect();
                ln_det(kept.iter().flat_map(|i| kept.iter().map(|j| s(*i, *j)).collect::<Vec<_>>()).collect(), kept.len())
            };
            let omega = 0.5 * ((d as f64 - 2.0) * without(None) + (0..d).map(|i| s(i, i).ln() - without(Some(i))).sum::<f64>());
            prop_assert!((found.o_information.unwrap() - omega).abs() < 1e-4, "{:?} {omega}", found.o_information);
        }
    }
}
