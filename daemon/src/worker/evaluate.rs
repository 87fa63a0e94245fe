//! Evaluation, sharded in slices of its own: every rank scores some, all ranks compute the metric.

use super::generation::{Training, tokens};
use super::held::Exit;
use crate::clock;
use crate::numerics::batches::cut_by_rows;
use crate::tasks;
use crate::train::batch::Slice;
use ptv2_common::api::EvaluationMetrics;
use ptv2_common::error::Explained;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of an evaluation slice. Part of the result: a slice's padding touches its scores' last bits.
const ROWS_OF_A_SLICE: usize = 8;

/// Scores the validation rows with the current state. Rows that were scored before a group was cut off
/// in the midst of it are not scored again.
///
/// # Errors
/// Why this rank left.
pub(super) fn evaluate(training: &mut Training<'_>) -> Result<EvaluationMetrics, Exit> {
    let began = clock::now();
    let step = training.place()?.step;
    let at = |slice| Place { step, phase: PlacePhase::Evaluating, evaluation_slice: slice };
    training.shared.pulse.moved(DevicePhase::Evaluating, Some(at(0)));
    let rows = u32::try_from(training.held.data.val.len()).unwrap_or(u32::MAX);
    let all: Vec<u32> = (0..rows).collect();
    let known = gather(training, step)?;
    let val = &training.held.data.val;
    let mut slices = cut_by_rows(&all, ROWS_OF_A_SLICE, |row| val.length(row as usize));
    // A slice is scored whole, since its padding is part of the result.
    slices.retain(|slice| slice.iter().any(|row| !known.contains_key(row)));
    let (own, _) = training.own_run(val, &slices);
    let state = &training.held.progress.as_ref().ok_or(Exit::Left)?.state;
    let values = Arc::new(state.values.clone());

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
        let scores = training.held.pool.logits(&values, work)?;
        let progress = training.held.progress.as_mut().ok_or(Exit::Left)?;
        for (index, scores) in some.iter().zip(scores) {
            let rows = &slices[*index as usize];
            let width = (scores.len() / rows.len().max(1)).max(1);
            let found = rows.iter().copied().zip(scores.chunks(width).map(best_of));
            progress.scored.extend(found);
        }
    }
    let known = gather(training, step)?;
    let predictions: Option<Vec<i32>> = all.iter().map(|row| known.get(row).copied()).collect();
    let Some(predictions) = predictions else {
        return Err(Explained::new("the ranks' predictions do not cover the rows").into());
    };
    let job = &training.start.job;
    let task = tasks::by_name(&job.spec.task)?;
    let seconds = clock::now().saturating_duration_since(began).as_secs_f64().max(1e-9);
    let count: u64 = all.iter().map(|row| tokens(&training.held.data.val, *row)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a split's tokens are far below 2^53")]
    let tokens = count as f64;
    let epochs = training.state()?.steps_of_run() / job.plan.steps_per_epoch.max(1);
    Ok(EvaluationMetrics {
        step,
        epoch: u32::try_from(epochs).unwrap_or(u32::MAX),
        split: "val".into(),
        seed: training.runs.shown_seed(training.state()?.run),
        rows_per_s: Some(f64::from(rows) / seconds),
        tokens_per_s: Some(tokens / seconds),
        values: task.metrics(&predictions, training.held.data.val.labels()),
    })
}

/// The rows that any rank has scored with the current state, with their predictions.
fn gather(training: &mut Training<'_>, step: u64) -> Result<BTreeMap<u32, i32>, Exit> {
    let own = &training.held.progress.as_ref().ok_or(Exit::Left)?.scored;
    let own: Vec<u8> = own
        .iter()
        .flat_map(|(row, prediction)| [row.to_le_bytes(), prediction.to_le_bytes()].concat())
        .collect();
    let mut known = BTreeMap::new();
    for bytes in training.group.all_gather_bytes(step, &own)? {
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            known.insert(u32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
        }
    }
    Ok(known)
}

/// Index of the largest score; of equal ones the first.
fn best_of(scores: &[f32]) -> i32 {
    let mut best = 0;
    for (index, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = index;
        }
    }
    i32::try_from(best).unwrap_or(i32::MAX)
}
