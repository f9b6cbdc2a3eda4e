//! Choosing epsilon for a share of rows to keep (SemDeDup, section 3.4: "setting ε by the target dataset size").

use crate::error::Result;
use crate::random::Random;
use crate::vector::{Matrix, Probed, nearest_probed};

/// Rows that epsilon is chosen on: the share is then off by at most about one part in a hundred.
const SAMPLED_ROWS: usize = 2048;

/// The epsilon under which about `fraction` of the rows have no earlier row within it, among those that are looked at. That is what
/// `any_earlier` keeps; `star` keeps some more, `components` some fewer.
///
/// Rows are sampled by draws of their vectors, so that the choice is a function of the corpus. For each the similarity to the most
/// similar earlier row is found, and epsilon parts the sorted ones: what bisection over epsilon would end at.
pub(super) fn tune(probed: &Probed<'_>, fraction: f64, random: &Random) -> Result<f64> {
    let mut places = vec![0_u32; probed.order.len()];
    for (place, row) in (0..).zip(probed.order) {
        places[*row as usize] = place;
    }
    let draw = |start: usize, rows: Matrix<'_>| {
        let mut bytes = Vec::new();
        let one = |row: usize| {
            bytes.clear();
            bytes.extend(rows.row(row).iter().flat_map(|value| value.to_le_bytes()));
            (random.draw(&bytes), (start + row) as u32)
        };
        Ok((0..rows.rows()).map(one).collect::<Vec<_>>())
    };
    let mut draws = probed.source.pieces(draw)?.concat();
    let sampled = draws.len().min(SAMPLED_ROWS);
    if sampled == 0 {
        return Ok(0.0);
    }
    draws.select_nth_unstable(sampled - 1);
    let mut sample: Vec<u32> = draws[..sampled].iter().map(|(_, row)| places[*row as usize]).collect();
    sample.sort_unstable();
    let all: Vec<u32> = (0..probed.order.len() as u32).collect();
    let nearest = nearest_probed(probed, &sample, &all, -1.0, |row, column| column < row)?;
    let mut highest: Vec<f64> = nearest.into_iter().map(|found| found.map_or(-1.0, |(_, similarity)| similarity)).collect();
    highest.sort_unstable_by(f64::total_cmp);
    Ok(part(&highest, fraction))
}

/// The epsilon that lies halfway between the last similarity that is to be kept and the first that is not.
fn part(highest: &[f64], fraction: f64) -> f64 {
    let kept = (fraction * highest.len() as f64).round() as usize;
    let last = kept.checked_sub(1).and_then(|last| highest.get(last)).copied().unwrap_or(-1.0);
    let next = highest.get(kept).copied().unwrap_or(1.0);
    (1.0 - f64::midpoint(last, next)).clamp(0.0, 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::{Cells, Source, Vectors};

    #[test]
    fn epsilon_parts_the_rows() {
        assert_eq!(part(&[-1.0, 0.2, 0.5, 0.75], 0.75), 1.0 - 0.625);
        assert_eq!(part(&[-1.0, 0.2, 0.5, 0.75], 1.0), 1.0 - 0.875);
        assert_eq!(part(&[-1.0, 0.2], 0.1), 2.0);
    }

    #[test]
    fn about_the_share_has_no_earlier_row_within_it() {
        // A fan of unit vectors whose gaps grow: the most similar earlier row of each is the one before.
        let rows = 300_usize;
        let angle = |row: usize| (row * row) as f64 * 1e-5;
        let data = (0..rows).flat_map(|row| [angle(row).cos() as f32, angle(row).sin() as f32]).collect();
        let vectors = Vectors::try_new(data, 2).unwrap();
        let (order, cells): (Vec<u32>, Cells) = ((0..rows as u32).collect(), Cells::one(rows));
        let probed = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows: 0, settled: 0 };
        for fraction in [0.25, 0.5, 0.9] {
            let epsilon = tune(&probed, fraction, &Random::new(1, "t")).unwrap();
            let kept = (0..rows).filter(|row| *row == 0 || 1.0 - (angle(*row) - angle(row - 1)).cos() >= epsilon).count();
            assert!((kept as f64 / rows as f64 - fraction).abs() < 0.01, "{fraction} {kept}");
        }
    }
}
