//! A store that fails where another would never answer.

use super::{Store, words};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt::{Display, Formatter};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Bytes a second that every store is expected to take and give.
const SLOWEST: u64 = 256 << 10;
/// What an entry of a listing counts, in bytes.
const ENTRY: usize = 1 << 10;
/// A file is read in parts of this size.
const PART: usize = 256 << 10;

/// Another store, each of whose operations ends in time: within `patience`, and the time for its bytes.
/// Its errors are told in few words.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: Store,
    patience: Duration,
}

impl Bounded {
    pub(super) fn new(inner: Store, patience: Duration) -> Self {
        Self { inner, patience }
    }
}

impl Display for Bounded {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

fn time_for(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / SLOWEST as f64)
}

/// Has an operation that moves so many bytes fail if it takes longer than it may.
async fn in_time<T>(
    patience: Duration,
    key: &str,
    bytes: usize,
    operation: impl Future<Output = Result<T>>,
) -> Result<T> {
    let patience = patience + time_for(bytes);
    match tokio::time::timeout(patience, operation).await {
        Ok(outcome) => outcome.map_err(words::few),
        Err(_) => Err(late(key, patience)),
    }
}

fn late(key: &str, patience: Duration) -> object_store::Error {
    words::failed(format!("{key}: no answer within {:.0} s", patience.as_secs_f64().ceil()))
}

/// Has a stream fail that stalls for longer than `patience`, or trickles: each part gives back the time
/// that a slow store needs for it. Whoever takes the parts may be as slow as they like.
fn steady<T: Send + 'static>(
    parts: BoxStream<'static, Result<T>>,
    patience: Duration,
    key: String,
    size: fn(&T) -> usize,
) -> BoxStream<'static, Result<T>> {
    let next = move |(mut parts, left): (BoxStream<'static, Result<T>>, Duration)| {
        let key = key.clone();
        async move {
            let began = Instant::now();
            let Ok(part) = tokio::time::timeout(left, parts.next()).await else {
                return Err(late(&key, patience));
            };
            let Some(part) = part.transpose().map_err(words::few)? else { return Ok(None) };
            let left = left.saturating_sub(began.elapsed()) + time_for(size(&part));
            Ok(Some((part, (parts, left.min(patience)))))
        }
    };
    stream::try_unfold((parts, patience), next).boxed()
}

/// Reads a range of a file in parts.
fn of_file(
    mut file: std::fs::File,
    range: &Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let broken = |error: std::io::Error| words::failed(format!("the file is not read: {error}"));
    file.seek(SeekFrom::Start(range.start)).map_err(broken)?;
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(PART);
    let next = move |(mut file, left): (tokio::fs::File, u64)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut part = vec![0; PART.min(usize::try_from(left).unwrap_or(PART))];
        let count = file.read(&mut part).await.map_err(broken)?;
        if count == 0 {
            return Err(words::failed(format!("the file ends {left} bytes too early")));
        }
        part.truncate(count);
        Ok(Some((Bytes::from(part), (file, left - count as u64))))
    };
    Ok(stream::try_unfold((file, range.end - range.start), next).boxed())
}

#[async_trait]
impl ObjectStore for Bounded {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let (bytes, put) = (payload.content_length(), self.inner.put_opts(location, payload, opts));
        in_time(self.patience, location.as_ref(), bytes, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.inner.put_multipart_opts(location, opts);
        let inner = in_time(self.patience, location.as_ref(), 0, begun).await?;
        Ok(Box::new(BoundedUpload { inner, patience: self.patience, key: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.as_ref();
        let got = in_time(self.patience, key, 0, self.inner.get_opts(location, options)).await?;
        let parts = match got.payload {
            GetResultPayload::File(file, _) => of_file(file, &got.range)?,
            GetResultPayload::Stream(parts) => parts,
        };
        let parts = steady(parts, self.patience, location.to_string(), Bytes::len);
        Ok(GetResult { payload: GetResultPayload::Stream(parts), ..got })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let deleted = self.inner.delete_stream(locations);
        steady(deleted, self.patience, "a deletion".into(), |_| ENTRY)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let key = prefix.map(Path::to_string).unwrap_or_default();
        steady(self.inner.list(prefix), self.patience, key, |_| ENTRY)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.map(Path::to_string).unwrap_or_default();
        in_time(self.patience, &key, 0, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.inner.copy_opts(from, to, options);
        in_time(self.patience, to.as_ref(), 0, copied).await
    }
}

/// An upload in parts, each of which ends in time.
#[derive(Debug)]
struct BoundedUpload {
    inner: Box<dyn MultipartUpload>,
    patience: Duration,
    key: String,
}

#[async_trait]
impl MultipartUpload for BoundedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (patience, key, bytes) = (self.patience, self.key.clone(), data.content_length());
        let put = self.inner.put_part(data);
        Box::pin(async move { in_time(patience, &key, bytes, put).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        in_time(self.patience, &self.key, 0, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        in_time(self.patience, &self.key, 0, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stalls_has_failed() {
        let begin = Instant::now();
        let stalled = std::future::pending::<Result<()>>();
        let bytes = 10 * (256 << 10);
        let error = in_time(PATIENCE, "jobs/j1/data/abc", bytes, stalled).await.unwrap_err();
        assert!(error.to_string().contains("jobs/j1/data/abc: no answer within 40 s"), "{error}");
        assert_eq!(begin.elapsed().as_secs(), 40);
    }

    /// A stream of parts, each of so many bytes and so many seconds after the one before.
    fn parts(bytes: usize, seconds: u64) -> BoxStream<'static, Result<Bytes>> {
        stream::iter(0..1000)
            .then(move |_| async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(Bytes::from(vec![0; bytes]))
            })
            .boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_be_slow_and_long_and_must_not_stall() {
        let read = |parts| steady(parts, PATIENCE, "k".into(), Bytes::len).try_collect::<Vec<_>>();
        let begin = Instant::now();
        assert_eq!(read(parts(256 << 10, 1)).await.unwrap().len(), 1000);
        assert_eq!(begin.elapsed().as_secs(), 1000);
        for (bytes, seconds) in [(1 << 20, 31), (1, 29)] {
            let begin = Instant::now();
            let error = read(parts(bytes, seconds)).await.unwrap_err();
            assert!(error.to_string().contains("k: no answer within 30 s"), "{error}");
            assert!(begin.elapsed().as_secs() <= 31, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_the_parts_may_be_slow() {
        let mut parts = steady(parts(1 << 10, 0), PATIENCE, "k".into(), Bytes::len);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(parts.next().await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_file_is_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let store = super::super::open(folder.path().to_str().unwrap()).unwrap();
        let bytes: Bytes = (0..PART + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
        super::super::put_create(&store, "a/b", bytes.clone()).await.unwrap();
        for first in [0, 1, PART as u64, PART as u64 + 6] {
            let streamed = super::super::get_stream(&store, "a/b", first).await.unwrap();
            assert_eq!(streamed.size, bytes.len() as u64);
            let found: Vec<Bytes> = streamed.parts.try_collect().await.unwrap();
            let first = usize::try_from(first).unwrap();
            assert_eq!(found.concat(), bytes[first..], "{first}");
        }
    }
}
