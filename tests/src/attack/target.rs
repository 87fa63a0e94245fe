//! The coordinator under attack, with a worker and a job that trains all the time.

use super::http::{self, Answer, Request};
use super::probe;
use crate::e2e::harness::{Cluster, coordinator_file, tiny_cb};
use ptv2_common::access::Scope;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Short waits, so that the tests are; and no bound on the rate of a test's own requests.
const HTTP: &str = "[http]\nhead_timeout = \"3s\"\nbody_timeout = \"3s\"\nwrite_timeout = \"1s\"\n\
    requests_per_second = 100000\nrequests_burst = 100000\nrefusals_per_minute = 1000000\n";

/// Whom the attacks are on.
pub(crate) struct Target {
    pub(super) cluster: Cluster,
    pub(super) address: SocketAddr,
    /// A token of each scope, in the order of [`Scope::ALL`].
    tokens: [String; 4],
    /// The job that trains meanwhile, and the rows of each of its steps.
    pub(super) job: String,
    pub(super) batch: f64,
    /// A text that nobody may get: it lies beside the state folder.
    pub(super) canary: String,
    /// The folder that jobs may read.
    pub(super) place: PathBuf,
    before: BTreeMap<PathBuf, (u64, i64)>,
}

impl Target {
    /// Starts it all, on the tiny backbone.
    pub(crate) fn start(data: &Path) -> Self {
        let mut cluster = Cluster::new("ptv2d");
        let canary = format!("canary-{:x}", fastrand::u128(..));
        let folder = cluster.folder.path().to_owned();
        std::fs::write(folder.join("canary.txt"), &canary).unwrap();
        let place = folder.join("place");
        std::fs::create_dir(&place).unwrap();
        let paths = (&*cluster.state(), &*cluster.store());
        let file = coordinator_file("127.0.0.1:0", paths, data, "") + HTTP;
        // The tests' own folder, too.
        let file = file.replace("roots = [", &format!("roots = [{place:?}, "));
        cluster.serve_by(&file);
        cluster.worker(1, &[]);
        let job = cluster.submit(
            &tiny_cb(data, "checkpoint.every = 1000000"),
            // No batch is partial: a step's time follows from its rows a second.
            &[
                ["--set", "training.epochs=1000000"],
                ["--set", "training.eval_every=100000"],
                ["--set", "data.max_train_rows=36"],
            ]
            .concat(),
        );
        cluster.reaches(&job, 20);
        let address = cluster.listen().parse().unwrap();
        let admin = cluster.token();
        let made = |scope: Scope| {
            let body = format!("{{\"name\": \"attack-{scope}\", \"scope\": \"{scope}\"}}");
            made(address, &admin, &body)
        };
        let tokens = Scope::ALL.map(made);
        let before = listed(&folder);
        Self { cluster, address, tokens, job, batch: 12.0, canary, place, before }
    }

    /// A token that is good for something.
    pub(super) fn token(&self, scope: Scope) -> &str {
        &self.tokens[Scope::ALL.iter().position(|one| *one == scope).unwrap()]
    }

    /// A new token.
    pub(super) fn made(&self, body: &str) -> String {
        made(self.address, &self.cluster.token(), body)
    }

    /// Sends a request; there must be an answer.
    pub(super) fn ask(&self, bytes: &[u8]) -> Answer {
        http::ask(self.address, bytes).unwrap_or_else(|| {
            let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
            panic!("no answer to {sent:?}\n{}", self.cluster.logs())
        })
    }

    /// What an administrator is told there.
    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask(&Request::new("GET", path).token(&self.cluster.token()).bytes())
    }

    /// The coordinator's process.
    pub(super) fn pid(&self) -> u32 {
        self.cluster.daemon.as_ref().unwrap().pid()
    }

    /// What it logged.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.cluster.folder.path().join("daemon.log")).unwrap()
    }

    /// An answer to whatever was asked: it neither failed nor gives away what lies elsewhere.
    pub(super) fn is_harmless(&self, answer: &Answer, asked: &str) {
        assert!(answer.status < 500, "{asked:?}: {answer:?}\n{}", self.cluster.logs());
        let said = format!("{:?} {}", answer.headers, answer.text());
        let secrets = [self.canary.as_str(), "root:x:0:", &self.cluster.token()];
        for secret in secrets {
            assert!(!said.contains(secret), "{asked:?} gave {secret} away: {said}");
        }
        let injected = answer.headers.iter().find(|(name, _)| name.starts_with("x-injected"));
        assert_eq!(injected, None, "{asked:?}");
    }

    /// The job still trains with the worker that it began with, and nothing was made, changed or removed
    /// outside the coordinator's own folders.
    pub(super) fn is_as_it_was(&self) {
        let status = probe::status(self).unwrap();
        assert_eq!(status["state"], "running", "{status:#}");
        assert_eq!(status["generation"], 1, "a worker was lost: {status:#}");
        let folder = self.cluster.folder.path();
        let mut now = listed(folder);
        now.retain(|path, _| !path.starts_with(&self.place));
        let before = self.before.iter().filter(|(path, _)| !path.starts_with(&self.place));
        let before: BTreeMap<_, _> = before.map(|(path, facts)| (path.clone(), *facts)).collect();
        assert_eq!(now, before);
        assert_eq!(std::fs::read_to_string(folder.join("canary.txt")).unwrap(), self.canary);
    }
}

fn made(address: SocketAddr, admin: &str, body: &str) -> String {
    let request = Request::new("POST", "/v1/tokens").token(admin).json(body);
    let answer = http::ask(address, &request).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// Files below a folder, but for the coordinator's own and logs, with their sizes and times.
fn listed(folder: &Path) -> BTreeMap<PathBuf, (u64, i64)> {
    let mut all = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(one) = left.pop() {
        for entry in std::fs::read_dir(&one).unwrap().flatten() {
            let (path, facts) = (entry.path(), entry.metadata().unwrap());
            let is_own = ["state", "elsewhere"].iter().any(|name| path == folder.join(name));
            let is_log = path.extension().is_some_and(|ending| ending == "log");
            if facts.is_dir() && !is_own {
                left.push(path);
            } else if !is_own && !is_log {
                all.insert(path, (facts.len(), facts.mtime_nsec()));
            }
        }
    }
    all
}
