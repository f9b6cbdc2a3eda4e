//! Blocked dot products in single precision whose bits are the same on every machine: each is added up in the same fixed lanes,
//! whatever block it is part of, and no multiplication is fused with its addition. They take longer than
//! [`products`](super::dot::products), and may be summed up and compared without a second look in double precision.

use crate::vector::Matrix;

/// Lanes of one dot product.
const LANES: usize = 8;

/// All dot products of the rows of `rows` with the rows of `columns`, into `out` as `rows.rows()` rows of `columns.rows()` numbers, on
/// the calling thread. Both have the same dimensions.
pub fn products(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut Vec<f32>) {
    out.resize(rows.rows() * columns.rows(), 0.0);
    #[cfg(target_arch = "x86_64")]
    if wide::products(rows, columns, out) {
        return;
    }
    portable(rows, columns, out);
}

fn portable(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut [f32]) {
    for (i, line) in out.chunks_mut(columns.rows()).enumerate() {
        for (j, out) in line.iter_mut().enumerate() {
            *out = one(rows.row(i), columns.row(j));
        }
    }
}

fn one(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    sum(lanes, a_rest, b_rest)
}

#[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
#[inline(always)]
fn sum(lanes: [f32; LANES], a: &[f32], b: &[f32]) -> f32 {
    let [s, t, u, v, w, x, y, z] = lanes;
    let rest = a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    ((s + w) + (u + y)) + ((t + x) + (v + z)) + rest
}

/// The same sums tile by tile, with lanes in registers. The registers are named: a compiler that is left to find them lays the lanes of
/// several sums into one and shuffles.
#[cfg(target_arch = "x86_64")]
mod wide {
    use pulp::Simd as _;
    use pulp::x86::V3;

    use super::{LANES, one, sum};
    use crate::vector::Matrix;

    /// Rows and columns of a tile: its sums stay in registers.
    const ROWS: usize = 2;
    const COLUMNS: usize = 4;
    /// Columns that stay in the first-level cache while all rows pass, in numbers.
    const CACHED: usize = 1 << 13;

    /// Says whether this machine has the instructions.
    pub(super) fn products(rows: Matrix<'_>, columns: Matrix<'_>, out: &mut [f32]) -> bool {
        struct Products<'a>(V3, Matrix<'a>, Matrix<'a>, &'a mut [f32]);
        impl pulp::NullaryFnOnce for Products<'_> {
            type Output = ();

            #[expect(clippy::inline_always, reason = "as above")]
            #[inline(always)]
            fn call(self) {
                tiles(self.0, self.1, self.2, self.3);
            }
        }
        let simd = V3::try_new();
        if let Some(simd) = simd {
            simd.vectorize(Products(simd, rows, columns, out));
        }
        simd.is_some()
    }

    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn tiles(simd: V3, rows: Matrix<'_>, columns: Matrix<'_>, out: &mut [f32]) {
        let (m, n) = (rows.rows(), columns.rows());
        let strip = (CACHED / rows.dimensions() / COLUMNS * COLUMNS).max(COLUMNS);
        for first in (0..n).step_by(strip) {
            let last = n.min(first + strip);
            for i in (0..m).step_by(ROWS) {
                for j in (first..last).step_by(COLUMNS) {
                    if i + ROWS <= m && j + COLUMNS <= last {
                        let tile = tile(simd, [0, 1].map(|row| rows.row(i + row)), [0, 1, 2, 3].map(|column| columns.row(j + column)));
                        for (row, sums) in tile.iter().enumerate() {
                            out[(i + row) * n + j..][..COLUMNS].copy_from_slice(sums);
                        }
                    } else {
                        for (i, j) in (i..m.min(i + ROWS)).flat_map(|i| (j..last.min(j + COLUMNS)).map(move |j| (i, j))) {
                            out[i * n + j] = one(rows.row(i), columns.row(j));
                        }
                    }
                }
            }
        }
    }

    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn tile(simd: V3, rows: [&[f32]; ROWS], columns: [&[f32]; COLUMNS]) -> [[f32; COLUMNS]; ROWS] {
        let [(a, a_rest), (b, b_rest)] = rows.map(<[f32]>::as_chunks::<LANES>);
        let [(p, p_rest), (q, q_rest), (r, r_rest), (s, s_rest)] = columns.map(<[f32]>::as_chunks::<LANES>);
        let mut sums = [[simd.splat_f32s(0.0); COLUMNS]; ROWS];
        for (((((a, b), p), q), r), s) in a.iter().zip(b).zip(p).zip(q).zip(r).zip(s) {
            let rows = [a, b].map(|row| pulp::cast(*row));
            for (column, numbers) in [p, q, r, s].into_iter().enumerate() {
                let numbers = pulp::cast(*numbers);
                for row in 0..ROWS {
                    sums[row][column] = simd.add_f32s(sums[row][column], simd.mul_f32s(rows[row], numbers));
                }
            }
        }
        let (of_row, of_column) = ([a_rest, b_rest], [p_rest, q_rest, r_rest, s_rest]);
        let mut tile = [[0.0; COLUMNS]; ROWS];
        for (row, line) in tile.iter_mut().enumerate() {
            for (column, out) in line.iter_mut().enumerate() {
                *out = sum(pulp::cast(sums[row][column]), of_row[row], of_column[column]);
            }
        }
        tile
    }
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
