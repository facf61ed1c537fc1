// The message loop without JavaScript: one epoll set over framed sockets, listeners, eventfds and timers. loop-object.cc
// shows it to JavaScript and to libuv. One thread only.
#ifndef VFIO_NATIVE_EVENT_LOOP_H_
#define VFIO_NATIVE_EVENT_LOOP_H_

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory.h"
#include "scm-rights.h"

namespace vfio {

// LOOP_EVENT of src/loop.ts.
enum LoopEvent : int {
  kIdle = 0,
  kMessage = 1,
  kAccept = 2,
  kEventFd = 3,
  kTimer = 4,
  kWake = 5,
  kClosed = 6,
  kBadSize = 7,
  kPoisoned = 8,
  kAcceptFailed = 9,
  kDrained = 10,
};

// LOOP_SLOT of src/loop.ts: words of the state that step shares with JavaScript.
enum LoopSlot : int {
  kSlotKind = 0,
  kSlotSource = 1,
  kSlotOffset = 2,
  kSlotLength = 3,
  kSlotId = 4,
  kSlotCommand = 5,
  kSlotFlags = 6,
  kSlotErrno = 7,
  kSlotFdCount = 8,
  kSlotTruncated = 9,
  kSlotValueLow = 10,
  kSlotValueHigh = 11,
  kSlotReplySocket = 12,
  kSlotReplyLength = 13,
  kSlotReplyFdCount = 14,
  kSlotPending = 15,
  kSlotHandlerUs = 16,
  kSlotCount = 32,
};

// Layout of the shared words: the state, the descriptors of the current event, those of the pending reply.
constexpr size_t kSharedFds = kSlotCount;
constexpr size_t kSharedReplyFds = kSharedFds + kMaxFds;
constexpr size_t kSharedWords = kSharedReplyFds + kMaxFds;
constexpr size_t kHeaderSize = 16;

struct LoopOptions {
  size_t max_message;
  int burst_messages;
  int64_t burst_us;
  int64_t dense_us;
  bool measure;
};

// The event loop of the thread, which runs this one.
struct Host {
  // Readable while it has something to do. Not owned.
  int fd = -1;
  // Milliseconds until its next timer, -1 for none, 0 where it has something to do now.
  int (*timeout)(void* argument) = nullptr;
  // Its clock stood still while a burst waited.
  void (*update_time)(void* argument) = nullptr;
  void* argument = nullptr;
};

struct LoopStats {
  uint64_t events = 0;
  uint64_t messages = 0;
  uint64_t receives = 0;
  uint64_t empty_receives = 0;
  uint64_t sends = 0;
  uint64_t queued = 0;
  uint64_t waits = 0;
  uint64_t bursts = 0;
};

// Received descriptors that no event has delivered. Owned: closed or handed on.
struct FdBag {
  int count = 0;
  // Some were lost: the rest is closed, the message says so.
  bool lost = false;
  int fds[kMaxFds];

  bool empty() const { return count == 0 && !lost; }
  void CloseAll();
  // Moves everything from `other` behind what is here; too many are lost.
  void Append(FdBag* other);
};

// A message, or its rest, that the peer has not taken.
struct Chunk {
  Chunk* next = nullptr;
  // Owned, malloc.
  uint8_t* data = nullptr;
  size_t length = 0;
  size_t sent = 0;
  // Owned copies; go with the first byte.
  FdBag fds;
};

// kHost is the descriptor of the event loop that runs this one (libuv's), kHostTimer its next timer.
enum class SourceKind : uint8_t { kSocket, kListener, kEventFd, kTimer, kWake, kPoison, kBurstTimer, kHost, kHostTimer };

struct Source {
  SourceKind kind;
  // Owned.
  int fd = -1;
  int32_t id = -1;
  // Links of the list of sources that may have something to deliver.
  Source* previous = nullptr;
  Source* next = nullptr;
  bool linked = false;
  // The kernel may have more (edge-triggered: it tells once).
  bool readable = false;
  // The peer has hung up: read on until the end, whatever a short read suggests.
  bool hangup = false;
  bool paused = false;
  // The last event (closed, bad size, poisoned) was delivered.
  bool silent = false;
  bool poisoned = false;
  // What sending failed with; 0 for nothing.
  int error = 0;
  int quantum = 0;
};

struct Socket : Source {
  // What every message touches lies together, the descriptors at the end.
  bool at_end = false;
  // No more is received than the message that has begun; `drained` once its end was reported.
  bool draining = false;
  bool drained = false;
  // Whether `held` or `batch` has something.
  bool has_fds = false;
  // The bytes of `rx`: start..end of them are received and not delivered.
  uint8_t* bytes = nullptr;
  size_t capacity = 0;
  size_t start = 0;
  size_t end = 0;
  size_t max_message = 0;
  // Owned list.
  Chunk* queue_head = nullptr;
  Chunk* queue_tail = nullptr;
  size_t queued_bytes = 0;
  size_t max_queued = 0;
  // Owned reference.
  Memory* rx = nullptr;
  int max_fds = 0;
  size_t batch_last = 0;
  // Descriptors of the incomplete message at `start`, from earlier reads.
  FdBag held;
  // Descriptors of the last read: they belong to the message that holds byte `batch_last` of the buffer.
  FdBag batch;
};

class EventLoop {
 public:
  // Null and *error = -errno on failure. The state and buffers are made here, their ArrayBuffers by the caller.
  static EventLoop* Create(const LoopOptions& options, int* error);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  int epoll_fd() const { return epoll_fd_; }
  int wake_fd() const { return wake_.fd; }
  Memory* shared_memory() const { return shared_memory_; }
  Memory* tx_memory() const { return tx_memory_; }
  const LoopStats& stats() const { return stats_; }
  bool closed() const { return epoll_fd_ < 0; }

  // Take over `fd` on success: the new source's id, or -errno and the descriptor is still the caller's.
  int AddSocket(int fd, size_t max_message, int max_fds, size_t max_queued);
  int AddListener(int fd);
  int AddEventFd(int fd);
  int AddTimer();
  int SetTimer(int32_t id, uint64_t delay_us, uint64_t interval_us);
  // The source's descriptor, still owned by the loop; -ENOENT.
  int Fd(int32_t id) const;
  // The receive buffer of a socket, null for anything else. Still owned by the loop.
  Memory* Buffer(int32_t id) const;
  // *rx gets the socket's reference to its buffer, which the caller has to release.
  int Remove(int32_t id, bool close_fd, Memory** rx);
  int Pause(int32_t id);
  int Resume(int32_t id);
  int Drain(int32_t id, bool on);
  // 0 sent, 1 queued (a part of it), -errno. The descriptors stay the caller's.
  int Send(int32_t id, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count);
  int SendTx(int32_t id, size_t length, const int32_t* fds, size_t fd_count);
  int WatchMapping(Memory* memory, int32_t socket);
  void UnwatchMapping(Memory* memory);

  // MessageLoop.step: `timeout_us` below 0 waits for ever.
  int Step(int64_t timeout_us);
  // MessageLoop.step without a timeout.
  int StepInBurst();

  // Puts the host loop's descriptor into the set, so that a burst may wait here: it ends when the host has something to
  // do. 0 or -errno.
  int AttachHost(const Host& host);
  void DetachHost();

  // Around the calls of StepInBurst that one visit of the host brings. With `may_wait`, which needs an attached host, the
  // burst waits for its first event until the host has something to do.
  void BeginBurst(bool may_wait);
  void EndBurst();
  // Looks at the kernel; whether there is something for a burst.
  bool Poll() {
    Wait(0);
    return ready();
  }
  // Between bursts: whether the attached host has something to do.
  bool HostIsDue() {
    if (!host_due_) Wait(0);
    return host_due_;
  }
  // Whether a burst has something to do that the epoll descriptor does not tell.
  bool ready() const { return ready_head_ != nullptr; }

  // Closes all but the two buffers, whose references the destructor drops. Receive buffers are given to `visit`, which
  // releases them. Idempotent.
  template <typename Visit>
  void Close(Visit visit) {
    for (Source* source : sources_) {
      Memory* rx = nullptr;
      if (source != nullptr && Remove(source->id, true, &rx) == 0 && rx != nullptr) visit(rx);
    }
    CloseOwn();
  }

 private:
  explicit EventLoop(const LoopOptions& options) : options_(options) {}
  int Init();
  void CloseOwn();

  Source* Find(int32_t id) const;
  Source* FindAny(int32_t id) const;
  Socket* FindSocket(int32_t id) const;
  int Add(Source* source, uint32_t events);
  int Watch(Source* source, uint32_t events);

  void Link(Source* source);
  void Unlink(Source* source);

  void BeginStep();
  void CloseLeftovers();
  void FlushReply();
  int Wait(int64_t timeout_us);
  void OnEvent(Source* source, uint32_t events);
  void ScanMappings();

  int Finish(int event);
  void OnClock();
  bool ArmBurstTimer();
  bool ArmHostTimer();
  void ListenToHost(bool on);
  int NextReady();
  int Process(Source* source);
  int ProcessSocket(Socket* socket);
  int ProcessListener(Source* source);
  int ProcessCounter(Source* source);
  int Deliver(Socket* socket, uint32_t size);
  int End(Socket* socket, int event, int error);
  // Whether a whole header is there, and the size that it announces.
  bool Header(const Socket* socket, uint32_t* size) const;
  void Receive(Socket* socket);
  void TakeFds(Socket* socket, struct msghdr* message);
  void GiveFds(FdBag* bag);

  int SendTo(Socket* socket, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count);
  int Enqueue(Socket* socket, const uint8_t* data, size_t length, const int32_t* fds, size_t fd_count);
  void FlushQueue(Socket* socket);
  void FreeQueue(Socket* socket);
  bool Choked(const Socket* socket) const { return socket->queued_bytes > socket->max_queued / 4; }
  void Fail(Socket* socket, int error);

  LoopOptions options_;
  // Parts of shared_memory_, and tx_memory_'s bytes.
  int32_t* state_ = nullptr;
  int32_t* fds_ = nullptr;
  int32_t* reply_fds_ = nullptr;
  uint8_t* tx_ = nullptr;
  LoopStats stats_;
  // Owned descriptors: -1 once closed. Those of the four sources are owned through them.
  int epoll_fd_ = -1;
  Source wake_{SourceKind::kWake};
  Source poison_{SourceKind::kPoison};
  Source burst_timer_{SourceKind::kBurstTimer};
  Source host_timer_{SourceKind::kHostTimer};
  // Its descriptor is the host's; -1 while none is attached.
  Source host_source_{SourceKind::kHost};
  // By -1 - id.
  Source* const own_[5] = {&wake_, &poison_, &burst_timer_, &host_timer_, &host_source_};
  Host host_;
  bool hears_host_ = false;
  // Owned references.
  Memory* shared_memory_ = nullptr;
  Memory* tx_memory_ = nullptr;
  // By index; null where free. Owned.
  std::vector<Source*> sources_;
  std::vector<uint32_t> generations_;
  std::vector<uint32_t> free_;
  Source* ready_head_ = nullptr;
  Source* ready_tail_ = nullptr;
  // Mappings that are watched; not owned, each takes itself out when it is unmapped.
  std::vector<Memory*> watched_;
  uint32_t fault_generation_ = 0;
  // Descriptors of the current event: those that JavaScript did not take are closed by the next step. Owned.
  int event_fds_[kMaxFds];
  int event_fd_count_ = 0;

  // The kernel should be asked before the ready list is served again: one source had its turn.
  bool poll_soon_ = false;
  bool in_burst_ = false;
  bool may_wait_ = false;
  bool host_due_ = false;
  int64_t host_deadline_us_ = -1;
  bool burst_polled_ = false;
  bool burst_timer_armed_ = false;
  bool burst_over_ = false;
  int burst_events_ = 0;
  int64_t burst_start_us_ = 0;
  int64_t last_event_us_ = 0;
  int streak_ = 0;
  int events_since_clock_ = 0;
  bool interrupted_ = false;
};

}  // namespace vfio

#endif  // VFIO_NATIVE_EVENT_LOOP_H_
