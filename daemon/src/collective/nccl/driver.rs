//! The few calls of the CUDA driver that a group needs, through cudarc: the one file that makes them.
//!
//! They are made only for tensors that lie on a GPU, and so only where torch has found the driver.

#![expect(unsafe_code, reason = "calls of a C library, each with the fact that makes it sound")]

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUresult, cuCtxSetCurrent, cuDeviceGet, cuDeviceGetPCIBusId,
    cuDevicePrimaryCtxRetain, cuInit, cuStreamQuery, is_culib_present,
};
use std::ffi::{CStr, c_char, c_int};

fn check(call: &str, code: CUresult) -> Result<(), String> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(format!("{call} failed: {code:?}"))
}

/// The driver's number of the visible GPU of this index.
fn device(index: usize) -> Result<CUdevice, String> {
    // SAFETY: it loads the driver's library, which torch has done before, and calls nothing in it.
    if !unsafe { is_culib_present() } {
        return Err("there is no CUDA driver (libcuda.so)".into());
    }
    // SAFETY: it may be called any number of times; the flags must be 0.
    check("cuInit", unsafe { cuInit(0) })?;
    let index = c_int::try_from(index).map_err(|_| format!("no GPU has the index {index}"))?;
    let mut device = 0;
    // SAFETY: it writes one number, for which there is room.
    check("cuDeviceGet", unsafe { cuDeviceGet(&raw mut device, index) })?;
    Ok(device)
}

/// Where a GPU is plugged in, for example `0000:3b:00.0`: what NCCL tells GPUs of one machine apart by.
///
/// # Errors
/// What the driver says.
pub fn bus_id(index: usize) -> Result<String, String> {
    const LENGTH: c_int = 32;
    let mut text: [c_char; LENGTH as usize] = [0; LENGTH as usize];
    let device = device(index)?;
    // SAFETY: it writes no more than so many bytes, for which there is room, with a zero at the end.
    let code = unsafe { cuDeviceGetPCIBusId(text.as_mut_ptr(), LENGTH, device) };
    check("cuDeviceGetPCIBusId", code)?;
    // SAFETY: the array ends in zeros, whatever was written.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    Ok(text.to_string_lossy().into_owned())
}

/// Makes the context that torch uses on a GPU this thread's: NCCL takes the device from it.
///
/// # Errors
/// What the driver says.
pub(super) fn enter(index: usize) -> Result<(), String> {
    let device = device(index)?;
    let mut context: CUcontext = std::ptr::null_mut();
    // SAFETY: it writes one pointer, for which there is room. It is held until the process ends, as torch holds it.
    let code = unsafe { cuDevicePrimaryCtxRetain(&raw mut context, device) };
    check("cuDevicePrimaryCtxRetain", code)?;
    // SAFETY: the context was just given, and is never released.
    check("cuCtxSetCurrent", unsafe { cuCtxSetCurrent(context) })
}

/// Whether all work of this thread's device in its default stream is done.
///
/// # Errors
/// What the driver says, for example that a kernel has failed.
pub(super) fn is_idle() -> Result<bool, String> {
    // SAFETY: null names the default stream of the thread's context.
    let code = unsafe { cuStreamQuery(std::ptr::null_mut()) };
    if code == CUresult::CUDA_ERROR_NOT_READY {
        return Ok(false);
    }
    check("the device's work", code).map(|()| true)
}
