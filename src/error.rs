//! The one error type. A [`Kind`] says what the user has to do and fixes the exit code; the message names the thing and
//! the place, the hint names the mend, and the cause is chained and never repeated.

use std::error::Error as StdError;
use std::fmt;

/// The result type of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Coarse classes of failure; each has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line or the pipeline file is wrong.
    Usage,
    /// A shard cannot be read, or is not what the pipeline expects.
    Input,
    /// A file that an earlier run wrote is damaged or of another version.
    State,
    /// Something else holds or has already made what this run wants to make.
    Conflict,
    /// The storage failed: permission, disk full, I/O error.
    Storage,
    /// A limit on memory, disk or size was reached.
    Resources,
    /// A model or the runtime that runs it cannot be used.
    Model,
    /// The user stopped the run.
    Interrupted,
    /// A law of the program was broken: a bug.
    Internal,
}

impl Kind {
    /// The process exit code of this class.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Input => 3,
            Self::State => 4,
            Self::Conflict => 5,
            Self::Storage => 6,
            Self::Resources => 7,
            Self::Model => 8,
            Self::Interrupted => 130,
            Self::Internal => 1,
        }
    }
}

/// An error: what is wrong, where, why, and how to mend it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a lower-case fragment for a message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Shorthand for [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Shorthand for [`Kind::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Shorthand for [`Kind::State`].
    pub fn state(message: impl Into<String>) -> Self {
        Self::new(Kind::State, message)
    }

    /// Shorthand for [`Kind::Storage`].
    pub fn storage(message: impl Into<String>) -> Self {
        Self::new(Kind::Storage, message)
    }

    /// Shorthand for [`Kind::Resources`].
    pub fn resources(message: impl Into<String>) -> Self {
        Self::new(Kind::Resources, message)
    }

    /// Shorthand for [`Kind::Model`].
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }

    /// Shorthand for [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Says how to mend it; printed on a line of its own after `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Chains the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error: `message` says what was being done; kind and hint are kept.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self { kind: self.kind, message: message.into(), hint: self.hint.clone(), source: Some(Box::new(self.without_hint())) }
    }

    fn without_hint(mut self) -> Self {
        self.hint = None;
        self
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The mend, if one is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The whole error as the user reads it: message, chained causes, hint.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("error: {}", self.message);
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str("\n  caused by: ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds what was being done to any failure.
pub trait Context<T> {
    /// Turns the failure into an [`Error`] of `kind` whose cause it is.
    ///
    /// # Errors
    /// The failure, wrapped.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| {
            let source: Box<dyn StdError + Send + Sync> = source.into();
            // An error of our own keeps its class: the place that first saw the failure knows best what it means.
            match source.downcast::<Error>() {
                Ok(own) => own.context(message()),
                Err(foreign) => Error::new(kind, message()).caused_by(foreign),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_chains_causes_and_ends_with_the_hint() {
        let error = Error::input("bad footer").hint("write it again").context("cannot read shard path=`a.parquet`");
        assert_eq!(error.kind(), Kind::Input);
        assert_eq!(error.report(), "error: cannot read shard path=`a.parquet`\n  caused by: bad footer\nhint: write it again");
    }

    #[test]
    fn context_keeps_the_class_of_our_own_errors() {
        let result: Result<()> = Err(Error::model("no such input"));
        let error = Context::context(result, Kind::Internal, || "cannot embed".into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
    }
}
