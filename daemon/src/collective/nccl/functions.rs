//! What `nccl.h` of 2.28 declares of what a group uses.

use crate::cuda::symbol;
use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId,
};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// What most functions give: a number until it has been looked at.
pub(super) type Code = c_int;

type Of<A> = unsafe extern "C" fn(A) -> Code;
type Init =
    unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code;
/// To or from a peer: elements, their number and type, the peer.
type OneWay<P> =
    unsafe extern "C" fn(P, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
type Gather = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclComm_t,
    cudaStream_t,
) -> Code;
type Reduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclRedOp_t,
    ncclComm_t,
    cudaStream_t,
) -> Code;

/// The functions, as `nccl.h` of 2.28 declares them.
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) get_version: Of<*mut c_int>,
    pub(super) get_unique_id: Of<*mut ncclUniqueId>,
    pub(super) error_string: unsafe extern "C" fn(Code) -> *const c_char,
    pub(super) last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
    pub(super) init: Init,
    pub(super) async_error: unsafe extern "C" fn(ncclComm_t, *mut Code) -> Code,
    pub(super) finalize: Of<ncclComm_t>,
    pub(super) destroy: Of<ncclComm_t>,
    pub(super) abort: Of<ncclComm_t>,
    pub(super) group_start: unsafe extern "C" fn() -> Code,
    pub(super) group_end: unsafe extern "C" fn() -> Code,
    pub(super) send: OneWay<*const c_void>,
    pub(super) receive: OneWay<*mut c_void>,
    pub(super) all_gather: Gather,
    pub(super) all_reduce: Reduce,
}

impl Functions {
    /// Looks all of them up.
    ///
    /// # Errors
    /// Which one is missing.
    pub(super) fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
        Ok(Self {
            get_version: symbol(library, "ncclGetVersion")?,
            get_unique_id: symbol(library, "ncclGetUniqueId")?,
            error_string: symbol(library, "ncclGetErrorString")?,
            last_error: symbol(library, "ncclGetLastError")?,
            init: symbol(library, "ncclCommInitRankConfig")?,
            async_error: symbol(library, "ncclCommGetAsyncError")?,
            finalize: symbol(library, "ncclCommFinalize")?,
            destroy: symbol(library, "ncclCommDestroy")?,
            abort: symbol(library, "ncclCommAbort")?,
            group_start: symbol(library, "ncclGroupStart")?,
            group_end: symbol(library, "ncclGroupEnd")?,
            send: symbol(library, "ncclSend")?,
            receive: symbol(library, "ncclRecv")?,
            all_gather: symbol(library, "ncclAllGather")?,
            all_reduce: symbol(library, "ncclAllReduce")?,
        })
    }
}

/// What NCCL's initializer sets, but for calls that do not block.
pub(super) fn config() -> ncclConfig_t {
    const MAGIC: c_uint = 0xcafe_beef;
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        // The header's, whose fields these are: an older library reads fewer, a newer one knows what is missing.
        version: 22_809,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}
