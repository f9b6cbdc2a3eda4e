//! Centroids that were fitted to the rows of one increment and that those after it go on with.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, FixedSizeListArray, Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use serde_json::{Value, json};

use crate::error::{Context as _, Error, Kind, Result};
use crate::vector::{KMeans, Vectors};

/// Centroids, and how far from them the rows were that they were fitted to.
#[derive(Debug)]
pub(super) struct FrozenCells {
    pub(super) model: KMeans,
    /// The mean of 1 - cosine of a row and its nearest centroid.
    pub(super) distance: f64,
}

impl FrozenCells {
    /// As the state holds them: a centroid a row, and the distance in each.
    pub(super) fn table(model: &KMeans, distance: f64) -> Result<RecordBatch> {
        let centroids = model.centroids();
        let (rows, dimensions) = (centroids.rows(), centroids.matrix().dimensions());
        let internal = || "cannot build centroids".to_owned();
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let values = Float32Array::from_iter_values((0..rows).flat_map(|cell| centroids.row(cell).iter().copied()));
        let vectors = FixedSizeListArray::try_new(item, dimensions as i32, Arc::new(values), None).context(Kind::Internal, internal)?;
        let distances: ArrayRef = Arc::new(Float64Array::from(vec![distance; rows]));
        RecordBatch::try_from_iter([("vector", Arc::new(vectors) as ArrayRef), ("fitted_distance", distances)])
            .context(Kind::Internal, internal)
    }

    /// What [`FrozenCells::table`] made.
    pub(super) fn read(table: &RecordBatch, dimensions: usize) -> Result<Self> {
        let damaged = || Error::state("the state's centroids are none");
        let vectors = table.columns().first().and_then(|column| column.as_fixed_size_list_opt()).ok_or_else(damaged)?;
        if vectors.value_length() as usize != dimensions {
            return Err(damaged());
        }
        let values = vectors.values().as_primitive_opt::<Float32Type>().ok_or_else(damaged)?;
        let distances = table.columns().get(1).and_then(|column| column.as_primitive_opt::<Float64Type>()).ok_or_else(damaged)?;
        let distance = distances.values().first().copied().ok_or_else(damaged)?;
        Ok(Self { model: KMeans::from_centroids(Vectors::try_new(values.values().to_vec(), dimensions)?), distance })
    }
}

/// How much farther from the frozen centroids the rows of a run are than those that these were fitted to.
pub(super) fn drift(fitted: f64, distances: &[f64]) -> Value {
    let mean = mean(distances);
    json!({"fitted": fitted, "mean_distance": mean, "ratio": (fitted > 0.0).then(|| mean / fitted)})
}

/// The mean; 0 of none.
pub(super) fn mean(distances: &[f64]) -> f64 {
    if distances.is_empty() { 0.0 } else { distances.iter().sum::<f64>() / distances.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centroids_come_back_bit_for_bit() {
        let vectors = Vectors::try_new(vec![0.6, 0.8, -0.0, 1.0, 1e-30, -1.0], 2).unwrap();
        let table = FrozenCells::table(&KMeans::from_centroids(vectors.clone()), 0.1 + 0.2).unwrap();
        let back = FrozenCells::read(&table, 2).unwrap();
        let bits = |vectors: &Vectors| (0..3).flat_map(|row| vectors.row(row).iter().map(|value| value.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(back.model.centroids()), bits(&vectors));
        assert_eq!(back.distance.to_bits(), (0.1_f64 + 0.2).to_bits());
        assert!(FrozenCells::read(&table, 3).is_err());
    }

    #[test]
    fn drift_is_a_ratio_of_means() {
        assert_eq!(drift(0.1, &[0.1, 0.3]), json!({"fitted": 0.1, "mean_distance": 0.2, "ratio": 2.0}));
        assert_eq!(drift(0.0, &[]), json!({"fitted": 0.0, "mean_distance": 0.0, "ratio": null}));
    }
}
