//! The storage door: paths that the operator wrote, files on this machine, their checksums. Nothing outside this folder names
//! `std::fs`.

pub mod checksum;
pub mod local;
pub mod uri;
