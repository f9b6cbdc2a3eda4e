//! Facility location: rows such that every row is similar to one of them.
//!
//! The value of a set is the sum over all rows of the highest similarity to a row of the set, none below 0. It grows by less the more is
//! in the set (it is submodular), so that choosing the row of highest gain each time reaches at least 1 - 1/e of the highest value of any
//! set of that size (Nemhauser, Wolsey and Fisher, 1978).
//!
//! Gains are not computed again but kept: a row that is covered better than before takes the difference from the gain of each row
//! that would have covered it, and the rows that are covered better become few, about one in `k` by the `k`-th choice. Similarities are
//! whole numbers, so that gains are exact whatever was added and taken in whatever order.

use rayon::prelude::*;

use crate::error::Result;

/// What a similarity of 1 is: single precision has no finer steps below 1.
pub const ONE: u32 = 1 << 24;
/// Rows whose similarities are looked at together, at most: the sum of as many fits into 32 bits.
pub const BLOCK: usize = 64;
/// Columns that one task lowers.
const COLUMNS: usize = 1 << 12;
/// From so many similarities on, several threads look at them.
const MANY: usize = 1 << 18;

/// A cosine in units of 1 / [`ONE`], none below 0 or above 1.
#[must_use]
#[expect(clippy::inline_always, reason = "so that loops over it take the wide instructions of their caller")]
#[inline(always)]
pub fn units(cosine: f32) -> u32 {
    (cosine.clamp(0.0, 1.0) * ONE as f32 + 0.5) as i32 as u32
}

/// The similarities of some rows among each other, in units of 1 / [`ONE`] and at most that: the same in both directions.
pub trait Similarities: Sync {
    /// How many rows there are.
    fn rows(&self) -> usize;
    /// How many rows it is asked about at a time, at most [`BLOCK`].
    fn block(&self) -> usize {
        BLOCK
    }
    /// The similarities of each of `rows` to all rows; `buffer` is there to lay them down.
    fn lines<'a>(&'a self, rows: &[u32], buffer: &'a mut Vec<u32>) -> Result<Vec<&'a [u32]>>;
}

/// How much better a row is covered than before.
#[derive(Debug, Clone, Copy)]
struct Change {
    row: u32,
    from: u32,
    to: u32,
}

/// The first rows that the greedy rule chooses, each with its gain; ties to the lowest row. Gains never rise. It ends with `keep` rows,
/// or before the first that does not fit: `fits` is asked of each, in the order of the choice.
///
/// # Errors
/// Those of `similarities` and of `check`, which is asked now and then whether to go on.
pub fn greedy(
    similarities: &impl Similarities,
    keep: usize,
    mut fits: impl FnMut(u32) -> bool,
    check: impl Fn() -> Result<()>,
) -> Result<Vec<(u32, f64)>> {
    let rows = similarities.rows();
    let mut covered = vec![0_u32; rows];
    let mut open = vec![true; rows];
    let mut gains = sums(similarities, &check)?;
    let mut chosen = Vec::with_capacity(keep.min(rows));
    let (mut buffer, mut changes) = (Vec::new(), Vec::new());
    while chosen.len() < keep.min(rows) {
        check()?;
        let best = (0..rows).filter(|row| open[*row]).fold(None, |best, row| match best {
            Some(best) if gains[best] >= gains[row] => Some(best),
            _ => Some(row),
        });
        let Some(best) = best.filter(|best| fits(*best as u32)) else { break };
        open[best] = false;
        chosen.push((best as u32, gains[best] as f64 / f64::from(ONE)));
        changes.clear();
        for line in similarities.lines(&[best as u32], &mut buffer)? {
            for (row, (covered, to)) in covered.iter_mut().zip(line).enumerate().filter(|(_, (covered, to))| **to > **covered) {
                changes.push(Change { row: row as u32, from: std::mem::replace(covered, *to), to: *to });
            }
        }
        for changes in changes.chunks(similarities.block()) {
            let rows: Vec<u32> = changes.iter().map(|change| change.row).collect();
            lower(&mut gains, &similarities.lines(&rows, &mut buffer)?, changes);
        }
    }
    Ok(chosen)
}

/// The sum of the similarities of each row.
fn sums(similarities: &impl Similarities, check: &impl Fn() -> Result<()>) -> Result<Vec<u64>> {
    let rows = similarities.rows();
    let (mut sums, mut buffer) = (Vec::with_capacity(rows), Vec::new());
    for start in (0..rows).step_by(similarities.block()) {
        check()?;
        let block: Vec<u32> = (start as u32..rows.min(start + similarities.block()) as u32).collect();
        let lines = similarities.lines(&block, &mut buffer)?;
        let sum = |line: &&[u32]| line.iter().map(|similarity| u64::from(*similarity)).sum::<u64>();
        if block.len() * rows < MANY { sums.extend(lines.iter().map(sum)) } else { sums.par_extend(lines.par_iter().map(sum)) }
    }
    Ok(sums)
}

/// Takes from the gain of each row what it would have added to the rows that changed: `lines` are their similarities.
fn lower(gains: &mut [u64], lines: &[&[u32]], changes: &[Change]) {
    let one = |(at, gains): (usize, &mut [u64])| {
        let mut taken = [0; COLUMNS];
        let taken = &mut taken[..gains.len()];
        add(taken, lines, changes, at * COLUMNS);
        gains.iter_mut().zip(taken).for_each(|(gain, taken)| *gain -= u64::from(*taken));
    };
    if lines.len() * gains.len() < MANY {
        gains.chunks_mut(COLUMNS).enumerate().for_each(one);
    } else {
        gains.par_chunks_mut(COLUMNS).enumerate().for_each(one);
    }
}

/// Adds up what the rows of the columns from `start` on would have added to the rows that changed.
fn add(taken: &mut [u32], lines: &[&[u32]], changes: &[Change], start: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Add<'a>(&'a mut [u32], &'a [&'a [u32]], &'a [Change], usize);
        impl pulp::NullaryFnOnce for Add<'_> {
            type Output = ();

            #[expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]
            #[inline(always)]
            fn call(self) {
                portable_add(self.0, self.1, self.2, self.3);
            }
        }
        simd.vectorize(Add(taken, lines, changes, start));
        return;
    }
    portable_add(taken, lines, changes, start);
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn portable_add(taken: &mut [u32], lines: &[&[u32]], changes: &[Change], start: usize) {
    for (line, Change { from, to, .. }) in lines.iter().zip(changes) {
        for (taken, similarity) in taken.iter_mut().zip(&line[start..]) {
            *taken += (*similarity).max(*from).min(*to) - from;
        }
    }
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
    struct Listed(Vec<Vec<u32>>);

    impl Listed {
        fn new(similarities: &[Vec<f32>]) -> Self {
            Self(similarities.iter().map(|line| line.iter().map(|cosine| units(*cosine)).collect()).collect())
        }
    }

    impl Similarities for Listed {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn lines<'a>(&'a self, rows: &[u32], _: &'a mut Vec<u32>) -> Result<Vec<&'a [u32]>> {
            Ok(rows.iter().map(|row| self.0[*row as usize].as_slice()).collect())
        }
    }

    fn first(similarities: &[Vec<f32>], keep: usize) -> Vec<(u32, f64)> {
        greedy(&Listed::new(similarities), keep, |_| true, || Ok(())).unwrap()
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
        fn kept_gains_choose_what_all_gains_choose(
            rows in 1_usize..40, keep in 0_usize..45, numbers in prop::collection::vec(-16_i8..64, 200),
        ) {
            let all = similarities(rows, &numbers);
            let chosen = first(&all, keep);
            prop_assert!(chosen.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            let set: Vec<u32> = chosen.iter().map(|(row, _)| *row).collect();
            prop_assert_eq!(&set, &plain(&all, keep));
            let gains: f64 = chosen.iter().map(|(_, gain)| gain).sum();
            prop_assert!((gains - value(&all, &set)).abs() < 1e-9);
            let mut asked = 0;
            let fits = |_| { asked += 1; asked <= 3 };
            let some = greedy(&Listed::new(&all), keep, fits, || Ok(())).unwrap();
            prop_assert_eq!(some.as_slice(), &chosen[..chosen.len().min(3)], "the first that does not fit ends the choice");
        }

        #[test]
        fn the_value_is_at_least_63_percent_of_the_best(
            rows in 1_usize..11, keep in 1_usize..6, numbers in prop::collection::vec(-16_i8..64, 200),
        ) {
            let all = similarities(rows, &numbers);
            let members = |set: u32| (0..rows as u32).filter(|row| set >> row & 1 == 1).collect::<Vec<_>>();
            let sets = (1_u32..1 << rows).filter(|set| set.count_ones() as usize == keep.min(rows));
            let best = sets.map(|set| value(&all, &members(set))).fold(0.0, f64::max);
            let chosen: Vec<u32> = first(&all, keep).into_iter().map(|(row, _)| row).collect();
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
                let own: Vec<Vec<f32>> = members.iter().map(|i| members.iter().map(|j| all[*i][*j]).collect()).collect();
                let chosen = first(&own, keep);
                chosen.into_iter().map(|(row, gain)| (members[row as usize] as u32, gain)).collect::<Vec<_>>()
            };
            let merged = merge(&(0..count).map(of).collect::<Vec<_>>(), keep);
            prop_assert_eq!(merged, first(&all, keep));
        }
    }

    /// More rows than one task lowers, by definition.
    #[test]
    fn many_rows_are_chosen_from_as_few_are() {
        const ROWS: usize = COLUMNS + 300;
        struct Made;
        fn similarity(a: usize, b: usize) -> u32 {
            let (low, high) = (a.min(b) as u32, a.max(b) as u32);
            if a == b { ONE } else { (low.wrapping_mul(2_654_435_761) ^ high.wrapping_mul(40_503)).wrapping_mul(97) % (ONE / 3) }
        }
        impl Similarities for Made {
            fn rows(&self) -> usize {
                ROWS
            }

            fn lines<'a>(&'a self, rows: &[u32], buffer: &'a mut Vec<u32>) -> Result<Vec<&'a [u32]>> {
                buffer.clear();
                buffer.extend(rows.iter().flat_map(|row| (0..ROWS).map(move |other| similarity(*row as usize, other))));
                Ok(buffer.chunks(ROWS).collect())
            }
        }
        let found = greedy(&Made, 3, |_| true, || Ok(())).unwrap();
        let mut covered = vec![0; ROWS];
        for (row, gain) in found {
            let gains = (0..ROWS).map(|j| (0..ROWS).map(|i| u64::from(similarity(i, j).saturating_sub(covered[i]))).sum::<u64>());
            let (best, most) = gains.enumerate().max_by_key(|(row, gain)| (*gain, std::cmp::Reverse(*row))).unwrap();
            assert_eq!((row, gain), (best as u32, most as f64 / f64::from(ONE)));
            covered.iter_mut().enumerate().for_each(|(i, covered)| *covered = similarity(i, best).max(*covered));
        }
    }
}
