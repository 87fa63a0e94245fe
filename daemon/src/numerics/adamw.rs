//! AdamW and the clipping of gradients, as specification section 9 says.

use super::state::{Layout, TunedState};

/// AdamW's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment, which is not yet corrected for bias: the
    /// correction is a part of the step size. (torch's AdamW corrects first, so its epsilon is
    /// `√(1-β₂ᵗ)` times smaller.)
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdamW {
    /// Applies the update of step `state.step + 1` in place and counts it.
    ///
    /// `gradient` is flat, in the layout's order.
    pub fn update(
        &self,
        layout: &Layout,
        state: &mut TunedState,
        gradient: &[f32],
        learning_rate: f64,
    ) {
        state.step += 1;
        let settings = self.settings(state.steps_of_run(), learning_rate);
        for tensor in layout.tensors() {
            let decay = if tensor.decay { settings.decay } else { 0.0 };
            let settings = Settings { decay, ..settings };
            let range = tensor.range.clone();
            settings.update(
                &mut state.values[range.clone()],
                &mut state.moment1[range.clone()],
                &mut state.moment2[range.clone()],
                &gradient[range],
            );
        }
    }

    /// The numbers of a run's step, counted from 1.
    pub(crate) fn settings(&self, step: u64, learning_rate: f64) -> Settings {
        let correction1 = 1.0 - power(self.beta1, step);
        let correction2 = 1.0 - power(self.beta2, step);
        Settings {
            step_size: single(learning_rate * correction2.sqrt() / correction1),
            decay: single(learning_rate * self.weight_decay),
            beta1: single(self.beta1),
            beta2: single(self.beta2),
            rest1: single(1.0 - self.beta1),
            rest2: single(1.0 - self.beta2),
            epsilon: single(self.epsilon),
        }
    }
}

/// What AdamW's numbers come to at one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) step_size: f32,
    /// For tensors that decay.
    pub(crate) decay: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// 1 - β₁, likewise 1 - β₂.
    pub(crate) rest1: f32,
    pub(crate) rest2: f32,
    pub(crate) epsilon: f32,
}

impl Settings {
    fn update(&self, values: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let moments = first.iter_mut().zip(second);
        for ((value, (m, v)), g) in values.iter_mut().zip(moments).zip(gradient) {
            *m = self.beta1 * *m + self.rest1 * g;
            *v = self.beta2 * *v + self.rest2 * (g * g);
            *value -= self.step_size * (*m / (v.sqrt() + self.epsilon));
            // After the Adam update, on the updated value, as the reference does.
            *value -= self.decay * *value;
        }
    }
}

/// Clips a gradient to a global L2 norm and returns the norm before: squares summed in f64 in order
/// of index, the coefficient `max / (norm + 1e-6)` as torch has it. `max_norm` 0 leaves it alone.
pub fn clip_global_norm(gradient: &mut [f32], max_norm: f64) -> f64 {
    let mut sum = 0.0_f64;
    for value in gradient.iter() {
        sum += f64::from(*value) * f64::from(*value);
    }
    let norm = sum.sqrt();
    let coefficient = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && coefficient < 1.0 {
        let coefficient = single(coefficient);
        for value in gradient.iter_mut() {
            *value *= coefficient;
        }
    }
    norm
}

/// `base` to a power by repeated squaring: the same bits on every machine, unlike `powf`.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

#[expect(clippy::cast_possible_truncation, reason = "the nearest fp32 value is what is meant")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };

    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let layout = Layout::new(0, 1, 2, 1);
        let mut state = TunedState::new(vec![1.0, 1.0, 1.0]);
        ADAMW.update(&layout, &mut state, &[0.5, -0.5, 0.0], 0.1);
        let expected = [0.9, 1.1, 1.0];
        for (value, expected) in state.values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
        assert_eq!(state.step, 1);
    }

    /// With a gradient as small as epsilon, the two conventions differ by a factor of 16.
    #[test]
    fn epsilon_is_not_scaled_by_the_bias_correction() {
        let layout = Layout::new(0, 1, 1, 1);
        let mut state = TunedState::new(vec![0.0, 0.0]);
        ADAMW.update(&layout, &mut state, &[1e-8, 1e-8], 1.0);
        // m̂ = g; √v = g·√0.001: g·√0.001 / (g·√0.001 + ε) with ε = g.
        let root = 0.001_f64.sqrt();
        let expected = -(root / (root + 1.0));
        assert!((f64::from(state.values[0]) - expected).abs() < 1e-6, "{:?}", state.values);
    }

    #[test]
    fn decay_spares_biases_and_follows_the_update() {
        let layout = Layout::new(0, 1, 1, 1);
        let mut state = TunedState::new(vec![1.0, 1.0]);
        let adamw = AdamW { weight_decay: 0.5, ..ADAMW };
        adamw.update(&layout, &mut state, &[0.0, 0.0], 0.1);
        assert_eq!(state.values, [1.0, 0.95]);
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut gradient = [3.0, 4.0];
        assert!((clip_global_norm(&mut gradient, 1.0) - 5.0).abs() < 1e-12);
        assert!((gradient[0] - 0.6).abs() < 1e-6 && (gradient[1] - 0.8).abs() < 1e-6);
        let mut small = [0.3, 0.4];
        clip_global_norm(&mut small, 1.0);
        assert_eq!(small, [0.3, 0.4]);
        let mut free = [3.0, 4.0];
        clip_global_norm(&mut free, 0.0);
        assert_eq!(free, [3.0, 4.0]);
    }
}
