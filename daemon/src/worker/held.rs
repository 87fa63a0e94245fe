//! What the device thread holds of a job from one generation to the next, and why it leaves one.

use super::data::Data;
use super::keeper::Keeper;
use crate::collective::CollectiveError;
use crate::inputs::Folder;
use crate::numerics::state::TunedState;
use crate::train::TensorError;
use crate::train::step::Setting;
use crate::train::stepper::Stepper;
use ptv2_common::api::MetricsRow;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::place::Place;
use ptv2_common::storage::Store;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A job's state on this rank.
#[derive(Clone)]
pub(super) struct Progress {
    /// Its buffers are behind while a device steps; see [`Stepper`].
    pub(super) state: TunedState,
    /// How far it is; never in the midst of an evaluation, of which `scored` tells.
    pub(super) place: Place,
    /// Rows that this rank has scored with this very state, each with its scores: an evaluation that was
    /// cut off goes on with the others.
    pub(super) scored: BTreeMap<u32, Vec<f32>>,
    /// The state at the best evaluation, moments included, so that its checkpoint can be written by
    /// another rank when the one that should is lost.
    pub(super) best: Option<Arc<TunedState>>,
    /// The last states of runs that ended while this rank took part, for the same reason.
    pub(super) ended: Vec<Arc<TunedState>>,
}

impl Progress {
    /// A state at a place, of which nothing else is known.
    pub(super) fn at(place: Place, state: TunedState) -> Self {
        Self { state, place, scored: BTreeMap::new(), best: None, ended: Vec::new() }
    }
}

/// A job that this worker is set up for.
pub(super) struct Held {
    pub(super) job: JobRecord,
    pub(super) setting: Arc<Setting>,
    pub(super) stepper: Stepper,
    pub(super) data: Data,
    pub(super) store: Store,
    /// The first values that it names.
    pub(super) adapter: Option<Folder>,
    pub(super) progress: Option<Progress>,
    /// The writer of the generation that was left, while this rank is to write for a parked job.
    pub(super) keeper: Option<Keeper>,
    /// The last steps and evaluations, which every rank knows: a new rank 0 reports those that a lost
    /// one did not.
    recent: VecDeque<MetricsRow>,
}

/// Rows of metrics that a rank remembers.
const RECENT: usize = 1000;

impl Held {
    /// A job of which nothing is computed yet.
    pub(super) fn new(
        job: JobRecord,
        setting: Arc<Setting>,
        stepper: Stepper,
        data: Data,
        store: Store,
    ) -> Self {
        let (progress, keeper, recent) = (None, None, VecDeque::new());
        Self { job, setting, stepper, data, store, adapter: None, progress, keeper, recent }
    }

    /// Remembers a row of metrics.
    pub(super) fn remember(&mut self, row: MetricsRow) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(row);
    }

    /// Takes over what another rank remembers, together with its state.
    pub(super) fn remember_all(&mut self, rows: Vec<MetricsRow>) {
        self.recent.clear();
        rows.into_iter().for_each(|row| self.remember(row));
    }

    /// The remembered rows that the coordinator may lack, which has those of steps up to `reported`, but
    /// perhaps not of the evaluation after it.
    pub(super) fn rows_after(&self, reported: u64) -> Vec<MetricsRow> {
        let present = self.progress.as_ref().map_or(0, |progress| progress.place.step);
        let wanted = |row: &&MetricsRow| match row {
            MetricsRow::Step(row) => row.step > reported && row.step <= present,
            MetricsRow::Evaluation(row) => row.step >= reported && row.step <= present,
        };
        self.recent.iter().filter(wanted).cloned().collect()
    }
}

/// Why a rank left a generation.
#[derive(Debug)]
pub(super) enum Exit {
    /// The group failed.
    Group(CollectiveError),
    /// It was told to, or all finished a step and left as planned.
    Left,
    /// The job cannot go on, whoever runs it.
    Job(Box<Explained>),
    /// The ranks' states differ.
    Diverged {
        /// Whether this rank's is to be forgotten.
        own: bool,
        /// Whether most ranks hold the same.
        majority: bool,
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

impl From<TensorError> for Exit {
    fn from(error: TensorError) -> Self {
        Explained::from(error).into()
    }
}
