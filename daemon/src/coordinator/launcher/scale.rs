//! How many workers are started, and which are let go: a pure function of (state, now, what is seen).

use crate::clock::millis;
use crate::config::LauncherConfig;
use crate::coordinator::run::{Hand, Load, Use};
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use ptv2_common::launch::{LaunchStage, LaunchStatus, LaunchTrouble, LauncherStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What waits in Slurm's queue is cancelled when it has not been needed for this long: people submit one job
/// after the other. Or for as long as an idle worker is kept, where that is less.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that has lived for so long shows that starting them works.
const PROVEN: Duration = Duration::from_secs(60);
/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// What was let go is ended by force when it is still there after this long.
const LEAVING: Duration = Duration::from_secs(60);

/// A launch as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The launch.
    pub id: String,
    /// Slurm's number of its job, once it is known.
    pub slurm_job: Option<String>,
    /// How far it is.
    pub at: At,
}

/// How far a launch is, without a look at the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// Slurm was asked, and has not answered.
    Submitting,
    /// It waits.
    Pending {
        /// As Slurm says it.
        state: String,
        /// As Slurm says it.
        reason: String,
    },
    /// It runs.
    Running,
    /// It has ended. This is said once.
    Ended {
        /// Whether it ended well.
        well: bool,
        /// What is known of its end.
        how: Explained,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Start so many.
    Start(u32),
    /// Drain a worker, if it is still spare.
    LetGo(WorkerId),
    /// End a launch that has no worker to be drained.
    End(String),
}

/// What the launcher remembers from one look to the next.
#[derive(Debug)]
pub struct Scaler {
    config: LauncherConfig,
    launches: BTreeMap<String, Launch>,
    /// Launches that have ended, and whose workers still count as connected.
    over: BTreeSet<String>,
    idle_since: BTreeMap<WorkerId, Duration>,
    /// Since when there are more than are needed.
    excess_since: Option<Duration>,
    /// Nothing is started before.
    next_start: Duration,
    /// Failures in a row.
    failures: u32,
    /// What failed last, unless a worker has connected since.
    error: Option<Explained>,
    /// Whether it was the asking that failed, and not what came of it.
    was_refused: bool,
    wanted: u32,
}

/// A launch that has not ended.
#[derive(Debug)]
struct Launch {
    slurm_job: Option<String>,
    stage: LaunchStage,
    since: Duration,
    /// When its worker was first seen.
    connected_at: Option<Duration>,
    /// Its worker gets no work.
    is_suspect: bool,
}

impl Launch {
    fn new(now: Duration) -> Self {
        Self {
            slurm_job: None,
            stage: LaunchStage::Submitting,
            since: now,
            connected_at: None,
            is_suspect: false,
        }
    }

    /// Takes in how far it is, and what its worker does.
    fn becomes(&mut self, now: Duration, hand: Option<&Hand>, at: At) {
        self.is_suspect = hand.is_some_and(|hand| hand.use_ == Use::Suspect);
        let is_leaving = self.stage == LaunchStage::Leaving
            || hand.is_some_and(|hand| hand.use_ == Use::Leaving);
        let stage = match (hand, at) {
            _ if is_leaving => LaunchStage::Leaving,
            (Some(hand), _) => LaunchStage::Connected { worker: hand.id.to_string() },
            (None, At::Pending { state, reason }) => LaunchStage::Pending { state, reason },
            (None, At::Submitting) => LaunchStage::Submitting,
            (None, At::Running | At::Ended { .. }) => LaunchStage::Starting,
        };
        if std::mem::discriminant(&stage) != std::mem::discriminant(&self.stage) {
            self.since = now;
        }
        self.stage = stage;
    }

    fn leaves(&mut self, now: Duration) {
        (self.stage, self.since) = (LaunchStage::Leaving, now);
    }

    /// Whether it is, or will be, a worker that can be given work.
    fn counts(&self) -> bool {
        self.stage != LaunchStage::Leaving && !self.is_suspect
    }
}

impl Scaler {
    /// One that has started nothing.
    pub fn new(config: LauncherConfig) -> Self {
        Self {
            config,
            launches: BTreeMap::new(),
            over: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            excess_since: None,
            next_start: Duration::ZERO,
            failures: 0,
            error: None,
            was_refused: false,
            wanted: 0,
        }
    }

    /// Decides. `now` never runs backwards.
    pub fn step(&mut self, now: Duration, load: &Load, seen: Vec<Seen>) -> Vec<Act> {
        self.wanted = load.wanted;
        let mut acts = Vec::new();
        self.observe(now, load, seen, &mut acts);
        let is_own = |id: &String| self.launches.contains_key(id) || self.over.contains(id);
        let others = load.workers.iter().filter(|hand| {
            matches!(hand.use_, Use::Busy | Use::Idle) && !hand.launch.as_ref().is_some_and(is_own)
        });
        let needed = load.wanted.saturating_sub(count(others.count()));
        let target = needed.clamp(self.config.min, self.config.max);
        let have = count(self.launches.values().filter(|launch| launch.counts()).count());
        self.start(now, target.saturating_sub(have), &mut acts);
        self.let_go(now, have.saturating_sub(target), load, &mut acts);
        acts
    }

    /// One could not be started.
    pub fn refused(&mut self, now: Duration, error: Explained) {
        self.failed(now, error);
        self.was_refused = true;
    }

    /// One was started; what will come of it is not known.
    pub fn accepted(&mut self) {
        if std::mem::take(&mut self.was_refused) {
            self.error = None;
        }
    }

    fn failed(&mut self, now: Duration, error: Explained) {
        self.was_refused = false;
        self.failures = self.failures.saturating_add(1);
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16));
        self.next_start = now + doubled.min(LONGEST_PAUSE).max(self.config.every);
        tracing::warn!(failures = self.failures, %error, "a worker could not be started");
        self.error = Some(error);
    }

    /// A worker was drained. It may be gone before the next look.
    pub fn gone(&mut self, now: Duration, worker: &WorkerId) {
        let is_its = |launch: &&mut Launch| match &launch.stage {
            LaunchStage::Connected { worker: own } => *own == worker.0,
            LaunchStage::Submitting
            | LaunchStage::Pending { .. }
            | LaunchStage::Starting
            | LaunchStage::Leaving => false,
        };
        if let Some(launch) = self.launches.values_mut().find(is_its) {
            launch.leaves(now);
        }
    }

    /// What people see of it.
    pub fn status(&self) -> LauncherStatus {
        let mut launches: Vec<LaunchStatus> = self
            .launches
            .iter()
            .map(|(id, launch)| LaunchStatus {
                id: id.clone(),
                slurm_job: launch.slurm_job.clone(),
                stage: launch.stage.clone(),
                since_unix_ms: millis(launch.since),
            })
            .collect();
        // Of those that came together, Slurm begins with the lower number.
        let number = |launch: &LaunchStatus| launch.slurm_job.as_ref()?.parse::<u64>().ok();
        launches.sort_by_key(|launch| (launch.since_unix_ms, number(launch)));
        let trouble = self.error.as_ref().map(|error| LaunchTrouble {
            failures: self.failures,
            error: error.clone(),
            again_unix_ms: millis(self.next_start),
        });
        let LauncherConfig { kind, min, max, .. } = self.config;
        LauncherStatus { kind, min, max, wanted: self.wanted, launches, trouble }
    }

    /// Takes in what is seen of each launch and of its worker.
    fn observe(&mut self, now: Duration, load: &Load, seen: Vec<Seen>, acts: &mut Vec<Act>) {
        let present: BTreeSet<String> = seen.iter().map(|seen| seen.id.clone()).collect();
        self.launches.retain(|id, _| present.contains(id));
        self.over.retain(|id| load.workers.iter().any(|hand| hand.launch.as_ref() == Some(id)));
        let mut failure = None;
        for Seen { id, slurm_job, at } in seen {
            let failed = if let At::Ended { well, how } = at {
                self.ended(now, &id, well, how)
            } else {
                let hand = load.workers.iter().find(|hand| hand.launch.as_ref() == Some(&id));
                let launch = self.launches.entry(id.clone()).or_insert_with(|| Launch::new(now));
                launch.slurm_job = slurm_job.or_else(|| launch.slurm_job.take());
                launch.becomes(now, hand, at);
                self.judge(now, id, acts)
            };
            failure = failed.or(failure);
        }
        // Several at once are one failure: they have one cause.
        if let Some(error) = failure {
            self.failed(now, error);
        }
        self.idle_since.retain(|id, _| load.workers.iter().any(|hand| hand.id == *id));
        for hand in &load.workers {
            match hand.use_ {
                Use::Idle => drop(self.idle_since.entry(hand.id.clone()).or_insert(now)),
                Use::Busy | Use::Suspect | Use::Leaving => drop(self.idle_since.remove(&hand.id)),
            }
        }
    }

    /// What follows from how far a launch is; gives why, if it has failed.
    fn judge(&mut self, now: Duration, id: String, acts: &mut Vec<Act>) -> Option<Explained> {
        let launch = self.launches.get_mut(&id)?;
        let since = now.saturating_sub(launch.since);
        match launch.stage {
            LaunchStage::Connected { .. } => {
                let connected_at = *launch.connected_at.get_or_insert(now);
                self.error = None;
                if now.saturating_sub(connected_at) >= PROVEN {
                    self.failures = 0;
                }
            }
            LaunchStage::Starting if since >= self.config.start_timeout => {
                let name = name(launch.slurm_job.as_ref());
                launch.leaves(now);
                acts.push(Act::End(id));
                let waited = humantime::format_duration(self.config.start_timeout);
                return Some(
                    Explained::new(format!("{name} was not connected within {waited}"))
                        .at("launcher.start_timeout")
                        .hint("see what it says: does it reach the coordinator from there?"),
                );
            }
            LaunchStage::Leaving if since >= LEAVING => {
                launch.leaves(now);
                acts.push(Act::End(id));
            }
            LaunchStage::Submitting
            | LaunchStage::Pending { .. }
            | LaunchStage::Starting
            | LaunchStage::Leaving => {}
        }
        None
    }

    /// A launch has ended; gives why, where nobody wanted that.
    fn ended(&mut self, now: Duration, id: &str, well: bool, how: Explained) -> Option<Explained> {
        self.over.insert(id.to_owned());
        let launch = self.launches.remove(id)?;
        let lived = launch.connected_at.map(|at| now.saturating_sub(at));
        let is_unwanted = match lived {
            _ if launch.stage == LaunchStage::Leaving => false,
            None => true,
            Some(lived) => !well && lived < PROVEN,
        };
        tracing::info!(launch = id, how = %how, "a launched worker ended");
        is_unwanted.then_some(how)
    }

    fn start(&mut self, now: Duration, lacking: u32, acts: &mut Vec<Act>) {
        let room = self.config.max.saturating_sub(count(self.launches.len()));
        // After a failure one shows whether it is over.
        let is_coming = |launch: &Launch| {
            matches!(
                launch.stage,
                LaunchStage::Submitting | LaunchStage::Pending { .. } | LaunchStage::Starting
            )
        };
        let at_once = match self.error {
            None => self.config.at_once,
            Some(_) => u32::from(!self.launches.values().any(is_coming)),
        };
        let starts = lacking.min(room).min(at_once);
        if starts > 0 && now >= self.next_start {
            // A failure that is told meanwhile puts it off further.
            self.next_start = now + self.config.every;
            acts.push(Act::Start(starts));
        }
    }

    fn let_go(&mut self, now: Duration, mut excess: u32, load: &Load, acts: &mut Vec<Act>) {
        let idle = self.config.idle;
        // Those that are given no work any more are in nobody's number.
        for hand in load.workers.iter().filter(|hand| hand.use_ == Use::Suspect) {
            if hand.launch.as_ref().is_some_and(|id| self.launches.contains_key(id)) {
                acts.push(Act::LetGo(hand.id.clone()));
            }
        }
        if excess == 0 {
            self.excess_since = None;
            return;
        }
        let since = *self.excess_since.get_or_insert(now);
        if now.saturating_sub(since) >= idle.min(PATIENCE) {
            let mut waiting: Vec<(&String, &mut Launch)> = self
                .launches
                .iter_mut()
                .filter(|(_, launch)| matches!(launch.stage, LaunchStage::Pending { .. }))
                .collect();
            waiting.sort_by_key(|(_, launch)| std::cmp::Reverse(launch.since));
            for (id, launch) in waiting.into_iter().take(excess as usize) {
                launch.leaves(now);
                excess -= 1;
                acts.push(Act::End(id.clone()));
            }
        }
        let mut spare: Vec<(Duration, &WorkerId)> = load
            .workers
            .iter()
            .filter(|hand| hand.use_ == Use::Idle)
            .filter(|hand| hand.launch.as_ref().is_some_and(|id| self.launches.contains_key(id)))
            .filter_map(|hand| Some((*self.idle_since.get(&hand.id)?, &hand.id)))
            .filter(|(since, _)| now.saturating_sub(*since) >= idle)
            .collect();
        spare.sort();
        let going = spare.into_iter().take(excess as usize);
        acts.extend(going.map(|(_, worker)| Act::LetGo(worker.clone())));
    }
}

/// What a launch is called in an error.
fn name(slurm_job: Option<&String>) -> String {
    slurm_job.map_or_else(|| "a launched worker".into(), |job| format!("Slurm job {job}"))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
