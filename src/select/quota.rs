//! How a budget is divided among groups: whole numbers with an exact total, none above a group's size.

/// Whole numbers near `shares` whose total is `total`: each is rounded down, and what is missing goes to those of largest remainder, ties
/// to the first (Hamilton's method); none goes above its `most`. The shares should add up to `total`.
#[must_use]
pub fn largest_remainder(shares: &[f64], most: &[u64], total: u64) -> Vec<u64> {
    let mut quotas: Vec<u64> = shares.iter().zip(most).map(|(share, most)| (share.max(0.0).floor() as u64).min(*most)).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| shares[*b].rem_euclid(1.0).total_cmp(&shares[*a].rem_euclid(1.0)));
    let mut left = total.min(most.iter().sum()).saturating_sub(quotas.iter().sum());
    // Rounding of the shares themselves may leave more than one round.
    while left > 0 {
        for group in &order {
            if left > 0 && quotas[*group] < most[*group] {
                quotas[*group] += 1;
                left -= 1;
            }
        }
    }
    quotas
}

/// The point of a box with a given total that is nearest to `wanted`: `clip(wanted + lambda, least, most)`, with the one `lambda` that gives
/// the total, found by bisection (the Euclidean projection that quotas with bounds are; no solver is needed). The total is
/// brought between the sums of the bounds first.
#[must_use]
pub fn projected(wanted: &[f64], least: &[f64], most: &[f64], total: f64) -> Vec<f64> {
    let at =
        |lambda: f64| -> Vec<f64> { (0..wanted.len()).map(|group| (wanted[group] + lambda).max(least[group]).min(most[group])).collect() };
    let total = total.max(least.iter().sum()).min(most.iter().sum());
    let far = wanted.iter().chain(most).fold(1.0_f64, |far, x| far.max(x.abs())) * 2.0;
    let (mut low, mut high) = (-far, far);
    // Until the two are neighbours among doubles.
    for _ in 0..2_000 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if at(middle).iter().sum::<f64>() < total { low = middle } else { high = middle }
    }
    at(high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn totals_are_exact_and_bounds_hold(sizes in prop::collection::vec(0_u64..40, 1..12), total in 0_u64..300) {
            let all: u64 = sizes.iter().sum();
            let shares = sizes.iter().map(|size| total.min(all) as f64 * *size as f64 / all.max(1) as f64).collect::<Vec<_>>();
            let quotas = largest_remainder(&shares, &sizes, total);
            prop_assert_eq!(quotas.iter().sum::<u64>(), total.min(all));
            for ((quota, size), share) in quotas.iter().zip(&sizes).zip(shares) {
                prop_assert!(quota <= size && (*quota as f64 - share).abs() < 1.0 + 1e-9);
            }
        }

        /// All groups that are at no bound share one lambda, and those at a bound would cross it.
        #[test]
        fn projections_meet_their_conditions(
            groups in prop::collection::vec((0.0_f64..100.0, 0.0_f64..20.0, 0.0_f64..80.0), 1..10), share in 0.0_f64..1.0,
        ) {
            let wanted: Vec<f64> = groups.iter().map(|group| group.0).collect();
            let least: Vec<f64> = groups.iter().map(|group| group.1).collect();
            let most: Vec<f64> = groups.iter().map(|group| group.1 + group.2).collect();
            let (low, high) = (least.iter().sum::<f64>(), most.iter().sum::<f64>());
            let total = low + share * (high - low);
            let found = projected(&wanted, &least, &most, total);
            prop_assert!((found.iter().sum::<f64>() - total).abs() < 1e-9 * (1.0 + total));
            let free = |group: &usize| found[*group] > least[*group] && found[*group] < most[*group];
            let lambdas: Vec<f64> = (0..groups.len()).filter(free).map(|group| found[group] - wanted[group]).collect();
            prop_assert!(lambdas.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 1e-9));
            if let Some(lambda) = lambdas.first() {
                for group in (0..groups.len()).filter(|group| !free(group)) {
                    let at = wanted[group] + lambda;
                    let beyond = if found[group] == least[group] { least[group] - at } else { at - most[group] };
                    prop_assert!(beyond >= -1e-9);
                }
            }
        }
    }
}
