//! The one integration-test binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests make and read files, and measure, themselves")]
#![allow(clippy::print_stdout, reason = "a test that is not run says so")]
#![allow(unreachable_pub, reason = "one binary: nothing is reached from outside")]
#![allow(clippy::from_iter_instead_of_collect, reason = "arrays are named by their type")]
#![allow(clippy::struct_field_names, reason = "lineage rows name their columns as the files do")]

mod architecture;
mod branches;
mod budgets;
mod columns;
mod dedup;
mod diversity;
mod doctor;
mod embed_onnxruntime;
mod faults;
mod fitted;
mod fixture;
mod help;
mod increments;
mod init;
mod labels;
mod methods;
mod near;
mod pairing;
mod pairs;
mod quarantine;
mod reliability;
mod row_local;
mod run;
mod scores;
mod selectors;
mod semantic_rules;
mod sketches;
mod state;
mod validate;
mod vectors;
mod why;
