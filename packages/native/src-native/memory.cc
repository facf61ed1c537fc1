#include "memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <new>

#include "args.h"
#include "event-loop.h"
#include "exports.h"

namespace vfio {

namespace {

// Mappings made by mmap below and not yet unmapped, of all threads.
std::atomic<uint32_t> mapping_count{0};

// Tells a mapping's handle from every other object.
const napi_type_tag kHandleTag = {0x6f1f3c2a9d5b4e07ull, 0xb3d86a10c47e925full};

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// Size of the pages behind a descriptor: larger than the machine's on hugetlbfs only.
size_t FilePageSize(int fd) {
  struct statfs system;
  if (fd < 0 || fstatfs(fd, &system) < 0 || static_cast<uint32_t>(system.f_type) != HUGETLBFS_MAGIC) return PageSize();
  return static_cast<size_t>(system.f_bsize);
}

uint32_t MajorVersion(napi_env env) {
  const napi_node_version* version = nullptr;
  return napi_get_node_version(env, &version) == napi_ok ? version->major : UINT32_MAX;
}

}  // namespace

size_t PageSize() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

Memory* Memory::Anonymous(size_t length) {
  const size_t mapped = RoundUp(length, PageSize());
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  Memory* memory = new (std::nothrow) Memory(base, length, mapped);
  if (memory == nullptr) munmap(base, mapped);
  return memory;
}

Memory* Memory::File(int fd, int64_t offset, size_t length, int prot, int flags, size_t page) {
  // hugetlbfs takes whole pages only; the rest of the last page is mapped and not shown.
  const size_t mapped = RoundUp(length, page);
  void* base = mmap(nullptr, mapped, prot, flags, fd, offset);
  if (base == MAP_FAILED) return nullptr;
  Memory* memory = new (std::nothrow) Memory(base, length, mapped);
  FaultSlot* slot = memory == nullptr ? nullptr : RegisterMapping(base, mapped, page, prot);
  if (slot == nullptr) {
    munmap(base, mapped);
    delete memory;
    errno = ENOMEM;
    return nullptr;
  }
  memory->slot_ = slot;
  mapping_count.fetch_add(1, std::memory_order_relaxed);
  return memory;
}

napi_value Memory::ToArrayBuffer(napi_env env) {
  napi_value result = nullptr;
  references_++;
  Charge(env, -1);
  if (napi_create_external_arraybuffer(env, base_, length_, Finalize, this, &result) != napi_ok) {
    Charge(env, 1);
    // Too long for this engine, or external memory is forbidden. Whether the finalizer ran is not told by every version,
    // so the reference stays with the ArrayBuffer that does not exist: a few bytes are lost instead of used twice.
    napi_value ignored = nullptr;
    napi_get_and_clear_last_exception(env, &ignored);
    return nullptr;
  }
  napi_create_reference(env, result, 0, &buffer_);
  return result;
}

// The engine counts an ArrayBuffer's bytes as its own memory and collects garbage when they grow. These are another's, or
// not there until they are touched: without this each gigabyte of a guest would cost a full collection.
// Engines from Node 23 on end the process where the count would fall below zero, so there it stays as it is.
void Memory::Charge(napi_env env, int sign) {
  static const bool may_fall = MajorVersion(env) < 23;
  if (!may_fall) return;
  int64_t total = 0;
  napi_adjust_external_memory(env, sign * static_cast<int64_t>(length_), &total);
}

void Memory::Finalize(napi_env env, void* data, void* hint) {
  static_cast<void>(data);
  Memory* memory = static_cast<Memory*>(hint);
  // The ArrayBuffer is gone or detached: nobody can reach the bytes from JavaScript.
  if (memory->buffer_ != nullptr) {
    napi_delete_reference(env, memory->buffer_);
    memory->buffer_ = nullptr;
  }
  memory->Charge(env, 1);
  // A loop's own buffers are used natively until the loop lets go of them.
  if (memory->slot_ != nullptr) memory->UnmapNow();
  memory->Release();
}

void Memory::Release() {
  if (--references_ > 0) return;
  UnmapNow();
  delete this;
}

void Memory::UnmapNow() {
  if (base_ == nullptr) return;
  if (watcher != nullptr) watcher->UnwatchMapping(this);
  if (slot_ != nullptr) {
    lost_ = slot_->lost.load(std::memory_order_relaxed);
    UnregisterMapping(slot_);
    slot_ = nullptr;
    mapping_count.fetch_sub(1, std::memory_order_relaxed);
  }
  munmap(base_, mapped_length_);
  base_ = nullptr;
  if (notify_ >= 0) close(notify_);
  notify_ = -1;
}

int Memory::Unmap(napi_env env) {
  if (base_ == nullptr) return 0;
  if (buffer_ != nullptr) {
    napi_value buffer = nullptr;
    bool detached = false;
    napi_get_reference_value(env, buffer_, &buffer);
    // Collected: Finalize comes when nothing holds the bytes any more.
    if (buffer == nullptr) return 0;
    // By ArrayBuffer.transfer(): the bytes have another owner, out of reach, and live until that is collected.
    if (napi_is_detached_arraybuffer(env, buffer, &detached) != napi_ok || detached) return -EBUSY;
    if (napi_detach_arraybuffer(env, buffer) != napi_ok) return -EBUSY;
  }
  UnmapNow();
  return 0;
}

int Memory::Notify(int fd) {
  if (slot_ == nullptr) return -EINVAL;
  int copy = -1;
  if (fd >= 0) {
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return -errno;
  }
  slot_->program_notify.store(copy, std::memory_order_relaxed);
  if (notify_ >= 0) close(notify_);
  notify_ = copy;
  return 0;
}

Memory* MemoryFromHandle(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  bool tagged = false;
  void* data = nullptr;
  if (value == nullptr || napi_typeof(env, value, &type) != napi_ok || type != napi_object ||
      napi_check_object_type_tag(env, value, &kHandleTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, value, &data) != napi_ok) {
    return nullptr;
  }
  return static_cast<Memory*>(data);
}

namespace {

void FinalizeHandle(napi_env env, void* data, void* hint) {
  static_cast<void>(env);
  static_cast<void>(hint);
  static_cast<Memory*>(data)->Release();
}

napi_value Mmap(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const int64_t offset = args.Offset(1);
  const uint64_t length = args.Size(2);
  const int prot = args.Int(3);
  const int flags = args.Int(4);
  // MAP_FIXED would replace somebody else's memory.
  if (!args.ok() || length == 0 || (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) return args.Invalid();
  Memory* memory = Memory::File(fd, offset, length, prot, flags, FilePageSize((flags & MAP_ANONYMOUS) != 0 ? -1 : fd));
  if (memory == nullptr) return args.SystemCall(-1);
  napi_value handle = nullptr;
  napi_value buffer = memory->ToArrayBuffer(env);
  if (buffer == nullptr) {
    memory->Unmap(env);
    memory->Release();
    return args.Result(-ENOTSUP);
  }
  if (napi_create_object(env, &handle) != napi_ok || napi_type_tag_object(env, handle, &kHandleTag) != napi_ok ||
      napi_wrap(env, handle, memory, FinalizeHandle, nullptr, nullptr) != napi_ok) {
    memory->Unmap(env);
    memory->Release();
    return args.Result(-ENOMEM);
  }
  napi_set_named_property(env, handle, "buffer", buffer);
  return handle;
}

napi_value Unmap(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Memory* memory = MemoryFromHandle(env, args.Value(0));
  if (memory == nullptr) return args.Invalid();
  return args.Result(memory->Unmap(env));
}

napi_value Poisoned(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Memory* memory = MemoryFromHandle(env, args.Value(0));
  if (memory == nullptr) return args.Invalid();
  return args.Result(memory->lost());
}

napi_value NotifyPoison(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Memory* memory = MemoryFromHandle(env, args.Value(0));
  const int fd = args.Int(1);
  if (memory == nullptr || !args.ok()) return args.Invalid();
  return args.Result(memory->Notify(fd));
}

napi_value Madvise(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Memory* memory = MemoryFromHandle(env, args.Value(0));
  const uint64_t offset = args.Size(1);
  const uint64_t length = args.Size(2);
  const int advice = args.Int(3);
  if (memory == nullptr || !args.ok() || !memory->mapped() || offset > memory->length() ||
      length > memory->length() - offset) {
    return args.Invalid();
  }
  return args.SystemCall(madvise(memory->data() + offset, length, advice));
}

napi_value MappingCount(napi_env env, napi_callback_info info) {
  static_cast<void>(info);
  return Number(env, mapping_count.load(std::memory_order_relaxed));
}

napi_value GetPageSize(napi_env env, napi_callback_info info) {
  static_cast<void>(info);
  return Number(env, static_cast<int64_t>(PageSize()));
}

}  // namespace

void ExportMemory(napi_env env, napi_value exports) {
  Export(env, exports, "pageSize", GetPageSize);
  Export(env, exports, "mmap", Mmap);
  Export(env, exports, "unmap", Unmap);
  Export(env, exports, "poisoned", Poisoned);
  Export(env, exports, "notifyPoison", NotifyPoison);
  Export(env, exports, "madvise", Madvise);
  Export(env, exports, "mappingCount", MappingCount);
}

}  // namespace vfio
