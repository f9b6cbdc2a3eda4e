//! The JSON Schema (draft 2020-12) of the pipeline file, made from the tables that read it.

use serde_json::{Map, Value, json};

use super::model::FILE;
use crate::declare::{Field, Presence, Shape};
use crate::limits::MAX_ID_LENGTH;

/// The JSON Schema, for an editor's completion and checks. What needs the whole file (the graph, the folders) is not in it.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = of(&FILE);
    if let Value::Object(root) = &mut schema {
        root.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".into(), json!("Trommel pipeline"));
        root.insert(
            "description".into(),
            json!("A pipeline that reads shards, drops duplicates, selects a coreset and writes shards with lineage."),
        );
    }
    schema
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int { min, max: i64::MAX } => json!({"type": "integer", "minimum": min}),
        Shape::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::Float { min: f64::MIN, max: f64::MAX, .. } => json!({"type": "number"}),
        Shape::Float { min, max, exclusive: true } => json!({"type": "number", "exclusiveMinimum": min, "maximum": max}),
        Shape::Float { min, max, exclusive: false } => json!({"type": "number", "minimum": min, "maximum": max}),
        Shape::Text | Shape::Sql | Shape::Path => json!({"type": "string", "minLength": 1}),
        Shape::Choice(words) => json!({"enum": words}),
        Shape::Bytes => json!({"type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)$"}),
        Shape::Id => id(),
        Shape::Compression => json!({"type": "string", "pattern": "^zstd\\(([1-9]|1[0-9]|2[0-2])\\)$"}),
        Shape::Sha256 => json!({"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"}),
        Shape::List(element) => json!({"type": "array", "items": of(element)}),
        Shape::Identified(element) => json!({"type": "array", "items": of(element), "minItems": 1}),
        Shape::OneOrMany(element) => json!({"oneOf": [of(element), {"type": "array", "items": of(element), "minItems": 1}]}),
        Shape::Map(fields) => map(fields.iter()),
        Shape::Named(element) => {
            json!({"type": "object", "propertyNames": id(), "additionalProperties": of(element), "minProperties": 1})
        }
        Shape::Kinds { common, kinds, .. } => {
            let mut schema = map(common.iter().chain(*kinds));
            if let Value::Object(object) = &mut schema {
                let one: Vec<Value> = kinds.iter().map(|kind| json!({"required": [kind.key]})).collect();
                object.insert("oneOf".into(), Value::Array(one));
            }
            schema
        }
        Shape::Any(shapes) => json!({"anyOf": shapes.iter().map(of).collect::<Vec<Value>>()}),
    }
}

fn id() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]*$", "maxLength": MAX_ID_LENGTH})
}

fn map<'a>(fields: impl Iterator<Item = &'a Field>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut schema = of(&field.shape);
        if let Value::Object(object) = &mut schema {
            object.insert("description".into(), json!(field.doc));
            let default = match field.presence {
                Presence::Required | Presence::Optional => None,
                Presence::Bool(value) => Some(json!(value)),
                Presence::Int(value) => Some(json!(value)),
                Presence::Float(value) => Some(json!(value)),
                Presence::Text(value) => Some(json!(value)),
                Presence::EmptyList => Some(json!([])),
            };
            if let Some(default) = default {
                object.insert("default".into(), default);
            }
        }
        if field.presence == Presence::Required {
            required.push(field.key);
        }
        properties.insert(field.key.into(), schema);
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys of the schema, as paths of `properties`.
    fn keys(schema: &Value, path: &str, out: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                for (name, child) in object {
                    if name == "properties" {
                        for (key, child) in child.as_object().unwrap() {
                            let path = format!("{path}/{key}");
                            out.push(path.clone());
                            keys(child, &path, out);
                        }
                    } else {
                        keys(child, path, out);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, path, out)),
            _ => {}
        }
    }

    #[test]
    fn every_map_is_closed_and_every_key_described() {
        fn walk(schema: &Value) {
            if let Value::Object(object) = schema {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    assert_eq!(object["additionalProperties"], json!(false));
                    for (key, child) in properties {
                        assert!(child["description"].as_str().is_some_and(|text| text.ends_with('.')), "{key} has no description");
                    }
                }
                object.values().for_each(walk);
            } else if let Value::Array(items) = schema {
                items.iter().for_each(walk);
            }
        }
        walk(&json_schema());
    }

    #[test]
    fn the_schema_has_the_keys_of_all_stage_kinds() {
        let mut all = Vec::new();
        keys(&json_schema(), "", &mut all);
        for key in [
            "/version",
            "/sources/parquet/uri",
            "/stages/semantic_dedup/epsilon",
            "/stages/exact_dedup/keep/by",
            "/sink/parquet/layout/packed/target",
        ] {
            assert!(all.iter().any(|path| path == key), "{key} is not among {all:?}");
        }
    }
}
