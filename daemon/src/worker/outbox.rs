//! What the device thread has to say, until the connection takes it. Never blocks, always bounded.

use ptv2_common::session::FromWorker;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Messages that wait at most. Beyond it the oldest report of progress gives way: the journal then
/// lacks some rows of metrics, and training goes on.
const WAITING: usize = 1000;
/// Rows that are joined into one report.
const ROWS: usize = 500;

/// Messages to the coordinator.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<FromWorker>>,
    filled: Notify,
}

impl Outbox {
    /// Leaves a message.
    pub(super) fn put(&self, message: FromWorker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let message = match (message, waiting.back_mut()) {
            (
                FromWorker::Progress { job, generation, metrics },
                Some(FromWorker::Progress { job: same, generation: last, metrics: rows }),
            ) if job == *same && generation == *last && rows.len() < ROWS => {
                rows.extend(metrics);
                None
            }
            (message, _) => Some(message),
        };
        if let Some(message) = message {
            if waiting.len() >= WAITING {
                let progress = |one: &FromWorker| matches!(one, FromWorker::Progress { .. });
                let oldest = waiting.iter().position(progress).unwrap_or(0);
                waiting.remove(oldest);
            }
            waiting.push_back(message);
        }
        self.filled.notify_one();
    }

    /// Takes the oldest message, waiting for one.
    pub(super) async fn take(&self) -> FromWorker {
        loop {
            let oldest = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match oldest {
                Some(message) => return message,
                None => self.filled.notified().await,
            }
        }
    }

    /// Puts a message back that could not be sent.
    pub(super) fn put_back(&self, message: FromWorker) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_front(message);
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::api::{MetricsRow, StepMetrics};
    use ptv2_common::ids::{Generation, JobId};

    fn progress(step: u64) -> FromWorker {
        let row = StepMetrics {
            step,
            epoch: 0,
            loss: 0.0,
            learning_rate: 0.0,
            grad_norm: 0.0,
            rows_per_s: 0.0,
            tokens_per_s: 0.0,
        };
        FromWorker::Progress {
            job: JobId("j".into()),
            generation: Generation(1),
            metrics: vec![MetricsRow::Step(row)],
        }
    }

    #[tokio::test]
    async fn reports_are_joined_and_bounded() {
        let outbox = Outbox::default();
        outbox.put(FromWorker::Draining);
        for step in 0..(ROWS * (WAITING + 5)) as u64 {
            outbox.put(progress(step));
        }
        assert_eq!(outbox.take().await, FromWorker::Draining);
        let FromWorker::Progress { metrics, .. } = outbox.take().await else { panic!() };
        assert_eq!(metrics.len(), ROWS);
        assert_eq!(outbox.waiting.lock().unwrap().len(), WAITING - 2);
    }
}
