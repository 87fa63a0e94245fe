//! Evaluation, sharded in slices of its own: every rank scores some, all ranks compute the metric.

use super::generation::{Training, tokens};
use super::held::Exit;
use crate::clock;
use crate::numerics::batches::cut_by_rows;
use crate::tasks::{self, Scored, metrics, rows};
use crate::train::batch::Slice;
use ptv2_common::api::EvaluationMetrics;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use std::collections::BTreeMap;

/// What an evaluation found.
pub(super) struct Evaluation {
    /// What was measured: nothing of a split without labels.
    pub(super) row: EvaluationMetrics,
    /// The rows with their scores, in the split's order.
    pub(super) scored: Vec<Scored>,
}

/// Scores the validation rows with the current state. Rows that were scored before a group was cut off
/// in the midst of it are not scored again.
///
/// # Errors
/// Why this rank left.
pub(super) fn evaluate(training: &mut Training<'_>) -> Result<Evaluation, Exit> {
    let began = clock::now();
    let step = training.place()?.step;
    let at = |slice| Place { step, phase: PlacePhase::Evaluating, evaluation_slice: slice };
    training.shared.pulse.moved(DevicePhase::Evaluating, Some(at(0)));
    let count = u32::try_from(training.held.data.val.len()).unwrap_or(u32::MAX);
    let all: Vec<u32> = (0..count).collect();
    let known = gather(training, step)?;
    let val = &training.held.data.val;
    let rows = training.held.stepper.rows_scored_together();
    let mut slices = cut_by_rows(&all, rows, |row| val.length(row as usize));
    // A slice is scored whole, since its padding is part of the result.
    slices.retain(|slice| slice.iter().any(|row| !known.contains_key(row)));
    let (own, _) = training.own_run(val, &slices);
    let width = training.held.setting.scores_of_a_row();
    let state = &training.held.progress.as_ref().ok_or(Exit::Left)?.state;
    let values = training.held.stepper.values(state);

    let indices: Vec<u32> = own.collect();
    for some in indices.chunks(2 * training.shared.config.threads as usize) {
        let at = at(some.first().copied().unwrap_or(0));
        training.shared.pulse.moved(DevicePhase::Evaluating, Some(at));
        if training.group.is_aborted() {
            return Err(Exit::Left);
        }
        let val = &training.held.data.val;
        let work =
            some.iter().map(|index| Slice::of(val, *index, &slices[*index as usize])).collect();
        let scores = training.held.stepper.logits(&values, work)?;
        let progress = training.held.progress.as_mut().ok_or(Exit::Left)?;
        for (index, scores) in some.iter().zip(scores) {
            let rows = &slices[*index as usize];
            let found = rows.iter().copied().zip(scores.chunks(width).map(<[f32]>::to_vec));
            progress.scored.extend(found);
        }
    }
    let known = gather(training, step)?;
    if known.len() != all.len() {
        return Err(Explained::new("the ranks' scores do not cover the rows").into());
    }
    let job = &training.start.job;
    let task = tasks::of(job)?;
    let scored = tasks::scored(&training.held.data.val, known.values())?;
    // Of a split without labels nothing can be measured.
    let is_labelled = scored.iter().all(|row| row.label >= 0);
    let values = if is_labelled { task.metrics(&scored) } else { BTreeMap::new() };
    let only = metrics::only_class(&tasks::predictions(&scored)).filter(|_| !task.is_ranked());
    if job.score.is_none() {
        training.warn(|health| health.evaluation(only.and_then(|class| name_of(job, class))));
    }
    let seconds = clock::now().saturating_duration_since(began).as_secs_f64().max(1e-9);
    let tokens: u64 = all.iter().map(|row| tokens(&training.held.data.val, *row)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a split's tokens are far below 2^53")]
    let tokens = tokens as f64;
    let epochs = training.state()?.steps_of_run() / job.plan.steps_per_epoch.max(1);
    let row = EvaluationMetrics {
        step,
        epoch: u32::try_from(epochs).unwrap_or(u32::MAX),
        split: job.score.as_ref().map_or(rows::VAL, |score| &score.split).into(),
        seed: training.runs.shown_seed(training.state()?.run),
        rows_per_s: Some(f64::from(count) / seconds),
        tokens_per_s: Some(tokens / seconds),
        values,
    };
    Ok(Evaluation { row, scored })
}

/// The rows that any rank has scored with the current state, with their scores.
fn gather(training: &mut Training<'_>, step: u64) -> Result<BTreeMap<u32, Vec<f32>>, Exit> {
    let own = &training.held.progress.as_ref().ok_or(Exit::Left)?.scored;
    let own: Vec<u8> = own.iter().flat_map(|(row, scores)| to_bytes(*row, scores)).collect();
    let size = 4 * (1 + training.held.setting.scores_of_a_row());
    let mut known = BTreeMap::new();
    for bytes in training.group.all_gather_bytes(step, &own)? {
        known.extend(bytes.chunks_exact(size).filter_map(from_bytes));
    }
    Ok(known)
}

fn to_bytes(row: u32, scores: &[f32]) -> Vec<u8> {
    let scores = scores.iter().flat_map(|score| score.to_le_bytes());
    row.to_le_bytes().into_iter().chain(scores).collect()
}

fn from_bytes(bytes: &[u8]) -> Option<(u32, Vec<f32>)> {
    let (row, scores) = bytes.as_chunks::<4>().0.split_first()?;
    Some((u32::from_le_bytes(*row), scores.iter().map(|one| f32::from_le_bytes(*one)).collect()))
}

fn name_of(job: &JobRecord, class: i32) -> Option<&str> {
    job.labels.get(usize::try_from(class).ok()?).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_survive_their_way() {
        let bytes = to_bytes(7, &[0.5, -1.25, f32::MIN_POSITIVE]);
        assert_eq!(bytes.len(), 16);
        assert_eq!(from_bytes(&bytes), Some((7, vec![0.5, -1.25, f32::MIN_POSITIVE])));
        assert_eq!(from_bytes(&[]), None);
    }
}
