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
use crate::vector::{Vectors, normalise};

/// Bytes a row beside its vector: id, cell, distance, order, decisions.
const ROW_BYTES: usize = 96;
/// Bytes a row of the ranks of an ordering column and of the order that they come from.
const RANK_BYTES: usize = size_of::<Option<u64>>() + size_of::<u32>();
/// Rows that k-means copies to train on, about.
const TRAINED_ROWS: usize = 1 << 17;

/// Sound vectors of unit length with their rows, in the order of the corpus; bad ones apart.
pub(super) struct Gathered {
    /// [`crate::ids::RowId`] bits of the rows that can be compared.
    pub(super) rows: Vec<u64>,
    /// Their vectors.
    pub(super) vectors: Vectors,
    /// For each, its rank in the ordering column; empty if there is none.
    pub(super) ranks: Vec<Option<u64>>,
    /// For each, its draw; empty if there is none.
    pub(super) draws: Vec<u64>,
    /// Rows that cannot be compared, with the name of their status.
    pub(super) bad: Vec<(u64, &'static str)>,
    /// What the pool counts for them.
    pub(super) memory: Reservation,
}

/// Reads all rows into memory, taking it from the engine's budget first.
pub(super) async fn gather(engine: &Arc<Engine>, mut input: Narrow) -> Result<Gathered> {
    let dimensions = input.dimensions;
    let count = usize::try_from(input.rows).ok().filter(|count| u32::try_from(*count).is_ok());
    let count = count.ok_or_else(|| Error::resources(format!("too many rows for one barrier of vectors rows=`{}`", input.rows)))?;
    let memory = engine.reserve("comparing vectors", count * (dimensions * 4 + ROW_BYTES) + count.min(TRAINED_ROWS) * dimensions * 4)?;
    let mut rows = Vec::with_capacity(count);
    let mut data: Vec<f32> = Vec::with_capacity(count * dimensions);
    let (mut bad, mut orders, mut draws) = (Vec::new(), Vec::<ArrayRef>::new(), Vec::new());
    while let Some(batch) = next(&mut input.stream).await {
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
                if normalise(&mut data[from..]) {
                    rows.push(ids.value(index));
                    sound.push(index as u32);
                    continue;
                }
                data.truncate(from);
            }
            bad.push((
                ids.value(index),
                named.map_or("missing", |status| if status == Status::Ok { "zero_norm" } else { status.as_str() }),
            ));
        }
        let sound = arrow::array::UInt32Array::from(sound);
        if let Some(order) = batch.column_by_name("order") {
            let order = arrow::compute::take(order, &sound, None).context(Kind::Internal, || "cannot read an ordering column".into())?;
            // The values, all of them in one piece while they are ranked, and their ranks.
            memory.grow(2 * order.get_array_memory_size() + order.len() * RANK_BYTES)?;
            orders.push(order);
        }
        if batch.column_by_name("draw").is_some() {
            let all = numbers(&batch, "draw")?;
            draws.extend(sound.values().iter().map(|index| all.value(*index as usize)));
        }
    }
    let vectors = Vectors::try_new(data, dimensions.max(1))?;
    Ok(Gathered { rows, vectors, ranks: ranks(&orders)?, draws, bad, memory })
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

    #[test]
    fn ranks_follow_values_over_batches() {
        let numbers: Vec<ArrayRef> =
            vec![Arc::new(Float64Array::from(vec![Some(2.0), None])), Arc::new(Float64Array::from(vec![Some(-1.0), Some(2.0)]))];
        assert_eq!(ranks(&numbers).unwrap(), [Some(1), None, Some(0), Some(1)]);
        let texts: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["b", "a", "c"]))];
        assert_eq!(ranks(&texts).unwrap(), [Some(1), Some(0), Some(2)]);
    }
}
