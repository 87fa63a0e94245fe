//! A writer that ends at any of its writes, before or after it was done.

use super::*;
use harmed::{Harm, Harmed, Put};
use object_store::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[path = "../../faults/store.rs"]
mod harmed;

/// Bytes that go up in two parts.
const IN_PARTS: usize = (8 << 20) + 1;

/// Nothing is done any more from a put on, as by a process that has ended there.
#[derive(Debug, Clone)]
struct Dying {
    puts: Arc<AtomicU64>,
    last: u64,
    after: bool,
}

#[async_trait::async_trait]
impl Harm for Dying {
    async fn put<T: Send>(&self, number: u64, put: Put<'_, T>) -> Result<T> {
        self.puts.fetch_max(number, Ordering::SeqCst);
        if number < self.last {
            return put.await;
        }
        if number == self.last && self.after {
            put.await?;
        }
        Err(Error::Generic { store: "dying", source: "the process ended".into() })
    }
}

type Files = [(String, Vec<u8>)];

/// Generation 2 begins, and writes a checkpoint of step 6 after that of step 3.
async fn second(store: Store, more: &Files) -> Result<(), ptv2_common::error::Explained> {
    let lineage = Lineage { features: "f".into(), generation: Generation(2), start_step: 3 };
    let writer = Writer::begin(store, job(), layout(), lineage).await?;
    writer.publish(&with_best(6, 6), more).await.map(drop)
}

/// Its start, the state, the job, three files of the adapter, and the manifest.
#[tokio::test]
async fn a_crash_at_any_write_leaves_a_whole_checkpoint() {
    check(7, &[]).await;
}

/// Besides, of a file that is large: its upload's beginning, two parts, and its end.
#[tokio::test]
async fn a_crash_in_an_upload_in_parts_leaves_a_whole_checkpoint() {
    check(11, &[("large".into(), vec![7; IN_PARTS])]).await;
}

/// Until the manifest is in the store, the checkpoint before it is the newest; from then on, this one.
/// The next generation writes it as it would have been without.
async fn check(writes: u64, more: &Files) {
    for last in 1..=writes + 1 {
        for after in [false, true] {
            let (_folder, store) = store();
            writer(&store, 1, 0).await.publish(&state(3), &[]).await.unwrap();
            let puts = Arc::new(AtomicU64::new(0));
            let dying = Dying { puts: Arc::clone(&puts), last, after };
            let ended = second(Arc::new(Harmed::new(store.clone(), dying)), more).await;
            assert_eq!(ended.is_ok(), last > writes, "{ended:?}, {last}, {after}");
            if last > writes {
                assert_eq!(puts.load(Ordering::SeqCst), writes);
            }
            let is_published = last > writes || (last == writes && after);
            let expected = if is_published { with_best(6, 6) } else { state(3) };
            assert_eq!(newest(&store).await, expected, "put {last}, after it: {after}");
            let next = writer(&store, 3, expected.step).await;
            next.publish(&with_best(6, 6), more).await.unwrap();
            assert_eq!(newest(&store).await, with_best(6, 6), "put {last}, after it: {after}");
        }
    }
}

/// The newest state, which is whole, as is all that is listed beside it.
async fn newest(store: &Store) -> TunedState {
    let id = JobId("j0".into());
    let newest = read::names(store, &id).await.unwrap().pop().unwrap();
    let mut said = Vec::new();
    let say = |message| said.push(message);
    let layout = layout();
    let found = read::newest_state(store, &id, &newest.key, &layout, say);
    let found = found.await.unwrap().unwrap();
    assert!(said.is_empty(), "{said:?}");
    for key in storage::list(store, "jobs/j0/data").await.unwrap() {
        let bytes = storage::get(store, &key).await.unwrap();
        assert!(key.ends_with(&storage::sha256(&bytes)), "{key} has {} bytes", bytes.len());
    }
    found
}
