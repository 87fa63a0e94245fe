//! Rank 0's checkpoints, written beside training. The device thread leaves states; a task writes them.

#[cfg(test)]
mod tests;

use super::Shared;
use super::retry::Pauses;
use crate::checkpoint::write::{Lineage, Writer};
use crate::checkpoint::{read, retention};
use crate::clock;
use crate::numerics::state::{Layout, TunedState};
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::session::FromWorker;
use ptv2_common::storage::Store;
use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Instrument;

/// A checkpoint that is on its way for longer is late, and people are told, though nothing failed yet.
const LATE: Duration = Duration::from_secs(5);

/// States that wait to be written. A newer one takes the place of an older one of its kind, but for
/// those of runs that have ended: their best and last states are all written, and first.
#[derive(Default)]
struct Waiting {
    ended: VecDeque<Arc<TunedState>>,
    best: Option<Arc<TunedState>>,
    regular: Option<Arc<TunedState>>,
    last: Option<(Last, Answer)>,
    closed: bool,
}

/// A job's last state, and the files that go with it.
pub(super) struct Last {
    pub(super) state: Arc<TunedState>,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

type Answer = mpsc::Sender<String>;

#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// The writer of a generation. Dropping it lets what waits be written once more, then ends it.
pub(super) struct Keeper {
    desk: Arc<Desk>,
}

/// What a keeper begins with.
pub(super) struct Beginning {
    pub(super) store: Store,
    pub(super) job: JobRecord,
    pub(super) layout: Layout,
    pub(super) lineage: Lineage,
    /// The last states of ended runs and the best one so far, which a lost rank 0 may not have written
    /// any more.
    pub(super) unwritten: Vec<Arc<TunedState>>,
}

impl Keeper {
    /// Starts the task.
    pub(super) fn start(runtime: &Handle, shared: Arc<Shared>, beginning: Beginning) -> Self {
        let desk = Arc::new(Desk::default());
        // It writes for the generation that it is started in.
        runtime.spawn(keep(Arc::clone(&desk), shared, beginning).in_current_span());
        Self { desk }
    }

    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.desk.filled.notify_one();
    }

    /// Leaves a state to be written.
    pub(super) fn offer(&self, state: TunedState) {
        let state = Arc::new(state);
        self.put(|waiting| {
            if state.is_best() {
                waiting.best = Some(state);
            } else {
                waiting.regular = Some(state);
            }
        });
    }

    /// Leaves the last state of a run that others follow.
    pub(super) fn end_run(&self, state: Arc<TunedState>) {
        self.put(|waiting| {
            waiting.regular = None;
            let best = waiting.best.take();
            waiting.ended.extend(best);
            waiting.ended.push_back(state);
        });
    }

    /// Leaves the job's last state; its manifest's key comes back when it is in the store.
    pub(super) fn finish(&self, last: Last) -> mpsc::Receiver<String> {
        let (answer, result) = mpsc::channel();
        self.put(|waiting| {
            // The last state stands for every other that still waits, but for an older best.
            waiting.regular = None;
            waiting.last = Some((last, answer));
        });
        result
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.put(|waiting| waiting.closed = true);
    }
}

enum Task {
    /// It waits again if it cannot be written.
    Due(Arc<TunedState>),
    Regular(Arc<TunedState>),
    Last(Last, Answer),
    Closed,
}

impl Desk {
    async fn next(&self) -> Task {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = waiting.ended.pop_front();
                if let Some(state) = ended.or_else(|| waiting.best.take()) {
                    return Task::Due(state);
                }
                if let Some(state) = waiting.regular.take() {
                    return Task::Regular(state);
                }
                if let Some((last, answer)) = waiting.last.take() {
                    return Task::Last(last, answer);
                }
                if waiting.closed {
                    return Task::Closed;
                }
            }
            self.filled.notified().await;
        }
    }

    fn is_closed(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// A state that is due and could not be written waits again, unless a better one of its run does
    /// already.
    fn again(&self, state: Arc<TunedState>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_outdone = waiting.best.as_ref().is_some_and(|best| best.run == state.run);
        if !waiting.closed && !is_outdone {
            waiting.ended.push_front(state);
        }
    }
}

async fn keep(desk: Arc<Desk>, shared: Arc<Shared>, beginning: Beginning) {
    let Beginning { store, job, layout, lineage, unwritten } = beginning;
    let report = |outcome, waited| tell(&shared, &job, &lineage, outcome, waited);
    let (mut pauses, mut since) = (Pauses::default(), Since::default());
    let writer = loop {
        let begun = Writer::begin(store.clone(), job.clone(), layout.clone(), lineage.clone());
        match watched(begun, &mut since, |late, waited| report(Err(late), waited)).await {
            Ok(writer) => break writer,
            Err(error) => report(Err(error), since.waited()),
        }
        if desk.is_closed() {
            return;
        }
        tokio::time::sleep(pauses.next()).await;
    };
    for state in missing(&store, &job, unwritten).await {
        desk.again(state);
    }
    let late = |late, waited| report(Err(late), waited);
    pauses = Pauses::default();
    loop {
        shared.pulse.uploading(false);
        let task = desk.next().await;
        shared.outbox.heard().await;
        shared.pulse.uploading(true);
        let outcome = match task {
            Task::Closed => return shared.pulse.uploading(false),
            Task::Regular(state) => watched(writer.publish(&state, &[]), &mut since, late).await,
            Task::Due(state) => {
                let outcome = watched(writer.publish(&state, &[]), &mut since, late).await;
                if outcome.is_err() {
                    desk.again(state);
                }
                outcome
            }
            Task::Last(last, answer) => {
                if let Some(key) = write_last(&desk, &writer, &last, (&mut since, &report)).await {
                    // The device thread may have left the group meanwhile.
                    drop(answer.send(key));
                }
                continue;
            }
        };
        let failed = outcome.is_err();
        report(outcome, since.waited());
        if failed {
            shared.pulse.uploading(false);
            tokio::time::sleep(pauses.next()).await;
            continue;
        }
        pauses = Pauses::default();
        sweep(&writer).await;
    }
}

/// Writes a job's last state, however long the store fails: what was computed is not given up. Only
/// the end of the generation, as by a cancel, ends the attempts.
async fn write_last(
    desk: &Desk,
    writer: &Writer,
    last: &Last,
    (since, report): (&mut Since, &impl Fn(Result<Checkpoint, Explained>, Duration)),
) -> Option<String> {
    let mut pauses = Pauses::default();
    loop {
        let written = writer.publish(&last.state, &last.files);
        match watched(written, since, |late, waited| report(Err(late), waited)).await {
            Ok(checkpoint) => {
                let key = checkpoint.key.clone();
                report(Ok(checkpoint), Duration::ZERO);
                sweep(writer).await;
                return Some(key);
            }
            Err(error) => report(Err(error), since.waited()),
        }
        if desk.is_closed() {
            return None;
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Since when the store has taken nothing of what it was given; nothing where it has taken all.
#[derive(Default)]
struct Since(Option<Instant>);

impl Since {
    fn waited(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Waits for what is being written, and says so if it takes long. The wait for a store that fails begins with
/// the first of its attempts.
async fn watched<T>(
    writing: impl Future<Output = Result<T, Explained>>,
    since: &mut Since,
    late: impl FnOnce(Explained, Duration),
) -> Result<T, Explained> {
    since.0.get_or_insert_with(Instant::now);
    let mut writing = std::pin::pin!(writing);
    let outcome = match tokio::time::timeout(LATE, &mut writing).await {
        Ok(outcome) => outcome,
        Err(_) => {
            late(on_its_way(), since.waited());
            writing.await
        }
    };
    if outcome.is_ok() {
        since.0 = None;
    }
    outcome
}

fn on_its_way() -> Explained {
    let seconds = LATE.as_secs();
    Explained::new(format!("it is on its way for {seconds} s, and the store has not taken it"))
        .hint("see that the artifact store is reachable and has room; training goes on meanwhile")
}

/// The states of which the store has no checkpoint.
async fn missing(
    store: &Store,
    job: &JobRecord,
    mut states: Vec<Arc<TunedState>>,
) -> Vec<Arc<TunedState>> {
    if !states.is_empty()
        && let Ok(found) = read::manifests(store, &job.id).await
    {
        let known: BTreeSet<(u32, u64)> =
            found.iter().map(|(_, manifest)| (manifest.run, manifest.step)).collect();
        states.retain(|state| !known.contains(&(state.run, state.step)));
    }
    // When it is not to be told, writing one once too often does no harm.
    states
}

async fn sweep(writer: &Writer) {
    let job = writer.job();
    let keep = job.spec.checkpoint.keep;
    let swept = retention::sweep(writer.store(), &job.id, keep, clock::unix_ms()).await;
    if let Err(error) = swept {
        tracing::warn!(%error, "old checkpoints were not swept");
    }
}

fn tell(
    shared: &Shared,
    job: &JobRecord,
    lineage: &Lineage,
    outcome: Result<Checkpoint, Explained>,
    waited: Duration,
) {
    let (job, generation) = (job.id.clone(), lineage.generation);
    let waited_ms = clock::millis(waited);
    shared.outbox.put(FromWorker::CheckpointReport { job, generation, outcome, waited_ms });
}
