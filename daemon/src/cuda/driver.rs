//! What NVIDIA's driver says of the machine, and the kernel that it runs: the one place that talks to `libcuda`.
#![expect(unsafe_code, reason = "the driver's interface is one in C")]

use super::{CUDA, DRIVER, pointed};
use crate::device::Gpu;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use ptv2_common::error::Explained;
use std::ffi::{CStr, c_char, c_void};

/// Where a driver that is loaded says its version.
const VERSION_FILE: &str = "/sys/module/nvidia/version";
/// Letters of a bus address, with its end.
const BUS: i32 = 16;
/// Threads of a kernel that share a multiprocessor.
const THREADS: u32 = 256;

/// A driver that is there, and new enough.
pub(super) struct Driver {
    /// GPUs that it shows to this process.
    pub(super) count: u32,
    /// Its version, as 580.65.06, and the CUDA that it has.
    version: String,
}

/// Opens the driver.
///
/// # Errors
/// When there is none, or it is too old, or it sees no GPU.
pub(super) fn open() -> Result<Driver, Explained> {
    // SAFETY: asks the dynamic linker for a library whose initializers are made to run in any process.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing());
    }
    let mut cuda = 0;
    // SAFETY: the library is there, and has this function since its first version; it writes one number.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut cuda) };
    code.result().map_err(|error| said("cuDriverGetVersion", error))?;
    let kernel = std::fs::read_to_string(VERSION_FILE).unwrap_or_default();
    new_enough(cuda, kernel.trim())?;
    result::init().map_err(|error| said("cuInit", error))?;
    let count = result::device::get_count().map_err(|error| said("cuDeviceGetCount", error))?;
    let kernel = if kernel.trim().is_empty() { "unknown" } else { kernel.trim() };
    let version = format!("{kernel}, CUDA {}", pointed(i64::from(cuda)));
    Ok(Driver { count: u32::try_from(count).unwrap_or(0), version })
}

fn missing() -> Explained {
    Explained::new("this machine has no NVIDIA driver: libcuda.so.1 is not found")
        .expected(format!("a GPU with NVIDIA's driver {DRIVER} or newer"))
        .hint("install the driver, in a container by --gpus all or --nv; or take --device cpu")
}

/// Refuses a driver without the CUDA that torch's libraries need.
fn new_enough(cuda: i32, kernel: &str) -> Result<(), Explained> {
    if cuda >= CUDA {
        return Ok(());
    }
    let (had, needed) = (pointed(i64::from(cuda)), pointed(i64::from(CUDA)));
    let kernel = if kernel.is_empty() { String::new() } else { format!(" {kernel}") };
    Err(Explained::new(format!("NVIDIA's driver{kernel} has CUDA {had}"))
        .expected(format!("CUDA {needed}: driver {DRIVER} or newer"))
        .hint("install a newer driver, or take --device cpu"))
}

/// An error in the driver's own words.
fn said(call: &str, error: DriverError) -> Explained {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|_| format!("{:?}", error.0));
    let refused = Explained::new(format!(
        "NVIDIA's driver refuses {call}: {name} ({})",
        words.unwrap_or_default()
    ));
    if error.0 == CUresult::CUDA_ERROR_NO_DEVICE {
        return Explained::new("NVIDIA's driver shows no GPU to this process")
            .expected("at least one GPU")
            .hint(
                "see CUDA_VISIBLE_DEVICES and `nvidia-smi -L`; in a container, --gpus all or --nv",
            );
    }
    refused.hint("`nvidia-smi` shows what the driver and its GPUs are in")
}

/// Refuses an index that has no GPU.
fn is_there(index: u32, count: u32) -> Result<(), Explained> {
    if index < count {
        return Ok(());
    }
    let visible = match count {
        0 => "no GPU is visible".into(),
        1 => "one GPU is visible".into(),
        count => format!("{count} GPUs are visible"),
    };
    Err(Explained::new(format!("cuda:{index} is not there: {visible}"))
        .at("--device")
        .expected("one of the visible GPUs, counted from 0")
        .hint("`ptv2d devices` shows them; CUDA_VISIBLE_DEVICES chooses among the machine's"))
}

impl Driver {
    /// What it knows of a GPU.
    ///
    /// # Errors
    /// When that is not there, or the driver fails.
    pub(super) fn gpu(&self, index: u32) -> Result<Gpu, Explained> {
        is_there(index, self.count)?;
        let device = device(index)?;
        let name = result::device::get_name(device).map_err(|error| said("its name", error))?;
        let uuid = result::device::get_uuid(device).map_err(|error| said("its UUID", error))?;
        // SAFETY: `device` comes from the driver.
        let total = unsafe { result::device::total_mem(device) };
        let total = total.map_err(|error| said("its memory", error))?;
        let attribute = |which| {
            // SAFETY: `device` comes from the driver.
            let value = unsafe { result::device::get_attribute(device, which) };
            value.map_err(|error| said("an attribute", error))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Gpu {
            name,
            uuid: uuid_text(uuid.bytes),
            bus: bus(device)?,
            bytes: total as u64,
            capability: (major, minor),
            processors: u32::try_from(processors).unwrap_or(0),
            driver: self.version.clone(),
            libtorch: String::new(),
            libraries: String::new(),
        })
    }
}

fn device(index: u32) -> Result<sys::CUdevice, Explained> {
    let ordinal = i32::try_from(index).unwrap_or(i32::MAX);
    result::device::get(ordinal).map_err(|error| said("cuDeviceGet", error))
}

fn bus(device: sys::CUdevice) -> Result<String, Explained> {
    let mut text = [0_u8; BUS as usize];
    let start = text.as_mut_ptr().cast::<c_char>();
    // SAFETY: `device` comes from the driver, which writes a C string of at most `BUS` bytes.
    let code = unsafe { sys::cuDeviceGetPCIBusId(start, BUS, device) };
    code.result().map_err(|error| said("its bus address", error))?;
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    Ok(text.to_string_lossy().into_owned())
}

/// As `nvidia-smi -L` writes it.
fn uuid_text(bytes: [c_char; 16]) -> String {
    let bytes = bytes.map(i8::cast_unsigned);
    let [a, b, c, d, e] = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex::encode(&bytes[part]));
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

/// Bytes of a GPU that nobody uses. Makes the context that torch computes in, if that is not there yet: it lies in that
/// memory, too.
///
/// # Errors
/// When the GPU is not there, or the driver fails.
pub(super) fn free_memory(index: u32) -> Result<u64, Explained> {
    let context = context(index)?;
    // SAFETY: `context` was just retained.
    let code = unsafe { sys::cuCtxPushCurrent_v2(context) };
    code.result().map_err(|error| said("cuCtxPushCurrent", error))?;
    let info = result::mem_get_info();
    let mut popped = std::ptr::null_mut();
    // SAFETY: takes off what this thread has just put on, and writes it to `popped`.
    let code = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
    code.result().map_err(|error| said("cuCtxPopCurrent", error))?;
    let (free, _) = info.map_err(|error| said("cuMemGetInfo", error))?;
    Ok(free as u64)
}

/// Makes the context that torch uses on a GPU this thread's: NCCL takes the device from it.
///
/// # Errors
/// When the GPU is not there, or the driver fails.
pub(super) fn enter(index: u32) -> Result<(), Explained> {
    entered(index).map(drop)
}

/// The context that torch computes in on a GPU.
fn context(index: u32) -> Result<sys::CUcontext, Explained> {
    is_there(index, open()?.count)?;
    let device = device(index)?;
    // SAFETY: `device` comes from the driver. The context is torch's own as well, and is never given back, so it
    // outlives every use.
    let context = unsafe { result::primary_ctx::retain(device) };
    context.map_err(|error| said("a context", error))
}

fn entered(index: u32) -> Result<sys::CUcontext, Explained> {
    let context = context(index)?;
    // SAFETY: `context` was just retained.
    let code = unsafe { sys::cuCtxSetCurrent(context) };
    code.result().map(|()| context).map_err(|error| said("cuCtxSetCurrent", error))
}

/// A kernel that the driver has loaded on a GPU, for good.
#[derive(Debug)]
pub(super) struct Function {
    function: sys::CUfunction,
    context: sys::CUcontext,
}

// SAFETY: both are names that the driver gives to what is never unloaded. Any thread may use them.
unsafe impl Send for Function {}
// SAFETY: as above; the driver takes calls of several threads at a time.
unsafe impl Sync for Function {}

impl Function {
    /// Loads what a compiler has made for the GPU of this index, and finds a kernel in it.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn load(index: u32, image: &[u8], name: &CStr) -> Result<Self, Explained> {
        let context = entered(index)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a whole one, as the compiler gave it; the driver keeps none of it.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
        code.result().map_err(|error| said("cuModuleLoadData", error))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module was just loaded, and the name is a C string.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
        code.result().map_err(|error| said("cuModuleGetFunction", error))?;
        Ok(Self { function, context })
    }

    /// Starts so many threads of it, and some more, on the default stream: torch's current one, as a device has one
    /// stream here.
    ///
    /// # Safety
    /// `arguments` point to what the kernel takes, in order. What it does with them is allowed on its GPU.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) unsafe fn launch(
        &self,
        threads: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Explained> {
        // SAFETY: the context was retained when the kernel was loaded, and is never given back.
        let code = unsafe { sys::cuCtxSetCurrent(self.context) };
        code.result().map_err(|error| said("cuCtxSetCurrent", error))?;
        let (blocks, stream) = (threads.div_ceil(THREADS), std::ptr::null_mut());
        // SAFETY: the kernel is loaded in this context; the rest is the caller's word.
        let launched = unsafe {
            let shape = ((blocks, 1, 1), (THREADS, 1, 1));
            result::launch_kernel(self.function, shape.0, shape.1, 0, stream, arguments)
        };
        launched.map_err(|error| said("cuLaunchKernel", error))
    }
}

/// Whether all work of this thread's GPU in its default stream is done.
///
/// # Errors
/// What the driver says, for example that a kernel has failed.
pub(super) fn is_idle() -> Result<bool, Explained> {
    // SAFETY: null names the default stream of the thread's context.
    let code = unsafe { sys::cuStreamQuery(std::ptr::null_mut()) };
    if code == CUresult::CUDA_ERROR_NOT_READY {
        return Ok(false);
    }
    code.result().map(|()| true).map_err(|error| said("cuStreamQuery", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_refused_with_what_to_install() {
        new_enough(13_000, "").unwrap();
        new_enough(13_020, "590.1").unwrap();
        let error = new_enough(12_040, "550.54.15").unwrap_err();
        assert_eq!(error.what, "NVIDIA's driver 550.54.15 has CUDA 12.4");
        assert_eq!(error.expected.as_deref(), Some("CUDA 13.0: driver 580 or newer"));
        assert_eq!(new_enough(11_000, "").unwrap_err().what, "NVIDIA's driver has CUDA 11.0");
    }

    #[test]
    fn an_index_that_is_not_there_is_refused() {
        is_there(1, 2).unwrap();
        for (count, what) in [(0, "no GPU is"), (1, "one GPU is"), (2, "2 GPUs are")] {
            let error = is_there(2, count).unwrap_err();
            assert_eq!(error.what, format!("cuda:2 is not there: {what} visible"));
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn without_a_driver_that_is_what_is_said() {
        match open() {
            Ok(driver) => assert!(driver.gpu(driver.count).is_err()),
            Err(error) => {
                assert!(error.what.contains("NVIDIA"), "{error:?}");
                assert!(error.hint.is_some() && error.expected.is_some(), "{error:?}");
                assert_eq!(free_memory(0).unwrap_err(), error);
            }
        }
    }

    #[test]
    fn a_uuid_reads_as_the_drivers_own_tools_write_it() {
        let bytes = std::array::from_fn(|at| i8::try_from(at).unwrap() - 4);
        assert_eq!(uuid_text(bytes), "GPU-fcfdfeff-0001-0203-0405-060708090a0b");
    }
}
