//! The snapshot: which shards there are, in order, and what each one is. It is taken before anything is read, and every
//! later look at a shard is checked against it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::statistics::Statistics;
use rayon::prelude::*;

use crate::dataset::preflight;
use crate::dataset::quarantine::{self, OnCorrupt, Quarantined};
use crate::dataset::reader::ShardReader;
use crate::error::{Error, Result};
use crate::ids::{ContentHash, ShardId};
use crate::limits::MAX_SHARDS;
use crate::storage::checksum::hash_shard;
use crate::storage::local::{Identity, Listed, Selection, identity, list_files, open_shard};

/// One source of the pipeline: where its shards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The source's name.
    pub name: String,
    /// The URI as written, for messages.
    pub uri: String,
    /// The folder that the part of the URI without wildcards names.
    pub base: PathBuf,
    /// Which files below it.
    pub selection: Selection,
    /// What becomes of those that are damaged.
    pub on_corrupt: OnCorrupt,
}

/// Sizes of one row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroup {
    /// Rows.
    pub rows: u64,
    /// Bytes in the file.
    pub compressed_bytes: u64,
    /// Bytes when decompressed, still encoded.
    pub uncompressed_bytes: u64,
}

/// What the footer says of one column (with all that is nested in it) over the whole shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Bytes in the file.
    pub compressed: u64,
    /// Bytes when decompressed, still encoded.
    pub uncompressed: u64,
    /// Whether it proves that no value is null: none may be, or each row group counts none.
    pub no_nulls: bool,
}

/// A shard as the snapshot saw it.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Its place in the order of the corpus.
    pub id: ShardId,
    /// Index of its source.
    pub source: usize,
    /// Its path below the part of the URI without wildcards, parts joined with `/`.
    pub path: String,
    /// Where it is.
    pub file: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of all bytes.
    pub hash: ContentHash,
    /// Rows in the file.
    pub rows: u64,
    /// How many of them, from the first, belong to the corpus: all, unless `--limit-rows` cuts.
    pub rows_used: u64,
    /// The Arrow schema that the file is read with.
    pub schema: SchemaRef,
    /// Its row groups, in file order.
    pub row_groups: Vec<RowGroup>,
    /// What the footer says of its columns, in the order of the schema.
    pub columns: Vec<ColumnFacts>,
    /// What tells whether the file is still the same.
    pub identity: Identity,
}

/// A shard's open file with its footer.
#[derive(Debug, Clone)]
pub struct OpenShard {
    /// The file.
    pub reader: ShardReader,
    /// The checked footer.
    pub footer: ArrowReaderMetadata,
}

impl Shard {
    /// Whether the footer proves that no value of a column is null.
    #[must_use]
    pub fn has_no_nulls(&self, column: &str) -> bool {
        self.schema.index_of(column).ok().and_then(|index| self.columns.get(index)).is_some_and(|column| column.no_nulls)
    }

    /// Opens the file again and checks that it is the one of the snapshot.
    ///
    /// # Errors
    /// Kind input when it changed or cannot be read as Parquet, kind storage when it cannot be opened.
    pub fn open(&self) -> Result<OpenShard> {
        self.open_with(preflight::reader_options())
    }

    /// As [`Shard::open`], with reader options of the caller's.
    ///
    /// # Errors
    /// As [`Shard::open`].
    pub fn open_with(&self, options: ArrowReaderOptions) -> Result<OpenShard> {
        let file = open_shard(&self.file)?;
        file.check_unchanged(self.identity)?;
        let reader = ShardReader::new(file);
        let footer = preflight::load_footer(&reader, options)?;
        Ok(OpenShard { reader, footer })
    }
}

/// All shards of all sources, in the order of the corpus.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The sources, as written.
    pub sources: Vec<SourceSpec>,
    /// The shards: sources in the order written, shards by the bytes of their paths.
    pub shards: Vec<Shard>,
    /// Those that were set aside, in the same order.
    pub quarantined: Vec<Quarantined>,
}

impl Snapshot {
    /// Rows of the corpus.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.rows_used).sum()
    }

    /// Keeps only the first `rows` rows of the corpus in its order. Shards beyond stay listed, with no row used.
    pub fn limit_rows(&mut self, rows: u64) {
        let mut left = rows;
        for shard in &mut self.shards {
            shard.rows_used = shard.rows.min(left);
            left -= shard.rows_used;
        }
    }
}

/// Shards that need not be read again.
pub trait Known: Sync {
    /// Whether this file is known, by its source, its path below the source's folder, and what tells that it is the same.
    fn file(&self, source: &str, path: &str, identity: &Identity) -> bool;
    /// Whether a file of this content is known in this source: in another one other stages may see it.
    fn content(&self, source: &str, hash: &ContentHash) -> bool;
    /// Whether any shard of this source is known: then it need not have any now.
    fn source(&self, source: &str) -> bool;
}

/// As [`take`], of the shards that are not known; and how many are. Known files are neither opened nor hashed.
///
/// # Errors
/// As [`take`].
pub fn take_new(sources: &[SourceSpec], known: &dyn Known) -> Result<(Snapshot, u64)> {
    let listed = list(sources, |source| known.source(source))?;
    let all = listed.len() as u64;
    let mut unknown = Vec::new();
    for (source, file) in listed {
        let is_known = identity(&file.path)?.is_some_and(|identity| known.file(&sources[source].name, &file.relative, &identity));
        if !is_known {
            unknown.push((source, file));
        }
    }
    let (mut shards, quarantined) = look_at(sources, unknown)?;
    shards.retain(|shard| !known.content(&sources[shard.source].name, &shard.hash));
    number(&mut shards)?;
    let new = (shards.len() + quarantined.len()) as u64;
    Ok((Snapshot { sources: sources.to_vec(), shards, quarantined }, all - new))
}

fn number(shards: &mut [Shard]) -> Result<()> {
    for (ordinal, shard) in shards.iter_mut().enumerate() {
        shard.id = ShardId::try_new(ordinal).ok_or_else(too_many)?;
    }
    Ok(())
}

/// Lists, opens, checks and hashes every shard. Files are read in parallel; the result depends on their content alone.
///
/// # Errors
/// Kind input when a source has no shard (naming its pattern), when a shard is damaged or changes while it is read; kind
/// resources at a limit; kind storage when a file cannot be read.
pub fn take(sources: &[SourceSpec]) -> Result<Snapshot> {
    let (mut shards, quarantined) = look_at(sources, list(sources, |_| false)?)?;
    if let (true, Some(first)) = (shards.is_empty(), quarantined.first()) {
        return Err(Error::input(format!("every shard is damaged: {}", first.error)).hint("look at how the shards were written or copied"));
    }
    number(&mut shards)?;
    Ok(Snapshot { sources: sources.to_vec(), shards, quarantined })
}

fn too_many() -> Error {
    Error::resources(format!("too many shards limit=`{MAX_SHARDS}`"))
}

/// The files of all sources, in the order of the corpus.
fn list(sources: &[SourceSpec], may_be_empty: impl Fn(&str) -> bool) -> Result<Vec<(usize, Listed)>> {
    let mut listed = vec![];
    for (source, spec) in sources.iter().enumerate() {
        let files = list_files(&spec.base, &spec.selection).map_err(|error| error.context(format!("source `{}`", spec.name)))?;
        if files.is_empty() && !may_be_empty(&spec.name) {
            return Err(Error::input(format!("no shards source=`{}` uri=`{}`", spec.name, spec.uri))
                .hint("the pattern matches no file; a folder is searched for names that end in .parquet"));
        }
        listed.extend(files.into_iter().map(|file| (source, file)));
    }
    if listed.len() as u64 > MAX_SHARDS {
        return Err(Error::resources(format!("too many shards limit=`{MAX_SHARDS}` shards=`{}`", listed.len())));
    }
    Ok(listed)
}

fn look_at(sources: &[SourceSpec], listed: Vec<(usize, Listed)>) -> Result<(Vec<Shard>, Vec<Quarantined>)> {
    let looked: Vec<Result<std::result::Result<Shard, Quarantined>>> = listed
        .into_par_iter()
        .enumerate()
        .map(|(ordinal, (source, file))| {
            let id = ShardId::try_new(ordinal).ok_or_else(too_many)?;
            let spec = &sources[source];
            if spec.on_corrupt == OnCorrupt::Fail {
                return look(id, source, file.relative, file.path).map(Ok);
            }
            let bytes = identity(&file.path)?.map_or(0, |identity| identity.bytes);
            match look(id, source, file.relative.clone(), file.path.clone())
                .and_then(|shard| quarantine::read_whole(&shard).map(|()| shard))
            {
                Ok(shard) => Ok(Ok(shard)),
                Err(error) if quarantine::is_damage(&error) => {
                    let (rows, error) = (footer_rows(&file.path), quarantine::in_one_line(&error));
                    Ok(Err(Quarantined { source: spec.name.clone(), path: file.relative, bytes, rows, error }))
                }
                Err(error) => Err(error),
            }
        })
        .collect();
    let (mut shards, mut quarantined) = (Vec::new(), Vec::new());
    // In order, so that of several damaged shards the first is reported whatever the threads did.
    for found in looked {
        match found? {
            Ok(shard) => shards.push(shard),
            Err(aside) => quarantined.push(aside),
        }
    }
    Ok((shards, quarantined))
}

/// How many rows the footer says that a damaged file has, if it can be read.
fn footer_rows(path: &Path) -> Option<u64> {
    let reader = ShardReader::new(open_shard(path).ok()?);
    let footer = preflight::load_footer(&reader, preflight::reader_options()).ok()?;
    Some(footer.metadata().row_groups().iter().map(|group| group.num_rows() as u64).sum())
}

fn look(id: ShardId, source: usize, path: String, file: PathBuf) -> Result<Shard> {
    let reader = ShardReader::new(open_shard(&file)?);
    let identity = reader.file().identity();
    let footer = preflight::load_footer(&reader, preflight::reader_options())?;
    preflight::check_pages(footer.metadata(), reader.file())?;
    let (hash, bytes) = hash_shard(reader.file())?;
    reader.file().check_unchanged(identity)?;
    let descriptor = footer.metadata().file_metadata().schema_descr();
    let new = ColumnFacts { compressed: 0, uncompressed: 0, no_nulls: true };
    let mut columns = vec![new; descriptor.root_schema().get_fields().len()];
    for group in footer.metadata().row_groups() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if let Some(column) = columns.get_mut(descriptor.get_column_root_idx(leaf)) {
                column.compressed += chunk.compressed_size() as u64;
                column.uncompressed += chunk.uncompressed_size() as u64;
                let counted = chunk.statistics().and_then(Statistics::null_count_opt);
                column.no_nulls &= chunk.column_descr().max_def_level() == 0 || counted == Some(0);
            }
        }
    }
    let row_groups: Vec<RowGroup> = footer
        .metadata()
        .row_groups()
        .iter()
        .map(|group| RowGroup {
            rows: group.num_rows() as u64,
            compressed_bytes: group.columns().iter().map(|chunk| chunk.compressed_size() as u64).sum(),
            uncompressed_bytes: group.columns().iter().map(|chunk| chunk.uncompressed_size() as u64).sum(),
        })
        .collect();
    let rows = row_groups.iter().map(|group| group.rows).sum();
    let schema = Arc::clone(footer.schema());
    Ok(Shard { id, source, path, file, bytes, hash, rows, rows_used: rows, schema, row_groups, columns, identity })
}
