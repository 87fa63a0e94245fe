//! What can happen, and what is done about it.

use super::{Adopted, Fact};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::End;
use ptv2_common::session::{FromWorker, Hello, ToWorker};

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A checked job was accepted.
    Submitted(Box<JobRecord>),
    /// A job was found in a store, whose location is told to people.
    Adopted {
        /// The job.
        job: Box<Adopted>,
        /// The store.
        from: String,
    },
    /// A job's features are in the store.
    Staged {
        /// The job.
        job: JobId,
        /// The features' hash.
        features: String,
        /// Share of the most frequent label of the validation rows.
        majority_class: f64,
        /// What that took, in seconds.
        staged_s: f64,
        /// Share of each split's rows that lost tokens, as they were longer than allowed.
        truncated: Vec<(String, f64)>,
    },
    /// A job's rows cannot be staged.
    StagingFailed {
        /// The job.
        job: JobId,
        /// Why.
        error: Explained,
    },
    /// A generation's key was made and its starting checkpoint found.
    Prepared {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The group's key, hexadecimal.
        group_key: String,
        /// The manifest key of the checkpoint to begin from.
        resume: Option<String>,
    },
    /// The store failed while a generation was prepared.
    PrepareFailed {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// What the store said.
        error: Explained,
    },
    /// Someone cancels a job.
    Cancel(JobId),
    /// Someone wants a job that failed or was cancelled to be tried again.
    Retry(JobId),
    /// A worker connected and said who it is.
    Joined(Box<Hello>),
    /// A worker's connection ended.
    Gone(WorkerId),
    /// A worker said something.
    Said(WorkerId, Box<FromWorker>),
    /// Someone wants a worker to take no more work and to end.
    Drain(WorkerId),
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write it to the journal before any later action is performed.
    Record(Fact),
    /// Tell people: a line of the job's events.
    Note {
        /// The job.
        job: JobId,
        /// A stable word.
        kind: &'static str,
        /// One line.
        message: String,
    },
    /// Read and tokenize a job's rows; [`Event::Staged`] or [`Event::StagingFailed`] follows.
    Stage(JobId),
    /// Make a group key and find the checkpoint to begin from; [`Event::Prepared`] or
    /// [`Event::PrepareFailed`] follows.
    Prepare(JobId, Generation),
    /// Send a message.
    Tell(WorkerId, ToWorker),
    /// Close a worker's connection: it is counted as lost.
    Disconnect(WorkerId),
    /// Leave word of a job's end in the store, for a coordinator that has lost its journal.
    MarkEnd(JobId, Generation, End),
}
