//! What the keeping of the store needs to know of jobs, and jobs that a store is found to hold.

use super::{Action, Adopted, Cluster, Fact, Phase, note};
use crate::clock::millis;
use ptv2_common::ids::JobId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the coordinator knows of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Since when it has ended, in milliseconds since 1970; nothing while it goes on.
    pub ended_unix_ms: Option<u64>,
    /// The features that it needs, where they are known and it may go on.
    pub features: Option<String>,
    /// The data object that it was submitted with, where it scores.
    pub state_sha256: Option<String>,
}

impl Cluster {
    /// Every job, or only one.
    pub fn standings(&self, only: Option<&JobId>) -> BTreeMap<JobId, Standing> {
        let jobs = self.jobs.iter().filter(|(id, _)| only.is_none_or(|only| only == *id));
        let standing = |(id, job): (&JobId, &super::Job)| {
            let may_go_on = job.phase != Phase::Succeeded;
            let standing = Standing {
                ended_unix_ms: job.is_final().then(|| millis(job.since)),
                features: job.features.clone().filter(|_| may_go_on),
                state_sha256: job.record.score.as_ref().map(|score| score.state_sha256.clone()),
            };
            (id.clone(), standing)
        };
        jobs.map(standing).collect()
    }

    /// A job was found in a store. One that is known stays as it is.
    pub(super) fn adopted(
        &mut self,
        now: Duration,
        adopted: Box<Adopted>,
        from: &str,
        actions: &mut Vec<Action>,
    ) {
        let id = adopted.record.id.clone();
        if self.jobs.contains_key(&id) {
            return;
        }
        let message = format!("found in {from} at step {}", adopted.checkpoint.step);
        actions.push(note(&id, "adopted", message));
        self.record(now, Fact::Adopted(adopted), actions);
        // What has not ended goes on: its features are looked for first.
        if self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Staging) {
            actions.push(Action::Stage(id));
        }
    }
}
