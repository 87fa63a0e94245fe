//! `ptv2ctl plan`.

use crate::cli::{Output, PlanArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{jobfile, render, tables};
use ptv2_common::api::SubmitRequest;
use ptv2_common::plan::Plan;

/// Prints what submit would do.
pub(crate) async fn run(api: &Api, output: Output, args: &PlanArgs) -> Result<Outcome, Failure> {
    let request = SubmitRequest { spec: jobfile::read(&args.job_file)?, idempotency_key: None };
    let plan: Plan = api.post_job(&["plan"], &request).await?;
    render::either(output, &plan, tables::plan)?;
    Ok(Outcome::Done)
}
