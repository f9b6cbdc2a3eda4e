//! Exact Jaccard similarity of sets of shingle hashes: the size of the intersection over the size of the union (Broder 1997).

/// Makes a set of hashes: sorted, each once.
pub fn to_set(shingles: &mut Vec<u64>) {
    if SPREAD.contains(&shingles.len()) {
        spread(shingles);
    } else {
        shingles.sort_unstable();
    }
    shingles.dedup();
}

/// Hashes for which spreading pays.
const SPREAD: std::ops::Range<usize> = 64..1 << 20;
/// Hashes of one bucket up to which they are inserted one by one.
const INSERTED: usize = 32;

/// Sorts hashes, in linear time as far as they are spread evenly over all 64 bits: one bucket of their upper bits for each, then an
/// insertion sort that moves each a few places. Fuller buckets (repeats, or hashes of 32 bits) are sorted by themselves.
fn spread(hashes: &mut [u64]) {
    let bits = hashes.len().ilog2();
    let bucket = |hash: u64| (hash >> (u64::BITS - bits)) as usize;
    let mut ends = vec![0_u32; 1 << bits];
    for hash in &*hashes {
        ends[bucket(*hash)] += 1;
    }
    let (mut end, mut full) = (0, Vec::new());
    for count in &mut ends {
        let start = end;
        end += *count;
        if (*count) as usize > INSERTED {
            full.push(start as usize..end as usize);
        }
        *count = end;
    }
    let mut sorted = vec![0_u64; hashes.len()];
    for hash in &*hashes {
        let place = &mut ends[bucket(*hash)];
        *place -= 1;
        sorted[*place as usize] = *hash;
    }
    for bucket in full {
        sorted[bucket].sort_unstable();
    }
    for at in 1..sorted.len() {
        let hash = sorted[at];
        let mut place = at;
        while place > 0 && sorted[place - 1] > hash {
            sorted[place] = sorted[place - 1];
            place -= 1;
        }
        sorted[place] = hash;
    }
    hashes.copy_from_slice(&sorted);
}

/// The Jaccard similarity of two sets as [`to_set`] makes them. Of two empty sets it is 0: empty texts never match.
#[must_use]
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let mut merge = Merge { a, b, shared: 0 };
    while merge.step(usize::MAX) {}
    ratio(merge.shared, a.len() + b.len())
}

/// The similarity, the same double as that of [`jaccard`], if it is at least `threshold`, else none. Leaves off as soon as that is
/// certain: at once if the lengths differ too much, and else when too few elements are left.
#[must_use]
pub fn jaccard_at_least(a: &[u64], b: &[u64], threshold: f64) -> Option<f64> {
    let sum = a.len() + b.len();
    let needed = least_shared(sum, threshold);
    let mut merge = Merge { a, b, shared: 0 };
    loop {
        if merge.shared + merge.a.len().min(merge.b.len()) < needed {
            return None;
        }
        if !merge.step(STEPS) {
            break;
        }
    }
    Some(ratio(merge.shared, sum)).filter(|similarity| *similarity >= threshold)
}

/// Elements that are merged between two looks at what can still be reached.
const STEPS: usize = 64;

/// Similarity of two sets of `sum` elements together, `shared` of them in both.
fn ratio(shared: usize, sum: usize) -> f64 {
    if sum == 0 { 0.0 } else { shared as f64 / (sum - shared) as f64 }
}

/// A number of shared elements, of sets of `sum` together, below which the similarity is below the threshold.
fn least_shared(sum: usize, threshold: f64) -> usize {
    // From s / (sum - s) >= t follows s >= sum t / (1 + t); one less covers the rounding.
    let exact = sum as f64 * threshold / (1.0 + threshold);
    (exact.ceil() as usize).saturating_sub(1)
}

/// Two sets on the way to being merged.
struct Merge<'a> {
    a: &'a [u64],
    b: &'a [u64],
    shared: usize,
}

impl Merge<'_> {
    /// Goes on by at most `steps` elements; whether both sets have more. No branch depends on which element is the less.
    #[inline]
    fn step(&mut self, steps: usize) -> bool {
        let (a, b) = (self.a, self.b);
        let steps = steps.min(a.len()).min(b.len());
        let (mut at, mut other, mut shared) = (0, 0, 0);
        // In so many steps neither set can be left.
        for _ in 0..steps {
            let (x, y) = (a[at], b[other]);
            shared += usize::from(x == y);
            at += usize::from(x <= y);
            other += usize::from(y <= x);
        }
        self.shared += shared;
        (self.a, self.b) = (&a[at..], &b[other..]);
        !self.a.is_empty() && !self.b.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
        let element = prop_oneof![4 => 0..40_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)];
        let list = prop::collection::vec(element, 0..200);
        let near = (list.clone(), list.clone(), 0..200_usize).prop_map(|(a, other, from)| {
            let mut b = a.clone();
            b.truncate(from);
            b.extend(other.iter().take(5));
            (a, b)
        });
        prop_oneof![near, (list.clone(), list)]
    }

    proptest! {
        /// Of any size, evenly spread, clustered or repeated.
        #[test]
        fn sets_are_sorted_and_each_hash_stands_once(seed in any::<u64>(), length in 0_usize..2000, distinct in 1_u64..4000, shift in 0_u32..64) {
            let hash = |number: u64| number.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> shift;
            let mut hashes: Vec<u64> = (0..length as u64).map(|number| hash(number.wrapping_mul(seed | 1) % distinct)).collect();
            let expected: BTreeSet<u64> = hashes.iter().copied().collect();
            to_set(&mut hashes);
            prop_assert!(hashes.into_iter().eq(expected));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn equals_the_definition((mut a, mut b) in sets(), threshold in 0.0..1.01_f64) {
            let (x, y): (BTreeSet<u64>, BTreeSet<u64>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let union = x.union(&y).count();
            let wanted = if union == 0 { 0.0 } else { x.intersection(&y).count() as f64 / union as f64 };
            to_set(&mut a);
            to_set(&mut b);
            prop_assert_eq!(&a, &x.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(jaccard(&a, &b), wanted);
            prop_assert_eq!(jaccard(&b, &a), wanted);
            prop_assert_eq!(jaccard_at_least(&a, &b, threshold), (wanted >= threshold).then_some(wanted));
            prop_assert_eq!(jaccard_at_least(&a, &b, wanted), Some(wanted));
        }
    }

    #[test]
    fn every_small_ratio_is_its_own_threshold() {
        for union in 1..60_u64 {
            for shared in 0..=union {
                for split in [0, (union - shared) / 2, union - shared] {
                    let a: Vec<u64> = (0..shared + split).collect();
                    let b: Vec<u64> = (0..shared).chain(shared + split..union).collect();
                    let similarity = shared as f64 / union as f64;
                    assert_eq!(jaccard_at_least(&a, &b, similarity), Some(similarity));
                    assert_eq!(jaccard_at_least(&a, &b, similarity + 1e-9), None);
                }
            }
        }
    }

    #[test]
    fn empty_sets_never_match() {
        assert_eq!(jaccard(&[], &[]), 0.0);
        assert_eq!(jaccard(&[], &[1]), 0.0);
        assert_eq!(jaccard_at_least(&[], &[], 0.5), None);
    }
}
