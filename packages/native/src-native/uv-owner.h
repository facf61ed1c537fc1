// Objects that live in libuv's loop. The few functions of libuv are declared here: its header is not part of Node-API, and
// a fresh machine may not have it. They are exported by every Node, and stable over all of libuv 1.x; handles are opaque
// and as long as libuv says.
#ifndef VFIO_NATIVE_UV_OWNER_H_
#define VFIO_NATIVE_UV_OWNER_H_

#include <napi.h>

extern "C" {
struct uv_loop_s;
struct uv_handle_s;
size_t uv_handle_size(int type);
const char* uv_handle_type_name(int type);
void uv_handle_set_data(struct uv_handle_s* handle, void* data);
void* uv_handle_get_data(const struct uv_handle_s* handle);
void uv_close(struct uv_handle_s* handle, void (*callback)(struct uv_handle_s*));
void uv_ref(struct uv_handle_s* handle);
void uv_unref(struct uv_handle_s* handle);
int uv_poll_init(struct uv_loop_s* loop, struct uv_handle_s* handle, int fd);
int uv_poll_start(struct uv_handle_s* handle, int events, void (*callback)(struct uv_handle_s*, int status, int events));
int uv_poll_stop(struct uv_handle_s* handle);
int uv_prepare_init(struct uv_loop_s* loop, struct uv_handle_s* handle);
int uv_prepare_start(struct uv_handle_s* handle, void (*callback)(struct uv_handle_s*));
int uv_prepare_stop(struct uv_handle_s* handle);
int uv_idle_init(struct uv_loop_s* loop, struct uv_handle_s* handle);
int uv_idle_start(struct uv_handle_s* handle, void (*callback)(struct uv_handle_s*));
int uv_idle_stop(struct uv_handle_s* handle);
int uv_backend_fd(const struct uv_loop_s* loop);
int uv_backend_timeout(const struct uv_loop_s* loop);
void uv_update_time(struct uv_loop_s* loop);
}

namespace vfio {

constexpr int kUvReadable = 1;

// Owns libuv handles and calls JavaScript from them. Counted: a reference for the JavaScript object, one for each open
// handle, and whatever a subclass adds; freed with the last. Close() is idempotent and is also run when the environment (the
// process's or a worker's) ends, so that no handle outlives its loop.
class UvOwner {
 public:
  explicit UvOwner(napi_env env) : env_(env) {}
  UvOwner(const UvOwner&) = delete;
  UvOwner& operator=(const UvOwner&) = delete;

  napi_env env() const { return env_; }
  bool closed() const { return closed_; }
  void Retain() { references_++; }
  void Release() {
    if (--references_ == 0) delete this;
  }

  void Close() { CloseOnce(false); }
  void SetRef(bool on);

 protected:
  virtual ~UvOwner() = default;
  // Ends everything but the handles. `teardown`: the environment ends, JavaScript cannot be touched.
  virtual void OnClose(bool teardown) = 0;

  // libuv's loop of this environment; null on failure.
  uv_loop_s* Loop() const;
  // Opens a poll handle on `fd`, a prepare or an idle handle; null and *error on failure. The owner closes it.
  uv_handle_s* OpenPoll(int fd, int* error);
  uv_handle_s* OpenPrepare(int* error);
  uv_handle_s* OpenIdle(int* error);

  // Remembers `callback` and keeps `self` from being collected, until Disarm().
  int Arm(napi_value self, napi_value callback);
  void Disarm();
  bool armed() const { return callback_ != nullptr; }
  // Calls the callback with `count` arguments; an error that it throws becomes an uncaught exception.
  void Call(size_t count, const napi_value* arguments);

 private:
  template <typename Init>
  uv_handle_s* Open(int type, const char* name, int* error, Init init);
  void CloseOnce(bool teardown);
  void RemoveHook();
  static void OnHandleClosed(uv_handle_s* handle);
  static void OnTeardown(napi_async_cleanup_hook_handle hook, void* data);

  napi_env env_;
  int references_ = 1;
  bool closed_ = false;
  bool referenced_ = true;
  // Owned; freed in OnHandleClosed. A loop needs three.
  uv_handle_s* handles_[3] = {nullptr, nullptr, nullptr};
  int open_handles_ = 0;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  // Owned, strong.
  napi_ref self_ = nullptr;
  napi_ref callback_ = nullptr;
  napi_async_context context_ = nullptr;
  // The context of the call that is running, and whether it is to be destroyed when that returns.
  napi_async_context running_ = nullptr;
  napi_async_context deferred_ = nullptr;
};

}  // namespace vfio

#endif  // VFIO_NATIVE_UV_OWNER_H_
