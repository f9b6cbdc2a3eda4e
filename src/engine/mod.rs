//! The door to DataFusion: no other folder names it.

pub mod expr;
