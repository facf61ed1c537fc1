// The module: puts every function on the exports object. Context-aware: each thread that loads it gets its own objects,
// and only the table of mappings (sigbus.cc) is shared by the threads of a process.
#include <napi.h>

#include "exports.h"
#include "instance.h"

namespace vfio {

namespace {
// NATIVE_ABI of src/binding.ts.
constexpr int kAbi = 1;
}  // namespace

void Export(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function = nullptr;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function) != napi_ok) return;
  napi_set_named_property(env, exports, name, function);
}

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  // Freed with the environment.
  env.SetInstanceData(new InstanceData());
  exports.Set("abi", Napi::Number::New(env, kAbi));
  ExportBitmap(env, exports);
  ExportDescriptors(env, exports);
  ExportMemory(env, exports);
  ExportPageSums(env, exports);
  ExportRegisters(env, exports);
  ExportSockets(env, exports);
  ExportWatcher(env, exports);
  ExportLoop(env, exports);
  return exports;
}

}  // namespace vfio

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return vfio::Init(env, exports); }

NODE_API_MODULE(vfio_native, Init)
