//! Opens a store by URL, and the few operations that ptv2 relies on: create-only put, get, list.

use crate::error::Explained;
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A shared handle to a store.
pub type Store = Arc<dyn ObjectStore>;

/// Whether a create-only put made the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// This call made it.
    Created,
    /// It was there before.
    Existed,
}

/// Opens the store that a `file://` URL (or an absolute path) names, making the folder.
///
/// Writes reach the disk before they are acknowledged.
///
/// # Errors
/// Says which URL, and which schemes this build opens.
pub fn open(location: &str) -> Result<Store, Explained> {
    let folder = local_path(location)?;
    std::fs::create_dir_all(&folder).map_err(|error| {
        Explained::new(format!("the artifact store's folder cannot be made: {error}"))
            .at(location)
            .hint("give a folder that this user may write")
    })?;
    let store = LocalFileSystem::new_with_prefix(&folder)
        .map_err(|error| Explained::from_error(&error).at(location))?;
    Ok(Arc::new(store.with_fsync(true)))
}

/// The local folder that a `file://` URL or an absolute path names.
///
/// # Errors
/// For every other scheme, and for a relative path.
pub fn local_path(location: &str) -> Result<std::path::PathBuf, Explained> {
    let refused = || {
        Explained::new(format!("`{location}` is no location that this build opens"))
            .expected("file:///absolute/path or /absolute/path")
            .hint("object stores in a cloud are not there yet; see the README")
    };
    if location.starts_with('/') {
        return Ok(location.into());
    }
    let url = url::Url::parse(location).map_err(|_| refused())?;
    if url.scheme() != "file" {
        return Err(refused());
    }
    url.to_file_path().map_err(|()| refused())
}

/// Puts an object that must not be there yet.
///
/// # Errors
/// Those of the store, but for "already there", which is an answer.
pub async fn put_create(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<Put> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&Path::from(key), bytes.into(), options).await {
        Ok(_) => Ok(Put::Created),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Existed),
        Err(error) => Err(error),
    }
}

/// Reads a whole object.
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn get(store: &Store, key: &str) -> object_store::Result<Bytes> {
    store.get(&Path::from(key)).await?.bytes().await
}

/// Lists the keys below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, prefix: &str) -> object_store::Result<Vec<String>> {
    use futures_util::TryStreamExt;
    let path = Path::from(prefix);
    let mut keys: Vec<String> =
        store.list(Some(&path)).map_ok(|meta| meta.location.to_string()).try_collect().await?;
    keys.sort();
    Ok(keys)
}

/// Lists the folders directly below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn folders(store: &Store, prefix: &str) -> object_store::Result<Vec<String>> {
    let listed = store.list_with_delimiter(Some(&Path::from(prefix))).await?;
    let mut names: Vec<String> = listed
        .common_prefixes
        .iter()
        .filter_map(|folder| folder.filename().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// SHA-256 of all that a reader gives, in lower-case hexadecimal; large files pass in parts.
///
/// # Errors
/// Those of the reader.
pub fn sha256_of_reader(mut reader: impl std::io::Read) -> std::io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// SHA-256 of some bytes, in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
