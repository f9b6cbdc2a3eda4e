//! Eigenvalues and eigenvectors of a symmetric matrix in double precision: Householder reduction to tridiagonal form, then implicit QR
//! steps with Wilkinson's shift (Golub and Van Loan, Matrix Computations, sections 8.3.1 and 8.3.5).
//!
//! One thread and one order of operations, no fused multiply-add, no function of the platform's mathematics library but the square
//! root: equal matrices give equal bits everywhere. Eigenvectors are kept as rows, so that the inner loops run along memory.

use crate::error::{Error, Result};
use crate::vector::double::{add_scaled, dot, transposed};

/// QR steps for one eigenvalue at most; two or three are usual.
const STEPS: usize = 60;

/// `A = V^T diag(values) V` with the rows of `V` orthonormal.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigen {
    /// The eigenvalues, largest first.
    pub values: Vec<f64>,
    /// The eigenvectors, row after row in the order of the values. Of each, the entry of largest magnitude is positive (of several,
    /// the first).
    pub vectors: Vec<f64>,
}

impl Eigen {
    /// Eigenvector `index`, which must be below the number of values.
    #[must_use]
    pub fn vector(&self, index: usize) -> &[f64] {
        let n = self.values.len();
        &self.vectors[index * n..][..n]
    }
}

/// Decomposes the symmetric matrix `a` of `n` x `n` numbers; it is taken as symmetric without a look. Time is about `10 n^3`
/// operations (0.1 s for 384, 1.5 s for 1,024 on one core), memory two more such matrices. The error of a value is some `n` roundings of the largest one.
///
/// # Errors
/// Internal, if `a` has another size, or the steps do not converge (numbers that are not finite).
pub fn symmetric(mut a: Vec<f64>, n: usize) -> Result<Eigen> {
    if a.len() != n * n {
        return Err(Error::internal(format!("a matrix is not square numbers=`{}` rows=`{n}`", a.len())));
    }
    let (mut diagonal, mut beside, reflections) = tridiagonal(&mut a, n);
    let mut vectors = transposed(&product(&reflections, n), n);
    drop(a);
    diagonalise(&mut diagonal, &mut beside, &mut vectors)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| diagonal[*j].total_cmp(&diagonal[*i]).then(i.cmp(j)));
    let values = order.iter().map(|i| diagonal[*i]).collect();
    let mut sorted = Vec::with_capacity(n * n);
    for i in order {
        let vector = &vectors[i * n..][..n];
        let largest = vector.iter().fold(0.0_f64, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        sorted.extend(vector.iter().map(|x| sign * x));
    }
    Ok(Eigen { values, vectors: sorted })
}

/// The reflection `1 - beta v v^T`, over the entries from `first` on.
struct Reflection {
    first: usize,
    v: Vec<f64>,
    beta: f64,
}

/// Makes `a` tridiagonal by reflections from both sides: gives its diagonal, the numbers beside it, and the reflections.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>, Vec<Reflection>) {
    let mut beside = vec![0.0; n.saturating_sub(1)];
    let mut reflections = Vec::with_capacity(n);
    for k in 0..n.saturating_sub(2) {
        let first = k + 1;
        // The column below the diagonal is the row beside it.
        let mut v = a[k * n + first..][..n - first].to_vec();
        let scale = v.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        let tail = v[1..].iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        if tail == 0.0 {
            beside[k] = v[0];
            continue;
        }
        // Scaled, so that squares neither overflow nor vanish.
        for x in &mut v {
            *x /= scale;
        }
        let norm = dot(&v, &v).sqrt();
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        beside[k] = alpha * scale;
        v[0] -= alpha;
        let beta = 2.0 / dot(&v, &v);
        // A - v w^T - w v^T is the reflected block, with p = beta A v and w = p - (beta / 2)(p v) v.
        let mut w: Vec<f64> = (first..n).map(|i| beta * dot(&a[i * n + first..][..n - first], &v)).collect();
        let half = beta / 2.0 * dot(&w, &v);
        add_scaled(&mut w, -half, &v);
        for i in first..n {
            let (vi, wi) = (v[i - first], w[i - first]);
            for ((x, v), w) in a[i * n + first..][..n - first].iter_mut().zip(&v).zip(&w) {
                *x -= vi * w + wi * v;
            }
        }
        reflections.push(Reflection { first, v, beta });
    }
    if n >= 2 {
        beside[n - 2] = a[(n - 2) * n + n - 1];
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside, reflections)
}

/// The product of the reflections, the first one leftmost. Each acts on what lies below and right of it alone.
fn product(reflections: &[Reflection], n: usize) -> Vec<f64> {
    let mut q = vec![0.0; n * n];
    for i in 0..n {
        q[i * n + i] = 1.0;
    }
    for Reflection { first, v, beta } in reflections.iter().rev() {
        let (first, width) = (*first, n - first);
        let mut sum = vec![0.0; width];
        for (i, v) in v.iter().enumerate() {
            add_scaled(&mut sum, *v, &q[(first + i) * n + first..][..width]);
        }
        for (i, v) in v.iter().enumerate() {
            add_scaled(&mut q[(first + i) * n + first..][..width], -beta * v, &sum);
        }
    }
    q
}

/// The length of `(a, b)`, without overflow.
fn length(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs().max(b.abs()), a.abs().min(b.abs()));
    if a == 0.0 { 0.0 } else { a * (1.0 + (b / a) * (b / a)).sqrt() }
}

/// Makes the tridiagonal matrix diagonal, and turns the rows of `vectors` with it.
fn diagonalise(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64]) -> Result<()> {
    let n = diagonal.len();
    let norm = diagonal.iter().chain(beside.iter()).fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let negligible = f64::EPSILON * norm;
    let mut high = n.saturating_sub(1);
    let mut steps = 0;
    while high > 0 {
        // The reduction itself is exact only up to roundings of the largest number: what is below them is zero.
        for x in beside[..high].iter_mut().filter(|x| x.abs() <= negligible) {
            *x = 0.0;
        }
        if beside[high - 1] == 0.0 {
            high -= 1;
            steps = 0;
            continue;
        }
        steps += 1;
        if steps > STEPS {
            return Err(Error::internal("the eigenvalues of a matrix do not converge"));
        }
        let low = beside[..high].iter().rposition(|x| *x == 0.0).map_or(0, |zero| zero + 1);
        step(low, high, diagonal, beside, vectors);
    }
    Ok(())
}

/// One implicit QR step on the block from `low` to `high`, by Givens rotations that chase the bulge down.
fn step(low: usize, high: usize, diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64]) {
    let n = diagonal.len();
    let last = beside[high - 1];
    let half = (diagonal[high - 1] - diagonal[high]) / 2.0;
    let root = length(half, last);
    // Wilkinson's shift: the eigenvalue of the last 2 x 2 block that is nearer to its last entry.
    let shift = diagonal[high] - last * (last / (half + if half < 0.0 { -root } else { root }));
    let (mut x, mut z) = (diagonal[low] - shift, beside[low]);
    for k in low..high {
        let r = length(x, z);
        let (c, s) = if r == 0.0 { (1.0, 0.0) } else { (x / r, z / r) };
        if k > low {
            beside[k - 1] = r;
        }
        let (a, b, g) = (diagonal[k], beside[k], diagonal[k + 1]);
        let (cc, ss, cs) = (c * c, s * s, c * s);
        diagonal[k] = cc * a + 2.0 * cs * b + ss * g;
        diagonal[k + 1] = ss * a - 2.0 * cs * b + cc * g;
        beside[k] = cs * (g - a) + (cc - ss) * b;
        if k + 1 < high {
            x = beside[k];
            z = s * beside[k + 1];
            beside[k + 1] *= c;
        }
        let (upper, lower) = vectors[k * n..][..2 * n].split_at_mut(n);
        for (p, q) in upper.iter_mut().zip(lower) {
            let (a, b) = (*p, *q);
            *p = c * a + s * b;
            *q = c * b - s * a;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::vector::planted::normal;

    /// The plain sums.
    fn multiply(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
        let mut out = vec![0.0; n * n];
        for (i, j, k) in (0..n).flat_map(|i| (0..n).flat_map(move |j| (0..n).map(move |k| (i, j, k)))) {
            out[i * n + j] += a[i * n + k] * b[k * n + j];
        }
        out
    }

    /// A symmetric matrix of rank `rank` (all ranks above `n` are full), its entries about `scale`.
    fn planted_matrix(n: usize, rank: usize, scale: f64, seed: u64) -> Vec<f64> {
        let mut draws = Random::new(seed, "eigen").sequence(b"matrix");
        let mut a = vec![0.0; n * n];
        for _ in 0..rank {
            let (sign, v) = (if draws.unit() < 0.5 { -1.0 } else { 1.0 }, (0..n).map(|_| normal(&mut draws)).collect::<Vec<_>>());
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                a[i * n + j] += sign * scale * v[i] * v[j];
            }
        }
        a
    }

    fn check(a: &[f64], n: usize) -> Eigen {
        let eigen = symmetric(a.to_vec(), n).unwrap();
        let largest = eigen.values.iter().fold(f64::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        assert!(eigen.values.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", eigen.values);
        for i in 0..n {
            for j in 0..n {
                // V^T diag V = A, and V V^T = 1.
                let made: f64 = (0..n).map(|k| eigen.values[k] * eigen.vector(k)[i] * eigen.vector(k)[j]).sum();
                assert!((made - a[i * n + j]).abs() <= 1e-14 * n as f64 * largest, "n={n} {i} {j}: {made} {}", a[i * n + j]);
                let product = dot(eigen.vector(i), eigen.vector(j));
                assert!((product - f64::from(u8::from(i == j))).abs() <= 1e-14 * n as f64, "n={n} {i} {j}: {product}");
            }
            let vector = eigen.vector(i);
            let most = vector.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
            assert!(vector.iter().find(|x| x.abs() == most).is_some_and(|x| *x > 0.0), "{vector:?}");
        }
        eigen
    }

    proptest! {
        #[test]
        fn matrices_of_every_rank_and_scale_are_decomposed(
            n in 1_usize..24, rank in 0_usize..30, exponent in -150_i32..150, seed in 0_u64..1_000,
        ) {
            check(&planted_matrix(n, rank, 10_f64.powi(exponent), seed), n);
        }

        /// Jacobi's method shares nothing with the reduction: it turns pairs of axes until nothing is left beside the diagonal.
        #[test]
        fn the_values_are_those_of_jacobi(n in 1_usize..12, rank in 1_usize..14, seed in 0_u64..1_000) {
            let a = planted_matrix(n, rank, 1.0, seed);
            let mut turned = a.clone();
            for _ in 0..60 {
                for (p, q) in (0..n).flat_map(|q| (0..q).map(move |p| (p, q))) {
                    let angle = 0.5 * (2.0 * turned[p * n + q]).atan2(turned[q * n + q] - turned[p * n + p]);
                    let mut rotation = vec![0.0; n * n];
                    (0..n).for_each(|i| rotation[i * n + i] = 1.0);
                    (rotation[p * n + p], rotation[q * n + q]) = (angle.cos(), angle.cos());
                    (rotation[p * n + q], rotation[q * n + p]) = (angle.sin(), -angle.sin());
                    turned = multiply(&multiply(&transposed(&rotation, n), &turned, n), &rotation, n);
                }
            }
            let mut values: Vec<f64> = (0..n).map(|i| turned[i * n + i]).collect();
            values.sort_by(|a, b| b.total_cmp(a));
            let largest = values.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
            for (ours, jacobi) in symmetric(a, n).unwrap().values.iter().zip(values) {
                prop_assert!((ours - jacobi).abs() <= 1e-12 * largest, "{ours} {jacobi}");
            }
        }
    }

    #[test]
    fn known_matrices() {
        let eigen = check(&[2.0, 1.0, 1.0, 2.0], 2);
        assert!((eigen.values[0] - 3.0).abs() < 1e-15 && (eigen.values[1] - 1.0).abs() < 1e-15);
        assert_eq!(symmetric(Vec::new(), 0).unwrap().values, Vec::<f64>::new());
        assert_eq!(check(&[0.0; 9], 3).values, [0.0; 3]);
        // Diagonal, with equal values: nothing to do, and the order of the axes stays.
        assert_eq!(check(&[1.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0], 3).vectors, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        // The second difference of a path: 2 - 2 cos(k pi / (n + 1)).
        let n = 50;
        let mut path = vec![0.0; n * n];
        for i in 0..n {
            path[i * n + i] = 2.0;
            if i + 1 < n {
                (path[i * n + i + 1], path[(i + 1) * n + i]) = (-1.0, -1.0);
            }
        }
        for (k, value) in check(&path, n).values.iter().rev().enumerate() {
            assert!((value - (2.0 - 2.0 * ((k + 1) as f64 * std::f64::consts::PI / 51.0).cos())).abs() < 1e-13);
        }
    }

    #[test]
    fn what_cannot_be_decomposed_is_an_error() {
        assert!(symmetric(vec![1.0; 3], 2).is_err());
        assert!(symmetric(vec![f64::NAN; 9], 3).is_err());
    }
}
