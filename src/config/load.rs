//! Text to tree. The YAML is read by events with a tight budget: one document, no tags, no merge keys, no includes, aliases
//! expanded within bounds. Nothing is interpolated: what the file says is what it means.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span};

use crate::declare::reader::Refusal;
use crate::declare::tree::shown;
use crate::declare::{Key, Node, Shape, Value};
use crate::diagnostic::{Diagnostics, Position};
use crate::limits::{MAX_PIPELINE_ALIASES, MAX_PIPELINE_BYTES, MAX_PIPELINE_DEPTH, MAX_PIPELINE_NODES};

/// The text of a pipeline file: UTF-8 within the size limit; a byte order mark of UTF-8 is skipped.
///
/// # Errors
/// A file that is too large or not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, Diagnostics> {
    let mut out = Diagnostics::new();
    if bytes.len() > MAX_PIPELINE_BYTES {
        out.add("", None, format!("the file has {} bytes; the limit is {MAX_PIPELINE_BYTES}", bytes.len()), None);
        return Err(out);
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        out.add("", None, "the file is UTF-16", Some("save it as UTF-8".into()));
        return Err(out);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text)),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or_default();
            let line = valid.matches('\n').count() + 1;
            let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let position = Position { line: line as u32, column: column as u32 };
            out.add("", Some(position), "the file is not UTF-8", Some("save it as UTF-8".into()));
            Err(out)
        }
    }
}

/// The tree of a YAML text.
///
/// # Errors
/// The first error of syntax or of the budget, with tags and merge keys found until then.
pub fn parse(text: &str) -> Result<Node, Diagnostics> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // Ours is met first, and names itself.
    options.flow_nesting_limit = MAX_PIPELINE_DEPTH * 2;
    options.block_nesting_limit = MAX_PIPELINE_DEPTH * 2;
    let mut tree = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = error.marker();
                let position = Position { line: at.line() as u32, column: at.col() as u32 + 1 };
                let message = format!("this is not valid YAML: {}", error.info());
                tree.out.add("", Some(position), message, None);
                return Err(tree.out);
            }
        };
        if !tree.take(event, &span) {
            return Err(tree.out);
        }
    }
    if !tree.out.is_empty() {
        return Err(tree.out);
    }
    tree.root.ok_or_else(|| {
        let mut out = Diagnostics::new();
        out.add("", None, "the file is empty", Some("`trommel init GLOB` writes a first pipeline".into()));
        out
    })
}

/// The value of `--set PATH=VALUE` for a place of this shape: one scalar, or a flow list of scalars where a list may stand.
/// It is never read as YAML structure otherwise: colons, hashes, braces and newlines are letters.
///
/// # Errors
/// A list that cannot be read or that holds more than scalars.
pub fn set_value(text: &str, shape: &Shape) -> Result<Node, Refusal> {
    let node = |value| Node { position: None, value };
    if takes_list(shape) && text.trim_start().starts_with('[') {
        let refusal = || (format!("`{}` is not a list of plain values", shown(text)), Some("write `[a, b]`".to_owned()));
        let Ok(Node { value: Value::List(elements), .. }) = parse(text) else { return Err(refusal()) };
        if elements.iter().any(|element| matches!(element.value, Value::List(_) | Value::Map(_))) {
            return Err(refusal());
        }
        return Ok(node(Value::List(elements.into_iter().map(|element| node(element.value)).collect())));
    }
    Ok(node(scalar_for(text, shape)))
}

fn takes_list(shape: &Shape) -> bool {
    match shape {
        Shape::List(_) | Shape::OneOrMany(_) => true,
        Shape::Any(shapes) => shapes.iter().any(takes_list),
        _ => false,
    }
}

fn scalar_for(text: &str, shape: &Shape) -> Value {
    match shape {
        Shape::Bool | Shape::Int { .. } | Shape::Float { .. } => resolve(text.trim()),
        Shape::OneOrMany(inner) => scalar_for(text, inner),
        Shape::Any(shapes) => {
            let value = resolve(text.trim());
            let fits = |shape: &Shape| {
                matches!(
                    (shape, &value),
                    (Shape::Int { .. } | Shape::Float { .. }, Value::Int(_) | Value::Float(_)) | (Shape::Bool, Value::Bool(_))
                )
            };
            if shapes.iter().any(fits) { value } else { Value::Text(text.to_owned()) }
        }
        _ => Value::Text(text.to_owned()),
    }
}

/// A plain scalar by YAML 1.2's core schema (section 10.3.2 of the specification).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.starts_with(['+', '-'])
            && let Ok(value) = i64::from_str_radix(digits, radix)
        {
            return Value::Int(value);
        }
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && unsigned.contains(|c: char| c.is_ascii_digit());
    if numeric {
        if let Ok(value) = text.parse::<i64>() {
            return Value::Int(value);
        }
        if let Ok(value) = text.parse::<f64>() {
            return Value::Float(value);
        }
    }
    Value::Text(text.to_owned())
}

enum Frame {
    List { position: Position, anchor: usize, elements: Vec<Node>, before: Spent },
    Map { position: Position, anchor: usize, entries: Vec<(Key, Node)>, key: Option<Key>, before: Spent },
}

/// What has been used of the budget; an alias spends again what its anchor spent.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    nodes: usize,
    bytes: usize,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, (Node, Spent)>,
    documents: usize,
    aliases: usize,
    spent: Spent,
    out: Diagnostics,
}

impl Builder {
    /// Takes one event; `false` ends the reading.
    fn take(&mut self, event: Event<'_>, span: &Span) -> bool {
        let position = Position { line: span.start.line() as u32, column: span.start.col() as u32 + 1 };
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.stop(
                        position,
                        "there is a second document in the file",
                        Some("a file holds one pipeline: remove `---` and what follows it"),
                    );
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(tag) = tag {
                    self.refuse_tag(position, &tag.original());
                }
                let spent = Spent { nodes: 1, bytes: text.len() };
                if !self.spend(spent, position) {
                    return false;
                }
                let plain = style == ScalarStyle::Plain;
                if self.awaits_key() {
                    if plain && text == "<<" {
                        self.out.add("", Some(position), "merge keys (`<<`) are not supported", Some("write the keys out".into()));
                    }
                    return self.key(text.into_owned(), position);
                }
                let value = if plain { resolve(&text) } else { Value::Text(text.into_owned()) };
                return self.node(Node { position: Some(position), value }, anchor, spent);
            }
            Event::SequenceStart(_, anchor, tag) => {
                if let Some(tag) = tag {
                    self.refuse_tag(position, &tag.original());
                }
                return self.open(position, |before| Frame::List { position, anchor, elements: Vec::new(), before });
            }
            Event::MappingStart(_, anchor, tag) => {
                if let Some(tag) = tag {
                    self.refuse_tag(position, &tag.original());
                }
                return self.open(position, |before| Frame::Map { position, anchor, entries: Vec::new(), key: None, before });
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(),
            Event::Alias(anchor) => {
                self.aliases += 1;
                if self.aliases > MAX_PIPELINE_ALIASES {
                    let message = format!("the file has more than {MAX_PIPELINE_ALIASES} aliases");
                    return self.stop(position, &message, Some("write the values out"));
                }
                if self.awaits_key() {
                    return self.stop(position, "a key must be a plain word, not an alias", None);
                }
                let Some((node, spent)) = self.anchors.get(&anchor).cloned() else {
                    return self.stop(position, "an alias stands inside the value that it names", Some("write the value out"));
                };
                return self.spend(spent, position) && self.node(Node { position: Some(position), ..node }, 0, spent);
            }
            _ => {}
        }
        true
    }

    fn stop(&mut self, position: Position, message: &str, hint: Option<&str>) -> bool {
        self.out.add("", Some(position), message, hint.map(str::to_owned));
        false
    }

    fn refuse_tag(&mut self, position: Position, tag: &str) {
        self.out.add("", Some(position), format!("tags are not supported: `{}`", shown(tag)), Some("remove the tag".into()));
    }

    fn spend(&mut self, more: Spent, position: Position) -> bool {
        self.spent.nodes += more.nodes;
        self.spent.bytes += more.bytes;
        if self.spent.nodes > MAX_PIPELINE_NODES {
            let message = format!("the file has more than {MAX_PIPELINE_NODES} values, aliases expanded");
            return self.stop(position, &message, None);
        }
        if self.spent.bytes > MAX_PIPELINE_BYTES {
            let message = format!("the file has more than {MAX_PIPELINE_BYTES} bytes of text, aliases expanded");
            return self.stop(position, &message, None);
        }
        true
    }

    fn awaits_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Map { key: None, .. }))
    }

    fn key(&mut self, name: String, position: Position) -> bool {
        if let Some(Frame::Map { key, .. }) = self.frames.last_mut() {
            *key = Some(Key { name, position: Some(position) });
        }
        true
    }

    fn open(&mut self, position: Position, frame: impl FnOnce(Spent) -> Frame) -> bool {
        if self.awaits_key() {
            return self.stop(position, "a key must be a plain word, not a list or a map", None);
        }
        if self.frames.len() >= MAX_PIPELINE_DEPTH {
            let message = format!("the file nests deeper than {MAX_PIPELINE_DEPTH} levels");
            return self.stop(position, &message, None);
        }
        let before = self.spent;
        self.frames.push(frame(before));
        self.spend(Spent { nodes: 1, bytes: 0 }, position)
    }

    fn close(&mut self) -> bool {
        let (position, anchor, value, before) = match self.frames.pop() {
            Some(Frame::List { position, anchor, elements, before }) => (position, anchor, Value::List(elements), before),
            Some(Frame::Map { position, anchor, entries, before, .. }) => (position, anchor, Value::Map(entries), before),
            None => return true,
        };
        let spent = Spent { nodes: self.spent.nodes - before.nodes, bytes: self.spent.bytes - before.bytes };
        self.node(Node { position: Some(position), value }, anchor, spent)
    }

    fn node(&mut self, node: Node, anchor: usize, spent: Spent) -> bool {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), spent));
        }
        match self.frames.last_mut() {
            Some(Frame::List { elements, .. }) => elements.push(node),
            Some(Frame::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
            None => self.root = Some(node),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        parse(text).unwrap().value
    }

    #[test]
    fn plain_scalars_follow_the_core_schema_and_quoted_ones_are_text() {
        for (text, expected) in [
            ("12", Value::Int(12)),
            ("-3", Value::Int(-3)),
            ("+3", Value::Int(3)),
            ("0x1F", Value::Int(31)),
            ("0o17", Value::Int(15)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("5.", Value::Float(5.0)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("9223372036854775808", Value::Float(9_223_372_036_854_775_808.0)),
            ("true", Value::Bool(true)),
            ("~", Value::Null),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        for text in ["yes", "on", "inf", "nan", "1_000", "0x", "0x-1", "1.2.3", "e3", "12a", "2024-01-01", "1:30"] {
            assert_eq!(value(text), Value::Text(text.into()), "{text}");
        }
        for (text, expected) in [("'12'", "12"), ("\"true\"", "true"), ("|\n  a\n  b\n", "a\nb\n"), ("''", "")] {
            assert_eq!(value(text), Value::Text(expected.into()), "{text}");
        }
    }

    #[test]
    fn places_count_from_one_in_characters() {
        let root = parse("a: 1\nü: {ß: [x, y]}\n").unwrap();
        let list = root.get("ü").unwrap().get("ß").unwrap();
        let place = |node: &Node| node.position.map(|at| (at.line, at.column));
        assert_eq!(place(&root), Some((1, 1)));
        assert_eq!(place(&list.elements().unwrap()[1]), Some((2, 12)));
        assert_eq!(root.entries().unwrap()[1].0.position, Some(Position { line: 2, column: 1 }));
    }

    #[test]
    fn aliases_are_expanded_and_stand_where_they_are_written() {
        let root = parse("a: &x [1, 2]\nb: *x\n").unwrap();
        assert_eq!(root.get("b").unwrap().elements().unwrap().len(), 2);
        assert_eq!(root.get("b").unwrap().position, Some(Position { line: 2, column: 4 }));
    }
}
