//! The door to storage: no other folder names `std::fs`. Whoever writes a file that must survive goes through
//! [`local::AsideFile`], so that a name is either absent or names a whole file whose bytes have reached the disk.

pub mod checksum;
pub mod local;
