//! `ptv2ctl wait`.

use super::follow;
use crate::cli::{Output, WaitArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::JobStatus;

/// Waits until every job is final and prints them.
pub(crate) async fn run(api: &Api, output: Output, args: &WaitArgs) -> Result<Outcome, Failure> {
    // Asked once without patience, so that a wrong name or address is said at once.
    let mut ids = Vec::new();
    for job in &args.jobs {
        ids.push(api.get::<JobStatus>(&["jobs", job]).await?.id);
    }
    let jobs = follow::finals(api, &ids, args.timeout).await?;
    render::either(output, jobs.as_slice(), |jobs| {
        jobs.iter().map(tables::result).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(follow::worst(&jobs))
}
