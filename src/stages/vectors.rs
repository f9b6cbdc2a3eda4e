//! The vectors that a barrier compares, gathered from its narrow rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::compute::{SortOptions, concat, sort_to_indices};
use arrow::datatypes::{Float32Type, UInt8Type};
use serde_json::{Map, Value, json};

use super::columns::{Detail, Drop, numbers};
use super::policy::OnBadVector;
use super::seam::{Narrow, ROW_ID, STATUS, VECTOR};
use crate::embed::guard::Status;
use crate::engine::{Engine, Reservation, next};
use crate::error::{Context as _, Error, Kind, Result};
use crate::storage::scratch::Scratch;
use crate::vector::{ReadRows, Source, Vectors, has_direction, normalise};

/// The column of label hashes that a barrier may be given.
pub(super) const LABELS: &str = "labels";
/// Bytes a row beside its vector: id, cells, distance, order, norm, hash, decisions.
const ROW_BYTES: usize = 168;
/// Bytes a row of the ranks of an ordering column and of the order that they come from.
const RANK_BYTES: usize = size_of::<Option<u64>>() + size_of::<u32>();
/// Rows of a block at least: fewer that fit are refused.
const BLOCK_ROWS: usize = 4096;
/// Bytes that are read from a file of vectors at a time, at most.
const READ_BYTES: usize = 1 << 20;

/// How vectors are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Scaled to length 1.
    Unit,
    /// As they are stored: where lengths matter, or a mean is to be subtracted.
    Stored,
}

/// Vectors, where there was room for them.
#[derive(Debug)]
pub(super) enum Held {
    Memory(Vectors),
    File(VectorFile),
}

impl Held {
    /// A view of them.
    pub(super) fn source(&self) -> Source<'_> {
        match self {
            Self::Memory(vectors) => Source::Memory(vectors.matrix()),
            Self::File(file) => Source::File(file),
        }
    }
}

/// Vectors in a scratch file, row after row.
#[derive(Debug)]
pub(super) struct VectorFile {
    scratch: Scratch,
    rows: usize,
    dimensions: usize,
    /// Rows of a block that the pool has room for.
    block_rows: usize,
}

impl ReadRows for VectorFile {
    fn rows(&self) -> usize {
        self.rows
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn read(&self, rows: &[u32], into: &mut [f32]) -> Result<()> {
        let row_bytes = self.dimensions * 4;
        let (mut bytes, mut from) = (Vec::new(), 0);
        while from < rows.len() {
            // Rows that lie together are read at once.
            let most = (READ_BYTES / row_bytes).max(1);
            let run = rows[from..].iter().zip(rows[from]..).take(most).take_while(|(row, wanted)| *row == wanted).count();
            bytes.resize(run * row_bytes, 0);
            self.scratch.read_exact_at(&mut bytes, u64::from(rows[from]) * row_bytes as u64)?;
            for (number, bytes) in into[from * self.dimensions..].iter_mut().zip(bytes.as_chunks::<4>().0) {
                *number = f32::from_le_bytes(*bytes);
            }
            from += run;
        }
        Ok(())
    }
}

/// Sound vectors with their rows, in the order of the corpus; bad ones apart.
pub(super) struct Gathered {
    /// [`crate::ids::RowId`] bits of the rows that can be compared.
    pub(super) rows: Vec<u64>,
    /// How many of them, from the first, are incumbents.
    pub(super) incumbents: usize,
    /// Their vectors.
    pub(super) vectors: Held,
    /// For each, its rank in the ordering column; empty if there is none.
    pub(super) ranks: Vec<Option<u64>>,
    /// For each, its draw; empty if there is none.
    pub(super) draws: Vec<u64>,
    /// For each, the hashes of its labels one behind the other; empty if there are none.
    pub(super) labels: Vec<Box<[u8]>>,
    /// Rows that cannot be compared, with the name of their status.
    pub(super) bad: Vec<(u64, &'static str)>,
    /// What the pool counts for them.
    pub(super) memory: Reservation,
}

/// Room for the vectors: in memory, or for the rows of a block where they must lie in a file. `trained_rows` of these are copied to
/// memory to train on.
fn room(engine: &Engine, count: usize, dimensions: usize, trained_rows: usize) -> Result<(Reservation, Option<usize>)> {
    const WHAT: &str = "comparing vectors";
    let vectors = |rows: usize| rows * dimensions * 4;
    // With a quarter as much, and a listing of all rows as dropped, to spare for what is chosen by them: there would be no room for that
    // beside vectors that just fit.
    let spare = vectors(count) / 4 + count * size_of::<Drop>();
    if let Ok(spared) = engine.reserve(WHAT, count * ROW_BYTES + vectors(count) + spare) {
        drop(spared);
        return Ok((engine.reserve(WHAT, count * ROW_BYTES + vectors(count))?, None));
    }
    let memory = engine.reserve(WHAT, count * ROW_BYTES + vectors(trained_rows.min(count)))?;
    // Half of what is free, which is found by halving: the other half is for what is decided.
    let mut rows = count;
    while rows > BLOCK_ROWS && memory.beside(WHAT, vectors(rows)).is_err() {
        rows /= 2;
    }
    let rows = (rows / 2).max(BLOCK_ROWS).min(count);
    memory.grow(vectors(rows))?;
    Ok((memory, Some(rows)))
}

/// Reads all rows, into memory where the engine's budget has room for them.
pub(super) async fn gather(engine: &Arc<Engine>, mut input: Narrow, trained_rows: usize, form: Form) -> Result<Gathered> {
    let dimensions = input.dimensions;
    let all = input.rows + input.incumbents.as_ref().map_or(0, |incumbents| incumbents.rows);
    let count = usize::try_from(all).ok().filter(|count| u32::try_from(*count).is_ok());
    let count = count.ok_or_else(|| Error::resources(format!("too many rows for one barrier of vectors rows=`{all}`")))?;
    let (memory, block_rows) = room(engine, count, dimensions, trained_rows)?;
    let scratch = block_rows.map(|_| Scratch::create(engine.spill_folder())).transpose()?;
    let mut rows = Vec::with_capacity(count);
    let mut data: Vec<f32> = Vec::with_capacity(if scratch.is_some() { 0 } else { count * dimensions });
    let (mut bad, mut orders, mut draws, mut labels) = (Vec::new(), Vec::<ArrayRef>::new(), Vec::new(), Vec::new());
    let mut bytes = Vec::new();
    let (mut before, mut incumbents) = (input.incumbents.take().map(|incumbents| incumbents.stream), 0);
    loop {
        let batch = match &mut before {
            Some(stream) => next(stream).await,
            None => next(&mut input.stream).await,
        };
        let Some(batch) = batch else {
            if before.take().is_none() {
                break;
            }
            incumbents = rows.len();
            continue;
        };
        let batch = batch?;
        engine.stop().check()?;
        let ids = numbers(&batch, ROW_ID)?;
        let internal = || Error::internal("a barrier of vectors was given none");
        let status = batch.column_by_name(STATUS).ok_or_else(internal)?.as_primitive::<UInt8Type>();
        let lists = batch.column_by_name(VECTOR).ok_or_else(internal)?.as_fixed_size_list();
        let values = lists.values().as_primitive::<Float32Type>().values();
        let mut sound = Vec::with_capacity(batch.num_rows());
        for index in 0..batch.num_rows() {
            let named = Status::from_code(status.value(index));
            if named == Some(Status::Ok) {
                let from = data.len();
                data.extend_from_slice(&values[index * dimensions..(index + 1) * dimensions]);
                let sound_now = match form {
                    Form::Unit => normalise(&mut data[from..]),
                    Form::Stored => has_direction(&data[from..]),
                };
                if sound_now {
                    rows.push(ids.value(index));
                    sound.push(index as u32);
                    continue;
                }
                data.truncate(from);
            }
            // A row of an earlier increment was looked at then.
            if before.is_some() {
                continue;
            }
            bad.push((
                ids.value(index),
                named.map_or("missing", |status| if status == Status::Ok { "zero_norm" } else { status.as_str() }),
            ));
        }
        if let Some(scratch) = &scratch {
            bytes.clear();
            bytes.extend(data.iter().flat_map(|number| number.to_le_bytes()));
            scratch.append(&bytes)?;
            data.clear();
        }
        let sound = arrow::array::UInt32Array::from(sound);
        if let Some(order) = batch.column_by_name("order") {
            let order = arrow::compute::take(order, &sound, None).context(Kind::Internal, || "cannot read an ordering column".into())?;
            // The values, all of them in one piece while they are ranked, and their ranks.
            memory.grow(2 * order.get_array_memory_size() + order.len() * RANK_BYTES)?;
            orders.push(order);
        }
        if let Some(column) = batch.column_by_name(LABELS) {
            let column = column.as_binary::<i32>();
            memory.grow(column.get_array_memory_size() + sound.len() * size_of::<Box<[u8]>>())?;
            labels.extend(sound.values().iter().map(|index| Box::from(column.value(*index as usize))));
        }
        if batch.column_by_name("draw").is_some() {
            let all = numbers(&batch, "draw")?;
            draws.extend(sound.values().iter().map(|index| all.value(*index as usize)));
        }
    }
    let vectors = match (scratch, block_rows) {
        (Some(scratch), Some(block_rows)) => Held::File(VectorFile { scratch, rows: rows.len(), dimensions, block_rows }),
        _ => Held::Memory(Vectors::try_new(data, dimensions.max(1))?),
    };
    Ok(Gathered { rows, incumbents, vectors, ranks: ranks(&orders)?, draws, labels, bad, memory })
}

/// Ranks of values of one type: larger values have larger ranks, equal ones equal ranks, nulls none.
pub(super) fn ranks(orders: &[ArrayRef]) -> Result<Vec<Option<u64>>> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let internal = || "cannot rank an ordering column".to_owned();
    let parts: Vec<&dyn arrow::array::Array> = orders.iter().map(AsRef::as_ref).collect();
    let values = concat(&parts).context(Kind::Internal, internal)?;
    let options = SortOptions { descending: false, nulls_first: false };
    let sorted = sort_to_indices(&values, Some(options), None).context(Kind::Internal, internal)?;
    let compare = arrow::array::make_comparator(&values, &values, options).context(Kind::Internal, internal)?;
    let mut ranks = vec![None; values.len()];
    let (mut rank, mut before) = (0, None);
    for index in sorted.values().iter().map(|index| *index as usize) {
        if values.is_null(index) {
            break;
        }
        if before.is_some_and(|before| compare(before, index).is_ne()) {
            rank += 1;
        }
        ranks[index] = Some(rank);
        before = Some(index);
    }
    Ok(ranks)
}

impl Gathered {
    /// Rows that are held at a time where the vectors lie in a file; 0 in memory.
    pub(super) fn block_rows(&self) -> usize {
        match &self.vectors {
            Held::Memory(_) => 0,
            Held::File(file) => file.block_rows,
        }
    }

    /// Applies the policy on rows that cannot be compared, and counts them for the report; gives those that are to be dropped.
    pub(super) fn settle_bad<'a>(
        &'a self,
        policy: OnBadVector,
        report: &mut Map<String, Value>,
    ) -> Result<impl ExactSizeIterator<Item = Drop> + use<'a>> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, status) in &self.bad {
            *counts.entry(*status).or_insert(0) += 1;
        }
        let counts: Map<String, Value> = counts.into_iter().map(|(status, count)| (status.to_owned(), json!(count))).collect();
        if policy == OnBadVector::Fail && !self.bad.is_empty() {
            return Err(Error::input(format!(
                "rows have vectors that cannot be compared rows=`{}` statuses=`{}`",
                self.bad.len(),
                Value::Object(counts)
            ))
            .hint("mend the rows, filter them out, or set `on_bad_vector: keep`"));
        }
        report.insert("bad_vectors".into(), Value::Object(counts));
        let dropped = if policy == OnBadVector::Drop { self.bad.as_slice() } else { &[] };
        let one = |(row, status): &(u64, &'static str)| Drop {
            row: *row,
            reason: "bad_vector",
            kept: None,
            score: None,
            detail: Detail::Status(status),
        };
        Ok(dropped.iter().map(one))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};

    use super::*;
    use crate::engine::EngineOptions;

    #[test]
    fn vectors_that_do_not_fit_go_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions { threads: 1, memory_bytes: 64 << 20, batch_rows: 8192, spill_folder: folder.path().to_owned() };
        let engine = Engine::start(options).unwrap();
        let blocks = |count: usize, trained_rows: usize| Ok::<_, Error>(room(&engine, count, 256, trained_rows)?.1);
        assert_eq!(blocks(25_000, 10_000).unwrap(), None);
        // Of 40 MB 7 are for the rows' numbers and 10 for training; of the 23 left less than half.
        let rows = blocks(42_000, 10_000).unwrap().unwrap();
        assert!(rows > BLOCK_ROWS && rows * 1024 < 12_000_000, "{rows}");
        assert!(room(&engine, 42_000, 256, 40_000).unwrap_err().report().contains("comparing vectors needs more memory"));
        assert_eq!(blocks(25_000, 10_000).unwrap(), None, "what was tried is given back");

        let scratch = Scratch::create(folder.path()).unwrap();
        let numbers: Vec<f32> = (0..3000_u16).map(f32::from).collect();
        scratch.append(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let file = VectorFile { scratch, rows: 1000, dimensions: 3, block_rows: 10 };
        let rows = [999, 5, 6, 7, 0, 0];
        let mut into = [0.0; 18];
        file.read(&rows, &mut into).unwrap();
        let wanted: Vec<f32> = rows.iter().flat_map(|row| &numbers[*row as usize * 3..][..3]).copied().collect();
        assert_eq!(into.as_slice(), wanted);
    }

    #[test]
    fn ranks_follow_values_over_batches() {
        let numbers: Vec<ArrayRef> =
            vec![Arc::new(Float64Array::from(vec![Some(2.0), None])), Arc::new(Float64Array::from(vec![Some(-1.0), Some(2.0)]))];
        assert_eq!(ranks(&numbers).unwrap(), [Some(1), None, Some(0), Some(1)]);
        let texts: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["b", "a", "c"]))];
        assert_eq!(ranks(&texts).unwrap(), [Some(1), Some(0), Some(2)]);
    }
}
