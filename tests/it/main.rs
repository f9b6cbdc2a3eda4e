//! The one integration-test binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make and read files, and measure, themselves")]

mod architecture;
mod embed_onnxruntime;
mod fixture;
mod run;
mod semantic_rules;
mod validate;
