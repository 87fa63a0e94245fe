//! Writes a generation's checkpoints: data first, named by hash; then the manifest, create-only.

use super::{JOB_FILE, PEFT_FOLDER, STATE_FILE, peft};
use crate::numerics::runs::Runs;
use crate::numerics::state::{Layout, TunedState};
use bytes::Bytes;
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{
    CheckpointManifest, FORMAT, FileEntry, GenerationManifest, checkpoint_key, data_key,
    generation_key,
};
use ptv2_common::seal::seal;
use ptv2_common::storage::{self, Put, Store, put_create, sha256};

/// The one who writes a generation's checkpoints.
#[derive(Debug, Clone)]
pub struct Writer {
    store: Store,
    job: JobRecord,
    layout: Layout,
    features: String,
    generation: Generation,
    start_step: u64,
    nonce: String,
}

/// What a writer is for.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Hash of the features that the job trains on.
    pub features: String,
    /// The generation that writes.
    pub generation: Generation,
    /// The step it started from.
    pub start_step: u64,
}

impl Writer {
    /// Publishes the generation's start manifest, which fences off every earlier generation. What those
    /// have published by now stays: a checkpoint that people have seen is not taken back, though nobody
    /// lives who holds its state and this generation begins before it.
    ///
    /// # Errors
    /// Those of the store; and when another writer has begun the same generation.
    pub async fn begin(
        store: Store,
        job: JobRecord,
        layout: Layout,
        lineage: Lineage,
    ) -> Result<Self, Explained> {
        let Lineage { features, generation, start_step } = lineage;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Explained::from_error(&error))?;
        let nonce = hex::encode(random);
        let writer = Self { store, job, layout, features, generation, start_step, nonce };
        let newest = super::read::names(&writer.store, &writer.job.id).await?.pop();
        let start_step = newest.map_or(start_step, |newest| start_step.max(newest.step));
        let key = generation_key(&writer.job.id, generation);
        let nonce = writer.nonce.clone();
        let manifest = GenerationManifest { format: FORMAT, generation, start_step, nonce };
        writer.put_own(&key, sealed(&manifest)?).await?;
        Ok(writer)
    }

    /// Writes a state as a checkpoint, with more files where there are any: name and bytes.
    ///
    /// # Errors
    /// Those of the store. Nothing refers to what was written until then; trying again is safe.
    pub async fn publish(
        &self,
        state: &TunedState,
        more: &[(String, Vec<u8>)],
    ) -> Result<Checkpoint, Explained> {
        let mut files = vec![
            (STATE_FILE.to_owned(), state.to_bytes(&self.layout)?),
            (JOB_FILE.to_owned(), json(&self.job)?.to_vec()),
        ];
        for (name, bytes) in peft::export(&self.job, &self.layout, &state.values)? {
            files.push((format!("{PEFT_FOLDER}/{name}"), bytes));
        }
        files.extend_from_slice(more);
        let mut entries = Vec::new();
        for (name, bytes) in files {
            let entry = FileEntry { name, bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            put_data(&self.store, &self.job.id, &entry, bytes.into()).await?;
            entries.push(entry);
        }
        let runs = Runs::of(&self.job);
        let epochs = state.steps_of_run() / self.job.plan.steps_per_epoch.max(1);
        let manifest = CheckpointManifest {
            format: FORMAT,
            job: self.job.clone(),
            step: state.step,
            epoch: u32::try_from(epochs).unwrap_or(u32::MAX),
            generation: self.generation,
            generation_start_step: self.start_step,
            nonce: self.nonce.clone(),
            tuned_sha256: state.tuned_sha256(),
            features: self.features.clone(),
            best: state.best.clone(),
            last: state.last.clone(),
            is_best: state.is_best(),
            run: state.run,
            ends_run: state.is_evaluated() && runs.is_over(state),
            files: entries,
        };
        let key = checkpoint_key(&self.job.id, state.step, self.generation);
        self.put_own(&key, sealed(&manifest)?).await?;
        Ok(Checkpoint::of(&key, &manifest))
    }

    /// Puts a manifest. One that exists must be this writer's own: the answer to an earlier put of it
    /// was lost.
    async fn put_own(&self, key: &str, bytes: Bytes) -> Result<(), Explained> {
        let put = put_create(&self.store, key, bytes).await.map_err(|error| failed(key, &error))?;
        if put == Put::Created {
            return Ok(());
        }
        #[derive(serde::Deserialize)]
        struct Nonce {
            nonce: String,
        }
        let found = storage::get(&self.store, key).await.map_err(|error| failed(key, &error))?;
        let found: Option<Nonce> = serde_json::from_slice(&found).ok();
        if found.is_some_and(|found| found.nonce == self.nonce) {
            return Ok(());
        }
        Err(Explained::new("another writer has published this manifest")
            .at(key)
            .expected("one writer for a generation")
            .hint("please report this: a generation must have one rank 0"))
    }

    /// The store that it writes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The job whose checkpoints it writes.
    pub fn job(&self) -> &JobRecord {
        &self.job
    }
}

/// Puts a data object. One that exists is verified, and written again if it is damaged.
///
/// # Errors
/// Those of the store, with the key.
pub async fn put_data(
    store: &Store,
    job: &JobId,
    entry: &FileEntry,
    bytes: Bytes,
) -> Result<(), Explained> {
    let key = data_key(job, &entry.sha256);
    let put = storage::put_content(store, &key, bytes.clone()).await;
    if put.map_err(|error| failed(&key, &error))? == Put::Created {
        return Ok(());
    }
    let found = storage::get(store, &key).await.map_err(|error| failed(&key, &error))?;
    if sha256(&found) != entry.sha256 {
        let put = storage::replace(store, &key, bytes).await;
        put.map_err(|error| failed(&key, &error))?;
    }
    Ok(())
}

/// A manifest's bytes.
fn sealed(manifest: &impl serde::Serialize) -> Result<Bytes, Explained> {
    Ok(seal(json(manifest)?.to_vec()).into())
}

fn json(value: &impl serde::Serialize) -> Result<Bytes, Explained> {
    serde_json::to_vec_pretty(value).map(Bytes::from).map_err(|error| Explained::from_error(&error))
}

fn failed(key: &str, error: &object_store::Error) -> Explained {
    Explained::from_error(error)
        .at(key)
        .hint("see that the artifact store is reachable and has room; it is tried again")
}
