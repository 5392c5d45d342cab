//! The `nyx` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    nyx::cli::run(std::env::args_os())
}
