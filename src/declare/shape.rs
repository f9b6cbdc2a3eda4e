//! What a value of the pipeline file may be. The tables made of these types are the one declaration of the file's format.

/// One key of a map.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key, as the user writes it.
    pub key: &'static str,
    /// What its value may be.
    pub shape: Shape,
    /// Whether it must be there, and what holds when it is not.
    pub presence: Presence,
    /// What it means: one or two sentences for the JSON Schema.
    pub doc: &'static str,
}

/// Whether a key must be there, and what holds when it is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Presence {
    /// It must be there.
    Required,
    /// It may be left out; there is no value then.
    Optional,
    /// Left out, it is this truth value.
    Bool(bool),
    /// Left out, it is this number.
    Int(i64),
    /// Left out, it is this number.
    Float(f64),
    /// Left out, it is this text.
    Text(&'static str),
    /// Left out, it is a list of nothing.
    EmptyList,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number between the bounds, both included.
    Int {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// A finite number between the bounds; `max` is included, `min` only if `exclusive` is false.
    Float {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
        /// Whether `min` itself is refused.
        exclusive: bool,
    },
    /// A text that is not empty.
    Text,
    /// A boolean SQL expression over the columns of one row.
    Sql,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A size such as `64MiB`.
    Bytes,
    /// A path or a `file://` URI; relative to the pipeline file.
    Path,
    /// The id of a stage or a source: a letter, then letters, digits and `_`.
    Id,
    /// `zstd(LEVEL)` with a level from 1 to 22.
    Compression,
    /// 64 hexadecimal digits.
    Sha256,
    /// A list.
    List(&'static Self),
    /// One value, or a list of such values.
    OneOrMany(&'static Self),
    /// A map with these keys.
    Map(&'static [Field]),
    /// A map whose keys are ids that the user chooses.
    Named(&'static Self),
    /// A map with the `common` keys and exactly one of the `kinds`.
    Kinds {
        /// What a kind is called in messages, such as `stage kind`.
        noun: &'static str,
        /// The keys that every kind has.
        common: &'static [Field],
        /// The kinds: exactly one must be there.
        kinds: &'static [Field],
        /// Whether a kind's keys stand directly behind the id in a path, as in `stages.near.threshold`.
        transparent: bool,
    },
    /// A list of maps with a key `id`; paths name an element by its id.
    Identified(&'static Self),
    /// One of several shapes, told apart by the type of the value.
    Any(&'static [Self]),
}

impl Shape {
    /// Any finite number.
    pub const NUMBER: Self = Self::Float { min: f64::MIN, max: f64::MAX, exclusive: false };
}

/// A required key.
#[must_use]
pub const fn required(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, shape, presence: Presence::Required, doc }
}

/// A key that may be left out.
#[must_use]
pub const fn optional(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, shape, presence: Presence::Optional, doc }
}

/// A key with a default.
#[must_use]
pub const fn defaulted(key: &'static str, shape: Shape, presence: Presence, doc: &'static str) -> Field {
    Field { key, shape, presence, doc }
}
