//! What the ranks of a generation do together. One trait, one conformance suite, one file a transport.

#[cfg(feature = "torch")]
pub mod nccl;
#[cfg(feature = "torch")]
mod sum;
pub mod tcp;
#[cfg(test)]
pub(crate) mod tests;

use crate::numerics::tree::Node;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "torch")]
use tch::Tensor;

/// A group operation failed. After it the group is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// This rank lacks what that peer should have sent. The caller reports the peer.
    #[error("rank {rank} is lost: {detail}")]
    PeerLost {
        /// The peer.
        rank: u32,
        /// Whether nothing came from it for too long, or it could not be reached; else its connection
        /// ended.
        silent: bool,
        /// What was seen.
        detail: String,
    },
    /// The group was aborted from this side. The caller leaves.
    #[error("the group was aborted")]
    Aborted,
    /// A peer sent something that does not fit the operation, which means a defect.
    #[error("rank {rank} broke the protocol: {detail}")]
    Protocol {
        /// The peer.
        rank: u32,
        /// What was wrong.
        detail: String,
    },
    /// What moves the sums failed, although no peer is lost. Another group may do better.
    #[error("the transport failed: {0}")]
    Transport(String),
    /// This rank's own device failed, or a tensor does not fit: no peer is to blame.
    #[error("this rank's device failed: {0}")]
    Device(String),
}

/// The step that messages before the first step carry.
pub const BEFORE: u64 = u64::MAX;

/// Any bytes that go beside each rank's partial sums.
pub type Stamp = [u8; 24];

/// What a group operation gives.
pub type Result<T> = std::result::Result<T, CollectiveError>;

/// The group of one generation, seen from one rank. All ranks call the same operations in the same
/// order; each operation blocks until its result is complete.
pub trait Collective: Send {
    /// This rank.
    fn rank(&self) -> u32;

    /// Number of ranks.
    fn world(&self) -> u32;

    /// Sums the ranks' partial sums over the slices of a batch in tree order.
    ///
    /// `parts` are this rank's partial sums, each as long as `out`; those of all ranks tile
    /// `0..slices`. All ranks' stamps come back, by rank.
    ///
    /// # Errors
    /// As [`CollectiveError`] says; `out` then holds nothing of use.
    fn reduce(
        &mut self,
        step: u64,
        slices: u32,
        parts: &[(Node, Vec<f32>)],
        stamp: &Stamp,
        out: &mut [f32],
    ) -> Result<Vec<Stamp>>;

    /// As [`Self::reduce`] for sums that lie on a device: flat fp32 tensors, contiguous, all on the device
    /// of `out`, each as long as `out`, which then holds the sum.
    ///
    /// Unless a transport reduces on the device itself, the sums cross through host memory. A rank alone sends
    /// nothing: it sums on the device.
    ///
    /// # Errors
    /// As [`CollectiveError`] says; `out` then holds nothing of use.
    #[cfg(feature = "torch")]
    fn reduce_tensors(
        &mut self,
        step: u64,
        slices: u32,
        parts: &[(Node, Tensor)],
        stamp: &Stamp,
        out: &mut Tensor,
    ) -> Result<Vec<Stamp>> {
        if self.world() == 1 {
            return alone(slices, parts, stamp, out);
        }
        let host = |tensor: &Tensor| {
            let mut values = vec![0.0_f32; tensor.numel()];
            let count = values.len();
            tensor.f_copy_data(&mut values, count).map(|()| values)
        };
        let parts = parts.iter().map(|(node, tensor)| host(tensor).map(|values| (*node, values)));
        let parts: Vec<_> = parts.collect::<std::result::Result<_, _>>().map_err(device)?;
        let mut sum = vec![0.0; out.numel()];
        let stamps = self.reduce(step, slices, &parts, stamp, &mut sum)?;
        let sum = Tensor::f_from_slice(&sum).map_err(device)?;
        tch::no_grad(|| out.f_copy_(&sum)).map_err(device)?;
        Ok(stamps)
    }

    /// Gives each rank the bytes of all ranks, by rank.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    fn all_gather_bytes(&mut self, step: u64, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends `bytes` from the rank `source` to the `receivers`. Gives them to a receiver, `None` to
    /// every other rank.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    fn transfer_state(
        &mut self,
        step: u64,
        source: u32,
        receivers: &[u32],
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>>;

    /// Whether the group was aborted from this side.
    fn is_aborted(&self) -> bool;
}

/// Sums what a rank alone has, in tree order, where it lies.
#[cfg(feature = "torch")]
fn alone(
    slices: u32,
    parts: &[(Node, Tensor)],
    stamp: &Stamp,
    out: &mut Tensor,
) -> Result<Vec<Stamp>> {
    let part = |tensor: &Tensor| sum::Part { values: tensor.shallow_clone(), is_own: false };
    let found = parts.iter().map(|(node, tensor)| (*node, part(tensor))).collect();
    tch::no_grad(|| out.f_copy_(&sum::total(0, slices, found)?).map_err(device))?;
    Ok(vec![*stamp])
}

#[cfg(feature = "torch")]
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` wants it")]
fn device(error: tch::TchError) -> CollectiveError {
    CollectiveError::Device(error.to_string())
}

/// Ends a group from another thread: whatever blocks in it returns [`CollectiveError::Aborted`].
#[derive(Debug, Clone, Default)]
pub struct AbortHandle {
    shared: Arc<tcp::Shared>,
    /// Threads that end what is not a socket.
    told: Arc<Mutex<Vec<Sender<End>>>>,
}

/// Why a thread that waits to end something goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is to end it.
    Abort,
    /// It was ended otherwise.
    #[cfg(feature = "torch")]
    Over,
}

impl AbortHandle {
    /// Ends the group. Later calls do nothing. Does not wait.
    pub fn abort(&self) {
        self.shared.abort();
        for thread in self.told.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that is over already has nothing to end.
            thread.send(End::Abort).ok();
        }
    }

    /// Has a thread told when the group is aborted; at once if it is already.
    #[cfg(feature = "torch")]
    fn tell(&self, thread: Sender<End>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        if self.is_aborted() {
            self.abort();
        }
    }

    /// Whether it was ended.
    pub fn is_aborted(&self) -> bool {
        self.shared.is_aborted()
    }
}
