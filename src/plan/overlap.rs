//! What a run writes never aliases what it reads: sink, state, work and source folders must not lie in or above one another.

use std::path::Path;

use crate::config::model::{DeclaredPath, Role};
use crate::diagnostic::Diagnostics;
use crate::error::Result;
use crate::storage::uri::{Location, Relation, Root, followed, relation, resolve, resolve_plain};

struct Folder<'a> {
    declared: &'a DeclaredPath,
    location: Location,
}

/// Whether links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Paths are compared as they are written; no I/O.
    AsWritten,
    /// Links are followed as far as the paths exist.
    Followed,
}

/// Resolves every path of the pipeline against `folder` and reports what cannot be resolved, what leaves `root`, and
/// each pair of folders that lie in or above one another. `file` is the pipeline file itself, which no folder that is written may hold.
pub fn check(paths: &[DeclaredPath], folder: &Path, file: &Path, root: Option<&Root>, links: Links, out: &mut Diagnostics) {
    let mut sources: Vec<Folder<'_>> = Vec::new();
    let mut written: Vec<Folder<'_>> = Vec::new();
    for declared in paths {
        let resolved = locate(declared, folder).and_then(|location| confined(location, root, links));
        match (resolved, &declared.role) {
            (Ok(location), Role::Source(_)) => sources.push(Folder { declared, location }),
            (Ok(location), Role::Sink | Role::State | Role::Work) => written.push(Folder { declared, location }),
            (Ok(_), Role::Model) => {}
            (Err(error), _) => out.add(&declared.path, declared.position, error.to_string(), error.hint_text().map(str::to_owned)),
        }
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let file = if links == Links::Followed { followed(&file).unwrap_or(file) } else { file };
    for (index, folder) in written.iter().enumerate() {
        if matches!(relation(folder.location.base(), &file), Relation::Around | Relation::Same) {
            report(folder, "holds the pipeline file", out);
        }
        for source in sources.iter().filter(|source| !hidden_from(folder, source)) {
            compare(folder, source, out);
        }
        for other in written.iter().take(index) {
            compare(folder, other, out);
        }
    }
    for (index, source) in sources.iter().enumerate() {
        for other in sources.iter().take(index).filter(|other| read_twice(&source.location, &other.location)) {
            compare(source, other, out);
        }
    }
}

fn confined(location: Location, root: Option<&Root>, links: Links) -> Result<Location> {
    if let Some(root) = root {
        root.check(&location)?;
    }
    if links == Links::AsWritten {
        return Ok(location);
    }
    if let Some(root) = root {
        root.confine(location.base())?;
    }
    location.followed()
}

fn locate(declared: &DeclaredPath, folder: &Path) -> Result<Location> {
    match declared.role {
        Role::Source(_) => resolve(folder, &declared.uri),
        Role::Sink if declared.uri.contains("{version}") => {
            // What the state version fills in is not known before the run: the folders above it count.
            let known: Vec<&str> = declared.uri.split('/').take_while(|part| !part.contains("{version}")).collect();
            let known = known.join("/");
            resolve_plain(folder, if known.is_empty() { "." } else { &known })
        }
        Role::Sink | Role::State | Role::Work | Role::Model => resolve_plain(folder, &declared.uri),
    }
}

/// Whether a work folder inside a source's folder is never listed: names that begin with a dot are skipped, unless a pattern writes the dot.
fn hidden_from(folder: &Folder<'_>, source: &Folder<'_>) -> bool {
    let below = folder.location.base().strip_prefix(source.location.base()).ok().and_then(|below| below.components().next());
    let is_hidden = below.is_some_and(|part| part.as_os_str().to_string_lossy().starts_with('.'));
    let dotted = source.location.pattern().is_some_and(|pattern| pattern.split('/').any(|part| part.starts_with('.')));
    folder.declared.role == Role::Work && is_hidden && !dotted
}

/// Whether two sources surely read some folder twice: the same glob, or a whole folder in or around the other.
fn read_twice(a: &Location, b: &Location) -> bool {
    match (a.pattern(), b.pattern()) {
        (Some(a_pattern), Some(b_pattern)) => a_pattern == b_pattern && relation(a.base(), b.base()) == Relation::Same,
        (None, None) => true,
        (None, Some(_)) => matches!(relation(a.base(), b.base()), Relation::Same | Relation::Around),
        (Some(_), None) => matches!(relation(a.base(), b.base()), Relation::Same | Relation::Inside),
    }
}

fn compare(a: &Folder<'_>, b: &Folder<'_>, out: &mut Diagnostics) {
    let lies = match relation(a.location.base(), b.location.base()) {
        Relation::Same => "is the same folder as",
        Relation::SameButCase => "differs in upper and lower case alone from",
        Relation::Inside => "lies inside",
        Relation::Around => "holds",
        Relation::Apart => return,
    };
    report(a, &format!("{lies} {} `{}`", noun(&b.declared.role), b.location), out);
}

fn report(folder: &Folder<'_>, what: &str, out: &mut Diagnostics) {
    let message = format!("{} `{}` {what}", noun(&folder.declared.role), folder.location);
    let hint = Some("give each a folder of its own, beside the others".into());
    out.add(&folder.declared.path, folder.declared.position, message, hint);
}

fn noun(role: &Role) -> String {
    match role {
        Role::Source(id) => format!("the source `{id}`"),
        Role::Sink => "the sink".into(),
        Role::State => "the state".into(),
        Role::Work => "the work folder".into(),
        Role::Model => "the model".into(),
    }
}
