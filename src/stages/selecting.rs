//! What the stages share that keep a budget of rows by their vectors.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::columns::{Detail, Drop, Drops};
use super::policy::{Budget, OnBadVector};
use super::seam::{Narrow, Outcome};
use super::vectors::{Form, Gathered, gather};
use crate::engine::{Engine, Stop, spawn};
use crate::error::Result;
use crate::select;

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
    Ok(Outcome { drops: drops.into_stream(), report, tables: Vec::new() })
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
    let mut left: Vec<u32> = (0..scores.len() as u32).filter(|row| !chosen[*row as usize]).collect();
    left.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    let one = |(place, row): (usize, u32)| Left {
        row,
        score: scores[row as usize],
        rank: keep + place as u64 + 1,
        budget: keep,
        cell: cells.map(|cells| cells[row as usize]),
    };
    left.into_iter().enumerate().map(one).collect()
}
