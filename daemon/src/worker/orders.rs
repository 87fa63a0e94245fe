//! The slate of orders that the session and the device thread share. The session writes orders down; the
//! device thread looks at them between steps, and an abort wakes it from whatever it waits for.

use crate::clock;
use crate::collective::AbortHandle;
use crate::protocol::slate::{Order, Slate};
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::session::ToWorker;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Shared {
    slate: Slate,
    /// Ends the group that the device thread is in.
    group: Option<AbortHandle>,
    ended: bool,
}

/// The slate that both threads share.
#[derive(Debug, Default)]
pub(super) struct Orders {
    shared: Mutex<Shared>,
    written: Condvar,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut Slate)) {
        let mut shared = self.lock();
        change(&mut shared.slate);
        if let Some(group) = &shared.group
            && shared.slate.is_aborted()
        {
            group.abort();
        }
        drop(shared);
        self.written.notify_all();
    }

    /// Writes down what the coordinator says.
    pub(super) fn obey(&self, message: ToWorker) {
        self.with(|slate| slate.obey(message));
    }

    /// The thread is to finish its step, leave, and end.
    pub(super) fn drain(&self) {
        self.with(Slate::drain);
    }

    /// The thread is to end at once.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.with(Slate::end);
    }

    /// Waits so long for the next order.
    pub(super) fn next_within(&self, most: Duration) -> Option<Order> {
        let deadline = clock::now() + most;
        let mut shared = self.lock();
        loop {
            if let Some(order) = shared.slate.take() {
                return Some(order);
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.written.wait_timeout(shared, left);
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The device thread enters a group, which later orders may abort.
    pub(super) fn enter(&self, job: &JobId, generation: Generation) -> AbortHandle {
        let handle = AbortHandle::default();
        self.lock().group = Some(handle.clone());
        self.with(|slate| slate.enter(job, generation));
        handle
    }

    /// The device thread has left its group.
    pub(super) fn left(&self) {
        self.lock().group = None;
        self.with(Slate::leave);
    }

    /// Whether the group is to be left after the step.
    pub(super) fn is_leaving(&self) -> bool {
        self.lock().slate.is_leaving()
    }

    /// Whether the thread is to end at once, whatever waits to be written.
    pub(super) fn is_ended(&self) -> bool {
        self.lock().ended
    }
}
