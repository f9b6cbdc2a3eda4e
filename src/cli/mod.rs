//! The commands, one file each.

pub mod schema;
pub mod validate;
