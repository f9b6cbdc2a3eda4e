//! Checks a tree against a shape and reports every problem at once; then gives typed access to the values.

use std::collections::BTreeMap;

use super::shape::{Field, Presence, Shape};
use super::tree::{Key, Node, Value, join, shown};
use crate::diagnostic::{Diagnostics, Position, nearest};
use crate::limits::MAX_ID_LENGTH;

/// Checks `node` against `shape` and adds all problems. `path` is how diagnostics and `--set` name the node.
pub fn check(node: &Node, shape: &Shape, path: &str, out: &mut Diagnostics) {
    match shape {
        Shape::List(element) => match node.elements() {
            Some(elements) => check_elements(elements, element, path, out),
            None => wrong_type(node, shape, path, out),
        },
        Shape::OneOrMany(element) => match node.elements() {
            Some(elements) => check_elements(elements, element, path, out),
            None if matches!(node.value, Value::Map(_) | Value::Null) => wrong_type(node, shape, path, out),
            None => check(node, element, path, out),
        },
        Shape::Identified(element) => match node.elements() {
            Some(elements) => {
                for (index, child) in elements.iter().enumerate() {
                    check(child, element, &element_path(path, index, child), out);
                }
            }
            None => wrong_type(node, shape, path, out),
        },
        Shape::Map(fields) => match node.entries() {
            Some(entries) => check_map(entries, fields, node.position, path, out),
            None => wrong_type(node, shape, path, out),
        },
        Shape::Named(element) => match node.entries() {
            Some(entries) => {
                check_repeats(entries, path, out);
                for (key, child) in entries {
                    let child_path = join(path, &key.name);
                    if let Err((message, hint)) = check_id(&key.name) {
                        out.add(&child_path, key.position, message, hint);
                    }
                    check(child, element, &child_path, out);
                }
            }
            None => wrong_type(node, shape, path, out),
        },
        Shape::Kinds { noun, common, kinds, transparent } => match node.entries() {
            Some(entries) => {
                check_kinds(entries, &Kinds { noun, common, fields: kinds, transparent: *transparent }, node.position, path, out);
            }
            None => wrong_type(node, shape, path, out),
        },
        Shape::Any(shapes) => match alternative(node, shapes) {
            Some(chosen) => check(node, chosen, path, out),
            None => wrong_type(node, shape, path, out),
        },
        _ => check_scalar(node, shape, path, out),
    }
}

/// The shape among `shapes` that takes values of the node's type.
pub(super) fn alternative<'s>(node: &Node, shapes: &'s [Shape]) -> Option<&'s Shape> {
    shapes.iter().find(|shape| match (&node.value, shape) {
        (Value::Map(_), Shape::Map(_) | Shape::Kinds { .. } | Shape::Named(_))
        | (Value::List(_), Shape::List(_) | Shape::OneOrMany(_))
        | (Value::Bool(_), Shape::Bool)
        | (Value::Int(_) | Value::Float(_), Shape::Int { .. } | Shape::Float { .. }) => true,
        (Value::Text(_), shape) => is_textual(shape),
        _ => false,
    })
}

/// Whether values of the shape are written as text.
pub(super) fn is_textual(shape: &Shape) -> bool {
    matches!(
        shape,
        Shape::Text | Shape::Sql | Shape::Choice(_) | Shape::Bytes | Shape::Path | Shape::Id | Shape::Compression | Shape::Sha256
    )
}

/// The path of an element of an identified list: by its id, or by its place (from 0) where it has none.
#[must_use]
pub fn element_path(path: &str, index: usize, element: &Node) -> String {
    match element.get("id").and_then(Node::text) {
        Some(id) if check_id(id).is_ok() => join(path, id),
        _ => format!("{path}[{index}]"),
    }
}

struct Kinds<'t> {
    noun: &'t str,
    common: &'static [Field],
    fields: &'static [Field],
    transparent: bool,
}

fn check_elements(elements: &[Node], shape: &Shape, path: &str, out: &mut Diagnostics) {
    for (index, element) in elements.iter().enumerate() {
        check(element, shape, &format!("{path}[{index}]"), out);
    }
}

fn check_repeats(entries: &[(Key, Node)], path: &str, out: &mut Diagnostics) {
    let mut seen: BTreeMap<&str, &Key> = BTreeMap::new();
    for (key, _) in entries {
        if let Some(first) = seen.insert(&key.name, key) {
            seen.insert(&key.name, first);
            let place = first.position.map(|at| format!(", first given at {}:{}", at.line, at.column)).unwrap_or_default();
            out.add(
                &join(path, &shown(&key.name)),
                key.position,
                format!("duplicate key `{}`{place}", shown(&key.name)),
                Some("remove one of the two".into()),
            );
        }
    }
}

/// A sentence of the documentation as a hint: a lower-case fragment.
fn hint_of(doc: &str) -> String {
    let doc = doc.strip_suffix('.').unwrap_or(doc);
    let mut letters = doc.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(letters).collect(),
        _ => doc.to_owned(),
    }
}

/// Unknown keys that are reported of one map, so that a hostile file costs nothing.
const MOST_UNKNOWN_KEYS: usize = 20;

/// The candidate nearest to `word`; words longer than any that we know are not compared.
fn near<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_ID_LENGTH { None } else { nearest(word, candidates) }
}

fn unknown_key(key: &Key, known: &[&'static str], path: &str, out: &mut Diagnostics) {
    let name = shown(&key.name);
    let hint = match near(&key.name, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known here: {}", listed(known)),
    };
    out.add(&join(path, &name), key.position, format!("unknown key `{name}`"), Some(hint));
}

fn check_map(entries: &[(Key, Node)], fields: &'static [Field], position: Option<Position>, path: &str, out: &mut Diagnostics) {
    check_repeats(entries, path, out);
    let known: Vec<&'static str> = fields.iter().map(|field| field.key).collect();
    let mut misspelt = Vec::new();
    let mut unknown = 0;
    for (key, child) in entries {
        match fields.iter().find(|field| field.key == key.name) {
            Some(field) => check(child, &field.shape, &join(path, field.key), out),
            None if unknown == MOST_UNKNOWN_KEYS => {}
            None => {
                unknown += 1;
                misspelt.extend(near(&key.name, known.iter().copied()));
                unknown_key(key, &known, path, out);
            }
        }
    }
    for field in fields.iter().filter(|field| field.presence == Presence::Required) {
        // A key that is there under a misspelt name is one problem, not two.
        if !entries.iter().any(|(key, _)| key.name == field.key) && !misspelt.contains(&field.key) {
            out.add(&join(path, field.key), position, format!("missing key `{}`", field.key), Some(hint_of(field.doc)));
        }
    }
}

fn check_kinds(entries: &[(Key, Node)], table: &Kinds<'_>, position: Option<Position>, path: &str, out: &mut Diagnostics) {
    check_repeats(entries, path, out);
    let noun = table.noun;
    let kinds: Vec<&'static str> = table.fields.iter().map(|field| field.key).collect();
    let known: Vec<&'static str> = table.common.iter().map(|field| field.key).chain(kinds.iter().copied()).collect();
    let mut given: Vec<&Key> = Vec::new();
    let mut misspelt = Vec::new();
    let mut may_be_kind = false;
    let mut unknown = 0;
    for (key, child) in entries {
        if let Some(field) = table.common.iter().find(|field| field.key == key.name) {
            check(child, &field.shape, &join(path, field.key), out);
        } else if let Some(field) = table.fields.iter().find(|field| field.key == key.name) {
            given.push(key);
            let child_path = if table.transparent { path.to_owned() } else { join(path, field.key) };
            check(child, &field.shape, &child_path, out);
        } else if unknown < MOST_UNKNOWN_KEYS {
            unknown += 1;
            let close = near(&key.name, known.iter().copied());
            misspelt.extend(close);
            let is_kind = close.is_some_and(|word| kinds.contains(&word)) || (close.is_none() && child.entries().is_some());
            may_be_kind |= is_kind;
            if is_kind {
                let name = shown(&key.name);
                let hint = close.map_or_else(|| format!("known here: {}", listed(&kinds)), |word| format!("did you mean `{word}`?"));
                out.add(&join(path, &name), key.position, format!("unknown {noun} `{name}`"), Some(hint));
            } else {
                unknown_key(key, &known, path, out);
            }
        }
    }
    for field in table.common.iter().filter(|field| field.presence == Presence::Required) {
        if !entries.iter().any(|(key, _)| key.name == field.key) && !misspelt.contains(&field.key) {
            out.add(&join(path, field.key), position, format!("missing key `{}`", field.key), Some(hint_of(field.doc)));
        }
    }
    given.dedup_by(|a, b| a.name == b.name);
    match given.as_slice() {
        [] if !may_be_kind => {
            out.add(path, position, format!("no {noun} is given"), Some(format!("give exactly one of {}", listed(&kinds))));
        }
        [first, second, ..] => {
            let message = format!("two {noun}s, `{}` and `{}`, are given", first.name, second.name);
            out.add(path, second.position, message, Some(format!("give exactly one {noun}")));
        }
        _ => {}
    }
}

fn check_scalar(node: &Node, shape: &Shape, path: &str, out: &mut Diagnostics) {
    let mut refuse = |message: String, hint: Option<String>| out.add(path, node.position, message, hint);
    match (shape, &node.value) {
        (Shape::Int { min, max }, Value::Int(value)) if value < min || value > max => {
            refuse(format!("the number {value} is out of range: expected {}", describe(shape)), None);
        }
        (Shape::Float { .. }, Value::Int(_) | Value::Float(_)) => {
            let value = number(node).unwrap_or(f64::NAN);
            if !float_fits(shape, value) {
                refuse(format!("the number {value} is out of range: expected {}", describe(shape)), None);
            }
        }
        (Shape::Choice(words), Value::Text(word)) => {
            if !words.contains(&word.as_str()) {
                let hint = match near(word, words.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", listed(words)),
                };
                refuse(format!("unknown value `{}`", shown(word)), Some(hint));
            }
        }
        (Shape::Text | Shape::Sql, Value::Text(text)) if text.trim().is_empty() => {
            refuse(format!("expected {}, found an empty text", describe(shape)), None);
        }
        (Shape::Bool, Value::Bool(_)) | (Shape::Int { .. }, Value::Int(_)) | (Shape::Text | Shape::Sql, Value::Text(_)) => {}
        (Shape::Path, Value::Text(text)) => {
            if text.trim().is_empty() {
                refuse("expected a path, found an empty text".into(), None);
            } else if text.chars().any(char::is_control) {
                refuse(format!("the path `{}` has a control character", shown(text)), None);
            }
        }
        (Shape::Id, Value::Text(text)) => {
            if let Err((message, hint)) = check_id(text) {
                refuse(message, hint);
            }
        }
        (Shape::Bytes, Value::Text(text)) => {
            if let Err((message, hint)) = parse_bytes(text) {
                refuse(message, hint);
            }
        }
        (Shape::Bytes, Value::Int(value)) => {
            refuse(format!("the size {value} has no unit"), Some(format!("write it with a unit, such as `{value}B` or `64MiB`")));
        }
        (Shape::Compression, Value::Text(text)) => {
            if parse_compression(text).is_none() {
                refuse(format!("expected {}, found the text `{}`", describe(shape), shown(text)), Some("write `zstd(3)`".into()));
            }
        }
        (Shape::Sha256, Value::Text(text)) => {
            if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                refuse(format!("expected {}, found the text `{}`", describe(shape), shown(text)), None);
            }
        }
        _ => wrong_type(node, shape, path, out),
    }
}

fn wrong_type(node: &Node, shape: &Shape, path: &str, out: &mut Diagnostics) {
    let hint = match (shape, &node.value) {
        (shape, Value::Int(_) | Value::Float(_) | Value::Bool(_)) if is_textual(shape) => {
            Some("put it in quotes to make it a text".to_owned())
        }
        (Shape::Int { .. } | Shape::Float { .. }, Value::Text(text)) if text.parse::<f64>().is_ok() => {
            Some("remove the quotes to make it a number".to_owned())
        }
        (Shape::Bool, Value::Text(word)) => match word.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => Some("write `true`".to_owned()),
            "no" | "off" | "n" | "false" => Some("write `false`".to_owned()),
            _ => None,
        },
        (Shape::Map(_) | Shape::Kinds { .. }, Value::Null) => Some("is what follows indented? write `{}` for a map with no key".to_owned()),
        (Shape::List(_), Value::Text(text)) => Some(format!("write `[{}]` for a list of one", shown(text))),
        (Shape::List(_), Value::Int(value)) => Some(format!("write `[{value}]` for a list of one")),
        (Shape::List(_), Value::Float(value)) => Some(format!("write `[{value}]` for a list of one")),
        (Shape::Identified(_), Value::Map(_)) => Some("begin each element with `- id: ...`".to_owned()),
        _ => None,
    };
    out.add(path, node.position, format!("expected {}, found {}", describe(shape), node.found()), hint);
}

/// What a message says was expected.
#[must_use]
pub fn describe(shape: &Shape) -> String {
    match shape {
        Shape::Bool => "`true` or `false`".into(),
        Shape::Int { min, max: i64::MAX } => format!("a whole number from {min}"),
        Shape::Int { min, max } => format!("a whole number from {min} to {max}"),
        Shape::Float { min: f64::MIN, max: f64::MAX, .. } => "a number".into(),
        Shape::Float { min, max, exclusive: true } => format!("a number above {min} and at most {max}"),
        Shape::Float { min, max, exclusive: false } => format!("a number from {min} to {max}"),
        Shape::Text => "a text".into(),
        Shape::Sql => "a boolean SQL expression".into(),
        Shape::Choice(words) => match words {
            [word] => format!("`{word}`"),
            _ => format!("one of {}", listed(words)),
        },
        Shape::Bytes => "a size such as `64MiB`".into(),
        Shape::Path => "a path".into(),
        Shape::Id => "an id".into(),
        Shape::Compression => "`zstd(LEVEL)` with a level from 1 to 22".into(),
        Shape::Sha256 => "a SHA-256 of 64 hexadecimal digits".into(),
        Shape::List(_) | Shape::Identified(_) => "a list".into(),
        Shape::OneOrMany(element) => format!("{} or a list of such", describe(element)),
        Shape::Map(_) | Shape::Named(_) | Shape::Kinds { .. } => "a map".into(),
        Shape::Any(shapes) => shapes.iter().map(describe).collect::<Vec<_>>().join(", or "),
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn float_fits(shape: &Shape, value: f64) -> bool {
    match shape {
        Shape::Float { min, max, exclusive } => value.is_finite() && value <= *max && if *exclusive { value > *min } else { value >= *min },
        _ => false,
    }
}

fn number(node: &Node) -> Option<f64> {
    match node.value {
        Value::Int(value) => Some(value as f64),
        Value::Float(value) => Some(value),
        _ => None,
    }
}

/// Why a value is refused, and how to mend it.
pub type Refusal = (String, Option<String>);

/// Checks an id: a letter, then letters, digits and `_` (ASCII), at most [`MAX_ID_LENGTH`].
///
/// # Errors
/// What is wrong with it, and the mend.
pub fn check_id(id: &str) -> Result<(), Refusal> {
    let valid = id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        let mended: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(MAX_ID_LENGTH).collect();
        let hint = if mended.starts_with(|c: char| c.is_ascii_alphabetic()) {
            format!("an id is a letter, then letters, digits and `_`: write `{mended}`")
        } else {
            "an id is a letter, then letters, digits and `_`".to_owned()
        };
        return Err((format!("bad id `{}`", shown(id)), Some(hint)));
    }
    if id.starts_with("trommel_") {
        return Err((
            format!("the id `{}` begins with `trommel_`, which names columns of the program", shown(id)),
            Some("write another id".into()),
        ));
    }
    if id.len() > MAX_ID_LENGTH {
        return Err((format!("the id `{}` has {} letters; the limit is {MAX_ID_LENGTH}", shown(id), id.len()), None));
    }
    Ok(())
}

/// The number of bytes of a size such as `64MiB`; units are `B`, `KiB`, `MiB`, `GiB` and `TiB`.
///
/// # Errors
/// What is wrong with it, and the mend.
pub fn parse_bytes(text: &str) -> Result<u64, Refusal> {
    const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let general = || Some("write a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, such as `64MiB`".to_owned());
    if count.is_empty() {
        return Err((format!("expected a size such as `64MiB`, found the text `{}`", shown(text)), general()));
    }
    if unit.is_empty() {
        return Err((format!("the size {count} has no unit"), Some(format!("write it with a unit, such as `{count}B` or `64MiB`"))));
    }
    let Some((_, shift)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let near = match unit.to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => Some("B"),
            "k" | "kb" | "kib" => Some("KiB"),
            "m" | "mb" | "mib" => Some("MiB"),
            "g" | "gb" | "gib" => Some("GiB"),
            "t" | "tb" | "tib" => Some("TiB"),
            _ => None,
        };
        return Err((
            format!("unknown unit `{}`", shown(unit)),
            near.map_or_else(general, |near| Some(format!("did you mean `{count}{near}`?"))),
        ));
    };
    match count.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift)).filter(|bytes| i64::try_from(*bytes).is_ok()) {
        Some(0) => Err(("the size is zero".into(), None)),
        Some(bytes) => Ok(bytes),
        None => Err((format!("the size `{}` is too large", shown(text)), None)),
    }
}

/// The level of `zstd(LEVEL)`, 1 to 22.
#[must_use]
pub fn parse_compression(text: &str) -> Option<i32> {
    let level = text.strip_prefix("zstd(")?.strip_suffix(')')?;
    level.parse::<i32>().ok().filter(|level| (1..=22).contains(level) && !text.contains('+'))
}

/// Typed access to a map that has been checked. Values that were refused read as `None`; keys that were left out read as the table's default.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    table: &'static [Field],
    node: &'a Node,
    path: String,
}

impl<'a> Fields<'a> {
    /// The map `node` with the keys of `table`; `path` names it.
    #[must_use]
    pub fn new(node: &'a Node, table: &'static [Field], path: impl Into<String>) -> Self {
        Self { table, node, path: path.into() }
    }

    /// How diagnostics name the map.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of a key as it was written.
    #[must_use]
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.node.get(key)
    }

    /// Where a key's value stands, else where the map does.
    #[must_use]
    pub fn position(&self, key: &str) -> Option<Position> {
        self.node(key).map_or(self.node.position, |node| node.position)
    }

    /// Whether the user gave the key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// The value of a key, if it has one that the table takes.
    fn valid(&self, key: &str) -> Option<&'a Node> {
        let field = self.table.iter().find(|field| field.key == key)?;
        let node = self.node(key)?;
        let mut problems = Diagnostics::new();
        check(node, &field.shape, "", &mut problems);
        problems.is_empty().then_some(node)
    }

    fn default(&self, key: &str) -> Option<Presence> {
        if self.has(key) {
            return None;
        }
        self.table.iter().find(|field| field.key == key).map(|field| field.presence)
    }

    /// A truth value.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        if let Some(Presence::Bool(value)) = self.default(key) {
            return Some(value);
        }
        match self.valid(key)?.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A whole number.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        if let Some(Presence::Int(value)) = self.default(key) {
            return Some(value);
        }
        match self.valid(key)?.value {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// A number.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        if let Some(Presence::Float(value)) = self.default(key) {
            return Some(value);
        }
        number(self.valid(key)?)
    }

    /// A text of any kind (choices, ids and paths too).
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        if let Some(Presence::Text(value)) = self.default(key) {
            return Some(value.to_owned());
        }
        self.valid(key)?.text().map(str::to_owned)
    }

    /// A size in bytes.
    #[must_use]
    pub fn bytes(&self, key: &str) -> Option<u64> {
        parse_bytes(&self.text(key)?).ok()
    }

    /// The texts of a list, or the one text; none where the key is missing or refused.
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<String> {
        let Some(node) = self.valid(key) else { return Vec::new() };
        let one = std::slice::from_ref(node);
        node.elements().unwrap_or(one).iter().filter_map(|element| element.text().map(str::to_owned)).collect()
    }

    /// The numbers of a list; none where the key is missing or refused.
    #[must_use]
    pub fn floats(&self, key: &str) -> Vec<f64> {
        self.valid(key).and_then(Node::elements).unwrap_or_default().iter().filter_map(number).collect()
    }

    /// The map under a key, read with `table`, if the key holds a map.
    #[must_use]
    pub fn map(&self, key: &str, table: &'static [Field]) -> Option<Self> {
        let node = self.node(key)?;
        node.entries()?;
        Some(Self::new(node, table, join(&self.path, key)))
    }

    /// The maps of a list of maps, read with `table`; none where the key holds no list.
    #[must_use]
    pub fn maps(&self, key: &str, table: &'static [Field]) -> Vec<Self> {
        let elements = self.node(key).and_then(Node::elements).unwrap_or_default();
        let path = join(&self.path, key);
        let maps = elements.iter().enumerate().filter(|(_, node)| node.entries().is_some());
        maps.map(|(index, node)| Self::new(node, table, format!("{path}[{index}]"))).collect()
    }

    /// Adds a problem at the value of `key`, or at the map itself where the key is empty or missing.
    pub fn problem(&self, out: &mut Diagnostics, key: &str, message: impl Into<String>, hint: Option<String>) {
        out.add(&join(&self.path, key), self.position(key), message, hint);
    }

    /// Whether the user gave a list with no element.
    #[must_use]
    pub fn is_empty_list(&self, key: &str) -> bool {
        self.node(key).and_then(Node::elements).is_some_and(<[Node]>::is_empty)
    }

    /// Adds a problem for each word of the list under `key` that stands there before.
    pub fn refuse_repeats(&self, out: &mut Diagnostics, key: &str, words: &[String]) {
        for (index, word) in words.iter().enumerate() {
            if words.iter().take(index).any(|earlier| earlier == word) {
                let position = self
                    .node(key)
                    .and_then(Node::elements)
                    .and_then(|elements| elements.get(index))
                    .map_or(self.position(key), |node| node.position);
                let path = format!("{}[{index}]", join(&self.path, key));
                out.add(&path, position, format!("`{}` is given twice", shown(word)), Some("remove one of the two".into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_binary_unit() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes(" 1 GiB "), Ok(1 << 30));
        assert_eq!(parse_bytes("7B"), Ok(7));
        for (text, hint) in [
            ("64", "`64MiB`"),
            ("64MB", "`64MiB`"),
            ("64mib", "`64MiB`"),
            ("5kb", "`5KiB`"),
            ("MiB", "whole number"),
            ("1.5GiB", "whole number"),
        ] {
            let (message, given) = parse_bytes(text).unwrap_err();
            assert!(given.as_deref().is_some_and(|given| given.contains(hint)), "{text}: {message} {given:?}");
        }
        for text in ["", "0MiB", "-1MiB", "9999999TiB", "99999999999999999999B", "8388608TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn levels_of_compression_are_from_1_to_22() {
        assert_eq!(
            (1..=22).filter_map(|level| parse_compression(&format!("zstd({level})"))).collect::<Vec<i32>>(),
            (1..=22).collect::<Vec<i32>>()
        );
        for text in ["zstd", "zstd()", "zstd(0)", "zstd(23)", "zstd(+3)", "zstd(3", "gzip(3)", "zstd(3) "] {
            assert_eq!(parse_compression(text), None, "{text}");
        }
    }

    #[test]
    fn ids_are_letters_digits_and_underscores() {
        for id in ["a", "A1_b", &"x".repeat(MAX_ID_LENGTH)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", "1a", "_a", "a-b", "a.b", "a/b", "..", "é", "a b", &"x".repeat(MAX_ID_LENGTH + 1)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
