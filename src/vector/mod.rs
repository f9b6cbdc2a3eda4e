//! Vectors: blocked dot products, the exact streaming comparison of all rows, spherical k-means and the comparison of rows in near
//! cells of it (an inverted file), an approximate index; maps that are fitted to all vectors (whitening, twin CCA) and the choice
//! of dimensions.
//!
//! Two numbers stand for one pair. A blocked product in single precision finds the pairs that may matter; its last bits depend on
//! the processor. [`similarity`] then decides in double precision with one fixed order of additions, so that no result depends on
//! threads, blocks or machine. [`bound`] is the proof that the first never hides a pair from the second.

pub mod affine;
pub mod bound;
pub mod cca;
pub mod cells;
pub mod dimensions;
pub mod diversity;
pub mod dot;
pub mod double;
pub mod eigen;
pub mod flat;
mod graph;
pub mod hnsw;
pub mod ivf;
pub mod kmeans;
pub mod maxvol;
pub mod mean;
pub mod moments;
pub mod neighbours;
pub mod pairing;
pub mod recall;
pub mod redundancy;
pub mod source;
pub mod steady;
pub mod variance;
pub mod volume;
pub mod whiten;

pub use cells::Cells;
pub use dot::similarity;
pub use flat::{Rows, compare_earlier, firsts, nearest};
pub use hnsw::{HnswConfig, HnswIndex, NearPairs, near_pairs};
pub use ivf::{Probed, compare_probed, nearest_probed};
pub use kmeans::{KMeans, Training};
pub use source::{ReadRows, Source, Subset};

use crate::error::{Error, Result};

/// Rows of equal length in one slice, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    dimensions: usize,
}

impl<'a> Matrix<'a> {
    /// `data.len() / dimensions` rows of `dimensions` numbers.
    ///
    /// # Errors
    /// Internal, if `dimensions` is 0, `data` is no whole number of rows, or a row number does not fit 32 bits.
    pub fn try_new(data: &'a [f32], dimensions: usize) -> Result<Self> {
        if dimensions == 0 || !data.len().is_multiple_of(dimensions) || u32::try_from(data.len() / dimensions).is_err() {
            return Err(Error::internal(format!("vectors do not form a matrix numbers=`{}` dimensions=`{dimensions}`", data.len())));
        }
        Ok(Self { data, dimensions })
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.dimensions
    }

    /// Numbers in a row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Row `index`, which must be below [`Matrix::rows`].
    #[must_use]
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.dimensions..][..self.dimensions]
    }

    /// Neighbouring rows.
    pub(crate) fn run(&self, rows: std::ops::Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.dimensions..rows.end * self.dimensions], dimensions: self.dimensions }
    }

    /// All numbers, row after row.
    #[must_use]
    pub fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// Rows of equal length, owned.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    data: Vec<f32>,
    dimensions: usize,
}

impl Vectors {
    /// Takes over the numbers of a matrix.
    ///
    /// # Errors
    /// As [`Matrix::try_new`].
    pub fn try_new(data: Vec<f32>, dimensions: usize) -> Result<Self> {
        Matrix::try_new(&data, dimensions)?;
        Ok(Self { data, dimensions })
    }

    /// A view of them.
    #[must_use]
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix { data: &self.data, dimensions: self.dimensions }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.matrix().rows()
    }

    /// Row `index`, which must be below [`Vectors::rows`].
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        self.matrix().row(index)
    }
}

/// Whether a row has a direction: no zero norm, no NaN and no infinite number.
#[must_use]
pub fn has_direction(row: &[f32]) -> bool {
    let square = dot::dot(row, row);
    square.is_finite() && square > 0.0
}

/// Scales a row to length 1; `false`, and the row as it was, if it has no direction.
#[must_use]
pub fn normalise(row: &mut [f32]) -> bool {
    if !has_direction(row) {
        return false;
    }
    let norm = dot::dot(row, row).sqrt();
    for value in row {
        *value = (f64::from(*value) / norm) as f32;
    }
    true
}

#[cfg(test)]
pub(crate) mod planted {
    //! Clustered unit vectors of which a tenth are perturbed copies, as in the project's benchmark.

    use super::{Vectors, normalise};
    use crate::random::{Random, Sequence};

    /// A standard normal number (Box and Muller).
    pub(crate) fn normal(draws: &mut Sequence) -> f64 {
        (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()
    }

    /// `rows` unit vectors around 1 + rows / 50 centres; a tenth are noisy copies of another row, a tenth of those exact ones.
    pub(crate) fn vectors(rows: usize, dimensions: usize, seed: u64) -> Vectors {
        const LATENT: usize = 24;
        let mut draws = Random::new(seed, "planted").sequence(b"vectors");
        let mut normals = |count: usize| (0..count).map(|_| normal(&mut draws)).collect::<Vec<_>>();
        let centres = normals((1 + rows / 50) * LATENT);
        let projection = normals(LATENT * dimensions);
        let mut draws = Random::new(seed, "planted").sequence(b"rows");
        let mut data = Vec::with_capacity(rows * dimensions);
        for _ in 0..rows {
            let centre = draws.below(1 + rows as u64 / 50) as usize * LATENT;
            let latent: Vec<f64> = (0..LATENT).map(|i| centres[centre + i] + 0.7 * normal(&mut draws)).collect();
            for column in 0..dimensions {
                let mixed: f64 = (0..LATENT).map(|i| latent[i] * projection[i * dimensions + column]).sum();
                data.push((mixed / (LATENT as f64).sqrt() + 0.1 * normal(&mut draws)) as f32);
            }
        }
        for row in data.chunks_mut(dimensions) {
            assert!(normalise(row));
        }
        for copy in 0..rows / 10 {
            let (to, from) = (draws.below(rows as u64) as usize * dimensions, draws.below(rows as u64) as usize * dimensions);
            let noise = if copy % 10 == 0 { 0.0 } else { 0.2 / (dimensions as f64).sqrt() };
            for column in 0..dimensions {
                data[to + column] = (f64::from(data[from + column]) + noise * normal(&mut draws)) as f32;
            }
            if copy % 10 != 0 {
                assert!(normalise(&mut data[to..to + dimensions]));
            }
        }
        Vectors::try_new(data, dimensions).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_a_whole_number_of_rows() {
        assert!(Matrix::try_new(&[1.0; 6], 4).is_err());
        assert!(Matrix::try_new(&[], 0).is_err());
        let matrix = Matrix::try_new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3).unwrap();
        assert_eq!((matrix.rows(), matrix.row(1)), (2, [4.0, 5.0, 6.0].as_slice()));
    }

    #[test]
    fn only_a_direction_can_be_normalised() {
        let mut row = [3.0, 4.0];
        assert!(normalise(&mut row));
        assert_eq!(row, [0.6, 0.8]);
        for bad in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let mut row = bad;
            assert!(!normalise(&mut row), "{bad:?}");
            assert_eq!(row.map(f32::to_bits), bad.map(f32::to_bits));
        }
        // Squares of such numbers underflow or overflow single precision; the norm is taken in double.
        for length in [1e-30_f32, 1e30] {
            let mut row = [length, 0.0];
            assert!(normalise(&mut row));
            assert_eq!(row, [1.0, 0.0]);
        }
    }
}
