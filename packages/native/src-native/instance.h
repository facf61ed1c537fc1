// What each environment (the main thread's, each worker's) that loads the addon has of its own.
#ifndef VFIO_NATIVE_INSTANCE_H_
#define VFIO_NATIVE_INSTANCE_H_

#include <napi.h>

#include <vector>

namespace vfio {

class LoopCore;
class WatcherCore;

struct InstanceData {
  Napi::FunctionReference watcher;
  Napi::FunctionReference loop;
  // What the next constructor call takes over. Null at any other time: JavaScript cannot make such an object by itself.
  WatcherCore* next_watcher = nullptr;
  LoopCore* next_loop = nullptr;
  // Loops that are started in this thread. Not owned: each leaves when it is stopped or closed.
  std::vector<LoopCore*> started_loops;
};

// Takes what was laid down for a constructor, or throws a TypeError and answers null.
template <typename Core>
Core* TakeNext(Napi::Env env, Core* InstanceData::*place) {
  InstanceData* data = env.GetInstanceData<InstanceData>();
  Core* core = data->*place;
  data->*place = nullptr;
  if (core == nullptr) Napi::TypeError::New(env, "Illegal constructor").ThrowAsJavaScriptException();
  return core;
}

}  // namespace vfio

#endif  // VFIO_NATIVE_INSTANCE_H_
