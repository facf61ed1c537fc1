#include "event-loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "syscalls.h"

namespace vfio {

namespace {

// An id is the source's index and a generation, so that an id kept too long does not reach the next source.
constexpr uint32_t kIndexBits = 16;
constexpr uint32_t kIndexMask = (1u << kIndexBits) - 1;
constexpr uint32_t kGenerationMask = 0x7fff;

// Messages of one socket before another that is ready has its turn.
constexpr int kQuantum = 32;
// Bytes of one read, so that a flood touches little memory; a larger message is read in one go all the same.
constexpr size_t kBatch = 64 * 1024;
// Periods below dense_us after which a burst waits for more.
constexpr int kDenseStreak = 3;
constexpr int kEventsAtOnce = 16;
// Events between two looks at the clock while they are dense: so many slow handlers may overrun a burst.
constexpr int kEventsPerClock = 4;
// The host counts its time in whole milliseconds, so that the same timer seems to move by up to two.
constexpr int64_t kTimerSlackUs = 2000;

int64_t NowUs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

struct timespec FromUs(uint64_t us) {
  struct timespec result;
  result.tv_sec = static_cast<time_t>(us / 1000000);
  result.tv_nsec = static_cast<long>(us % 1000000 * 1000);
  return result;
}

struct itimerspec TimerSpec(uint64_t delay_us, uint64_t interval_us) {
  struct itimerspec result;
  result.it_value = FromUs(delay_us);
  result.it_interval = FromUs(interval_us);
  return result;
}

// Closing a socket with bytes unread resets the peer's end instead of ending it, and QEMU 11.1 aborts on a reset. So the
// peer may add no more, and what it has sent is dropped.
void EndConnection(int fd) {
  char rest[4096];
  shutdown(fd, SHUT_RDWR);
  while (recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

void FdBag::CloseAll() {
  for (int i = 0; i < count; i++) close(fds[i]);
  count = 0;
  lost = false;
}

void FdBag::Append(FdBag* other) {
  if (other->lost || lost || count + other->count > kMaxFds) {
    // A message that lost one descriptor is not to be trusted with the others: which is which is unknown.
    CloseAll();
    other->CloseAll();
    lost = true;
    return;
  }
  std::memcpy(fds + count, other->fds, static_cast<size_t>(other->count) * sizeof(int));
  count += other->count;
  other->count = 0;
}

EventLoop* EventLoop::Create(const LoopOptions& options, int* error) {
  EventLoop* loop = new (std::nothrow) EventLoop(options);
  *error = loop == nullptr ? -ENOMEM : loop->Init();
  if (*error < 0) {
    delete loop;
    return nullptr;
  }
  return loop;
}

int EventLoop::Init() {
  shared_memory_ = Memory::Anonymous(kSharedWords * sizeof(int32_t));
  tx_memory_ = Memory::Anonymous(options_.max_message);
  if (shared_memory_ == nullptr || tx_memory_ == nullptr) return -ENOMEM;
  state_ = reinterpret_cast<int32_t*>(shared_memory_->data());
  fds_ = state_ + kSharedFds;
  reply_fds_ = state_ + kSharedReplyFds;
  tx_ = tx_memory_->data();
  state_[kSlotReplySocket] = -1;
  fault_generation_ = FaultGeneration();
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) return -errno;
  wake_.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_.fd < 0) return -errno;
  poison_.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (poison_.fd < 0) return -errno;
  burst_timer_.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (burst_timer_.fd < 0) return -errno;
  host_timer_.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (host_timer_.fd < 0) return -errno;
  int32_t id = 0;
  for (Source* source : own_) source->id = --id;
  for (Source* source : {&wake_, &poison_, &burst_timer_, &host_timer_}) {
    const int result = Watch(source, EPOLLIN | EPOLLET);
    if (result < 0) return result;
  }
  return 0;
}

EventLoop::~EventLoop() {
  Close([](Memory* rx) { rx->Release(); });
  for (Memory* memory : {shared_memory_, tx_memory_}) {
    if (memory != nullptr) memory->Release();
  }
}

void EventLoop::CloseOwn() {
  if (epoll_fd_ < 0) return;
  CloseLeftovers();
  while (!watched_.empty()) UnwatchMapping(watched_.back());
  DetachHost();
  for (Source* source : {&wake_, &poison_, &burst_timer_, &host_timer_}) {
    if (source->linked) Unlink(source);
    if (source->fd >= 0) close(source->fd);
    source->fd = -1;
  }
  close(epoll_fd_);
  epoll_fd_ = -1;
  // What a step reads from now on.
  state_[kSlotKind] = kIdle;
}

int EventLoop::AttachHost(const Host& host) {
  DetachHost();
  host_source_.fd = host.fd;
  // Level-triggered: it is the host that takes what is there.
  const int result = Watch(&host_source_, EPOLLIN);
  if (result < 0) {
    host_source_.fd = -1;
    return result;
  }
  host_ = host;
  hears_host_ = true;
  return 0;
}

void EventLoop::DetachHost() {
  if (host_source_.fd < 0) return;
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, host_source_.fd, nullptr);
  host_source_.fd = -1;
  may_wait_ = false;
}

// A blocking step cannot give the host its turn and would be woken by it again and again.
void EventLoop::ListenToHost(bool on) {
  if (host_source_.fd < 0 || hears_host_ == on) return;
  struct epoll_event event;
  event.events = on ? uint32_t{EPOLLIN} : 0;
  event.data.u64 = static_cast<uint32_t>(host_source_.id);
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, host_source_.fd, &event) == 0) hears_host_ = on;
}

// Sources.

Source* EventLoop::Find(int32_t id) const {
  if (id < 0) return nullptr;
  const uint32_t index = static_cast<uint32_t>(id) & kIndexMask;
  if (index >= sources_.size() || sources_[index] == nullptr || sources_[index]->id != id) return nullptr;
  return sources_[index];
}

Socket* EventLoop::FindSocket(int32_t id) const {
  Source* source = Find(id);
  return source != nullptr && source->kind == SourceKind::kSocket ? static_cast<Socket*>(source) : nullptr;
}

// The loop's own sources have negative ids.
Source* EventLoop::FindAny(int32_t id) const { return id < 0 ? own_[-1 - id] : Find(id); }

int EventLoop::Watch(Source* source, uint32_t events) {
  struct epoll_event event;
  event.events = events;
  // Not its address: an entry outlives its source where somebody closed the descriptor behind the loop's back and the open
  // file lives on in a copy.
  event.data.u64 = static_cast<uint32_t>(source->id);
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, source->fd, &event) < 0 ? -errno : 0;
}

// Gives the source an id and puts it into the set. On failure the caller still owns it.
int EventLoop::Add(Source* source, uint32_t events) {
  if (closed()) return -EBADF;
  if (free_.empty()) {
    if (sources_.size() > kIndexMask) return -ENOSPC;
    free_.push_back(static_cast<uint32_t>(sources_.size()));
    sources_.push_back(nullptr);
    generations_.push_back(0);
  }
  const uint32_t index = free_.back();
  generations_[index] = (generations_[index] + 1) & kGenerationMask;
  source->id = static_cast<int32_t>(generations_[index] << kIndexBits | index);
  const int result = Watch(source, events | EPOLLET);
  if (result < 0) return result;
  free_.pop_back();
  source->quantum = kQuantum;
  sources_[index] = source;
  return source->id;
}

int EventLoop::AddSocket(int fd, size_t max_message, int max_fds, size_t max_queued) {
  Socket* socket = new (std::nothrow) Socket();
  if (socket == nullptr) return -ENOMEM;
  socket->kind = SourceKind::kSocket;
  socket->fd = fd;
  socket->max_message = max_message;
  socket->max_fds = max_fds;
  socket->max_queued = max_queued;
  // One message of the largest size, and room behind an incomplete one to read a batch.
  socket->capacity = max_message + kBatch;
  socket->rx = Memory::Anonymous(socket->capacity);
  // EPOLLOUT also where nothing waits to be sent: the peer's read of a reply then wakes this thread a little before the next
  // request is there, which hides much of the time that waking takes. A blocking read is woken in the same way.
  const int result = socket->rx == nullptr ? -ENOMEM : Add(socket, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
  if (socket->rx != nullptr) socket->bytes = socket->rx->data();
  if (result < 0) {
    if (socket->rx != nullptr) socket->rx->Release();
    delete socket;
  }
  return result;
}

int EventLoop::AddListener(int fd) {
  Source* source = new (std::nothrow) Source{SourceKind::kListener};
  if (source == nullptr) return -ENOMEM;
  source->fd = fd;
  const int result = Add(source, EPOLLIN);
  if (result < 0) delete source;
  return result;
}

int EventLoop::AddEventFd(int fd) {
  Source* source = new (std::nothrow) Source{SourceKind::kEventFd};
  if (source == nullptr) return -ENOMEM;
  source->fd = fd;
  const int result = Add(source, EPOLLIN);
  if (result < 0) delete source;
  return result;
}

int EventLoop::AddTimer() {
  const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0) return -errno;
  Source* source = new (std::nothrow) Source{SourceKind::kTimer};
  int result = -ENOMEM;
  if (source != nullptr) {
    source->fd = fd;
    result = Add(source, EPOLLIN);
  }
  if (result < 0) {
    close(fd);
    delete source;
  }
  return result;
}

int EventLoop::SetTimer(int32_t id, uint64_t delay_us, uint64_t interval_us) {
  Source* source = Find(id);
  if (source == nullptr || source->kind != SourceKind::kTimer) return -ENOENT;
  const struct itimerspec spec = TimerSpec(delay_us, interval_us);
  // Also forgets an expiry that was not read, and with it an event that is still to be delivered.
  source->readable = false;
  return timerfd_settime(source->fd, 0, &spec, nullptr) < 0 ? -errno : 0;
}

int EventLoop::Fd(int32_t id) const {
  const Source* source = Find(id);
  return source == nullptr ? -ENOENT : source->fd;
}

Memory* EventLoop::Buffer(int32_t id) const {
  const Socket* socket = FindSocket(id);
  return socket == nullptr ? nullptr : socket->rx;
}

int EventLoop::Remove(int32_t id, bool close_fd, Memory** rx) {
  Source* source = Find(id);
  if (source == nullptr) return -ENOENT;
  const uint32_t index = static_cast<uint32_t>(id) & kIndexMask;
  sources_[index] = nullptr;
  free_.push_back(index);
  Unlink(source);
  // Needed although the descriptor is closed next: the open file may live on in another process.
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, source->fd, nullptr);
  if (close_fd) {
    if (source->kind == SourceKind::kSocket) EndConnection(source->fd);
    close(source->fd);
  }
  if (source->kind != SourceKind::kSocket) {
    delete source;
    return 0;
  }
  Socket* socket = static_cast<Socket*>(source);
  for (size_t i = watched_.size(); i-- > 0;) {
    if (watched_[i]->watched_socket == id) UnwatchMapping(watched_[i]);
  }
  FreeQueue(socket);
  socket->held.CloseAll();
  socket->batch.CloseAll();
  *rx = socket->rx;
  delete socket;
  return 0;
}

int EventLoop::Pause(int32_t id) {
  Source* source = Find(id);
  if (source == nullptr) return -ENOENT;
  source->paused = true;
  return 0;
}

int EventLoop::Resume(int32_t id) {
  Source* source = Find(id);
  if (source == nullptr) return -ENOENT;
  source->paused = false;
  // Edges that came meanwhile are noted in the source, bytes in its buffer: the list finds out.
  Link(source);
  return 0;
}

int EventLoop::Drain(int32_t id, bool on) {
  Socket* socket = FindSocket(id);
  if (socket == nullptr) return -ENOENT;
  socket->draining = on;
  socket->drained = false;
  Link(socket);
  return 0;
}

void EventLoop::Link(Source* source) {
  if (source->linked) return;
  source->linked = true;
  source->next = nullptr;
  source->previous = ready_tail_;
  if (ready_tail_ != nullptr) {
    ready_tail_->next = source;
  } else {
    ready_head_ = source;
  }
  ready_tail_ = source;
}

void EventLoop::Unlink(Source* source) {
  if (!source->linked) return;
  source->linked = false;
  if (source->previous != nullptr) {
    source->previous->next = source->next;
  } else {
    ready_head_ = source->next;
  }
  if (source->next != nullptr) {
    source->next->previous = source->previous;
  } else {
    ready_tail_ = source->previous;
  }
  source->previous = nullptr;
  source->next = nullptr;
}

// Lost memory.

int EventLoop::WatchMapping(Memory* memory, int32_t socket) {
  if (memory->watcher != nullptr) memory->watcher->UnwatchMapping(memory);
  if (socket < 0) return 0;
  if (FindSocket(socket) == nullptr) return -ENOENT;
  if (memory->slot() == nullptr) return -EINVAL;
  watched_.push_back(memory);
  memory->watcher = this;
  memory->watched_socket = socket;
  memory->slot()->loop_notify.store(poison_.fd, std::memory_order_relaxed);
  if (memory->lost() > 0) ScanMappings();
  return 0;
}

void EventLoop::UnwatchMapping(Memory* memory) {
  const auto found = std::find(watched_.begin(), watched_.end(), memory);
  if (found == watched_.end()) return;
  watched_.erase(found);
  memory->watcher = nullptr;
  memory->watched_socket = -1;
  if (memory->slot() != nullptr) memory->slot()->loop_notify.store(-1, std::memory_order_relaxed);
}

void EventLoop::ScanMappings() {
  fault_generation_ = FaultGeneration();
  for (size_t i = watched_.size(); i-- > 0;) {
    Memory* memory = watched_[i];
    if (memory->lost() == 0) continue;
    Socket* socket = FindSocket(memory->watched_socket);
    UnwatchMapping(memory);
    if (socket == nullptr || socket->silent) continue;
    socket->poisoned = true;
    Link(socket);
  }
}

// Sending.

int EventLoop::Send(int32_t id, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count) {
  Socket* socket = FindSocket(id);
  if (socket == nullptr) return -ENOENT;
  if (length == 0 || fd_count > kMaxFds) return -EINVAL;
  return SendTo(socket, data, length, fds, fd_count);
}

int EventLoop::SendTx(int32_t id, size_t length, const int32_t* fds, size_t fd_count) {
  if (length > options_.max_message) return -EINVAL;
  return Send(id, tx_, length, fds, fd_count);
}

namespace {

// One send of `length` bytes, the descriptors with the first. Bytes sent, or -errno.
ssize_t SendOnce(int fd, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count) {
  ssize_t result;
  if (fd_count == 0) {
    do {
      result = RawSend(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (result == -EINTR);
    return result;
  }
  FdControl control;
  struct iovec part = {const_cast<uint8_t*>(data), length};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  AttachFds(&message, &control, fds, fd_count);
  do {
    result = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

}  // namespace

int EventLoop::SendTo(Socket* socket, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count) {
  if (socket->error != 0) return -socket->error;
  // What waits goes first.
  if (socket->queue_head != nullptr) return Enqueue(socket, data, length, fds, fd_count);
  stats_.sends++;
  const ssize_t sent = SendOnce(socket->fd, data, length, fds, fd_count);
  if (sent == static_cast<ssize_t>(length)) return 0;
  if (sent > 0) return Enqueue(socket, data + sent, length - static_cast<size_t>(sent), nullptr, 0);
  if (sent == -EAGAIN) return Enqueue(socket, data, length, fds, fd_count);
  // A bad descriptor to pass is the caller's mistake and nothing was sent; all else ends the connection.
  if (sent != -EBADF && sent != -ETOOMANYREFS && sent != -EINVAL) Fail(socket, static_cast<int>(-sent));
  return static_cast<int>(sent);
}

int EventLoop::Enqueue(Socket* socket, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count) {
  if (length > socket->max_queued || socket->queued_bytes > socket->max_queued - length) {
    Fail(socket, ENOBUFS);
    return -ENOBUFS;
  }
  Chunk* chunk = new (std::nothrow) Chunk();
  if (chunk != nullptr) chunk->data = static_cast<uint8_t*>(std::malloc(length));
  if (chunk == nullptr || chunk->data == nullptr) {
    delete chunk;
    Fail(socket, ENOMEM);
    return -ENOMEM;
  }
  for (size_t i = 0; i < fd_count; i++) {
    // The caller may close its own as soon as we return.
    const int copy = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
      const int error = errno;
      chunk->fds.CloseAll();
      std::free(chunk->data);
      delete chunk;
      if (error != EBADF) Fail(socket, error);
      return -error;
    }
    chunk->fds.fds[chunk->fds.count++] = copy;
  }
  std::memcpy(chunk->data, data, length);
  chunk->length = length;
  if (socket->queue_tail != nullptr) {
    socket->queue_tail->next = chunk;
  } else {
    socket->queue_head = chunk;
  }
  socket->queue_tail = chunk;
  socket->queued_bytes += length;
  stats_.queued++;
  return 1;
}

void EventLoop::FlushQueue(Socket* socket) {
  while (socket->queue_head != nullptr && socket->error == 0) {
    Chunk* chunk = socket->queue_head;
    // Message by message: a reader that takes a header alone must find it whole.
    stats_.sends++;
    const ssize_t sent = SendOnce(socket->fd, chunk->data + chunk->sent, chunk->length - chunk->sent, chunk->fds.fds,
                                  static_cast<size_t>(chunk->fds.count));
    if (sent == -EAGAIN) return;
    if (sent < 0) {
      Fail(socket, static_cast<int>(-sent));
      return;
    }
    chunk->fds.CloseAll();
    chunk->sent += static_cast<size_t>(sent);
    socket->queued_bytes -= static_cast<size_t>(sent);
    if (chunk->sent < chunk->length) continue;
    socket->queue_head = chunk->next;
    if (chunk->next == nullptr) socket->queue_tail = nullptr;
    std::free(chunk->data);
    delete chunk;
    // It may have been kept from receiving.
    if (!Choked(socket)) Link(socket);
  }
}

void EventLoop::FreeQueue(Socket* socket) {
  while (socket->queue_head != nullptr) {
    Chunk* chunk = socket->queue_head;
    socket->queue_head = chunk->next;
    chunk->fds.CloseAll();
    std::free(chunk->data);
    delete chunk;
  }
  socket->queue_tail = nullptr;
  socket->queued_bytes = 0;
}

void EventLoop::Fail(Socket* socket, int error) {
  if (socket->error == 0) socket->error = error;
  FreeQueue(socket);
  // What the peer sent before it went is still to be read, to the end.
  socket->readable = true;
  socket->hangup = true;
  Link(socket);
}

// Receiving.

bool EventLoop::Header(const Socket* socket, uint32_t* size) const {
  if (socket->end - socket->start < kHeaderSize) return false;
  std::memcpy(size, socket->bytes + socket->start + 4, sizeof *size);
  return true;
}

void EventLoop::TakeFds(Socket* socket, struct msghdr* message) {
  FdBag* batch = &socket->batch;
  for (struct cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const int room = kMaxFds - batch->count;
    const int taken = count < static_cast<size_t>(room) ? static_cast<int>(count) : room;
    std::memcpy(batch->fds + batch->count, CMSG_DATA(header), static_cast<size_t>(taken) * sizeof(int));
    batch->count += taken;
  }
  if ((message->msg_flags & MSG_CTRUNC) != 0) {
    batch->CloseAll();
    batch->lost = true;
  }
  if (batch->empty()) return;
  socket->batch_last = socket->end - 1;
  socket->has_fds = true;
}

// One read. Called only while no whole message is in the buffer.
void EventLoop::Receive(Socket* socket) {
  // The descriptors of the read before belong to the message that is still incomplete.
  if (socket->has_fds && !socket->batch.empty()) socket->held.Append(&socket->batch);
  const size_t have = socket->end - socket->start;
  uint32_t size = kHeaderSize;
  Header(socket, &size);
  if (have == 0) {
    socket->start = 0;
    socket->end = 0;
  } else if (socket->start + size > socket->capacity) {
    std::memmove(socket->bytes, socket->bytes + socket->start, have);
    socket->start = 0;
    socket->end = have;
  }
  const size_t rest = size - have;
  const size_t room = socket->draining ? rest : std::min(socket->capacity - socket->end, std::max(kBatch, rest));
  FdControl control;
  struct iovec part = {socket->bytes + socket->end, room};
  struct msghdr message;
  message.msg_name = nullptr;
  message.msg_namelen = 0;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  message.msg_flags = 0;
  ssize_t got;
  do {
    stats_.receives++;
    got = RawReceive(socket->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got == -EINTR);
  if (got > 0) {
    socket->end += static_cast<size_t>(got);
    if (message.msg_controllen != 0 || (message.msg_flags & MSG_CTRUNC) != 0) TakeFds(socket, &message);
    // A read that ends early without descriptors has emptied the socket; one with descriptors stops behind them.
    if (static_cast<size_t>(got) < room && !socket->has_fds && !socket->hangup) socket->readable = false;
    return;
  }
  stats_.empty_receives++;
  if (got == 0) {
    socket->at_end = true;
  } else if (got == -EAGAIN) {
    socket->hangup = false;
  } else if (socket->error == 0) {
    socket->error = static_cast<int>(-got);
  }
  socket->readable = false;
}

void EventLoop::GiveFds(FdBag* bag) {
  for (int i = 0; i < bag->count; i++) {
    event_fds_[event_fd_count_] = bag->fds[i];
    fds_[event_fd_count_++] = bag->fds[i];
  }
  bag->count = 0;
}

int EventLoop::Deliver(Socket* socket, uint32_t size) {
  int32_t* out = state_;
  const uint8_t* header = socket->bytes + socket->start;
  uint16_t half[2];
  uint32_t word[2];
  std::memcpy(half, header, sizeof half);
  std::memcpy(word, header + 8, sizeof word);
  out[kSlotSource] = socket->id;
  out[kSlotOffset] = static_cast<int32_t>(socket->start);
  out[kSlotLength] = static_cast<int32_t>(size);
  out[kSlotId] = half[0];
  out[kSlotCommand] = half[1];
  out[kSlotFlags] = static_cast<int32_t>(word[0]);
  out[kSlotErrno] = static_cast<int32_t>(word[1]);
  if (socket->has_fds) {
    // A message whose last byte lies before batch_last was followed by the one that the descriptors came with.
    if (!socket->batch.empty() && socket->batch_last < socket->start + size) socket->held.Append(&socket->batch);
    if (socket->held.lost || socket->held.count > socket->max_fds) {
      socket->held.CloseAll();
      out[kSlotTruncated] = 1;
    } else {
      GiveFds(&socket->held);
      out[kSlotFdCount] = event_fd_count_;
    }
    socket->has_fds = !socket->batch.empty();
  }
  socket->start += size;
  stats_.messages++;
  return Finish(kMessage);
}

// The socket's last event.
int EventLoop::End(Socket* socket, int event, int error) {
  int32_t* out = state_;
  out[kSlotSource] = socket->id;
  out[kSlotErrno] = error;
  out[kSlotLength] = static_cast<int32_t>(socket->end - socket->start);
  socket->silent = true;
  socket->held.CloseAll();
  socket->batch.CloseAll();
  Unlink(socket);
  return Finish(event);
}

int EventLoop::ProcessSocket(Socket* socket) {
  // A peer that is there and does not take its replies is cut off; one that has gone is served to its last whole message.
  if (socket->error != 0 && socket->error != EPIPE && socket->error != ECONNRESET) {
    return End(socket, kClosed, socket->error);
  }
  for (;;) {
    // A peer that does not read its replies gets no more of them.
    if (Choked(socket)) break;
    uint32_t size = 0;
    if (Header(socket, &size)) {
      if (size < kHeaderSize || size > socket->max_message) {
        int32_t* out = state_;
        uint16_t half[2];
        uint32_t flags;
        std::memcpy(half, socket->bytes + socket->start, sizeof half);
        std::memcpy(&flags, socket->bytes + socket->start + 8, sizeof flags);
        out[kSlotOffset] = static_cast<int32_t>(socket->start);
        out[kSlotId] = half[0];
        out[kSlotCommand] = half[1];
        out[kSlotFlags] = static_cast<int32_t>(flags);
        const int event = End(socket, kBadSize, 0);
        out[kSlotLength] = static_cast<int32_t>(size);
        return event;
      }
      if (socket->end - socket->start >= size) return Deliver(socket, size);
    }
    // At a border between messages. What waits to be sent goes first; its end links the socket again.
    if (socket->draining && socket->end == socket->start) {
      if (socket->drained || socket->queue_head != nullptr) break;
      socket->drained = true;
      state_[kSlotSource] = socket->id;
      Unlink(socket);
      return Finish(kDrained);
    }
    if (socket->readable) {
      Receive(socket);
      continue;
    }
    if (socket->at_end || socket->error != 0) return End(socket, kClosed, socket->error);
    break;
  }
  Unlink(socket);
  return 0;
}

int EventLoop::ProcessListener(Source* source) {
  if (source->readable) {
    int fd;
    do {
      fd = accept4(source->fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    int32_t* out = state_;
    if (fd >= 0) {
      FdBag bag;
      bag.fds[bag.count++] = fd;
      GiveFds(&bag);
      out[kSlotSource] = source->id;
      out[kSlotFdCount] = 1;
      return Finish(kAccept);
    }
    if (errno != EAGAIN) {
      // The connection still waits: asking again at once would only spin.
      source->paused = true;
      out[kSlotSource] = source->id;
      out[kSlotErrno] = errno;
      Unlink(source);
      return Finish(kAcceptFailed);
    }
    source->readable = false;
  }
  Unlink(source);
  return 0;
}

// An eventfd or a timer: eight bytes that say how often.
int EventLoop::ProcessCounter(Source* source) {
  Unlink(source);
  if (!source->readable) return 0;
  source->readable = false;
  uint64_t value = 0;
  struct iovec part = {&value, sizeof value};
  // The peer that gave us the eventfd can make it blocking again at any time: ask not to wait in the call itself. Kernels
  // before 5.6 do not know this for eventfds.
  ssize_t got = syscall(SYS_preadv2, source->fd, &part, 1, -1L, -1L, RWF_NOWAIT);
  if (got < 0 && errno == EOPNOTSUPP) got = read(source->fd, &value, sizeof value);
  if (got != sizeof value) return 0;
  if (source->kind == SourceKind::kPoison) {
    ScanMappings();
    return 0;
  }
  int32_t* out = state_;
  out[kSlotSource] = source->id;
  out[kSlotValueLow] = static_cast<int32_t>(value);
  out[kSlotValueHigh] = static_cast<int32_t>(value >> 32);
  // With EFD_SEMAPHORE the counter may hold more, and no edge would tell.
  if (source->kind == SourceKind::kEventFd && value == 1) {
    struct pollfd entry = {source->fd, POLLIN, 0};
    if (poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0) {
      source->readable = true;
      Link(source);
    }
  }
  if (source->kind == SourceKind::kWake) return Finish(kWake);
  return Finish(source->kind == SourceKind::kTimer ? kTimer : kEventFd);
}

int EventLoop::Process(Source* source) {
  if (source->kind == SourceKind::kSocket && source->poisoned && !source->silent) {
    return End(static_cast<Socket*>(source), kPoisoned, 0);
  }
  if (source->paused || source->silent) {
    Unlink(source);
    return 0;
  }
  switch (source->kind) {
    case SourceKind::kSocket:
      return ProcessSocket(static_cast<Socket*>(source));
    case SourceKind::kListener:
      return ProcessListener(source);
    default:
      return ProcessCounter(source);
  }
}

// The next event of the sources that may have one, 0 for none.
int EventLoop::NextReady() {
  if (poll_soon_) {
    poll_soon_ = false;
    Wait(0);
  }
  while (ready_head_ != nullptr) {
    Source* source = ready_head_;
    const int event = Process(source);
    if (event == 0) continue;
    if (source->linked && --source->quantum <= 0) {
      // To the end of the list, and a look at who became ready meanwhile.
      source->quantum = kQuantum;
      Unlink(source);
      Link(source);
      poll_soon_ = true;
    }
    return event;
  }
  return 0;
}

// Waiting.

void EventLoop::OnEvent(Source* source, uint32_t events) {
  switch (source->kind) {
    case SourceKind::kBurstTimer:
      // Else one that an earlier burst did not need.
      if (burst_timer_armed_) burst_over_ = true;
      return;
    case SourceKind::kHostTimer:
      host_deadline_us_ = -1;
      host_due_ = true;
      return;
    case SourceKind::kHost:
      host_due_ = true;
      return;
    default:
      break;
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) source->readable = true;
  if (source->kind == SourceKind::kSocket) {
    Socket* socket = static_cast<Socket*>(source);
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket->hangup = true;
    if (socket->queue_head != nullptr && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) FlushQueue(socket);
  }
  if (source->readable) Link(source);
}

// One look at the epoll set. Number of events; 0 also when a signal came.
int EventLoop::Wait(int64_t timeout_us) {
  struct epoll_event events[kEventsAtOnce];
  long count;
  stats_.waits++;
  interrupted_ = false;
  if (timeout_us <= 0) {
    count = RawEpollWait(epoll_fd_, events, kEventsAtOnce, timeout_us < 0 ? -1 : 0);
  } else {
    // Microseconds need ppoll: epoll_pwait2 is not everywhere, and forbidden in some containers.
    struct pollfd entry = {epoll_fd_, POLLIN, 0};
    const struct timespec timeout = FromUs(static_cast<uint64_t>(timeout_us));
    count = ppoll(&entry, 1, &timeout, nullptr);
    if (count > 0) count = RawEpollWait(epoll_fd_, events, kEventsAtOnce, 0);
  }
  if (count < 0) {
    interrupted_ = true;
    return 0;
  }
  for (long i = 0; i < count; i++) {
    Source* source = FindAny(static_cast<int32_t>(events[i].data.u64));
    if (source != nullptr) OnEvent(source, events[i].events);
  }
  return static_cast<int>(count);
}

// Steps.

void EventLoop::CloseLeftovers() {
  if (event_fd_count_ == 0) return;
  for (int i = 0; i < event_fd_count_; i++) {
    // Overwritten by whoever took it.
    if (fds_[i] == event_fds_[i]) close(event_fds_[i]);
  }
  event_fd_count_ = 0;
}

void EventLoop::FlushReply() {
  int32_t* in = state_;
  const int32_t id = in[kSlotReplySocket];
  if (id < 0) return;
  in[kSlotReplySocket] = -1;
  Socket* socket = FindSocket(id);
  const uint32_t length = static_cast<uint32_t>(in[kSlotReplyLength]);
  const uint32_t fd_count = static_cast<uint32_t>(in[kSlotReplyFdCount]);
  if (socket == nullptr || length == 0 || length > options_.max_message || fd_count > kMaxFds) return;
  const int result = SendTo(socket, tx_, length, reply_fds_, fd_count);
  // Nobody hears of a reply that could not be sent: the peer would wait for ever.
  if (result < 0 && socket->error == 0) Fail(socket, -result);
}

void EventLoop::BeginStep() {
  if (options_.measure) {
    const int64_t took = NowUs() - last_event_us_;
    state_[kSlotHandlerUs] = took > INT32_MAX ? INT32_MAX : static_cast<int32_t>(took);
  }
  FlushReply();
  CloseLeftovers();
  state_[kSlotFdCount] = 0;
  state_[kSlotTruncated] = 0;
  if (FaultGeneration() != fault_generation_) ScanMappings();
}

int EventLoop::Finish(int event) {
  state_[kSlotKind] = event;
  stats_.events++;
  // The clock is looked at in the first event of a burst, and less often while messages are dense.
  events_since_clock_++;
  if (burst_events_++ == 0 || streak_ < kDenseStreak || burst_events_ % kEventsPerClock == 0 || options_.measure) OnClock();
  if (burst_events_ >= options_.burst_messages) burst_over_ = true;
  return event;
}

void EventLoop::OnClock() {
  const int64_t now = NowUs();
  const int64_t period = (now - last_event_us_) / events_since_clock_;
  last_event_us_ = now;
  events_since_clock_ = 0;
  streak_ = period <= options_.dense_us ? std::min(streak_ + 1, kDenseStreak) : 0;
  if (burst_events_ <= 1) {
    burst_start_us_ = now;
  } else if (now - burst_start_us_ >= options_.burst_us) {
    burst_over_ = true;
  }
}

int EventLoop::Step(int64_t timeout_us) {
  if (closed()) return kIdle;
  BeginStep();
  int event = NextReady();
  if (event == 0) {
    const int64_t deadline = timeout_us > 0 ? NowUs() + timeout_us : 0;
    do {
      const int64_t left = timeout_us > 0 ? std::max<int64_t>(deadline - NowUs(), 0) : timeout_us;
      const int count = Wait(left);
      if (host_due_) ListenToHost(false);
      event = NextReady();
      if (event != 0 || interrupted_ || (count == 0 && left == 0)) break;
      // Woken by something that has no event of its own: what was written to a peer, a mapping of a closed socket.
    } while (timeout_us != 0);
  }
  if (event == 0) state_[kSlotKind] = kIdle;
  return event;
}

int EventLoop::StepInBurst() {
  if (closed()) return kIdle;
  if (!in_burst_) return Step(0);
  BeginStep();
  while (!burst_over_ && !host_due_) {
    const int event = NextReady();
    if (event != 0) return event;
    const bool first = burst_events_ == 0;
    if (!may_wait_) {
      if (burst_polled_) break;
      burst_polled_ = true;
      Wait(0);
      continue;
    }
    if (first) {
      if (!ArmHostTimer()) break;
    } else {
      // Messages have been handled: what their handlers left to promises runs when the thread is given back, so only dense
      // traffic is worth a wait, and not a long one.
      if (streak_ < kDenseStreak || options_.dense_us == 0 || state_[kSlotPending] != 0) break;
      if (!ArmBurstTimer()) break;
    }
    Wait(-1);
    if (first) host_.update_time(host_.argument);
    if (interrupted_) break;
  }
  state_[kSlotKind] = kIdle;
  return kIdle;
}

// One timer for the burst instead of a timeout for each wait: arming a timer and taking it back costs more than the wait.
bool EventLoop::ArmBurstTimer() {
  if (burst_timer_armed_) return true;
  const int64_t left = burst_start_us_ + options_.burst_us - NowUs();
  if (left <= 0) return false;
  const struct itimerspec spec = TimerSpec(static_cast<uint64_t>(left), 0);
  burst_timer_armed_ = timerfd_settime(burst_timer_.fd, 0, &spec, nullptr) == 0;
  return burst_timer_armed_;
}

// The host's next timer ends the wait. False where the host has something to do now: a handler may just have said so.
bool EventLoop::ArmHostTimer() {
  const int timeout_ms = host_.timeout(host_.argument);
  if (timeout_ms < 0) return true;
  if (timeout_ms == 0) return false;
  // Armed again only when the host's next timer is another one; one that is too early only costs a look.
  const int64_t deadline = NowUs() + int64_t{timeout_ms} * 1000;
  if (host_deadline_us_ >= 0 && host_deadline_us_ <= deadline && deadline - host_deadline_us_ < kTimerSlackUs) return true;
  const struct itimerspec spec = TimerSpec(static_cast<uint64_t>(timeout_ms) * 1000, 0);
  if (timerfd_settime(host_timer_.fd, 0, &spec, nullptr) < 0) return false;
  host_deadline_us_ = deadline;
  return true;
}

void EventLoop::BeginBurst(bool may_wait) {
  stats_.bursts++;
  ListenToHost(true);
  in_burst_ = true;
  may_wait_ = may_wait && host_source_.fd >= 0;
  host_due_ = false;
  burst_polled_ = false;
  burst_timer_armed_ = false;
  burst_over_ = false;
  burst_events_ = 0;
}

void EventLoop::EndBurst() {
  in_burst_ = false;
  if (closed()) return;
  // A handler may have returned without another step.
  FlushReply();
  CloseLeftovers();
  state_[kSlotFdCount] = 0;
}

}  // namespace vfio
