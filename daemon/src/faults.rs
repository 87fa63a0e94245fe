//! Faults on demand, in a build for tests that is never installed. What is wanted stands in the
//! environment: `PTV2_FAULTS=state=7,weights` for example.
//!
//! | fault | what happens |
//! |---|---|
//! | `dropout-by-process` | dropout is keyed by the process too: one hash for all groups must break |
//! | `state=N` | one bit of the tuned state flips after step N, once |
//! | `on-device` | steps are made by torch operators alone, as on a GPU, though on the processor |
//! | `device-dies=N` | after step N a tensor is read where it has no elements: on a GPU the kernel's assertion ends all computing of the process; on the processor it only counts as such |
//! | `memory-ends=N` | once, a step after N others finds no memory: on a GPU all that is left is taken until it has failed; on the processor more is asked for than any machine has |
//! | `weights` | one bit of the frozen weights flips after they were first loaded |
//! | `nccl` | workers on CPUs reduce over NCCL, which must be the stand-in of the tests |
//! | `reduction-alone` | no hashes, no signs of life between peers, no metrics: what all of it costs is measured against this |
//! | `store` | of a worker's first puts one fails, two are done and answered with an error, one is slow |
//! | `put-before=N`, `put-after=N` | a worker dies before, after its N-th put; a part of an upload counts as one |
//! | `journal-before=N`, `journal-after=N` | the coordinator dies before, after its N-th commit |

#[cfg(feature = "torch")]
mod dying;
mod failing;
#[cfg(feature = "torch")]
mod store;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[expect(clippy::disallowed_methods, reason = "a test's wish, in a build for tests")]
fn value(name: &str) -> Option<u64> {
    let faults = std::env::var("PTV2_FAULTS").unwrap_or_default();
    let wanted = faults.split(',').find_map(|fault| {
        let (key, value) = fault.split_once('=').unwrap_or((fault, "0"));
        (key == name).then(|| value.parse().ok())
    });
    wanted.flatten()
}

/// Whether this is the first call of its kind.
fn first(done: &AtomicBool) -> bool {
    !done.swap(true, Ordering::SeqCst)
}

/// What dropout is keyed by, besides what it should be.
#[cfg(feature = "torch")]
pub(crate) fn dropout_key() -> u32 {
    value("dropout-by-process").map_or(0, |_| std::process::id())
}

/// Whether everything is left out that a step does besides the step itself.
#[cfg(feature = "torch")]
pub(crate) fn reduction_alone() -> bool {
    static WANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *WANTED.get_or_init(|| value("reduction-alone").is_some())
}

/// Whether workers on CPUs reduce over NCCL.
#[cfg(feature = "torch")]
pub(crate) fn nccl_on_cpu() -> bool {
    value("nccl").is_some()
}

/// Whether steps are made as on a GPU, though on the processor.
#[cfg(feature = "torch")]
pub(crate) fn steps_on_device() -> bool {
    value("on-device").is_some()
}

/// Whether a bit of the state is to flip after this step.
#[cfg(feature = "torch")]
pub(crate) fn spoils(step: u64) -> bool {
    value("state") == Some(step)
}

/// Flips a bit of the state after the wanted step.
#[cfg(feature = "torch")]
pub(crate) fn spoil_state(state: &mut crate::numerics::state::TunedState) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if spoils(state.step) && first(&DONE) {
        let middle = state.values.len() / 2;
        state.values[middle] = f32::from_bits(state.values[middle].to_bits() ^ 1);
    }
}

/// Leaves the wanted step no memory, until what this gives is dropped.
#[cfg(feature = "torch")]
pub(crate) fn take_memory(
    step: u64,
    device: tch::Device,
) -> crate::train::Result<Vec<tch::Tensor>> {
    static DONE: AtomicBool = AtomicBool::new(false);
    let mut taken = Vec::new();
    if value("memory-ends") != Some(step) || !first(&DONE) {
        return Ok(taken);
    }
    let bytes = |count: i64| tch::Tensor::f_empty([count], (tch::Kind::Uint8, device));
    if device == tch::Device::Cpu {
        // Its memory is taken when it is written to: only this is refused.
        return Ok(vec![bytes(1 << 52)?]);
    }
    let mut count = 1 << 30;
    while count >= 1 << 20 {
        match bytes(count) {
            Ok(some) => taken.push(some),
            Err(_) => count /= 2,
        }
    }
    Ok(taken)
}

/// Whether the device has failed for good.
#[cfg(feature = "torch")]
static DEVICE_DIED: AtomicBool = AtomicBool::new(false);

/// Has the device fail for good after the wanted step.
#[cfg(feature = "torch")]
pub(crate) fn kill_device(step: u64, device: tch::Device) -> crate::train::Result<()> {
    if value("device-dies") != Some(step) {
        return Ok(());
    }
    let few = tch::Tensor::f_zeros([4], (tch::Kind::Float, device))?;
    // Torch's kernel for a few indices keeps their low 32 bits, of which it asserts that an element is there.
    let beyond = tch::Tensor::f_from_slice(&[1_i64 << 30])?.f_to(device)?;
    // A GPU notices later, when what it computed is asked for.
    let outcome = few.f_index_select(0, &beyond).and_then(|found| found.f_to(tch::Device::Cpu));
    DEVICE_DIED.store(outcome.is_err(), Ordering::SeqCst);
    Ok(outcome.map(drop)?)
}

/// What the processor says of itself, as the driver says it of a GPU.
#[cfg(feature = "torch")]
pub(crate) fn device() -> Result<(), ptv2_common::error::Explained> {
    if DEVICE_DIED.load(Ordering::SeqCst) {
        return Err(ptv2_common::error::Explained::new("a fault on demand"));
    }
    Ok(())
}

/// Changes the frozen weights a little.
#[cfg(feature = "torch")]
pub(crate) fn spoil_weights(bert: &crate::train::backbones::Backbone) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if value("weights").is_some()
        && first(&DONE)
        && let Some(tensor) = bert.tensors().get(4)
    {
        let mut weight = tensor.get(0);
        drop(weight.fill_(weight.double_value(&[]) + 0.5));
    }
}

/// The store that a worker writes to.
#[cfg(feature = "torch")]
pub(crate) fn store(store: ptv2_common::storage::Store) -> ptv2_common::storage::Store {
    if value("store").is_some() {
        return std::sync::Arc::new(store::Harmed::new(store, failing::Failing));
    }
    if value("put-before").is_some() || value("put-after").is_some() {
        return std::sync::Arc::new(store::Harmed::new(store, dying::Dying));
    }
    store
}

/// Dies where it is wanted: before, or after, a worker's put of this number.
#[cfg(feature = "torch")]
fn put(moment: &str, number: u64) {
    if value(moment) == Some(number) {
        std::process::abort();
    }
}

/// Counts the journal's commits, and dies where it is wanted.
pub(crate) fn journal(moment: &str) {
    static COMMITS: AtomicU64 = AtomicU64::new(0);
    let before = moment == "journal-before";
    let commit = if before {
        COMMITS.fetch_add(1, Ordering::SeqCst) + 1
    } else {
        COMMITS.load(Ordering::SeqCst)
    };
    if value(moment) == Some(commit) {
        std::process::abort();
    }
}
