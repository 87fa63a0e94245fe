//! Makes a job's features: reads its rows, tokenizes them, and puts them into the artifact store under
//! the hash of all that they depend on. A second job on the same data finds them there.

#[cfg(test)]
mod tests;
mod tokenize;

use crate::backbone::{CONFIG, Config, TOKENIZER};
use crate::features::{self, Chunk, Manifest, ROWS_OF_A_CHUNK, Rows};
use crate::tasks::rows::Labels;
use crate::tasks::{self, Task, metrics, rows};
use bytes::Bytes;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::storage::{self, Put, Store};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
pub(in crate::coordinator) use tokenize::Encoder;

const TRAIN: &str = "train";
const VAL: &str = "val";

/// Features that are in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// Their hash, which names their folder.
    pub features: String,
    /// Share of the most frequent label of the validation rows.
    pub majority_class: f64,
}

/// Puts a job's features into the store, unless they are there.
///
/// # Errors
/// When a file is not what it was at submit, a row or token is refused, or the store fails.
pub async fn stage(store: &Store, record: &JobRecord) -> Result<Staged, Explained> {
    let owned = record.clone();
    let inputs = blocking(move || Inputs::load(owned)).await?;
    let [train, val] = [&inputs.train.sha256, &inputs.val.sha256];
    let hash = features_hash(record, train, val)?;
    let (manifest, majority_class) = match read_manifest(store, &hash).await? {
        Some(manifest) => {
            let share = metrics::majority_share(&stored_labels(store, &manifest, VAL).await?);
            (manifest, share)
        }
        None => {
            let named = hash.clone();
            let made = blocking(move || inputs.tokenize(&named)).await?;
            put(store, &hash, &made).await?;
            (made.manifest, made.majority_class)
        }
    };
    check_rows(record, &manifest)?;
    Ok(Staged { features: hash, majority_class })
}

/// Names features by all that they depend on.
///
/// # Errors
/// When the description cannot be written, which means a defect.
pub fn features_hash(
    record: &JobRecord,
    train_sha256: &str,
    val_sha256: &str,
) -> Result<String, Explained> {
    // Fields are written in the order of their declaration, so the JSON is canonical.
    #[derive(Serialize)]
    struct Described<'a> {
        format: u32,
        task: &'a str,
        template_version: u32,
        template_id: u32,
        max_seq_length: u32,
        train_sha256: &'a str,
        val_sha256: &'a str,
        max_train_rows: Option<u32>,
        max_val_rows: Option<u32>,
        tokenizer_sha256: &'a str,
        tokenizer_library: &'a str,
    }
    let data = &record.spec.data;
    let described = Described {
        format: features::FORMAT,
        task: &record.spec.task,
        template_version: tasks::TEMPLATE_VERSION,
        template_id: data.template_id,
        max_seq_length: data.max_seq_length,
        train_sha256,
        val_sha256,
        max_train_rows: data.max_train_rows,
        max_val_rows: data.max_val_rows,
        tokenizer_sha256: &record.backbone.tokenizer_sha256,
        tokenizer_library: tokenize::LIBRARY_VERSION,
    };
    let json = serde_json::to_vec(&described).map_err(|error| Explained::from_error(&error))?;
    Ok(storage::sha256(&json))
}

/// A file's bytes, hashed from the very bytes that are used.
struct Loaded {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: String,
}

impl Loaded {
    fn new(path: PathBuf, bytes: Vec<u8>) -> Self {
        Self { path, sha256: storage::sha256(&bytes), bytes }
    }

    /// A file of the backbone, which must be what it was at submit.
    fn pinned(directory: &str, name: &str, pinned: &str) -> Result<Self, Explained> {
        let path = Path::new(directory).join(name);
        let place = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|error| {
            Explained::new(format!("the backbone's {name} cannot be read: {error}")).at(&place)
        })?;
        let file = Self::new(path, bytes);
        if file.sha256 == pinned {
            return Ok(file);
        }
        Err(file.changed(pinned))
    }

    fn changed(&self, pinned: &str) -> Explained {
        let name = self.path.file_name().unwrap_or_default().display();
        Explained::new(format!("{name} has changed since the submit"))
            .at(self.path.display().to_string())
            .expected(format!("the SHA-256 {pinned}"))
            .hint("submit the job again to take the new file")
    }
}

/// What features are made of.
struct Inputs {
    record: JobRecord,
    task: &'static dyn Task,
    train: Loaded,
    val: Loaded,
    tokenizer: Loaded,
    vocab_size: u32,
}

impl Inputs {
    fn load(record: JobRecord) -> Result<Self, Explained> {
        let task = tasks::by_name(&record.spec.task)?;
        let split = |split: &str| {
            let path = rows::file(Path::new(&record.spec.data.root), task, split);
            let file = rows::load(&path).map(|bytes| Loaded::new(path, bytes))?;
            match record.data_sha256.get(split) {
                Some(pinned) if *pinned != file.sha256 => Err(file.changed(pinned)),
                Some(_) | None => Ok(file),
            }
        };
        let (train, val) = (split(TRAIN)?, split(VAL)?);
        let pins = &record.backbone;
        let file = |name: &str, pinned: &str| Loaded::pinned(&pins.directory, name, pinned);
        let tokenizer = file(TOKENIZER, &pins.tokenizer_sha256)?;
        let config = file(CONFIG, &pins.config_sha256)?;
        let vocab_size = Config::parse(&config.bytes)
            .map_err(|error| error.at(config.path.display().to_string()))?
            .vocab_size;
        Ok(Self { task, train, val, tokenizer, vocab_size, record })
    }

    fn tokenize(&self, hash: &str) -> Result<Made, Explained> {
        let data = &self.record.spec.data;
        let encoder = Encoder::new(
            &self.tokenizer.bytes,
            self.tokenizer.path.display().to_string(),
            self.vocab_size,
            data.max_seq_length,
        )?;
        let task = self.record.spec.task.clone();
        let manifest = Manifest { format: features::FORMAT, task, splits: BTreeMap::new() };
        let mut made = Made { manifest, objects: Vec::new(), majority_class: 0.0 };
        let splits =
            [(TRAIN, &self.train, data.max_train_rows), (VAL, &self.val, data.max_val_rows)];
        for (split, file, limit) in splits {
            let examples = rows::parse(&file.bytes, &file.path, self.task, Labels::Needed, limit)?;
            for (number, part) in examples.chunks(ROWS_OF_A_CHUNK).enumerate() {
                let key = features::chunk_key(hash, split, number);
                made.add(split, key, encoder.rows(part)?.to_bytes()?, part.len());
            }
            if split == VAL {
                let labels: Vec<i32> = examples.iter().filter_map(|row| row.label).collect();
                made.majority_class = metrics::majority_share(&labels);
            }
        }
        Ok(made)
    }
}

/// Features before they are put.
struct Made {
    manifest: Manifest,
    /// The chunks' bytes, with their entries in the manifest.
    objects: Vec<(Chunk, Bytes)>,
    majority_class: f64,
}

impl Made {
    fn add(&mut self, split: &str, key: String, bytes: Vec<u8>, rows: usize) {
        let chunk = Chunk { key, sha256: storage::sha256(&bytes), rows: rows as u64 };
        self.manifest.splits.entry(split.into()).or_default().push(chunk.clone());
        self.objects.push((chunk, bytes.into()));
    }
}

/// Puts the chunks, then the manifest, which makes the features exist.
async fn put(store: &Store, hash: &str, made: &Made) -> Result<(), Explained> {
    for (chunk, bytes) in &made.objects {
        let put = storage::put_create(store, &chunk.key, bytes.clone()).await;
        match put.map_err(|error| store_failed(&error, &chunk.key))? {
            Put::Created => {}
            // Left by a staging that was cut off: the same inputs give the same bytes.
            Put::Existed => {
                stored_rows(store, chunk).await?;
            }
        }
    }
    let key = features::manifest_key(hash);
    let json =
        serde_json::to_vec_pretty(&made.manifest).map_err(|error| Explained::from_error(&error))?;
    // Whoever put it meanwhile had the same inputs, so the same bytes.
    let put = storage::put_create(store, &key, json.into()).await;
    put.map(|_| ()).map_err(|error| store_failed(&error, &key))
}

async fn read_manifest(store: &Store, hash: &str) -> Result<Option<Manifest>, Explained> {
    let key = features::manifest_key(hash);
    match storage::get(store, &key).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            damaged(&format!("the features' manifest cannot be read: {error}"), &key)
        }),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(store_failed(&error, &key)),
    }
}

async fn stored_labels(
    store: &Store,
    manifest: &Manifest,
    split: &str,
) -> Result<Vec<i32>, Explained> {
    let mut labels = Vec::new();
    for chunk in manifest.splits.get(split).into_iter().flatten() {
        labels.extend_from_slice(stored_rows(store, chunk).await?.labels());
    }
    Ok(labels)
}

async fn stored_rows(store: &Store, chunk: &Chunk) -> Result<Rows, Explained> {
    let bytes =
        storage::get(store, &chunk.key).await.map_err(|error| store_failed(&error, &chunk.key))?;
    if storage::sha256(&bytes) != chunk.sha256 {
        return Err(damaged("the stored features are not what was put there", &chunk.key)
            .expected(format!("the SHA-256 {}", chunk.sha256)));
    }
    Rows::from_bytes(&bytes).map_err(|error| error.at(&chunk.key))
}

/// Refuses features of data that changed between submit and staging.
fn check_rows(record: &JobRecord, manifest: &Manifest) -> Result<(), Explained> {
    for (split, planned) in [(TRAIN, record.plan.train_rows), (VAL, record.plan.val_rows)] {
        let found: u64 = manifest.splits.get(split).into_iter().flatten().map(|c| c.rows).sum();
        if found != planned {
            return Err(Explained::new(format!("the {split} split has {found} rows"))
                .at(&record.spec.data.root)
                .expected(format!("{planned}, as at submit"))
                .hint("the data has changed since the submit: submit the job again"));
        }
    }
    Ok(())
}

fn damaged(what: &str, key: &str) -> Explained {
    Explained::new(what)
        .at(key)
        .hint("delete the features' folder in the artifact store and submit again")
}

fn store_failed(error: &object_store::Error, key: &str) -> Explained {
    Explained::from_error(error).at(key).hint("look at the artifact store: space, rights, network")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Explained> + Send + 'static,
) -> Result<T, Explained> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Explained::from_error(&error))?
}
