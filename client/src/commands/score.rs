//! What `eval` and `predict` have in common: a job that scores a split with trained values.

use crate::cli::TrainedArgs;
use crate::failure::Failure;
use crate::http::Api;
use crate::jobfile;
use ptv2_common::api::{JobStatus, ScoreRequest, ScoreSource};
use std::path::{Path, PathBuf};

/// Submits such a job.
pub(crate) async fn submit(
    api: &Api,
    args: &TrainedArgs,
    split: &str,
    labels: bool,
) -> Result<JobStatus, Failure> {
    let mut draft = jobfile::of_sets(&args.sets)?;
    if let Some(task) = &args.task {
        let full = if task.contains('/') { task.clone() } else { format!("superglue/{task}") };
        draft.put(&["task"], &full, "--task")?;
    }
    if let Some(data) = &args.data {
        draft.put(&["data", "root"], &absolute(data)?, "--data")?;
    }
    if let Some(backbone) = &args.backbone {
        let place = absolute(Path::new(backbone))?;
        draft.put(&["backbone", "path"], &place, "--backbone")?;
    }
    draft.put_new(&args.new)?;
    let request = ScoreRequest {
        source: source(args)?,
        split: split.to_owned(),
        labels,
        spec: draft.spec.clone(),
        idempotency_key: args.new.idempotency_key.clone(),
    };
    let submitted = api.post_job(&["scores"], &request).await;
    submitted.map_err(|failure| draft.located(failure))
}

/// A folder where the argument holds a slash, else a job.
fn source(args: &TrainedArgs) -> Result<ScoreSource, Failure> {
    if args.source.contains('/') {
        return Ok(ScoreSource::Adapter(absolute(Path::new(&args.source))?));
    }
    Ok(ScoreSource::Job {
        job: args.source.clone(),
        checkpoint: args.checkpoint.to_string(),
        seed: args.seed,
    })
}

/// The absolute form of a path; a URL as it is.
fn absolute(path: &Path) -> Result<String, Failure> {
    if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let absolute: PathBuf = std::path::absolute(path)
        .map_err(|error| Failure::local("the path cannot be made absolute", path, &error))?;
    Ok(absolute.to_string_lossy().into_owned())
}
