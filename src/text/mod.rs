//! Texts: normalisation, words, shingles, labels of their parts.

mod english;
mod hash;
pub mod label_conflict;
mod murmur;
pub mod normalise;
#[cfg(test)]
mod oracle;
pub mod shingle;
mod simple;
mod simplify;
pub mod words;
