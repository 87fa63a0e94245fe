//! Looks at a coordinator by its API. A client's process would take fifty milliseconds, and a second on a busy
//! machine: what it had seen would be over before the test acts on it.

use super::{Cluster, poll};
use reqwest::blocking::Client;
use serde_json::Value;
use std::sync::OnceLock;

/// Asks on a connection of its own each time: coordinators come and go, and some tests count connections.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let alone = || Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    CLIENT.get_or_init(alone)
}

/// The process of a worker, by what its host says: `name:pid`.
pub(crate) fn pid(worker: &Value) -> u32 {
    worker["host"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

impl Cluster {
    /// What the API says at this path, which the client prints by this command. Over TLS, and where the coordinator
    /// does not answer, the client is asked: it is patient, and says what is wrong.
    fn look(&self, path: &str, command: &[&str]) -> Value {
        let at_once = || {
            let url = format!("{}/v1/{path}", self.url());
            let plain = url.starts_with("http://").then_some(url)?;
            let answer = client().get(plain).bearer_auth(self.token()).send().ok()?;
            answer.error_for_status().ok()?.json().ok()
        };
        at_once().unwrap_or_else(|| self.json(command))
    }

    /// A job's status, seen at once.
    pub(crate) fn status(&self, id: &str) -> Value {
        self.look(&format!("jobs/{id}"), &["status", id])
    }

    fn workers_now(&self) -> Vec<Value> {
        let found = self.look("workers", &["workers"]);
        found.as_array().unwrap().clone()
    }

    /// The workers' processes, in the order of the list.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers_now().iter().map(pid).collect()
    }

    /// Waits until so many workers are connected.
    pub(crate) fn has_workers(&self, count: usize) {
        poll("the workers", || (self.workers_now().len() == count).then_some(()));
    }

    /// Waits until a job waits for workers.
    pub(crate) fn is_queued(&self, id: &str) -> Value {
        poll("the queue", || {
            let status = self.status(id);
            (status["state"] == "queued").then_some(status)
        })
    }

    /// Waits until a job runs on so many workers.
    pub(crate) fn has_world(&self, id: &str, world: u32) {
        poll("the group", || (self.status(id)["world"] == world).then_some(()));
    }

    /// Waits until a job has so many checkpoints in the store.
    pub(crate) fn has_checkpoints(&self, id: &str, count: usize) {
        poll("checkpoints", || {
            let found = self.look(&format!("jobs/{id}/checkpoints"), &["checkpoints", id]);
            (found.as_array()?.len() >= count).then_some(())
        });
    }

    /// Waits until a job has applied some steps.
    pub(crate) fn reaches(&self, id: &str, step: u64) -> Value {
        poll("the job's steps", || {
            let status = self.status(id);
            assert_ne!(status["state"], "failed", "{status:#}\n{}", self.logs());
            let is_there = status["step"].as_u64()? >= step;
            let is_over = status["state"] == "succeeded";
            assert!(is_there || !is_over, "over before step {step}: {status:#}");
            is_there.then_some(status)
        })
    }
}
