//! `ptv2ctl predict`.

use super::pull::source::Source;
use super::{follow, score};
use crate::cli::{Output, PredictArgs};
use crate::failure::{Failure, Kind, Outcome};
use crate::http::Api;
use crate::render;
use ptv2_common::api::{CheckpointFiles, JobState, JobStatus};
use ptv2_common::error::Explained;
use ptv2_common::manifest::{FileEntry, PREDICTIONS_FOLDER};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What `predict --output json` prints.
#[derive(Serialize)]
struct Predicted {
    id: String,
    task: String,
    split: String,
    rows: u64,
    file: String,
}

/// Predicts a split and writes the leaderboard's file.
pub(crate) async fn run(api: &Api, output: Output, args: &PredictArgs) -> Result<Outcome, Failure> {
    check_free(&args.to, args.force)?;
    let job = begun(api, args).await?;
    let jobs = follow::finals(api, std::slice::from_ref(&job.id), args.timeout).await?;
    for job in jobs.iter().filter(|job| job.state == JobState::Succeeded) {
        let file = write(api, job, &args.to, args.force).await?;
        let predicted = Predicted {
            id: job.id.clone(),
            task: job.task.clone(),
            split: args.split.clone(),
            rows: job.plan.val_rows,
            file: file.display().to_string(),
        };
        render::either(output, &predicted, |predicted| predicted.file.clone())?;
    }
    Ok(follow::worst(&jobs))
}

/// A new job; or, where the one that is named makes predictions itself, that one.
async fn begun(api: &Api, args: &PredictArgs) -> Result<JobStatus, Failure> {
    let source = &args.trained.source;
    if !source.contains('/') {
        let named: JobStatus = api.get(&["jobs", source]).await?;
        if named.score.is_some() {
            return Ok(named);
        }
    }
    score::submit(api, &args.trained, &args.split, false).await
}

/// Writes a job's predictions whole or not at all; gives the file.
pub(super) async fn write(
    api: &Api,
    job: &JobStatus,
    to: &Path,
    force: bool,
) -> Result<PathBuf, Failure> {
    let (name, bytes) = fetch(api, job).await?;
    let to = if to.is_dir() { to.join(&name) } else { to.to_owned() };
    check_free(&to, force)?;
    let local = |error: std::io::Error| Failure::local("the file cannot be written", &to, &error);
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(local)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(local)?;
    file.write_all(&bytes).map_err(local)?;
    file.as_file().sync_all().map_err(local)?;
    file.persist(&to).map_err(|error| local(error.error))?;
    Ok(to)
}

/// The predictions of a job: their file's name on the leaderboard, and its bytes, verified.
pub(super) async fn fetch(api: &Api, job: &JobStatus) -> Result<(String, Vec<u8>), Failure> {
    let answer: CheckpointFiles = api.get(&["jobs", &job.id, "checkpoints", "last"]).await?;
    let is_it = |file: &FileEntry| {
        file.name.strip_prefix(PREDICTIONS_FOLDER).map(|name| (name.to_owned(), file.clone()))
    };
    let Some((name, entry)) = answer.files.iter().find_map(is_it) else {
        let error = Explained::new(format!("job {} holds no predictions", job.id));
        return Err(Failure::new(Kind::BadAnswer, error));
    };
    let source = Source::Coordinator { api: api.clone(), job: job.id.clone() };
    let bytes = source.bytes(&entry).await?;
    Ok((name, bytes))
}

fn check_free(to: &Path, force: bool) -> Result<(), Failure> {
    if force || to.is_dir() || to.symlink_metadata().is_err() {
        return Ok(());
    }
    let error = Explained::new("the file exists")
        .at(to.display().to_string())
        .hint("name another with --to, or replace it with --force");
    Err(Failure::refused(error))
}
