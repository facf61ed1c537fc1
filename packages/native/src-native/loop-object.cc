// The message loop as a JavaScript object, run by libuv in one of two ways.
//
// Hosted, where it is the only started loop of its thread: a prepare handle calls JavaScript, burst after burst, and `step`
// waits inside the loop, whose epoll set holds libuv's own descriptor: the thread goes back to libuv as soon as that has
// something to do. A message then wakes the thread right where it is handled, and what a turn of libuv costs is paid after
// the reply. The idle handle keeps libuv from waiting itself.
//
// Polled, where there are several: none may wait for itself alone, so libuv watches each loop's epoll descriptor.
#include <algorithm>
#include <cerrno>
#include <new>
#include <vector>

#include "args.h"
#include "event-loop.h"
#include "exports.h"
#include "instance.h"
#include "uv-owner.h"

namespace vfio {

// Bursts that may follow each other without a turn of libuv. A bound for what waits for a turn and does not ask for one, as
// an immediate without a reference.
constexpr int kBurstsPerTurn = 64;

class LoopCore : public UvOwner {
 public:
  // Takes over the loop.
  LoopCore(napi_env env, EventLoop* loop) : UvOwner(env), loop_(loop) {}

  EventLoop* loop() const { return loop_; }

  int Start(napi_value self, napi_value callback, InstanceData* data) {
    if (closed()) return -EBADF;
    if (armed()) return -EALREADY;
    int error = 0;
    if (poll_ == nullptr) poll_ = OpenPoll(loop_->epoll_fd(), &error);
    if (error == 0 && prepare_ == nullptr) prepare_ = OpenPrepare(&error);
    if (error == 0 && idle_ == nullptr) idle_ = OpenIdle(&error);
    if (error == 0) error = Arm(self, callback);
    if (error < 0) return error;
    data_ = data;
    data_->started_loops.push_back(this);
    SetModes(data_);
    return 0;
  }

  int Stop() {
    if (!armed()) return 0;
    Disarm();
    SetMode(Mode::kStopped);
    Leave();
    return 0;
  }

  // After a call from JavaScript that may have made something ready of which libuv knows nothing.
  void Kick() {
    if (mode_ == Mode::kPolled && !in_burst_ && loop_->ready()) SetIdling(true);
  }

 protected:
  ~LoopCore() override { delete loop_; }

  void OnClose(bool teardown) override {
    // The handles are closing.
    poll_ = nullptr;
    prepare_ = nullptr;
    idle_ = nullptr;
    mode_ = Mode::kStopped;
    Leave();
    napi_env env = this->env();
    loop_->Close([env, teardown](Memory* rx) {
      // An ending environment detaches what it has left by itself.
      if (!teardown) rx->Unmap(env);
      rx->Release();
    });
  }

 private:
  enum class Mode { kStopped, kHosted, kPolled };

  static LoopCore* Self(uv_handle_s* handle) {
    return static_cast<LoopCore*>(static_cast<UvOwner*>(uv_handle_get_data(handle)));
  }

  static void SetModes(InstanceData* data) {
    const bool alone = data->started_loops.size() == 1;
    // All leave the hosted mode before one is polled: descriptors that watch each other in a ring are refused.
    if (!alone) {
      for (LoopCore* core : data->started_loops) {
        if (core->mode_ == Mode::kHosted) core->SetMode(Mode::kStopped);
      }
    }
    for (LoopCore* core : data->started_loops) core->SetMode(alone ? Mode::kHosted : Mode::kPolled);
  }

  void Leave() {
    if (data_ == nullptr) return;
    std::vector<LoopCore*>* started = &data_->started_loops;
    started->erase(std::remove(started->begin(), started->end(), this), started->end());
    SetModes(data_);
    data_ = nullptr;
  }

  void SetMode(Mode mode) {
    if (mode == mode_) return;
    if (mode_ == Mode::kPolled) uv_poll_stop(poll_);
    if (mode_ == Mode::kHosted) {
      uv_prepare_stop(prepare_);
      loop_->DetachHost();
    }
    SetIdling(false);
    mode_ = mode;
    if (mode == Mode::kHosted) {
      uv_loop_ = Loop();
      // Cannot fail but for a lack of memory; the loop is then served without waiting in it.
      if (loop_->AttachHost({uv_backend_fd(uv_loop_), HostTimeout, UpdateTime, uv_loop_}) < 0) mode_ = Mode::kPolled;
    }
    if (mode_ == Mode::kHosted) uv_prepare_start(prepare_, OnPrepare);
    if (mode_ == Mode::kPolled) {
      uv_poll_start(poll_, kUvReadable, OnPoll);
      Kick();
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

  // 0 where libuv has something to do, which includes descriptors that it has not yet told the kernel of.
  static int HostTimeout(void* uv_loop) { return uv_backend_timeout(static_cast<uv_loop_s*>(uv_loop)); }
  static void UpdateTime(void* uv_loop) { uv_update_time(static_cast<uv_loop_s*>(uv_loop)); }

  static void OnPrepare(uv_handle_s* handle) {
    LoopCore* core = Self(handle);
    core->Retain();
    // Where libuv has nothing to do the next burst follows at once: a turn costs time, and Node makes an object in each.
    for (int left = kBurstsPerTurn; left > 0 && core->mode_ == Mode::kHosted; left--) {
      const bool may_wait = HostTimeout(core->uv_loop_) != 0;
      if (!may_wait && !core->loop_->Poll()) break;
      core->RunBurst(may_wait);
      if (!may_wait || core->loop_->closed() || core->loop_->HostIsDue()) break;
    }
    // libuv looks and does not wait: that is the next burst's part.
    if (core->mode_ == Mode::kHosted) core->SetIdling(true);
    core->Release();
  }

  static void OnIdle(uv_handle_s* handle) {
    LoopCore* core = Self(handle);
    core->SetIdling(false);
    // Hosted: it was only there to keep libuv awake.
    if (core->mode_ == Mode::kPolled) core->RunBurst(false);
  }

  static void OnPoll(uv_handle_s* handle, int status, int events) {
    static_cast<void>(status);
    static_cast<void>(events);
    Self(handle)->RunBurst(false);
  }

  void RunBurst(bool may_wait) {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env(), &scope) != napi_ok) return;
    // JavaScript may close the loop.
    Retain();
    in_burst_ = true;
    loop_->BeginBurst(may_wait);
    Call(0, nullptr);
    loop_->EndBurst();
    in_burst_ = false;
    Kick();
    napi_close_handle_scope(env(), scope);
    Release();
  }

  // Owned.
  EventLoop* loop_;
  // Owned by UvOwner.
  uv_handle_s* poll_ = nullptr;
  uv_handle_s* prepare_ = nullptr;
  uv_handle_s* idle_ = nullptr;
  // The environment's; not null while started.
  InstanceData* data_ = nullptr;
  uv_loop_s* uv_loop_ = nullptr;
  Mode mode_ = Mode::kStopped;
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
  double timeout = 0;
  if (count == 0) {
    loop->StepInBurst();
  } else if (napi_get_value_double(env, argument, &timeout) == napi_ok) {
    // 100 years at most; NaN does not wait.
    loop->Step(timeout < 0 ? -1 : timeout <= 3.2e15 ? static_cast<int64_t>(timeout) : 0);
  } else {
    loop->StepInBurst();
  }
  return nullptr;
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
         InstanceMethod<&LoopObject::Drain>("drain"),
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
  Napi::Value Drain(const Napi::CallbackInfo& info) {
    Args args(info);
    const int id = args.Int(0);
    const bool on = args.Bool(1);
    return Result(info, args.ok() ? loop()->Drain(id, on) : -EINVAL);
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
    return Result(info, core_->Start(info.This(), info[0], info.Env().GetInstanceData<InstanceData>()));
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
      loop->tx_memory()->Unmap(info.Env());
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
  } buffers[] = {{"shared", loop->shared_memory()}, {"tx", loop->tx_memory()}};
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
