//! The star rule: in keep order, a row is dropped if and only if a row already kept is within the threshold.
//!
//! Survivors are pairwise apart, and every dropped row has a representative that was kept: the most similar of the kept rows before
//! it, ties to the first in keep order.

use crate::cluster::{Dropped, Threshold, nearer};

/// The rule for several thresholds at once, each with kept rows of its own.
#[derive(Debug)]
pub struct Star {
    thresholds: Vec<Threshold>,
    /// For each threshold and row the most similar kept row offered so far. A decided row without one is kept.
    best: Vec<Vec<Option<(u32, f64)>>>,
    /// Of the rows of earlier increments that each row behind them is within the first threshold of: one, or that there are more.
    met: Vec<Met>,
    incumbents: u32,
}

/// Rows of earlier increments that a row is near to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    None,
    One(u32),
    Several,
}

impl Star {
    /// For `rows` rows.
    #[must_use]
    pub fn new(rows: usize, thresholds: &[Threshold]) -> Self {
        Self { thresholds: thresholds.to_vec(), best: vec![vec![None; rows]; thresholds.len()], met: Vec::new(), incumbents: 0 }
    }

    /// The first `incumbents` rows were kept by earlier increments; counts the rows that are near to several of them.
    #[must_use]
    pub fn with_incumbents(mut self, incumbents: usize) -> Self {
        if incumbents > 0 {
            self.incumbents = incumbents as u32;
            self.met = vec![Met::None; self.best.first().map_or(0, Vec::len)];
        }
        self
    }

    /// How many rows would have joined rows that were kept apart before: those within the first threshold of more than one incumbent.
    #[must_use]
    pub fn bridges(&self) -> u64 {
        self.met.iter().filter(|met| **met == Met::Several).count() as u64
    }

    /// Whether a pair of at most this similarity can change what is known of `later`. `earlier` has been decided.
    #[must_use]
    pub fn wants(&self, later: u32, earlier: u32, upper: f64) -> bool {
        (0..self.thresholds.len()).any(|index| self.wants_at(index, later, earlier, upper)) || self.may_meet(later, earlier, upper)
    }

    fn may_meet(&self, later: u32, earlier: u32, upper: f64) -> bool {
        earlier < self.incumbents
            && later >= self.incumbents
            && self.thresholds.first().is_some_and(|threshold| upper >= threshold.minimum)
            && self.met[later as usize] != Met::Several
    }

    /// Whether it can under the first threshold.
    #[must_use]
    pub fn wants_first(&self, later: u32, earlier: u32, upper: f64) -> bool {
        self.wants_at(0, later, earlier, upper)
    }

    fn wants_at(&self, index: usize, later: u32, earlier: u32, upper: f64) -> bool {
        let best = &self.best[index];
        upper >= self.thresholds[index].minimum
            && best[earlier as usize].is_none()
            && best[later as usize].is_none_or(|(_, highest)| upper >= highest)
    }

    /// Takes a verified pair. `earlier` has been decided; pairs may come in any order.
    pub fn offer(&mut self, later: u32, earlier: u32, similarity: f64) {
        if self.may_meet(later, earlier, similarity) && self.thresholds.first().is_some_and(|threshold| threshold.accepts(similarity)) {
            let met = &mut self.met[later as usize];
            *met = match *met {
                Met::None => Met::One(earlier),
                Met::One(of) if of == earlier => Met::One(of),
                Met::One(_) | Met::Several => Met::Several,
            };
        }
        for (threshold, best) in self.thresholds.iter().zip(&mut self.best) {
            if threshold.accepts(similarity) && best[earlier as usize].is_none() {
                best[later as usize] = nearer(best[later as usize], earlier, similarity);
            }
        }
    }

    /// Closes a row; `true` if it is kept under some threshold, so that later rows must be compared with it.
    pub fn decide(&mut self, row: u32) -> bool {
        self.best.iter().any(|best| best[row as usize].is_none())
    }

    /// For each threshold and row, why it is dropped; `None` where it is kept. All rows have been decided.
    #[must_use]
    pub fn finish(self) -> Vec<Vec<Option<Dropped>>> {
        let dropped = |(cause, similarity)| Dropped { representative: Some(cause), similarity, cause };
        self.best.into_iter().map(|best| best.into_iter().map(|nearest| nearest.map(dropped)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{OnEqual, pairs};

    /// The definition, for one threshold.
    fn plain(table: &[Vec<f64>], threshold: Threshold) -> Vec<Option<Dropped>> {
        let mut result: Vec<Option<Dropped>> = Vec::new();
        for row in table {
            let mut found: Option<Dropped> = None;
            for (earlier, &similarity) in row.iter().enumerate() {
                let kept = result[earlier].is_none();
                if kept && threshold.accepts(similarity) && found.is_none_or(|found| similarity > found.similarity) {
                    found = Some(Dropped { representative: Some(earlier as u32), similarity, cause: earlier as u32 });
                }
            }
            result.push(found);
        }
        result
    }

    proptest! {
        /// Counting bridges changes no decision, and counts what it says.
        #[test]
        fn bridges_are_rows_near_to_several_incumbents(table in pairs::tables(), minimum in 0_u8..=10, incumbents in 0_usize..6) {
            let threshold = Threshold::new(f64::from(minimum) / 10.0, OnEqual::Drop);
            let incumbents = incumbents.min(table.len());
            // Incumbents are kept, whatever they are like.
            let apart: Vec<Vec<f64>> = table.iter().enumerate().map(|(row, of)| if row < incumbents { vec![-1.0; of.len()] } else { of.clone() }).collect();
            let mut star = Star::new(table.len(), &[threshold]).with_incumbents(incumbents);
            pairs::feed(&apart, threshold.minimum(), &mut star, Star::wants, Star::offer, Star::decide);
            let near = |row: &&Vec<f64>| row[..incumbents].iter().filter(|similarity| threshold.accepts(**similarity)).count() > 1;
            prop_assert_eq!(star.bridges(), apart[incumbents..].iter().filter(near).count() as u64);
            prop_assert_eq!(&star.finish()[0], &plain(&apart, threshold));
        }

        #[test]
        fn equals_the_definition_for_each_threshold(table in pairs::tables(), minima in prop::collection::vec(0_u8..=10, 1..4)) {
            let on_equal = |index: usize| if index.is_multiple_of(2) { OnEqual::Drop } else { OnEqual::Keep };
            let thresholds: Vec<Threshold> =
                minima.iter().enumerate().map(|(index, tenths)| Threshold::new(f64::from(*tenths) / 10.0, on_equal(index))).collect();
            let mut star = Star::new(table.len(), &thresholds);
            pairs::feed(&table, Threshold::loosest(&thresholds), &mut star, Star::wants, Star::offer, Star::decide);
            for (threshold, result) in thresholds.iter().zip(star.finish()) {
                prop_assert_eq!(&result, &plain(&table, *threshold));
                let kept = |row: u32| result[row as usize].is_none();
                for (later, dropped) in result.iter().enumerate() {
                    match dropped {
                        // Covered: by a kept row, within the threshold.
                        Some(dropped) => {
                            let representative = dropped.representative.unwrap();
                            prop_assert!(kept(representative) && threshold.accepts(table[later][representative as usize]));
                        }
                        // Apart: from every kept row.
                        None => prop_assert!((0..later).all(|earlier| !kept(earlier as u32) || !threshold.accepts(table[later][earlier]))),
                    }
                }
            }
        }
    }
}
