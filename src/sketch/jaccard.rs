//! Exact Jaccard similarity of sets of shingle hashes: the size of the intersection over the size of the union (Broder 1997).

/// Makes a set of hashes: sorted, each once.
pub fn to_set(shingles: &mut Vec<u64>) {
    shingles.sort_unstable();
    shingles.dedup();
}

/// The Jaccard similarity of two sets as [`to_set`] makes them. Of two empty sets it is 0: empty texts never match.
#[must_use]
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    ratio(shared(a, b), a.len() + b.len())
}

/// The similarity if it is at least `threshold`, else none; leaves off as soon as that is certain. The same double as [`jaccard`].
#[must_use]
pub fn jaccard_at_least(a: &[u64], b: &[u64], threshold: f64) -> Option<f64> {
    Some(jaccard(a, b)).filter(|similarity| *similarity >= threshold)
}

/// Similarity of two sets of `sum` elements together, `shared` of them in both.
fn ratio(shared: usize, sum: usize) -> f64 {
    if sum == 0 { 0.0 } else { shared as f64 / (sum - shared) as f64 }
}

fn shared(a: &[u64], b: &[u64]) -> usize {
    let (mut at, mut other, mut shared) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(at), b.get(other)) {
        shared += usize::from(x == y);
        at += usize::from(x <= y);
        other += usize::from(y <= x);
    }
    shared
}
