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
                    let tile = tile([0, 1].map(|row| rows.row(i + row)), [0, 1, 2, 3].map(|column| columns.row(j + column)));
                    for (row, sums) in tile.iter().enumerate() {
                        out[(i + row) * n + j..][..TILE_COLUMNS].copy_from_slice(sums);
                    }
                } else {
                    for (i, j) in (i..m.min(i + TILE_ROWS)).flat_map(|i| (j..last.min(j + TILE_COLUMNS)).map(move |j| (i, j))) {
                        out[i * n + j] = one(rows.row(i), columns.row(j));
                    }
                }
            }
        }
    }
}

/// The sums of a tile. They are variables of their own, not an array of arrays: only so are they kept in registers (measured: ten times
/// the speed).
#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn tile(rows: [&[f32]; TILE_ROWS], columns: [&[f32]; TILE_COLUMNS]) -> [[f32; TILE_COLUMNS]; TILE_ROWS] {
    let [(a, a_rest), (b, b_rest)] = rows.map(<[f32]>::as_chunks::<LANES>);
    let [(p, p_rest), (q, q_rest), (r, r_rest), (s, s_rest)] = columns.map(<[f32]>::as_chunks::<LANES>);
    let none = [0.0; LANES];
    let (mut ap, mut aq, mut ar, mut as_) = (none, none, none, none);
    let (mut bp, mut bq, mut br, mut bs) = (none, none, none, none);
    for (((((a, b), p), q), r), s) in a.iter().zip(b).zip(p).zip(q).zip(r).zip(s) {
        add(&mut ap, a, p);
        add(&mut aq, a, q);
        add(&mut ar, a, r);
        add(&mut as_, a, s);
        add(&mut bp, b, p);
        add(&mut bq, b, q);
        add(&mut br, b, r);
        add(&mut bs, b, s);
    }
    [
        [sum(ap, a_rest, p_rest), sum(aq, a_rest, q_rest), sum(ar, a_rest, r_rest), sum(as_, a_rest, s_rest)],
        [sum(bp, b_rest, p_rest), sum(bq, b_rest, q_rest), sum(br, b_rest, r_rest), sum(bs, b_rest, s_rest)],
    ]
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn one(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        add(&mut lanes, a, b);
    }
    sum(lanes, a_rest, b_rest)
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn add(lanes: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for lane in 0..LANES {
        lanes[lane] += a[lane] * b[lane];
    }
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn sum(lanes: [f32; LANES], a: &[f32], b: &[f32]) -> f32 {
    let [s, t, u, v, w, x, y, z] = lanes;
    let rest = a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    ((s + w) + (u + y)) + ((t + x) + (v + z)) + rest
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
