//! Listings that never lie in memory whole: a store may hold any number of objects.

use futures_util::TryStreamExt;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::storage::Store;
use std::collections::BTreeMap;

/// A listing on its way.
pub type Objects = BoxStream<'static, Result<ObjectMeta, Explained>>;

/// The objects below a folder, in no order, as they come.
pub fn objects(store: &Store, prefix: &str) -> Objects {
    let listed = store.list(Some(&Path::from(prefix)));
    let prefix = prefix.to_owned();
    listed.map_err(move |error| Explained::from_error(&error).at(&prefix)).boxed()
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
