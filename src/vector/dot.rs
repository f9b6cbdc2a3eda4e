//! Dot products: blocks of them in single precision, one of them in double.

use gemm::Parallelism;

use crate::vector::Matrix;

/// Lanes of [`dot`]: fixed, so that the order of additions is the same on every machine.
const LANES: usize = 8;
/// Lanes of [`rough`], fixed for the same reason: enough of them that no addition waits for the one before.
const WIDE: usize = 32;

/// Lanes of [`mixed`].
const HALF: usize = 16;

/// All dot products of the rows of `rows` with the rows of `columns`, into `out` as `rows.rows()` rows of `columns.rows()`
/// numbers, on the calling thread. Rounding: [`crate::vector::bound`].
///
/// # Panics
/// If the two differ in dimensions.
#[expect(unsafe_code, reason = "gemm has no safe entry; everything that it relies on is made or checked here")]
pub fn products(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut Vec<f32>) {
    let (m, n, d) = (rows.rows(), columns.rows(), rows.dimensions());
    assert_eq!(d, columns.dimensions(), "rows and columns differ in dimensions");
    out.resize(m * n, 0.0);
    // SAFETY: gemm reads m x d numbers at `rows`, d x n at `columns` and writes m x n at `out`, each with the strides given.
    // A `Matrix` holds exactly rows x dimensions numbers, `d` is the same for both, and `out` was just made m x n long; it is
    // borrowed alone, so that nothing overlaps. `read_dst` is false: nothing uninitialised or stale is read.
    unsafe {
        gemm::gemm(
            m,
            n,
            d,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            rows.data().as_ptr(),
            1,
            d as isize,
            columns.data().as_ptr(),
            d as isize,
            1,
            0.0_f32,
            1.0_f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The dot product in double precision. Products of singles are exact in double; additions run in eight fixed lanes, so that equal
/// inputs give equal bits on every machine.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    for (x, y) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest
}

/// The dot product of singles with doubles, in double precision; equal inputs give equal bits on every machine, as in [`dot`].
#[must_use]
pub fn mixed(a: &[f32], b: &[f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Mixed<'a>(&'a [f32], &'a [f64]);
        impl pulp::NullaryFnOnce for Mixed<'_> {
            type Output = f64;

            #[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
            #[inline(always)]
            fn call(self) -> f64 {
                portable_mixed(self.0, self.1)
            }
        }
        return simd.vectorize(Mixed(a, b));
    }
    portable_mixed(a, b)
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn portable_mixed(a: &[f32], b: &[f64]) -> f64 {
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<HALF>(), b.as_chunks::<HALF>());
    let mut lanes = [0.0_f64; HALF];
    for (x, y) in whole_a.iter().zip(whole_b) {
        for lane in 0..HALF {
            lanes[lane] += f64::from(x[lane]) * y[lane];
        }
    }
    let mut width = HALF / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    rest_a.iter().zip(rest_b).fold(lanes[0], |sum, (x, y)| sum + f64::from(*x) * y)
}

/// The dot product in single precision, with the instructions that the machine has; equal inputs give equal bits on every machine,
/// since no multiplication is fused with its addition. It guides searches whose results [`similarity`] then decides.
pub(super) fn rough(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Rough<'a>(&'a [f32], &'a [f32]);
        impl pulp::NullaryFnOnce for Rough<'_> {
            type Output = f32;

            #[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
            #[inline(always)]
            fn call(self) -> f32 {
                portable_rough(self.0, self.1)
            }
        }
        return simd.vectorize(Rough(a, b));
    }
    portable_rough(a, b)
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn portable_rough(a: &[f32], b: &[f32]) -> f32 {
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    let mut lanes = [0.0_f32; WIDE];
    for (x, y) in whole_a.iter().zip(whole_b) {
        for lane in 0..WIDE {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    rest_a.iter().zip(rest_b).fold(lanes[0], |sum, (x, y)| sum + x * y)
}

/// The cosine of two vectors of one length, in double precision, in [-1, 1]; exactly 1 for equal vectors; NaN where one of them
/// has no direction. This number alone decides: blocked products only propose.
#[must_use]
pub fn similarity(a: &[f32], b: &[f32]) -> f64 {
    cosine(dot(a, b), dot(a, a), dot(b, b))
}

/// The cosine from a dot product and two squared norms. The root is taken of their product: the square root of a rounded square
/// is the number itself, which makes the cosine of equal vectors exactly 1.
pub(super) fn cosine(dot: f64, square_a: f64, square_b: f64) -> f64 {
    (dot / (square_a * square_b).sqrt()).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{normalise, planted};

    /// The definition, in exact integer-like order: one addition after the other.
    fn plain(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    proptest! {
        #[test]
        fn products_equal_the_plain_sums(m in 0_usize..40, n in 0_usize..40, d in 1_usize..70, seed in 0_u64..1000) {
            let (a, b) = (planted::vectors(m, d, seed), planted::vectors(n, d, seed + 1));
            let mut out = vec![7.0; 5];
            products(a.matrix(), b.matrix(), &mut out);
            prop_assert_eq!(out.len(), m * n);
            for i in 0..m {
                for j in 0..n {
                    let exact = plain(a.row(i), b.row(j));
                    prop_assert!((f64::from(out[i * n + j]) - exact).abs() <= (d + 2) as f64 * 2_f64.powi(-24), "{i} {j}");
                }
            }
        }

        #[test]
        fn dot_equals_the_plain_sum(values in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..100)) {
            let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            prop_assert!((dot(&a, &b) - plain(&a, &b)).abs() < 1e-12);
            prop_assert!((f64::from(rough(&a, &b)) - plain(&a, &b)).abs() < 1e-4);
            prop_assert_eq!(rough(&a, &b).to_bits(), portable_rough(&a, &b).to_bits());
            let wide: Vec<f64> = b.iter().map(|x| f64::from(*x) + 1e-9).collect();
            let exact: f64 = a.iter().zip(&wide).map(|(x, y)| f64::from(*x) * y).sum();
            prop_assert!((mixed(&a, &wide) - exact).abs() < 1e-12);
            prop_assert_eq!(mixed(&a, &wide).to_bits(), portable_mixed(&a, &wide).to_bits());
        }

        #[test]
        fn equal_vectors_have_cosine_one_and_order_does_not_matter(
            a in prop::collection::vec(-1.0_f32..1.0, 40),
            b in prop::collection::vec(-1.0_f32..1.0, 40),
            scale in 1e-10_f32..1e10,
        ) {
            let scaled: Vec<f32> = a.iter().map(|x| x * scale).collect();
            prop_assert_eq!(similarity(&scaled, &scaled).to_bits(), 1.0_f64.to_bits());
            prop_assert_eq!(similarity(&a, &b).to_bits(), similarity(&b, &a).to_bits());
            let mut unit = a.clone();
            prop_assert!(normalise(&mut unit));
            prop_assert!((similarity(&a, &b) - similarity(&unit, &b)).abs() < 1e-6);
        }
    }

    #[test]
    fn no_direction_has_no_cosine() {
        assert!(similarity(&[0.0, 0.0], &[1.0, 0.0]).is_nan());
        assert!(similarity(&[f32::NAN, 0.0], &[1.0, 0.0]).is_nan());
        assert_eq!(similarity(&[1.0, 0.0], &[-2.0, 0.0]), -1.0);
    }
}
