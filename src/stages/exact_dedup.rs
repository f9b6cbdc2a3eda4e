//! `exact_dedup`: of the rows whose normalised columns are equal, keeps one.

use serde_json::{Value, json};

use super::policy::Keep;
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::words;

words! {
    /// A step of normalisation.
    pub enum Normalize {
        /// Unicode normalisation form C.
        Nfc = "nfc",
        /// Unicode normalisation form KC.
        Nfkc = "nfkc",
        /// Lower case, by Unicode's full mapping.
        Lowercase = "lowercase",
        /// Runs of white space become one space; none at the ends.
        CollapseWhitespace = "collapse_whitespace",
        /// Punctuation is removed.
        StripPunctuation = "strip_punctuation",
    }
}

/// `exact_dedup: {columns, normalize, keep}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExactDedupConfig {
    /// The columns that are compared, in the order written; at least one.
    pub columns: Vec<String>,
    /// What is done to each text before it is hashed, in the order written; default nothing: bytes are compared.
    pub normalize: Vec<Normalize>,
    /// Which row of equal ones is kept; default the first.
    pub keep: Keep,
}

/// The keys of `exact_dedup`.
pub const FIELDS: &[Field] = &[
    required("columns", Shape::OneOrMany(&Shape::Text), "The columns that are compared; `text` and `id` also name the source's roles."),
    defaulted(
        "normalize",
        Shape::List(&Shape::Choice(Normalize::WORDS)),
        Presence::EmptyList,
        "What is done to each text before it is compared, in this order. Default: nothing, bytes are compared.",
    ),
    defaulted(
        "keep",
        Shape::Any(&[Shape::Choice(&["first", "last", "longest", "shortest"]), Shape::Map(Keep::BY)]),
        Presence::Text("first"),
        "Which row of equal ones is kept: by the order of the corpus, by the length of the first column, or by the value of a column.",
    ),
];

impl ExactDedupConfig {
    /// Reads the checked map; a column or a step that is named twice, and both Unicode forms together, are problems.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let columns = fields.texts("columns");
        fields.refuse_repeats(out, "columns", &columns);
        if fields.is_empty_list("columns") {
            fields.problem(out, "columns", "no column is named", Some("name at least one, such as `columns: [text]`".into()));
        }
        let words = fields.texts("normalize");
        fields.refuse_repeats(out, "normalize", &words);
        let normalize: Vec<Normalize> = words.iter().filter_map(|word| Normalize::from_word(word)).collect();
        if normalize.contains(&Normalize::Nfc) && normalize.contains(&Normalize::Nfkc) {
            fields.problem(
                out,
                "normalize",
                "`nfc` and `nfkc` exclude each other",
                Some("`nfkc` does all that `nfc` does: remove `nfc`".into()),
            );
        }
        Self { columns, normalize, keep: Keep::read(fields) }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let normalize: Vec<&str> = self.normalize.iter().map(|step| step.word()).collect();
        json!({"columns": self.columns, "keep": self.keep.canonical(), "normalize": normalize})
    }
}
