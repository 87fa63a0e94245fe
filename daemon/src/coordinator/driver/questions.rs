//! What the API asks of the loop, and how it is answered.

use super::Driver;
use crate::clock;
use crate::coordinator::run::{Adopted, Event, Load, Standing, explain};
use crate::coordinator::{entries, inputs};
use ptv2_common::api::{JobStatus, WorkerStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::job::JobRecord;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// What the API asks. Each answer reflects everything that was decided before it.
pub enum Question {
    /// Accept a checked job.
    Submit(Box<JobRecord>, oneshot::Sender<Result<JobStatus, Explained>>),
    /// Jobs that an id, an id's beginning, or a name means.
    Find(String, oneshot::Sender<Vec<JobStatus>>),
    /// All jobs, newest first.
    Jobs(oneshot::Sender<Vec<JobStatus>>),
    /// A job's record.
    Record(JobId, oneshot::Sender<Option<JobRecord>>),
    /// Cancel a job.
    Cancel(JobId, oneshot::Sender<Option<JobStatus>>),
    /// Try a job again.
    Retry(JobId, oneshot::Sender<Option<JobStatus>>),
    /// The views of the cache of inputs that jobs need which have not ended.
    Needed(oneshot::Sender<BTreeSet<String>>),
    /// Take up a job that was found in a store of this location.
    Adopt(Box<Adopted>, String, oneshot::Sender<Result<Option<JobStatus>, Explained>>),
    /// What keeping the store needs to know of all jobs, or of one.
    Standings(Option<JobId>, oneshot::Sender<BTreeMap<JobId, Standing>>),
    /// All workers.
    Workers(oneshot::Sender<Vec<WorkerStatus>>),
    /// Drain a worker; answers whether there is one of that id.
    Drain(WorkerId, oneshot::Sender<bool>),
    /// How many workers the jobs could use, and who is there.
    Load(oneshot::Sender<Load>),
    /// Drain a worker, unless it has work.
    LetGo(WorkerId, oneshot::Sender<bool>),
}

impl Driver {
    /// Answers a question, after all that was decided before it is on disk.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub(super) async fn answer(&mut self, question: Question) -> Result<(), Explained> {
        // Whoever asked may have gone away: answers that nobody takes are dropped.
        match question {
            // It was told meanwhile that nothing can be done now: then nothing must be done later.
            Question::Submit(_, reply) if reply.is_closed() => {}
            Question::Cancel(_, reply) | Question::Retry(_, reply) if reply.is_closed() => {}
            Question::Drain(_, reply) | Question::LetGo(_, reply) if reply.is_closed() => {}
            Question::Adopt(_, _, reply) if reply.is_closed() => {}
            Question::Submit(record, reply) => drop(reply.send(self.submit(record).await)),
            Question::Find(text, reply) => {
                let ids = self.cluster.matching(&text);
                drop(reply.send(ids.iter().filter_map(|id| self.status(id)).collect()));
            }
            Question::Jobs(reply) => {
                let jobs = self.cluster.statuses(self.clock.elapsed());
                let launcher = self.launcher.borrow().clone();
                drop(reply.send(jobs.into_iter().map(|job| explain(job, &launcher)).collect()));
            }
            Question::Record(job, reply) => {
                drop(reply.send(self.cluster.record_of(&job).cloned()));
            }
            Question::Needed(reply) => drop(reply.send(self.needed())),
            Question::Cancel(job, reply) => {
                self.order(Event::Cancel(job.clone())).await?;
                drop(reply.send(self.status(&job)));
            }
            Question::Retry(job, reply) => {
                self.order(Event::Retry(job.clone())).await?;
                drop(reply.send(self.status(&job)));
            }
            Question::Adopt(job, from, reply) => {
                let id = job.record.id.clone();
                let answer = match self.check_queue() {
                    Err(error) if !job.has_ended() => Err(error),
                    Err(_) | Ok(()) => {
                        self.order(Event::Adopted { job, from }).await?;
                        Ok(self.status(&id))
                    }
                };
                drop(reply.send(answer));
            }
            Question::Standings(only, reply) => {
                drop(reply.send(self.cluster.standings(only.as_ref())));
            }
            Question::Workers(reply) => {
                drop(reply.send(self.cluster.workers(self.clock.elapsed())));
            }
            Question::Drain(worker, reply) => {
                let known = self.cluster.knows_worker(&worker);
                self.order(Event::Drain(worker)).await?;
                let _ = reply.send(known);
            }
            Question::Load(reply) => drop(reply.send(self.cluster.load())),
            Question::LetGo(worker, reply) => {
                let is_spare = self.cluster.is_spare(&worker);
                if is_spare {
                    self.order(Event::Drain(worker)).await?;
                }
                let _ = reply.send(is_spare);
            }
        }
        Ok(())
    }

    /// Accepts a job, or nothing at all: one that the journal does not take was never there.
    async fn submit(&mut self, record: Box<JobRecord>) -> Result<JobStatus, Explained> {
        self.check_queue()?;
        let (job, before) = (record.id.clone(), self.cluster.clone());
        let now = self.clock.elapsed();
        let actions = self.cluster.apply(now, Event::Submitted(record));
        let entries = entries::of_decision(&self.cluster, &actions, clock::millis(now), Vec::new());
        if let Err(error) = self.journal.write(entries).await {
            self.cluster = before;
            return Err(error.hint("the job was not accepted: make room, then submit it again"));
        }
        self.changes.send_modify(|count| *count += 1);
        self.act(actions);
        self.status(&job).ok_or_else(|| Explained::new("the job was not taken"))
    }

    /// The views of the cache of inputs that jobs need which have not ended.
    pub(super) fn needed(&self) -> BTreeSet<String> {
        self.cluster.unfinished().flat_map(inputs::needed_by).collect()
    }

    fn check_queue(&self) -> Result<(), Explained> {
        let limit = self.cluster.limits().queue_limit as usize;
        if self.cluster.waiting() >= limit {
            return Err(Explained::new(format!("{limit} jobs wait already"))
                .at("queue_limit")
                .hint("wait for some to end, or raise `limits.queue_limit`"));
        }
        let most = self.cluster.limits().jobs_max as usize;
        if self.cluster.remembered() >= most {
            return Err(Explained::new(format!("{most} jobs are remembered already"))
                .at("jobs_max")
                .hint("raise `limits.jobs_max`, or start a coordinator with a state folder of its own"));
        }
        Ok(())
    }

    fn status(&self, job: &JobId) -> Option<JobStatus> {
        let status = self.cluster.status(self.clock.elapsed(), job)?;
        Some(explain(status, &self.launcher.borrow()))
    }
}
