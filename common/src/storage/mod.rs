//! Opens a store by URL, and the few operations that ptv2 relies on. A store that does not answer in
//! time has failed.
//!
//! Only create-only puts decide anything: every store offers them. What else a store may have, updates
//! by tag, copies, metadata of one's own, is not used.

mod address;
mod bounded;
#[cfg(feature = "cloud")]
mod clouds;
mod content;
mod environment;
#[cfg(feature = "cloud")]
mod guarded;
mod words;

pub use address::{StoreAddress, StoreSettings, local_path};
pub use content::put_content;
pub use environment::Environment;

use crate::error::Explained;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
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

/// Opens the store at a URL with the settings that every store has, and with what this process's
/// environment says of credentials and endpoint; see [`StoreAddress::open`].
///
/// # Errors
/// Says which URL, and which schemes this build opens.
pub fn open(location: &str) -> Result<Store, Explained> {
    StoreAddress::from(location).open()
}

/// Puts an object that must not be there yet.
///
/// An earlier call whose answer was lost, or a retry beneath this one, may have made it: [`Put::Existed`]
/// says only that it is there, and whoever must know whose it is reads it back.
///
/// # Errors
/// Those of the store, but for "already there", which is an answer.
pub async fn put_create(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<Put> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&Path::from(key), bytes.into(), options).await {
        Ok(_) => Ok(Put::Created),
        // Clouds also answer so to a put that met another one on its way, which may fail yet.
        Err(object_store::Error::AlreadyExists { .. }) => match head(store, key).await {
            Ok(_) => Ok(Put::Existed),
            Err(object_store::Error::NotFound { .. }) => Err(words::failed(format!(
                "{key}: the store reports a conflict, and nothing is there: try again"
            ))),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Puts an object in the place of the one that is there.
///
/// # Errors
/// Those of the store.
pub async fn replace(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<()> {
    store.put(&Path::from(key), bytes.into()).await.map(drop)
}

/// Reads a whole object.
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn get(store: &Store, key: &str) -> object_store::Result<Bytes> {
    store.get(&Path::from(key)).await?.bytes().await
}

/// An object that is read part by part.
pub struct Streamed {
    /// Bytes of the whole object.
    pub size: u64,
    /// Its bytes, from where reading was asked to begin. A part that does not come in time is an error.
    pub parts: BoxStream<'static, object_store::Result<Bytes>>,
}

/// Reads an object part by part, from its `first` byte on, which must be one of it (or 0).
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn get_stream(store: &Store, key: &str, first: u64) -> object_store::Result<Streamed> {
    let range = (first > 0).then_some(GetRange::Offset(first));
    let options = GetOptions { range, ..GetOptions::default() };
    let object = store.get_opts(&Path::from(key), options).await?;
    Ok(Streamed { size: object.meta.size, parts: object.into_stream() })
}

/// What is known of an object without reading it.
///
/// # Errors
/// Those of the store; `NotFound` where there is none.
pub async fn head(store: &Store, key: &str) -> object_store::Result<ObjectMeta> {
    store.head(&Path::from(key)).await
}

/// Deletes an object, or finds that there is none.
///
/// # Errors
/// Those of the store.
pub async fn delete(store: &Store, key: &str) -> object_store::Result<()> {
    match store.delete(&Path::from(key)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lists the objects below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn objects(store: &Store, prefix: &str) -> object_store::Result<Vec<ObjectMeta>> {
    let path = Path::from(prefix);
    let mut found: Vec<ObjectMeta> = store.list(Some(&path)).try_collect().await?;
    found.sort_by(|one, other| one.location.cmp(&other.location));
    Ok(found)
}

/// Lists the keys below a folder, in order of name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, prefix: &str) -> object_store::Result<Vec<String>> {
    let found = objects(store, prefix).await?;
    Ok(found.into_iter().map(|meta| meta.location.to_string()).collect())
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
