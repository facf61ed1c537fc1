// Descriptors in a message: SCM_RIGHTS.
#ifndef VFIO_NATIVE_SCM_RIGHTS_H_
#define VFIO_NATIVE_SCM_RIGHTS_H_

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vfio {

// SCM_MAX_FD of the kernel: descriptors in one message at most.
constexpr int kMaxFds = 253;

// Control data with room for that many.
struct FdControl {
  alignas(struct cmsghdr) char bytes[CMSG_SPACE(kMaxFds * sizeof(int))];
};

// Makes `message` carry 1 to kMaxFds descriptors; `control` lives until it is sent.
inline void AttachFds(struct msghdr* message, FdControl* control, const int32_t* fds, size_t fd_count) {
  message->msg_control = control->bytes;
  message->msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
  std::memset(control->bytes, 0, message->msg_controllen);
  struct cmsghdr* header = CMSG_FIRSTHDR(message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
  std::memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
}

}  // namespace vfio

#endif  // VFIO_NATIVE_SCM_RIGHTS_H_
