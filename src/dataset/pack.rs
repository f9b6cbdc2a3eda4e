//! Packing: which shards go into which output file, decided from counts alone.

use std::ops::Range;

use crate::dataset::snapshot::Shard;

/// One output file: consecutive shards of one schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Indexes into the list of shards that the plan was made for.
    pub shards: Range<usize>,
    /// Bytes that the file is expected to have.
    pub bytes: u64,
}

/// Cuts the shards, in their order, into packs of about `target` bytes; `kept` counts the rows that each keeps. A shard is
/// never split; a change of source or schema starts a new pack; shards that keep nothing make no pack of their own, unless no
/// row is kept at all: then the first pack stands for the schema.
#[must_use]
pub fn plan(shards: &[&Shard], kept: &[u64], target: u64) -> Vec<Pack> {
    let mut packs: Vec<(Pack, u64)> = vec![];
    for (index, (shard, kept)) in shards.iter().zip(kept).enumerate() {
        let bytes = estimate(shard, *kept);
        let joins = |(pack, _): &&mut (Pack, u64)| {
            let same = shards.get(pack.shards.start).is_some_and(|first| first.source == shard.source && first.schema == shard.schema);
            same && (pack.bytes == 0 || pack.bytes.saturating_add(bytes) <= target)
        };
        match packs.last_mut().filter(joins) {
            Some((pack, rows)) => {
                pack.shards.end = index + 1;
                pack.bytes += bytes;
                *rows += kept;
            }
            None => packs.push((Pack { shards: index..index + 1, bytes }, *kept)),
        }
    }
    if packs.iter().any(|(_, rows)| *rows > 0) {
        packs.retain(|(_, rows)| *rows > 0);
    } else {
        packs.truncate(1);
    }
    packs.into_iter().map(|(pack, _)| pack).collect()
}

/// Bytes that a shard's kept rows are expected to take: its share of the compressed bytes.
fn estimate(shard: &Shard, kept: u64) -> u64 {
    let bytes: u64 = shard.row_groups.iter().map(|group| group.compressed_bytes).sum();
    (u128::from(bytes) * u128::from(kept)).checked_div(u128::from(shard.rows)).unwrap_or(0) as u64
}
