//! What others notice of an attack: the coordinator's memory, how soon it answers, how fast a job trains.

use super::Target;
use super::http::{self, Request};
use crate::e2e::harness::usage::{Growth, usage};
use ptv2_common::access::Scope;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// The job's status as a reader asks for it, over a connection of its own.
pub(super) fn status(target: &Target) -> Option<Value> {
    let request = job_request(target);
    http::ask(target.address, &request).filter(|answer| answer.status == 200).map(|one| one.json())
}

fn job_request(target: &Target) -> Vec<u8> {
    let path = format!("/v1/jobs/{}", target.job);
    Request::new("GET", &path).token(target.token(Scope::Read)).bytes()
}

/// What was seen from the outside while something else went on.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Memory at its highest, more than before.
    pub(super) growth: u64,
    /// How long it went on.
    pub(super) time: Duration,
    /// How long an answer of `/healthz` and of a job's status took: the longest, and 99 of 100.
    pub(super) health: [Duration; 2],
    pub(super) status: [Duration; 2],
    /// Processor time of the attacker and the coordinator, in a second.
    pub(super) cores: f64,
    /// Steps a second of the job that trains.
    pub(super) steps_per_s: f64,
    /// The job's steps of which the first and the last answer told.
    pub(super) steps: [u64; 2],
}

/// Processor time of this process and the coordinator, from some moment on.
pub(super) struct Spent {
    pids: [u32; 2],
    began: Instant,
    before: Duration,
}

impl Spent {
    pub(super) fn begin(target: &Target) -> Self {
        let pids = [std::process::id(), target.pid()];
        Self { pids, began: now(), before: cpu(pids) }
    }

    /// So much in a second.
    pub(super) fn cores(&self) -> f64 {
        (cpu(self.pids) - self.before).div_duration_f64(self.began.elapsed())
    }
}

fn cpu(pids: [u32; 2]) -> Duration {
    pids.into_iter().map(|pid| usage(pid).unwrap().cpu).sum()
}

/// Looks on until it is asked what it saw.
pub(super) struct Watch {
    memory: Growth,
    spent: Spent,
    over: Sender<()>,
    thread: JoinHandle<Looks>,
}

/// What one thread has seen: times of answers, and the job's step with when it was.
#[derive(Default)]
struct Looks {
    health: Vec<Duration>,
    status: Vec<Duration>,
    steps: Vec<(Instant, u64)>,
}

impl Watch {
    /// Begins. The highest mark of memory is of what follows.
    pub(super) fn begin(target: &Target) -> Self {
        let memory = Growth::of([target.pid()]);
        let (over, ends) = channel();
        let address = target.address;
        let requests = [Request::new("GET", "/healthz").bytes(), job_request(target)];
        let thread = std::thread::spawn(move || look(address, &requests, &ends));
        Self { memory, spent: Spent::begin(target), over, thread }
    }

    /// Ends, and says what was seen.
    pub(super) fn end(self) -> Seen {
        let (time, cores) = (self.spent.began.elapsed(), self.spent.cores());
        let growth = self.memory.most();
        drop(self.over);
        let looks = self.thread.join().unwrap();
        let ((first, from), (last, to)) = (looks.steps[0], looks.steps[looks.steps.len() - 1]);
        // No number after a single look.
        let steps_per_s = (to - from) as f64 / (last - first).as_secs_f64();
        let [health, status] = [looks.health, looks.status].map(high);
        Seen { growth, time, health, status, cores, steps_per_s, steps: [from, to] }
    }
}

fn look(address: SocketAddr, requests: &[Vec<u8>; 2], ends: &Receiver<()>) -> Looks {
    let mut looks = Looks::default();
    loop {
        let mut took = [Duration::ZERO; 2];
        let [_, job] = [0, 1].map(|at| {
            let began = now();
            let answer = http::ask(address, &requests[at]).expect("an answer meanwhile");
            assert_eq!(answer.status, 200, "{}", answer.text());
            took[at] = began.elapsed();
            answer
        });
        looks.health.push(took[0]);
        looks.status.push(took[1]);
        looks.steps.push((now(), job.json()["step"].as_u64().unwrap()));
        if ends.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
            return looks;
        }
    }
}

/// The longest of some times, and that of which 99 of 100 are no longer.
pub(super) fn high(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1));
    let [longest, most] = [at(100), at(99)];
    [longest.copied().unwrap_or_default(), most.copied().unwrap_or_default()]
}
