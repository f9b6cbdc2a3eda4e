//! One score out of several: the weighted mean of criteria that were judged apart.
//!
//! As MDCure scores synthetic instructions (Liu et al. 2024): six criteria, those on how documents are joined weigh twice.

/// The weighted mean of the values that are there, each moved to another scale first; `None` if one is missing and `partial` is false, or
/// if those that are there weigh nothing.
///
/// `weights` has a number of at least 0 for each of `values`; they need not sum to 1.
#[must_use]
pub fn mean(values: &[Option<f64>], weights: &[f64], scale: Scale, partial: bool) -> Option<f64> {
    if !partial && values.iter().any(Option::is_none) {
        return None;
    }
    let there = || values.iter().zip(weights).filter_map(|(value, weight)| Some(((*value)?, *weight)));
    let all: f64 = there().map(|(_, weight)| weight).sum();
    let sum: f64 = there().map(|(value, weight)| weight * scale.apply(value)).sum();
    (all > 0.0).then(|| sum / all)
}

/// A linear map of scales: `from` becomes `to`, end by end; what lies outside goes on in a straight line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The ends of the scale that values come in; they differ.
    pub from: [f64; 2],
    /// The ends of the scale that they are moved to.
    pub to: [f64; 2],
}

impl Scale {
    /// Leaves values as they are.
    pub const NONE: Self = Self { from: [0.0, 1.0], to: [0.0, 1.0] };

    /// The value on the other scale.
    #[must_use]
    pub fn apply(self, value: f64) -> f64 {
        if self.from == self.to {
            return value;
        }
        let [low, high] = self.from;
        self.to[0] + (value - low) * (self.to[1] - self.to[0]) / (high - low)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MDCURE: [f64; 6] = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0];
    const ONE_TO_FIVE: Scale = Scale { from: [0.0, 1.0], to: [1.0, 5.0] };

    /// Seeds S15: weights of a ninth and two ninths, raw scores mapped by 4 s + 1.
    #[test]
    fn scores_of_mdcure() {
        let score = |raw: [f64; 6]| mean(&raw.map(Some), &MDCURE, ONE_TO_FIVE, false).unwrap();
        assert!((score([0.5, 0.5, 0.5, 1.0, 1.0, 1.0]) - 13.0 / 3.0).abs() < 1e-12);
        assert!((score([1.0, 1.0, 1.0, 0.5, 0.5, 0.5]) - 11.0 / 3.0).abs() < 1e-12);
        assert!((score([0.0; 6]) - 1.0).abs() < 1e-12 && (score([1.0; 6]) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn a_missing_criterion_leaves_no_score_or_the_mean_of_the_others() {
        let values = [Some(1.0), None, Some(4.0)];
        assert_eq!(mean(&values, &[1.0, 5.0, 2.0], Scale::NONE, false), None);
        assert_eq!(mean(&values, &[1.0, 5.0, 2.0], Scale::NONE, true), Some(3.0));
        assert_eq!(mean(&[None, None], &[1.0, 1.0], Scale::NONE, true), None);
        assert_eq!(mean(&[Some(2.0), None], &[0.0, 1.0], Scale::NONE, true), None, "what is there weighs nothing");
    }

    #[test]
    fn scales_may_be_turned_round() {
        let turned = Scale { from: [0.0, 10.0], to: [5.0, 0.0] };
        assert_eq!([0.0, 10.0, 4.0, 12.0].map(|value| turned.apply(value)), [5.0, 0.0, 3.0, -1.0]);
    }

    proptest! {
        /// By definition: the weights are normalised over the criteria that are there, then values are mapped and summed.
        #[test]
        fn equals_the_definition(
            criteria in prop::collection::vec((prop::option::of(-5.0_f64..5.0), 0.0_f64..3.0), 1..6),
            to in (-3.0_f64..3.0, -3.0_f64..3.0),
            partial: bool,
        ) {
            let (values, weights): (Vec<Option<f64>>, Vec<f64>) = criteria.into_iter().unzip();
            let scale = Scale { from: [-1.0, 4.0], to: [to.0, to.1] };
            let total: f64 = values.iter().zip(&weights).filter(|(value, _)| value.is_some()).map(|(_, weight)| weight).sum();
            let mut wanted = 0.0;
            for (value, weight) in values.iter().zip(&weights) {
                let share = value.map(|value| (value + 1.0) / 5.0);
                wanted += share.map_or(0.0, |share| weight / total * ((1.0 - share) * to.0 + share * to.1));
            }
            let missing = values.iter().any(Option::is_none);
            match mean(&values, &weights, scale, partial) {
                Some(found) => prop_assert!((found - wanted).abs() < 1e-9 && (partial || !missing)),
                None => prop_assert!((missing && !partial) || total <= 0.0),
            }
        }
    }
}
