//! Jobs as the artifact store knows them: what a coordinator without a journal goes on with.

use super::run::Adopted;
use crate::checkpoint::read;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::{End, EndMark, checkpoint_key, ends_prefix, generations_prefix};
use ptv2_common::storage::{self, Store};

/// Generations that a lost journal may have started without a trace in the store. The first one after
/// an adoption supersedes them all, so that whoever still serves one of them is refused.
const UNSEEN_GENERATIONS: u64 = 1000;

/// Every job of which the store holds a readable checkpoint, oldest submit first.
///
/// A job that never wrote one is not there: it must be submitted again, which costs nothing that was
/// computed and kept.
///
/// # Errors
/// Those of the store's listings. A manifest that cannot be read is passed over.
pub async fn from_store(store: &Store) -> Result<Vec<Adopted>, Explained> {
    let folders = storage::folders(store, "jobs").await;
    let folders = folders.map_err(|error| Explained::from_error(&error).at("jobs"))?;
    let mut jobs = Vec::new();
    for folder in folders {
        jobs.extend(adopt(store, JobId(folder)).await?);
    }
    jobs.sort_by_key(|job| job.record.submitted_unix_ms);
    Ok(jobs)
}

async fn adopt(store: &Store, job: JobId) -> Result<Option<Adopted>, Explained> {
    let Some((key, manifest)) = read::manifests(store, &job).await?.pop() else { return Ok(None) };
    // What a manifest says of itself must be what its name says.
    if manifest.job.id != job || key != checkpoint_key(&job, manifest.step, manifest.generation) {
        tracing::warn!(key, "a manifest is not of the job that it lies under; it is passed over");
        return Ok(None);
    }
    let mut newest = manifest.generation;
    for key in list(store, &generations_prefix(&job)).await? {
        newest = newest.max(generation_of(&key).unwrap_or_default());
    }
    let end = end(store, &job, newest).await?;
    Ok(Some(Adopted {
        generation: Generation(newest.0 + UNSEEN_GENERATIONS),
        checkpoint: read::summary(&key, &manifest),
        best: manifest.best.clone(),
        end,
        record: manifest.job,
    }))
}

/// How the job ended, unless a generation began after that.
async fn end(store: &Store, job: &JobId, newest: Generation) -> Result<Option<End>, Explained> {
    let Some(key) = list(store, &ends_prefix(job)).await?.pop() else { return Ok(None) };
    let bytes = storage::get(store, &key).await;
    let bytes = bytes.map_err(|error| Explained::from_error(&error).at(key.clone()))?;
    match serde_json::from_slice::<EndMark>(&bytes) {
        Ok(mark) if mark.generation >= newest => Ok(Some(mark.end)),
        Ok(_) => Ok(None),
        Err(error) => {
            tracing::warn!(key, %error, "the mark of a job's end cannot be read");
            Ok(None)
        }
    }
}

fn generation_of(key: &str) -> Option<Generation> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok().map(Generation)
}

async fn list(store: &Store, prefix: &str) -> Result<Vec<String>, Explained> {
    let keys = storage::list(store, prefix).await;
    keys.map_err(|error| Explained::from_error(&error).at(prefix.to_owned()))
}
