//! `ptv2ctl events`.

use super::follow;
use crate::cli::{FollowArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::tables;
use ptv2_common::api::Event;

/// Prints what happened to a job, and with `-f` what is still to come.
pub(crate) async fn run(api: &Api, output: Output, args: &FollowArgs) -> Result<Outcome, Failure> {
    follow::items(api, output, args, "events", |event: &Event| event.seq, tables::event).await?;
    Ok(Outcome::Done)
}
