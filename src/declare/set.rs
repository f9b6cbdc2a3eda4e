//! Finds the place that a path of `--set` names, as diagnostics print it: `sources.crawl.parquet.uri`, `stages.near.threshold`.

use super::reader::{Refusal, alternative, describe, element_path};
use super::shape::{Field, Shape};
use super::tree::{Key, Node, Value, shown};
use crate::diagnostic::nearest;

/// The value that `path` names below `root`, and the shape it has to have. A key that the table knows and the file leaves out is
/// made (with no value yet); elements of lists, ids and kinds are never made.
///
/// # Errors
/// Why there is no such place, with the nearest name.
pub fn place<'t>(root: &'t mut Node, shape: &'static Shape, path: &str) -> Result<(&'t mut Node, &'static Shape), Refusal> {
    let steps = steps(path);
    let found = descend(root, shape, &steps).map_err(|(message, hint)| (format!("no such path `{}`: {message}", shown(path)), hint))?;
    if matches!(found.1, Shape::Map(_) | Shape::Named(_) | Shape::Kinds { .. } | Shape::Identified(_)) {
        return Err((format!("the path `{}` names a map or a list of maps", shown(path)), Some("name one of its keys".into())));
    }
    found.0.position = None;
    Ok(found)
}

/// `a.b[2].c` as `a`, `b`, `[2]`, `c`.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        match part.find('[') {
            Some(0) | None => steps.push(part),
            Some(at) => {
                let (name, index) = part.split_at(at);
                steps.push(name);
                steps.push(index);
            }
        }
    }
    steps
}

fn descend<'t>(node: &'t mut Node, shape: &'static Shape, steps: &[&str]) -> Result<(&'t mut Node, &'static Shape), Refusal> {
    let Some((step, rest)) = steps.split_first() else { return Ok((node, shape)) };
    match shape {
        Shape::Map(fields) => {
            let field = find(fields, step)?;
            let child = made(node, field.key)?;
            descend(child, &field.shape, rest)
        }
        Shape::Named(element) => {
            let names: Vec<String> = node.entries().unwrap_or_default().iter().map(|(key, _)| key.name.clone()).collect();
            match present(node, step) {
                Some(child) => descend(child, element, rest),
                None => Err(unknown(step, names.iter().map(String::as_str))),
            }
        }
        Shape::Kinds { common, kinds, transparent, .. } => {
            if let Some(field) = common.iter().find(|field| field.key == *step) {
                return descend(made(node, field.key)?, &field.shape, rest);
            }
            let given: Vec<&'static Field> = kinds.iter().filter(|field| node.get(field.key).is_some()).collect();
            if *transparent {
                let Some(field) = given.first() else { return Err(unknown(step, common.iter().map(|field| field.key))) };
                if let Shape::Map(fields) = &field.shape
                    && !fields.iter().any(|field| field.key == *step)
                {
                    return Err(unknown(step, common.iter().chain(*fields).map(|field| field.key)));
                }
                return descend(made(node, field.key)?, &field.shape, steps);
            }
            match given.iter().find(|field| field.key == *step) {
                Some(field) => descend(made(node, field.key)?, &field.shape, rest),
                None => Err(unknown(step, common.iter().chain(given).map(|field| field.key))),
            }
        }
        Shape::Identified(inner) => {
            let names: Vec<String> =
                node.elements().unwrap_or_default().iter().enumerate().map(|(index, child)| element_path("", index, child)).collect();
            let Some(index) = names.iter().position(|name| name == step) else {
                return Err(unknown(step, names.iter().map(String::as_str)));
            };
            match element(node, index) {
                Some(child) => descend(child, inner, rest),
                None => Err(unknown(step, names.iter().map(String::as_str))),
            }
        }
        Shape::List(inner) | Shape::OneOrMany(inner) => {
            let index = step.strip_prefix('[').and_then(|step| step.strip_suffix(']')).and_then(|step| step.parse().ok());
            match index.and_then(|index| element(node, index)) {
                Some(child) => descend(child, inner, rest),
                None => Err((format!("the list has no element `{}`", shown(step)), None)),
            }
        }
        Shape::Any(shapes) => match alternative(node, shapes).filter(|shape| matches!(shape, Shape::Map(_) | Shape::List(_))) {
            Some(chosen) => descend(node, chosen, steps),
            None => Err((format!("there is {} where `{}` would have to be a key", node.found(), shown(step)), None)),
        },
        scalar => Err((format!("there is {}, which has no keys", describe(scalar)), None)),
    }
}

fn find(fields: &'static [Field], step: &str) -> Result<&'static Field, Refusal> {
    fields.iter().find(|field| field.key == step).ok_or_else(|| unknown(step, fields.iter().map(|field| field.key)))
}

fn unknown<'a>(step: &str, names: impl Iterator<Item = &'a str>) -> Refusal {
    let names: Vec<&str> = names.collect();
    let hint = match nearest(step, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known there: {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    (format!("`{}` is not known there", shown(step)), Some(hint))
}

fn present<'t>(node: &'t mut Node, key: &str) -> Option<&'t mut Node> {
    match &mut node.value {
        Value::Map(entries) => entries.iter_mut().find(|(entry, _)| entry.name == key).map(|(_, child)| child),
        _ => None,
    }
}

fn element(node: &mut Node, index: usize) -> Option<&mut Node> {
    match &mut node.value {
        Value::List(elements) => elements.get_mut(index),
        _ => None,
    }
}

/// The value of `key`, made with no value yet if the map has no such key.
fn made<'t>(node: &'t mut Node, key: &str) -> Result<&'t mut Node, Refusal> {
    if node.value == Value::Null {
        node.value = Value::Map(Vec::new());
    }
    let found = node.found();
    let Value::Map(entries) = &mut node.value else {
        return Err((format!("there is {found} where a map with the key `{key}` would have to be"), None));
    };
    let index = entries.iter().position(|(entry, _)| entry.name == key).unwrap_or(entries.len());
    if index == entries.len() {
        entries.push((Key { name: key.to_owned(), position: None }, Node { position: None, value: Value::Null }));
    }
    // The index was just found or made.
    entries.get_mut(index).map(|(_, child)| child).ok_or_else(|| (format!("no key `{key}`"), None))
}
