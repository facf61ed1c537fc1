// Descriptors: open, close, files, ioctl, memfd, eventfd. A descriptor is a plain number that JavaScript owns; nothing here
// keeps one.
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

#include "args.h"
#include "exports.h"

namespace vfio {
namespace {

napi_value Open(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const std::string path = args.String(0);
  const int flags = args.Int(1);
  const int mode = args.Int(2);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(open(path.c_str(), flags | O_CLOEXEC, mode));
}

napi_value Close(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  // EINTR on Linux: the descriptor is gone all the same.
  const int result = close(fd);
  return result < 0 && errno == EINTR ? args.Result(0) : args.SystemCall(result);
}

napi_value Dup(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

napi_value FdFlags(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(fcntl(fd, F_GETFD));
}

napi_value SetNonBlocking(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const bool on = args.Bool(1);
  if (!args.ok()) return args.Invalid();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return args.SystemCall(flags);
  return args.SystemCall(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

napi_value Fstat(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  size_t length = 0;
  uint64_t* out = args.Array<uint64_t>(1, napi_biguint64_array, &length);
  if (!args.ok() || length < 6) return args.Invalid();
  struct stat file;
  struct statfs system;
  if (fstat(fd, &file) < 0) return args.SystemCall(-1);
  // Some anonymous files have no statfs; the type is then unknown, not an error.
  if (fstatfs(fd, &system) < 0) system.f_type = 0;
  out[0] = file.st_dev;
  out[1] = file.st_ino;
  out[2] = static_cast<uint64_t>(file.st_size);
  out[3] = static_cast<uint64_t>(file.st_blksize);
  out[4] = file.st_mode;
  out[5] = static_cast<uint64_t>(system.f_type) & 0xffffffffu;
  return args.Result(0);
}

napi_value SameFile(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int a = args.Int(0);
  const int b = args.Int(1);
  if (!args.ok()) return args.Invalid();
  struct stat first;
  struct stat second;
  if (fstat(a, &first) < 0 || fstat(b, &second) < 0) return args.SystemCall(-1);
  // Anonymous inodes (eventfds) share one inode: only the kernel can tell them apart. kcmp may be missing or forbidden.
  const long compared = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
  if (compared == 0) return args.Result(1);
  const bool anonymous = (first.st_mode & S_IFMT) == 0;
  return args.Result(!anonymous && first.st_dev == second.st_dev && first.st_ino == second.st_ino ? 1 : 0);
}

napi_value Ftruncate(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const int64_t size = args.Offset(1);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(ftruncate(fd, size));
}

napi_value Pread(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const Bytes bytes = args.Uint8(1);
  const int64_t offset = args.Offset(2);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(pread(fd, bytes.data, bytes.length, offset));
}

napi_value Pwrite(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const Bytes bytes = args.Uint8(1);
  const int64_t offset = args.Offset(2);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(pwrite(fd, bytes.data, bytes.length, offset));
}

napi_value Poll(napi_env env, napi_callback_info info) {
  Args args(env, info);
  struct pollfd entry = {args.Int(0), static_cast<short>(args.Int(1)), 0};
  const int timeout = args.Int(2);
  if (!args.ok()) return args.Invalid();
  const int result = poll(&entry, 1, timeout);
  if (result > 0 && (entry.revents & POLLNVAL) != 0) return args.Result(-EBADF);
  return result < 0 ? args.SystemCall(-1) : args.Result(result == 0 ? 0 : entry.revents);
}

napi_value Ioctl(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const uint32_t request = static_cast<uint32_t>(args.Int(1));
  napi_value argument = args.Value(2);
  if (!args.ok()) return args.Invalid();
  napi_valuetype type = napi_undefined;
  napi_typeof(env, argument, &type);
  if (type == napi_number) {
    double number = 0;
    napi_get_value_double(env, argument, &number);
    if (!(number >= -kMaxSafeInteger && number <= kMaxSafeInteger)) return args.Invalid();
    return args.SystemCall(ioctl(fd, request, static_cast<unsigned long>(static_cast<int64_t>(number))));
  }
  const Bytes bytes = args.Uint8(2);
  if (!args.ok() || bytes.length == 0) return args.Invalid();
  return args.SystemCall(ioctl(fd, request, bytes.data));
}

napi_value MemfdCreate(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const std::string name = args.String(0);
  const uint32_t flags = static_cast<uint32_t>(args.Int(1));
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(syscall(SYS_memfd_create, name.c_str(), flags | MFD_CLOEXEC));
}

napi_value AddSeals(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const int seals = args.Int(1);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(fcntl(fd, F_ADD_SEALS, seals));
}

napi_value GetSeals(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(fcntl(fd, F_GET_SEALS));
}

napi_value EventFd(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const uint32_t initial = static_cast<uint32_t>(args.Int(0));
  const int flags = args.Int(1);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(eventfd(initial, flags | EFD_CLOEXEC | EFD_NONBLOCK));
}

napi_value EventFdWrite(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const uint64_t value = args.Size(1);
  if (!args.ok()) return args.Invalid();
  // JavaScript's stores before the call must be seen by whoever is woken, also by a CPU that only polls memory.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  ssize_t result;
  do {
    result = write(fd, &value, sizeof value);
  } while (result < 0 && errno == EINTR);
  // A full counter is signalled already.
  if (result < 0 && errno != EAGAIN) return args.SystemCall(-1);
  return args.Result(0);
}

napi_value EventFdRead(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  uint64_t value = 0;
  const ssize_t result = read(fd, &value, sizeof value);
  if (result < 0) return args.SystemCall(-1);
  if (result != sizeof value) return args.Invalid();
  // The counter reaches 2^64 - 2; above 2^63 a signed result would look like an errno.
  return args.Result(value > INT64_MAX ? INT64_MAX : static_cast<int64_t>(value));
}

// A descriptor that a peer calls an eventfd: made non-blocking, so that signalling it cannot stop the thread. -EINVAL
// where it is something else, as the kernel's eventfd_ctx_fdget says.
napi_value AdoptEventFd(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return args.SystemCall(-1);
  struct stat file;
  if (fstat(fd, &file) < 0) return args.SystemCall(-1);
  // Anonymous inodes have no file type.
  if ((file.st_mode & S_IFMT) != 0) return args.Invalid();
  char link[64];
  char target[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, target, sizeof target);
  // Without /proc the check above has to do.
  static const char kName[] = "anon_inode:[eventfd]";
  if (length >= 0 && (static_cast<size_t>(length) != sizeof kName - 1 || std::memcmp(target, kName, sizeof kName - 1) != 0)) {
    return args.Invalid();
  }
  return args.SystemCall(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

}  // namespace

void ExportDescriptors(napi_env env, napi_value exports) {
  Export(env, exports, "open", Open);
  Export(env, exports, "close", Close);
  Export(env, exports, "dup", Dup);
  Export(env, exports, "fdFlags", FdFlags);
  Export(env, exports, "setNonBlocking", SetNonBlocking);
  Export(env, exports, "fstat", Fstat);
  Export(env, exports, "sameFile", SameFile);
  Export(env, exports, "ftruncate", Ftruncate);
  Export(env, exports, "pread", Pread);
  Export(env, exports, "pwrite", Pwrite);
  Export(env, exports, "poll", Poll);
  Export(env, exports, "ioctl", Ioctl);
  Export(env, exports, "memfdCreate", MemfdCreate);
  Export(env, exports, "addSeals", AddSeals);
  Export(env, exports, "getSeals", GetSeals);
  Export(env, exports, "eventfd", EventFd);
  Export(env, exports, "eventfdWrite", EventFdWrite);
  Export(env, exports, "eventfdRead", EventFdRead);
  Export(env, exports, "adoptEventFd", AdoptEventFd);
}

}  // namespace vfio
