//! A communicator of NCCL, and all calls of it.

#![expect(unsafe_code, reason = "calls of a C library, each with the fact that makes it sound")]

use super::error::NcclError;
use super::functions::{Code, config};
use super::library::{IN_PROGRESS, Library, SUCCESS, UniqueId};
use super::operand::{Operand, Piece, Transfer};
use crate::clock;
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;
use tch::{Device, Tensor};

/// All that is sent and summed.
const FP32: ncclDataType_t = ncclDataType_t::ncclFloat32;
/// The default stream, which is torch's current one, too: a device has one stream here.
const STREAM: cudaStream_t = std::ptr::null_mut();

/// An abort waits so long for a call that another thread is in, and then goes before it.
const STUCK: Duration = Duration::from_secs(1);
/// How often a thread looks that waits for another's call.
const LOOK: Duration = Duration::from_millis(1);

/// How far a communicator is with what it does beside its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes operations.
    Ready,
    /// It still connects, or starts what it was told.
    InProgress,
}

/// NCCL's handle. It is freed once, by whoever ends the communicator.
#[derive(Debug)]
struct Handle(ncclComm_t);

// SAFETY: NCCL binds a communicator to no thread; that only one thread is in a call is what `Communicator::calls` is
// for, but for an abort, which NCCL allows beside any call.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// A communicator that does not block: every call returns soon, and [`Communicator::state`] tells the rest.
#[derive(Debug)]
pub struct Communicator {
    library: Library,
    handle: Handle,
    rank: u32,
    world: u32,
    device: Device,
    /// Held while a call is made.
    calls: Mutex<Calls>,
    /// No call begins any more.
    ending: AtomicBool,
}

#[derive(Debug)]
struct Calls {
    open: bool,
    /// What the operation in progress reads and writes: it must outlive it.
    tensors: Vec<Tensor>,
}

impl Communicator {
    /// Begins to connect this rank with the others. On a GPU, its context must be this thread's.
    ///
    /// # Errors
    /// Where the library refuses at once; later failures come with the state.
    pub fn begin(
        library: &Library,
        id: &UniqueId,
        (rank, world): (u32, u32),
        device: Device,
    ) -> Result<Self, NcclError> {
        let operation = "ncclCommInitRankConfig";
        let number = |of: u32| {
            c_int::try_from(of).map_err(|_| NcclError::Argument {
                operation,
                rank,
                what: format!("{of} is no rank or number of ranks"),
            })
        };
        let id = ncclUniqueId { internal: id.map(u8::cast_signed) };
        let (ranks, own) = (number(world)?, number(rank)?);
        let mut config = config();
        let mut handle: ncclComm_t = std::ptr::null_mut();
        // SAFETY: both pointers are to places that live through the call; NCCL copies the configuration, of which it
        // reads no more than the size that it states.
        let code =
            unsafe { (library.functions.init)(&raw mut handle, ranks, id, own, &raw mut config) };
        library.check(operation, rank, code)?;
        if handle.is_null() {
            let what = "it gave no communicator".into();
            return Err(NcclError::Argument { operation, rank, what });
        }
        Ok(Self {
            library: library.clone(),
            handle: Handle(handle),
            rank,
            world,
            device,
            calls: Mutex::new(Calls { open: true, tensors: Vec::new() }),
            ending: AtomicBool::new(false),
        })
    }

    /// Enters a call, if none is forbidden yet. Whoever waits for another thread's call goes when the end begins:
    /// nobody waits behind an abort.
    fn enter(&self, operation: &'static str) -> Result<MutexGuard<'_, Calls>, NcclError> {
        let is_ending = || self.ending.load(Ordering::SeqCst);
        match self.free_unless(is_ending) {
            Some(calls) if calls.open && !is_ending() => Ok(calls),
            Some(_) | None => Err(NcclError::Ended { operation, rank: self.rank }),
        }
    }

    /// Waits for the call that another thread is in, until `is_enough`.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread inside a library has no event to wait for"
    )]
    fn free_unless(&self, is_enough: impl Fn() -> bool) -> Option<MutexGuard<'_, Calls>> {
        while !is_enough() {
            match self.calls.try_lock() {
                Ok(calls) => return Some(calls),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        }
        None
    }

    fn check(&self, operation: &'static str, code: Code) -> Result<(), NcclError> {
        self.library.check(operation, self.rank, code)
    }

    /// How far it is with what was begun.
    ///
    /// # Errors
    /// Where that has failed.
    pub fn state(&self) -> Result<State, NcclError> {
        let operation = "ncclCommGetAsyncError";
        let mut calls = self.enter(operation)?;
        let mut state = SUCCESS;
        // SAFETY: the communicator is open, as `enter` says; it writes one code, for which there is room.
        let code = unsafe { (self.library.functions.async_error)(self.handle.0, &raw mut state) };
        self.check(operation, code)?;
        self.check(operation, state)?;
        if state == IN_PROGRESS {
            return Ok(State::InProgress);
        }
        // On the host all is done now. On a GPU all is in its stream, in which torch gives memory away only to what
        // comes later.
        calls.tensors.clear();
        Ok(State::Ready)
    }

    /// Checks a tensor as every operation would.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn accepts(&self, tensor: &Tensor) -> Result<(), NcclError> {
        self.operand("a reduction", &Piece::all(tensor)).map(drop)
    }

    fn operand(&self, operation: &'static str, piece: &Piece<'_>) -> Result<Operand, NcclError> {
        Operand::new((operation, self.rank), self.device, piece)
    }

    /// Checks all transfers of one direction.
    fn operands(
        &self,
        operation: &'static str,
        transfers: &[Transfer<'_>],
    ) -> Result<Vec<(c_int, Operand)>, NcclError> {
        let one = |Transfer { peer, piece }: &Transfer<'_>| match c_int::try_from(*peer) {
            Ok(to) if *peer < self.world => Ok((to, self.operand(operation, piece)?)),
            _ => Err(NcclError::Argument {
                operation,
                rank: self.rank,
                what: format!("there is no rank {peer} in a group of {}", self.world),
            }),
        };
        transfers.iter().map(one).collect()
    }

    /// What goes from this rank to itself must be received by it in the same operation: NCCL would wait for ever.
    fn pair_up(
        &self,
        out: &[(c_int, Operand)],
        into: &[(c_int, Operand)],
    ) -> Result<(), NcclError> {
        let own = |all: &[(c_int, Operand)]| -> Vec<usize> {
            let own = all.iter().filter(|(peer, _)| u32::try_from(*peer) == Ok(self.rank));
            own.map(|(_, one)| one.count()).collect()
        };
        let (sent, received) = (own(out), own(into));
        if sent == received {
            return Ok(());
        }
        let what = format!("it sends itself {sent:?} elements and receives {received:?}");
        Err(NcclError::Argument { operation: "ncclSend", rank: self.rank, what })
    }

    /// Sends to and receives from ranks, as one operation: both sides must name the same, in the same order.
    ///
    /// # Errors
    /// Which argument is wrong, or what the library says.
    pub fn exchange(
        &self,
        sends: &[Transfer<'_>],
        receives: &[Transfer<'_>],
    ) -> Result<(), NcclError> {
        let (sending, receiving) = ("ncclSend", "ncclRecv");
        let (out, into) = (self.operands(sending, sends)?, self.operands(receiving, receives)?);
        self.pair_up(&out, &into)?;
        let mut calls = self.enter("ncclGroupStart")?;
        let (functions, comm) = (&self.library.functions, self.handle.0);
        // SAFETY: it takes nothing; every path from here leads to the group's end.
        let code = unsafe { (functions.group_start)() };
        let mut found = self.check("ncclGroupStart", code);
        for (peer, one) in out {
            let (data, count) = (one.data(), one.count());
            calls.tensors.push(one.into_tensor());
            // SAFETY: the communicator is open; the elements are fp32 on its device, inside a tensor (checked by
            // `Operand::new`) that `calls` keeps until the operation is over.
            let code = unsafe { (functions.send)(data, count, FP32, peer, comm, STREAM) };
            found = found.and_then(|()| self.check(sending, code));
        }
        for (peer, one) in into {
            let (data, count) = (one.data(), one.count());
            calls.tensors.push(one.into_tensor());
            // SAFETY: as above; nobody else looks at these elements before the operation is over.
            let code = unsafe { (functions.receive)(data, count, FP32, peer, comm, STREAM) };
            found = found.and_then(|()| self.check(receiving, code));
        }
        // SAFETY: it ends the group that this thread began.
        let code = unsafe { (functions.group_end)() };
        found.and_then(|()| self.check("ncclGroupEnd", code))
    }

    /// Gathers `count` elements of each rank in the ranks' order; this one's stand in their place already.
    ///
    /// # Errors
    /// Which argument is wrong, or what the library says.
    pub fn all_gather(&self, all: &Tensor, count: usize) -> Result<(), NcclError> {
        let operation = "ncclAllGather";
        let (rank, world) = (self.rank, self.world);
        if Some(all.numel()) != count.checked_mul(world as usize) {
            let what = format!("{} elements, expected {world} times {count}", all.numel());
            return Err(NcclError::Argument { operation, rank, what });
        }
        let at = rank as usize * count;
        let own = self.operand(operation, &Piece { tensor: all, elements: at..at + count })?;
        let into = self.operand(operation, &Piece::all(all))?;
        let (own, data, comm) = (own.data(), into.data(), self.handle.0);
        let mut calls = self.enter(operation)?;
        calls.tensors.push(into.into_tensor());
        let gather = self.library.functions.all_gather;
        // SAFETY: the communicator is open; there is room for all ranks' elements, fp32 on its device (checked by
        // `Operand::new`), in a tensor that `calls` keeps; NCCL allows the own ones to stand in their place.
        let code = unsafe { gather(own, data, count, FP32, comm, STREAM) };
        self.check(operation, code)
    }

    /// Sums a tensor over the ranks, in place, in an order of NCCL's choice.
    ///
    /// # Errors
    /// Which argument is wrong, or what the library says.
    pub fn all_reduce(&self, tensor: &Tensor) -> Result<(), NcclError> {
        let operation = "ncclAllReduce";
        let one = self.operand(operation, &Piece::all(tensor))?;
        let (data, count, comm) = (one.data(), one.count(), self.handle.0);
        let mut calls = self.enter(operation)?;
        calls.tensors.push(one.into_tensor());
        let (reduce, sum) = (self.library.functions.all_reduce, ncclRedOp_t::ncclSum);
        // SAFETY: the communicator is open; the elements are fp32 on its device (checked by `Operand::new`), in a
        // tensor that `calls` keeps; NCCL allows the sum to take their place.
        let code = unsafe { reduce(data, data, count, FP32, sum, comm, STREAM) };
        self.check(operation, code)
    }

    /// Ends the communicator, and with it whatever is in progress, from any thread. Later calls do nothing.
    ///
    /// # Errors
    /// What the library says; the communicator is of no more use all the same.
    pub fn abort(&self) -> Result<(), NcclError> {
        if self.ending.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Calls do not block; should one do so all the same, an abort is what NCCL has against it.
        let deadline = clock::now() + STUCK;
        let mut calls = self.free_unless(|| clock::now() > deadline);
        if calls.as_ref().is_some_and(|calls| !calls.open) {
            return Ok(());
        }
        // SAFETY: the communicator is open, and since `ending` was set by this thread no other frees it; NCCL allows
        // an abort while another thread is in a call, which begins none after it.
        let code = unsafe { (self.library.functions.abort)(self.handle.0) };
        if let Some(calls) = &mut calls {
            calls.open = false;
            calls.tensors.clear();
        }
        self.check("ncclCommAbort", code)
    }

    /// Begins the orderly end, which all ranks make together: [`Self::state`] says when nothing is on its way.
    ///
    /// # Errors
    /// What the library says.
    pub fn finalize(&self) -> Result<(), NcclError> {
        let _calls = self.enter("ncclCommFinalize")?;
        // SAFETY: the communicator is open.
        let code = unsafe { (self.library.functions.finalize)(self.handle.0) };
        self.check("ncclCommFinalize", code)
    }

    /// Frees a communicator that was finalized.
    ///
    /// # Errors
    /// What the library says; the communicator is of no more use all the same.
    pub fn destroy(&self) -> Result<(), NcclError> {
        let mut calls = self.enter("ncclCommDestroy")?;
        if self.ending.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        calls.open = false;
        // SAFETY: the communicator was open until the line before, and since `ending` was set by this thread no other
        // frees it.
        let code = unsafe { (self.library.functions.destroy)(self.handle.0) };
        self.check("ncclCommDestroy", code)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Err(error) = self.abort() {
            tracing::warn!(%error, "a communicator's end did not go well");
        }
    }
}
