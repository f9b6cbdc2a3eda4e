//! The door to storage: no other folder names `std::fs`.

pub mod uri;
