//! SSL Prototypes: keep the rows that are least typical of their cluster.
//!
//! Sorscher et al., Beyond Neural Scaling Laws, 2022; as a second stage after semantic deduplication, on clusters fitted again to
//! the survivors: Tirumala et al., D4, 2023. The balance is this project's addition.

/// Selects exactly `keep` rows (all, if there are fewer): those of largest `distances` to their own centroid, ties by row order.
///
/// `clusters` holds each row's cluster, below `k`. With `balance` b in [0, 1] every cluster first gets `floor(b keep / k)` of its own
/// rows, or all if it has fewer, farthest first; the rest is filled from all clusters, farthest first.
#[must_use]
pub fn select(clusters: &[u32], k: usize, distances: &[f64], keep: usize, balance: f64) -> Vec<bool> {
    let rows = clusters.len();
    let keep = keep.min(rows);
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.sort_by(|a, b| distances[*b as usize].total_cmp(&distances[*a as usize]));
    let mut selected = vec![false; rows];
    let mut left = keep;
    let mut guaranteed = vec![(balance * keep as f64 / k.max(1) as f64).floor().max(0.0) as usize; k];
    for &row in &order {
        let open = &mut guaranteed[clusters[row as usize] as usize];
        if *open > 0 && left > 0 {
            *open -= 1;
            left -= 1;
            selected[row as usize] = true;
        }
    }
    for row in order {
        if left > 0 && !selected[row as usize] {
            left -= 1;
            selected[row as usize] = true;
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By definition: each cluster's guaranteed rows, then the rest, each found by looking for the farthest row not taken yet.
    fn plain(clusters: &[u32], k: usize, distances: &[f64], keep: usize, balance: f64) -> Vec<bool> {
        let mut selected = vec![false; clusters.len()];
        let mut take = |of: Option<u32>| {
            let open = (0..clusters.len()).filter(|row| !selected[*row] && of.is_none_or(|cluster| clusters[*row] == cluster));
            let farthest = open.min_by(|a, b| distances[*b].total_cmp(&distances[*a]).then(a.cmp(b)));
            farthest.is_some_and(|row| {
                selected[row] = true;
                true
            })
        };
        let keep = keep.min(clusters.len());
        let mut taken = 0;
        for cluster in 0..k as u32 {
            taken += (0..(balance * keep as f64 / k as f64).floor() as usize).filter(|_| take(Some(cluster))).count();
        }
        (taken..keep).for_each(|_| assert!(take(None)));
        selected
    }

    proptest! {
        #[test]
        fn equals_the_definition_and_has_the_exact_size(
            rows in prop::collection::vec((0_u32..4, (0_u8..6).prop_map(|d| f64::from(d) / 10.0)), 0..40),
            keep in 0_usize..45,
            balance in prop::sample::select(vec![0.0, 0.3, 0.5, 1.0]),
        ) {
            let (clusters, distances): (Vec<u32>, Vec<f64>) = rows.into_iter().unzip();
            let selected = select(&clusters, 4, &distances, keep, balance);
            prop_assert_eq!(selected.iter().filter(|kept| **kept).count(), keep.min(clusters.len()));
            prop_assert_eq!(&selected, &plain(&clusters, 4, &distances, keep, balance));
            // Seeds S2, check 4: the floor is respected where sizes permit.
            let floor = (balance * keep.min(clusters.len()) as f64 / 4.0).floor() as usize;
            for cluster in 0..4 {
                let size = clusters.iter().filter(|c| **c == cluster).count();
                let kept = clusters.iter().zip(&selected).filter(|(c, kept)| **c == cluster && **kept).count();
                prop_assert!(kept >= floor.min(size));
            }
        }
    }

    #[test]
    fn full_balance_keeps_equal_counts() {
        let clusters: Vec<u32> = (0..40).map(|row| u32::from(row >= 10) + u32::from(row >= 25)).collect();
        let distances: Vec<f64> = (0..40).map(f64::from).collect();
        let selected = select(&clusters, 3, &distances, 30, 1.0);
        for cluster in 0..3 {
            assert_eq!((0..40).filter(|row| clusters[*row] == cluster && selected[*row]).count(), 10);
        }
    }

    #[test]
    fn ties_go_to_the_first_row() {
        assert_eq!(select(&[0, 0, 0], 1, &[0.5, 0.5, 0.5], 2, 0.0), [true, true, false]);
    }
}
