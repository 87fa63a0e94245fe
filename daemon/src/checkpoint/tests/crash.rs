//! A writer that ends at any of its writes, before or after it was done.

use super::*;
use futures_util::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A store that does nothing any more from a put on, as for a process that has ended there.
#[derive(Debug)]
struct Dying {
    inner: Store,
    puts: AtomicU64,
    last: u64,
    after: bool,
}

impl std::fmt::Display for Dying {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "a dying {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Dying {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let put = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        if put < self.last || (put == self.last && self.after) {
            let done = self.inner.put_opts(location, payload, opts).await;
            if put < self.last {
                return done;
            }
        }
        Err(object_store::Error::Generic { store: "dying", source: "the process ended".into() })
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Generation 2 begins, and writes a checkpoint of step 6 after that of step 3.
async fn second(store: Store) -> Result<(), ptv2_common::error::Explained> {
    let lineage = Lineage { features: "f".into(), generation: Generation(2), start_step: 3 };
    let writer = Writer::begin(store, job(), layout(), lineage).await?;
    writer.publish(&with_best(6, 6), &[]).await.map(drop)
}

/// Until the manifest is in the store, the checkpoint before it is the newest; from then on, this one.
/// The next generation writes it as it would have been without.
#[tokio::test]
async fn a_crash_at_any_write_leaves_a_whole_checkpoint() {
    let id = JobId("j0".into());
    let mut lived = false;
    let mut last = 0;
    while !lived {
        last += 1;
        for after in [false, true] {
            let (_folder, store) = store();
            writer(&store, 1, 0).await.publish(&state(3), &[]).await.unwrap();
            let dying = Dying { inner: store.clone(), puts: AtomicU64::new(0), last, after };
            let dying = Arc::new(dying);
            let ended = second(Arc::clone(&dying) as Store).await;
            lived = ended.is_ok();
            let puts = dying.puts.load(Ordering::SeqCst);
            // Its start, the state, the job, three files of the adapter, and the manifest.
            assert!(puts <= 7 && (lived == (last > 7)), "{puts} puts, {last}, {after}");
            let found = async || {
                let newest = read::names(&store, &id).await.unwrap().pop().unwrap();
                let mut said = Vec::new();
                let say = |message| said.push(message);
                let layout = layout();
                let found = read::newest_state(&store, &id, &newest.key, &layout, say);
                let found = found.await.unwrap().unwrap();
                assert!(said.is_empty(), "{said:?}");
                found
            };
            let is_published = last > 7 || (last == 7 && after);
            let expected = if is_published { with_best(6, 6) } else { state(3) };
            assert_eq!(found().await, expected, "put {last}, after it: {after}");
            let next = writer(&store, 3, expected.step).await;
            next.publish(&with_best(6, 6), &[]).await.unwrap();
            assert_eq!(found().await, with_best(6, 6), "put {last}, after it: {after}");
        }
    }
}
