// The message loop as a JavaScript object, driven by libuv: a poll handle on the epoll descriptor while messages are rare,
// an idle handle (and waiting inside the loop) while they are dense.
#include <cerrno>
#include <new>

#include "args.h"
#include "event-loop.h"
#include "exports.h"
#include "instance.h"
#include "uv-owner.h"

namespace vfio {

class LoopCore : public UvOwner {
 public:
  // Takes over the loop.
  LoopCore(napi_env env, EventLoop* loop) : UvOwner(env), loop_(loop) {}

  EventLoop* loop() const { return loop_; }

  int Start(napi_value self, napi_value callback) {
    if (closed()) return -EBADF;
    if (armed()) return -EALREADY;
    int error = 0;
    if (poll_ == nullptr) poll_ = OpenPoll(loop_->epoll_fd(), &error);
    if (error == 0 && idle_ == nullptr) idle_ = OpenIdle(&error);
    if (error == 0) error = Arm(self, callback);
    if (error < 0) return error;
    Adjust();
    return 0;
  }

  int Stop() {
    if (!armed()) return 0;
    Disarm();
    SetPolling(false);
    SetIdling(false);
    return 0;
  }

  // After a call from JavaScript that may have made something ready of which libuv knows nothing.
  void Kick() {
    if (armed() && !in_burst_ && loop_->WantsBurst()) SetIdling(true);
  }

 protected:
  ~LoopCore() override { delete loop_; }

  void OnClose(bool teardown) override {
    poll_ = nullptr;
    idle_ = nullptr;
    napi_env env = this->env();
    loop_->Close([env, teardown](Memory* rx) {
      // An ending environment detaches what it has left by itself.
      if (!teardown) rx->Unmap(env);
      rx->Release();
    });
  }

 private:
  static LoopCore* Self(uv_handle_s* handle) {
    return static_cast<LoopCore*>(static_cast<UvOwner*>(uv_handle_get_data(handle)));
  }
  static void OnPoll(uv_handle_s* handle, int status, int events) {
    static_cast<void>(status);
    static_cast<void>(events);
    Self(handle)->RunBurst();
  }
  static void OnIdle(uv_handle_s* handle) { Self(handle)->RunBurst(); }

  void RunBurst() {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env(), &scope) != napi_ok) return;
    // JavaScript may close the loop.
    Retain();
    in_burst_ = true;
    loop_->BeginBurst();
    Call(0, nullptr);
    loop_->EndBurst();
    in_burst_ = false;
    if (armed()) Adjust();
    napi_close_handle_scope(env(), scope);
    Release();
  }

  void Adjust() {
    SetIdling(loop_->WantsBurst());
    SetPolling(!loop_->dense());
  }

  void SetPolling(bool on) {
    if (on == polling_ || poll_ == nullptr) return;
    polling_ = on;
    if (on) {
      uv_poll_start(poll_, kUvReadable, OnPoll);
    } else {
      uv_poll_stop(poll_);
    }
  }

  void SetIdling(bool on) {
    if (on == idling_ || idle_ == nullptr) return;
    idling_ = on;
    if (on) {
      uv_idle_start(idle_, OnIdle);
    } else {
      uv_idle_stop(idle_);
    }
  }

  // Owned.
  EventLoop* loop_;
  // Owned by UvOwner.
  uv_handle_s* poll_ = nullptr;
  uv_handle_s* idle_ = nullptr;
  bool polling_ = false;
  bool idling_ = false;
  bool in_burst_ = false;
};

namespace {

// The hot call: no arguments in the common case, the loop comes with the function.
napi_value Step(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument = nullptr;
  void* data = nullptr;
  if (napi_get_cb_info(env, info, &count, &argument, nullptr, &data) != napi_ok) return nullptr;
  EventLoop* loop = static_cast<LoopCore*>(data)->loop();
  int event;
  double timeout = 0;
  if (count == 0) {
    event = loop->StepInBurst();
  } else if (napi_get_value_double(env, argument, &timeout) == napi_ok) {
    // 100 years at most; NaN does not wait.
    event = loop->Step(timeout < 0 ? -1 : timeout <= 3.2e15 ? static_cast<int64_t>(timeout) : 0);
  } else {
    event = loop->StepInBurst();
  }
  napi_value result = nullptr;
  napi_create_int32(env, event, &result);
  return result;
}

void ReleaseStep(napi_env env, void* data, void* hint) {
  static_cast<void>(env);
  static_cast<void>(hint);
  static_cast<LoopCore*>(data)->Release();
}

class LoopObject : public Napi::ObjectWrap<LoopObject> {
 public:
  explicit LoopObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<LoopObject>(info), core_(TakeNext(info.Env(), &InstanceData::next_loop)) {}

  ~LoopObject() override {
    if (core_ == nullptr) return;
    core_->Close();
    core_->Release();
  }

  static Napi::Function Class(Napi::Env env) {
    return DefineClass(
        env, "Loop",
        {InstanceMethod<&LoopObject::AddSocket>("addSocket"), InstanceMethod<&LoopObject::AddListener>("addListener"),
         InstanceMethod<&LoopObject::AddEventFd>("addEventFd"), InstanceMethod<&LoopObject::AddTimer>("addTimer"),
         InstanceMethod<&LoopObject::SetTimer>("setTimer"), InstanceMethod<&LoopObject::Buffer>("buffer"),
         InstanceMethod<&LoopObject::Fd>("fd"), InstanceMethod<&LoopObject::Remove>("remove"),
         InstanceMethod<&LoopObject::Pause>("pause"), InstanceMethod<&LoopObject::Resume>("resume"),
         InstanceMethod<&LoopObject::Send>("send"), InstanceMethod<&LoopObject::SendTx>("sendTx"),
         InstanceMethod<&LoopObject::WatchMapping>("watchMapping"), InstanceMethod<&LoopObject::Start>("start"),
         InstanceMethod<&LoopObject::Stop>("stop"), InstanceMethod<&LoopObject::Ref>("ref"),
         InstanceMethod<&LoopObject::Unref>("unref"), InstanceMethod<&LoopObject::Stats>("stats"),
         InstanceMethod<&LoopObject::WakeFd>("wakeFd"), InstanceMethod<&LoopObject::Close>("close")});
  }

 private:
  EventLoop* loop() { return core_->loop(); }

  Napi::Value Result(const Napi::CallbackInfo& info, int64_t value) {
    core_->Kick();
    return Napi::Value(info.Env(), Number(info.Env(), value));
  }

  Napi::Value AddSocket(const Napi::CallbackInfo& info) {
    Args args(info);
    const int fd = args.Int(0);
    const uint64_t max_message = args.Size(1);
    const int max_fds = args.Int(2);
    const uint64_t max_queued = args.Size(3);
    if (!args.ok() || max_message < kHeaderSize || max_message > INT32_MAX / 2 || max_fds < 0 || max_fds > kMaxFds) {
      return Result(info, -EINVAL);
    }
    const int id = loop()->AddSocket(fd, max_message, max_fds, max_queued);
    if (id < 0) return Result(info, id);
    napi_value buffer = loop()->Buffer(id)->ToArrayBuffer(info.Env());
    if (buffer == nullptr) {
      Memory* rx = nullptr;
      loop()->Remove(id, false, &rx);
      rx->Release();
      return Result(info, -ENOTSUP);
    }
    // Fetched by `buffer` once; the reference to it is what `Buffer` hands out.
    added_ = Napi::Persistent(Napi::ArrayBuffer(info.Env(), buffer));
    added_id_ = id;
    return Result(info, id);
  }
  Napi::Value Buffer(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    if (!args.ok() || added_.IsEmpty() || id != added_id_) return Result(info, -ENOENT);
    Napi::Value buffer = added_.Value();
    added_.Reset();
    return buffer;
  }
  Napi::Value AddListener(const Napi::CallbackInfo& info) {
    Args args(info);
    const int fd = args.Int(0);
    return Result(info, args.ok() ? loop()->AddListener(fd) : -EINVAL);
  }
  Napi::Value AddEventFd(const Napi::CallbackInfo& info) {
    Args args(info);
    const int fd = args.Int(0);
    return Result(info, args.ok() ? loop()->AddEventFd(fd) : -EINVAL);
  }
  Napi::Value AddTimer(const Napi::CallbackInfo& info) { return Result(info, loop()->AddTimer()); }
  Napi::Value SetTimer(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    const uint64_t delay = args.Size(1);
    const uint64_t interval = args.Size(2);
    return Result(info, args.ok() ? loop()->SetTimer(id, delay, interval) : -EINVAL);
  }
  Napi::Value Fd(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    return Result(info, args.ok() ? loop()->Fd(id) : -EINVAL);
  }
  Napi::Value Remove(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    const bool close_fd = args.Bool(1);
    if (!args.ok()) return Result(info, -EINVAL);
    Memory* rx = nullptr;
    const int result = loop()->Remove(id, close_fd, &rx);
    if (rx != nullptr) {
      rx->Unmap(info.Env());
      rx->Release();
    }
    return Result(info, result);
  }
  Napi::Value Pause(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    return Result(info, args.ok() ? loop()->Pause(id) : -EINVAL);
  }
  Napi::Value Resume(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    return Result(info, args.ok() ? loop()->Resume(id) : -EINVAL);
  }
  Napi::Value Send(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    const Bytes bytes = args.Uint8(1);
    const uint64_t offset = args.Size(2);
    const uint64_t length = args.Size(3);
    size_t fd_count = 0;
    const int32_t* fds = args.Descriptors(4, &fd_count);
    if (!args.ok() || offset > bytes.length || length > bytes.length - offset) return Result(info, -EINVAL);
    return Result(info, loop()->Send(id, bytes.data + offset, length, fds, fd_count));
  }
  Napi::Value SendTx(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    const uint64_t length = args.Size(1);
    size_t fd_count = 0;
    const int32_t* fds = args.Descriptors(2, &fd_count);
    if (!args.ok() || loop()->closed()) return Result(info, args.ok() ? -EBADF : -EINVAL);
    return Result(info, loop()->SendTx(id, length, fds, fd_count));
  }
  Napi::Value WatchMapping(const Napi::CallbackInfo& info) {
    Args args(info);
    Memory* memory = MemoryFromHandle(info.Env(), args.Value(0));
    const int id = args.Int(1);
    if (!args.ok() || memory == nullptr) return Result(info, -EINVAL);
    return Result(info, loop()->WatchMapping(memory, id));
  }
  Napi::Value Start(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsFunction()) return Result(info, -EINVAL);
    return Result(info, core_->Start(info.This(), info[0]));
  }
  Napi::Value Stop(const Napi::CallbackInfo& info) { return Result(info, core_->Stop()); }
  void Ref(const Napi::CallbackInfo&) { core_->SetRef(true); }
  void Unref(const Napi::CallbackInfo&) { core_->SetRef(false); }
  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Args args(info);
    size_t length = 0;
    double* out = args.Array<double>(0, napi_float64_array, &length);
    if (!args.ok() || length < 8) return Result(info, -EINVAL);
    const LoopStats& stats = loop()->stats();
    const uint64_t values[] = {stats.events, stats.messages, stats.receives, stats.empty_receives,
                               stats.sends,  stats.queued,   stats.waits,    stats.bursts};
    for (size_t i = 0; i < 8; i++) out[i] = static_cast<double>(values[i]);
    return Result(info, 0);
  }
  Napi::Value WakeFd(const Napi::CallbackInfo& info) { return Result(info, loop()->wake_fd()); }
  void Close(const Napi::CallbackInfo& info) {
    // Within a step of JavaScript's own making nothing of the loop is in use but through this object.
    if (!core_->closed()) {
      EventLoop* loop = core_->loop();
      core_->Close();
      for (Memory* memory : {loop->fds_memory(), loop->reply_fds_memory(), loop->tx_memory()}) memory->Unmap(info.Env());
    }
  }

  // One reference; null only in an object whose constructor threw.
  LoopCore* core_;
  Napi::Reference<Napi::ArrayBuffer> added_;
  int added_id_ = -1;
};

// The properties of the object: shared buffers and the step function.
int Fill(napi_env env, Napi::Object object, LoopCore* core) {
  EventLoop* loop = core->loop();
  const struct {
    const char* name;
    Memory* memory;
  } buffers[] = {{"state", loop->state_memory()},
                 {"fds", loop->fds_memory()},
                 {"replyFds", loop->reply_fds_memory()},
                 {"tx", loop->tx_memory()}};
  for (const auto& entry : buffers) {
    napi_value buffer = entry.memory->ToArrayBuffer(env);
    if (buffer == nullptr) return -ENOTSUP;
    object.Set(entry.name, buffer);
  }
  napi_value step = nullptr;
  if (napi_create_function(env, "step", NAPI_AUTO_LENGTH, Step, core, &step) != napi_ok) return -ENOMEM;
  core->Retain();
  if (napi_add_finalizer(env, step, core, ReleaseStep, nullptr, nullptr) != napi_ok) {
    core->Release();
    return -ENOMEM;
  }
  object.Set("step", step);
  return 0;
}

// Arguments: largest message, messages of a burst, its microseconds, dense microseconds, measure.
Napi::Value CreateLoop(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Args args(info);
  LoopOptions options;
  options.max_message = args.Size(0);
  options.burst_messages = args.Int(1);
  options.burst_us = static_cast<int64_t>(args.Size(2));
  options.dense_us = static_cast<int64_t>(args.Size(3));
  options.measure = args.Bool(4);
  if (!args.ok() || options.max_message < kHeaderSize || options.max_message > INT32_MAX / 2 ||
      options.burst_messages < 1) {
    return Napi::Number::New(env, -EINVAL);
  }
  int error = 0;
  EventLoop* loop = EventLoop::Create(options, &error);
  if (loop == nullptr) return Napi::Number::New(env, error);
  LoopCore* core = new (std::nothrow) LoopCore(env, loop);
  if (core == nullptr) {
    delete loop;
    return Napi::Number::New(env, -ENOMEM);
  }
  InstanceData* data = env.GetInstanceData<InstanceData>();
  data->next_loop = core;
  Napi::Object object = data->loop.New({});
  error = Fill(env, object, core);
  if (error < 0) {
    core->Close();
    return Napi::Number::New(env, error);
  }
  return object;
}

}  // namespace

void ExportLoop(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<InstanceData>()->loop = Napi::Persistent(LoopObject::Class(env));
  exports.Set("createLoop", Napi::Function::New<CreateLoop>(env, "createLoop"));
}

}  // namespace vfio
