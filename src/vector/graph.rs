//! A layered proximity graph in flat arrays: the search in it, and its bytes.
//!
//! Malkov and Yashunin, Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small World Graphs,
//! 2018: greedy descent through the upper layers, then algorithm 2 (a beam of `ef`) in layer 0. Ties go to the lower node, so that
//! a search is a function of the graph and the distances alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};

/// The lists of neighbours of one layer, one after the other.
#[derive(Debug, Clone, PartialEq)]
struct Lists {
    starts: Vec<usize>,
    neighbours: Vec<u32>,
}

/// A layer above 0: only some nodes, ascending, are in it.
#[derive(Debug, Clone, PartialEq)]
struct Upper {
    nodes: Vec<u32>,
    lists: Lists,
}

/// The graph over nodes `0..points`, with edges in both directions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Graph {
    /// Where a search begins: a node of the highest layer.
    entry: u32,
    base: Lists,
    /// From layer 1 upwards.
    upper: Vec<Upper>,
}

/// What searches need room for, kept between them.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// For each node the last round that saw it.
    seen: Vec<u32>,
    round: u32,
    open: BinaryHeap<Reverse<u64>>,
    best: BinaryHeap<u64>,
}

impl Space {
    /// Forgets the search before.
    fn begin(&mut self, points: usize) {
        if self.seen.len() < points || self.round == u32::MAX {
            self.seen = vec![0; points.max(self.seen.len())];
            self.round = 0;
        }
        self.round += 1;
        self.open.clear();
        self.best.clear();
    }

    /// Whether this search sees the node for the first time.
    fn is_new(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.seen[node as usize], self.round) != self.round
    }
}

/// Orders nodes by distance, then by number. The bits of floats that are not negative are in the order of the floats.
fn key(distance: f32, node: u32) -> u64 {
    u64::from(distance.to_bits()) << 32 | u64::from(node)
}

impl Lists {
    /// The lists of ascending `nodes`, from sorted edges out of them.
    fn new(edges: &[(u32, u32)], nodes: impl Iterator<Item = u32>) -> Self {
        let mut starts = vec![0];
        let mut at = 0;
        for node in nodes {
            at += edges[at..].iter().take_while(|(from, _)| *from == node).count();
            starts.push(at);
        }
        Self { starts, neighbours: edges.iter().map(|(_, to)| *to).collect() }
    }

    fn of(&self, index: usize) -> &[u32] {
        &self.neighbours[self.starts[index]..self.starts[index + 1]]
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.starts.windows(2).flat_map(|pair| ((pair[1] - pair[0]) as u32).to_le_bytes()));
        out.extend(self.neighbours.iter().flat_map(|node| node.to_le_bytes()));
    }

    /// Reads `count` lists of nodes below `points`.
    fn read(bytes: &mut Reader<'_>, count: usize, points: usize) -> Result<Self> {
        let mut starts = vec![0];
        let mut at = 0;
        for length in bytes.numbers(count)? {
            at += length as usize;
            starts.push(at);
        }
        Ok(Self { starts, neighbours: bytes.nodes(at, points)? })
    }
}

impl Graph {
    /// The graph over `0..points` whose layer `l` has the edges `layers[l]`, taken in both directions; `entry` is a node of the last
    /// layer. There is at least one point and one layer.
    pub(super) fn new(points: usize, entry: u32, layers: Vec<Vec<(u32, u32)>>) -> Self {
        let mut layers = layers.into_iter().map(|mut edges| {
            edges.extend_from_within(..);
            let half = edges.len() / 2;
            edges[half..].iter_mut().for_each(|(from, to)| std::mem::swap(from, to));
            edges.sort_unstable();
            edges.dedup();
            edges
        });
        let base = Lists::new(&layers.next().unwrap_or_default(), 0..points as u32);
        let upper = layers.map(|edges| {
            let mut nodes: Vec<u32> = edges.iter().map(|(from, _)| *from).collect();
            nodes.dedup();
            Upper { lists: Lists::new(&edges, nodes.iter().copied()), nodes }
        });
        let upper = upper.collect();
        Self { entry, base, upper }
    }

    /// Joins the parts of layer 0 that no edge connects with what the entry reaches: the first node of a part with the nearest node
    /// that `nearest`, a search for a node, finds. A part to which the upper layers lead that search needs no edge.
    ///
    /// More close points than a list is long fill each other's lists and so cut themselves off; upper layers mend most of it.
    pub(super) fn join(mut self, mut nearest: impl FnMut(&Self, u32) -> Vec<u32>) -> Self {
        let mut reached = vec![false; self.points()];
        self.reach(self.entry, &mut reached);
        let mut links = Vec::new();
        for node in 0..self.points() as u32 {
            if reached[node as usize] {
                continue;
            }
            if let Some(to) = nearest(&self, node).first().filter(|to| reached[**to as usize]) {
                links.extend([(node, *to), (*to, node)]);
            }
            self.reach(node, &mut reached);
        }
        if !links.is_empty() {
            let edges = |node: u32| self.base.of(node as usize).iter().map(move |to| (node, *to));
            links.extend((0..self.points() as u32).flat_map(edges));
            links.sort_unstable();
            self.base = Lists::new(&links, 0..self.points() as u32);
        }
        self
    }

    /// Marks what layer 0 connects with a node.
    fn reach(&self, node: u32, reached: &mut [bool]) {
        let mut open = vec![node];
        reached[node as usize] = true;
        while let Some(node) = open.pop() {
            for &next in self.base.of(node as usize) {
                if !std::mem::replace(&mut reached[next as usize], true) {
                    open.push(next);
                }
            }
        }
    }

    /// How many nodes.
    pub(super) fn points(&self) -> usize {
        self.base.starts.len() - 1
    }

    /// The node that a greedy walk from the entry, layer by layer, ends at.
    fn descend(&self, distance: &impl Fn(u32) -> f32) -> u32 {
        let mut here = key(distance(self.entry), self.entry);
        for layer in self.upper.iter().rev() {
            while let Ok(index) = layer.nodes.binary_search(&(here as u32)) {
                let next = layer.lists.of(index).iter().map(|node| key(distance(*node), *node)).min();
                match next.filter(|next| *next < here) {
                    Some(next) => here = next,
                    None => break,
                }
            }
        }
        here as u32
    }

    /// At most `ef` nodes of small `distance`, nearest first: found from `start` on, or from the entry. Distances are neither
    /// negative nor NaN.
    pub(super) fn search(&self, start: Option<u32>, ef: usize, distance: impl Fn(u32) -> f32, space: &mut Space) -> Vec<u32> {
        let start = start.unwrap_or_else(|| self.descend(&distance));
        space.begin(self.points());
        space.is_new(start);
        let first = key(distance(start), start);
        space.open.push(Reverse(first));
        space.best.push(first);
        while let Some(Reverse(nearest)) = space.open.pop() {
            if space.best.len() >= ef && space.best.peek().is_some_and(|worst| nearest > *worst) {
                break;
            }
            for &node in self.base.of(nearest as u32 as usize) {
                if !space.is_new(node) {
                    continue;
                }
                let found = key(distance(node), node);
                let full = space.best.len() >= ef;
                if !full || space.best.peek().is_some_and(|worst| found < *worst) {
                    space.open.push(Reverse(found));
                    space.best.push(found);
                    if full {
                        space.best.pop();
                    }
                }
            }
        }
        let mut best: Vec<u64> = space.best.drain().collect();
        best.sort_unstable();
        best.into_iter().map(|key| key as u32).collect()
    }

    /// Appends its bytes: entry, layers, and for each layer its nodes (all in layer 0), the lengths of their lists, the lists; every
    /// number a little-endian u32.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.entry.to_le_bytes());
        out.extend((self.upper.len() as u32).to_le_bytes());
        self.base.write(out);
        for layer in &self.upper {
            out.extend((layer.nodes.len() as u32).to_le_bytes());
            out.extend(layer.nodes.iter().flat_map(|node| node.to_le_bytes()));
            layer.lists.write(out);
        }
    }

    /// Reads what [`Graph::write`] wrote for `points` points.
    ///
    /// # Errors
    /// State: these are not the bytes of such a graph.
    pub(super) fn read(bytes: &mut Reader<'_>, points: usize) -> Result<Self> {
        let entry = bytes.nodes(1, points)?[0];
        let layers = bytes.number()?;
        let base = Lists::read(bytes, points, points)?;
        let mut upper = Vec::new();
        for _ in 0..layers {
            let count = bytes.number()? as usize;
            let nodes = bytes.nodes(count, points)?;
            if !nodes.is_sorted_by(|a, b| a < b) {
                return Err(Error::state("nodes of a layer are not in order"));
            }
            upper.push(Upper { nodes, lists: Lists::read(bytes, count, points)? });
        }
        Ok(Self { entry, base, upper })
    }
}

/// Reads numbers from bytes that may be anything.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| Error::state("bytes end too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `count` numbers.
    fn numbers(&mut self, count: usize) -> Result<Vec<u32>> {
        let (numbers, _) = self.bytes(count.saturating_mul(4))?.as_chunks::<4>();
        Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// The next number.
    pub(super) fn number(&mut self) -> Result<u32> {
        Ok(self.numbers(1)?[0])
    }

    /// The next `count` numbers, all below `points`.
    fn nodes(&mut self, count: usize, points: usize) -> Result<Vec<u32>> {
        let nodes = self.numbers(count)?;
        if nodes.iter().any(|node| *node as usize >= points) {
            return Err(Error::state("a neighbour is no point of the graph"));
        }
        Ok(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line, node by node.
    const PLACES: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 13.0, 12.0, 11.0, 10.0];

    fn nearest(graph: &Graph, place: f32, ef: usize) -> Vec<u32> {
        graph.search(None, ef, |node| (PLACES[node as usize] - place).abs(), &mut Space::default())
    }

    #[test]
    fn a_part_that_is_cut_off_is_joined_where_it_is_nearest() {
        // Two chains; the entry is at the far end of one of them.
        let parts = vec![vec![(0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (6, 7)]];
        let graph = Graph::new(8, 0, parts.clone());
        assert_eq!(nearest(&graph, 10.4, 2), [3, 2]);
        let joined = graph.join(|graph, node| nearest(graph, PLACES[node as usize], 2));
        assert_eq!(joined.base.of(3), [2, 4]);
        assert_eq!(nearest(&joined, 10.4, 2), [7, 6]);
        // With an upper layer that leads there, there is nothing to join.
        let graph = Graph::new(8, 0, [parts, vec![vec![(0, 6)]]].concat());
        assert_eq!(nearest(&graph, 10.4, 2), [7, 6]);
        assert_eq!(graph.clone().join(|graph, node| nearest(graph, PLACES[node as usize], 2)), graph);
    }

    #[test]
    fn a_wide_beam_sees_all_and_ties_go_to_the_lower_node() {
        let chain = Graph::new(8, 3, vec![(1..8).map(|node| (node - 1, node)).collect()]);
        assert_eq!(nearest(&chain, 1.5, 100), [1, 2, 0, 3, 7, 6, 5, 4]);
        assert_eq!(nearest(&chain, 1.5, 1), [1]);
    }

    #[test]
    fn bytes_give_the_graph_back() {
        let graph = Graph::new(8, 6, vec![vec![(0, 1), (1, 2), (5, 7)], vec![(2, 6)], vec![]]);
        let mut bytes = Vec::new();
        graph.write(&mut bytes);
        let mut reader = Reader(&bytes);
        assert_eq!(Graph::read(&mut reader, 8).unwrap(), graph);
        assert!(reader.0.is_empty());
        assert!(Graph::read(&mut Reader(&bytes), 7).is_err() && Graph::read(&mut Reader(&bytes[1..]), 8).is_err());
    }
}
