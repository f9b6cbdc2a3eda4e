pub mod diagnostic;
pub mod embed;
pub mod error;
pub mod ids;
pub mod limits;
pub mod random;
