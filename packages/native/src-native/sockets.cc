// Unix stream sockets: connect, listen, messages with descriptors, and the blocking client's transaction.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstring>

#include "args.h"
#include "exports.h"
#include "scm-rights.h"

namespace vfio {
namespace {

constexpr size_t kHeaderSize = 16;

// False where the path does not fit; socket.ts has said so before.
bool FillAddress(const std::string& path, struct sockaddr_un* address, socklen_t* length) {
  if (path.empty() || path.size() >= sizeof address->sun_path) return false;
  std::memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path.data(), path.size());
  *length = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + path.size() + 1);
  return true;
}

// Closes `fd` and answers with the errno that was there before.
int CloseWithError(int fd) {
  const int error = errno;
  close(fd);
  return -error;
}

napi_value Socketpair(napi_env env, napi_callback_info info) {
  Args args(env, info);
  size_t length = 0;
  int32_t* out = args.Array<int32_t>(0, napi_int32_array, &length);
  if (!args.ok() || length < 2) return args.Invalid();
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) return args.SystemCall(-1);
  out[0] = fds[0];
  out[1] = fds[1];
  return args.Result(0);
}

napi_value ListenUnix(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const std::string path = args.String(0);
  const int mode = args.Int(1);
  const int backlog = args.Int(2);
  struct sockaddr_un address;
  socklen_t length = 0;
  if (!args.ok()) return args.Invalid();
  if (!FillAddress(path, &address, &length)) return args.Result(-ENAMETOOLONG);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return args.SystemCall(-1);
  // The file is made with the socket's own mode, so that it is never open to more than was asked for; the umask may have
  // taken bits away, which chmod puts back.
  if (fchmod(fd, static_cast<mode_t>(mode)) < 0 || bind(fd, reinterpret_cast<struct sockaddr*>(&address), length) < 0) {
    return args.Result(CloseWithError(fd));
  }
  if (chmod(path.c_str(), static_cast<mode_t>(mode)) < 0 || listen(fd, backlog) < 0) {
    const int error = CloseWithError(fd);
    unlink(path.c_str());
    return args.Result(error);
  }
  return args.Result(fd);
}

napi_value ConnectUnix(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const std::string path = args.String(0);
  struct sockaddr_un address;
  socklen_t length = 0;
  if (!args.ok()) return args.Invalid();
  if (!FillAddress(path, &address, &length)) return args.Result(-ENAMETOOLONG);
  // Non-blocking while it connects: a full backlog answers EAGAIN instead of stopping the thread.
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return args.SystemCall(-1);
  if (connect(fd, reinterpret_cast<struct sockaddr*>(&address), length) < 0) return args.Result(CloseWithError(fd));
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) return args.Result(CloseWithError(fd));
  return args.Result(fd);
}

napi_value Accept(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  if (!args.ok()) return args.Invalid();
  int result;
  do {
    result = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (result < 0 && errno == EINTR);
  return args.SystemCall(result);
}

// One sendmsg; bytes sent or -errno. The descriptors go with the first byte.
ssize_t SendParts(int fd, struct iovec* parts, size_t part_count, const int32_t* fds, size_t fd_count, int flags) {
  FdControl control;
  struct msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = part_count;
  if (fd_count > 0) AttachFds(&message, &control, fds, fd_count);
  ssize_t result;
  do {
    result = sendmsg(fd, &message, flags | MSG_NOSIGNAL);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

napi_value Sendmsg(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  napi_value chunks = args.Value(1);
  size_t fd_count = 0;
  const int32_t* fds = args.Descriptors(2, &fd_count);
  bool is_array = false;
  uint32_t count = 0;
  if (!args.ok() || napi_is_array(env, chunks, &is_array) != napi_ok || !is_array ||
      napi_get_array_length(env, chunks, &count) != napi_ok || count > IOV_MAX || fd_count > kMaxFds) {
    return args.Invalid();
  }
  struct iovec parts[IOV_MAX];
  for (uint32_t i = 0; i < count; i++) {
    napi_value chunk = nullptr;
    size_t length = 0;
    if (napi_get_element(env, chunks, i, &chunk) != napi_ok) return args.Invalid();
    parts[i].iov_base = args.ArrayOf<uint8_t>(chunk, napi_uint8_array, &length);
    parts[i].iov_len = length;
  }
  if (!args.ok()) return args.Invalid();
  return args.Result(SendParts(fd, parts, count, fds, fd_count, 0));
}

// One recvmsg of at most `length` bytes; 0 at the end, or -errno. Descriptors go to `fds` (room for `fd_room`); when some
// are lost all are closed. *fd_count counts on from what is there.
ssize_t ReceivePart(int fd, uint8_t* data, size_t length, int32_t* fds, size_t fd_room, size_t* fd_count, bool* lost,
                    int flags) {
  FdControl control;
  const size_t room = std::min<size_t>(fd_room - *fd_count, kMaxFds);
  struct iovec part = {data, length};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  // CMSG_LEN, not CMSG_SPACE: its padding would hold one descriptor more than there is room for.
  message.msg_controllen = CMSG_LEN(room * sizeof(int));
  ssize_t result;
  do {
    result = recvmsg(fd, &message, flags | MSG_CMSG_CLOEXEC);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return -errno;
  for (struct cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = std::min((header->cmsg_len - CMSG_LEN(0)) / sizeof(int), fd_room - *fd_count);
    std::memcpy(fds + *fd_count, CMSG_DATA(header), count * sizeof(int));
    *fd_count += count;
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) *lost = true;
  if (*lost) {
    for (size_t i = 0; i < *fd_count; i++) {
      close(fds[i]);
      fds[i] = -1;
    }
    *fd_count = 0;
  }
  return result;
}

napi_value Recvmsg(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const Bytes bytes = args.Uint8(1);
  const uint64_t offset = args.Size(2);
  const uint64_t length = args.Size(3);
  size_t fd_room = 0;
  int32_t* fds = args.Array<int32_t>(4, napi_int32_array, &fd_room);
  size_t status_length = 0;
  int32_t* status = args.Array<int32_t>(5, napi_int32_array, &status_length);
  if (!args.ok() || offset > bytes.length || length > bytes.length - offset || status_length < 2) return args.Invalid();
  size_t fd_count = 0;
  bool lost = false;
  const ssize_t result = ReceivePart(fd, bytes.data + offset, length, fds, fd_room, &fd_count, &lost, 0);
  status[0] = static_cast<int32_t>(fd_count);
  status[1] = lost ? 1 : 0;
  return args.Result(result);
}

int64_t NowMs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

// Waits for `events` until the deadline (-1: for ever). 0, or -errno (-ETIMEDOUT).
int WaitFor(int fd, short events, int64_t deadline) {
  for (;;) {
    const int64_t left = deadline < 0 ? -1 : std::max<int64_t>(deadline - NowMs(), 0);
    struct pollfd entry = {fd, events, 0};
    const int result = poll(&entry, 1, static_cast<int>(std::min<int64_t>(left, INT_MAX)));
    if (result > 0) return (entry.revents & POLLNVAL) != 0 ? -EBADF : 0;
    if (result == 0) return -ETIMEDOUT;
    if (errno != EINTR) return -errno;
  }
}

struct Transaction {
  int fd;
  int64_t deadline;
  int32_t* fds;
  size_t fd_room;
  size_t fd_count = 0;
  bool lost = false;

  int SendAll(const uint8_t* data, size_t length, const int32_t* send_fds, size_t send_fd_count) {
    size_t sent = 0;
    while (sent < length) {
      struct iovec part = {const_cast<uint8_t*>(data) + sent, length - sent};
      const ssize_t result = SendParts(fd, &part, 1, send_fds, sent == 0 ? send_fd_count : 0, MSG_DONTWAIT);
      if (result == -EAGAIN) {
        const int waited = WaitFor(fd, POLLOUT, deadline);
        if (waited < 0) return waited;
      } else if (result < 0) {
        return static_cast<int>(result);
      } else {
        sent += static_cast<size_t>(result);
      }
    }
    return 0;
  }

  // Exactly `length` bytes: 1, or 0 at the end of the stream, or -errno.
  int ReceiveAll(uint8_t* data, size_t length) {
    size_t got = 0;
    while (got < length) {
      const ssize_t result =
          ReceivePart(fd, data + got, length - got, fds, fd_room, &fd_count, &lost, MSG_DONTWAIT);
      if (result == -EAGAIN) {
        const int waited = WaitFor(fd, POLLIN, deadline);
        if (waited < 0) return waited;
      } else if (result <= 0) {
        return static_cast<int>(result);
      } else {
        got += static_cast<size_t>(result);
      }
    }
    return 1;
  }
};

// Arguments: socket, request or null, its length, its descriptors or null, their number, reply, milliseconds, received
// descriptors, status (descriptors, whether some were lost, announced size). Reads no byte behind the message: there is no
// place where the start of the next one could be kept.
napi_value Transact(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const bool has_request = !args.IsNull(1);
  Bytes request;
  uint64_t request_length = 0;
  if (has_request) {
    request = args.Uint8(1);
    request_length = args.Size(2);
  }
  size_t request_fd_count = 0;
  const int32_t* request_fds = args.Descriptors(3, &request_fd_count);
  const Bytes reply = args.Uint8(5);
  const int timeout = args.Int(6);
  size_t fd_room = 0;
  int32_t* fds = args.Array<int32_t>(7, napi_int32_array, &fd_room);
  size_t status_length = 0;
  int32_t* status = args.Array<int32_t>(8, napi_int32_array, &status_length);
  if (!args.ok() || request_length > request.length || request_fd_count > kMaxFds || reply.length < kHeaderSize ||
      status_length < 3) {
    return args.Invalid();
  }
  Transaction transaction = {fd, timeout < 0 ? -1 : NowMs() + timeout, fds, fd_room};
  uint32_t size = 0;
  int64_t result = has_request ? transaction.SendAll(request.data, request_length, request_fds, request_fd_count) : 0;
  if (result == 0) {
    result = transaction.ReceiveAll(reply.data, kHeaderSize);
    if (result == 1) {
      std::memcpy(&size, reply.data + 4, sizeof size);
      if (size < kHeaderSize || size > reply.length) {
        result = -EMSGSIZE;
      } else if (size > kHeaderSize) {
        result = transaction.ReceiveAll(reply.data + kHeaderSize, size - kHeaderSize);
      }
    }
  }
  if (result == 1) {
    result = size;
  } else {
    for (size_t i = 0; i < transaction.fd_count; i++) close(fds[i]);
    transaction.fd_count = 0;
  }
  status[0] = static_cast<int32_t>(transaction.fd_count);
  status[1] = transaction.lost ? 1 : 0;
  status[2] = static_cast<int32_t>(size);
  return args.Result(result);
}

napi_value Shutdown(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const int how = args.Int(1);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(shutdown(fd, how));
}

napi_value SetSendBuffer(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  const int bytes = args.Int(1);
  if (!args.ok()) return args.Invalid();
  return args.SystemCall(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes));
}

napi_value PeerCredentials(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.Int(0);
  size_t length = 0;
  int32_t* out = args.Array<int32_t>(1, napi_int32_array, &length);
  if (!args.ok() || length < 3) return args.Invalid();
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return args.SystemCall(-1);
  out[0] = peer.pid;
  out[1] = static_cast<int32_t>(peer.uid);
  out[2] = static_cast<int32_t>(peer.gid);
  return args.Result(0);
}

}  // namespace

void ExportSockets(napi_env env, napi_value exports) {
  Export(env, exports, "socketpair", Socketpair);
  Export(env, exports, "listenUnix", ListenUnix);
  Export(env, exports, "connectUnix", ConnectUnix);
  Export(env, exports, "accept", Accept);
  Export(env, exports, "sendmsg", Sendmsg);
  Export(env, exports, "recvmsg", Recvmsg);
  Export(env, exports, "transact", Transact);
  Export(env, exports, "shutdown", Shutdown);
  Export(env, exports, "setSendBuffer", SetSendBuffer);
  Export(env, exports, "peerCredentials", PeerCredentials);
}

}  // namespace vfio
