//! Where files come from: the coordinator, or the store itself. Every byte is verified, and a connection
//! that breaks is taken up where it broke.

use super::choice::Listing;
use crate::failure::{Failure, Kind};
use crate::http::{self, Api, Patience};
use crate::render;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::{self, CheckpointManifest, FileEntry, GenerationManifest};
use ptv2_common::seal;
use ptv2_common::storage::{self, Store, StoreAddress};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// How long the next part of a file is waited for.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the files of a checkpoint are read.
pub(in crate::commands) enum Source {
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

type Parts = BoxStream<'static, Result<Bytes, Failure>>;

impl Source {
    /// Writes a file and verifies it. What is there already of an earlier attempt is gone on from.
    pub(in crate::commands) async fn fetch(
        &self,
        file: &FileEntry,
        to: &Path,
    ) -> Result<(), Failure> {
        check_hash(file)?;
        self.receive(file, &mut Got::in_file(to).await?).await
    }

    /// Reads a file into memory and verifies it.
    pub(in crate::commands) async fn bytes(&self, file: &FileEntry) -> Result<Vec<u8>, Failure> {
        check_hash(file)?;
        let mut got = Got { out: Out::Memory(Vec::new()), ..Got::default() };
        self.receive(file, &mut got).await?;
        match got.out {
            Out::Memory(bytes) => Ok(bytes),
            Out::File(..) => Ok(Vec::new()),
        }
    }

    async fn receive(&self, file: &FileEntry, got: &mut Got) -> Result<(), Failure> {
        let mut patience = Patience::new(true);
        loop {
            if let Err(failure) = self.rest(file, got, &mut patience).await {
                patience.bear(failure).await?;
                continue;
            }
            let Err(failure) = got.check(file) else { return got.sync().await };
            let had_begun = got.earlier > 0;
            // Nothing is gone on from that is not what it should be.
            got.restart().await?;
            if !had_begun {
                return Err(failure);
            }
            render::note(&format!("what an earlier pull left of `{}` is of no use", file.name));
        }
    }

    /// Receives what is missing.
    async fn rest(
        &self,
        file: &FileEntry,
        got: &mut Got,
        patience: &mut Patience,
    ) -> Result<(), Failure> {
        // Checked on the way, so that a sender without end cannot fill the disk.
        if got.bytes >= file.bytes {
            return Ok(());
        }
        let opened = tokio::time::timeout(PART_TIMEOUT, self.open(file, got.bytes)).await;
        let (mut parts, is_rest) = opened.map_err(|_| silent(file))??;
        if !is_rest {
            got.restart().await?;
        }
        loop {
            let part = tokio::time::timeout(PART_TIMEOUT, parts.next()).await;
            let Some(part) = part.map_err(|_| silent(file))? else { return Ok(()) };
            got.take(&part?).await?;
            patience.answered();
            if got.bytes > file.bytes {
                return Ok(());
            }
        }
    }

    /// The bytes from this one on; or all of them, where the other side can do no better.
    async fn open(&self, file: &FileEntry, first: u64) -> Result<(Parts, bool), Failure> {
        match self {
            Self::Coordinator { api, job } => {
                let answer = api.bytes_from(&["jobs", job, "data", &file.sha256], first).await?;
                let is_rest = first == 0 || answer.status() == StatusCode::PARTIAL_CONTENT;
                let parts = answer.bytes_stream().map_err(|error| http::unreachable(&error));
                Ok((parts.boxed(), is_rest))
            }
            Self::Store { store, job } => {
                let key = manifest::data_key(job, &file.sha256);
                let object = storage::get_stream(store, &key, first).await;
                let object = object.map_err(|error| unreadable(&key, &error))?;
                let parts = object.parts.map_err(move |error| unreadable(&key, &error));
                Ok((parts.boxed(), true))
            }
        }
    }
}

/// What has come of a file.
#[derive(Default)]
struct Got {
    out: Out,
    hash: Sha256,
    bytes: u64,
    /// Bytes that an earlier attempt left.
    earlier: u64,
}

enum Out {
    File(File, PathBuf),
    Memory(Vec<u8>),
}

impl Default for Out {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Got {
    /// Opens a file, and reads what it holds.
    async fn in_file(path: &Path) -> Result<Self, Failure> {
        let local =
            |error: std::io::Error| Failure::local("the file cannot be written", path, &error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).await.map_err(local)?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut buffer).await.map_err(local)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
        Ok(Self { out: Out::File(file, path.to_owned()), hash, bytes, earlier: bytes })
    }

    async fn take(&mut self, part: &[u8]) -> Result<(), Failure> {
        match &mut self.out {
            Out::Memory(bytes) => bytes.extend_from_slice(part),
            Out::File(file, path) => file
                .write_all(part)
                .await
                .map_err(|error| Failure::local("the file cannot be written", path, &error))?,
        }
        self.hash.update(part);
        self.bytes += part.len() as u64;
        Ok(())
    }

    /// Forgets what has come.
    async fn restart(&mut self) -> Result<(), Failure> {
        match &mut self.out {
            Out::Memory(bytes) => bytes.clear(),
            Out::File(file, path) => {
                let begun = async {
                    file.set_len(0).await?;
                    file.rewind().await
                };
                begun
                    .await
                    .map_err(|error| Failure::local("the file cannot be written", path, &error))?;
            }
        }
        (self.hash, self.bytes, self.earlier) = (Sha256::new(), 0, 0);
        Ok(())
    }

    async fn sync(&self) -> Result<(), Failure> {
        match &self.out {
            Out::Memory(_) => Ok(()),
            Out::File(file, path) => file
                .sync_all()
                .await
                .map_err(|error| Failure::local("the file cannot be written", path, &error)),
        }
    }

    fn check(&self, file: &FileEntry) -> Result<(), Failure> {
        let (bytes, sha256) = (self.bytes, hex::encode(self.hash.clone().finalize()));
        if bytes == file.bytes && sha256 == file.sha256.to_ascii_lowercase() {
            return Ok(());
        }
        let what = format!("`{}` is damaged: {bytes} bytes, SHA-256 {sha256}", file.name);
        let error = Explained::new(what)
            .expected(format!("{} bytes, SHA-256 {}", file.bytes, file.sha256))
            .hint("try again; if it stays damaged, take another checkpoint");
        Err(Failure::new(Kind::BadAnswer, error))
    }
}

fn silent(file: &FileEntry) -> Failure {
    let what = format!("nothing came of `{}` within {} s", file.name, PART_TIMEOUT.as_secs());
    Failure::new(Kind::Unreachable, Explained::new(what))
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
    for key in keys(store, &manifest::generations_prefix(job)).await? {
        let Some(found) = whole::<GenerationManifest>(store, &key).await? else { continue };
        check_format(found.format, &key)?;
        listing.starts.push((found.generation, found.start_step));
    }
    for key in keys(store, &manifest::checkpoints_prefix(job)).await? {
        let Some(found) = whole::<CheckpointManifest>(store, &key).await? else { continue };
        check_format(found.format, &key)?;
        listing.checkpoints.push((key, found));
    }
    Ok(listing)
}

/// A manifest. One that is damaged is passed over, and said; one may be deleted between listing and
/// reading.
async fn whole<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, Failure> {
    let bytes = match storage::get(store, key).await {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(unreadable(key, &error)),
    };
    let read = seal::check(&bytes).and_then(|()| {
        serde_json::from_slice(&bytes).map_err(|error| Explained::from_error(&error))
    });
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            render::note(&format!("warning: {key} is skipped: {error}"));
            Ok(None)
        }
    }
}

async fn keys(store: &Store, prefix: &str) -> Result<Vec<String>, Failure> {
    storage::list(store, prefix).await.map_err(|error| unreadable(prefix, &error))
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

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"abcdefghij";

    fn file() -> FileEntry {
        let sha256 = storage::sha256(BYTES);
        FileEntry { name: "a".into(), bytes: BYTES.len() as u64, sha256 }
    }

    /// A store that holds this in the file's place.
    async fn source(folder: &Path, held: &'static [u8]) -> Source {
        let store = open(&folder.to_str().unwrap().into()).unwrap();
        let job = JobId("j0123456789".into());
        let key = manifest::data_key(&job, &file().sha256);
        storage::put_create(&store, &key, Bytes::from_static(held)).await.unwrap();
        Source::Store { store, job }
    }

    #[tokio::test]
    async fn what_was_written_is_verified() {
        for held in [&b"abcdefghiX"[..], b"abc", b"abcdefghijk", b""] {
            let folder = tempfile::tempdir().unwrap();
            let (source, to) = (source(folder.path(), held).await, folder.path().join("out"));
            let expected = file().sha256;
            for failure in [source.fetch(&file(), &to).await, source.bytes(&file()).await.map(drop)]
            {
                let message = failure.unwrap_err().message();
                for part in ["`a` is damaged", &expected, &storage::sha256(held)] {
                    assert!(message.contains(part), "{message}");
                }
            }
            assert_eq!(std::fs::metadata(&to).unwrap().len(), 0, "nothing to go on from");
        }
    }

    #[tokio::test]
    async fn what_an_earlier_attempt_left_is_gone_on_from() {
        // Of these some are its beginning, and some are not.
        for left in [&b""[..], b"abc", b"abcdefghij", b"abX", b"Xbcdefghij", b"abcdefghijkl"] {
            let folder = tempfile::tempdir().unwrap();
            let (source, to) = (source(folder.path(), BYTES).await, folder.path().join("out"));
            std::fs::write(&to, left).unwrap();
            source.fetch(&file(), &to).await.unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), BYTES);
            assert_eq!(source.bytes(&file()).await.unwrap(), BYTES);
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
