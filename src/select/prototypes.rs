//! SSL Prototypes: keep the rows that are least typical of their cluster.
//!
//! Sorscher et al., Beyond Neural Scaling Laws, 2022; as a second stage after semantic deduplication, on clusters fitted again to
//! the survivors: Tirumala et al., D4, 2023. The balance is this project's addition.

use super::Meter;

/// The rows by falling distance to their own centroid, ties by row order.
#[must_use]
pub fn order(distances: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..distances.len() as u32).collect();
    order.sort_by(|a, b| distances[*b as usize].total_cmp(&distances[*a as usize]));
    order
}

/// Selects rows in `order` (see [`order`]) until their `sizes` use the budget up: exactly `budget` rows (all, if there are fewer) where
/// each is of size 1, and up to the first that does not fit where they are not.
///
/// `clusters` holds each row's cluster, below `k`. With `balance` b in [0, 1] every cluster first gets `floor(b budget / k)` for rows of
/// its own, or all if it has fewer, farthest first; the rest is filled from all clusters, farthest first.
#[must_use]
pub fn select(clusters: &[u32], k: usize, order: &[u32], sizes: &[u64], budget: u64, balance: f64) -> Vec<bool> {
    let budget = budget.min(sizes.iter().sum());
    let mut selected = vec![false; clusters.len()];
    let guaranteed = (balance * budget as f64 / k.max(1) as f64).floor().max(0.0) as u64;
    let mut of_clusters = vec![Meter::new(guaranteed); k];
    if guaranteed > 0 {
        for &row in order {
            selected[row as usize] = of_clusters[clusters[row as usize] as usize].offer(sizes[row as usize]);
        }
    }
    let mut rest = Meter::new(budget - of_clusters.iter().map(Meter::used).sum::<u64>().min(budget));
    for &row in order {
        selected[row as usize] = selected[row as usize] || rest.offer(sizes[row as usize]);
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
            let selected = select(&clusters, 4, &order(&distances), &vec![1; clusters.len()], keep as u64, balance);
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
        let selected = select(&clusters, 3, &order(&distances), &[1; 40], 30, 1.0);
        for cluster in 0..3 {
            assert_eq!((0..40).filter(|row| clusters[*row] == cluster && selected[*row]).count(), 10);
        }
    }

    #[test]
    fn ties_go_to_the_first_row() {
        assert_eq!(select(&[0, 0, 0], 1, &order(&[0.5, 0.5, 0.5]), &[1; 3], 2, 0.0), [true, true, false]);
    }

    #[test]
    fn bytes_are_guaranteed_to_clusters_and_end_with_the_row_that_does_not_fit() {
        let (clusters, distances, sizes) = ([0, 0, 0, 1, 1], [0.9, 0.8, 0.7, 0.2, 0.1], [3, 4, 2, 4, 1]);
        let kept = |budget, balance| select(&clusters, 2, &order(&distances), &sizes, budget, balance);
        assert_eq!(kept(8, 0.0), [true, true, false, false, false]);
        assert_eq!(kept(9, 0.0), [true, true, true, false, false]);
        // Four bytes each: the first cluster's second row does not fit there, nor into the byte that is left.
        assert_eq!(kept(8, 1.0), [true, false, false, true, false]);
        assert_eq!(kept(100, 1.0), [true; 5]);
    }
}
