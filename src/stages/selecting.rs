//! What the stages share that keep a budget of rows by their vectors.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::columns::{Detail, Drop, Drops};
use super::policy::{Budget, OnBadVector};
use super::seam::{Narrow, Outcome};
use super::vectors::{Form, Gathered, gather};
use crate::declare::shape::defaulted;
use crate::declare::{Field, Presence, Shape};
use crate::engine::{Engine, Stop, spawn};
use crate::error::Result;
use crate::random::Random;
use crate::select;
use crate::vector::{Cells, KMeans, Source, Training};
use crate::words;

/// What is asked of every selecting stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// How much is kept.
    pub(super) budget: Budget,
    /// What becomes of rows with bad vectors.
    pub(super) on_bad_vector: OnBadVector,
    /// How vectors are held.
    pub(super) form: Form,
    /// Rows that are copied to memory to train on.
    pub(super) trained_rows: usize,
}

/// A row that a selector did not choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// The place of the row among those gathered.
    pub(super) row: u32,
    /// What the selector goes by.
    pub(super) score: f64,
    /// The row's place in the order of the selection, from 1, and how many rows of that order are kept.
    pub(super) rank: u64,
    /// See `rank`.
    pub(super) budget: u64,
    /// The row's cell, where the order is that of a cell or rows are compared inside cells.
    pub(super) cell: Option<u32>,
}

/// Gathers the vectors and lets `decide` choose among those that are sound: it is given how many to keep, and a section of the
/// report, and gives the rows that it leaves. The budget is of all rows that reach the stage; those whose vectors are bad and that
/// are kept all the same use it up first.
pub(super) async fn select<F>(engine: &Arc<Engine>, input: Narrow, what: &'static str, asked: Asked, decide: F) -> Result<Outcome>
where
    F: FnOnce(&Gathered, usize, &Stop, &mut Map<String, Value>) -> Result<Vec<Left>> + Send + 'static,
{
    let gathered = gather(engine, input, asked.trained_rows, asked.form).await?;
    let stop = engine.stop().clone();
    let (drops, report) = spawn::blocking(what, move || {
        let rows = gathered.rows.len();
        let mut report = Map::new();
        let bad = gathered.settle_bad(asked.on_bad_vector, &mut report)?;
        let bad_kept = if asked.on_bad_vector == OnBadVector::Keep { gathered.bad.len() } else { 0 };
        let keep = budget(asked.budget).of(rows + gathered.bad.len()).saturating_sub(bad_kept).min(rows);
        report.insert("budget".into(), json!(keep));
        let left = if rows == 0 { Vec::new() } else { decide(&gathered, keep, &stop, &mut report)? };
        let mut drops = Drops::for_rows(&gathered.memory, bad.len() + left.len())?;
        bad.for_each(|drop| drops.push(drop));
        for Left { row, score, rank, budget, cell } in left {
            let detail = Detail::Rank { budget, rank, cell };
            drops.push(Drop { row: gathered.rows[row as usize], reason: "not_selected", kept: None, score: Some(score), detail });
        }
        Ok((drops, report))
    })
    .await?;
    Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new(), frozen: None })
}

/// The budget of the algorithms.
pub(super) fn budget(budget: Budget) -> select::Budget {
    match budget {
        Budget::Fraction(fraction) => select::Budget::Fraction(fraction),
        Budget::Rows(rows) => select::Budget::Rows(rows),
    }
}

/// What is left of `scores` when the rows `chosen` are kept: those of highest score rank first, ties by row order.
pub(super) fn ranked(scores: &[f64], chosen: &[bool], cells: Option<&[u32]>) -> Vec<Left> {
    let keep = chosen.iter().filter(|chosen| **chosen).count() as u64;
    let left = descending(scores).into_iter().filter(|row| !chosen[*row as usize]);
    let one = |(place, row): (usize, u32)| Left {
        row,
        score: scores[row as usize],
        rank: keep + place as u64 + 1,
        budget: keep,
        cell: cells.map(|cells| cells[row as usize]),
    };
    left.enumerate().map(one).collect()
}

/// What is left when the first `keep` rows of `order` are kept, which names each row once.
pub(super) fn first(order: &[u32], keep: usize, scores: &[f64]) -> Vec<Left> {
    let place = |(place, row): (usize, &u32)| Left {
        row: *row,
        score: scores[*row as usize],
        rank: place as u64 + 1,
        budget: keep as u64,
        cell: None,
    };
    order.iter().enumerate().skip(keep).map(place).collect()
}

/// What is left when of each cell the first rows of `order` are kept, as many as its quota says; ranks are those in the cell.
pub(super) fn first_of_cells(order: &[u32], cells: &[u32], quotas: &[usize], scores: &[f64]) -> Vec<Left> {
    let mut ranks = vec![0; quotas.len()];
    let mut left = Vec::new();
    for row in order {
        let cell = cells[*row as usize];
        let (rank, budget) = (&mut ranks[cell as usize], quotas[cell as usize] as u64);
        *rank += 1;
        if *rank > budget {
            left.push(Left { row: *row, score: scores[*row as usize], rank: *rank, budget, cell: Some(cell) });
        }
    }
    left
}

/// All rows by score, lowest first, ties by row order.
pub(super) fn ascending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]));
    order
}

/// All rows by score, highest first, ties by row order.
pub(super) fn descending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    order
}

/// All rows in the order of draws keyed by their vectors, ties by row order: neither shards nor rows beside move a row.
pub(super) fn shuffled(source: Source<'_>, random: &Random) -> Result<Vec<u32>> {
    let draws = source.pieces(|_, rows| {
        let mut bytes = Vec::new();
        let draw = |row: usize| {
            bytes.clear();
            bytes.extend(rows.row(row).iter().flat_map(|value| value.to_le_bytes()));
            random.draw(&bytes)
        };
        Ok((0..rows.rows()).map(draw).collect::<Vec<u64>>())
    })?;
    let draws = draws.concat();
    let mut order: Vec<u32> = (0..draws.len() as u32).collect();
    order.sort_by_key(|row| draws[*row as usize]);
    Ok(order)
}

words! {
    /// Which rows of a cluster are kept first.
    pub enum CellOrder {
        /// Those farthest from the centroid.
        Hard = "hard",
        /// Those nearest to the centroid.
        Easy = "easy",
        /// Those that the seed draws.
        Random = "random",
    }
}

impl CellOrder {
    /// All rows in this order.
    pub(super) fn order(self, clustered: &Clustered, source: Source<'_>, random: &Random) -> Result<Vec<u32>> {
        Ok(match self {
            Self::Hard => descending(&clustered.distances),
            Self::Easy => ascending(&clustered.distances),
            Self::Random => shuffled(source, random)?,
        })
    }
}

/// The key `keep` of stages that keep some rows of each cluster.
pub(super) const fn keep_in_cells(default: &'static str) -> Field {
    defaulted(
        "keep",
        Shape::Choice(CellOrder::WORDS),
        Presence::Text(default),
        "Which rows of a cluster are kept first: `hard`, those farthest from its centroid; `easy`, the nearest; `random`, those drawn.",
    )
}

/// Rows with the cluster of each.
#[derive(Debug)]
pub(super) struct Clustered {
    pub(super) model: KMeans,
    /// The cluster of each row.
    pub(super) cells: Vec<u32>,
    /// 1 - cosine of each row to its centroid.
    pub(super) distances: Vec<f64>,
    /// Rows of each cluster.
    pub(super) sizes: Vec<usize>,
}

impl Clustered {
    /// Fits a k-means to unit vectors.
    pub(super) fn fit(source: Source<'_>, k: usize, training: &Training, random: &Random) -> Result<Self> {
        let model = KMeans::fit_to(source, k, training, random)?;
        let (cells, similarities) = Cells::nearest(source, &model, 1, f64::NEG_INFINITY)?;
        let distances = similarities.iter().map(|similarity| 1.0 - similarity).collect();
        Ok(Self { model, cells: cells.owns(), distances, sizes: cells.sizes() })
    }
}
