//! The names of things, as types: none can be taken for another.

use std::fmt;

use crate::limits::{MAX_ROWS_PER_SHARD, MAX_SHARDS};

/// A shard's place in the order of the corpus: 24 bits, given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u32);

impl ShardId {
    /// The shard with this ordinal; `None` above the limit of 2^24.
    #[must_use]
    pub fn try_new(ordinal: usize) -> Option<Self> {
        u32::try_from(ordinal).ok().filter(|ordinal| u64::from(*ordinal) < MAX_SHARDS).map(Self)
    }

    /// The ordinal.
    #[must_use]
    pub fn ordinal(self) -> usize {
        self.0 as usize
    }
}

/// A row of the corpus: shard ordinal in the upper 24 bits, row in the lower 40; its order is the order of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(u64);

impl RowId {
    /// Row `row` of `shard`; `None` above the limit of 2^40 rows a shard.
    #[must_use]
    pub fn try_new(shard: ShardId, row: u64) -> Option<Self> {
        (row < MAX_ROWS_PER_SHARD).then(|| Self((u64::from(shard.0) << 40) | row))
    }

    /// From its 64 bits, as artefacts hold it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The shard.
    #[must_use]
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 40) as u32)
    }

    /// The row inside the shard, from 0.
    #[must_use]
    pub fn row(self) -> u64 {
        self.0 & (MAX_ROWS_PER_SHARD - 1)
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// From 64 hexadecimal digits.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

hash_type!(
    /// BLAKE3 of a file's bytes.
    ContentHash
);
hash_type!(
    /// What names a task's artefact: a hash of all that can change its bytes.
    TaskKey
);
hash_type!(
    /// The same work has the same id: a hash of plan, snapshot and base state version.
    RunId
);

/// The id that a user gave a stage (or a source).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(String);

impl StageId {
    /// Names a stage; the pipeline file's reader has checked the letters.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Builds a hash of many parts; each part is preceded by its length, so that no two lists of parts collide.
#[derive(Debug, Clone)]
pub struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// A fingerprint of the given purpose; other purposes never give equal hashes.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        Self(blake3::Hasher::new()).part(purpose.as_bytes())
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.part(number.to_le_bytes())
    }

    /// The hash.
    #[must_use]
    pub fn finish(self) -> blake3::Hash {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ids_order_by_shard_then_row() {
        let id = |shard, row| RowId::try_new(ShardId::try_new(shard).unwrap(), row).unwrap();
        assert!(id(0, MAX_ROWS_PER_SHARD - 1) < id(1, 0));
        assert_eq!((id(5, 7).shard().ordinal(), id(5, 7).row()), (5, 7));
        assert_eq!(RowId::try_new(ShardId::try_new(0).unwrap(), MAX_ROWS_PER_SHARD), None);
        assert_eq!(ShardId::try_new(1 << 24), None);
    }

    #[test]
    fn fingerprints_do_not_run_parts_together() {
        assert_ne!(Fingerprint::new("t").part("ab").part("c").finish(), Fingerprint::new("t").part("a").part("bc").finish());
    }

    #[test]
    fn hashes_round_trip_through_text() {
        let key = TaskKey::from(blake3::hash(b"x"));
        assert_eq!(TaskKey::from_hex(&key.to_string()), Some(key));
    }
}
