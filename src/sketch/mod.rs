//! Sketches of sets of shingle hashes: MinHash signatures, the bands of locality-sensitive hashing, exact Jaccard similarity.

mod band;
pub mod jaccard;
mod mersenne_twister;
pub mod minhash;
mod murmur;

pub use band::Bands;
pub use jaccard::{jaccard, jaccard_at_least, to_set};
pub use minhash::{Family, MinHash, Sketcher, agreement};
