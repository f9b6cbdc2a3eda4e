//! Rows such that each label is met by about a quota of rows that lie apart: rare labels wholly, frequent ones thinly.
//!
//! In the manner of B2NERD's reduction of labelled sets (Yang et al., Beyond Boundaries, 2024), whose own selection is not published.

use std::collections::BTreeMap;

use crate::error::Result;

/// The labels of each row, numbers below a count, each at most once in a row; and the source of each row, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    ends: Vec<usize>,
    numbers: Vec<u32>,
    sources: Vec<u32>,
}

impl Labels {
    /// Adds the next row.
    pub fn push(&mut self, labels: impl IntoIterator<Item = u32>, source: u32) {
        self.numbers.extend(labels);
        self.ends.push(self.numbers.len());
        self.sources.push(source);
    }

    /// A label among the rows of a row's source.
    fn place(&self, label: u32, row: u32) -> (u32, u32) {
        (label, self.sources[row as usize])
    }

    /// How many rows each label has in each source, where it has any.
    #[must_use]
    pub fn sizes(&self) -> BTreeMap<(u32, u32), usize> {
        let mut sizes = BTreeMap::new();
        for row in 0..self.rows() as u32 {
            self.of(row).iter().for_each(|label| *sizes.entry(self.place(*label, row)).or_insert(0) += 1);
        }
        sizes
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
        &self.numbers[start..self.ends[row]]
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
    /// How many rows of each label in each source, where there are any.
    pub counts: BTreeMap<(u32, u32), usize>,
}

impl Accepted {
    /// Accepts a row for all of its labels.
    fn add(&mut self, labels: &Labels, row: u32) {
        self.kept[row as usize] = true;
        for own in labels.of(row) {
            self.rows[*own as usize].push(row);
            *self.counts.entry(labels.place(*own, row)).or_insert(0) += 1;
        }
    }

    /// Whether a label has as many rows of a row's source as it may.
    fn full(&self, labels: &Labels, label: usize, row: u32, quota: usize) -> bool {
        self.counts.get(&labels.place(label as u32, row)).is_some_and(|count| *count >= quota)
    }
}

/// The labels from the rarest to the most frequent, ties to the lowest number.
fn by_frequency(rows: &[Vec<u32>]) -> Vec<usize> {
    let mut labels: Vec<usize> = (0..rows.len()).collect();
    labels.sort_by_key(|label| rows[*label].len());
    labels
}

/// Labels are taken from the rarest to the most frequent (ties to the lowest number), the rows of each in the order of `order`. A row is
/// accepted while its label has fewer than `quota` rows of its source, unless `near(row, accepted)` says that one of the rows accepted for any of
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
    let mut accepted = Accepted { rows: vec![Vec::new(); count], kept: vec![false; labels.rows()], counts: BTreeMap::new() };
    for label in by_frequency(&rows) {
        for row in &rows[label] {
            if accepted.kept[*row as usize] || accepted.full(labels, label, *row, quota) {
                continue;
            }
            let mut free = true;
            for own in labels.of(*row) {
                free = free && !near(*row, &accepted.rows[*own as usize])?;
            }
            if free {
                accepted.add(labels, *row);
            }
        }
    }
    Ok(accepted)
}

/// Gives the labels that [`select`] left below their quota, in the same order, the rows that are too like accepted ones after all, farthest
/// first: always the row whose highest similarity to a row accepted for any of its labels is the lowest, ties to the first in `order`. The
/// similarity is that of `nearest(row, accepted)`, the highest of several. Gives how many rows were added.
///
/// # Errors
/// Those of `nearest`.
pub fn fill(
    labels: &Labels,
    order: &[u32],
    quota: usize,
    accepted: &mut Accepted,
    mut nearest: impl FnMut(u32, &[u32]) -> Result<f64>,
) -> Result<usize> {
    let rows = labels.rows_of(accepted.rows.len(), order);
    let mut added = 0;
    for label in by_frequency(&rows) {
        let mut left: Vec<(u32, f64)> = Vec::new();
        for row in rows[label].iter().filter(|row| !accepted.kept[**row as usize] && !accepted.full(labels, label, **row, quota)) {
            let mut highest = f64::NEG_INFINITY;
            for own in labels.of(*row).iter().map(|own| &accepted.rows[*own as usize]).filter(|own| !own.is_empty()) {
                highest = highest.max(nearest(*row, own)?);
            }
            left.push((*row, highest));
        }
        // The first of equal ones: they stand in order.
        while let Some(farthest) = (0..left.len()).min_by(|a, b| left[*a].1.total_cmp(&left[*b].1)) {
            let (row, _) = left.remove(farthest);
            accepted.add(labels, row);
            added += 1;
            left.retain(|(other, _)| !accepted.full(labels, label, *other, quota));
            for (other, highest) in &mut left {
                *highest = highest.max(nearest(*other, &[row])?);
            }
        }
    }
    Ok(added)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quotas_and_distances_hold(
            rows in prop::collection::vec((prop::collection::btree_set(0_u32..6, 0..4), 0_i32..200), 0..60),
            sources in 1_u32..3,
            quota in 1_usize..8,
            reach in 0_i32..12,
        ) {
            let mut labels = Labels::default();
            for (place, (own, _)) in rows.iter().enumerate() {
                labels.push(own.iter().copied(), place as u32 % sources);
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
                for source in 0..sources {
                    let of_source: Vec<u32> = accepted.iter().copied().filter(|row| row % sources == source).collect();
                    prop_assert_eq!(found.counts.get(&(label, source)).copied().unwrap_or(0), of_source.len());
                    // Above the quota only by rows that are shared with other labels.
                    prop_assert!(of_source.iter().filter(|row| labels.of(**row).len() == 1).count() <= quota);
                    // A row of a label below its quota is left out only because it is near to an accepted one.
                    let left = |row: &u32| row % sources == source && labels.of(*row).contains(&label) && !found.kept[*row as usize];
                    for row in (0..rows.len() as u32).filter(left).filter(|_| of_source.len() < quota) {
                        prop_assert!(labels.of(row).iter().any(|other| found.rows[*other as usize].iter().any(|b| near(row, *b))));
                    }
                }
            }
        }

        #[test]
        fn what_is_filled_is_the_farthest_row_each_time(
            rows in prop::collection::vec((prop::collection::btree_set(0_u32..5, 0..4), 0_i32..40), 0..30),
            sources in 1_u32..3,
            quota in 1_usize..8,
            reach in 0_i32..20,
        ) {
            let mut labels = Labels::default();
            for (place, (own, _)) in rows.iter().enumerate() {
                labels.push(own.iter().copied(), place as u32 % sources);
            }
            let similarity = |a: u32, b: u32| -f64::from((rows[a as usize].1 - rows[b as usize].1).abs());
            let order: Vec<u32> = (0..rows.len() as u32).map(|row| (row * 7 + 3) % 31).filter(|row| (*row as usize) < rows.len()).collect();
            let order: Vec<u32> = order.iter().copied().chain((0..rows.len() as u32).filter(|row| !order.contains(row))).collect();
            let near = |row: u32, others: &[u32]| Ok(others.iter().any(|other| similarity(row, *other) > -f64::from(reach)));
            let mut found = select(&labels, 5, &order, quota, near).unwrap();
            let mut wanted = found.clone();
            let nearest = |row: u32, others: &[u32]| Ok(others.iter().map(|other| similarity(row, *other)).fold(f64::NEG_INFINITY, f64::max));
            let added = fill(&labels, &order, quota, &mut found, nearest).unwrap();
            // By definition: all rows are looked at anew for each one that is added.
            let size = |label: &u32| order.iter().filter(|row| labels.of(**row).contains(label)).count();
            let mut by_size: Vec<u32> = (0..5).collect();
            by_size.sort_by_key(size);
            let before = wanted.kept.iter().filter(|kept| **kept).count();
            for label in by_size {
                loop {
                    let full = |row: u32| wanted.rows[label as usize].iter().filter(|other| *other % sources == row % sources).count() >= quota;
                    let highest = |row: u32| {
                        let shares = |other: &u32| labels.of(row).iter().any(|own| labels.of(*other).contains(own));
                        let kept = (0..rows.len() as u32).filter(|other| wanted.kept[*other as usize]).filter(shares);
                        kept.map(|other| similarity(row, other)).fold(f64::NEG_INFINITY, f64::max)
                    };
                    let left = order.iter().copied().filter(|row| !wanted.kept[*row as usize] && labels.of(*row).contains(&label) && !full(*row));
                    let Some(row) = left.min_by(|a, b| highest(*a).total_cmp(&highest(*b))) else { break };
                    wanted.add(&labels, row);
                }
            }
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(added, found.kept.iter().filter(|kept| **kept).count() - before);
            // Every label has its quota, or all of its rows.
            for label in 0..5 {
                for source in 0..sources {
                    let of_source = |rows: &[u32]| rows.iter().copied().filter(|row| row % sources == source).collect::<Vec<u32>>();
                    let all = of_source(&order).into_iter().filter(|row| labels.of(*row).contains(&label)).count();
                    prop_assert_eq!(labels.sizes().get(&(label, source)).copied().unwrap_or(0), all);
                    let accepted = of_source(&found.rows[label as usize]);
                    prop_assert!(accepted.len() >= quota.min(all));
                    prop_assert!(accepted.iter().filter(|row| labels.of(**row).len() == 1).count() <= quota);
                }
            }
        }
    }
}
