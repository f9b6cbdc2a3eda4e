//! The door to storage: no other folder names `std::fs`. Whoever writes a file that must survive goes through
//! [`local::AsideFile`], so that a name is either absent or names a whole file whose bytes have reached the disk.

#![expect(clippy::disallowed_methods, reason = "this folder is the door that the lint points to")]

pub mod checksum;
pub mod local;
