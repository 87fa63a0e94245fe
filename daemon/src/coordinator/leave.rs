//! The end of a coordinator whose workers end with it, as in an allocation of Slurm that is taken away: it
//! lets them leave first, since their last checkpoints wait for it to know the steps before them.

use super::driver::{Input, Question};
use ptv2_common::ids::WorkerId;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Workers may take this long to leave: inside Slurm they, and then the coordinator, are gone in two seconds.
const LEAVING: Duration = Duration::from_millis(1800);
/// How often it is looked whether they have left.
const LOOK: Duration = Duration::from_millis(50);

/// Lets the workers of a coordinator leave.
pub struct Leaver {
    inputs: mpsc::Sender<Input>,
}

impl Leaver {
    /// For the loop that takes these inputs.
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs }
    }

    /// Once it is asked for, drains all workers, and shuts down when they have left, or after a while.
    pub async fn wait(self, asked: CancellationToken, shutdown: CancellationToken) {
        tokio::select! {
            () = asked.cancelled() => {}
            () = shutdown.cancelled() => return,
        }
        tracing::info!("asked to end: the workers leave first");
        if tokio::time::timeout(LEAVING, self.all_have_left()).await.is_err() {
            tracing::warn!(
                "a worker did not leave in time; its steps since the last checkpoint are lost"
            );
        }
        shutdown.cancel();
    }

    /// Nothing where the loop has ended meanwhile.
    async fn all_have_left(&self) -> Option<()> {
        loop {
            let workers = self.ask(Question::Workers).await?;
            if workers.is_empty() {
                return Some(());
            }
            for worker in workers.into_iter().filter(|worker| !worker.draining) {
                self.ask(|reply| Question::Drain(WorkerId(worker.id), reply)).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Asked(question(reply))).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::api::WorkerStatus;
    use ptv2_common::place::DevicePhase;

    fn worker(draining: bool) -> WorkerStatus {
        WorkerStatus {
            id: "w1".into(),
            host: "h:1".into(),
            device: "cpu".into(),
            visible_device: None,
            slurm: None,
            threads: 1,
            fingerprint: String::new(),
            job: None,
            phase: DevicePhase::Idle,
            place: None,
            heartbeat_age_ms: 0,
            draining,
            backbone_loads: 0,
            version: "0".into(),
            launch: None,
        }
    }

    /// A loop with one worker, which leaves after so many looks, or never; how often it was drained.
    async fn leave(looks: usize) -> (usize, Duration) {
        let (sender, mut inputs) = mpsc::channel(1);
        let (asked, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let began = tokio::time::Instant::now();
        tokio::spawn(Leaver::new(sender).wait(asked.clone(), shutdown.clone()));
        assert!(!shutdown.is_cancelled());
        asked.cancel();
        let (mut seen, mut drained) = (0, 0);
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Asked(Question::Workers(reply))) => {
                        seen += 1;
                        let left = if seen > looks { Vec::new() } else { vec![worker(drained > 0)] };
                        drop(reply.send(left));
                    }
                    Some(Input::Asked(Question::Drain(_, reply))) => {
                        drained += 1;
                        let _ = reply.send(true);
                    }
                    Some(_) | None => {}
                },
                () = shutdown.cancelled() => return (drained, began.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_all_workers_have_left() {
        assert_eq!(leave(0).await, (0, Duration::ZERO));
        let (drained, took) = leave(3).await;
        assert_eq!(drained, 1, "each worker is told once");
        assert!(took < Duration::from_millis(500), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_one_that_stays() {
        let (drained, took) = leave(usize::MAX).await;
        assert_eq!(drained, 1);
        assert!(took >= LEAVING && took < LEAVING * 2, "{took:?}");
    }
}
