//! The storage door: paths that the operator wrote, files on this machine, their checksums. Nothing outside this folder names
//! `std::fs`.

#![expect(clippy::disallowed_methods, reason = "this folder is the door that the lint points to")]

pub mod checksum;
mod disk;
pub mod local;
pub mod lock;
pub mod record;
pub mod scratch;
pub mod uri;
