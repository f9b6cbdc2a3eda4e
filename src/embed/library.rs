//! Where an ONNX Runtime library is looked for: what the user names, then what is installed. Nothing is run and nothing is
//! downloaded; folders are only listed.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--onnxruntime PATH`.
    CommandLine,
    /// The environment variable `ORT_DYLIB_PATH`.
    Environment,
    /// The Python wheel `onnxruntime` or `onnxruntime-gpu`.
    Wheel,
}

/// How to get the library; the hint of every message about it.
pub(super) const GET: &str = "run `pip install onnxruntime` (1.24 or newer; `onnxruntime-gpu` for CUDA) in the active virtual environment, \
     or name the library with --onnxruntime PATH or ORT_DYLIB_PATH";

/// Finds the library: `given` on the command line, then `ORT_DYLIB_PATH`, then the Python wheel. A folder stands for the library in it.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model): none is installed, or nothing is where the user says.
pub fn find_library(given: Option<&Path>) -> Result<(PathBuf, Origin)> {
    let named = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    match (given, named) {
        (Some(path), _) => at(path, "--onnxruntime").map(|path| (path, Origin::CommandLine)),
        (None, Some(path)) => at(&path, "ORT_DYLIB_PATH").map(|path| (path, Origin::Environment)),
        (None, None) => in_wheels(&package_folders(|name| env::var_os(name)))
            .map(|path| (path, Origin::Wheel))
            .ok_or_else(|| Error::model("ONNX Runtime is not installed").hint(GET)),
    }
}

/// The library that a user's path names.
fn at(path: &Path, by: &str) -> Result<PathBuf> {
    let library = if path.is_dir() { in_folder(path) } else { path.is_file().then(|| path.to_path_buf()) };
    library.and_then(|library| std::path::absolute(library).ok()).ok_or_else(|| {
        let error = Error::model(format!("there is no ONNX Runtime library path=`{}` given_by=`{by}`", path.display()));
        error.hint("name the library file itself (libonnxruntime.so.1.x.y) or the folder that holds it")
    })
}

/// Folders of Python packages, the active environment's first.
fn package_folders(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)).map(PathBuf::from).collect();
    for folder in variable("PATH").iter().flat_map(env::split_paths) {
        // A virtual environment's interpreter is a link: the folder that it stands in counts, not the one it points to.
        if folder.join("python3").exists() || folder.join("python").exists() {
            roots.extend(folder.parent().map(Path::to_path_buf));
        }
    }
    roots.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut folders = Vec::new();
    for root in roots {
        for versions in [root.join("lib"), root.join("lib64")] {
            let mut names: Vec<PathBuf> = entries(&versions).into_iter().filter(|path| starts_with(path, "python3")).collect();
            names.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
            folders.extend(names.iter().flat_map(|name| [name.join("site-packages"), name.join("dist-packages")]));
        }
    }
    folders
}

fn in_wheels(folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().find_map(|folder| in_folder(&folder.join("onnxruntime").join("capi")))
}

/// The newest library in a folder, by the numbers in its name.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let library = |path: &PathBuf| {
        (starts_with(path, "libonnxruntime.so") || starts_with(path, "libonnxruntime.dylib") || dylib(path)) && path.is_file()
    };
    entries(folder).into_iter().filter(library).max_by_key(|path| (numbers(path), path.clone()))
}

/// `libonnxruntime.1.24.0.dylib`, as macOS names it.
fn dylib(path: &Path) -> bool {
    starts_with(path, "libonnxruntime.") && path.extension() == Some(OsStr::new("dylib"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    folder.read_dir().map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

fn starts_with(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(prefix))
}

/// The numbers of a file name, so that 1.32 is newer than 1.4.
fn numbers(path: &Path) -> Vec<u64> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    }

    #[test]
    fn the_active_environment_comes_first_and_the_newest_library_wins() {
        let root = tempfile::tempdir().unwrap();
        let library = |environment: &str, python: &str, name: &str| {
            root.path().join(environment).join("lib").join(python).join("site-packages/onnxruntime/capi").join(name)
        };
        for path in [
            library("active", "python3.9", "libonnxruntime.so.1.25.0"),
            library("active", "python3.11", "libonnxruntime.so.1.4.0"),
            library("active", "python3.11", "libonnxruntime.so.1.32.0"),
            library("active", "python3.11", "libonnxruntime_providers_shared.so"),
            library("other", "python3.12", "libonnxruntime.so.1.99.0"),
            root.path().join("other/bin/python3"),
        ] {
            touch(&path);
        }
        let folders = |active: bool| {
            package_folders(|name| match name {
                "VIRTUAL_ENV" if active => Some(root.path().join("active").into_os_string()),
                "PATH" => Some(root.path().join("other/bin").into_os_string()),
                _ => None,
            })
        };
        assert_eq!(in_wheels(&folders(true)).unwrap(), library("active", "python3.11", "libonnxruntime.so.1.32.0"));
        assert_eq!(in_wheels(&folders(false)).unwrap(), library("other", "python3.12", "libonnxruntime.so.1.99.0"));
        assert_eq!(in_wheels(&[root.path().join("nowhere")]), None);
    }

    #[test]
    fn a_named_library_must_be_there() {
        let root = tempfile::tempdir().unwrap();
        let library = root.path().join("libonnxruntime.so.1.32.0");
        touch(&library);
        assert_eq!(find_library(Some(&library)).unwrap(), (library.clone(), Origin::CommandLine));
        assert_eq!(find_library(Some(root.path())).unwrap(), (library, Origin::CommandLine));
        let error = find_library(Some(&root.path().join("missing.so"))).unwrap_err();
        assert!(error.to_string().contains("there is no ONNX Runtime library") && error.to_string().contains("--onnxruntime"), "{error}");
    }
}
