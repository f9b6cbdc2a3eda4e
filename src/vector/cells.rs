//! The cells of a k-means that each row lies in and near: which rows an inverted file compares.
//!
//! A near pair may stand on both sides of a border, so a row is compared with the rows of its own cell and of the nearest others
//! (Jégou et al., Product Quantization for Nearest Neighbor Search, 2011, section 4: "multiple assignment" of the query). Of those
//! it needs no cell that lies too far behind its border to hold a near row: see [`Cells::nearest`].

use rayon::prelude::*;

use crate::error::Result;
use crate::vector::bound::Bound;
use crate::vector::dot::{cosine, dot, products};
use crate::vector::source::Source;
use crate::vector::{KMeans, Matrix, Rows};

/// Rows of one blocked product with the centroids, and centroids of it.
const BLOCK: usize = 512;
/// Stands where a row has fewer cells than there is room for.
const NONE: u32 = u32::MAX;
/// Rounding errors of a bound on cosines are far below.
const SLACK: f64 = 1e-9;
/// Two centroids that are nearer (squared) have no border that single precision could place.
const APART: f64 = 1e-6;

/// For each row its own cell and the nearest others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    /// How many cells there are.
    count: usize,
    /// Cells a row at most.
    width: usize,
    /// For each row `width` cells, its own first, then by nearness.
    nearest: Vec<u32>,
}

impl Cells {
    /// All rows in one cell.
    #[must_use]
    pub fn one(rows: usize) -> Self {
        Self { count: 1, width: 1, nearest: vec![0; rows] }
    }

    /// For each row the cell of highest cosine and up to `width - 1` others by descending cosine, ties to the lowest; and its cosine
    /// with its own centroid. A row without direction lies in cell 0 with NaN.
    ///
    /// A cell is left out of these if it cannot hold a row within `minimum`. With unit vectors x in the cell of a and y in that of b,
    /// the plane that halves the angle of a and b has x on one side, at the distance h = (x·a - x·b) / |a - b|, and y on the other.
    /// So x·y is at most the product of their parts in that plane, which is at most sqrt(1 - h²).
    pub fn nearest(source: Source<'_>, model: &KMeans, width: usize, minimum: f64) -> Result<(Self, Vec<f64>)> {
        let centroids = model.centroids().matrix();
        let width = width.clamp(1, centroids.rows().max(1));
        let mut cells = vec![NONE; source.rows() * width];
        let mut similarities = vec![f64::NAN; source.rows()];
        let choice = Choice { centroids, squares: Rows::all(centroids).squares(), width, minimum };
        cells.par_chunks_mut(BLOCK * width).zip(similarities.par_chunks_mut(BLOCK)).enumerate().try_for_each_init(
            || (Vec::new(), Vec::new()),
            |(buffer, product), (index, (cells, similarities))| {
                let rows = source.run(index * BLOCK..index * BLOCK + similarities.len(), buffer)?;
                choice.fill(rows, product, cells, similarities);
                Result::Ok(())
            },
        )?;
        Ok((Self { count: centroids.rows().max(1), width, nearest: cells }, similarities))
    }

    /// How many cells there are, empty ones included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.nearest.len() / self.width
    }

    /// Cells that a row has at most.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The cell that a row lies in.
    #[must_use]
    pub fn own(&self, row: u32) -> u32 {
        self.nearest[row as usize * self.width]
    }

    /// The cell that each row lies in.
    #[must_use]
    pub fn owns(&self) -> Vec<u32> {
        self.nearest.chunks(self.width).map(|cells| cells[0]).collect()
    }

    /// The rows of each cell, in row order.
    #[must_use]
    pub fn members(&self) -> Vec<Vec<u32>> {
        let mut members = vec![Vec::new(); self.count()];
        (0..self.rows() as u32).for_each(|row| members[self.own(row) as usize].push(row));
        members
    }

    /// The cells that a row is compared with, its own first.
    #[must_use]
    pub fn of(&self, row: u32) -> &[u32] {
        let all = &self.nearest[row as usize * self.width..][..self.width];
        &all[..all.iter().position(|cell| *cell == NONE).unwrap_or(self.width)]
    }

    /// The same with at most `width` cells a row.
    #[must_use]
    pub fn narrowed(self, width: usize) -> Self {
        if width >= self.width {
            return self;
        }
        let cells = self.nearest.chunks(self.width).flat_map(|cells| &cells[..width]).copied().collect();
        Self { count: self.count, width, nearest: cells }
    }

    /// Rows in each cell.
    #[must_use]
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count];
        for cells in self.nearest.chunks(self.width) {
            sizes[cells[0] as usize] += 1;
        }
        sizes
    }
}

/// What cells are chosen by.
struct Choice<'a> {
    centroids: Matrix<'a>,
    squares: Vec<f64>,
    width: usize,
    minimum: f64,
}

/// The centroids that may be among the nearest of one row.
#[derive(Debug, Clone)]
struct Open {
    /// No product below can be of them.
    floor: f32,
    /// The highest products, at most as many as are wanted, descending.
    best: Vec<f32>,
    rivals: Vec<(u32, f32)>,
}

impl Open {
    fn take(&mut self, width: usize, bound: &Bound, cell: u32, number: f32) {
        self.rivals.push((cell, number));
        let place = self.best.partition_point(|other| *other >= number);
        if place < width {
            self.best.truncate(width - 1);
            self.best.insert(place, number);
            if self.best.len() == width {
                self.floor = self.floor.max(bound.rival(self.best[width - 1]));
            }
        }
    }
}

impl Choice<'_> {
    /// The cells of a block of rows.
    fn fill(&self, rows: Matrix<'_>, product: &mut Vec<f32>, cells: &mut [u32], similarities: &mut [f64]) {
        let squares: Vec<f64> = (0..rows.rows()).map(|row| dot(rows.row(row), rows.row(row))).collect();
        let bound = Bound::new(rows.dimensions(), &squares, &self.squares);
        let mut open = vec![Open { floor: f32::NEG_INFINITY, best: Vec::with_capacity(self.width), rivals: Vec::new() }; rows.rows()];
        for first in (0..self.centroids.rows()).step_by(BLOCK) {
            let last = self.centroids.rows().min(first + BLOCK);
            products(rows, self.centroids.run(first..last), product);
            for (open, numbers) in open.iter_mut().zip(product.chunks(last - first)) {
                for (run, part) in numbers.chunks(32).enumerate() {
                    let floor = open.floor;
                    #[expect(
                        clippy::needless_bitwise_bool,
                        reason = "without a branch for each number the comparison fills whole registers"
                    )]
                    let any = part.iter().fold(false, |any, number| any | (*number >= floor));
                    if any {
                        for (offset, number) in part.iter().enumerate() {
                            if *number >= open.floor {
                                open.take(self.width, &bound, (first + run * 32 + offset) as u32, *number);
                            }
                        }
                    }
                }
            }
        }
        let mut nearest: Vec<(f64, u32)> = Vec::new();
        for (row, (open, cells)) in open.iter().zip(cells.chunks_mut(self.width)).enumerate() {
            nearest.clear();
            for (cell, _) in open.rivals.iter().filter(|(_, number)| *number >= open.floor) {
                let cosine = cosine(dot(rows.row(row), self.centroids.row(*cell as usize)), squares[row], self.squares[*cell as usize]);
                if !cosine.is_nan() {
                    nearest.push((cosine, *cell));
                }
            }
            nearest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            nearest.truncate(self.width);
            cells[0] = 0;
            if let Some(&own) = nearest.first() {
                similarities[row] = own.0;
                let near = nearest.iter().filter(|other| other.1 == own.1 || self.may_hold(own, **other));
                for (cell, (_, near)) in cells.iter_mut().zip(near) {
                    *cell = *near;
                }
            }
        }
    }

    /// Whether the cell `other` can hold a row within the minimum of a row in the cell `own`; both with that row's cosine.
    fn may_hold(&self, own: (f64, u32), other: (f64, u32)) -> bool {
        let (a, b) = (own.1 as usize, other.1 as usize);
        let between = cosine(dot(self.centroids.row(a), self.centroids.row(b)), self.squares[a], self.squares[b]);
        let apart = 2.0 - 2.0 * between;
        if apart < APART {
            return true;
        }
        let height = (own.0 - other.0) / apart.sqrt();
        (1.0 - height * height).max(0.0).sqrt() >= self.minimum - SLACK
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::vector::source::tests::Apart;
    use crate::vector::{Vectors, planted, similarity};

    fn fitted(vectors: &Vectors, k: usize) -> KMeans {
        KMeans::fit(vectors.matrix(), k, 3, &Random::new(7, "cells")).unwrap()
    }

    #[test]
    fn the_nearest_cells_are_those_of_all_cosines() {
        // More centroids than one product takes, and centroids that are equal.
        for (rows, dimensions, k) in [(900, 12, 40), (1500, 6, 600), (40, 3, 1)] {
            let vectors = planted::vectors(rows, dimensions, 31);
            let mut centroids = fitted(&vectors, k).centroids().matrix().data().to_vec();
            centroids.extend_from_within(..dimensions);
            let model = KMeans::from_centroids(Vectors::try_new(centroids, dimensions).unwrap());
            for width in [1, 3, 9] {
                let (cells, similarities) = Cells::nearest(Source::Memory(vectors.matrix()), &model, width, -2.0).unwrap();
                for (row, similarity_of_own) in similarities.iter().enumerate().take(rows) {
                    let of = |cell: &u32| similarity(vectors.row(row), model.centroids().row(*cell as usize));
                    let mut all: Vec<u32> = (0..model.centroids().rows() as u32).collect();
                    all.sort_by(|a, b| of(b).total_cmp(&of(a)));
                    all.truncate(width);
                    assert_eq!(cells.of(row as u32), all);
                    assert_eq!((cells.own(row as u32), *similarity_of_own), (all[0], of(&all[0])));
                }
                assert_eq!(cells.clone().narrowed(1), Cells::nearest(Source::File(&Apart(vectors.clone())), &model, 1, 0.9).unwrap().0);
                assert_eq!(cells.sizes().iter().sum::<usize>(), rows);
            }
        }
    }

    #[test]
    fn a_row_without_direction_lies_in_the_first_cell() {
        let vectors = Vectors::try_new(vec![0.0, 0.0, f32::NAN, 1.0, 0.0, 2.0], 2).unwrap();
        let model = KMeans::from_centroids(Vectors::try_new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap());
        let (cells, similarities) = Cells::nearest(Source::Memory(vectors.matrix()), &model, 2, -2.0).unwrap();
        assert_eq!((cells.of(0), cells.of(1), cells.of(2)), ([0].as_slice(), [0].as_slice(), [1, 0].as_slice()));
        assert!(similarities[0].is_nan() && similarities[1].is_nan() && similarities[2] == 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// No cell that was left out holds a row within the minimum, and some are left out.
        #[test]
        fn cells_left_out_hold_no_near_row(seed in 0_u64..1000, dimensions in 2_usize..20, k in 2_usize..30, minimum in 0.3_f64..1.0) {
            let vectors = planted::vectors(300, dimensions, seed);
            let (cells, _) = Cells::nearest(Source::Memory(vectors.matrix()), &fitted(&vectors, k), k, minimum).unwrap();
            for a in 0..300_u32 {
                for b in 0..300_u32 {
                    if !cells.of(a).contains(&cells.own(b)) {
                        prop_assert!(similarity(vectors.row(a as usize), vectors.row(b as usize)) < minimum);
                    }
                }
            }
        }
    }

    #[test]
    fn far_cells_are_left_out() {
        let vectors = planted::vectors(2000, 24, 3);
        let (cells, _) = Cells::nearest(Source::Memory(vectors.matrix()), &fitted(&vectors, 40), 40, 0.98).unwrap();
        let probed: usize = (0..2000).map(|row| cells.of(row).len()).sum();
        assert!(probed < 2000 * 20, "{probed}");
    }
}
