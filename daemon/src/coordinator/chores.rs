//! Slow things that the driver has done beside its loop; their results come back as inputs.

use super::driver::Input;
use super::run::Event;
use crate::checkpoint::read;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::storage::Store;
use std::time::Duration;
use tokio::sync::mpsc;

/// Attempts to reach the store before a job is given up.
const ATTEMPTS: u32 = 8;

/// Makes a generation's key and finds the checkpoint to begin from.
pub async fn prepare(
    store: Store,
    job: JobId,
    generation: Generation,
    results: mpsc::Sender<Input>,
) {
    let mut pause = Duration::from_millis(250);
    let mut attempt = 1;
    let event = loop {
        match preparation(&store, &job).await {
            Ok((group_key, resume)) => {
                break Event::Prepared { job, generation, group_key, resume };
            }
            Err(error) if attempt >= ATTEMPTS => {
                let error = error.hint("see that the artifact store is reachable; submit again");
                break Event::StagingFailed { job, error };
            }
            Err(error) => tracing::warn!(%job, %error, "the job's checkpoints cannot be listed"),
        }
        tokio::time::sleep(pause).await;
        attempt += 1;
        pause *= 2;
    };
    // The loop has ended: the next start forms a new generation.
    drop(results.send(Input::Event(event)).await);
}

async fn preparation(store: &Store, job: &JobId) -> Result<(String, Option<String>), Explained> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| Explained::from_error(&error))?;
    let newest = read::names(store, job).await?.pop();
    Ok((hex::encode(key), newest.map(|name| name.key)))
}
