//! Which of the drops of a row a chain of representatives follows.
//!
//! A stage that names a row as kept let it through. What became of that row afterwards is said by a drop of a stage downstream, if it
//! is not kept; drops on other branches say nothing of it. So a chain only moves downstream, is finite, and ends in a row
//! that is kept, or that was dropped for what it is itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::limits::MAX_STAGES;

/// The stages of a manifest's plan, and what stands below what.
#[derive(Debug, Clone)]
pub struct Stages {
    places: BTreeMap<String, usize>,
    /// For each stage, whether each other stands above it.
    above: Vec<Vec<bool>>,
    /// For each stage, whether its rule drops rows as duplicates for which it names no kept row.
    leaves_orphans: Vec<bool>,
}

impl Stages {
    /// Reads the plan that a manifest holds.
    ///
    /// # Errors
    /// Kind state where it cannot be read, or its stages stand in a circle.
    pub fn read(plan: &Value) -> Result<Self> {
        let damaged = || Error::state("the manifest's plan cannot be read");
        let stages = plan.get("stages").and_then(Value::as_array).filter(|stages| stages.len() <= MAX_STAGES).ok_or_else(damaged)?;
        let id = |stage: &Value| stage.get("id").and_then(Value::as_str).map(str::to_owned);
        let ids = stages.iter().map(id).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let places: BTreeMap<String, usize> = ids.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
        let inputs = |stage: &Value| stage.get("inputs").and_then(|inputs| inputs.as_array().cloned()).unwrap_or_default();
        let inputs: Vec<Vec<usize>> =
            stages.iter().map(|stage| inputs(stage).iter().filter_map(|input| places.get(input.as_str()?).copied()).collect()).collect();
        let above: Vec<Vec<bool>> = (0..inputs.len()).map(|stage| above(&inputs, stage)).collect();
        if above.iter().enumerate().any(|(stage, above)| above[stage]) {
            return Err(damaged());
        }
        let rule = |stage: &Value| stage.pointer("/config/rule").and_then(Value::as_str).map(str::to_owned);
        let leaves_orphans = stages.iter().map(|stage| rule(stage).is_some_and(|rule| rule != "star")).collect();
        Ok(Self { places, above, leaves_orphans })
    }

    /// The place of a stage.
    ///
    /// # Errors
    /// Kind state where the plan has no such stage.
    pub fn place(&self, stage: &str) -> Result<usize> {
        self.places.get(stage).copied().ok_or_else(|| Error::state(format!("lineage names an unknown stage stage=`{stage}`")))
    }

    /// Whether the plan has such a stage.
    #[must_use]
    pub fn has(&self, stage: &str) -> bool {
        self.places.contains_key(stage)
    }

    /// Whether a chain may end in a row that this stage dropped for this reason without naming a kept row.
    #[must_use]
    pub fn ends(&self, stage: usize, reason: &str) -> bool {
        !reason.ends_with("_duplicate") || self.leaves_orphans.get(stage).copied().unwrap_or(false)
    }

    /// Of the drops of a row that stage `by` let through, in their order in the lineage, each as its stage and whether it names a
    /// kept row: the place of the one that says what became of it below. One that names a kept row comes before others.
    #[must_use]
    pub fn followed(&self, drops: impl Iterator<Item = (usize, bool)>, by: usize) -> Option<usize> {
        let is_below = |stage: usize| self.above.get(stage).is_some_and(|above| above.get(by) == Some(&true));
        let below = drops.enumerate().filter(|(_, (stage, _))| is_below(*stage));
        below.min_by_key(|(place, (_, names))| (!names, *place)).map(|(place, _)| place)
    }
}

/// The stages above one, itself among them only where stages stand in a circle.
fn above(inputs: &[Vec<usize>], stage: usize) -> Vec<bool> {
    let mut above = vec![false; inputs.len()];
    let mut left: Vec<usize> = inputs.get(stage).cloned().unwrap_or_default();
    while let Some(next) = left.pop() {
        if !std::mem::replace(&mut above[next], true) {
            left.extend(inputs[next].iter().copied());
        }
    }
    above
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn plan(inputs: &[Vec<usize>]) -> Value {
        let stages = inputs.iter().enumerate().map(|(stage, inputs)| {
            let inputs: Vec<String> = inputs.iter().map(|input| format!("s{input}")).collect();
            json!({"id": format!("s{stage}"), "inputs": inputs, "config": {"rule": if stage == 1 { "components" } else { "star" }}})
        });
        json!({"stages": stages.collect::<Vec<_>>()})
    }

    #[test]
    fn a_drop_below_is_followed_and_one_that_names_a_row_first() {
        // 0 -> 1 -> 2, and 3 beside them; 4 takes both.
        let stages = Stages::read(&plan(&[vec![], vec![0], vec![1], vec![], vec![2, 3]])).unwrap();
        assert_eq!(stages.followed([(3, true), (2, false)].into_iter(), 0), Some(1));
        assert_eq!(stages.followed([(1, false), (2, false), (4, true)].into_iter(), 0), Some(2));
        assert_eq!(stages.followed([(2, false), (1, false)].into_iter(), 0), Some(0));
        assert_eq!(stages.followed([(0, true), (3, true)].into_iter(), 0), None);
        assert!(stages.ends(0, "filtered") && !stages.ends(0, "semantic_duplicate") && stages.ends(1, "semantic_duplicate"));
        assert!(stages.has("s4") && !stages.has("s5") && stages.place("s5").is_err());
    }

    #[test]
    fn a_plan_in_a_circle_is_refused_and_diamonds_are_read_at_once() {
        assert!(Stages::read(&plan(&[vec![1], vec![0]])).is_err());
        assert!(Stages::read(&plan(&[vec![0]])).is_err());
        assert!(Stages::read(&json!({})).is_err());
        // Each of many stages takes the two before it: paths are more than can be walked.
        let ladder: Vec<Vec<usize>> = (0..MAX_STAGES).map(|stage| (stage.saturating_sub(2)..stage).collect()).collect();
        assert_eq!(Stages::read(&plan(&ladder)).unwrap().followed([(MAX_STAGES - 1, false)].into_iter(), 0), Some(0));
    }

    proptest! {
        /// The oracle is the transitive closure by Warshall's algorithm.
        #[test]
        fn what_stands_above_is_the_closure(
            inputs in (1usize..8).prop_flat_map(|count| prop::collection::vec(prop::collection::vec(0..count, 0..3), count))
        ) {
            let count = inputs.len();
            let mut closure = vec![vec![false; count]; count];
            for (stage, inputs) in inputs.iter().enumerate() {
                for input in inputs {
                    closure[stage][*input] = true;
                }
            }
            for middle in 0..count {
                for low in 0..count {
                    for high in 0..count {
                        closure[low][high] |= closure[low][middle] && closure[middle][high];
                    }
                }
            }
            prop_assert_eq!((0..count).map(|stage| above(&inputs, stage)).collect::<Vec<_>>(), closure);
        }
    }
}
