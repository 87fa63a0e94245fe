//! An object's bytes as an answer: whole or from an offset, as they come, with a bound on each wait.

use super::problem::Refusal;
use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use ptv2_common::error::Explained;
use ptv2_common::storage::{self, Store};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the client may take for taking a part.
const PATIENCE: Duration = Duration::from_secs(60);
/// Parts that wait for the client. With their size they bound what a slow one holds of memory.
const PARTS_AHEAD: usize = 2;

/// What a `Range` header asks for: from a first byte to a last one, if one is named. Nothing where it is
/// of another form, which HTTP lets a server ignore.
pub(super) fn asked(header: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    let first = first.parse().ok()?;
    last.is_none_or(|last| first <= last).then_some((first, last))
}

/// Answers with an object's bytes.
pub(super) async fn answer(
    store: &Store,
    key: &str,
    asked: Option<(u64, Option<u64>)>,
) -> Result<Response, Refusal> {
    let size = storage::head(store, key).await.map_err(|error| failed(&error, key))?.size;
    let range = match asked {
        Some((first, _)) if first >= size => {
            let error = Explained::new(format!("byte {first} is behind the end")).at(key);
            return Err(Refusal::no_such_range(error.expected(format!("less than {size}"))));
        }
        Some((first, last)) => Some(first..=last.map_or(size - 1, |last| last.min(size - 1))),
        None => None,
    };
    let part = range.as_ref().map(|range| GetRange::Bounded(*range.start()..*range.end() + 1));
    let options = GetOptions { range: part, ..GetOptions::default() };
    let path = Path::from(key);
    let object = store.get_opts(&path, options).await.map_err(|error| failed(&error, key))?;
    let mut response = Body::from_stream(patient(object.into_stream())).into_response();
    let length = range.as_ref().map_or(size, |range| range.end() - range.start() + 1);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // So that whoever reads notices an answer that breaks off.
    headers.insert(CONTENT_LENGTH, length.into());
    if let Some(range) = range {
        let place = format!("bytes {}-{}/{size}", range.start(), range.end());
        headers.extend(HeaderValue::try_from(place).ok().map(|place| (CONTENT_RANGE, place)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Reads the store beside the connection, and lets go of it when the client takes nothing for long.
fn patient(
    mut parts: BoxStream<'static, object_store::Result<Bytes>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
    tokio::spawn(async move {
        // A store that gives nothing ends this with an error; a client that is gone, or takes nothing, too.
        while let Some(part) = parts.next().await {
            let part = part.map_err(io::Error::other);
            let is_last = part.is_err();
            if sender.send_timeout(part, PATIENCE).await.is_err() || is_last {
                return;
            }
        }
    });
    let next = |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async {
        receiver.recv().await.map(|part| (part, receiver))
    };
    stream::unfold(receiver, next).boxed()
}

fn failed(error: &object_store::Error, key: &str) -> Refusal {
    let explained = Explained::from_error(error).at(key);
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Refusal::not_found(explained.hint("list the checkpoints again"));
    }
    Refusal::unavailable(explained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_first_byte() {
        for (header, expected) in [
            ("bytes=0-", Some((0, None))),
            ("bytes=5-9", Some((5, Some(9)))),
            ("bytes=9-5", None),
            ("bytes=-5", None),
            ("bytes=1-2,4-5", None),
            ("rows=1-2", None),
            ("bytes=a-", None),
        ] {
            assert_eq!(asked(header), expected, "{header}");
        }
    }

    #[tokio::test]
    async fn a_part_is_what_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = storage::open(folder.path().to_str().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..200).collect();
        storage::put_create(&store, "a", bytes.clone().into()).await.unwrap();
        for (range, status, expected) in [
            (None, 200, &bytes[..]),
            (Some((0, None)), 206, &bytes[..]),
            (Some((190, None)), 206, &bytes[190..]),
            (Some((10, Some(19))), 206, &bytes[10..20]),
            (Some((10, Some(999))), 206, &bytes[10..]),
        ] {
            let answer = answer(&store, "a", range).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{range:?}");
            let length = answer.headers()[CONTENT_LENGTH].to_str().unwrap().to_owned();
            assert_eq!(length, expected.len().to_string(), "{range:?}");
            let found = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
            assert_eq!(found, expected, "{range:?}");
        }
        assert!(answer(&store, "a", Some((200, None))).await.is_err());
        assert!(answer(&store, "b", None).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_let_go() {
        let begin = tokio::time::Instant::now();
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"ab")));
        let mut parts = patient(endless.boxed());
        assert_eq!(parts.next().await.unwrap().unwrap(), "ab");
        tokio::time::sleep(PATIENCE * 2).await;
        let left = parts.count().await;
        assert!(left <= PARTS_AHEAD + 1, "{left} parts");
        assert!(begin.elapsed() < PATIENCE * 3);
    }

    #[tokio::test]
    async fn a_store_that_fails_ends_the_answer() {
        let broken = object_store::Error::Generic { store: "s3", source: "a reset".into() };
        let first = stream::iter([Ok(Bytes::from_static(b"ab")), Err(broken)]);
        let mut parts = patient(first.chain(stream::pending()).boxed());
        assert_eq!(parts.next().await.unwrap().unwrap(), "ab");
        assert!(parts.next().await.unwrap().unwrap_err().to_string().contains("a reset"));
        assert!(parts.next().await.is_none());
    }
}
