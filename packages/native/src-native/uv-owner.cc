#include "uv-owner.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace vfio {

namespace {
// Places in libuv's list of handle types; compared with the names that libuv gives them before use.
constexpr int kUvIdle = 6;
constexpr int kUvPoll = 8;
constexpr int kUvPrepare = 9;
}  // namespace

uv_loop_s* UvOwner::Loop() const {
  uv_loop_s* loop = nullptr;
  return napi_get_uv_event_loop(env_, &loop) == napi_ok ? loop : nullptr;
}

template <typename Init>
uv_handle_s* UvOwner::Open(int type, const char* name, int* error, Init init) {
  const char* found = uv_handle_type_name(type);
  uv_loop_s* loop = Loop();
  *error = -ENOMEM;
  if (closed_) {
    *error = -EBADF;
    return nullptr;
  }
  if (loop == nullptr || found == nullptr || std::strcmp(found, name) != 0) {
    *error = -ENOSYS;
    return nullptr;
  }
  if (hook_ == nullptr && napi_add_async_cleanup_hook(env_, OnTeardown, this, &hook_) != napi_ok) return nullptr;
  uv_handle_s* handle = static_cast<uv_handle_s*>(std::calloc(1, uv_handle_size(type)));
  if (handle == nullptr) return nullptr;
  *error = init(loop, handle);
  if (*error < 0) {
    std::free(handle);
    return nullptr;
  }
  uv_handle_set_data(handle, this);
  if (!referenced_) uv_unref(handle);
  handles_[open_handles_++] = handle;
  Retain();
  return handle;
}

uv_handle_s* UvOwner::OpenPoll(int fd, int* error) {
  return Open(kUvPoll, "poll", error, [fd](uv_loop_s* loop, uv_handle_s* handle) { return uv_poll_init(loop, handle, fd); });
}

uv_handle_s* UvOwner::OpenPrepare(int* error) { return Open(kUvPrepare, "prepare", error, uv_prepare_init); }

uv_handle_s* UvOwner::OpenIdle(int* error) { return Open(kUvIdle, "idle", error, uv_idle_init); }

void UvOwner::SetRef(bool on) {
  referenced_ = on;
  if (closed_) return;
  for (uv_handle_s* handle : handles_) {
    if (handle == nullptr) continue;
    if (on) {
      uv_ref(handle);
    } else {
      uv_unref(handle);
    }
  }
}

int UvOwner::Arm(napi_value self, napi_value callback) {
  napi_value name = nullptr;
  if (napi_create_string_utf8(env_, "VFIO_LOOP", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env_, self, name, &context_) != napi_ok) {
    return -ENOMEM;
  }
  if (napi_create_reference(env_, self, 1, &self_) != napi_ok ||
      napi_create_reference(env_, callback, 1, &callback_) != napi_ok) {
    Disarm();
    return -ENOMEM;
  }
  return 0;
}

void UvOwner::Disarm() {
  if (context_ != nullptr) {
    if (context_ == running_) {
      deferred_ = context_;
    } else {
      napi_async_destroy(env_, context_);
    }
  }
  if (self_ != nullptr) napi_delete_reference(env_, self_);
  if (callback_ != nullptr) napi_delete_reference(env_, callback_);
  context_ = nullptr;
  self_ = nullptr;
  callback_ = nullptr;
}

void UvOwner::Call(size_t count, const napi_value* arguments) {
  napi_value self = nullptr;
  napi_value callback = nullptr;
  if (!armed() || napi_get_reference_value(env_, self_, &self) != napi_ok ||
      napi_get_reference_value(env_, callback_, &callback) != napi_ok || self == nullptr || callback == nullptr) {
    return;
  }
  // Retained by the caller: the callback may close this object.
  running_ = context_;
  const napi_status status = napi_make_callback(env_, context_, self, callback, count, arguments, nullptr);
  running_ = nullptr;
  if (deferred_ != nullptr) napi_async_destroy(env_, deferred_);
  deferred_ = nullptr;
  if (status == napi_ok) return;
  bool pending = false;
  napi_value error = nullptr;
  if (napi_is_exception_pending(env_, &pending) != napi_ok || !pending) return;
  // Not ours to swallow.
  if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
}

void UvOwner::CloseOnce(bool teardown) {
  if (closed_) return;
  closed_ = true;
  Disarm();
  // Before their descriptors are closed, whose numbers may be somebody else's at once. The callbacks release the handles'
  // references; this object lives at least until the caller's reference ends.
  for (uv_handle_s*& handle : handles_) {
    if (handle != nullptr) uv_close(handle, OnHandleClosed);
    handle = nullptr;
  }
  OnClose(teardown);
  if (open_handles_ == 0) RemoveHook();
}

void UvOwner::OnHandleClosed(uv_handle_s* handle) {
  UvOwner* owner = static_cast<UvOwner*>(uv_handle_get_data(handle));
  std::free(handle);
  // With the hook still there an ending environment waits for the loop to run the callbacks.
  if (--owner->open_handles_ == 0) owner->RemoveHook();
  owner->Release();
}

void UvOwner::RemoveHook() {
  if (hook_ != nullptr) napi_remove_async_cleanup_hook(hook_);
  hook_ = nullptr;
}

void UvOwner::OnTeardown(napi_async_cleanup_hook_handle hook, void* data) {
  UvOwner* owner = static_cast<UvOwner*>(data);
  owner->hook_ = hook;
  owner->Retain();
  owner->CloseOnce(true);
  owner->Release();
}

}  // namespace vfio
