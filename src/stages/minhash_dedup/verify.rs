//! How similar two candidates are: by their shingle sets, read once from the source; by their signatures; or not looked at.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use arrow::array::AsArray as _;
use arrow::datatypes::UInt64Type;

use super::candidates::Candidates;
use crate::cluster::{Cuts, Similarity};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::sketch::{agreement, jaccard_at_least};
use crate::stages::seam::NamedRows;
use crate::storage::scratch::Scratch;

/// A rejected pair less than this below the threshold is near it.
pub(super) const NEAR: f64 = 0.1;

/// What candidates are compared by: for each candidate a run of numbers in a scratch file.
pub(super) struct Compared {
    scratch: std::sync::Arc<Scratch>,
    /// Where each candidate's numbers lie.
    offsets: Vec<u64>,
    /// How many numbers each candidate has.
    lengths: Vec<u32>,
    /// Shingle sets (8 bytes a number) rather than signatures (4).
    sets: bool,
}

impl Compared {
    /// The shingle sets of all candidates: each text is read once.
    pub(super) fn shingles(engine: &Engine, candidates: &Candidates, source: &dyn NamedRows) -> Result<Self> {
        // Incumbents stand behind the run's rows, and their ids come before.
        let new = candidates.rows.partition_point(|row| (*row as usize) < candidates.new);
        let (of_run, incumbents) = candidates.rows.split_at(new);
        let wanted: Vec<u64> = incumbents.iter().chain(of_run).map(|row| candidates.ids[*row as usize]).collect();
        let scratch = Scratch::create(engine.spill_folder())?;
        let places = Mutex::new((vec![0_u64; wanted.len()], vec![0_u32; wanted.len()], 0_usize));
        source.read(&wanted, &|ids, batch| {
            let lists = batch.column(batch.num_columns() - 1).as_list::<i32>();
            let ends = lists.value_offsets();
            let sets = lists.values().as_primitive::<UInt64Type>().values();
            // All sets of the batch, as the machine holds them.
            let start = scratch.append(sets.inner().as_slice())?;
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            let (offsets, lengths, read) = &mut *places;
            for (id, ends) in ids.iter().zip(ends.windows(2)) {
                let place = wanted.binary_search(id).map_err(|_| Error::internal("a row that was not asked for was read"))?;
                let place = if place < incumbents.len() { new + place } else { place - incumbents.len() };
                offsets[place] = start + (ends[0] as usize * size_of::<u64>()) as u64;
                lengths[place] = (ends[1] - ends[0]) as u32;
                *read += 1;
            }
            Ok(())
        })?;
        let (offsets, lengths, read) = places.into_inner().unwrap_or_else(PoisonError::into_inner);
        if read != wanted.len() {
            return Err(Error::internal(format!("rows that were asked for were not read wanted=`{}` read=`{read}`", wanted.len())));
        }
        Ok(Self { scratch: std::sync::Arc::new(scratch), offsets, lengths, sets: true })
    }

    /// The signatures of all candidates, which are there already.
    pub(super) fn signatures(candidates: &Candidates, permutations: usize) -> Result<Self> {
        let scratch = candidates.signatures.clone().ok_or_else(|| Error::internal("signatures that were not kept"))?;
        let offsets = candidates.rows.iter().map(|row| u64::from(*row) * permutations as u64 * 4).collect();
        Ok(Self { scratch, offsets, lengths: vec![permutations as u32; candidates.rows.len()], sets: false })
    }

    fn read(&self, candidate: u32, bytes: &mut Vec<u8>, numbers: &mut Numbers) -> Result<()> {
        let length = self.lengths[candidate as usize] as usize;
        bytes.resize(length * if self.sets { 8 } else { 4 }, 0);
        self.scratch.read_exact_at(bytes, self.offsets[candidate as usize])?;
        numbers.set.clear();
        numbers.signature.clear();
        if self.sets {
            numbers.set.extend(bytes.as_chunks::<8>().0.iter().map(|number| u64::from_ne_bytes(*number)));
        } else {
            numbers.signature.extend(bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number)));
        }
        Ok(())
    }
}

/// What one row is compared by; one of the two is empty.
#[derive(Debug, Default)]
struct Numbers {
    set: Vec<u64>,
    signature: Vec<u32>,
}

/// Compares the rows of one component, places in keep order.
pub(super) struct Pairs<'a> {
    compared: Option<&'a Compared>,
    /// For each place, which candidate it is.
    members: &'a [u32],
    /// For each place, its source; rows of one source are not compared. Empty: all are.
    sources: Vec<u32>,
    /// How many of the places, from the first, are incumbents: they are not compared with one another.
    incumbents: u32,
    /// How many bands there are: what shared bands are a share of where nothing is verified.
    bands: u32,
    /// Similarities below all that matter need not be known.
    floor: f64,
    /// Live rows that are held, as long as they fit `room` bytes.
    held: HashMap<u32, Numbers>,
    room: usize,
    current: (Option<u32>, Numbers),
    other: Numbers,
    bytes: Vec<u8>,
}

impl<'a> Pairs<'a> {
    /// `room`: bytes that may be held to save reading.
    pub(super) fn new(
        compared: Option<&'a Compared>,
        members: &'a [u32],
        (sources, incumbents): (Vec<u32>, u32),
        bands: u32,
        cuts: Cuts,
        room: usize,
    ) -> Self {
        Self {
            compared,
            members,
            sources,
            incumbents,
            bands,
            floor: cuts.loosest.min(cuts.near).max(0.0),
            held: HashMap::new(),
            room,
            current: (None, Numbers::default()),
            other: Numbers::default(),
            bytes: Vec::new(),
        }
    }

    fn load(&mut self, compared: &Compared, place: u32) -> Result<()> {
        if self.current.0 != Some(place) {
            self.current.0 = None;
            compared.read(self.members[place as usize], &mut self.bytes, &mut self.current.1)?;
            self.current.0 = Some(place);
        }
        Ok(())
    }
}

impl Similarity for Pairs<'_> {
    fn upper(&self, later: u32, earlier: u32) -> Option<f64> {
        if later < self.incumbents {
            return None;
        }
        if self.sources.get(later as usize).is_some_and(|source| *source == self.sources[earlier as usize]) {
            return None;
        }
        let Some(compared) = self.compared.filter(|compared| compared.sets) else { return Some(1.0) };
        // The smaller set can at most lie in the larger one.
        let size = |place: u32| f64::from(compared.lengths[self.members[place as usize] as usize]);
        let (a, b) = (size(later), size(earlier));
        Some(if a.max(b) == 0.0 { 0.0 } else { a.min(b) / a.max(b) })
    }

    fn of(&mut self, later: u32, earlier: u32, shared: u32) -> Result<Option<f64>> {
        let Some(compared) = self.compared else { return Ok(Some(f64::from(shared) / f64::from(self.bands))) };
        self.load(compared, later)?;
        let earlier = if let Some(numbers) = self.held.get(&earlier) {
            numbers
        } else {
            compared.read(self.members[earlier as usize], &mut self.bytes, &mut self.other)?;
            &self.other
        };
        Ok(if compared.sets {
            jaccard_at_least(&self.current.1.set, &earlier.set, self.floor)
        } else {
            Some(agreement(&self.current.1.signature, &earlier.signature))
        })
    }

    fn live(&mut self, row: u32) -> Result<()> {
        let Some(compared) = self.compared else { return Ok(()) };
        let bytes = compared.lengths[self.members[row as usize] as usize] as usize * if compared.sets { 8 } else { 4 };
        if bytes > self.room {
            return Ok(());
        }
        self.load(compared, row)?;
        self.room -= bytes;
        self.current.0 = None;
        self.held.insert(row, std::mem::take(&mut self.current.1));
        Ok(())
    }
}

/// The similarity of two places whatever it is, for the report of a rule that does not compare them on its way.
pub(super) fn exactly(pairs: &mut Pairs<'_>, a: u32, b: u32) -> Result<f64> {
    let floor = std::mem::replace(&mut pairs.floor, 0.0);
    let found = pairs.of(a, b, 0);
    pairs.floor = floor;
    Ok(found?.unwrap_or(0.0))
}
