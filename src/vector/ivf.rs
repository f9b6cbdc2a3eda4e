//! Comparison of rows with the earlier rows of near cells (an inverted file), for a rule that decides row by row.
//!
//! Rows are taken in keep order, a block at a time. A block is compared with all live rows before it and with itself, cell by cell:
//! the rows of the block that probe the cell, times the rows that lie in it, as blocked products. Where it is dense it is compared
//! with itself in halves, so that a cell of near copies costs only what its live rows cost. What is held are the pairs that products
//! propose, of a bounded number of products at a time. Everything is cut by row numbers and sizes, so that no thread count moves a bit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::vector::bound::Bound;
use crate::vector::cells::Cells;
use crate::vector::dot::{cosine, dot, products};
use crate::vector::flat::above;
use crate::vector::source::Source;
use crate::vector::{Matrix, Rows};

/// Rows and columns of one product, at most: a product is a task of one thread.
const TILE: (usize, usize) = (512, 256);
/// Numbers of all products between two hand-overs, about: it bounds the proposals that are held (12 bytes each).
const ROUND: usize = 1 << 23;
/// Rows of a block that probe one cell, on average: enough for a product to be worth gathering its operands.
const ROWS_A_CELL: usize = 128;
/// The least and the most rows of a block in memory.
const BLOCK: (usize, usize) = (512, 1 << 16);
/// A block is compared with itself at once if that takes at most so many numbers; else its halves are, one after the other.
const INSIDE: usize = 1 << 20;

/// Rows in keep order with their cells. A position is a place in that order.
#[derive(Debug, Clone, Copy)]
pub struct Probed<'a> {
    /// The vectors.
    pub source: Source<'a>,
    /// The number of the row at each position.
    pub order: &'a [u32],
    /// The cells of each row.
    pub cells: &'a Cells,
    /// Rows of a block at least; those of a file are held while their block is compared.
    pub block_rows: usize,
    /// Positions, from the first, that are settled: they are compared with none before them.
    pub settled: usize,
}

impl<'a> Probed<'a> {
    fn of(&self, position: u32) -> &'a [u32] {
        self.cells.of(self.order[position as usize])
    }

    fn own(&self, position: u32) -> &'a [u32] {
        &self.of(position)[..1]
    }

    fn block(&self) -> usize {
        (ROWS_A_CELL * self.cells.count() / self.cells.width()).clamp(BLOCK.0, BLOCK.1).max(self.block_rows)
    }
}

/// Compares each row with the live rows before it that lie in one of the cells that it probes, and lets a rule decide row by row.
///
/// The contract is that of [`crate::vector::compare_earlier`], with three differences. Settled rows are no later rows. A pair is left out if the cell of `earlier` is
/// not among those of `later`. And the earlier rows of a row are offered in ascending order only within one of several hand-overs:
/// rules take pairs in any order. With one cell, and sorted, the two offer the same.
///
/// `stop` is asked now and then; its error ends the comparison.
pub fn compare_probed<S: Sync>(
    probed: &Probed<'_>,
    minimum: f64,
    state: &mut S,
    wants: impl Fn(&S, u32, u32, f64) -> bool + Sync,
    mut offer: impl FnMut(&mut S, u32, u32, f64),
    mut decide: impl FnMut(&mut S, u32) -> bool,
    mut stop: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut comparison = Comparison::new(*probed, minimum)?;
    let copies = copies(probed)?;
    let mut rule = Rule { state, wants, offer: &mut offer, decide: &mut decide, stop: &mut stop };
    let mut live = Vec::new();
    for position in 0..probed.settled as u32 {
        if (rule.decide)(rule.state, position) && !copies[position as usize] {
            live.push(position);
        }
    }
    for start in (probed.settled..probed.order.len()).step_by(probed.block()) {
        let block = start..probed.order.len().min(start + probed.block());
        comparison.hold(block.clone())?;
        let stayed = comparison.block(&live, block, &copies, &mut rule)?;
        live.extend(stayed);
    }
    Ok(())
}

/// For each of `rows` the index in `columns` of the most similar one that lies in a cell that the row probes and that
/// `admits(row, column)`, ties to the first, with its cosine; `None` where none reaches `minimum`. Both are positions, ascending.
pub fn nearest_probed(
    probed: &Probed<'_>,
    rows: &[u32],
    columns: &[u32],
    minimum: f64,
    admits: impl Fn(u32, u32) -> bool + Sync,
) -> Result<Vec<Option<(u32, f64)>>> {
    let comparison = Comparison::new(*probed, minimum)?;
    let groups = Groups::new(probed, rows, columns);
    let has_direction = |position: u32| {
        let square = comparison.squares[probed.order[position as usize] as usize];
        square.is_finite() && square > 0.0
    };
    let best = |space: &mut Space, tile: &Tile| {
        let (mut rivals, mut best) = (Vec::new(), Vec::new());
        comparison.product(&groups, tile, space)?;
        for (row, numbers) in space.product.chunks(tile.columns.len()).enumerate() {
            let row = groups.rows.items[tile.rows.start + row];
            let column = |place: usize| groups.columns.items[tile.columns.start + place];
            let mut highest = f32::NEG_INFINITY;
            above(numbers, comparison.cut, |place, number| {
                if number > highest && has_direction(column(place)) && admits(row, column(place)) {
                    highest = number;
                }
            });
            above(numbers, comparison.cut.max(comparison.bound.rival(highest)), |place, _| {
                if admits(row, column(place)) {
                    rivals.push((row, column(place)));
                }
            });
        }
        for (row, column) in rivals {
            let similarity = comparison.exact(row, column, space)?;
            if similarity >= minimum {
                best.push((row, column, similarity));
            }
        }
        Ok(best)
    };
    let found = groups.tiles().par_iter().map_init(Space::default, best).collect::<Result<Vec<_>>>()?;
    let mut result: Vec<Option<(u32, f64)>> = vec![None; rows.len()];
    for (row, column, similarity) in found.into_iter().flatten() {
        // Both were taken from these lists.
        let (Ok(row), Ok(column)) = (rows.binary_search(&row), columns.binary_search(&column)) else { continue };
        let column = column as u32;
        if result[row].is_none_or(|(first, highest)| similarity > highest || (similarity == highest && column < first)) {
            result[row] = Some((column, similarity));
        }
    }
    Ok(result)
}

/// The positions of each cell, those of one cell together and ascending.
struct Lists {
    starts: Vec<usize>,
    items: Vec<u32>,
}

impl Lists {
    fn new<'a>(count: usize, positions: &[u32], cells: impl Fn(u32) -> &'a [u32]) -> Self {
        let mut starts = vec![0; count + 1];
        for cell in positions.iter().flat_map(|position| cells(*position)) {
            starts[*cell as usize + 1] += 1;
        }
        for cell in 0..count {
            starts[cell + 1] += starts[cell];
        }
        let (mut next, mut items) = (starts.clone(), vec![0; starts[count]]);
        for position in positions {
            for cell in cells(*position) {
                items[next[*cell as usize]] = *position;
                next[*cell as usize] += 1;
            }
        }
        Self { starts, items }
    }

    fn of(&self, cell: usize) -> Range<usize> {
        self.starts[cell]..self.starts[cell + 1]
    }
}

/// For each cell the rows that probe it and the columns that lie in it.
struct Groups {
    rows: Lists,
    columns: Lists,
}

/// A product: runs of the items of one cell.
struct Tile {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Tile {
    fn area(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl Groups {
    fn new(probed: &Probed<'_>, rows: &[u32], columns: &[u32]) -> Self {
        let count = probed.cells.count();
        Self {
            rows: Lists::new(count, rows, |position| probed.of(position)),
            columns: Lists::new(count, columns, |position| probed.own(position)),
        }
    }

    fn area(&self) -> usize {
        (0..self.rows.starts.len() - 1).map(|cell| self.rows.of(cell).len() * self.columns.of(cell).len()).sum()
    }

    /// All products, by cell.
    fn tiles(&self) -> Vec<Tile> {
        let pieces = |range: Range<usize>, size: usize| range.clone().step_by(size).map(move |start| start..range.end.min(start + size));
        let mut tiles = Vec::new();
        for cell in 0..self.rows.starts.len() - 1 {
            for rows in pieces(self.rows.of(cell), TILE.0) {
                tiles.extend(pieces(self.columns.of(cell), TILE.1).map(|columns| Tile { rows: rows.clone(), columns }));
            }
        }
        tiles
    }
}

/// Space for one product, kept between products.
#[derive(Debug, Default)]
struct Space {
    numbers: Vec<u32>,
    rows: Vec<f32>,
    columns: Vec<f32>,
    product: Vec<f32>,
}

/// A pair that a product proposes.
#[derive(Debug, Clone, Copy)]
struct Proposal {
    later: u32,
    earlier: u32,
    number: f32,
}

/// The rule that decides, and what asks whether to go on.
struct Rule<'r, S, W> {
    state: &'r mut S,
    wants: W,
    offer: &'r mut dyn FnMut(&mut S, u32, u32, f64),
    decide: &'r mut dyn FnMut(&mut S, u32) -> bool,
    stop: &'r mut dyn FnMut() -> Result<()>,
}

/// Rows under comparison.
struct Comparison<'a> {
    probed: Probed<'a>,
    minimum: f64,
    /// Squared norms by row.
    squares: Vec<f64>,
    bound: Bound,
    cut: f32,
    /// Positions of a file whose vectors are held.
    held: Range<usize>,
    data: Vec<f32>,
}

impl<'a> Comparison<'a> {
    fn new(probed: Probed<'a>, minimum: f64) -> Result<Self> {
        let squares = probed.source.squares()?;
        let bound = Bound::new(probed.source.dimensions(), &squares, &squares);
        Ok(Self { probed, minimum, squares, bound, cut: bound.cut(minimum), held: 0..0, data: Vec::new() })
    }

    /// Reads the vectors of a block of a file.
    fn hold(&mut self, block: Range<usize>) -> Result<()> {
        if let Source::File(file) = self.probed.source {
            let dimensions = file.dimensions();
            self.data.resize(block.len() * dimensions, 0.0);
            let pieces = self.data.par_chunks_mut(TILE.0 * dimensions).zip(self.probed.order[block.clone()].par_chunks(TILE.0));
            pieces.try_for_each(|(into, rows)| file.read(rows, into))?;
            self.held = block;
        }
        Ok(())
    }

    /// The vectors of some positions, ascending.
    fn gather<'b>(&self, positions: &[u32], numbers: &mut Vec<u32>, buffer: &'b mut Vec<f32>) -> Result<Matrix<'b>> {
        buffer.clear();
        let dimensions = self.probed.source.dimensions();
        // Of a file, those of the block that is held come last.
        let apart = if self.held.is_empty() {
            positions.len()
        } else {
            positions.partition_point(|position| (*position as usize) < self.held.start)
        };
        let (before, held) = positions.split_at(apart);
        numbers.clear();
        numbers.extend(before.iter().map(|position| self.probed.order[*position as usize]));
        self.probed.source.copy(numbers, buffer)?;
        for position in held {
            buffer.extend_from_slice(&self.data[(*position as usize - self.held.start) * dimensions..][..dimensions]);
        }
        Matrix::try_new(buffer, dimensions)
    }

    /// One vector.
    fn vector<'b>(&'b self, position: u32, buffer: &'b mut Vec<f32>) -> Result<&'b [f32]> {
        let dimensions = self.probed.source.dimensions();
        if self.held.contains(&(position as usize)) {
            return Ok(&self.data[(position as usize - self.held.start) * dimensions..][..dimensions]);
        }
        self.probed.source.row(self.probed.order[position as usize], buffer)
    }

    /// The cosine that decides.
    fn exact(&self, later: u32, earlier: u32, space: &mut Space) -> Result<f64> {
        let square = |position: u32| self.squares[self.probed.order[position as usize] as usize];
        let dot = dot(self.vector(later, &mut space.rows)?, self.vector(earlier, &mut space.columns)?);
        Ok(cosine(dot, square(later), square(earlier)))
    }

    /// All dot products of a tile, into `space.product`.
    fn product(&self, groups: &Groups, tile: &Tile, space: &mut Space) -> Result<()> {
        let rows = self.gather(&groups.rows.items[tile.rows.clone()], &mut space.numbers, &mut space.rows)?;
        let columns = self.gather(&groups.columns.items[tile.columns.clone()], &mut space.numbers, &mut space.columns)?;
        products(rows, columns, &mut space.product);
        Ok(())
    }

    /// The pairs of some tiles that may reach the minimum and that the rule wants, by row and then by column.
    fn proposals(&self, groups: &Groups, tiles: &[Tile], wants: impl Fn(u32, u32, f64) -> bool + Sync) -> Result<Vec<Proposal>> {
        let propose = |space: &mut Space, tile: &Tile| {
            self.product(groups, tile, space)?;
            let mut found = Vec::new();
            for (row, numbers) in space.product.chunks(tile.columns.len()).enumerate() {
                let later = groups.rows.items[tile.rows.start + row];
                above(numbers, self.cut, |column, number| {
                    let earlier = groups.columns.items[tile.columns.start + column];
                    if earlier < later && wants(later, earlier, self.bound.upper(number)) {
                        found.push(Proposal { later, earlier, number });
                    }
                });
            }
            Ok(found)
        };
        let mut found = tiles.par_iter().map_init(Space::default, propose).collect::<Result<Vec<_>>>()?.concat();
        found.par_sort_unstable_by_key(|proposal| (proposal.later, proposal.earlier));
        Ok(found)
    }

    /// Offers a proposed pair if it is near enough and still matters.
    fn settle<S, W>(&self, proposal: &Proposal, rule: &mut Rule<'_, S, W>, space: &mut Space) -> Result<()>
    where
        W: Fn(&S, u32, u32, f64) -> bool,
    {
        let Proposal { later, earlier, number } = *proposal;
        if (rule.wants)(rule.state, later, earlier, self.bound.upper(number)) {
            let similarity = self.exact(later, earlier, space)?;
            if similarity >= self.minimum {
                (rule.offer)(rule.state, later, earlier, similarity);
            }
        }
        Ok(())
    }

    /// Compares a block with `columns`: live rows before it, and rows of its own. Settles the pairs with those before it, and gives the
    /// others, sorted.
    fn propose<S, W>(&self, columns: &[u32], block: Range<usize>, rule: &mut Rule<'_, S, W>) -> Result<Vec<Proposal>>
    where
        S: Sync,
        W: Fn(&S, u32, u32, f64) -> bool + Sync,
    {
        let start = block.start as u32;
        let rows: Vec<u32> = (start..block.end as u32).collect();
        let groups = Groups::new(&self.probed, &rows, columns);
        let tiles = groups.tiles();
        let (mut space, mut inside) = (Space::default(), Vec::new());
        let mut rest = tiles.as_slice();
        while !rest.is_empty() {
            (rule.stop)()?;
            let mut area = 0;
            let until = rest.iter().position(|tile| {
                area += tile.area();
                area > ROUND
            });
            let (round, behind) = rest.split_at(until.unwrap_or(rest.len()).max(1));
            let (state, wants) = (&*rule.state, &rule.wants);
            for proposal in self.proposals(&groups, round, |later, earlier, upper| wants(state, later, earlier, upper))? {
                if proposal.earlier < start {
                    self.settle(&proposal, rule, &mut space)?;
                } else {
                    inside.push(proposal);
                }
            }
            rest = behind;
        }
        inside.sort_unstable_by_key(|proposal| (proposal.later, proposal.earlier));
        Ok(inside)
    }

    /// Compares a block with live rows before it and with itself, decides its rows, and gives those that stay live.
    fn block<S, W>(&self, before: &[u32], block: Range<usize>, copies: &[bool], rule: &mut Rule<'_, S, W>) -> Result<Vec<u32>>
    where
        S: Sync,
        W: Fn(&S, u32, u32, f64) -> bool + Sync,
    {
        let rows: Vec<u32> = (block.start as u32..block.end as u32).collect();
        let own: Vec<u32> = rows.iter().copied().filter(|position| !copies[*position as usize]).collect();
        if block.len() > BLOCK.0 && Groups::new(&self.probed, &rows, &own).area() > INSIDE {
            self.propose(before, block.clone(), rule)?;
            let middle = block.start + block.len() / 2;
            let mut live = self.block(&[], block.start..middle, copies, rule)?;
            let second = self.block(&live, middle..block.end, copies, rule)?;
            live.extend(second);
            return Ok(live);
        }
        let found = self.propose(&[before, &own].concat(), block.clone(), rule)?;
        let (mut found, mut space) = (found.iter().peekable(), Space::default());
        let (mut live, mut is_live) = (Vec::new(), vec![false; block.len()]);
        for later in rows {
            while let Some(proposal) = found.next_if(|proposal| proposal.later == later) {
                if is_live[proposal.earlier as usize - block.start] {
                    self.settle(proposal, rule, &mut space)?;
                }
            }
            if (rule.decide)(rule.state, later) && !copies[later as usize] {
                is_live[later as usize - block.start] = true;
                live.push(later);
            }
        }
        Ok(live)
    }
}

/// Marks the positions whose vector is bit for bit that of an earlier position.
fn copies(probed: &Probed<'_>) -> Result<Vec<bool>> {
    let of = |_, rows: Matrix<'_>| Ok(Rows::all(rows).hashes());
    let hashes = probed.source.pieces(of)?.concat();
    let mut first: HashMap<u64, u32> = HashMap::with_capacity(hashes.len());
    let mut copies = vec![false; probed.order.len()];
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (is_copy, row) in copies.iter_mut().zip(probed.order) {
        match first.entry(hashes[*row as usize]) {
            Entry::Vacant(entry) => {
                entry.insert(*row);
            }
            Entry::Occupied(entry) => {
                let (a, b) = (probed.source.row(*entry.get(), &mut a)?, probed.source.row(*row, &mut b)?);
                *is_copy = a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits());
            }
        }
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{AnyEarlier, Components, OnEqual, Star, Threshold};
    use crate::random::Random;
    use crate::vector::source::tests::Apart;
    use crate::vector::{KMeans, Vectors, compare_earlier, planted, similarity};

    /// Everything that a traversal does, so that two of them can be compared bit for bit.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        offers: Vec<(u32, u32, u64)>,
        decisions: Vec<u32>,
        covered: Vec<bool>,
        /// Whether a row that something live is near stays live.
        all_stay: bool,
    }

    impl Seen {
        fn new(rows: usize, all_stay: bool) -> Self {
            Self { covered: vec![false; rows], all_stay, ..Self::default() }
        }

        fn offer(&mut self, later: u32, earlier: u32, similarity: f64) {
            self.offers.push((later, earlier, similarity.to_bits()));
            self.covered[later as usize] = true;
        }

        fn decide(&mut self, row: u32) -> bool {
            self.decisions.push(row);
            self.all_stay || !self.covered[row as usize]
        }

        fn sorted(mut self) -> Self {
            self.offers.sort_unstable();
            self
        }
    }

    /// The same by two loops and no product.
    fn plain(vectors: &Vectors, order: &[u32], cells: &Cells, minimum: f64, all_stay: bool) -> Seen {
        let (mut seen, mut live) = (Seen::new(order.len(), all_stay), Vec::<u32>::new());
        let vector = |position: u32| vectors.row(order[position as usize] as usize);
        let bits = |position: u32| vector(position).iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let mut met = std::collections::BTreeSet::new();
        for later in 0..order.len() as u32 {
            for &earlier in &live {
                if cells.of(order[later as usize]).contains(&cells.own(order[earlier as usize])) {
                    let similarity = similarity(vector(later), vector(earlier));
                    if similarity >= minimum {
                        seen.offer(later, earlier, similarity);
                    }
                }
            }
            if seen.decide(later) && met.insert(bits(later)) {
                live.push(later);
            }
            met.insert(bits(later));
        }
        seen.sorted()
    }

    fn probed(probed: &Probed<'_>, minimum: f64, all_stay: bool) -> Seen {
        let mut seen = Seen::new(probed.order.len(), all_stay);
        let wants = |_: &Seen, later: u32, earlier: u32, upper: f64| {
            // The cut is rounded down, so that a product may lie a few bits below the minimum.
            assert!(earlier < later && upper >= minimum - 1e-6);
            true
        };
        compare_probed(probed, minimum, &mut seen, wants, Seen::offer, Seen::decide, || Ok(())).unwrap();
        seen.sorted()
    }

    fn shuffled(rows: usize, seed: u64) -> Vec<u32> {
        let random = Random::new(seed, "order");
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|row| random.draw(&row.to_le_bytes()));
        order
    }

    fn cells(vectors: &Vectors, k: usize, width: usize) -> Cells {
        let model = KMeans::fit(vectors.matrix(), k, 3, &Random::new(7, "cells")).unwrap();
        Cells::nearest(Source::Memory(vectors.matrix()), &model, width, -2.0).unwrap().0
    }

    /// Planted vectors, some of them without direction.
    fn with_bad(rows: usize, dimensions: usize, seed: u64) -> Vectors {
        let mut data = planted::vectors(rows, dimensions, seed).matrix().data().to_vec();
        for (row, vector) in data.chunks_mut(dimensions).enumerate() {
            match row % 97 {
                13 => vector.fill(0.0),
                50 => vector[0] = f32::NAN,
                _ => {}
            }
        }
        Vectors::try_new(data, dimensions).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// In memory and from a file, in blocks of any size, with dense cells and sparse ones, what is offered and decided is what
        /// the two loops offer and decide.
        #[test]
        fn blocks_equal_the_two_loops(
            rows in prop::sample::select(vec![0_usize, 1, 300, 700, 1900]),
            dimensions in 2_usize..12,
            k in 1_usize..30,
            width in 1_usize..5,
            minimum in prop::sample::select(vec![0.5, 0.9, 0.99, 1.0, -2.0]),
            block_rows in prop::sample::select(vec![0_usize, 700, 3000]),
            all_stay in any::<bool>(),
            seed in 0_u64..1000,
        ) {
            let vectors = with_bad(rows, dimensions, seed);
            let (order, cells) = (shuffled(rows, seed), cells(&vectors, k, width));
            let wanted = plain(&vectors, &order, &cells, minimum, all_stay);
            let apart = Apart(vectors.clone());
            for source in [Source::Memory(vectors.matrix()), Source::File(&apart)] {
                let found = probed(&Probed { source, order: &order, cells: &cells, block_rows, settled: 0 }, minimum, all_stay);
                prop_assert!(found == wanted, "{} {}", found.offers.len(), wanted.offers.len());
            }
        }

        /// With one cell the rules decide as after the comparison of all rows; with several, as after the two loops.
        #[test]
        fn rules_decide_as_after_the_plain_comparison(seed in 0_u64..1000, k in 1_usize..12, width in 1_usize..4, epsilon in 0.0_f64..0.4) {
            let vectors = with_bad(1200, 6, seed);
            let (order, cells) = (shuffled(1200, seed), cells(&vectors, k, width));
            let thresholds = [Threshold::epsilon(epsilon, OnEqual::Drop), Threshold::epsilon(epsilon / 3.0, OnEqual::Keep)];
            let minimum = Threshold::loosest(&thresholds);
            let probed = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows: 0, settled: 0 };
            let rows = Rows::some(vectors.matrix(), &order);
            let pairs = plain(&vectors, &order, &cells, minimum, true).offers;
            let earlier = |later: u32| pairs[pairs.partition_point(|pair| pair.0 < later)..].iter().take_while(move |pair| pair.0 == later);

            let mut star = Star::new(1200, &thresholds);
            compare_probed(&probed, minimum, &mut star, Star::wants, Star::offer, Star::decide, || Ok(())).unwrap();
            let mut slow = Star::new(1200, &thresholds);
            for later in 0..1200 {
                earlier(later).for_each(|pair| slow.offer(later, pair.1, f64::from_bits(pair.2)));
                slow.decide(later);
            }
            let star = star.finish();
            prop_assert_eq!(&star, &slow.finish());

            let mut any = AnyEarlier::new(1200);
            compare_probed(&probed, minimum, &mut any, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide, || Ok(())).unwrap();
            let mut slow = AnyEarlier::new(1200);
            for pair in &pairs {
                slow.offer(pair.0, pair.1, f64::from_bits(pair.2));
            }
            prop_assert_eq!(any.nearest(), slow.nearest());

            let mut components = Components::new(1200, &thresholds);
            compare_probed(&probed, minimum, &mut components, Components::wants, Components::offer, Components::decide, || Ok(())).unwrap();
            let mut slow = Components::new(1200, &thresholds);
            for pair in &pairs {
                slow.offer(pair.0, pair.1, f64::from_bits(pair.2));
            }
            let exact = |a: u32, b: u32| similarity(rows.row(a as usize), rows.row(b as usize));
            // Rows without direction have no similarity, and are in no component.
            prop_assert_eq!(components.finish(exact), slow.finish(exact));

            if k == 1 {
                let mut all = Star::new(1200, &thresholds);
                compare_earlier(rows, minimum, &mut all, Star::wants, Star::offer, Star::decide);
                prop_assert_eq!(star, all.finish());
            }
        }

        #[test]
        fn nearest_equals_the_loop(
            seed in 0_u64..1000,
            k in 1_usize..12,
            width in 1_usize..4,
            minimum in -0.5_f64..1.0,
            earlier in any::<bool>(),
        ) {
            let vectors = with_bad(900, 5, seed);
            let (order, cells) = (shuffled(900, seed), cells(&vectors, k, width));
            let (columns, rows): (Vec<u32>, Vec<u32>) = (0..900).partition(|position| position % 3 > 0);
            let probed = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows: 0, settled: 0 };
            let admits = |row: u32, column: u32| !earlier || column < row;
            let found = nearest_probed(&probed, &rows, &columns, minimum, admits).unwrap();
            for (row, found) in rows.iter().zip(found) {
                let mut best: Option<(u32, f64)> = None;
                for (index, column) in (0..).zip(&columns) {
                    let similarity = similarity(vectors.row(order[*row as usize] as usize), vectors.row(order[*column as usize] as usize));
                    let looked_at = cells.of(order[*row as usize]).contains(&cells.own(order[*column as usize]));
                    if looked_at && admits(*row, *column) && similarity >= minimum && best.is_none_or(|(_, highest)| similarity > highest) {
                        best = Some((index, similarity));
                    }
                }
                prop_assert_eq!(found, best);
            }
        }
    }

    /// The product with a vector without direction is 0, which is more than that of the nearest where that one points away.
    #[test]
    fn a_vector_without_direction_hides_no_other() {
        let vectors = Vectors::try_new(vec![1.0, 0.0, -0.1, 1.0, 0.0, 0.0], 2).unwrap();
        let cells = Cells::one(3);
        let probed = Probed { source: Source::Memory(vectors.matrix()), order: &[0, 1, 2], cells: &cells, block_rows: 0, settled: 0 };
        let found = nearest_probed(&probed, &[0], &[1, 2], -1.0, |_, _| true).unwrap();
        assert_eq!(found, [Some((0, similarity(vectors.row(0), vectors.row(1))))]);
    }

    #[test]
    fn threads_do_not_move_a_bit() {
        let vectors = planted::vectors(6000, 32, 5);
        let (order, cells) = (shuffled(6000, 6), cells(&vectors, 50, 3));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let rows = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows: 0, settled: 0 };
            pool.install(|| probed(&rows, 0.9, false))
        };
        let one = run(1);
        assert!(!one.offers.is_empty() && one == run(2) && one == run(3));
    }

    /// Near copies of one vector fill a cell. The work of a dropped row is bounded, and so is what is held: a pair that is proposed
    /// was wanted first.
    #[test]
    fn near_copies_of_one_vector_cost_linear_work() {
        let rows = 20_000;
        let mut draws = Random::new(3, "near copies").sequence(b"noise");
        let mut data = Vec::new();
        for _ in 0..rows {
            data.extend((0..8).map(|column| if column == 0 { 1.0 } else { 0.01 * draws.unit() as f32 }));
        }
        let vectors = Vectors::try_new(data, 8).unwrap();
        let (order, cells) = (shuffled(rows, 1), cells(&vectors, 40, 4));
        let threshold = Threshold::new(0.9, OnEqual::Keep);
        for block_rows in [0, 16_384] {
            let mut star = Star::new(rows, &[threshold]);
            let asked = AtomicUsize::new(0);
            let wants = |star: &Star, later, earlier, upper| {
                asked.fetch_add(1, Ordering::Relaxed);
                star.wants(later, earlier, upper)
            };
            let probed = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows, settled: 0 };
            compare_probed(&probed, 0.9, &mut star, wants, Star::offer, Star::decide, || Ok(())).unwrap();
            let kept = star.finish()[0].iter().filter(|dropped| dropped.is_none()).count();
            assert!(kept <= 40, "{kept}");
            assert!(asked.into_inner() < rows * 1500);
        }
    }

    #[test]
    fn a_stop_ends_the_comparison() {
        let vectors = planted::vectors(3000, 4, 1);
        let (order, cells) = (shuffled(3000, 1), Cells::one(3000));
        let probed = Probed { source: Source::Memory(vectors.matrix()), order: &order, cells: &cells, block_rows: 0, settled: 0 };
        let mut left = 3;
        let stop = || {
            left -= 1;
            if left == 0 { Err(crate::error::Error::internal("stopped")) } else { Ok(()) }
        };
        let mut decided = 0_usize;
        let decide = |decided: &mut usize, _| {
            *decided += 1;
            true
        };
        assert!(compare_probed(&probed, 0.9, &mut decided, |_, _, _, _| true, |_, _, _, _| {}, decide, stop).is_err());
        assert!(decided > 0 && decided < 3000);
    }
}
