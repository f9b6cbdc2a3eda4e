//! What the stages share that fit a map to the vectors of all rows and make a column of new vectors by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{Float32Type, UInt8Type, UInt64Type};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::embed::{Precision, Tally, VectorTable};
use super::policy::OnBadVector;
use super::seam::{Feature, Narrow, STATUS, Start, VECTOR};
use crate::declare::shape::defaulted;
use crate::declare::{Field, Presence, Shape};
use crate::embed::guard::{self, Status};
use crate::engine::{Engine, Reservation, next};
use crate::error::{Error, Result};
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::state::vectors;
use crate::vector::affine::Affine;
use crate::vector::moments::Moments;

/// What memory is taken for.
const WHAT: &str = "fitting vectors";
/// Matrices of dimensions by dimensions that an eigendecomposition and what is made of it hold at once.
const MATRICES: usize = 8;

/// The key `normalize`.
pub(super) const NORMALIZE: Field =
    defaulted("normalize", Shape::Bool, Presence::Bool(true), "Whether each new vector is scaled to length 1.");

/// The key `floor`.
pub(super) const FLOOR: Field = defaulted(
    "floor",
    Shape::Float { min: 0.0, max: 1.0, exclusive: false },
    Presence::Float(1e-6),
    "Directions with at most this share of the largest variance are taken for noise.",
);

/// What was seen of the rows of a fit.
#[derive(Debug, Default)]
pub(super) struct Seen {
    rows: u64,
    left_out: BTreeMap<&'static str, u64>,
}

impl Seen {
    /// The beginning of a stage's report.
    pub(super) fn report(&self) -> Map<String, Value> {
        Map::from_iter([("fitted_rows".to_owned(), json!(self.rows)), ("left_out".to_owned(), json!(self.left_out))])
    }
}

/// Takes memory for a fit of so many dimensions, and `more` bytes beside; refuses more dimensions than an eigendecomposition bears.
pub(super) fn reserve(engine: &Engine, dimensions: usize, more: usize) -> Result<Reservation> {
    beside(&engine.reserve(WHAT, 0)?, dimensions, more)
}

/// [`reserve`] beside what is held already.
pub(super) fn beside(held: &Reservation, dimensions: usize, more: usize) -> Result<Reservation> {
    if dimensions > MAX_FITTED_DIMENSIONS {
        return Err(Error::resources(format!(
            "the vectors have more dimensions than can be fitted dimensions=`{dimensions}` limit=`{MAX_FITTED_DIMENSIONS}`"
        ))
        .hint("keep fewer of them: `dims` of the `embed` stage"));
    }
    held.beside(WHAT, Moments::bytes(dimensions) + MATRICES * dimensions * dimensions * size_of::<f64>() + more)
}

/// Gives each sound vector as it is stored, in the order of the corpus. Rows with bad vectors are counted and left out.
pub(super) async fn each_sound(engine: &Arc<Engine>, mut input: Narrow, mut each: impl FnMut(&[f32])) -> Result<Seen> {
    let dimensions = input.dimensions;
    let mut seen = Seen::default();
    while let Some(batch) = next(&mut input.stream).await {
        let batch = batch?;
        engine.stop().check()?;
        let internal = || Error::internal("a fit was given no vectors");
        let statuses = batch.column_by_name(STATUS).ok_or_else(internal)?.as_primitive::<UInt8Type>().values();
        let lists = batch.column_by_name(VECTOR).ok_or_else(internal)?.as_fixed_size_list();
        let values = lists.values().as_primitive::<Float32Type>().values();
        for (index, code) in statuses.iter().enumerate() {
            match Status::from_code(*code) {
                Some(Status::Ok) => {
                    each(&values[index * dimensions..(index + 1) * dimensions]);
                    seen.rows += 1;
                }
                status => *seen.left_out.entry(status.map_or("missing", Status::as_str)).or_insert(0) += 1,
            }
        }
    }
    Ok(seen)
}

/// Makes the new vectors of one shard. The rows that it is given are those of a table of vectors: row, vector, status. A bad vector
/// stays as bad as it was; one that the map leaves without direction is of norm zero.
pub(super) struct Transform {
    pub(super) map: Affine,
    pub(super) normalize: bool,
    pub(super) on_bad_vector: OnBadVector,
}

impl Feature for Transform {
    fn run(&self, rows: &mut (dyn Iterator<Item = Result<RecordBatch>> + Send), start: &mut Start<'_>) -> Result<Map<String, Value>> {
        let mut table = VectorTable::start(self.map.dimensions(), Precision::F32, start)?;
        let mut tally = Tally::default();
        for batch in rows {
            let batch = batch?;
            let numbers = batch.column(0).as_primitive::<UInt64Type>().values().to_vec();
            let (made, statuses) = self.make(batch.column(1), batch.column(2))?;
            table.write(numbers, made, statuses, &mut tally)?;
        }
        let mut facts = tally.finish(self.on_bad_vector)?;
        // Of what is counted of models, nothing is meant here.
        facts.retain(|name, _| name == "statuses");
        Ok(facts)
    }
}

impl Transform {
    fn make(&self, column: &ArrayRef, statuses: &ArrayRef) -> Result<(Vec<f32>, Vec<Status>)> {
        let values = vectors::values(column)?;
        let (values, size) = (values.values(), vectors::dimensions(column.data_type()).unwrap_or(0));
        let codes = statuses.as_primitive::<UInt8Type>().values();
        let known =
            |code: &u8| Status::from_code(*code).ok_or_else(|| Error::state(format!("an artefact holds an unknown status code=`{code}`")));
        let mut statuses = codes.iter().map(known).collect::<Result<Vec<_>>>()?;
        let dimensions = self.map.dimensions();
        let mut made = vec![0.0; statuses.len() * dimensions];
        if dimensions > 0 {
            made.par_chunks_mut(dimensions).zip(&mut statuses).enumerate().for_each(|(row, (z, status))| {
                if *status == Status::Ok {
                    let direction = self.map.apply(&values[row * size..][..size], z);
                    *status = if direction { guard::finish(z, self.normalize) } else { Status::ZeroNorm };
                }
            });
        }
        Ok((made, statuses))
    }
}
