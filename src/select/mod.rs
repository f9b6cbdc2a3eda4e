//! Selectors: which rows a budget keeps.

pub mod budget;
pub mod lazy;
pub mod prototypes;

pub use budget::Budget;
