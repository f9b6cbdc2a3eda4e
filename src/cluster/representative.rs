//! Keep policies: the order in which rows are visited. The first of several duplicates in that order is the one that stays.

/// A keep policy with the keys that it needs, one for each row in row order.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// Row order.
    First,
    /// Row order backwards.
    Last,
    /// The least typical first: descending distance (1 - cosine) to the centroid of the row's own cell.
    Hard(&'a [f64]),
    /// The most typical first: ascending distance.
    Easy(&'a [f64]),
    /// Ascending draws, keyed by content: see [`crate::random`].
    Random(&'a [u64]),
    /// By a column's rank (or a length); rows without one come last, whatever the direction.
    By {
        /// For each row its rank: a larger value has a larger one, equal values have equal ones.
        ranks: &'a [Option<u64>],
        /// The largest first.
        descending: bool,
    },
}

impl Keep<'_> {
    /// All `rows` rows in the order of the policy; ties by row order. `rows` must fit 32 bits, and keys must be given for all rows.
    #[must_use]
    pub fn order(&self, rows: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..rows as u32).collect();
        // All sorts are stable: ties stay in row order.
        match *self {
            Self::First => {}
            Self::Last => order.reverse(),
            Self::Hard(distances) => order.sort_by(|a, b| distances[*b as usize].total_cmp(&distances[*a as usize])),
            Self::Easy(distances) => order.sort_by(|a, b| distances[*a as usize].total_cmp(&distances[*b as usize])),
            Self::Random(draws) => order.sort_by_key(|row| draws[*row as usize]),
            Self::By { ranks, descending } => order.sort_by_key(|row| match ranks[*row as usize] {
                Some(rank) => (false, if descending { u64::MAX - rank } else { rank }),
                None => (true, 0),
            }),
        }
        order
    }
}

/// The rank of a number: larger numbers have larger ranks; NaN has none. Zeros are equal.
#[must_use]
pub fn rank_of_float(number: f64) -> Option<u64> {
    // Adding zero turns -0 into 0. Then the bits of positive numbers ascend, those of negative ones descend.
    let bits = (number + 0.0).to_bits();
    (!number.is_nan()).then_some(if bits >> 63 == 0 { bits | 1 << 63 } else { !bits })
}

/// The rank of an integer: larger integers have larger ranks.
#[must_use]
pub fn rank_of_integer(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_policy_orders_as_it_says_and_ties_stay_in_row_order() {
        let distances = [0.2, 0.5, 0.2, 0.1];
        assert_eq!(Keep::First.order(4), [0, 1, 2, 3]);
        assert_eq!(Keep::Last.order(4), [3, 2, 1, 0]);
        assert_eq!(Keep::Hard(&distances).order(4), [1, 0, 2, 3]);
        assert_eq!(Keep::Easy(&distances).order(4), [3, 0, 2, 1]);
        assert_eq!(Keep::Random(&[9, 1, 1, 4]).order(4), [1, 2, 3, 0]);
        let ranks = [Some(3), None, Some(7), Some(3)];
        assert_eq!(Keep::By { ranks: &ranks, descending: false }.order(4), [0, 3, 2, 1]);
        assert_eq!(Keep::By { ranks: &ranks, descending: true }.order(4), [2, 0, 3, 1]);
    }

    proptest! {
        #[test]
        fn ranks_order_like_numbers(a in any::<f64>(), b in any::<f64>(), i in any::<i64>(), j in any::<i64>()) {
            prop_assert_eq!(rank_of_float(a).zip(rank_of_float(b)).map(|(a, b)| a.cmp(&b)), a.partial_cmp(&b));
            prop_assert_eq!(rank_of_integer(i).cmp(&rank_of_integer(j)), i.cmp(&j));
        }
    }

    #[test]
    fn zeros_are_equal_and_nan_has_no_rank() {
        assert_eq!(rank_of_float(0.0), rank_of_float(-0.0));
        assert_eq!(rank_of_float(f64::NAN), None);
        assert!(rank_of_float(f64::NEG_INFINITY) < rank_of_float(f64::MIN));
    }
}
