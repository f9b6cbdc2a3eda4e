//! Spherical k-means: centroids are unit vectors, a row belongs to the centroid of highest cosine.
//!
//! Dhillon and Modha, Concept Decompositions for Large Sparse Text Data Using Clustering, 2001; seeding by Arthur and Vassilvitskii,
//! k-means++, 2007, in its greedy form. Everything is a function of the multiset of vectors, the seed and `k`: rows are taken in the
//! order of draws keyed by their content, so that neither threads nor row order nor shards move a centroid.

use rayon::prelude::*;

use crate::error::Result;
use crate::random::Random;
use crate::vector::dot::similarity;
use crate::vector::flat::nearest_with;
use crate::vector::source::Source;
use crate::vector::{Matrix, Rows, Vectors, nearest, normalise};

/// Candidates for a first centroid, for each one to choose.
const CANDIDATES_A_CENTROID: usize = 16;

/// How much is spent on the centroids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Rounds at most.
    pub iterations: usize,
    /// Distinct rows that a centroid is trained on, at most...
    pub rows_a_centroid: usize,
    /// ... but never fewer in all than this: few centroids cost little, and `k = 1` is the mean of the corpus.
    pub rows_at_least: usize,
    /// Up to so many centroids the first ones are chosen by k-means++; above, the rows of smallest draw are taken: with many
    /// centroids the start matters little, and choosing one after the other would cost more than the iterations.
    pub chosen_by_distance: usize,
}

impl Training {
    /// For cells that must hold each pair of duplicates; the sample is that of FAISS.
    #[must_use]
    pub fn thorough(iterations: usize) -> Self {
        Self { iterations, rows_a_centroid: 256, rows_at_least: 1 << 16, chosen_by_distance: 256 }
    }

    /// For cells whose neighbours are looked at too: borders need not be good, only cells of like size.
    #[must_use]
    pub fn quick() -> Self {
        Self { iterations: 5, rows_a_centroid: 32, rows_at_least: 1 << 12, chosen_by_distance: 16 }
    }

    /// Rows that `k` centroids are trained on, at most.
    #[must_use]
    pub fn rows(&self, k: usize) -> usize {
        k.saturating_mul(self.rows_a_centroid).max(self.rows_at_least)
    }
}

/// Fitted centroids.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    centroids: Vectors,
}

/// What it is trained on: distinct vectors in the order of their draws, each with the number of rows that have it.
struct Sample<'a> {
    rows: Rows<'a>,
    weights: &'a [f64],
}

impl KMeans {
    /// Fits at most `k` centroids to unit vectors (finite, of length one), in at most `iterations` rounds; it stops when no row
    /// changes its centroid. There are fewer than `k` centroids if there are fewer distinct vectors.
    ///
    /// Trained on the `max(256 k, 65,536)` distinct vectors of smallest draw, each weighted by the rows that have it.
    ///
    /// # Errors
    /// Internal only: the centroids form no matrix.
    pub fn fit(vectors: Matrix<'_>, k: usize, iterations: usize, random: &Random) -> Result<Self> {
        Self::fit_to(Source::Memory(vectors), k, &Training::thorough(iterations), random)
    }

    /// [`KMeans::fit`] with the training said, and vectors that may lie in a file: those trained on are then copied to memory.
    pub fn fit_to(source: Source<'_>, k: usize, training: &Training, random: &Random) -> Result<Self> {
        let (distinct, mut weights) = distinct(source, random)?;
        let k = k.min(distinct.len());
        let size = distinct.len().min(training.rows(k));
        let order = &distinct[..size];
        weights.truncate(size);
        let mut copied = Vec::new();
        let rows = match source {
            Source::Memory(vectors) => Rows::some(vectors, order),
            Source::File(_) => Rows::all(source.gather(order, &mut copied)?),
        };
        let sample = Sample { rows, weights: &weights };
        let squares = sample.rows.squares();
        let dimensions = source.dimensions();
        let first = if k <= training.chosen_by_distance { spread(&sample, k, random) } else { (0..k).collect() };
        let data = first.iter().flat_map(|position| sample.rows.row(*position)).copied().collect();
        let mut model = Self { centroids: Vectors::try_new(data, dimensions)? };
        let mut before = Vec::new();
        for _ in 0..training.iterations {
            let found = nearest_with(sample.rows, &squares, Rows::all(model.centroids.matrix()), f64::NEG_INFINITY);
            let (clusters, similarities) = split(found);
            if clusters == before {
                break;
            }
            model.update(&sample, &clusters, &similarities);
            before = clusters;
        }
        Ok(model)
    }

    /// Takes up centroids that were fitted before; unit vectors.
    #[must_use]
    pub fn from_centroids(centroids: Vectors) -> Self {
        Self { centroids }
    }

    /// The centroids, unit vectors.
    #[must_use]
    pub fn centroids(&self) -> &Vectors {
        &self.centroids
    }

    /// For each row its cluster, ties to the lowest, and its cosine with that centroid. A row without direction, or any row where
    /// there is no centroid, gets cluster 0 and NaN.
    #[must_use]
    pub fn assign(&self, vectors: Matrix<'_>) -> (Vec<u32>, Vec<f64>) {
        split(nearest(Rows::all(vectors), Rows::all(self.centroids.matrix()), f64::NEG_INFINITY))
    }

    /// Moves each centroid to the direction of the mean of its rows; one that has no rows starts anew at the row that is farthest
    /// from its own centroid and does not stand there alone.
    fn update(&mut self, sample: &Sample<'_>, clusters: &[u32], similarities: &[f64]) {
        let dimensions = self.centroids.dimensions;
        let members = Members::new(clusters, self.centroids.rows());
        self.centroids.data.par_chunks_mut(dimensions).enumerate().for_each(|(cluster, centroid)| {
            let mut sum = vec![0.0_f64; dimensions];
            for &position in members.of(cluster) {
                let weight = sample.weights[position as usize];
                for (sum, value) in sum.iter_mut().zip(sample.rows.row(position as usize)) {
                    *sum += weight * f64::from(*value);
                }
            }
            let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            // A mean without direction (rows that cancel out) leaves the centroid where it is.
            if norm > 0.0 && norm.is_finite() {
                let mut mean: Vec<f32> = sum.iter().map(|value| (value / norm) as f32).collect();
                if normalise(&mut mean) {
                    centroid.copy_from_slice(&mean);
                }
            }
        });
        let mut sizes: Vec<usize> = (0..self.centroids.rows()).map(|cluster| members.of(cluster).len()).collect();
        if sizes.contains(&0) {
            let mut farthest: Vec<usize> = (0..clusters.len()).collect();
            farthest.sort_by(|a, b| similarities[*a].total_cmp(&similarities[*b]).then(a.cmp(b)));
            let mut farthest = farthest.into_iter();
            for cluster in 0..sizes.len() {
                if sizes[cluster] == 0
                    && let Some(position) = farthest.find(|position| sizes[clusters[*position] as usize] > 1)
                {
                    sizes[clusters[position] as usize] -= 1;
                    sizes[cluster] = 1;
                    self.centroids.data[cluster * dimensions..][..dimensions].copy_from_slice(sample.rows.row(position));
                }
            }
        }
    }
}

/// The rows of each cluster, in order.
struct Members {
    starts: Vec<usize>,
    positions: Vec<u32>,
}

impl Members {
    /// Counting sort: stable, so that sums are added in the order of the sample.
    fn new(clusters: &[u32], k: usize) -> Self {
        let mut starts = vec![0; k + 1];
        for cluster in clusters {
            starts[*cluster as usize + 1] += 1;
        }
        for cluster in 0..k {
            starts[cluster + 1] += starts[cluster];
        }
        let (mut next, mut positions) = (starts.clone(), vec![0; clusters.len()]);
        for (position, cluster) in clusters.iter().enumerate() {
            positions[next[*cluster as usize]] = position as u32;
            next[*cluster as usize] += 1;
        }
        Self { starts, positions }
    }

    fn of(&self, cluster: usize) -> &[u32] {
        &self.positions[self.starts[cluster]..self.starts[cluster + 1]]
    }
}

fn split(found: Vec<Option<(u32, f64)>>) -> (Vec<u32>, Vec<f64>) {
    found.into_iter().map(|nearest| nearest.unwrap_or((0, f64::NAN))).unzip()
}

/// One row of each distinct vector, by draw, and how many rows have it. Two vectors with one draw of 64 bits count as equal, which
/// at worst leaves one of them out of the training.
fn distinct(source: Source<'_>, random: &Random) -> Result<(Vec<u32>, Vec<f64>)> {
    let mut draws = source
        .pieces(|start, rows| {
            let mut bytes = Vec::new();
            let draw = |row: usize| {
                bytes.clear();
                bytes.extend(rows.row(row).iter().flat_map(|value| value.to_le_bytes()));
                (random.draw(&bytes), (start + row) as u32)
            };
            Ok((0..rows.rows()).map(draw).collect::<Vec<(u64, u32)>>())
        })?
        .concat();
    draws.par_sort_unstable();
    Ok(draws.chunk_by(|a, b| a.0 == b.0).map(|equal| (equal[0].1, equal.len() as f64)).unzip())
}

/// Positions of `k` rows that lie apart: each is the best, by what remains of all distances, of a few that are drawn with odds
/// proportional to their distance from those chosen before.
fn spread(sample: &Sample<'_>, k: usize, random: &Random) -> Vec<usize> {
    let count = sample.rows.len().min(k * CANDIDATES_A_CENTROID);
    let mut draws = random.sequence(b"first centroids");
    let trials = 2 + k.max(1).ilog2();
    let distances = |chosen: usize, nearest: &[f64]| -> Vec<f64> {
        let distance = |(position, nearest): (usize, &f64)| {
            // Twice this is the squared Euclidean distance of unit vectors; the chosen row itself is at 0, never drawn again.
            nearest.min(1.0 - similarity(sample.rows.row(chosen), sample.rows.row(position)))
        };
        nearest.par_iter().enumerate().map(distance).collect()
    };
    let total = |nearest: &[f64]| nearest.iter().zip(sample.weights).map(|(distance, weight)| distance * weight).sum::<f64>();
    let mut chosen = Vec::with_capacity(k);
    let mut nearest = vec![f64::INFINITY; count];
    while chosen.len() < k {
        let sum = total(&nearest);
        // Nothing chosen yet: the row of smallest draw. Nothing apart any more (distinct vectors of one direction): the next unused.
        let candidates: Vec<usize> = if chosen.is_empty() || sum <= 0.0 {
            (0..count).find(|position| !chosen.contains(position)).into_iter().collect()
        } else {
            (0..trials).filter_map(|_| pick(&nearest, sample.weights, draws.unit() * sum)).collect()
        };
        let best = candidates
            .into_iter()
            .map(|candidate| (candidate, distances(candidate, &nearest)))
            .min_by(|(_, a), (_, b)| total(a).total_cmp(&total(b)));
        let Some((candidate, distances)) = best else { break };
        chosen.push(candidate);
        nearest = distances;
    }
    chosen
}

/// The position at which the running sum of weighted distances passes `target`; rows at distance 0 are never picked.
fn pick(nearest: &[f64], weights: &[f64], target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (position, (distance, weight)) in nearest.iter().zip(weights).enumerate() {
        if *distance > 0.0 {
            sum += distance * weight;
            last = Some(position);
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::planted;

    fn random() -> Random {
        Random::new(1234, "k-means")
    }

    /// One round by its definition: every cosine, every mean.
    fn plain_round(vectors: &Vectors, centroids: &Vectors) -> (Vec<u32>, Vec<Vec<f64>>) {
        let k = centroids.rows();
        let mut sums = vec![vec![0.0; vectors.dimensions]; k];
        let mut clusters = Vec::new();
        for row in 0..vectors.rows() {
            let cosines: Vec<f64> = (0..k).map(|c| similarity(vectors.row(row), centroids.row(c))).collect();
            let best = (0..k).rev().max_by(|a, b| cosines[*a].total_cmp(&cosines[*b])).unwrap();
            clusters.push(best as u32);
            for (sum, value) in sums[best].iter_mut().zip(vectors.row(row)) {
                *sum += f64::from(*value);
            }
        }
        for sum in &mut sums {
            let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            for value in sum {
                *value /= norm;
            }
        }
        (clusters, sums)
    }

    #[test]
    fn each_round_equals_the_plain_one() {
        let vectors = planted::vectors(2000, 20, 11);
        for rounds in 0..4 {
            let before = KMeans::fit(vectors.matrix(), 25, rounds, &random()).unwrap();
            let after = KMeans::fit(vectors.matrix(), 25, rounds + 1, &random()).unwrap();
            let (clusters, means) = plain_round(&vectors, before.centroids());
            assert_eq!(before.assign(vectors.matrix()).0, clusters);
            for (cluster, mean) in means.iter().enumerate() {
                for (a, b) in mean.iter().zip(after.centroids().row(cluster)) {
                    assert!((a - f64::from(*b)).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_row_order_nor_multiplicity_by_order_move_a_bit() {
        let vectors = planted::vectors(3000, 24, 12);
        for k in [1, 7, 40, 300] {
            let run = |threads: usize, vectors: &Vectors| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let model = KMeans::fit(vectors.matrix(), k, 8, &random()).unwrap();
                    let (clusters, similarities) = model.assign(vectors.matrix());
                    (model, clusters, similarities)
                })
            };
            let one = run(1, &vectors);
            assert!(one == run(2, &vectors) && one == run(3, &vectors));
            let reversed: Vec<f32> = (0..3000).rev().flat_map(|row| vectors.row(row)).copied().collect();
            let back = run(2, &Vectors::try_new(reversed, 24).unwrap());
            assert!(one.0 == back.0 && one.1.iter().eq(back.1.iter().rev()), "k={k}");
        }
    }

    #[test]
    fn separated_groups_are_found() {
        let groups = planted::vectors(30, 16, 13);
        let mut draws = random().sequence(b"copies");
        let mut data = Vec::new();
        let mut truth = Vec::new();
        for row in 0..600_usize {
            let group = row * 7 % 30;
            let mut copy: Vec<f32> = groups.row(group).iter().map(|x| x + 0.005 * draws.unit() as f32).collect();
            assert!(normalise(&mut copy));
            data.extend(copy);
            truth.push(group);
        }
        let vectors = Vectors::try_new(data, 16).unwrap();
        // Planted copies among the groups may coincide: count the groups that are apart.
        let apart = (0..30).filter(|a| (0..*a).all(|b| similarity(groups.row(*a), groups.row(b)) < 0.99)).count();
        let (clusters, _) = KMeans::fit(vectors.matrix(), apart, 20, &random()).unwrap().assign(vectors.matrix());
        for (a, b) in (0..600).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let together = similarity(groups.row(truth[a]), groups.row(truth[b])) > 0.99;
            assert_eq!(clusters[a] == clusters[b], together, "{a} {b}");
        }
    }

    #[test]
    fn equal_vectors_give_no_two_centroids() {
        let data = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]].concat();
        let vectors = Vectors::try_new(data, 2).unwrap();
        let model = KMeans::fit(vectors.matrix(), 4, 10, &random()).unwrap();
        assert_eq!(model.centroids().rows(), 2);
        let (clusters, similarities) = model.assign(vectors.matrix());
        assert!(clusters[0] == clusters[2] && clusters[0] != clusters[1]);
        assert_eq!(similarities, [1.0; 4]);
        let none = KMeans::fit(Matrix::try_new(&[], 2).unwrap(), 4, 10, &random()).unwrap();
        assert_eq!(none.centroids().rows(), 0);
    }

    #[test]
    fn the_centroid_of_one_cluster_is_the_weighted_mean() {
        let vectors = Vectors::try_new([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]].concat(), 2).unwrap();
        let model = KMeans::fit(vectors.matrix(), 1, 10, &random()).unwrap();
        let norm = 10.0_f64.sqrt();
        for (value, wanted) in model.centroids().row(0).iter().zip([3.0 / norm, 1.0 / norm]) {
            assert!((f64::from(*value) - wanted).abs() < 1e-7);
        }
    }

    #[test]
    fn an_empty_cluster_starts_anew_at_the_farthest_row() {
        let vectors = Vectors::try_new([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.96, 0.28]].concat(), 2).unwrap();
        let order: Vec<u32> = (0..4).collect();
        let sample = Sample { rows: Rows::some(vectors.matrix(), &order), weights: &[1.0; 4] };
        let mut model = KMeans::from_centroids(Vectors::try_new(vec![1.0, 0.0, -1.0, 0.0, 0.0, -1.0], 2).unwrap());
        let (clusters, similarities) = model.assign(vectors.matrix());
        assert_eq!(clusters, [0; 4]);
        model.update(&sample, &clusters, &similarities);
        assert_eq!(model.centroids().row(1), vectors.row(2));
        assert_eq!(model.centroids().row(2), vectors.row(1));
    }
}
