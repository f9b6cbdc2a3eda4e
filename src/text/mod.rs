//! Texts: normalisation, words, shingles.

mod english;
mod hash;
mod murmur;
pub mod normalise;
#[cfg(test)]
mod oracle;
pub mod shingle;
mod simple;
mod simplify;
pub mod words;
