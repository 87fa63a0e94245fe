//! `ptv2ctl submit`.

use super::follow;
use crate::cli::{Output, SubmitArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{jobfile, render, tables};
use ptv2_common::api::{JobStatus, SubmitRequest};

/// Submits a job; follows it or waits for it where that was asked.
pub(crate) async fn run(api: &Api, output: Output, args: &SubmitArgs) -> Result<Outcome, Failure> {
    let mut spec = jobfile::read(&args.job_file)?;
    if let Some(name) = &args.name {
        jobfile::put(&mut spec, &["name".into()], name.as_str().into())?;
    }
    if let Some(workers) = &args.workers {
        let path = ["resources".into(), "workers".into()];
        jobfile::put(&mut spec, &path, workers.to_string().into())?;
    }
    let request = SubmitRequest { spec, idempotency_key: args.idempotency_key.clone() };
    let submitted: JobStatus = api.post_job(&["jobs"], &request).await?;
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
    render::either(output, &submitted, |job| job.id.clone())?;
    Ok(Outcome::Done)
}
