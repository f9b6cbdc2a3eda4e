//! Small files of a state made into few large ones, without the rows that are forgotten; then the files that the newest version does not
//! list are removed, so that what was forgotten is gone.

use super::kept::{Kept, Stored, remembered};
use super::segments::{SegmentWriter, checked, read, read_shards, write_shards};
use super::store::{Content, Maker, Segment, Store, Version, commit_id};
use crate::error::Result;
use crate::ids::{ContentHash, Fingerprint};

/// Rows of a file that is large enough.
const FILE_ROWS: u64 = 1 << 20;

/// Makes the version that holds the same rows in fewer files; none where there is nothing to do.
///
/// # Errors
/// Kind state where a file is damaged, kind conflict where another process was first, kind storage.
pub fn compact(store: &Store, (head, hash): &(Version, ContentHash)) -> Result<Option<Version>> {
    store.check_lengths(head)?;
    let kept = Kept::open(store, head)?;
    let number = head.version + 1;
    let mut segments = shards(store, head, number)?;
    for (stage, files) in kept.stages() {
        let forgotten = kept.forgotten(stage);
        for group in groups(files, forgotten) {
            match group {
                [alone] if !holds(alone, forgotten) => {
                    segments.extend(alone.named.iter().chain([&alone.rows]).cloned());
                }
                [Stored { first, .. }, .., Stored { last, .. }] | [Stored { first, last, .. }] => {
                    let (first, last, stage) = (*first, *last, stage.to_owned());
                    let named: Option<Vec<&Segment>> = group.iter().map(|stored| stored.named.as_ref()).collect();
                    if let Some(named) = named {
                        let content = Content::Named { stage: stage.clone(), first, last };
                        segments.extend(merge(store, &named, forgotten, content, number)?);
                    }
                    let rows: Vec<&Segment> = group.iter().map(|stored| &stored.rows).collect();
                    segments.extend(merge(store, &rows, forgotten, Content::Rows { stage, first, last }, number)?);
                }
                [] => {}
            }
        }
    }
    segments.extend(head.segments.iter().filter(|segment| matches!(segment.content, Content::Fitted { .. })).cloned());
    let same = segments.len() == head.segments.len() && segments.iter().all(|segment| head.segments.contains(segment));
    if same {
        return Ok(None);
    }
    let mut run_id = Fingerprint::new("trommel compact").part(&head.run_id);
    for segment in &segments {
        run_id = run_id.part(&segment.blake3);
    }
    let version = Version {
        version: number,
        base: Some(hash.to_string()),
        run_id: run_id.finish().to_string(),
        commit_id: commit_id(),
        made_by: Maker::Compact,
        segments,
        ..head.clone()
    };
    store.commit(&version)?;
    Ok(Some(version))
}

/// The lists of shards, as one.
fn shards(store: &Store, head: &Version, number: u64) -> Result<Vec<Segment>> {
    let lists: Vec<&Segment> = head.segments.iter().filter(|segment| segment.content == Content::Shards).collect();
    if let [one] = lists[..] {
        return Ok(vec![one.clone()]);
    }
    let mut all = Vec::new();
    for list in lists {
        all.extend(read_shards(store, list)?);
    }
    Ok(vec![write_shards(store, &all, number)?])
}

/// Files that follow one another and become one: as many as make a large one. A large one without forgotten rows stays as it is.
fn groups<'a>(files: &'a [Stored], forgotten: &[u64]) -> Vec<&'a [Stored]> {
    let mut groups = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (place, stored) in files.iter().enumerate() {
        if stored.rows.rows >= FILE_ROWS && !holds(stored, forgotten) && from < place {
            groups.push(&files[from..place]);
            (from, rows) = (place, 0);
        }
        rows += stored.rows.rows;
        if rows >= FILE_ROWS {
            groups.push(&files[from..=place]);
            (from, rows) = (place + 1, 0);
        }
    }
    if from < files.len() {
        groups.push(&files[from..]);
    }
    groups
}

/// Whether a forgotten row may be in a file.
fn holds(stored: &Stored, forgotten: &[u64]) -> bool {
    use crate::ids::RowId;
    let shard = |row: &u64| RowId::from_bits(*row).shard().ordinal() as u64;
    forgotten.get(forgotten.partition_point(|row| shard(row) < stored.first)).is_some_and(|row| shard(row) <= stored.last)
}

/// The rows of some files that are remembered, in one; none where none is left.
fn merge(store: &Store, files: &[&Segment], forgotten: &[u64], content: Content, number: u64) -> Result<Option<Segment>> {
    let single = matches!(content, Content::Named { .. });
    let mut writer: Option<SegmentWriter<'_>> = None;
    for segment in files {
        for batch in read(&checked(store, segment)?, None)? {
            let batch = remembered(batch?, forgotten)?;
            if batch.num_rows() == 0 {
                continue;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(SegmentWriter::create(store, &batch.schema(), single)?),
            };
            writer.write(&batch)?;
        }
    }
    writer.map(|writer| writer.finish(content, number)).transpose()
}
