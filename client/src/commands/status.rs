//! `ptv2ctl status`.

use crate::cli::{Output, StatusArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::JobStatus;

const DEFAULT_LIMIT: u32 = 50;

/// Prints one job, or the list.
pub(crate) async fn run(api: &Api, output: Output, args: &StatusArgs) -> Result<Outcome, Failure> {
    if let Some(job) = &args.job {
        let job: JobStatus = api.get(&["jobs", job]).await?;
        render::either(output, &job, tables::job)?;
        return Ok(Outcome::Done);
    }
    let mut query = vec![("limit", args.limit.unwrap_or(DEFAULT_LIMIT).to_string())];
    query.extend(args.state.iter().map(|state| ("state", state.clone())));
    query.extend(args.task.iter().map(|task| ("task", task.clone())));
    let jobs: Vec<JobStatus> = api.get_with(&["jobs"], &query).await?;
    render::either(output, jobs.as_slice(), |jobs| tables::jobs(jobs, render::now_unix_ms()))?;
    Ok(Outcome::Done)
}
