//! Many problems at once: each with its YAML path, its line and column, and a hint.

use std::fmt::Write as _;

use crate::error::Error;

/// A place in the pipeline file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One problem of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The path as `--set` takes it, such as `stages.near.threshold`.
    pub path: String,
    /// Where it stands in the file; `None` when it came from `--set` or from the shards.
    pub position: Option<Position>,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

/// All problems found so far, in the order they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// No problem yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.items.push(diagnostic);
    }

    /// Adds one from its parts.
    pub fn add(&mut self, path: &str, position: Option<Position>, message: impl Into<String>, hint: Option<String>) {
        self.push(Diagnostic { path: path.into(), position, message: message.into(), hint });
    }

    /// All of them, sorted by place in the file; those without a place come last.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut items: Vec<&Diagnostic> = self.items.iter().collect();
        items.sort_by_key(|item| (item.position.is_none(), item.position));
        items
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The text that a user reads: `file:line:column: path: message`, hint below.
    #[must_use]
    pub fn render(&self, file: &str) -> String {
        let mut text = String::new();
        for item in self.sorted() {
            let place = item.position.map_or_else(|| file.to_owned(), |at| format!("{file}:{}:{}", at.line, at.column));
            // Writing to a string cannot fail.
            let _ = match item.path.as_str() {
                "" => writeln!(text, "{place}: {}", item.message),
                path => writeln!(text, "{place}: {path}: {}", item.message),
            };
            if let Some(hint) = &item.hint {
                let _ = writeln!(text, "  hint: {hint}");
            }
        }
        text
    }

    /// `Ok` when there is none, else one usage error that holds them all.
    ///
    /// # Errors
    /// The problems as one [`Error`] of kind usage.
    pub fn into_result(self, file: &str) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let count = self.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        Err(Error::usage(format!("{count} {noun} in the pipeline\n{}", self.render(file).trim_end())))
    }
}

/// The candidate nearest to `word` by edit distance, when one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count().max(word.chars().count()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_typing_error_and_nothing_far_off() {
        let keys = ["threshold", "epsilon", "keep"];
        assert_eq!(nearest("treshold", keys), Some("threshold"));
        assert_eq!(nearest("Epsilon", keys), Some("epsilon"));
        assert_eq!(nearest("banana", keys), None);
    }
}
