//! Density-based pruning: each cluster keeps the more rows the wider it is spread and the farther it lies from others.
//!
//! Abbas, Rusak, Tirumala, Brendel, Chaudhuri and Morcos, Effective Pruning of Web-Scale Datasets Based on Complexity of Concept
//! Clusters, 2024. Quotas are the nearest ones to a softmax of the complexities that respect each cluster's bounds.

use super::quota::{largest_remainder, projected};

/// What is known of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Rows.
    pub rows: u64,
    /// The mean distance of its rows to its centroid; NaN where it has none.
    pub intra: f64,
    /// The mean distance of its centroid to the nearest others; NaN where there is none.
    pub inter: f64,
}

/// What a cluster's share goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complexity {
    /// The product of both distances.
    Spread,
    /// The number of rows.
    Size,
    /// Nothing: all the same.
    Uniform,
}

/// The complexity of each cluster; where it is not a number, the mean of the others.
#[must_use]
pub fn complexities(clusters: &[Cluster], by: Complexity) -> Vec<f64> {
    let all: u64 = clusters.iter().map(|cluster| cluster.rows).sum();
    let one = |cluster: &Cluster| match by {
        Complexity::Spread => cluster.inter * cluster.intra,
        Complexity::Size => cluster.rows as f64 / all.max(1) as f64,
        Complexity::Uniform => 1.0,
    };
    let found: Vec<f64> = clusters.iter().map(one).collect();
    let numbers: Vec<f64> = found.iter().copied().filter(|x| x.is_finite()).collect();
    let mean = if numbers.is_empty() { 0.0 } else { numbers.iter().sum::<f64>() / numbers.len() as f64 };
    found.into_iter().map(|x| if x.is_finite() { x } else { mean }).collect()
}

/// `softmax(complexities / temperature)`.
#[must_use]
pub fn softmax(complexities: &[f64], temperature: f64) -> Vec<f64> {
    let largest = complexities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = complexities.iter().map(|x| ((x - largest) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|x| x / sum).collect()
}

/// Each cluster's quota before rounding: `clip(P keep + lambda, l, n)` with the total `keep`, `P` the softmax of the complexities. `l` is
/// `min(floor(floor keep / k), n - 1)`, and for a `floor` of 0 one row; less where that is more than `keep` in all.
#[must_use]
pub fn shares(sizes: &[u64], complexities: &[f64], keep: u64, temperature: f64, floor: f64) -> Vec<f64> {
    let k = sizes.iter().filter(|size| **size > 0).count().max(1);
    let guaranteed = if floor == 0.0 { 1.0 } else { (floor * keep as f64 / k as f64).floor() };
    let least: Vec<f64> = sizes
        .iter()
        .map(|size| if floor == 0.0 { guaranteed.min(*size as f64) } else { guaranteed.min((*size).saturating_sub(1) as f64) })
        .collect();
    // A budget below one row a cluster guarantees none.
    let least = if least.iter().sum::<f64>() > keep as f64 { vec![0.0; sizes.len()] } else { least };
    let most: Vec<f64> = sizes.iter().map(|size| *size as f64).collect();
    let wanted: Vec<f64> = softmax(complexities, temperature).into_iter().map(|p| p * keep as f64).collect();
    projected(&wanted, &least, &most, keep as f64)
}

/// [`shares`] in whole rows, `keep` in all, or all if there are fewer.
#[must_use]
pub fn quotas(sizes: &[u64], complexities: &[f64], keep: u64, temperature: f64, floor: f64) -> Vec<u64> {
    largest_remainder(&shares(sizes, complexities, keep, temperature, floor), sizes, keep)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(found: &[f64], wanted: &[f64], digits: f64) {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= digits) && found.len() == wanted.len(), "{found:?} {wanted:?}");
    }

    #[test]
    fn quotas_of_the_specification() {
        let cluster = |rows, intra, inter| Cluster { rows, intra, inter };
        let clusters = [cluster(400, 0.1, 0.5), cluster(400, 0.3, 0.5), cluster(100, 0.2, 0.2), cluster(100, 0.4, 0.8)];
        let sizes = clusters.map(|cluster| cluster.rows);
        let complexities = complexities(&clusters, Complexity::Spread);
        near(&complexities, &[0.05, 0.15, 0.04, 0.32], 1e-12);
        near(&softmax(&complexities, 0.5), &[0.203_351, 0.248_373, 0.199_324, 0.348_952], 1e-6);
        near(&shares(&sizes, &complexities, 500, 0.5, 0.0), &[138.744, 161.256, 100.0, 100.0], 1e-3);
        near(&softmax(&complexities, 0.1), &[0.051_275, 0.139_379, 0.046_395, 0.762_952], 1e-6);
        near(&shares(&sizes, &complexities, 500, 0.1, 0.0), &[127.974, 172.026, 100.0, 100.0], 1e-3);
        assert_eq!(quotas(&sizes, &complexities, 500, 0.5, 0.0), [139, 161, 100, 100]);
    }

    #[test]
    fn tiny_clusters_take_the_mean_of_the_others() {
        let cluster = |rows, intra, inter| Cluster { rows, intra, inter };
        let clusters = [cluster(0, f64::NAN, 0.5), cluster(3, 0.2, 0.5), cluster(5, 0.4, 0.5)];
        near(&complexities(&clusters, Complexity::Spread), &[0.15, 0.1, 0.2], 1e-12);
        near(&complexities(&clusters, Complexity::Size), &[0.0, 0.375, 0.625], 1e-12);
        near(&complexities(&clusters[..1], Complexity::Spread), &[0.0], 0.0);
    }

    proptest! {
        #[test]
        fn totals_are_exact_and_heat_evens_out(
            clusters in prop::collection::vec((1_u64..60, 0.0_f64..1.0), 1..12), keep in 0_u64..300, floor in prop::sample::select(vec![0.0, 0.5, 1.0]),
        ) {
            let (sizes, complexities): (Vec<u64>, Vec<f64>) = clusters.into_iter().unzip();
            for temperature in [0.01, 0.5, 1e9] {
                let quotas = quotas(&sizes, &complexities, keep, temperature, floor);
                prop_assert_eq!(quotas.iter().sum::<u64>(), keep.min(sizes.iter().sum()));
                prop_assert!(quotas.iter().zip(&sizes).all(|(quota, size)| quota <= size));
                // Seeds S3: what is guaranteed to a cluster, as far as there is so much for all, is there after rounding as well.
                let share = (floor * keep as f64 / sizes.len() as f64).floor() as u64;
                let least: Vec<u64> = sizes.iter().map(|size| if floor == 0.0 { 1 } else { share.min(size - 1) }).collect();
                prop_assert!(least.iter().sum::<u64>() > keep || quotas.iter().zip(&least).all(|(quota, least)| quota >= least));
            }
            // Infinite heat is the most even division that the sizes allow.
            let even = shares(&sizes, &complexities, keep, 1e12, 0.0);
            let same = shares(&sizes, &vec![0.0; sizes.len()], keep, 1.0, 0.0);
            prop_assert!(even.iter().zip(same).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
