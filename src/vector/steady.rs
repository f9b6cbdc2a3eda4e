//! Blocked dot products in single precision whose bits are the same on every machine: each is added up in the same fixed lanes,
//! whatever block it is part of, and no multiplication is fused with its addition. They take about twice the time of
//! [`products`](super::dot::products), and may be summed up and compared without a second look in double precision.

use crate::vector::Matrix;

/// Lanes of one dot product.
const LANES: usize = 8;
/// Rows and columns of a tile: its sums stay in registers.
const TILE_ROWS: usize = 2;
const TILE_COLUMNS: usize = 4;
/// Columns that stay in the first-level cache while all rows pass, in numbers.
const CACHED: usize = 1 << 13;

/// All dot products of the rows of `rows` with the rows of `columns`, into `out` as `rows.rows()` rows of `columns.rows()` numbers, on
/// the calling thread. Both have the same dimensions.
pub fn products(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut Vec<f32>) {
    out.resize(rows.rows() * columns.rows(), 0.0);
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Products<'a>(Matrix<'a>, Matrix<'a>, &'a mut [f32]);
        impl pulp::NullaryFnOnce for Products<'_> {
            type Output = ();

            #[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
            #[inline(always)]
            fn call(self) {
                portable(self.0, self.1, self.2);
            }
        }
        simd.vectorize(Products(rows, columns, out));
        return;
    }
    portable(rows, columns, out);
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn portable(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut [f32]) {
    let (m, n) = (rows.rows(), columns.rows());
    let strip = (CACHED / rows.dimensions() / TILE_COLUMNS * TILE_COLUMNS).max(TILE_COLUMNS);
    for first in (0..n).step_by(strip) {
        let last = n.min(first + strip);
        for i in (0..m).step_by(TILE_ROWS) {
            for j in (first..last).step_by(TILE_COLUMNS) {
                if i + TILE_ROWS <= m && j + TILE_COLUMNS <= last {
                    let tile = tile::<TILE_ROWS, TILE_COLUMNS>(rows, columns, i, j);
                    for (row, sums) in tile.iter().enumerate() {
                        out[(i + row) * n + j..][..TILE_COLUMNS].copy_from_slice(sums);
                    }
                } else {
                    for (i, j) in (i..m.min(i + TILE_ROWS)).flat_map(|i| (j..last.min(j + TILE_COLUMNS)).map(move |j| (i, j))) {
                        out[i * n + j] = tile::<1, 1>(rows, columns, i, j)[0][0];
                    }
                }
            }
        }
    }
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn tile<const R: usize, const C: usize>(rows: Matrix<'_>, columns: Matrix<'_>, i: usize, j: usize) -> [[f32; C]; R] {
    let a: [_; R] = std::array::from_fn(|r| rows.row(i + r).as_chunks::<LANES>());
    let b: [_; C] = std::array::from_fn(|c| columns.row(j + c).as_chunks::<LANES>());
    let mut sums = [[[0.0_f32; LANES]; C]; R];
    for k in 0..rows.dimensions() / LANES {
        for r in 0..R {
            for c in 0..C {
                for lane in 0..LANES {
                    sums[r][c][lane] += a[r].0[k][lane] * b[c].0[k][lane];
                }
            }
        }
    }
    std::array::from_fn(|r| {
        std::array::from_fn(|c| {
            let [s, t, u, v, w, x, y, z] = sums[r][c];
            let rest = a[r].1.iter().zip(b[c].1).fold(0.0, |sum, (x, y)| sum + x * y);
            ((s + w) + (u + y)) + ((t + x) + (v + z)) + rest
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{dot, planted};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn each_is_the_plain_sum_and_has_the_same_bits_in_any_block(
            m in 1_usize..12, n in 1_usize..12, d in 1_usize..50, seed in 0_u64..1000,
        ) {
            let (a, b) = (planted::vectors(m, d, seed), planted::vectors(n, d, seed + 1));
            let (mut out, mut turned, mut plain, mut one) = (Vec::new(), Vec::new(), vec![0.0; m * n], Vec::new());
            products(a.matrix(), b.matrix(), &mut out);
            products(b.matrix(), a.matrix(), &mut turned);
            portable(a.matrix(), b.matrix(), &mut plain);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                prop_assert!((f64::from(out[i * n + j]) - dot::dot(a.row(i), b.row(j))).abs() < 1e-5);
                let (row, column) = (Matrix::try_new(a.row(i), d).unwrap(), Matrix::try_new(b.row(j), d).unwrap());
                products(row, column, &mut one);
                let bits = out[i * n + j].to_bits();
                prop_assert_eq!((bits, bits, bits), (one[0].to_bits(), plain[i * n + j].to_bits(), turned[j * m + i].to_bits()));
            }
        }
    }
}
