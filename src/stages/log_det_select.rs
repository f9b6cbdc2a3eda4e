//! `log_det_select`: keeps rows whose vectors span the largest volume: the most probable set of a determinantal point process,
//! chosen greedily.
//!
//! Kulesza and Taskar, Determinantal Point Processes for Machine Learning, 2012; the greedy choice by an incremental Cholesky factor:
//! Chen, Zhang and Zhou, Fast Greedy MAP Inference for Determinantal Point Process, 2018; see [`crate::vector::volume`].

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::fitting;
use super::policy::{self, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Left};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::select::lazy::{Candidate, Choice, Gains, greedy};
use crate::vector::Source;
use crate::vector::volume::Volume;

/// `log_det_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogDetSelectConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// What is added to the diagonal of the kernel; default 0.01.
    pub ridge: f64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `log_det_select`.
pub const FIELDS: &[Field] = &[
    quota::KEEP_FRACTION,
    quota::KEEP_ROWS,
    quota::KEEP_BYTES,
    quota::KEEP_TOKENS,
    quota::GROUP,
    quota::PER_SOURCE,
    quota::ALLOCATION,
    policy::EMBEDDING,
    defaulted(
        "ridge",
        Shape::Float { min: 1e-6, max: 1e6, exclusive: false },
        Presence::Float(0.01),
        "What is added to the diagonal of the matrix of cosines: the smaller, the more a new direction counts beside more of one that is kept.",
    ),
    policy::ON_BAD_VECTOR,
];

impl LogDetSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            ridge: fields.float("ridge").unwrap_or(1.0),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({"budget": self.quota.canonical(), "on_bad_vector": self.on_bad_vector.word(), "ridge": self.ridge})
    }
}

impl Stage for LogDetSelectConfig {
    fn kind(&self) -> &'static str {
        "log_det_select"
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
        vec!["greedy: at least 1 - 1/e of the largest log det(1 + K / ridge) of any set of that size, K the cosines of its rows".into()]
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(LogDet(self.clone())))
    }
}

/// Chooses the row that adds the most to the volume, every time.
#[derive(Debug)]
struct LogDet(LogDetSelectConfig);

impl Barrier for LogDet {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let LogDetSelectConfig { quota, on_bad_vector, ridge, .. } = self.0;
        let asked = Asked { quota, on_bad_vector, form: Form::Unit, trained_rows: 0 };
        let decide =
            move |candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>| decide(candidates, ridge, stop, report);
        Box::pin(selecting::select(engine, input, "selecting by volume", asked, decide))
    }
}

fn decide(candidates: &Candidates<'_>, ridge: f64, stop: &Stop, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
    let source = candidates.source;
    let _memory = fitting::beside(candidates.memory, source.dimensions(), 0)?;
    let most = candidates.allowance.most(source.rows());
    let Choice { chosen, left } = largest(source, most, candidates.allowance.fits(), ridge, || stop.check())?;
    report.insert("log_det".into(), json!(chosen.iter().map(|candidate| candidate.gain.ln_1p()).sum::<f64>()));
    let mut kept = vec![true; source.rows()];
    let mut gains = vec![0.0; source.rows()];
    for candidate in left {
        kept[candidate.row as usize] = false;
        gains[candidate.row as usize] = candidate.gain.ln_1p();
    }
    Ok(selecting::ranked(candidates, &gains, &kept, None))
}

/// At most `most` rows of a source of unit vectors, as long as they fit; the gain of a row is `v`, where choosing it adds `ln(1 + v)` to the logarithm of the volume.
fn largest(source: Source<'_>, most: usize, fits: impl FnMut(u32) -> bool, ridge: f64, check: impl Fn() -> Result<()>) -> Result<Choice> {
    let squares = source.squares()?.into_iter().zip(0..);
    let candidates = squares.map(|(square, row)| Candidate { gain: square / ridge, row, seen: 0 }).collect();
    let mut spanned = Spanned { source, volume: Volume::of_ridge(source.dimensions(), ridge), least: f64::NEG_INFINITY };
    greedy(candidates, most, fits, &mut spanned, check)
}

/// The rows chosen so far, by what they span; a gain is the `v` of [`Volume`].
pub(super) struct Spanned<'a> {
    pub(super) source: Source<'a>,
    pub(super) volume: Volume,
    /// Rows whose factor is not above are not worth choosing.
    pub(super) least: f64,
}

/// Rows whose gains are computed at once.
const BLOCK: usize = 64;

impl Gains for Spanned<'_> {
    fn worth(&self, gain: f64) -> bool {
        gain > self.least
    }

    fn choose(&mut self, candidate: Candidate) -> Result<()> {
        let mut buffer = Vec::new();
        self.volume.add(self.source.row(candidate.row, &mut buffer)?, candidate.gain);
        Ok(())
    }

    fn lower(&self, candidates: &mut [Candidate]) -> Result<()> {
        candidates.par_chunks_mut(BLOCK).try_for_each_init(Vec::new, |buffer, block| {
            for candidate in block.iter_mut().filter(|candidate| (candidate.seen as usize) < self.volume.count()) {
                let row = self.source.row(candidate.row, buffer)?;
                candidate.gain = self.volume.lowered(row, candidate.gain, candidate.seen as usize);
                candidate.seen = self.volume.count() as u32;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{Vectors, dot::dot, planted};

    /// `log det(1 + K / ridge)` of a set, by elimination.
    fn value(vectors: &Vectors, set: &[u32], ridge: f64) -> f64 {
        let k = set.len();
        let entry =
            |i: usize, j: usize| dot(vectors.row(set[i] as usize), vectors.row(set[j] as usize)) / ridge + f64::from(u8::from(i == j));
        let mut a: Vec<Vec<f64>> = (0..k).map(|i| (0..k).map(|j| entry(i, j)).collect()).collect();
        let mut value = 0.0;
        for i in 0..k {
            value += a[i][i].ln();
            for j in i + 1..k {
                let factor = a[j][i] / a[i][i];
                let above = a[i].clone();
                a[j].iter_mut().zip(above).for_each(|(x, y)| *x -= factor * y);
            }
        }
        value
    }

    /// The incremental Cholesky factor of the paper, on the whole kernel: for each chosen row its place, and the gain `d^2 / ridge - 1`.
    fn plain(vectors: &Vectors, keep: usize, ridge: f64) -> Vec<(u32, f64)> {
        let n = vectors.rows();
        let kernel = |i: usize, j: usize| dot(vectors.row(i), vectors.row(j)) + if i == j { ridge } else { 0.0 };
        let mut rest: Vec<f64> = (0..n).map(|i| kernel(i, i)).collect();
        let mut factor: Vec<Vec<f64>> = vec![Vec::new(); n];
        let mut chosen: Vec<(u32, f64)> = Vec::new();
        while chosen.len() < keep.min(n) {
            let open = (0..n).filter(|row| !chosen.iter().any(|(other, _)| *other as usize == *row));
            let best = open.rev().max_by(|a, b| rest[*a].total_cmp(&rest[*b])).unwrap();
            chosen.push((best as u32, rest[best] / ridge - 1.0));
            let column = factor[best].clone();
            for i in (0..n).filter(|i| *i != best) {
                let e = (kernel(best, i) - column.iter().zip(&factor[i]).map(|(a, b)| a * b).sum::<f64>()) / rest[best].sqrt();
                factor[i].push(e);
                rest[i] -= e * e;
            }
        }
        chosen
    }

    fn chosen(vectors: &Vectors, keep: usize, ridge: f64) -> Choice {
        largest(Source::Memory(vectors.matrix()), keep, |_| true, ridge, || Ok(())).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn equals_the_cholesky_factor_of_the_kernel(rows in 1_usize..700, d in 2_usize..12, keep in 0_usize..40, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, d, seed);
            let found = chosen(&vectors, keep, 0.1);
            let wanted = plain(&vectors, keep, 0.1);
            prop_assert_eq!(found.chosen.len(), wanted.len());
            for (found, (row, gain)) in found.chosen.iter().zip(&wanted) {
                prop_assert!((found.gain - gain).abs() < 1e-9, "{} {} {} {}", found.gain, gain, found.row, row);
            }
            let set: Vec<u32> = found.chosen.iter().map(|candidate| candidate.row).collect();
            let sum: f64 = found.chosen.iter().map(|candidate| candidate.gain.ln_1p()).sum();
            prop_assert!((sum - value(&vectors, &set, 0.1)).abs() < 1e-6);
        }

        #[test]
        fn the_value_is_at_least_63_percent_of_the_best(rows in 2_usize..11, keep in 1_usize..6, seed in 0_u64..1000) {
            let vectors = planted::vectors(rows, 3, seed);
            let members = |set: u32| (0..rows as u32).filter(|row| set >> row & 1 == 1).collect::<Vec<_>>();
            let sets = (1_u32..1 << rows).filter(|set| set.count_ones() as usize == keep.min(rows));
            let best = sets.map(|set| value(&vectors, &members(set), 0.1)).fold(0.0, f64::max);
            let set: Vec<u32> = chosen(&vectors, keep, 0.1).chosen.iter().map(|candidate| candidate.row).collect();
            prop_assert!(value(&vectors, &set, 0.1) >= (1.0 - (-1.0_f64).exp()) * best - 1e-9);
        }
    }

    #[test]
    fn neither_memory_nor_threads_move_a_choice() {
        let vectors = planted::vectors(3000, 12, 5);
        let apart = crate::vector::source::tests::Apart(vectors.clone());
        let all = chosen(&vectors, 300, 0.01);
        assert_eq!(largest(Source::File(&apart), 300, |_| true, 0.01, || Ok(())).unwrap(), all);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| chosen(&vectors, 300, 0.01)), all);
    }
}
