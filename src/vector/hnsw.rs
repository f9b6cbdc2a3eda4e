//! The approximate index: `hnsw_rs` builds the graph (Malkov and Yashunin, 2018, algorithms 1 and 4), [`graph`](super::graph)
//! searches it, and [`similarity`](super::similarity) alone decides what a search has found.
//!
//! What holds:
//!
//! * A search finds no wrong neighbour, but may miss one. Recall is a matter of [`HnswConfig`]; compare with [`super::flat`].
//! * The result is a function of the rows, their order and the configuration. Rows are cut into segments of consecutive positions;
//!   in a segment they are inserted one after the other, segments are built side by side, so that no thread count moves a bit.
//!   `hnsw_rs` draws the levels of its points from a generator of fixed seed, a new one for each graph.
//! * Vectors that are bit for bit equal are one point with a list of members: 300,000 copies would fill each other's lists and cut
//!   the graph into pieces. Rows without direction (zero norm, NaN, infinite numbers) are no points.
//! * An index is of the rows that it was built over. Nothing is inserted later; more rows are another index.
//!
//! What is kept away from `hnsw_rs`: more than 255 connections (it ends the process), distances below zero (it asserts), its dump
//! and its loader (files by name; bad bytes end the process), its printing setters. Saved is the graph alone, in our own bytes under
//! a checksum; vectors stay where they are, and a hash of them tells whether a saved index is theirs.
//!
//! Edges are taken in both directions after the build, and parts of the graph that are cut off are joined again, because `hnsw_rs`
//! drops the farthest neighbour of a full list, which leaves some points without any edge that leads to them.
//!
//! Memory: see [`bytes`]. Single precision guides the search: norms outside 1e-30 to 1e38 make it blind, not wrong.

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::vector::dot::{cosine, dot, rough};
use crate::vector::flat::{Rows, firsts};
use crate::vector::graph::{Graph, Reader, Space};
use crate::vector::normalise;

/// Layers that `hnsw_rs` has at most.
const LAYERS: usize = 16;
/// Nearest nodes looked for to join a part of a graph that is cut off.
const BEAM: usize = 32;
/// Rows between two looks at whether to stop.
const BLOCK: usize = 256;
/// Stands for no position.
const NONE: u32 = u32::MAX;
/// The first bytes of a saved index, then the version of its form.
const MAGIC: &[u8; 8] = b"trmlhnsw";
const VERSION: u32 = 1;
/// Bytes of a hash at the end of a saved index.
const HASH: usize = blake3::OUT_LEN;

/// How a graph is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HnswConfig {
    /// Neighbours of a point in each upper layer, twice as many in layer 0: M. 2 to 255.
    pub connections: usize,
    /// Nearest points looked for when a point is inserted. At least 1.
    pub ef_construction: usize,
    /// Nearest points looked for in a search, if no more are wanted. At least 1.
    pub ef_search: usize,
    /// Rows of a segment, at most; a search looks into each. At least 1.
    pub segment_rows: usize,
    /// Neighbours that [`near_pairs`] takes for a row, the most similar ones. At least 1.
    pub neighbours: usize,
}

impl Default for HnswConfig {
    fn default() -> Self {
        Self { connections: 16, ef_construction: 100, ef_search: 64, segment_rows: 1 << 16, neighbours: 64 }
    }
}

impl HnswConfig {
    /// Whether the numbers are possible.
    ///
    /// # Errors
    /// Usage: names the one that is not.
    pub fn check(&self) -> Result<()> {
        let most = i32::MAX as usize;
        for (name, value, least, most) in [
            ("connections", self.connections, 2, 255),
            ("ef_construction", self.ef_construction, 1, most),
            ("ef_search", self.ef_search, 1, most),
            ("segment_rows", self.segment_rows, 1, most),
            ("neighbours", self.neighbours, 1, most),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::usage(format!("hnsw needs `{name}` from {least} to {most} value=`{value}`")));
            }
        }
        Ok(())
    }

    /// Bytes that an index over so many rows takes while it is built, the vectors themselves left out. Pairs found come on top: 28
    /// bytes each.
    ///
    /// While a segment is built, each of its points has its vector in single precision, some 800 bytes, 96 for each connection (an
    /// edge is an allocation of its own) and 32 more for each connection while edges are read out. In the finished graph it has at
    /// most 16 bytes for each connection and 48 more. As many segments are built at a time as there are threads.
    #[must_use]
    pub fn bytes(&self, rows: usize, dimensions: usize) -> usize {
        let growing = rows.min(self.segment_rows.saturating_mul(rayon::current_num_threads()));
        growing * (4 * dimensions + 800 + 128 * self.connections) + rows * (48 + 16 * self.connections)
    }

    fn numbers(&self) -> [usize; 5] {
        [self.connections, self.ef_construction, self.ef_search, self.segment_rows, self.neighbours]
    }
}

/// [`HnswConfig::bytes`] of the default configuration.
#[must_use]
pub fn bytes(rows: usize, dimensions: usize) -> usize {
    HnswConfig::default().bytes(rows, dimensions)
}

/// One minus the cosine, never below zero and never NaN.
fn distance(cosine: f32) -> f32 {
    let distance = 1.0 - cosine;
    if distance.is_nan() { 2.0 } else { distance.clamp(0.0, 2.0) }
}

/// The distance of unit vectors.
#[derive(Debug, Clone, Copy)]
struct Cosine;

impl Distance<f32> for Cosine {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        distance(rough(a, b))
    }
}

/// The distance of each node from a unit vector.
fn away<'b>(rows: Rows<'b>, inverse: &'b [f32], points: &'b [u32], unit: &'b [f32]) -> impl Fn(u32) -> f32 + 'b {
    move |node| {
        let position = points[node as usize] as usize;
        distance(rough(unit, rows.row(position)) * inverse[position])
    }
}

/// The graph over the points of a run of positions. Node `i` is `points[i]`.
#[derive(Debug, PartialEq)]
struct Segment {
    /// Ascending positions.
    points: Vec<u32>,
    /// `None` if there is no point.
    graph: Option<Graph>,
}

/// An index over rows.
#[derive(Debug)]
pub struct HnswIndex<'a> {
    rows: Rows<'a>,
    config: HnswConfig,
    squares: Vec<f64>,
    /// One over the norm.
    inverse: Vec<f32>,
    /// For each position the first one of the same vector; [`NONE`] without direction.
    first: Vec<u32>,
    /// For each position the next one of the same vector; [`NONE`] after the last.
    next: Vec<u32>,
    segments: Vec<Segment>,
}

/// Pairs of near rows: those of position `p` are `starts[p]..starts[p + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct NearPairs {
    /// One more than there are positions.
    pub starts: Vec<usize>,
    /// Positions before `p`, ascending.
    pub earlier: Vec<u32>,
    /// The cosine of each with `p`.
    pub similarities: Vec<f64>,
}

/// The pairs with a cosine of at least `minimum` that an index over `rows` finds.
///
/// Each row is searched for in its own segment and in the earlier ones (a row with copies up to the last copy's); a pair found from either side is a pair of the later row.
/// Of copies of one vector only the first is paired with other vectors' rows as the earlier one. A copy is paired with the first
/// row of its vector and with the rows before it that the search for that vector found: at most `config.neighbours` and one more.
///
/// # Errors
/// Usage: `config` is not possible. Otherwise what `stop` returns, which is asked every now and then.
pub fn near_pairs(rows: Rows<'_>, minimum: f64, config: &HnswConfig, stop: impl Fn() -> Result<()> + Sync) -> Result<NearPairs> {
    HnswIndex::build(rows, config, &stop)?.near_pairs(minimum, &stop)
}

/// Most similar first, ties by position.
fn sort(found: &mut [(u32, f64)]) {
    found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

impl<'a> HnswIndex<'a> {
    /// Builds the index.
    ///
    /// # Errors
    /// Usage: `config` is not possible. Otherwise what `stop` returns, which is asked every now and then.
    pub fn build(rows: Rows<'a>, config: &HnswConfig, stop: impl Fn() -> Result<()> + Sync) -> Result<Self> {
        config.check()?;
        let mut index = Self::without_graphs(rows, config);
        let mut segments = std::mem::take(&mut index.segments);
        let fill = |segment: &mut Segment| -> Result<()> {
            segment.graph = grow(rows, &index.inverse, &segment.points, config, &stop)?;
            Ok(())
        };
        // No more segments at a time than threads, also while one is being freed, for that is when a thread may look for other work.
        segments.chunks_mut(rayon::current_num_threads()).try_for_each(|some| some.par_iter_mut().try_for_each(fill))?;
        index.segments = segments;
        Ok(index)
    }

    /// All but the graphs.
    fn without_graphs(rows: Rows<'a>, config: &HnswConfig) -> Self {
        let squares = rows.squares();
        let mut first = firsts(rows);
        let (mut last, mut next) = (vec![NONE; rows.len()], vec![NONE; rows.len()]);
        for position in 0..rows.len() {
            if !(squares[position].is_finite() && squares[position] > 0.0) {
                first[position] = NONE;
                continue;
            }
            let before = std::mem::replace(&mut last[first[position] as usize], position as u32);
            if before != NONE {
                next[before as usize] = position as u32;
            }
        }
        let count = rows.len().div_ceil(config.segment_rows);
        let segment = |index: usize| {
            let positions = (index * rows.len() / count) as u32..((index + 1) * rows.len() / count) as u32;
            Segment { points: positions.filter(|position| first[*position as usize] == *position).collect(), graph: None }
        };
        let segments = (0..count).map(segment).collect();
        let inverse = squares.iter().map(|square| square.sqrt().recip() as f32).collect();
        Self { rows, config: *config, squares, inverse, first, next, segments }
    }

    /// The positions of the vector whose first position this is.
    fn members(&self, first: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(first), |position| Some(self.next[*position as usize]).filter(|next| *next != NONE))
    }

    /// The first positions with a cosine of at least `minimum` that are found in a segment, from a node on or from the top.
    fn look(
        &self,
        segment: &Segment,
        start: Option<u32>,
        (query, unit): (&[f32], &[f32]),
        (ef, minimum): (usize, f64),
        space: &mut Space,
    ) -> Vec<(u32, f64)> {
        let Some(graph) = &segment.graph else { return Vec::new() };
        let away = away(self.rows, &self.inverse, &segment.points, unit);
        let square = dot(query, query);
        let exact = |node: u32| {
            let position = segment.points[node as usize];
            (position, cosine(dot(query, self.rows.row(position as usize)), square, self.squares[position as usize]))
        };
        graph.search(start, ef, away, space).into_iter().map(exact).filter(|(_, similarity)| *similarity >= minimum).collect()
    }

    /// At most `k` positions of the most similar vectors found with a cosine of at least `minimum`, most similar first, ties by
    /// position. All rows of equal vectors count. A query without direction finds nothing.
    ///
    /// # Panics
    /// If the query has other dimensions than the rows.
    #[must_use]
    pub fn search(&self, query: &[f32], k: usize, minimum: f64) -> Vec<(u32, f64)> {
        assert_eq!(query.len(), self.rows.dimensions(), "query and rows differ in dimensions");
        let mut unit = query.to_vec();
        if k == 0 || !normalise(&mut unit) {
            return Vec::new();
        }
        let ef = (self.config.ef_search.max(k), minimum);
        let mut space = Space::default();
        let mut found: Vec<_> = self.segments.iter().flat_map(|segment| self.look(segment, None, (query, &unit), ef, &mut space)).collect();
        sort(&mut found);
        found.truncate(k);
        let members = |(first, similarity)| self.members(first).take(k).map(move |position| (position, similarity));
        let mut all: Vec<_> = found.into_iter().flat_map(members).collect();
        sort(&mut all);
        all.truncate(k);
        all
    }

    /// The first positions of other vectors that are near the row at a first position, in its own and the earlier segments; if it has
    /// copies, up to the segment of the last one, so that each copy is paired with what lies between.
    fn neighbours(&self, position: u32, minimum: f64, unit: &mut Vec<f32>, space: &mut Space) -> Vec<(u32, f64)> {
        let query = self.rows.row(position as usize);
        unit.clear();
        unit.extend_from_slice(query);
        let mut found = Vec::new();
        if !normalise(unit) {
            return found;
        }
        // One more, for the row finds itself.
        let ef = (self.config.ef_search.max(self.config.neighbours + 1), minimum);
        let last = self.members(position).last();
        for segment in &self.segments {
            if segment.points.first().copied() > last {
                break;
            }
            let start = segment.points.binary_search(&position).ok().map(|node| node as u32);
            found.extend(self.look(segment, start, (query, unit), ef, space));
        }
        found.retain(|(other, _)| *other != position);
        sort(&mut found);
        found.truncate(self.config.neighbours);
        found
    }

    /// [`near_pairs`] with the index at hand.
    ///
    /// # Errors
    /// What `stop` returns.
    pub fn near_pairs(&self, minimum: f64, stop: impl Fn() -> Result<()> + Sync) -> Result<NearPairs> {
        let rows = self.rows.len();
        // A pair is one number, later before earlier, and its cosine, which is the same from both sides.
        let pair = |a: u32, b: u32, similarity: f64| (u64::from(a.max(b)) << 32 | u64::from(a.min(b)), similarity);
        let block = |(unit, space): &mut (Vec<f32>, Space), block: usize| -> Result<Vec<(u64, f64)>> {
            stop()?;
            let mut pairs = Vec::new();
            for position in (block * BLOCK..rows.min((block + 1) * BLOCK)).map(|position| position as u32) {
                if self.first[position as usize] != position {
                    continue;
                }
                let found = self.neighbours(position, minimum, unit, space);
                pairs.extend(found.iter().map(|(other, similarity)| pair(position, *other, *similarity)));
                for copy in self.members(position).skip(1) {
                    if minimum <= 1.0 {
                        pairs.push(pair(copy, position, 1.0));
                    }
                    let before = found.iter().filter(|(other, _)| *other < copy);
                    pairs.extend(before.map(|(other, similarity)| pair(copy, *other, *similarity)));
                }
            }
            Ok(pairs)
        };
        let blocks = (0..rows.div_ceil(BLOCK)).into_par_iter().map_init(Default::default, block).collect::<Result<Vec<_>>>()?;
        let mut pairs: Vec<(u64, f64)> = blocks.into_iter().flatten().collect();
        pairs.par_sort_unstable_by_key(|(pair, _)| *pair);
        pairs.dedup_by_key(|(pair, _)| *pair);
        let mut starts = vec![0; rows + 1];
        for (pair, _) in &pairs {
            starts[(pair >> 32) as usize + 1] += 1;
        }
        for position in 0..rows {
            starts[position + 1] += starts[position];
        }
        let (earlier, similarities) = pairs.into_iter().map(|(pair, similarity)| (pair as u32, similarity)).unzip();
        Ok(NearPairs { starts, earlier, similarities })
    }

    /// The bytes of the index: magic, version, dimensions, rows, the numbers of the configuration, a hash of the vectors, for each
    /// segment the number of its points and its graph, and a BLAKE3 hash of all that. Numbers are little-endian, u64 before the
    /// segments. The vectors are not in it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        let numbers = [self.rows.dimensions(), self.rows.len()].into_iter().chain(self.config.numbers());
        out.extend(numbers.flat_map(|number| (number as u64).to_le_bytes()));
        out.extend(vectors_hash(self.rows).as_bytes());
        for segment in &self.segments {
            out.extend((segment.points.len() as u32).to_le_bytes());
            if let Some(graph) = &segment.graph {
                graph.write(&mut out);
            }
        }
        let hash = blake3::hash(&out);
        out.extend(hash.as_bytes());
        out
    }

    /// Reads what [`HnswIndex::to_bytes`] wrote for an index over the same rows in the same order.
    ///
    /// # Errors
    /// State: the bytes are damaged, of another version, or of other rows.
    pub fn from_bytes(bytes: &[u8], rows: Rows<'a>) -> Result<Self> {
        let damaged = || Error::state("a saved hnsw index is damaged").hint("remove it; it is built again");
        let (body, hash) = bytes.split_at_checked(bytes.len().saturating_sub(HASH)).ok_or_else(damaged)?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(damaged());
        }
        let mut body = Reader(body);
        Self::read(&mut body, rows).map_err(|cause| if cause.hint_text().is_some() { cause } else { damaged().caused_by(cause) })
    }

    /// The body behind the checksum. Right bytes of another program are checked as all others are.
    fn read(body: &mut Reader<'_>, rows: Rows<'a>) -> Result<Self> {
        let other = |what: &str| Error::state(format!("a saved hnsw index is of another {what}")).hint("remove it; it is built again");
        if body.bytes(MAGIC.len())? != MAGIC {
            return Err(Error::state("these are not the bytes of an index"));
        }
        if body.number()? != VERSION {
            return Err(other("version"));
        }
        let mut numbers = [0; 7];
        for number in &mut numbers {
            let (low, high) = (body.number()?, body.number()?);
            *number = (u64::from(high) << 32 | u64::from(low)) as usize;
        }
        let [dimensions, count, connections, ef_construction, ef_search, segment_rows, neighbours] = numbers;
        let config = HnswConfig { connections, ef_construction, ef_search, segment_rows, neighbours };
        config.check()?;
        let hash = body.bytes(HASH)?;
        if (dimensions, count) != (rows.dimensions(), rows.len()) || hash != vectors_hash(rows).as_bytes() {
            return Err(other("set of rows"));
        }
        let mut index = Self::without_graphs(rows, &config);
        for segment in &mut index.segments {
            let points = body.number()? as usize;
            if points != segment.points.len() {
                return Err(Error::state("a segment has other points"));
            }
            if points > 0 {
                segment.graph = Some(Graph::read(body, points)?);
            }
        }
        if body.0.is_empty() { Ok(index) } else { Err(Error::state("bytes follow the last segment")) }
    }
}

/// A hash of all vectors in their order.
fn vectors_hash(rows: Rows<'_>) -> blake3::Hash {
    let mut hash = Fingerprint::new("trommel hnsw rows 1").number(rows.dimensions() as u64);
    let mut buffer = Vec::new();
    for position in 0..rows.len() {
        buffer.clear();
        buffer.extend(rows.row(position).iter().flat_map(|number| number.to_le_bytes()));
        hash = hash.part(&buffer);
    }
    hash.finish()
}

/// Builds the graph over some positions, one after the other.
fn grow(rows: Rows<'_>, inverse: &[f32], points: &[u32], config: &HnswConfig, stop: &impl Fn() -> Result<()>) -> Result<Option<Graph>> {
    let hnsw = Hnsw::<f32, Cosine>::new(config.connections, points.len(), LAYERS, config.ef_construction, Cosine);
    let mut unit = Vec::new();
    for (node, position) in points.iter().enumerate() {
        if node % BLOCK == 0 {
            stop()?;
        }
        unit.clear();
        unit.extend_from_slice(rows.row(*position as usize));
        if !normalise(&mut unit) {
            return Err(Error::internal("a point of the graph has no direction"));
        }
        hnsw.insert((unit.as_slice(), node));
    }
    let (mut entry, mut layers) = (None, Vec::new());
    for level in 0..LAYERS {
        for (place, point) in hnsw.get_point_indexation().get_layer_iterator(level).enumerate() {
            let node = point.get_origin_id() as u32;
            // The first point of the highest level; new levels open new layers.
            if place == 0 {
                entry = Some(node);
                layers.resize(level + 1, Vec::new());
            }
            // Above its own level a point notes only what its insertion passed by.
            for (layer, list) in point.get_neighborhood_id().into_iter().take(level + 1).enumerate() {
                layers[layer].extend(list.into_iter().map(|neighbour| (node, neighbour.d_id as u32)));
            }
        }
    }
    drop(hnsw);
    let mut space = Space::default();
    let nearest = |graph: &Graph, node: u32| {
        unit.clear();
        unit.extend_from_slice(rows.row(points[node as usize] as usize));
        // It has a direction: it was normalised above.
        if normalise(&mut unit) { graph.search(None, BEAM, away(rows, inverse, points, &unit), &mut space) } else { Vec::new() }
    };
    Ok(entry.map(|entry| Graph::new(points.len(), entry, layers).join(nearest)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;
    use crate::vector::{Vectors, compare_earlier, planted, similarity};

    #[expect(clippy::unnecessary_wraps, reason = "what asks whether to stop")]
    fn go() -> Result<()> {
        Ok(())
    }

    fn with_segments(segment_rows: usize) -> HnswConfig {
        HnswConfig { segment_rows, ..HnswConfig::default() }
    }

    /// (later, earlier) and the bits of the cosine.
    fn pairs(near: &NearPairs) -> BTreeMap<(u32, u32), u64> {
        let of = |later: usize| {
            let range = near.starts[later]..near.starts[later + 1];
            assert!(near.earlier[range.clone()].is_sorted_by(|a, b| a < b));
            range.map(move |at| ((later as u32, near.earlier[at]), near.similarities[at].to_bits()))
        };
        assert_eq!(near.starts.last(), Some(&near.earlier.len()));
        (0..near.starts.len() - 1).flat_map(of).collect()
    }

    fn found(rows: Rows<'_>, minimum: f64, config: &HnswConfig) -> BTreeMap<(u32, u32), u64> {
        pairs(&near_pairs(rows, minimum, config, go).unwrap())
    }

    /// The same by the exact comparison, in which a copy is never an earlier row either.
    fn exact(rows: Rows<'_>, minimum: f64) -> BTreeMap<(u32, u32), u64> {
        let mut pairs = BTreeMap::new();
        let offer = |pairs: &mut BTreeMap<(u32, u32), u64>, later, earlier, similarity: f64| {
            pairs.insert((later, earlier), similarity.to_bits());
        };
        compare_earlier(rows, minimum, &mut pairs, |_, _, _, _| true, offer, |_, _| true);
        pairs
    }

    #[test]
    fn nearly_all_pairs_are_found_and_no_others() {
        for (rows, dimensions, segment_rows) in [(2500, 24, 1 << 16), (2500, 32, 900), (1500, 16, 100)] {
            let vectors = planted::vectors(rows, dimensions, 3);
            let rows = Rows::all(vectors.matrix());
            let (found, exact) = (found(rows, 0.95, &with_segments(segment_rows)), exact(rows, 0.95));
            assert!(found.iter().all(|(pair, bits)| exact.get(pair) == Some(bits)));
            assert!(exact.len() > 100 && found.len() as f64 >= 0.995 * exact.len() as f64, "{} of {}", found.len(), exact.len());
        }
    }

    #[test]
    fn few_rows_are_compared_exactly() {
        for rows in [0, 1, 2, 3, 40] {
            let vectors = planted::vectors(rows, 8, 5);
            let order: Vec<u32> = (0..rows as u32).rev().collect();
            for (segment_rows, minimum) in [(1, 0.3), (7, 0.3), (100, 0.3), (9, -2.0), (9, 1.5), (9, f64::NAN)] {
                let rows = Rows::some(vectors.matrix(), &order);
                assert_eq!(found(rows, minimum, &with_segments(segment_rows)), exact(rows, minimum), "{segment_rows} {minimum}");
            }
        }
    }

    #[test]
    fn threads_do_not_move_a_bit() {
        let vectors = planted::vectors(2000, 16, 7);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let index = HnswIndex::build(Rows::all(vectors.matrix()), &with_segments(300), go).unwrap();
                (index.to_bytes(), pairs(&index.near_pairs(0.9, go).unwrap()))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(4));
    }

    #[test]
    fn a_search_finds_the_nearest_in_order_with_their_exact_cosines() {
        let vectors = planted::vectors(2000, 16, 9);
        let index = HnswIndex::build(Rows::all(vectors.matrix()), &with_segments(700), go).unwrap();
        let (mut right, mut all) = (0, 0);
        for row in (0..1990).step_by(20) {
            // Between two rows, and no unit vector.
            let query: Vec<f32> = vectors.row(row).iter().zip(vectors.row(row + 7)).map(|(x, y)| 3.0 * x + y).collect();
            let query = query.as_slice();
            let mut plain: Vec<(u32, f64)> = (0..2000).map(|row| (row, similarity(query, vectors.row(row as usize)))).collect();
            plain.retain(|(_, similarity)| *similarity >= 0.5);
            sort(&mut plain);
            plain.truncate(10);
            let found = index.search(query, 10, 0.5);
            assert!(found.iter().all(|(row, cosine)| *cosine == similarity(query, vectors.row(*row as usize)) && *cosine >= 0.5));
            assert!(found.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)));
            right += found.iter().filter(|hit| plain.contains(hit)).count();
            all += plain.len();
        }
        assert!(right as f64 >= 0.99 * all as f64, "{right} of {all}");
        assert!(index.search(&[0.0; 16], 3, -2.0).is_empty() && index.search(&[f32::NAN; 16], 3, -2.0).is_empty());
        assert!(index.search(vectors.row(0), 0, -2.0).is_empty());
    }

    #[test]
    fn copies_are_one_point_with_members() {
        // One vector 300,000 times, with a near one between: the lists of a graph of copies would be full of copies.
        let mut data = [0.6, 0.8].repeat(300_000);
        data[300..302].copy_from_slice(&[0.8, 0.6]);
        let vectors = Vectors::try_new(data, 2).unwrap();
        let index = HnswIndex::build(Rows::all(vectors.matrix()), &with_segments(1000), go).unwrap();
        assert_eq!(index.segments.iter().map(|segment| segment.points.len()).sum::<usize>(), 2);
        let nearest: Vec<u32> = index.search(&[0.6, 0.8], 152, 0.5).into_iter().map(|(position, _)| position).collect();
        assert_eq!(nearest, (0..150).chain(151..153).collect::<Vec<_>>());
        let near = index.near_pairs(0.5, go).unwrap();
        // Copies are paired with the first of their vector and with the near one if that comes before them.
        assert_eq!(near.earlier.len(), 150 + 2 * (300_000 - 151));
        assert!(near.earlier.iter().all(|earlier| [0, 150].contains(earlier)));
    }

    #[test]
    fn a_copy_is_paired_with_what_lies_between_it_and_the_first() {
        let vectors = Vectors::try_new([[0.0, 1.0], [0.6, 0.8], [0.0, 1.0], [0.5, 0.8], [0.0, 1.0]].concat(), 2).unwrap();
        let rows = Rows::all(vectors.matrix());
        for segment_rows in [1, 2, 100] {
            let found = found(rows, 0.7, &with_segments(segment_rows));
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1), (4, 3)]);
            assert_eq!(found, exact(rows, 0.7));
        }
    }

    #[test]
    fn rows_without_direction_are_never_found() {
        let data = vec![0.0, 0.0, f32::NAN, 1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, 1.0, 1.0, 0.1, f32::NAN, 1.0];
        let vectors = Vectors::try_new(data, 2).unwrap();
        let rows = Rows::all(vectors.matrix());
        for segment_rows in [1, 3, 100] {
            assert_eq!(found(rows, -2.0, &with_segments(segment_rows)).into_keys().collect::<Vec<_>>(), [(5, 2)]);
        }
        let index = HnswIndex::build(rows, &HnswConfig::default(), go).unwrap();
        assert_eq!(index.search(&[1.0, 0.0], 9, -2.0).into_iter().map(|(position, _)| position).collect::<Vec<_>>(), [2, 5]);
    }

    #[test]
    fn vectors_of_any_length_are_found_by_direction() {
        let unit = planted::vectors(400, 8, 11);
        let stretched = (0_usize..).zip(unit.matrix().data()).map(|(at, x)| x * [1e-20, 1.0, 1e20][at / 8 % 3]).collect();
        let vectors = Vectors::try_new(stretched, 8).unwrap();
        let rows = Rows::all(vectors.matrix());
        let (found, exact) = (found(rows, 0.9, &with_segments(150)), exact(rows, 0.9));
        assert!(found.len() as f64 >= 0.99 * exact.len() as f64, "{} of {}", found.len(), exact.len());
    }

    #[test]
    fn a_stop_and_an_impossible_configuration_are_errors() {
        let vectors = planted::vectors(10, 4, 1);
        let rows = Rows::all(vectors.matrix());
        let stop = || Err(Error::new(Kind::Interrupted, "stopped"));
        assert_eq!(near_pairs(rows, 0.5, &HnswConfig::default(), stop).unwrap_err().kind(), Kind::Interrupted);
        for config in [
            HnswConfig { connections: 256, ..HnswConfig::default() },
            HnswConfig { connections: 1, ..HnswConfig::default() },
            HnswConfig { segment_rows: 0, ..HnswConfig::default() },
        ] {
            assert_eq!(near_pairs(rows, 0.5, &config, go).unwrap_err().kind(), Kind::Usage);
        }
    }

    static SAVED: LazyLock<(Vectors, Vec<u8>)> = LazyLock::new(|| {
        let vectors = planted::vectors(300, 8, 13);
        let bytes = HnswIndex::build(Rows::all(vectors.matrix()), &with_segments(120), go).unwrap().to_bytes();
        (vectors, bytes)
    });

    #[test]
    fn a_saved_index_finds_what_it_found_before() {
        let (vectors, bytes) = &*SAVED;
        let rows = Rows::all(vectors.matrix());
        let (built, loaded) = (HnswIndex::build(rows, &with_segments(120), go).unwrap(), HnswIndex::from_bytes(bytes, rows).unwrap());
        assert!(built.segments == loaded.segments && built.config == loaded.config && loaded.to_bytes() == *bytes);
        assert_eq!(built.near_pairs(0.8, go).unwrap(), loaded.near_pairs(0.8, go).unwrap());
        for row in 0..300 {
            assert_eq!(built.search(vectors.row(row), 5, 0.2), loaded.search(vectors.row(row), 5, 0.2));
        }
        // The same vectors in another order are other rows.
        let order: Vec<u32> = (0..300).rev().collect();
        let error = HnswIndex::from_bytes(bytes, Rows::some(vectors.matrix(), &order)).unwrap_err();
        assert_eq!(error.report(), "error: a saved hnsw index is of another set of rows\nhint: remove it; it is built again");
        let empty = HnswIndex::build(Rows::some(vectors.matrix(), &[]), &HnswConfig::default(), go).unwrap().to_bytes();
        assert!(HnswIndex::from_bytes(&empty, Rows::some(vectors.matrix(), &[])).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_is_an_error(at in any::<prop::sample::Index>(), flip in 1_u8..=255, cut in any::<prop::sample::Index>()) {
            let (vectors, bytes) = &*SAVED;
            let rows = Rows::all(vectors.matrix());
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            prop_assert_eq!(HnswIndex::from_bytes(&damaged, rows).unwrap_err().kind(), Kind::State);
            prop_assert_eq!(HnswIndex::from_bytes(&bytes[..cut.index(bytes.len())], rows).unwrap_err().kind(), Kind::State);
            // Under a checksum that fits, an index is refused or can be searched.
            let body = bytes.len() - HASH;
            damaged.copy_from_slice(bytes);
            damaged[at.index(body)] ^= flip;
            let hash = blake3::hash(&damaged[..body]);
            damaged[body..].copy_from_slice(hash.as_bytes());
            match HnswIndex::from_bytes(&damaged, rows) {
                Ok(index) => prop_assert!(index.near_pairs(0.5, go).is_ok()),
                Err(error) => prop_assert_eq!(error.kind(), Kind::State),
            }
        }
    }
}
