//! A store whose writes come to harm.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use ptv2_common::storage::Store;
use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What becomes of a writer's puts, which are counted from 1. Of an upload in parts, its beginning, each part
/// and its end count as one each.
#[async_trait::async_trait]
pub(super) trait Harm: Debug + Send + Sync + 'static {
    async fn put<T: Send>(&self, number: u64, put: Put<'_, T>) -> Result<T>;
}

/// A put that is to be done, or not.
pub(super) type Put<'a, T> = BoxFuture<'a, Result<T>>;

/// Another store, and how many puts it was asked for.
#[derive(Debug)]
pub(super) struct Harmed<H> {
    inner: Store,
    counted: Arc<Counted<H>>,
}

impl<H> Harmed<H> {
    pub(super) fn new(inner: Store, harm: H) -> Self {
        Self { inner, counted: Arc::new(Counted { puts: AtomicU64::new(0), harm }) }
    }
}

#[derive(Debug)]
struct Counted<H> {
    puts: AtomicU64,
    harm: H,
}

impl<H: Harm> Counted<H> {
    async fn put<T: Send>(&self, put: Put<'_, T>) -> Result<T> {
        let number = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        self.harm.put(number, put).await
    }
}

/// An upload in parts to such a store.
#[derive(Debug)]
struct HarmedUpload<H> {
    inner: Box<dyn MultipartUpload>,
    counted: Arc<Counted<H>>,
}

#[async_trait::async_trait]
impl<H: Harm> MultipartUpload for HarmedUpload<H> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (counted, part) = (Arc::clone(&self.counted), self.inner.put_part(data));
        Box::pin(async move { counted.put(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counted.put(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.counted.put(self.inner.abort()).await
    }
}

impl<H: Debug> Display for Harmed<H> {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} with {:?} puts", self.inner, self.counted.harm)
    }
}

#[async_trait::async_trait]
impl<H: Harm> ObjectStore for Harmed<H> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.counted.put(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.counted.put(self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(HarmedUpload { inner, counted: Arc::clone(&self.counted) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
