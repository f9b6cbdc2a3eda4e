//! Writing to standard output: a reader that has gone away (a closed pipe) is no failure.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::error::{Context as _, Error, Kind, Result};

/// Writes text.
pub(crate) fn text(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::storage("cannot write to standard output").caused_by(error)),
        _ => Ok(()),
    }
}

/// Writes one JSON value and a line feed.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string_pretty(value).context(Kind::Internal, || "cannot write JSON".into())?;
    line.push('\n');
    text(out, &line)
}
