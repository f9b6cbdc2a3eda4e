//! Secrets in URIs (user names, passwords, signed queries) are never printed.

/// `text` with the user information and the query of every URI in it replaced by `***`.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')).unwrap_or(after.len());
        let (uri, tail) = after.split_at(end);
        let uri_end = uri.find(['?', '#']).unwrap_or(uri.len());
        let (place, query) = uri.split_at(uri_end);
        // A password may hold a slash that should have been escaped: the last `@` ends the user information.
        match place.rsplit_once('@') {
            Some((_, host)) => out.extend(["***@", host]),
            None => out.push_str(place),
        }
        if let Some(mark) = query.chars().next() {
            out.push(mark);
            out.push_str("***");
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn no_secret_survives() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("file:///a/b", "file:///a/b"),
            ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
            ("s3://key:se/cr@et@bucket/a", "s3://***@bucket/a"),
            ("https://h/a?X-Amz-Signature=canary", "https://h/a?***"),
            ("two https://u:p@h/a?q and s3://x@y end", "two https://***@h/a?*** and s3://***@y end"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
