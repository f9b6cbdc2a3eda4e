//! `trommel doctor`: what this machine has, and what a run would make of it.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::run::MachineArguments;
use super::{Format, Global, output};
use crate::embed::runtime::{self, Wanted};
use crate::embed::{Origin, find_library};
use crate::error::{Error, Result};
use crate::run::runner::RunOptions;
use crate::storage::local;
use crate::telemetry::{bytes, memory};

/// Where the driver of NVIDIA GPUs says what it is.
const NVIDIA_DRIVER: &str = "/proc/driver/nvidia/version";

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  trommel doctor
  trommel doctor --onnxruntime /opt/onnxruntime/lib
  trommel doctor --format json

ONNX Runtime is needed only by pipelines whose `embed` stage names a model file; the built-in model runs without it.")]
pub struct DoctorArguments {
    #[command(flatten)]
    machine: MachineArguments,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    target: String,
    cores: Option<usize>,
    threads: usize,
    cpu_features: Vec<Feature>,
    memory_bytes: Option<u64>,
    budget_bytes: usize,
    free_disk_bytes: Option<u64>,
    open_files_limit: Option<u64>,
    builtin_model: &'static str,
    onnxruntime: Library,
    nvidia_driver: Option<String>,
}

/// A set of instructions that the kernels use where it is there.
#[derive(Debug, Serialize)]
struct Feature {
    name: &'static str,
    present: bool,
}

/// ONNX Runtime on this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
enum Library {
    /// It was loaded.
    Found { path: String, found_by: &'static str, version: String, build: String, providers: Vec<&'static str> },
    /// It is not there, or cannot be loaded.
    Missing { problem: String, mend: Option<String> },
}

/// Runs the command.
pub(crate) fn doctor(arguments: &DoctorArguments, global: &Global, out: &mut dyn Write) -> Result<()> {
    let options = arguments.machine.options(global, false, None)?;
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        cores: std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        threads: options.threads,
        cpu_features: cpu_features(),
        memory_bytes: memory::machine_bytes(),
        budget_bytes: options.memory_bytes,
        free_disk_bytes: local::free_bytes(".".as_ref()),
        open_files_limit: memory::open_files_limit(),
        builtin_model: "tract",
        onnxruntime: library(&options),
        nvidia_driver: nvidia_driver(),
    };
    match global.format {
        Format::Json => output::json(out, &findings),
        Format::Text => output::text(out, &text(&findings)),
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<Feature> {
    vec![
        Feature { name: "avx2", present: std::arch::is_x86_feature_detected!("avx2") },
        Feature { name: "fma", present: std::arch::is_x86_feature_detected!("fma") },
        Feature { name: "avx512f", present: std::arch::is_x86_feature_detected!("avx512f") },
        Feature { name: "avx512bw", present: std::arch::is_x86_feature_detected!("avx512bw") },
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<Feature> {
    Vec::new()
}

fn library(options: &RunOptions) -> Library {
    let missing = |error: &Error| {
        let mut problem = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let _ = write!(problem, ": {error}");
            cause = error.source();
        }
        Library::Missing { problem, mend: error.hint_text().map(str::to_owned) }
    };
    let (path, origin) = match find_library(options.onnxruntime.as_deref()) {
        Ok(found) => found,
        Err(error) => return missing(&error),
    };
    match runtime::start(&Wanted::OnnxRuntime { library: options.onnxruntime.clone() }) {
        Ok(runtime) => Library::Found {
            path: path.display().to_string(),
            found_by: match origin {
                Origin::CommandLine => "--onnxruntime",
                Origin::Environment => "ORT_DYLIB_PATH",
                Origin::Wheel => "Python package",
            },
            version: runtime.version().to_owned(),
            build: runtime.build().to_owned(),
            providers: runtime.providers().into_iter().map(runtime::Provider::as_str).collect(),
        },
        Err(error) => missing(&error),
    }
}

/// The version of the driver of NVIDIA GPUs, if there is one.
fn nvidia_driver() -> Option<String> {
    let text = local::read_to_string(NVIDIA_DRIVER.as_ref(), 1 << 16).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NVRM version:"))?;
    // `NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar ...`: the first word that is a version.
    let version = line.split_whitespace().find(|word| word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit()));
    Some(version.unwrap_or(line).trim().to_owned())
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    line("trommel", &format!("{} ({})", findings.version, findings.target));
    let cores = findings.cores.map_or_else(|| "unknown".to_owned(), |cores| cores.to_string());
    line("cores", &format!("{cores}; a run uses {} threads", findings.threads));
    if !findings.cpu_features.is_empty() {
        let features: Vec<String> = findings
            .cpu_features
            .iter()
            .map(|feature| format!("{} {}", feature.name, if feature.present { "yes" } else { "no" }))
            .collect();
        line("CPU", &features.join(", "));
    }
    let machine = findings.memory_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    line("memory", &format!("{machine}; a run takes up to {}", bytes(findings.budget_bytes as u64)));
    line("free disk", &format!("{} in this folder", findings.free_disk_bytes.map_or_else(|| "unknown".to_owned(), bytes)));
    line("open files", &findings.open_files_limit.map_or_else(|| "no limit known".to_owned(), |limit| format!("{limit} at most")));
    line("built-in model", &format!("runs on {}, inside the program", findings.builtin_model));
    match &findings.onnxruntime {
        Library::Found { path, found_by, version, build: _, providers } => {
            line("ONNX Runtime", &format!("{version}, {path} ({found_by})"));
            line("", &format!("providers in this build: {}; whether one works shows when a model is opened", providers.join(", ")));
        }
        Library::Missing { problem, mend } => {
            line("ONNX Runtime", &format!("none: {problem}"));
            if let Some(mend) = mend {
                line("", &format!("to use model files: {mend}"));
            }
        }
    }
    line("NVIDIA driver", findings.nvidia_driver.as_deref().unwrap_or("none"));
    text
}
