//! Where what was asked for meets what this machine has.

use super::{Choice, Compute, Wish};
use ptv2_common::error::Explained;
use std::path::Path;

/// What is known of a GPU: its bits depend on most of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its model.
    pub name: String,
    /// What tells it from every other one.
    pub uuid: String,
    /// Where it sits on the bus.
    pub bus: String,
    /// Bytes of its memory.
    pub bytes: u64,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors: a part of a GPU has fewer.
    pub processors: u32,
    /// The driver's version, and the CUDA that it has.
    pub driver: String,
    /// The version of the PyTorch whose libraries compute on it.
    pub libtorch: String,
    /// The versions of CUDA's libraries that PyTorch has loaded.
    pub libraries: String,
}

impl std::fmt::Display for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, uuid, bus, bytes, capability: (major, minor), processors, driver, .. } =
            self;
        let mib = bytes >> 20;
        write!(f, "{name}, {mib} MiB, capability {major}.{minor}, {processors} multiprocessors, ")?;
        write!(f, "{uuid} at {bus}, driver {driver}")
    }
}

/// What computes, and how that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The GPU that was given, and why this one.
    pub choice: Choice,
    /// What computes.
    pub compute: Compute,
    /// What is known of the GPU that computes.
    pub gpu: Option<Gpu>,
}

/// Settles what computes in this process, and readies it. `auto` takes the processor where the GPU cannot be had, and
/// says why. Torch must not have been asked about CUDA before.
///
/// # Errors
/// When a GPU was asked for that cannot be had.
pub fn of_this_build(
    wish: Wish,
    choice: Choice,
    libtorch_cuda: Option<&Path>,
) -> Result<Settled, Explained> {
    settle(wish, choice, |index| ready(index, libtorch_cuda))
}

/// The devices of `workers` workers on this machine: of each GPU that may be taken one, unless told how many; these take
/// turns. Without a GPU all are the processor.
///
/// # Errors
/// When a GPU was asked for that cannot be had.
pub fn for_workers(
    wish: Wish,
    choice: Choice,
    workers: Option<u32>,
    libtorch_cuda: Option<&Path>,
) -> Result<Vec<Compute>, Explained> {
    let gpus = match (wish, &choice.gpu) {
        (Wish::Cpu, _) | (_, None) => Vec::new(),
        (Wish::Cuda(Some(index)), Some(_)) => match usable(index, libtorch_cuda) {
            Ok(()) => vec![index],
            Err(error) => return Err(refusal(wish, &choice, error)),
        },
        (Wish::Auto | Wish::Cuda(None), Some(_)) => {
            match usable_ones(count(), |index| usable(index, libtorch_cuda)) {
                Ok(all) => all,
                Err(error) if wish == Wish::Auto => {
                    tracing::info!("workers compute on the CPU: {error}");
                    Vec::new()
                }
                Err(error) => return Err(refusal(wish, &choice, error)),
            }
        }
    };
    Ok(spread(&gpus, workers))
}

/// What workers are dealt that this process starts beside itself: every GPU that it may take and that can be had, or the
/// processor.
///
/// # Errors
/// When the environment names no device that can be counted.
pub fn of_this_machine() -> Result<Vec<Compute>, Explained> {
    let choice = super::choose(Wish::Auto, variable)?;
    let libtorch_cuda = variable("PTV2_LIBTORCH_CUDA");
    for_workers(Wish::Auto, choice, None, libtorch_cuda.as_deref().map(Path::new))
}

/// Those of the visible GPUs that can be had, or why the first of them cannot.
fn usable_ones(
    count: Result<u32, Explained>,
    usable: impl Fn(u32) -> Result<(), Explained>,
) -> Result<Vec<u32>, Explained> {
    let (mut found, mut first) = (Vec::new(), None);
    for index in 0..count? {
        match usable(index) {
            Ok(()) => found.push(index),
            Err(error) => {
                tracing::warn!("cuda:{index} is left out: {error}");
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if found.is_empty() => Err(error),
        Some(_) | None => Ok(found),
    }
}

/// Deals GPUs to workers in turn.
fn spread(gpus: &[u32], workers: Option<u32>) -> Vec<Compute> {
    let fitting = u32::try_from(gpus.len()).unwrap_or(u32::MAX).max(1);
    let workers = workers.unwrap_or(fitting) as usize;
    if gpus.is_empty() {
        return vec![Compute::Cpu; workers];
    }
    gpus.iter().map(|index| Compute::Cuda(*index)).cycle().take(workers).collect()
}

fn settle(
    wish: Wish,
    mut choice: Choice,
    ready: impl FnOnce(u32) -> Result<Gpu, Explained>,
) -> Result<Settled, Explained> {
    let Some(gpu) = &choice.gpu else {
        return Ok(Settled { choice, compute: Compute::Cpu, gpu: None });
    };
    let index = gpu.index;
    match ready(index) {
        Ok(gpu) => Ok(Settled { choice, compute: Compute::Cuda(index), gpu: Some(gpu) }),
        Err(error) if wish == Wish::Auto => {
            if choice.is_given {
                let hint = error.hint.as_deref().unwrap_or_default();
                tracing::warn!("cuda:{index} is given and of no use: {error}; {hint}");
            } else {
                choice.gpu = None;
            }
            choice.why = error.to_string();
            Ok(Settled { choice, compute: Compute::Cpu, gpu: None })
        }
        Err(error) => Err(refusal(wish, &choice, error)),
    }
}

/// Says which device would have been taken, too.
fn refusal(wish: Wish, choice: &Choice, error: Explained) -> Explained {
    let Some(gpu) = &choice.gpu else { return error };
    let (index, name, why) = (gpu.index, &gpu.name, &choice.why);
    let what = format!("{wish} would be device {index} ({name}; {why}), but {}", error.what);
    Explained { what, ..error }
}

#[expect(clippy::disallowed_methods, reason = "which GPUs were given, and where PyTorch lies")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(feature = "torch")]
fn ready(index: u32, libtorch_cuda: Option<&Path>) -> Result<Gpu, Explained> {
    crate::cuda::ready(index, libtorch_cuda, &variable)
}

#[cfg(feature = "torch")]
fn usable(index: u32, libtorch_cuda: Option<&Path>) -> Result<(), Explained> {
    crate::cuda::look(index)?;
    crate::cuda::find(libtorch_cuda, &variable).map(drop)
}

#[cfg(feature = "torch")]
fn count() -> Result<u32, Explained> {
    crate::cuda::count()
}

#[cfg(not(feature = "torch"))]
fn none() -> Explained {
    Explained::new("this build does not compute").expected("a build with the feature `torch`")
}

#[cfg(not(feature = "torch"))]
fn ready(_: u32, _: Option<&Path>) -> Result<Gpu, Explained> {
    Err(none())
}

#[cfg(not(feature = "torch"))]
fn usable(_: u32, _: Option<&Path>) -> Result<(), Explained> {
    Err(none())
}

#[cfg(not(feature = "torch"))]
fn count() -> Result<u32, Explained> {
    Err(none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::session::VisibleDevice;

    fn choice(is_given: bool) -> Choice {
        let gpu = VisibleDevice { index: 1, name: "6".into() };
        Choice { gpu: Some(gpu), why: "local rank 1 of 2 visible".into(), is_given }
    }

    fn broken(_: u32) -> Result<Gpu, Explained> {
        Err(Explained::new("there is no driver").at("here").hint("install it"))
    }

    #[test]
    fn a_gpu_that_is_ready_computes() {
        for wish in [Wish::Auto, Wish::Cuda(None), Wish::Cuda(Some(1))] {
            let gpu = Gpu { name: "H100".into(), ..Gpu::default() };
            let settled = settle(wish, choice(true), |index| {
                assert_eq!(index, 1);
                Ok(gpu.clone())
            });
            let settled = settled.unwrap();
            assert_eq!(settled.compute, Compute::Cuda(1));
            assert_eq!((settled.gpu, settled.choice), (Some(gpu), choice(true)));
        }
    }

    #[test]
    fn auto_takes_the_processor_and_says_why() {
        let settled = settle(Wish::Auto, choice(true), broken).unwrap();
        assert_eq!((settled.compute, settled.gpu), (Compute::Cpu, None));
        assert_eq!(settled.choice.why, "there is no driver (here)");
        assert!(settled.choice.gpu.is_some(), "it was given, so it is told");
        let settled = settle(Wish::Auto, choice(false), broken).unwrap();
        assert_eq!((settled.compute, settled.choice.gpu), (Compute::Cpu, None));
    }

    #[test]
    fn a_gpu_that_was_asked_for_is_refused_by_name() {
        let error = settle(Wish::Cuda(None), choice(true), broken).unwrap_err();
        let what = "cuda would be device 1 (6; local rank 1 of 2 visible), but there is no driver";
        assert_eq!(error.what, what);
        assert_eq!(
            (error.place.as_deref(), error.hint.as_deref()),
            (Some("here"), Some("install it"))
        );
    }

    #[test]
    fn without_a_gpu_nothing_is_looked_at() {
        let choice = Choice { gpu: None, why: "asked for".into(), is_given: false };
        let settled = settle(Wish::Cpu, choice, |_| panic!("no GPU was chosen")).unwrap();
        assert_eq!(settled.compute, Compute::Cpu);
    }

    #[test]
    fn a_gpu_that_cannot_be_had_is_left_out() {
        let refused = |index: u32| Err(Explained::new(format!("{index} is old")));
        let but_one = |index| if index == 1 { refused(index) } else { Ok(()) };
        assert_eq!(usable_ones(Ok(3), but_one), Ok(vec![0, 2]));
        assert_eq!(usable_ones(Ok(2), refused), Err(Explained::new("0 is old")));
        assert_eq!(
            usable_ones(Err(Explained::new("no driver")), but_one),
            Err(Explained::new("no driver"))
        );
    }

    #[test]
    fn workers_take_gpus_in_turn() {
        let cuda =
            |list: &[u32]| list.iter().map(|index| Compute::Cuda(*index)).collect::<Vec<_>>();
        assert_eq!(spread(&[0, 1, 2], None), cuda(&[0, 1, 2]));
        assert_eq!(spread(&[0, 1], Some(3)), cuda(&[0, 1, 0]));
        assert_eq!(spread(&[3], Some(1)), cuda(&[3]));
        assert_eq!(spread(&[], None), [Compute::Cpu]);
        assert_eq!(spread(&[], Some(2)), [Compute::Cpu; 2]);
        assert_eq!(spread(&[0], Some(0)), []);
    }
}
