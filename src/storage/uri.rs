//! Paths that the operator wrote: resolved against the pipeline file's folder, confined by `--root`, printed without secrets.
//! Names that come from data are another matter: they are confined to the folder they were found in.

use std::ffi::OsString;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::declare::redact::redact;
use crate::error::{Error, Kind, Result};

/// A place as the operator wrote it and as it resolves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    written: String,
    base: PathBuf,
    pattern: Option<String>,
}

impl Location {
    /// The path, absolute if the folder it was resolved against was, without `.` and `..`: of a glob the part without wildcards.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The same with the links of its base followed as far as it exists.
    ///
    /// # Errors
    /// Kind storage where it cannot be looked at.
    pub fn followed(&self) -> Result<Self> {
        Ok(Self { base: followed(&self.base)?, ..self.clone() })
    }

    /// The part of a glob from the first component with a wildcard on, relative to [`Self::base`].
    #[must_use]
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }
}

impl fmt::Display for Location {
    /// As it was written, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.written))
    }
}

/// Resolves what the operator wrote: a path or a `file://` URI, relative to `folder` or absolute; `*`, `?`, `[..]` and `**` are
/// wildcards. No I/O: `..` is taken away lexically.
///
/// # Errors
/// Kind usage: another scheme, a host, a bad escape, `~`.
pub fn resolve(folder: &Path, written: &str) -> Result<Location> {
    let (base, pattern) = split(folder, written)?;
    Ok(Location { written: written.to_owned(), base, pattern })
}

/// Resolves a path in which wildcards have no meaning: a sink, a state, a work folder, a model.
///
/// # Errors
/// As [`resolve`], and a path with a wildcard.
pub fn resolve_plain(folder: &Path, written: &str) -> Result<Location> {
    let location = resolve(folder, written)?;
    match location.pattern {
        None => Ok(location),
        Some(_) => Err(Error::usage(format!("a wildcard has no meaning here path=`{location}`")).hint("name one file or folder")),
    }
}

fn split(folder: &Path, written: &str) -> Result<(PathBuf, Option<String>)> {
    let path = local_path(written)?;
    let mut literal: Vec<&str> = Vec::new();
    let mut pattern: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if pattern.is_empty() && !part.contains(['*', '?', '[']) {
            literal.push(part);
        } else if !matches!(part, "" | ".") {
            if part == ".." {
                return Err(
                    Error::usage(format!("`..` stands behind a wildcard path=`{}`", redact(written))).hint("write the path without it")
                );
            }
            pattern.push(part);
        }
    }
    let literal = literal.join("/");
    // An absolute path of wildcards alone begins at the root.
    let literal = if literal.is_empty() && path.starts_with('/') { "/".to_owned() } else { literal };
    let base = normal(&folder.join(literal));
    let pattern = pattern.join("/");
    if let Err(error) = glob::Pattern::new(&pattern) {
        let error = Error::usage(format!("malformed glob path=`{}`: {}", redact(written), error.msg));
        return Err(error.hint("`**` stands alone between slashes; `[` that is a letter is written `[[]`"));
    }
    Ok((base, (!pattern.is_empty()).then_some(pattern)))
}

/// The path of a `file://` URI, its escapes undone; a path stays as it is.
fn local_path(written: &str) -> Result<String> {
    if written.starts_with("~/") || written == "~" {
        return Err(Error::usage(format!("`~` is not expanded path=`{}`", redact(written))).hint("write the home folder out"));
    }
    let Some((scheme, rest)) = written.split_once("://") else { return Ok(written.to_owned()) };
    if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
        return Ok(written.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("file") {
        let error = Error::usage(format!("the scheme `{scheme}` is not supported by this version uri=`{}`", redact(written)));
        return Err(error.hint("use a path or a `file://` URI; object stores come with a later release"));
    }
    let Some(path) = rest.strip_prefix("localhost").unwrap_or(rest).strip_prefix('/') else {
        let error = Error::usage(format!("a `file://` URI names a host uri=`{}`", redact(written)));
        return Err(error.hint("write three slashes before an absolute path: `file:///data/shards`"));
    };
    unescape(&format!("/{path}"))
        .ok_or_else(|| Error::usage(format!("a `%` escape is malformed uri=`{}`", redact(written))).hint("`%` itself is written `%25`"))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
            if byte == 0 {
                return None;
            }
            bytes.push(byte);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The path without `.` and, where something stands before it, without `..`.
#[must_use]
pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    out
}

/// How two folders lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They are the same.
    Same,
    /// They differ in upper and lower case alone: the same on some machines.
    SameButCase,
    /// The first lies in the second.
    Inside,
    /// The first holds the second.
    Around,
    /// Neither.
    Apart,
}

/// How the folder `a` lies to the folder `b`, lexically; both as [`resolve`] gives them. Case is folded for all but `Same`.
#[must_use]
pub fn relation(a: &Path, b: &Path) -> Relation {
    if a == b {
        return Relation::Same;
    }
    let (a, b) = (folded(a), folded(b));
    if a == b {
        Relation::SameButCase
    } else if a.starts_with(&b) {
        Relation::Inside
    } else if b.starts_with(&a) {
        Relation::Around
    } else {
        Relation::Apart
    }
}

fn folded(path: &Path) -> PathBuf {
    PathBuf::from(path.to_string_lossy().to_lowercase())
}

/// The folder that `--root` confines the operator's paths to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The jail `folder`, relative to the working directory. No I/O.
    ///
    /// # Errors
    /// Kind usage, where the working directory is not known.
    pub fn new(folder: &Path) -> Result<Self> {
        let absolute = std::path::absolute(folder)
            .map_err(|error| Error::usage(format!("cannot resolve --root path=`{}`", folder.display())).caused_by(error))?;
        Ok(Self(normal(&absolute)))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Refuses a location that leaves the root as it is written. No I/O: links are not followed, see [`Self::confine`].
    ///
    /// # Errors
    /// Kind usage.
    pub fn check(&self, location: &Location) -> Result<()> {
        if location.base.starts_with(&self.0) { Ok(()) } else { Err(self.outside(&location.to_string())) }
    }

    /// The path with all links followed, refused where it leaves the root. Of a path that is not there yet, what is there is followed.
    ///
    /// # Errors
    /// Kind usage where it leaves the root, kind storage where it cannot be looked at.
    pub fn confine(&self, path: &Path) -> Result<PathBuf> {
        let root = followed(&self.0)?;
        let real = followed(path)?;
        if real.starts_with(&root) { Ok(real) } else { Err(self.outside(&path.display().to_string())) }
    }

    fn outside(&self, shown: &str) -> Error {
        Error::usage(format!("a path leaves the folder of --root path=`{shown}` root=`{}`", self.0.display()))
            .hint("move it below that folder, or give another --root")
    }
}

/// `path` with links followed as far as it exists; what does not exist yet is appended.
///
/// # Errors
/// Kind storage where it cannot be looked at.
pub fn followed(path: &Path) -> Result<PathBuf> {
    let mut missing: Vec<OsString> = Vec::new();
    let mut present = path.to_owned();
    loop {
        match present.canonicalize() {
            Ok(real) => return Ok(missing.into_iter().rev().fold(real, |path, part| path.join(part))),
            // A dangling link is there, although what it names is not: whoever made it may make that later.
            // What would lie in a file is not there either: whoever makes it says what is wrong.
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) && !present.is_symlink() =>
            {
                let Some(name) = present.file_name().map(std::ffi::OsStr::to_owned) else {
                    return Err(Error::new(Kind::Storage, format!("cannot resolve path=`{}`", path.display())).caused_by(error));
                };
                missing.push(name);
                present.pop();
            }
            Err(error) => return Err(Error::new(Kind::Storage, format!("cannot resolve path=`{}`", path.display())).caused_by(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(written: &str) -> (String, Option<String>) {
        let location = resolve(Path::new("/lake/p"), written).unwrap();
        (location.base().display().to_string(), location.pattern().map(str::to_owned))
    }

    #[test]
    fn paths_resolve_against_the_pipeline_files_folder() {
        for (written, base, pattern) in [
            ("data", "/lake/p/data", None),
            ("./data/", "/lake/p/data", None),
            ("../out/", "/lake/out", None),
            ("../../../../x", "/x", None),
            ("/abs/a.parquet", "/abs/a.parquet", None),
            ("file:///abs/with%20space", "/abs/with space", None),
            ("file://localhost/abs", "/abs", None),
            ("data/*.parquet", "/lake/p/data", Some("*.parquet")),
            ("data/**/part-?[0-9].parquet", "/lake/p/data", Some("**/part-?[0-9].parquet")),
            ("*.parquet", "/lake/p", Some("*.parquet")),
            ("/*/a.parquet", "/", Some("*/a.parquet")),
            ("data/dt=*/x/./y.parquet", "/lake/p/data", Some("dt=*/x/y.parquet")),
        ] {
            assert_eq!(parts(written), (base.to_owned(), pattern.map(str::to_owned)), "{written}");
        }
    }

    #[test]
    fn what_is_not_a_local_path_is_refused_without_its_secrets() {
        for written in [
            "s3://key:canary@bucket/a",
            "gs://b/a?X-Goog=canary",
            "file://host/share",
            "file:///a%zz",
            "file:///a%00",
            "~/data",
            "a/*/../b",
            "a/**b",
            "a/[b",
        ] {
            let error = resolve(Path::new("/p"), written).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{written}");
            assert!(!error.report().contains("canary"), "{}", error.report());
            assert!(error.hint_text().is_some(), "{written}");
        }
        assert!(resolve_plain(Path::new("/p"), "out/*").is_err());
    }

    #[test]
    fn folders_are_compared_by_part_and_not_by_letter() {
        let relation = |a: &str, b: &str| relation(Path::new(a), Path::new(b));
        assert_eq!(relation("/a/b", "/a/b"), Relation::Same);
        assert_eq!(relation("/a/B", "/a/b"), Relation::SameButCase);
        assert_eq!(relation("/a/b/c", "/a/b"), Relation::Inside);
        assert_eq!(relation("/a", "/A/b"), Relation::Around);
        assert_eq!(relation("/a/bc", "/a/b"), Relation::Apart);
    }

    #[test]
    fn a_link_out_of_the_root_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root_folder = folder.path().join("root");
        std::fs::create_dir_all(root_folder.join("in")).unwrap();
        std::fs::create_dir_all(folder.path().join("outside")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), root_folder.join("link")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("not_yet"), root_folder.join("dangling")).unwrap();
        let root = Root::new(&root_folder).unwrap();
        assert!(root.confine(&root_folder.join("in")).is_ok());
        assert!(root.confine(&root_folder.join("in/new/file")).is_ok());
        assert!(root.confine(&root_folder.join("link")).is_err());
        assert!(root.confine(&root_folder.join("link/new")).is_err());
        assert!(root.confine(&root_folder.join("dangling/new")).is_err());
        assert!(root.confine(folder.path()).is_err());
    }

    proptest! {
        /// Whatever is written, what passes the check lies below the root when its parts are walked one by one.
        #[test]
        fn nothing_that_passes_leaves_the_root(written in "(\\.\\./|\\./|/|a/|root/|b|\\.\\.|file:///|%2e|%2f|\\*){0,8}") {
            let folder = Path::new("/lake/root/p");
            if let Ok(location) = resolve(folder, &written)
                && Root(PathBuf::from("/lake/root")).check(&location).is_ok()
            {
                let mut walked: Vec<String> = Vec::new();
                for part in folder.join(location.base()).to_string_lossy().split('/') {
                    match part {
                        "" | "." => {}
                        ".." => { walked.pop(); }
                        part => walked.push(part.to_owned()),
                    }
                }
                prop_assert!(walked.starts_with(&["lake".to_owned(), "root".to_owned()]), "{written}");
                prop_assert!(!location.pattern().unwrap_or_default().split('/').any(|part| part == ".."));
            }
        }
    }
}
