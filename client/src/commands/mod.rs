//! One file a command, and what following a job has in common.

mod audit;
mod cancel;
mod checkpoints;
mod drain;
mod eval;
mod events;
mod follow;
mod gc;
mod generate;
mod init;
mod jobs;
mod logs;
mod metrics;
mod plan;
mod predict;
mod pull;
mod report;
mod retry;
mod score;
mod status;
mod submit;
mod superglue;
mod token;
mod wait;
mod workers;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, Outcome};
use crate::http::Api;

/// Runs what was typed.
pub(crate) async fn run(cli: Cli) -> Result<Outcome, Failure> {
    let output = cli.global.output;
    let api = || Api::new(&cli.global);
    match &cli.command {
        Command::Submit(args) => submit::run(&cli.global, args).await,
        Command::Plan(args) => plan::run(&cli.global, args).await,
        Command::Status(args) => status::run(&api()?, output, args).await,
        Command::Wait(args) => wait::run(&api()?, output, args).await,
        Command::Logs(args) => logs::run(&api()?, output, args).await,
        Command::Metrics(args) => metrics::run(&api()?, output, args).await,
        Command::Events(args) => events::run(&api()?, output, args).await,
        Command::Checkpoints(args) => checkpoints::run(&api()?, output, args).await,
        Command::Cancel(args) => cancel::run(&api()?, output, args).await,
        Command::Retry(args) => retry::run(&api()?, output, args).await,
        Command::Init(args) => init::run(args),
        Command::Completions(args) => generate::completions(args),
        Command::Man(args) => generate::man(args),
        // With --store it does without a coordinator, and so without its token.
        Command::Pull(args) => pull::run(&cli.global, args).await,
        Command::Eval(args) => eval::run(&api()?, output, args).await,
        Command::Predict(args) => predict::run(&api()?, output, args).await,
        Command::Report(args) => report::run(&api()?, output, args).await,
        Command::Superglue(args) => superglue::run(&api()?, output, args).await,
        Command::Gc(args) => gc::run(&api()?, output, args).await,
        Command::Jobs(args) => jobs::run(&api()?, output, args).await,
        Command::Workers => workers::run(&api()?, output).await,
        Command::Token(command) => token::run(&api()?, output, command).await,
        Command::Audit(args) => audit::run(&api()?, output, args).await,
        Command::Drain(args) => drain::run(&api()?, output, args).await,
    }
}
