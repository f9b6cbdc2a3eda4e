//! Cells as the dataset gets them: the centroids, and for each row that was compared its cell.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::seam::{ROW_ID, Table};
use crate::declare::shape::defaulted;
use crate::declare::{Field as DeclaredField, Presence, Shape};
use crate::engine::{Reservation, rows_of};
use crate::error::{Context as _, Kind, Result};
use crate::vector::Vectors;

/// The key `write_cells`.
pub(super) const WRITE_CELLS: DeclaredField = defaulted(
    "write_cells",
    Shape::Bool,
    Presence::Bool(false),
    "Whether the dataset gets `tables/<stage>/centroids.parquet` (cell, rows, vector) and `tables/<stage>/cells.parquet` (source, shard, row, cell, and 1 - cosine to the centroid).",
);

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// Where the rows lie.
pub(super) struct Assigned {
    pub(super) centroids: Vectors,
    /// For each row its cell.
    pub(super) cells: Vec<u32>,
    /// 1 - cosine of each row and its centroid.
    pub(super) distances: Vec<f64>,
}

impl Assigned {
    /// The two tables; `rows` are the [`crate::ids::RowId`] bits of the rows, `memory` what the pool counts for all of them.
    pub(super) fn tables(self, rows: Vec<u64>, memory: Reservation) -> Vec<Table> {
        let Self { centroids, cells, distances } = self;
        let mut sizes = vec![0_u64; centroids.rows()];
        for cell in &cells {
            sizes[*cell as usize] += 1;
        }
        let placed = schema(vec![
            Field::new(ROW_ID, DataType::UInt64, false),
            Field::new("cell", DataType::UInt32, false),
            Field::new("distance", DataType::Float64, false),
        ]);
        let row_batch = {
            let schema = Arc::clone(&placed);
            let count = rows.len();
            let make = move |range: Range<usize>| {
                // The rows stay counted as long as they are held.
                let _ = &memory;
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(UInt64Array::from_iter_values(rows[range.clone()].iter().copied())),
                    Arc::new(UInt32Array::from_iter_values(cells[range.clone()].iter().copied())),
                    Arc::new(Float64Array::from_iter_values(distances[range].iter().copied())),
                ];
                batch(&schema, columns)
            };
            pieces(count).map(make)
        };
        let dimensions = centroids.matrix().dimensions();
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let described = schema(vec![
            Field::new("cell", DataType::UInt32, false),
            Field::new("rows", DataType::UInt64, false),
            Field::new("vector", DataType::FixedSizeList(Arc::clone(&item), dimensions as i32), false),
        ]);
        let centroid_batch = {
            let schema = Arc::clone(&described);
            let count = centroids.rows();
            let make = move |range: Range<usize>| {
                let values = Float32Array::from_iter_values(range.clone().flat_map(|cell| centroids.row(cell).iter().copied()));
                let vectors = FixedSizeListArray::try_new(Arc::clone(&item), dimensions as i32, Arc::new(values), None)
                    .context(Kind::Internal, || "cannot build centroids".into())?;
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(UInt32Array::from_iter_values(range.clone().map(|cell| cell as u32))),
                    Arc::new(UInt64Array::from_iter_values(sizes[range].iter().copied())),
                    Arc::new(vectors),
                ];
                batch(&schema, columns)
            };
            pieces(count).map(make)
        };
        vec![
            Table { name: "centroids", rows: rows_of(described, centroid_batch) },
            Table { name: "cells", rows: rows_of(placed, row_batch) },
        ]
    }
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), columns).context(Kind::Internal, || "cannot build a table of cells".into())
}

/// Runs of rows, a batch each.
fn pieces(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(BATCH_ROWS).map(move |from| from..count.min(from + BATCH_ROWS))
}
