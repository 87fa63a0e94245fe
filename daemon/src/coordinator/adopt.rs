//! Jobs as the artifact store knows them: what a coordinator without a journal goes on with.

use super::run::Adopted;
use crate::checkpoint::{read, retention};
use ptv2_common::api::{Checkpoint, RunStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::{CheckpointManifest, End, EndMark, ends_prefix, generations_prefix};
use ptv2_common::storage::{self, Store};

/// Generations that a lost journal may have started without a trace in the store. The first one after
/// an adoption supersedes them all, so that whoever still serves one of them is refused.
const UNSEEN_GENERATIONS: u64 = 1000;

/// Every job of which the store holds a good checkpoint, oldest submit first.
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
        jobs.extend(one(store, JobId(folder)).await?);
    }
    jobs.sort_by_key(|job| job.record.submitted_unix_ms);
    Ok(jobs)
}

/// A job as a store knows it: as far as its newest checkpoint whose files are there, if there is one.
///
/// # Errors
/// Those of the store.
pub async fn one(store: &Store, job: JobId) -> Result<Option<Adopted>, Explained> {
    let mut manifests = read::manifests(store, &job).await?;
    let candidates = retention::candidates(store, &job, &manifests).await?;
    let runs = runs(&manifests);
    let Some(at) = candidates.iter().rposition(|one| one.is_good) else {
        if !manifests.is_empty() {
            tracing::warn!(%job, "of none of its checkpoints all files are there; it is passed over");
        }
        return Ok(None);
    };
    let (key, manifest) = manifests.swap_remove(at);
    let mut newest = manifest.generation;
    for key in read::list(store, &generations_prefix(&job)).await? {
        newest = newest.max(generation_of(&key).unwrap_or_default());
    }
    let end = end(store, &job, newest).await?;
    Ok(Some(Adopted {
        generation: Generation(newest.0 + UNSEEN_GENERATIONS),
        checkpoint: Checkpoint::of(&key, &manifest),
        best: manifest.best.clone(),
        runs,
        end,
        record: manifest.job,
    }))
}

/// What checkpoints, oldest first, tell of a job's runs.
fn runs(manifests: &[(String, CheckpointManifest)]) -> Vec<RunStatus> {
    let Some((_, newest)) = manifests.last() else { return Vec::new() };
    let seeds = newest.job.spec.training.run_seeds();
    let mut runs: Vec<RunStatus> = seeds.into_iter().map(RunStatus::new).collect();
    for (_, manifest) in manifests {
        let Some(run) = runs.get_mut(manifest.run as usize) else { continue };
        run.best.clone_from(&manifest.best);
        run.epoch = manifest.epoch;
        if manifest.ends_run {
            run.tuned_sha256 = Some(manifest.tuned_sha256.clone());
            run.last.clone_from(&manifest.last);
        }
    }
    runs
}

/// How the job ended, unless a generation began after that.
async fn end(store: &Store, job: &JobId, newest: Generation) -> Result<Option<End>, Explained> {
    let Some(key) = read::list(store, &ends_prefix(job)).await?.pop() else { return Ok(None) };
    let bytes = read::get(store, &key).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{state, store, writer};
    use crate::coordinator::chores::mark_end;
    use ptv2_common::manifest::{checkpoint_key, checkpoints_prefix};

    async fn only(store: &Store) -> Adopted {
        let mut found = from_store(store).await.unwrap();
        assert_eq!(found.len(), 1);
        found.pop().unwrap()
    }

    #[tokio::test]
    async fn a_job_goes_on_from_its_newest_checkpoint() {
        let (_folder, store) = store();
        assert!(from_store(&store).await.unwrap().is_empty());
        let writer = writer(&store, 3, 0).await;
        assert!(from_store(&store).await.unwrap().is_empty(), "a job without a checkpoint");
        writer.publish(&state(4), &[]).await.unwrap();
        writer.publish(&state(8), &[]).await.unwrap();
        let job = only(&store).await;
        assert_eq!((job.record.id.0.as_str(), job.checkpoint.step), ("j0", 8));
        assert_eq!((job.generation, job.end), (Generation(3 + UNSEEN_GENERATIONS), None));
    }

    #[tokio::test]
    async fn an_end_counts_until_a_generation_follows_it() {
        let (_folder, store) = store();
        let id = JobId("j0".into());
        writer(&store, 1, 0).await.publish(&state(4), &[]).await.unwrap();
        mark_end(store.clone(), id.clone(), Generation(1), End::Cancelled).await;
        assert_eq!(only(&store).await.end, Some(End::Cancelled));
        // It was taken up again.
        let second = writer(&store, 2, 4).await;
        assert_eq!(only(&store).await.end, None);
        second.publish(&state(8), &[]).await.unwrap();
        mark_end(store.clone(), id, Generation(2), End::Cancelled).await;
        assert_eq!(only(&store).await.end, Some(End::Cancelled));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_passed_over() {
        let (_folder, store) = store();
        let first = writer(&store, 1, 0).await.publish(&state(4), &[]).await.unwrap();
        let id = JobId("j0".into());
        for key in [checkpoint_key(&id, 8, Generation(1)), format!("{}/x.json", ends_prefix(&id))] {
            storage::put_create(&store, &key, "no JSON".into()).await.unwrap();
        }
        assert_eq!(only(&store).await.checkpoint.key, first.key);
        // A manifest under another job's name.
        let bytes = storage::get(&store, &first.key).await.unwrap();
        let other = first.key.replace("j0", "j1");
        assert!(other.starts_with(&checkpoints_prefix(&JobId("j1".into()))));
        storage::put_create(&store, &other, bytes).await.unwrap();
        assert_eq!(only(&store).await.record.id, id);
    }
}
