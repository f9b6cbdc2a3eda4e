//! The nearest rows of each row, exactly: blocked products propose, the cosine in double precision decides.

use rayon::prelude::*;

use crate::random::Random;
use crate::vector::bound::Bound;
use crate::vector::dot::{products, similarity};
use crate::vector::{Matrix, Rows};

/// Rows of the left operand of one product.
const BLOCK: usize = 64;
/// Columns of the right operand of one product.
const COLUMNS: usize = 2048;

/// Distinct vectors of a matrix: each with how many rows have it, and the first of these rows.
///
/// They are in the order of draws keyed by their content, so that a beginning of them is a sample that depends neither on the order of
/// rows nor on threads. Two vectors with one draw of 64 bits count as equal.
#[derive(Debug)]
pub struct Distinct {
    /// All rows, those of equal vectors together, each such run in the order of the corpus.
    rows: Vec<u32>,
    /// Where each vector's rows start, and the end.
    starts: Vec<usize>,
}

impl Distinct {
    /// Finds them.
    #[must_use]
    pub fn of(vectors: Matrix<'_>, random: &Random) -> Self {
        let draw = |bytes: &mut Vec<u8>, row: u32| {
            bytes.clear();
            bytes.extend(vectors.row(row as usize).iter().flat_map(|value| value.to_le_bytes()));
            (random.draw(bytes), row)
        };
        let mut draws: Vec<(u64, u32)> = (0..vectors.rows() as u32).into_par_iter().map_init(Vec::new, draw).collect();
        draws.par_sort_unstable();
        let mut starts: Vec<usize> = (0..draws.len()).filter(|at| *at == 0 || draws[*at].0 != draws[at - 1].0).collect();
        starts.push(draws.len());
        Self { rows: draws.into_iter().map(|(_, row)| row).collect(), starts }
    }

    /// How many distinct vectors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of vector `index`.
    #[must_use]
    pub fn rows(&self, index: usize) -> &[u32] {
        &self.rows[self.starts[index]..self.starts[index + 1]]
    }
}

/// For each of the first `count` distinct vectors the `k` rows most similar to its first row, itself left out, the most similar
/// first, ties to the first in the corpus; fewer where there are fewer rows.
///
/// Of the rows of one vector only the first `k + 1` are looked at: the others would lose every tie. Time is that of `count` times
/// all other rows dot products, in memory linear in the rows. Vectors must be finite and not zero.
#[must_use]
pub fn nearest_others(vectors: Matrix<'_>, distinct: &Distinct, count: usize, k: usize) -> Vec<Vec<u32>> {
    let queries: Vec<u32> = (0..count.min(distinct.len())).map(|index| distinct.rows(index)[0]).collect();
    let mut columns: Vec<u32> = (0..distinct.len()).flat_map(|index| distinct.rows(index).iter().take(k + 1)).copied().collect();
    columns.sort_unstable();
    let (rows, columns) = (Rows::some(vectors, &queries), Rows::some(vectors, &columns));
    let bound = Bound::new(vectors.dimensions(), &rows.squares(), &columns.squares());
    let starts: Vec<usize> = (0..rows.len()).step_by(BLOCK).collect();
    let found = starts.into_par_iter().map_init(Space::default, |space, start| {
        let end = rows.len().min(start + BLOCK);
        let block = rows.block(start..end, &mut space.rows);
        let mut best: Vec<Best> =
            (start..end).map(|row| Best { query: queries[row], k, cut: f32::NEG_INFINITY, found: Vec::new() }).collect();
        for first in (0..columns.len()).step_by(COLUMNS) {
            let last = columns.len().min(first + COLUMNS);
            products(block, columns.block(first..last, &mut space.columns), &mut space.product);
            for (best, numbers) in best.iter_mut().zip(space.product.chunks(last - first)) {
                for (column, number) in numbers.iter().enumerate() {
                    if *number >= best.cut {
                        best.offer(vectors, columns.at(&[(first + column) as u32])[0], &bound);
                    }
                }
            }
        }
        best.into_iter().map(|best| best.found.into_iter().map(|(_, row)| row).collect()).collect::<Vec<_>>()
    });
    found.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// Space for one product, kept between products.
#[derive(Debug, Default)]
struct Space {
    rows: Vec<f32>,
    columns: Vec<f32>,
    product: Vec<f32>,
}

/// The best rows so far.
struct Best {
    query: u32,
    k: usize,
    /// A product below this belongs to no better row.
    cut: f32,
    /// Cosine and row, best first.
    found: Vec<(f64, u32)>,
}

impl Best {
    fn offer(&mut self, vectors: Matrix<'_>, row: u32, bound: &Bound) {
        if row == self.query {
            return;
        }
        let cosine = similarity(vectors.row(self.query as usize), vectors.row(row as usize));
        // Rows come in the order of the corpus: of equal ones the first stays in front.
        let place = self.found.partition_point(|(other, _)| *other >= cosine);
        if place < self.k {
            self.found.insert(place, (cosine, row));
            self.found.truncate(self.k);
        }
        if let Some((least, _)) = self.found.get(self.k - 1) {
            self.cut = bound.cut(*least);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::planted;

    proptest! {
        /// The oracle sorts all other rows by cosine.
        #[test]
        fn the_nearest_are_those_of_a_full_sort(rows in 1_usize..160, d in 1_usize..10, k in 1_usize..8, seed in 0_u64..100) {
            let mut data = planted::vectors(rows, d, seed).matrix().data().to_vec();
            // Many copies of one vector, some of all others of another length.
            let copy = data[..d].to_vec();
            data.chunks_mut(d).step_by(3).for_each(|row| row.copy_from_slice(&copy));
            data.chunks_mut(d).skip(1).step_by(3).for_each(|row| row.iter_mut().for_each(|x| *x *= 2.5));
            let vectors = Matrix::try_new(&data, d).unwrap();
            let distinct = Distinct::of(vectors, &Random::new(seed, "neighbours"));
            prop_assert_eq!((0..distinct.len()).map(|index| distinct.rows(index).len()).sum::<usize>(), rows);
            let found = nearest_others(vectors, &distinct, distinct.len(), k);
            for (index, found) in found.iter().enumerate() {
                let members = distinct.rows(index);
                let query = members[0];
                prop_assert!(members.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(members.iter().all(|row| vectors.row(*row as usize) == vectors.row(query as usize)));
                let cosine = |row: u32| similarity(vectors.row(query as usize), vectors.row(row as usize));
                let mut all: Vec<u32> = (0..rows as u32).filter(|row| *row != query).collect();
                all.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)).then(a.cmp(b)));
                all.truncate(k);
                prop_assert_eq!(found, &all);
            }
            prop_assert_eq!(&nearest_others(vectors, &distinct, 2, k)[..], &found[..found.len().min(2)]);
        }
    }
}
