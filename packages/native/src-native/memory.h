// Memory that JavaScript sees as an ArrayBuffer: mappings of files, and the buffers of a message loop.
#ifndef VFIO_NATIVE_MEMORY_H_
#define VFIO_NATIVE_MEMORY_H_

#include <napi.h>

#include <cstddef>
#include <cstdint>

#include "sigbus.h"

namespace vfio {

class EventLoop;

// Number of bytes of a page of this machine.
size_t PageSize();

// A mapped range. Counted: one reference is the creator's, one the ArrayBuffer's. It is unmapped by Unmap(), or when the
// ArrayBuffer is collected (then nobody can reach the bytes), and freed with the last reference. Belongs to one thread,
// but for its slot.
class Memory {
 public:
  // Maps anonymous, zeroed memory that costs nothing until it is touched. Null when out of memory.
  static Memory* Anonymous(size_t length);
  // mmap(2); on failure null and errno. `page` is the size of the file's pages.
  static Memory* File(int fd, int64_t offset, size_t length, int prot, int flags, size_t page);

  // The ArrayBuffer over all bytes. To be called once; on failure null and the bytes are the creator's alone.
  napi_value ToArrayBuffer(napi_env env);
  // The creator's reference ends. The bytes live on as long as the ArrayBuffer.
  void Release();
  // Detaches the ArrayBuffer, so that no view reaches the bytes, then unmaps. Idempotent. 0, or -errno and the bytes live
  // until the collector finds nobody who can reach them.
  int Unmap(napi_env env);

  uint8_t* data() const { return static_cast<uint8_t*>(base_); }
  size_t length() const { return length_; }
  bool mapped() const { return base_ != nullptr; }
  // Null for anonymous memory and after Unmap().
  FaultSlot* slot() const { return slot_; }
  uint32_t lost() const { return slot_ != nullptr ? slot_->lost.load(std::memory_order_relaxed) : lost_; }
  // Keeps its own copy of the descriptor; -1 ends the notice. 0 or -errno.
  int Notify(int fd);

  // The loop that watches this mapping for a socket, and which; null for none. Kept in step by EventLoop.
  EventLoop* watcher = nullptr;
  int32_t watched_socket = -1;

 private:
  Memory(void* base, size_t length, size_t mapped_length) : base_(base), length_(length), mapped_length_(mapped_length) {}
  ~Memory() = default;
  void UnmapNow();
  // Takes the bytes out of the engine's count of external memory (-1) before it counts them, or gives them back (1).
  void Charge(napi_env env, int sign);
  static void Finalize(napi_env env, void* data, void* hint);

  // Owned: unmapped once, in UnmapNow.
  void* base_;
  size_t length_;
  size_t mapped_length_;
  // Owned registration of base_.
  FaultSlot* slot_ = nullptr;
  // Owned copy of the descriptor that the slot notifies, -1 for none.
  int notify_ = -1;
  // What `lost` was when it was unmapped.
  uint32_t lost_ = 0;
  int references_ = 1;
  // Weak reference to the ArrayBuffer; owned by the environment's thread.
  napi_ref buffer_ = nullptr;
};

// The mapping behind a handle that mmap returned, or null for anything else. The handle keeps it alive.
Memory* MemoryFromHandle(napi_env env, napi_value value);

}  // namespace vfio

#endif  // VFIO_NATIVE_MEMORY_H_
