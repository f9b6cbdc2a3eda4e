//! What no run will ask for again: artefacts that the newest finished run of a pipeline did not use, overflow and datasets that killed
//! processes left,
//! and files in a state that its newest version does not list: older versions are history, which is read of manifests alone.

use std::path::{Path, PathBuf};

use super::artefacts::Artefacts;
use super::commit;
use super::store::Store;
use crate::error::Result;
use crate::fault;
use crate::storage::local;
use crate::storage::lock::Lock;

/// What is not needed, and the locks that keep runs from using it meanwhile.
#[derive(Debug)]
pub struct Garbage {
    /// Files with their lengths, by path.
    pub files: Vec<(PathBuf, u64)>,
    /// Folders of the work folder that hold nothing else.
    folders: Vec<PathBuf>,
    locks: Vec<Lock>,
}

impl Garbage {
    /// Finds it in a work folder, in a state, and beside a sink (`{version}` in its name stands for any).
    ///
    /// # Errors
    /// Kind conflict while a run is active, kind storage.
    pub fn find(work: &Path, state: Option<&Store>, sink: &Path) -> Result<Self> {
        let mut garbage = Self { files: Vec::new(), folders: Vec::new(), locks: Vec::new() };
        if local::exists(work)? {
            garbage.locks.push(Artefacts::hold_alone(work)?);
            for folder in Artefacts::unused(work)? {
                garbage.add_folder(folder)?;
            }
            let spill = work.join("spill");
            if local::exists(&spill)? {
                garbage.add_folder(spill)?;
            }
        }
        let mut committed = None;
        if let Some(store) = state.filter(|store| store.folder().is_dir()) {
            garbage.locks.push(store.hold()?);
            let head = store.head()?.map(|(head, _)| head);
            committed = head.as_ref().map(|head| commit::unnamed(&head.dataset.folder, &head.run_id)).transpose()?;
            // Beside damage, what an older version lists may be all that is left.
            head.as_ref().map_or(Ok(()), |head| store.check_lengths(head))?;
            garbage.files.extend(store.unlisted(head.as_ref())?);
        }
        let (folders, locks) = commit::leftovers(sink, committed.as_deref())?;
        garbage.locks.extend(locks);
        folders.into_iter().try_for_each(|folder| garbage.add_folder(folder))?;
        garbage.files.sort();
        Ok(garbage)
    }

    fn add_folder(&mut self, folder: PathBuf) -> Result<()> {
        for name in local::list_all_files(&folder)? {
            let path = folder.join(name);
            let bytes = local::identity(&path)?.map_or(0, |identity| identity.bytes);
            self.files.push((path, bytes));
        }
        self.folders.push(folder);
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// Kind storage.
    pub fn remove(self) -> Result<()> {
        fault::point("gc.before");
        for folder in &self.folders {
            local::remove_dir(folder)?;
        }
        for (file, _) in self.files.iter().filter(|(file, _)| !self.folders.iter().any(|folder| file.starts_with(folder))) {
            local::remove_file(file)?;
        }
        fault::point("gc.after");
        drop(self.locks);
        Ok(())
    }
}
