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
use std::sync::Arc;

/// Rows of an evaluation slice. Part of the result: a slice's padding touches its scores' last bits.
const ROWS_OF_A_SLICE: usize = 8;

/// Scores the validation rows with the current state.
///
/// # Errors
/// Why this rank left.
pub(super) fn evaluate(training: &mut Training<'_>) -> Result<EvaluationMetrics, Exit> {
    let began = clock::now();
    let place = training.place()?;
    let step = place.step;
    let val = &training.held.data.val;
    let rows = u32::try_from(val.len()).unwrap_or(u32::MAX);
    let all: Vec<u32> = (0..rows).collect();
    let slices = cut_by_rows(&all, ROWS_OF_A_SLICE, |row| val.length(row as usize));
    let own = training.own_run(val, &slices);
    let state = &training.held.progress.as_ref().ok_or(Exit::Stopped)?.state;
    let values = Arc::new(state.values.clone());

    let mut found = Vec::new();
    let indices: Vec<u32> = own.collect();
    for some in indices.chunks(2 * training.shared.config.threads as usize) {
        let phase = PlacePhase::Evaluating;
        let evaluation_slice = some.first().copied().unwrap_or(0);
        let at = Place { step, phase, evaluation_slice };
        training.shared.pulse.moved(DevicePhase::Evaluating, Some(at));
        if training.group.is_aborted() {
            return Err(Exit::Stopped);
        }
        let work =
            some.iter().map(|index| Slice::of(val, *index, &slices[*index as usize])).collect();
        let scores = training.held.pool.logits(&values, work)?;
        for (index, scores) in some.iter().zip(scores) {
            let rows = &slices[*index as usize];
            let width = scores.len() / rows.len().max(1);
            for (row, scores) in rows.iter().zip(scores.chunks(width.max(1))) {
                found.push((*row, best_of(scores)));
            }
        }
    }
    let bytes: Vec<u8> = found
        .iter()
        .flat_map(|(row, prediction)| [row.to_le_bytes(), prediction.to_le_bytes()].concat())
        .collect();
    let mut predictions = vec![-1; val.len()];
    for bytes in training.group.all_gather_bytes(step, &bytes)? {
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            let row = u32::from_le_bytes([a, b, c, d]) as usize;
            if let Some(prediction) = predictions.get_mut(row) {
                *prediction = i32::from_le_bytes([e, f, g, h]);
            }
        }
    }
    if predictions.contains(&-1) {
        return Err(Explained::new("the ranks' predictions do not cover the rows").into());
    }
    let job = &training.start.job;
    let task = tasks::by_name(&job.spec.task)?;
    let seconds = clock::now().saturating_duration_since(began).as_secs_f64().max(1e-9);
    let count: u64 = all.iter().map(|row| tokens(&training.held.data.val, *row)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a split's tokens are far below 2^53")]
    let tokens = count as f64;
    let epochs = step / job.plan.steps_per_epoch.max(1);
    Ok(EvaluationMetrics {
        step,
        epoch: u32::try_from(epochs).unwrap_or(u32::MAX),
        split: "val".into(),
        rows_per_s: Some(f64::from(rows) / seconds),
        tokens_per_s: Some(tokens / seconds),
        values: task.metrics(&predictions, training.held.data.val.labels()),
    })
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
