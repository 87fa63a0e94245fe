//! How scores depend on the distance from key to query: MPNet's bias, DeBERTa's embeddings.

use super::layer::Layer;
use super::parts::Norm;
use super::weights::Weights;
use crate::backbone::tensors::{BIAS, DISTANCE_NORM, DISTANCES};
use crate::backbone::{Architecture, Config};
use crate::train::Result;
use crate::train::dropout::{Dropout, Site};
use crate::train::relation::{Disentangled, Relation};
use ptv2_common::error::Explained;
use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// What a backbone has for distances; all layers share it.
pub(super) enum Relative {
    /// Nothing.
    None,
    /// MPNet's biases.
    Bias(Biases),
    /// DeBERTa's embeddings.
    Embedded(Embedded),
}

pub(super) struct Biases {
    /// fp32 `[32, h]`.
    table: Tensor,
    pairs: Pairs,
}

pub(super) struct Embedded {
    /// Behind their norm, `[2·span, H]`.
    table: Tensor,
    span: i32,
    /// Buckets in each direction, and the distance that the last stands for.
    buckets: Option<(i32, i32)>,
    pairs: Pairs,
}

/// What each pair of positions has, by their number: kept where it must be copied to a device.
#[derive(Default)]
struct Pairs(RefCell<BTreeMap<i32, Tensor>>);

impl Pairs {
    fn among(&self, length: i32, device: Device, number: impl Fn(i32) -> i32) -> Result<Tensor> {
        if device == Device::Cpu {
            return of_pairs(length, number);
        }
        if let Some(known) = self.0.borrow().get(&length) {
            return Ok(known.shallow_clone());
        }
        let made = of_pairs(length, number)?.f_to(device)?;
        self.0.borrow_mut().insert(length, made.shallow_clone());
        Ok(made)
    }
}

impl Relative {
    pub(super) fn take(
        weights: &Weights<'_>,
        config: &Config,
        kind: Kind,
    ) -> std::result::Result<Self, Explained> {
        if config.architecture == Architecture::Mpnet {
            let table = weights.take(BIAS, Kind::Float)?;
            return Ok(Self::Bias(Biases { table, pairs: Pairs::default() }));
        }
        let Some(deberta) = &config.deberta else { return Ok(Self::None) };
        let small = |size: u32| i32::try_from(size).unwrap_or(i32::MAX);
        let mut table = weights.take(DISTANCES, Kind::Float)?;
        if deberta.has_distance_norm() {
            table = Norm::take(weights, DISTANCE_NORM, config)?.apply(&table)?;
        }
        let failed = |error: tch::TchError| Explained::from_error(&error);
        Ok(Self::Embedded(Embedded {
            table: table.f_to_kind(kind).map_err(failed)?,
            span: small(deberta.span(config)),
            buckets: deberta.buckets(config).map(|(count, far)| (small(count), small(far))),
            pairs: Pairs::default(),
        }))
    }

    pub(super) fn share(&self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Bias(one) => {
                Self::Bias(Biases { table: one.table.shallow_clone(), pairs: Pairs::default() })
            }
            Self::Embedded(one) => Self::Embedded(Embedded {
                table: one.table.shallow_clone(),
                pairs: Pairs::default(),
                ..*one
            }),
        }
    }

    pub(super) fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::None => None,
            Self::Bias(biases) => Some(&biases.table),
            Self::Embedded(embedded) => Some(&embedded.table),
        }
    }

    /// The distances among `length` positions, where they matter.
    pub(super) fn among(&self, length: i64) -> Result<Option<Distances>> {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        match self {
            Self::None => Ok(None),
            Self::Bias(Biases { table, pairs }) => {
                let ids = pairs.among(length, table.device(), mpnet_bucket)?;
                let bias = Tensor::f_embedding(table, &ids, -1, false, false)?; // [S, S, h]
                Ok(Some(Distances::Bias(bias.f_permute([2, 0, 1])?.f_unsqueeze(0)?)))
            }
            Self::Embedded(embedded) => embedded.among(length).map(Some),
        }
    }
}

impl Embedded {
    fn among(&self, length: i32) -> Result<Distances> {
        let row = |distance: i32| {
            let distance = match self.buckets {
                Some((count, farthest)) => deberta_bucket(distance, count, farthest),
                None => distance,
            };
            (distance + self.span).clamp(0, 2 * self.span - 1)
        };
        // No row outside these is asked for.
        let (lowest, highest) = (row(1 - length), row(length - 1));
        let count = i64::from(highest - lowest + 1);
        Ok(Distances::Rows {
            rows: self.table.f_narrow(0, i64::from(lowest), count)?,
            ids: self
                .pairs
                .among(length, self.table.device(), |distance| row(distance) - lowest)?,
        })
    }
}

/// What stands between Q queries and S keys.
pub(super) enum Distances {
    /// Biases, fp32 `[1, h, Q, S]`.
    Bias(Tensor),
    /// Embeddings.
    Rows {
        /// Those of all distances that occur, `[R, H]`.
        rows: Tensor,
        /// Which of them each pair has, `[Q, S]`.
        ids: Tensor,
    },
}

impl Distances {
    /// Of one query only.
    pub(super) fn only(self, query: i64) -> Result<Self> {
        Ok(match self {
            Self::Bias(bias) => Self::Bias(bias.f_narrow(2, query, 1)?),
            Self::Rows { rows, ids } => Self::Rows { rows, ids: ids.f_narrow(0, query, 1)? },
        })
    }

    /// What they mean to a layer: its own maps of queries and keys make both of an embedding.
    pub(super) fn relation(
        &self,
        layer: &Layer,
        index: usize,
        heads: i64,
        dropout: &Dropout,
    ) -> Result<Relation> {
        let (rows, ids) = match self {
            Self::Bias(bias) => return Ok(Relation::Bias(bias.shallow_clone())),
            Self::Rows { rows, ids } => (rows, ids),
        };
        let rows = dropout.apply(rows.shallow_clone(), Site::Distances(index))?;
        let (count, size) = rows.size2()?;
        let [query, key] = layer.project_distances(&rows)?;
        let split = |tensor: Tensor| -> Result<Tensor> {
            Ok(tensor.f_view([count, heads, size / heads])?.f_transpose(0, 1)?) // [h, R, d]
        };
        Ok(Relation::Disentangled(Disentangled {
            keys: split(key)?,
            queries: split(query)?,
            ids: ids.shallow_clone(),
        }))
    }
}

/// A number for each pair of positions, `[length, length]`, of the distance from key to query.
fn of_pairs(length: i32, number: impl Fn(i32) -> i32) -> Result<Tensor> {
    let pairs = (0..length).flat_map(|query| (0..length).map(move |key| query - key));
    let numbers: Vec<i64> = pairs.map(|distance| i64::from(number(distance))).collect();
    let length = i64::from(length);
    Ok(Tensor::f_from_slice(&numbers)?.f_view([length, length])?)
}

/// Of MPNet's 32 buckets, 16 are for keys behind the query. Of each 16, 8 are single distances and 8
/// grow by the root of two, the last without end.
fn mpnet_bucket(distance: i32) -> i32 {
    let side = if distance < 0 { 16 } else { 0 };
    let far = distance.unsigned_abs();
    if far < 8 {
        return side + i32::try_from(far).unwrap_or(0);
    }
    // 8 + floor(log(far / 8) / log(128 / 8) · 8), in whole numbers.
    let doubled_log = far.saturating_mul(far).ilog2();
    side + i32::try_from(doubled_log).map_or(15, |log| (log + 2).min(15))
}

/// DeBERTa's buckets: distances up to half of them are single, those beyond share the other half by
/// their logarithm. The sign stays.
fn deberta_bucket(distance: i32, buckets: i32, farthest: i32) -> i32 {
    let half = buckets / 2;
    if distance.abs() <= half {
        return distance;
    }
    let log = |value: i32| (f64::from(value) / f64::from(half)).ln();
    let share = log(distance.abs()) / log(farthest - 1);
    #[expect(clippy::cast_possible_truncation, reason = "it is at most a few times the buckets")]
    let beyond = (share * f64::from(half - 1)).ceil() as i32;
    distance.signum() * (beyond + half)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that transformers gives.
    #[test]
    fn buckets_are_those_of_the_reference() {
        for (distance, bucket) in [(0, 0), (7, 7), (8, 8), (11, 8), (12, 9), (-1, 17), (-8, 24)] {
            assert_eq!(mpnet_bucket(distance), bucket, "{distance}");
        }
        for (distance, bucket) in [(16, 10), (64, 14), (90, 14), (91, 15), (127, 15), (-511, 31)] {
            assert_eq!(mpnet_bucket(distance), bucket, "{distance}");
        }
        let released = |distance| deberta_bucket(distance, 256, 512);
        for (distance, bucket) in [(0, 0), (-128, -128), (129, 129), (200, 169), (511, 255)] {
            assert_eq!(released(distance), bucket, "{distance}");
        }
        assert_eq!(released(-300), -released(300));
    }
}
