//! What is estimated, against what torch's allocator gives out while a slice is computed: the tensors are those of a
//! GPU, but that there norms of bf16 read fp32 copies, and DeBERTa's gathers are sorted on the way back.
#![expect(unsafe_code, reason = "torch's hook for profilers is C++")]

use super::*;
use crate::features::Sequence;
use crate::train::backbones::Backbone;
use crate::train::dropout::Rates;
use crate::train::step::{Network, RunStep, Setting};
use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

unsafe extern "C" {
    fn ptv2_count_begin() -> *mut c_void;
    fn ptv2_count_end(begun: *mut c_void) -> i64;
}

/// Bytes of tensors that live at a time, at most, of those that `body` makes on this thread.
fn most(body: impl FnOnce()) -> u64 {
    // SAFETY: what is begun is ended once, on the same thread.
    let begun = unsafe { ptv2_count_begin() };
    body();
    // SAFETY: as above.
    let most = unsafe { ptv2_count_end(begun) };
    u64::try_from(most).unwrap()
}

/// Sequences of a length, the last a little shorter: so there is a mask.
fn slice(sequences: usize, length: usize) -> Slice {
    let ids = vec![1; length];
    let types = vec![0; length];
    let lengths = (0..sequences).map(|row| if row + 1 == sequences { length - 1 } else { length });
    let sequences: Vec<_> =
        lengths.map(|length| Sequence { ids: &ids[..length], types: &types[..length] }).collect();
    Slice::new(0, &sequences, &vec![0; sequences.len()])
}

/// A step's slice and an evaluation's: what was estimated, and what was measured.
fn of(
    backbone: &str,
    kind: MethodKind,
    precision: Precision,
    [sequences, length]: [usize; 2],
) -> [[u64; 2]; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(backbone);
    let backbone = Backbone::load(&folder, precision).unwrap();
    let config = backbone.config.clone();
    let method = MethodSpec { kind, pre_seq_len: 16, ..MethodSpec::default() };
    let layout = Layout::of(&method, &config, 3).unwrap();
    let rates = Rates { hidden: 0.1, attention: 0.1, prefix: 0.1, head: 0.1 };
    let setting = Arc::new(Setting {
        choices: 1,
        outputs: 3,
        prefix: 16,
        rates,
        layout: layout.clone(),
        pooler: None,
        #[cfg(feature = "faults")]
        process: 0,
    });
    let largest = Largest::counted([sequences; 2], length, &method);
    let estimate = Slices::counted(&config, precision, largest);
    let values = setting.initial_values(11);
    let network = Network::new(backbone, setting);
    let slice = slice(sequences, length);
    let step = most(|| {
        let at = RunStep { seed: 11, step: 0 };
        network.gradient(&values, at, &slice).unwrap();
    });
    let evaluation = most(|| {
        network.logits(&values, &slice).unwrap();
    });
    // Values and gradient are counted with the tuned state.
    let tuned = layout.len() as u64 * WIDE;
    [[estimate.step(), step - 2 * tuned], [estimate.evaluation, evaluation - tuned]]
}

#[test]
fn no_slice_takes_more_than_is_estimated_nor_half_of_it() {
    tch::set_num_threads(1);
    let backbones = [
        "bert-tiny/backbone",
        "roberta-tiny/backbone",
        "mpnet-tiny/backbone",
        "deberta-tiny/backbone",
        "deberta-tiny/backbone-v2",
    ];
    let mut wrong = Vec::new();
    for backbone in backbones {
        // Pairs of tokens take most of the first, the prefix of the second.
        for shape in [[64, 48], [256, 8]] {
            for precision in [Precision::Fp32, Precision::Bf16] {
                for kind in [MethodKind::Prefix, MethodKind::Prompt] {
                    if kind == MethodKind::Prompt && backbone.starts_with("deberta") {
                        continue;
                    }
                    let found = of(backbone, kind, precision, shape);
                    for (which, [estimated, measured]) in ["step", "evaluation"].iter().zip(found) {
                        let said = format!(
                            "{backbone} {kind:?} {precision:?} {shape:?} {which}: {estimated} estimated, {measured} measured, \
                             {:.2}",
                            estimated as f64 / measured as f64
                        );
                        println!("{said}");
                        if measured > estimated || estimated > 2 * measured {
                            wrong.push(said);
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
