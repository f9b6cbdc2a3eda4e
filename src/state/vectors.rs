//! How a narrow table holds vectors. Singles are a list, as anything expects them. Halves are one value of fixed size a row, their
//! bytes in little-endian order: as a list, Parquet would take some 70 ns for each of them, which is longer than a GPU takes.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, FixedSizeBinaryArray, Float32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::error::{Context as _, Error, Kind, Result};

/// Bytes of a half.
const HALF: usize = size_of::<f16>();

/// The length of a vector in a column of this type; `None` if the column holds none.
#[must_use]
pub fn dimensions(column: &DataType) -> Option<usize> {
    match column {
        DataType::FixedSizeList(_, size) => usize::try_from(*size).ok(),
        DataType::FixedSizeBinary(size) => usize::try_from(*size).ok().map(|size| size / HALF),
        _ => None,
    }
}

/// The numbers of a column of vectors, one row after the other; what a null row holds means nothing.
pub fn values(column: &ArrayRef) -> Result<Float32Array> {
    if let Some(rows) = column.as_fixed_size_binary_opt() {
        let halves: Vec<f16> = rows.value_data().chunks_exact(HALF).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]])).collect();
        let mut values = vec![0.0; halves.len()];
        halves.convert_to_f32_slice(&mut values);
        return Ok(Float32Array::from(values));
    }
    let list = column.as_fixed_size_list_opt().ok_or_else(|| Error::state("an artefact's vectors have no fixed size"))?;
    let flat = cast(list.values(), &DataType::Float32).context(Kind::State, || "cannot read vectors".into())?;
    Ok(flat.as_primitive::<Float32Type>().clone())
}

/// The schema under which a table of `schema` is stored.
pub(super) fn stored(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| packed(field).is_some()) {
        return Arc::clone(schema);
    }
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match packed(field) {
            Some(size) => Field::new(field.name(), DataType::FixedSizeBinary(size), field.is_nullable()),
            None => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// A batch of the table as `stored`, the answer of [`stored`], has it.
pub(super) fn store(batch: &RecordBatch, stored: &SchemaRef) -> Result<RecordBatch> {
    let internal = || "cannot store vectors".to_owned();
    if batch.schema_ref().fields().iter().all(|field| packed(field).is_none()) {
        return Ok(batch.clone());
    }
    let column = |(field, column): (&Arc<Field>, &ArrayRef)| -> Result<ArrayRef> {
        let Some(size) = packed(field) else { return Ok(Arc::clone(column)) };
        let list = column.as_fixed_size_list();
        let bytes = list.values().as_primitive::<Float16Type>().values().inner().clone();
        let rows = FixedSizeBinaryArray::try_new(size, bytes, list.nulls().cloned()).context(Kind::Internal, internal)?;
        Ok(Arc::new(rows))
    };
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(column).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(stored), columns).context(Kind::Internal, internal)
}

/// The bytes of a row, if the column holds vectors of halves.
fn packed(field: &Field) -> Option<i32> {
    match field.data_type() {
        DataType::FixedSizeList(item, size) if *size > 0 && item.data_type() == &DataType::Float16 => size.checked_mul(HALF as i32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::artefacts::{TableWriter, read_table, table_schema};
    use arrow::array::{FixedSizeListArray, Float16Array};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::FieldRef;
    use proptest::prelude::*;

    fn table(kind: &DataType, size: i32, bits: &[u16], valid: &[bool]) -> RecordBatch {
        let halves: ArrayRef = Arc::new(Float16Array::from_iter_values(bits.iter().map(|bits| f16::from_bits(*bits))));
        let item: FieldRef = Arc::new(Field::new("item", kind.clone(), false));
        let nulls = NullBuffer::from(valid.to_vec());
        let list = FixedSizeListArray::new(item, size, cast(&halves, kind).unwrap(), Some(nulls));
        RecordBatch::try_from_iter_with_nullable([("v", Arc::new(list) as ArrayRef, true)]).unwrap()
    }

    proptest! {
        #[test]
        fn vectors_come_back_as_they_were_written(
            rows in proptest::collection::vec((proptest::array::uniform3(0_u16..0x7c00), proptest::bool::ANY), 1..40),
            half in proptest::bool::ANY,
            skip in 0_usize..5,
        ) {
            let bits: Vec<u16> = rows.iter().flat_map(|(bits, _)| *bits).collect();
            let valid: Vec<bool> = rows.iter().map(|(_, valid)| *valid).collect();
            let batch = table(if half { &DataType::Float16 } else { &DataType::Float32 }, 3, &bits, &valid);
            let skip = skip.min(rows.len() - 1);
            let batch = batch.slice(skip, rows.len() - skip);
            let folder = tempfile::tempdir().unwrap();
            let mut writer = TableWriter::create(folder.path(), "t.parquet", &batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            let path = folder.path().join("t.parquet");
            prop_assert_eq!(dimensions(table_schema(&path).unwrap().field(0).data_type()), Some(3));
            let back = read_table(&path, None, 1000).unwrap().next().unwrap().unwrap();
            let found = values(back.column(0)).unwrap();
            for (row, (bits, valid)) in rows[skip..].iter().enumerate() {
                prop_assert_eq!(back.column(0).is_valid(row), *valid);
                if *valid {
                    let expected = bits.map(|bits| f16::from_bits(bits).to_f32());
                    prop_assert_eq!(&found.values()[row * 3..row * 3 + 3], &expected);
                }
            }
        }
    }
}
