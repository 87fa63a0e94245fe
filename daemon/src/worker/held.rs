//! What the device thread holds of a job from one generation to the next, and why it leaves one.

use super::data::Data;
use super::keeper::Keeper;
use crate::collective::CollectiveError;
use crate::numerics::state::TunedState;
use crate::train::pool::{Pool, PoolError};
use crate::train::step::Setting;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::place::Place;
use ptv2_common::storage::Store;
use std::sync::Arc;

/// A job's state on this rank.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) state: TunedState,
    /// How far it is; never in the midst of an evaluation, which is done again from its start.
    pub(super) place: Place,
    /// The state at the best evaluation, moments included, so that its checkpoint can be written by
    /// another rank when the one that should is lost.
    pub(super) best: Option<Arc<TunedState>>,
}

/// A job that this worker is set up for.
pub(super) struct Held {
    pub(super) job: JobRecord,
    pub(super) setting: Arc<Setting>,
    pub(super) pool: Pool,
    pub(super) data: Data,
    pub(super) store: Store,
    pub(super) progress: Option<Progress>,
    /// The writer of the generation that was left, while this rank is to write for a parked job.
    pub(super) keeper: Option<Keeper>,
}

/// Why a rank left a generation.
#[derive(Debug)]
pub(super) enum Exit {
    /// The group failed.
    Group(CollectiveError),
    /// It was told to.
    Stopped,
    /// The job cannot go on, whoever runs it.
    Job(Box<Explained>),
    /// The ranks' states differ; `own` says whether this rank's is to be forgotten.
    Diverged {
        /// Whether this rank is not of the majority.
        own: bool,
        /// What was seen.
        detail: String,
    },
}

impl From<CollectiveError> for Exit {
    fn from(error: CollectiveError) -> Self {
        Self::Group(error)
    }
}

impl From<Explained> for Exit {
    fn from(error: Explained) -> Self {
        Self::Job(Box::new(error))
    }
}

impl From<PoolError> for Exit {
    fn from(error: PoolError) -> Self {
        Explained::new(error.to_string())
            .hint("when memory ran out, raise training.slices or lower data.max_seq_length")
            .into()
    }
}
