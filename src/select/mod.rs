//! Selectors: which rows a budget keeps.

pub mod allocation;
pub mod allowance;
pub mod coverage;
pub mod density;
pub mod facility_location;
pub mod gradient_value;
pub mod lazy;
pub mod meter;
pub mod online_loss;
pub mod prototypes;
pub mod quota;
pub mod share;
pub mod type_balanced;
pub mod weighted;

pub use allowance::Allowance;
pub use meter::Meter;
pub use share::share;
