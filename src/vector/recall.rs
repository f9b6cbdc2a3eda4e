//! How many of the near pairs a comparison of near cells looks at, measured on a sample of rows against all rows.

use crate::error::Result;
use crate::vector::bound::Bound;
use crate::vector::dot::{cosine, dot, products};
use crate::vector::flat::above;
use crate::vector::ivf::Probed;
use crate::vector::source::Source;

/// Near pairs of which one row is in the sample.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recall {
    /// All of them.
    pub pairs: u64,
    /// Those whose earlier row lies in the later row's nearest cell (its own), in the second nearest, and so on.
    pub by_rank: Vec<u64>,
}

impl Recall {
    /// Of all pairs, those that are found with `probe` cells a row.
    #[must_use]
    pub fn found(&self, probe: usize) -> u64 {
        self.by_rank.iter().take(probe).sum()
    }

    /// The share of the pairs that is found with `probe` cells a row; `None` where there is no pair.
    #[must_use]
    pub fn share(&self, probe: usize) -> Option<f64> {
        (self.pairs > 0).then(|| self.found(probe) as f64 / self.pairs as f64)
    }

    /// The sum of two parts of a sample.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.pairs += other.pairs;
        for (count, more) in self.by_rank.iter_mut().zip(&other.by_rank) {
            *count += more;
        }
        self
    }
}

/// `count` of the numbers `0..rows`, spread evenly.
#[must_use]
pub fn evenly(rows: usize, count: usize) -> Vec<u32> {
    let count = count.min(rows);
    (0..count as u64).map(|place| (place * rows as u64 / count as u64) as u32).collect()
}

/// Compares each row of `sample` with all others and shows the near pairs to `visit`: the row's place in the sample, and the other
/// row. Gives what was made of them, in parts. A pair is near if `accepts` takes its cosine, which must refuse what is below `minimum`
/// and take what is above.
pub fn sampled_pairs<T: Send>(
    source: Source<'_>,
    sample: &[u32],
    minimum: f64,
    accepts: impl Fn(f64) -> bool + Sync,
    none: impl Fn() -> T + Sync,
    visit: impl Fn(&mut T, usize, u32) + Sync,
) -> Result<Vec<T>> {
    let mut sampled = Vec::new();
    let sampled = source.gather(sample, &mut sampled)?;
    let squares: Vec<f64> = (0..sampled.rows()).map(|row| dot(sampled.row(row), sampled.row(row))).collect();
    source.pieces(|start, rows| {
        let others: Vec<f64> = (0..rows.rows()).map(|row| dot(rows.row(row), rows.row(row))).collect();
        let bound = Bound::new(rows.dimensions(), &others, &squares);
        let (cut, sure) = (bound.cut(minimum), bound.sure(minimum));
        let (mut product, mut found) = (Vec::new(), none());
        products(rows, sampled, &mut product);
        for (row, numbers) in product.chunks(sampled.rows().max(1)).enumerate() {
            above(numbers, cut, |place, number| {
                let other = (start + row) as u32;
                let exact = || cosine(dot(rows.row(row), sampled.row(place)), others[row], squares[place]);
                // A cell full of near copies has millions of pairs: the products alone settle all that lie off the border.
                if other != sample[place] && (number > sure || accepts(exact())) {
                    visit(&mut found, place, other);
                }
            });
        }
        Ok(found)
    })
}

/// How many of the near pairs of the rows `sample` (numbers of rows, not positions) are looked at.
pub fn sample_recall(probed: &Probed<'_>, sample: &[u32], minimum: f64, accepts: impl Fn(f64) -> bool + Sync) -> Result<Recall> {
    let mut places = vec![0_u32; probed.order.len()];
    for (place, row) in (0..).zip(probed.order) {
        places[*row as usize] = place;
    }
    let none = || Recall { pairs: 0, by_rank: vec![0; probed.cells.width()] };
    let visit = |found: &mut Recall, place: usize, b: u32| {
        let a = sample[place];
        let (later, earlier) = if places[a as usize] > places[b as usize] { (a, b) } else { (b, a) };
        found.pairs += 1;
        let own = probed.cells.own(earlier);
        if let Some(rank) = probed.cells.of(later).iter().position(|cell| *cell == own) {
            found.by_rank[rank] += 1;
        }
    };
    let parts = sampled_pairs(probed.source, sample, minimum, accepts, none, visit)?;
    Ok(parts.iter().fold(none(), Recall::and))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::vector::{Cells, KMeans, planted, similarity};

    #[test]
    fn the_sample_is_compared_with_all_rows() {
        let vectors = planted::vectors(1500, 8, 9);
        let model = KMeans::fit(vectors.matrix(), 30, 3, &Random::new(7, "cells")).unwrap();
        let source = Source::Memory(vectors.matrix());
        let (cells, _) = Cells::nearest(source, &model, 3, -2.0).unwrap();
        let order: Vec<u32> = (0..1500).rev().collect();
        let sample = evenly(1500, 100);
        let found =
            sample_recall(&Probed { source, order: &order, cells: &cells, block_rows: 0, settled: 0 }, &sample, 0.8, |cosine| cosine > 0.8)
                .unwrap();
        let mut wanted = Recall { pairs: 0, by_rank: vec![0; 3] };
        for a in &sample {
            for b in (0..1500).filter(|b| b != a) {
                if similarity(vectors.row(*a as usize), vectors.row(b as usize)) > 0.8 {
                    // The order is backwards: the later row is the one of smaller number.
                    let (later, earlier) = ((*a).min(b), (*a).max(b));
                    wanted.pairs += 1;
                    let rank = cells.of(later).iter().position(|cell| *cell == cells.own(earlier));
                    if let Some(rank) = rank {
                        wanted.by_rank[rank] += 1;
                    }
                }
            }
        }
        assert_eq!(found, wanted);
        assert!(found.found(1) < found.found(3) && found.found(3) <= found.pairs);
        assert_eq!((evenly(3, 9), evenly(0, 4), evenly(10, 3)), (vec![0, 1, 2], vec![], vec![0, 3, 6]));
    }
}
