//! `ptv2ctl cancel`.

use crate::cli::{JobArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::{self, Api};
use crate::{render, tables};
use ptv2_common::api::JobStatus;

/// Cancels a job and prints its state.
pub(crate) async fn run(api: &Api, output: Output, args: &JobArgs) -> Result<Outcome, Failure> {
    let answer = api.post(&["jobs", &args.job, "cancel"]).await?;
    let job: JobStatus = http::decode(answer).await?;
    render::either(output, &job, |job| {
        format!("{} {}", render::clean(&job.id), tables::word(&job.state))
    })?;
    Ok(Outcome::Done)
}
