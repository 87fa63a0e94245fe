//! The coordinator's process around the pure core: journal, connections, slow chores, sudden death.

use super::check::Check;
use super::mutant::Mutant;
use super::world::{Ask, Happening, World, between, millis};
use super::{Action, Cluster, Event, Fact, Limits, Recorded};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::manifest::checkpoint_key;
use ptv2_common::session::{FromWorker, ToWorker};
use std::collections::BTreeMap;
use std::time::Duration;

/// 2026, so that a wall clock that is an hour behind is still a time.
const WALL: Duration = Duration::from_secs(1_790_000_000);

/// A coordinator that runs.
pub(super) struct Coordinator {
    pub(super) cluster: Cluster,
    /// Which life of the coordinator it is: results for a former one are nobody's.
    pub(super) life: u64,
    /// Each worker's connection.
    pub(super) connections: BTreeMap<WorkerId, u64>,
    /// It is stopped, or its disk is full, until then.
    pub(super) stalled_until: Duration,
    started: Duration,
    clock_at_start: Duration,
}

/// Where a decision is cut off.
enum Death {
    BeforeJournal,
    AfterJournal,
    /// After so many of its actions.
    Amidst(usize),
}

impl Coordinator {
    /// A clock that never runs backwards, though the wall clock may.
    fn clock(&self, now: Duration) -> Duration {
        self.clock_at_start + (now - self.started)
    }
}

/// Limits that are short beside a life, so that each is met.
fn limits() -> Limits {
    Limits {
        heartbeat_timeout: millis(6_000),
        loading_timeout: millis(20_000),
        joining_timeout: millis(15_000),
        step_timeout: millis(15_000),
        pair_failures: 2,
        pair_cooldown: millis(60_000),
        growth_delay: millis(3_000),
        ..Limits::default()
    }
}

impl World {
    /// Starts a coordinator from the journal. The wall clock may have been set, an hour either way.
    pub(super) fn start_coordinator(&mut self) -> Check {
        let last = self.journal.last().map_or(Duration::ZERO, |(at, _)| *at);
        let wall = WALL + self.now + millis(self.rng.u64(0..7_200_000)) - millis(3_600_000);
        let clock_at_start = wall.max(last);
        let facts = self.journal.iter().cloned();
        let (cluster, unstaged) = Cluster::replay(limits(), clock_at_start, facts);
        self.lives += 1;
        self.note(|| format!("the coordinator starts with {} facts", self.journal.len()));
        self.coordinator = Some(Coordinator {
            cluster,
            life: self.lives,
            connections: BTreeMap::new(),
            stalled_until: Duration::ZERO,
            started: self.now,
            clock_at_start,
        });
        for job in unstaged {
            self.stage(job);
        }
        self.look()
    }

    /// The process is gone, with all its connections.
    pub(super) fn kill_coordinator(&mut self) {
        let Some(dead) = self.coordinator.take() else { return };
        self.note(|| "the coordinator dies".into());
        for (worker, connection) in dead.connections {
            let notice = between(&mut self.rng, 1, 1_000);
            self.push(notice, Happening::Cut { worker, connection });
        }
        let pause = between(&mut self.rng, 100, 9_000);
        self.push(pause, Happening::Restart);
    }

    /// What people see now is checked.
    pub(super) fn look(&mut self) -> Check {
        let Some(coordinator) = &self.coordinator else { return Ok(()) };
        let now = coordinator.clock(self.now);
        self.check.seen(&coordinator.cluster.statuses(now))
    }

    /// Decides, writes down, acts; unless death comes in between.
    pub(super) fn decide(&mut self, event: Event) -> Check {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        let now = coordinator.clock(self.now);
        let heard = match self.mutant {
            Some(mutant) => mutant.hears(event.clone(), |job| self.check.current(job)),
            None => Some(event.clone()),
        };
        let mut actions =
            heard.map_or_else(Vec::new, |event| coordinator.cluster.apply(now, event));
        if let Some(mutant) = self.mutant {
            actions = mutant.does(actions);
        }
        self.check.decided(&event, &actions)?;
        let death = self.death(&actions);
        let report = self.hearing.take();
        if matches!(death, Some(Death::BeforeJournal)) {
            self.kill_coordinator();
            return Ok(());
        }
        for action in &actions {
            if let Action::Note { kind, .. } = action {
                self.count(kind);
            }
            if let Action::Record(fact) = action {
                self.note(|| format!("journal: {}", brief(fact)));
                self.check.recorded(fact)?;
                self.journal.push((now, fact.clone()));
            }
        }
        if let Some((worker, seq)) = report {
            self.reported.insert(worker, seq);
        }
        let acted = match death {
            Some(Death::BeforeJournal | Death::AfterJournal) => 0,
            Some(Death::Amidst(count)) => count,
            None => actions.len(),
        };
        self.act(&actions[..acted])?;
        if death.is_some() {
            self.kill_coordinator();
        }
        Ok(())
    }

    fn death(&mut self, actions: &[Action]) -> Option<Death> {
        let records = actions.iter().any(|action| matches!(action, Action::Record(_)));
        if !records || self.is_calm || self.rng.u32(0..60) != 0 {
            return None;
        }
        let (kind, death) = match self.rng.u32(0..3) {
            0 => ("died before the journal", Death::BeforeJournal),
            1 => ("died after the journal", Death::AfterJournal),
            _ => ("died amidst its actions", Death::Amidst(self.rng.usize(0..=actions.len()))),
        };
        self.count(kind);
        let starts = |action: &Action| matches!(action, Action::Record(Fact::Started { .. }));
        if actions.iter().any(starts) {
            self.count("died in a change of generation");
        }
        Some(death)
    }

    fn act(&mut self, actions: &[Action]) -> Check {
        for action in actions {
            match action {
                Action::Record(_) | Action::MarkEnd(..) | Action::Note { .. } => {}
                Action::Stage(job) => self.stage(job.clone()),
                Action::Prepare(job, generation) => {
                    let life = self.lives;
                    let after = between(&mut self.rng, 5, 300);
                    self.push(after, Happening::Prepare(life, job.clone(), *generation));
                }
                Action::Tell(worker, message) => {
                    self.check.told(message)?;
                    let coordinator = self.coordinator.as_ref();
                    let connection = coordinator.and_then(|it| it.connections.get(worker)).copied();
                    if let Some(connection) = connection {
                        let told = Happening::Told {
                            worker: worker.clone(),
                            connection,
                            message: Box::new(message.clone()),
                        };
                        self.send((connection, false), told);
                    }
                }
                Action::Disconnect(worker) => {
                    let coordinator = self.coordinator.as_mut();
                    let connection = coordinator.and_then(|it| it.connections.remove(worker));
                    if let Some(connection) = connection {
                        let cut = Happening::Cut { worker: worker.clone(), connection };
                        self.push(millis(1), cut);
                    }
                }
            }
        }
        Ok(())
    }

    fn stage(&mut self, job: JobId) {
        let fails = !self.is_calm && self.rng.u32(0..40) == 0;
        let event = if fails {
            Event::StagingFailed { job, error: Explained::new("a row is bad") }
        } else {
            Event::Staged {
                job,
                features: "f".into(),
                majority_class: 0.5,
                staged_s: 0.5,
                truncated: Vec::new(),
            }
        };
        let after = between(&mut self.rng, 20, 3_000);
        self.push(after, Happening::Result(self.lives, Box::new(event)));
    }

    /// The chore that finds a generation's first checkpoint.
    pub(super) fn prepare(&mut self, life: u64, job: JobId, generation: Generation) -> Check {
        let event = if self.store.fails {
            let error = Explained::new("the store is away");
            Event::PrepareFailed { job, generation, error }
        } else {
            let fenced = self.mutant != Some(Mutant::StaleCheckpoint);
            let newest = self.store.newest(&job, fenced);
            if let Some(newest) = newest {
                self.count("resumed from the store");
                self.check.resumed(&self.store, &job, newest)?;
            }
            let resume = newest.map(|(step, generation)| checkpoint_key(&job, step, generation));
            Event::Prepared { job, generation, group_key: "k".into(), resume }
        };
        let after = between(&mut self.rng, 1, 100);
        self.push(after, Happening::Result(life, Box::new(event)));
        Ok(())
    }

    /// A worker's message arrives, over a connection that may have been superseded. A report counts once.
    pub(super) fn hear(
        &mut self,
        worker: WorkerId,
        (connection, seq): (u64, Option<u64>),
        message: FromWorker,
    ) -> Check {
        if self.coordinator.is_none() {
            return Ok(());
        }
        if !matches!(message, FromWorker::Heartbeat { .. } | FromWorker::Progress { .. }) {
            self.note(|| format!("{worker} says {seq:?} {}", brief(&message)));
        }
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        if let FromWorker::Hello(hello) = message {
            coordinator.connections.insert(worker, connection);
            return self.decide(Event::Joined(Box::new(hello)));
        }
        if coordinator.connections.get(&worker) != Some(&connection) {
            return Ok(());
        }
        let known = self.reported.get(&worker).copied().unwrap_or(0);
        let is_new = seq.is_none_or(|seq| seq > known);
        if is_new || message.bears_repeating() {
            self.hearing = seq.filter(|_| is_new).map(|seq| (worker.clone(), seq));
            self.decide(Event::Said(worker.clone(), Box::new(message)))?;
        }
        if let (Some(seq), true) = (seq, self.coordinator.is_some()) {
            let message = Box::new(ToWorker::Taken { seq: seq.max(known) });
            self.send((connection, false), Happening::Told { worker, connection, message });
        }
        Ok(())
    }

    /// A connection's end is seen.
    pub(super) fn lose(&mut self, worker: WorkerId, connection: u64) -> Check {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        if coordinator.connections.get(&worker) != Some(&connection) {
            return Ok(());
        }
        coordinator.connections.remove(&worker);
        self.decide(Event::Gone(worker))
    }

    /// Someone asks for something, and asks again until there is an answer.
    pub(super) fn answer(&mut self, ask: Ask) -> Check {
        let life = self.lives;
        if self.coordinator.is_some() {
            let event = match &ask {
                Ask::Submit(record) => Event::Submitted(record.clone()),
                Ask::Cancel(job) => Event::Cancel(job.clone()),
                Ask::Retry(job) => Event::Retry(job.clone()),
                Ask::Drain(worker) => Event::Drain(worker.clone()),
            };
            self.decide(event)?;
        }
        let lives = self.coordinator.as_ref().is_some_and(|it| it.life == life);
        if lives || self.mutant == Some(Mutant::AnswerBeforeJournal) {
            return match ask {
                Ask::Submit(record) => self.check.submitted(&record.id),
                Ask::Cancel(job) => self.check.cancelled(&job),
                Ask::Retry(_) | Ask::Drain(_) => Ok(()),
            };
        }
        let after = between(&mut self.rng, 500, 2_000);
        self.push(after, Happening::Ask(ask));
        Ok(())
    }
}

/// The beginning tells it all.
pub(super) fn brief(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(120).collect()
}

/// The journal's content.
pub(super) type Facts = Vec<Recorded>;
