//! What several stages declare in the same words: normalisation, keep policies, budgets, what becomes of bad vectors, numbers of clusters.

use serde_json::{Value, json};

use crate::declare::shape::{defaulted, optional, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::text::normalise::Step;
use crate::words;

words! {
    /// The direction of an order.
    pub enum Order {
        /// Smallest first.
        Ascending = "asc",
        /// Greatest first.
        Descending = "desc",
    }
}

words! {
    /// What becomes of a row whose vector is missing, not finite, of norm zero or of the wrong dimension.
    pub enum OnBadVector {
        /// The row is kept, marked and never compared.
        Keep = "keep",
        /// The row is dropped.
        Drop = "drop",
        /// The run fails.
        Fail = "fail",
    }
}

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

impl Normalize {
    /// The shape of a key `normalize`.
    pub const SHAPE: Shape = Shape::List(&Shape::Choice(Self::WORDS));

    /// Reads the key `normalize`; a step that is named twice, and both Unicode forms together, are problems.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Vec<Self> {
        let words = fields.texts("normalize");
        fields.refuse_repeats(out, "normalize", &words);
        let steps: Vec<Self> = words.iter().filter_map(|word| Self::from_word(word)).collect();
        if steps.contains(&Self::Nfc) && steps.contains(&Self::Nfkc) {
            fields.problem(
                out,
                "normalize",
                "`nfc` and `nfkc` exclude each other",
                Some("`nfkc` does all that `nfc` does: remove `nfc`".into()),
            );
        }
        steps
    }

    /// The step of the algorithm.
    #[must_use]
    pub fn step(self) -> Step {
        match self {
            Self::Nfc => Step::Nfc,
            Self::Nfkc => Step::Nfkc,
            Self::Lowercase => Step::Lowercase,
            Self::CollapseWhitespace => Step::CollapseWhitespace,
            Self::StripPunctuation => Step::StripPunctuation,
        }
    }
}

/// Which row of a set of duplicates is kept: the order in which rows are visited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The first row in the order of the corpus.
    First,
    /// The last row in the order of the corpus.
    Last,
    /// The row with the most bytes in the named columns together.
    Longest,
    /// The row with the fewest bytes in the named columns together.
    Shortest,
    /// The row farthest from its centroid.
    Hard,
    /// The row nearest to its centroid.
    Easy,
    /// A row drawn by the seed.
    Random,
    /// The row with the smallest (`asc`) or greatest (`desc`) value of a column; nulls come last.
    By {
        /// The column.
        column: String,
        /// The direction.
        order: Order,
    },
}

impl Keep {
    /// The keys of `keep: {by, order}`.
    pub const BY: &'static [Field] = &[
        required("by", Shape::Text, "The column whose value decides."),
        defaulted(
            "order",
            Shape::Choice(Order::WORDS),
            Presence::Text("asc"),
            "`asc` keeps the smallest value, `desc` the greatest; nulls come last.",
        ),
    ];

    /// Reads the key `keep`; `First` where it cannot be read (the problem is reported by the table).
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        if let Some(by) = fields.map("keep", Self::BY) {
            let order = by.text("order").and_then(|word| Order::from_word(&word)).unwrap_or(Order::Ascending);
            return Self::By { column: by.text("by").unwrap_or_default(), order };
        }
        match fields.text("keep").as_deref() {
            Some("last") => Self::Last,
            Some("longest") => Self::Longest,
            Some("shortest") => Self::Shortest,
            Some("hard") => Self::Hard,
            Some("easy") => Self::Easy,
            Some("random") => Self::Random,
            _ => Self::First,
        }
    }

    /// As hashed into the plan.
    #[must_use]
    pub fn canonical(&self) -> Value {
        match self {
            Self::First => json!("first"),
            Self::Last => json!("last"),
            Self::Longest => json!("longest"),
            Self::Shortest => json!("shortest"),
            Self::Hard => json!("hard"),
            Self::Easy => json!("easy"),
            Self::Random => json!("random"),
            Self::By { column, order } => json!({"by": column, "order": order.word()}),
        }
    }
}

/// The number of clusters of a k-means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clusters {
    /// The stage chooses by the number of rows.
    Auto,
    /// This many, at least 1.
    Fixed(u32),
}

impl Clusters {
    /// The shape of a key `k`.
    pub const SHAPE: Shape = Shape::Any(&[Shape::Int { min: 1, max: 1 << 24 }, Shape::Choice(&["auto"])]);

    /// Reads the key `k`.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        fields.int("k").and_then(|k| u32::try_from(k).ok()).map_or(Self::Auto, Self::Fixed)
    }

    /// How many for so many rows, at least 1 and at most one a row; `auto` says how many the stage chooses.
    #[must_use]
    pub fn of(self, rows: usize, auto: impl Fn(usize) -> usize) -> usize {
        let k = match self {
            Self::Fixed(k) => k as usize,
            Self::Auto => auto(rows),
        };
        k.clamp(1, rows.max(1))
    }

    /// As hashed into the plan.
    #[must_use]
    pub fn canonical(self) -> Value {
        match self {
            Self::Auto => json!("auto"),
            Self::Fixed(k) => json!(k),
        }
    }
}

/// The key `seed`.
pub const SEED: Field = defaulted(
    "seed",
    Shape::Int { min: 0, max: i64::MAX },
    Presence::Int(1234),
    "The seed of all randomness of this stage; the same seed gives the same result on any machine and number of threads.",
);

/// The key `on_bad_vector`.
pub const ON_BAD_VECTOR: Field = defaulted(
    "on_bad_vector",
    Shape::Choice(OnBadVector::WORDS),
    Presence::Text("keep"),
    "What becomes of a row whose vector is missing, not finite, of norm zero or of the wrong dimension: `keep` it uncompared, `drop` it, or `fail` the run.",
);

/// The key `embedding`.
pub const EMBEDDING: Field = optional(
    "embedding",
    Shape::Id,
    "The id of the `embed` stage whose vectors are used; needed only where two are equally near. Default: the nearest above.",
);

/// The key `iterations` of a k-means.
pub const ITERATIONS: Field =
    defaulted("iterations", Shape::Int { min: 1, max: 10_000 }, Presence::Int(20), "The greatest number of k-means iterations.");

/// Reads the key `seed`.
#[must_use]
pub fn read_seed(fields: &Fields<'_>) -> u64 {
    fields.int("seed").unwrap_or_default().unsigned_abs()
}

/// Reads the key `iterations`.
#[must_use]
pub fn read_iterations(fields: &Fields<'_>) -> u32 {
    fields.int("iterations").and_then(|value| u32::try_from(value).ok()).unwrap_or_default()
}

/// Reads the key `on_bad_vector`.
#[must_use]
pub fn read_on_bad_vector(fields: &Fields<'_>) -> OnBadVector {
    fields.text("on_bad_vector").and_then(|word| OnBadVector::from_word(&word)).unwrap_or(OnBadVector::Keep)
}
