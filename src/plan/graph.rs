//! The graph of the stages. An edge carries a set of rows, several inputs are their union; all rows end in the one sink. Every
//! problem of the graph is reported at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::model::{Outline, Reference, StageOutline};
use crate::diagnostic::{Diagnostics, Position, nearest};
use crate::limits::MAX_STAGES;

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// A source, by its place in the pipeline's list.
    Source(usize),
    /// A stage, by its place in the pipeline's list.
    Stage(usize),
}

/// The graph of a pipeline without problems. Stages and sources are named by their places in the pipeline's lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    order: Vec<usize>,
    inputs: Vec<Vec<Input>>,
    embeddings: Vec<Option<usize>>,
    sink: usize,
}

impl Graph {
    /// The stages so that each stands behind its inputs; otherwise in the order of the file.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The inputs of a stage, in the order written; none for a place that is out of range.
    #[must_use]
    pub fn inputs(&self, stage: usize) -> &[Input] {
        self.inputs.get(stage).map_or(&[], Vec::as_slice)
    }

    /// The stage whose vectors a stage takes; `None` for a stage that takes none.
    #[must_use]
    pub fn embedding(&self, stage: usize) -> Option<usize> {
        self.embeddings.get(stage).copied().flatten()
    }

    /// The stage whose rows the sink takes.
    #[must_use]
    pub fn sink(&self) -> usize {
        self.sink
    }

    /// Whether the pipeline is a chain: one source, and each stage takes the rows of the one before it.
    #[must_use]
    pub fn is_chain(&self) -> bool {
        let mut before = Input::Source(0);
        for &stage in &self.order {
            if self.inputs(stage) != [before] {
                return false;
            }
            before = Input::Stage(stage);
        }
        before == Input::Stage(self.sink)
    }
}

/// The edges as far as they can be known in a faulty file.
struct Edges {
    inputs: Vec<Vec<Input>>,
    /// Some edge cannot be known: what seems unused may be used.
    uncertain: bool,
}

/// Checks the graph and builds it; `None` where there is any problem.
pub fn build(outline: &Outline, out: &mut Diagnostics) -> Option<Graph> {
    let before = out.len();
    let stages = &outline.stages;
    if stages.len() > MAX_STAGES {
        let message = format!("there are {} stages; the limit is {MAX_STAGES}", stages.len());
        out.add("stages", stages.get(MAX_STAGES).and_then(|stage| stage.position), message, Some("split the pipeline".into()));
        return None;
    }
    check_ids(outline, out);
    let names = names(outline);
    let edges = edges(outline, &names, out);
    let cyclic = check_cycles(stages, &edges.inputs, out);
    let sink = sink(outline, &names, out);
    if let Some(sink) = sink {
        let reached = above(Input::Stage(sink), &edges.inputs);
        if !edges.uncertain {
            check_used(outline, &reached, &cyclic, out);
        }
        check_added(outline, &names, &reached, out);
    }
    if cyclic.is_empty() && !edges.uncertain {
        check_compared(outline, &edges.inputs, out);
    }
    let mut embeddings = vec![None; stages.len()];
    for (index, stage) in stages.iter().enumerate() {
        let needs = stage.config.as_ref().is_some_and(|config| config.embedding().is_some());
        if needs && cyclic.is_empty() && !edges.uncertain {
            let found = embedding(index, stage, outline, &names, &edges.inputs, out);
            if let Some(slot) = embeddings.get_mut(index) {
                *slot = found;
            }
        }
    }
    if out.len() > before || edges.uncertain {
        return None;
    }
    Some(Graph { order: order(&edges.inputs), inputs: edges.inputs, embeddings, sink: sink? })
}

fn check_ids(outline: &Outline, out: &mut Diagnostics) {
    let mut seen: BTreeMap<String, (&Reference, &'static str)> = BTreeMap::new();
    let sources = outline.sources.iter().map(|source| (source, "source", format!("sources.{}", source.id)));
    let stages = outline.stages.iter().filter_map(|stage| stage.id.as_ref().map(|id| (id, "stage", format!("{}.id", stage.path))));
    for (reference, noun, path) in sources.chain(stages) {
        let Some((first, first_noun)) = seen.insert(reference.id.to_lowercase(), (reference, noun)) else { continue };
        let place = first.position.map(|at| format!(" at {}:{}", at.line, at.column)).unwrap_or_default();
        let case = if first.id == reference.id { "" } else { ", but for upper and lower case," };
        let message = format!("the id `{}` is{case} that of the {first_noun}{place}", reference.id);
        out.add(&path, reference.position, message, Some("give each source and stage an id of its own".into()));
    }
}

/// What each id means; the first of a repeated one counts.
fn names(outline: &Outline) -> BTreeMap<&str, Input> {
    let mut names = BTreeMap::new();
    for (index, source) in outline.sources.iter().enumerate() {
        names.entry(source.id.as_str()).or_insert(Input::Source(index));
    }
    for (index, stage) in outline.stages.iter().enumerate() {
        if let Some(id) = &stage.id {
            names.entry(id.id.as_str()).or_insert(Input::Stage(index));
        }
    }
    names
}

/// What a reference may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// A stage or a source, named by the stage at this place.
    InputOf(usize),
    /// A stage, named by the stage at this place.
    StageFor(usize),
    /// A stage, named by the sink.
    StageForSink,
}

/// The meaning of a reference. One that means nothing is reported, and taken for the nearest name in the further checks.
fn find(reference: &Reference, path: &str, names: &BTreeMap<&str, Input>, scope: Scope, out: &mut Diagnostics) -> Option<Input> {
    let stages_only = !matches!(scope, Scope::InputOf(_));
    match names.get(reference.id.as_str()) {
        Some(Input::Source(_)) if stages_only => {
            out.add(path, reference.position, format!("`{}` is a source, not a stage", reference.id), Some("name a stage".into()));
            None
        }
        Some(input) => Some(*input),
        None => {
            // Nobody means the stage that asks.
            let meant = |input: &Input| match (scope, input) {
                (Scope::InputOf(_), Input::Source(_)) | (Scope::StageForSink, Input::Stage(_)) => true,
                (_, Input::Source(_)) => false,
                (Scope::InputOf(own) | Scope::StageFor(own), Input::Stage(stage)) => *stage != own,
            };
            let candidates: Vec<&str> = names.iter().filter(|(_, input)| meant(input)).map(|(name, _)| *name).collect();
            let near = nearest(&reference.id, candidates.iter().copied());
            let what = if stages_only { "stage" } else { "stage or source" };
            let hint = match near {
                Some(name) => Some(format!("did you mean `{name}`?")),
                None if candidates.is_empty() => None,
                None => Some(format!("known here: {}", candidates.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))),
            };
            out.add(path, reference.position, format!("there is no {what} `{}`", reference.id), hint);
            near.and_then(|name| names.get(name).copied())
        }
    }
}

fn edges(outline: &Outline, names: &BTreeMap<&str, Input>, out: &mut Diagnostics) -> Edges {
    let mut edges = Edges { inputs: Vec::new(), uncertain: false };
    for (index, stage) in outline.stages.iter().enumerate() {
        let mut inputs = Vec::new();
        match &stage.inputs {
            Some(references) => {
                for reference in references {
                    match find(reference, &format!("{}.input", stage.path), names, Scope::InputOf(index), out) {
                        Some(input) => inputs.push(input),
                        None => edges.uncertain = true,
                    }
                }
                edges.uncertain |= references.is_empty();
            }
            None if index > 0 => inputs.push(Input::Stage(index - 1)),
            None => match outline.sources.len() {
                1 => inputs.push(Input::Source(0)),
                0 => edges.uncertain = true,
                _ => {
                    let path = format!("{}.input", stage.path);
                    let all: Vec<&str> = outline.sources.iter().map(|source| source.id.as_str()).collect();
                    let hint = format!("name one, or write `input: [{}]` for all of them", all.join(", "));
                    out.add(&path, stage.position, "the first stage needs `input`: there are several sources", Some(hint));
                    edges.uncertain = true;
                }
            },
        }
        inputs.dedup();
        edges.inputs.push(inputs);
    }
    edges
}

/// All that stands above `start`, itself included.
fn above(start: Input, inputs: &[Vec<Input>]) -> BTreeSet<Input> {
    above_without(start, inputs, None)
}

/// All that stands above `start` on paths that do not pass the stage `without`.
fn above_without(start: Input, inputs: &[Vec<Input>], without: Option<usize>) -> BTreeSet<Input> {
    let mut reached = BTreeSet::from([start]);
    let mut queue = VecDeque::from([start]);
    while let Some(input) = queue.pop_front() {
        let Input::Stage(stage) = input else { continue };
        for &next in inputs.get(stage).into_iter().flatten() {
            if without.is_none_or(|without| next != Input::Stage(without)) && reached.insert(next) {
                queue.push_back(next);
            }
        }
    }
    reached
}

/// Reports each cycle once, by its path, and returns the stages that stand on one.
fn check_cycles(stages: &[StageOutline], inputs: &[Vec<Input>], out: &mut Diagnostics) -> BTreeSet<usize> {
    let mut cyclic = BTreeSet::new();
    for start in 0..stages.len() {
        if cyclic.contains(&start) {
            continue;
        }
        let Some(cycle) = shortest_cycle(start, inputs) else { continue };
        let name = |index: &usize| {
            stages.get(*index).map_or_else(String::new, |stage| stage.id.as_ref().map_or_else(|| stage.path.clone(), |id| id.id.clone()))
        };
        let path: Vec<String> = cycle.iter().map(name).collect();
        let stage = stages.get(start);
        let place: Option<Position> =
            stage.and_then(|stage| stage.inputs.iter().flatten().next().map_or(stage.position, |input| input.position));
        let at = stage.map_or_else(String::new, |stage| format!("{}.input", stage.path));
        out.add(
            &at,
            place,
            format!("the stages form a cycle: {}", path.join(" -> ")),
            Some("a stage takes rows of stages above it; change one `input`".into()),
        );
        cyclic.extend(cycle);
    }
    cyclic
}

/// The shortest way of rows from `start` back to `start`, both ends named.
fn shortest_cycle(start: usize, inputs: &[Vec<Input>]) -> Option<Vec<usize>> {
    let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(stage) = queue.pop_front() {
        for input in inputs.get(stage).into_iter().flatten() {
            let Input::Stage(next) = *input else { continue };
            if next == start {
                // Walked against the rows: from the last stage found back to the start is the way of the rows.
                let mut path = vec![start, stage];
                let mut at = stage;
                while at != start {
                    at = *came_from.get(&at)?;
                    path.push(at);
                }
                return Some(path);
            }
            if let std::collections::btree_map::Entry::Vacant(slot) = came_from.entry(next) {
                slot.insert(stage);
                queue.push_back(next);
            }
        }
    }
    None
}

fn sink(outline: &Outline, names: &BTreeMap<&str, Input>, out: &mut Diagnostics) -> Option<usize> {
    match &outline.sink.as_ref()?.input {
        None => outline.stages.len().checked_sub(1),
        Some(reference) => match find(reference, "sink.input", names, Scope::StageForSink, out)? {
            Input::Stage(stage) => Some(stage),
            Input::Source(_) => None,
        },
    }
}

fn check_used(outline: &Outline, reached: &BTreeSet<Input>, cyclic: &BTreeSet<usize>, out: &mut Diagnostics) {
    for (_, source) in outline.sources.iter().enumerate().filter(|(index, _)| !reached.contains(&Input::Source(*index))) {
        let hint = format!("name it as an `input`, or remove it; a stage takes `input: [..., {}]`", source.id);
        out.add(&format!("sources.{}", source.id), source.position, format!("the source `{}` is unused", source.id), Some(hint));
    }
    for (index, stage) in outline.stages.iter().enumerate().filter(|(index, _)| !reached.contains(&Input::Stage(*index))) {
        let repeated = stage
            .id
            .as_ref()
            .is_some_and(|id| outline.stages.iter().take(index).any(|earlier| earlier.id.as_ref().is_some_and(|other| other.id == id.id)));
        if !cyclic.contains(&index) && !repeated {
            let message = "the stage leads nowhere: its rows do not reach the sink";
            out.add(&stage.path, stage.position, message, Some("name it as an `input` below, or remove it".into()));
        }
    }
}

fn check_added(outline: &Outline, names: &BTreeMap<&str, Input>, reached: &BTreeSet<Input>, out: &mut Diagnostics) {
    let mut seen = BTreeSet::new();
    for (place, reference) in outline.sink.iter().flat_map(|sink| &sink.add).enumerate() {
        let path = format!("sink.parquet.add[{place}]");
        if !seen.insert(&reference.id) {
            out.add(&path, reference.position, format!("`{}` is given twice", reference.id), Some("remove one of the two".into()));
        }
        let Some(Input::Stage(index)) = find(reference, &path, names, Scope::StageForSink, out) else { continue };
        let Some(stage) = outline.stages.get(index) else { continue };
        if stage.config.as_ref().is_some_and(|config| config.made_vectors().is_none() && config.repeats().is_none()) {
            let message = format!("the stage `{}` makes no column", reference.id);
            out.add(
                &path,
                reference.position,
                message,
                Some("name a stage that makes vectors, such as `embed`, or one that takes rows more than once (`oversample: true`)".into()),
            );
        } else if !reached.contains(&Input::Stage(index)) {
            let message = format!("the rows of `{}` do not reach the sink", reference.id);
            out.add(&path, reference.position, message, Some("name a stage above the sink".into()));
        }
    }
}

/// Refuses stages that compare sources where fewer than two reach them.
fn check_compared(outline: &Outline, inputs: &[Vec<Input>], out: &mut Diagnostics) {
    let compares = |stage: &StageOutline| stage.config.as_ref().is_some_and(|config| config.compares_sources());
    for (index, stage) in outline.stages.iter().enumerate().filter(|(_, stage)| compares(stage)) {
        let sources = above(Input::Stage(index), inputs).into_iter().filter(|input| matches!(input, Input::Source(_))).count();
        if sources < 2 {
            let message = "the stage compares sources, and only one reaches it";
            out.add(&stage.path, stage.position, message, Some("name several under `sources`, and give them as its `input`".into()));
        }
    }
}

/// The stage whose vectors the stage `index` takes: the one that it names, else the nearest above.
fn embedding(
    index: usize,
    stage: &StageOutline,
    outline: &Outline,
    names: &BTreeMap<&str, Input>,
    inputs: &[Vec<Input>],
    out: &mut Diagnostics,
) -> Option<usize> {
    let makes = |stage: &usize| {
        outline.stages.get(*stage).and_then(|stage| stage.config.as_ref()).is_some_and(|config| config.made_vectors().is_some())
    };
    let id = |stage: usize| outline.stages.get(stage).and_then(|stage| stage.id.as_ref()).map_or("", |id| id.id.as_str());
    let path = format!("{}.embedding", stage.path);
    let position = stage.embedding_position.or(stage.position);
    let found = if let Some(wanted) = stage.config.as_ref().and_then(|config| config.embedding().flatten()) {
        let reference = Reference { id: wanted.as_str().to_owned(), position };
        let Input::Stage(found) = find(&reference, &path, names, Scope::StageFor(index), out)? else { return None };
        let reached = above(Input::Stage(index), inputs);
        if !makes(&found) {
            let near = (0..outline.stages.len()).rev().find(|stage| makes(stage) && reached.contains(&Input::Stage(*stage)));
            let hint = near.map_or_else(|| "name an `embed` stage".to_owned(), |near| format!("did you mean `{}`?", id(near)));
            out.add(&path, position, format!("the stage `{wanted}` makes no vectors"), Some(hint));
            return None;
        }
        if !reached.contains(&Input::Stage(found)) {
            let message = format!("the stage `{wanted}` does not stand above");
            out.add(&path, position, message, Some("take its rows as an `input`, or name another".into()));
            return None;
        }
        found
    } else {
        let nearest = nearest_above(index, inputs, &makes);
        if let [first, _, ..] = nearest.as_slice() {
            let all: Vec<String> = nearest.iter().map(|embed| format!("`{}`", id(*embed))).collect();
            let message = format!("the vectors of {} are equally near", all.join(" and "));
            out.add(&path, position, message, Some(format!("say which one is meant: `embedding: {}`", id(*first))));
            return None;
        }
        let Some(only) = nearest.first() else {
            let hint =
                "put `- {id: vectors, embed: {model: builtin}}` above it, or `embed: {from: COLUMN}` for vectors that the shards have";
            let message = "the stage takes vectors, and no stage above it makes any";
            out.add(&stage.path, stage.position, message, Some(hint.into()));
            return None;
        };
        *only
    };
    // Rows that come by another way would have no vector.
    let around = above_without(Input::Stage(index), inputs, Some(found));
    let source = around.iter().find_map(|input| if let Input::Source(source) = input { outline.sources.get(*source) } else { None });
    if let Some(source) = source {
        let message =
            format!("rows of the source `{}` reach the stage without passing `{}`, and would have no vector", source.id, id(found));
        out.add(&stage.path, stage.position, message, Some(format!("put `{}` above the place where the rows part", id(found))));
        return None;
    }
    Some(found)
}

/// The stages that make vectors above `start` at the smallest distance in edges, in file order.
fn nearest_above(start: usize, inputs: &[Vec<Input>], makes: &impl Fn(&usize) -> bool) -> Vec<usize> {
    let mut seen = BTreeSet::from([start]);
    let mut ring = BTreeSet::from([start]);
    loop {
        let stages = ring.iter().filter_map(|stage| inputs.get(*stage)).flatten();
        let next: BTreeSet<usize> = stages.filter_map(|input| if let Input::Stage(stage) = input { Some(*stage) } else { None }).collect();
        ring = next.into_iter().filter(|stage| seen.insert(*stage)).collect();
        let found: Vec<usize> = ring.iter().copied().filter(|stage| makes(stage)).collect();
        if !found.is_empty() || ring.is_empty() {
            return found;
        }
    }
}

/// Each stage behind its inputs, the earliest of the file first. The graph has no cycle.
fn order(inputs: &[Vec<Input>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(inputs.len());
    let mut done = BTreeSet::new();
    while let Some(next) = (0..inputs.len()).find(|stage| {
        let ready = |input: &Input| match input {
            Input::Source(_) => true,
            Input::Stage(stage) => done.contains(stage),
        };
        !done.contains(stage) && inputs.get(*stage).is_some_and(|inputs| inputs.iter().all(ready))
    }) {
        done.insert(next);
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::SinkOutline;
    use crate::stages::quota::{Amount, Quota};
    use crate::stages::{SampleConfig, StageConfig};

    /// Stages with the inputs of `edges` (0 is the source, n the stage n - 1), and the sink behind the last.
    fn outline(edges: &[Vec<usize>]) -> Outline {
        let name = |node: usize| if node == 0 { "source".to_owned() } else { format!("s{}", node - 1) };
        let reference = |node: usize| Reference { id: name(node), position: None };
        let stages = edges.iter().enumerate().map(|(index, inputs)| StageOutline {
            id: Some(reference(index + 1)),
            path: format!("stages.s{index}"),
            position: None,
            inputs: Some(inputs.iter().map(|input| reference(*input)).collect()),
            config: Some(StageConfig::Sample(SampleConfig { quota: Quota::of(Amount::Rows(5)), seed: 1 })),
            embedding_position: None,
        });
        Outline { sources: vec![reference(0)], stages: stages.collect(), sink: Some(SinkOutline::default()), paths: vec![] }
    }

    proptest! {
        /// The oracle is the transitive closure by Warshall's algorithm.
        #[test]
        fn cycles_dead_ends_and_order_agree_with_the_closure(
            edges in (1usize..7).prop_flat_map(|count| prop::collection::vec(prop::collection::btree_set(0..=count, 1..3), count))
        ) {
            let edges: Vec<Vec<usize>> = edges.into_iter().map(|inputs| inputs.into_iter().collect()).collect();
            let count = edges.len();
            let mut above = vec![vec![false; count + 1]; count + 1];
            for (stage, inputs) in edges.iter().enumerate() {
                for input in inputs {
                    above[stage + 1][*input] = true;
                }
            }
            for middle in 0..=count {
                for low in 0..=count {
                    for high in 0..=count {
                        above[low][high] |= above[low][middle] && above[middle][high];
                    }
                }
            }
            let cyclic: Vec<usize> = (1..=count).filter(|node| above[*node][*node]).collect();
            let unused: Vec<usize> = (0..count).filter(|node| !above[count][*node] && !cyclic.contains(node)).collect();
            let mut out = Diagnostics::new();
            let graph = build(&outline(&edges), &mut out);
            let told = |text: &str| out.sorted().iter().filter(|problem| problem.message.contains(text)).count();
            prop_assert_eq!(told("cycle") > 0, !cyclic.is_empty());
            prop_assert_eq!(told("leads nowhere") + told("is unused"), unused.len());
            prop_assert_eq!(graph.is_some(), cyclic.is_empty() && unused.is_empty());
            if let Some(graph) = graph {
                let place = |stage: usize| graph.order().iter().position(|other| *other == stage).unwrap();
                let mut sorted = graph.order().to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..count).collect::<Vec<usize>>());
                for (stage, inputs) in edges.iter().enumerate() {
                    for input in inputs.iter().filter(|input| **input > 0) {
                        prop_assert!(place(input - 1) < place(stage));
                    }
                }
            }
        }
    }
}
