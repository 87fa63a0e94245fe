//! What ptv2 relies on in a store, asked of any.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::Error;
use ptv2_common::storage::{self, Put, Store, get, list, put_content, put_create};

/// Objects of a listing that needs several pages, on stores that give a thousand a page.
const SEVERAL_PAGES: usize = 1050;
/// Larger than one part of an upload in parts.
const LARGE: usize = (16 << 20) + 1;

/// Asks all of an empty store.
pub(crate) async fn conforms(store: &Store) {
    create_only(store).await;
    one_winner(store).await;
    replaced_and_deleted(store).await;
    listings(store).await;
    streams(store).await;
    large(store).await;
}

/// An object that is there stays as it is, whoever else would make it.
async fn create_only(store: &Store) {
    for (key, bytes) in [
        ("jobs/j1/checkpoints/00000012-3.json", Bytes::from_static(b"{}")),
        ("jobs/j1/data/9f86d081884c7d659a2feaa0c55ad015", Bytes::from(vec![0; 100_000])),
        ("features/empty", Bytes::new()),
        ("keys/with space, comma & percent %", Bytes::from_static(b"1")),
    ] {
        assert_eq!(put_create(store, key, bytes.clone()).await.unwrap(), Put::Created, "{key}");
        assert_eq!(put_create(store, key, "other".into()).await.unwrap(), Put::Existed, "{key}");
        assert_eq!(get(store, key).await.unwrap(), bytes, "{key}");
        let meta = storage::head(store, key).await.unwrap();
        assert_eq!(meta.size, bytes.len() as u64, "{key}");
        assert!(meta.last_modified.timestamp() > 0, "{key}");
    }
}

/// Of many who make the same object at once, one does, and it is that one's.
async fn one_winner(store: &Store) {
    let put = |number: usize| async move {
        // A cloud may say that two met: neither has won then, and both try again.
        for _ in 0..50 {
            match put_create(store, "race/key", number.to_string().into()).await {
                Ok(put) => return (number, put),
                Err(error) => println!("{number} tries again: {error}"),
            }
        }
        panic!("{number} is never told");
    };
    let outcomes: Vec<_> = stream::iter(0..16).map(put).buffer_unordered(16).collect().await;
    let winners: Vec<_> = outcomes.iter().filter(|(_, put)| *put == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(get(store, "race/key").await.unwrap(), winners[0].0.to_string());
}

async fn replaced_and_deleted(store: &Store) {
    storage::replace(store, "place/a", "1".into()).await.unwrap();
    storage::replace(store, "place/a", "22".into()).await.unwrap();
    assert_eq!(get(store, "place/a").await.unwrap(), "22");
    for _ in 0..2 {
        storage::delete(store, "place/a").await.unwrap();
        let found = get(store, "place/a").await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
        let found = storage::head(store, "place/a").await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
    }
    assert_eq!(put_create(store, "place/a", "3".into()).await.unwrap(), Put::Created);
}

/// Listings have all that was put, at once and in order, and nothing of a folder whose name begins alike.
async fn listings(store: &Store) {
    let name = |number: usize| format!("list/j1/{number:05}-1.json");
    let put = |number: usize| async move {
        put_create(store, &name(number), "{}".into()).await.map(drop)
    };
    let puts = stream::iter(0..SEVERAL_PAGES).map(put).buffer_unordered(32);
    puts.try_collect::<()>().await.unwrap();
    for other in ["list/j10/00000-1.json", "list/j1.json"] {
        put_create(store, other, "{}".into()).await.unwrap();
    }
    let found = list(store, "list/j1").await.unwrap();
    assert!(found.iter().cloned().eq((0..SEVERAL_PAGES).map(name)), "{} found", found.len());
    assert_eq!(storage::folders(store, "list").await.unwrap(), ["j1", "j10"]);
    assert!(list(store, "nothing/here").await.unwrap().is_empty());
    assert!(storage::folders(store, "nothing/here").await.unwrap().is_empty());
}

async fn streams(store: &Store) {
    let bytes: Bytes = (0..3_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    put_create(store, "stream/a", bytes.clone()).await.unwrap();
    for first in [0_u64, 1, 1_234_567, 2_999_999] {
        let streamed = storage::get_stream(store, "stream/a", first).await.unwrap();
        assert_eq!(streamed.size, bytes.len() as u64);
        let found: Vec<Bytes> = streamed.parts.try_collect().await.unwrap();
        assert_eq!(found.concat(), bytes[usize::try_from(first).unwrap()..], "{first}");
    }
    let found = storage::get_stream(store, "stream/b", 0).await.err();
    assert!(matches!(found, Some(Error::NotFound { .. })), "{found:?}");
}

/// What is large goes up in parts, and is seen whole or not at all.
async fn large(store: &Store) {
    let bytes: Bytes = (0..LARGE).map(|at| u8::try_from(at % 241).unwrap()).collect();
    let key = "jobs/j1/data/large";
    let put = || put_content(store, key, bytes.clone());
    let (one, other) = tokio::join!(put(), put());
    // Two who write the same at once may be in each other's way, but then one of them tries again.
    assert!(one.is_ok() || other.is_ok(), "{one:?}, {other:?}");
    assert_eq!(put().await.unwrap(), Put::Existed);
    assert_eq!(get(store, key).await.unwrap(), bytes);
    let found = list(store, "jobs/j1/data").await.unwrap();
    assert!(found.iter().any(|one| one == key), "{found:?}");
    let small = put_content(store, "jobs/j1/data/small", "s".into()).await.unwrap();
    assert_eq!(small, Put::Created);
}
