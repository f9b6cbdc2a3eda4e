pub mod cluster;
pub mod diagnostic;
pub mod error;
pub mod ids;
pub mod limits;
pub mod random;
pub mod select;
pub mod vector;
