//! Which rows of earlier increments matter to a run: those that share a key with one of its rows. Keys are hashes already.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Engine, Reservation};
use crate::error::Result;

/// A set of hashes: open addressing, at most half full. Most that is asked for is not in it: a bit for each hash, in an array that a core's
/// cache holds, answers that without looking at the slots.
#[derive(Debug)]
pub(super) struct KeySet {
    slots: Vec<u64>,
    /// For the upper bits of a hash, whether some hash in the set has these.
    bits: Vec<u64>,
    /// Whether 0, which stands for an empty slot, is in it.
    zero: bool,
    memory: Reservation,
    held: usize,
}

/// Bits for each slot.
const BITS_A_SLOT: usize = 8;

/// Bytes of a set of so many slots.
fn bytes(slots: usize) -> usize {
    slots * size_of::<u64>() + slots * BITS_A_SLOT / 8
}

impl KeySet {
    /// Room for so many keys.
    pub(super) fn with_capacity(engine: &Engine, keys: usize) -> Result<Self> {
        let slots = (2 * keys.max(32)).next_power_of_two();
        let memory = engine.reserve("keys that are looked up in the state", bytes(slots))?;
        Ok(Self { slots: vec![0; slots], bits: vec![0; slots * BITS_A_SLOT / 64], zero: false, memory, held: 0 })
    }

    fn place(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = key as usize & mask;
        while self.slots[at] != 0 && self.slots[at] != key {
            at = (at + 1) & mask;
        }
        at
    }

    /// The word and the bit in it that stand for a key.
    fn bit(&self, key: u64) -> (usize, u64) {
        let upper = (key >> 32) as usize;
        ((upper >> 6) & (self.bits.len() - 1), 1 << (upper & 63))
    }

    fn put(&mut self, key: u64) {
        let (word, bit) = self.bit(key);
        self.bits[word] |= bit;
        let at = self.place(key);
        self.held += usize::from(self.slots[at] == 0);
        self.slots[at] = key;
    }

    /// Puts a key in.
    pub(super) fn insert(&mut self, key: u64) -> Result<()> {
        if key == 0 {
            self.zero = true;
            return Ok(());
        }
        if 2 * self.held >= self.slots.len() {
            let slots = 2 * self.slots.len();
            self.memory.grow(bytes(slots))?;
            let old = std::mem::replace(&mut self.slots, vec![0; slots]);
            (self.bits, self.held) = (vec![0; slots * BITS_A_SLOT / 64], 0);
            old.into_iter().filter(|key| *key != 0).for_each(|key| self.put(key));
        }
        self.put(key);
        Ok(())
    }

    /// Whether a key is in it.
    pub(super) fn contains(&self, key: u64) -> bool {
        let (word, bit) = self.bit(key);
        match key {
            0 => self.zero,
            _ => self.bits[word] & bit != 0 && self.slots[self.place(key)] == key,
        }
    }
}

/// A set that one stream fills and the next one asks.
pub(super) type SharedKeys = Arc<Mutex<KeySet>>;

/// Gives `work` the set.
pub(super) fn with<T>(keys: &SharedKeys, work: impl FnOnce(&mut KeySet) -> T) -> T {
    work(&mut keys.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::EngineOptions;

    proptest! {
        #[test]
        fn equals_a_set(keys in prop::collection::vec(0_u64..300, 0..200), asked in prop::collection::vec(0_u64..400, 0..50), spread in 0_u32..50) {
            let folder = tempfile::tempdir().unwrap();
            let options = EngineOptions { threads: 1, memory_bytes: 64 << 20, batch_rows: 100, spill_folder: folder.path().to_owned() };
            let engine = Engine::start(options).unwrap();
            let mut set = KeySet::with_capacity(&engine, 3).unwrap();
            for key in &keys {
                set.insert(key << spread).unwrap();
            }
            let plain: BTreeSet<u64> = keys.into_iter().collect();
            for key in asked {
                prop_assert_eq!(set.contains(key << spread), plain.contains(&key));
            }
        }
    }
}
