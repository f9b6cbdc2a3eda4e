//! Rows such that each label is met by about a quota of rows that lie apart: rare labels wholly, frequent ones thinly.
//!
//! In the manner of B2NERD's reduction of labelled sets (Yang et al., Beyond Boundaries, 2024), whose own selection is not published.

use crate::error::Result;

/// The labels of each row: numbers below a count, each at most once in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    ends: Vec<usize>,
    labels: Vec<u32>,
}

impl Labels {
    /// Adds the next row.
    pub fn push(&mut self, labels: impl IntoIterator<Item = u32>) {
        self.labels.extend(labels);
        self.ends.push(self.labels.len());
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Those of a row.
    #[must_use]
    pub fn of(&self, row: u32) -> &[u32] {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.labels[start..self.ends[row]]
    }

    /// The rows of each of `count` labels, in the order of `order`, which names each row once.
    #[must_use]
    pub fn rows_of(&self, count: usize, order: &[u32]) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); count];
        for row in order {
            self.of(*row).iter().for_each(|label| rows[*label as usize].push(*row));
        }
        rows
    }
}

/// What was accepted: for each label the rows that have it, and for each row whether it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// By label.
    pub rows: Vec<Vec<u32>>,
    /// By row.
    pub kept: Vec<bool>,
}

/// Labels are taken from the rarest to the most frequent (ties to the lowest number), the rows of each in the order of `order`. A row is
/// accepted while its label has fewer than `quota` rows, unless `near(row, accepted)` says that one of the rows accepted for any of
/// its labels is too like it; it counts for all of its labels, which may so go above their quota.
///
/// # Errors
/// Those of `near`.
pub fn select(
    labels: &Labels,
    count: usize,
    order: &[u32],
    quota: usize,
    mut near: impl FnMut(u32, &[u32]) -> Result<bool>,
) -> Result<Accepted> {
    let rows = labels.rows_of(count, order);
    let mut accepted = Accepted { rows: vec![Vec::new(); count], kept: vec![false; labels.rows()] };
    let mut by_frequency: Vec<usize> = (0..count).collect();
    by_frequency.sort_by_key(|label| rows[*label].len());
    for label in by_frequency {
        for row in &rows[label] {
            if accepted.rows[label].len() >= quota {
                break;
            }
            if accepted.kept[*row as usize] {
                continue;
            }
            let mut free = true;
            for own in labels.of(*row) {
                free = free && !near(*row, &accepted.rows[*own as usize])?;
            }
            if free {
                accepted.kept[*row as usize] = true;
                labels.of(*row).iter().for_each(|own| accepted.rows[*own as usize].push(*row));
            }
        }
    }
    Ok(accepted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quotas_and_distances_hold(
            rows in prop::collection::vec((prop::collection::btree_set(0_u32..6, 0..4), 0_i32..200), 0..60),
            quota in 1_usize..8,
            reach in 0_i32..12,
        ) {
            let mut labels = Labels::default();
            for (own, _) in &rows {
                labels.push(own.iter().copied());
            }
            let near = |a: u32, b: u32| (rows[a as usize].1 - rows[b as usize].1).abs() < reach;
            let order: Vec<u32> = (0..rows.len() as u32).rev().collect();
            let found = select(&labels, 6, &order, quota, |row, others| Ok(others.iter().any(|other| near(row, *other)))).unwrap();
            for label in 0..6 {
                let accepted = &found.rows[label as usize];
                let kept: Vec<u32> = (0..rows.len() as u32).filter(|row| found.kept[*row as usize] && rows[*row as usize].0.contains(&label)).collect();
                let mut sorted = accepted.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &kept);
                // No two rows of a label are near.
                for (at, a) in accepted.iter().enumerate() {
                    prop_assert!(accepted[..at].iter().all(|b| !near(*a, *b)));
                }
                // Above the quota only by rows that are shared with other labels.
                prop_assert!(accepted.iter().filter(|row| labels.of(**row).len() == 1).count() <= quota);
                // A row of a label below its quota is left out only because it is near to an accepted one.
                if accepted.len() < quota {
                    for row in (0..rows.len() as u32).filter(|row| labels.of(*row).contains(&label) && !found.kept[*row as usize]) {
                        prop_assert!(labels.of(row).iter().any(|other| found.rows[*other as usize].iter().any(|b| near(row, *b))));
                    }
                }
            }
        }
    }
}
