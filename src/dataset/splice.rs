//! Pruning one flat column of texts or bytes without decoding it to Arrow: its pages are decompressed, the values of the kept
//! rows are moved to new plain pages, and a page that loses no row is copied compressed as it is.
//!
//! This is for columns whose values hardly repeat (documents, ids): writing them plain is smaller and faster than a dictionary
//! of all of them. A dictionary page is never copied, for it would carry the values of dropped rows on.

use std::sync::Arc;

use arrow::buffer::BooleanBuffer;
use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Encoding, LogicalType, PageType, Type as PhysicalType, ZstdLevel};
use parquet::column::page::{CompressedPage, Page as DecodedPage, PageReader, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};

use crate::dataset::pages::{Page, PageKind};
use crate::dataset::read_error;
use crate::dataset::reader::ShardReader;
use crate::error::{Context, Error, Kind, Result};
use crate::limits::MAX_ROW_GROUP_BYTES;

/// Bytes of values at which a page is closed.
pub const PAGE_BYTES: usize = 1 << 20;
/// Longest value that stands in the statistics.
const MAX_STATISTICS_BYTES: usize = 64;

/// A column chunk ready to be appended.
#[derive(Debug)]
pub struct Spliced {
    /// The pages.
    pub bytes: Bytes,
    /// Their metadata; offsets count from the start of `bytes`.
    pub close: ColumnCloseResult,
    /// Bytes of pages that were copied as they were.
    pub copied: u64,
}

/// Prunes column chunks one after another at one zstd level. It keeps the compressor between them, for making one costs as
/// much as a small page.
pub struct Splicer {
    level: i32,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Splicer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Splicer").finish_non_exhaustive()
    }
}

/// Whether a column can be pruned this way: byte arrays, not nested, pages plain or dictionary encoded, levels run-length
/// encoded.
#[must_use]
pub fn applies(column: &ColumnDescriptor, pages: &[Page]) -> bool {
    column.physical_type() == PhysicalType::BYTE_ARRAY
        && column.max_rep_level() == 0
        && column.max_def_level() <= 1
        && pages.iter().skip(1).all(|page| page.kind != PageKind::Dictionary)
        && pages.iter().all(|page| match page.kind {
            PageKind::Dictionary => page.is_plain() || page.encoding == 2,
            // 3 is RLE; the older bit-packed levels are left to the decoder.
            PageKind::Data => {
                (page.is_plain() || page.is_dictionary_encoded()) && (column.max_def_level() == 0 || page.definition_encoding == 3)
            }
            PageKind::DataV2 => page.is_plain() || page.is_dictionary_encoded(),
            PageKind::Other => false,
        })
}

impl Splicer {
    /// A splicer for this zstd level.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self { level, compressor: None }
    }

    /// Prunes one column chunk: `keep` has a bit for each row of the row group.
    ///
    /// # Errors
    /// Kind input when the pages are not what their headers say (`place` names shard, row group and column), kind resources when
    /// the values are larger than a row group may be.
    pub fn splice(
        &mut self,
        reader: &ShardReader,
        chunk: &ColumnChunkMetaData,
        column: &ColumnDescPtr,
        pages: &[Page],
        keep: &BooleanBuffer,
        place: &dyn Fn() -> String,
    ) -> Result<Spliced> {
        let damaged = |what: &str| Error::input(format!("damaged shard {}", place())).caused_by(what.to_owned());
        let mut decoder =
            SerializedPageReader::new(Arc::new(reader.clone()), chunk, keep.len(), None).map_err(|error| read_error(error, &place()))?;
        let level = self.level;
        let compressor = match self.compressor.take() {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(level).context(Kind::Internal, || format!("no zstd level={level}"))?,
        };
        let mut output = Output::new(column, level, compressor, place);
        let mut dictionary: Option<Dictionary> = None;
        let same_codec = matches!(chunk.compression(), Compression::ZSTD(_));
        let mut row = 0_usize;
        for page in pages {
            let rows = page.values as usize;
            if page.is_data() && row + rows > keep.len() {
                return Err(damaged("pages hold more rows than the row group"));
            }
            let kept = if page.is_data() { keep.slice(row, rows) } else { BooleanBuffer::new_unset(0) };
            let count = kept.count_set_bits();
            if page.is_data() {
                row += rows;
                let whole = count == rows && page.is_plain() && same_codec;
                if count == 0 || whole {
                    decoder.skip_next_page().map_err(|error| read_error(error, &place()))?;
                    if whole && rows > 0 {
                        output.copy(reader, page, column.max_def_level() == 0)?;
                    }
                    continue;
                }
            }
            let content =
                decoder.get_next_page().map_err(|error| read_error(error, &place()))?.ok_or_else(|| damaged("a page is missing"))?;
            match content {
                DecodedPage::DictionaryPage { buf, num_values, .. } => {
                    dictionary = Some(Dictionary::read(buf, num_values as usize).ok_or_else(|| damaged("dictionary ends early"))?);
                }
                DecodedPage::DataPage { buf, num_values, .. } if num_values as usize == rows => {
                    let (levels, values) = if column.max_def_level() == 0 {
                        (None, buf)
                    } else {
                        let length =
                            read_length(&buf, 0).filter(|length| length + 4 <= buf.len()).ok_or_else(|| damaged("levels end early"))?;
                        (Some(buf.slice(4..4 + length)), buf.slice(4 + length..))
                    };
                    output.add(page, levels, &values, dictionary.as_ref(), &kept)?;
                }
                DecodedPage::DataPageV2 { buf, num_values, def_levels_byte_len, rep_levels_byte_len, .. }
                    if num_values as usize == rows =>
                {
                    let repetition = rep_levels_byte_len as usize;
                    let definition = repetition + def_levels_byte_len as usize;
                    if definition > buf.len() {
                        return Err(damaged("levels end early"));
                    }
                    let levels = (column.max_def_level() > 0).then(|| buf.slice(repetition..definition));
                    output.add(page, levels, &buf.slice(definition..), dictionary.as_ref(), &kept)?;
                }
                _ => return Err(damaged("page and page header disagree")),
            }
        }
        if row != keep.len() {
            return Err(damaged("pages hold fewer rows than the row group"));
        }
        let (spliced, compressor) = output.finish(column)?;
        self.compressor = Some(compressor);
        Ok(spliced)
    }
}

/// The entries of a dictionary page.
struct Dictionary {
    bytes: Bytes,
    /// Where each entry's value starts and ends.
    entries: Vec<(usize, usize)>,
}

impl Dictionary {
    fn read(bytes: Bytes, count: usize) -> Option<Self> {
        // Each entry has four bytes of length, so that a claimed count cannot be believed into a large allocation.
        let mut entries = Vec::with_capacity(count.min(bytes.len() / 4));
        let mut at = 0_usize;
        for _ in 0..count {
            let start = at + 4;
            let end = start.checked_add(read_length(&bytes, at)?).filter(|end| *end <= bytes.len())?;
            entries.push((start, end));
            at = end;
        }
        Some(Self { bytes, entries })
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let (start, end) = *self.entries.get(index as usize)?;
        self.bytes.get(start..end)
    }
}

fn read_length(bytes: &[u8], at: usize) -> Option<usize> {
    let raw: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_le_bytes(raw) as usize)
}

/// Decodes `count` numbers of the run-length and bit-packing hybrid (parquet-format, Encodings.md, `RLE`).
fn decode_hybrid(bytes: &[u8], width: u32, count: usize) -> Option<Vec<u32>> {
    if width > 32 {
        return None;
    }
    let mut numbers = Vec::with_capacity(count);
    let mut at = 0;
    while numbers.len() < count {
        let mut head = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = *bytes.get(at)?;
            at += 1;
            head |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            if shift == 28 {
                return None;
            }
        }
        let left = count - numbers.len();
        let run = (head >> 1) as usize;
        if head & 1 == 0 {
            let value_bytes = width.div_ceil(8) as usize;
            let mut value = 0_u32;
            for (index, byte) in bytes.get(at..at + value_bytes)?.iter().enumerate() {
                value |= u32::from(*byte) << (8 * index);
            }
            at += value_bytes;
            if run == 0 {
                return None;
            }
            numbers.resize(numbers.len() + run.min(left), value);
        } else {
            let packed_bytes = run.checked_mul(width as usize)?;
            let take = left.min(run.saturating_mul(8));
            // The last run of a page may be cut after the bytes that are needed.
            let packed = bytes.get(at..bytes.len().min(at.saturating_add(packed_bytes)))?;
            if (packed.len() as u64) * 8 < take as u64 * u64::from(width) || run == 0 {
                return None;
            }
            let (mut window, mut bits, mut next) = (0_u64, 0_u32, packed.iter());
            let mask = (1_u64 << width) - 1;
            for _ in 0..take {
                while bits < width {
                    window |= u64::from(*next.next()?) << bits;
                    bits += 8;
                }
                numbers.push((window & mask) as u32);
                window >>= width;
                bits -= width;
            }
            at += packed.len();
        }
    }
    Some(numbers)
}

/// The chunk that is being made.
struct Output<'a> {
    sink: TrackedWrite<Vec<u8>>,
    compressor: zstd::bulk::Compressor<'static>,
    level: i32,
    optional: bool,
    /// Length-prefixed values of the page in progress.
    values: Vec<u8>,
    /// One bit a row of the page in progress: whether it has a value.
    valid: Vec<bool>,
    rows: u64,
    pages: i32,
    uncompressed: u64,
    copied: u64,
    /// Values seen in all, in bytes.
    total: u64,
    nulls: Option<u64>,
    /// Least and greatest value, as long as every page was seen.
    bounds: Bounds,
    place: &'a dyn Fn() -> String,
}

/// Least and greatest value so far, as ranges of nothing, a value each, or unknown.
enum Bounds {
    Empty,
    Known(Vec<u8>, Vec<u8>),
    Unknown,
}

impl Bounds {
    fn add(&mut self, value: &[u8]) {
        match self {
            Self::Empty => *self = Self::Known(value.to_vec(), value.to_vec()),
            Self::Known(low, high) => {
                if value < low.as_slice() {
                    low.clear();
                    low.extend_from_slice(value);
                } else if value > high.as_slice() {
                    high.clear();
                    high.extend_from_slice(value);
                }
            }
            Self::Unknown => {}
        }
    }
}

impl<'a> Output<'a> {
    fn new(column: &ColumnDescPtr, level: i32, compressor: zstd::bulk::Compressor<'static>, place: &'a dyn Fn() -> String) -> Self {
        // The order of decimals is not that of their bytes.
        let decimal =
            matches!(column.logical_type_ref(), Some(LogicalType::Decimal { .. })) || column.converted_type() == ConvertedType::DECIMAL;
        Self {
            sink: TrackedWrite::new(vec![]),
            compressor,
            level,
            optional: column.max_def_level() > 0,
            values: vec![],
            valid: vec![],
            rows: 0,
            pages: 0,
            uncompressed: 0,
            copied: 0,
            total: 0,
            nulls: Some(0),
            bounds: if decimal { Bounds::Unknown } else { Bounds::Empty },
            place,
        }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::input(format!("damaged shard {}", (self.place)())).caused_by(what.to_owned())
    }

    /// Copies a page, header and all.
    fn copy(&mut self, reader: &ShardReader, page: &Page, required: bool) -> Result<()> {
        use std::io::Write as _;
        self.flush()?;
        let mut bytes = vec![0_u8; page.total_bytes() as usize];
        reader.file().read_exact_at(&mut bytes, page.offset).context(Kind::Storage, || format!("cannot read shard {}", (self.place)()))?;
        self.sink.write_all(&bytes).context(Kind::Internal, || "cannot write to memory".into())?;
        self.nulls = match (self.nulls, page.nulls) {
            (Some(so_far), Some(more)) => Some(so_far + more),
            (Some(so_far), None) if required => Some(so_far),
            _ => None,
        };
        self.bounds = Bounds::Unknown;
        self.uncompressed += page.header_bytes + page.uncompressed_bytes;
        self.copied += page.total_bytes();
        self.rows += page.values;
        self.pages += 1;
        Ok(())
    }

    /// Adds the kept rows of a decompressed page.
    fn add(
        &mut self,
        page: &Page,
        levels: Option<Bytes>,
        values: &[u8],
        dictionary: Option<&Dictionary>,
        kept: &BooleanBuffer,
    ) -> Result<()> {
        let rows = kept.len();
        let valid = match levels {
            Some(levels) => Some(decode_hybrid(&levels, 1, rows).ok_or_else(|| self.damaged("levels end early"))?),
            None => None,
        };
        let present = valid.as_ref().map_or(rows, |valid| valid.iter().filter(|level| **level == 1).count());
        let is_valid = |row: usize| valid.as_ref().is_none_or(|valid| valid.get(row) == Some(&1));
        if page.is_plain() {
            let mut at = 0;
            for row in 0..rows {
                if !is_valid(row) {
                    if kept.value(row) {
                        self.null()?;
                    }
                    continue;
                }
                let end = read_length(values, at).and_then(|length| (at + 4).checked_add(length));
                let value = end.and_then(|end| values.get(at + 4..end)).ok_or_else(|| self.damaged("values end early"))?;
                at += 4 + value.len();
                if kept.value(row) {
                    self.value(value)?;
                }
            }
        } else {
            let dictionary = dictionary.ok_or_else(|| self.damaged("dictionary is missing"))?;
            let indexes = match values.split_first() {
                Some((width, packed)) => decode_hybrid(packed, u32::from(*width), present),
                None if present == 0 => Some(vec![]),
                None => None,
            };
            let mut indexes = indexes.ok_or_else(|| self.damaged("indexes end early"))?.into_iter();
            for row in 0..rows {
                if !is_valid(row) {
                    if kept.value(row) {
                        self.null()?;
                    }
                    continue;
                }
                let index = indexes.next().ok_or_else(|| self.damaged("indexes end early"))?;
                if kept.value(row) {
                    let value = dictionary.get(index).ok_or_else(|| self.damaged("index beyond the dictionary"))?;
                    self.value(value)?;
                }
            }
        }
        Ok(())
    }

    fn null(&mut self) -> Result<()> {
        if !self.optional {
            return Err(self.damaged("null in a column that has none"));
        }
        self.valid.push(false);
        self.nulls = self.nulls.map(|nulls| nulls + 1);
        Ok(())
    }

    fn value(&mut self, value: &[u8]) -> Result<()> {
        if !self.values.is_empty() && self.values.len() + value.len() > PAGE_BYTES {
            self.flush()?;
        }
        let length = u32::try_from(value.len()).map_err(|_| self.damaged("value too long"))?;
        self.values.extend_from_slice(&length.to_le_bytes());
        self.values.extend_from_slice(value);
        self.valid.push(true);
        self.bounds.add(value);
        self.total += value.len() as u64;
        if self.total > MAX_ROW_GROUP_BYTES as u64 {
            // A few bytes of run-length code can repeat a long dictionary entry without end.
            return Err(Error::resources(format!("column too large limit=`{MAX_ROW_GROUP_BYTES}` {}", (self.place)())));
        }
        Ok(())
    }

    /// Closes the page in progress.
    fn flush(&mut self) -> Result<()> {
        if self.valid.is_empty() {
            return Ok(());
        }
        let rows = self.valid.len() as u64;
        let mut plain = vec![];
        let content: &[u8] = if self.optional {
            let levels = encode_levels(&self.valid);
            plain.reserve(4 + levels.len() + self.values.len());
            plain.extend_from_slice(&(levels.len() as u32).to_le_bytes());
            plain.extend_from_slice(&levels);
            plain.extend_from_slice(&self.values);
            &plain
        } else {
            &self.values
        };
        let compressed = self.compressor.compress(content).context(Kind::Internal, || "cannot compress".into())?;
        let page = DecodedPage::DataPage {
            buf: compressed.into(),
            num_values: rows as u32,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = SerializedPageWriter::new(&mut self.sink)
            .write_page(CompressedPage::new(page, content.len()))
            .context(Kind::Internal, || "cannot write to memory".into())?;
        self.uncompressed += spec.uncompressed_size as u64;
        self.rows += rows;
        self.pages += 1;
        self.values.clear();
        self.valid.clear();
        Ok(())
    }

    fn finish(mut self, column: &ColumnDescPtr) -> Result<(Spliced, zstd::bulk::Compressor<'static>)> {
        self.flush()?;
        let bytes: Bytes = self.sink.into_inner().context(Kind::Internal, || "cannot write to memory".into())?.into();
        let level = ZstdLevel::try_new(self.level).context(Kind::Internal, || "no such zstd level".into())?;
        let mut metadata = ColumnChunkMetaData::builder(Arc::clone(column))
            .set_compression(Compression::ZSTD(level))
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_page_encoding_stats(vec![PageEncodingStats {
                page_type: PageType::DATA_PAGE,
                encoding: Encoding::PLAIN,
                count: self.pages,
            }])
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(0)
            .set_dictionary_page_offset(None);
        if let Some(nulls) = self.nulls {
            let short = |value: Vec<u8>| (value.len() <= MAX_STATISTICS_BYTES).then(|| ByteArray::from(value));
            let (low, high) = match self.bounds {
                Bounds::Known(low, high) => (short(low), short(high)),
                Bounds::Empty | Bounds::Unknown => (None, None),
            };
            let (low, high) = if low.is_some() && high.is_some() { (low, high) } else { (None, None) };
            metadata = metadata.set_statistics(Statistics::byte_array(low, high, None, Some(nulls), false));
        }
        let metadata = metadata.build().context(Kind::Internal, || "cannot describe a column chunk".into())?;
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((Spliced { bytes, close, copied: self.copied }, self.compressor))
    }
}

/// Definition levels of at most 1 in the run-length hybrid: one run when all are alike, else bit-packed.
fn encode_levels(valid: &[bool]) -> Vec<u8> {
    let mut bytes = vec![];
    let all = valid.iter().all(|valid| *valid);
    if all || valid.iter().all(|valid| !valid) {
        put_varint(&mut bytes, (valid.len() as u64) << 1);
        bytes.push(u8::from(all));
        return bytes;
    }
    put_varint(&mut bytes, ((valid.len().div_ceil(8) as u64) << 1) | 1);
    bytes.extend(valid.chunks(8).map(|eight| eight.iter().enumerate().fold(0_u8, |byte, (bit, valid)| byte | (u8::from(*valid) << bit))));
    bytes
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number as u8) | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn levels_read_back(valid in proptest::collection::vec(any::<bool>(), 1..200)) {
            let numbers = decode_hybrid(&encode_levels(&valid), 1, valid.len()).unwrap();
            prop_assert_eq!(numbers, valid.iter().map(|valid| u32::from(*valid)).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_the_hybrid_decoder_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), width in 0_u32..40, count in 0_usize..300,
        ) {
            if let Some(numbers) = decode_hybrid(&bytes, width, count) {
                prop_assert_eq!(numbers.len(), count);
            }
        }
    }

    #[test]
    fn bit_packed_numbers_come_out_in_order() {
        // Encodings.md: 0 to 7 at width 3 are 10001000 11000110 11111010.
        let bytes = [0x03, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(decode_hybrid(&bytes, 3, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(decode_hybrid(&[0x08, 0x05], 3, 4).unwrap(), [5, 5, 5, 5]);
    }
}
