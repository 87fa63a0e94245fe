//! What the coordinator wants of the device thread. The session writes orders down; the device
//! thread looks at them between steps, and an abort wakes it from whatever it waits for.

use crate::collective::AbortHandle;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::session::Start;
use std::sync::{Condvar, Mutex, PoisonError};

/// What to do next.
#[derive(Debug)]
pub(super) enum Order {
    /// Begin a generation.
    Start(Box<Start>),
    /// Forget a job's state: it ended well.
    Forget(JobId),
    /// Leave a job's generations up to this one for good, and say so, even where they were left
    /// before or never begun: the coordinator waits for it.
    Stop(Stop),
    /// End the thread.
    End,
}

/// An order to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) job: JobId,
    pub(super) generation: Generation,
    /// Whether the job waits for workers: its state is kept, and written if this rank is the one who
    /// writes. Else it is forgotten.
    pub(super) park: bool,
}

#[derive(Debug, Default)]
struct Slate {
    /// The newest generation to begin. It supersedes every other.
    start: Option<Box<Start>>,
    forget: Option<JobId>,
    stop: Option<Stop>,
    end: bool,
    /// The group that the device thread is in.
    current: Option<(JobId, Generation, AbortHandle)>,
}

/// The slate that both threads share.
#[derive(Debug, Default)]
pub(super) struct Orders {
    slate: Mutex<Slate>,
    written: Condvar,
}

impl Orders {
    fn with<T>(&self, change: impl FnOnce(&mut Slate) -> T) -> T {
        let result = change(&mut self.slate.lock().unwrap_or_else(PoisonError::into_inner));
        self.written.notify_all();
        result
    }

    /// A generation is to begin; any other is left at once.
    pub(super) fn start(&self, start: Box<Start>) {
        self.with(|slate| {
            let older = |other: &Start| {
                other.job.id == start.job.id && other.generation >= start.generation
            };
            let superseded = slate.start.as_ref().is_some_and(|pending| older(pending))
                || slate.current.as_ref().is_some_and(|(job, generation, _)| {
                    *job == start.job.id && *generation >= start.generation
                });
            if superseded {
                return;
            }
            slate.start = Some(start);
            abort(slate);
        });
    }

    /// Groups of a job up to a generation are to be left.
    pub(super) fn stop(&self, stop: Stop) {
        self.with(|slate| {
            let Stop { job, generation, .. } = &stop;
            let concerned = |start: &Start| start.job.id == *job && start.generation <= *generation;
            if slate.start.as_ref().is_some_and(|start| concerned(start)) {
                slate.start = None;
            }
            let current = slate.current.as_ref();
            if current.is_some_and(|(own, at, _)| own == job && at <= generation) {
                abort(slate);
            }
            if slate.start.as_ref().is_some_and(|start| start.job.id == *job) {
                return; // A newer generation is to go on with the state.
            }
            slate.stop = Some(stop);
        });
    }

    /// A job ended well: its state may be forgotten.
    pub(super) fn release(&self, job: JobId) {
        self.with(|slate| slate.forget = Some(job));
    }

    /// The thread is to end.
    pub(super) fn end(&self) {
        self.with(|slate| {
            slate.end = true;
            abort(slate);
        });
    }

    /// Waits for the next order.
    pub(super) fn next(&self) -> Order {
        let mut slate = self.slate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if slate.end {
                return Order::End;
            }
            if let Some(stop) = slate.stop.take() {
                return Order::Stop(stop);
            }
            if let Some(job) = slate.forget.take() {
                return Order::Forget(job);
            }
            if let Some(start) = slate.start.take() {
                return Order::Start(start);
            }
            slate = self.written.wait(slate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The device thread enters a group, which later orders may abort.
    pub(super) fn enter(&self, job: &JobId, generation: Generation) -> AbortHandle {
        let handle = AbortHandle::default();
        self.with(|slate| {
            slate.current = Some((job.clone(), generation, handle.clone()));
            // An order that came in between must not be missed.
            let stopped = slate.stop.as_ref().is_some_and(|stop| stop.job == *job);
            if slate.end || slate.start.is_some() || stopped {
                handle.abort();
            }
        });
        handle
    }

    /// The device thread has left its group.
    pub(super) fn left(&self) {
        self.with(|slate| slate.current = None);
    }
}

fn abort(slate: &Slate) {
    if let Some((_, _, handle)) = &slate.current {
        handle.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker may have left its group by itself when it is told to stop. It must still answer, or
    /// the coordinator would wait for it without end.
    #[test]
    fn a_stop_is_obeyed_whether_or_not_the_group_was_left() {
        let orders = Orders::default();
        let stop = Stop { job: JobId("j".into()), generation: Generation(3), park: true };
        let abort = orders.enter(&stop.job, stop.generation);
        orders.left();
        orders.stop(stop.clone());
        assert!(matches!(orders.next(), Order::Stop(found) if found == stop));
        drop(abort);
    }
}
