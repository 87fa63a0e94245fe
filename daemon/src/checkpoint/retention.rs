//! Deletes checkpoints that nobody needs any more: manifests first, then data that none names.

use super::read;
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::storage::{self, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Data younger than this stays, named or not: its manifest may be on its way.
pub const GRACE: Duration = Duration::from_secs(600);

/// Keys of the checkpoints that may go: all but the `keep` newest (at least two), and each run's newest
/// best and end. `checkpoints` are valid ones, oldest first.
pub fn superfluous(checkpoints: &[Checkpoint], keep: u32) -> Vec<String> {
    let keep = keep.max(2) as usize;
    let newest = checkpoints.len().saturating_sub(keep);
    let mut kept = BTreeMap::new();
    for (at, checkpoint) in checkpoints.iter().enumerate() {
        if checkpoint.is_best {
            kept.insert((checkpoint.run, "best"), at);
        }
        if checkpoint.ends_run {
            kept.insert((checkpoint.run, "end"), at);
        }
    }
    let kept: BTreeSet<usize> = kept.into_values().collect();
    checkpoints
        .iter()
        .enumerate()
        .filter(|(at, _)| *at < newest && !kept.contains(at))
        .map(|(_, checkpoint)| checkpoint.key.clone())
        .collect()
}

/// Sweeps a job's checkpoints.
///
/// # Errors
/// Those of the store. What was deleted by then stays deleted; the next sweep goes on.
pub async fn sweep(
    store: &Store,
    job: &JobId,
    keep: u32,
    now_unix_ms: u64,
) -> Result<(), Explained> {
    let valid = read::manifests(store, job).await?;
    let checkpoints: Vec<Checkpoint> =
        valid.iter().map(|(key, manifest)| Checkpoint::of(key, manifest)).collect();
    let going: BTreeSet<String> = superfluous(&checkpoints, keep).into_iter().collect();
    for key in &going {
        storage::delete(store, key).await.map_err(|error| at(key, &error))?;
    }
    if going.is_empty() {
        return Ok(());
    }
    let named: BTreeSet<&str> = valid
        .iter()
        .filter(|(key, _)| !going.contains(key))
        .flat_map(|(_, manifest)| manifest.files.iter().map(|file| file.sha256.as_str()))
        .collect();
    let folder = format!("jobs/{job}/data");
    for key in storage::list(store, &folder).await.map_err(|error| at(&folder, &error))? {
        let hash = key.rsplit('/').next().unwrap_or_default();
        if named.contains(hash) {
            continue;
        }
        let meta = storage::head(store, &key).await.map_err(|error| at(&key, &error))?;
        let written = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(u64::MAX);
        if u128::from(now_unix_ms.saturating_sub(written)) > GRACE.as_millis() {
            storage::delete(store, &key).await.map_err(|error| at(&key, &error))?;
        }
    }
    Ok(())
}

fn at(key: &str, error: &object_store::Error) -> Explained {
    Explained::from_error(error).at(key.to_owned())
}
