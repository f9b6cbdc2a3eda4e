//! The most similar other row that is not too similar: rows that have to do with each other and do not repeat each other.
//!
//! The pairing of snippets of MDCure (Liu et al., MDCure: A Scalable Pipeline for Multi-Document Instruction-Following, 2024).

use rayon::prelude::*;

use crate::error::Result;
use crate::vector::steady::products;
use crate::vector::{Matrix, Source, similarity};

/// Rows whose cosines with all others are held at a time by one task.
const BLOCK: usize = 8;
/// Rows that a block is multiplied with at a time.
const PIECE: usize = 512;

/// Bytes that one task holds while it looks for partners among `rows` rows of `dimensions` numbers.
#[must_use]
pub fn task_bytes(rows: usize, dimensions: usize) -> usize {
    (BLOCK * rows + 2 * PIECE * (BLOCK + dimensions)) * size_of::<f32>()
}

/// For each of `asked`, which are rows of a source of unit vectors, the row of highest cosine below `threshold`, ties to the lowest row, and
/// that cosine; `None` where there is no other row below.
///
/// # Errors
/// Those of the source.
pub fn partners(source: Source<'_>, asked: &[u32], threshold: f64) -> Result<Vec<Option<(u32, f64)>>> {
    let found: Vec<Vec<_>> = asked.par_chunks(BLOCK).map(|block| of_block(source, block, threshold)).collect::<Result<_>>()?;
    Ok(found.concat())
}

fn of_block(source: Source<'_>, asked: &[u32], threshold: f64) -> Result<Vec<Option<(u32, f64)>>> {
    let rows = source.rows();
    // What the product of two unit vectors is off by at most: one rounding for each addition in a lane, and those of the lanes.
    let slack = (source.dimensions() as f64 / 8.0 + 12.0) * f64::from(f32::EPSILON);
    let (mut own, mut others, mut product, mut cosines) = (Vec::new(), Vec::new(), Vec::new(), vec![0.0_f32; asked.len() * rows]);
    let own = source.gather(asked, &mut own)?;
    for start in (0..rows).step_by(PIECE) {
        let piece = source.run(start..rows.min(start + PIECE), &mut others)?;
        products(own, piece, &mut product);
        for (line, part) in cosines.chunks_mut(rows).zip(product.chunks(piece.rows())) {
            line[start..][..part.len()].copy_from_slice(part);
        }
    }
    asked
        .iter()
        .enumerate()
        .map(|(place, row)| best(source, own, place, *row, &cosines[place * rows..][..rows], threshold, slack))
        .collect()
}

/// Of the rows that may be the best by `cosines`, the best by the cosine in double precision.
fn best(
    source: Source<'_>,
    own: Matrix<'_>,
    place: usize,
    row: u32,
    cosines: &[f32],
    threshold: f64,
    slack: f64,
) -> Result<Option<(u32, f64)>> {
    let others = || cosines.iter().map(|cosine| f64::from(*cosine)).zip(0..).filter(|(_, other)| *other != row);
    let surely_below = others().map(|(cosine, _)| cosine).filter(|cosine| *cosine < threshold - slack);
    let least = surely_below.fold(f64::NEG_INFINITY, f64::max) - 2.0 * slack;
    let (mut found, mut buffer) = (None, Vec::new());
    for (_, other) in others().filter(|(cosine, _)| (least..threshold + slack).contains(cosine)) {
        let cosine = similarity(own.row(place), source.row(other, &mut buffer)?);
        if cosine < threshold && found.is_none_or(|(_, best)| cosine > best) {
            found = Some((other, cosine));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::source::tests::Apart;
    use crate::vector::{Vectors, planted};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Seeds S15: never at the threshold or above; the argmax below it; none, no pair.
        #[test]
        fn partners_are_the_most_similar_rows_below(rows in 1_usize..60, d in 1_usize..20, seed in 0_u64..1000, copies in 0_usize..5) {
            let made = planted::vectors(rows, d, seed);
            let mut data: Vec<f32> = made.matrix().data().to_vec();
            for copy in 0..copies {
                let row = made.row(copy % rows).to_vec();
                data.extend(row);
            }
            let vectors = Vectors::try_new(data, d).unwrap();
            let all: Vec<u32> = (0..vectors.rows() as u32).collect();
            let cosine = |a: u32, b: u32| similarity(vectors.row(a as usize), vectors.row(b as usize));
            // Also a threshold that a pair meets to the last bit.
            for threshold in [0.7, -0.9, 1.1, cosine(0, all.len() as u32 - 1)] {
                let found = partners(Source::Memory(vectors.matrix()), &all, threshold).unwrap();
                prop_assert_eq!(&partners(Source::File(&Apart(vectors.clone())), &all, threshold).unwrap(), &found);
                for (row, found) in all.iter().zip(found) {
                    let below = all.iter().filter(|other| *other != row).map(|other| (*other, cosine(*row, *other))).filter(|(_, c)| *c < threshold);
                    let wanted = below.fold(None::<(u32, f64)>, |best, next| if best.is_none_or(|best| next.1 > best.1) { Some(next) } else { best });
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }
}
