//! What a worker needs to compute on a GPU, found and loaded at its start: one build serves machines
//! with and without one.
//!
//! The program is linked to libtorch's part for processors. Its part for GPUs, `libtorch_cuda.so`, is taken
//! from an installed PyTorch ([`pytorch`]) and loaded before torch is first asked about CUDA ([`library`]);
//! the driver says what is there ([`driver`]); CUDA's libraries say which they are ([`versions`]); torch is told to
//! compute the same bits each time ([`settings`]). Each of the last four is the one place that talks to its library; so is [`nvrtc`], which compiles
//! the one kernel of our own ([`masks`]).

mod driver;
mod library;
pub mod masks;
mod nvrtc;
mod pytorch;
pub mod settings;
mod versions;

pub use library::mapped;
pub(crate) use library::symbol;
pub use pytorch::PyTorch;
pub use versions::libraries;

use crate::device::Gpu;
use ptv2_common::error::Explained;
use std::path::Path;

/// CUDA that the libraries of PyTorch 2.11 are made for, as the driver counts: 1000 × major + 10 × minor.
const CUDA: i32 = 13_000;
/// The first driver that has it.
const DRIVER: &str = "580";
/// The oldest GPUs that it has code for: Turing.
const CAPABILITY: (i32, i32) = (7, 5);

/// GPUs that this process sees.
///
/// # Errors
/// When there is no driver, or one that is too old.
pub fn count() -> Result<u32, Explained> {
    Ok(driver::open()?.count)
}

/// Finds the PyTorch whose libraries for GPUs would be loaded; `named` is the one that was asked for.
///
/// # Errors
/// When there is none, or only others.
pub fn find(
    named: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<PyTorch, Explained> {
    let own = mapped(library::CPU).into_iter().next();
    pytorch::find(named, own.as_deref().and_then(Path::parent), variable)
}

/// What is known of the GPU of this index without torch.
///
/// # Errors
/// When it is not there, or not one that torch has code for.
pub fn look(index: u32) -> Result<Gpu, Explained> {
    let gpu = driver::open()?.gpu(index)?;
    can_compute(index, &gpu).map(|()| gpu)
}

fn can_compute(index: u32, gpu: &Gpu) -> Result<(), Explained> {
    if gpu.capability >= CAPABILITY {
        return Ok(());
    }
    let ((major, minor), name) = (gpu.capability, &gpu.name);
    Err(Explained::new(format!("{name} has compute capability {major}.{minor}"))
        .at(format!("cuda:{index}"))
        .expected(format!("{}.{} or more: a Turing or newer", CAPABILITY.0, CAPABILITY.1))
        .hint("take --device cpu on this machine"))
}

/// Bytes of a GPU that a job could use now: what nobody uses, and what torch holds in this process without using it.
///
/// # Errors
/// When the driver or torch cannot say.
pub fn free_memory(index: u32) -> Result<u64, Explained> {
    Ok(driver::free_memory(index)?.saturating_add(settings::unused(index)?))
}

/// Gives what torch holds of GPUs' memory and uses for nothing back to the driver: other processes may want it.
///
/// # Errors
/// When torch has no part for GPUs.
pub fn give_back() -> Result<(), Explained> {
    settings::give_back()
}

/// Makes the GPU of this index this thread's, as torch has it.
///
/// # Errors
/// When it is not there, or the driver fails.
pub fn enter(index: u32) -> Result<(), Explained> {
    driver::enter(index)
}

/// Whether the GPU that this thread has [entered](enter) has done all that it was told, in the default stream.
///
/// # Errors
/// What the driver says.
pub fn is_idle() -> Result<bool, Explained> {
    driver::is_idle()
}

/// Loads torch's part for GPUs into this process.
///
/// # Errors
/// When a library is missing or does not fit this program.
pub fn load(pytorch: &PyTorch) -> Result<(), Explained> {
    library::load(pytorch)
}

/// What torch says of CUDA, once it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torch {
    /// The CUDA that its libraries are made for, as 13.0; none: they are not loaded.
    pub cuda: Option<String>,
    /// GPUs that it sees.
    pub count: i64,
    /// Why a tensor cannot be made on the one that was asked about.
    pub trouble: Option<String>,
}

/// Asks torch what it makes of CUDA, and has it make a tensor on the GPU of this index, and on no other: that takes
/// half a gigabyte there. Not before [`load`]: torch asks for its part for GPUs once.
pub fn torch(index: u32) -> Torch {
    let cuda = tch::utils::has_cudart().then(|| pointed(tch::utils::version_cudart()));
    let count = tch::Cuda::device_count();
    let made = tch::Tensor::f_zeros([1], (tch::Kind::Float, tch::Device::Cuda(index as usize)));
    // Torch without its part for GPUs says at length that it is without.
    let trouble = made.err().filter(|_| cuda.is_some());
    let trouble = trouble.map(|error| first_sentence(&error.to_string()));
    Torch { cuda, count, trouble }
}

/// Readies this process for computing on the GPU of this index: loads, checks, and sets torch to give the same
/// bits each time.
///
/// # Errors
/// When anything of that fails: then this process must not compute on it.
pub fn ready(
    index: u32,
    named: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Gpu, Explained> {
    let gpu = look(index)?;
    let pytorch = find(named, variable)?;
    load(&pytorch)?;
    let torch = torch(index);
    if torch.count <= i64::from(index) || torch.trouble.is_some() {
        let why = torch.trouble.unwrap_or_else(|| format!("it sees {} GPUs", torch.count));
        return Err(Explained::new(format!("torch cannot compute on cuda:{index}: {why}"))
            .at(pytorch.folder.display().to_string())
            .hint("`ptv2d devices` shows what it sees"));
    }
    settings::apply(&settings::Settings::ON_CUDA)?;
    Ok(Gpu { libtorch: pytorch.version, libraries: libraries(), ..gpu })
}

/// 13000 as 13.0.
fn pointed(version: i64) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Torch's errors go on with where in its source they were raised.
fn first_sentence(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or(text).trim();
    let line = line.strip_prefix("Internal torch error: ").unwrap_or(line);
    line.split(". ").next().unwrap_or(line).trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_torch_has_no_code_for_is_refused() {
        let gpu = |capability| Gpu { name: "Tesla V100".into(), capability, ..Gpu::default() };
        can_compute(0, &gpu((7, 5))).unwrap();
        can_compute(0, &gpu((9, 0))).unwrap();
        let error = can_compute(2, &gpu((7, 0))).unwrap_err();
        assert_eq!(error.to_string(), "Tesla V100 has compute capability 7.0 (cuda:2)");
        assert!(error.hint.is_some() && error.expected.unwrap().starts_with("7.5"));
    }

    #[test]
    fn versions_and_errors_are_short() {
        assert_eq!(pointed(13_000), "13.0");
        assert_eq!(pointed(12_080), "12.8");
        let text = "Internal torch error: Found no NVIDIA driver on your system. Please check\nException raised from";
        assert_eq!(first_sentence(text), "Found no NVIDIA driver on your system");
        assert_eq!(first_sentence(""), "");
    }
}
