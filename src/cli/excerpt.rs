//! Texts of a corpus on a terminal: clipped, and with everything escaped that a terminal would act upon.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::limits::MAX_SHOWN_CHARACTERS;
use crate::telemetry::count;

/// The beginning of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// The first [`MAX_SHOWN_CHARACTERS`] characters.
    pub text: String,
    /// Characters of the whole text.
    pub characters: u64,
    /// BLAKE3 of the whole text: texts that are equal have equal ones.
    pub hash: [u8; 32],
}

impl Excerpt {
    /// Clips a text.
    pub(crate) fn of(text: &str) -> Self {
        let end = text.char_indices().nth(MAX_SHOWN_CHARACTERS).map_or(text.len(), |(end, _)| end);
        let clipped = text.get(..end).unwrap_or(text).to_owned();
        Self { text: clipped, characters: text.chars().count() as u64, hash: *blake3::hash(text.as_bytes()).as_bytes() }
    }

    /// Whether something is left out.
    pub(crate) fn is_clipped(&self) -> bool {
        self.characters > MAX_SHOWN_CHARACTERS as u64
    }

    /// Its length as a reader is told it.
    pub(crate) fn length(&self) -> String {
        let noun = if self.characters == 1 { "character" } else { "characters" };
        if self.is_clipped() {
            format!("first {} of {} {noun}", count(MAX_SHOWN_CHARACTERS as u64), count(self.characters))
        } else {
            format!("{} {noun}", count(self.characters))
        }
    }

    /// The text as a block, each line behind a bar.
    pub(crate) fn block(&self, indent: &str) -> String {
        let mut block = String::new();
        for line in self.text.split('\n') {
            // Writing to a string cannot fail.
            let _ = writeln!(block, "{indent}| {}", printable(line.strip_suffix('\r').unwrap_or(line)));
        }
        block
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({"text": self.text, "characters": self.characters, "clipped": self.is_clipped()})
    }
}

/// A text of one line that a terminal prints and does not obey; a tab stays.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => shown.push('\t'),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            letter if acts(letter) => shown.extend(letter.escape_unicode()),
            letter => shown.push(letter),
        }
    }
    shown
}

/// Whether a letter does something to a terminal or to the order of what is shown: controls (escape sequences begin with one),
/// separators of lines, and marks that turn the direction of writing.
pub(crate) fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_clipped_by_characters() {
        let text = "ä".repeat(MAX_SHOWN_CHARACTERS + 5);
        let excerpt = Excerpt::of(&text);
        assert_eq!(excerpt.text.chars().count(), MAX_SHOWN_CHARACTERS);
        assert!(excerpt.is_clipped());
        assert_eq!(excerpt.length(), "first 2,000 of 2,005 characters");
        let whole = Excerpt::of("ab");
        assert_eq!((whole.text.as_str(), whole.is_clipped()), ("ab", false));
        assert_ne!(Excerpt::of(&format!("{text}x")).hash, excerpt.hash);
    }

    #[test]
    fn a_terminal_is_never_given_orders() {
        assert_eq!(printable("a\x1b[31mb\u{7}\u{202e}c\td\r\n"), "a\\u{1b}[31mb\\u{7}\\u{202e}c\td\\r\\n");
        assert_eq!(Excerpt::of("one\r\ntwo\x1b[2J\n").block("  "), "  | one\n  | two\\u{1b}[2J\n  | \n");
    }
}
