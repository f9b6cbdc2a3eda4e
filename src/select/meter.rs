//! Takes rows in the order of their ranks until a budget is used up.

/// How far a budget is used.
///
/// The first row that does not fit closes it: what is kept is the beginning of the ranking, and a larger budget keeps all that a smaller
/// one keeps. Going on to smaller rows behind it would fill the budget to the last byte, and prefer short rows.
#[derive(Debug, Clone)]
pub struct Meter {
    budget: u64,
    used: u64,
    rank: u64,
    closed: bool,
}

impl Meter {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self { budget, used: 0, rank: 0, closed: false }
    }

    /// Offers the next row of the ranking; says whether it is kept.
    pub fn offer(&mut self, size: u64) -> bool {
        self.rank += 1;
        let after = self.used.checked_add(size).filter(|used| !self.closed && *used <= self.budget);
        match after {
            Some(used) => self.used = used,
            None => self.closed = true,
        }
        after.is_some()
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// What the kept rows use of it.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The rank of the row that was offered last, from 1.
    #[must_use]
    pub fn rank(&self) -> u64 {
        self.rank
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By definition: the longest beginning whose sum is within the budget.
    fn plain(sizes: &[u64], budget: u64) -> usize {
        (0..=sizes.len()).rev().find(|end| sizes[..*end].iter().sum::<u64>() <= budget).unwrap_or(0)
    }

    proptest! {
        #[test]
        fn keeps_the_longest_beginning_that_fits(sizes in prop::collection::vec(0_u64..9, 0..20), budget in 0_u64..80, more in 0_u64..9) {
            let kept = |budget| {
                let mut meter = Meter::new(budget);
                let kept: Vec<bool> = sizes.iter().map(|size| meter.offer(*size)).collect();
                assert_eq!(meter.used(), sizes.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(size, _)| size).sum::<u64>());
                assert_eq!(meter.rank(), sizes.len() as u64);
                kept
            };
            let found = kept(budget);
            prop_assert!(found.iter().enumerate().all(|(place, kept)| *kept == (place < plain(&sizes, budget))));
            prop_assert!(found.iter().zip(kept(budget + more)).all(|(less, more)| !less | more), "budgets are nested");
        }
    }

    #[test]
    fn a_row_that_does_not_fit_ends_the_selection() {
        let mut meter = Meter::new(10);
        assert_eq!([4, 7, 1, 0].map(|size| meter.offer(size)), [true, false, false, false]);
        assert_eq!((meter.used(), meter.rank(), meter.budget()), (4, 4, 10));
    }

    #[test]
    fn sums_do_not_overflow() {
        let mut meter = Meter::new(u64::MAX);
        assert_eq!([u64::MAX, 1].map(|size| meter.offer(size)), [true, false]);
    }
}
