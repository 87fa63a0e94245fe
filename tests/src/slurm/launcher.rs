//! A coordinator outside of Slurm that asks it for workers, as its queue wants them.

use super::lab::{note, slurm};
use crate::chaos::clock::now;
use crate::chaos::signals::signal;
use crate::e2e::harness::{Cluster, coordinator_file, hash, poll, superglue, text, tiny_cb};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Slurm jobs that launchers asked for: number, state and name. They end with the test.
struct Launched;

impl Launched {
    fn all() -> Vec<(String, String, String)> {
        let printed = slurm("squeue", &["--noheader", "--me", "--format=%i|%T|%j"]);
        let job = |line: &str| {
            let mut columns = line.splitn(3, '|').map(str::to_owned);
            let job = (columns.next()?, columns.next()?, columns.next()?);
            job.2.starts_with("ptv2-c").then_some(job)
        };
        printed.lines().filter_map(job).collect()
    }

    fn numbers() -> Vec<String> {
        let mut numbers: Vec<String> = Self::all().into_iter().map(|(number, ..)| number).collect();
        numbers.sort_by_key(|number| number.parse::<u64>().unwrap());
        numbers
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        for number in Self::numbers() {
            slurm("scancel", &["--quiet", &number]);
        }
    }
}

/// A job that takes both nodes for itself, until it is dropped.
struct Filler(String);

impl Filler {
    fn new() -> Self {
        let wish = ["--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap"];
        let filler = Self(slurm("sbatch", &[wish.as_slice(), &["sleep 600"]].concat()));
        poll("the filler", || {
            let state = slurm("squeue", &["--noheader", "--format=%T", "--job", &filler.0]);
            (state == "RUNNING").then_some(())
        });
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        slurm("scancel", &["--quiet", &self.0]);
    }
}

/// A coordinator whose launcher asks Slurm for two workers at most.
struct Launching {
    cluster: Cluster,
    data: PathBuf,
    partition: &'static str,
    _launched: Launched,
}

impl Launching {
    fn new(data: &Path, partition: &'static str) -> Self {
        let cluster = Cluster::new("ptv2d");
        let (data, _launched) = (data.to_owned(), Launched);
        let mut launching = Self { cluster, data, partition, _launched };
        launching.serve("127.0.0.1:0");
        launching
    }

    fn serve(&mut self, listen: &str) {
        let cluster = &mut self.cluster;
        let place = (cluster.state(), cluster.store());
        let limits = "growth_delay = \"100ms\"\n";
        let config = coordinator_file(listen, (&place.0, &place.1), &self.data, limits);
        let output = cluster.folder.path().join("worker-%j.log");
        let launcher = format!(
            "[launcher]\nkind = \"slurm\"\nmax = 2\nidle = \"3s\"\npoll = \"500ms\"\nevery = \"500ms\"\n\
             options = [\"--partition={}\", \"--output={}\"]\n",
            self.partition,
            output.display()
        );
        cluster.serve_by(&(config + &launcher));
    }

    /// The coordinator is killed, and started again in its place.
    fn killed(&mut self) {
        let listen = self.cluster.listen();
        drop(self.cluster.daemon.take());
        self.serve(&listen);
    }

    fn submit(&self, workers: &str, epochs: u32) -> String {
        let epochs = format!("training.epochs={epochs}");
        let more = ["--workers", workers, "--set", &epochs];
        self.cluster.submit(&tiny_cb(&self.data, ""), &more)
    }

    /// Waits until a job's reason is that jobs of Slurm wait, for this reason of Slurm's; what is said of it.
    fn waits(&self, id: &str, reason: &str) -> String {
        poll("the job's reason", || {
            let status = self.cluster.json(&["status", id]);
            assert_ne!(status["state"], "failed", "{status:#}");
            let words = status["reason_text"].as_str()?.to_owned();
            let launches = status["reason"]["launches"].as_array()?;
            let is_it = |launch: &Value| launch["stage"]["reason"] == reason;
            (launches.len() == 2 && launches.iter().any(is_it)).then_some(words)
        })
    }

    /// Waits until no worker is left, in Slurm either.
    fn is_empty(&self) {
        poll("an end of all workers", || {
            let workers = self.cluster.json(&["workers"]);
            (workers.as_array()?.is_empty() && Launched::numbers().is_empty()).then_some(())
        });
    }
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn the_launcher_follows_the_queue() {
    let Some(data) = superglue() else { return };
    let mut launching = Launching::new(&data, "main");
    let calm = hash(&Cluster::start(2, 1).run(&tiny_cb(&data, ""), &["--workers", "2"]));

    // The partition is full: the job says so, also after the coordinator was killed meanwhile.
    let filler = Filler::new();
    let id = launching.submit("2", 2);
    let words = launching.waits(&id, "Resources");
    let asked = Launched::numbers();
    assert_eq!(
        words,
        format!("waiting for Slurm job {}: PENDING (Resources), and for 1 more", asked[0])
    );
    let table = text(&launching.cluster.ctl(&["workers"]).stdout);
    assert!(asked.iter().all(|job| table.contains(&format!("Slurm job {job}"))), "{table}");
    let began = now();
    launching.killed();
    assert_eq!(launching.waits(&id, "Resources"), words);
    note(
        "coordinator killed, workers pending",
        "found again, none asked for twice",
        began.elapsed(),
    );
    assert_eq!(Launched::numbers(), asked);

    // There is room: it scales up, and down to nothing.
    let began = now();
    drop(filler);
    launching.cluster.reaches(&id, 1);
    note("room for pending workers", "2 workers, first step", began.elapsed());
    assert_eq!(hash(&launching.cluster.done(&id)), calm);
    let began = now();
    launching.is_empty();
    note("no job any more, idle = 3s", "2 workers to 0", began.elapsed());

    // From nothing, with room at once.
    let began = now();
    let id = launching.submit("2", 2000);
    launching.cluster.reaches(&id, 1);
    note("submit without a worker", "2 workers, first step", began.elapsed());

    // Killed while they train: none is asked for twice, and the job goes on with those that are there.
    let running = Launched::numbers();
    let before = launching.cluster.json(&["status", &id]);
    launching.killed();
    launching.cluster.has_world(&id, 2);
    launching.cluster.reaches(&id, before["step"].as_u64().unwrap() + 50);
    let after = launching.cluster.json(&["status", &id]);
    assert_eq!(after["generation"], before["generation"], "{}", launching.cluster.logs());
    assert_eq!(Launched::numbers(), running);

    // Someone cancels one: another is asked for.
    let began = now();
    slurm("scancel", &[&running[0]]);
    poll("another worker", || {
        let numbers = Launched::numbers();
        (numbers.len() == 2 && !numbers.contains(&running[0])).then_some(())
    });
    launching.cluster.has_world(&id, 2);
    note("scancel of a launched worker", "another one in the group", began.elapsed());

    // The coordinator is stopped: nothing is left behind.
    let began = now();
    let mut daemon = launching.cluster.daemon.take().unwrap();
    signal(daemon.pid(), libc::SIGTERM);
    assert_eq!(poll("the coordinator's end", || daemon.ended()), 0);
    poll("an end of all jobs", || Launched::numbers().is_empty().then_some(()));
    note("coordinator stopped", "its Slurm jobs are cancelled and gone", began.elapsed());
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn what_is_not_needed_any_more_is_cancelled() {
    let Some(data) = superglue() else { return };
    let launching = Launching::new(&data, "main");
    let _filler = Filler::new();
    let id = launching.submit("1..2", 2);
    launching.waits(&id, "Resources");
    let began = now();
    assert!(launching.cluster.ctl(&["cancel", &id]).status.success());
    launching.is_empty();
    let took = began.elapsed();
    note("job cancelled while workers are pending", "they are cancelled", took);
    assert!(took > Duration::from_secs(2), "not at once: people submit one job after the other");
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_refusal_of_sbatch_is_shown() {
    let Some(data) = superglue() else { return };
    let launching = Launching::new(&data, "nowhere");
    let id = launching.submit("1", 2);
    let status = poll("the refusal", || {
        let status = launching.cluster.json(&["status", &id]);
        status["reason"]["trouble"].is_object().then_some(status)
    });
    let words = status["reason_text"].as_str().unwrap();
    assert!(words.contains("`sbatch` refuses") && words.contains("partition"), "{words}");
    assert!(status["remedy"].as_str().unwrap().contains("launcher.options"), "{status:#}");
    assert!(Launched::numbers().is_empty());
}
