//! Whether this process can still compute. An error of a CUDA kernel stays with the process in which it happened, and
//! whatever comes after it fails, too: such a worker reports it and ends.

use super::Shared;
use crate::cuda;
use crate::device::Compute;
use ptv2_common::error::Explained;
use ptv2_common::session::LeaveReason;

/// Looks at the device, after something has failed on it. What is lost is remembered: the device thread
/// reports it, and ends.
///
/// Gives the reason to leave, where it is lost.
pub(super) fn look(shared: &Shared, failed: &str) -> Option<LeaveReason> {
    let error = says(shared.config.compute).err()?;
    // Torch goes on with where in its source it was raised.
    let failed = failed.lines().next().unwrap_or(failed);
    let detail = format!("{failed}; the device says: {}", error.what);
    let lost = Explained::new(format!("this process can compute no more: {detail}"))
        .at(shared.hello.device.clone())
        .hint(
            "start the worker again; should it happen again, look at `nvidia-smi` and dmesg (Xid)",
        );
    shared.lost.get_or_init(|| lost);
    Some(LeaveReason::DeviceLost { detail })
}

/// What a device says of itself.
fn says(compute: Compute) -> Result<(), Explained> {
    match compute {
        // Work that is on its way has not failed.
        Compute::Cuda(index) => cuda::enter(index).and_then(|()| cuda::is_idle()).map(drop),
        #[cfg(feature = "faults")]
        Compute::Cpu => crate::faults::device(),
        #[cfg(not(feature = "faults"))]
        Compute::Cpu => Ok(()),
    }
}
