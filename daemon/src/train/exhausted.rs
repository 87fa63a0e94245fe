//! Which failures mean that memory ran out: torch and NVIDIA's libraries say so in words only.

/// What they say, in lower case, and who.
const SIGNS: [(&str, &str); 9] = [
    (
        "out of memory",
        "torch's allocators, cudaGetErrorString, cuGetErrorString; NCCL, which repeats CUDA's words",
    ),
    ("out_of_memory", "the driver's name of it, CUDA_ERROR_OUT_OF_MEMORY; NVRTC's"),
    ("cudaerrormemoryallocation", "the runtime's name of it, which torch adds to CUDA's words"),
    ("can't allocate memory", "torch's allocator of the host's memory"),
    ("std::bad_alloc", "C++, of the host's memory"),
    ("_alloc_failed", "cuBLAS, cuSOLVER: CUBLAS_STATUS_ALLOC_FAILED"),
    (
        "_allocation_failed",
        "cuDNN: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, and the host's",
    ),
    // It cannot say more when there is no room for its own handle.
    ("cublas_status_not_initialized when calling `cublascreate", "torch, of cuBLAS"),
    (
        "failed to cuda ",
        "NCCL: `malloc`, `calloc`, `calloc async` or `host alloc` and a number of bytes",
    ),
];

/// Whether a message of torch, on a GPU or on the host, of the driver or of one of NVIDIA's libraries says that
/// memory ran out. What is computed next may have room again: nothing is broken.
pub(crate) fn is_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SIGNS.iter().any(|(sign, _)| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// Each is put together as its source does it; the words stand in the libraries of PyTorch 2.11.0 for CUDA 13.0
    /// (`strings`), what a run fills in is made up.
    const SAID: [&str; 14] = [
        // libc10_cuda.so, CUDACachingAllocator::malloc
        "Internal torch error: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 \
         GiB of which 1.20 GiB is free. Process 712 has 77.90 GiB memory in use.",
        "CUDA out of memory. Tried to allocate more than 1EB memory.",
        // libc10_cuda.so, c10_cuda_check_implementation, with the words of libcudart.so
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/",
        // libc10.so, alloc_cpu
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
         allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
        "C10 Out of Memory. Trying to allocate 64 GiB",
        // libstdc++, of any operator
        "Internal torch error: std::bad_alloc",
        // libtorch_cuda.so, TORCH_CUDABLAS_CHECK
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        // libtorch_cuda.so, AT_CUDNN_CHECK, with the words of libcudnn_graph.so
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        // the driver, as `cuda/driver.rs` tells it
        "NVIDIA's driver refuses cuModuleLoadData: CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
        // libnccl.so 2.28.9, ncclGetLastError: the last warning, which may be either
        "unhandled cuda error: Cuda failure 2 'out of memory'",
        "unhandled cuda error: Failed to CUDA calloc async 4194304 bytes",
        "unhandled cuda error: Failed to CUDA host alloc 33554432 bytes",
        "unhandled cuda error: Failed to CUDA malloc 1024 bytes",
    ];

    #[test]
    fn each_way_of_saying_it_is_understood() {
        for said in SAID {
            assert!(is_out_of_memory(said), "{said}");
        }
        for (sign, by) in SIGNS {
            let meets = |said: &&str| said.to_ascii_lowercase().contains(sign);
            assert!(SAID.iter().any(meets), "no example of `{sign}`: {by}");
        }
    }

    /// torch's own words, of a tensor that no machine has room for.
    #[test]
    fn torch_says_it_so() {
        let refused = Tensor::f_empty([1 << 50], (Kind::Float, Device::Cpu)).unwrap_err();
        assert!(is_out_of_memory(&refused.to_string()), "{refused}");
    }

    #[test]
    fn other_failures_are_something_else() {
        let shape = Tensor::ones([2], (Kind::Float, Device::Cpu)).f_view([3]).unwrap_err();
        assert!(!is_out_of_memory(&shape.to_string()));
        for other in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSetStream(handle, stream)`",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle, ...)`",
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
            "CUDA error: too many resources requested for launch",
            "NVIDIA's driver refuses cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was \
             encountered)",
            "unhandled cuda error: Cuda failure 700 'an illegal memory access was encountered'",
            "unhandled system error: socketProgress: Connection closed by remote peer",
        ] {
            assert!(!is_out_of_memory(other), "{other}");
        }
    }
}
