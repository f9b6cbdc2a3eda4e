//! What a barrier reads: the live rows of every shard, in the order of the corpus, as narrow rows.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, UInt8Array, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::context::RunContext;
use super::scan::{TABLE, narrow_name};
use crate::dataset::snapshot::Shard;
use crate::embed::guard::Status;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, ShardId};
use crate::stages::seam::{NO_VECTOR, ROW, ROW_ID, STATUS, VECTOR};
use crate::state::artefacts::{read_table, table_schema, unreadable};
use crate::state::vectors;

/// Rows of a batch that a barrier reads.
const BATCH_ROWS: usize = 4096;

/// Reads what barrier `stage` sees.
pub(super) struct NarrowReader {
    cx: Arc<RunContext>,
    stage: usize,
    schema: SchemaRef,
    dimensions: usize,
    next_shard: usize,
    current: Option<Open>,
}

/// One shard while it is read.
struct Open {
    path: PathBuf,
    table: ParquetRecordBatchReader,
    live: BooleanBuffer,
    shard: usize,
    vectors: Option<Vectors>,
}

impl NarrowReader {
    /// A reader of all shards whose rows can reach the stage.
    pub(super) fn open(cx: Arc<RunContext>, stage: usize) -> Result<Self> {
        let planned = &cx.plan.stages[stage];
        let mut fields = vec![Field::new(ROW_ID, DataType::UInt64, false)];
        let prefix = narrow_name(&planned.id, "");
        // Every shard's scan has made the same narrow columns, because carried types do not depend on the shard's.
        let mut of_first: Option<Vec<Field>> = None;
        for shard in cx.snapshot.shards.iter().filter(|shard| planned.reached_by[shard.source]) {
            let path = cx.artefacts.file(&cx.scans[shard.id.ordinal()], TABLE);
            let schema = table_schema(&path)?;
            let own: Vec<Field> = schema
                .fields()
                .iter()
                .filter_map(|field| field.name().strip_prefix(&prefix).map(|name| Field::new(name, field.data_type().clone(), true)))
                .collect();
            match &of_first {
                None => of_first = Some(own),
                Some(first) if *first == own => {}
                Some(_) => {
                    return Err(Error::input(format!(
                        "shards hold a column that a stage compares in types that do not compare stage=`{}`",
                        planned.id
                    ))
                    .hint("write the shards with one type for that column"));
                }
            }
        }
        fields.extend(of_first.unwrap_or_default());
        let mut dimensions = 0;
        if let Some(embedding) = planned.embedding {
            for shard in &cx.snapshot.shards {
                if let Some(path) = cx.feature_file(shard, embedding) {
                    let schema = table_schema(&path)?;
                    let field =
                        schema.field_with_name(VECTOR).map_err(|error| Error::state("an artefact lacks its vectors").caused_by(error))?;
                    let size =
                        vectors::dimensions(field.data_type()).ok_or_else(|| Error::state("an artefact's vectors have no fixed size"))?;
                    if size != 0 && dimensions != 0 && size != dimensions {
                        return Err(Error::input(format!(
                            "shards hold vectors of different dimensions dimensions=`{dimensions}` other=`{size}`"
                        ))
                        .hint("embed all shards with one model"));
                    }
                    dimensions = dimensions.max(size);
                }
            }
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            fields.push(Field::new(VECTOR, DataType::FixedSizeList(item, dimensions as i32), true));
            fields.push(Field::new(STATUS, DataType::UInt8, false));
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { cx, stage, schema, dimensions, next_shard: 0, current: None })
    }

    /// The schema of the rows.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The length of the vectors.
    pub(super) fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn open_shard(&self, shard: &Shard) -> Result<Option<Open>> {
        let planned = &self.cx.plan.stages[self.stage];
        if !planned.reached_by[shard.source] {
            return Ok(None);
        }
        let live = self.cx.live(shard, self.stage)?.reaching(self.stage);
        self.open_rows(shard, live)
    }

    /// The rows of one shard that a mask takes, with the schema of [`NarrowReader::open`].
    pub(super) fn of_shard(
        cx: &Arc<RunContext>,
        stage: usize,
        (schema, dimensions): (&SchemaRef, usize),
        shard: &Shard,
        live: BooleanBuffer,
    ) -> Result<Self> {
        // There is no shard after the current one.
        let (cx, schema) = (Arc::clone(cx), Arc::clone(schema));
        let mut reader = Self { cx, stage, schema, dimensions, next_shard: usize::MAX, current: None };
        reader.current = reader.open_rows(shard, live)?;
        Ok(reader)
    }

    fn open_rows(&self, shard: &Shard, live: BooleanBuffer) -> Result<Option<Open>> {
        let planned = &self.cx.plan.stages[self.stage];
        if live.count_set_bits() == 0 {
            return Ok(None);
        }
        let path = self.cx.artefacts.file(&self.cx.scans[shard.id.ordinal()], TABLE);
        let own: Vec<String> = self
            .schema
            .fields()
            .iter()
            .filter(|field| ![ROW_ID, VECTOR, STATUS].contains(&field.name().as_str()))
            .map(|field| narrow_name(&planned.id, field.name()))
            .collect();
        let mut columns = vec![ROW];
        columns.extend(own.iter().map(String::as_str));
        let table = read_table(&path, Some(&columns), BATCH_ROWS)?;
        let vectors = match planned.embedding {
            Some(embedding) => match self.cx.feature_file(shard, embedding) {
                Some(path) => Some(Vectors::open(path)?),
                None => None,
            },
            None => None,
        };
        Ok(Some(Open { path, table, live, shard: shard.id.ordinal(), vectors }))
    }

    fn read(&mut self) -> Result<Option<RecordBatch>> {
        let cx = Arc::clone(&self.cx);
        loop {
            self.cx.engine.stop().check()?;
            if let Some(open) = &mut self.current {
                if let Some(batch) = open.table.next() {
                    let batch = batch.map_err(|error| unreadable(&open.path, error))?;
                    let id = ShardId::try_new(cx.known_shards() + open.shard);
                    let id = id.ok_or_else(|| Error::resources("the state and the run have too many shards together"))?;
                    let batch = open.narrow(&batch, id, &self.schema, self.dimensions, cx.plan.stages[self.stage].embedding.is_some())?;
                    if batch.num_rows() > 0 {
                        return Ok(Some(batch));
                    }
                    continue;
                }
                self.current = None;
            }
            let Some(shard) = cx.snapshot.shards.get(self.next_shard) else { return Ok(None) };
            self.next_shard += 1;
            self.current = self.open_shard(shard)?;
        }
    }
}

impl Iterator for NarrowReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl Open {
    fn narrow(
        &mut self,
        batch: &RecordBatch,
        id: ShardId,
        schema: &SchemaRef,
        dimensions: usize,
        with_vectors: bool,
    ) -> Result<RecordBatch> {
        let internal = || "cannot build narrow rows".to_owned();
        let rows = batch.column(0).as_primitive::<UInt64Type>();
        let first = rows.values().first().copied().unwrap_or(0) as usize;
        let live = BooleanArray::new(self.live.slice(first, batch.num_rows()), None);
        let batch = filter_record_batch(batch, &live).context(Kind::Internal, internal)?;
        let rows = batch.column(0).as_primitive::<UInt64Type>();
        let ids: Option<Vec<u64>> = rows.values().iter().map(|row| RowId::try_new(id, *row).map(RowId::to_bits)).collect();
        let ids = ids.ok_or_else(|| Error::internal("a row number above the limit"))?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(ids))];
        columns.extend(batch.columns().iter().skip(1).cloned());
        if with_vectors {
            let mut values = Vec::with_capacity(batch.num_rows() * dimensions);
            let mut statuses = Vec::with_capacity(batch.num_rows());
            for row in rows.values() {
                let status = match &mut self.vectors {
                    Some(vectors) => vectors.read(*row, &mut values)?,
                    None => None,
                };
                // A row that came around the embed stage has no vector.
                let status = status.unwrap_or(NO_VECTOR);
                if status != Status::Ok.code() {
                    values.resize((statuses.len() + 1) * dimensions, 0.0);
                }
                statuses.push(status);
            }
            let valid: NullBuffer = statuses.iter().map(|status| *status == Status::Ok.code()).collect();
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            let list = FixedSizeListArray::try_new(item, dimensions as i32, Arc::new(Float32Array::from(values)), Some(valid))
                .context(Kind::Internal, internal)?;
            columns.push(Arc::new(list));
            columns.push(Arc::new(UInt8Array::from(statuses)));
        }
        RecordBatch::try_new(Arc::clone(schema), columns).context(Kind::Internal, internal)
    }
}

/// The vectors of one shard, read forward.
struct Vectors {
    path: PathBuf,
    table: ParquetRecordBatchReader,
    rows: Vec<u64>,
    statuses: Vec<u8>,
    values: Float32Array,
    dimensions: usize,
    place: usize,
}

impl Vectors {
    fn open(path: PathBuf) -> Result<Self> {
        let table = read_table(&path, None, BATCH_ROWS)?;
        Ok(Self {
            path,
            table,
            rows: Vec::new(),
            statuses: Vec::new(),
            values: Float32Array::from(Vec::<f32>::new()),
            dimensions: 0,
            place: 0,
        })
    }

    /// Appends the vector of `row` to `values` if it is sound; gives its status, `None` if the row has none. Rows are asked for
    /// in rising order.
    fn read(&mut self, row: u64, values: &mut Vec<f32>) -> Result<Option<u8>> {
        loop {
            while let Some(at) = self.rows.get(self.place) {
                if *at >= row {
                    if *at > row {
                        return Ok(None);
                    }
                    let status = self.statuses.get(self.place).copied().unwrap_or(NO_VECTOR);
                    if status == Status::Ok.code() {
                        let from = self.place * self.dimensions;
                        values.extend_from_slice(&self.values.values()[from..from + self.dimensions]);
                    }
                    return Ok(Some(status));
                }
                self.place += 1;
            }
            let Some(batch) = self.table.next() else { return Ok(None) };
            let batch = batch.map_err(|error| unreadable(&self.path, error))?;
            self.rows = batch.column(0).as_primitive::<UInt64Type>().values().to_vec();
            self.dimensions = vectors::dimensions(batch.column(1).data_type()).unwrap_or(0);
            self.values = vectors::values(batch.column(1))?;
            self.statuses = batch.column(2).as_primitive::<UInt8Type>().values().to_vec();
            self.place = 0;
        }
    }
}
