//! How much each row correlates, on average, with all others.
//!
//! PRISM (self-pruning of data by intrinsic selection): with `u` a row less the mean, of length 1, its redundancy is the mean of `u_i u_j`
//! over all other rows `j`. The sum over pairs is a product with one sum, `(u_i s - 1) / (n - 1)` with `s` the sum of all `u`: two passes
//! and a third for the scores, where pairs would take n squared.

use crate::error::Result;
use crate::vector::Source;
use crate::vector::double::dot;
use crate::vector::mean;

/// What is subtracted from a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Center {
    /// The mean of all rows.
    Corpus,
    /// The mean of its own numbers: products are then Pearson's correlations.
    Features,
}

/// The redundancy of each row, in [-1, 1]; 0 for one that nothing is left of, and where there is no other row.
pub fn redundancy(source: Source<'_>, center: Center) -> Result<Vec<f64>> {
    let corpus = match center {
        Center::Corpus => mean::mean(source)?,
        Center::Features => Vec::new(),
    };
    let direction = |row: &[f32], out: &mut [f64]| {
        let own = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len().max(1) as f64;
        for (i, (out, x)) in out.iter_mut().zip(row).enumerate() {
            *out = f64::from(*x) - corpus.get(i).unwrap_or(&own);
        }
        let norm = dot(out, out).sqrt();
        // What is left of a row that equals the mean but for rounding has no direction.
        let least = row.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs()))) * f64::EPSILON * (row.len() as f64);
        let scale = if norm > least { 1.0 / norm } else { 0.0 };
        for x in out.iter_mut() {
            *x *= scale;
        }
    };
    let sum = mean::sum(source, direction)?;
    let others = source.rows().saturating_sub(1).max(1) as f64;
    let scores = source.pieces(|_, rows| {
        let mut own = vec![0.0; rows.dimensions()];
        let score = |row: usize| {
            direction(rows.row(row), &mut own);
            (dot(&own, &sum) - dot(&own, &own)) / others
        };
        Ok((0..rows.rows()).map(score).collect::<Vec<f64>>())
    })?;
    Ok(scores.concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::source::tests::Apart;
    use crate::vector::{Matrix, Vectors, planted};

    /// By definition: all pairs.
    fn plain(vectors: &Vectors, center: Center) -> Vec<f64> {
        let (n, d) = (vectors.rows(), vectors.matrix().dimensions());
        let at = |row: usize, i: usize| f64::from(vectors.row(row)[i]);
        let mean = |row: usize, i: usize| match center {
            Center::Corpus => (0..n).map(|row| at(row, i)).sum::<f64>() / n as f64,
            Center::Features => (0..d).map(|i| at(row, i)).sum::<f64>() / d as f64,
        };
        let left: Vec<Vec<f64>> = (0..n).map(|row| (0..d).map(|i| at(row, i) - mean(row, i)).collect()).collect();
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let unit: Vec<Vec<f64>> =
            left.iter().map(|row| if norm(row) < 1e-12 { vec![0.0; d] } else { row.iter().map(|x| x / norm(row)).collect() }).collect();
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        (0..n).map(|i| (0..n).filter(|j| *j != i).map(|j| product(&unit[i], &unit[j])).sum::<f64>() / (n - 1).max(1) as f64).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_sum_gives_what_all_pairs_give(rows in 1_usize..120, d in 1_usize..10, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, d, seed);
            for center in [Center::Corpus, Center::Features] {
                let found = redundancy(Source::Memory(vectors.matrix()), center).unwrap();
                for (found, wanted) in found.iter().zip(plain(&vectors, center)) {
                    prop_assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
                }
                prop_assert_eq!(redundancy(Source::File(&Apart(vectors.clone())), center).unwrap(), found);
            }
        }

        /// What all rows share says nothing of their redundancy (a plain cosine would rise).
        #[test]
        fn a_constant_vector_changes_nothing(rows in 2_usize..60, seed in 0_u64..1000) {
            let numbers = planted::vectors(rows, 4, seed);
            // On a grid, so that the sums are exact.
            let grid = |shift: f32| {
                let data = numbers.matrix().data().iter().map(|x| (x * 64.0).round() / 64.0 + shift).collect();
                redundancy(Source::Memory(Vectors::try_new(data, 4).unwrap().matrix()), Center::Corpus).unwrap()
            };
            for (a, b) in grid(0.0).into_iter().zip(grid(3.0)) {
                prop_assert!((a - b).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn scores_of_the_specification() {
        let data = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 4.0];
        let found = redundancy(Source::Memory(Matrix::try_new(&data, 2).unwrap()), Center::Corpus).unwrap();
        let wanted = [0.041_345, 0.156_081, 0.041_345, -0.822_748];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    }

    /// Of 95 % in one blob and 5 % anywhere, the 5 % are the least redundant.
    #[test]
    fn planted_outliers_rank_lowest() {
        let anywhere = planted::vectors(1000, 16, 4);
        let data: Vec<f32> = (0..1000)
            .flat_map(|row| {
                let scale = if row % 20 == 0 { 1.0 } else { 0.05 };
                (0..16).map(move |i| (i, scale)).collect::<Vec<_>>().into_iter().map(move |(i, scale)| (row, i, scale))
            })
            .map(|(row, i, scale)| {
                scale * anywhere.row(row)[i]
                    + if row % 20 == 0 {
                        0.0
                    } else if i == 0 {
                        3.0
                    } else {
                        0.0
                    }
            })
            .collect();
        let found = redundancy(Source::Memory(Vectors::try_new(data, 16).unwrap().matrix()), Center::Corpus).unwrap();
        let mut order: Vec<usize> = (0..1000).collect();
        order.sort_by(|a, b| found[*a].total_cmp(&found[*b]));
        assert!(order[..50].iter().all(|row| row % 20 == 0), "{:?}", &order[..50]);
    }
}
