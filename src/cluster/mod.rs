//! Rules that turn similar pairs into decisions, and the orders in which rows are visited.
//!
//! Every rule is a small state machine over positions in keep order: `wants` says whether a pair can still matter, `offer` takes a
//! verified pair, `decide` closes a row (all its pairs with earlier rows have been offered) and says whether later rows still have
//! to be compared with it. Rules hold no vectors and no texts, so that semantic and near duplicates are decided by the same code.

pub mod any_earlier;
pub mod bucket;
pub mod components;
pub mod listed;
pub mod representative;
pub mod star;
pub mod union_find;

pub use any_earlier::AnyEarlier;
pub use bucket::{Bounds, Buckets, Cuts, Effort, Rule, Similarity, compare_in_buckets};
pub use components::Components;
pub use listed::Listed;
pub use representative::Keep;
pub use star::Star;
pub use union_find::UnionFind;

/// What becomes of a pair whose similarity is exactly the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEqual {
    /// It is no duplicate (SemDeDup's released code).
    Keep,
    /// It is one (NeMo Curator).
    Drop,
}

/// From which similarity on two rows are duplicates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    minimum: f64,
    on_equal: OnEqual,
}

impl Threshold {
    /// Similarities above `minimum` are duplicates, `minimum` itself as `on_equal` says.
    #[must_use]
    pub fn new(minimum: f64, on_equal: OnEqual) -> Self {
        Self { minimum, on_equal }
    }

    /// A threshold on 1 - similarity.
    #[must_use]
    pub fn epsilon(epsilon: f64, on_equal: OnEqual) -> Self {
        Self::new(1.0 - epsilon, on_equal)
    }

    /// No similarity below makes a duplicate.
    #[must_use]
    pub fn minimum(&self) -> f64 {
        self.minimum
    }

    /// Whether two rows of this similarity are duplicates; NaN never is.
    #[must_use]
    pub fn accepts(&self, similarity: f64) -> bool {
        match self.on_equal {
            OnEqual::Keep => similarity > self.minimum,
            OnEqual::Drop => similarity >= self.minimum,
        }
    }

    /// The lowest minimum of several thresholds: pairs below it matter to none. Infinite if there is none.
    #[must_use]
    pub fn loosest(thresholds: &[Self]) -> f64 {
        thresholds.iter().map(Self::minimum).fold(f64::INFINITY, f64::min)
    }
}

/// Why a row is dropped; a kept row has none. Rows are positions in keep order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropped {
    /// The kept row that it duplicates. `None` for an orphan: no kept row is within the threshold (`any_earlier` alone).
    pub representative: Option<u32>,
    /// Its similarity to the representative; an orphan's, to the cause.
    pub similarity: f64,
    /// The row because of which it is dropped: the representative, but under `any_earlier` the most similar earlier row, itself
    /// perhaps dropped.
    pub cause: u32,
}

/// Of two earlier rows the more similar one, ties to the first in keep order.
fn nearer(best: Option<(u32, f64)>, row: u32, similarity: f64) -> Option<(u32, f64)> {
    match best {
        Some((first, highest)) if highest > similarity || (highest == similarity && first < row) => best,
        _ => Some((row, similarity)),
    }
}

#[cfg(test)]
pub(crate) mod pairs {
    //! Similarities of few rows as a table, and a traversal that asks for nothing but what the rules promise to need.

    use proptest::prelude::*;

    /// `table[later][earlier]`, in tenths so that ties are frequent.
    pub(crate) fn tables() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (0_usize..14).prop_flat_map(|rows| {
            (0..rows).map(|row| prop::collection::vec((0_u8..=10).prop_map(|tenths| f64::from(tenths) / 10.0), row)).collect::<Vec<_>>()
        })
    }

    /// Feeds a rule row by row, with upper bounds a little above the similarities.
    pub(crate) fn feed<R>(
        table: &[Vec<f64>],
        minimum: f64,
        rule: &mut R,
        wants: fn(&R, u32, u32, f64) -> bool,
        offer: fn(&mut R, u32, u32, f64),
        decide: fn(&mut R, u32) -> bool,
    ) {
        let mut live = Vec::new();
        for (later, row) in table.iter().enumerate() {
            for &earlier in &live {
                let similarity = row[earlier];
                if similarity >= minimum && wants(rule, later as u32, earlier as u32, similarity + 1e-3) {
                    offer(rule, later as u32, earlier as u32, similarity);
                }
            }
            if decide(rule, later as u32) {
                live.push(later);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_is_a_choice() {
        assert!(!Threshold::epsilon(0.25, OnEqual::Keep).accepts(0.75));
        assert!(Threshold::epsilon(0.25, OnEqual::Drop).accepts(0.75));
        assert!(!Threshold::new(0.0, OnEqual::Drop).accepts(f64::NAN));
        assert_eq!(Threshold::loosest(&[Threshold::new(0.9, OnEqual::Keep), Threshold::new(0.5, OnEqual::Drop)]), 0.5);
    }

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(nearer(nearer(None, 4, 0.5), 2, 0.5), Some((2, 0.5)));
        assert_eq!(nearer(Some((2, 0.5)), 4, 0.5), Some((2, 0.5)));
        assert_eq!(nearer(Some((2, 0.5)), 4, 0.6), Some((4, 0.6)));
    }
}
