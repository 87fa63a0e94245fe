//! Objects that are named by their content, which may be large.

use super::{Put, Store, head, put_create};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

/// A larger object goes up in parts of this size, so that a fault costs one part and not all.
const PART: usize = 8 << 20;
/// Parts on their way at once.
const AT_ONCE: usize = 4;

/// Puts an object whose name is made of the SHA-256 of its bytes, or of all that they are made from; it
/// is not written where it is there already.
///
/// A large one goes up in parts, and no store makes the end of that create-only. It need not be: whoever
/// puts an object of this name puts these very bytes, so it does not matter who ends last, and nothing
/// is to be seen of it before it is whole. What decides, a manifest, is never put so.
///
/// # Errors
/// Those of the store. Parts that went up are taken back as far as the store lets them.
pub async fn put_content(store: &Store, key: &str, bytes: Bytes) -> object_store::Result<Put> {
    if bytes.len() <= PART {
        return put_create(store, key, bytes).await;
    }
    match head(store, key).await {
        Ok(_) => return Ok(Put::Existed),
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut upload = store.put_multipart(&Path::from(key)).await?;
    match in_parts(&mut *upload, bytes).await {
        Ok(()) => Ok(Put::Created),
        Err(error) => {
            // The first error is the one to tell. What is left over, a store's rule for unfinished
            // uploads removes.
            drop(upload.abort().await);
            Err(error)
        }
    }
}

async fn in_parts(upload: &mut dyn MultipartUpload, mut bytes: Bytes) -> object_store::Result<()> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let part = bytes.split_to(PART.min(bytes.len()));
        // Nothing is sent before it is polled.
        parts.push(upload.put_part(PutPayload::from(part)));
    }
    stream::iter(parts).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    upload.complete().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStore;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_large_object_goes_up_in_parts_once() {
        let folder = tempfile::tempdir().unwrap();
        let local = super::super::open(folder.path().to_str().unwrap()).unwrap();
        for store in [local, Arc::new(InMemory::new()) as Store] {
            let bytes = Bytes::from(vec![7; 2 * PART + 1]);
            assert_eq!(put_content(&store, "a/b", bytes.clone()).await.unwrap(), Put::Created);
            assert_eq!(super::super::get(&store, "a/b").await.unwrap(), bytes);
            let other = Bytes::from(vec![8; 2 * PART + 1]);
            assert_eq!(put_content(&store, "a/b", other).await.unwrap(), Put::Existed);
            let found: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
        }
    }
}
