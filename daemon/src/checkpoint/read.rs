//! Finds and loads checkpoints. What a superseded generation wrote after it was cut off is ignored.

use super::STATE_FILE;
use crate::numerics::state::{Layout, TunedState};
use bytes::Bytes;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::{
    CheckpointManifest, FORMAT, FileEntry, GenerationManifest, checkpoint_key, checkpoints_prefix,
    counts, data_key, generations_prefix,
};
use ptv2_common::seal;
use ptv2_common::storage::{self, Store, sha256};

/// Why a checkpoint was not read.
#[derive(Debug)]
pub enum Unread {
    /// The store fails: trying again may help.
    Store(Explained),
    /// It is missing or damaged.
    Damaged(Explained),
}

impl From<Explained> for Unread {
    fn from(error: Explained) -> Self {
        Self::Damaged(error)
    }
}

impl From<Unread> for Explained {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Store(error) | Unread::Damaged(error) => error,
        }
    }
}

/// The name of a manifest: all that is needed to order it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Optimizer steps applied.
    pub step: u64,
    /// The generation that wrote it.
    pub generation: u64,
    /// Its key.
    pub key: String,
}

impl Name {
    /// Reads a manifest's key; `None` for what is none.
    pub fn parse(key: String) -> Option<Self> {
        let stem = key.rsplit('/').next()?.strip_suffix(".json")?;
        let (step, generation) = stem.split_once('-')?;
        Some(Self { step: step.parse().ok()?, generation: generation.parse().ok()?, key })
    }
}

/// Names of a job's valid manifests, oldest first.
///
/// # Errors
/// Those of the store.
pub async fn names(store: &Store, job: &JobId) -> Result<Vec<Name>, Explained> {
    let keys = list(store, &checkpoints_prefix(job)).await?;
    let mut names: Vec<Name> = keys.into_iter().filter_map(Name::parse).collect();
    names.sort();
    let starts = starts(store, job).await?;
    names.retain(|name| counts(name.step, Generation(name.generation), &starts));
    Ok(names)
}

/// The generations of a job that have begun, each with the step it started from. One whose manifest is
/// damaged fences nothing off: what an older generation wrote is the same state, if it is good.
///
/// # Errors
/// Those of the store.
pub async fn starts(store: &Store, job: &JobId) -> Result<Vec<(Generation, u64)>, Explained> {
    let mut starts = Vec::new();
    for key in list(store, &generations_prefix(job)).await? {
        let start = match get(store, &key).await {
            Ok(bytes) => parse::<GenerationManifest>(&key, &bytes).map_err(Unread::Damaged),
            Err(error) => Err(error),
        };
        match start {
            Ok(start) => starts.push((start.generation, start.start_step)),
            Err(Unread::Store(error)) => return Err(error),
            Err(Unread::Damaged(error)) => {
                tracing::warn!(key, %error, "a generation's start cannot be read");
            }
        }
    }
    Ok(starts)
}

/// What a job's valid manifests are.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that can be read, with their keys, oldest first.
    pub manifests: Vec<(String, CheckpointManifest)>,
    /// Those that cannot, with their keys and why.
    pub damaged: Vec<(String, Explained)>,
}

/// Reads a job's valid manifests.
///
/// # Errors
/// Those of the store: a manifest that it does not give now is not passed over.
pub async fn found(store: &Store, job: &JobId) -> Result<Found, Explained> {
    let mut found = Found::default();
    for name in names(store, job).await? {
        match named(store, job, &name).await {
            Ok(manifest) => found.manifests.push((name.key, manifest)),
            Err(Unread::Damaged(error)) => found.damaged.push((name.key, error)),
            Err(Unread::Store(error)) => return Err(error),
        }
    }
    Ok(found)
}

/// A job's valid manifests with their keys, oldest first. One that is damaged is left out with a line in
/// the log.
///
/// # Errors
/// Those of the store.
pub async fn manifests(
    store: &Store,
    job: &JobId,
) -> Result<Vec<(String, CheckpointManifest)>, Explained> {
    let found = found(store, job).await?;
    for (key, error) in &found.damaged {
        tracing::warn!(key, %error, "a manifest cannot be read");
    }
    Ok(found.manifests)
}

/// One manifest.
///
/// # Errors
/// When there is none, or it is no manifest that this build reads.
pub async fn manifest(store: &Store, key: &str) -> Result<CheckpointManifest, Unread> {
    let bytes = get(store, key).await?;
    let manifest: CheckpointManifest = parse(key, &bytes)?;
    if manifest.format != FORMAT {
        return Err(Explained::new(format!("the manifest has format {}", manifest.format))
            .at(key)
            .expected(format!("{FORMAT}"))
            .hint("read it with the version of ptv2 that wrote it")
            .into());
    }
    Ok(manifest)
}

/// The manifest of a name, which must say the same of itself.
async fn named(store: &Store, job: &JobId, name: &Name) -> Result<CheckpointManifest, Unread> {
    let manifest = manifest(store, &name.key).await?;
    let own = checkpoint_key(&manifest.job.id, manifest.step, manifest.generation);
    if own == name.key && manifest.job.id == *job {
        return Ok(manifest);
    }
    let error = Explained::new(format!("the manifest says of itself that it is {own}"));
    Err(error.at(&name.key).expected("what its name says").into())
}

/// A file of a checkpoint, verified.
///
/// # Errors
/// When it is missing, or is not what its manifest says.
pub async fn file(store: &Store, job: &JobId, entry: &FileEntry) -> Result<Bytes, Unread> {
    let key = data_key(job, &entry.sha256);
    let bytes = get(store, &key).await?;
    let found = sha256(&bytes);
    if found != entry.sha256 {
        return Err(Explained::new(format!("`{}` has SHA-256 {found}", entry.name))
            .at(key)
            .expected(entry.sha256.clone())
            .hint("the object is damaged; take an earlier checkpoint")
            .into());
    }
    Ok(bytes)
}

/// A checkpoint's tuned state, verified.
///
/// # Errors
/// When a file is missing or damaged.
pub async fn state(
    store: &Store,
    manifest: &CheckpointManifest,
    layout: &Layout,
) -> Result<TunedState, Unread> {
    let entry = manifest.files.iter().find(|file| file.name == STATE_FILE);
    let entry = entry.ok_or_else(|| Explained::new(format!("a checkpoint has no {STATE_FILE}")))?;
    let state = TunedState::from_bytes(&file(store, &manifest.job.id, entry).await?, layout)?;
    let found = state.tuned_sha256();
    if found == manifest.tuned_sha256 && state.step == manifest.step {
        return Ok(state);
    }
    let error = format!("the state is of step {}, its values have SHA-256 {found}", state.step);
    let expected = format!("step {}, SHA-256 {}", manifest.step, manifest.tuned_sha256);
    Err(Explained::new(error).at(STATE_FILE).expected(expected).into())
}

/// The values of a state file among a job's data objects, verified.
///
/// # Errors
/// When it is missing or damaged, or is of another layout.
pub async fn values(
    store: &Store,
    job: &JobId,
    sha256: &str,
    layout: &Layout,
) -> Result<Vec<f32>, Unread> {
    let entry = FileEntry { name: STATE_FILE.into(), bytes: 0, sha256: sha256.into() };
    Ok(TunedState::from_bytes(&file(store, job, &entry).await?, layout)?.values)
}

/// The state of the newest checkpoint that is whole, from `newest` (a manifest's key) downwards; where
/// none is, of the newest whose state is. What is passed over, and why, is told by `say`. `None` when
/// there is none.
///
/// # Errors
/// Those of the store: a checkpoint that it does not give now is not passed over.
pub async fn newest_state(
    store: &Store,
    job: &JobId,
    newest: &str,
    layout: &Layout,
    mut say: impl FnMut(String),
) -> Result<Option<TunedState>, Explained> {
    let mut names = names(store, job).await?;
    names.retain(|name| name.key.as_str() <= newest);
    for name in names.iter().rev() {
        match whole(store, job, name, layout).await {
            Ok(state) => return Ok(Some(state)),
            Err(Unread::Store(error)) => return Err(error),
            Err(Unread::Damaged(error)) => {
                let expected = error.expected.as_ref();
                let expected = expected.map_or_else(String::new, |it| format!("; expected {it}"));
                say(format!("checkpoint {} is skipped: {error}{expected}", name.key));
            }
        }
    }
    // Files that checkpoints share, as the job's record, are damaged in all of them or in none.
    for name in names.iter().rev() {
        let found = match named(store, job, name).await {
            Ok(manifest) => state(store, &manifest, layout).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(state) => {
                let key = &name.key;
                say(format!("no checkpoint is whole; {key} is taken, whose state is good"));
                return Ok(Some(state));
            }
            Err(Unread::Store(error)) => return Err(error),
            Err(Unread::Damaged(_)) => {}
        }
    }
    Ok(None)
}

/// The state of a checkpoint all of whose files are what its manifest says.
async fn whole(
    store: &Store,
    job: &JobId,
    name: &Name,
    layout: &Layout,
) -> Result<TunedState, Unread> {
    let manifest = named(store, job, name).await?;
    let state = state(store, &manifest, layout).await?;
    for entry in manifest.files.iter().filter(|entry| entry.name != STATE_FILE) {
        file(store, job, entry).await?;
    }
    Ok(state)
}

/// Keys below a prefix, in order.
///
/// # Errors
/// Those of the store, with the prefix.
pub(crate) async fn list(store: &Store, prefix: &str) -> Result<Vec<String>, Explained> {
    storage::list(store, prefix)
        .await
        .map_err(|error| Explained::from_error(&error).at(prefix.to_owned()))
}

/// An object's bytes.
///
/// # Errors
/// Those of the store, with the key.
pub(crate) async fn get(store: &Store, key: &str) -> Result<Bytes, Unread> {
    storage::get(store, key).await.map_err(|error| {
        let explained = Explained::from_error(&error).at(key.to_owned());
        if matches!(error, object_store::Error::NotFound { .. }) {
            Unread::Damaged(explained)
        } else {
            Unread::Store(explained)
        }
    })
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Explained> {
    seal::check(bytes).map_err(|error| error.at(key))?;
    serde_json::from_slice(bytes).map_err(|error| {
        Explained::new(format!("the manifest cannot be read: {error}")).at(key.to_owned())
    })
}
