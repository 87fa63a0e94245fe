//! What is done to the coordinator, and what is measured meanwhile: all connect, jobs begin, calm, a
//! tenth dies at once, as many join, the coordinator is killed, all jobs end.

use super::board::{Board, Newest, Traffic};
use super::coordinator::{Coordinator, job, until};
use super::figures::{Table, size, spread, time};
use super::worker::{Worker, id};
use super::{Options, Shape};
use crate::e2e::harness::usage::{Usage, usage};
use ptv2_common::api::{JobState, JobStatus};
use ptv2_common::ids::{Generation, JobId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Workers of each of many jobs.
const SMALL: usize = 8;
/// Pause between two questions of the client beside the workers.
const QUESTION: Duration = Duration::from_millis(25);
/// Questions after the status of one job before the list of all is asked for.
const LIST_EVERY: usize = 4;
/// So long no generation may change after the coordinator's restart.
const SETTLED: Duration = Duration::from_secs(5);

/// A run under way.
struct Course {
    shape: Shape,
    options: Options,
    coordinator: Coordinator,
    board: Arc<Board>,
    workers: BTreeMap<usize, JoinHandle<String>>,
    jobs: Vec<String>,
    table: Table,
}

/// Runs a shape from start to end.
pub(super) async fn run(shape: Shape, options: &Options, data: &Path) -> String {
    let title = match shape {
        Shape::ManyJobs => format!("{} jobs of {SMALL} workers", options.workers / SMALL),
        Shape::OneJob => format!("one job of {} workers", options.workers),
    };
    println!("{title}");
    let mut course = Course {
        shape,
        options: options.clone(),
        coordinator: Coordinator::start(&options.program, data).await,
        board: Arc::new(Board::new(options.steps_per_s)),
        workers: BTreeMap::new(),
        jobs: Vec::new(),
        table: Table::default(),
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = format!("{} on {cores} cores", load.split(' ').next().unwrap_or_default());
    course.table.line("load of the machine before", load);
    course.connect().await;
    course.begin(data).await;
    course.calm().await;
    let dead = course.kill_workers().await;
    course.join_again(dead).await;
    course.kill_coordinator().await;
    course.end().await;
    format!("{title}, {} steps/s each\n\n{}", options.steps_per_s, course.table)
}

impl Course {
    async fn connect(&mut self) {
        let idle = self.coordinator.usage();
        let began = Instant::now();
        self.spawn(0..self.options.workers);
        self.all_are_connected().await;
        let welcomed = began.elapsed();
        until("the list of workers", async || {
            let workers = self.coordinator.workers().await?;
            (workers.len() == self.options.workers).then_some(())
        })
        .await;
        let listed = began.elapsed();
        let used = self.coordinator.usage();
        let what = format!("all {} are connected", self.options.workers);
        self.table.line(what, time(welcomed));
        self.table.line("… and listed", time(listed));
        let memory = format!("{:.0} → {:.0} MiB", idle.resident_mib(), used.resident_mib());
        self.table.line("memory: nobody there → all connected", memory);
    }

    fn spawn(&mut self, numbers: std::ops::Range<usize>) {
        let dial = self.coordinator.dial();
        for number in numbers {
            let worker = Worker::new(number, dial.clone(), Arc::clone(&self.board));
            self.workers.insert(number, tokio::spawn(worker.live()));
        }
    }

    async fn all_are_connected(&self) {
        let wanted = self.workers.len();
        until("the workers", async || (self.board.connections() == wanted).then_some(())).await;
    }

    async fn begin(&mut self, data: &Path) {
        let workers = self.options.workers;
        let specs = match self.shape {
            Shape::ManyJobs => {
                let spec = job(data, "superglue/cb", 32, SMALL, &format!("1..{SMALL}"));
                vec![spec; workers / SMALL]
            }
            Shape::OneJob => {
                let range = format!("{}..{workers}", workers / 2);
                vec![job(data, "superglue/boolq", 2 * workers, workers, &range)]
            }
        };
        let began = Instant::now();
        for spec in &specs {
            self.jobs.push(self.coordinator.submit(spec).await);
        }
        self.table.line(format!("{} submitted", specs.len()), time(began.elapsed()));
        let whole = self.all_are_whole(&BTreeMap::new(), workers).await;
        let took = whole.iter().map(|at| *at - began).max().unwrap_or_default();
        self.table.line("all members of all jobs run, rows staged first", time(took));
        let told = self.told_whole(&BTreeMap::new(), began).await;
        self.table.line("… and the status says so", time(told));
        let newest = self.board.newest();
        let largest = newest.values().max_by_key(|group| group.start_bytes);
        if let Some(Newest { members, start_bytes, .. }) = largest {
            let each = size(start_bytes / (*members as u64).max(1));
            let bytes = format!("{} ({members} × {each})", size(*start_bytes));
            self.table.line("bytes of the starts of one generation", bytes);
        }
    }

    /// Waits until the newest generation of each job is whole, newer than one named for it, and all
    /// workers are in one; when each came to be so.
    async fn all_are_whole(
        &self,
        older: &BTreeMap<JobId, Generation>,
        workers: usize,
    ) -> Vec<Instant> {
        until("groups that are whole", async || {
            let newest = self.board.newest();
            let sizes: usize = newest.values().map(|group| group.members).sum();
            let is_newer = |(job, group): (&JobId, &Newest)| {
                older.get(job).is_none_or(|before| group.generation > *before)
            };
            if newest.len() < self.jobs.len() || sizes != workers || !newest.iter().all(is_newer) {
                return None;
            }
            let concerned =
                newest.iter().filter(|(job, _)| older.is_empty() || older.contains_key(job));
            concerned.map(|(_, group)| group.whole_at).collect()
        })
        .await
    }

    /// Waits until the list of jobs says that all train, in newer generations than those named.
    async fn told_whole(&self, older: &BTreeMap<JobId, Generation>, began: Instant) -> Duration {
        until("the status", async || {
            let jobs = self.coordinator.jobs().await?;
            let is_whole = |status: &JobStatus| {
                let before = older.get(&JobId(status.id.clone()));
                status.state == JobState::Running
                    && status.reason.is_none()
                    && before.is_none_or(|before| status.generation > before.0)
            };
            (jobs.len() == self.jobs.len() && jobs.iter().all(is_whole)).then_some(())
        })
        .await;
        began.elapsed()
    }

    async fn calm(&mut self) {
        drop(self.board.lags());
        let before = Sample::take(&self.coordinator, &self.board.traffic);
        let (one, list) = self.ask(self.options.calm).await;
        let after = Sample::take(&self.coordinator, &self.board.traffic);
        let seconds = (after.at - before.at).as_secs_f64();
        let names = ["heartbeats", "reports of steps", "others"];
        let mut total = 0.0;
        for (name, (messages, bytes)) in names.into_iter().zip(after.sent_since(&before)) {
            total += messages / seconds;
            let figure = format!("{:.0} /s, {:.0} kB/s", messages / seconds, bytes / seconds / 1e3);
            self.table.line(format!("to the coordinator: {name}"), figure);
        }
        self.table.line("to the coordinator: all messages", format!("{total:.0} /s"));
        self.table.line("a report is in the journal after", spread(self.board.lags()));
        let share =
            |used: Duration| format!("{:.0} % of a core", 100.0 * used.as_secs_f64() / seconds);
        self.table.line("coordinator", share(after.usage.cpu - before.usage.cpu));
        self.table.line("the simulated workers beside it", share(after.own.cpu - before.own.cpu));
        let memory =
            format!("{:.0} MiB (peak {:.0})", after.usage.resident_mib(), after.usage.peak_mib());
        self.table.line("coordinator's memory", memory);
        self.table.line("journal", size(self.coordinator.journal_bytes()));
        self.table.line("status of a job", spread(one));
        self.table.line("list of the jobs", spread(list));
    }

    /// Asks for so long, as a client beside the workers; how long each answer took.
    async fn ask(&self, length: Duration) -> (Vec<Duration>, Vec<Duration>) {
        let (mut one, mut list) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for number in 0.. {
            let asked = Instant::now();
            if asked - began >= length {
                break;
            }
            if number % LIST_EVERY == 0 {
                assert!(self.coordinator.jobs().await.is_some(), "no list of the jobs");
                list.push(asked.elapsed());
            } else {
                let job = &self.jobs[number % self.jobs.len()];
                assert!(self.coordinator.job(job).await.is_some(), "no status of {job}");
                one.push(asked.elapsed());
            }
            tokio::time::sleep(QUESTION).await;
        }
        (one, list)
    }

    /// A tenth of the workers dies at once; how many.
    async fn kill_workers(&mut self) -> usize {
        let generations = self.generations();
        let starts = self.board.traffic.starts.read();
        let usage = self.coordinator.usage();
        let mut alive: Vec<usize> = self.workers.keys().copied().collect();
        fastrand::Rng::with_seed(11).shuffle(&mut alive);
        alive.truncate(self.options.workers.div_ceil(10));
        let dead: Vec<_> = alive.iter().map(|number| id(*number)).collect();
        let hurt = self.jobs_of(&dead.iter().map(ToString::to_string).collect()).await;
        let older: BTreeMap<JobId, Generation> = generations
            .iter()
            .filter(|(job, _)| hurt.contains(job))
            .map(|(a, b)| (a.clone(), *b))
            .collect();
        let began = Instant::now();
        for number in &alive {
            if let Some(worker) = self.workers.remove(number) {
                worker.abort();
            }
        }
        self.board.lost(&dead);
        let whole = self.all_are_whole(&older, self.workers.len()).await;
        let told = self.told_whole(&older, began).await;
        let what = format!(
            "{} workers die; {} jobs lose some: whole again after",
            dead.len(),
            older.len()
        );
        self.table.line(what, spread(whole.iter().map(|at| *at - began).collect()));
        self.table.line("… and the status says so", time(told));
        self.tell_change(&generations, starts, usage);
        dead.len()
    }

    /// Jobs that some of the workers train.
    async fn jobs_of(&self, workers: &BTreeSet<String>) -> BTreeSet<JobId> {
        let all = self.coordinator.workers().await.unwrap();
        let concerned = all.into_iter().filter(|worker| workers.contains(&worker.id));
        concerned.filter_map(|worker| worker.job.map(JobId)).collect()
    }

    /// What a change of groups has cost.
    fn tell_change(
        &mut self,
        before: &BTreeMap<JobId, Generation>,
        starts: (u64, u64),
        usage: Usage,
    ) {
        let after = self.generations();
        let grown = |job: &JobId| {
            let (new, old) = (after.get(job)?.0, before.get(job)?.0);
            (new > old).then(|| new - old)
        };
        let generations: Vec<u64> = before.keys().filter_map(grown).collect();
        let most = generations.iter().max().copied().unwrap_or_default();
        let text = format!("{} (at most {most} of a job)", generations.iter().sum::<u64>());
        self.table.line("… generations", text);
        let (messages, bytes) = self.board.traffic.starts.read();
        let text = format!("{}, {}", messages - starts.0, size(bytes - starts.1));
        self.table.line("… starts", text);
        let now = self.coordinator.usage();
        let text = format!(
            "{:.2} s, {:.0} MiB at most",
            (now.cpu - usage.cpu).as_secs_f64(),
            now.peak_mib()
        );
        self.table.line("… coordinator's processor time, memory so far", text);
    }

    fn generations(&self) -> BTreeMap<JobId, Generation> {
        let newest = self.board.newest().into_iter();
        newest.map(|(job, group)| (job, group.generation)).collect()
    }

    /// As many new workers as died join the groups that have room.
    async fn join_again(&mut self, count: usize) {
        let (generations, starts) = (self.generations(), self.board.traffic.starts.read());
        let (usage, began) = (self.coordinator.usage(), Instant::now());
        self.spawn(self.options.workers..self.options.workers + count);
        let whole = self.all_are_whole(&BTreeMap::new(), self.workers.len()).await;
        let took = whole.iter().filter(|at| **at > began).map(|at| *at - began).max();
        let what = format!("{count} workers join (groups wait 200 ms for company): all in after");
        self.table.line(what, time(took.unwrap_or_default()));
        self.tell_change(&generations, starts, usage);
        self.told_whole(&BTreeMap::new(), began).await;
    }

    async fn kill_coordinator(&mut self) {
        let generations = self.generations();
        self.coordinator.kill();
        until("all sessions' ends", async || (self.board.connections() == 0).then_some(())).await;
        let began = Instant::now();
        self.coordinator.spawn();
        until("the coordinator", async || self.coordinator.jobs().await).await;
        self.table
            .line("coordinator killed and started again: it answers after", time(began.elapsed()));
        self.all_are_connected().await;
        self.table.line("… all workers are connected", time(began.elapsed()));
        let told = self.told_whole(&BTreeMap::new(), began).await;
        self.table.line("… the status says that all jobs train", time(told));
        let _answers = self.ask(SETTLED).await;
        let now = self.generations();
        let changed = now.iter().filter(|(job, now)| generations.get(*job) != Some(now)).count();
        self.table.line("… jobs whose generation changed", changed);
        let memory = self.coordinator.usage();
        self.table.line(
            "… memory",
            format!("{:.0} MiB (peak {:.0})", memory.resident_mib(), memory.peak_mib()),
        );
    }

    async fn end(&mut self) {
        let began = Instant::now();
        self.board.end();
        until("the jobs' ends", async || {
            let jobs = self.coordinator.jobs().await?;
            jobs.iter().all(|job| job.state == JobState::Succeeded).then_some(())
        })
        .await;
        self.table.line("all ranks finish: all jobs have succeeded after", time(began.elapsed()));
        let what = "times a worker gave up a silent coordinator, in all of this";
        self.table.line(what, self.board.silences());
        for (number, worker) in &self.workers {
            assert!(!worker.is_finished(), "worker {number} has ended");
        }
    }
}

/// A moment's counts.
struct Sample {
    at: Instant,
    usage: Usage,
    own: Usage,
    sent: [(u64, u64); 3],
}

impl Sample {
    fn take(coordinator: &Coordinator, traffic: &Traffic) -> Self {
        let sent =
            [&traffic.heartbeats, &traffic.progress, &traffic.others].map(|count| count.read());
        Self {
            at: Instant::now(),
            usage: coordinator.usage(),
            own: usage(std::process::id()).unwrap(),
            sent,
        }
    }

    /// Messages and bytes of each kind.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn sent_since(&self, before: &Self) -> [(f64, f64); 3] {
        let mut since = [(0.0, 0.0); 3];
        for (kind, (now, then)) in since.iter_mut().zip(self.sent.iter().zip(before.sent)) {
            *kind = ((now.0 - then.0) as f64, (now.1 - then.1) as f64);
        }
        since
    }
}
