//! What the journal keeps of each decision, and how a restarted coordinator takes it up again.

use super::setbacks::Setbacks;
use super::{Cluster, Group, Job, Limits, Phase, Waiting};
use ptv2_common::api::{Checkpoint, RunStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{BestMetric, End};
use ptv2_common::session::Fingerprint;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A fact and when it was recorded, by the clock of [`Cluster::apply`].
pub type Recorded = (Duration, Fact);

/// Pause before the first new attempt when the store failed; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A job that was found in the store by a coordinator without a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adopted {
    /// The job.
    pub record: JobRecord,
    /// A generation that no former group can have reached: the next one supersedes them all.
    pub generation: Generation,
    /// The newest checkpoint.
    pub checkpoint: Checkpoint,
    /// The best evaluation that it knows of.
    pub best: Option<BestMetric>,
    /// What is known of its runs.
    #[serde(default)]
    pub runs: Vec<RunStatus>,
    /// How it ended, if it did before its last step.
    pub end: Option<End>,
}

impl Adopted {
    /// Whether nothing is left to do of it, unless someone wants it tried again.
    pub fn has_ended(&self) -> bool {
        self.is_done() || self.end.is_some()
    }

    /// Whether all its steps are done.
    pub fn is_done(&self) -> bool {
        self.checkpoint.ends_job || self.checkpoint.step >= self.record.plan.total_steps
    }
}

/// One line of the journal. A coordinator's jobs are the sum of its facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A job was accepted.
    Submitted(Box<JobRecord>),
    /// A job was found in the store.
    Adopted(Box<Adopted>),
    /// Its features are in the store.
    Staged {
        /// The job.
        job: JobId,
        /// The features' hash.
        features: String,
        /// Share of the most frequent label of the validation rows.
        majority_class: f64,
        /// How long it took.
        staged_s: f64,
    },
    /// A generation was started. Written before any member hears of it.
    Started {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The members, by rank.
        members: Vec<WorkerId>,
        /// Their fingerprint.
        fingerprint: Fingerprint,
    },
    /// Its group is gone and the job waits again.
    Requeued {
        /// The job.
        job: JobId,
        /// What the store said, where that was the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Explained>,
        /// The job of higher priority that took its workers, where that was the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        preempted_by: Option<JobId>,
    },
    /// The first step was applied.
    FirstStep {
        /// The job.
        job: JobId,
        /// Seconds since the submit.
        first_step_s: f64,
    },
    /// An evaluation was reported.
    Evaluated {
        /// The job.
        job: JobId,
        /// Epochs completed.
        epoch: u32,
        /// The deciding metric.
        metric: BestMetric,
    },
    /// A checkpoint was published.
    Checkpoint {
        /// The job.
        job: JobId,
        /// The checkpoint.
        checkpoint: Checkpoint,
    },
    /// The job is done.
    Succeeded {
        /// The job.
        job: JobId,
        /// SHA-256 of the final tuned values.
        tuned_sha256: String,
        /// Seconds since the first generation.
        train_s: f64,
    },
    /// The job cannot be done.
    Failed {
        /// The job.
        job: JobId,
        /// Why.
        error: Explained,
    },
    /// Someone cancelled the job.
    Cancelled {
        /// The job.
        job: JobId,
    },
    /// Someone wants the job tried again.
    Retried {
        /// The job.
        job: JobId,
    },
}

impl Fact {
    /// The job that it is about.
    pub fn job(&self) -> &JobId {
        match self {
            Self::Submitted(record) => &record.id,
            Self::Adopted(adopted) => &adopted.record.id,
            Self::Staged { job, .. }
            | Self::Started { job, .. }
            | Self::Requeued { job, .. }
            | Self::FirstStep { job, .. }
            | Self::Evaluated { job, .. }
            | Self::Checkpoint { job, .. }
            | Self::Succeeded { job, .. }
            | Self::Failed { job, .. }
            | Self::Cancelled { job }
            | Self::Retried { job } => job,
        }
    }
}

impl Cluster {
    /// What a coordinator knows after a restart, at `now`. Groups of before may train on: for as long as
    /// a heartbeat may be late, their members are waited for. Then a group goes on as it is, or, where
    /// one is missing or in another generation, is formed anew.
    ///
    /// Gives the jobs whose staging was cut off, which must begin again.
    pub fn replay(
        limits: Limits,
        now: Duration,
        facts: impl IntoIterator<Item = Recorded>,
    ) -> (Self, Vec<JobId>) {
        let until = now + limits.heartbeat_timeout;
        let mut cluster = Self::new(limits);
        for (at, fact) in facts {
            cluster.last_tick = cluster.last_tick.max(at);
            cluster.take(at, &fact);
        }
        let mut unstaged = Vec::new();
        for (id, job) in &mut cluster.jobs {
            match &mut job.phase {
                Phase::Staging => unstaged.push(id.clone()),
                Phase::Running(group) => group.await_members(now, until),
                Phase::Queued(_) | Phase::Succeeded | Phase::Failed(_) | Phase::Cancelled => {}
            }
        }
        (cluster, unstaged)
    }

    /// Lets a fact take effect. What was decided and what is replayed go the same way.
    pub(super) fn take(&mut self, now: Duration, fact: &Fact) {
        if let Fact::Submitted(record) = fact {
            return self.insert(now, record.as_ref().clone());
        }
        if let Fact::Adopted(adopted) = fact {
            self.insert(now, adopted.record.clone());
        }
        let Some(job) = self.jobs.get_mut(fact.job()) else { return };
        match fact {
            Fact::Submitted(_) => {}
            Fact::Adopted(adopted) => job.adopt(now, adopted),
            Fact::Staged { features, majority_class, staged_s, .. } => {
                job.features = Some(features.clone());
                job.majority_class = Some(*majority_class);
                job.timings.staged_s = Some(*staged_s);
                job.staged_at = Some(now);
                job.enter(now, Phase::Queued(Waiting::New));
            }
            Fact::Started { generation, members, fingerprint, .. } => {
                job.start(now, *generation, members, fingerprint);
            }
            Fact::Requeued { error, preempted_by, .. } => {
                job.requeue(now, error.as_ref(), preempted_by.as_ref());
            }
            Fact::FirstStep { first_step_s, .. } => job.timings.first_step_s = Some(*first_step_s),
            Fact::Evaluated { epoch, metric, .. } => {
                job.step = job.step.max(metric.step);
                job.evaluated(*epoch, metric);
            }
            Fact::Checkpoint { checkpoint, .. } => {
                job.step = job.step.max(checkpoint.step);
                if checkpoint.ends_run
                    && let Some(run) = job.runs.get_mut(checkpoint.run as usize)
                {
                    run.tuned_sha256 = Some(checkpoint.tuned_sha256.clone());
                }
                // A best state that could not be written at once may come after a later one.
                if job.checkpoint.as_ref().is_none_or(|known| known.step <= checkpoint.step) {
                    job.checkpoint = Some(checkpoint.clone());
                }
            }
            Fact::Succeeded { tuned_sha256, train_s, .. } => {
                job.tuned_sha256 = Some(tuned_sha256.clone());
                if let Some(run) = job.runs.last_mut() {
                    run.tuned_sha256 = Some(tuned_sha256.clone());
                }
                job.timings.train_s = Some(*train_s);
                job.enter(now, Phase::Succeeded);
            }
            Fact::Failed { error, .. } => job.enter(now, Phase::Failed(error.clone())),
            Fact::Cancelled { .. } => job.enter(now, Phase::Cancelled),
            // Its rows are looked at again: they, or what was wrong with them, may have changed.
            Fact::Retried { .. } => {
                job.setbacks = Setbacks::default();
                job.enter(now, Phase::Staging);
            }
        }
    }

    fn insert(&mut self, now: Duration, record: JobRecord) {
        self.submitted += 1;
        let id = record.id.clone();
        self.jobs.insert(id, Job::new(now, self.submitted, record));
    }
}

impl Job {
    fn start(
        &mut self,
        now: Duration,
        generation: Generation,
        members: &[WorkerId],
        fingerprint: &Fingerprint,
    ) {
        self.generation = generation;
        self.serve(members);
        self.fingerprint = Some(fingerprint.clone());
        if self.first_started_at.is_none() {
            self.first_started_at = Some(now);
            let since = self.staged_at.unwrap_or(self.submitted_at);
            self.timings.queued_s = Some(now.saturating_sub(since).as_secs_f64());
        }
        self.enter(now, Phase::Running(Group::forming(now, generation, members, false)));
    }

    fn requeue(&mut self, now: Duration, error: Option<&Explained>, by: Option<&JobId>) {
        let waiting = match (error, by) {
            (None, None) => Waiting::LostGroup { until: now },
            (None, Some(by)) => Waiting::Preempted { by: by.clone() },
            (Some(error), _) => {
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.store_failures.min(16));
                self.store_failures += 1;
                let until = now + pause.min(LONGEST_PAUSE);
                Waiting::NoStore { error: error.clone(), until }
            }
        };
        self.enter(now, Phase::Queued(waiting));
    }

    /// Takes up what the store knew. An unfinished job is staged again, which finds its features.
    fn adopt(&mut self, now: Duration, adopted: &Adopted) {
        let checkpoint = &adopted.checkpoint;
        self.generation = adopted.generation;
        self.step = checkpoint.step;
        self.best.clone_from(&adopted.best);
        if adopted.runs.len() == self.runs.len() {
            self.runs.clone_from(&adopted.runs);
        }
        self.checkpoint = Some(checkpoint.clone());
        if adopted.is_done() {
            self.tuned_sha256 = Some(checkpoint.tuned_sha256.clone());
            self.enter(now, Phase::Succeeded);
        } else if let Some(end) = &adopted.end {
            self.enter(
                now,
                match end {
                    End::Failed(error) => Phase::Failed(error.clone()),
                    End::Cancelled => Phase::Cancelled,
                },
            );
        }
    }
}
