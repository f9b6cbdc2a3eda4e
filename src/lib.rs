pub mod dataset;
pub mod diagnostic;
pub mod error;
pub mod ids;
pub mod limits;
pub mod random;
pub mod storage;
