//! One slice of one step: from tuned values and rows to the gradient of what is tuned.
//!
//! The reading order: [`Network::gradient`] runs [`Network::logits`] and asks autograd for the
//! gradients of the tuned tensors only. Nothing accumulates in shared tensors, so slices may run
//! side by side on threads that share the frozen weights.

use super::backbones::Backbone;
use super::batch::{Placed, Slice, signed};
use super::dropout::{Dropout, Rates, SharedMasks, Site};
use super::prefix::{self, Projection};
use super::{Result, pooler};
use crate::numerics::generator::{Purpose, Stream};
use crate::numerics::state::{
    HEAD_BIAS, HEAD_WEIGHT, Layout, POOLER_BIAS, POOLER_WEIGHT, PREFIX_EMBEDDING, PREFIX_INNER,
    PREFIX_OUTER, PREFIX_TABLE, PROMPT_TABLE, TunedTensor,
};
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use std::sync::Arc;
use tch::{Device, Reduction, TchError, Tensor};

/// What a job makes of a backbone: which tensors are tuned, and how a row is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Sequences of a row: 1, or the number of choices of a multiple-choice task.
    pub choices: i64,
    /// Outputs C of the head.
    pub outputs: i64,
    /// Positions P of prefix or prompt; 0 tunes the head only.
    pub prefix: i64,
    /// Dropout in training.
    pub rates: Rates,
    /// The tuned tensors: they tell the methods apart.
    pub layout: Layout,
    /// Weight and bias of the backbone's pooler, which a pooler of the job's own begins with.
    pub pooler: Option<[Vec<f32>; 2]>,
    /// Keys dropout too, where a test wants what must not be: its negative control.
    #[cfg(feature = "faults")]
    pub process: u32,
}

impl Setting {
    /// A job's setting on its backbone.
    ///
    /// # Errors
    /// When the method has no use for such a backbone; those of torch.
    pub fn new(job: &JobRecord, backbone: &Backbone) -> std::result::Result<Self, Explained> {
        let method = &job.spec.method;
        let outputs = outputs(job);
        let config = &backbone.config;
        let hidden = method.hidden_dropout_prob;
        Ok(Self {
            choices: i64::from(job.choices),
            outputs: signed(outputs),
            prefix: i64::from(method.prefix_length()),
            rates: Rates {
                hidden,
                attention: method.attention_dropout.unwrap_or(config.attention_probs_dropout_prob),
                prefix: method.prefix_dropout.unwrap_or(hidden),
                head: method.head_dropout.unwrap_or(hidden),
            },
            layout: Layout::of(method, config, outputs)?,
            pooler: pooler::first_values(backbone)?,
            #[cfg(feature = "faults")]
            process: crate::faults::dropout_key(),
        })
    }

    /// Scores of each row: one a choice, or one a label.
    pub fn scores_of_a_row(&self) -> usize {
        let scores = if self.choices > 1 { self.choices } else { self.outputs };
        usize::try_from(scores).unwrap_or(1).max(1)
    }

    /// First values of a seed: those of the backbone's pooler where it has one, N(0, 0.02²) for other weights and
    /// tables, and 0 for biases.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.layout.len()];
        for tensor in self.layout.all() {
            let target = &mut values[tensor.range.clone()];
            let own = match (tensor.name.as_str(), &self.pooler) {
                (POOLER_WEIGHT, Some([weight, _])) => Some(weight),
                (POOLER_BIAS, Some([_, bias])) => Some(bias),
                _ => None,
            };
            match (own, tensor.stream) {
                (Some(own), _) => target.copy_from_slice(own),
                (None, Some(site)) => {
                    Stream::new(seed, Purpose::Initial, 0, 0, site).normal(0.02, target);
                }
                (None, None) => {}
            }
        }
        values
    }
}

/// Outputs C of a job's head: one a label, or the score of a choice.
pub(super) fn outputs(job: &JobRecord) -> usize {
    if job.choices > 1 { 1 } else { job.labels.len() }
}

/// A step of a run: with the slice's number, all that dropout depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStep {
    /// The run's seed.
    pub seed: u64,
    /// Steps of the run before this one.
    pub step: u64,
}

/// What a slice contributes to a step.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceGradient {
    /// The slice's number.
    pub index: u16,
    /// Gradient of the *sum* of the rows' losses, flat in the layout's order.
    pub gradient: Vec<f32>,
    /// Sum of the rows' losses.
    pub loss: f32,
    /// Rows.
    pub rows: usize,
}

/// A backbone set up for a job, on one thread.
pub struct Network {
    backbone: Backbone,
    setting: Arc<Setting>,
    /// What makes dropout's factors on the backbone's device; without it, the host makes them.
    masks: Option<SharedMasks>,
}

/// The values as tensors, in the layout's order: first those that want a gradient.
pub struct Tuned {
    setting: Arc<Setting>,
    all: Vec<Tensor>,
}

impl Tuned {
    /// Makes leaves of a layout's parts, flat each; with `gradient`, of those that are tuned they want one.
    fn leaves(
        setting: &Arc<Setting>,
        gradient: bool,
        part: impl Fn(&TunedTensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let layout = &setting.layout;
        let wants_gradient = layout.tensors().len();
        let all = layout.all().iter().enumerate().map(|(place, tensor)| {
            let shape: Vec<i64> = tensor.shape.iter().map(|size| signed(*size)).collect();
            let leaf = part(tensor)?.f_view(&shape[..])?;
            Ok(leaf.f_set_requires_grad(gradient && place < wants_gradient)?)
        });
        Ok(Self { all: all.collect::<Result<_>>()?, setting: Arc::clone(setting) })
    }

    /// Leaves that are parts of one flat tensor of all values, and change with it.
    ///
    /// # Errors
    /// Those of torch.
    pub fn within(setting: &Arc<Setting>, values: &Tensor) -> Result<Self> {
        Self::leaves(setting, true, |tensor| {
            let part =
                values.f_narrow(0, signed(tensor.range.start), signed(tensor.range.len()))?;
            Ok(part.f_detach()?)
        })
    }

    /// One tensor by name, where the layout has it.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        let place = self.setting.layout.all().iter().position(|tensor| tensor.name == name)?;
        self.all.get(place)
    }

    /// A tensor that every layout of its kind has.
    fn of(&self, name: &str) -> Result<&Tensor> {
        let missing = || TchError::TensorNameNotFound(name.into(), "the layout".into());
        Ok(self.get(name).ok_or_else(missing)?)
    }

    /// The prefix's table `[P, 2·L·H]`, tuned itself or made; `None` without a prefix.
    fn table(&self) -> Result<Option<Tensor>> {
        if let Some(table) = self.get(PREFIX_TABLE) {
            return Ok(Some(table.shallow_clone()));
        }
        let Some(embedding) = self.get(PREFIX_EMBEDDING) else { return Ok(None) };
        let inner = [self.of(PREFIX_INNER[0])?, self.of(PREFIX_INNER[1])?];
        let outer = [self.of(PREFIX_OUTER[0])?, self.of(PREFIX_OUTER[1])?];
        Projection { embedding, inner, outer }.table().map(Some)
    }
}

impl Network {
    /// Puts a job's setting on a backbone.
    pub fn new(backbone: Backbone, setting: Arc<Setting>) -> Self {
        if backbone.device() != Device::Cpu {
            return Self::on_device(backbone, setting);
        }
        Self { backbone, setting, masks: None }
    }

    /// The same, with everything made on the backbone's device, whichever it is: the way of a GPU.
    pub fn on_device(backbone: Backbone, setting: Arc<Setting>) -> Self {
        let masks = Some(SharedMasks::new(backbone.device()));
        Self { backbone, setting, masks }
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.backbone.device()
    }

    /// The job's setting.
    pub fn setting(&self) -> &Arc<Setting> {
        &self.setting
    }

    /// The gradient of a slice at a step of a run.
    ///
    /// # Errors
    /// Those of torch.
    pub fn gradient(&self, values: &[f32], at: RunStep, slice: &Slice) -> Result<SliceGradient> {
        let setting = &self.setting;
        let tuned = self.tuned(values, true)?;
        let slice = slice.placed(setting.prefix, self.device())?;
        let (loss, gradients) = self.backward(&tuned, at, &slice)?;
        // Room for what stands behind a gradient on its way: loss and row count.
        let mut gradient = Vec::with_capacity(setting.layout.tuned_len() + 2);
        gradient.resize(setting.layout.tuned_len(), 0.0_f32);
        for (tensor, found) in setting.layout.tensors().iter().zip(&gradients) {
            // An input that the loss does not reach comes back undefined: its gradient is zero.
            if found.defined() {
                let target = &mut gradient[tensor.range.clone()];
                found.f_contiguous()?.f_copy_data(target, target.len())?;
            }
        }
        let mut sum = [0.0_f32];
        loss.f_copy_data(&mut sum, 1)?;
        Ok(SliceGradient { index: slice.index, gradient, loss: sum[0], rows: slice.rows })
    }

    /// Writes the gradient of a slice, its loss and its row count behind, into a flat tensor on the device.
    /// Nothing waits for the device.
    ///
    /// # Errors
    /// Those of torch.
    pub fn gradient_into(
        &self,
        tuned: &Tuned,
        at: RunStep,
        slice: &Placed,
        target: &Tensor,
    ) -> Result<()> {
        let (loss, gradients) = self.backward(tuned, at, slice)?;
        let layout = &self.setting.layout;
        for (tensor, found) in layout.tensors().iter().zip(&gradients) {
            let (start, length) = (signed(tensor.range.start), signed(tensor.range.len()));
            let mut part = target.f_narrow(0, start, length)?;
            if found.defined() {
                part.f_copy_(&found.f_reshape([length])?)?;
            } else {
                drop(part.f_zero_()?);
            }
        }
        let behind = signed(layout.tuned_len());
        target.f_narrow(0, behind, 1)?.f_copy_(&loss.f_view([1])?)?;
        drop(target.f_narrow(0, behind + 1, 1)?.f_fill_(signed(slice.rows))?);
        Ok(())
    }

    /// The sum of a slice's losses, and its gradient for each tuned tensor; undefined where the loss does
    /// not reach one.
    fn backward(
        &self,
        tuned: &Tuned,
        at: RunStep,
        slice: &Placed,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let setting = &self.setting;
        #[cfg(feature = "faults")]
        let _taken = crate::faults::take_memory(at.step, self.device())?;
        let seed = at.seed;
        #[cfg(feature = "faults")]
        let seed = seed + 1000 * u64::from(setting.process);
        let mut dropout = Dropout::new(setting.rates, seed, at.step, slice.index);
        if let Some(masks) = &self.masks {
            let (sequences, length) = slice.inputs.ids.size2()?;
            dropout = dropout.on_device(masks, [sequences, length])?;
        }
        let logits = self.forward(tuned, slice, &dropout)?;
        let loss = logits.f_cross_entropy_loss::<Tensor>(
            &slice.labels,
            None,
            Reduction::Sum,
            -100,
            0.0,
        )?;
        let leaves = &tuned.all[..setting.layout.tensors().len()];
        let gradients = Tensor::f_run_backward(&[&loss], leaves, false, false)?;
        Ok((loss, gradients))
    }

    /// The scores of a slice's rows without dropout, `[rows, C]` (`[rows, choices]` for multiple
    /// choice), flat.
    ///
    /// # Errors
    /// Those of torch.
    pub fn logits(&self, values: &[f32], slice: &Slice) -> Result<Vec<f32>> {
        let _no_grad = tch::no_grad_guard();
        let tuned = self.tuned(values, false)?;
        let slice = slice.placed(self.setting.prefix, self.device())?;
        let logits = self.forward(&tuned, &slice, &Dropout::OFF)?.f_contiguous()?;
        let mut out = vec![0.0; logits.numel()];
        let count = out.len();
        logits.f_copy_data(&mut out, count)?;
        Ok(out)
    }

    /// The scores of a slice's rows, as [`Self::logits`], on the device.
    ///
    /// # Errors
    /// Those of torch.
    pub fn logits_there(&self, tuned: &Tuned, slice: &Placed) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        Ok(self.forward(tuned, slice, &Dropout::OFF)?.f_reshape([-1])?)
    }

    fn tuned(&self, values: &[f32], gradient: bool) -> Result<Tuned> {
        let device = self.device();
        let part = |tensor: &TunedTensor| {
            Ok(Tensor::f_from_slice(&values[tensor.range.clone()])?.f_to(device)?)
        };
        Tuned::leaves(&self.setting, gradient, part)
    }

    /// Text behind the prefix, the pooled first token, the head; multiple choice puts the choices'
    /// single scores side by side.
    fn forward(&self, tuned: &Tuned, slice: &Placed, dropout: &Dropout) -> Result<Tensor> {
        let setting = &self.setting;
        let config = &self.backbone.config;
        let inputs = &slice.inputs;
        let keys = match tuned.table()? {
            Some(table) => prefix::keys(
                &table,
                inputs.ids.size()[0],
                i64::from(config.num_hidden_layers),
                i64::from(config.num_attention_heads),
                self.backbone.kind(),
                dropout,
            )?,
            None => Vec::new(),
        };
        let first = self.backbone.encode(inputs, &keys, tuned.get(PROMPT_TABLE), dropout)?;
        let pooled = pooler::pool(&first, tuned, &self.backbone)?;
        let logits = dropout
            .apply(pooled, Site::Head)?
            .f_linear(tuned.of(HEAD_WEIGHT)?, Some(tuned.of(HEAD_BIAS)?))?;
        if setting.choices > 1 {
            return Ok(logits.f_view([signed(slice.rows), setting.choices])?);
        }
        Ok(logits)
    }
}
