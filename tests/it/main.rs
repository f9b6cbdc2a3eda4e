//! The one integration-test binary.

mod validate;
