//! Whitening: vectors moved, turned and scaled so that their covariance is the identity, or half way there.
//!
//! With mean `mu` and covariance `S = V^T diag(l) V` (the rows of `V` are eigenvectors): PCA whitening gives
//! `diag(l)^(-power/2) V (x - mu)`, ZCA whitening turns that back, `V^T diag(l)^(-power/2) V (x - mu)` (Kessy, Lewin and Strimmer, Optimal
//! Whitening and Decorrelation, 2018). Cosines of model embeddings crowd together because a few directions hold most of the variance
//! and all vectors share a mean: after whitening every direction counts the same (Su et al., Whitening Sentence Representations, 2021).

use crate::error::Result;
use crate::vector::affine::Affine;
use crate::vector::double::add_products;
use crate::vector::eigen::{Eigen, symmetric};
use crate::vector::moments::Covariance;

/// Which map is fitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// The mean is subtracted, nothing else.
    Center,
    /// Turned to the principal axes, the strongest first, and scaled; at most so many of them.
    Pca {
        /// Axes at most.
        dims: Option<usize>,
    },
    /// Scaled along the principal axes, in the dimensions of the input.
    Zca,
    /// [`Method::Zca`] of groups of dimensions, each alone.
    Groups(Vec<usize>),
}

/// What else shapes the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    /// 1 whitens, 0 only turns, 0.5 is half way: the exponent of `l^(-power/2)`.
    pub power: f64,
    /// A variance below this share of the largest is noise or rounding: PCA leaves its axis out, ZCA takes the floor instead of it.
    pub floor: f64,
    /// So many of the strongest axes are left out.
    pub skip_top: usize,
}

/// What the eigenvalues say.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    /// Variances above the floor.
    pub rank: usize,
    /// The largest variance divided by the smallest above the floor; 0 where there is none.
    pub condition: f64,
    /// `exp` of the entropy of the shares of variance: how many directions the vectors fill (Roy and Vetterli, 2007).
    pub effective_rank: f64,
    /// The share of the variance in the directions that the map keeps.
    pub explained: f64,
}

/// Fits the map to the rows that `covariance` is of; the spectrum is missing where no eigenvalue was looked at.
///
/// # Errors
/// Internal only: numbers that are not finite.
pub fn fit(mut covariance: Covariance, method: &Method, strength: Strength) -> Result<(Affine, Option<Spectrum>)> {
    let d = covariance.mean.len();
    if let Method::Groups(groups) = method {
        // Whitening each group alone is whitening as if the groups were uncorrelated.
        for (i, j) in (0..d).flat_map(|i| (0..d).map(move |j| (i, j))).filter(|(i, j)| groups.get(*i) != groups.get(*j)) {
            covariance.matrix[i * d + j] = 0.0;
        }
    }
    if *method == Method::Center {
        return Ok((Affine::shift(covariance.mean)?, None));
    }
    let eigen = symmetric(covariance.matrix, d)?;
    let floor = strength.floor * largest(&eigen);
    let rank = rank(&eigen, floor);
    let scale = |value: f64| match strength.power {
        // The usual case without a logarithm.
        1.0 => 1.0 / value.sqrt(),
        power => value.powf(-power / 2.0),
    };
    let (weights, kept) = if let Method::Pca { dims } = method {
        let until = rank.min(strength.skip_top.saturating_add(dims.unwrap_or(d)));
        let kept = strength.skip_top.min(until)..until;
        (kept.clone().flat_map(|k| eigen.vector(k).iter().map(move |x| (k, x))).map(|(k, x)| scale(eigen.values[k]) * x).collect(), kept)
    } else {
        // Where nothing varies, nothing is scaled: everything is at the mean.
        let kept = if rank == 0 { 0..0 } else { strength.skip_top.min(d)..d };
        let half = |k: usize, power: f64| eigen.vector(k).iter().map(move |x| power * x);
        let rows: Vec<f64> = kept.clone().flat_map(|k| half(k, scale(eigen.values[k].max(floor)))).collect();
        let mut weights = vec![0.0; d * d];
        add_products(&mut weights, &rows, &eigen.vectors[kept.start * d..kept.end * d], d);
        (weights, kept)
    };
    // Without an axis all vectors are one point, in one dimension.
    let weights = if weights.is_empty() { vec![0.0; d] } else { weights };
    let spectrum = spectrum(&eigen, rank, kept);
    Ok((Affine::try_new(covariance.mean, weights)?, Some(spectrum)))
}

/// The largest eigenvalue, 0 if there is none.
pub(super) fn largest(eigen: &Eigen) -> f64 {
    eigen.values.first().copied().unwrap_or(0.0).max(0.0)
}

/// Eigenvalues above the floor, and above what rounding leaves of zero.
pub(super) fn rank(eigen: &Eigen, floor: f64) -> usize {
    let rounding = f64::EPSILON * eigen.values.len() as f64 * largest(eigen);
    eigen.values.partition_point(|value| *value > floor.max(rounding))
}

/// `P` of PCA whitening, `rank` rows: `P S P^T = 1`.
pub(super) fn whitener(eigen: &Eigen, rank: usize) -> Vec<f64> {
    let row = |k: usize| eigen.vector(k).iter().map(move |x| x / eigen.values[k].sqrt());
    (0..rank).flat_map(row).collect()
}

fn spectrum(eigen: &Eigen, rank: usize, kept: std::ops::Range<usize>) -> Spectrum {
    let shares = || eigen.values.iter().map(|value| value.max(0.0));
    let total: f64 = shares().sum();
    let (mut entropy, mut explained) = (0.0, 0.0);
    for (k, value) in shares().enumerate().filter(|(_, value)| *value > 0.0) {
        let share = value / total;
        entropy -= share * share.ln();
        explained += if kept.contains(&k) { share } else { 0.0 };
    }
    Spectrum {
        rank,
        condition: if rank == 0 { 0.0 } else { largest(eigen) / eigen.values[rank - 1] },
        effective_rank: if total > 0.0 { entropy.exp() } else { 0.0 },
        // Shares may add up to a rounding more than all.
        explained: explained.min(1.0),
    }
}

/// `S^(-1/2)` by the definition, for [`super::cca`]'s tests.
#[cfg(test)]
pub(super) fn inverse_root(covariance: &Covariance) -> Vec<f64> {
    let d = covariance.mean.len();
    let eigen = symmetric(covariance.matrix.clone(), d).unwrap();
    let scaled: Vec<f64> =
        (0..d).flat_map(|k| eigen.vector(k).iter().map(move |x| (k, x))).map(|(k, x)| x / eigen.values[k].sqrt()).collect();
    crate::vector::double::product(&crate::vector::double::transposed(&scaled, d), &eigen.vectors, d, d)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::vector::planted::{self, normal};
    use crate::vector::{Matrix, Vectors};

    const FULL: Strength = Strength { power: 1.0, floor: 1e-6, skip_top: 0 };

    /// Correlated rows around a mean far from zero, `rank` directions of them.
    fn rows(count: usize, d: usize, rank: usize, seed: u64) -> Vectors {
        let mut draws = Random::new(seed, "whiten").sequence(b"rows");
        let mixing: Vec<f64> = (0..rank * d).map(|_| normal(&mut draws)).collect();
        let mut data = Vec::with_capacity(count * d);
        for _ in 0..count {
            let latent: Vec<f64> = (0..rank).map(|i| normal(&mut draws) * (1.0 + i as f64)).collect();
            data.extend((0..d).map(|j| (3.0 + (0..rank).map(|i| latent[i] * mixing[i * d + j]).sum::<f64>()) as f32));
        }
        Vectors::try_new(data, d).unwrap()
    }

    /// The map in doubles, for checks finer than single precision.
    fn exact(map: &Affine, x: &[f32]) -> Vec<f64> {
        let d = map.mean().len();
        map.weights().chunks(d).map(|row| (0..d).map(|j| row[j] * (f64::from(x[j]) - map.mean()[j])).sum()).collect()
    }

    /// The covariance by two plain passes.
    fn covariance(rows: &[Vec<f64>]) -> Vec<f64> {
        let (n, d) = (rows.len() as f64, rows[0].len());
        let mean: Vec<f64> = (0..d).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / n).collect();
        let entry = |i: usize, j: usize| rows.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / n;
        (0..d).flat_map(|i| (0..d).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect()
    }

    fn apart_from_identity(covariance: &[f64]) -> f64 {
        let d = covariance.len().isqrt();
        covariance.iter().enumerate().map(|(at, x)| (x - f64::from(u8::from(at / d == at % d))).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn whitened_vectors_have_the_identity_as_covariance() {
        let vectors = rows(2000, 6, 6, 1);
        let of = Covariance::of(vectors.matrix());
        for method in [Method::Pca { dims: None }, Method::Zca] {
            let (map, spectrum) = fit(of.clone(), &method, FULL).unwrap();
            let white: Vec<Vec<f64>> = (0..2000).map(|row| exact(&map, vectors.row(row))).collect();
            let apart = apart_from_identity(&covariance(&white));
            assert!(apart < 1e-12, "{method:?} {apart:e}");
            let spectrum = spectrum.unwrap();
            assert!(spectrum.rank == 6 && (spectrum.explained - 1.0).abs() < 1e-12 && spectrum.effective_rank < 6.0, "{spectrum:?}");
        }
        // The transform of parts is the transform of the whole: it sees one row.
        let (map, _) = fit(of, &Method::Zca, FULL).unwrap();
        let apply = |x: &[f32]| {
            let mut z = vec![0.0; 6];
            (map.apply(x, &mut z), z)
        };
        for row in [0, 77, 1999] {
            let (direction, z) = apply(vectors.row(row));
            assert!(direction && exact(&map, vectors.row(row)).iter().zip(&z).all(|(exact, z)| *exact as f32 == *z));
        }
    }

    proptest! {
        /// Singular covariances too: PCA leaves the empty directions out, ZCA leaves them near zero; nothing is NaN.
        #[test]
        fn every_rank_is_whitened(count in 1_usize..60, d in 1_usize..12, rank in 0_usize..12, seed in 0_u64..500) {
            let vectors = rows(count, d, rank, seed);
            let of = Covariance::of(vectors.matrix());
            let most = rank.min(d).min(count - 1);
            let (map, spectrum) = fit(of.clone(), &Method::Pca { dims: None }, FULL).unwrap();
            let spectrum = spectrum.unwrap();
            prop_assert!(spectrum.rank <= most, "{spectrum:?} {most}");
            let white: Vec<Vec<f64>> = (0..count).map(|row| exact(&map, vectors.row(row))).collect();
            if spectrum.rank > 0 {
                prop_assert_eq!(map.dimensions(), spectrum.rank);
                // Variances are known to some roundings of the largest, so to 1e-10 of the smallest above the floor of 1e-6.
                prop_assert!(apart_from_identity(&covariance(&white)) < 1e-7);
            } else {
                prop_assert!(map.dimensions() == 1 && !map.apply(vectors.row(0), &mut [0.0]));
            }
            let (map, _) = fit(of, &Method::Zca, FULL).unwrap();
            let white: Vec<Vec<f64>> = (0..count).map(|row| exact(&map, vectors.row(row))).collect();
            let trace: f64 = covariance(&white).iter().step_by(d + 1).sum();
            // Each variance is 1, or under the floor less.
            prop_assert!(trace.is_finite() && trace < most as f64 + 1e-3, "{trace} {most}");
            prop_assert!(trace > spectrum.rank as f64 - 1e-6);
        }
    }

    #[test]
    fn zca_is_pca_turned_back_and_half_a_power_is_half_the_way() {
        let vectors = rows(500, 5, 5, 3);
        let of = Covariance::of(vectors.matrix());
        let (zca, _) = fit(of.clone(), &Method::Zca, FULL).unwrap();
        let root = inverse_root(&of);
        assert!(zca.weights().iter().zip(&root).all(|(a, b)| (a - b).abs() < 1e-12));
        // Twice half a power is the whole.
        let (half, _) = fit(of.clone(), &Method::Zca, Strength { power: 0.5, ..FULL }).unwrap();
        let twice = crate::vector::double::product(half.weights(), half.weights(), 5, 5);
        assert!(twice.iter().zip(&root).all(|(a, b)| (a - b).abs() < 1e-12));
        // No power only turns: distances stay.
        let (turned, _) = fit(of, &Method::Pca { dims: None }, Strength { power: 0.0, ..FULL }).unwrap();
        let (a, b) = (exact(&turned, vectors.row(1)), exact(&turned, vectors.row(2)));
        let square = |pairs: &mut dyn Iterator<Item = (f64, f64)>| pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let before = square(&mut vectors.row(1).iter().zip(vectors.row(2)).map(|(a, b)| (f64::from(*a), f64::from(*b))));
        assert!((square(&mut a.into_iter().zip(b)) - before).abs() < 1e-9 * before);
    }

    #[test]
    fn dims_and_skip_top_choose_the_axes() {
        let vectors = rows(400, 6, 6, 4);
        let of = Covariance::of(vectors.matrix());
        let (all, _) = fit(of.clone(), &Method::Pca { dims: None }, FULL).unwrap();
        let (some, spectrum) = fit(of.clone(), &Method::Pca { dims: Some(2) }, Strength { skip_top: 1, ..FULL }).unwrap();
        assert_eq!(some.weights(), &all.weights()[6..18]);
        let values = symmetric(of.matrix.clone(), 6).unwrap().values;
        let share = (values[1] + values[2]) / values.iter().sum::<f64>();
        assert!((spectrum.unwrap().explained - share).abs() < 1e-12);
        // ZCA without its strongest axis has no variance along it.
        let (map, _) = fit(of.clone(), &Method::Zca, Strength { skip_top: 1, ..FULL }).unwrap();
        let white: Vec<Vec<f64>> = (0..400).map(|row| exact(&map, vectors.row(row))).collect();
        let values = symmetric(covariance(&white), 6).unwrap().values;
        assert!(values[..5].iter().all(|value| (value - 1.0).abs() < 1e-10) && values[5].abs() < 1e-10, "{values:?}");
        // More than there is.
        let (map, _) = fit(of, &Method::Pca { dims: Some(9) }, Strength { skip_top: 9, ..FULL }).unwrap();
        assert_eq!((map.dimensions(), map.weights()), (1, [0.0; 6].as_slice()));
    }

    #[test]
    fn groups_are_whitened_each_alone() {
        let vectors = rows(800, 6, 6, 5);
        let groups = vec![0, 1, 0, 1, 1, 0];
        let (map, _) = fit(Covariance::of(vectors.matrix()), &Method::Groups(groups.clone()), FULL).unwrap();
        let white: Vec<Vec<f64>> = (0..800).map(|row| exact(&map, vectors.row(row))).collect();
        let after = covariance(&white);
        for (i, j) in (0..6).flat_map(|i| (0..6).map(move |j| (i, j))) {
            // Inside a group the identity; across groups nothing is promised.
            if groups[i] == groups[j] {
                assert!((after[i * 6 + j] - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        // A group alone gives what it gives among others.
        let part: Vec<f32> = (0..800).flat_map(|row| [0, 2, 5].map(|i| vectors.row(row)[i])).collect();
        let (alone, _) = fit(Covariance::of(Matrix::try_new(&part, 3).unwrap()), &Method::Zca, FULL).unwrap();
        for row in 0..3 {
            let z = exact(&alone, &part[row * 3..][..3]);
            assert!([0, 2, 5].iter().zip(z).all(|(i, z)| (white[row][*i] - z).abs() < 1e-9));
        }
    }

    #[test]
    fn centring_only_shifts() {
        let vectors = rows(100, 4, 4, 6);
        let of = Covariance::of(vectors.matrix());
        let (map, spectrum) = fit(of.clone(), &Method::Center, FULL).unwrap();
        assert!(spectrum.is_none());
        let mut z = [0.0; 4];
        assert!(map.apply(vectors.row(9), &mut z));
        assert!((0..4).all(|i| z[i] == (f64::from(vectors.row(9)[i]) - of.mean[i]) as f32));
    }

    #[test]
    fn threads_move_no_bit() {
        let vectors = planted::vectors(1500, 32, 8);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(Covariance::of(vectors.matrix()), &Method::Zca, FULL).unwrap())
        };
        assert_eq!(run(1), run(3));
    }
}
