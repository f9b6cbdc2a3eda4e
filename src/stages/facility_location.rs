//! `facility_location`: keeps rows such that every row is similar to a kept one.
//!
//! As a coreset: Wei, Iyer and Bilmes, Submodularity in Data Subset Selection and Active Learning, 2015. The greedy choice is
//! [`crate::select::facility_location`]. All rows are compared with all up to [`EXACT_ROWS`] of them; beyond, rows are compared
//! inside the cells of a k-means, as if those of different cells had nothing in common.

use std::sync::Arc;

use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::policy::{self, Clusters, OnBadVector};
use super::quota::{self, Quota};
use super::seam::{Barrier, Narrow, Outcome, Shape as StageShape, Stage};
use super::selecting::{self, Asked, Candidates, Left};
use super::vectors::Form;
use crate::declare::shape::defaulted;
use crate::declare::{Field, Fields, Presence};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Reservation, Stop};
use crate::error::Result;
use crate::ids::StageId;
use crate::random::Random;
use crate::select::Allowance;
use crate::select::facility_location::{BLOCK, Similarities, greedy, merge, units};
use crate::vector::steady::products;
use crate::vector::{Cells, KMeans, Rows, Source, Subset, Training, nearest};

/// Rows up to which `k: auto` compares all with all.
const EXACT_ROWS: usize = 1 << 14;
/// Rows of a cell of `k: auto`, about.
const CELL_ROWS: usize = 1 << 12;

/// `facility_location: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct FacilityLocationConfig {
    /// How much is kept.
    pub quota: Quota,
    /// The embed stage; default the nearest above.
    pub embedding: Option<StageId>,
    /// Number of cells inside which rows are compared; `auto`: one up to 16,384 rows, above one for 4,096 rows.
    pub k: Clusters,
    /// k-means iterations at most; default 20.
    pub iterations: u32,
    /// Seed of k-means; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `facility_location`.
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
        "k",
        Clusters::SHAPE,
        Presence::Text("auto"),
        "Number of cells inside which rows are compared; 1 compares all with all. `auto`: 1 up to 16,384 rows, above one for 4,096 rows.",
    ),
    policy::ITERATIONS,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl FacilityLocationConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self {
            quota: Quota::read(fields, out),
            embedding: fields.text("embedding").map(StageId::new),
            k: Clusters::read(fields),
            iterations: policy::read_iterations(fields),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    fn cells(&self, rows: usize) -> usize {
        self.k.of(rows, |rows| if rows <= EXACT_ROWS { 1 } else { rows.div_ceil(CELL_ROWS) })
    }

    fn training(&self) -> Training {
        Training::thorough(self.iterations as usize)
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "budget": self.quota.canonical(),
            "iterations": self.iterations,
            "k": self.k.canonical(),
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}

impl Stage for FacilityLocationConfig {
    fn kind(&self) -> &'static str {
        "facility_location"
    }

    fn version(&self) -> u32 {
        2
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
        let greedy = "greedy: at least 1 - 1/e of the highest sum of similarities of any set of that size";
        match self.k {
            Clusters::Fixed(1) => vec![greedy.into()],
            Clusters::Fixed(_) => vec![format!("{greedy}, of similarities inside cells alone")],
            Clusters::Auto => vec![format!("{greedy}; above {EXACT_ROWS} rows of similarities inside cells alone (`k: 1` compares all)")],
        }
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(FacilityLocation { config: self.clone(), stage: stage.clone() }))
    }
}

/// Chooses the row that adds the most similarity, every time.
#[derive(Debug)]
struct FacilityLocation {
    config: FacilityLocationConfig,
    stage: StageId,
}

impl Barrier for FacilityLocation {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        let cells = self.config.cells(usize::try_from(input.rows).unwrap_or(usize::MAX));
        let trained_rows = if cells == 1 { 0 } else { self.config.training().rows(cells) };
        let asked = Asked { quota: self.config.quota.clone(), on_bad_vector: self.config.on_bad_vector, form: Form::Unit, trained_rows };
        let decide = move |candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>| self.decide(candidates, stop, report);
        Box::pin(selecting::select(engine, input, "selecting by similarity", asked, decide))
    }
}

impl FacilityLocation {
    fn decide(&self, candidates: &Candidates<'_>, stop: &Stop, report: &mut Map<String, Value>) -> Result<Vec<Left>> {
        let (source, memory) = (candidates.source, candidates.memory);
        let rows = source.rows();
        let cells = match self.config.cells(rows) {
            1 => Cells::one(rows),
            k => {
                let random = Random::new(self.config.seed, self.stage.as_str());
                Cells::nearest(source, &KMeans::fit_to(source, k, &self.config.training(), &random)?, 1, f64::NEG_INFINITY)?.0
            }
        };
        let owns = cells.owns();
        let chosen = choose(source, &cells, &candidates.allowance, memory, stop)?;
        let mut kept = vec![false; rows];
        for (row, _) in &chosen {
            kept[*row as usize] = true;
        }
        let distances = distances(source, &cells, &kept, memory)?;
        let covered: f64 = distances.iter().map(|distance| 1.0 - distance).sum();
        report.insert("cells".into(), json!(cells.count()));
        report.insert("largest_cell".into(), json!(cells.sizes().into_iter().max()));
        // No set covers a row by more than 1: the share is also of the highest value possible at least.
        report.insert("covered".into(), json!(covered));
        report.insert("covered_share".into(), json!(covered / rows as f64));
        Ok(selecting::ranked(candidates, &distances, &kept, (cells.count() > 1).then_some(&owns)))
    }
}

/// The rows chosen, each with its gain, best first.
fn choose(source: Source<'_>, cells: &Cells, allowance: &Allowance, memory: &Reservation, stop: &Stop) -> Result<Vec<(u32, f64)>> {
    const WHAT: &str = "comparing the rows of a cell";
    let table = |rows: usize| memory.beside(WHAT, rows * rows * size_of::<u32>());
    let check = || stop.check();
    let keep = allowance.most(source.rows());
    // What one task lays down of similarities that no table holds; whether there is a table follows from what is free when it is asked for.
    let lines = |rows: usize| 2 * block(rows) * rows * size_of::<u32>();
    if cells.count() == 1 {
        let _lines = memory.beside(WHAT, lines(source.rows()))?;
        let room = table(source.rows()).ok();
        let compared = Compared::new(source, room.is_some())?;
        return greedy(&compared, keep, allowance.fits(), check);
    }
    // Each cell gives the order in which its rows would be chosen, as far as it may be needed; those that are best of all are chosen.
    let of = |rows: &[u32], depth: usize| -> Result<Vec<(u32, f64)>> {
        let vectors = memory.beside(WHAT, rows.len() * source.dimensions() * size_of::<f32>()).ok();
        let room = vectors.as_ref().and_then(|_| table(rows.len()).ok());
        let (subset, mut buffer) = (Subset::new(source, rows), Vec::new());
        let own = if vectors.is_some() { Source::Memory(source.gather(rows, &mut buffer)?) } else { Source::File(&subset) };
        let compared = Compared::new(own, room.is_some())?;
        let chosen = greedy(&compared, depth, |_| true, check)?;
        Ok(chosen.into_iter().map(|(row, gain)| (rows[row as usize], gain)).collect())
    };
    let members = cells.members();
    let largest = members.iter().map(Vec::len).max().unwrap_or(0);
    let _lines = memory.beside(WHAT, rayon::current_num_threads() * lines(largest))?;
    let most = |cell: usize| members[cell].len().min(keep);
    // Twice the cell's share of the budget, and more where that was not enough.
    let mut depths: Vec<usize> =
        (0..members.len()).map(|cell| (2 * keep * members[cell].len()).div_ceil(source.rows()).min(most(cell))).collect();
    let mut listed = vec![Vec::new(); members.len()];
    let mut open: Vec<usize> = (0..members.len()).filter(|cell| depths[*cell] > 0).collect();
    loop {
        let found: Vec<_> = open.par_iter().map(|cell| of(&members[*cell], depths[*cell])).collect::<Result<_>>()?;
        for (cell, found) in open.drain(..).zip(found) {
            listed[cell] = found;
        }
        let mut chosen = merge(&listed, keep);
        let mut fits = allowance.fits();
        chosen.truncate(chosen.iter().take_while(|(row, _)| fits(*row)).count());
        let mut taken = vec![0; members.len()];
        for (row, _) in &chosen {
            taken[cells.own(*row) as usize] += 1;
        }
        open.extend((0..members.len()).filter(|cell| taken[*cell] == listed[*cell].len() && depths[*cell] < most(*cell)));
        if open.is_empty() {
            return Ok(chosen);
        }
        for cell in &open {
            depths[*cell] = (2 * depths[*cell]).min(most(*cell));
        }
    }
}

/// For each row 1 - cosine to the nearest kept row of its cell, at most 1; 0 for kept rows.
fn distances(source: Source<'_>, cells: &Cells, kept: &[bool], memory: &Reservation) -> Result<Vec<f64>> {
    let mut distances = vec![0.0; source.rows()];
    for rows in cells.members() {
        let (near, far): (Vec<u32>, Vec<u32>) = rows.into_iter().partition(|row| kept[*row as usize]);
        let _memory = memory.beside("measuring what is kept", near.len() * source.dimensions() * size_of::<f32>())?;
        let mut buffer = Vec::new();
        let near = source.gather(&near, &mut buffer)?;
        let found = far.par_chunks(PIECE).map_init(Vec::new, |buffer, rows| {
            let found = nearest(Rows::all(source.gather(rows, buffer)?), Rows::all(near), 0.0);
            Ok(rows.iter().zip(found).map(|(row, found)| (*row, found.map_or(1.0, |(_, cosine)| 1.0 - cosine))).collect::<Vec<_>>())
        });
        for (row, distance) in found.collect::<Result<Vec<_>>>()?.concat() {
            distances[row as usize] = distance;
        }
    }
    Ok(distances)
}

/// Rows whose similarities are laid down at a time where no table holds them: as many as are a mebibyte, at least one.
fn block(rows: usize) -> usize {
    ((1 << 18) / rows.max(1)).clamp(1, BLOCK)
}

/// Rows that one task compares.
const PIECE: usize = 512;

/// The similarities of some rows: in a table where there is room for it, else computed as they are asked for, to the same units.
struct Compared<'a> {
    source: Source<'a>,
    table: Vec<u32>,
}

impl<'a> Compared<'a> {
    fn new(source: Source<'a>, listed: bool) -> Result<Self> {
        let rows = source.rows();
        let mut compared = Self { source, table: Vec::new() };
        if listed {
            let mut table = vec![0; rows * rows];
            if rows <= CELL_ROWS {
                table.chunks_mut(PIECE * rows).enumerate().try_for_each(|(at, lines)| compared.upper(at * PIECE, lines))?;
            } else {
                table.par_chunks_mut(PIECE * rows).enumerate().try_for_each(|(at, lines)| compared.upper(at * PIECE, lines))?;
            }
            mirror(&mut table, rows);
            compared.table = table;
        }
        Ok(compared)
    }

    /// Fills the lines of the rows from `start` on, from the column `start` on.
    fn upper(&self, start: usize, lines: &mut [u32]) -> Result<()> {
        let rows = self.source.rows();
        let (mut own, mut others, mut product) = (Vec::new(), Vec::new(), Vec::new());
        let own = self.source.run(start..rows.min(start + PIECE), &mut own)?;
        for column in (start..rows).step_by(PIECE) {
            let piece = self.source.run(column..rows.min(column + PIECE), &mut others)?;
            products(own, piece, &mut product);
            for (line, part) in lines.chunks_mut(rows).zip(product.chunks(piece.rows())) {
                line[column..][..part.len()].iter_mut().zip(part).for_each(|(unit, cosine)| *unit = units(*cosine));
            }
        }
        Ok(())
    }
}

/// Copies what is above the diagonal of a square table to below it, tile by tile: a column lies in as many places as it has rows.
fn mirror(table: &mut [u32], rows: usize) {
    const TILE: usize = 64;
    for top in (0..rows).step_by(TILE) {
        for left in (top..rows).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left.max(row + 1)..rows.min(left + TILE) {
                    table[column * rows + row] = table[row * rows + column];
                }
            }
        }
    }
}

impl Similarities for Compared<'_> {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn block(&self) -> usize {
        if self.table.is_empty() { block(self.rows()) } else { BLOCK }
    }

    fn lines<'a>(&'a self, wanted: &[u32], buffer: &'a mut Vec<u32>) -> Result<Vec<&'a [u32]>> {
        let rows = self.rows();
        if !self.table.is_empty() {
            return Ok(wanted.iter().map(|row| &self.table[*row as usize * rows..][..rows]).collect());
        }
        let mut own = Vec::new();
        let own = self.source.gather(wanted, &mut own)?;
        let parts = self.source.pieces(|_, piece| {
            let mut product = Vec::new();
            products(own, piece, &mut product);
            Ok(product.into_iter().map(units).collect::<Vec<u32>>())
        })?;
        buffer.resize(wanted.len() * rows, 0);
        let mut start = 0;
        for part in parts {
            let width = part.len() / wanted.len().max(1);
            for (line, part) in buffer.chunks_mut(rows).zip(part.chunks(width)) {
                line[start..start + width].copy_from_slice(part);
            }
            start += width;
        }
        Ok(buffer.chunks(rows).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::vector::source::tests::Apart;
    use crate::vector::{Vectors, planted, similarity};

    fn engine(memory_bytes: usize) -> (tempfile::TempDir, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let spill_folder = folder.path().to_owned();
        let engine = Engine::start(EngineOptions { threads: 1, memory_bytes, batch_rows: 8192, spill_folder }).unwrap();
        (folder, engine)
    }

    /// By definition, in double precision: each time the row that adds most, rows of other cells apart.
    fn plain(vectors: &Vectors, cells: &Cells, keep: usize) -> Vec<u32> {
        let n = vectors.rows();
        let mut covered = vec![0.0_f64; n];
        let mut chosen: Vec<u32> = Vec::new();
        while chosen.len() < keep {
            let of = |row: usize, j: usize| {
                if cells.own(row as u32) == cells.own(j as u32) { similarity(vectors.row(row), vectors.row(j)) } else { 0.0 }
            };
            let gain = |j: usize| (0..n).map(|row| (of(row, j) - covered[row]).max(0.0)).sum::<f64>();
            let open = (0..n).filter(|row| !chosen.contains(&(*row as u32)));
            let best = open.map(|j| (j, gain(j))).rev().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
            (0..n).for_each(|row| covered[row] = covered[row].max(of(row, best)));
            chosen.push(best as u32);
        }
        chosen
    }

    #[test]
    fn equals_the_definition_with_and_without_a_table_or_memory() {
        let vectors = planted::vectors(400, 9, 8);
        let apart = Apart(vectors.clone());
        let (_folder, large) = engine(64 << 20);
        let (_other, small) = engine(1 << 20);
        for k in [1, 6] {
            let source = Source::Memory(vectors.matrix());
            let cells = if k == 1 {
                Cells::one(400)
            } else {
                let model = KMeans::fit(vectors.matrix(), k, 5, &Random::new(1, "f")).unwrap();
                Cells::nearest(source, &model, 1, f64::NEG_INFINITY).unwrap().0
            };
            let run = |engine: &Engine, source| {
                let memory = engine.reserve("test", 0).unwrap();
                choose(source, &cells, &Allowance::of_rows(40), &memory, &Stop::default()).unwrap()
            };
            let table = run(&large, source);
            assert!(small.reserve("a table", 400 * 400 * 4).is_err(), "the small engine has no room for a table");
            assert_eq!(run(&small, source), table);
            assert_eq!(run(&small, Source::File(&apart)), table);
            let chosen: Vec<u32> = table.iter().map(|(row, _)| *row).collect();
            assert_eq!(chosen, plain(&vectors, &cells, 40), "k={k}");
            let kept: Vec<bool> = (0..400).map(|row| chosen.contains(&row)).collect();
            let memory = large.reserve("test", 0).unwrap();
            let distances = distances(source, &cells, &kept, &memory).unwrap();
            let covered: f64 = distances.iter().map(|distance| 1.0 - distance).sum();
            assert!((covered - table.iter().map(|(_, gain)| gain).sum::<f64>()).abs() < 1e-3);
        }
    }
}
