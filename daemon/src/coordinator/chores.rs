//! Slow things that the driver has done beside its loop; their results come back as events.

use super::run::Event;
use crate::checkpoint::read;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::{End, EndMark, FORMAT, end_key};
use ptv2_common::storage::{Store, put_create};
use std::time::Duration;

/// Attempts to reach the store before a job waits again without its workers.
const ATTEMPTS: u32 = 3;
/// Attempts to leave word of a job's end.
const MARK_ATTEMPTS: u32 = 10;

/// Makes a generation's key and finds the checkpoint to begin from.
pub async fn prepare(store: Store, job: JobId, generation: Generation) -> Event {
    let mut pause = Duration::from_millis(250);
    let mut attempt = 1;
    loop {
        match preparation(&store, &job).await {
            Ok((group_key, resume)) => {
                return Event::Prepared { job, generation, group_key, resume };
            }
            Err(error) if attempt >= ATTEMPTS => {
                return Event::PrepareFailed { job, generation, error };
            }
            Err(error) => {
                tracing::warn!(%job, generation = generation.0, %error, "the job's checkpoints cannot be listed")
            }
        }
        tokio::time::sleep(pause).await;
        attempt += 1;
        pause *= 2;
    }
}

async fn preparation(store: &Store, job: &JobId) -> Result<(String, Option<String>), Explained> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| Explained::from_error(&error))?;
    let newest = read::names(store, job).await?.pop();
    Ok((hex::encode(key), newest.map(|name| name.key)))
}

/// Leaves word of a job's end in the store. Nothing but adoption by a coordinator without a journal
/// needs it, so giving up at last costs little.
pub async fn mark_end(store: Store, job: JobId, generation: Generation, end: End) {
    let key = end_key(&job, generation);
    let mark = EndMark { format: FORMAT, generation, end };
    let Ok(bytes) = serde_json::to_vec_pretty(&mark) else { return };
    let mut pause = Duration::from_millis(250);
    for _ in 0..MARK_ATTEMPTS {
        // One that exists says the same: a generation ends once.
        match put_create(&store, &key, bytes.clone().into()).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%job, generation = generation.0, %error, "the job's end cannot be marked")
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
