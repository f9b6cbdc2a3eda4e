//! A pipeline that has passed every check that needs no I/O: the file's structure, the graph, the folders.

use std::path::Path;

use super::graph::{self, Graph};
use super::overlap;
use crate::config::model::{self, Pipeline};
use crate::diagnostic::Diagnostics;
use crate::storage::uri::Root;

/// A checked pipeline and its graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its graph.
    pub graph: Graph,
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
        overlap::check(&draft.outline.paths, &model::folder(file), file, root, &mut out);
        match (draft.pipeline, graph) {
            (Some(pipeline), Some(graph)) if out.is_empty() => Ok(Self { pipeline, graph }),
            _ if out.is_empty() => {
                out.add("", None, "the pipeline could not be read, although no problem was found: this is a bug of this program", None);
                Err(out)
            }
            _ => Err(out),
        }
    }
}
