//! Selectors: which rows a budget keeps.

pub mod budget;
pub mod facility_location;
pub mod lazy;
pub mod prototypes;

pub use budget::Budget;
