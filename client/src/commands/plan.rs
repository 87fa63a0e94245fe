//! `ptv2ctl plan`.

use crate::cli::{Global, PlanArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{jobfile, render, tables};
use ptv2_common::api::SubmitRequest;
use ptv2_common::plan::Plan;

/// Prints what submit would do.
pub(crate) async fn run(global: &Global, args: &PlanArgs) -> Result<Outcome, Failure> {
    let draft = jobfile::read(&args.job_file)?;
    draft.check()?;
    let request = SubmitRequest { spec: draft.spec.clone(), idempotency_key: None };
    let plan = Api::new(global)?.post_job(&["plan"], &request).await;
    let plan: Plan = plan.map_err(|failure| draft.located(failure))?;
    render::either(global.output, &plan, tables::plan)?;
    Ok(Outcome::Done)
}
