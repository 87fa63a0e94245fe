//! What the simulated workers share in place of sockets between them: who has met whom, who is dead,
//! and what went over the coordinator's sessions.

use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::session::Start;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How a group stands, as each of its members can see it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meeting {
    /// Some members have not come yet.
    Waiting,
    /// All are there and train.
    Complete(Pace),
    /// A member is dead.
    Broken(WorkerId),
    /// The last step is done.
    Over,
}

/// Which step a group is at: the simulated ranks compute nothing, and so need no clock of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// When the group began.
    since: Instant,
    /// Steps that were applied by then.
    pub(super) from: u64,
    steps_per_s: f64,
}

impl Pace {
    /// Steps that are applied at a time.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of steps, never negative"
    )]
    pub(super) fn step(&self, now: Instant) -> u64 {
        self.from + ((now - self.since).as_secs_f64() * self.steps_per_s) as u64
    }

    /// When the step after those that are applied now will be.
    #[expect(clippy::cast_precision_loss, reason = "a small count of steps")]
    pub(super) fn next(&self, now: Instant) -> Instant {
        let steps = self.step(now) - self.from + 1;
        // A millisecond more, or rounding could say that it is not applied yet.
        let after = Duration::from_secs_f64(steps as f64 / self.steps_per_s);
        self.since + after + Duration::from_millis(1)
    }
}

/// A generation, from the first of its starts that came to a worker.
#[derive(Debug)]
struct Group {
    members: Vec<WorkerId>,
    arrived: BTreeSet<WorkerId>,
    /// The furthest step that a member brought along.
    furthest: u64,
    running: BTreeSet<WorkerId>,
    whole_at: Option<Instant>,
    start_bytes: u64,
    meeting: watch::Sender<Meeting>,
}

/// A job's newest generation, as its members see it.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    /// The generation.
    pub(super) generation: Generation,
    /// Its size.
    pub(super) members: usize,
    /// When the last member said that it runs.
    pub(super) whole_at: Option<Instant>,
    /// Bytes of the members' starts.
    pub(super) start_bytes: u64,
}

/// Messages and their bytes.
#[derive(Debug, Default)]
pub(super) struct Count {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    /// One more.
    pub(super) fn add(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Messages and bytes so far.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// What went over the sessions.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Workers' heartbeats.
    pub(super) heartbeats: Count,
    /// Workers' reports of steps.
    pub(super) progress: Count,
    /// What else workers said.
    pub(super) others: Count,
    /// The coordinator's starts.
    pub(super) starts: Count,
    /// What else the coordinator said.
    pub(super) orders: Count,
}

/// What the simulated workers share.
#[derive(Debug)]
pub(super) struct Board {
    steps_per_s: f64,
    groups: Mutex<BTreeMap<(JobId, Generation), Group>>,
    dead: Mutex<BTreeSet<WorkerId>>,
    lags: Mutex<Vec<Duration>>,
    /// Whether all jobs come to their ends.
    ending: AtomicBool,
    /// Workers that are welcomed and connected.
    connected: AtomicI64,
    /// Times that a worker gave up a coordinator that was silent.
    missed: AtomicU64,
    /// What went over the sessions.
    pub(super) traffic: Traffic,
}

impl Board {
    /// A board on which nothing stands.
    pub(super) fn new(steps_per_s: f64) -> Self {
        Self {
            steps_per_s,
            groups: Mutex::default(),
            dead: Mutex::default(),
            lags: Mutex::default(),
            ending: AtomicBool::new(false),
            connected: AtomicI64::new(0),
            missed: AtomicU64::new(0),
            traffic: Traffic::default(),
        }
    }

    /// A member was told to start.
    pub(super) fn told(&self, start: &Start, bytes: usize) {
        let mut groups = self.groups.lock().unwrap();
        group_of(&mut groups, start).start_bytes += bytes as u64;
    }

    /// A member has come to its group; what it can see of it from now on.
    pub(super) fn arrive(
        &self,
        start: &Start,
        worker: &WorkerId,
        step: u64,
    ) -> watch::Receiver<Meeting> {
        let dead = self.dead.lock().unwrap();
        let mut groups = self.groups.lock().unwrap();
        let group = group_of(&mut groups, start);
        group.arrived.insert(worker.clone());
        group.furthest = group.furthest.max(step);
        if let Some(lost) = group.members.iter().find(|member| dead.contains(*member)) {
            group.meeting.send_replace(Meeting::Broken(lost.clone()));
        } else if group.arrived.len() == group.members.len() {
            let (from, steps_per_s) = (group.furthest, self.steps_per_s);
            let pace = Pace { since: Instant::now(), from, steps_per_s };
            group.meeting.send_replace(Meeting::Complete(pace));
        }
        group.meeting.subscribe()
    }

    /// A member has said that it runs.
    pub(super) fn runs(&self, start: &Start, worker: &WorkerId) {
        let mut groups = self.groups.lock().unwrap();
        let group = group_of(&mut groups, start);
        group.running.insert(worker.clone());
        if group.running.len() == group.members.len() {
            group.whole_at.get_or_insert(Instant::now());
            if self.ending.load(Ordering::SeqCst) {
                group.meeting.send_replace(Meeting::Over);
            }
        }
    }

    /// Workers have died: whoever trains with them sees it.
    pub(super) fn lost(&self, workers: &[WorkerId]) {
        let mut dead = self.dead.lock().unwrap();
        dead.extend(workers.iter().cloned());
        for group in self.groups.lock().unwrap().values_mut() {
            if let Some(lost) = group.members.iter().find(|member| dead.contains(*member)) {
                group.meeting.send_replace(Meeting::Broken(lost.clone()));
            }
        }
    }

    /// All jobs come to their ends; those whose group is not whole just now, as soon as it is.
    pub(super) fn end(&self) {
        let groups = self.groups.lock().unwrap();
        self.ending.store(true, Ordering::SeqCst);
        for group in groups.values().filter(|group| group.whole_at.is_some()) {
            group.meeting.send_if_modified(|meeting| {
                let trains = matches!(meeting, Meeting::Complete(_));
                if trains {
                    *meeting = Meeting::Over;
                }
                trains
            });
        }
    }

    /// The newest generation of each job.
    pub(super) fn newest(&self) -> BTreeMap<JobId, Newest> {
        let groups = self.groups.lock().unwrap();
        let newest = groups.iter().map(|((job, generation), group)| {
            let newest = Newest {
                generation: *generation,
                members: group.members.len(),
                whole_at: group.whole_at,
                start_bytes: group.start_bytes,
            };
            (job.clone(), newest)
        });
        // In the order of generations: the last of a job stays.
        newest.collect()
    }

    /// A report was taken, so long after it was sent.
    pub(super) fn taken(&self, lag: Duration) {
        self.lags.lock().unwrap().push(lag);
    }

    /// What reports took from being sent to being taken, since this was asked last.
    pub(super) fn lags(&self) -> Vec<Duration> {
        std::mem::take(&mut self.lags.lock().unwrap())
    }

    /// A worker was welcomed.
    pub(super) fn connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker's connection ended.
    pub(super) fn disconnected(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// A worker gives up a coordinator that was silent for too long.
    pub(super) fn missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Times that a worker gave up a coordinator that was silent.
    pub(super) fn silences(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Workers that are welcomed and connected.
    pub(super) fn connections(&self) -> usize {
        usize::try_from(self.connected.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

fn group_of<'a>(
    groups: &'a mut BTreeMap<(JobId, Generation), Group>,
    start: &Start,
) -> &'a mut Group {
    groups.entry((start.job.id.clone(), start.generation)).or_insert_with(|| Group {
        members: start.members.iter().map(|member| member.worker.clone()).collect(),
        arrived: BTreeSet::new(),
        furthest: 0,
        running: BTreeSet::new(),
        whole_at: None,
        start_bytes: 0,
        meeting: watch::Sender::new(Meeting::Waiting),
    })
}
