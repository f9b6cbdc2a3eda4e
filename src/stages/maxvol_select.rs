//! `maxvol_select`: keeps rows of which every other row is a small combination (MaxInfo).
//!
//! Vectors are projected on their strongest directions; [`crate::vector::maxvol`] chooses a square of rows of large volume, and further
//! rows are added, the one of largest coefficients each time, until no other row needs coefficients beyond the tolerance or the budget
//! is used up.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::fitting;
use super::log_det_select::Spanned;
use super::policy::{self, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Left};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Stop};
use crate::error::{Error, Result};
use crate::ids::StageId;
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::select::lazy::{Candidate, Choice, greedy};
use crate::vector::dot::mixed;
use crate::vector::eigen::symmetric;
use crate::vector::maxvol::{SLACK, square};
use crate::vector::moments::Covariance;
use crate::vector::volume::{Volume, inverse};
use crate::vector::{Matrix, Source};

/// Directions of at most this share of the largest second moment are rounding.
const FLOOR: f64 = 1e-10;
/// Numbers of eight bytes that are held for each number of a projected row.
const HELD: usize = 3;

/// `maxvol_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct MaxvolSelectConfig {
    /// How much is kept at most.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Directions that vectors are projected on, at most; default 16.
    pub rank: u32,
    /// The norm of coefficients that is small enough; default 1.
    pub tolerance: f64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `maxvol_select`.
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
        "rank",
        Shape::Int { min: 1, max: MAX_FITTED_DIMENSIONS as i64 },
        Presence::Int(16),
        "The strongest directions that vectors are projected on, at most; never more than dimensions or rows to keep.",
    ),
    defaulted(
        "tolerance",
        Shape::Float { min: 1e-3, max: 1e6, exclusive: false },
        Presence::Float(1.0),
        "Rows are added until every other row is a combination of kept ones with coefficients of at most this norm, or the budget is used up.",
    ),
    policy::ON_BAD_VECTOR,
];

impl MaxvolSelectConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            rank: fields.int("rank").and_then(|rank| u32::try_from(rank).ok()).unwrap_or_default(),
            tolerance: fields.float("tolerance").unwrap_or(1.0),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "budget": self.quota.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "rank": self.rank,
            "tolerance": self.tolerance,
        })
    }
}

impl Stage for MaxvolSelectConfig {
    fn kind(&self) -> &'static str {
        "maxvol_select"
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
        vec![format!("stops below its budget once every other row has coefficients of norm {} at most", self.tolerance)]
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(MaxvolSelect(self.clone())))
    }
}

/// Chooses the rows that the others are combinations of.
#[derive(Debug)]
struct MaxvolSelect(MaxvolSelectConfig);

impl Barrier for MaxvolSelect {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let Self(MaxvolSelectConfig { quota, on_bad_vector, rank, tolerance, .. }) = *self;
        let asked = Asked { quota, on_bad_vector, form: Form::Stored, trained_rows: 0 };
        let decide = move |candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>| {
            let source = candidates.source;
            let most = candidates.allowance.most(source.rows());
            let rank = (rank as usize).min(most).min(source.dimensions());
            let _fit = fitting::beside(candidates.memory, source.dimensions(), HELD * source.rows() * rank * size_of::<f64>())?;
            let spanning = spanning(source, rank, most, candidates.allowance.fits(), tolerance, || stop.check())?;
            report.insert("rank".into(), json!(spanning.rank));
            report.insert("exchanges".into(), json!(spanning.exchanges));
            report.insert("kept".into(), json!(spanning.chosen.len()));
            report.insert("within_tolerance".into(), json!(spanning.norms.iter().all(|norm| *norm <= tolerance + SLACK)));
            Ok(spanning.left(candidates))
        };
        Box::pin(selecting::select(engine, input, "selecting by maximal volume", asked, decide))
    }
}

/// What was chosen.
struct Spanning {
    /// Directions that there are.
    rank: usize,
    exchanges: usize,
    chosen: Vec<u32>,
    /// For each row the norm of its coefficients, 0 for those chosen.
    norms: Vec<f64>,
}

impl Spanning {
    fn left(&self, candidates: &Candidates<'_>) -> Vec<Left> {
        let mut kept = vec![false; self.norms.len()];
        self.chosen.iter().for_each(|row| kept[*row as usize] = true);
        selecting::ranked(candidates, &self.norms, &kept, None)
    }
}

/// Chooses at most `most` rows of a source, as long as they fit.
fn spanning(
    source: Source<'_>,
    rank: usize,
    most: usize,
    mut fits: impl FnMut(u32) -> bool,
    tolerance: f64,
    check: impl Fn() -> Result<()>,
) -> Result<Spanning> {
    let rows = source.rows();
    let (projected, rank) = project(source, rank)?;
    if rank == 0 {
        return Ok(Spanning { rank, exchanges: 0, chosen: Vec::new(), norms: vec![0.0; rows] });
    }
    let numbers: Vec<f64> = projected.iter().map(|x| f64::from(*x)).collect();
    let start = square(&numbers, rank).ok_or_else(|| Error::internal("projected vectors have less rank than directions"))?;
    drop(numbers);
    let matrix = Matrix::try_new(&projected, rank)?;
    let mut gram = vec![0.0; rank * rank];
    for row in &start.rows {
        let row = matrix.row(*row as usize);
        for (at, sum) in gram.iter_mut().enumerate() {
            *sum += f64::from(row[at / rank]) * f64::from(row[at % rank]);
        }
    }
    let inverse = inverse(&gram, rank).ok_or_else(|| Error::internal("the rows of a large volume are dependent"))?;
    let volume = Volume::of_inverse(rank, inverse);
    let mut square = vec![false; rows];
    start.rows.iter().for_each(|row| square[*row as usize] = true);
    let open = (0..rows as u32).filter(|row| !square[*row as usize]);
    let candidates = open.map(|row| Candidate { gain: volume.factor(matrix.row(row as usize)), row, seen: 0 }).collect();
    let mut spanned = Spanned { source: Source::Memory(matrix), volume, least: tolerance * tolerance + SLACK };
    let begun = start.rows.iter().take_while(|row| fits(**row)).count();
    let most = if begun < rank { rank } else { most };
    let Choice { chosen, left } = greedy(candidates, most - rank, fits, &mut spanned, check)?;
    let mut norms = vec![0.0; rows];
    for candidate in &left {
        norms[candidate.row as usize] = candidate.gain.max(0.0).sqrt();
    }
    // A row of the square that did not fit is a combination of itself.
    start.rows[begun..].iter().for_each(|row| norms[*row as usize] = 1.0);
    let chosen = start.rows.into_iter().take(begun).chain(chosen.into_iter().map(|candidate| candidate.row)).collect();
    Ok(Spanning { rank, exchanges: start.exchanges, chosen, norms })
}

/// Rows in the coordinates of their strongest directions, at most `rank`, each direction scaled to length 1 over all rows: the left
/// factor of a truncated singular value decomposition. Gives how many directions there are.
fn project(source: Source<'_>, rank: usize) -> Result<(Vec<f32>, usize)> {
    let covariance = Covariance::of_source(source)?;
    let d = covariance.mean.len();
    let moment = (0..d * d).map(|at| covariance.matrix[at] + covariance.mean[at / d] * covariance.mean[at % d]).collect();
    let eigen = symmetric(moment, d)?;
    let floor = FLOOR * eigen.values.first().copied().unwrap_or(0.0);
    let rank = eigen.values.iter().take(rank).take_while(|value| **value > floor).count();
    let axes: Vec<Vec<f64>> = (0..rank)
        .map(|axis| {
            let scale = 1.0 / eigen.values[axis].sqrt();
            eigen.vector(axis).iter().map(|x| scale * x).collect()
        })
        .collect();
    let parts = source.pieces(|_, rows| {
        let line = |row: usize| axes.iter().map(move |axis| mixed(rows.row(row), axis) as f32);
        Ok((0..rows.rows()).flat_map(line).collect::<Vec<f32>>())
    })?;
    Ok((parts.concat(), rank))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::vector::Vectors;
    use crate::vector::planted::normal;

    fn chosen(vectors: &Vectors, rank: usize, keep: usize) -> Vec<u32> {
        let source = Source::Memory(vectors.matrix());
        let mut rows = spanning(source, rank.min(keep), keep, |_| true, 1.0, || Ok(())).unwrap().chosen;
        rows.sort_unstable();
        rows
    }

    /// Seeds S10: 30 distinct rows, each ten times, shuffled; no copy of a chosen row is chosen, and all others are small combinations.
    #[test]
    fn copies_are_never_chosen() {
        for seed in 0..200 {
            let mut draws = Random::new(seed, "maxvol").sequence(b"copies");
            let distinct: Vec<f32> = (0..120).map(|_| normal(&mut draws) as f32).collect();
            let mut order: Vec<usize> = (0..300).collect();
            (1..300).rev().for_each(|at| order.swap(at, draws.below(at as u64 + 1) as usize));
            let data = order.iter().flat_map(|at| &distinct[at / 10 * 4..][..4]).copied().collect();
            let vectors = Vectors::try_new(data, 4).unwrap();
            let source = Source::Memory(vectors.matrix());
            let found = spanning(source, 4, 300, |_| true, 1.0, || Ok(())).unwrap();
            let mut kinds: Vec<usize> = found.chosen.iter().map(|row| order[*row as usize] / 10).collect();
            kinds.sort_unstable();
            kinds.dedup();
            assert_eq!(kinds.len(), found.chosen.len(), "seed {seed}");
            assert!((4..=7).contains(&kinds.len()), "seed {seed}: {}", kinds.len());
            assert!(found.norms.iter().all(|norm| *norm <= 1.0 + 1e-6), "seed {seed}");
            // C = D pinv(D_I), by the normal equations: its rows are no longer than 1, and C D_I is D.
            let of = |row: usize| vectors.row(row).iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            let own: Vec<Vec<f64>> = found.chosen.iter().map(|row| of(*row as usize)).collect();
            let gram: Vec<f64> = (0..16).map(|at| own.iter().map(|row| row[at / 4] * row[at % 4]).sum()).collect();
            let inverse = inverse(&gram, 4).unwrap();
            for row in 0..300 {
                let x = of(row);
                let solved: Vec<f64> = (0..4).map(|i| (0..4).map(|j| inverse[4 * i + j] * x[j]).sum()).collect();
                let c: Vec<f64> = own.iter().map(|own| own.iter().zip(&solved).map(|(a, b)| a * b).sum()).collect();
                let chosen = found.chosen.contains(&(row as u32));
                assert!(chosen || c.iter().map(|c| c * c).sum::<f64>().sqrt() <= 1.0 + 1e-6, "seed {seed}, row {row}");
                for (i, x) in x.iter().enumerate() {
                    let made: f64 = own.iter().zip(&c).map(|(own, c)| own[i] * c).sum();
                    assert!((made - x).abs() < 1e-12, "seed {seed}, row {row}");
                }
            }
        }
    }

    #[test]
    fn the_toy_of_the_specification_and_its_rotations() {
        let rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.6, 0.6], [2.0, 0.0], [0.0, 2.0], [1.2, 1.2]];
        // Another basis of the same space changes nothing.
        for [a, b, c, d] in [[1.0, 0.0, 0.0, 1.0], [2.0, 1.0, -1.0, 3.0], [0.1, 0.9, 4.0, -0.5]] {
            let data: Vec<f32> = rows.iter().flat_map(|[x, y]| [(a * x + c * y) as f32, (b * x + d * y) as f32]).collect();
            assert_eq!(chosen(&Vectors::try_new(data, 2).unwrap(), 2, 2), [6, 7]);
        }
    }

    /// A film of orthogonal scenes that stand still: one frame of each.
    #[test]
    fn one_frame_of_each_scene() {
        let scene = |frame: usize| (frame / 7).min(4);
        let data: Vec<f32> = (0..40).flat_map(|frame| (0..6).map(move |i| f32::from(u8::from(i == scene(frame))))).collect();
        let frames = chosen(&Vectors::try_new(data, 6).unwrap(), 16, 20);
        let scenes: Vec<usize> = frames.iter().map(|frame| scene(*frame as usize)).collect();
        assert_eq!(scenes, [0, 1, 2, 3, 4]);
    }
}
