//! Texts: normalisation.

pub mod normalise;
