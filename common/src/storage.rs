//! Opens a store by URL, and the few operations that ptv2 relies on. A store that does not answer in
//! time has failed.

use crate::error::Explained;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// How long a store may take for any operation, besides the time for its bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a second that every store is expected to take and give.
const SLOWEST: u64 = 256 << 10;

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

/// Has an operation that moves so many bytes fail if it takes longer than it may.
async fn in_time<T>(
    key: &str,
    bytes: usize,
    operation: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    let patience = PATIENCE + Duration::from_secs(bytes as u64 / SLOWEST);
    tokio::time::timeout(patience, operation).await.unwrap_or_else(|_| {
        Err(object_store::Error::Generic {
            store: "artifact store",
            source: format!("{key}: no answer within {} s", patience.as_secs()).into(),
        })
    })
}

/// Puts an object that must not be there yet.
///
/// # Errors
/// Those of the store, but for "already there", which is an answer.
pub async fn put_create(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<Put> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let (path, size) = (Path::from(key), bytes.len());
    match in_time(key, size, store.put_opts(&path, bytes.into(), options)).await {
        Ok(_) => Ok(Put::Created),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Existed),
        Err(error) => Err(error),
    }
}

/// Puts an object in the place of the one that is there.
///
/// # Errors
/// Those of the store.
pub async fn replace(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<()> {
    let (path, size) = (Path::from(key), bytes.len());
    in_time(key, size, store.put(&path, bytes.into())).await.map(drop)
}

/// Reads a whole object.
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn get(store: &Store, key: &str) -> object_store::Result<Bytes> {
    let path = Path::from(key);
    let object = in_time(key, 0, store.get(&path)).await?;
    let size = usize::try_from(object.meta.size).unwrap_or(usize::MAX);
    in_time(key, size, object.bytes()).await
}

/// What is known of an object without reading it.
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn head(store: &Store, key: &str) -> object_store::Result<ObjectMeta> {
    let path = Path::from(key);
    in_time(key, 0, store.head(&path)).await
}

/// Deletes an object, or finds that there is none.
///
/// # Errors
/// Those of the store.
pub async fn delete(store: &Store, key: &str) -> object_store::Result<()> {
    let path = Path::from(key);
    match in_time(key, 0, store.delete(&path)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lists the keys below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, prefix: &str) -> object_store::Result<Vec<String>> {
    let path = Path::from(prefix);
    let listed = store.list(Some(&path)).map_ok(|meta| meta.location.to_string()).try_collect();
    let mut keys: Vec<String> = in_time(prefix, 0, listed).await?;
    keys.sort();
    Ok(keys)
}

/// Lists the folders directly below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn folders(store: &Store, prefix: &str) -> object_store::Result<Vec<String>> {
    let path = Path::from(prefix);
    let listed = in_time(prefix, 0, store.list_with_delimiter(Some(&path))).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stalls_has_failed() {
        let begin = tokio::time::Instant::now();
        let stalled = std::future::pending::<object_store::Result<()>>();
        let error = in_time("jobs/j1/data/abc", 10 * (256 << 10), stalled).await.unwrap_err();
        assert!(error.to_string().contains("jobs/j1/data/abc: no answer within 40 s"), "{error}");
        assert_eq!(begin.elapsed().as_secs(), 40);
    }
}
