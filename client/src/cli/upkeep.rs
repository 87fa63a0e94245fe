//! Arguments of the commands that keep the artifact store.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Deletes nothing; says what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Takes up jobs that an artifact store holds: one that lost its coordinator, or the own one.
    Recover(RecoverArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The artifact store; it must lie below a root that the coordinator allows, or be its own.
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// Only this job, by its full id [default: all].
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
}
