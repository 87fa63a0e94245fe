//! `ptv2ctl submit`.

use super::follow;
use crate::cli::{Global, SubmitArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{jobfile, render, tables};
use ptv2_common::api::{JobStatus, SubmitRequest};

/// Submits a job; follows it or waits for it where that was asked.
pub(crate) async fn run(global: &Global, args: &SubmitArgs) -> Result<Outcome, Failure> {
    let output = global.output;
    let mut draft = jobfile::read(&args.job_file)?;
    draft.put_new(&args.new)?;
    // Before the token is looked for: a wrong job is wrong without a coordinator, too.
    draft.check()?;
    let api = &Api::new(global)?;
    let idempotency_key = args.new.idempotency_key.clone();
    let request = SubmitRequest { spec: draft.spec.clone(), idempotency_key };
    let submitted = api.post_job(&["jobs"], &request).await;
    let submitted: JobStatus = submitted.map_err(|failure| draft.located(failure))?;
    if args.follow {
        render::note(&format!("submitted {} ({})", submitted.id, submitted.name));
        let job = follow::with_progress(api, &submitted.id).await?;
        render::either(output, &job, tables::result)?;
        return Ok(follow::worst(&[job]));
    }
    if args.wait {
        let jobs = follow::finals(api, std::slice::from_ref(&submitted.id), args.timeout).await?;
        for job in &jobs {
            render::either(output, job, tables::job)?;
        }
        return Ok(follow::worst(&jobs));
    }
    render::either(output, &submitted, |job| render::clean(&job.id))?;
    Ok(Outcome::Done)
}
