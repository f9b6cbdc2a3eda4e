//! Selectors: which rows a budget keeps.

pub mod budget;
pub mod density;
pub mod facility_location;
pub mod lazy;
pub mod prototypes;
pub mod quota;
pub mod type_balanced;

pub use budget::Budget;
