//! Facility location: rows such that every row is similar to one of them.
//!
//! The value of a set is the sum over all rows of the highest similarity to a row of the set, none below 0. It grows by less the more is
//! in the set (it is submodular), so that choosing the row of highest gain each time reaches at least 1 - 1/e of the highest value of any
//! set of that size (Nemhauser, Wolsey and Fisher, 1978); computing only gains that may be the highest: Minoux, 1978.

use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::lazy::Candidate;
use crate::error::Result;

/// Gains that are brought up to date at a time.
const BATCH: usize = 8;
/// Similarities that are held at a time, at least those of one batch.
const HELD: usize = 1 << 21;
/// From so many rows on, gains are summed by several threads.
const MANY: usize = 1 << 15;
/// Lanes of a sum: fixed, so that it has the same bits everywhere, and falls wherever a term falls.
const LANES: usize = 8;

/// The similarities of some rows among each other.
pub trait Similarities {
    /// How many rows there are.
    fn rows(&self) -> usize;
    /// The similarities of each of `candidates` to all rows, one behind the other, into `out`.
    fn fill(&self, candidates: &[u32], out: &mut Vec<f32>) -> Result<()>;
}

/// What a candidate adds to what is covered.
fn gain(similarities: &[f32], covered: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let ((whole, rest), (whole_covered, rest_covered)) = (similarities.as_chunks::<LANES>(), covered.as_chunks::<LANES>());
    for (similarity, covered) in whole.iter().zip(whole_covered) {
        for lane in 0..LANES {
            lanes[lane] += f64::from((similarity[lane] - covered[lane]).max(0.0));
        }
    }
    let rest = rest.iter().zip(rest_covered).fold(0.0, |sum, (similarity, covered)| sum + f64::from((similarity - covered).max(0.0)));
    lanes.iter().sum::<f64>() + rest
}

/// The first `keep` rows that the greedy rule chooses, each with its gain; ties to the lowest row. Gains never rise.
///
/// # Errors
/// Those of `similarities` and of `check`, which is asked now and then whether to go on.
pub fn greedy(similarities: &impl Similarities, keep: usize, check: impl Fn() -> Result<()>) -> Result<Vec<(u32, f64)>> {
    let rows = similarities.rows();
    let mut covered = vec![0.0_f32; rows];
    let mut heap = BinaryHeap::with_capacity(rows);
    let (mut batch, mut held) = (Vec::<u32>::new(), Vec::new());
    let mut chosen: Vec<(u32, f64)> = Vec::with_capacity(keep.min(rows));
    let look = |batch: &[u32], held: &mut Vec<f32>, covered: &[f32], seen: usize| {
        check()?;
        similarities.fill(batch, held)?;
        let one = |(row, similarities): (&u32, &[f32])| Candidate { gain: gain(similarities, covered), row: *row, seen: seen as u32 };
        Result::Ok(if rows < MANY {
            batch.iter().zip(held.chunks(rows)).map(one).collect::<Vec<_>>()
        } else {
            batch.par_iter().zip(held.par_chunks(rows)).map(one).collect()
        })
    };
    for start in (0..rows).step_by((HELD / rows.max(1)).max(BATCH)) {
        batch.clear();
        batch.extend(start as u32..rows.min(start + (HELD / rows).max(BATCH)) as u32);
        heap.extend(look(&batch, &mut held, &covered, 0)?);
    }
    while chosen.len() < keep {
        while heap.peek().is_some_and(|best| (best.seen as usize) < chosen.len()) {
            batch.clear();
            while batch.len() < BATCH && heap.peek().is_some_and(|best| (best.seen as usize) < chosen.len()) {
                batch.extend(heap.pop().map(|candidate| candidate.row));
            }
            heap.extend(look(&batch, &mut held, &covered, chosen.len())?);
        }
        let Some(best) = heap.pop() else { break };
        let place = batch.iter().position(|row| *row == best.row);
        let place = place.map_or_else(
            || {
                batch = vec![best.row];
                similarities.fill(&batch, &mut held).map(|()| 0)
            },
            Ok,
        )?;
        for (covered, similarity) in covered.iter_mut().zip(&held[place * rows..]) {
            *covered = covered.max(*similarity);
        }
        chosen.push((best.row, best.gain));
    }
    Ok(chosen)
}

/// The `keep` rows that the greedy rule chooses where rows of different cells have no similarity, from what it chooses in each cell:
/// those of highest gain, ties to the lowest row.
#[must_use]
pub fn merge(cells: &[Vec<(u32, f64)>], keep: usize) -> Vec<(u32, f64)> {
    let mut all = cells.concat();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(keep);
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Similarities in a list.
    struct Listed(Vec<Vec<f32>>);

    impl Similarities for Listed {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn fill(&self, candidates: &[u32], out: &mut Vec<f32>) -> Result<()> {
            out.clear();
            for row in candidates {
                out.extend(&self.0[*row as usize]);
            }
            Ok(())
        }
    }

    fn value(similarities: &[Vec<f32>], set: &[u32]) -> f64 {
        let best = |row: usize| set.iter().map(|j| similarities[*j as usize][row]).fold(0.0, f32::max);
        (0..similarities.len()).map(|row| f64::from(best(row))).sum()
    }

    /// By definition: the value with each row that is open, every time.
    fn plain(similarities: &[Vec<f32>], keep: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::new();
        while chosen.len() < keep.min(similarities.len()) {
            let with = |row: u32| value(similarities, &[chosen.as_slice(), &[row]].concat());
            let open = (0..similarities.len() as u32).filter(|row| !chosen.contains(row));
            let best = open.rev().max_by(|a, b| with(*a).total_cmp(&with(*b))).unwrap();
            chosen.push(best);
        }
        chosen
    }

    /// Symmetric, with ones on the diagonal; in sixty-fourths, so that sums are exact and ties happen.
    fn similarities(rows: usize, numbers: &[i8]) -> Vec<Vec<f32>> {
        let at = |i: usize, j: usize| if i == j { 1.0 } else { f32::from(numbers[(i.min(j) * 31 + i.max(j)) % numbers.len()]) / 64.0 };
        (0..rows).map(|i| (0..rows).map(|j| at(i, j)).collect()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn lazy_gains_choose_what_all_gains_choose(
            rows in 1_usize..40, keep in 0_usize..45, numbers in prop::collection::vec(-16_i8..64, 200),
        ) {
            let all = similarities(rows, &numbers);
            let chosen = greedy(&Listed(all.clone()), keep, || Ok(())).unwrap();
            prop_assert!(chosen.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            let set: Vec<u32> = chosen.iter().map(|(row, _)| *row).collect();
            prop_assert_eq!(&set, &plain(&all, keep));
            let gains: f64 = chosen.iter().map(|(_, gain)| gain).sum();
            prop_assert!((gains - value(&all, &set)).abs() < 1e-9);
        }

        #[test]
        fn the_value_is_at_least_63_percent_of_the_best(
            rows in 1_usize..11, keep in 1_usize..6, numbers in prop::collection::vec(-16_i8..64, 200),
        ) {
            let all = similarities(rows, &numbers);
            let members = |set: u32| (0..rows as u32).filter(|row| set >> row & 1 == 1).collect::<Vec<_>>();
            let sets = (1_u32..1 << rows).filter(|set| set.count_ones() as usize == keep.min(rows));
            let best = sets.map(|set| value(&all, &members(set))).fold(0.0, f64::max);
            let chosen: Vec<u32> = greedy(&Listed(all.clone()), keep, || Ok(())).unwrap().into_iter().map(|(row, _)| row).collect();
            prop_assert!(value(&all, &chosen) >= (1.0 - (-1.0_f64).exp()) * best - 1e-9);
        }

        #[test]
        fn cells_apart_are_chosen_from_as_one(
            rows in 1_usize..40, keep in 0_usize..45, count in 1_usize..5, numbers in prop::collection::vec(0_i8..64, 200),
        ) {
            let mut all = similarities(rows, &numbers);
            let cell = |row: usize| row * 7 % 11 % count;
            for (i, j) in (0..rows).flat_map(|i| (0..rows).map(move |j| (i, j))).filter(|(i, j)| cell(*i) != cell(*j)) {
                all[i][j] = 0.0;
            }
            let of = |wanted: usize| {
                let members: Vec<usize> = (0..rows).filter(|row| cell(*row) == wanted).collect();
                let own = members.iter().map(|i| members.iter().map(|j| all[*i][*j]).collect()).collect();
                let chosen = greedy(&Listed(own), keep, || Ok(())).unwrap();
                chosen.into_iter().map(|(row, gain)| (members[row as usize] as u32, gain)).collect::<Vec<_>>()
            };
            let merged = merge(&(0..count).map(of).collect::<Vec<_>>(), keep);
            prop_assert_eq!(merged, greedy(&Listed(all), keep, || Ok(())).unwrap());
        }
    }
}
