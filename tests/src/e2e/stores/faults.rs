//! A store's server fails in the middle of a job: nothing is lost, no step waits, people are told.

use super::super::harness::{Cluster, hash, poll, superglue, tiny_cb};
use super::serve_on;
use crate::stores::proxy::{Fault, Met, Proxy, Rule};
use crate::stores::servers;
use serde_json::Value;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Rows of a whole batch of the job.
const BATCH: f64 = 12.0;
/// A fault that seems to slow the job is tried so often.
const LOOKS: usize = 3;

/// How long a job of this test is, and how long a fault lasts at least, in steps.
#[derive(Clone, Copy)]
struct Size {
    epochs: u32,
    steps_of_fault: u64,
}

/// What came of one fault.
struct Row {
    fault: Fault,
    requests: usize,
    behind_s: f64,
    /// Times of the job's steps while the store failed, sorted, in milliseconds.
    during_ms: Vec<f64>,
    /// Those of its other steps: of the same minute, on a machine that others may use, too.
    else_ms: Vec<f64>,
}

struct Course<'a> {
    cluster: Cluster,
    proxy: Proxy,
    data: &'a Path,
    size: Size,
    /// What an undisturbed job came to.
    calm: Value,
}

/// Times of a job's steps of whole batches: of those that are meant, and of the others.
fn times_ms(cluster: &Cluster, id: &str, meant: &Range<u64>) -> (Vec<f64>, Vec<f64>) {
    let metrics = cluster.json(&["metrics", id]);
    let rows = metrics.as_array().unwrap().iter().filter(|row| row.get("split").is_none());
    // The first one of a worker's life is slower; the last batch of an epoch has one row.
    let (mut during, mut other) = (Vec::new(), Vec::new());
    for row in rows {
        let step = row["step"].as_u64().unwrap();
        if step > 10 && step % 4 != 0 {
            let times = if meant.contains(&step) { &mut during } else { &mut other };
            times.push(BATCH / row["rows_per_s"].as_f64().unwrap() * 1e3);
        }
    }
    during.sort_by(f64::total_cmp);
    other.sort_by(f64::total_cmp);
    (during, other)
}

/// Of sorted values, the one that this share of them does not exceed.
fn quantile(sorted: &[f64], per_cent: usize) -> f64 {
    sorted[(sorted.len() * per_cent / 100).min(sorted.len() - 1)]
}

impl<'a> Course<'a> {
    fn begin(data: &'a Path, size: Size, prefix: &str, patience: &str) -> Self {
        let cloud = servers::s3();
        let proxy = Proxy::before(cloud.listens);
        let more = format!("patience = {patience:?}\nretries = 1");
        let mut cluster = serve_on(cloud, (proxy.address, prefix), data, &more);
        cluster.worker(1, &[]);
        let mut course = Self { cluster, proxy, data, size, calm: Value::Null };
        let id = course.submit_once();
        course.calm = course.cluster.done(&id);
        course
    }

    fn submit(&self) -> String {
        let epochs = format!("training.epochs={}", self.size.epochs);
        let more = ["--set", &epochs, "--set", "checkpoint.every=20"];
        self.cluster.submit(&tiny_cb(self.data, ""), &more)
    }

    /// Submits with a key to which the store's answer is lost, until it is told that it is taken: one job.
    fn submit_once(&self) -> String {
        let (cluster, epochs) = (&self.cluster, format!("training.epochs={}", self.size.epochs));
        let file = cluster.file("keyed.toml", &tiny_cb(self.data, ""));
        let submit = ["submit", &file, "--set", &epochs, "--set", "checkpoint.every=20"];
        let submit = [submit.as_slice(), &["--idempotency-key", "k"]].concat();
        self.proxy.does(Rule { fault: Fault::AnswerLost, met: Met::Writes, times: 1 });
        let submitted = || {
            let run = cluster.ctl(&submit);
            run.status.success().then(|| super::text(&run.stdout).trim().to_owned())
        };
        let id = poll("the submit", submitted);
        assert_eq!(self.proxy.hits(), 1);
        assert_eq!(submitted().as_ref(), Some(&id));
        assert_eq!(cluster.json(&["status"]).as_array().unwrap().len(), 1);
        id
    }

    /// Runs a job, in the middle of which the store does this.
    fn with(&self, rule: Rule) -> Row {
        let (cluster, fault) = (&self.cluster, rule.fault);
        let id = self.submit();
        cluster.has_checkpoints(&id, 1);
        self.proxy.does(rule);
        let began = cluster.status(&id)["step"].as_u64().unwrap();
        let behind = poll("word of the store", || {
            let status = cluster.status(&id);
            assert_eq!(status["state"], "running", "{fault:?}: {status:#}");
            status["storage_behind"].is_object().then_some(status)
        });
        let status = cluster.reaches(&id, began + self.size.steps_of_fault);
        assert_eq!(status["state"], "running", "{fault:?}: the job is too short: {status:#}");
        let ended = status["step"].as_u64().unwrap();
        let requests = self.proxy.hits();
        self.proxy.heals();
        poll("the store's return", || {
            cluster.status(&id)["storage_behind"].is_null().then_some(())
        });
        let status = cluster.done(&id);
        self.nothing_is_lost(&id, &status);
        let since = behind["storage_behind"]["since_unix_ms"].as_u64().unwrap();
        assert!(since >= behind["submitted_unix_ms"].as_u64().unwrap(), "{behind:#}");
        let back = self.taken_after(&id, since);
        let (during_ms, else_ms) = times_ms(cluster, &id, &(began..ended));
        Row { fault, requests, behind_s: back as f64 / 1e3, during_ms, else_ms }
    }

    /// How long after this moment the next checkpoint was in the store, in milliseconds.
    fn taken_after(&self, id: &str, since: u64) -> u64 {
        let events = self.cluster.json(&["events", id]);
        let taken = events.as_array().unwrap().iter().find_map(|event| {
            let at = event["unix_ms"].as_u64()?;
            (event["kind"] == "checkpoint" && at >= since).then_some(at)
        });
        taken.unwrap() - since
    }

    fn nothing_is_lost(&self, id: &str, status: &Value) {
        assert_eq!(hash(status), hash(&self.calm), "{status:#}");
        assert_eq!(status["generation"], 1, "{status:#}");
        let total = status["total_steps"].as_u64().unwrap();
        self.cluster.check_steps(id, total);
        let checkpoints = self.cluster.json(&["checkpoints", id]);
        let mut steps: Vec<u64> = checkpoints
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps.last(), Some(&total), "{checkpoints:#}");
        steps.dedup();
        assert_eq!(steps.len(), checkpoints.as_array().unwrap().len(), "{checkpoints:#}");
        for which in ["last", "best"] {
            let to = format!("{id}-{which}");
            let pulled = self.cluster.ctl(&["pull", id, "--checkpoint", which, "--to", &to]);
            assert!(pulled.status.success(), "{}", super::text(&pulled.stderr));
        }
    }
}

fn until_healed(fault: Fault, met: Met) -> Rule {
    Rule { fault, met, times: usize::MAX }
}

impl Row {
    /// That steps were slower than while nothing failed.
    fn slow(&self, patience: Duration) -> Option<String> {
        let [p99, p99_else] = [&self.during_ms, &self.else_ms].map(|times| quantile(times, 99));
        if p99 >= p99_else * 5.0 + 50.0 {
            return Some(format!("{:?}: p99 {p99:.0} ms, else {p99_else:.0}", self.fault));
        }
        // One step that waited for the store is enough, and p99 would not show it.
        let waited = of_a_step_that_waits(self.fault, patience)?;
        let longest = Duration::from_secs_f64(self.during_ms.last()? / 1e3);
        let why = || format!("{:?}: a step took {longest:?}", self.fault);
        (longest >= waited / 5).then(why)
    }
}

/// How long a step would take that waited for the store, where that is seconds.
fn of_a_step_that_waits(fault: Fault, patience: Duration) -> Option<Duration> {
    match fault {
        Fault::Late(time) => Some(time),
        Fault::BlackHole => Some(patience),
        Fault::Status(_) | Fault::SlowDown | Fault::Reset | Fault::Cut(_) | Fault::AnswerLost => {
            None
        }
    }
}

/// The short form: each kind of harm once.
#[test]
fn a_store_that_fails_in_the_middle_of_a_job_costs_nothing() {
    let Some(data) = superglue() else { return };
    let size = Size { epochs: 150, steps_of_fault: 40 };
    let course = Course::begin(&data, size, "faults", "2s");
    for rule in [
        until_healed(Fault::SlowDown, Met::All),
        until_healed(Fault::AnswerLost, Met::Writes),
        until_healed(Fault::BlackHole, Met::All),
    ] {
        course.with(rule);
    }
}

/// All kinds, with the times of steps: `make test-stores`.
#[test]
#[ignore = "takes minutes: `make test-stores`"]
fn the_table_of_faults() {
    let Some(data) = superglue() else { return };
    let size = Size { epochs: 1000, steps_of_fault: 500 };
    let patience = Duration::from_secs(15);
    let course = Course::begin(&data, size, "table", "15s");
    let mut table = String::from(
        "| store | requests met | lost | behind for | steps meanwhile | p50, else | p99, else |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for rule in [
        until_healed(Fault::Status(500), Met::All),
        until_healed(Fault::SlowDown, Met::All),
        until_healed(Fault::Status(429), Met::All),
        until_healed(Fault::Reset, Met::All),
        until_healed(Fault::Cut(1000), Met::All),
        Rule { fault: Fault::Late(Duration::from_secs(10)), met: Met::Writes, times: 1 },
        until_healed(Fault::BlackHole, Met::All),
        until_healed(Fault::AnswerLost, Met::Writes),
    ] {
        // Others' work may come in between, in a fault's time alone.
        let mut row = course.with(rule);
        for _ in 1..LOOKS {
            if row.slow(patience).is_none() {
                break;
            }
            row = course.with(rule);
        }
        let slow = row.slow(patience);
        let Row { fault, requests, behind_s, during_ms, else_ms } = row;
        let of = |per_cent| (quantile(&during_ms, per_cent), quantile(&else_ms, per_cent));
        let ((p50, p50_else), (p99, p99_else)) = (of(50), of(99));
        writeln!(
            table,
            "| {fault:?} | {requests} | nothing | {behind_s:.1} s | {} | {p50:.1}, {p50_else:.1} ms | \
             {p99:.1}, {p99_else:.1} ms |",
            during_ms.len(),
        )
        .unwrap();
        assert_eq!(slow, None, "{table}");
    }
    println!("{table}");
}
