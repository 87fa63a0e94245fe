// Counts the bytes of tensors that this thread has made and that live, by the hook that torch has for profilers.
// Tests call it; a program that does not is linked without it.

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace {

struct Counted : c10::MemoryReportingInfoBase {
  int64_t now = 0, most = 0;

  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now += bytes;
    most = std::max(most, now);
  }

  bool memoryProfilingEnabled() const override { return true; }
};

struct Counting {
  std::shared_ptr<Counted> counted = std::make_shared<Counted>();
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counted};
};

}  // namespace

extern "C" void* ptv2_count_begin() { return new Counting; }

// Gives the most bytes that lived at a time since the beginning, of those made since then.
extern "C" int64_t ptv2_count_end(void* begun) {
  const std::unique_ptr<Counting> counting(static_cast<Counting*>(begun));
  return counting->counted->most;
}
