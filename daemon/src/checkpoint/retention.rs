//! Deletes checkpoints that nobody needs any more: manifests first, then data that none names.

#[cfg(test)]
mod tests;

use super::listing::{age_ms, data_prefix, objects, sizes};
use super::read::{self, Found};
use crate::clock;
use futures_util::StreamExt;
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::CheckpointManifest;
use ptv2_common::storage::{self, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Data younger than this stays, named or not: its manifest may be on its way.
pub const GRACE: Duration = Duration::from_secs(600);

/// A valid checkpoint, and whether it is good: its files are there, each as long as its manifest says.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Whether it is good.
    pub is_good: bool,
}

/// Keys of the checkpoints that may go: all but the `keep` newest good ones (at least two) and what is
/// newer, and each run's newest best and end. `candidates` are valid ones, oldest first.
///
/// What is not good counts for nothing, and stays where a good one in its place would: its files may
/// come back.
pub fn superfluous(candidates: &[Candidate], keep: u32) -> Vec<String> {
    let keep = keep.max(2) as usize;
    let good = candidates.iter().enumerate().rev().filter(|(_, one)| one.is_good);
    let Some((oldest, _)) = good.clone().nth(keep - 1) else { return Vec::new() };
    let mut kept = BTreeMap::new();
    for (at, Candidate { checkpoint, is_good }) in candidates.iter().enumerate() {
        let marks = [(checkpoint.is_best, "best"), (checkpoint.ends_run, "end")];
        for (_, mark) in marks.into_iter().filter(|(is_it, _)| *is_it) {
            // One that is not good does not take the place of the one before it.
            kept.insert((checkpoint.run, mark, *is_good), at);
        }
    }
    let kept: BTreeSet<usize> = kept.into_values().collect();
    let goes = |at: &usize| *at < oldest && !kept.contains(at);
    (0..candidates.len()).filter(goes).map(|at| candidates[at].checkpoint.key.clone()).collect()
}

/// A job's valid checkpoints, oldest first, each with what its files are found to be.
///
/// # Errors
/// Those of the store.
pub async fn candidates(
    store: &Store,
    job: &JobId,
    manifests: &[(String, CheckpointManifest)],
) -> Result<Vec<Candidate>, Explained> {
    let named = named(manifests);
    let sizes = sizes(store, job, |hash| named.contains(hash)).await?;
    let is_there = |one: &CheckpointManifest| {
        one.files.iter().all(|file| sizes.get(&file.sha256) == Some(&file.bytes))
    };
    let candidate = |(key, one): &(String, CheckpointManifest)| Candidate {
        checkpoint: Checkpoint::of(key, one),
        is_good: is_there(one),
    };
    Ok(manifests.iter().map(candidate).collect())
}

/// Hashes of the data objects that some manifests name.
pub fn named(manifests: &[(String, CheckpointManifest)]) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (_, manifest) in manifests {
        named.extend(manifest.files.iter().map(|file| file.sha256.clone()));
        named.extend(manifest.job.score.as_ref().map(|score| score.state_sha256.clone()));
    }
    named
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
    let Found { mut manifests, damaged } = read::found(store, job).await?;
    let all_good = |(key, one): &(String, CheckpointManifest)| Candidate {
        checkpoint: Checkpoint::of(key, one),
        is_good: true,
    };
    // In most sweeps nothing goes, whatever the files are.
    let most: Vec<Candidate> = manifests.iter().map(all_good).collect();
    if superfluous(&most, keep).is_empty() {
        return Ok(());
    }
    let candidates = candidates(store, job, &manifests).await?;
    let going: BTreeSet<String> = superfluous(&candidates, keep).into_iter().collect();
    for key in &going {
        storage::delete(store, key).await.map_err(|error| at(key, &error))?;
    }
    // What a manifest names that cannot be read is not known.
    if going.is_empty() || !damaged.is_empty() {
        return Ok(());
    }
    manifests.retain(|(key, _)| !going.contains(key));
    let named = named(&manifests);
    let mut listed = objects(store, &data_prefix(job));
    while let Some(meta) = listed.next().await {
        let meta = meta?;
        let is_named = meta.location.filename().is_some_and(|hash| named.contains(hash));
        if !is_named && age_ms(&meta, now_unix_ms) > clock::millis(GRACE) {
            let key = meta.location.as_ref();
            storage::delete(store, key).await.map_err(|error| at(key, &error))?;
        }
    }
    Ok(())
}

fn at(key: &str, error: &object_store::Error) -> Explained {
    Explained::from_error(error).at(key.to_owned())
}
