//! `ptv2ctl jobs recover`.

use crate::cli::{JobsArgs, JobsCommand, Output, RecoverArgs};
use crate::failure::{Failure, Outcome, in_words};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::error::Explained;
use ptv2_common::upkeep::{RecoverReport, RecoverRequest, Recovery};
use std::path::Path;

/// Does what is asked of jobs.
pub(crate) async fn run(api: &Api, output: Output, args: &JobsArgs) -> Result<Outcome, Failure> {
    match &args.command {
        JobsCommand::Recover(args) => recover(api, output, args).await,
    }
}

/// Has jobs taken up from a store, and prints what came of each. Many take several answers.
async fn recover(api: &Api, output: Output, args: &RecoverArgs) -> Result<Outcome, Failure> {
    let (from, job) = (absolute(&args.from)?, args.job.clone());
    let mut request = RecoverRequest { from, job, after: None };
    let mut whole = RecoverReport::default();
    loop {
        let part: RecoverReport = api.post_job(&["recover"], &request).await?;
        whole.jobs.extend(part.jobs);
        request.after = part.next;
        let Some(after) = &request.after else { break };
        render::note(&format!("{} jobs so far; on from {after}", whole.jobs.len()));
    }
    for job in &whole.jobs {
        let error = job.error.as_ref().map(in_words);
        for line in job.notes.iter().cloned().chain(error) {
            render::note(&format!("{}: {line}", job.id));
        }
    }
    render::either(output, &whole, |whole| tables::recovered(&whole.jobs))?;
    let refused = whole.jobs.iter().filter(|job| job.outcome == Recovery::Refused).count();
    if refused == 0 {
        return Ok(Outcome::Done);
    }
    let of = whole.jobs.len();
    Err(Failure::refused(Explained::new(format!("{refused} of {of} jobs cannot be taken up"))))
}

/// A folder's path starts at the current one; a URL is what it is.
fn absolute(from: &str) -> Result<String, Failure> {
    if from.contains("://") {
        return Ok(from.to_owned());
    }
    let path = std::path::absolute(from)
        .map_err(|error| Failure::local("the store cannot be named", Path::new(from), &error))?;
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_starts_at_the_current_one() {
        assert_eq!(absolute("s3://bucket/ptv2").unwrap(), "s3://bucket/ptv2");
        assert_eq!(absolute("/a/store").unwrap(), "/a/store");
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute("store").unwrap(), here.join("store").display().to_string());
    }
}
