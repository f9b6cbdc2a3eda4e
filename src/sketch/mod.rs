//! Sketches of sets of shingle hashes: MinHash signatures, the bands of locality-sensitive hashing, exact Jaccard similarity.

mod band;
mod family;
mod jaccard;
mod mersenne_twister;
mod minhash;
mod murmur;
mod wide;

pub use band::Bands;
pub use family::{DataPrepKitMinHash, DatatroveMinHash, Family, Sketcher};
pub use jaccard::{jaccard, jaccard_at_least, to_set};
pub use minhash::{MinHash, agreement};
