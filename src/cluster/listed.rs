//! Near pairs that are known beforehand, as an index finds them, for a rule of this module.

use crate::cluster::nearer;

/// For each row, in keep order, near rows before it. The three are one table in compressed rows.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Where the pairs of each row start; one more than there are rows.
    pub starts: &'a [usize],
    /// The earlier row of each pair.
    pub earlier: &'a [u32],
    /// The similarity of each pair.
    pub similarities: &'a [f64],
}

impl<'a> Listed<'a> {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The earlier rows of `later`, with their similarities.
    pub fn of(&self, later: u32) -> impl Iterator<Item = (u32, f64)> + use<'a> {
        let range = self.starts[later as usize]..self.starts[later as usize + 1];
        self.earlier[range.clone()].iter().copied().zip(self.similarities[range].iter().copied())
    }

    /// Visits the rows in order and offers to the rule the pairs of each with live rows before it.
    pub fn follow<R>(
        &self,
        rule: &mut R,
        wants: impl Fn(&R, u32, u32, f64) -> bool,
        mut offer: impl FnMut(&mut R, u32, u32, f64),
        mut decide: impl FnMut(&mut R, u32) -> bool,
    ) {
        let mut live = vec![false; self.rows()];
        for later in 0..self.rows() as u32 {
            for (earlier, similarity) in self.of(later).filter(|(earlier, _)| live[*earlier as usize]) {
                if wants(rule, later, earlier, similarity) {
                    offer(rule, later, earlier, similarity);
                }
            }
            live[later as usize] = decide(rule, later);
        }
    }

    /// For each of `dropped` the index in `kept` of the most similar of these, wherever it stands in the order, ties to the first;
    /// `None` where no pair is listed. Both ascend, and no row is in both: what [`super::AnyEarlier::decisions`] asks.
    #[must_use]
    pub fn nearest(&self, dropped: &[u32], kept: &[u32]) -> Vec<Option<(u32, f64)>> {
        let mut best = vec![None; dropped.len()];
        for later in 0..self.rows() as u32 {
            for (earlier, similarity) in self.of(later) {
                for (row, other) in [(later, earlier), (earlier, later)] {
                    if let (Ok(place), Ok(index)) = (dropped.binary_search(&row), kept.binary_search(&other)) {
                        best[place] = nearer(best[place], index as u32, similarity);
                    }
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{AnyEarlier, Components, OnEqual, Star, Threshold, pairs};

    fn table_of(table: &[Vec<f64>], minimum: f64) -> (Vec<usize>, Vec<u32>, Vec<f64>) {
        let (mut starts, mut earlier, mut similarities) = (vec![0], Vec::new(), Vec::new());
        for row in table {
            for (place, similarity) in (0..).zip(row).filter(|(_, similarity)| **similarity >= minimum) {
                earlier.push(place);
                similarities.push(*similarity);
            }
            starts.push(earlier.len());
        }
        (starts, earlier, similarities)
    }

    proptest! {
        #[test]
        fn rules_decide_as_when_pairs_are_found_on_the_way(table in pairs::tables(), tenths in 0_u8..=10) {
            let threshold = Threshold::new(f64::from(tenths) / 10.0, OnEqual::Drop);
            let rows = table.len();
            let (starts, earlier, similarities) = table_of(&table, threshold.minimum());
            let listed = Listed { starts: &starts, earlier: &earlier, similarities: &similarities };
            let exact = |a: u32, b: u32| table[a.max(b) as usize][a.min(b) as usize];

            let (mut a, mut b) = (Star::new(rows, &[threshold]), Star::new(rows, &[threshold]));
            listed.follow(&mut a, Star::wants, Star::offer, Star::decide);
            pairs::feed(&table, threshold.minimum(), &mut b, Star::wants, Star::offer, Star::decide);
            prop_assert_eq!(a.finish(), b.finish());

            let (mut a, mut b) = (Components::new(rows, &[threshold]), Components::new(rows, &[threshold]));
            listed.follow(&mut a, Components::wants, Components::offer, Components::decide);
            pairs::feed(&table, threshold.minimum(), &mut b, Components::wants, Components::offer, Components::decide);
            prop_assert_eq!(a.finish(exact), b.finish(exact));

            let (mut a, mut b) = (AnyEarlier::new(rows), AnyEarlier::new(rows));
            listed.follow(&mut a, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            pairs::feed(&table, threshold.minimum(), &mut b, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let among = |dropped: &[u32], kept: &[u32]| -> Vec<Option<(u32, f64)>> {
                let best = |row: &u32| {
                    let near = (0..).zip(kept).map(|(index, other)| (index, exact(*row, *other)));
                    near.fold(None, |best, (index, similarity)| nearer(best, index, similarity)).filter(|best| threshold.accepts(best.1))
                };
                dropped.iter().map(best).collect()
            };
            prop_assert_eq!(a.decisions(threshold, |dropped, kept| listed.nearest(dropped, kept)), b.decisions(threshold, among));
        }
    }
}
