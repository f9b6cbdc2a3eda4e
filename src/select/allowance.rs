//! What a selector may keep of the rows that it is given.

use super::meter::Meter;

/// A budget, and what each row takes of it: one row, or the bytes or tokens of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    budget: u64,
    /// What each row takes; `None` where each takes one.
    sizes: Option<Vec<u64>>,
}

impl Allowance {
    /// So many rows.
    #[must_use]
    pub fn of_rows(budget: u64) -> Self {
        Self { budget, sizes: None }
    }

    /// So much of what the rows take, which is said for each of them.
    #[must_use]
    pub fn of_sizes(budget: u64, sizes: Vec<u64>) -> Self {
        Self { budget, sizes: Some(sizes) }
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// What a row takes.
    #[must_use]
    pub fn takes(&self, row: u32) -> u64 {
        self.sizes.as_ref().map_or(1, |sizes| sizes[row as usize])
    }

    /// The most rows out of `rows` that may be kept, whichever they are: those that take least.
    #[must_use]
    pub fn most(&self, rows: usize) -> usize {
        match &self.sizes {
            None => usize::try_from(self.budget).map_or(rows, |budget| budget.min(rows)),
            Some(sizes) => {
                let mut sizes = sizes.clone();
                sizes.sort_unstable();
                let mut meter = Meter::new(self.budget);
                sizes.into_iter().take_while(|size| meter.offer(*size)).count()
            }
        }
    }

    /// How many rows at the beginning of a ranking may be kept: all before the first that does not fit.
    #[must_use]
    pub fn beginning(&self, ranking: &[u32]) -> usize {
        let mut fits = self.fits();
        ranking.iter().take_while(|row| fits(**row)).count()
    }

    /// Says of the rows of a ranking, one after the other, whether they may be kept.
    pub fn fits(&self) -> impl FnMut(u32) -> bool {
        let mut meter = Meter::new(self.budget);
        move |row| meter.offer(self.takes(row))
    }

    /// What the rows of each of `count` cells take together.
    #[must_use]
    pub fn held(&self, cells: &[u32], count: usize) -> Vec<u64> {
        let mut held = vec![0; count];
        cells.iter().zip(0..).for_each(|(cell, row)| held[*cell as usize] += self.takes(row));
        held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_ranking_keeps_more_than_the_most(sizes in prop::collection::vec(0_u64..9, 0..8), budget in 0_u64..40, turn in 0_usize..8) {
            let rows = sizes.len();
            let mut ranking: Vec<u32> = (0..rows as u32).collect();
            if rows > 0 {
                ranking.rotate_left(turn % rows);
            }
            let by_size = Allowance::of_sizes(budget, sizes.clone());
            let sum = |set: u32| (0..rows).filter(|row| set >> row & 1 == 1).map(|row| sizes[row]).sum::<u64>();
            let best = (0_u32..1 << rows).filter(|set| sum(*set) <= budget).map(u32::count_ones).max().unwrap() as usize;
            prop_assert_eq!(by_size.most(rows), best);
            let kept = by_size.beginning(&ranking);
            let taken = |end: usize| ranking[..end].iter().map(|row| sizes[*row as usize]).sum::<u64>();
            prop_assert!(kept <= best && taken(kept) <= budget && (kept == rows || taken(kept + 1) > budget));
            let by_row = Allowance::of_rows(budget);
            prop_assert_eq!((by_row.most(rows), by_row.beginning(&ranking)), (rows.min(budget as usize), rows.min(budget as usize)));
        }
    }

    #[test]
    fn cells_hold_what_their_rows_take() {
        assert_eq!(Allowance::of_sizes(0, vec![3, 4, 5]).held(&[1, 0, 1], 3), [4, 8, 0]);
        assert_eq!(Allowance::of_rows(0).held(&[1, 0, 1], 3), [1, 2, 0]);
    }
}
