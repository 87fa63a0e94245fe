//! Listings that never lie in memory whole: a store may hold any number of objects.

use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::storage::Store;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a store may take for the next part of a listing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listing on its way.
pub type Objects = BoxStream<'static, Result<ObjectMeta, Explained>>;

/// The objects below a folder, in no order, as they come. The first error is the end.
pub fn objects(store: &Store, prefix: &str) -> Objects {
    let listed = store.list(Some(&Path::from(prefix)));
    let prefix = prefix.to_owned();
    let next = move |mut listed: BoxStream<'static, object_store::Result<ObjectMeta>>| {
        let prefix = prefix.clone();
        async move {
            match tokio::time::timeout(PATIENCE, listed.next()).await {
                Ok(None) => Ok(None),
                Ok(Some(Ok(meta))) => Ok(Some((meta, listed))),
                Ok(Some(Err(error))) => Err(Explained::from_error(&error).at(prefix)),
                Err(_) => Err(Explained::new(format!(
                    "the store did not go on with its list within {} s",
                    PATIENCE.as_secs()
                ))
                .at(prefix)),
            }
        }
    };
    stream::try_unfold(listed, next).boxed()
}

/// Folder of a job's data objects.
pub fn data_prefix(job: &JobId) -> String {
    format!("jobs/{job}/data")
}

/// Sizes of a job's data objects, by hash, of those that are asked for.
///
/// # Errors
/// Those of the store.
pub async fn sizes(
    store: &Store,
    job: &JobId,
    is_asked: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, u64>, Explained> {
    let mut sizes = BTreeMap::new();
    let mut listed = objects(store, &data_prefix(job));
    while let Some(meta) = listed.next().await {
        let meta = meta?;
        if let Some(hash) = meta.location.filename().filter(|hash| is_asked(hash)) {
            sizes.insert(hash.to_owned(), meta.size);
        }
    }
    Ok(sizes)
}

/// How long ago an object was written, in milliseconds.
pub fn age_ms(meta: &ObjectMeta, now_unix_ms: u64) -> u64 {
    let written = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(u64::MAX);
    now_unix_ms.saturating_sub(written)
}
