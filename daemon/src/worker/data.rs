//! A job's tokenized rows, read from the artifact store.

use super::retry::Failure;
use crate::checkpoint::read;
use crate::features::{Manifest, Rows, manifest_key};
use ptv2_common::error::Explained;
use ptv2_common::storage::{Store, sha256};

/// Rows to train on, none for a job that only scores, and rows to score.
pub(super) struct Data {
    pub(super) train: Rows,
    pub(super) val: Rows,
}

/// Reads the features of a hash, each chunk verified.
///
/// # Errors
/// When one is missing or damaged, which is final, or the store fails.
pub(super) async fn load(store: &Store, hash: &str) -> Result<Data, Failure> {
    let key = manifest_key(hash);
    let bytes = read::get(store, &key).await?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
        Explained::new(format!("the features' manifest cannot be read: {error}")).at(key)
    })?;
    let scored = &manifest.scored;
    let train = match manifest.splits.keys().find(|name| *name != scored) {
        Some(name) => split(store, &manifest, name).await?,
        None => Rows::default(),
    };
    Ok(Data { train, val: split(store, &manifest, scored).await? })
}

async fn split(store: &Store, manifest: &Manifest, name: &str) -> Result<Rows, Failure> {
    let mut rows = Rows::default();
    for chunk in manifest.splits.get(name).into_iter().flatten() {
        let bytes = read::get(store, &chunk.key).await?;
        let found = sha256(&bytes);
        if found != chunk.sha256 {
            return Err(Explained::new(format!("a chunk of features has SHA-256 {found}"))
                .at(chunk.key.clone())
                .expected(chunk.sha256.clone())
                .hint("remove the folder of these features; a new submit makes them again")
                .into());
        }
        rows.append(&Rows::from_bytes(&bytes)?);
    }
    if rows.is_empty() {
        return Err(Explained::new(format!("the features hold no rows of `{name}`")).into());
    }
    Ok(rows)
}
