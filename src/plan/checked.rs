//! A pipeline that has passed every check that needs no I/O: the file's structure, the graph, the folders.

use std::path::Path;

use super::graph::{self, Graph};
use super::overlap::{self, Links};
use crate::config::model::{self, DeclaredPath, Pipeline};
use crate::diagnostic::Diagnostics;
use crate::storage::uri::Root;

/// A checked pipeline and its graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its graph.
    pub graph: Graph,
    /// All paths that the pipeline names.
    pub paths: Vec<DeclaredPath>,
}

impl Checked {
    /// Reads and checks a pipeline file without I/O: `text` is its bytes, `file` its path, `sets` the pairs of `--set`, `root` the
    /// folder of `--root`.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(text: impl AsRef<[u8]>, file: &Path, sets: &[(String, String)], root: Option<&Root>) -> Result<Self, Diagnostics> {
        let mut out = Diagnostics::new();
        let draft = model::read(text, file, sets, &mut out);
        let graph = graph::build(&draft.outline, &mut out);
        overlap::check(&draft.outline.paths, &model::folder(file), file, root, Links::AsWritten, &mut out);
        match (draft.pipeline, graph) {
            (Some(pipeline), Some(graph)) if out.is_empty() => Ok(Self { pipeline, graph, paths: draft.outline.paths }),
            _ if out.is_empty() => {
                out.add("", None, "the pipeline could not be read, although no problem was found: this is a bug of this program", None);
                Err(out)
            }
            _ => Err(out),
        }
    }

    /// Repeats the checks of the folders with links followed: what a run does before it writes. The same folder under two names
    /// is the same folder.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn follow_links(&self, file: &Path, root: Option<&Root>) -> Result<(), Diagnostics> {
        let mut out = Diagnostics::new();
        overlap::check(&self.paths, &self.pipeline.folder, file, root, Links::Followed, &mut out);
        if out.is_empty() { Ok(()) } else { Err(out) }
    }
}
