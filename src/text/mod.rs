//! Texts: normalisation, words, shingles.

mod english;
mod murmur;
pub mod normalise;
pub mod shingle;
pub mod simplify;
pub mod words;
