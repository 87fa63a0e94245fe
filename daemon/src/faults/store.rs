//! A store whose first puts fail in every way that a real one has.

use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use ptv2_common::storage::Store;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a slow put takes.
const SLOW: Duration = Duration::from_millis(700);

/// Another store, and how many puts it was asked for.
#[derive(Debug)]
pub(super) struct Failing {
    inner: Store,
    puts: AtomicU64,
}

impl Failing {
    pub(super) fn new(inner: Store) -> Self {
        Self { inner, puts: AtomicU64::new(0) }
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "a failing {}", self.inner)
    }
}

fn broken(what: &str) -> object_store::Error {
    object_store::Error::Generic { store: "failing", source: what.into() }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        match self.puts.fetch_add(1, Ordering::SeqCst) {
            1 => Err(broken("503: slow down")),
            3 | 5 => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(broken("the connection was reset before the answer"))
            }
            6 => {
                tokio::time::sleep(SLOW).await;
                self.inner.put_opts(location, payload, opts).await
            }
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
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
