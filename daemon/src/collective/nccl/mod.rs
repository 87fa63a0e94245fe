//! The group over NCCL, between workers that compute on GPUs: sums of gradients, and nothing else.
//!
//! The group over TCP stays beside it. It carries signs of life, which name a dead rank at once, as NCCL never does;
//! the stamps; bytes and states; and the id that names the communicator. While this rank waits for NCCL it looks at
//! those connections, too: a peer that is lost there ends the communicator, and is named.
//!
//! Read [`Nccl::join`], then [`Nccl::sum_in_order`].

mod communicator;
mod ending;
mod error;
mod functions;
mod library;
mod operand;
mod plan;
#[cfg(test)]
pub(super) mod tests;
mod wait;

pub use communicator::{Communicator, State};
pub use error::{NcclError, Version};
pub use library::{Library, UniqueId};
pub use operand::{Piece, Transfer};

use super::sum::{self, Part};
use super::tcp::Tcp;
use super::{AbortHandle, BEFORE, Collective, CollectiveError, Result, Stamp, device};
use crate::numerics::tree::Node;
use crate::{clock, cuda};
use ending::Ending;
use plan::{Plan, aligned_range_of, tile};
use ptv2_common::error::Explained;
use ptv2_common::spec::Reduction;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use wait::Looks;

/// A failure that NCCL reports is held back for so long: a peer that is found to be lost meanwhile is its cause. And
/// a rank that leaves when all is done is not one that is missing.
const CAUSE: Duration = Duration::from_millis(300);
/// An orderly end may take so long; then it is made by an abort.
const FINISHING: Duration = Duration::from_secs(2);

/// What a communicator is made of.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The library.
    pub library: &'a Library,
    /// The id that rank 0 has made for this generation.
    pub id: UniqueId,
    /// Where the gradients lie.
    pub device: Device,
    /// How they are summed.
    pub reduction: Reduction,
    /// All ranks must be connected after this long.
    pub within: Duration,
}

/// A group over NCCL, with the group over TCP inside.
pub struct Nccl {
    tcp: Tcp,
    communicator: Arc<Communicator>,
    ending: Ending,
    abort: AbortHandle,
    device: Device,
    reduction: Reduction,
    /// Peers' partial sums of this rank's range.
    received: Option<Tensor>,
    /// All ranks' ranges.
    gathered: Option<Tensor>,
    /// Whether an operation has failed: then the communicator is aborted already.
    failed: bool,
}

impl Nccl {
    /// Connects the ranks of a group over TCP by NCCL, too.
    ///
    /// # Errors
    /// [`CollectiveError::PeerLost`] names a rank that did not begin in time.
    pub fn join(tcp: Tcp, setting: &Setting<'_>) -> Result<Self> {
        let Setting { library, id, device, reduction, within } = setting;
        let began = clock::now();
        enter(*device).map_err(|error| CollectiveError::Device(error.to_string()))?;
        let ranks = (tcp.rank(), tcp.world());
        let communicator = Communicator::begin(library, id, ranks, *device).map_err(failed)?;
        let communicator = Arc::new(communicator);
        let abort = tcp.abort_handle().clone();
        let ending = Ending::start(&communicator, *device, &abort)?;
        let mut group = Self {
            tcp,
            communicator,
            ending,
            abort,
            device: *device,
            reduction: *reduction,
            received: None,
            gathered: None,
            failed: false,
        };
        // NCCL waits for all ranks and does not say for which. Whoever has not begun is named here.
        let here = group.tcp.all_here(BEFORE, *within);
        group.kept(here)?;
        let left = within.saturating_sub(clock::now().saturating_duration_since(began));
        let connected = group.until("connecting the ranks", left, Communicator::is_ready);
        group.kept(connected)?;
        Ok(group)
    }

    /// Ends the communicator where something has failed: the group is of no more use.
    fn kept<T>(&mut self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            if !self.failed {
                self.failed = true;
                self.ending.abort();
            }
            // A call that was ended by the abort fails in one way or another.
            if self.abort.is_aborted() { CollectiveError::Aborted } else { error }
        })
    }

    /// Waits until something is so; and no longer when the group is aborted, or a peer lost.
    fn until(
        &self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&Communicator) -> std::result::Result<bool, CollectiveError>,
    ) -> Result<()> {
        let deadline = clock::now() + within;
        let mut looks = Looks::default();
        let mut since = None;
        loop {
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            let found = is_so(&self.communicator);
            if found == Ok(true) {
                return Ok(());
            }
            let lost = self.tcp.lost_peer();
            if found.is_err() || lost.is_some() {
                let since = *since.get_or_insert_with(clock::now);
                let is_held_back = clock::now().saturating_duration_since(since) < CAUSE;
                match (found, lost) {
                    // It has failed, and why is known.
                    (Err(_), Some(lost)) => return Err(lost),
                    (Err(error), None) if !is_held_back => return Err(error),
                    (Ok(_), Some(lost)) if !is_held_back => return Err(lost),
                    _ => {}
                }
            }
            if clock::now() > deadline {
                let waited = humantime::format_duration(Duration::from_secs(within.as_secs()));
                return Err(CollectiveError::Transport(format!(
                    "{what} by NCCL took longer than {waited}, although all ranks live and have begun; NCCL_DEBUG=INFO \
                     shows what it does, and NCCL_SOCKET_IFNAME names the interface that it is to use"
                )));
            }
            looks.next();
        }
    }

    /// Waits until NCCL has begun what it was told, and takes more; on the host it is also done then.
    fn is_begun(&self) -> Result<()> {
        self.until("a reduction", self.tcp.patience(), Communicator::is_ready)
    }

    /// Waits until the device has done all that it was told.
    fn is_done(&self) -> Result<()> {
        let Device::Cuda(_) = self.device else { return Ok(()) };
        self.until("a reduction", self.tcp.patience(), |communicator| {
            communicator.is_ready()?;
            cuda::is_idle().map_err(|error| CollectiveError::Device(error.to_string()))
        })
    }

    /// Tells all ranks what this one has, and learns what they have.
    fn plans(
        &self,
        (step, slices): (u64, u32),
        parts: &[(Node, Tensor)],
        stamp: &Stamp,
        elements: usize,
    ) -> Result<Vec<Plan>> {
        let nodes = parts.iter().map(|(node, _)| *node).collect();
        let (reduction, elements) = (self.reduction, elements as u64);
        let own = Plan { stamp: *stamp, reduction, elements, nodes };
        let mut plans = Vec::new();
        for (rank, bytes) in (0..).zip(self.tcp.plans(step, &own.to_bytes())?) {
            let plan = Plan::from_bytes(&bytes)
                .filter(|plan| (plan.reduction, plan.elements) == (reduction, elements));
            plans.push(plan.ok_or_else(|| CollectiveError::Protocol {
                rank,
                detail: format!("it does not reduce {elements} elements in this way"),
            })?);
        }
        let all: Vec<Node> = plans.iter().flat_map(|plan| plan.nodes.iter().copied()).collect();
        if !tile(slices, &all) {
            return Err(CollectiveError::Protocol {
                rank: self.rank(),
                detail: "the ranks' partial sums do not tile the slices".into(),
            });
        }
        Ok(plans)
    }

    /// Memory of the group's own, made anew only when more is needed than before.
    fn reserved(slot: &mut Option<Tensor>, length: usize, device: Device) -> Result<Tensor> {
        let all = match slot.take() {
            Some(tensor) if tensor.numel() >= length => tensor,
            _ => Tensor::f_zeros([signed(length)?], (Kind::Float, device)).map_err(self::device)?,
        };
        let part = run(&all, 0, length);
        *slot = Some(all);
        part
    }

    /// Each rank sums its range in tree order and gives the sum to all, as over TCP.
    fn sum_in_order(
        &mut self,
        slices: u32,
        parts: &[(Node, Tensor)],
        plans: &[Plan],
        out: &mut Tensor,
    ) -> Result<()> {
        let (rank, world, elements) = (self.rank(), self.world(), out.numel());
        let (own, length) = aligned_range_of(rank, world, elements);
        let peers = || (0..world).zip(plans).filter(|(peer, _)| *peer != rank);
        let awaited: Vec<(u32, Node)> = peers()
            .flat_map(|(peer, plan)| plan.nodes.iter().map(move |node| (peer, *node)))
            .collect();
        let rows = Self::reserved(&mut self.received, awaited.len() * own.len(), self.device)?;

        let mut sends = Vec::new();
        for (peer, _) in peers() {
            let (range, _) = aligned_range_of(peer, world, elements);
            let piece =
                |tensor| Transfer { peer, piece: Piece { tensor, elements: range.clone() } };
            sends.extend(parts.iter().map(|(_, tensor)| piece(tensor)));
        }
        sends.retain(|transfer| !transfer.piece.elements.is_empty());
        let mut receives = Vec::new();
        for (at, (peer, _)) in awaited.iter().enumerate().filter(|_| !own.is_empty()) {
            let elements = at * own.len()..(at + 1) * own.len();
            receives.push(Transfer { peer: *peer, piece: Piece { tensor: &rows, elements } });
        }
        if !(sends.is_empty() && receives.is_empty()) {
            self.communicator.exchange(&sends, &receives).map_err(failed)?;
            self.is_begun()?;
        }

        let mut found = BTreeMap::new();
        for (node, tensor) in parts {
            let values = run(tensor, own.start, own.len())?;
            found.insert(*node, Part { values, is_own: false });
        }
        for (at, (_, node)) in awaited.iter().enumerate() {
            let values = run(&rows, at * own.len(), own.len())?;
            found.insert(*node, Part { values, is_own: true });
        }
        let total = sum::total(rank, slices, found)?;
        let all = Self::reserved(&mut self.gathered, world as usize * length, self.device)?;
        run(&all, rank as usize * length, own.len())?.f_copy_(&total).map_err(device)?;
        self.communicator.all_gather(&all, length).map_err(failed)?;
        self.is_begun()?;
        out.f_copy_(&run(&all, 0, elements)?).map_err(device)
    }

    /// Each rank sums what it has, in order, and NCCL sums that over the ranks, in an order of its choice.
    fn sum_by_ring(&mut self, parts: &[(Node, Tensor)], out: &mut Tensor) -> Result<()> {
        let mut own = parts.iter().map(|(_, tensor)| tensor);
        match own.next() {
            Some(first) => out.f_copy_(first).map_err(device)?,
            None => drop(out.f_zero_().map_err(device)?),
        }
        for more in own {
            drop(out.f_add_(more).map_err(device)?);
        }
        self.communicator.all_reduce(out).map_err(failed)?;
        self.is_begun()
    }

    fn reduce_here(
        &mut self,
        (step, slices): (u64, u32),
        parts: &[(Node, Tensor)],
        stamp: &Stamp,
        out: &mut Tensor,
    ) -> Result<Vec<Stamp>> {
        for tensor in parts.iter().map(|(_, tensor)| tensor).chain([&*out]) {
            if tensor.size() != out.size() || tensor.size().len() != 1 {
                let (is, expected) = (tensor.size(), out.size());
                let what = format!("a partial sum of shape {is:?}, expected a flat {expected:?}");
                return Err(CollectiveError::Device(what));
            }
            self.communicator.accepts(tensor).map_err(failed)?;
        }
        let plans = self.plans((step, slices), parts, stamp, out.numel())?;
        tch::no_grad(|| match self.reduction {
            Reduction::Ordered => self.sum_in_order(slices, parts, &plans, out),
            Reduction::Ring => self.sum_by_ring(parts, out),
        })?;
        self.is_done()?;
        Ok(plans.iter().map(|plan| plan.stamp).collect())
    }
}

impl Communicator {
    fn is_ready(&self) -> Result<bool> {
        self.state().map(|state| state == State::Ready).map_err(failed)
    }
}

/// Makes a GPU this thread's; NCCL and CUDA would else make a context on the first one.
fn enter(device: Device) -> std::result::Result<(), Explained> {
    match device {
        Device::Cuda(index) => cuda::enter(u32::try_from(index).unwrap_or(u32::MAX)),
        Device::Cpu | Device::Mps | Device::Vulkan => Ok(()),
    }
}

/// Some elements of a flat tensor.
fn run(tensor: &Tensor, start: usize, length: usize) -> Result<Tensor> {
    tensor.f_narrow(0, signed(start)?, signed(length)?).map_err(device)
}

/// A number of elements as torch counts them.
fn signed(elements: usize) -> Result<i64> {
    i64::try_from(elements)
        .map_err(|_| CollectiveError::Device(format!("{elements} elements are too many")))
}

/// What a failure of NCCL is to a group.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` wants it")]
fn failed(error: NcclError) -> CollectiveError {
    match error {
        // Only an abort ends it while it is used.
        NcclError::Ended { .. } => CollectiveError::Aborted,
        NcclError::Failed { .. } => CollectiveError::Transport(error.to_string()),
        NcclError::Argument { .. } => CollectiveError::Device(error.to_string()),
    }
}

impl Collective for Nccl {
    fn rank(&self) -> u32 {
        self.tcp.rank()
    }

    fn world(&self) -> u32 {
        self.tcp.world()
    }

    fn reduce(
        &mut self,
        step: u64,
        slices: u32,
        parts: &[(Node, Vec<f32>)],
        stamp: &Stamp,
        out: &mut [f32],
    ) -> Result<Vec<Stamp>> {
        let to = self.device;
        let there = |values: &[f32]| Tensor::f_from_slice(values).and_then(|one| one.f_to(to));
        let parts = parts.iter().map(|(node, values)| there(values).map(|one| (*node, one)));
        let parts = parts.collect::<std::result::Result<Vec<_>, _>>().map_err(device)?;
        let mut sum = there(out).map_err(device)?;
        let stamps = self.reduce_tensors(step, slices, &parts, stamp, &mut sum)?;
        let count = out.len();
        sum.f_copy_data(out, count).map_err(device)?;
        Ok(stamps)
    }

    fn reduce_tensors(
        &mut self,
        step: u64,
        slices: u32,
        parts: &[(Node, Tensor)],
        stamp: &Stamp,
        out: &mut Tensor,
    ) -> Result<Vec<Stamp>> {
        let outcome = self.reduce_here((step, slices), parts, stamp, out);
        self.kept(outcome)
    }

    fn all_gather_bytes(&mut self, step: u64, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let outcome = self.tcp.all_gather_bytes(step, own);
        self.kept(outcome)
    }

    fn transfer_state(
        &mut self,
        step: u64,
        source: u32,
        receivers: &[u32],
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let outcome = self.tcp.transfer_state(step, source, receivers, bytes);
        self.kept(outcome)
    }

    fn is_aborted(&self) -> bool {
        self.abort.is_aborted()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.failed {
            return;
        }
        let ended = self
            .communicator
            .finalize()
            .map_err(failed)
            .and_then(|()| self.until("the end", FINISHING, Communicator::is_ready))
            .and_then(|()| self.communicator.destroy().map_err(failed));
        match ended {
            Ok(()) => self.ending.over(),
            Err(error) => {
                tracing::debug!(%error, "a communicator is aborted at its end");
                self.ending.abort();
            }
        }
    }
}
