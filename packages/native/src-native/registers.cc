// Volatile loads and stores of one width, and memory order. Out of range is answered with -1, the value that a bus gives
// for a load from nowhere; register-access.ts has checked before and throws.
#include <atomic>
#include <cstring>

#include "args.h"
#include "exports.h"

namespace vfio {
namespace {

// A place of sizeof(T) bytes inside the array and aligned to them, or null.
template <typename T>
volatile T* Place(Args& args) {
  const Bytes bytes = args.Uint8(0);
  const uint64_t offset = args.Size(1);
  if (!args.ok() || offset > bytes.length || bytes.length - offset < sizeof(T)) return nullptr;
  uint8_t* place = bytes.data + offset;
  if (reinterpret_cast<uintptr_t>(place) % sizeof(T) != 0) return nullptr;
  return reinterpret_cast<volatile T*>(place);
}

template <typename T>
napi_value Read(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile T* place = Place<T>(args);
  if (place == nullptr) return args.Result(-1);
  // 32-bit values go out as int32 patterns: an unsigned one above 2^31 would be a number on the heap.
  return args.Result(sizeof(T) == 4 ? static_cast<int64_t>(static_cast<int32_t>(*place)) : static_cast<int64_t>(*place));
}

template <typename T>
napi_value Write(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile T* place = Place<T>(args);
  const int32_t value = args.Int(2);
  if (place == nullptr || !args.ok()) return args.Invalid();
  *place = static_cast<T>(value);
  return args.Result(0);
}

napi_value Read64(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile uint64_t* place = Place<uint64_t>(args);
  size_t length = 0;
  uint32_t* out = args.Array<uint32_t>(2, napi_uint32_array, &length);
  if (place == nullptr || !args.ok() || length < 2) return args.Invalid();
  const uint64_t value = *place;
  out[0] = static_cast<uint32_t>(value);
  out[1] = static_cast<uint32_t>(value >> 32);
  return args.Result(0);
}

napi_value Write64(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile uint64_t* place = Place<uint64_t>(args);
  const uint32_t low = static_cast<uint32_t>(args.Int(2));
  const uint32_t high = static_cast<uint32_t>(args.Int(3));
  if (place == nullptr || !args.ok()) return args.Invalid();
  *place = static_cast<uint64_t>(high) << 32 | low;
  return args.Result(0);
}

napi_value LoadAcquire32(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile uint32_t* place = Place<uint32_t>(args);
  if (place == nullptr) return args.Result(-1);
  return args.Result(static_cast<int32_t>(__atomic_load_n(place, __ATOMIC_ACQUIRE)));
}

napi_value StoreRelease32(napi_env env, napi_callback_info info) {
  Args args(env, info);
  volatile uint32_t* place = Place<uint32_t>(args);
  const uint32_t value = static_cast<uint32_t>(args.Int(2));
  if (place == nullptr || !args.ok()) return args.Invalid();
  __atomic_store_n(place, value, __ATOMIC_RELEASE);
  return args.Result(0);
}

napi_value Fence(napi_env env, napi_callback_info info) {
  static_cast<void>(env);
  static_cast<void>(info);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return nullptr;
}

}  // namespace

void ExportRegisters(napi_env env, napi_value exports) {
  Export(env, exports, "read8", Read<uint8_t>);
  Export(env, exports, "read16", Read<uint16_t>);
  Export(env, exports, "read32", Read<uint32_t>);
  Export(env, exports, "read64", Read64);
  Export(env, exports, "write8", Write<uint8_t>);
  Export(env, exports, "write16", Write<uint16_t>);
  Export(env, exports, "write32", Write<uint32_t>);
  Export(env, exports, "write64", Write64);
  Export(env, exports, "loadAcquire32", LoadAcquire32);
  Export(env, exports, "storeRelease32", StoreRelease32);
  Export(env, exports, "fence", Fence);
}

}  // namespace vfio
