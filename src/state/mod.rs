//! What runs leave on disk and read again: artefacts of tasks, lineage, manifests, and the commit that makes a dataset visible.

pub mod artefacts;
pub mod chain;
pub mod commit;
pub mod lineage;
pub mod manifest;
pub mod vectors;
pub mod verify;
