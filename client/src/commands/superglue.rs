//! `ptv2ctl superglue`: every task trained, its test split predicted, a submission and a report written.

mod config;
mod submission;

use super::{follow, predict, report, score};
use crate::cli::{NewJobArgs, Output, SuperglueArgs, TrainedArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::render;
use config::{Config, Planned};
use ptv2_common::api::{JobState, JobStatus, SubmitRequest};
use ptv2_common::error::Explained;
use ptv2_common::plan::Plan;
use ptv2_common::storage;
use serde::Serialize;
use std::path::PathBuf;

/// The task whose prefix the diagnostic sets are predicted with, and they.
const RTE: &str = "superglue/rte";
const DIAGNOSTICS: [&str; 2] = ["superglue/axb", "superglue/axg"];

/// What `superglue --output json` prints.
#[derive(Debug, Serialize)]
struct Done {
    folder: PathBuf,
    jobs: Vec<String>,
    /// Files of the submission.
    predicted: Vec<String>,
    /// What is not in it, and why.
    notes: Vec<String>,
}

/// Trains, predicts and reports.
pub(crate) async fn run(
    api: &Api,
    output: Output,
    args: &SuperglueArgs,
) -> Result<Outcome, Failure> {
    let config = Config::read(&args.config)?;
    let to = args.to.clone().unwrap_or_else(|| config.to.clone());
    let planned = config.jobs()?;
    check(api, &planned).await?;
    let jobs = train(api, &planned).await?;
    let mut notes = Vec::new();
    let mut files = Vec::new();
    for job in &jobs {
        if job.state != JobState::Succeeded {
            notes.push(format!("{}: not predicted, its job {} did not succeed", job.task, job.id));
            continue;
        }
        let own = [job.task.as_str()];
        let tasks = if job.task == RTE { [&own[..], &DIAGNOSTICS].concat() } else { own.to_vec() };
        for task in tasks {
            match predictions(api, &config, job, task).await {
                Ok(file) => files.push(file),
                Err(failure) => {
                    let why = format!("{task}: not predicted: {}", failure.error);
                    render::note(&format!("warning: {why}"));
                    notes.push(why);
                }
            }
        }
    }
    let ids: Vec<String> = jobs.iter().map(|job| job.id.clone()).collect();
    let mut written = crate::report::of(api, &ids).await?;
    written.notes.clone_from(&notes);
    report::write(&to, &written)?;
    submission::write(&to, &files)?;
    let predicted = files.into_iter().map(|(name, _)| name).collect();
    let done = Done { folder: to, jobs: ids, predicted, notes };
    render::either(output, &done, |done| done.folder.display().to_string())?;
    Ok(follow::worst(&jobs))
}

/// Refuses the whole where one of the jobs would be refused: nothing is begun then.
async fn check(api: &Api, planned: &[Planned]) -> Result<(), Failure> {
    for job in planned {
        let request = SubmitRequest { spec: job.draft.spec.clone(), idempotency_key: None };
        let plan: Result<Plan, Failure> = api.post_job(&["plan"], &request).await;
        if let Err(mut failure) = plan {
            failure.error.what = format!("{}: {}", job.task, failure.error.what);
            return Err(job.draft.located(failure));
        }
    }
    Ok(())
}

/// Submits every job, or finds it where an earlier call of the same configuration did, and waits for all.
async fn train(api: &Api, planned: &[Planned]) -> Result<Vec<JobStatus>, Failure> {
    let mut ids = Vec::new();
    for job in planned {
        let spec = job.draft.spec.clone();
        let key = format!("superglue {}", storage::sha256(spec.to_string().as_bytes()));
        let request = SubmitRequest { spec, idempotency_key: Some(key) };
        let submitted: JobStatus = api.post_job(&["jobs"], &request).await?;
        render::note(&format!("{}: job {} ({})", job.task, submitted.id, submitted.name));
        ids.push(submitted.id);
    }
    let mut jobs = Vec::new();
    for id in &ids {
        jobs.extend(follow::finals(api, std::slice::from_ref(id), None).await?);
        if let Some(job) = jobs.last() {
            let best = job.best.as_ref().map_or_else(String::new, crate::tables::score);
            let state = crate::tables::word(&job.state);
            render::note(&format!("{}: {state} {best}", job.task));
        }
    }
    Ok(jobs)
}

/// The leaderboard's file of a task: its name and its bytes.
async fn predictions(
    api: &Api,
    config: &Config,
    trained: &JobStatus,
    task: &str,
) -> Result<(String, Vec<u8>), Failure> {
    let key = format!("superglue {task} {} {}", trained.id, config.checkpoint);
    let args = TrainedArgs {
        source: trained.id.clone(),
        checkpoint: config.checkpoint,
        seed: None,
        task: Some(task.to_owned()),
        data: None,
        backbone: None,
        sets: Vec::new(),
        new: NewJobArgs { idempotency_key: Some(key), ..NewJobArgs::default() },
    };
    let job = score::submit(api, &args, "test", false).await?;
    let ended = follow::finals(api, std::slice::from_ref(&job.id), None).await?;
    for job in &ended {
        if job.state == JobState::Succeeded {
            return predict::fetch(api, job).await;
        }
    }
    let why = ended.iter().filter_map(|job| job.reason_text.clone()).collect::<Vec<_>>().join("; ");
    Err(Failure::refused(Explained::new(format!("job {} did not succeed: {why}", job.id))))
}
