//! Sums over doubles, each in one fixed order, so that equal numbers give equal bits on every machine and number of threads.

use rayon::prelude::*;

/// Lanes of [`dot`]: fixed, as in [`crate::vector::dot`].
const LANES: usize = 8;
/// Rows of a matrix that [`add_products`] sums at a time: they and one row of each operand stay in the first-level cache.
const TILE: usize = 8;

/// The dot product, in fixed lanes.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest
}

/// Adds `factor` times `b` to `a`.
pub fn add_scaled(a: &mut [f64], factor: f64, b: &[f64]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += factor * b;
    }
}

/// Adds `A^T B` to `sum`, for `A` and `B` of rows of `d` numbers: the sum over the rows of the products of their entries, `d` x `d`.
/// Each entry is added up in the order of the rows.
pub fn add_products(sum: &mut [f64], a: &[f64], b: &[f64], d: usize) {
    // A chunk of no numbers is refused; where there are no dimensions there is nothing to add.
    if d == 0 {
        return;
    }
    sum.par_chunks_mut(TILE * d).enumerate().for_each(|(tile, sums)| add_tile(sums, a, b, d, tile * TILE));
}

/// The rows of [`add_products`] from `first` on, as many as `sums` has; with wide instructions where there are some, to the same bits.
fn add_tile(sums: &mut [f64], a: &[f64], b: &[f64], d: usize, first: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Tile<'a>(&'a mut [f64], &'a [f64], &'a [f64], usize, usize);
        impl pulp::NullaryFnOnce for Tile<'_> {
            type Output = ();

            #[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
            #[inline(always)]
            fn call(self) {
                portable_tile(self.0, self.1, self.2, self.3, self.4);
            }
        }
        simd.vectorize(Tile(sums, a, b, d, first));
        return;
    }
    portable_tile(sums, a, b, d, first);
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn portable_tile(sums: &mut [f64], a: &[f64], b: &[f64], d: usize, first: usize) {
    for (a, b) in a.chunks_exact(d).zip(b.chunks_exact(d)) {
        for (sum, factor) in sums.chunks_exact_mut(d).zip(&a[first..]) {
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum += factor * b;
            }
        }
    }
}

/// `A B`, for `A` of rows of `inner` numbers and `B` of `inner` rows of `columns` numbers.
#[must_use]
pub fn product(a: &[f64], b: &[f64], inner: usize, columns: usize) -> Vec<f64> {
    if inner == 0 || columns == 0 {
        return Vec::new();
    }
    let mut out = vec![0.0; a.len() / inner * columns];
    out.par_chunks_mut(columns).zip(a.par_chunks(inner)).for_each(|(out, a)| {
        for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
            add_scaled(out, *a, b);
        }
    });
    out
}

/// A matrix of rows of `columns` numbers with rows and columns exchanged.
#[must_use]
pub fn transposed(a: &[f64], columns: usize) -> Vec<f64> {
    let rows = a.len() / columns.max(1);
    (0..columns).flat_map(|j| (0..rows).map(move |i| a[i * columns + j])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_equal_the_definition(rows in 1_usize..20, d in 1_usize..30, numbers in prop::collection::vec(-1.0_f64..1.0, 2 * 20 * 30)) {
            let (a, b) = (&numbers[..rows * d], &numbers[600..][..rows * d]);
            let mut sum = vec![0.5; d * d];
            add_products(&mut sum, a, b, d);
            let product = product(&transposed(a, d), b, rows, d);
            for (i, j) in (0..d).flat_map(|i| (0..d).map(move |j| (i, j))) {
                let plain: f64 = (0..rows).map(|r| a[r * d + i] * b[r * d + j]).sum();
                prop_assert!((sum[i * d + j] - 0.5 - plain).abs() < 1e-12 && (product[i * d + j] - plain).abs() < 1e-12);
            }
            let plain: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            prop_assert!((dot(a, b) - plain).abs() < 1e-12);
        }
    }
}
