//! `ptv2ctl`, the client of ptv2: one command, one exit code.

mod cli;
mod commands;
mod failure;
mod http;
mod jobfile;
mod paint;
mod progress;
mod render;
mod report;
mod sse;
mod tables;

use clap::Parser;
use failure::{Failure, Outcome};
use ptv2_common::error::Explained;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything is started: most of what is wrong is wrong in the words themselves.
    let cli = cli::Cli::parse();
    ptv2_common::tls::install_provider();
    ExitCode::from(match run(cli) {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => render::failure(&failure),
    })
}

/// On this thread alone: the client waits, and has nothing to compute.
fn run(cli: cli::Cli) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(Explained::from_error(&error)))?;
    runtime.block_on(commands::run(cli))
}
