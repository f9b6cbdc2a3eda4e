//! How the schemas of shards fit together, and access to texts whatever their encoding.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeStringArray, StringArray, StringViewArray};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, Schema, SchemaRef};

use crate::dataset::reader::column_names;
use crate::dataset::snapshot::{Shard, Snapshot};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};

/// What a stage wants of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Texts: `Utf8`, `LargeUtf8`, `Utf8View`, or a dictionary of one of these.
    Text,
    /// Any type, as long as the shards agree on one.
    Any,
}

/// A column that some stage names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededColumn {
    /// Its name in the shards.
    pub name: String,
    /// What it must be.
    pub wanted: Wanted,
}

/// Whether this is one of the encodings of text.
#[must_use]
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The one type that both can be read as without loss; `None` when there is none. The table: text encodings to `Utf8View`,
/// signed with signed and unsigned with unsigned integers to the wider one, floats to the wider one, decimals to one that holds
/// all digits of both, and a dictionary with what its values fit.
#[must_use]
pub fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    if a == b {
        return Some(a.clone());
    }
    if is_text(a) && is_text(b) {
        return Some(T::Utf8View);
    }
    match (a, b) {
        (T::Dictionary(_, values), other) | (other, T::Dictionary(_, values)) => common_type(values, other),
        (T::Null, other) | (other, T::Null) => Some(other.clone()),
        (a, b) if a.is_signed_integer() && b.is_signed_integer() => widest(a, b),
        (a, b) if a.is_unsigned_integer() && b.is_unsigned_integer() => widest(a, b),
        (a, b) if a.is_floating() && b.is_floating() => widest(a, b),
        (a, b) => common_decimal(digits(a)?, digits(b)?),
    }
}

/// The precision and the scale of a decimal.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some((i16::from(*precision), i16::from(*scale))),
        _ => None,
    }
}

/// The decimal with the digits of both before the point and behind it; `None` where no decimal is that wide.
fn common_decimal(a: (i16, i16), b: (i16, i16)) -> Option<DataType> {
    let scale = a.1.max(b.1);
    let precision = (scale + (a.0 - a.1).max(b.0 - b.1)).max(scale).max(1);
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    if precision <= DECIMAL128_MAX_PRECISION {
        Some(DataType::Decimal128(precision, scale))
    } else {
        (precision <= DECIMAL256_MAX_PRECISION).then_some(DataType::Decimal256(precision, scale))
    }
}

fn widest(a: &DataType, b: &DataType) -> Option<DataType> {
    (a.primitive_width()? >= b.primitive_width()?).then(|| a.clone()).or_else(|| Some(b.clone()))
}

/// The schema that the columns `needed` of one source are read with: in the order given, each with the common type of all
/// its shards, nullable if it is so in any. Columns that nobody needs may differ from shard to shard.
///
/// # Errors
/// One error of kind input that lists every column that is missing, doubled, of a wrong type or of types that do not go
/// together, with the shards grouped by what they have.
pub fn reconcile(snapshot: &Snapshot, source: usize, needed: &[NeededColumn]) -> Result<SchemaRef> {
    let shards: Vec<&Shard> = snapshot.shards.iter().filter(|shard| shard.source == source).collect();
    let (mut fields, mut problems, mut hint) = (vec![], String::new(), None);
    for column in needed {
        // What the shards have, each with the shards that have it; sorted, so that the message is the same every time.
        let mut found: BTreeMap<String, Vec<&Shard>> = BTreeMap::new();
        let mut common: Option<Field> = None;
        let mut fits = true;
        for shard in &shards {
            let mut same_name = shard.schema.fields().iter().filter(|field| field.name() == &column.name);
            let label = match (same_name.next(), same_name.next()) {
                (None, _) => {
                    fits = false;
                    let names = shard.schema.fields().iter().map(|field| field.name().as_str());
                    if let Some(near) = nearest(&column.name, names) {
                        hint.get_or_insert_with(|| format!("did you mean `{near}`?"));
                    }
                    format!("missing among columns {}", column_names(&shard.schema))
                }
                (Some(_), Some(_)) => {
                    fits = false;
                    "there more than once".into()
                }
                (Some(field), None) => {
                    fits &= column.wanted != Wanted::Text || is_text(field.data_type());
                    common = match common {
                        None => Some(field.as_ref().clone()),
                        Some(so_far) => {
                            let nullable = so_far.is_nullable() || field.is_nullable();
                            let data_type = common_type(so_far.data_type(), field.data_type());
                            fits &= data_type.is_some();
                            let data_type = data_type.unwrap_or_else(|| so_far.data_type().clone());
                            Some(so_far.with_data_type(data_type).with_nullable(nullable))
                        }
                    };
                    format!("of type {}", field.data_type())
                }
            };
            found.entry(label).or_default().push(shard);
        }
        if !fits {
            let must = if column.wanted == Wanted::Text { " must be text" } else { " must have one type" };
            problems += format!("\n  column `{}`{must}; it is", column.name).as_str();
            for (label, shards) in &found {
                problems += format!("\n    {label} in {}", name_shards(shards)).as_str();
            }
        } else if let Some(field) = common {
            fields.push(Arc::new(field));
        }
    }
    if problems.is_empty() {
        return Ok(Arc::new(Schema::new(fields)));
    }
    let name = snapshot.sources.get(source).map_or("", |spec| spec.name.as_str());
    let error = Error::input(format!("shards do not have the columns that the pipeline needs source=`{name}`{problems}"));
    Err(match hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn name_shards(shards: &[&Shard]) -> String {
    const SHOWN: usize = 3;
    let mut text = shards.iter().take(SHOWN).map(|shard| format!("`{}`", shard.path)).collect::<Vec<_>>().join(", ");
    if let Some(more) = shards.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text += format!(" and {more} more").as_str();
    }
    text
}

/// The texts of an array, row by row, whatever their encoding.
#[derive(Debug)]
pub enum TextValues<'a> {
    /// 32-bit offsets.
    Utf8(&'a StringArray),
    /// 64-bit offsets.
    LargeUtf8(&'a LargeStringArray),
    /// Views.
    Utf8View(&'a StringViewArray),
    /// Indexes into other texts.
    Dictionary {
        /// The dictionary.
        values: Box<Self>,
        /// One index a row, valid even where the row is null.
        keys: Vec<usize>,
        /// The array itself, for its nulls.
        array: &'a dyn Array,
    },
}

/// Row access to texts.
///
/// # Errors
/// Kind input when the array is not text.
pub fn text_values(array: &dyn Array) -> Result<TextValues<'_>> {
    match array.data_type() {
        DataType::Utf8 => Ok(TextValues::Utf8(array.as_string())),
        DataType::LargeUtf8 => Ok(TextValues::LargeUtf8(array.as_string())),
        DataType::Utf8View => Ok(TextValues::Utf8View(array.as_string_view())),
        DataType::Dictionary(_, values) if is_text(values) => {
            let dictionary = array.as_any_dictionary();
            // Without values every row is null, and there is no index to take.
            let keys = if dictionary.values().is_empty() { vec![0; array.len()] } else { dictionary.normalized_keys() };
            Ok(TextValues::Dictionary { values: Box::new(text_values(dictionary.values().as_ref())?), keys, array })
        }
        other => Err(Error::input(format!("column is not text type=`{other}`"))),
    }
}

impl<'a> TextValues<'a> {
    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Utf8(array) => array.len(),
            Self::LargeUtf8(array) => array.len(),
            Self::Utf8View(array) => array.len(),
            Self::Dictionary { array, .. } => array.len(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of a row; `None` where it is null or beyond the end.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Utf8(array) => (row < array.len() && array.is_valid(row)).then(|| array.value(row)),
            Self::LargeUtf8(array) => (row < array.len() && array.is_valid(row)).then(|| array.value(row)),
            Self::Utf8View(array) => (row < array.len() && array.is_valid(row)).then(|| array.value(row)),
            Self::Dictionary { values, keys, array } => {
                let key = *keys.get(row)?;
                if array.is_valid(row) { values.get(key) } else { None }
            }
        }
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a str>> + '_ {
        (0..self.len()).map(|row| self.get(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{DictionaryArray, Int32Array};
    use arrow::datatypes::Int8Type;

    #[test]
    fn texts_read_alike_in_every_encoding() {
        let rows = [Some("a"), None, Some(""), Some("longer than twelve bytes"), Some("a")];
        let dictionary: DictionaryArray<Int8Type> = rows.into_iter().collect();
        let arrays: Vec<Box<dyn Array>> = vec![
            Box::new(StringArray::from(rows.to_vec())),
            Box::new(LargeStringArray::from(rows.to_vec())),
            Box::new(StringViewArray::from(rows.to_vec())),
            Box::new(dictionary.clone()),
            Box::new(dictionary.slice(0, 5)),
        ];
        for array in &arrays {
            let texts = text_values(array.as_ref()).unwrap();
            assert_eq!(texts.iter().collect::<Vec<_>>(), rows, "{}", array.data_type());
            assert_eq!(texts.get(5), None);
        }
        let empty: DictionaryArray<Int8Type> = [None::<&str>, None].into_iter().collect();
        assert_eq!(text_values(&empty).unwrap().iter().collect::<Vec<_>>(), [None, None]);
        assert!(text_values(&Int32Array::from(vec![1])).is_err());
    }

    #[test]
    fn common_types_never_lose() {
        use DataType as T;
        let dictionary = |values| T::Dictionary(Box::new(T::Int32), Box::new(values));
        assert_eq!(common_type(&T::Utf8, &T::LargeUtf8), Some(T::Utf8View));
        assert_eq!(common_type(&dictionary(T::Utf8), &T::Utf8), Some(T::Utf8View));
        assert_eq!(common_type(&T::Int32, &T::Int64), Some(T::Int64));
        assert_eq!(common_type(&T::Float64, &T::Float16), Some(T::Float64));
        assert_eq!(common_type(&dictionary(T::Int8), &T::Int16), Some(T::Int16));
        assert_eq!(common_type(&T::Decimal128(10, 2), &T::Decimal128(10, 4)), Some(T::Decimal128(12, 4)));
        assert_eq!(common_type(&T::Decimal32(9, -2), &T::Decimal64(3, 3)), Some(T::Decimal128(14, 3)));
        assert_eq!(common_type(&T::Decimal128(38, 0), &T::Decimal128(38, 38)), Some(T::Decimal256(76, 38)));
        assert_eq!(common_type(&T::Decimal256(76, 0), &T::Decimal128(38, 38)), None);
        assert_eq!(common_type(&T::Decimal128(10, 2), &T::Int64), None);
        assert_eq!(common_type(&T::Int32, &T::UInt32), None);
        assert_eq!(common_type(&T::Int64, &T::Float64), None);
        assert_eq!(common_type(&T::Binary, &T::Utf8), None);
    }
}
