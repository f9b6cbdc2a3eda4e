//! Mean and covariance of vectors that come one after the other, in one pass and double precision.
//!
//! Rows are taken in blocks cut by their number alone; a block is centred on its own mean, and joined to what came before by the
//! formula of Chan, Golub and LeVeque (Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979). So nothing
//! cancels out, and neither batches nor shards nor threads move a bit.

use crate::error::Result;
use crate::vector::Source;
use crate::vector::double::{add_products, add_scaled};

/// Rows of a block.
const BLOCK: usize = 1024;

/// What is known of the rows so far.
#[derive(Debug, Clone)]
pub struct Moments {
    dimensions: usize,
    /// Rows in `mean` and `scatter`.
    rows: usize,
    mean: Vec<f64>,
    /// The sum over the rows of `(x - mean)(x - mean)^T`.
    scatter: Vec<f64>,
    /// Rows that wait for their block to be full.
    block: Vec<f64>,
}

/// Mean and covariance of some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Covariance {
    /// How many rows.
    pub rows: usize,
    /// Their mean.
    pub mean: Vec<f64>,
    /// Their covariance, divided by the number of rows: symmetric, `mean.len()` squared numbers.
    pub matrix: Vec<f64>,
}

impl Moments {
    /// Of no rows.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        let (mean, scatter) = (vec![0.0; dimensions], vec![0.0; dimensions * dimensions]);
        Self { dimensions, rows: 0, mean, scatter, block: Vec::with_capacity(BLOCK * dimensions) }
    }

    /// Bytes that it takes at most.
    #[must_use]
    pub fn bytes(dimensions: usize) -> usize {
        (dimensions * dimensions + BLOCK * dimensions) * size_of::<f64>()
    }

    /// Takes the next row, of finite numbers.
    pub fn push(&mut self, row: &[f32]) {
        self.block.extend(row.iter().map(|x| f64::from(*x)));
        if self.block.len() == BLOCK * self.dimensions {
            self.join();
        }
    }

    /// Joins the waiting block.
    fn join(&mut self) {
        let (d, rows) = (self.dimensions, self.block.len() / self.dimensions.max(1));
        if rows == 0 {
            return;
        }
        let mut mean = vec![0.0; d];
        self.block.chunks_exact(d).for_each(|row| add_scaled(&mut mean, 1.0, row));
        for x in &mut mean {
            *x /= rows as f64;
        }
        self.block.chunks_exact_mut(d).for_each(|row| add_scaled(row, -1.0, &mean));
        add_products(&mut self.scatter, &self.block, &self.block, d);
        let apart: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        let all = (self.rows + rows) as f64;
        let weight = self.rows as f64 * rows as f64 / all;
        let scaled: Vec<f64> = apart.iter().map(|x| weight * x).collect();
        add_products(&mut self.scatter, &scaled, &apart, d);
        add_scaled(&mut self.mean, rows as f64 / all, &apart);
        self.rows += rows;
        self.block.clear();
    }

    /// Mean and covariance of all rows; zeros where there are none.
    #[must_use]
    pub fn finish(mut self) -> Covariance {
        self.join();
        let (d, count) = (self.dimensions, self.rows.max(1) as f64);
        let mut matrix = self.scatter;
        // Rounding may have made the two halves differ in the last bit.
        for (i, j) in (0..d).flat_map(|i| (0..=i).map(move |j| (i, j))) {
            let value = f64::midpoint(matrix[i * d + j], matrix[j * d + i]) / count;
            (matrix[i * d + j], matrix[j * d + i]) = (value, value);
        }
        Covariance { rows: self.rows, mean: self.mean, matrix }
    }
}

impl Covariance {
    /// Of all rows of a matrix.
    #[must_use]
    pub fn of(rows: super::Matrix<'_>) -> Self {
        let mut moments = Moments::new(rows.dimensions());
        rows.data().chunks_exact(rows.dimensions()).for_each(|row| moments.push(row));
        moments.finish()
    }

    /// Of all rows wherever they lie.
    pub fn of_source(source: Source<'_>) -> Result<Self> {
        let mut moments = Moments::new(source.dimensions());
        let mut buffer = Vec::new();
        for start in (0..source.rows()).step_by(BLOCK) {
            let rows = source.run(start..source.rows().min(start + BLOCK), &mut buffer)?;
            rows.data().chunks_exact(rows.dimensions()).for_each(|row| moments.push(row));
        }
        Ok(moments.finish())
    }

    /// Entry (`i`, `j`).
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.matrix[i * self.mean.len() + j]
    }

    /// The mean magnitude of the correlations of two dimensions that vary; 0 where there are none.
    #[must_use]
    pub fn mean_correlation(&self) -> f64 {
        let varying: Vec<usize> = (0..self.mean.len()).filter(|i| self.at(*i, *i) > 0.0).collect();
        let pairs = varying.len() * varying.len().saturating_sub(1) / 2;
        let correlation = |i: usize, j: usize| self.at(i, j).abs() / (self.at(i, i) * self.at(j, j)).sqrt();
        let sum: f64 = varying.iter().enumerate().flat_map(|(at, i)| varying[..at].iter().map(move |j| correlation(*i, *j))).sum();
        sum / pairs.max(1) as f64
    }

    /// Dimensions in which all rows are equal.
    #[must_use]
    pub fn constant(&self) -> usize {
        (0..self.mean.len()).filter(|i| self.at(*i, *i) == 0.0).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{Vectors, planted};

    proptest! {
        #[test]
        fn two_plain_passes_agree(rows in 1_usize..2600, d in 1_usize..12, offset in prop::sample::select(vec![0.0_f32, 1.0, 1000.0])) {
            let vectors = planted::vectors(rows, d, rows as u64);
            let data: Vec<f32> = vectors.matrix().data().iter().map(|x| x + offset).collect();
            let vectors = Vectors::try_new(data, d).unwrap();
            let found = Covariance::of(vectors.matrix());
            let value = |row: usize, i: usize| f64::from(vectors.row(row)[i]);
            let means: Vec<f64> = (0..d).map(|i| (0..rows).map(|row| value(row, i)).sum::<f64>() / rows as f64).collect();
            for i in 0..d {
                prop_assert!((found.mean[i] - means[i]).abs() <= 1e-12 * f64::from(offset.max(1.0)));
                for j in 0..d {
                    let plain = (0..rows).map(|row| (value(row, i) - means[i]) * (value(row, j) - means[j])).sum::<f64>() / rows as f64;
                    // A sum of squares that was not centred would be wrong by 1e-10 at an offset of 1,000.
                    prop_assert!((found.at(i, j) - plain).abs() <= 1e-13 * f64::from(offset.max(1.0)), "{} {plain}", found.at(i, j));
                }
            }
            prop_assert_eq!(found.rows, rows);
        }
    }

    #[test]
    fn threads_move_no_bit_and_nothing_has_no_covariance() {
        let vectors = planted::vectors(3000, 40, 3);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Covariance::of(vectors.matrix()))
        };
        assert_eq!(run(1), run(3));
        assert_eq!(Moments::new(2).finish(), Covariance { rows: 0, mean: vec![0.0; 2], matrix: vec![0.0; 4] });
        assert_eq!(Moments::new(0).finish().rows, 0);
    }

    #[test]
    fn what_is_told_of_a_covariance() {
        let vectors = Vectors::try_new([[1.0, 2.0, 5.0, 1.0], [2.0, 4.0, 5.0, -1.0], [3.0, 6.0, 5.0, 1.0]].concat(), 4).unwrap();
        let found = Covariance::of(vectors.matrix());
        assert_eq!(found.constant(), 1);
        // The first two dimensions are one; the last is uncorrelated with both.
        assert!((found.mean_correlation() - 1.0 / 3.0).abs() < 1e-12);
    }
}
