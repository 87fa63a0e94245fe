//! One layer: attention and feed-forward, each with a residual and the norm after it.

use super::parts::{Linear, Norm};
use super::weights::Weights;
use crate::backbone::Config;
use crate::backbone::tensors::LayerNames;
use crate::train::Result;
use crate::train::attention::Projected;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use tch::{Kind, Tensor};

pub(super) struct Layer {
    /// Query, key and value in one product of 3·H outputs.
    attention_input: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    inner: Linear,
    outer: Linear,
    /// The activation between the two: ReLU instead of GELU.
    relu: bool,
    output_norm: Norm,
}

impl Layer {
    pub(super) fn take(
        weights: &Weights<'_>,
        index: u32,
        config: &Config,
        kind: Kind,
    ) -> std::result::Result<Self, Explained> {
        let names = LayerNames::new(config.architecture, index);
        let [query, key, value] = names.projections.map(|name| Linear::take(weights, &name, kind));
        let (query, key, value) = (query?, key?, value?);
        let join = |tensors: [&Tensor; 3]| {
            Tensor::f_cat(&tensors, 0).map_err(|error| Explained::from_error(&error))
        };
        Ok(Self {
            attention_input: Linear {
                weight: join([&query.weight, &key.weight, &value.weight])?,
                bias: join([&query.bias, &key.bias, &value.bias])?,
            },
            attention_output: Linear::take(weights, &names.attention_output, kind)?,
            attention_norm: Norm::take(weights, &names.attention_norm, config)?,
            inner: Linear::take(weights, &names.inner, kind)?,
            outer: Linear::take(weights, &names.outer, kind)?,
            relu: config.hidden_act == "relu",
            output_norm: Norm::take(weights, &names.output_norm, config)?,
        })
    }

    /// Query, key and value of `hidden` `[B, S, H]`.
    pub(super) fn project(&self, hidden: &Tensor) -> Result<Projected> {
        let (rows, length, size) = hidden.size3()?;
        let mixed = self.attention_input.apply(hidden)?.f_view([rows, length, 3, size])?;
        // One unbind: its backward makes one tensor, where three narrows would make three full ones.
        let [query, key, value] = parts(mixed.f_unbind(2)?);
        Ok(Projected { query, key, value })
    }

    /// The same, but only the position `asking` has a query.
    pub(super) fn project_one(&self, hidden: &Tensor, asking: i64) -> Result<Projected> {
        let (rows, length, size) = hidden.size3()?;
        let query = self.rows_of(0, 1, size)?.apply(&hidden.f_narrow(1, asking, 1)?)?;
        let mixed = self.rows_of(1, 2, size)?.apply(hidden)?.f_view([rows, length, 2, size])?;
        let [key, value] = parts(mixed.f_unbind(2)?);
        Ok(Projected { query, key, value })
    }

    /// Embeddings of distances `[R, H]` as queries and as keys, each `[R, H]`.
    pub(super) fn project_distances(&self, rows: &Tensor) -> Result<[Tensor; 2]> {
        let size = rows.size()[1];
        let mixed = self.rows_of(0, 2, size)?.apply(rows)?.f_view([-1, 2, size])?;
        Ok(parts(mixed.f_unbind(1)?))
    }

    /// `count` of query, key and value, from `first` on.
    fn rows_of(&self, first: i64, count: i64, size: i64) -> Result<Linear> {
        self.attention_input.narrow(first * size, count * size)
    }

    /// From attention's context to the layer's output, for the positions `hidden` `[B, Q, H]` that
    /// had a query. `index` is the layer's own.
    pub(super) fn finish(
        &self,
        index: usize,
        hidden: &Tensor,
        context: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let output = self.attention_output.apply(context)?;
        let sum = dropout.add(hidden, &output, Site::AttentionOutput(index))?;
        let hidden = self.attention_norm.apply(&sum)?;

        let inner = self.inner.apply(&hidden)?;
        let inner = if self.relu { inner.f_relu()? } else { inner.f_gelu("none")? };
        let output = self.outer.apply(&inner)?;
        let sum = dropout.add(&hidden, &output, Site::Output(index))?;
        self.output_norm.apply(&sum)
    }

    pub(super) fn share(&self) -> Self {
        Self {
            attention_input: self.attention_input.share(),
            attention_output: self.attention_output.share(),
            attention_norm: self.attention_norm.share(),
            inner: self.inner.share(),
            outer: self.outer.share(),
            relu: self.relu,
            output_norm: self.output_norm.share(),
        }
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let linears = [&self.attention_input, &self.attention_output, &self.inner, &self.outer];
        let norms = [&self.attention_norm, &self.output_norm];
        linears
            .into_iter()
            .flat_map(Linear::tensors)
            .chain(norms.into_iter().flat_map(Norm::tensors))
    }
}

/// The parts of an unbound axis of N.
fn parts<const N: usize>(unbound: Vec<Tensor>) -> [Tensor; N] {
    unbound.try_into().unwrap_or_else(|_| unreachable!("the axis was just made with N parts"))
}
