//! Which tasks, and which rows of them, a model learns most from: selection by per-row gradients.
//!
//! TIVE (Liu et al., Less is More: High-value Data Selection for Visual Instruction Tuning, 2024). A task is worth the mean norm of its
//! rows' gradients; a row is worth its mean cosine to all gradients of its task, which is the product with their mean.

use super::allocation::divide;

/// The mean direction of the gradients of each task.
#[derive(Debug, Clone)]
pub struct Directions {
    dimensions: usize,
    sums: Vec<f64>,
    rows: Vec<u64>,
}

impl Directions {
    /// Of so many tasks, without a row yet.
    #[must_use]
    pub fn new(tasks: usize, dimensions: usize) -> Self {
        Self { dimensions, sums: vec![0.0; tasks * dimensions], rows: vec![0; tasks] }
    }

    /// Adds a gradient of unit length.
    pub fn add(&mut self, task: usize, gradient: &[f32]) {
        self.rows[task] += 1;
        let sum = &mut self.sums[task * self.dimensions..][..self.dimensions];
        sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += f64::from(*x));
    }

    /// What a row of a task is worth: its mean cosine to the gradients that were added, its own among them; from -1 to 1.
    #[must_use]
    pub fn value(&self, task: usize, gradient: &[f32]) -> f64 {
        let sum = &self.sums[task * self.dimensions..][..self.dimensions];
        sum.iter().zip(gradient).map(|(sum, x)| sum * f64::from(*x)).sum::<f64>() / self.rows[task].max(1) as f64
    }
}

/// How many rows each task gets of `total`, in proportion to what it is worth. With `repeat` a task may get more than its `sizes` has,
/// otherwise what a small task cannot use goes to the others. Tasks of value 0 get nothing unless all are.
#[must_use]
pub fn budgets(sizes: &[u64], values: &[f64], total: u64, repeat: bool) -> Vec<u64> {
    let capacity = |(size, value): (&u64, &f64)| match (size, repeat) {
        _ if *size == 0 || (*value <= 0.0 && values.iter().any(|value| *value > 0.0)) => 0,
        // More than any share of the total, so that no task is full.
        (_, true) => total.saturating_add(1),
        (size, false) => *size,
    };
    let capacities: Vec<u64> = sizes.iter().zip(values).map(capacity).collect();
    divide(&capacities, values, total)
}

/// The key by which a row of value `value` is drawn: the rows with the greatest keys are a sample without replacement in which rows are
/// drawn one after the other with probabilities in proportion to `exp(temperature value)` (Gumbel keys; Efraimidis and Spirakis 2006).
/// `unit` is uniform in [0, 1).
#[must_use]
pub fn key(value: f64, temperature: f64, unit: f64) -> f64 {
    // Half a step of the draws away from 0, whose logarithm is infinite.
    let unit = unit + f64::EPSILON / 4.0;
    temperature * value - (-unit.ln()).ln()
}

/// How often each row of a task is taken, by falling key: every row `budget / rows` times, and the first ones once more.
pub fn repeats(rows: u64, budget: u64) -> impl Fn(u64) -> u64 {
    let (each, more) = (budget.checked_div(rows).unwrap_or(0), budget.checked_rem(rows).unwrap_or(0));
    move |rank| each + u64::from(rank < more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// Seeds S7: norms 1 1 1 1 and 3 3, half of six rows: .75 and 2.25, which are one and two rows.
    #[test]
    fn tasks_get_rows_by_their_mean_norms() {
        assert_eq!(budgets(&[4, 2], &[1.0, 3.0], 3, true), [1, 2]);
        let shares: Vec<f64> = [1.0, 3.0].iter().map(|value| 3.0 * value / 4.0).collect();
        assert_eq!(shares, [0.75, 2.25]);
        // Without repeats the second task has two rows, and the rest goes to the first.
        assert_eq!(budgets(&[4, 2], &[1.0, 3.0], 5, false), [3, 2]);
        assert_eq!(budgets(&[4, 2], &[1.0, 3.0], 5, true), [1, 4]);
        assert_eq!(budgets(&[4, 2, 9], &[1.0, 0.0, 1.0], 6, false), [3, 0, 3]);
        assert_eq!(budgets(&[4, 0], &[1.0, 5.0], 6, true), [6, 0]);
    }

    #[test]
    fn rows_are_repeated_evenly_and_the_first_once_more() {
        let counts = |rows, budget| (0..rows).map(repeats(rows, budget)).collect::<Vec<_>>();
        assert_eq!(counts(3, 7), [3, 2, 2]);
        assert_eq!(counts(3, 2), [1, 1, 0]);
        assert_eq!(counts(2, 4), [2, 2]);
        assert!(counts(0, 4).is_empty());
    }

    fn unit(vector: Vec<f32>) -> Option<Vec<f32>> {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        (length > 1e-3).then(|| vector.into_iter().map(|x| x / length).collect())
    }

    proptest! {
        /// By definition: the mean over all pairs of a task. `O(n d)` in place of `O(n^2 d)`, and the same.
        #[test]
        fn values_are_mean_cosines(rows in prop::collection::vec((0_usize..3, prop::collection::vec(-1.0_f32..1.0, 4)), 1..20)) {
            let rows: Vec<(usize, Vec<f32>)> = rows.into_iter().filter_map(|(task, vector)| Some((task, unit(vector)?))).collect();
            let mut directions = Directions::new(3, 4);
            for (task, gradient) in &rows {
                directions.add(*task, gradient);
            }
            for (task, gradient) in &rows {
                let cosines: Vec<f64> = rows
                    .iter()
                    .filter(|(other, _)| other == task)
                    .map(|(_, other)| gradient.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
                    .collect();
                let wanted = cosines.iter().sum::<f64>() / cosines.len() as f64;
                prop_assert!((directions.value(*task, gradient) - wanted).abs() < 1e-9);
            }
        }

        #[test]
        fn repeats_add_up_to_the_budget(rows in 1_u64..30, budget in 0_u64..100) {
            prop_assert_eq!((0..rows).map(repeats(rows, budget)).sum::<u64>(), budget);
        }
    }

    /// Of three rows one is drawn as often as its weight says, and none is drawn twice.
    #[test]
    fn keys_draw_by_the_exponential_of_the_value() {
        let random = Random::new(5, "tive");
        let values = [0.9_f64, 0.1, -0.5];
        for temperature in [0.0, 2.0] {
            let mut first = [0.0; 3];
            let trials = 20_000_u32;
            for trial in 0..trials {
                let mut draws = random.sequence(&trial.to_le_bytes());
                let keys = values.map(|value| key(value, temperature, draws.unit()));
                first[(0..3).max_by(|a, b| keys[*a].total_cmp(&keys[*b])).unwrap()] += 1.0 / f64::from(trials);
            }
            let weights = values.map(|value| (temperature * value).exp());
            for (share, weight) in first.iter().zip(weights) {
                let wanted = weight / weights.iter().sum::<f64>();
                assert!((share - wanted).abs() < 0.015, "{temperature} {share} {wanted}");
            }
        }
        // A temperature that is large enough leaves nothing to chance.
        assert!(key(0.2, 1e6, 0.0) > key(0.1, 1e6, 1.0 - f64::EPSILON));
        assert!(key(0.0, 1.0, 0.0).is_finite());
    }

    /// Seeds S7: rows that agree with their task outrank one across it.
    #[test]
    fn a_row_across_its_task_is_worth_least() {
        let rows: Vec<[f32; 2]> = vec![[1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [0.0, 1.0]];
        let mut directions = Directions::new(1, 2);
        for row in &rows {
            directions.add(0, row);
        }
        let values: Vec<f64> = rows.iter().map(|row| directions.value(0, row)).collect();
        assert!(values[..3].iter().all(|value| *value > values[3]), "{values:?}");
    }
}
