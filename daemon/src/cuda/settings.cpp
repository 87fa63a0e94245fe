// What torch has in C++ only: its switches, and what its allocator holds. See settings.rs, which has the same fields
// in the same order.

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <cstdint>
#include <cstring>
#include <exception>

struct Ptv2Settings {
  int deterministic, warn_only, fill_memory;
  int tf32_products, tf32_cudnn;
  int cudnn_benchmark, cudnn_deterministic;
  int bf16_sums, fp16_sums;
  int flash, memory_efficient, plain, cudnn_attention;
};

// No exception leaves: its text goes to the caller.
template <typename Body>
static int guarded(char* error, size_t bytes, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& thrown) {
    std::strncpy(error, thrown.what(), bytes - 1);
  } catch (...) {
    std::strncpy(error, "an unknown exception", bytes - 1);
  }
  error[bytes - 1] = '\0';
  return 1;
}

extern "C" int ptv2_write_settings(const Ptv2Settings* to, char* error, size_t bytes) {
  return guarded(error, bytes, [&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(to->deterministic, to->warn_only);
    context.setDeterministicFillUninitializedMemory(to->fill_memory);
    context.setAllowTF32CuBLAS(to->tf32_products);
    context.setAllowTF32CuDNN(to->tf32_cudnn);
    context.setBenchmarkCuDNN(to->cudnn_benchmark);
    context.setDeterministicCuDNN(to->cudnn_deterministic);
    // A product may be cut along the sum: the parts are added in fp32, in a fixed order.
    context.setAllowBF16ReductionCuBLAS(to->bf16_sums, true);
    context.setAllowFP16ReductionCuBLAS(to->fp16_sums, true);
    context.setSDPUseFlash(to->flash);
    context.setSDPUseMemEfficient(to->memory_efficient);
    context.setSDPUseMath(to->plain);
    context.setSDPUseCuDNN(to->cudnn_attention);
  });
}

extern "C" int ptv2_read_settings(Ptv2Settings* to, char* error, size_t bytes) {
  return guarded(error, bytes, [&] {
    auto& context = at::globalContext();
    const auto reduced = at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK;
    to->deterministic = context.deterministicAlgorithms();
    to->warn_only = context.deterministicAlgorithmsWarnOnly();
    to->fill_memory = context.deterministicFillUninitializedMemory();
    to->tf32_products = context.allowTF32CuBLAS();
    to->tf32_cudnn = context.allowTF32CuDNN();
    to->cudnn_benchmark = context.benchmarkCuDNN();
    to->cudnn_deterministic = context.deterministicCuDNN();
    to->bf16_sums = context.allowBF16ReductionCuBLAS() == reduced;
    to->fp16_sums = context.allowFP16ReductionCuBLAS() == reduced;
    to->flash = context.userEnabledFlashSDP();
    to->memory_efficient = context.userEnabledMemEfficientSDP();
    to->plain = context.userEnabledMathSDP();
    to->cudnn_attention = context.userEnabledCuDNNSDP();
  });
}

extern "C" int ptv2_give_back(char* error, size_t bytes) {
  return guarded(error, bytes, [] { at::getDeviceAllocator(at::kCUDA)->emptyCache(); });
}

extern "C" int ptv2_unused(int index, int64_t* unused, char* error, size_t bytes) {
  return guarded(error, bytes, [&] {
    auto* allocator = at::getDeviceAllocator(at::kCUDA);
    *unused = 0;
    if (allocator->initialized()) {
      const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index));
      const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
      *unused = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    }
  });
}
