//! The command line: arguments in, exit code out.

use std::process::ExitCode;

/// Many small allocations of many threads are freed in other places: the system's allocator keeps what it got for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    trommel::cli::main()
}
