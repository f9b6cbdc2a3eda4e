//! The pipeline file: text to tree ([`load`]), tree to [`model::Pipeline`] ([`model`]), and its JSON Schema ([`schema`]).

pub mod load;
pub mod model;
pub mod schema;
