//! Packing: which shards go into which output file, decided from counts alone.

use std::ops::Range;

use crate::dataset::snapshot::Shard;

/// Some consecutive row groups of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index into the list of shards that the plan was made for.
    pub shard: usize,
    /// Rows of the shard, from the first row of a row group to the last of one.
    pub rows: Range<u64>,
}

/// One output file: consecutive row groups of shards of one schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// What goes into it, in order; at least one.
    pub parts: Vec<Part>,
    /// Bytes that the file is expected to have.
    pub bytes: u64,
}

/// Cuts the row groups of the shards, in their order, into packs of about `target` bytes; `kept` counts for each shard the rows
/// that each of its row groups keeps. A row group is never split; a change of source or schema starts a new pack; row groups that
/// keep nothing make no pack of their own, unless no row is kept at all: then the first pack stands for the schema.
#[must_use]
pub fn plan(shards: &[&Shard], kept: &[Vec<u64>], target: u64) -> Vec<Pack> {
    let mut packs: Vec<(Pack, u64)> = vec![];
    for (index, (shard, kept)) in shards.iter().zip(kept).enumerate() {
        let mut first = 0;
        let groups = shard.row_groups.iter().zip(kept).map(|(group, kept)| {
            let bytes = (u128::from(group.compressed_bytes) * u128::from(*kept)).checked_div(u128::from(group.rows)).unwrap_or(0) as u64;
            let rows = first..first + group.rows;
            first = rows.end;
            (rows, *kept, bytes)
        });
        // A shard without row groups still has a schema.
        let none = shard.row_groups.is_empty().then_some((0..0, 0, 0));
        for (rows, kept, bytes) in groups.collect::<Vec<_>>().into_iter().chain(none) {
            let part = Part { shard: index, rows };
            let joins = |(pack, _): &&mut (Pack, u64)| {
                let of = pack.parts.first().and_then(|part| shards.get(part.shard));
                let same = of.is_some_and(|first| first.source == shard.source && first.schema == shard.schema);
                same && (pack.bytes == 0 || pack.bytes.saturating_add(bytes) <= target)
            };
            match packs.last_mut().filter(joins) {
                Some((pack, total)) => {
                    pack.bytes += bytes;
                    *total += kept;
                    match pack.parts.last_mut().filter(|last| last.shard == index) {
                        Some(last) => last.rows.end = part.rows.end,
                        None => pack.parts.push(part),
                    }
                }
                None => packs.push((Pack { parts: vec![part], bytes }, kept)),
            }
        }
    }
    if packs.iter().any(|(_, rows)| *rows > 0) {
        packs.retain(|(_, rows)| *rows > 0);
    } else {
        packs.truncate(1);
    }
    packs.into_iter().map(|(pack, _)| pack).collect()
}
