// Stands in for libcuda and libnvrtc in tests: one GPU that is the processor, and one kernel that it knows. It refuses
// what they would punish. PTV2_STAND_IN names a call that is to fail.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../daemon/src/cuda/masks.c"

enum { FAILS = 999, INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
static const char image[] = "an image for sm_90";
static int context, module, function;
static __thread void* current;

static int fails(const char* call) {
  const char* named = getenv("PTV2_STAND_IN");
  return named && strcmp(named, call) == 0;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal ? INVALID_VALUE : 0; }
int cuDeviceGetName(char* name, int bytes, int device) { return snprintf(name, bytes, "stand-in %d", device), 0; }
int cuDeviceGetUuid(char* uuid, int device) { return memset(uuid, device, 16), 0; }
int cuDeviceGetUuid_v2(char* uuid, int device) { return memset(uuid, device, 16), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = 1 << 30, device; }
int cuDeviceGetPCIBusId(char* bus, int bytes, int device) { return snprintf(bus, bytes, "0000:0%d:00.0", device), 0; }
// Of all attributes the capability's major part is 9, all others are 0.
int cuDeviceGetAttribute(int* value, int which, int device) { return *value = which == 75 ? 9 : 0, device; }
int cuDevicePrimaryCtxRetain(void** to, int device) { return *to = &context, device; }
int cuCtxSetCurrent(void* to) { return current = to, 0; }

int cuModuleLoadData(void** to, const void* data) {
  if (fails("cuModuleLoadData")) return FAILS;
  if (current != &context) return INVALID_CONTEXT;
  return *to = &module, memcmp(data, image, sizeof image) ? INVALID_IMAGE : 0;
}

int cuModuleGetFunction(void** to, void* of, const char* name) {
  if (fails("cuModuleGetFunction")) return FAILS;
  return *to = &function, of != &module || strcmp(name, "ptv2_masks") ? NOT_FOUND : 0;
}

int cuLaunchKernel(void* of, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** arguments, void** extra) {
  if (fails("cuLaunchKernel")) return FAILS;
  if (current != &context) return INVALID_CONTEXT;
  if (of != &function || !x || y != 1 || z != 1 || !threads || threads > 1024 || threads_y != 1 || threads_z != 1 ||
      shared || stream || !arguments || extra)
    return INVALID_VALUE;
  for (unsigned long long thread = 0; thread < (unsigned long long)x * threads; thread++)
    ptv2_masks_thread(arguments[0], *(void**)arguments[1], thread);
  return 0;
}

int cuGetErrorName(int code, const char** to) { return *to = code == FAILS ? "CUDA_STAND_IN" : "CUDA_REFUSED", 0; }
int cuGetErrorString(int code, const char** to) {
  return *to = code == FAILS ? "an error of the stand-in" : "what the driver would punish", 0;
}

int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, 0; }
const char* nvrtcGetErrorString(int code) { return code == FAILS ? "NVRTC_STAND_IN" : "NVRTC_REFUSED"; }
int nvrtcCreateProgram(void** to, const char* source, const char* name, int headers, void* texts, void* names) {
  const int is_right = strstr(source, "__global__ void ptv2_masks(") && *name && !headers && !texts && !names;
  return *to = is_right ? strdup(source) : NULL, is_right ? 0 : INVALID_VALUE;
}
int nvrtcCompileProgram(void* program, int options, const char* const* texts) {
  if (fails("nvrtcCompileProgram")) return FAILS;
  return !program || options != 1 || strcmp(texts[0], "--gpu-architecture=sm_90") ? INVALID_VALUE : 0;
}
static const char log_text[] = "the stand-in's log";
int nvrtcGetProgramLogSize(void* program, size_t* size) { return *size = sizeof log_text, !program; }
int nvrtcGetProgramLog(void* program, char* to) { return memcpy(to, log_text, sizeof log_text), !program; }
int nvrtcGetCUBINSize(void* program, size_t* size) { return *size = sizeof image, !program; }
int nvrtcGetCUBIN(void* program, char* to) { return memcpy(to, image, sizeof image), !program; }
int nvrtcDestroyProgram(void** program) { return free(*program), *program = NULL, 0; }
