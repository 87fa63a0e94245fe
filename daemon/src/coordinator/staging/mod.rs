//! Makes a job's features: reads its rows, tokenizes them, and puts them into the artifact store under
//! the hash of all that they depend on. A second job on the same data finds them there.

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
mod tokenize;

use crate::backbone::{CONFIG, Config, TOKENIZER};
use crate::features::{self, Chunk, Manifest, ROWS_OF_A_CHUNK, Rows};
use crate::inputs::{Folder, Opened, State};
use crate::tasks::rows::{TRAIN, VAL, Wanted};
use crate::tasks::{self, Example, Task, metrics, rows};
use bytes::Bytes;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::storage::{self, Put, Store};
use ptv2_common::task::OwnTask;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
pub(in crate::coordinator) use tokenize::Encoder;
use tokenize::TOKENIZER_BYTES_MAX;
use tokio::sync::mpsc::{self, Sender};

/// Text of a chunk's rows in memory, in bytes; rows of usual lengths have less.
const TEXT_OF_A_CHUNK: usize = 16 << 20;
/// Chunks that are tokenized before they are put: a large split never lies in memory whole.
const CHUNKS_AHEAD: usize = 2;

/// Features that are in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// Their hash, which names their folder.
    pub features: String,
    /// Share of the most frequent label of the scored rows.
    pub majority_class: f64,
    /// Share of each split's rows that lost tokens to `max_seq_length`, where it is known.
    pub truncated: BTreeMap<String, f64>,
}

/// Puts a job's features into the store, unless they are there.
///
/// # Errors
/// When a file is not what it was at submit, a row or token is refused, or the store fails.
pub async fn stage(store: &Store, record: &JobRecord) -> Result<Staged, Explained> {
    let owned = record.clone();
    let inputs = blocking(move || Inputs::load(owned)).await?;
    let hash = features_hash(record, &inputs.splits)?;
    let manifest = match read_manifest(store, &hash).await? {
        Some(manifest) => manifest,
        None => make(store, &hash, inputs).await?,
    };
    check_rows(record, &manifest)?;
    let labels = stored_labels(store, &manifest, &manifest.scored).await?;
    let share = |(split, cut): (&String, &u64)| {
        let rows = manifest.rows(split).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a split's rows are far below 2^53")]
        let share = *cut as f64 / rows as f64;
        (split.clone(), share)
    };
    Ok(Staged {
        features: hash,
        majority_class: metrics::majority_share(&labels),
        truncated: manifest.truncated.iter().map(share).collect(),
    })
}

/// Names features by all that they depend on.
///
/// # Errors
/// When the description cannot be written, which means a defect.
fn features_hash(record: &JobRecord, splits: &[Split]) -> Result<String, Explained> {
    // Fields are written in the order of their declaration, so the JSON is canonical. What most jobs
    // do not have is left out, so that their features keep their names.
    #[derive(Serialize)]
    struct Described<'a> {
        format: u32,
        task: &'a str,
        template_version: u32,
        template_id: u32,
        max_seq_length: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        train_sha256: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        val_sha256: Option<&'a str>,
        max_train_rows: Option<u32>,
        max_val_rows: Option<u32>,
        tokenizer_sha256: &'a str,
        tokenizer_library: &'a str,
        /// What else is scored than `val`: split and hash.
        #[serde(skip_serializing_if = "Option::is_none")]
        scored: Option<(&'a str, &'a str, Option<u32>)>,
        #[serde(skip_serializing_if = "Option::is_none")]
        own_task: Option<&'a OwnTask>,
    }
    let (data, own) = (&record.spec.data, record.own_task.as_ref());
    let sha256 = |name: &str, is_scored: bool| {
        let is_it = |split: &&Split| split.name() == name && split.wanted.is_scored == is_scored;
        splits.iter().find(is_it).map(|split| split.file.sha256.as_str())
    };
    let other = splits.iter().find(|split| split.wanted.is_scored && split.name() != VAL);
    let described = Described {
        format: features::FORMAT,
        // Where its file lies does not matter.
        task: own.map_or(&record.spec.task, |own| &own.name),
        template_version: tasks::TEMPLATE_VERSION,
        template_id: data.template_id,
        max_seq_length: data.max_seq_length,
        train_sha256: sha256(TRAIN, false),
        val_sha256: sha256(VAL, true),
        max_train_rows: data.max_train_rows,
        max_val_rows: data.max_val_rows,
        tokenizer_sha256: &record.backbone.tokenizer_sha256,
        tokenizer_library: tokenize::LIBRARY_VERSION,
        scored: other.map(|split| (split.name(), &*split.file.sha256, split.wanted.max_rows)),
        own_task: own,
    };
    let json = serde_json::to_vec(&described).map_err(|error| Explained::from_error(&error))?;
    Ok(storage::sha256(&json))
}

/// A split that is read.
struct Split {
    wanted: Wanted,
    file: Loaded,
}

impl Split {
    fn name(&self) -> &str {
        &self.wanted.split
    }
}

/// A split's file, which is read row by row; its hash is that of the very file that is open.
struct Loaded {
    place: String,
    file: Opened,
    /// Its state when it was hashed.
    state: State,
    sha256: String,
}

impl Loaded {
    fn open(folder: &Folder, name: &str) -> Result<Self, Explained> {
        let (file, place) = (rows::open(folder, name)?, folder.place(name));
        let unread = |error: std::io::Error| Explained::from_error(&error).at(&place);
        let state = file.state().map_err(unread)?;
        let sha256 = storage::sha256_of_reader(file.reader()).map_err(unread)?;
        Ok(Self { place, file, state, sha256 })
    }

    /// Refuses rows that were read of something else than was hashed.
    fn check_unchanged(&self) -> Result<(), Explained> {
        if self.file.state().is_ok_and(|state| state == self.state) {
            return Ok(());
        }
        Err(changed(&self.place, &self.sha256))
    }
}

/// A small file of the backbone, which must be what it was at submit.
struct Pinned {
    place: String,
    bytes: Vec<u8>,
}

impl Pinned {
    fn read(folder: &Folder, name: &str, pinned: &str) -> Result<Self, Explained> {
        let place = folder.place(name);
        let bytes = folder.read(name, TOKENIZER_BYTES_MAX).map_err(|refused| {
            Explained::new(format!("the backbone's {name} cannot be read: {refused}")).at(&place)
        })?;
        if storage::sha256(&bytes) == pinned {
            return Ok(Self { place, bytes });
        }
        Err(changed(&place, pinned))
    }
}

fn changed(place: &str, pinned: &str) -> Explained {
    let name = place.rsplit('/').next().unwrap_or_default();
    Explained::new(format!("{name} has changed since the submit"))
        .at(place)
        .expected(format!("the SHA-256 {pinned}"))
        .hint("submit the job again to take the new file")
}

/// What features are made of.
struct Inputs {
    record: JobRecord,
    task: Box<dyn Task>,
    splits: Vec<Split>,
    tokenizer: Pinned,
    vocab_size: u32,
}

impl Inputs {
    fn load(record: JobRecord) -> Result<Self, Explained> {
        let task = tasks::of(&record)?;
        // The hashes say whether they are the files that were admitted.
        let data = Folder::at(Path::new(&record.spec.data.root));
        let split = |wanted: Wanted| {
            let file = Loaded::open(&data, &rows::name(&*task, &wanted.split))?;
            match record.data_sha256.get(&wanted.split) {
                Some(pinned) if *pinned != file.sha256 => Err(changed(&file.place, pinned)),
                Some(_) | None => Ok(Split { wanted, file }),
            }
        };
        let splits = rows::wanted_by(&record).into_iter().map(split);
        let splits = splits.collect::<Result<_, Explained>>()?;
        let pins = &record.backbone;
        let folder = Folder::at(Path::new(&pins.directory));
        let file = |name: &str, pinned: &str| Pinned::read(&folder, name, pinned);
        let tokenizer = file(TOKENIZER, &pins.tokenizer_sha256)?;
        let config = file(CONFIG, &pins.config_sha256)?;
        let vocab_size = Config::parse(&config.bytes)
            .map_err(|error| error.at(config.place.clone()))?
            .vocab_size;
        Ok(Self { task, splits, tokenizer, vocab_size, record })
    }

    /// Tokenizes all splits; each chunk is sent as soon as it is made.
    fn tokenize(&self, hash: &str, chunks: &Sender<Made>) -> Result<Manifest, Explained> {
        let encoder = Encoder::new(
            &self.tokenizer.bytes,
            self.tokenizer.place.clone(),
            self.vocab_size,
            self.record.spec.data.max_seq_length,
        )?;
        let scored = self.splits.iter().find(|split| split.wanted.is_scored);
        let mut manifest = Manifest {
            format: features::FORMAT,
            task: self.record.spec.task.clone(),
            splits: BTreeMap::new(),
            scored: scored.map_or(VAL, Split::name).to_owned(),
            truncated: BTreeMap::new(),
        };
        for Split { wanted, file } in &self.splits {
            let (mut part, mut text): (Vec<Example>, usize) = (Vec::new(), 0);
            let mut put = |part: &mut Vec<Example>| -> Result<(), Explained> {
                let (rows, truncated) = encoder.rows(part, wanted.is_scored)?;
                let listed = manifest.splits.entry(wanted.split.clone()).or_default();
                let key = features::chunk_key(hash, &wanted.split, listed.len());
                let made = Made::new(key, &rows)?;
                listed.push(made.chunk.clone());
                *manifest.truncated.entry(wanted.split.clone()).or_default() += truncated;
                part.clear();
                chunks.blocking_send(made).map_err(|_| Explained::new("the staging was left"))
            };
            rows::each(file.file.reader(), &file.place, &*self.task, wanted, |example| {
                text += example.text_len();
                part.push(example);
                if part.len() == ROWS_OF_A_CHUNK || text > TEXT_OF_A_CHUNK {
                    text = 0;
                    return put(&mut part);
                }
                Ok(())
            })?;
            if !part.is_empty() {
                put(&mut part)?;
            }
            file.check_unchanged()?;
        }
        Ok(manifest)
    }
}

/// A chunk before it is put.
struct Made {
    chunk: Chunk,
    bytes: Bytes,
}

impl Made {
    fn new(key: String, rows: &Rows) -> Result<Self, Explained> {
        let bytes = rows.to_bytes()?;
        let chunk = Chunk { key, sha256: storage::sha256(&bytes), rows: rows.len() as u64 };
        Ok(Self { chunk, bytes: bytes.into() })
    }
}

/// Makes features and puts them: the chunks, then the manifest, which makes the features exist.
async fn make(store: &Store, hash: &str, inputs: Inputs) -> Result<Manifest, Explained> {
    let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let named = hash.to_owned();
    let making = blocking(move || inputs.tokenize(&named, &sender));
    let putting = async {
        while let Some(made) = chunks.recv().await {
            put(store, made).await?;
        }
        Ok(())
    };
    // Whichever fails first ends both: the other's error would only say that it was left.
    let (manifest, ()) = tokio::try_join!(making, putting)?;
    let key = features::manifest_key(hash);
    let json =
        serde_json::to_vec_pretty(&manifest).map_err(|error| Explained::from_error(&error))?;
    // Whoever put it meanwhile had the same inputs, so the same bytes.
    let put = storage::put_create(store, &key, json.into()).await;
    put.map_err(|error| store_failed(&error, &key))?;
    Ok(manifest)
}

async fn put(store: &Store, Made { chunk, bytes }: Made) -> Result<(), Explained> {
    let put = storage::put_content(store, &chunk.key, bytes).await;
    match put.map_err(|error| store_failed(&error, &chunk.key))? {
        Put::Created => Ok(()),
        // Left by a staging that was cut off: the same inputs give the same bytes.
        Put::Existed => stored_rows(store, &chunk).await.map(drop),
    }
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
    for wanted in rows::wanted_by(record) {
        let plan = &record.plan;
        let planned = if wanted.is_scored { plan.val_rows } else { plan.train_rows };
        let (split, found) = (&wanted.split, manifest.rows(&wanted.split));
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
