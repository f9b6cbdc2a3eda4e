//! Shards as data: which there are and what they hold ([`snapshot`]), whether they are safe to decode ([`preflight`],
//! [`pages`]), how their schemas fit together ([`schema`]), reading them in batches ([`reader`]) and writing them pruned
//! ([`writer`], [`copy`], [`splice`], [`pack`]).
//!
//! Shards are untrusted. Every footer is checked before anything is decoded, page headers are walked by a bounded parser of
//! our own, and a panic of the Parquet reader ends at the shard's boundary as one named error.

pub mod copy;
pub mod pack;
pub mod pages;
pub mod preflight;
pub mod quarantine;
pub mod reader;
pub mod schema;
pub mod snapshot;
pub mod splice;
pub mod writer;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and damage files")]
mod tests;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use parquet::errors::ParquetError;

use crate::error::{Error, Kind, Result};
use crate::storage::local::io_error;

/// Runs `work` on untrusted bytes: a panic inside becomes an input error that `place` names.
///
/// # Errors
/// Those of `work`; kind input for a panic.
pub fn isolate<T>(place: impl Fn() -> String, work: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_while_isolated();
    let _guard = Isolated::enter();
    // What the closure touched is dropped with the shard's reader or writer, so that no broken state is seen afterwards.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::input(format!("damaged shard {}", place()))
            .hint("check the file with its writer's tools, or take it out of the source")
            .caused_by(format!("the Parquet decoder gave up: {}", text.unwrap_or_else(|| "no message".into()))))
    })
}

thread_local! {
    static ISOLATED: Cell<u32> = const { Cell::new(0) };
}

/// While one lives, this thread runs work whose panics become errors.
struct Isolated;

impl Isolated {
    fn enter() -> Self {
        ISOLATED.set(ISOLATED.get() + 1);
        Self
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        ISOLATED.set(ISOLATED.get() - 1);
    }
}

/// A panic that becomes an error is told once, by the error.
fn quiet_while_isolated() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if ISOLATED.get() == 0 {
                loud(panic);
            }
        }));
    });
}

/// A failure of the Parquet reader on a shard: kind input, unless the storage failed.
pub(crate) fn read_error(error: ParquetError, place: &str) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            // Decoders report damage as I/O errors too; only the system's have its number.
            Ok(io) if io.raw_os_error().is_some() => Error::storage(format!("cannot read shard {place}")).caused_by(*io),
            Ok(io) => Error::input(format!("damaged shard {place}")).caused_by(*io),
            Err(other) => Error::input(format!("damaged shard {place}")).caused_by(other),
        },
        other => Error::input(format!("damaged shard {place}")).caused_by(other),
    }
}

/// A failure of the Parquet writer: the storage's if there is one beneath, else a bug.
pub(crate) fn write_error(error: ParquetError, path: &std::path::Path) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(io) => io_error("cannot write", path, *io),
            Err(other) => Error::new(Kind::Internal, format!("cannot encode path=`{}`", path.display())).caused_by(other),
        },
        other => Error::new(Kind::Internal, format!("cannot encode path=`{}`", path.display())).caused_by(other),
    }
}
