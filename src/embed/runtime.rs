//! The door to ONNX runtimes: the only file that names `ort`. `ort` has one backend a process, so [`start`] decides once between
//! ONNX Runtime, loaded from a library at run time, and tract, which is in the binary. Options are set only where the backend
//! has them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::ep::ExecutionProvider as _;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::library::{GET, Origin, find_library};
use super::model::ModelFiles;
use super::signature::{self, Element, Feed, Output, Pooling, Port};
use crate::error::{Context, Error, Kind, Result};

/// The oldest minor version of ONNX Runtime 1.x whose interface this program calls (`api-24` in Cargo.toml).
const OLDEST: u32 = ort::MINOR_VERSION;
/// The version of the tract that Cargo.toml pins; part of what tells one backend's vectors from another's.
const TRACT: &str = "0.23";

/// What runs the models of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Microsoft's ONNX Runtime, loaded from a shared library.
    OnnxRuntime,
    /// tract, in pure Rust and inside the binary; runs the built-in model.
    Tract,
}

impl Backend {
    /// As reports and task keys name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime",
            Self::Tract => "tract",
        }
    }
}

/// What a model is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Provider {
    /// CUDA if it is there, else the CPU, with a note that says so.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU; an error if there is none.
    Cuda,
    /// An NVIDIA GPU through TensorRT; an error if it is not there.
    TensorRt,
}

impl Provider {
    /// As the pipeline file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// Which backend a plan needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// No stage names a model file.
    Tract,
    /// Some stage names a model file; `library` is what `--onnxruntime` says.
    OnnxRuntime {
        /// The library, or the folder that holds it; `None` looks for an installed one.
        library: Option<PathBuf>,
    },
}

/// The backend of this process.
#[derive(Debug)]
pub struct Runtime {
    backend: Backend,
    environment: ort::environment::Environment,
    library: Option<PathBuf>,
    origin: Option<Origin>,
    version: String,
    build: String,
}

static STARTED: Mutex<Option<&'static Runtime>> = Mutex::new(None);

/// Starts the backend that the plan needs; once it runs, the same one is returned.
///
/// # Errors
/// [`Kind::Model`]: no library, one that cannot be loaded, or one that is too old. [`Kind::Internal`]: the process already
/// runs the other backend.
pub fn start(wanted: &Wanted) -> Result<&'static Runtime> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime: &'static Runtime = match (*started, wanted) {
        (Some(runtime), Wanted::Tract) if runtime.backend == Backend::Tract => runtime,
        (Some(runtime), Wanted::OnnxRuntime { .. }) if runtime.backend == Backend::OnnxRuntime => runtime,
        (Some(runtime), _) => {
            return Err(Error::internal(format!("a process has one backend started=`{}` wanted=`{wanted:?}`", runtime.backend.as_str())));
        }
        (None, Wanted::Tract) => Box::leak(Box::new(tract()?)),
        (None, Wanted::OnnxRuntime { library }) => Box::leak(Box::new(onnxruntime(library.as_deref())?)),
    };
    *started = Some(runtime);
    Ok(runtime)
}

fn tract() -> Result<Runtime> {
    if !ort::set_api(ort_tract::api()) {
        return Err(Error::internal("the interface of another backend is already set"));
    }
    let environment = environment(ort::init())?;
    Ok(Runtime { backend: Backend::Tract, environment, library: None, origin: None, version: TRACT.into(), build: ort::info().into() })
}

fn onnxruntime(given: Option<&Path>) -> Result<Runtime> {
    let (library, origin) = find_library(given)?;
    let builder = ort::init_from(&library).map_err(|error| load_error(&library, error))?;
    let environment = environment(builder)?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    let version = version_in_name(&library).unwrap_or_else(|| "unknown".into());
    let build = ort::info().into();
    Ok(Runtime { backend: Backend::OnnxRuntime, environment, library: Some(library), origin: Some(origin), version, build })
}

fn environment(builder: ort::environment::EnvironmentBuilder) -> Result<ort::environment::Environment> {
    // Failures come back as errors; what the runtime would print besides goes nowhere, for stderr is the program's own.
    let silent = Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, _: &str| {});
    let built = builder.with_name("trommel").with_telemetry(false).with_logger(silent).build();
    built.context(Kind::Model, || "cannot start the ONNX runtime".into())
}

fn load_error(library: &Path, error: ort::LoadDynamicError) -> Error {
    let path = library.display();
    match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            Error::model(format!("ONNX Runtime is too old path=`{path}` found=`{version_str}` needed=`1.{OLDEST}`"))
                .hint(format!("run `pip install --upgrade 'onnxruntime>=1.{OLDEST}'`, or name a newer library with --onnxruntime PATH"))
        }
        ort::LoadDynamicError::Dlopen { error, .. } => {
            Error::model(format!("the ONNX Runtime library cannot be loaded path=`{path}`")).caused_by(error).hint(GET)
        }
        ort::LoadDynamicError::MissingApi { .. } | ort::LoadDynamicError::InvalidVersionString => {
            Error::model(format!("not an ONNX Runtime library path=`{path}`")).hint(GET)
        }
    }
}

/// `1.32.0` of `libonnxruntime.so.1.32.0`, links followed.
fn version_in_name(library: &Path) -> Option<String> {
    let resolved = library.canonicalize().ok()?;
    let name = resolved.file_name()?.to_str()?;
    let version = name.trim_end_matches(".dylib").trim_start_matches(|letter: char| !letter.is_ascii_digit());
    version.contains('.').then(|| version.to_owned())
}

/// A model that was opened on the provider that was asked for.
#[derive(Debug)]
pub(super) struct Opened {
    pub sessions: Vec<Mutex<Session>>,
    /// Never [`Provider::Auto`].
    pub provider: Provider,
    pub notes: Vec<String>,
}

impl Runtime {
    /// The backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Its version: `1.32.0`, or tract's.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All that it says about its build; a part of every key of what it computes.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.build
    }

    /// The library that was loaded, and how it was found; `None` for tract.
    #[must_use]
    pub fn library(&self) -> Option<(&Path, Origin)> {
        Some((self.library.as_deref()?, self.origin?))
    }

    /// The providers that this build of the backend has; whether they work shows when a model is opened.
    #[must_use]
    pub fn providers(&self) -> Vec<Provider> {
        [Provider::Cpu, Provider::Cuda, Provider::TensorRt].into_iter().filter(|provider| self.has(*provider)).collect()
    }

    fn has(&self, provider: Provider) -> bool {
        let available: fn() -> ort::Result<bool> = match provider {
            Provider::Auto | Provider::Cpu => return true,
            Provider::Cuda => ort::ep::CUDA::is_available,
            Provider::TensorRt => ort::ep::TensorRT::is_available,
        };
        self.backend == Backend::OnnxRuntime && available().unwrap_or(false)
    }

    /// Opens a model: as many sessions as `threads` allows while their weights stay within `session_bytes`.
    pub(super) fn open(
        &self,
        files: &ModelFiles,
        wanted: Provider,
        pooling: Pooling,
        threads: usize,
        session_bytes: u64,
    ) -> Result<Opened> {
        if self.backend == Backend::Tract && files.is_layered() {
            let error = Error::model(format!("a transformer needs ONNX Runtime model=`{}`", files.name()));
            return Err(error.hint(GET));
        }
        // The built-in model is a table look-up: the CPU is the place for it.
        let wanted = if files.is_builtin() { Provider::Cpu } else { wanted };
        let (provider, note, first) = match wanted {
            Provider::Auto if self.has(Provider::Cuda) => match self.session(files, Provider::Cuda, pooling) {
                Ok(session) => (Provider::Cuda, None, Some(session)),
                Err(error) => {
                    (Provider::Cpu, Some(format!("provider auto: runs on the CPU, for CUDA does not start: {}", reason(&error))), None)
                }
            },
            Provider::Auto => (Provider::Cpu, Some("provider auto: runs on the CPU, for this runtime has no CUDA provider".into()), None),
            Provider::Cpu => (Provider::Cpu, None, None),
            Provider::Cuda | Provider::TensorRt if !self.has(wanted) => return Err(self.no_provider(wanted)),
            Provider::Cuda | Provider::TensorRt => (wanted, None, None),
        };
        // Inside a session sums are split over threads, and three threads give other bits than one (measured on all-MiniLM-L6-v2:
        // batches of one or two long rows). So a session has one thread, and batches run side by side, a session each.
        let threads = threads.max(1);
        let fit = usize::try_from(session_bytes / (files.model().len() as u64).max(1)).unwrap_or(usize::MAX).max(1);
        let lanes = if provider == Provider::Cpu { threads.min(fit) } else { 1 };
        let mut notes: Vec<String> = note.into_iter().collect();
        if provider == Provider::Cpu && lanes < threads {
            let name = files.name();
            notes.push(format!("memory allows {lanes} copies of the model, so {lanes} of {threads} threads run it model=`{name}`"));
        }
        let mut sessions: Vec<Mutex<Session>> = first.into_iter().map(Mutex::new).collect();
        while sessions.len() < lanes {
            sessions.push(Mutex::new(self.session(files, provider, pooling)?));
        }
        Ok(Opened { sessions, provider, notes })
    }

    fn no_provider(&self, wanted: Provider) -> Error {
        let has: Vec<&str> = self.providers().iter().map(|provider| provider.as_str()).collect();
        let error = Error::model(format!(
            "the runtime does not have the provider provider=`{}` backend=`{} {}` has=`{}`",
            wanted.as_str(),
            self.backend.as_str(),
            self.version,
            has.join(", ")
        ));
        error.hint("run `pip uninstall onnxruntime && pip install onnxruntime-gpu`, or set `provider: auto` or `cpu`")
    }

    fn session(&self, files: &ModelFiles, provider: Provider, pooling: Pooling) -> Result<Session> {
        let name = files.name();
        let builder = match self.backend {
            Backend::Tract => tract_options(&self.environment),
            Backend::OnnxRuntime => onnxruntime_options(&self.environment, provider),
        };
        let mut builder = builder.map_err(|error| {
            let error =
                Error::model(format!("cannot set up the provider provider=`{}` model=`{name}`", provider.as_str())).caused_by(error);
            error.hint("check the driver and the CUDA and cuDNN libraries (`trommel doctor`), or set `provider: auto` or `cpu`")
        })?;
        let inner = builder.commit_from_memory(files.model()).map_err(|error| {
            let hint = match self.backend {
                Backend::Tract => GET,
                Backend::OnnxRuntime => {
                    "check it with `python -c 'import onnx; onnx.checker.check_model(\"model.onnx\")'`, or export it again"
                }
            };
            Error::model(format!("the model cannot be loaded model=`{name}`")).caused_by(error).hint(hint)
        })?;
        let of_model = |error: Error| error.context(format!("cannot embed with the model model=`{name}`"));
        let inputs: Vec<Port> = inner.inputs().iter().map(port).collect();
        let outputs: Vec<Port> = inner.outputs().iter().map(port).collect();
        let feeds = signature::feeds(&inputs).map_err(of_model)?;
        let output = signature::output(&outputs, pooling).map_err(of_model)?;
        let feeds = inputs.into_iter().map(|port| port.name).zip(feeds).collect();
        Ok(Session { inner, feeds, output })
    }
}

/// The innermost cause, in one line.
fn reason(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

/// tract knows no options but the rewriting of the graph.
fn tract_options(environment: &ort::environment::Environment) -> ort::Result<SessionBuilder> {
    Ok(SessionBuilder::new(environment)?.with_optimization_level(GraphOptimizationLevel::All).map_err(plain)?)
}

/// Every option is written out: another default upstream must not change our bits.
fn onnxruntime_options(environment: &ort::environment::Environment, provider: Provider) -> ort::Result<SessionBuilder> {
    let cuda = || ort::ep::CUDA::default().build().error_on_failure();
    let cpu = || ort::ep::CPU::default().with_arena_allocator(true).build();
    let providers = match provider {
        Provider::Auto | Provider::Cpu => vec![cpu()],
        Provider::Cuda => vec![cuda(), cpu()],
        Provider::TensorRt => vec![ort::ep::TensorRT::default().build().error_on_failure(), cuda(), cpu()],
    };
    SessionBuilder::new(environment)?
        .with_log_level(ort::logging::LogLevel::Error)
        .and_then(|builder| builder.with_optimization_level(GraphOptimizationLevel::All))
        .and_then(|builder| builder.with_parallel_execution(false))
        .and_then(|builder| builder.with_inter_threads(1))
        .and_then(|builder| builder.with_intra_threads(1))
        // Shapes differ from batch to batch, so a plan of memory for one shape does not serve the next.
        .and_then(|builder| builder.with_memory_pattern(false))
        .and_then(|builder| builder.with_deterministic_compute(true))
        .and_then(|builder| builder.with_execution_providers(providers))
        .map_err(plain)
}

/// Without the builder that could be recovered from the error.
fn plain(error: ort::Error<SessionBuilder>) -> ort::Error {
    ort::Error::new_with_code(error.code(), error.message().to_owned())
}

fn port(outlet: &Outlet) -> Port {
    let element = match outlet.dtype().tensor_type() {
        Some(TensorElementType::Int64) => Element::Int64,
        Some(TensorElementType::Float32) => Element::Float32,
        Some(TensorElementType::Float16) => Element::Float16,
        _ => Element::Other,
    };
    let rank = match outlet.dtype() {
        ValueType::Tensor { shape, .. } => Some(shape.len()),
        _ => None,
    };
    Port { name: outlet.name().to_owned(), element, text: outlet.dtype().to_string(), rank }
}

/// A model ready to run. One thread at a time uses it.
#[derive(Debug)]
pub(super) struct Session {
    inner: ort::session::Session,
    feeds: Vec<(String, Feed)>,
    output: Output,
}

impl Session {
    /// Runs one batch: `ids` and `mask` are rows x width, one row after the other; the result is rows x dimensions.
    pub(super) fn run(&mut self, ids: &[i64], mask: &[i64], rows: usize) -> Result<Vec<f32>> {
        let width = ids.len().checked_div(rows).unwrap_or(0);
        let segments = if self.feeds.iter().any(|(_, feed)| *feed == Feed::Segment) { vec![0_i64; ids.len()] } else { Vec::new() };
        let run = || "inference failed".to_owned();
        let mut inputs = Vec::with_capacity(self.feeds.len());
        for (name, feed) in &self.feeds {
            let values = match feed {
                Feed::Ids => ids,
                Feed::Mask => mask,
                Feed::Segment => segments.as_slice(),
            };
            let tensor = TensorRef::from_array_view(([rows, width], values)).context(Kind::Model, run)?;
            inputs.push((Cow::from(name.as_str()), ort::session::SessionInputValue::from(tensor)));
        }
        let outputs = self.inner.run(inputs).context(Kind::Model, run)?;
        let value = outputs.get(&self.output.name).ok_or_else(|| Error::internal("a session gave no output of the name it announced"))?;
        if self.output.half {
            let (shape, values) = value.try_extract_tensor::<f16>().context(Kind::Model, run)?;
            let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
            signature::pool(self.output.reading, shape, &values, mask, rows)
        } else {
            let (shape, values) = value.try_extract_tensor::<f32>().context(Kind::Model, run)?;
            signature::pool(self.output.reading, shape, values, mask, rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_file_names() {
        let root = tempfile::tempdir().unwrap();
        for (name, version) in
            [("libonnxruntime.so.1.32.0", Some("1.32.0")), ("libonnxruntime.1.24.1.dylib", Some("1.24.1")), ("libonnxruntime.so", None)]
        {
            let path = root.path().join(name);
            std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
            assert_eq!(version_in_name(&path).as_deref(), version);
        }
    }

    #[test]
    fn messages_about_the_library_name_the_mend() {
        let path = Path::new("/lib/libonnxruntime.so.1.18.0");
        let old = ort::LoadDynamicError::BadVersion { version_str: "1.18.0".into(), path: path.into() };
        let error = load_error(path, old);
        assert_eq!(error.to_string(), "ONNX Runtime is too old path=`/lib/libonnxruntime.so.1.18.0` found=`1.18.0` needed=`1.24`");
        assert!(error.hint_text().unwrap().contains("onnxruntime>=1.24"));
        let other = load_error(path, ort::LoadDynamicError::MissingApi { path: path.into() });
        assert!(other.to_string().starts_with("not an ONNX Runtime library"));
    }

    #[test]
    fn tract_refuses_other_providers_and_the_other_backend() {
        let runtime = start(&Wanted::Tract).unwrap();
        assert_eq!(runtime.providers(), [Provider::Cpu]);
        assert!(start(&Wanted::OnnxRuntime { library: None }).unwrap_err().to_string().starts_with("a process has one backend"));
        let error = runtime.no_provider(Provider::Cuda);
        assert!(error.to_string().contains("provider=`cuda` backend=`tract 0.23` has=`cpu`"), "{error}");
    }
}
