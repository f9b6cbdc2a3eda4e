//! The rule of the SemDeDup paper and its released code: a row is dropped if any earlier row, kept or not, is within the threshold.
//!
//! Abbas et al., SemDeDup, 2023. One pass gives `M_j = max_{i<j} s_ij` and its row, from which every threshold follows. Survivors are
//! pairwise apart, but a dropped row may have no survivor within the threshold: an orphan.

use crate::cluster::{Dropped, Threshold, nearer};

/// The most similar earlier row of each row.
#[derive(Debug)]
pub struct AnyEarlier {
    nearest: Vec<Option<(u32, f64)>>,
}

impl AnyEarlier {
    /// For `rows` rows.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { nearest: vec![None; rows] }
    }

    /// Whether a pair of at most this similarity can change what is known of `later`.
    #[must_use]
    pub fn wants(&self, later: u32, _earlier: u32, upper: f64) -> bool {
        self.nearest[later as usize].is_none_or(|(_, highest)| upper >= highest)
    }

    /// Takes a verified pair; pairs may come in any order.
    pub fn offer(&mut self, later: u32, earlier: u32, similarity: f64) {
        self.nearest[later as usize] = nearer(self.nearest[later as usize], earlier, similarity);
    }

    /// Closes a row; all later rows must be compared with it.
    pub fn decide(&mut self, _row: u32) -> bool {
        true
    }

    /// For each row the most similar earlier one and the similarity (`ref_j`, `M_j`); `None` where none was offered.
    #[must_use]
    pub fn nearest(&self) -> &[Option<(u32, f64)>] {
        &self.nearest
    }

    /// The decisions under one threshold, `None` where a row is kept. `among(dropped, kept)` gives for each dropped row the index
    /// in `kept` and the similarity of the most similar kept row, wherever it stands in the order, ties to the first; it may leave
    /// out what is not within the threshold. Where one is, it becomes the representative; the others are orphans.
    #[must_use]
    pub fn decisions(&self, threshold: Threshold, among: impl FnOnce(&[u32], &[u32]) -> Vec<Option<(u32, f64)>>) -> Vec<Option<Dropped>> {
        let cause = |row: &u32| self.nearest[*row as usize].filter(|(_, similarity)| threshold.accepts(*similarity));
        let (dropped, kept): (Vec<u32>, Vec<u32>) = (0..self.nearest.len() as u32).partition(|row| cause(row).is_some());
        let mut result = vec![None; self.nearest.len()];
        for (row, survivor) in dropped.iter().zip(among(&dropped, &kept)) {
            result[*row as usize] = cause(row).map(|(cause, highest)| match survivor {
                Some((index, similarity)) if threshold.accepts(similarity) => {
                    Dropped { representative: Some(kept[index as usize]), similarity, cause }
                }
                _ => Dropped { representative: None, similarity: highest, cause },
            });
        }
        result
    }
}

/// Dropped rows that have no representative.
#[must_use]
pub fn orphans(decisions: &[Option<Dropped>]) -> usize {
    decisions.iter().flatten().filter(|dropped| dropped.representative.is_none()).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{OnEqual, pairs};

    fn similarity(table: &[Vec<f64>], a: u32, b: u32) -> f64 {
        table[a.max(b) as usize][a.min(b) as usize]
    }

    fn among(table: &[Vec<f64>], dropped: &[u32], kept: &[u32]) -> Vec<Option<(u32, f64)>> {
        let best = |row: &u32| {
            let mut best = None;
            for (index, other) in kept.iter().enumerate() {
                best = nearer(best, index as u32, similarity(table, *row, *other));
            }
            best
        };
        dropped.iter().map(best).collect()
    }

    proptest! {
        #[test]
        fn equals_the_definition(table in pairs::tables(), tenths in 0_u8..=10, drop in any::<bool>()) {
            let threshold = Threshold::new(f64::from(tenths) / 10.0, if drop { OnEqual::Drop } else { OnEqual::Keep });
            let mut rule = AnyEarlier::new(table.len());
            pairs::feed(&table, threshold.minimum(), &mut rule, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let result = rule.decisions(threshold, |dropped, kept| among(&table, dropped, kept));
            for (row, decision) in result.iter().enumerate() {
                let highest = table[row].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                prop_assert_eq!(decision.is_some(), threshold.accepts(highest));
                if let Some(dropped) = decision {
                    prop_assert_eq!(dropped.cause as usize, table[row].iter().position(|s| *s == highest).unwrap());
                    let kept: Vec<u32> = (0..table.len() as u32).filter(|other| result[*other as usize].is_none()).collect();
                    let near = |other: &u32| similarity(&table, row as u32, *other);
                    let best = kept.iter().rev().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|other| threshold.accepts(near(other)));
                    prop_assert_eq!(dropped.representative, best.copied());
                    prop_assert_eq!(dropped.similarity, best.map_or(highest, near));
                }
            }
        }

        /// Seeds S1, check 4: a tighter threshold keeps all that a looser one keeps.
        #[test]
        fn survivors_grow_as_the_threshold_tightens(table in pairs::tables(), a in 0_u8..=10, b in 0_u8..=10) {
            let mut rule = AnyEarlier::new(table.len());
            pairs::feed(&table, 0.0, &mut rule, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let kept = |tenths: u8| -> Vec<bool> {
                let threshold = Threshold::new(f64::from(tenths) / 10.0, OnEqual::Keep);
                rule.decisions(threshold, |dropped, kept| among(&table, dropped, kept)).iter().map(Option::is_none).collect()
            };
            prop_assert!(kept(a.min(b)).iter().zip(kept(a.max(b))).all(|(loose, tight)| !*loose || tight));
        }
    }

    #[test]
    fn an_orphan_names_its_cause_alone() {
        // 0 - 1 - 2 in a chain: 1 goes because of 0, 2 because of 1, and no kept row is near 2.
        let table = [vec![], vec![0.9], vec![0.5, 0.9]];
        let mut rule = AnyEarlier::new(3);
        pairs::feed(&table, 0.8, &mut rule, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
        let result = rule.decisions(Threshold::new(0.8, OnEqual::Keep), |dropped, kept| among(&table, dropped, kept));
        assert_eq!(result[1], Some(Dropped { representative: Some(0), similarity: 0.9, cause: 0 }));
        assert_eq!(result[2], Some(Dropped { representative: None, similarity: 0.9, cause: 1 }));
        assert_eq!(orphans(&result), 1);
    }
}
