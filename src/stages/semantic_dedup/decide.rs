//! What the rules make of the pairs that are looked at.

use std::cell::RefCell;

use super::Rule;
use crate::cluster::{AnyEarlier, Components, Dropped, Listed, Star, Threshold};
use crate::engine::Stop;
use crate::error::{Error, Result};
use crate::vector::similarity;
use crate::vector::{Probed, Rows, compare_probed, nearest_probed};

/// For each threshold and each row, in keep order, why it is dropped; and how many rows are near to several of earlier increments.
pub(super) fn decide(rule: Rule, probed: &Probed<'_>, thresholds: &[Threshold], stop: &Stop) -> Result<(Vec<Vec<Option<Dropped>>>, u64)> {
    let rows = probed.order.len();
    let minimum = Threshold::loosest(thresholds);
    let check = || stop.check();
    match rule {
        Rule::Star => {
            let mut star = Star::new(rows, thresholds).with_incumbents(probed.settled);
            compare_probed(probed, minimum, &mut star, Star::wants, Star::offer, Star::decide, check)?;
            let bridges = star.bridges();
            Ok((star.finish(), bridges))
        }
        Rule::AnyEarlier => {
            let mut any = AnyEarlier::new(rows);
            compare_probed(probed, minimum, &mut any, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide, check)?;
            Ok((thresholds.iter().map(|threshold| survivors(&any, probed, *threshold)).collect::<Result<_>>()?, 0))
        }
        Rule::Components => {
            let mut components = Components::new(rows, thresholds);
            compare_probed(probed, minimum, &mut components, Components::wants, Components::offer, Components::decide, check)?;
            let space = RefCell::new((Vec::new(), Vec::new(), None));
            let decided = components.finish(|a, b| {
                let (first, second, failed) = &mut *space.borrow_mut();
                match of_pair(probed, a, b, first, second) {
                    Ok(similarity) => similarity,
                    Err(error) => {
                        *failed = Some(error);
                        f64::NAN
                    }
                }
            });
            space.into_inner().2.map_or(Ok((decided, 0)), Err)
        }
    }
}

/// [`decide`] where the pairs are known beforehand. `rows` are in keep order.
pub(super) fn decide_listed(rule: Rule, rows: Rows<'_>, listed: Listed<'_>, thresholds: &[Threshold]) -> Vec<Vec<Option<Dropped>>> {
    match rule {
        Rule::Star => {
            let mut star = Star::new(rows.len(), thresholds);
            listed.follow(&mut star, Star::wants, Star::offer, Star::decide);
            star.finish()
        }
        Rule::AnyEarlier => {
            let mut any = AnyEarlier::new(rows.len());
            listed.follow(&mut any, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let survivors = |dropped: &[u32], kept: &[u32]| listed.nearest(dropped, kept);
            thresholds.iter().map(|threshold| any.decisions(*threshold, survivors)).collect()
        }
        Rule::Components => {
            let mut components = Components::new(rows.len(), thresholds);
            listed.follow(&mut components, Components::wants, Components::offer, Components::decide);
            components.finish(|a, b| similarity(rows.row(a as usize), rows.row(b as usize)))
        }
    }
}

/// The decisions of `any_earlier` under one threshold, with the most similar kept row that is looked at.
fn survivors(any: &AnyEarlier, probed: &Probed<'_>, threshold: Threshold) -> Result<Vec<Option<Dropped>>> {
    let mut failed: Option<Error> = None;
    let decided = any.decisions(threshold, |dropped, kept| {
        nearest_probed(probed, dropped, kept, threshold.minimum(), |_, _| true).unwrap_or_else(|error| {
            failed = Some(error);
            vec![None; dropped.len()]
        })
    });
    failed.map_or(Ok(decided), Err)
}

/// The similarity of the rows at two positions.
fn of_pair(probed: &Probed<'_>, a: u32, b: u32, first: &mut Vec<f32>, second: &mut Vec<f32>) -> Result<f64> {
    let row = |position: u32| probed.order[position as usize];
    Ok(similarity(probed.source.row(row(a), first)?, probed.source.row(row(b), second)?))
}
