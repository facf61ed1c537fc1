// A descriptor in libuv's loop that calls JavaScript when it is ready: what `EventFd.wait` waits with.
#include <cerrno>
#include <new>

#include "args.h"
#include "exports.h"
#include "instance.h"
#include "uv-owner.h"

namespace vfio {

class WatcherCore : public UvOwner {
 public:
  explicit WatcherCore(napi_env env) : UvOwner(env) {}

  int Open(int fd) {
    int error = 0;
    poll_ = OpenPoll(fd, &error);
    return error;
  }

  int Start(napi_value self, napi_value callback, int events) {
    if (poll_ == nullptr) return -EBADF;
    if (!armed()) {
      const int error = Arm(self, callback);
      if (error < 0) return error;
    }
    return uv_poll_start(poll_, events, OnPoll);
  }

  int Stop() {
    if (poll_ == nullptr) return 0;
    uv_poll_stop(poll_);
    Disarm();
    return 0;
  }

 protected:
  void OnClose(bool teardown) override {
    static_cast<void>(teardown);
    poll_ = nullptr;
  }

 private:
  static void OnPoll(uv_handle_s* handle, int status, int events) {
    WatcherCore* core = static_cast<WatcherCore*>(static_cast<UvOwner*>(uv_handle_get_data(handle)));
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(core->env(), &scope) != napi_ok) return;
    // JavaScript may close it.
    core->Retain();
    napi_value argument = Number(core->env(), status < 0 ? status : events);
    core->Call(1, &argument);
    napi_close_handle_scope(core->env(), scope);
    core->Release();
  }

  // Owned by UvOwner.
  uv_handle_s* poll_ = nullptr;
};

namespace {

class WatcherObject : public Napi::ObjectWrap<WatcherObject> {
 public:
  explicit WatcherObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<WatcherObject>(info), core_(TakeNext(info.Env(), &InstanceData::next_watcher)) {}

  ~WatcherObject() override {
    if (core_ == nullptr) return;
    core_->Close();
    core_->Release();
  }

  static Napi::Function Class(Napi::Env env) {
    return DefineClass(env, "Watcher",
                       {InstanceMethod<&WatcherObject::Start>("start"), InstanceMethod<&WatcherObject::Stop>("stop"),
                        InstanceMethod<&WatcherObject::Ref>("ref"), InstanceMethod<&WatcherObject::Unref>("unref"),
                        InstanceMethod<&WatcherObject::Close>("close")});
  }

 private:
  Napi::Value Start(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    // A property, not a reference: the callback reaches this object, and a strong reference would keep both for ever.
    Napi::Value callback = info.This().As<Napi::Object>().Get("callback");
    if (core_->closed() || !callback.IsFunction()) return Napi::Number::New(env, -EBADF);
    if (info.Length() < 1 || !info[0].IsNumber()) return Napi::Number::New(env, -EINVAL);
    return Napi::Number::New(env, core_->Start(info.This(), callback, info[0].As<Napi::Number>().Int32Value()));
  }
  Napi::Value Stop(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), core_->Stop()); }
  void Ref(const Napi::CallbackInfo&) { core_->SetRef(true); }
  void Unref(const Napi::CallbackInfo&) { core_->SetRef(false); }
  void Close(const Napi::CallbackInfo&) { core_->Close(); }

  // One reference; null only in an object whose constructor threw.
  WatcherCore* core_;
};

// Arguments: descriptor (the caller's), callback.
Napi::Value WatchFd(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsFunction()) return Napi::Number::New(env, -EINVAL);
  WatcherCore* core = new (std::nothrow) WatcherCore(env);
  if (core == nullptr) return Napi::Number::New(env, -ENOMEM);
  const int error = core->Open(info[0].As<Napi::Number>().Int32Value());
  if (error < 0) {
    core->Close();
    core->Release();
    return Napi::Number::New(env, error);
  }
  InstanceData* data = env.GetInstanceData<InstanceData>();
  data->next_watcher = core;
  Napi::Object object = data->watcher.New({});
  object.Set("callback", info[1]);
  return object;
}

}  // namespace

void ExportWatcher(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<InstanceData>()->watcher = Napi::Persistent(WatcherObject::Class(env));
  exports.Set("watchFd", Napi::Function::New<WatchFd>(env, "watchFd"));
}

}  // namespace vfio
