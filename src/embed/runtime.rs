//! What runs the models: ONNX Runtime, loaded from a library when the process first needs it, for model files; tract, which is in
//! the binary, for the built-in model. The only file that names `ort`. `ort` has one library a process, so [`start`] loads it
//! once.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use half::f16;
use ort::ep::ExecutionProvider as _;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, Tensor, TensorElementType, TensorRef, ValueType};

use super::library::{GET, Origin, find_library};
use super::model::ModelFiles;
use super::signature::{self, Element, Feed, Output, Pooling, Port};
use super::tract;
use crate::error::{Context, Error, Kind, Result};

/// The oldest minor version of ONNX Runtime 1.x whose interface this program calls (`api-24` in Cargo.toml).
const OLDEST: u32 = ort::MINOR_VERSION;
/// Tokens of a batch on the CPU, if the user gives none: few enough that what a layer makes stays in the caches.
const CPU_BATCH_TOKENS: usize = 1_024;
/// Tokens of a batch on a GPU, if the user gives none.
const GPU_BATCH_TOKENS: usize = 16_384;
/// Sessions on a GPU: while one batch computes, another is copied and checked, and a third waits with its tensors made.
const GPU_LANES: usize = 3;

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Microsoft's ONNX Runtime, loaded from a shared library.
    OnnxRuntime,
    /// tract, in pure Rust and inside the binary: the built-in model, always.
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

    /// Does it run on a GPU?
    #[must_use]
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// The tokens of a batch where none are asked for: what a core's caches hold, or what fills a GPU and still leaves several
    /// batches of like length in a window of short texts.
    #[must_use]
    pub fn batch_tokens(self) -> usize {
        if self.is_gpu() { GPU_BATCH_TOKENS } else { CPU_BATCH_TOKENS }
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

/// What this process runs models with.
#[derive(Debug)]
pub struct Runtime {
    backend: Backend,
    environment: Option<ort::environment::Environment>,
    library: Option<PathBuf>,
    origin: Option<Origin>,
    version: String,
    build: String,
}

/// What became of ONNX Runtime in this process.
enum Loaded {
    Not,
    Yes(&'static Runtime),
    Failed,
}

static LOADED: Mutex<Loaded> = Mutex::new(Loaded::Not);
static TRACT: LazyLock<Runtime> = LazyLock::new(|| Runtime {
    backend: Backend::Tract,
    environment: None,
    library: None,
    origin: None,
    version: tract::VERSION.into(),
    build: String::new(),
});

/// Starts what the plan needs. ONNX Runtime is loaded once a process; later calls return the same one, whatever they name.
///
/// # Errors
/// [`Kind::Model`]: no library, one that cannot be loaded, or one that is too old; no second attempt is made in this process.
pub fn start(wanted: &Wanted) -> Result<&'static Runtime> {
    let Wanted::OnnxRuntime { library } = wanted else { return Ok(&*TRACT) };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match *loaded {
        Loaded::Yes(runtime) => Ok(runtime),
        // After a failure `ort` takes its library for loaded and reads memory that was never written.
        Loaded::Failed => Err(Error::model("ONNX Runtime could not be loaded earlier in this process").hint(GET)),
        Loaded::Not => {
            let (library, origin) = find_library(library.as_deref())?;
            *loaded = Loaded::Failed;
            let runtime: &'static Runtime = Box::leak(Box::new(onnxruntime(library, origin)?));
            *loaded = Loaded::Yes(runtime);
            Ok(runtime)
        }
    }
}

fn onnxruntime(library: PathBuf, origin: Origin) -> Result<Runtime> {
    let builder = ort::init_from(&library).map_err(|error| load_error(&library, error))?;
    let environment = environment(builder)?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    let version = version_in_name(&library).unwrap_or_else(|| "unknown".into());
    let build = ort::info().into();
    Ok(Runtime {
        backend: Backend::OnnxRuntime,
        environment: Some(environment),
        library: Some(library),
        origin: Some(origin),
        version,
        build,
    })
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
        if files.is_builtin() {
            return TRACT.open_here(files, Provider::Cpu, pooling, threads, u64::MAX);
        }
        if self.backend == Backend::Tract && files.is_layered() {
            let error = Error::model(format!("a transformer needs ONNX Runtime model=`{}`", files.name()));
            return Err(error.hint(GET));
        }
        self.open_here(files, wanted, pooling, threads, session_bytes)
    }

    /// The backend that runs these files, its version and build: what names the vectors beside model and options.
    pub(super) fn maker(&self, files: &ModelFiles) -> [&str; 3] {
        let runtime = if files.is_builtin() { &*TRACT } else { self };
        [runtime.backend.as_str(), &runtime.version, &runtime.build]
    }

    fn open_here(&self, files: &ModelFiles, wanted: Provider, pooling: Pooling, threads: usize, session_bytes: u64) -> Result<Opened> {
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
        // batches of one or two long rows). So a session has one thread, and batches run side by side, a session each. On a GPU each
        // session has its own stream and its own cuBLAS handle and workspace, which is what cuBLAS asks for to give the same bits.
        let threads = threads.max(1);
        let fit = usize::try_from(session_bytes / (files.model().len() as u64).max(1)).unwrap_or(usize::MAX).max(1);
        let lanes = if provider.is_gpu() { GPU_LANES } else { threads }.min(fit);
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
        let unusable = |hint: &'static str| {
            move |error: Error| Error::model(format!("the model cannot be loaded model=`{name}`")).caused_by(error).hint(hint)
        };
        let (graph, inputs, outputs) = match &self.environment {
            None => {
                let graph =
                    tract::Graph::read(files.model()).context(Kind::Model, || "tract does not run it".into()).map_err(unusable(GET))?;
                let ports = (graph.inputs.clone(), graph.outputs.clone());
                (Graph::Tract(graph), ports.0, ports.1)
            }
            Some(environment) => {
                let mut builder = onnxruntime_options(environment, provider).map_err(|error| {
                    let error = Error::model(format!("cannot set up the provider provider=`{}` model=`{name}`", provider.as_str()))
                        .caused_by(error);
                    error.hint(
                        "check the driver and the CUDA and cuDNN libraries (`trommel doctor`; pip's stand in site-packages/nvidia/*/lib, which \
                         LD_LIBRARY_PATH must name), or set `provider: auto` or `cpu`",
                    )
                })?;
                let session = builder.commit_from_memory(files.model()).context(Kind::Model, || "ONNX Runtime does not run it".into());
                let session = session.map_err(unusable(
                    "check it with `python -c 'import onnx; onnx.checker.check_model(\"model.onnx\")'`, or export it again",
                ))?;
                let ports = (session.inputs().iter().map(port).collect(), session.outputs().iter().map(port).collect());
                let bound = provider.is_gpu().then(|| Bound::new(&session, AllocationDevice::CUDA_PINNED).map(Box::new)).transpose();
                let bound = bound
                    .context(Kind::Model, || "cannot allocate pinned memory".into())
                    .map_err(unusable("check what else runs on the GPU (`nvidia-smi`), or set `provider: cpu`"))?;
                (Graph::OnnxRuntime(session, bound), ports.0, ports.1)
            }
        };
        let of_model = |error: Error| error.context(format!("cannot embed with the model model=`{name}`"));
        let feeds = signature::feeds(&inputs).map_err(of_model)?;
        let output = signature::output(&outputs, pooling).map_err(of_model)?;
        Ok(Session { graph, feeds: inputs.into_iter().map(|port| port.name).zip(feeds).collect(), output })
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

/// Every option is written out: another default upstream must not change our bits.
fn onnxruntime_options(environment: &ort::environment::Environment, provider: Provider) -> ort::Result<SessionBuilder> {
    let cuda = || {
        let cuda = ort::ep::CUDA::default()
            .with_device_id(0)
            .with_arena_extend_strategy(ort::ep::ArenaExtendStrategy::NextPowerOfTwo)
            // No search by the clock: it may choose another algorithm in the next run.
            .with_conv_algorithm_search(ort::ep::cuda::ConvAlgorithmSearch::Default)
            .with_tf32(false)
            .with_skip_layer_norm_strict_mode(false)
            .with_cuda_graph(false)
            .with_prefer_nhwc(false)
            .with_fuse_conv_bias(false);
        cuda.build().error_on_failure()
    };
    let cpu = || ort::ep::CPU::default().with_arena_allocator(true).build();
    let providers = match provider {
        Provider::Auto | Provider::Cpu => vec![cpu()],
        Provider::Cuda => vec![cuda(), cpu()],
        Provider::TensorRt => vec![ort::ep::TensorRT::default().build().error_on_failure(), cuda(), cpu()],
    };
    Ok(SessionBuilder::new(environment)?
        .with_log_level(ort::logging::LogLevel::Error)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_parallel_execution(false)?
        .with_inter_threads(1)?
        .with_intra_threads(1)?
        // Shapes differ from batch to batch, so a plan of memory for one shape does not serve the next.
        .with_memory_pattern(false)?
        .with_deterministic_compute(true)?
        .with_execution_providers(providers)?)
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

#[derive(Debug)]
enum Graph {
    /// Bound where tensors lie in memory of the device's own; else they are read where they are.
    OnnxRuntime(ort::session::Session, Option<Box<Bound>>),
    Tract(tract::Graph),
}

/// Inputs and outputs bound to memory from which the device copies by itself: host pages that the driver has locked. They come from
/// the session's pool, which keeps them for the next batch.
#[derive(Debug)]
struct Bound {
    binding: IoBinding,
    allocator: Allocator,
    memory: MemoryInfo<'static>,
}

impl Bound {
    fn new(session: &ort::session::Session, device: AllocationDevice<'_>) -> ort::Result<Self> {
        let memory = |kind| MemoryInfo::new(device, 0, AllocatorType::Device, kind);
        Ok(Self {
            binding: session.create_binding()?,
            allocator: Allocator::new(session, memory(MemoryType::CPUInput)?)?,
            memory: memory(MemoryType::CPUOutput)?,
        })
    }

    /// Binds one batch. Outputs are bound anew, for the ones of the last batch have another shape.
    fn bind<'a>(&mut self, inputs: impl Iterator<Item = (&'a str, &'a [i64])>, shape: [usize; 2], output: &str) -> ort::Result<&IoBinding> {
        self.binding.clear();
        for (name, values) in inputs {
            let mut tensor = Tensor::<i64>::new(&self.allocator, shape)?;
            tensor.extract_tensor_mut().1.copy_from_slice(values);
            self.binding.bind_input(name, &tensor)?;
        }
        self.binding.bind_output_to_device(output, &self.memory)?;
        Ok(&self.binding)
    }
}

/// A model ready to run. One thread at a time uses it.
#[derive(Debug)]
pub(super) struct Session {
    graph: Graph,
    feeds: Vec<(String, Feed)>,
    output: Output,
}

impl Session {
    /// Binds inputs and outputs on the CPU, so that a machine without a GPU tests what one with a GPU does.
    #[cfg(test)]
    pub(super) fn bind(&mut self) {
        if let Graph::OnnxRuntime(session, bound) = &mut self.graph {
            *bound = Some(Box::new(Bound::new(session, AllocationDevice::CPU).unwrap()));
        }
    }

    /// Runs one batch: `ids` and `mask` are rows x width, one row after the other; the result is rows x dimensions.
    pub(super) fn run(&mut self, ids: &[i64], mask: &[i64], rows: usize) -> Result<Vec<f32>> {
        let width = ids.len().checked_div(rows).unwrap_or(0);
        let segments = if self.feeds.iter().any(|(_, feed)| *feed == Feed::Segment) { vec![0_i64; ids.len()] } else { Vec::new() };
        let values = |feed: &Feed| match feed {
            Feed::Ids => ids,
            Feed::Mask => mask,
            Feed::Segment => segments.as_slice(),
        };
        let failed = || "inference failed".to_owned();
        let outputs = match &mut self.graph {
            Graph::Tract(graph) => {
                let inputs: Vec<&[i64]> = self.feeds.iter().map(|(_, feed)| values(feed)).collect();
                let (shape, values) = graph.run(&inputs, rows, width, self.output.place).context(Kind::Model, failed)?;
                return signature::pool(self.output.reading, &shape, &values, mask, rows);
            }
            Graph::OnnxRuntime(session, Some(bound)) => {
                let inputs = self.feeds.iter().map(|(name, feed)| (name.as_str(), values(feed)));
                let binding = bound.bind(inputs, [rows, width], &self.output.name).context(Kind::Model, failed)?;
                session.run_binding(binding).context(Kind::Model, failed)?
            }
            Graph::OnnxRuntime(session, None) => {
                let mut inputs = Vec::with_capacity(self.feeds.len());
                for (name, feed) in &self.feeds {
                    let tensor = TensorRef::from_array_view(([rows, width], values(feed))).context(Kind::Model, failed)?;
                    inputs.push((Cow::from(name.as_str()), ort::session::SessionInputValue::from(tensor)));
                }
                session.run(inputs).context(Kind::Model, failed)?
            }
        };
        let value = outputs.get(&self.output.name).ok_or_else(|| Error::internal("a session gave no output of the name it announced"))?;
        if self.output.half {
            let (shape, values) = value.try_extract_tensor::<f16>().context(Kind::Model, failed)?;
            let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
            signature::pool(self.output.reading, shape, &values, mask, rows)
        } else {
            let (shape, values) = value.try_extract_tensor::<f32>().context(Kind::Model, failed)?;
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
    fn tract_has_the_cpu_alone() {
        let runtime = start(&Wanted::Tract).unwrap();
        assert_eq!(runtime.providers(), [Provider::Cpu]);
        let error = runtime.no_provider(Provider::Cuda);
        assert!(error.to_string().contains("provider=`cuda` backend=`tract 0.23.9` has=`cpu`"), "{error}");
    }

    #[test]
    fn the_version_named_is_the_one_that_cargo_pins() {
        assert!(include_str!("../../Cargo.toml").contains(&format!("tract-onnx = \"={}\"", tract::VERSION)));
    }
}
