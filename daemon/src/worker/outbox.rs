//! What the device thread has to say, until the coordinator has it. Never blocks, always bounded.

use super::told;
use crate::protocol::reports::Reports;
use ptv2_common::session::{Attached, Envelope, FromWorker};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// For so long a checkpoint waits at most until the coordinator has what was reported before it.
const HEARD: Duration = Duration::from_secs(1);

/// Messages to the coordinator.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    reports: Mutex<Reports>,
    filled: Notify,
    /// The last number that the coordinator is known to have.
    taken: watch::Sender<u64>,
}

impl Outbox {
    fn with<T>(&self, change: impl FnOnce(&mut Reports) -> T) -> T {
        change(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves a message.
    pub(super) fn put(&self, message: FromWorker) {
        told::log(&message);
        self.with(|reports| reports.put(message));
        self.filled.notify_one();
    }

    /// The oldest message that was not sent over the present connection, waiting for one.
    pub(super) async fn next(&self) -> Envelope {
        loop {
            match self.with(Reports::send) {
                Some(next) => return next,
                None => self.filled.notified().await,
            }
        }
    }

    /// The coordinator has messages up to this number in its journal.
    pub(super) fn taken(&self, seq: u64) {
        self.with(|reports| reports.taken(seq));
        self.taken.send_replace(seq);
        self.filled.notify_one();
    }

    /// Waits until the coordinator has all that was left up to now, or for [`HEARD`]: whatever a
    /// checkpoint holds should be known by then, since nobody makes it again.
    pub(super) async fn heard(&self) {
        let last = self.with(|reports| reports.last());
        let mut taken = self.taken.subscribe();
        let heard = taken.wait_for(|taken| *taken >= last);
        if tokio::time::timeout(HEARD, heard).await.is_err() {
            tracing::debug!("a checkpoint goes ahead of its reports");
        }
    }

    /// A new connection: what was not taken is sent again.
    pub(super) fn again(&self) {
        self.with(Reports::again);
        self.filled.notify_one();
    }

    /// What the worker says of itself when it dials.
    pub(super) fn attached(&self, attached: Option<Attached>) -> Option<Attached> {
        self.with(|reports| reports.attached(attached))
    }

    /// Whether the coordinator has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.with(|reports| reports.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_waits_for_what_was_reported_before_it_and_no_longer() {
        let outbox = Outbox::default();
        outbox.heard().await;
        outbox.put(FromWorker::Draining);
        let seq = outbox.next().await.seq.unwrap();
        let begin = tokio::time::Instant::now();
        let taken = async {
            tokio::time::sleep(HEARD / 4).await;
            outbox.taken(seq);
        };
        tokio::join!(outbox.heard(), taken);
        assert_eq!(begin.elapsed(), HEARD / 4);
        outbox.put(FromWorker::Draining);
        outbox.heard().await;
        assert_eq!(begin.elapsed(), HEARD / 4 + HEARD, "the coordinator is away");
    }
}
