//! Where files come from: the coordinator, or the store itself. Every byte is verified.

use super::choice::Listing;
use crate::failure::{Failure, Kind};
use crate::http::{self, Api};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::{self, CheckpointManifest, FileEntry, GenerationManifest};
use ptv2_common::storage::{self, Store, StoreAddress};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::path::Path;
use tokio::io::AsyncWriteExt;

/// Where the files of a checkpoint are read.
pub(super) enum Source {
    /// Through the coordinator.
    Coordinator {
        /// The coordinator.
        api: Api,
        /// The job's id.
        job: String,
    },
    /// From the artifact store.
    Store {
        /// The store.
        store: Store,
        /// The job's id.
        job: JobId,
    },
}

impl Source {
    /// Writes a file that must not be there yet, and verifies it.
    pub(super) async fn fetch(&self, file: &FileEntry, to: &Path) -> Result<(), Failure> {
        check_hash(file)?;
        match self {
            Self::Coordinator { api, job } => {
                let answer = api.stream(&["jobs", job, "data", &file.sha256], None).await?;
                let parts = answer.bytes_stream().map_err(|error| http::unreachable(&error));
                write(parts, file, to).await
            }
            Self::Store { store, job } => {
                let key = manifest::data_key(job, &file.sha256);
                let broken = |error: object_store::Error| unreadable(&key, &error);
                let object = storage::get_stream(store, &key, 0).await.map_err(broken)?;
                write(object.parts.map_err(broken), file, to).await
            }
        }
    }
}

/// Opens a store that exists: a mistyped location must not make one.
pub(super) fn open(address: &StoreAddress) -> Result<Store, Failure> {
    if address.folder().is_some_and(|folder| !folder.is_dir()) {
        let error = Explained::new("the artifact store is not there")
            .at(&address.url)
            .hint("--direct reads the store's folder on this machine; leave it out otherwise");
        return Err(Failure::refused(error));
    }
    Ok(address.open()?)
}

/// Reads all manifests of a job.
pub(super) async fn list(store: &Store, job: &JobId) -> Result<Listing, Failure> {
    let mut listing = Listing::default();
    for key in keys(store, &manifest::checkpoints_prefix(job)).await? {
        // A checkpoint may be deleted between listing and reading.
        let Some(found) = read::<CheckpointManifest>(store, &key).await? else { continue };
        check_format(found.format, &key)?;
        listing.starts.push((found.generation, found.generation_start_step));
        listing.checkpoints.push((key, found));
    }
    for key in keys(store, &manifest::generations_prefix(job)).await? {
        let Some(found) = read::<GenerationManifest>(store, &key).await? else { continue };
        check_format(found.format, &key)?;
        listing.starts.push((found.generation, found.start_step));
    }
    Ok(listing)
}

async fn keys(store: &Store, prefix: &str) -> Result<Vec<String>, Failure> {
    storage::list(store, prefix).await.map_err(|error| unreadable(prefix, &error))
}

async fn read<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, Failure> {
    let bytes = match storage::get(store, key).await {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(unreadable(key, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let error = Explained::new(format!("the manifest cannot be read: {error}")).at(key);
        Failure::new(Kind::BadAnswer, error)
    })
}

fn check_format(format: u32, key: &str) -> Result<(), Failure> {
    if format == manifest::FORMAT {
        return Ok(());
    }
    let error = Explained::new(format!("the manifest is of format {format}"))
        .at(key)
        .expected(format!("format {}", manifest::FORMAT))
        .hint("take the ptv2ctl of the version that wrote it");
    Err(Failure::new(Kind::BadAnswer, error))
}

/// The hash becomes a part of a key and of an address, so it must be one.
fn check_hash(file: &FileEntry) -> Result<(), Failure> {
    if file.sha256.len() == 64 && file.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let error = Explained::new(format!("`{}` is no SHA-256", file.sha256)).at(&file.name);
    Err(Failure::new(Kind::BadAnswer, error))
}

fn unreadable(key: &str, error: &object_store::Error) -> Failure {
    let explained = Explained::from_error(error).at(key);
    Failure::new(Kind::BadAnswer, explained)
}

async fn write(
    parts: impl Stream<Item = Result<Bytes, Failure>>,
    file: &FileEntry,
    to: &Path,
) -> Result<(), Failure> {
    let local = |error: std::io::Error| Failure::local("the file cannot be written", to, &error);
    let mut parts = std::pin::pin!(parts);
    let mut out = tokio::fs::File::create_new(to).await.map_err(local)?;
    let mut hash = Sha256::new();
    let mut bytes: u64 = 0;
    while let Some(part) = parts.next().await {
        let part = part?;
        bytes += part.len() as u64;
        // Checked on the way, so that a sender without end cannot fill the disk.
        if bytes > file.bytes {
            break;
        }
        hash.update(&part);
        out.write_all(&part).await.map_err(local)?;
    }
    out.sync_all().await.map_err(local)?;
    let sha256 = hex::encode(hash.finalize());
    if bytes == file.bytes && sha256 == file.sha256.to_ascii_lowercase() {
        return Ok(());
    }
    let error =
        Explained::new(format!("`{}` is damaged: {bytes} bytes, SHA-256 {sha256}", file.name))
            .expected(format!("{} bytes, SHA-256 {}", file.bytes, file.sha256))
            .hint("pull again; if it stays damaged, pull another checkpoint");
    Err(Failure::new(Kind::BadAnswer, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    async fn write_parts(parts: &[&'static str], expected: &str) -> Result<(), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = FileEntry {
            name: "a".into(),
            bytes: expected.len() as u64,
            sha256: storage::sha256(expected.as_bytes()),
        };
        let parts: Vec<Result<Bytes, Failure>> =
            parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        write(stream::iter(parts), &file, &folder.path().join("a")).await
    }

    #[tokio::test]
    async fn what_was_written_is_verified() {
        assert!(write_parts(&["ab", "c"], "abc").await.is_ok());
        for parts in [&["ab"][..], &["ab", "d"], &["abc", "d"], &[]] {
            let failure = write_parts(parts, "abc").await.unwrap_err();
            assert!(failure.message().contains("`a` is damaged"), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn a_store_is_read_without_a_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().to_str().unwrap().into()).unwrap();
        let job = JobId("j0123456789".into());
        let file = FileEntry { name: "a".into(), bytes: 3, sha256: storage::sha256(b"abc") };
        let key = manifest::data_key(&job, &file.sha256);
        storage::put_create(&store, &key, Bytes::from_static(b"abc")).await.unwrap();
        assert!(list(&store, &job).await.unwrap().checkpoints.is_empty());
        let to = folder.path().join("out");
        Source::Store { store, job }.fetch(&file, &to).await.unwrap();
        assert_eq!(std::fs::read(to).unwrap(), b"abc");
    }

    #[test]
    fn a_mistyped_store_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let typo = folder.path().join("stroe");
        assert!(open(&typo.to_str().unwrap().into()).is_err());
        assert!(!typo.exists());
    }
}
