//! How a budget is divided among groups of rows, so that the parts add up to it exactly.

/// Divides `total` among groups: each gets a share in proportion to its weight, at most its size; what a small group cannot use goes to
/// the others in proportion to their weights (water-filling), and fractions are rounded by largest remainder, ties to the first
/// group. The parts add up to `total`, or are the sizes where these add up to less.
///
/// `weights` has one finite number, at least 0, for each of `sizes`; where all groups that are left weigh nothing, they weigh the same.
/// With the sizes as weights every group loses the same share; with equal weights all groups that are large enough get the same.
#[must_use]
pub fn divide(sizes: &[u64], weights: &[f64], total: u64) -> Vec<u64> {
    let mut parts = vec![0; sizes.len()];
    let mut left = total;
    let mut open: Vec<usize> = (0..sizes.len()).filter(|group| sizes[*group] > 0).collect();
    loop {
        let flat = open.iter().all(|group| weights[*group] <= 0.0);
        let weight = |group: usize| if flat { 1.0 } else { weights[group] };
        let all: f64 = open.iter().map(|group| weight(*group)).sum();
        // A share is `part / all`: products and remainders of whole numbers are exact, quotients are not.
        let part = |group: usize| left as f64 * weight(group);
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|group| part(**group) >= sizes[**group] as f64 * all);
        if full.is_empty() {
            let remainder = |group: usize| part(group) % all;
            for group in &open {
                parts[*group] = ((part(*group) - remainder(*group)) / all).round() as u64;
            }
            open.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)).then(a.cmp(b)));
            break;
        }
        for group in full {
            parts[group] = sizes[group].min(left);
            left -= parts[group];
        }
        open = rest;
    }
    let given: u64 = open.iter().map(|group| parts[*group]).sum();
    let missing = usize::try_from(left.saturating_sub(given)).unwrap_or(usize::MAX);
    for group in open.into_iter().take(missing) {
        parts[group] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By definition, in whole numbers: one unit after the other goes to the group that lies farthest below its share of what all
    /// groups that are not full would have, at the level that uses the total up.
    fn plain(sizes: &[u64], weights: &[u64], total: u64) -> Vec<u64> {
        let total = total.min(sizes.iter().sum());
        // A group is full if it is so at the level of those that are not: found by trying which groups are full, fewest first.
        let mut full = vec![false; sizes.len()];
        loop {
            let left = total - sizes.iter().zip(&full).filter(|(_, full)| **full).map(|(size, _)| size).sum::<u64>();
            let open: Vec<usize> = (0..sizes.len()).filter(|group| !full[*group] && sizes[*group] > 0).collect();
            let mut weight: Vec<u64> = weights.to_vec();
            if open.iter().all(|group| weight[*group] == 0) {
                weight.fill(1);
            }
            let all: u64 = open.iter().map(|group| weight[*group]).sum();
            let fills: Vec<usize> = open.iter().copied().filter(|group| left * weight[*group] >= sizes[*group] * all).collect();
            if fills.is_empty() {
                let mut parts: Vec<u64> = (0..sizes.len()).map(|group| if full[group] { sizes[group] } else { 0 }).collect();
                for group in &open {
                    parts[*group] = left * weight[*group] / all;
                }
                let mut order = open.clone();
                order.sort_by_key(|group| (std::cmp::Reverse(left * weight[*group] % all), *group));
                let missing = total - parts.iter().sum::<u64>();
                for group in order.iter().take(missing as usize) {
                    parts[*group] += 1;
                }
                return parts;
            }
            for group in fills {
                full[group] = true;
            }
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition_and_adds_up(
            groups in prop::collection::vec((0_u64..30, 0_u64..6), 0..8),
            total in 0_u64..150,
        ) {
            let (sizes, weights): (Vec<u64>, Vec<u64>) = groups.into_iter().unzip();
            let parts = divide(&sizes, &weights.iter().map(|weight| *weight as f64).collect::<Vec<_>>(), total);
            prop_assert_eq!(parts.iter().sum::<u64>(), total.min(sizes.iter().sum()));
            prop_assert!(parts.iter().zip(&sizes).all(|(part, size)| part <= size));
            prop_assert_eq!(parts, plain(&sizes, &weights, total));
        }

        /// Seeds S8: water-filling gives groups that are not full the same, to within the one unit of rounding.
        #[test]
        fn equal_weights_give_equal_parts(sizes in prop::collection::vec(0_u64..100, 1..8), total in 0_u64..500) {
            let parts = divide(&sizes, &vec![1.0; sizes.len()], total);
            let open: Vec<u64> = parts.iter().zip(&sizes).filter(|(part, size)| part < size).map(|(part, _)| *part).collect();
            let (least, most) = (open.iter().min(), open.iter().max());
            prop_assert!(least.zip(most).is_none_or(|(least, most)| most - least <= 1));
            // No full group has more than one that is not.
            prop_assert!(parts.iter().all(|part| least.is_none_or(|least| *part <= least + 1)));
        }
    }

    #[test]
    fn the_total_is_exact_where_rounding_up_would_miss_it() {
        // Seeds S8: rounding each part up gives 201.
        assert_eq!(divide(&[5, 50, 100, 400], &[1.0; 4], 200), [5, 50, 73, 72]);
        // Half of 3, 3 and 3 rows are 4 of 9 rows, not 3 or 6.
        assert_eq!(divide(&[3, 3, 3], &[3.0; 3], 4), [2, 1, 1]);
    }

    #[test]
    fn a_rare_group_stays_whole_under_equal_parts_and_shrinks_in_proportion() {
        // Seeds S8: a planted cluster of one percent.
        assert_eq!(divide(&[10, 490, 500], &[1.0; 3], 100), [10, 45, 45]);
        assert_eq!(divide(&[10, 490, 500], &[10.0, 490.0, 500.0], 100), [1, 49, 50]);
    }
}
