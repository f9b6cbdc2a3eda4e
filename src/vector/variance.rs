//! How far each row lies from the mean, along the directions that hold most of the variance.

use crate::error::Result;
use crate::vector::Source;
use crate::vector::double::dot;
use crate::vector::eigen::symmetric;
use crate::vector::moments::Covariance;

/// How a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The squared distance to the mean: the sum of the squares of its coordinates.
    Energy,
    /// Its share of the fit: each square divided by the sum of that coordinate's squares over all rows, in [0, 1]; all rows together
    /// have the number of directions.
    Leverage,
}

/// The measure of each row along the strongest principal directions, as few as hold the share `explained` of the variance; and how many
/// these are.
pub fn measure(source: Source<'_>, explained: f64, measure: Measure) -> Result<(Vec<f64>, usize)> {
    let Covariance { rows, mean, matrix } = Covariance::of_source(source)?;
    let d = mean.len();
    let eigen = symmetric(matrix, d)?;
    let total: f64 = eigen.values.iter().map(|value| value.max(0.0)).sum();
    // What rounding leaves of zero is no direction.
    let floor = eigen.values.first().copied().unwrap_or(0.0) * f64::EPSILON * d as f64;
    let mut held = 0.0;
    let mut axes: Vec<(Vec<f64>, f64)> = Vec::new();
    for (axis, value) in eigen.values.iter().enumerate().take_while(|(_, value)| **value > floor) {
        if held >= explained * total * (1.0 - 1e-12) {
            break;
        }
        held += value;
        let weight = match measure {
            Measure::Energy => 1.0,
            Measure::Leverage => 1.0 / (value * rows as f64),
        };
        axes.push((eigen.vector(axis).to_vec(), weight));
    }
    let directions = axes.len();
    // Along most directions the sum of squares is what all directions have, less that of the few others.
    let few = measure == Measure::Energy && 2 * directions > d;
    if few {
        axes = (directions..d).map(|axis| (eigen.vector(axis).to_vec(), -1.0)).collect();
    }
    let scores = source.pieces(|_, rows| {
        let mut centred = vec![0.0; d];
        let score = |row: usize| {
            centred.iter_mut().zip(rows.row(row)).zip(&mean).for_each(|((out, x), mean)| *out = f64::from(*x) - mean);
            let all = if few { dot(&centred, &centred) } else { 0.0 };
            (all + axes.iter().map(|(axis, weight)| weight * dot(axis, &centred).powi(2)).sum::<f64>()).max(0.0)
        };
        Ok((0..rows.rows()).map(score).collect::<Vec<f64>>())
    })?;
    Ok((scores.concat(), directions))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::source::tests::Apart;
    use crate::vector::volume::inverse;
    use crate::vector::{Vectors, planted};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn along_all_directions_both_are_what_they_are_without_eigenvectors(rows in 12_usize..80, d in 1_usize..7, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, d, seed);
            let source = Source::Memory(vectors.matrix());
            let covariance = Covariance::of(vectors.matrix());
            let inverse = inverse(&covariance.matrix, d);
            prop_assume!(inverse.is_some() && d > 1);
            let centred = |row: usize| (0..d).map(|i| f64::from(vectors.row(row)[i]) - covariance.mean[i]).collect::<Vec<_>>();
            let (energy, all) = measure(source, 1.0, Measure::Energy).unwrap();
            prop_assert_eq!(all, d);
            let (leverage, _) = measure(source, 1.0, Measure::Leverage).unwrap();
            prop_assert!((leverage.iter().sum::<f64>() - d as f64).abs() < 1e-8);
            for row in 0..rows {
                let x = centred(row);
                prop_assert!((energy[row] - dot(&x, &x)).abs() < 1e-12);
                prop_assert!((0.0..=1.0 + 1e-9).contains(&leverage[row]));
                if let Some(inverse) = &inverse {
                    let plain: f64 = (0..d).map(|i| x[i] * dot(&inverse[i * d..][..d], &x)).sum::<f64>() / rows as f64;
                    prop_assert!((leverage[row] - plain).abs() < 1e-7, "{} {plain}", leverage[row]);
                }
            }
            prop_assert_eq!(&measure(Source::File(&Apart(vectors.clone())), 1.0, Measure::Energy).unwrap().0, &energy);
            // Along few and along most directions: one square after the other.
            let eigen = symmetric(covariance.matrix.clone(), d).unwrap();
            for explained in [0.3, 0.6, 0.9] {
                let (scores, taken) = measure(source, explained, Measure::Energy).unwrap();
                for (row, score) in scores.into_iter().enumerate() {
                    let plain: f64 = (0..taken).map(|axis| dot(eigen.vector(axis), &centred(row)).powi(2)).sum();
                    prop_assert!((score - plain).abs() < 1e-9, "{explained} {score} {plain}");
                }
            }
            let (part, fewer) = measure(source, 0.6, Measure::Energy).unwrap();
            let share = |scores: &[f64]| scores.iter().sum::<f64>();
            prop_assert!(fewer <= d && share(&part) >= 0.6 * share(&energy) - 1e-9);
        }
    }

    /// Seeds S14: scores are those of the rows, whatever axes they are written in, also where some directions are left out.
    #[test]
    fn turned_axes_change_no_score() {
        let plain = planted::vectors(200, 4, 7);
        let scaled: Vec<[f64; 4]> =
            (0..200).map(|row| [0, 1, 2, 3].map(|i| f64::from(plain.row(row)[i]) * [8.0, 4.0, 2.0, 1.0][i])).collect();
        let turned = |angle: f64| {
            let (sine, cosine) = angle.sin_cos();
            let turn = |row: &[f64; 4]| {
                let mut row = *row;
                for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
                    (row[a], row[b]) = (cosine * row[a] - sine * row[b], sine * row[a] + cosine * row[b]);
                }
                row.map(|x| x as f32)
            };
            Vectors::try_new(scaled.iter().flat_map(turn).collect(), 4).unwrap()
        };
        let straight = turned(0.0);
        for measure in [Measure::Energy, Measure::Leverage] {
            for explained in [0.8, 0.95, 1.0] {
                let of = |vectors: &Vectors| super::measure(Source::Memory(vectors.matrix()), explained, measure).unwrap();
                let (wanted, directions) = of(&straight);
                assert_eq!(directions < 4, explained < 1.0);
                for angle in [0.3, 1.1, 2.9] {
                    let (found, same) = of(&turned(angle));
                    assert_eq!(same, directions);
                    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-4 * (1.0 + b.abs());
                    assert!(found.iter().zip(&wanted).all(near), "{explained} {angle}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_vary_has_no_direction() {
        let vectors = Vectors::try_new([1.0, 2.0].repeat(5), 2).unwrap();
        assert_eq!(measure(Source::Memory(vectors.matrix()), 0.95, Measure::Leverage).unwrap(), (vec![0.0; 5], 0));
    }
}
