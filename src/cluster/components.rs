//! One survivor for each connected component of the graph of duplicates: the first of it in keep order.
//!
//! Transitive and coarse: a chain of duplicates is dropped whole, so that the similarity to the representative may be anything.

use crate::cluster::{Dropped, Threshold, UnionFind};

/// The rule for several thresholds at once.
#[derive(Debug)]
pub struct Components {
    thresholds: Vec<Threshold>,
    sets: Vec<UnionFind>,
}

impl Components {
    /// For `rows` rows.
    #[must_use]
    pub fn new(rows: usize, thresholds: &[Threshold]) -> Self {
        Self { thresholds: thresholds.to_vec(), sets: vec![UnionFind::new(rows); thresholds.len()] }
    }

    /// Whether a pair of at most this similarity can join two components.
    #[must_use]
    pub fn wants(&self, later: u32, earlier: u32, upper: f64) -> bool {
        (0..self.thresholds.len()).any(|index| self.wants_at(index, later, earlier, upper))
    }

    /// Whether it can under the first threshold.
    #[must_use]
    pub fn wants_first(&self, later: u32, earlier: u32, upper: f64) -> bool {
        self.wants_at(0, later, earlier, upper)
    }

    fn wants_at(&self, index: usize, later: u32, earlier: u32, upper: f64) -> bool {
        let sets = &self.sets[index];
        upper >= self.thresholds[index].minimum && sets.root(later) != sets.root(earlier)
    }

    /// Takes a verified pair; pairs may come in any order.
    pub fn offer(&mut self, later: u32, earlier: u32, similarity: f64) {
        for (threshold, sets) in self.thresholds.iter().zip(&mut self.sets) {
            if threshold.accepts(similarity) {
                sets.union(later, earlier);
            }
        }
    }

    /// Closes a row; all later rows must be compared with it.
    pub fn decide(&mut self, _row: u32) -> bool {
        true
    }

    /// For each threshold and row, why it is dropped, `None` where it is kept; `similarity(row, representative)` computes what the
    /// two have in common.
    #[must_use]
    pub fn finish(self, similarity: impl Fn(u32, u32) -> f64) -> Vec<Vec<Option<Dropped>>> {
        let dropped = |sets: &UnionFind, row: u32| {
            let cause = sets.first(row);
            (cause != row).then(|| Dropped { representative: Some(cause), similarity: similarity(row, cause), cause })
        };
        self.sets.iter().map(|sets| (0..sets.len() as u32).map(|row| dropped(sets, row)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{OnEqual, pairs};

    /// Reachability by repeated passes over all pairs.
    fn plain(table: &[Vec<f64>], threshold: Threshold) -> Vec<u32> {
        let mut labels: Vec<u32> = (0..table.len() as u32).collect();
        for _ in 0..table.len() {
            for (a, row) in table.iter().enumerate() {
                for (b, similarity) in row.iter().enumerate() {
                    if threshold.accepts(*similarity) {
                        let least = labels[a].min(labels[b]);
                        (labels[a], labels[b]) = (least, least);
                    }
                }
            }
        }
        labels
    }

    proptest! {
        #[test]
        fn equals_reachability(table in pairs::tables(), minima in prop::collection::vec(0_u8..=10, 1..3)) {
            let thresholds: Vec<Threshold> =
                minima.iter().map(|tenths| Threshold::new(f64::from(*tenths) / 10.0, OnEqual::Keep)).collect();
            let mut rule = Components::new(table.len(), &thresholds);
            pairs::feed(&table, Threshold::loosest(&thresholds), &mut rule, Components::wants, Components::offer, Components::decide);
            let result = rule.finish(|row, representative| table[row as usize][representative as usize]);
            for (threshold, result) in thresholds.iter().zip(result) {
                let labels = plain(&table, *threshold);
                for (row, dropped) in result.iter().enumerate() {
                    prop_assert_eq!(dropped.map_or(row as u32, |dropped| dropped.representative.unwrap()), labels[row]);
                    prop_assert!(dropped.is_none_or(|dropped| dropped.similarity == table[row][labels[row] as usize]));
                }
            }
        }
    }
}
