//! What the device thread has to say, until the coordinator has it. Never blocks, always bounded.

use crate::protocol::reports::Reports;
use ptv2_common::session::{Attached, Envelope, FromWorker};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Messages to the coordinator.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    reports: Mutex<Reports>,
    filled: Notify,
}

impl Outbox {
    fn with<T>(&self, change: impl FnOnce(&mut Reports) -> T) -> T {
        change(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves a message.
    pub(super) fn put(&self, message: FromWorker) {
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
        self.filled.notify_one();
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
