//! JSON files that nothing above them vouches for carry a checksum of themselves: the last field, the BLAKE3 of all bytes before it.
//! It finds damage by accident; whoever can write a file can seal it.

use serde::Serialize;
use serde_json::Value;

use crate::error::{Context as _, Error, Kind, Result};

/// What stands before and after the digits of the checksum.
const BEFORE: &str = ",\n  \"checksum\": \"";
const AFTER: &str = "\"\n}\n";
const DIGITS: usize = 64;

/// A value with at least one field, as the bytes of a file.
///
/// # Errors
/// Kind internal where it is no JSON object.
pub(super) fn seal(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_string_pretty(value).context(Kind::Internal, || "cannot write a manifest".into())?;
    let end = text.strip_suffix("\n}").ok_or_else(|| Error::internal("a manifest without fields"))?.len();
    text.truncate(end);
    let hash = blake3::hash(text.as_bytes());
    Ok(format!("{text}{BEFORE}{hash}{AFTER}").into_bytes())
}

/// The value, if the bytes are those that were sealed.
///
/// # Errors
/// In words, what is wrong. Where only the checksum is, with the value: a later release may seal in another way.
pub(super) fn open(bytes: &[u8]) -> Result<Value, (String, Option<Value>)> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| (error.to_string(), None))?;
    let end = bytes.len().checked_sub(BEFORE.len() + DIGITS + AFTER.len());
    let parts = end.and_then(|end| bytes.split_at_checked(end));
    match parts {
        Some((text, sealed)) if sealed == format!("{BEFORE}{}{AFTER}", blake3::hash(text)).as_bytes() => Ok(value),
        _ => Err(("its checksum is another".into(), Some(value))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_bit_of_a_sealed_file_counts() {
        let value = json!({"words": ["a", "b"], "number": 1.5});
        let sealed = seal(&value).unwrap();
        let opened = open(&sealed).unwrap();
        assert_eq!((&opened["words"], &opened["number"]), (&value["words"], &value["number"]));
        for place in 0..sealed.len() {
            for bit in 0..8 {
                let mut other = sealed.clone();
                other[place] ^= 1 << bit;
                assert!(open(&other).is_err(), "bit {bit} of {place}");
            }
            assert!(open(&sealed[..place]).is_err(), "cut at {place}");
        }
        assert!(open(&[&sealed[..], b"\n"].concat()).is_err() && open(b"{\"version\": 2}").unwrap_err().1.is_some());
    }
}
