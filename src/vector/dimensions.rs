//! Which dimensions to keep: Infinite Feature Selection (Roffo, Melzi and Cristani, Infinite Feature Selection, ICCV 2015).
//!
//! Dimensions are the nodes of a graph; an edge is heavy where two of them vary much and correlate little. With `A` its weights, the
//! score of a dimension is the weight of all walks that start there, of any length `l`, each damped by `r^l`: the row sums of
//! `(1 - r A)^-1`. `A` is symmetric, so that its eigenvalues give both the largest `r` for which the sum exists and the sum itself.
//!
//! The released code scales `A` twice and so damps long walks to nothing; here `r` is `damping / rho(A)`. A walk score does not by itself
//! drop a twin, for two equal dimensions have equal walks: [`without_twins`] does.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::Result;
use crate::random::Random;
use crate::vector::double::dot;
use crate::vector::eigen::symmetric;

/// The distinct vectors of smallest draw, each with the number of rows that have it: a sample that depends neither on the order of
/// rows nor on threads, taken in one pass.
#[derive(Debug)]
pub struct Sample {
    random: Random,
    limit: usize,
    drawn: BTreeMap<u64, (Vec<f32>, u64)>,
}

impl Sample {
    /// Of at most `limit` vectors.
    #[must_use]
    pub fn new(limit: usize, random: Random) -> Self {
        Self { random, limit, drawn: BTreeMap::new() }
    }

    /// Looks at the next row. Two vectors with one draw of 64 bits count as equal.
    pub fn push(&mut self, row: &[f32]) {
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        let draw = self.random.draw(&bytes);
        if self.drawn.len() == self.limit && self.drawn.last_key_value().is_some_and(|(last, _)| draw > *last) {
            return;
        }
        self.drawn.entry(draw).or_insert_with(|| (row.to_vec(), 0)).1 += 1;
        if self.drawn.len() > self.limit {
            self.drawn.pop_last();
        }
    }

    /// Its numbers, dimension by dimension, and the weight of each row.
    #[must_use]
    pub fn columns(&self, dimensions: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
        let column = |i: usize| self.drawn.values().map(|(row, _)| f64::from(row[i])).collect();
        ((0..dimensions).map(column).collect(), self.drawn.values().map(|(_, count)| *count as f64).collect())
    }
}

/// What the scores are made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// The standard deviation of each dimension.
    pub deviations: Vec<f64>,
    /// Spearman's rank correlation of each two; NaN where one of them is constant.
    pub correlations: Vec<f64>,
}

impl Statistics {
    /// Of columns of numbers, each row counted as often as its weight says.
    #[must_use]
    pub fn of(columns: &[Vec<f64>], weights: &[f64]) -> Self {
        let standardised: Vec<(f64, Option<Vec<f64>>)> = columns
            .par_iter()
            .map(|column| {
                let (deviation, _) = standard(column, weights);
                (deviation, standard(&ranks(column, weights), weights).1)
            })
            .collect();
        let correlation = |(i, j): (usize, usize)| match (&standardised[i].1, &standardised[j].1) {
            (Some(a), Some(b)) => dot(a, b).clamp(-1.0, 1.0),
            _ => f64::NAN,
        };
        let n = columns.len();
        let correlations = (0..n).into_par_iter().flat_map_iter(|i| (0..n).map(move |j| (i, j))).map(correlation).collect();
        Self { deviations: standardised.into_iter().map(|(deviation, _)| deviation).collect(), correlations }
    }

    fn correlation(&self, i: usize, j: usize) -> f64 {
        self.correlations[i * self.deviations.len() + j]
    }

    /// The weights of the graph: `alpha` parts the larger deviation of the two, scaled to [0, 1], and the rest `1 - |correlation|`.
    #[must_use]
    pub fn graph(&self, alpha: f64) -> Vec<f64> {
        let n = self.deviations.len();
        let least = self.deviations.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.deviations.iter().copied().fold(0.0, f64::max);
        let weight = |(i, j): (usize, usize)| {
            let spread = if most > least { (self.deviations[i].max(self.deviations[j]) - least) / (most - least) } else { 0.0 };
            let correlation = self.correlation(i, j).abs();
            // A constant dimension correlates with nothing and adds nothing.
            alpha * spread + (1.0 - alpha) * if correlation.is_nan() { 0.0 } else { 1.0 - correlation }
        };
        (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(weight).collect()
    }
}

/// The score of each dimension: the row sums of `(1 - r A)^-1` with `r = damping / rho(A)`; all 1 for a graph without edges.
///
/// # Errors
/// Internal only: numbers that are not finite.
pub fn scores(graph: Vec<f64>, dimensions: usize, damping: f64) -> Result<Vec<f64>> {
    let eigen = symmetric(graph, dimensions)?;
    let radius = eigen.values.iter().fold(0.0_f64, |radius, value| radius.max(value.abs()));
    let r = if radius > 0.0 { damping / radius } else { 0.0 };
    let mut scores = vec![0.0; dimensions];
    for (k, value) in eigen.values.iter().enumerate() {
        let vector = eigen.vector(k);
        let sum: f64 = vector.iter().sum();
        crate::vector::double::add_scaled(&mut scores, sum / (1.0 - r * value), vector);
    }
    Ok(scores)
}

/// The dimensions, best score first, ties in their own order.
#[must_use]
pub fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|i, j| scores[*j].total_cmp(&scores[*i]).then(i.cmp(j)));
    order
}

/// Of `ranked` dimensions those that do not correlate by more than `guard` in magnitude with a better one that stays.
#[must_use]
pub fn without_twins(ranked: &[usize], statistics: &Statistics, guard: f64) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::new();
    for i in ranked {
        // A comparison with NaN is false: constant dimensions are nobody's twins.
        if !kept.iter().any(|j| statistics.correlation(*i, *j).abs() > guard) {
            kept.push(*i);
        }
    }
    kept
}

/// How many of the scores, best first, lie above the best split in two groups (two means in one dimension); all, if they are equal.
#[must_use]
pub fn two_means(sorted: &[f64]) -> usize {
    let spread = |scores: &[f64]| {
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        scores.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>()
    };
    if sorted.first() == sorted.last() {
        return sorted.len();
    }
    let inside = |split: usize| spread(&sorted[..split]) + spread(&sorted[split..]);
    (1..sorted.len()).map(|split| (split, inside(split))).min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(sorted.len(), |(split, _)| split)
}

/// The released code's number of dimensions: in a histogram of the scores with half as many bins as scores, the bins that hold more than
/// the mean of all; at least 1.
#[must_use]
pub fn histogram(sorted: &[f64]) -> usize {
    let bins = (sorted.len() / 2).max(1);
    let (Some(most), Some(least)) = (sorted.first(), sorted.last()) else { return 0 };
    let mut counts = vec![0_usize; bins];
    for score in sorted {
        let place = if most > least { (score - least) / (most - least) * bins as f64 } else { 0.0 };
        counts[(place as usize).min(bins - 1)] += 1;
    }
    counts.iter().filter(|count| **count * bins > sorted.len()).count().max(1)
}

/// The weighted standard deviation, and the numbers centred, each times the root of its weight, scaled to length 1; none if constant.
fn standard(numbers: &[f64], weights: &[f64]) -> (f64, Option<Vec<f64>>) {
    let total: f64 = weights.iter().sum();
    let mean = dot(numbers, weights) / total;
    if numbers.iter().all(|x| Some(x) == numbers.first()) {
        return (0.0, None);
    }
    let centred: Vec<f64> = numbers.iter().zip(weights).map(|(x, weight)| (x - mean) * weight.sqrt()).collect();
    let length = dot(&centred, &centred).sqrt();
    if length == 0.0 {
        return (0.0, None);
    }
    (length / total.sqrt(), Some(centred.into_iter().map(|x| x / length).collect()))
}

/// The rank of each number among all rows, equal ones at the mean of their ranks.
fn ranks(numbers: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    // -0 and 0 are equal.
    order.sort_by(|i, j| (numbers[*i] + 0.0).total_cmp(&(numbers[*j] + 0.0)));
    let mut ranks = vec![0.0; numbers.len()];
    let mut before = 0.0;
    for equal in order.chunk_by(|i, j| numbers[*i] == numbers[*j]) {
        let count: f64 = equal.iter().map(|i| weights[*i]).sum();
        for i in equal {
            ranks[*i] = before + f64::midpoint(count, 1.0);
        }
        before += count;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::planted::normal;

    fn columns(rows: usize, n: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut draws = Random::new(seed, "dimensions").sequence(b"columns");
        let common: Vec<f64> = (0..rows).map(|_| normal(&mut draws)).collect();
        let mut column = |i: usize| {
            let (share, scale) = (draws.unit(), 0.2 + i as f64 / 3.0);
            // Rounded, so that there are ties.
            common.iter().map(|x| ((share * x + (1.0 - share) * normal(&mut draws)) * scale * 8.0).round() / 8.0).collect::<Vec<f64>>()
        };
        (0..n).map(&mut column).collect()
    }

    /// Spearman's correlation by the definition: ranks counted one by one, then Pearson's formula.
    fn spearman(a: &[f64], b: &[f64]) -> f64 {
        let rank = |x: &[f64]| -> Vec<f64> {
            x.iter()
                .map(|v| x.iter().filter(|o| *o < v).count() as f64 + f64::midpoint(x.iter().filter(|o| *o == v).count() as f64, 1.0))
                .collect()
        };
        let (a, b) = (rank(a), rank(b));
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(&a), mean(&b));
        let sum = |x: &[f64], mx: f64, y: &[f64], my: f64| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>();
        sum(&a, ma, &b, mb) / (sum(&a, ma, &a, ma) * sum(&b, mb, &b, mb)).sqrt()
    }

    proptest! {
        #[test]
        fn statistics_are_those_of_the_definition(rows in 2_usize..40, n in 1_usize..6, seed in 0_u64..200) {
            let once = columns(rows, n, seed);
            // A weight is a number of copies.
            let weights: Vec<f64> = (0..rows).map(|row| (1 + row % 3) as f64).collect();
            let found = Statistics::of(&once, &weights);
            let copied: Vec<Vec<f64>> =
                once.iter().map(|column| column.iter().zip(&weights).flat_map(|(x, w)| vec![*x; *w as usize]).collect()).collect();
            for i in 0..n {
                let mean = copied[i].iter().sum::<f64>() / copied[i].len() as f64;
                let deviation = (copied[i].iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / copied[i].len() as f64).sqrt();
                prop_assert!((found.deviations[i] - deviation).abs() < 1e-12);
                for j in 0..n {
                    let (ours, plain) = (found.correlation(i, j), spearman(&copied[i], &copied[j]));
                    prop_assert!((ours - plain).abs() < 1e-10 || (ours.is_nan() && plain.is_nan()), "{ours} {plain}");
                }
            }
        }

        /// The scores solve the linear system, and are the sum of the walks up to length 200.
        #[test]
        fn scores_are_sums_over_walks(n in 1_usize..12, alpha in 0.0_f64..=1.0, damping in 0.1_f64..0.92, seed in 0_u64..200) {
            let graph = Statistics::of(&columns(60, n, seed), &[1.0; 60]).graph(alpha);
            let found = scores(graph.clone(), n, damping).unwrap();
            let radius = symmetric(graph.clone(), n).unwrap().values.iter().fold(0.0_f64, |radius, value| radius.max(value.abs()));
            let r = if radius > 0.0 { damping / radius } else { 0.0 };
            let times = |x: &[f64]| -> Vec<f64> { graph.chunks(n).map(|row| r * row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>()).collect() };
            for (score, walked) in found.iter().zip(times(&found)) {
                prop_assert!((score - walked - 1.0).abs() < 1e-10);
            }
            let (mut walks, mut term) = (vec![1.0; n], vec![1.0; n]);
            for _ in 0..200 {
                term = times(&term);
                walks.iter_mut().zip(&term).for_each(|(sum, term)| *sum += term);
            }
            // What is left is a geometric series: at .92, 6e-8 of the first term times 12.
            prop_assert!(found.iter().zip(&walks).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {walks:?}");
        }

        #[test]
        fn scores_move_with_their_dimensions(n in 2_usize..8, seed in 0_u64..200) {
            let columns = columns(50, n, seed);
            let turned: Vec<Vec<f64>> = (0..n).map(|i| columns[(i + 1) % n].clone()).collect();
            let score = |columns: &[Vec<f64>]| scores(Statistics::of(columns, &[1.0; 50]).graph(0.5), n, 0.9).unwrap();
            let (plain, turned) = (score(&columns), score(&turned));
            prop_assert!((0..n).all(|i| (turned[i] - plain[(i + 1) % n]).abs() < 1e-10));
        }

        /// The oracle tries every split with the plain formula.
        #[test]
        fn two_means_is_the_best_split(mut scores in prop::collection::vec(0.0_f64..10.0, 2..30)) {
            scores.sort_by(|a, b| b.total_cmp(a));
            let cost = |split: usize| {
                let part = |part: &[f64]| part.iter().map(|x| x * x).sum::<f64>() - part.iter().sum::<f64>().powi(2) / part.len() as f64;
                part(&scores[..split]) + part(&scores[split..])
            };
            let best = (1..scores.len()).map(cost).fold(f64::INFINITY, f64::min);
            prop_assert!(cost(two_means(&scores)) <= best + 1e-9);
        }
    }

    #[test]
    fn twins_rank_together_and_the_guard_drops_one() {
        // Four that know nothing of each other, then the last twice.
        let mut columns: Vec<Vec<f64>> = (0..4).map(|seed| columns(200, 1, seed).remove(0)).collect();
        columns[3].iter_mut().for_each(|x| *x *= 4.0);
        columns[0] = columns[3].clone();
        let statistics = Statistics::of(&columns, &[1.0; 200]);
        let found = scores(statistics.graph(0.5), 4, 0.9).unwrap();
        let order = ranked(&found);
        // Both have the largest deviation, and the walks of one are those of the other.
        assert!(
            (found[0] - found[3]).abs() < 1e-12 && {
                let mut first = order[..2].to_vec();
                first.sort_unstable();
                first == [0, 3]
            }
        );
        let kept = without_twins(&order, &statistics, 0.95);
        assert!(kept.len() == 3 && kept.contains(&0) != kept.contains(&3), "{kept:?}");
        assert_eq!(without_twins(&order, &statistics, 1.0), order);
    }

    #[test]
    fn a_constant_dimension_ranks_last() {
        let mut columns = columns(100, 5, 2);
        columns[2] = vec![0.25; 100];
        let statistics = Statistics::of(&columns, &[1.0; 100]);
        assert!(statistics.deviations[2] == 0.0 && statistics.correlation(2, 1).is_nan());
        for alpha in [1.0, 0.5, 0.0] {
            let order = ranked(&scores(statistics.graph(alpha), 5, 0.9).unwrap());
            assert_eq!(order[4], 2, "alpha {alpha}");
        }
    }

    #[test]
    fn cuts_of_known_scores() {
        assert_eq!(two_means(&[9.0, 8.9, 8.8, 2.0, 1.9]), 3);
        assert_eq!((two_means(&[1.0; 4]), two_means(&[]), two_means(&[5.0])), (4, 0, 1));
        // Eight scores in four bins: 9 8.9 8.8 | | 4 | 1.1 1 1 1, a mean of two: two bins hold more.
        assert_eq!(histogram(&[9.0, 8.9, 8.8, 4.0, 1.1, 1.0, 1.0, 1.0]), 2);
        assert_eq!((histogram(&[1.0; 4]), histogram(&[])), (1, 0));
    }

    #[test]
    fn the_sample_is_that_of_the_smallest_draws_in_any_order() {
        let rows: Vec<[f32; 2]> = (0..300).map(|i| [(i % 90) as f32, 1.0]).collect();
        let take = |rows: &mut dyn Iterator<Item = &[f32; 2]>| {
            let mut sample = Sample::new(20, Random::new(1, "dims"));
            rows.for_each(|row| sample.push(row));
            sample.columns(2)
        };
        let (columns, weights) = take(&mut rows.iter());
        assert_eq!((columns.clone(), weights.clone()), take(&mut rows.iter().rev()));
        // Each vector stands with all its rows: 0 to 29 are there four times, the others three times.
        assert!(columns[0].len() == 20 && columns[0].iter().zip(&weights).all(|(x, w)| *w == if *x < 30.0 { 4.0 } else { 3.0 }));
        assert_eq!(take(&mut rows[..90].iter()).0[0].len(), 20);
    }
}
