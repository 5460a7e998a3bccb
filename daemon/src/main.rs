//! `picketd`: see [`picketd::cli`] for the commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    picketd::cli::main()
}
