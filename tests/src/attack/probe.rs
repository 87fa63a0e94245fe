//! What others notice of an attack: the coordinator's memory, how soon it answers, how fast a job trains.

use super::Target;
use super::http::{self, Request};
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

/// A line of a process's status, in bytes.
pub(super) fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
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
    /// Steps a second of the job that trains.
    pub(super) steps_per_s: f64,
}

/// Looks on until it is asked what it saw.
pub(super) struct Watch {
    pid: u32,
    resident: u64,
    began: Instant,
    over: Sender<()>,
    thread: JoinHandle<Looks>,
}

/// What one thread has seen: times of answers, and the first and last step with when.
#[derive(Default)]
struct Looks {
    health: Vec<Duration>,
    status: Vec<Duration>,
    steps: Vec<(Instant, u64)>,
}

impl Watch {
    /// Begins. The highest mark of memory is of what follows.
    pub(super) fn begin(target: &Target) -> Self {
        let pid = target.pid();
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        let resident = memory(pid, "VmRSS");
        let (over, ends) = channel();
        let address = target.address;
        let requests = [Request::new("GET", "/healthz").bytes(), job_request(target)];
        let thread = std::thread::spawn(move || look(address, &requests, &ends));
        Self { pid, resident, began: now(), over, thread }
    }

    /// Ends, and says what was seen.
    pub(super) fn end(self) -> Seen {
        let time = self.began.elapsed();
        let growth = memory(self.pid, "VmHWM").saturating_sub(self.resident);
        drop(self.over);
        let looks = self.thread.join().unwrap();
        let steps_per_s = match (looks.steps.first(), looks.steps.last()) {
            (Some((first, from)), Some((last, to))) if last > first => {
                (to - from) as f64 / (*last - *first).as_secs_f64()
            }
            (_, _) => f64::NAN,
        };
        let [health, status] = [looks.health, looks.status].map(high);
        Seen { growth, time, health, status, steps_per_s }
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
