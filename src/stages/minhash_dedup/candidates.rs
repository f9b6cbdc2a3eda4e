//! Candidates: which rows share a band, found by one sort that spills, and the connected components that they make.
//!
//! The rows of different components share no band, so that each component is decided by itself.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::sketch::{KEYS, SIGNATURE};
use crate::cluster::UnionFind;
use crate::engine::sort::{SortKey, sort};
use crate::engine::{Engine, Reservation, RowStream, chain, map, next};
use crate::error::{Context as _, Error, Kind, Result};
use crate::stages::carry::ORDER;
use crate::stages::columns::numbers;
use crate::stages::incumbents::{self, KeySet, SharedKeys};
use crate::stages::seam::{Narrow, ROW_ID};
use crate::storage::scratch::Scratch;

/// Bytes a row: id, union-find, place in keep order, first bucket.
const ROW_BYTES: usize = 40;
/// Bytes a place in a bucket, held twice while buckets are turned into rows.
const PLACE_BYTES: usize = 8;
/// Places for which memory is taken at once.
const PLACES: usize = 1 << 20;

/// All rows that reached the stage, and of those that share a band with another, which buckets they lie in.
pub(super) struct Candidates {
    /// [`crate::ids::RowId`] bits of all rows, ascending, then those of the incumbents that may share a band with one of them,
    /// ascending; rows are named by their place here.
    pub(super) ids: Vec<u64>,
    /// How many of them are the run's.
    pub(super) new: usize,
    /// The ordering column of the run's rows, in pieces; empty if there is none.
    pub(super) orders: Vec<ArrayRef>,
    /// Signatures of all rows, one after the other, where they are compared.
    pub(super) signatures: Option<Arc<Scratch>>,
    /// Rows without a shingle.
    pub(super) empty: u64,
    /// Rows that share a band with another, ascending.
    pub(super) rows: Vec<u32>,
    /// For each of [`Self::rows`], where its buckets start in `numbers`; one more than there are rows.
    pub(super) starts: Vec<usize>,
    /// Numbers of buckets, row after row, ascending in each.
    pub(super) numbers: Vec<u32>,
    /// For each of [`Self::rows`], the first row of its component.
    pub(super) components: Vec<u32>,
    _memory: Vec<Reservation>,
}

/// What the rows leave beside their band keys while these are sorted.
#[derive(Default)]
struct Seen {
    ids: Vec<u64>,
    /// How many of them are the run's.
    new: usize,
    orders: Vec<ArrayRef>,
    empty: u64,
    buffer: Vec<u8>,
}

fn entry_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("key", DataType::UInt64, false), Field::new("row", DataType::UInt32, false)]))
}

/// Sorts the band keys of all rows and walks the groups.
pub(super) async fn find(engine: &Arc<Engine>, input: Narrow) -> Result<Candidates> {
    let count = usize::try_from(input.rows).ok().filter(|count| u32::try_from(*count).is_ok());
    let count = count.ok_or_else(|| Error::resources(format!("too many rows for one barrier rows=`{}`", input.rows)))?;
    let mut memory = vec![engine.reserve("near duplicates", count * ROW_BYTES)?];
    let signatures = match input.stream.schema().index_of(SIGNATURE) {
        Ok(_) => Some(Arc::new(Scratch::create(engine.spill_folder())?)),
        Err(_) => None,
    };
    let seen = Arc::new(Mutex::new(Seen { ids: Vec::with_capacity(count), ..Seen::default() }));
    let looked_up: Option<SharedKeys> = match input.incumbents {
        Some(_) => Some(Arc::new(Mutex::new(KeySet::with_capacity(engine, count)?))),
        None => None,
    };
    let explode_all = |stream: RowStream, new: bool| {
        let (into, scratch, stop) = (Arc::clone(&seen), signatures.clone(), engine.stop().clone());
        let (looked_up, memory) = (looked_up.clone(), engine.reserve("near duplicates of earlier increments", 0));
        map(stream, entry_schema(), move |batch| {
            stop.check()?;
            let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.ids.len();
            let entries = explode(&batch, &mut seen, scratch.as_deref(), looked_up.as_ref(), new)?;
            if !new && let Ok(memory) = &memory {
                memory.grow((seen.ids.len() - before) * ROW_BYTES)?;
            }
            Ok(entries)
        })
    };
    let mut entries = explode_all(input.stream, true);
    if let Some(incumbents) = input.incumbents {
        entries = chain(entries, explode_all(incumbents.stream, false));
    }
    // The sort has read all of its input before it gives the first row.
    let mut sorted = sort(engine, entries, &[SortKey::ascending("key")])?;
    let mut first = next(&mut sorted).await.transpose()?;
    let (total, new) = {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.ids.len(), seen.new)
    };
    if new != count {
        return Err(Error::internal("a barrier was given another number of rows than was said"));
    }
    let mut sets = UnionFind::new(total);
    // Rows of the buckets with more than one row, bucket after bucket.
    let (mut members, mut ends): (Vec<u32>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut reserved = 0;
    let mut group: (Option<u64>, Vec<u32>) = (None, Vec::new());
    let mut close = |group: &mut Vec<u32>| -> Result<()> {
        if group.len() > 1 {
            // The sort leaves the order of equal keys open.
            group.sort_unstable();
            for row in &group[1..] {
                sets.union(group[0], *row);
            }
            while members.len() + group.len() > reserved {
                memory.push(engine.reserve("near duplicates that share bands", PLACES * PLACE_BYTES)?);
                reserved += PLACES;
            }
            members.extend_from_slice(group);
            ends.push(members.len());
        }
        group.clear();
        Ok(())
    };
    while let Some(batch) = match first.take() {
        Some(batch) => Some(batch),
        None => next(&mut sorted).await.transpose()?,
    } {
        engine.stop().check()?;
        let rows = batch.column(1).as_primitive::<arrow::datatypes::UInt32Type>().values();
        for (key, row) in numbers(&batch, "key")?.values().iter().zip(rows.iter()) {
            if group.0 != Some(*key) {
                close(&mut group.1)?;
                group.0 = Some(*key);
            }
            group.1.push(*row);
        }
    }
    close(&mut group.1)?;
    drop(sorted);
    u32::try_from(ends.len()).map_err(|_| Error::resources(format!("too many bands are shared buckets=`{}`", ends.len())))?;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let (rows, starts, numbers) = by_row(total, &members, &ends);
    let components = rows.iter().map(|row| sets.first(*row)).collect();
    Ok(Candidates {
        ids: seen.ids,
        new,
        orders: seen.orders,
        signatures,
        empty: seen.empty,
        rows,
        starts,
        numbers,
        components,
        _memory: memory,
    })
}

/// Makes (key, row) of a batch's band keys, and keeps aside what else the rows carry. Of incumbents, only of those keys that a row of the
/// run has.
fn explode(
    batch: &RecordBatch,
    seen: &mut Seen,
    signatures: Option<&Scratch>,
    looked_up: Option<&SharedKeys>,
    new: bool,
) -> Result<RecordBatch> {
    let internal = || Error::internal("a barrier of band keys was given none");
    if !new {
        return explode_incumbents(batch, seen, signatures, looked_up.ok_or_else(internal)?);
    }
    let first = seen.ids.len();
    seen.ids.extend_from_slice(numbers(batch, ROW_ID)?.values());
    seen.new = seen.ids.len();
    let keys = batch.column_by_name(KEYS).and_then(|column| column.as_fixed_size_binary_opt()).ok_or_else(internal)?;
    let width = keys.value_length() as usize;
    let (mut entries, mut rows) = (Vec::with_capacity(keys.len() * width / 8), Vec::with_capacity(keys.len() * width / 8));
    for index in 0..keys.len() {
        if keys.is_null(index) {
            seen.empty += 1;
            continue;
        }
        for key in keys.value(index).as_chunks::<8>().0 {
            entries.push(u64::from_le_bytes(*key));
            rows.push((first + index) as u32);
        }
    }
    if let Some(looked_up) = looked_up {
        incumbents::with(looked_up, |keys| entries.iter().try_for_each(|key| keys.insert(*key)))?;
    }
    if let Some(order) = batch.column_by_name(ORDER) {
        seen.orders.push(Arc::clone(order));
    }
    if let Some(scratch) = signatures {
        let values = batch.column_by_name(SIGNATURE).and_then(|column| column.as_fixed_size_binary_opt()).ok_or_else(internal)?;
        seen.buffer.clear();
        for index in 0..values.len() {
            seen.buffer.extend_from_slice(values.value(index));
        }
        scratch.append(&seen.buffer)?;
    }
    entry_batch(entries, rows)
}

fn entry_batch(entries: Vec<u64>, rows: Vec<u32>) -> Result<RecordBatch> {
    RecordBatch::try_new(entry_schema(), vec![Arc::new(UInt64Array::from(entries)), Arc::new(UInt32Array::from(rows))])
        .context(Kind::Internal, || "cannot build band entries".into())
}

fn explode_incumbents(batch: &RecordBatch, seen: &mut Seen, signatures: Option<&Scratch>, looked_up: &SharedKeys) -> Result<RecordBatch> {
    let internal = || Error::internal("a barrier of band keys was given none");
    let ids = numbers(batch, ROW_ID)?.values();
    let keys = batch.column_by_name(KEYS).and_then(|column| column.as_fixed_size_binary_opt()).ok_or_else(internal)?;
    let values = match signatures {
        Some(_) => Some(batch.column_by_name(SIGNATURE).and_then(|column| column.as_fixed_size_binary_opt()).ok_or_else(internal)?),
        None => None,
    };
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    seen.buffer.clear();
    incumbents::with(looked_up, |looked_up| {
        for index in (0..keys.len()).filter(|index| keys.is_valid(*index)) {
            let place = seen.ids.len();
            let keys = keys.value(index).as_chunks::<8>().0.iter().map(|key| u64::from_le_bytes(*key));
            for key in keys.filter(|key| looked_up.contains(*key)) {
                entries.push(key);
                rows.push(place as u32);
            }
            if rows.last() == Some(&(place as u32)) {
                seen.ids.push(ids[index]);
                if let Some(values) = values {
                    seen.buffer.extend_from_slice(values.value(index));
                }
            }
        }
    });
    if u32::try_from(seen.ids.len()).is_err() {
        return Err(Error::resources(format!("too many rows for one barrier rows=`{}`", seen.ids.len())));
    }
    if let Some(scratch) = signatures {
        scratch.append(&seen.buffer)?;
    }
    entry_batch(entries, rows)
}

/// Turns rows of buckets into buckets of rows: the rows that lie in any, where their buckets start, and the buckets.
fn by_row(count: usize, members: &[u32], ends: &[usize]) -> (Vec<u32>, Vec<usize>, Vec<u32>) {
    let mut next = vec![0_u32; count];
    for row in members {
        next[*row as usize] += 1;
    }
    let rows: Vec<u32> = (0..count as u32).filter(|row| next[*row as usize] > 0).collect();
    let mut starts = Vec::with_capacity(rows.len() + 1);
    let mut start = 0_usize;
    for (place, row) in rows.iter().enumerate() {
        starts.push(start);
        start += next[*row as usize] as usize;
        next[*row as usize] = place as u32;
    }
    starts.push(start);
    let mut filled = starts.clone();
    let mut numbers = vec![0_u32; start];
    let mut from = 0;
    for (bucket, end) in ends.iter().enumerate() {
        for row in &members[from..*end] {
            let at = &mut filled[next[*row as usize] as usize];
            numbers[*at] = bucket as u32;
            *at += 1;
        }
        from = *end;
    }
    (rows, starts, numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_know_their_buckets(buckets in prop::collection::vec(prop::collection::btree_set(0_u32..12, 1..5), 0..8)) {
            let mut members = Vec::new();
            let mut ends = Vec::new();
            for bucket in &buckets {
                members.extend(bucket);
                ends.push(members.len());
            }
            let (rows, starts, numbers) = by_row(12, &members, &ends);
            let mut place = 0;
            for row in 0..12 {
                let of: Vec<u32> = (0..buckets.len() as u32).filter(|bucket| buckets[*bucket as usize].contains(&row)).collect();
                if of.is_empty() {
                    prop_assert!(!rows.contains(&row));
                } else {
                    prop_assert_eq!(rows[place], row);
                    prop_assert_eq!(&numbers[starts[place]..starts[place + 1]], of.as_slice());
                    place += 1;
                }
            }
            prop_assert_eq!(rows.len(), place);
        }
    }
}
