//! Comparing rows that share buckets (the bands of locality-sensitive hashing), in keep order, for a rule of this module.
//!
//! A bucket of n rows has n² / 2 pairs, and a template page can put a whole corpus into one. So the work of a row is bounded: of a
//! bucket only the first live rows are looked at, and of the rows found only those that share most buckets are compared. What the
//! bounds left out is counted, never silent.

use crate::error::Result;

/// Rows in keep order, each with the numbers of its buckets, ascending.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<'a> {
    /// Where each row's numbers start; one more than there are rows.
    pub starts: &'a [usize],
    /// The numbers, row after row.
    pub numbers: &'a [u32],
}

impl<'a> Buckets<'a> {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The buckets of a row.
    #[must_use]
    pub fn of(&self, row: u32) -> &'a [u32] {
        &self.numbers[self.starts[row as usize]..self.starts[row as usize + 1]]
    }

    /// How many buckets two rows share.
    #[must_use]
    pub fn shared(&self, a: u32, b: u32) -> u32 {
        let (mut a, mut b) = (self.of(a), self.of(b));
        let mut shared = 0;
        while let ([first, ..], [second, ..]) = (a, b) {
            shared += u32::from(first == second);
            (a, b) = (&a[usize::from(first <= second)..], &b[usize::from(second <= first)..]);
        }
        shared
    }
}

/// How much work one row may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Live rows of one bucket that later rows look at.
    pub bucket_rows: usize,
    /// Live rows that one row is compared with.
    pub compared_rows: usize,
}

/// What a traversal did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Pairs whose similarity was computed, for whatever threshold.
    pub compared: u64,
    /// Pairs that the first threshold asked for: those compared for it, and those ruled out. No further threshold moves this number or
    /// the three below.
    pub candidates: u64,
    /// Of these, pairs that were compared and lie under the first threshold.
    pub rejected: u64,
    /// Of these, pairs not far under it.
    pub rejected_near: u64,
    /// Candidates under the first threshold by what is known before a comparison.
    pub ruled_out: u64,
    /// Rows for which a bound left candidates out.
    pub cut_rows: u64,
    /// Pairs left out, at most: one that shares several full buckets counts in each.
    pub left_out: u64,
}

impl std::ops::AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.compared += other.compared;
        self.candidates += other.candidates;
        self.rejected += other.rejected;
        self.rejected_near += other.rejected_near;
        self.ruled_out += other.ruled_out;
        self.cut_rows += other.cut_rows;
        self.left_out += other.left_out;
    }
}

/// The similarities that matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cuts {
    /// The loosest threshold: no pair under it is offered.
    pub loosest: f64,
    /// The first threshold, which decides.
    pub first: f64,
    /// A rejected pair of at least this similarity is near the first threshold.
    pub near: f64,
}

/// How similar two rows are. Rows are places in keep order.
pub trait Similarity {
    /// No pair is more similar than this; `None` for a pair that must not be compared.
    fn upper(&self, later: u32, earlier: u32) -> Option<f64>;
    /// The similarity of two rows that share `shared` buckets; it may be `None` where that is under all [`Cuts`].
    fn of(&mut self, later: u32, earlier: u32, shared: u32) -> Result<Option<f64>>;
    /// Hears that a row is live: later rows will be compared with it.
    fn live(&mut self, row: u32) -> Result<()>;
}

/// What a rule is asked: see the module's introduction.
pub struct Rule<'a, R> {
    /// The rule.
    pub rule: &'a mut R,
    /// Whether a pair of at most this similarity can still matter.
    pub wants: fn(&R, u32, u32, f64) -> bool,
    /// Whether it can under the first threshold.
    pub wants_first: fn(&R, u32, u32, f64) -> bool,
    /// Takes a verified pair.
    pub offer: fn(&mut R, u32, u32, f64),
    /// Closes a row.
    pub decide: fn(&mut R, u32) -> bool,
}

/// The live rows of one bucket.
#[derive(Debug, Default, Clone)]
struct Bucket {
    rows: Vec<u32>,
    /// Live rows beyond the bound.
    beyond: u32,
}

/// Visits the rows in order and offers to the rule the similar pairs of each row with live rows before it in its buckets, those
/// that share most buckets first, ties to the first in keep order.
pub fn compare_in_buckets<R>(
    rows: Buckets<'_>,
    bounds: Bounds,
    cuts: Cuts,
    rule: &mut Rule<'_, R>,
    similarity: &mut impl Similarity,
    mut stop: impl FnMut() -> Result<()>,
) -> Result<Effort> {
    let mut names: Vec<u32> = rows.numbers.to_vec();
    names.sort_unstable();
    names.dedup();
    let mut buckets: Vec<Bucket> = vec![Bucket::default(); names.len()];
    // For each row before, how many buckets it shares with the one that is visited: set to zero again for those touched.
    let mut shared: Vec<u32> = vec![0; rows.rows()];
    let mut touched: Vec<u32> = Vec::new();
    let mut effort = Effort::default();
    for row in 0..rows.rows() as u32 {
        stop()?;
        let mut left_out = 0_u64;
        let places = rows.of(row).iter().filter_map(|name| names.binary_search(name).ok());
        for place in places.clone() {
            for earlier in &buckets[place].rows {
                if shared[*earlier as usize] == 0 {
                    touched.push(*earlier);
                }
                shared[*earlier as usize] += 1;
            }
            left_out += u64::from(buckets[place].beyond);
        }
        // Those that must not be compared take no one's place.
        touched.retain(|earlier| {
            let allowed = similarity.upper(row, *earlier).is_some();
            if !allowed {
                shared[*earlier as usize] = 0;
            }
            allowed
        });
        touched.sort_unstable_by_key(|earlier| (std::cmp::Reverse(shared[*earlier as usize]), *earlier));
        left_out += touched.len().saturating_sub(bounds.compared_rows) as u64;
        for earlier in touched.iter().take(bounds.compared_rows).copied() {
            let Some(upper) = similarity.upper(row, earlier) else { continue };
            if upper < cuts.first && (rule.wants_first)(rule.rule, row, earlier, f64::INFINITY) {
                effort.candidates += 1;
                effort.ruled_out += 1;
            }
            if !(rule.wants)(rule.rule, row, earlier, upper) {
                continue;
            }
            let for_first = (rule.wants_first)(rule.rule, row, earlier, upper);
            let found = similarity.of(row, earlier, shared[earlier as usize])?;
            effort.compared += 1;
            if for_first {
                effort.candidates += 1;
                effort.rejected += u64::from(found.is_none_or(|found| found < cuts.first));
                effort.rejected_near += u64::from(found.is_some_and(|found| found < cuts.first && found >= cuts.near));
            }
            if let Some(found) = found.filter(|found| *found >= cuts.loosest) {
                (rule.offer)(rule.rule, row, earlier, found);
            }
        }
        for earlier in touched.drain(..) {
            shared[earlier as usize] = 0;
        }
        effort.left_out += left_out;
        effort.cut_rows += u64::from(left_out > 0);
        if (rule.decide)(rule.rule, row) {
            similarity.live(row)?;
            for place in places {
                let bucket = &mut buckets[place];
                if bucket.rows.len() < bounds.bucket_rows {
                    bucket.rows.push(row);
                } else {
                    bucket.beyond += 1;
                }
            }
        }
    }
    Ok(effort)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{Components, Dropped, OnEqual, Star, Threshold};

    /// Similarities from a table; two rows of one source must not be compared, unless there are no sources.
    struct Table<'a>(&'a [Vec<f64>], &'a [u8]);

    impl Similarity for Table<'_> {
        fn upper(&self, later: u32, earlier: u32) -> Option<f64> {
            let barred = self.1.get(later as usize).is_some_and(|source| *source == self.1[earlier as usize]);
            (!barred).then(|| (self.0[later as usize][earlier as usize] + 0.05).min(1.0))
        }

        fn of(&mut self, later: u32, earlier: u32, _: u32) -> Result<Option<f64>> {
            Ok(Some(self.0[later as usize][earlier as usize]))
        }

        fn live(&mut self, _: u32) -> Result<()> {
            Ok(())
        }
    }

    fn flatten(of: &[Vec<u32>]) -> (Vec<usize>, Vec<u32>) {
        let mut starts = vec![0];
        let mut numbers = Vec::new();
        for buckets in of {
            numbers.extend(buckets);
            starts.push(numbers.len());
        }
        (starts, numbers)
    }

    /// Rows with up to four of ten buckets, and their similarities.
    fn inputs() -> impl Strategy<Value = (Vec<Vec<u32>>, Vec<Vec<f64>>)> {
        (1_usize..14).prop_flat_map(|rows| {
            let buckets = prop::collection::vec(prop::collection::btree_set(0_u32..10, 0..4), rows);
            let table: Vec<_> =
                (0..rows).map(|row| prop::collection::vec((0_u8..=10).prop_map(|tenths| f64::from(tenths) / 10.0), row)).collect();
            (buckets.prop_map(|rows| rows.into_iter().map(|row| row.into_iter().collect()).collect()), table)
        })
    }

    const NO_BOUNDS: Bounds = Bounds { bucket_rows: usize::MAX, compared_rows: usize::MAX };

    fn cuts(thresholds: &[f64]) -> Cuts {
        Cuts { loosest: thresholds.iter().copied().fold(1.0, f64::min), first: thresholds[0], near: thresholds[0] - 0.1 }
    }

    fn star_of(buckets: &[Vec<u32>], table: &[Vec<f64>], sources: &[u8], minima: &[f64], bounds: Bounds) -> (Vec<Option<Dropped>>, Effort) {
        let (starts, numbers) = flatten(buckets);
        let thresholds: Vec<Threshold> = minima.iter().map(|minimum| Threshold::new(*minimum, OnEqual::Drop)).collect();
        let mut star = Star::new(table.len(), &thresholds);
        let mut rule =
            Rule { rule: &mut star, wants: Star::wants, wants_first: Star::wants_first, offer: Star::offer, decide: Star::decide };
        let rows = Buckets { starts: &starts, numbers: &numbers };
        let effort = compare_in_buckets(rows, bounds, cuts(minima), &mut rule, &mut Table(table, sources), || Ok(())).unwrap();
        (star.finish().remove(0), effort)
    }

    fn star(buckets: &[Vec<u32>], table: &[Vec<f64>], minimum: f64, bounds: Bounds) -> (Vec<Option<Dropped>>, Effort) {
        star_of(buckets, table, &[], &[minimum], bounds)
    }

    fn share(a: &[u32], b: &[u32]) -> usize {
        a.iter().filter(|bucket| b.contains(bucket)).count()
    }

    proptest! {
        /// Without bounds: a row is dropped if and only if a kept row before it shares a bucket and is similar.
        #[test]
        fn star_equals_its_definition((buckets, table) in inputs(), tenths in 0_u8..=10) {
            let minimum = f64::from(tenths) / 10.0;
            let mut expected: Vec<Option<Dropped>> = Vec::new();
            for (row, similarities) in table.iter().enumerate() {
                let mut found: Option<Dropped> = None;
                for (earlier, &similarity) in similarities.iter().enumerate() {
                    if expected[earlier].is_none() && share(&buckets[row], &buckets[earlier]) > 0 && similarity >= minimum
                        && found.is_none_or(|found| similarity > found.similarity) {
                        found = Some(Dropped { representative: Some(earlier as u32), similarity, cause: earlier as u32 });
                    }
                }
                expected.push(found);
            }
            let (found, effort) = star(&buckets, &table, minimum, NO_BOUNDS);
            prop_assert_eq!(found, expected);
            prop_assert_eq!((effort.cut_rows, effort.left_out), (0, 0));
            prop_assert!(effort.rejected_near <= effort.rejected && effort.rejected <= effort.compared);
            prop_assert_eq!(effort.candidates, effort.compared + effort.ruled_out);
        }

        /// What is reported of the first threshold does not depend on the further ones.
        #[test]
        fn further_thresholds_move_no_count((buckets, table) in inputs(), tenths in 0_u8..=10, further in prop::collection::vec(0_u8..=10, 0..3)) {
            let minima: Vec<f64> = std::iter::once(tenths).chain(further).map(|tenths| f64::from(tenths) / 10.0).collect();
            let (alone, effort) = star_of(&buckets, &table, &[], &minima[..1], NO_BOUNDS);
            let (beside, with) = star_of(&buckets, &table, &[], &minima, NO_BOUNDS);
            prop_assert_eq!(alone, beside);
            prop_assert_eq!(
                (effort.candidates, effort.rejected, effort.rejected_near, effort.ruled_out),
                (with.candidates, with.rejected, with.rejected_near, with.ruled_out)
            );
        }

        /// With bounds: what is dropped has a kept and similar row, no row is compared with more than the bound, and whoever was
        /// not cut and has no cut row before it is decided as without bounds.
        #[test]
        fn bounds_lose_only_what_they_count((buckets, table) in inputs(), tenths in 0_u8..=10, bucket_rows in 1_usize..4, compared_rows in 1_usize..4) {
            let minimum = f64::from(tenths) / 10.0;
            let (free, _) = star(&buckets, &table, minimum, NO_BOUNDS);
            let (bound, effort) = star(&buckets, &table, minimum, Bounds { bucket_rows, compared_rows });
            prop_assert!(effort.compared <= (table.len() * compared_rows) as u64);
            if effort.cut_rows == 0 {
                prop_assert_eq!(&bound, &free);
                prop_assert_eq!(effort.left_out, 0);
            }
            for (row, dropped) in bound.iter().enumerate() {
                if let Some(representative) = dropped.and_then(|dropped| dropped.representative) {
                    prop_assert!(bound[representative as usize].is_none());
                    prop_assert!(table[row][representative as usize] >= minimum);
                    prop_assert!(share(&buckets[row], &buckets[representative as usize]) > 0);
                }
            }
        }

        #[test]
        fn components_equal_reachability((buckets, table) in inputs(), tenths in 0_u8..=10) {
            let minimum = f64::from(tenths) / 10.0;
            let (starts, numbers) = flatten(&buckets);
            let mut components = Components::new(table.len(), &[Threshold::new(minimum, OnEqual::Drop)]);
            let mut rule = Rule {
                rule: &mut components,
                wants: Components::wants,
                wants_first: Components::wants_first,
                offer: Components::offer,
                decide: Components::decide,
            };
            let rows = Buckets { starts: &starts, numbers: &numbers };
            compare_in_buckets(rows, NO_BOUNDS, cuts(&[minimum]), &mut rule, &mut Table(&table, &[]), || Ok(())).unwrap();
            let mut labels: Vec<u32> = (0..table.len() as u32).collect();
            for _ in 0..table.len() {
                for row in 0..table.len() {
                    for earlier in 0..row {
                        if share(&buckets[row], &buckets[earlier]) > 0 && table[row][earlier] >= minimum {
                            let least = labels[row].min(labels[earlier]);
                            (labels[row], labels[earlier]) = (least, least);
                        }
                    }
                }
            }
            let found = components.finish(|_, _| 0.0).remove(0);
            let found: Vec<u32> = found.iter().enumerate().map(|(row, dropped)| dropped.map_or(row as u32, |dropped| dropped.cause)).collect();
            prop_assert_eq!(found, labels);
        }

        #[test]
        fn shared_buckets_are_counted(a in prop::collection::btree_set(0_u32..20, 0..10), b in prop::collection::btree_set(0_u32..20, 0..10)) {
            let (starts, numbers) = flatten(&[a.iter().copied().collect(), b.iter().copied().collect()]);
            prop_assert_eq!(Buckets { starts: &starts, numbers: &numbers }.shared(0, 1) as usize, a.intersection(&b).count());
        }
    }

    /// One bucket of rows that all differ: the work grows with the rows, not with their square, and what is left out is counted.
    #[test]
    fn a_bucket_of_look_alikes_is_bounded() {
        let rows = 500_usize;
        let table: Vec<Vec<f64>> = (0..rows).map(|row| vec![0.1; row]).collect();
        let (dropped, effort) = star(&vec![vec![7]; rows], &table, 0.8, Bounds { bucket_rows: 20, compared_rows: 5 });
        assert!(dropped.iter().all(Option::is_none));
        // Similarities are bounded by .15 here, so that none is computed at all.
        assert_eq!(effort.compared, 0);
        assert_eq!(effort.cut_rows, 494);
        assert_eq!(effort.left_out, (6..=20).map(|live| live - 5).sum::<u64>() + (21..500).map(|live| 15 + live - 20).sum::<u64>());
    }

    /// Rows that must not be compared take no places: the one row of the other source is found though it shares fewer buckets.
    #[test]
    fn barred_rows_take_no_places() {
        let rows = 50_usize;
        let table: Vec<Vec<f64>> = (0..rows).map(|row| vec![0.9; row]).collect();
        let mut buckets = vec![vec![1, 2, 3]; rows];
        buckets[0] = vec![3];
        let mut sources = vec![1; rows];
        sources[0] = 0;
        let (dropped, effort) = star_of(&buckets, &table, &sources, &[0.8], Bounds { bucket_rows: 100, compared_rows: 2 });
        assert!(dropped[0].is_none() && dropped[1..].iter().all(|dropped| dropped.unwrap().representative == Some(0)));
        assert_eq!((effort.cut_rows, effort.compared), (0, 49));
    }
}
