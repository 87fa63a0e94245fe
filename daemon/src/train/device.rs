//! Steps on a device: the tuned state lives there, and the device thread itself asks for every operator, one
//! slice after the other. Inside a step nothing waits for the device but the one copy at its end, and what
//! the reduction needs.

use super::batch::{Slice, place_all};
use super::flat::{Flat, Report};
use super::step::{Network, RunStep};
use super::stepper::{Made, Told};
use super::{Result, memory};
use crate::collective::{self, Collective, Stamp};
use crate::numerics::adamw::AdamW;
use crate::numerics::state::TunedState;
use crate::numerics::tree::{Node, fold};
use ptv2_common::error::Explained;
use std::cell::RefCell;
use tch::{Kind, Tensor};

/// A network and the state that it trains, on one device.
pub struct Device {
    network: Network,
    flat: Flat,
    /// Of values and moments, as they are now.
    hash: u64,
    /// Whether the state here is newer than the host's.
    is_ahead: bool,
    /// Buffers of gradients that are not in use.
    spare: RefCell<Vec<Tensor>>,
}

impl Device {
    /// Reserves what a job's state takes.
    ///
    /// # Errors
    /// When there is too little memory.
    pub(super) fn new(network: Network) -> Told<Self> {
        let flat = Flat::new(network.setting(), network.device())
            .map_err(|error| memory::told(error, || "reserving the tuned state".into()))?;
        Ok(Self { network, flat, hash: 0, is_ahead: false, spare: RefCell::default() })
    }

    /// Whether what was asked for is done when an operator returns.
    pub(super) fn waits(&self) -> bool {
        self.network.device() == tch::Device::Cpu
    }

    /// Takes a state from the host.
    pub(super) fn load(&mut self, state: &TunedState) -> Result<()> {
        self.flat.load(state)?;
        self.hash = self.flat.hash()?.f_int64_value(&[])?.cast_unsigned();
        self.is_ahead = false;
        Ok(())
    }

    /// Gives the state to the host, if that does not have it yet.
    pub(super) fn settle(&mut self, state: &mut TunedState) -> Result<()> {
        if self.is_ahead {
            self.flat.store(state)?;
            self.is_ahead = false;
        }
        Ok(())
    }

    /// Of the state after so many steps.
    pub(super) fn hash(&self, step: u64) -> u64 {
        self.hash ^ step
    }

    /// The sums of some nodes of the batch's tree. Slices without rows are not among `slices`, and add zeros.
    pub(super) fn parts(
        &self,
        at: RunStep,
        nodes: &[Node],
        slices: &[Slice],
    ) -> Told<Vec<(Node, Tensor)>> {
        let prefix = self.network.setting().prefix;
        let placed = place_all(slices, prefix, self.network.device())
            .map_err(|error| memory::told(error, || "placing a step's rows".into()))?;
        let mut placed = slices.iter().zip(placed).peekable();
        let mut leaf = |index: u32| -> Told<Tensor> {
            let target = self.buffer()?;
            match placed.next_if(|(slice, _)| u32::from(slice.index) == index) {
                Some((slice, placed)) => self
                    .network
                    .gradient_into(&self.flat.leaves, at, &placed, &target)
                    .map_err(|error| memory::told(error, || memory::of_gradient(slice, prefix)))?,
                None => drop(target.shallow_clone().f_zero_().map_err(explained)?),
            }
            Ok(target)
        };
        let mut add = |mut total: Tensor, other: Tensor| -> Told<Tensor> {
            drop(total.f_add_(&other).map_err(explained)?);
            self.spare.borrow_mut().push(other);
            Ok(total)
        };
        nodes.iter().map(|node| Ok((*node, fold(*node, &mut leaf, &mut add)?))).collect()
    }

    /// A flat tensor for a gradient, a loss sum and a row count. What stands in it is of no meaning.
    fn buffer(&self) -> Told<Tensor> {
        if let Some(buffer) = self.spare.borrow_mut().pop() {
            return Ok(buffer);
        }
        self.flat
            .sums
            .f_empty_like()
            .map_err(|error| memory::told(error.into(), || "reserving a gradient".into()))
    }

    /// Sums all ranks' parts.
    pub(super) fn reduce(
        &mut self,
        group: &mut dyn Collective,
        (step, slices): (u64, u32),
        parts: Vec<(Node, Tensor)>,
        stamp: &Stamp,
    ) -> collective::Result<Vec<Stamp>> {
        let stamps = group.reduce_tensors(step, slices, &parts, stamp, &mut self.flat.sums)?;
        self.spare.borrow_mut().extend(parts.into_iter().map(|(_, part)| part));
        Ok(stamps)
    }

    /// Makes a step of the sums. The state on the host counts it; its buffers stay behind until it settles.
    pub(super) fn update(
        &mut self,
        state: &mut TunedState,
        adamw: &AdamW,
        (learning_rate, max_norm): (f64, f64),
    ) -> Result<Option<Made>> {
        let settings = adamw.settings(state.steps_of_run() + 1, learning_rate);
        let there = self.flat.update(&settings, max_norm)?;
        let Report { loss, rows, norm, hash } = Report::read(&there)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Ok(None);
        }
        state.step += 1;
        (self.hash, self.is_ahead) = (hash, true);
        Ok(Some(Made { loss: loss / rows, rows, norm }))
    }

    /// The slices whose loss or gradient is no finite number.
    pub(super) fn bad(&self, at: RunStep, slices: &[Slice]) -> Told<Vec<u16>> {
        let mut bad = Vec::new();
        for slice in slices {
            let node = Node { start: slice.index.into(), end: u32::from(slice.index) + 1 };
            for (_, part) in self.parts(at, &[node], std::slice::from_ref(slice))? {
                let is_good = part.f_isfinite().and_then(|part| part.f_all());
                if is_good.and_then(|good| good.f_int64_value(&[])).map_err(explained)? == 0 {
                    bad.push(slice.index);
                }
                self.spare.borrow_mut().push(part);
            }
        }
        Ok(bad)
    }

    /// The scores of some slices' rows, by one copy.
    pub(super) fn logits(&self, slices: &[Slice]) -> Told<Vec<Vec<f32>>> {
        let setting = self.network.setting();
        let scores = || -> Result<Vec<Tensor>> {
            let placed = place_all(slices, setting.prefix, self.network.device())?;
            placed.iter().map(|one| self.network.logits_there(&self.flat.leaves, one)).collect()
        };
        let flat = || -> Result<Vec<f32>> {
            let scores = scores()?;
            let count: usize = scores.iter().map(Tensor::numel).sum();
            let mut flat = vec![0.0; count];
            if count > 0 {
                Tensor::f_cat(&scores, 0)?.f_to_kind(Kind::Float)?.f_copy_data(&mut flat, count)?;
            }
            Ok(flat)
        };
        let told = |error| memory::told(error, || memory::of_scores(slices, setting.prefix));
        let flat = flat().map_err(told)?;
        let mut rest = flat.as_slice();
        let width = setting.scores_of_a_row();
        let mut next = |slice: &Slice| {
            let (own, later) = rest.split_at(slice.rows * width);
            rest = later;
            own.to_vec()
        };
        Ok(slices.iter().map(&mut next).collect())
    }
}

fn explained(error: tch::TchError) -> Explained {
    super::TensorError::from(error).into()
}
