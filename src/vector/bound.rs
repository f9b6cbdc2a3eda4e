//! How far a blocked product in single precision can be from the cosine that decides.
//!
//! A dot product of `d` terms in single precision, summed in any order, with or without fused multiply-add, is off by at most
//! `g |a| |b|` with `g = (d + 2) u / (1 - (d + 2) u)` and `u = 2^-24` (Higham, Accuracy and Stability of Numerical Algorithms,
//! section 3.1; the two spare terms cover the final scaling and the rounding of the bound itself). With all norms between `least`
//! and `most` that bounds the cosine from a product and, turned round, the product from a cosine.

/// The bounds for one pair of row sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// g times the largest product of two norms: the rounding error of one product.
    error: f64,
    /// The smallest and the largest product of a norm of the rows and one of the columns.
    least: f64,
    most: f64,
    /// The ratio of the smallest to the largest norm of the columns.
    ratio: f64,
}

/// The smallest and the largest norm, from squared norms; those that are zero or not finite are left out, for they have no cosine.
fn extremes(squares: &[f64]) -> (f64, f64) {
    let proper = || squares.iter().copied().filter(|square| square.is_finite() && *square > 0.0);
    (proper().fold(f64::INFINITY, f64::min).sqrt(), proper().fold(0.0, f64::max).sqrt())
}

impl Bound {
    /// For rows and columns with these squared norms.
    pub(super) fn new(dimensions: usize, row_squares: &[f64], column_squares: &[f64]) -> Self {
        let (row_least, row_most) = extremes(row_squares);
        let (column_least, column_most) = extremes(column_squares);
        let terms = (dimensions + 2) as f64 * 2_f64.powi(-24);
        let (least, most) = (row_least * column_least, row_most * column_most);
        Self { error: terms / (1.0 - terms) * most, least, most, ratio: column_least / column_most }
    }

    /// No pair whose product is below has a cosine of at least `minimum`.
    pub(super) fn cut(&self, minimum: f64) -> f32 {
        // Rounded towards minus infinity: the cast rounds to nearest, one step down undoes it.
        ((minimum * if minimum >= 0.0 { self.least } else { self.most } - self.error) as f32).next_down()
    }

    /// Every pair whose product is above has a cosine above `minimum`.
    pub(super) fn sure(&self, minimum: f64) -> f32 {
        let scaled = (minimum + 1e-15) * if minimum >= 0.0 { self.most } else { self.least };
        ((scaled + self.error) as f32).next_up()
    }

    /// The largest cosine that a pair with this product can have.
    pub(super) fn upper(&self, product: f32) -> f64 {
        let highest = f64::from(product) + self.error;
        // One part in 10^15 more covers the rounding of this division and of the cosine itself.
        let cosine = highest / if highest >= 0.0 { self.least } else { self.most };
        cosine + 1e-15
    }

    /// No column whose product with a row is below has a larger cosine with it than the column whose product is `best`.
    pub(super) fn rival(&self, best: f32) -> f32 {
        let best = f64::from(best);
        let scaled = if best >= 0.0 { best * self.ratio } else { best / self.ratio };
        ((scaled - 2.0 * self.error / self.ratio - 1e-15 * self.most) as f32).next_down()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::dot::{dot, products};
    use crate::vector::{Vectors, planted, similarity};

    /// Vectors of many lengths: with `spread` 0 all of length one.
    fn stretched(rows: usize, dimensions: usize, seed: u64, spread: f32) -> Vectors {
        let unit = planted::vectors(rows, dimensions, seed);
        let stretch = |(index, x): (usize, &f32)| x * (1.0 + spread * ((index / dimensions) % 7) as f32);
        Vectors::try_new(unit.matrix().data().iter().enumerate().map(stretch).collect(), dimensions).unwrap()
    }

    #[test]
    fn no_product_hides_a_pair() {
        for (dimensions, spread) in [(3, 0.0), (64, 0.0), (64, 0.3), (384, 0.0), (1000, 2.0)] {
            let (a, b) = (stretched(150, dimensions, 1, spread), stretched(150, dimensions, 1, spread));
            let squares: Vec<f64> = (0..150).map(|i| dot(a.row(i), a.row(i))).collect();
            let bound = Bound::new(dimensions, &squares, &squares);
            let mut out = Vec::new();
            products(a.matrix(), b.matrix(), &mut out);
            for i in 0..150 {
                let row = &out[i * 150..][..150];
                let cosines: Vec<f64> = (0..150).map(|j| similarity(a.row(i), b.row(j))).collect();
                let best = cosines.iter().copied().fold(f64::MIN, f64::max);
                for j in 0..150 {
                    assert!(bound.upper(row[j]) >= cosines[j], "d={dimensions} {} {}", row[j], cosines[j]);
                    assert!(row[j] >= bound.cut(cosines[j]), "d={dimensions} {} {}", row[j], cosines[j]);
                    assert!(row[j] <= bound.sure(cosines[j]), "d={dimensions} {} {}", row[j], cosines[j]);
                    if cosines[j] == best {
                        assert!(row.iter().all(|other| row[j] >= bound.rival(*other)), "d={dimensions} i={i}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_slack_stays_small_for_unit_vectors() {
        let bound = Bound::new(384, &[1.0, 1.0 + 1e-7], &[1.0 - 1e-7, 1.0]);
        assert!(0.95 - f64::from(bound.cut(0.95)) < 3e-5);
        assert!(bound.upper(0.95) - 0.95 < 3e-5);
        assert!(0.95 - bound.rival(0.95) < 6e-5);
    }

    #[test]
    fn rows_without_direction_widen_nothing() {
        let bound = Bound::new(8, &[1.0, 0.0, f64::NAN], &[1.0]);
        assert!(f64::from(bound.cut(0.5)) > 0.4999);
    }
}
