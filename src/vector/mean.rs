//! The mean of all vectors, and the row that lies along it.

use rayon::prelude::*;

use crate::error::Result;
use crate::vector::Source;
use crate::vector::dot::mixed;
use crate::vector::double::add_scaled;

/// The sum over all rows of what `make` writes for each, as long as a row, in double precision: rows are added up in runs of fixed
/// length, and the runs in their order, so that no thread count moves a bit.
pub fn sum(source: Source<'_>, make: impl Fn(&[f32], &mut [f64]) + Sync) -> Result<Vec<f64>> {
    let d = source.dimensions();
    let parts = source.pieces(|_, rows| {
        let (mut sum, mut one) = (vec![0.0; d], vec![0.0; d]);
        for row in 0..rows.rows() {
            make(rows.row(row), &mut one);
            add_scaled(&mut sum, 1.0, &one);
        }
        Ok(sum)
    })?;
    let mut sum = vec![0.0; d];
    for part in &parts {
        add_scaled(&mut sum, 1.0, part);
    }
    Ok(sum)
}

/// The mean of all rows; zeros where there are none.
pub fn mean(source: Source<'_>) -> Result<Vec<f64>> {
    let mut mean = sum(source, |row, out| out.iter_mut().zip(row).for_each(|(out, x)| *out = f64::from(*x)))?;
    let rows = source.rows().max(1) as f64;
    for x in &mut mean {
        *x /= rows;
    }
    Ok(mean)
}

/// Of rows of length 1 the one nearest to the mean, ties to the first; `None` where there are none.
pub fn nearest_to_mean(source: Source<'_>) -> Result<Option<u32>> {
    let mean = mean(source)?;
    let along = source.pieces(|_, rows| Ok((0..rows.rows()).map(|row| mixed(rows.row(row), &mean)).collect::<Vec<f64>>()))?.concat();
    Ok(along.par_iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map(|(row, _)| row as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::planted;
    use crate::vector::source::tests::Apart;

    #[test]
    fn means_are_those_of_plain_sums_wherever_vectors_lie() {
        let vectors = planted::vectors(1300, 7, 3);
        let source = Source::Memory(vectors.matrix());
        let found = mean(source).unwrap();
        for (i, found) in found.iter().enumerate() {
            let plain = (0..1300).map(|row| f64::from(vectors.row(row)[i])).sum::<f64>() / 1300.0;
            assert!((found - plain).abs() < 1e-15);
        }
        let along = |row: usize| vectors.row(row).iter().zip(&found).map(|(x, m)| f64::from(*x) * m).sum::<f64>();
        let nearest = (0..1300).rev().max_by(|a, b| along(*a).total_cmp(&along(*b))).unwrap() as u32;
        assert_eq!(nearest_to_mean(source).unwrap(), Some(nearest));
        let apart = Apart(vectors);
        assert_eq!(mean(Source::File(&apart)).unwrap(), found);
        assert_eq!(nearest_to_mean(Source::File(&apart)).unwrap(), Some(nearest));
    }
}
