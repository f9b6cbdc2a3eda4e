//! How many rows a selecting stage keeps.

/// The budget as the pipeline file states it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// A share of the rows that reach the stage, in [0, 1].
    Fraction(f64),
    /// So many rows, or all if there are fewer.
    Rows(u64),
}

impl Budget {
    /// The exact number of rows kept out of `rows`: a share is rounded to the nearest whole number, halves up.
    #[must_use]
    pub fn of(&self, rows: usize) -> usize {
        match *self {
            Self::Fraction(fraction) => ((fraction * rows as f64).round().max(0.0) as usize).min(rows),
            Self::Rows(count) => usize::try_from(count).map_or(rows, |count| count.min(rows)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact() {
        assert_eq!(Budget::Fraction(0.5).of(5), 3);
        assert_eq!(Budget::Fraction(0.1).of(4), 0);
        assert_eq!(Budget::Fraction(1.0).of(7), 7);
        assert_eq!(Budget::Fraction(0.8).of(0), 0);
        assert_eq!(Budget::Rows(3).of(10), 3);
        assert_eq!(Budget::Rows(u64::MAX).of(10), 10);
    }
}
