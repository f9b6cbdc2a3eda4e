//! Selectors: which rows a budget keeps.

pub mod allocation;
pub mod budget;
pub mod coverage;
pub mod gradient_value;
pub mod meter;
pub mod online_loss;
pub mod prototypes;
pub mod weighted;

pub use budget::Budget;
pub use meter::Meter;
