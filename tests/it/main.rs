//! The one integration-test binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make and read files, and measure, themselves")]

mod architecture;
mod columns;
mod faults;
mod fixture;
mod row_local;
mod run;
mod semantic_rules;
mod validate;
mod vectors;
