//! A share of some rows, in whole rows.

/// How many of `rows` the share `fraction`, from 0 to 1, is: rounded to the nearest whole number, halves up.
#[must_use]
pub fn share(fraction: f64, rows: u64) -> u64 {
    ((fraction * rows as f64).round().max(0.0) as u64).min(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact() {
        assert_eq!(share(0.5, 5), 3);
        assert_eq!(share(0.1, 4), 0);
        assert_eq!(share(1.0, 7), 7);
        assert_eq!(share(0.8, 0), 0);
    }
}
