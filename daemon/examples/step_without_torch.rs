//! What a training step does outside of torch, on made rows: `step_without_torch STEPS`.
//!
//! `make bench` counts its instructions under callgrind, which do not vary from run to run. The
//! sizes are those of RTE on MiniLM-L6: batches of 32 rows in 8 slices, P = 20, 6 layers of 384.

use ptv2_daemon::features::{Rows, Sequence};
use ptv2_daemon::numerics::adamw::{AdamW, clip_global_norm};
use ptv2_daemon::numerics::batches::{BatchPlan, cut, deal};
use ptv2_daemon::numerics::generator::{Purpose, Stream};
use ptv2_daemon::numerics::state::{Layout, TunedState};
use ptv2_daemon::numerics::tree::{covering, sum};
use ptv2_daemon::train::batch::{Slice, expected_cost};

const ROWS: u32 = 256;
const SLICES: u32 = 8;
const PREFIX: usize = 20;
const LAYERS: usize = 6;
const HIDDEN: usize = 384;
const HEADS: usize = 12;

fn main() {
    let steps = std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(1);
    let rows = rows();
    let plan = BatchPlan { rows: ROWS, batch_size: 32, slices: SLICES, seed: 11, shuffle: true };
    let layout = Layout::new(PREFIX, LAYERS, HIDDEN, 2);
    let mut state = TunedState::new(vec![0.01; layout.len()]);
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    for step in 0..steps {
        let order = plan.order(plan.epoch_of(step));
        let slices = cut(&order[plan.range(step)], SLICES, |row| rows.length(row as usize));
        let costs: Vec<f64> = slices.iter().map(|slice| expected_cost(&rows, slice)).collect();
        let own = deal(&costs, &[1.0])[0].clone();
        let mut leaf = |index: u32| {
            masks(step, &Slice::of(&rows, index, &slices[index as usize]));
            vec![1e-3; layout.len()]
        };
        let nodes = covering(SLICES, &own).into_iter().map(|node| sum(node, &mut leaf));
        for mut gradient in nodes {
            clip_global_norm(&mut gradient, 1.0);
            adamw.update(&layout, &mut state, &gradient, 1e-3);
        }
        std::hint::black_box(state.hash64());
    }
}

/// Rows of 20 to 127 tokens.
fn rows() -> Rows {
    let mut rows = Rows::default();
    for row in 0..ROWS {
        let length = 20 + (row * 37 % 108) as usize;
        let (ids, types) = (vec![1000 + row; length], vec![0; length]);
        rows.push(&[Sequence { ids: &ids, types: &types }], 0, row);
    }
    rows
}

/// Dropout's factors of each site of a slice, in fp32.
fn masks(step: u64, slice: &Slice) {
    let tokens = slice.cost();
    let width = PREFIX + tokens / slice.rows.max(1);
    let layer = [tokens * HEADS * width, tokens * HIDDEN, tokens * HIDDEN];
    let before = [tokens * HIDDEN, slice.rows * PREFIX * 2 * LAYERS * HIDDEN, slice.rows * HIDDEN];
    let sites = before.into_iter().chain(layer.into_iter().cycle().take(3 * LAYERS));
    for (site, elements) in (0..).zip(sites) {
        let mut factors = vec![0.0_f32; elements];
        Stream::new(11, Purpose::Dropout, step, slice.index, site)
            .dropout_factors(0.1, &mut factors);
        std::hint::black_box(&factors);
    }
}
