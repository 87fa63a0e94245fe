//! The coordinator's main loop. Everything that can wake it is an [`Input`]; what follows is decided
//! by [`Cluster::apply`] and performed here.
//!
//! What a decision records is on disk before any of its messages leaves: the journal's commit is
//! awaited between the two. While the journal takes nothing, nothing further is decided.

use super::journal::{Entry, Journal};
use super::run::{Action, Cluster, Event};
use super::{chores, staging};
use crate::clock::{self, Steady};
use ptv2_common::api::{JobStatus, LogLevel, WorkerStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::session::{FromWorker, Hello, ToWorker};
use ptv2_common::storage::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Inputs that may wait; whoever sends more waits.
pub const INPUTS_WAITING: usize = 1024;
/// Messages that may wait for a worker; one that takes none is disconnected.
pub const MESSAGES_WAITING: usize = 64;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Pause before a journal that failed is written again.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);
/// Jobs that are staged side by side.
const STAGED_AT_ONCE: usize = 2;

/// Everything that can wake the coordinator.
pub enum Input {
    /// Something that is decided upon.
    Event(Event),
    /// A worker's connection said who it is.
    Connected {
        /// Who.
        hello: Box<Hello>,
        /// The connection's number: a worker that connects anew has another.
        connection: u64,
        /// Messages for it. Dropping this closes the connection.
        outbox: mpsc::Sender<ToWorker>,
    },
    /// A worker said something.
    Said {
        /// Who.
        worker: WorkerId,
        /// Over which connection.
        connection: u64,
        /// What.
        message: Box<FromWorker>,
    },
    /// A worker's connection ended.
    Disconnected {
        /// Whose.
        worker: WorkerId,
        /// Which.
        connection: u64,
    },
    /// Someone asks, or orders.
    Asked(Question),
}

/// What the API asks. Each answer reflects everything that was decided before it.
pub enum Question {
    /// Accept a checked job.
    Submit(Box<JobRecord>, oneshot::Sender<Result<JobStatus, Explained>>),
    /// Jobs that an id, an id's beginning, or a name means.
    Find(String, oneshot::Sender<Vec<JobStatus>>),
    /// All jobs, newest first.
    Jobs(oneshot::Sender<Vec<JobStatus>>),
    /// A job's record.
    Record(JobId, oneshot::Sender<Option<JobRecord>>),
    /// Cancel a job.
    Cancel(JobId, oneshot::Sender<Option<JobStatus>>),
    /// Try a job again.
    Retry(JobId, oneshot::Sender<Option<JobStatus>>),
    /// All workers.
    Workers(oneshot::Sender<Vec<WorkerStatus>>),
    /// Drain a worker; answers whether there is one of that id.
    Drain(WorkerId, oneshot::Sender<bool>),
}

/// The loop and all that it acts on.
pub struct Driver {
    cluster: Cluster,
    journal: Journal,
    store: Store,
    store_url: String,
    inputs: mpsc::Receiver<Input>,
    results: mpsc::Sender<Input>,
    connections: BTreeMap<WorkerId, (u64, mpsc::Sender<ToWorker>)>,
    staging: Arc<Semaphore>,
    /// Grows with each thing that people may want to see.
    changes: watch::Sender<u64>,
    /// What keeps it from deciding, while something does.
    trouble: watch::Sender<Option<Explained>>,
    clock: Steady,
    shutdown: CancellationToken,
}

/// What a driver begins with.
pub struct Beginning {
    /// What was decided before.
    pub cluster: Cluster,
    /// Jobs whose staging was cut off.
    pub unstaged: Vec<JobId>,
    /// The time that decisions are made by, not before that of the last decision.
    pub clock: Steady,
    /// Where decisions are kept.
    pub journal: Journal,
    /// The artifact store.
    pub store: Store,
    /// Its URL, for workers.
    pub store_url: String,
}

/// The ways into a driver.
#[derive(Clone)]
pub struct Doors {
    /// Inputs of the loop.
    pub inputs: mpsc::Sender<Input>,
    /// Changes with each thing that people may want to see.
    pub changes: watch::Receiver<u64>,
    /// What keeps the driver from deciding, while something does.
    pub trouble: watch::Receiver<Option<Explained>>,
}

impl Driver {
    /// Sets the loop up, and starts staging again what was cut off.
    pub fn new(beginning: Beginning, shutdown: CancellationToken) -> (Self, Doors) {
        let (sender, inputs) = mpsc::channel(INPUTS_WAITING);
        let (changes, seen) = watch::channel(0);
        let (trouble, troubled) = watch::channel(None);
        let Beginning { cluster, unstaged, clock, journal, store, store_url } = beginning;
        let driver = Self {
            cluster,
            journal,
            store,
            store_url,
            inputs,
            results: sender.clone(),
            connections: BTreeMap::new(),
            staging: Arc::new(Semaphore::new(STAGED_AT_ONCE)),
            changes,
            trouble,
            clock,
            shutdown,
        };
        for job in unstaged {
            driver.stage(&job);
        }
        (driver, Doors { inputs: sender, changes: seen, trouble: troubled })
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// When the journal's thread has ended, or its last decision could not be written by then.
    pub async fn run(mut self) -> Result<(), Explained> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(()),
                input = self.inputs.recv() => match input {
                    Some(input) => input,
                    None => return Ok(()),
                },
                _ = ticks.tick() => Input::Event(Event::Tick),
            };
            self.handle(input).await?;
        }
    }

    async fn handle(&mut self, input: Input) -> Result<(), Explained> {
        match input {
            Input::Event(event) => self.decide(event, Vec::new()).await,
            Input::Connected { hello, connection, outbox } => {
                let worker = hello.worker.clone();
                let welcome = ToWorker::Welcome {
                    heartbeat_interval_ms: clock::millis(
                        self.cluster.limits().heartbeat_timeout / 5,
                    ),
                    store: self.store_url.clone(),
                };
                self.connections.insert(worker.clone(), (connection, outbox));
                if hello.protocol == ptv2_common::session::PROTOCOL {
                    self.tell(&worker, welcome);
                }
                self.decide(Event::Joined(hello), Vec::new()).await
            }
            Input::Said { worker, connection, message } => {
                if !self.is_current(&worker, connection) {
                    return Ok(());
                }
                let entries = entries_of(&worker, &message, clock::millis(self.clock.elapsed()));
                self.decide(Event::Said(worker, message), entries).await
            }
            Input::Disconnected { worker, connection } => {
                // The end of a connection that was superseded says nothing.
                if !self.is_current(&worker, connection) {
                    return Ok(());
                }
                self.connections.remove(&worker);
                self.decide(Event::Gone(worker), Vec::new()).await
            }
            Input::Asked(question) => self.answer(question).await,
        }
    }

    fn is_current(&self, worker: &WorkerId, connection: u64) -> bool {
        self.connections.get(worker).is_some_and(|(current, _)| *current == connection)
    }

    /// Decides, writes down, then acts.
    async fn decide(&mut self, event: Event, entries: Vec<Entry>) -> Result<(), Explained> {
        let actions = self.cluster.apply(self.clock.elapsed(), event);
        self.persist(self.entries(&actions, entries)).await?;
        self.act(actions);
        Ok(())
    }

    /// Accepts a job, or nothing at all: one that the journal does not take was never there.
    async fn submit(&mut self, record: Box<JobRecord>) -> Result<JobStatus, Explained> {
        let limit = self.cluster.limits().queue_limit as usize;
        if self.cluster.waiting() >= limit {
            return Err(Explained::new(format!("{limit} jobs wait already"))
                .at("queue_limit")
                .hint("wait for some to end, or raise `limits.queue_limit`"));
        }
        let (job, before) = (record.id.clone(), self.cluster.clone());
        let actions = self.cluster.apply(self.clock.elapsed(), Event::Submitted(record));
        if let Err(error) = self.journal.write(self.entries(&actions, Vec::new())).await {
            self.cluster = before;
            return Err(error.hint("the job was not accepted: make room, then submit it again"));
        }
        self.changes.send_modify(|count| *count += 1);
        self.act(actions);
        self.status(&job).ok_or_else(|| Explained::new("the job was not taken"))
    }

    /// What is to be journaled of a decision.
    fn entries(&self, actions: &[Action], mut entries: Vec<Entry>) -> Vec<Entry> {
        let unix_ms = clock::millis(self.clock.elapsed());
        for action in actions {
            match action {
                Action::Record(fact) => entries.push(Entry::Fact { unix_ms, fact: fact.clone() }),
                Action::Note { job, kind, message } => {
                    tracing::info!(%job, kind, "{message}");
                    entries.push(Entry::Event {
                        job: job.clone(),
                        unix_ms,
                        kind: (*kind).into(),
                        message: message.clone(),
                    });
                }
                Action::Stage(_)
                | Action::Prepare(..)
                | Action::Tell(..)
                | Action::MarkEnd(..)
                | Action::Disconnect(_) => {}
            }
        }
        entries
    }

    /// Writes entries down, however long it takes: what was decided cannot be taken back. Meanwhile
    /// people are told what is wrong, and workers train on.
    async fn persist(&self, entries: Vec<Entry>) -> Result<(), Explained> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries: Arc<[Entry]> = entries.into();
        while let Err(error) = self.journal.write(Arc::clone(&entries)).await {
            tracing::error!(%error, "the coordinator decides nothing until its journal is written");
            self.trouble.send_replace(Some(error.clone()));
            tokio::select! {
                () = tokio::time::sleep(JOURNAL_PAUSE) => {}
                () = self.shutdown.cancelled() => return Err(error),
            }
        }
        if self.trouble.send_replace(None).is_some() {
            tracing::info!("the journal is written again");
        }
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Record(_) | Action::Note { .. } => {}
                Action::Stage(job) => self.stage(&job),
                Action::Prepare(job, generation) => {
                    let (store, results) = (self.store.clone(), self.results.clone());
                    tokio::spawn(async move {
                        let event = chores::prepare(store, job, generation).await;
                        // The loop has ended: the next start forms a new generation.
                        drop(results.send(Input::Event(event)).await);
                    });
                }
                Action::Tell(worker, message) => self.tell(&worker, message),
                Action::Disconnect(worker) => drop(self.connections.remove(&worker)),
                Action::MarkEnd(job, generation, end) => {
                    tokio::spawn(chores::mark_end(self.store.clone(), job, generation, end));
                }
            }
        }
    }

    fn status(&self, job: &JobId) -> Option<JobStatus> {
        self.cluster.status(self.clock.elapsed(), job)
    }

    /// Starts a job's staging; its result comes back as an event.
    fn stage(&self, job: &JobId) {
        let Some(record) = self.cluster.record_of(job).cloned() else { return };
        let (store, results) = (self.store.clone(), self.results.clone());
        let turns = Arc::clone(&self.staging);
        tokio::spawn(async move {
            let _turn = turns.acquire_owned().await;
            let (job, began) = (record.id.clone(), clock::now());
            let event = match staging::stage(&store, &record).await {
                Ok(staged) => Event::Staged {
                    job,
                    features: staged.features,
                    majority_class: staged.majority_class,
                    staged_s: clock::now().saturating_duration_since(began).as_secs_f64(),
                },
                Err(error) => Event::StagingFailed { job, error },
            };
            // The loop has ended: the next start stages again.
            drop(results.send(Input::Event(event)).await);
        });
    }

    fn tell(&self, worker: &WorkerId, message: ToWorker) {
        let Some((connection, outbox)) = self.connections.get(worker) else { return };
        if outbox.try_send(message).is_ok() {
            return;
        }
        tracing::warn!(%worker, "a worker takes no messages and is disconnected");
        let ended = Input::Disconnected { worker: worker.clone(), connection: *connection };
        let results = self.results.clone();
        tokio::spawn(async move { drop(results.send(ended).await) });
    }

    async fn answer(&mut self, question: Question) -> Result<(), Explained> {
        // Whoever asked may have gone away: answers that nobody takes are dropped.
        match question {
            // It was told meanwhile that nothing can be done now: then nothing must be done later.
            Question::Submit(_, reply) if reply.is_closed() => {}
            Question::Cancel(_, reply) | Question::Retry(_, reply) if reply.is_closed() => {}
            Question::Drain(_, reply) if reply.is_closed() => {}
            Question::Submit(record, reply) => drop(reply.send(self.submit(record).await)),
            Question::Find(text, reply) => {
                let ids = self.cluster.matching(&text);
                drop(reply.send(ids.iter().filter_map(|id| self.status(id)).collect()));
            }
            Question::Jobs(reply) => {
                drop(reply.send(self.cluster.statuses(self.clock.elapsed())));
            }
            Question::Record(job, reply) => {
                drop(reply.send(self.cluster.record_of(&job).cloned()));
            }
            Question::Cancel(job, reply) => {
                self.decide(Event::Cancel(job.clone()), Vec::new()).await?;
                drop(reply.send(self.status(&job)));
            }
            Question::Retry(job, reply) => {
                self.decide(Event::Retry(job.clone()), Vec::new()).await?;
                drop(reply.send(self.status(&job)));
            }
            Question::Workers(reply) => {
                drop(reply.send(self.cluster.workers(self.clock.elapsed())));
            }
            Question::Drain(worker, reply) => {
                let known = self.cluster.knows_worker(&worker);
                self.decide(Event::Drain(worker), Vec::new()).await?;
                let _ = reply.send(known);
            }
        }
        Ok(())
    }
}

/// What a worker's message puts into the journal whatever is decided about it.
fn entries_of(worker: &WorkerId, message: &FromWorker, unix_ms: u64) -> Vec<Entry> {
    let log = |job: &JobId, level: LogLevel, message: String| Entry::Log {
        job: job.clone(),
        unix_ms,
        level,
        source: worker.to_string(),
        message,
    };
    match message {
        FromWorker::Log { job, level, message } => vec![log(job, *level, message.clone())],
        FromWorker::Progress { job, metrics, .. } => metrics
            .iter()
            .map(|row| Entry::Metrics { job: job.clone(), row: row.clone() })
            .collect(),
        FromWorker::Running { job, generation, place } => {
            let message = format!("generation {generation} runs here from step {}", place.step);
            vec![log(job, LogLevel::Info, message)]
        }
        FromWorker::JobFailed { job, error, .. } => {
            vec![log(job, LogLevel::Error, error.to_string())]
        }
        FromWorker::CheckpointReport { job, outcome: Err(error), .. } => {
            vec![log(job, LogLevel::Warn, format!("a checkpoint could not be written: {error}"))]
        }
        FromWorker::Hello(_)
        | FromWorker::Heartbeat { .. }
        | FromWorker::Left { .. }
        | FromWorker::CheckpointReport { outcome: Ok(_), .. }
        | FromWorker::Finished { .. }
        | FromWorker::Draining => Vec::new(),
    }
}
