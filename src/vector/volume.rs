//! The volume that chosen rows span, and what each other row would add to it.
//!
//! With `A = B + sum of x x^T over the chosen rows`, `B` symmetric and positive, the determinant grows by the factor `1 + v` when a row
//! `x` is added, `v = x^T A^-1 x` (the matrix determinant lemma). Adding it lowers the `v` of any row `y` by `(y q)^2` with
//! `q = A^-1 x / sqrt(1 + v)`, and `A^-1` by `q q^T` (Sherman and Morrison). The `y q` of all rows are the next column of the Cholesky
//! factor of the chosen rows' kernel (Chen, Zhang and Zhou, Fast Greedy MAP Inference for Determinantal Point Process, 2018, for a
//! linear kernel), and need not be kept: `q` says them all.

use crate::vector::dot::mixed;
use crate::vector::double::{add_scaled, dot};

/// The inverse of `A`, and the last vectors `q`.
#[derive(Debug, Clone)]
pub struct Volume {
    dimensions: usize,
    inverse: Vec<f64>,
    /// How many rows were added.
    count: usize,
    /// The vectors `q` of the last rows added, at least `dimensions` of them if there were as many.
    last: Vec<f64>,
}

impl Volume {
    /// Of no rows, with `B = ridge` times the identity.
    #[must_use]
    pub fn of_ridge(dimensions: usize, ridge: f64) -> Self {
        let inverse = (0..dimensions * dimensions).map(|at| if at % (dimensions + 1) == 0 { 1.0 / ridge } else { 0.0 }).collect();
        Self::of_inverse(dimensions, inverse)
    }

    /// With the inverse of `B`.
    #[must_use]
    pub fn of_inverse(dimensions: usize, inverse: Vec<f64>) -> Self {
        Self { dimensions, inverse, count: 0, last: Vec::new() }
    }

    /// Adds a row, whose [`Volume::factor`] is `v`.
    pub fn add(&mut self, row: &[f32], v: f64) {
        let d = self.dimensions;
        let scale = 1.0 / (1.0 + v.max(0.0)).sqrt();
        let q: Vec<f64> = self.inverse.chunks_exact(d).map(|line| scale * mixed(row, line)).collect();
        for (line, x) in self.inverse.chunks_exact_mut(d).zip(&q) {
            add_scaled(line, -x, &q);
        }
        if self.last.len() >= 2 * d * d {
            self.last.drain(..d * d);
        }
        self.last.extend(q);
        self.count += 1;
    }

    /// How many rows were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// `v` of a row by its definition.
    #[must_use]
    pub fn factor(&self, row: &[f32]) -> f64 {
        let line: Vec<f64> = self.inverse.chunks_exact(self.dimensions).map(|line| mixed(row, line)).collect();
        mixed(row, &line)
    }

    /// `v` of a row, which was `v` when `seen` rows had been added: by the shorter way, never above what it was.
    #[must_use]
    pub fn lowered(&self, row: &[f32], v: f64, seen: usize) -> f64 {
        let new = self.count - seen;
        let kept = self.last.len() / self.dimensions.max(1);
        if new > self.dimensions.min(kept) {
            return self.factor(row).clamp(0.0, v);
        }
        let columns = self.last[(kept - new) * self.dimensions..].chunks_exact(self.dimensions);
        columns.fold(v, |v, q| v - mixed(row, q).powi(2)).max(0.0)
    }

    /// The inverse of `A`, row after row.
    #[must_use]
    pub fn inverse(&self) -> &[f64] {
        &self.inverse
    }
}

/// The inverse of a symmetric positive matrix of `n` x `n` numbers, by Cholesky's factor; `None` if it is not positive.
#[must_use]
pub fn inverse(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i * n + j] - dot(&factor[i * n..][..j], &factor[j * n..][..j]);
            factor[i * n + j] = if i == j { rest.sqrt() } else { rest / factor[j * n + j] };
        }
        if factor[i * n + i].is_nan() || factor[i * n + i] <= 0.0 {
            return None;
        }
    }
    // The columns of the factor's inverse; the products of these are the inverse.
    let mut columns = vec![0.0; n * n];
    for c in 0..n {
        for i in c..n {
            let unit = if i == c { 1.0 } else { 0.0 };
            columns[c * n + i] = (unit - dot(&factor[i * n + c..i * n + i], &columns[c * n + c..c * n + i])) / factor[i * n + i];
        }
    }
    Some((0..n * n).map(|at| dot(&columns[at / n * n..][..n], &columns[at % n * n..][..n])).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::planted;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn factors_are_those_of_the_inverse(d in 1_usize..9, added in 0_usize..40, seed in 0_u64..1000) {
            let vectors = planted::vectors(60, d, seed);
            let mut volume = Volume::of_ridge(d, 0.3);
            let mut a: Vec<f64> = (0..d * d).map(|at| if at % (d + 1) == 0 { 0.3 } else { 0.0 }).collect();
            let mut history: Vec<Vec<f64>> = Vec::new();
            for row in 0..=added {
                let inverse = inverse(&a, d).unwrap();
                for (i, j) in (0..d).flat_map(|i| (0..d).map(move |j| (i, j))) {
                    let product: f64 = (0..d).map(|k| a[i * d + k] * inverse[k * d + j]).sum();
                    prop_assert!((product - f64::from(u8::from(i == j))).abs() < 1e-9);
                    prop_assert!((volume.inverse()[i * d + j] - inverse[i * d + j]).abs() < 1e-9);
                }
                let plain = |y: usize| -> f64 {
                    let y: Vec<f64> = vectors.row(y).iter().map(|x| f64::from(*x)).collect();
                    (0..d).map(|i| y[i] * dot(&inverse[i * d..][..d], &y)).sum()
                };
                history.push((0..60).map(plain).collect());
                for (seen, then) in history.iter().enumerate() {
                    for y in (0..60).step_by(7) {
                        prop_assert!((volume.lowered(vectors.row(y), then[y], seen) - history[row][y]).abs() < 1e-9);
                    }
                }
                let x = vectors.row(row);
                volume.add(x, volume.factor(x));
                for (i, j) in (0..d).flat_map(|i| (0..d).map(move |j| (i, j))) {
                    a[i * d + j] += f64::from(x[i]) * f64::from(x[j]);
                }
            }
            prop_assert_eq!(volume.count(), added + 1);
        }
    }

    #[test]
    fn what_is_not_positive_has_no_inverse() {
        assert_eq!(inverse(&[1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(inverse(&[0.0], 1), None);
        assert_eq!(inverse(&[4.0], 1), Some(vec![0.25]));
    }
}
