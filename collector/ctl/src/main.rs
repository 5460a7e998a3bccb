//! `picketctl`: ask and steer a Picket collector. Speaks like kubectl: verbs and nouns, `-o`, `--selector`, `--watch`.

mod args;
mod filter;
mod get;
mod render;
mod row;
mod session;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Arguments, Command};

/// Wrong use of the command line (DESIGN 10).
const WRONG_USE: u8 = 2;
/// Could not do it.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { WRONG_USE } else { 0 };
            // Nothing is left to say when the terminal is gone.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picketctl: {error:#}");
            ExitCode::from(if error.is::<filter::FilterError>() { WRONG_USE } else { FAILED })
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "picketctl", &mut std::io::stdout());
            Ok(())
        }
        Command::Get(get) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(get::run(arguments.config, get))
        }
    }
}
