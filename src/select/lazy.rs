//! Greedy selection of rows whose gains only fall, without computing most of them.
//!
//! A gain that was computed earlier is an upper bound of what it is now (Minoux, Accelerated Greedy Algorithms for Maximizing
//! Submodular Set Functions, 1978), so only rows whose bound is among the highest need a new one. They are taken a pool at a time: its
//! gains are brought up to date together, in blocks, and as long as the best of the pool precedes all bounds outside of it, it is
//! what the plain greedy rule would choose.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::error::Result;

/// Rows whose gains are kept up to date from choice to choice.
const POOL: usize = 512;

/// A row that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// What choosing it is worth: exactly, once `seen` is the number of rows chosen; an upper bound before.
    pub gain: f64,
    /// The row.
    pub row: u32,
    /// How many chosen rows the gain accounts for.
    pub seen: u32,
}

impl Eq for Candidate {}

/// The greater one is chosen first: higher gain, then lower row.
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What gains are made of.
pub trait Gains {
    /// Takes up a chosen row: gains are lowered by it from now on.
    fn choose(&mut self, candidate: Candidate) -> Result<()>;
    /// Brings gains up to date, and `seen` with them; the order may change. None may rise.
    fn lower(&self, candidates: &mut [Candidate]) -> Result<()>;
    /// Whether a row of this gain is worth choosing.
    fn worth(&self, _gain: f64) -> bool {
        true
    }
}

/// What was chosen, in order, and all other rows, in row order, with their last gains.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The rows chosen, each with its gain at that time.
    pub chosen: Vec<Candidate>,
    /// The others.
    pub left: Vec<Candidate>,
}

/// Chooses among `candidates`, one after the other: each time the row of highest gain, ties to the lowest row, until none is worth it,
/// `most` are chosen, or the best does not fit: `fits` is asked of each, in the order of the choice. `check` is asked now and then whether
/// to go on.
///
/// # Errors
/// Those of `gains` and of `check`.
pub fn greedy(
    candidates: Vec<Candidate>,
    most: usize,
    mut fits: impl FnMut(u32) -> bool,
    gains: &mut impl Gains,
    check: impl Fn() -> Result<()>,
) -> Result<Choice> {
    let mut stale = BinaryHeap::from(candidates);
    let mut chosen = Vec::with_capacity(most.min(stale.len()));
    let mut worth = true;
    while worth && chosen.len() < most && !stale.is_empty() {
        check()?;
        let mut pool = current(&mut stale, gains)?;
        let floor = stale.peek().copied();
        while chosen.len() < most
            && let Some((place, best)) = pool.iter().copied().enumerate().max_by_key(|(_, candidate)| *candidate)
            && floor.is_none_or(|floor| best > floor)
        {
            worth = gains.worth(best.gain) && fits(best.row);
            if !worth {
                break;
            }
            pool.swap_remove(place);
            chosen.push(best);
            gains.choose(best)?;
            gains.lower(&mut pool)?;
        }
        stale.extend(pool);
    }
    let mut left = stale.into_vec();
    gains.lower(&mut left)?;
    left.sort_unstable_by_key(|candidate| candidate.row);
    Ok(Choice { chosen, left })
}

/// The first [`POOL`] rows by gains that are up to date; all others stay in `stale`, with gains as old as they may be.
fn current(stale: &mut BinaryHeap<Candidate>, gains: &impl Gains) -> Result<Vec<Candidate>> {
    let all = stale.len();
    let mut fresh = BinaryHeap::new();
    let mut pool = Vec::with_capacity(POOL);
    let mut piece = POOL;
    while !stale.is_empty() && pool.len() < POOL {
        // Where many are looked at anyway, taking all at once is cheaper than one after the other.
        let mut some: Vec<Candidate> =
            if all - stale.len() > all / 16 { std::mem::take(stale).into_vec() } else { (0..piece).map_while(|_| stale.pop()).collect() };
        some.sort_unstable_by_key(|candidate| candidate.row);
        gains.lower(&mut some)?;
        fresh.extend(some);
        while pool.len() < POOL
            && let Some(best) = fresh.peek()
            && stale.peek().is_none_or(|next| best > next)
        {
            pool.extend(fresh.pop());
        }
        piece *= 2;
    }
    stale.append(&mut fresh);
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Points on a line; a gain is the distance to the nearest chosen one.
    struct Line {
        places: Vec<f64>,
        chosen: Vec<f64>,
        least: f64,
    }

    impl Gains for Line {
        fn choose(&mut self, candidate: Candidate) -> Result<()> {
            self.chosen.push(self.places[candidate.row as usize]);
            Ok(())
        }

        fn lower(&self, candidates: &mut [Candidate]) -> Result<()> {
            for candidate in candidates {
                for chosen in &self.chosen[candidate.seen as usize..] {
                    candidate.gain = candidate.gain.min((self.places[candidate.row as usize] - chosen).abs());
                }
                candidate.seen = self.chosen.len() as u32;
            }
            Ok(())
        }

        fn worth(&self, gain: f64) -> bool {
            gain >= self.least
        }
    }

    fn plain(places: &[f64], keep: usize, least: f64) -> Vec<(u32, f64)> {
        let mut chosen: Vec<(u32, f64)> = Vec::new();
        while chosen.len() < keep.min(places.len()) {
            let gain =
                |row: usize| chosen.iter().map(|(other, _)| (places[row] - places[*other as usize]).abs()).fold(f64::INFINITY, f64::min);
            let open = (0..places.len()).filter(|row| !chosen.iter().any(|(other, _)| *other as usize == *row));
            let best = open.map(|row| (row as u32, gain(row))).rev().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            if best.1 < least {
                break;
            }
            chosen.push(best);
        }
        chosen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// More rows than a pool holds, on few places, so that gains tie.
        #[test]
        fn lazily_chosen_rows_are_those_of_the_plain_rule(
            places in prop::collection::vec(0_u32..3000, 1..1500),
            keep in 0_usize..120,
            least in prop::sample::select(vec![0.0, 9.0]),
        ) {
            let places: Vec<f64> = places.into_iter().map(f64::from).collect();
            let candidates = (0..places.len() as u32).map(|row| Candidate { gain: f64::INFINITY, row, seen: 0 }).collect();
            let mut line = Line { places: places.clone(), chosen: Vec::new(), least };
            let Choice { chosen, left } = greedy(candidates, keep, |_| true, &mut line, || Ok(())).unwrap();
            let found: Vec<(u32, f64)> = chosen.iter().map(|candidate| (candidate.row, candidate.gain)).collect();
            prop_assert_eq!(found, plain(&places, keep, least));
            prop_assert_eq!(chosen.len() + left.len(), places.len());
            prop_assert!(left.windows(2).all(|pair| pair[0].row < pair[1].row));
            prop_assert!(left.iter().all(|candidate| candidate.seen as usize == chosen.len()));
        }
    }
}
