//! Rows of a tall matrix that span a large volume: maxvol, and its continuation beyond square.
//!
//! Goreinov, Oseledets, Savostyanov, Tyrtyshnikov and Zamarashkin, How to Find a Good Submatrix, 2010; Mikhalev and Oseledets,
//! Rectangular Maximum-Volume Submatrices and Their Applications, 2018. As a choice of frames: MaxInfo, 2025.

use crate::vector::double::{add_scaled, dot};

/// How far beyond 1 a coefficient must be: equal rows have coefficients of 1 but for rounding, and are not to be exchanged or added.
pub const SLACK: f64 = 1e-9;
/// Exchanges at most, a hundred for each column: each enlarges the volume.
const EXCHANGES: usize = 100;

/// Rows of a square submatrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Square {
    /// The rows, as many as the matrix has columns.
    pub rows: Vec<u32>,
    /// How many were exchanged.
    pub exchanges: usize,
}

/// For a matrix of rows of `columns` numbers and full column rank, rows of a square submatrix of large volume: no other row is a
/// combination of them with a coefficient beyond `1 + SLACK`. `None` if the rank is less.
///
/// Gaussian elimination with row pivoting gives the first ones, ties to the first row; then the row of the largest coefficient takes
/// the place of its partner until none is left. Time is `rows x columns` for an exchange.
#[must_use]
pub fn square(matrix: &[f64], columns: usize) -> Option<Square> {
    let count = matrix.len() / columns.max(1);
    let mut left = matrix.to_vec();
    let mut rows: Vec<u32> = Vec::with_capacity(columns);
    for column in 0..columns {
        let at = |row: usize, left: &[f64]| left[row * columns + column].abs();
        let open = (0..count).filter(|row| !rows.contains(&(*row as u32)));
        let pivot = open.rev().max_by(|a, b| at(*a, &left).total_cmp(&at(*b, &left)))?;
        let line = left[pivot * columns..][..columns].to_vec();
        if line[column].abs() <= f64::EPSILON * count as f64 {
            return None;
        }
        rows.push(pivot as u32);
        for row in left.chunks_exact_mut(columns) {
            let factor = row[column] / line[column];
            add_scaled(row, -factor, &line);
        }
    }
    let mut coefficients = coefficients(matrix, columns, &rows)?;
    let mut exchanges = 0;
    while exchanges < EXCHANGES * columns {
        let largest = |a: &(usize, f64), b: &(usize, f64)| a.1.abs().total_cmp(&b.1.abs()).then(b.0.cmp(&a.0));
        let (at, value) = coefficients.iter().copied().enumerate().max_by(largest)?;
        if value.abs() <= 1.0 + SLACK {
            break;
        }
        let (row, partner) = (at / columns, at % columns);
        let mut line = coefficients[row * columns..][..columns].to_vec();
        line[partner] -= 1.0;
        for other in coefficients.chunks_exact_mut(columns) {
            let factor = other[partner] / value;
            add_scaled(other, -factor, &line);
        }
        rows[partner] = row as u32;
        exchanges += 1;
    }
    Some(Square { rows, exchanges })
}

/// `A A_I^-1`: each row as a combination of the rows `chosen`.
fn coefficients(matrix: &[f64], columns: usize, chosen: &[u32]) -> Option<Vec<f64>> {
    // Gauss and Jordan on [A_I | 1].
    let width = 2 * columns;
    let mut work = vec![0.0; columns * width];
    for (place, row) in chosen.iter().enumerate() {
        work[place * width..][..columns].copy_from_slice(&matrix[*row as usize * columns..][..columns]);
        work[place * width + columns + place] = 1.0;
    }
    for column in 0..columns {
        let at = |row: usize, work: &[f64]| work[row * width + column].abs();
        let pivot = (column..columns).max_by(|a, b| at(*a, &work).total_cmp(&at(*b, &work)))?;
        (0..width).for_each(|i| work.swap(column * width + i, pivot * width + i));
        let head = work[column * width + column];
        if head == 0.0 {
            return None;
        }
        let line: Vec<f64> = work[column * width..][..width].iter().map(|x| x / head).collect();
        for (row, numbers) in work.chunks_exact_mut(width).enumerate() {
            if row == column {
                numbers.copy_from_slice(&line);
            } else {
                let factor = numbers[column];
                add_scaled(numbers, -factor, &line);
            }
        }
    }
    // The columns of the inverse, as rows.
    let inverse: Vec<f64> =
        (0..columns).flat_map(|j| (0..columns).map(move |i| (i, j))).map(|(i, j)| work[i * width + columns + j]).collect();
    Some(matrix.chunks_exact(columns).flat_map(|row| inverse.chunks_exact(columns).map(|column| dot(row, column))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::vector::planted::normal;

    #[test]
    fn the_toy_of_the_specification() {
        let matrix: Vec<f64> = [[1., 0.], [0., 1.], [1., 0.], [0., 1.], [0.9, 0.1], [0.6, 0.6], [2., 0.], [0., 2.], [1.2, 1.2]].concat();
        let found = square(&matrix, 2).unwrap();
        let mut rows = found.rows.clone();
        rows.sort_unstable();
        assert_eq!(rows, [6, 7]);
        // Seeds S10: the volume is 4, and no other pair of rows has so much.
        let volume = |a: usize, b: usize| (matrix[2 * a] * matrix[2 * b + 1] - matrix[2 * a + 1] * matrix[2 * b]).abs();
        assert_eq!(volume(6, 7), 4.0);
        assert!((0..9).all(|a| (0..a).all(|b| (b, a) == (6, 7) || volume(a, b) < 4.0)));
    }

    #[test]
    fn a_matrix_of_less_rank_has_no_such_rows() {
        assert_eq!(square(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0], 2), None);
        assert_eq!(square(&[1.0, 2.0], 2), None);
    }

    proptest! {
        #[test]
        fn no_coefficient_is_beyond_one(rows in 1_usize..60, columns in 1_usize..6, seed in 0_u64..1000) {
            prop_assume!(rows >= columns);
            let mut draws = Random::new(seed, "maxvol").sequence(b"rows");
            let matrix: Vec<f64> = (0..rows * columns).map(|_| normal(&mut draws)).collect();
            let found = square(&matrix, columns).unwrap();
            let c = coefficients(&matrix, columns, &found.rows).unwrap();
            prop_assert!(c.iter().all(|x| x.abs() <= 1.0 + 1e-6));
            // A = C A_I.
            for (row, c) in c.chunks(columns).enumerate() {
                for i in 0..columns {
                    let made: f64 = found.rows.iter().zip(c).map(|(r, c)| c * matrix[*r as usize * columns + i]).sum();
                    prop_assert!((made - matrix[row * columns + i]).abs() < 1e-8);
                }
            }
        }
    }
}
