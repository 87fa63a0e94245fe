//! What the journal keeps of each decision, and how a restarted coordinator takes it up again.

use super::{Cluster, Group, Job, Limits, MemberState, Phase};
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::BestMetric;
use ptv2_common::session::Fingerprint;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of the journal. A coordinator's jobs are the sum of its facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A job was accepted.
    Submitted(Box<JobRecord>),
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
}

impl Fact {
    /// The job that it is about.
    pub fn job(&self) -> &JobId {
        match self {
            Self::Submitted(record) => &record.id,
            Self::Staged { job, .. }
            | Self::Started { job, .. }
            | Self::Requeued { job }
            | Self::FirstStep { job, .. }
            | Self::Evaluated { job, .. }
            | Self::Checkpoint { job, .. }
            | Self::Succeeded { job, .. }
            | Self::Failed { job, .. }
            | Self::Cancelled { job } => job,
        }
    }
}

impl Cluster {
    /// What a coordinator knows after a restart. Groups of before are superseded: their jobs wait,
    /// and the next generation takes up the state that reconnecting workers still hold.
    ///
    /// Gives the jobs whose staging was cut off, which must begin again.
    pub fn replay(limits: Limits, facts: impl IntoIterator<Item = Fact>) -> (Self, Vec<JobId>) {
        let mut cluster = Self::new(limits);
        for fact in facts {
            if let Fact::Submitted(record) = fact {
                cluster.insert(Duration::ZERO, *record);
            } else {
                cluster.take(Duration::ZERO, &fact);
            }
        }
        let mut unstaged = Vec::new();
        for (id, job) in &mut cluster.jobs {
            match job.phase {
                Phase::Staging => unstaged.push(id.clone()),
                Phase::Running(_) => job.phase = Phase::Queued { lost: true },
                Phase::Queued { .. } | Phase::Succeeded | Phase::Failed(_) | Phase::Cancelled => {}
            }
        }
        (cluster, unstaged)
    }

    /// Lets a fact take effect on its job.
    pub(super) fn take(&mut self, now: Duration, fact: &Fact) {
        let Some(job) = self.jobs.get_mut(fact.job()) else { return };
        match fact {
            Fact::Submitted(_) => {}
            Fact::Staged { features, majority_class, staged_s, .. } => {
                job.features = Some(features.clone());
                job.majority_class = Some(*majority_class);
                job.timings.staged_s = Some(*staged_s);
                job.staged_at = Some(now);
                job.phase = Phase::Queued { lost: false };
            }
            Fact::Started { generation, members, fingerprint, .. } => {
                job.start(now, *generation, members, fingerprint);
            }
            Fact::Requeued { .. } => job.phase = Phase::Queued { lost: true },
            Fact::FirstStep { first_step_s, .. } => job.timings.first_step_s = Some(*first_step_s),
            Fact::Evaluated { epoch, metric, .. } => {
                job.epoch = *epoch;
                job.step = job.step.max(metric.step);
                if job.best.as_ref().is_none_or(|best| metric.value > best.value) {
                    job.best = Some(metric.clone());
                }
                job.last = Some(metric.clone());
            }
            Fact::Checkpoint { checkpoint, .. } => {
                job.step = job.step.max(checkpoint.step);
                job.checkpoint = Some(checkpoint.clone());
            }
            Fact::Succeeded { tuned_sha256, train_s, .. } => {
                job.tuned_sha256 = Some(tuned_sha256.clone());
                job.timings.train_s = Some(*train_s);
                job.phase = Phase::Succeeded;
            }
            Fact::Failed { error, .. } => job.phase = Phase::Failed(error.clone()),
            Fact::Cancelled { .. } => job.phase = Phase::Cancelled,
        }
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
        self.fingerprint = Some(fingerprint.clone());
        if self.first_started_at.is_none() {
            self.first_started_at = Some(now);
            let since = self.staged_at.unwrap_or(self.submitted_at);
            self.timings.queued_s = Some(now.saturating_sub(since).as_secs_f64());
        }
        let members = members.iter().map(|id| (id.clone(), MemberState::Forming)).collect();
        self.phase = Phase::Running(Group { generation, members, changed_at: now });
    }
}
