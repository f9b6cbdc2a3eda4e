//! The memory of this process and of the machine, as the kernel counts it.

use crate::storage::local;

/// The highest resident set of this process so far, in bytes; `None` where the system does not say.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// The memory of the machine, or of the control group that confines this process if that is less, in bytes.
#[must_use]
pub fn machine_bytes() -> Option<u64> {
    let machine = field("/proc/meminfo", "MemTotal:");
    let group = local::read_to_string("/sys/fs/cgroup/memory.max".as_ref(), 64).ok().and_then(|text| text.trim().parse().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// How many files this process may hold open; `None` where there is no limit or the system does not say.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = local::read_to_string(path.as_ref(), 1 << 20).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_kernel_says_how_much() {
        assert!(super::peak_bytes().unwrap() > 1 << 20);
        assert!(super::machine_bytes().unwrap() > super::peak_bytes().unwrap());
    }
}
