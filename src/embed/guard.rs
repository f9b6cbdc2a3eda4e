//! What a vector must be before it is compared: finite, of the expected dimension, and of a length whose square single precision
//! can hold. Anything else is marked with a [`Status`] and never compared; its row is kept.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Below this length (2^-63) the square of the length is no normal single-precision number.
const MIN_NORM: f64 = 1.084_202_172_485_504_4e-19;
/// Above this length (2^63) the square of the length may overflow single precision.
const MAX_NORM: f64 = 9.223_372_036_854_776e18;

/// What became of one row's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// A vector that can be compared.
    Ok,
    /// The row has no text (or no supplied vector).
    Null,
    /// The text has no tokens.
    Empty,
    /// A component is NaN or infinite, or the vector is too long to be squared in single precision.
    NotFinite,
    /// The vector has no length to speak of, so no direction.
    ZeroNorm,
    /// A supplied vector has another dimension than the first one of its column.
    WrongDimension,
}

impl Status {
    /// Every status, in the order of their codes.
    pub const ALL: [Self; 6] = [Self::Ok, Self::Null, Self::Empty, Self::NotFinite, Self::ZeroNorm, Self::WrongDimension];

    /// The name under which reports and lineage count it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Null => "null",
            Self::Empty => "empty",
            Self::NotFinite => "not_finite",
            Self::ZeroNorm => "zero_norm",
            Self::WrongDimension => "wrong_dimension",
        }
    }

    /// The code that artefacts hold.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The status with this code; `None` for a code that no version wrote.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Checks a vector that a model made, and scales it to unit length if `normalize`. A vector that is not [`Status::Ok`] is set to
/// zeros, so that nothing of it can leak into a comparison.
pub fn finish(vector: &mut [f32], normalize: bool) -> Status {
    // Doubles hold the square of every finite single, and the order of this sum is the order of the components: the length does
    // not depend on how many threads or rows there are.
    let norm = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    let status = if !norm.is_finite() || norm > MAX_NORM {
        Status::NotFinite
    } else if norm < MIN_NORM {
        Status::ZeroNorm
    } else {
        Status::Ok
    };
    match status {
        Status::Ok if normalize => vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32),
        Status::Ok => {}
        _ => vector.fill(0.0),
    }
    status
}

/// Checks a vector that the user supplied, as [`finish`] does; `dimensions` is what the column's vectors must have.
pub fn check_supplied(vector: &mut [f32], dimensions: usize, normalize: bool) -> Status {
    if vector.len() == dimensions {
        finish(vector, normalize)
    } else {
        vector.fill(0.0);
        Status::WrongDimension
    }
}

/// Rounds a checked vector to half precision, to the nearest and ties to even. A component beyond the range of half precision
/// (65,504; only where vectors are not normalised) makes the vector [`Status::NotFinite`] and all its components zero; one whose
/// every component rounds to zero is [`Status::ZeroNorm`].
pub fn to_f16(vector: &[f32], out: &mut Vec<f16>) -> Status {
    let start = out.len();
    out.resize(start + vector.len(), f16::ZERO);
    let made = out.get_mut(start..).unwrap_or_default();
    made.convert_from_f32_slice(vector);
    if made.iter().any(|value| !value.is_finite()) {
        made.fill(f16::ZERO);
        return Status::NotFinite;
    }
    if made.iter().all(|value| value.to_f32() == 0.0) { Status::ZeroNorm } else { Status::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_vectors_are_marked_and_cleared() {
        let cases: [(&[f32], Status); 8] = [
            (&[3.0, 4.0], Status::Ok),
            (&[0.0, 0.0], Status::ZeroNorm),
            (&[-0.0, 1e-40], Status::ZeroNorm),
            (&[f32::NAN, 1.0], Status::NotFinite),
            (&[1.0, f32::INFINITY], Status::NotFinite),
            (&[f32::NEG_INFINITY, f32::INFINITY], Status::NotFinite),
            (&[f32::MAX, f32::MAX], Status::NotFinite),
            (&[], Status::ZeroNorm),
        ];
        for (values, expected) in cases {
            for normalize in [true, false] {
                let mut vector = values.to_vec();
                assert_eq!(finish(&mut vector, normalize), expected, "{values:?}");
                if expected != Status::Ok {
                    assert!(vector.iter().all(|value| *value == 0.0), "{values:?}");
                }
            }
        }
    }

    #[test]
    fn unit_length_is_only_made_where_it_is_asked_for() {
        let mut vector = [3.0, 4.0];
        assert_eq!(finish(&mut vector, false), Status::Ok);
        assert_eq!(vector.map(f32::to_bits), [3.0, 4.0].map(f32::to_bits));
        assert_eq!(finish(&mut vector, true), Status::Ok);
        assert_eq!(vector.map(f32::to_bits), [0.6, 0.8].map(f32::to_bits));
    }

    #[test]
    fn supplied_vectors_must_have_the_dimension_of_their_column() {
        assert_eq!(check_supplied(&mut [1.0, 2.0], 3, true), Status::WrongDimension);
        assert_eq!(check_supplied(&mut [1.0, 2.0, 2.0], 3, true), Status::Ok);
    }

    #[test]
    fn half_precision_marks_what_it_cannot_hold() {
        let mut out = Vec::new();
        assert_eq!(to_f16(&[0.6, 0.8], &mut out), Status::Ok);
        assert_eq!(to_f16(&[70_000.0, 1.0], &mut out), Status::NotFinite);
        assert_eq!(to_f16(&[1e-9, 0.0], &mut out), Status::ZeroNorm);
        assert_eq!(out.len(), 6);
        assert_eq!(out[2..4], [f16::ZERO, f16::ZERO]);
        assert!((out[0].to_f32() - 0.6).abs() < 5e-4);
    }

    #[test]
    fn codes_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        assert_eq!(Status::from_code(6), None);
    }

    proptest! {
        #[test]
        fn a_vector_that_passes_has_unit_length(mut vector in proptest::collection::vec(proptest::num::f32::ANY, 1..40)) {
            let before = vector.clone();
            let status = finish(&mut vector, true);
            prop_assert!(vector.iter().all(|value| value.is_finite()));
            let norm = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            match status {
                Status::Ok => prop_assert!((norm - 1.0).abs() < 1e-6, "norm={norm}"),
                Status::NotFinite => prop_assert!(before.iter().any(|value| !value.is_finite()) || before.iter().any(|value| value.abs() > 1e17)),
                _ => prop_assert!(before.iter().all(|value| value.abs() < 1.1e-19)),
            }
        }
    }
}
