//! What runs leave on disk and read again: artefacts of tasks, lineage, manifests, the commit that makes a dataset visible, and
//! the state that increments go on from.

pub mod artefacts;
pub mod chain;
pub mod collect;
pub mod commit;
pub mod compact;
pub mod forget;
pub mod kept;
pub mod lineage;
pub mod manifest;
mod seal;
pub mod segments;
pub mod store;
pub mod vectors;
pub mod verify;
