//! Fewer dimensions in which neighbours stay neighbours: the canonical correlations between a point and its neighbours.
//!
//! TLDR (Kalantidis et al., TLDR: Twin Learning for Dimensionality Reduction, 2022) trains an encoder so that the outputs for a point and for
//! a neighbour correlate dimension by dimension. For a linear encoder without a projector the optimum has a closed form. With `S` the
//! covariance and `C` the mean over the pairs of `(x_i - mu)(x_j - mu)^T`, made symmetric, `W = U^T S^(-1/2)`, where the rows of `U^T` are
//! the leading eigenvectors of `S^(-1/2) C S^(-1/2)`; the eigenvalues are the correlations. Principal components are ordered by
//! variance, these by how much neighbours agree: strong noise comes after weak structure. Noise agrees too, for neighbours are chosen
//! where they lie near (in 16 dimensions its correlation is about 0.7); structure that agrees less is lost.

use crate::error::Result;
use crate::vector::Matrix;
use crate::vector::affine::Affine;
use crate::vector::double::{add_products, add_scaled, product, transposed};
use crate::vector::eigen::symmetric;
use crate::vector::moments::Covariance;
use crate::vector::neighbours::{Distinct, nearest_others};
use crate::vector::whiten::{largest, rank, whitener};

/// Pairs that are summed at a time.
const BLOCK: usize = 1024;

/// A fitted map.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinCca {
    /// It.
    pub map: Affine,
    /// The correlation of each of its dimensions between a point and its neighbours, largest first.
    pub correlations: Vec<f64>,
    /// Directions of the input whose variance is above the floor.
    pub rank: usize,
    /// Distinct vectors whose neighbours were looked at.
    pub queries: usize,
    /// The share of the neighbours that are copies of their point.
    pub copies: f64,
}

/// Fits at most `dims` dimensions to the pairs of a row and its `neighbors` most similar other rows.
///
/// `covariance` is that of the vectors. Its directions of variance at most `floor` times the largest are left out. Where there are more
/// than `queries` distinct vectors, the first of them stand for all, each weighted by the rows that have it; otherwise every pair counts.
///
/// # Errors
/// Internal only: numbers that are not finite.
pub fn fit(
    vectors: Matrix<'_>,
    distinct: &Distinct,
    covariance: Covariance,
    (dims, neighbors): (usize, usize),
    floor: f64,
    queries: usize,
) -> Result<TwinCca> {
    let d = vectors.dimensions();
    let found = nearest_others(vectors, distinct, queries, neighbors);
    let centred = |row: u32| vectors.row(row as usize).iter().zip(&covariance.mean).map(|(x, mean)| f64::from(*x) - mean);
    let mut sum = vec![0.0; d * d];
    let (mut pairs, mut copies) = (0.0, 0.0);
    let numbered: Vec<(usize, &Vec<u32>)> = found.iter().enumerate().collect();
    for block in numbered.chunks(BLOCK) {
        let (mut left, mut right) = (Vec::with_capacity(block.len() * d), Vec::with_capacity(block.len() * d));
        for (index, others) in block {
            // Every row of this vector has the same neighbours, but for which copies stand for it.
            let members = distinct.rows(*index);
            left.extend(centred(members[0]));
            let mut together = vec![0.0; d];
            for other in *others {
                let other: Vec<f64> = centred(*other).collect();
                add_scaled(&mut together, members.len() as f64, &other);
            }
            right.extend(together);
            pairs += (members.len() * others.len()) as f64;
            copies += (members.len() * others.len().min(members.len() - 1)) as f64;
        }
        add_products(&mut sum, &left, &right, d);
    }
    let eigen = symmetric(covariance.matrix, d)?;
    let rank = rank(&eigen, floor * largest(&eigen));
    // In the coordinates of PCA whitening: S^(-1/2) is a rotation of them, which the eigenvectors undo.
    let whitener = whitener(&eigen, rank);
    let across = product(&product(&whitener, &sum, d, d), &transposed(&whitener, d), d, rank);
    let symmetrised = (0..rank * rank).map(|at| {
        let (i, j) = (at / rank, at % rank);
        f64::midpoint(across[i * rank + j], across[j * rank + i]) / f64::max(pairs, 1.0)
    });
    let twins = symmetric(symmetrised.collect(), rank)?;
    let dims = dims.min(rank);
    let weights = product(&twins.vectors[..dims * rank], &whitener, rank, d);
    // Without a direction all vectors are one point, in one dimension.
    let weights = if weights.is_empty() { vec![0.0; d] } else { weights };
    Ok(TwinCca {
        map: Affine::try_new(covariance.mean, weights)?,
        correlations: twins.values[..dims].to_vec(),
        rank,
        queries: found.len(),
        copies: if pairs > 0.0 { copies / pairs } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::vector::planted::{self, normal};
    use crate::vector::whiten::{self, Method, Strength, inverse_root};
    use crate::vector::{Vectors, similarity};

    const FLOOR: f64 = 1e-6;

    fn fit_all(vectors: Matrix<'_>, dims: usize, neighbors: usize) -> TwinCca {
        let distinct = Distinct::of(vectors, &Random::new(1, "cca"));
        fit(vectors, &distinct, Covariance::of(vectors), (dims, neighbors), FLOOR, usize::MAX).unwrap()
    }

    /// The `k` most similar other rows of each row, by sorting all.
    fn neighbours(vectors: Matrix<'_>, k: usize) -> Vec<Vec<usize>> {
        let of = |row: usize| {
            let cosine = |other: usize| similarity(vectors.row(row), vectors.row(other));
            let mut all: Vec<usize> = (0..vectors.rows()).filter(|other| *other != row).collect();
            all.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)).then(a.cmp(b)));
            all.truncate(k);
            all
        };
        (0..vectors.rows()).map(of).collect()
    }

    /// The formula as it is written: `S^(-1/2) C S^(-1/2)`, every row and every pair.
    fn oracle(vectors: Matrix<'_>, dims: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
        let (d, n) = (vectors.dimensions(), vectors.rows());
        let of = Covariance::of(vectors);
        let mut c = vec![0.0; d * d];
        for (row, others) in neighbours(vectors, k).iter().enumerate() {
            for (other, i, j) in others.iter().flat_map(|other| (0..d).flat_map(move |i| (0..d).map(move |j| (*other, i, j)))) {
                let term = (f64::from(vectors.row(row)[i]) - of.mean[i]) * (f64::from(vectors.row(other)[j]) - of.mean[j]);
                c[i * d + j] += term / 2.0 / (n * k) as f64;
                c[j * d + i] += term / 2.0 / (n * k) as f64;
            }
        }
        let root = inverse_root(&of);
        let eigen = symmetric(product(&product(&root, &c, d, d), &root, d, d), d).unwrap();
        (eigen.values[..dims].to_vec(), product(&eigen.vectors[..dims * d], &root, d, d))
    }

    #[test]
    fn the_map_is_that_of_the_formula() {
        // A third of the rows are copies: they count as often as they are there.
        let mut data = planted::vectors(180, 7, 2).matrix().data().to_vec();
        for row in (0..180).step_by(3) {
            let from = data[(row / 9) * 7..][..7].to_vec();
            data[row * 7..][..7].copy_from_slice(&from);
        }
        let vectors = Vectors::try_new(data, 7).unwrap();
        let found = fit_all(vectors.matrix(), 4, 5);
        let (correlations, weights) = oracle(vectors.matrix(), 4, 5);
        for (a, b) in found.correlations.iter().zip(&correlations) {
            assert!((a - b).abs() < 1e-10, "{a} {b}");
        }
        // Directions are those of the formula; which way they point is not part of it.
        for (ours, theirs) in found.map.weights().chunks(7).zip(weights.chunks(7)) {
            let sign = if ours.iter().zip(theirs).map(|(a, b)| a * b).sum::<f64>() < 0.0 { -1.0 } else { 1.0 };
            assert!(ours.iter().zip(theirs).all(|(a, b)| (a - sign * b).abs() < 1e-7), "{ours:?} {theirs:?}");
        }
        assert!(found.copies > 0.0 && found.copies < 1.0 && found.rank == 7);
    }

    /// Twelve clusters, 1,200 rows: four dimensions in which their centres have variance 1, twelve of noise that has more. With each row
    /// its cluster.
    fn hidden_clusters(seed: u64) -> (Vectors, Vec<usize>) {
        let mut draws = Random::new(seed, "hidden").sequence(b"clusters");
        let centres = Vectors::try_new((0..12 * 4).map(|_| normal(&mut draws) as f32).collect(), 4).unwrap();
        let strength = Strength { power: 1.0, floor: FLOOR, skip_top: 0 };
        let centres = mapped(&whiten::fit(Covariance::of(centres.matrix()), &Method::Zca, strength).unwrap().0, &centres);
        let labels: Vec<usize> = (0..1200).map(|row| row % 12).collect();
        let mut data = Vec::new();
        for label in &labels {
            data.extend(centres.row(*label).iter().map(|x| x + 0.15 * normal(&mut draws) as f32));
            data.extend((0..12).map(|_| 1.2 * normal(&mut draws) as f32));
        }
        (Vectors::try_new(data, 16).unwrap(), labels)
    }

    /// The share of the five rows at the smallest distance that have the label of their row.
    fn agreement(vectors: &Vectors, labels: &[usize]) -> f64 {
        let mut same = 0;
        for row in 0..vectors.rows() {
            let distance = |other: usize| -> f32 { vectors.row(row).iter().zip(vectors.row(other)).map(|(a, b)| (a - b) * (a - b)).sum() };
            let mut others: Vec<(f32, usize)> =
                (0..vectors.rows()).filter(|other| *other != row).map(|other| (distance(other), other)).collect();
            others.select_nth_unstable_by(4, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            same += others[..5].iter().filter(|(_, other)| labels[*other] == labels[row]).count();
        }
        same as f64 / (5 * labels.len()) as f64
    }

    fn mapped(map: &Affine, vectors: &Vectors) -> Vectors {
        let d = map.dimensions();
        let mut data = vec![0.0; vectors.rows() * d];
        for (row, z) in data.chunks_mut(d).enumerate() {
            assert!(map.apply(vectors.row(row), z));
        }
        Vectors::try_new(data, d).unwrap()
    }

    #[test]
    fn clusters_under_strong_noise_are_found_again() {
        for seed in [1, 2, 3] {
            let (vectors, labels) = hidden_clusters(seed);
            let raw = agreement(&vectors, &labels);
            let strength = Strength { power: 0.0, floor: FLOOR, skip_top: 0 };
            let (pca, _) = whiten::fit(Covariance::of(vectors.matrix()), &Method::Pca { dims: Some(4) }, strength).unwrap();
            let pca = agreement(&mapped(&pca, &vectors), &labels);
            let twin = agreement(&mapped(&fit_all(vectors.matrix(), 4, 5).map, &vectors), &labels);
            assert!(twin >= raw + 0.2 && twin >= pca + 0.5, "raw {raw:.3}, principal components {pca:.3}, twin {twin:.3}");
        }
    }

    #[test]
    fn neither_threads_nor_row_order_move_it() {
        let vectors = planted::vectors(700, 12, 4);
        let run = |threads: usize, vectors: &Vectors| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let distinct = Distinct::of(vectors.matrix(), &Random::new(1, "cca"));
                fit(vectors.matrix(), &distinct, Covariance::of(vectors.matrix()), (6, 5), FLOOR, 200).unwrap()
            })
        };
        let one = run(1, &vectors);
        assert!(one == run(3, &vectors) && one.queries == 200);
        let reversed: Vec<f32> = (0..700).rev().flat_map(|row| vectors.row(row)).copied().collect();
        let back = run(2, &Vectors::try_new(reversed, 12).unwrap());
        assert!(one.map.weights().iter().zip(back.map.weights()).all(|(a, b)| (a - b).abs() < 1e-8));
    }

    #[test]
    fn empty_directions_and_few_rows_are_borne() {
        // The last dimension is constant, the third a sum of others; then one row, then none.
        let mut draws = Random::new(3, "cca").sequence(b"few");
        let data: Vec<f32> = (0..40).flat_map(|_| [normal(&mut draws), normal(&mut draws)]).map(|x| x as f32).collect();
        let data: Vec<f32> = data.chunks(2).flat_map(|pair| [pair[0], pair[1], pair[0] + pair[1], 0.5]).collect();
        for rows in [40, 3, 1, 0] {
            let found = fit_all(Matrix::try_new(&data[..rows * 4], 4).unwrap(), 4, 5);
            assert_eq!(found.rank, [0, 0, 1, 2, 2][rows.min(4)], "{rows}");
            assert_eq!(found.map.dimensions(), found.rank.max(1));
            assert!(found.correlations.iter().all(|value| value.is_finite()));
        }
    }
}
