//! Every hard bound of the program, named. A message that meets one names it, and the flag that moves it where there is one.

/// Shards in one corpus: a shard ordinal has 24 bits.
pub const MAX_SHARDS: u64 = 1 << 24;
/// Rows in one shard: a row number has 40 bits.
pub const MAX_ROWS_PER_SHARD: u64 = 1 << 40;

/// Bytes of a pipeline file.
pub const MAX_PIPELINE_BYTES: usize = 1 << 20;
/// Nesting of a pipeline file.
pub const MAX_PIPELINE_DEPTH: usize = 32;
/// Nodes (scalars, lists and maps) of a pipeline file, aliases expanded.
pub const MAX_PIPELINE_NODES: usize = 20_000;
/// Aliases in a pipeline file.
pub const MAX_PIPELINE_ALIASES: usize = 64;
/// Words and signs of one SQL expression.
pub const MAX_SQL_TOKENS: usize = 10_000;
/// Nesting of one SQL expression; each operator of a chain such as `a OR b OR c` is a level.
pub const MAX_SQL_DEPTH: usize = 250;
/// Stages in one pipeline.
pub const MAX_STAGES: usize = 256;
/// Letters of a stage or source id.
pub const MAX_ID_LENGTH: usize = 64;

/// Columns in one shard, nested leaves counted.
pub const MAX_COLUMNS: usize = 10_000;
/// Row groups in one shard.
pub const MAX_ROW_GROUPS: usize = 1 << 20;
/// Uncompressed bytes of one row group.
pub const MAX_ROW_GROUP_BYTES: i64 = 8 << 30;
/// Bytes of a shard's footer.
pub const MAX_FOOTER_BYTES: usize = 256 << 20;

/// Bytes of a model file.
pub const MAX_MODEL_BYTES: u64 = 2 << 30;
/// Bytes of a tokenizer file.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Dimensions of an embedding.
pub const MAX_DIMENSIONS: usize = 16_384;
/// Rows in one window of an embedding stage: windows are cut by row number alone, so that no thread count moves a bit.
pub const EMBED_WINDOW_ROWS: usize = 4_096;

/// Texts that `pairs` and `why` print at most, in characters a text.
pub const MAX_SHOWN_CHARACTERS: usize = 2_000;

/// Bands of a signature, and values of a band.
pub const MAX_BANDS: i64 = 4_096;
/// Values of a signature: `bands` x `rows`.
pub const MAX_PERMUTATIONS: i64 = 16_384;
/// Units of a shingle.
pub const MAX_SHINGLE: i64 = 1_000;
/// Kept rows of one bucket that later rows look at.
pub const MAX_BUCKET_ROWS: usize = 1_024;
/// Kept rows that one row is compared with, those that share most bands first.
pub const MAX_COMPARED_ROWS: usize = 128;
/// Cells whose rows a row is compared with.
pub const MAX_PROBE: i64 = 1_024;
/// Rows that a barrier asks the source for.
pub const MAX_NAMED_ROWS: usize = u32::MAX as usize;
