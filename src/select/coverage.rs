//! Which of several scores tells the rows of a cluster apart, and a sample that covers that score.
//!
//! Adapt-infinity (Maharana et al., Adapt-∞: Scalable Lifelong Multimodal Instruction Tuning via Dynamic Data Selection, 2024): in each
//! cluster the score of greatest entropy chooses. Coverage-centric sampling is of Zheng et al. 2023.

use super::Meter;
use super::allocation::divide;

/// How far from the mean, in standard deviations, the histogram of a score reaches.
const REACH: f64 = 4.0;

/// The Shannon entropy, in bits, of the histogram of the standardised values: `bins` bins of equal width from -4 to 4 standard deviations.
/// What lies beyond is in no bin. A score that is constant says nothing: 0.
#[must_use]
pub fn entropy(values: &[f64], bins: usize) -> f64 {
    let (mean, deviation) = moments(values);
    if deviation <= 0.0 || !deviation.is_finite() {
        return 0.0;
    }
    let mut counts = vec![0_u64; bins];
    for value in values {
        let place = ((value - mean) / deviation + REACH) / (2.0 * REACH) * bins as f64;
        if (0.0..=bins as f64).contains(&place) {
            counts[(place as usize).min(bins - 1)] += 1;
        }
    }
    let all = counts.iter().sum::<u64>() as f64;
    -counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / all).map(|share| share * share.log2()).sum::<f64>()
}

/// Mean and standard deviation (divided by the number of values); zeros where there are none.
#[must_use]
pub fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The places of the values that coverage-centric sampling chooses among, in rising order: all but the `floor(trim rows)` highest and
/// lowest values. Ties at a cut are broken by draw, then by place.
#[must_use]
pub fn open(values: &[f64], draws: &[u64], trim: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then((draws[*a], *a).cmp(&(draws[*b], *b))));
    let tail = (trim * values.len() as f64).floor() as usize;
    order.truncate(order.len().saturating_sub(tail));
    order.drain(..tail.min(order.len()));
    order.sort_unstable();
    order
}

/// Coverage-centric sampling of values that are [`open`]: the places of those kept, in rising order.
///
/// The range of the values is cut into `bins` strata of equal width, or into as many as the budget has rows of mean size, so that few rows
/// cover the range as well. Strata get equal parts of the budget, which counts rows by their `sizes`; what a small one cannot use goes
/// to the others, and a rest to the highest ones. Inside a stratum those with the smallest `draws` are taken, up to the first that does
/// not fit; what all strata leave goes to the smallest draws of all, again until one does not fit. Ties are broken by place.
#[must_use]
pub fn strata(values: &[f64], draws: &[u64], sizes: &[u64], budget: u64, bins: usize) -> Vec<usize> {
    let (high, low) = values.iter().fold((f64::NEG_INFINITY, f64::INFINITY), |(high, low), x| (high.max(*x), low.min(*x)));
    let all: u64 = sizes.iter().sum();
    let rows = if all > 0 { u128::from(budget) * values.len() as u128 / u128::from(all) } else { 0 };
    let bins = bins.min(usize::try_from(rows).unwrap_or(usize::MAX)).max(1);
    let mut strata = vec![Vec::new(); bins];
    for (place, value) in values.iter().enumerate() {
        let stratum = if high > low { (high - value) / (high - low) * bins as f64 } else { 0.0 };
        strata[(stratum as usize).min(bins - 1)].push(place);
    }
    let held: Vec<u64> = strata.iter().map(|stratum| stratum.iter().map(|place| sizes[*place]).sum()).collect();
    let (mut taken, mut left, mut used) = (Vec::new(), Vec::new(), 0);
    for (mut stratum, part) in strata.into_iter().zip(divide(&held, &vec![1.0; bins], budget)) {
        stratum.sort_unstable_by_key(|place| (draws[*place], *place));
        let mut meter = Meter::new(part);
        let (fit, rest): (Vec<usize>, Vec<usize>) = stratum.into_iter().partition(|place| meter.offer(sizes[*place]));
        taken.extend(fit);
        left.extend(rest);
        used += meter.used();
    }
    left.sort_unstable_by_key(|place| (draws[*place], *place));
    let mut rest = Meter::new(budget.saturating_sub(used));
    taken.extend(left.into_iter().take_while(|place| rest.offer(sizes[*place])));
    taken.sort_unstable();
    taken
}

/// The places of a ranking of `rows` rows from its middle outwards: the first `n` are those that leave `floor((rows - n) / 2)` before them.
pub fn outwards(rows: usize) -> impl Iterator<Item = usize> {
    (1..=rows).map(move |n| {
        let first = (rows - n) / 2;
        let grown_below = n == 1 || first < (rows - (n - 1)) / 2;
        if grown_below { first } else { first + n - 1 }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// Seeds S8: a linear ramp of 1,000 values 4.4573 bits, a normal sample about 4.65, a constant 0.
    #[test]
    fn entropies_of_known_shapes() {
        let ramp: Vec<f64> = (0..1000).map(f64::from).collect();
        assert!((entropy(&ramp, 50) - 4.4573).abs() < 5e-5, "{}", entropy(&ramp, 50));
        let mut draws = Random::new(1, "entropy").sequence(b"normal");
        let normal: Vec<f64> =
            (0..1000).map(|_| (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()).collect();
        assert!((entropy(&normal, 50) - 4.65).abs() < 0.06, "{}", entropy(&normal, 50));
        assert_eq!(entropy(&[3.0; 50], 50), 0.0);
        assert_eq!(entropy(&[], 50), 0.0);
        // A scale moves nothing.
        let scaled: Vec<f64> = normal.iter().map(|value| 7.0 - 300.0 * value).collect();
        assert!((entropy(&normal, 50) - entropy(&scaled, 50)).abs() < 0.05);
    }

    /// By definition, value by value.
    fn plain(values: &[f64], draws: &[u64], budget: usize, bins: usize, trim: f64) -> Vec<usize> {
        let cut = (trim * values.len() as f64) as usize;
        let bins = if budget < bins { budget.max(1) } else { bins };
        let mut open: Vec<usize> = (0..values.len()).collect();
        for _ in 0..cut {
            let highest =
                open.iter().copied().min_by(|a, b| values[*b].total_cmp(&values[*a]).then(draws[*a].cmp(&draws[*b])).then(a.cmp(b)));
            open.retain(|row| Some(*row) != highest);
        }
        for _ in 0..cut {
            let lowest =
                open.iter().copied().max_by(|a, b| values[*b].total_cmp(&values[*a]).then(draws[*a].cmp(&draws[*b])).then(a.cmp(b)));
            open.retain(|row| Some(*row) != lowest);
        }
        let (low, high) = open.iter().fold((f64::MAX, f64::MIN), |(low, high), row| (low.min(values[*row]), high.max(values[*row])));
        let stratum = |row: usize| {
            let place = if high > low { (high - values[row]) / (high - low) * bins as f64 } else { 0.0 };
            (place.floor() as usize).min(bins - 1)
        };
        // One row after the other goes to the stratum that has fewest, highest first.
        let mut taken: Vec<usize> = Vec::new();
        while taken.len() < budget.min(open.len()) {
            let held = |of: usize| taken.iter().filter(|row| stratum(**row) == of).count();
            let free =
                |of: usize| open.iter().filter(|row| stratum(**row) == of && !taken.contains(row)).min_by_key(|row| (draws[**row], **row));
            let next = (0..bins).filter(|of| free(*of).is_some()).min_by_key(|of| (held(*of), *of)).and_then(free);
            taken.push(*next.unwrap());
        }
        taken.sort_unstable();
        taken
    }

    fn sample(values: &[f64], draws: &[u64], budget: u64, bins: usize, trim: f64) -> Vec<usize> {
        let places = open(values, draws, trim);
        let (of, own): (Vec<f64>, Vec<u64>) = places.iter().map(|place| (values[*place], draws[*place])).unzip();
        let mut taken: Vec<usize> =
            strata(&of, &own, &vec![1; places.len()], budget, bins).into_iter().map(|place| places[place]).collect();
        taken.sort_unstable();
        taken
    }

    /// Three strata hold 12, 40 and 8 bytes: what the small ones cannot use goes to the other, where one row fits. 20 bytes are one row of mean
    /// size, and one stratum.
    #[test]
    fn strata_are_given_bytes() {
        let (values, draws, sizes) = ([9.0, 9.0, 5.0, 5.0, 1.0], [1, 0, 1, 0, 0], [7, 5, 20, 20, 8]);
        assert_eq!(strata(&values, &draws, &sizes, 40, 3), [0, 1, 3, 4]);
        assert_eq!(strata(&values, &draws, &sizes, 20, 3), [1]);
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            rows in prop::collection::vec((0_u8..30, 0_u64..9), 0..40),
            budget in 0_usize..45,
            bins in 1_usize..7,
            trim in prop::sample::select(vec![0.0, 0.05, 0.2]),
        ) {
            let (values, draws): (Vec<f64>, Vec<u64>) = rows.into_iter().map(|(value, draw)| (f64::from(value), draw)).unzip();
            let taken = sample(&values, &draws, budget as u64, bins, trim);
            prop_assert_eq!(taken.len(), budget.min(open(&values, &draws, trim).len()));
            prop_assert_eq!(taken, plain(&values, &draws, budget, bins, trim));
            let middle: Vec<usize> = outwards(values.len()).take(budget).collect();
            let from = (values.len() - budget.min(values.len())) / 2;
            let mut sorted = middle.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (from..from + middle.len()).collect::<Vec<_>>());
        }
    }

    /// Seeds S8: every stratum that holds a row is represented, and the trimmed tails are absent.
    #[test]
    fn strata_are_covered_and_tails_are_left_out() {
        let values: Vec<f64> = (0..1000).map(|row| (f64::from(row) / 1000.0).powi(4)).collect();
        let draws: Vec<u64> = (0..1000_u64).map(|row| row.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        let taken = sample(&values, &draws, 100, 50, 0.05);
        assert_eq!(taken.len(), 100);
        assert!(taken.iter().all(|row| (50..950).contains(row)));
        let (low, high) = (values[50], values[949]);
        let stratum = |row: usize| (((high - values[row]) / (high - low) * 50.0) as usize).min(49);
        let found: std::collections::BTreeSet<usize> = taken.iter().map(|row| stratum(*row)).collect();
        let all: std::collections::BTreeSet<usize> = (50..950).map(stratum).collect();
        assert_eq!(found, all);
    }
}
