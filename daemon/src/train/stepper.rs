//! What makes a step: compute threads and plain loops on the host, or operators on a device.
//!
//! A state's facts (its step, its best) are always the host's. Its buffers are behind while a device
//! steps, until it [settles](Stepper::settle).

use super::Result;
use super::backbones::Backbone;
use super::batch::Slice;
use super::device::Device;
use super::pool::Pool;
use super::step::{Network, RunStep, Setting, SliceGradient};
use crate::collective::{self, Collective, Stamp};
use crate::numerics::adamw::{AdamW, clip_global_norm};
use crate::numerics::state::TunedState;
use crate::numerics::tree::{Node, sum};
use ptv2_common::error::Explained;
use std::sync::Arc;
use tch::Tensor;

/// What is told when it fails.
pub(super) type Told<T> = std::result::Result<T, Explained>;

/// Rows of an evaluation slice, on the host and on a device, which wants much at once. Part of the result: a
/// slice's padding touches its scores' last bits.
pub(super) const ROWS_SCORED: [usize; 2] = [8, 64];

/// Makes the steps of a job.
pub enum Stepper {
    /// On the host.
    Host(Host),
    /// On a device.
    Device(Box<Device>),
}

/// A rank's partial sums: gradient, loss sum, row count.
pub enum Parts {
    /// On the host.
    Host(Vec<(Node, Vec<f32>)>),
    /// On the device.
    Device(Vec<(Node, Tensor)>),
}

/// The values that rows are scored with.
pub enum Values {
    /// Shared by compute threads.
    Host(Arc<Vec<f32>>),
    /// Those that lie on the device.
    Device,
}

/// What a step was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Made {
    /// The batch's mean loss.
    pub loss: f64,
    /// Its rows.
    pub rows: f64,
    /// The gradient's norm before clipping.
    pub norm: f64,
}

/// Compute threads, and the sums of a step.
pub struct Host {
    pool: Pool,
    setting: Arc<Setting>,
    sums: Vec<f32>,
}

impl Stepper {
    /// Sets up for a job: on the host with so many threads, or on the device where the backbone lies.
    ///
    /// # Errors
    /// When the system gives no thread, or the device no memory.
    pub fn new(
        backbone: &Backbone,
        setting: &Arc<Setting>,
        threads: u32,
        on_device: bool,
    ) -> Told<Self> {
        if on_device {
            let network = Network::on_device(backbone.share(), Arc::clone(setting));
            return Device::new(network).map(|device| Self::Device(Box::new(device)));
        }
        let pool =
            Pool::new(backbone, setting, threads).map_err(|error| Explained::from_error(&error))?;
        Ok(Self::Host(Host { pool, setting: Arc::clone(setting), sums: Vec::new() }))
    }

    /// Begins with a state.
    ///
    /// # Errors
    /// Those of torch.
    pub fn load(&mut self, state: &TunedState) -> Result<()> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Device(device) => device.load(state),
        }
    }

    /// Brings the buffers of the state on the host up to date.
    ///
    /// # Errors
    /// Those of torch.
    pub fn settle(&mut self, state: &mut TunedState) -> Result<()> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Device(device) => device.settle(state),
        }
    }

    /// What ranks compare of their states.
    pub fn hash(&self, state: &TunedState) -> u64 {
        match self {
            Self::Host(_) => state.hash64(),
            Self::Device(device) => device.hash(state.step),
        }
    }

    /// Whether partial sums are computed when [`Self::parts`] returns, so that its time tells how long they take.
    pub fn waits(&self) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Device(device) => device.waits(),
        }
    }

    /// Sums the gradients of slices under some nodes of a batch's tree. Slices without rows are not among
    /// `slices`, and add zeros.
    ///
    /// # Errors
    /// The first failure; too little memory is said with the slice that wanted it.
    pub fn parts(
        &self,
        state: &TunedState,
        at: RunStep,
        nodes: &[Node],
        slices: Vec<Slice>,
    ) -> Told<Parts> {
        match self {
            Self::Host(host) => host.parts(state, at, nodes, slices).map(Parts::Host),
            Self::Device(device) => device.parts(at, nodes, &slices).map(Parts::Device),
        }
    }

    /// Sums the partial sums of all ranks, for [`Self::update`]. The ranks' stamps come back.
    ///
    /// # Errors
    /// Those of the group.
    pub fn reduce(
        &mut self,
        group: &mut dyn Collective,
        (step, slices): (u64, u32),
        parts: Parts,
        stamp: &Stamp,
    ) -> collective::Result<Vec<Stamp>> {
        match (self, parts) {
            (Self::Host(host), Parts::Host(parts)) => {
                host.sums = vec![0.0; host.setting.layout.tuned_len() + 2];
                group.reduce(step, slices, &parts, stamp, &mut host.sums)
            }
            (Self::Device(device), Parts::Device(parts)) => {
                device.reduce(group, (step, slices), parts, stamp)
            }
            (Self::Host(_), Parts::Device(_)) | (Self::Device(_), Parts::Host(_)) => {
                unreachable!("parts come from this very stepper")
            }
        }
    }

    /// Makes a step of the sums, at a learning rate, clipped to a norm. Where loss or gradient are no finite
    /// numbers, nothing is changed and nothing given.
    ///
    /// # Errors
    /// Those of torch.
    pub fn update(
        &mut self,
        state: &mut TunedState,
        adamw: &AdamW,
        rates: (f64, f64),
    ) -> Result<Option<Made>> {
        match self {
            Self::Host(host) => Ok(host.update(state, adamw, rates)),
            Self::Device(device) => device.update(state, adamw, rates),
        }
    }

    /// The slices whose loss or gradient is no finite number.
    ///
    /// # Errors
    /// As [`Self::parts`].
    pub fn bad(&self, state: &TunedState, at: RunStep, slices: Vec<Slice>) -> Told<Vec<u16>> {
        match self {
            Self::Host(host) => host.bad(state, at, slices),
            Self::Device(device) => device.bad(at, &slices),
        }
    }

    /// Rows of an evaluation slice.
    pub fn rows_scored_together(&self) -> usize {
        let [host, device] = ROWS_SCORED;
        match self {
            Self::Host(_) => host,
            Self::Device(_) => device,
        }
    }

    /// The values of a state, to score rows with.
    pub fn values(&self, state: &TunedState) -> Values {
        match self {
            Self::Host(_) => Values::Host(Arc::new(state.values.clone())),
            Self::Device(_) => Values::Device,
        }
    }

    /// The scores of some slices' rows without dropout, in the order of the slices.
    ///
    /// # Errors
    /// As [`Self::parts`].
    pub fn logits(&self, values: &Values, slices: Vec<Slice>) -> Told<Vec<Vec<f32>>> {
        match (self, values) {
            (Self::Host(host), Values::Host(values)) => Ok(host.pool.logits(values, slices)?),
            (Self::Device(device), Values::Device) => device.logits(&slices),
            (Self::Host(_), Values::Device) | (Self::Device(_), Values::Host(_)) => {
                unreachable!("values come from this very stepper")
            }
        }
    }
}

impl Host {
    fn gradients(
        &self,
        state: &TunedState,
        at: RunStep,
        slices: Vec<Slice>,
    ) -> Told<Vec<SliceGradient>> {
        let values = Arc::new(state.values.clone());
        Ok(self.pool.gradients(&values, at, slices)?)
    }

    fn parts(
        &self,
        state: &TunedState,
        at: RunStep,
        nodes: &[Node],
        slices: Vec<Slice>,
    ) -> Told<Vec<(Node, Vec<f32>)>> {
        let elements = self.setting.layout.tuned_len();
        let mut found = self.gradients(state, at, slices)?.into_iter().peekable();
        let mut leaf = |index: u32| match found.next_if(|one| u32::from(one.index) == index) {
            Some(gradient) => leaf_of(gradient),
            None => vec![0.0; elements + 2],
        };
        Ok(nodes.iter().map(|node| (*node, sum(*node, &mut leaf))).collect())
    }

    fn update(
        &mut self,
        state: &mut TunedState,
        adamw: &AdamW,
        (learning_rate, max_norm): (f64, f64),
    ) -> Option<Made> {
        let elements = self.setting.layout.tuned_len();
        let (loss_sum, rows) = (f64::from(self.sums[elements]), self.sums[elements + 1]);
        let gradient = &mut self.sums[..elements];
        // The mean over the batch's true number of rows.
        gradient.iter_mut().for_each(|value| *value /= rows);
        let norm = clip_global_norm(gradient, max_norm);
        if !loss_sum.is_finite() || !norm.is_finite() {
            return None;
        }
        adamw.update(&self.setting.layout, state, gradient, learning_rate);
        let rows = f64::from(rows);
        Some(Made { loss: loss_sum / rows, rows, norm })
    }

    fn bad(&self, state: &TunedState, at: RunStep, slices: Vec<Slice>) -> Told<Vec<u16>> {
        let found = self.gradients(state, at, slices)?;
        let is_bad = |one: &&SliceGradient| {
            !one.loss.is_finite() || one.gradient.iter().any(|value| !value.is_finite())
        };
        Ok(found.iter().filter(is_bad).map(|one| one.index).collect())
    }
}

/// What one slice adds: gradient, loss sum, row count.
fn leaf_of(found: SliceGradient) -> Vec<f32> {
    let mut values = found.gradient;
    values.push(found.loss);
    #[expect(clippy::cast_precision_loss, reason = "a slice's rows are far below 2^24")]
    values.push(found.rows as f32);
    values
}
