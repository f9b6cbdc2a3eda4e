//! Failures that cross the engine's door keep their class in both directions.

use std::io::ErrorKind;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::error::{Error, Kind};

/// How to keep a value that does not fit from ending a run.
const GUARD: &str = "guard the expression (`try_cast` gives NULL where `cast` fails), or filter the rows first";
/// Letters of the engine's message that are shown: it may hold a whole document.
const SHOWN: usize = 200;

/// What the engine says, clipped, and without what a terminal would obey.
fn shown(message: &str) -> String {
    let mut text: String = message.chars().take(SHOWN).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
    if message.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    text
}

/// The files that the engine itself reads and writes are those of its spill.
fn spill(source: std::io::Error) -> Error {
    if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) {
        return Error::resources("the disk of the work folder, where the engine spills, is full")
            .caused_by(source)
            .hint("free space on that disk, or name another work folder, and run again: finished work is kept");
    }
    Error::storage("the engine cannot read or write its spill files").caused_by(source)
}

/// Carries one of our errors through the engine.
#[must_use]
pub fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Finds our own error inside the engine's, or classifies the engine's own.
#[must_use]
pub fn from_datafusion(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(foreign) => Error::internal("the engine failed").caused_by(foreign),
        },
        DataFusionError::Context(_, inner) => from_datafusion(*inner),
        DataFusionError::ResourcesExhausted(message) => Error::resources("the memory budget of the engine is used up")
            .caused_by(message)
            .hint("give more with --memory, or make room for spill in the work folder"),
        DataFusionError::IoError(source) => spill(source),
        DataFusionError::ArrowError(source, _) => match *source {
            ArrowError::IoError(_, source) => spill(source),
            other => Error::new(Kind::Input, "a value cannot be computed").caused_by(shown(&other.to_string())).hint(GUARD),
        },
        DataFusionError::Execution(message) => Error::new(Kind::Input, "a value cannot be computed").caused_by(shown(&message)).hint(GUARD),
        other => Error::internal("the engine failed").caused_by(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_errors_keep_their_class_on_the_way_through() {
        let error = from_datafusion(into_datafusion(Error::input("x")).context("while sorting"));
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Input, "x"));
        assert_eq!(from_datafusion(DataFusionError::ResourcesExhausted("y".into())).kind(), Kind::Resources);
        assert_eq!(from_datafusion(DataFusionError::IoError(ErrorKind::StorageFull.into())).kind(), Kind::Resources);
        assert_eq!(from_datafusion(DataFusionError::IoError(ErrorKind::Other.into())).kind(), Kind::Storage);
        let arrow = ArrowError::IoError("write".into(), ErrorKind::StorageFull.into());
        assert_eq!(from_datafusion(DataFusionError::ArrowError(Box::new(arrow), None)).kind(), Kind::Resources);
    }
}
