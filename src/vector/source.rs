//! Vectors wherever they lie: in memory, or in a file where there is no room.

use std::fmt::Debug;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::vector::Matrix;
use crate::vector::dot::dot;

/// Rows that one task looks at when all rows are passed over.
const PIECE: usize = 512;

/// Reads rows of vectors that do not lie in memory; several threads may read at once.
pub trait ReadRows: Debug + Sync {
    /// How many rows there are.
    fn rows(&self) -> usize;
    /// Numbers in a row.
    fn dimensions(&self) -> usize;
    /// Fills `into` with `rows`, one behind the other.
    fn read(&self, rows: &[u32], into: &mut [f32]) -> Result<()>;
}

/// Rows of equal length.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In memory.
    Memory(Matrix<'a>),
    /// In a file.
    File(&'a dyn ReadRows),
}

impl<'a> Source<'a> {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Self::Memory(matrix) => matrix.rows(),
            Self::File(file) => file.rows(),
        }
    }

    /// Numbers in a row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Memory(matrix) => matrix.dimensions(),
            Self::File(file) => file.dimensions(),
        }
    }

    /// Adds copies of some rows behind what `into` holds.
    pub fn copy(&self, rows: &[u32], into: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::Memory(matrix) => {
                for row in rows {
                    into.extend_from_slice(matrix.row(*row as usize));
                }
                Ok(())
            }
            Self::File(file) => {
                let from = into.len();
                into.resize(from + rows.len() * file.dimensions(), 0.0);
                file.read(rows, &mut into[from..])
            }
        }
    }

    /// Some rows as one matrix, copied into `buffer`.
    pub fn gather<'b>(&self, rows: &[u32], buffer: &'b mut Vec<f32>) -> Result<Matrix<'b>> {
        buffer.clear();
        self.copy(rows, buffer)?;
        Matrix::try_new(buffer, self.dimensions())
    }

    /// One row: a view where it lies in memory.
    pub fn row<'b>(&self, row: u32, buffer: &'b mut Vec<f32>) -> Result<&'b [f32]>
    where
        'a: 'b,
    {
        match self {
            Self::Memory(matrix) => Ok(matrix.row(row as usize)),
            Self::File(_) => {
                buffer.clear();
                self.copy(&[row], buffer)?;
                Ok(buffer)
            }
        }
    }

    /// Neighbouring rows: a view where they lie in memory.
    pub fn run<'b>(&self, rows: Range<usize>, buffer: &'b mut Vec<f32>) -> Result<Matrix<'b>>
    where
        'a: 'b,
    {
        match self {
            Self::Memory(matrix) => Ok(matrix.run(rows)),
            Self::File(_) => {
                let rows: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
                self.gather(&rows, buffer)
            }
        }
    }

    /// What `look` makes of each run of neighbouring rows, in their order; `look` is given the number of the first and the rows.
    pub fn pieces<T: Send>(&self, look: impl Fn(usize, Matrix<'_>) -> Result<T> + Sync) -> Result<Vec<T>> {
        let starts: Vec<usize> = (0..self.rows()).step_by(PIECE).collect();
        let one = |buffer: &mut Vec<f32>, start: usize| {
            let end = self.rows().min(start + PIECE);
            look(start, self.run(start..end, buffer)?)
        };
        starts.into_par_iter().map_init(Vec::new, one).collect()
    }

    /// The squared norm of each row, in double precision.
    pub fn squares(&self) -> Result<Vec<f64>> {
        let of = |_, rows: Matrix<'_>| Ok((0..rows.rows()).map(|row| dot(rows.row(row), rows.row(row))).collect::<Vec<_>>());
        Ok(self.pieces(of)?.concat())
    }
}

/// Some of the rows of a source, read where they lie.
#[derive(Debug)]
pub struct Subset<'a> {
    source: Source<'a>,
    rows: &'a [u32],
}

impl<'a> Subset<'a> {
    /// The rows `rows` of `source`, in that order.
    #[must_use]
    pub fn new(source: Source<'a>, rows: &'a [u32]) -> Self {
        Self { source, rows }
    }
}

impl ReadRows for Subset<'_> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn dimensions(&self) -> usize {
        self.source.dimensions()
    }

    fn read(&self, rows: &[u32], into: &mut [f32]) -> Result<()> {
        let rows: Vec<u32> = rows.iter().map(|row| self.rows[*row as usize]).collect();
        match self.source {
            Source::Memory(matrix) => {
                let lines = into.chunks_mut(matrix.dimensions());
                rows.iter().zip(lines).for_each(|(row, into)| into.copy_from_slice(matrix.row(*row as usize)));
                Ok(())
            }
            Source::File(file) => file.read(&rows, into),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vector::{Vectors, planted};

    /// Vectors that are handed out by reading alone.
    #[derive(Debug)]
    pub(crate) struct Apart(pub(crate) Vectors);

    impl ReadRows for Apart {
        fn rows(&self) -> usize {
            self.0.rows()
        }

        fn dimensions(&self) -> usize {
            self.0.matrix().dimensions()
        }

        fn read(&self, rows: &[u32], into: &mut [f32]) -> Result<()> {
            for (row, into) in rows.iter().zip(into.chunks_mut(self.dimensions())) {
                into.copy_from_slice(self.0.row(*row as usize));
            }
            Ok(())
        }
    }

    #[test]
    fn a_file_gives_what_memory_gives() {
        let vectors = planted::vectors(1300, 7, 21);
        let apart = Apart(vectors.clone());
        let (memory, file) = (Source::Memory(vectors.matrix()), Source::File(&apart));
        assert_eq!(memory.squares().unwrap(), file.squares().unwrap());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for rows in [vec![], vec![1299, 0, 5, 5]] {
            assert_eq!(memory.gather(&rows, &mut a).unwrap().data(), file.gather(&rows, &mut b).unwrap().data());
        }
        assert_eq!(memory.row(7, &mut a).unwrap(), file.row(7, &mut b).unwrap());
        assert_eq!(memory.run(600..1300, &mut a).unwrap().data(), file.run(600..1300, &mut b).unwrap().data());
        let some = [1200, 3, 4, 77];
        for subset in [Subset::new(memory, &some), Subset::new(file, &some)] {
            let subset = Source::File(&subset);
            assert_eq!(subset.rows(), 4);
            assert_eq!(subset.gather(&[2, 0], &mut a).unwrap().data(), memory.gather(&[4, 1200], &mut b).unwrap().data());
        }
    }
}
