//! `ptv2ctl`, the client of ptv2: one command, one exit code.

mod cli;
mod commands;
mod failure;
mod http;
mod jobfile;
mod progress;
mod render;
mod sse;
mod tables;

use clap::Parser;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(match commands::run(cli::Cli::parse()).await {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => render::failure(&failure),
    })
}
