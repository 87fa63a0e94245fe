//! `ptv2ctl logs`.

use super::follow;
use crate::cli::{FollowArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::tables;
use ptv2_common::api::LogLine;

/// Prints a job's log, and with `-f` what is still to come.
pub(crate) async fn run(api: &Api, output: Output, args: &FollowArgs) -> Result<Outcome, Failure> {
    follow::items(api, output, args, "logs", |line: &LogLine| line.seq, tables::log_line).await?;
    Ok(Outcome::Done)
}
