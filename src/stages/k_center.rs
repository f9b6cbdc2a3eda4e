//! `k_center`: keeps rows such that no other row is far from all of them, by farthest-first traversal.
//!
//! Gonzalez, Clustering to Minimize the Maximum Intercluster Distance, 1985; as a coreset for learning: Sener and Savarese, Active
//! Learning for Convolutional Neural Networks: A Core-Set Approach, 2018.

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::policy::{self, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Left};
use super::vectors::Form;
use crate::declare::{Field, Fields};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::select::lazy::{Candidate, Choice, Gains, greedy};
use crate::vector::mean::nearest_to_mean;
use crate::vector::{Matrix, Rows, Source, nearest};

/// `k_center: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct KCenterConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `k_center`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    policy::ON_BAD_VECTOR,
];

impl KCenterConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"budget": self.quota.canonical(), "on_bad_vector": self.on_bad_vector.word()})
    }
}

impl Stage for KCenterConfig {
    fn kind(&self) -> &'static str {
        "k_center"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn quota(&self) -> Option<&Quota> {
        Some(&self.quota)
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "farthest first, from the row nearest to the mean: the largest distance to a kept row is at most twice the least possible"
                .into(),
        ]
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(KCenter(self.clone())))
    }
}

/// Chooses the row nearest to the mean, then always the row farthest from all that are chosen.
#[derive(Debug)]
struct KCenter(KCenterConfig);

impl Barrier for KCenter {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let KCenterConfig { quota, on_bad_vector, .. } = self.0;
        let asked = Asked { quota, on_bad_vector, form: Form::Unit, trained_rows: 0 };
        Box::pin(selecting::select(engine, input, "selecting centers", asked, decide))
    }
}

fn decide(candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
    let source = candidates.source;
    let most = candidates.allowance.most(source.rows());
    let _memory = candidates.memory.beside("selecting centers", most * source.dimensions() * size_of::<f32>())?;
    let Choice { chosen, left } = centers(source, most, candidates.allowance.fits(), || stop.check())?;
    let mut kept = vec![true; source.rows()];
    let mut distances = vec![0.0; source.rows()];
    for candidate in left {
        kept[candidate.row as usize] = false;
        // Where nothing was chosen, all are as far as can be.
        distances[candidate.row as usize] = candidate.gain.min(2.0);
    }
    if !chosen.is_empty() {
        report.insert("radius".into(), json!(distances.iter().copied().fold(0.0, f64::max)));
    }
    Ok(selecting::ranked(candidates, &distances, &kept, None))
}

/// At most `most` rows of a source of unit vectors, farthest first, as long as they fit; gains are 1 - cosine to the nearest row chosen before.
fn centers(source: Source<'_>, most: usize, fits: impl FnMut(u32) -> bool, check: impl Fn() -> Result<()>) -> Result<Choice> {
    let start = nearest_to_mean(source)?;
    let mut centers = Centers { source, data: Vec::with_capacity(most * source.dimensions()) };
    // Nothing is farther from another row than 2; the first choice is made by what no row reaches otherwise.
    let first = |row| if Some(row) == start { f64::INFINITY } else { 2.0 };
    let candidates = (0..source.rows() as u32).map(|row| Candidate { gain: first(row), row, seen: 0 }).collect();
    greedy(candidates, most, fits, &mut centers, check)
}

/// The centers chosen so far.
struct Centers<'a> {
    source: Source<'a>,
    data: Vec<f32>,
}

/// Rows whose distances are computed at once.
const BLOCK: usize = 512;

impl Gains for Centers<'_> {
    fn choose(&mut self, candidate: Candidate) -> Result<()> {
        self.source.copy(&[candidate.row], &mut self.data)
    }

    fn lower(&self, candidates: &mut [Candidate]) -> Result<()> {
        let centers = Matrix::try_new(&self.data, self.source.dimensions())?;
        // Rows of one age together, so that none is compared with many centers that it has met before.
        candidates.sort_unstable_by_key(|candidate| (candidate.seen, candidate.row));
        let pieces = candidates.chunk_by_mut(|a, b| a.seen == b.seen).flat_map(|equal| equal.chunks_mut(BLOCK)).collect::<Vec<_>>();
        pieces.into_par_iter().try_for_each_init(Vec::new, |buffer, block| {
            let since = block.first().map_or(0, |candidate| candidate.seen as usize);
            let new = centers.run(since..centers.rows());
            if new.rows() == 0 {
                return Ok(());
            }
            let rows: Vec<u32> = block.iter().map(|candidate| candidate.row).collect();
            let found = nearest(Rows::all(self.source.gather(&rows, buffer)?), Rows::all(new), f64::NEG_INFINITY);
            for (candidate, found) in block.iter_mut().zip(found) {
                candidate.seen = centers.rows() as u32;
                candidate.gain = found.map_or(candidate.gain, |(_, cosine)| candidate.gain.min(1.0 - cosine));
            }
            Result::Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{Vectors, planted, similarity};

    /// By definition: every distance, every time.
    fn plain(vectors: &Vectors, keep: usize) -> Vec<u32> {
        let d = vectors.matrix().dimensions();
        let mean: Vec<f64> = (0..d).map(|i| (0..vectors.rows()).map(|row| f64::from(vectors.row(row)[i])).sum()).collect();
        let along = |row: usize| -> f64 { vectors.row(row).iter().zip(&mean).map(|(x, m)| f64::from(*x) * m).sum() };
        let mut chosen: Vec<u32> = Vec::new();
        while chosen.len() < keep.min(vectors.rows()) {
            let distance = |row: usize| {
                if chosen.is_empty() {
                    return along(row);
                }
                chosen.iter().map(|c| 1.0 - similarity(vectors.row(row), vectors.row(*c as usize))).fold(2.0, f64::min)
            };
            let open = (0..vectors.rows()).filter(|row| !chosen.contains(&(*row as u32)));
            chosen.push(open.rev().max_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap() as u32);
        }
        chosen
    }

    fn chosen(vectors: &Vectors, keep: usize) -> Vec<u32> {
        let choice = centers(Source::Memory(vectors.matrix()), keep, |_| true, || Ok(())).unwrap();
        choice.chosen.iter().map(|candidate| candidate.row).collect()
    }

    /// The largest distance in space, of unit vectors, to the nearest of some rows.
    fn radius(vectors: &Vectors, of: &[u32]) -> f64 {
        let distance = |row: usize, c: &u32| (2.0 * (1.0 - similarity(vectors.row(row), vectors.row(*c as usize)))).max(0.0).sqrt();
        (0..vectors.rows()).map(|row| of.iter().map(|c| distance(row, c)).fold(2.0, f64::min)).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn equals_the_plain_traversal(rows in 1_usize..900, d in 2_usize..20, keep in 0_usize..40, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, d, seed);
            prop_assert_eq!(chosen(&vectors, keep), plain(&vectors, keep));
        }

        #[test]
        fn the_radius_is_at_most_twice_the_least(rows in 2_usize..11, keep in 1_usize..5, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, 3, seed);
            let sets = (1_u32..1 << rows).filter(|set| set.count_ones() as usize == keep.min(rows));
            let members = |set: u32| (0..rows as u32).filter(|row| set >> row & 1 == 1).collect::<Vec<_>>();
            let least = sets.map(|set| radius(&vectors, &members(set))).fold(2.0, f64::min);
            prop_assert!(radius(&vectors, &chosen(&vectors, keep)) <= 2.0 * least + 1e-6);
        }
    }

    #[test]
    fn neither_memory_nor_threads_move_a_choice() {
        let vectors = planted::vectors(3000, 12, 5);
        let apart = crate::vector::source::tests::Apart(vectors.clone());
        let all = centers(Source::Memory(vectors.matrix()), 300, |_| true, || Ok(())).unwrap();
        assert_eq!(centers(Source::File(&apart), 300, |_| true, || Ok(())).unwrap(), all);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| centers(Source::Memory(vectors.matrix()), 300, |_| true, || Ok(())).unwrap()), all);
    }
}
