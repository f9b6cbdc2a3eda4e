//! How a map of the pipeline file is declared. One table a map ([`Field`]s with [`Shape`]s) drives reading, checking and the
//! JSON Schema; the tree that is read keeps the place of every value, so that each problem names line and column.

pub mod reader;
pub mod redact;
pub mod set;
pub mod shape;
pub mod tree;
pub mod words;

pub use reader::Fields;
pub use shape::{Field, Presence, Shape};
pub use tree::{Key, Node, Value};
