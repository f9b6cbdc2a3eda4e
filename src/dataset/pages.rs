//! Page headers of a column chunk, read by a small bounded parser of the Thrift compact protocol (parquet-format,
//! `PageHeader`; thrift-compact-protocol.md). The Parquet crate allocates what a page header claims before it checks the
//! claim; walking the headers first keeps a crafted one from being believed, and tells which pages can be copied as they are.

use parquet::file::metadata::ColumnChunkMetaData;

use crate::error::{Error, Result};
use crate::storage::local::ShardFile;

/// Bytes of one page header: it holds statistics, whose values the writer may not have cut.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Structs inside one another in a page header.
const MAX_HEADER_DEPTH: usize = 8;

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// The dictionary of the chunk.
    Dictionary,
    /// Values, levels compressed with them.
    Data,
    /// Values, levels before them and not compressed.
    DataV2,
    /// A page that readers skip.
    Other,
}

/// One page of a column chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// What it holds.
    pub kind: PageKind,
    /// Where its header starts in the file.
    pub offset: u64,
    /// Bytes of the header.
    pub header_bytes: u64,
    /// Bytes of the page after the header.
    pub compressed_bytes: u64,
    /// Bytes of the page when decompressed.
    pub uncompressed_bytes: u64,
    /// Values, nulls included (entries for a dictionary).
    pub values: u64,
    /// How values are encoded, as the format numbers encodings.
    pub encoding: i32,
    /// How version 1 definition levels are encoded.
    pub definition_encoding: i32,
    /// Rows, where the header says so (version 2).
    pub rows: Option<u64>,
    /// Nulls, where the header says so (version 2).
    pub nulls: Option<u64>,
}

impl Page {
    /// Header and content together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.header_bytes + self.compressed_bytes
    }

    /// Whether values stand one after another as they are (encoding 0, `PLAIN`).
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.encoding == 0
    }

    /// Whether values are indexes into the dictionary page (encodings 2 and 8, `PLAIN_DICTIONARY` and `RLE_DICTIONARY`).
    #[must_use]
    pub fn is_dictionary_encoded(&self) -> bool {
        matches!(self.encoding, 2 | 8)
    }

    /// Whether it holds values.
    #[must_use]
    pub fn is_data(&self) -> bool {
        matches!(self.kind, PageKind::Data | PageKind::DataV2)
    }
}

/// The pages of a chunk and whether they add up to what the footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// In file order.
    pub pages: Vec<Page>,
    /// Sizes and value counts are exactly those of the footer, and there is at most one dictionary page, which comes first.
    pub adds_up: bool,
}

/// Walks the page headers of a chunk whose place the footer check has accepted.
///
/// # Errors
/// Kind input when a header cannot be read or a page leaves the chunk; `place` names shard, row group and column.
pub fn walk(file: &ShardFile, chunk: &ColumnChunkMetaData, place: &dyn Fn() -> String) -> Result<Walked> {
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    let mut offset = start as u64;
    let end = offset + chunk.compressed_size() as u64;
    let mut window = Window { file, start: 0, bytes: vec![] };
    let mut pages: Vec<Page> = vec![];
    while offset < end {
        let page = window.header(offset, end).map_err(|problem| Error::input(format!("damaged page header {} ({problem})", place())))?;
        if page.total_bytes() > end - offset {
            return Err(Error::input(format!("page leaves its column chunk {} offset=`{offset}`", place())));
        }
        // A page may shrink a thousandfold; what is small when decompressed may shrink as it likes.
        if page.uncompressed_bytes > super::preflight::SMALL_BYTES
            && page.uncompressed_bytes / super::preflight::MAX_COMPRESSION_RATIO > page.compressed_bytes
        {
            return Err(Error::input(format!(
                "page claims to decompress {} times its size {} offset=`{offset}`",
                page.uncompressed_bytes / page.compressed_bytes.max(1),
                place()
            )));
        }
        offset += page.total_bytes();
        pages.push(page);
    }
    let values: u64 = pages.iter().filter(|page| page.is_data()).map(|page| page.values).sum();
    let uncompressed: u64 = pages.iter().map(|page| page.header_bytes + page.uncompressed_bytes).sum();
    let dictionary_first = pages.iter().skip(1).all(|page| page.kind != PageKind::Dictionary);
    let known = pages.iter().all(|page| page.kind != PageKind::Other);
    let data_offset = pages.iter().find(|page| page.kind != PageKind::Dictionary).map(|page| page.offset);
    let adds_up = values == chunk.num_values() as u64
        && uncompressed == chunk.uncompressed_size() as u64
        && dictionary_first
        && known
        && data_offset == Some(chunk.data_page_offset() as u64)
        && chunk.dictionary_page_offset().is_some() == pages.first().is_some_and(|page| page.kind == PageKind::Dictionary);
    Ok(Walked { pages, adds_up })
}

/// Bytes of the file around the place where a header is looked for.
struct Window<'a> {
    file: &'a ShardFile,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn header(&mut self, offset: u64, end: u64) -> Result<Page, String> {
        let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(MAX_HEADER_BYTES);
        let mut wanted = room.min(1 << 10);
        loop {
            let inside = offset.checked_sub(self.start).and_then(|skip| self.bytes.get(usize::try_from(skip).ok()?..));
            let bytes = if let Some(bytes) = inside.filter(|bytes| bytes.len() >= wanted) {
                bytes
            } else {
                self.bytes.resize(wanted, 0);
                self.start = offset;
                self.file.read_exact_at(&mut self.bytes, offset).map_err(|error| error.to_string())?;
                &self.bytes
            };
            match parse(bytes, offset) {
                Err(Problem::Short) if wanted < room => wanted = (wanted * 8).min(room),
                Err(Problem::Short) => return Err("it does not end inside its column chunk".into()),
                Err(Problem::Malformed(what)) => return Err(what.into()),
                Ok(page) => return Ok(page),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Short,
    Malformed(&'static str),
}

/// Reads one page header from the start of `bytes`.
fn parse(bytes: &[u8], offset: u64) -> Result<Page, Problem> {
    let mut input = Compact { bytes, at: 0 };
    let mut kind = None;
    let (mut uncompressed, mut compressed) = (None, None);
    let mut inner = Inner::default();
    input.structure(0, &mut |input, field, kind_of| {
        match (field, kind_of) {
            (1, 5) => kind = Some(input.int()?),
            (2, 5) => uncompressed = Some(input.size()?),
            (3, 5) => compressed = Some(input.size()?),
            (5, 12) => inner.read(input, Layout::Data)?,
            (7, 12) => inner.read(input, Layout::Dictionary)?,
            (8, 12) => inner.read(input, Layout::DataV2)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let kind = match (kind, inner.layout) {
        (Some(0), Some(Layout::Data)) => PageKind::Data,
        (Some(2), Some(Layout::Dictionary)) => PageKind::Dictionary,
        (Some(3), Some(Layout::DataV2)) => PageKind::DataV2,
        (Some(1), _) => PageKind::Other,
        _ => return Err(Problem::Malformed("its type and its fields disagree")),
    };
    let (Some(uncompressed_bytes), Some(compressed_bytes)) = (uncompressed, compressed) else {
        return Err(Problem::Malformed("it has no size"));
    };
    Ok(Page {
        kind,
        offset,
        header_bytes: input.at as u64,
        compressed_bytes,
        uncompressed_bytes,
        values: inner.values,
        encoding: inner.encoding,
        definition_encoding: inner.definition_encoding,
        rows: inner.rows,
        nulls: inner.nulls,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Data,
    Dictionary,
    DataV2,
}

#[derive(Debug, Default)]
struct Inner {
    layout: Option<Layout>,
    values: u64,
    encoding: i32,
    definition_encoding: i32,
    rows: Option<u64>,
    nulls: Option<u64>,
}

impl Inner {
    fn read(&mut self, input: &mut Compact<'_>, layout: Layout) -> Result<(), Problem> {
        self.layout = Some(layout);
        input.structure(1, &mut |input, field, kind| {
            match (layout, field, kind) {
                (_, 1, 5) => self.values = input.size()?,
                (Layout::Data | Layout::Dictionary, 2, 5) | (Layout::DataV2, 4, 5) => self.encoding = input.int()?,
                (Layout::Data, 3, 5) => self.definition_encoding = input.int()?,
                (Layout::DataV2, 2, 5) => self.nulls = Some(input.size()?),
                (Layout::DataV2, 3, 5) => self.rows = Some(input.size()?),
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

/// A reader of the compact protocol; field types: 1 and 2 are true and false, 3 a byte, 4 to 6 integers, 7 a double, 8 bytes,
/// 9 and 10 lists, 11 a map, 12 a struct.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Compact<'_> {
    fn byte(&mut self) -> Result<u8, Problem> {
        let byte = *self.bytes.get(self.at).ok_or(Problem::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_bytes(&mut self, count: u64) -> Result<(), Problem> {
        let left = (self.bytes.len() - self.at) as u64;
        if count > left {
            return Err(Problem::Short);
        }
        self.at += count as usize;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Problem::Malformed("a number is too long"))
    }

    fn int(&mut self) -> Result<i32, Problem> {
        let raw = self.varint()?;
        let value = ((raw >> 1) as i64) ^ -((raw & 1) as i64);
        i32::try_from(value).map_err(|_| Problem::Malformed("a number is too large"))
    }

    fn size(&mut self) -> Result<u64, Problem> {
        u64::try_from(self.int()?).map_err(|_| Problem::Malformed("a size is negative"))
    }

    /// Reads fields up to the stop byte; `known` answers whether it read the field, else it is skipped.
    fn structure(&mut self, depth: usize, known: &mut dyn FnMut(&mut Self, i64, u8) -> Result<bool, Problem>) -> Result<(), Problem> {
        if depth > MAX_HEADER_DEPTH {
            return Err(Problem::Malformed("it is nested too deep"));
        }
        let mut field = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => i64::from(self.int()?),
                delta => field + i64::from(delta),
            };
            let kind = head & 0x0f;
            if !known(self, field, kind)? {
                self.skip(kind, depth)?;
            }
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<(), Problem> {
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip_bytes(8),
            8 => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            12 => self.structure(depth + 1, &mut |_, _, _| Ok(false)),
            _ => Err(Problem::Malformed("a field has no known type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_and_unknown_fields_are_skipped() {
        // type = 0, uncompressed = 100, compressed = 60, crc = 1, data_page_header{values 5, PLAIN, RLE, RLE, statistics{2: bytes}}
        let bytes = [
            0x15, 0x00, 0x15, 0xc8, 0x01, 0x15, 0x78, 0x15, 0x02, 0x1c, 0x15, 0x0a, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0x1c, 0x28, 0x02,
            b'a', b'b', 0x00, 0x00, 0x00, 0xff,
        ];
        let page = parse(&bytes, 7).unwrap();
        assert_eq!((page.kind, page.offset, page.header_bytes), (PageKind::Data, 7, 26));
        assert_eq!((page.uncompressed_bytes, page.compressed_bytes, page.values, page.definition_encoding), (100, 60, 5, 3));
        for length in 0..26 {
            assert_eq!(parse(&bytes[..length], 0), Err(Problem::Short));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let header_bytes = parse(&bytes, 0).map_or(0, |page| page.header_bytes as usize);
            prop_assert!(header_bytes <= bytes.len());
        }
    }
}
