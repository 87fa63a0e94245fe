//! The coordinator's main loop. Everything that can wake it is an [`Input`]; what follows is decided
//! by [`Cluster::apply`] and performed here.
//!
//! What a decision records is on disk before any of its messages leaves: the journal's commit is
//! awaited between the two. Inputs that wait together are committed together. While the journal takes
//! nothing, nothing further is decided.

mod questions;

pub use questions::Question;

use super::journal::{Entry, Journal};
use super::run::{Action, Cluster, Event};
use super::{chores, entries, inputs, staging};
use crate::clock::{self, Steady};
use crate::inputs::Mirror;
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::launch::LauncherStatus;
use ptv2_common::session::{FromWorker, Hello, ToWorker};
use ptv2_common::storage::{Store, StoreAddress};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Inputs that may wait; whoever sends more waits.
pub const INPUTS_WAITING: usize = 1024;
/// Inputs that are decided upon between two commits, at most.
const TOGETHER: usize = 256;
/// Messages that may wait for a worker; one that takes none is disconnected.
pub const MESSAGES_WAITING: usize = 64;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Pause before a journal that failed is written again.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);
/// Jobs that are staged side by side.
pub const STAGED_AT_ONCE: u32 = 2;

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
        /// Number of its last report that is in the journal.
        taken: watch::Sender<u64>,
    },
    /// A worker said something.
    Said {
        /// Who.
        worker: WorkerId,
        /// Over which connection.
        connection: u64,
        /// The report's number, if it is one.
        seq: Option<u64>,
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

/// The loop and all that it acts on.
pub struct Driver {
    cluster: Cluster,
    journal: Journal,
    store: Store,
    store_address: StoreAddress,
    mirror: Arc<Mirror>,
    inputs: mpsc::Receiver<Input>,
    results: mpsc::Sender<Input>,
    connections: BTreeMap<WorkerId, Connection>,
    /// Number of each worker's last report that is in the journal.
    reported: BTreeMap<WorkerId, u64>,
    staging: Arc<Semaphore>,
    /// Grows with each thing that people may want to see.
    changes: watch::Sender<u64>,
    /// What keeps it from deciding, while something does.
    trouble: watch::Sender<Option<Explained>>,
    /// Workers that are on their way, for people.
    launcher: watch::Receiver<LauncherStatus>,
    clock: Steady,
    shutdown: CancellationToken,
}

/// A worker's connection.
struct Connection {
    number: u64,
    outbox: mpsc::Sender<ToWorker>,
    taken: watch::Sender<u64>,
}

/// What was decided and is not carried out yet.
#[derive(Default)]
struct Decided {
    entries: Vec<Entry>,
    actions: Vec<Action>,
    /// Reports that count as taken once the entries are on disk.
    taken: Vec<(WorkerId, u64)>,
}

/// What a driver begins with.
pub struct Beginning {
    /// What was decided before.
    pub cluster: Cluster,
    /// Jobs whose staging was cut off.
    pub unstaged: Vec<JobId>,
    /// Number of each worker's last report that is in the journal.
    pub reported: BTreeMap<WorkerId, u64>,
    /// The time that decisions are made by, not before that of the last decision.
    pub clock: Steady,
    /// Where decisions are kept.
    pub journal: Journal,
    /// The artifact store.
    pub store: Store,
    /// Where it is, for workers.
    pub store_address: StoreAddress,
    /// Workers that are on their way, for people.
    pub launcher: watch::Receiver<LauncherStatus>,
    /// What was fetched of other stores.
    pub mirror: Arc<Mirror>,
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
    /// Turns of staging: whoever holds all [`STAGED_AT_ONCE`] keeps jobs from looking for features.
    pub staging: Arc<Semaphore>,
}

impl Driver {
    /// Sets the loop up, and starts staging again what was cut off.
    pub fn new(beginning: Beginning, shutdown: CancellationToken) -> (Self, Doors) {
        let (sender, inputs) = mpsc::channel(INPUTS_WAITING);
        let (changes, seen) = watch::channel(0);
        let (trouble, troubled) = watch::channel(None);
        let staging = Arc::new(Semaphore::new(STAGED_AT_ONCE as usize));
        let Beginning {
            cluster,
            unstaged,
            reported,
            clock,
            journal,
            store,
            store_address,
            launcher,
            mirror,
        } = beginning;
        let driver = Self {
            cluster,
            launcher,
            journal,
            store,
            store_address,
            mirror,
            inputs,
            results: sender.clone(),
            connections: BTreeMap::new(),
            reported,
            staging: Arc::clone(&staging),
            changes,
            trouble,
            clock,
            shutdown,
        };
        for job in unstaged {
            driver.stage(&job);
        }
        (driver, Doors { inputs: sender, changes: seen, trouble: troubled, staging })
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// When the journal's thread has ended, or its last decision could not be written by then.
    pub async fn run(mut self) -> Result<(), Explained> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut inputs = Vec::with_capacity(TOGETHER);
        let mut is_late = false;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => is_late = true,
                count = self.inputs.recv_many(&mut inputs, TOGETHER) => if count == 0 {
                    return Ok(());
                },
            }
            let mut decided = Decided::default();
            for input in inputs.drain(..) {
                self.handle(input, &mut decided).await?;
            }
            // Nobody is silent whose words still lie here.
            if is_late && self.inputs.is_empty() {
                is_late = false;
                self.decide(Event::Tick, Vec::new(), &mut decided);
            }
            self.carry_out(decided).await?;
        }
    }

    async fn handle(&mut self, input: Input, decided: &mut Decided) -> Result<(), Explained> {
        match input {
            Input::Event(event) => self.decide(event, Vec::new(), decided),
            Input::Said { worker, connection, seq, message } => {
                if self.is_current(&worker, connection) {
                    self.hear(worker, seq, message, decided);
                }
            }
            // What was decided before goes out over the connections of before.
            Input::Connected { hello, connection, outbox, taken } => {
                self.carry_out(std::mem::take(decided)).await?;
                let connection = Connection { number: connection, outbox, taken };
                self.connected(hello, connection, decided);
            }
            Input::Disconnected { worker, connection } => {
                self.carry_out(std::mem::take(decided)).await?;
                // The end of a connection that was superseded says nothing.
                if self.is_current(&worker, connection) {
                    self.connections.remove(&worker);
                    self.decide(Event::Gone(worker), Vec::new(), decided);
                }
            }
            // Whoever asks hears of nothing that is not on disk.
            Input::Asked(question) => {
                self.carry_out(std::mem::take(decided)).await?;
                self.answer(question).await?;
            }
        }
        Ok(())
    }

    fn connected(&mut self, hello: Box<Hello>, connection: Connection, decided: &mut Decided) {
        let worker = hello.worker.clone();
        let timeout = self.cluster.limits().heartbeat_timeout;
        let welcome = ToWorker::Welcome {
            heartbeat_interval_ms: clock::millis(timeout / 5),
            heartbeat_timeout_ms: clock::millis(timeout),
            store: self.store_address.clone(),
        };
        self.connections.insert(worker.clone(), connection);
        if hello.protocol == ptv2_common::session::PROTOCOL {
            self.tell(&worker, welcome);
        }
        self.decide(Event::Joined(hello), Vec::new(), decided);
    }

    fn is_current(&self, worker: &WorkerId, connection: u64) -> bool {
        self.connections.get(worker).is_some_and(|current| current.number == connection)
    }

    /// Takes what a worker says. A report counts once, however often it is sent: its number is in the
    /// journal together with what followed from it.
    fn hear(
        &mut self,
        worker: WorkerId,
        seq: Option<u64>,
        message: Box<FromWorker>,
        decided: &mut Decided,
    ) {
        let known = self.reported.get(&worker).copied().unwrap_or(0);
        if seq.is_some_and(|seq| seq <= known) {
            if message.bears_repeating() {
                self.decide(Event::Said(worker.clone(), message), Vec::new(), decided);
            }
        } else {
            let unix_ms = clock::millis(self.clock.elapsed());
            let is_heard = self.cluster.may_say(&worker, &message);
            let mut entries = Vec::new();
            if is_heard {
                entries = entries::of_report(&self.cluster, &worker, &message, unix_ms);
            } else {
                tracing::warn!(%worker, "it speaks of a job that it never served, and is not heard");
            }
            if let Some(seq) = seq {
                self.reported.insert(worker.clone(), seq);
                entries.push(Entry::Reported { worker: worker.clone(), seq });
            }
            self.decide(Event::Said(worker.clone(), message), entries, decided);
        }
        if let Some(seq) = seq {
            decided.taken.push((worker, seq.max(known)));
        }
    }

    /// Decides. What follows is carried out later.
    fn decide(&mut self, event: Event, entries: Vec<Entry>, decided: &mut Decided) {
        let now = self.clock.elapsed();
        let actions = self.cluster.apply(now, event);
        decided.entries.extend(entries::of_decision(
            &self.cluster,
            &actions,
            clock::millis(now),
            entries,
        ));
        decided.actions.extend(actions);
    }

    /// Writes down what was decided, then acts.
    async fn carry_out(&mut self, decided: Decided) -> Result<(), Explained> {
        let Decided { entries, actions, taken } = decided;
        self.persist(entries).await?;
        self.act(actions);
        for (worker, seq) in taken {
            if let Some(connection) = self.connections.get(&worker) {
                connection.taken.send_replace(seq);
            }
        }
        Ok(())
    }

    /// Decides and carries it out.
    async fn order(&mut self, event: Event) -> Result<(), Explained> {
        let mut decided = Decided::default();
        self.decide(event, Vec::new(), &mut decided);
        self.carry_out(decided).await
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

    /// Starts a job's staging; its result comes back as an event.
    fn stage(&self, job: &JobId) {
        let Some(record) = self.cluster.record_of(job).cloned() else { return };
        let (store, results) = (self.store.clone(), self.results.clone());
        let (turns, mirror) = (Arc::clone(&self.staging), Arc::clone(&self.mirror));
        let needed = self.needed();
        tokio::spawn(async move {
            let _turn = turns.acquire_owned().await;
            let (job, began) = (record.id.clone(), clock::now());
            let staged = async {
                let local = inputs::localized(&mirror, &record, &needed).await?;
                staging::stage(&store, &local).await
            };
            let event = match staged.await {
                Ok(staged) => Event::Staged {
                    truncated: staged.truncated.into_iter().collect(),
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
        let Some(known) = self.connections.get(worker) else { return };
        if known.outbox.try_send(message).is_ok() {
            return;
        }
        // One that has gone is known to be gone in a moment.
        if !known.outbox.is_closed() {
            tracing::warn!(%worker, "a worker takes no messages and is disconnected");
        }
        let ended = Input::Disconnected { worker: worker.clone(), connection: known.number };
        let results = self.results.clone();
        tokio::spawn(async move { drop(results.send(ended).await) });
    }
}
