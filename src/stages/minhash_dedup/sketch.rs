//! The features: band keys of each row in the first scan, shingles of the rows that the barrier names.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, ListBuilder, RecordBatch, UInt64Builder};
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, SchemaRef};

use super::{MinhashDedupConfig, Preset, Verify};
use crate::dataset::schema::text_values;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::Fingerprint;
use crate::sketch::{Family, Sketcher, to_set};
use crate::stages::carry::OrderKey;
use crate::stages::columns::{cast_strictly, column, row_column, row_schema};
use crate::stages::seam::{RowLocal, ScanContext};
use crate::text::shingle::{ShingleHash, Shingler};

/// Band keys of a row, 8 bytes each, little-endian; null for a row without shingles.
pub(super) const KEYS: &str = "keys";
/// The signature of a row, 4 bytes a value, little-endian; zeros for a row without shingles.
pub(super) const SIGNATURE: &str = "signature";
/// The set of shingle hashes of a row, ascending.
const SHINGLES: &str = "shingles";

/// Makes the shingles that the configuration asks for.
fn shingler(config: &MinhashDedupConfig) -> Shingler {
    match config.preset {
        Some(Preset::Datatrove) => Shingler::datatrove(5),
        Some(Preset::DataPrepKit) => Shingler::data_prep_kit(5),
        None => {
            let steps: Vec<_> = config.normalize.iter().map(|step| step.step()).collect();
            Shingler::new(&steps, config.shingle, ShingleHash::Trommel)
        }
    }
}

fn sketcher(config: &MinhashDedupConfig) -> Sketcher {
    let permutations = config.permutations();
    let family = match config.preset {
        Some(Preset::Datatrove) => Family::Datatrove { permutations, seed: 1 },
        Some(Preset::DataPrepKit) => Family::DataPrepKit { permutations, seed: 42 },
        None => Family::Trommel { permutations, seed: config.seed },
    };
    family.sketcher(config.layout())
}

/// Makes the band keys of each row, and what else the barrier sees of it.
pub(super) struct Sketch {
    text: usize,
    within: Option<usize>,
    order: Option<OrderKey>,
    row: usize,
    output: SchemaRef,
    shingler: Shingler,
    sketcher: Sketcher,
    bands: usize,
    /// Values of a signature where it is kept.
    signature: Option<usize>,
    shingles: Vec<u64>,
    keys: Vec<u64>,
}

impl Sketch {
    pub(super) fn try_new(config: &MinhashDedupConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let text = column(cx, &config.column)?;
        let within = config.within.as_ref().map(|name| column(cx, name)).transpose()?;
        if let Some(field) = within
            .map(|index| cx.schema.field(index))
            .filter(|field| field.data_type().is_nested() && !matches!(field.data_type(), DataType::Dictionary(..)))
        {
            return Err(Error::input(format!(
                "rows cannot be told apart by a nested column stage=`{}` within=`{}`",
                cx.stage,
                field.name()
            ))
            .hint("name a column of text, numbers or times"));
        }
        let bands = config.bands as usize;
        let mut fields = vec![ArrowField::new(KEYS, DataType::FixedSizeBinary(8 * bands as i32), true)];
        let signature = (config.verify == Verify::Estimate).then(|| config.permutations());
        if let Some(permutations) = signature {
            fields.push(ArrowField::new(SIGNATURE, DataType::FixedSizeBinary(4 * permutations as i32), false));
        }
        let order = OrderKey::try_new(&config.keep, cx)?;
        let order = order.map(|(order, field)| {
            fields.push(field);
            order
        });
        Ok(Self {
            text,
            within,
            order,
            row: row_column(cx)?,
            output: row_schema(&fields.into()),
            shingler: shingler(config),
            sketcher: sketcher(config),
            bands,
            signature,
            shingles: Vec::new(),
            keys: Vec::new(),
        })
    }
}

impl RowLocal for Sketch {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let internal = || "cannot build band keys".to_owned();
        let texts = text_values(batch.column(self.text).as_ref())?;
        let groups = self.within.map(|index| cast_strictly(batch.column(index), &DataType::Utf8)).transpose()?;
        let groups = groups.as_ref().map(|array| text_values(array.as_ref())).transpose()?;
        let rows = batch.num_rows();
        let mut keys = FixedSizeBinaryBuilder::with_capacity(rows, 8 * self.bands as i32);
        let mut signatures = self.signature.map(|permutations| FixedSizeBinaryBuilder::with_capacity(rows, 4 * permutations as i32));
        let mut bytes = Vec::new();
        for row in 0..rows {
            match texts.get(row) {
                Some(text) => self.shingler.shingles(text, &mut self.shingles),
                None => self.shingles.clear(),
            }
            let found = self.sketcher.keys(&self.shingles, &mut self.keys);
            if found {
                if let Some(groups) = &groups {
                    confine(&mut self.keys, groups.get(row));
                }
                bytes.clear();
                bytes.extend(self.keys.iter().flat_map(|key| key.to_le_bytes()));
                keys.append_value(&bytes).context(Kind::Internal, internal)?;
            } else {
                keys.append_null();
            }
            if let (Some(signatures), Some(permutations)) = (&mut signatures, self.signature) {
                bytes.clear();
                if found {
                    bytes.extend(self.sketcher.signature().iter().take(permutations).flat_map(|value| value.to_le_bytes()));
                }
                bytes.resize(4 * permutations, 0);
                signatures.append_value(&bytes).context(Kind::Internal, internal)?;
            }
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::clone(batch.column(self.row)), Arc::new(keys.finish())];
        if let Some(mut signatures) = signatures {
            columns.push(Arc::new(signatures.finish()));
        }
        if let Some(order) = &self.order {
            columns.push(order.values(batch, texts.iter().map(|text| text.map_or(0, str::len)))?);
        }
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, internal)
    }
}

/// Makes keys of rows that differ in `group` differ; nulls are a group of their own.
fn confine(keys: &mut [u64], group: Option<&str>) {
    let hash = Fingerprint::new("trommel within").number(u64::from(group.is_some())).part(group.unwrap_or("")).finish();
    let mut low = [0; 8];
    low.copy_from_slice(&hash.as_bytes()[..8]);
    let low = u64::from_le_bytes(low);
    // The keys are hashes already: another bijection for each group.
    for key in keys {
        *key ^= low;
    }
}

/// Makes the shingles of the rows that the barrier names.
pub(super) struct Shingles {
    text: usize,
    row: usize,
    output: SchemaRef,
    shingler: Shingler,
    made: Vec<u64>,
}

impl Shingles {
    pub(super) fn try_new(config: &MinhashDedupConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let item = Arc::new(ArrowField::new("item", DataType::UInt64, true));
        let fields: ArrowFields = vec![ArrowField::new(SHINGLES, DataType::List(item), false)].into();
        Ok(Self {
            text: column(cx, &config.column)?,
            row: row_column(cx)?,
            output: row_schema(&fields),
            shingler: shingler(config),
            made: Vec::new(),
        })
    }
}

impl RowLocal for Shingles {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let texts = text_values(batch.column(self.text).as_ref())?;
        let mut lists = ListBuilder::new(UInt64Builder::new());
        for text in texts.iter() {
            if let Some(text) = text {
                self.shingler.shingles(text, &mut self.made);
                to_set(&mut self.made);
                lists.values().append_slice(&self.made);
            }
            lists.append(true);
        }
        let columns: Vec<ArrayRef> = vec![Arc::clone(batch.column(self.row)), Arc::new(lists.finish())];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build shingles".into())
    }
}
