//! The promises about crashes, power losses, failing storage, races and damage, each with its figures. Every case is seeded: a failure
//! names its case, and comes again. In CI a seeded part of each loop; all of them, and one table of the figures, with
//!
//! ```sh
//! TROMMEL_LONG=1 cargo test --release --test it -- reliability state::any_life increments::killed increments::of_many --nocapture | grep '^|'
//! ```

pub(crate) mod scenario;

mod crashes;
mod damage;
mod mutations;
mod power;
mod races;

/// Whether the long loops are asked for.
pub(crate) fn long() -> bool {
    std::env::var_os("TROMMEL_LONG").is_some_and(|value| value == "1")
}

/// Prints a row of the table: the promise, what it was tried on, and numbers.
pub(crate) fn figures(promise: &str, of: &str, numbers: &str) {
    println!("| {promise} | {of} | {numbers} |");
}
