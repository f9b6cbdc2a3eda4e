//! Exact comparison of rows with rows, streamed in blocks: time is that of the products, memory is linear in the rows.
//!
//! Blocks are cut by row number alone and results are handed over in a fixed order, so that no thread count moves a bit.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::vector::Matrix;
use crate::vector::bound::Bound;
use crate::vector::dot::{cosine, dot, products};

/// Rows and columns of one blocked product: both operands and the result stay in the second-level cache's reach.
const BLOCK: usize = 512;
/// Products in flight between two hand-overs. It bounds the proposals held, and the threads that find work.
const GROUP: usize = 64;

/// Some rows of a matrix, in an order of their own. A position is a place in that order.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    matrix: Matrix<'a>,
    order: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// All rows in row order.
    #[must_use]
    pub fn all(matrix: Matrix<'a>) -> Self {
        Self { matrix, order: None }
    }

    /// The rows that `order` names, each below `matrix.rows()`, in its order.
    #[must_use]
    pub fn some(matrix: Matrix<'a>, order: &'a [u32]) -> Self {
        Self { matrix, order: Some(order) }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.map_or_else(|| self.matrix.rows(), <[u32]>::len)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in a row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.matrix.dimensions
    }

    /// The row at `position`.
    #[must_use]
    pub fn row(&self, position: usize) -> &'a [f32] {
        self.matrix.row(self.order.map_or(position, |order| order[position] as usize))
    }

    /// The rows of the matrix at these positions, for a [`Rows::some`] of its own.
    #[must_use]
    pub fn at(&self, positions: &[u32]) -> Vec<u32> {
        positions.iter().map(|position| self.order.map_or(*position, |order| order[*position as usize])).collect()
    }

    /// The squared norm of each row, in double precision.
    pub(super) fn squares(&self) -> Vec<f64> {
        (0..self.len()).into_par_iter().map(|position| dot(self.row(position), self.row(position))).collect()
    }

    /// A hash of each vector's bits. It only finds candidates for copies, and a missed copy costs time alone, so a plain
    /// multiplicative hash does.
    pub(super) fn hashes(&self) -> Vec<u64> {
        let step = |hash: u64, number: &f32| (hash.rotate_left(5) ^ u64::from(number.to_bits())).wrapping_mul(0x517C_C1B7_2722_0A95);
        (0..self.len()).into_par_iter().map(|position| self.row(position).iter().fold(0, step)).collect()
    }

    /// A run of positions as one matrix: a view where the rows lie together, else a copy in `buffer`.
    pub(super) fn block<'b>(&self, positions: Range<usize>, buffer: &'b mut Vec<f32>) -> Matrix<'b>
    where
        'a: 'b,
    {
        let dimensions = self.matrix.dimensions;
        match self.order {
            None => Matrix { data: &self.matrix.data[positions.start * dimensions..positions.end * dimensions], dimensions },
            Some(order) => gather(self.matrix, order[positions].iter().map(|row| *row as usize), buffer),
        }
    }
}

/// Copies rows together.
fn gather<'b>(matrix: Matrix<'_>, rows: impl Iterator<Item = usize>, buffer: &'b mut Vec<f32>) -> Matrix<'b> {
    buffer.clear();
    for row in rows {
        buffer.extend_from_slice(matrix.row(row));
    }
    Matrix { data: buffer, dimensions: matrix.dimensions }
}

/// Space for one product, kept between products.
#[derive(Debug, Default)]
struct Space {
    columns: Vec<f32>,
    product: Vec<f32>,
}

/// A pair that a product proposes.
#[derive(Debug, Clone, Copy)]
struct Proposal {
    later: u32,
    earlier: u32,
    upper: f64,
}

/// Calls `hit` with the index of each number of at least `cut`. Most runs of numbers have none: those are left with one comparison
/// a register.
pub(super) fn above(numbers: &[f32], cut: f32, mut hit: impl FnMut(usize, f32)) {
    const RUN: usize = 32;
    for (run, part) in numbers.chunks(RUN).enumerate() {
        #[expect(clippy::needless_bitwise_bool, reason = "without a branch for each number the comparison fills whole registers")]
        let any = part.iter().fold(false, |any, number| any | (*number >= cut));
        if any {
            for (offset, number) in part.iter().enumerate() {
                if *number >= cut {
                    hit(run * RUN + offset, *number);
                }
            }
        }
    }
}

/// For each position the first position whose vector is bit for bit the same: its own, unless it is a copy.
#[must_use]
pub fn firsts(rows: Rows<'_>) -> Vec<u32> {
    let hashes = rows.hashes();
    let mut seen: HashMap<u64, usize> = HashMap::with_capacity(rows.len());
    let first = |(position, hash)| {
        let first = *seen.entry(hash).or_insert(position);
        let equal = rows.row(first).iter().zip(rows.row(position)).all(|(x, y)| x.to_bits() == y.to_bits());
        (if equal { first } else { position }) as u32
    };
    hashes.into_iter().enumerate().map(first).collect()
}

/// Compares each row with the rows before it, in order, and lets a rule decide row by row.
///
/// For each position `later` in turn, `offer(state, later, earlier, similarity)` is called for the earlier live positions whose
/// cosine with it is at least `minimum`, then `decide(state, later)`, which says whether the row stays live, that is, whether later
/// rows are compared with it. Earlier positions are offered in ascending order. A pair for which `wants(state, later, earlier,
/// upper)` is false is left out without computing its cosine, which is at most `upper`; `wants` may be asked more than once. Rows
/// without direction (zero norm, NaN) are decided like all others but never offered.
///
/// A row whose vector is bit for bit that of an earlier row never becomes live: whatever takes the most similar row, ties to the
/// first, or joins rows into components, cannot see the difference, and 300,000 copies of one vector cost 300,000 comparisons.
///
/// The rules of `cluster` fit as they are: `compare_earlier(rows, minimum, &mut star, Star::wants, Star::offer, Star::decide)`.
/// Time is that of `rows x live rows` dot products; memory beyond the vectors is linear in the rows.
pub fn compare_earlier<S: Sync>(
    rows: Rows<'_>,
    minimum: f64,
    state: &mut S,
    wants: impl Fn(&S, u32, u32, f64) -> bool + Sync,
    mut offer: impl FnMut(&mut S, u32, u32, f64),
    mut decide: impl FnMut(&mut S, u32) -> bool,
) {
    let squares = rows.squares();
    let bound = Bound::new(rows.matrix.dimensions, &squares, &squares);
    let cut = bound.cut(minimum);
    let first = firsts(rows);
    let exact = |later: u32, earlier: u32| {
        let (a, b) = (later as usize, earlier as usize);
        cosine(dot(rows.row(a), rows.row(b)), squares[a], squares[b])
    };
    let mut live: Vec<u32> = Vec::new();
    let (mut block_buffer, mut diagonal) = (Vec::new(), Vec::new());
    for start in (0..rows.len()).step_by(BLOCK) {
        let end = rows.len().min(start + BLOCK);
        let block = rows.block(start..end, &mut block_buffer);
        for (index, group) in live.chunks(BLOCK * GROUP).enumerate() {
            let snapshot = &*state;
            let propose = |space: &mut Space, columns: &[u32]| {
                let positions = columns.iter().map(|position| rows.order.map_or(*position, |order| order[*position as usize]) as usize);
                products(block, gather(rows.matrix, positions, &mut space.columns), &mut space.product);
                let mut proposals = Vec::new();
                for (row, numbers) in space.product.chunks(columns.len()).enumerate() {
                    let later = (start + row) as u32;
                    above(numbers, cut, |column, number| {
                        let proposal = Proposal { later, earlier: columns[column], upper: bound.upper(number) };
                        if wants(snapshot, later, proposal.earlier, proposal.upper) {
                            proposals.push(proposal);
                        }
                    });
                }
                proposals
            };
            // The product of the block with itself belongs to no group; it rides with the first.
            let tiles = || group.par_chunks(BLOCK).map_init(Space::default, propose).collect::<Vec<_>>();
            let found = if index == 0 { rayon::join(|| products(block, block, &mut diagonal), tiles).1 } else { tiles() };
            for proposal in found.into_iter().flatten() {
                if wants(state, proposal.later, proposal.earlier, proposal.upper) {
                    let similarity = exact(proposal.later, proposal.earlier);
                    if similarity >= minimum {
                        offer(state, proposal.later, proposal.earlier, similarity);
                    }
                }
            }
        }
        if live.is_empty() {
            products(block, block, &mut diagonal);
        }
        let before = live.len();
        for (row, numbers) in diagonal.chunks(end - start).enumerate() {
            let later = (start + row) as u32;
            for &earlier in &live[before..] {
                let number = numbers[earlier as usize - start];
                if number >= cut && wants(state, later, earlier, bound.upper(number)) {
                    let similarity = exact(later, earlier);
                    if similarity >= minimum {
                        offer(state, later, earlier, similarity);
                    }
                }
            }
            if decide(state, later) && first[start + row] == later {
                live.push(later);
            }
        }
    }
}

/// For each of `rows` the position in `columns` of the most similar column, ties to the first, with its cosine; `None` where no
/// cosine reaches `minimum`. Vectors must have the same dimensions.
///
/// # Panics
/// If the dimensions differ.
#[must_use]
pub fn nearest(rows: Rows<'_>, columns: Rows<'_>, minimum: f64) -> Vec<Option<(u32, f64)>> {
    nearest_with(rows, &rows.squares(), columns, minimum)
}

/// [`nearest`] with the squared norms of the rows already known.
pub(super) fn nearest_with(rows: Rows<'_>, squares: &[f64], columns: Rows<'_>, minimum: f64) -> Vec<Option<(u32, f64)>> {
    let column_squares = columns.squares();
    let bound = Bound::new(rows.matrix.dimensions, squares, &column_squares);
    let cut = bound.cut(minimum);
    let mut result = vec![None; rows.len()];
    result.par_chunks_mut(BLOCK).enumerate().for_each_init(
        || (Space::default(), Vec::new()),
        |(space, buffer), (index, result)| {
            let start = index * BLOCK;
            let block = rows.block(start..start + result.len(), buffer);
            // Per row the lowest product that can still be the nearest, and the columns that reach it.
            let mut open: Vec<(f32, Vec<(u32, f32)>)> = vec![(cut, Vec::new()); result.len()];
            for first in (0..columns.len()).step_by(BLOCK) {
                let last = columns.len().min(first + BLOCK);
                products(block, columns.block(first..last, &mut space.columns), &mut space.product);
                for ((floor, rivals), numbers) in open.iter_mut().zip(space.product.chunks(last - first)) {
                    let highest = maximum(numbers);
                    if highest >= *floor {
                        *floor = floor.max(bound.rival(highest));
                        rivals.retain(|(_, number)| *number >= *floor);
                        above(numbers, *floor, |column, number| rivals.push(((first + column) as u32, number)));
                    }
                }
            }
            for (row, (result, (_, rivals))) in result.iter_mut().zip(&open).enumerate() {
                for &(column, _) in rivals {
                    let (a, b) = (start + row, column as usize);
                    let similarity = cosine(dot(rows.row(a), columns.row(b)), squares[a], column_squares[b]);
                    if similarity >= minimum && result.is_none_or(|(_, best)| similarity > best) {
                        *result = Some((column, similarity));
                    }
                }
            }
        },
    );
    result
}

/// The largest number; NaN never wins. Lanes side by side, because a plain fold would wait for each comparison.
fn maximum(numbers: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let whole = numbers.chunks_exact(LANES);
    let rest = whole.remainder();
    for part in whole {
        for lane in 0..LANES {
            lanes[lane] = if part[lane] > lanes[lane] { part[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, |most, number| if number > most { number } else { most })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::vector::{Vectors, planted, similarity};

    /// Everything that a traversal does, so that two of them can be compared bit for bit.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        offers: Vec<(u32, u32, u64)>,
        decisions: Vec<u32>,
        kept: Vec<bool>,
        covered: bool,
    }

    impl Seen {
        fn offer(&mut self, later: u32, earlier: u32, similarity: f64) {
            self.offers.push((later, earlier, similarity.to_bits()));
            self.covered = true;
        }

        /// Keeps what nothing live is near, as the star does.
        fn decide_star(&mut self, row: u32) -> bool {
            self.decisions.push(row);
            self.kept.push(!self.covered);
            !std::mem::take(&mut self.covered)
        }

        fn decide_all(&mut self, row: u32) -> bool {
            self.decide_star(row);
            true
        }
    }

    fn shuffled(rows: usize, seed: u64) -> Vec<u32> {
        let random = Random::new(seed, "order");
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|row| random.draw(&row.to_le_bytes()));
        order
    }

    /// The same by two loops and no product. `offers` are sorted, since blocks hand over several rows at a time.
    fn plain(vectors: &Vectors, order: &[u32], minimum: f64, decide: fn(&mut Seen, u32) -> bool) -> Seen {
        let (mut seen, mut live) = (Seen::default(), Vec::<u32>::new());
        let vector = |position: u32| vectors.row(order[position as usize] as usize);
        for later in 0..order.len() as u32 {
            for &earlier in &live {
                let similarity = similarity(vector(later), vector(earlier));
                if similarity >= minimum {
                    seen.offer(later, earlier, similarity);
                }
            }
            if decide(&mut seen, later) && !(0..later).any(|earlier| vector(earlier) == vector(later)) {
                live.push(later);
            }
        }
        seen
    }

    fn blocked(vectors: &Vectors, order: &[u32], minimum: f64, decide: fn(&mut Seen, u32) -> bool) -> Seen {
        let mut state: (Seen, Vec<bool>) = (Seen::default(), vec![false; order.len()]);
        compare_earlier(
            Rows::some(vectors.matrix(), order),
            minimum,
            &mut state,
            |_, later, earlier, upper| {
                assert!(earlier < later && upper >= minimum);
                true
            },
            |(seen, covered), later, earlier, similarity| {
                seen.offers.push((later, earlier, similarity.to_bits()));
                covered[later as usize] = true;
            },
            |(seen, covered), row| {
                seen.covered = covered[row as usize];
                decide(seen, row)
            },
        );
        let (mut seen, _) = state;
        seen.offers.sort_unstable();
        seen
    }

    #[test]
    fn blocks_equal_the_two_loops() {
        for (rows, dimensions, minimum) in [(0, 4, 0.9), (1, 4, 0.9), (300, 5, 0.99), (1300, 16, 0.9), (1700, 24, 0.5), (600, 8, -2.0)] {
            let vectors = planted::vectors(rows, dimensions, 3);
            let order = shuffled(rows, 4);
            for decide in [Seen::decide_all, Seen::decide_star] {
                let (plain, blocked) = (plain(&vectors, &order, minimum, decide), blocked(&vectors, &order, minimum, decide));
                assert_eq!(plain.decisions, (0..rows as u32).collect::<Vec<_>>());
                assert!(plain == blocked, "rows={rows} {} {}", plain.offers.len(), blocked.offers.len());
                assert!(rows < 300 || !plain.offers.is_empty());
            }
        }
    }

    #[test]
    fn threads_do_not_move_a_bit() {
        let vectors = planted::vectors(3000, 32, 5);
        let order = shuffled(3000, 6);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let near = nearest(Rows::all(vectors.matrix()), Rows::some(vectors.matrix(), &order[..700]), 0.2);
                (blocked(&vectors, &order, 0.9, Seen::decide_star), near)
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
    }

    #[test]
    fn copies_of_one_vector_cost_one_column() {
        let rows = 300_000;
        let vectors = Vectors::try_new([0.6, 0.8].repeat(rows), 2).unwrap();
        let mut offers = 0_usize;
        compare_earlier(Rows::all(vectors.matrix()), 0.5, &mut offers, |_, _, _, _| true, |offers, _, _, _| *offers += 1, |_, _| true);
        assert_eq!(offers, rows - 1);
    }

    #[test]
    fn rows_without_direction_are_never_offered() {
        let vectors = Vectors::try_new(vec![0.0, 0.0, f32::NAN, 1.0, 0.0, 0.0, f32::NAN, 1.0, 1.0, 0.0], 2).unwrap();
        let seen = blocked(&vectors, &[0, 1, 2, 3, 4], -2.0, Seen::decide_all);
        assert_eq!((seen.offers.len(), seen.decisions.len()), (0, 5));
        let near = nearest(Rows::all(vectors.matrix()), Rows::all(vectors.matrix()), f64::NEG_INFINITY);
        assert_eq!(near, [None, None, None, None, Some((4, 1.0))]);
    }

    #[test]
    fn nearest_equals_the_two_loops() {
        for (rows, columns, dimensions, minimum) in [(700, 1200, 16, 0.9), (30, 1, 3, -2.0), (520, 513, 7, 0.0), (3, 0, 2, 0.0)] {
            let vectors = planted::vectors(rows + columns, dimensions, 8);
            let order = shuffled(rows + columns, 9);
            let (left, right) = order.split_at(rows);
            let (left, right) = (Rows::some(vectors.matrix(), left), Rows::some(vectors.matrix(), right));
            for (row, found) in nearest(left, right, minimum).into_iter().enumerate() {
                let mut best = None;
                for column in 0..columns {
                    let similarity = similarity(left.row(row), right.row(column));
                    if similarity >= minimum && best.is_none_or(|(_, highest)| similarity > highest) {
                        best = Some((column as u32, similarity));
                    }
                }
                assert_eq!(found, best, "row={row}");
            }
        }
    }

    proptest! {
        #[test]
        fn above_and_maximum_equal_their_definitions(numbers in prop::collection::vec(-1.0_f32..1.0, 0..100), cut in -1.0_f32..1.0) {
            let mut found = Vec::new();
            above(&numbers, cut, |index, number| found.push((index, number)));
            let plain: Vec<_> = numbers.iter().copied().enumerate().filter(|(_, number)| *number >= cut).collect();
            prop_assert_eq!(found, plain);
            prop_assert_eq!(maximum(&numbers), numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
