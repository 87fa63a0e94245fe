//! Tokens and the audit. No option takes a token itself: what is typed is seen by others.

use clap::{Args, Subcommand};
use ptv2_common::access::Scope;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it, this once: only its hash is kept.
    Create(TokenCreateArgs),
    /// Lists tokens, oldest first, without the tokens themselves.
    List,
    /// Revokes a token; what is open by it ends.
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// Whose it is: jobs, idempotency keys and audit events bear this name.
    #[arg(long)]
    pub(crate) name: String,
    /// What it is good for: read, submit (which holds read), admin (which holds both), or worker.
    #[arg(long)]
    pub(crate) scope: Scope,
    /// For how long, for example `12h` or `30d` [default: without an end].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Option<Duration>,
    /// How many workers may join by it, with the scope worker [default: any number].
    #[arg(long, value_name = "N")]
    pub(crate) uses: Option<u32>,
    /// Writes it to a new file, which only its owner can read, and prints its id.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevokeArgs {
    /// The token's id, as `token list` shows it.
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Lists no more than this many [default: 100].
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}
