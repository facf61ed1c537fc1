#include "sigbus.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <new>

namespace vfio {
namespace {

constexpr size_t kBlockSlots = 1024;
// 65,536 mappings; the kernel's default limit of mappings of a process is 65,530.
constexpr size_t kBlocks = 64;
// From this many lost pages on the rest of the mapping is replaced at once: the connection is about to be closed, and a
// loop over gigabytes must not take a signal for each page.
constexpr uint32_t kLostAtOnce = 16;

struct Block {
  FaultSlot slots[kBlockSlots];
};

// Blocks are allocated under the mutex, published with release and never freed: the handler takes no lock.
std::atomic<Block*> blocks[kBlocks];
std::mutex registry;
bool installed = false;
struct sigaction previous;
std::atomic<uint32_t> generation{0};

FaultSlot* Find(uintptr_t address) {
  for (size_t b = 0; b < kBlocks; b++) {
    Block* block = blocks[b].load(std::memory_order_acquire);
    if (block == nullptr) return nullptr;
    for (FaultSlot& slot : block->slots) {
      const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
      if (begin != 0 && address >= begin && address < slot.end.load(std::memory_order_relaxed)) return &slot;
    }
  }
  return nullptr;
}

// Only async-signal-safe calls from here on: mmap and write are plain system calls on Linux.
void Signal(int eventfd) {
  const uint64_t one = 1;
  // A full counter is signalled already; nothing else can be done here about a failure.
  if (eventfd >= 0 && write(eventfd, &one, sizeof one) < 0) errno = 0;
}

bool Contain(uintptr_t address) {
  FaultSlot* slot = Find(address);
  if (slot == nullptr) return false;
  const size_t page = slot->page.load(std::memory_order_relaxed);
  const uintptr_t start = address - address % page;
  const uint32_t before = slot->lost.load(std::memory_order_relaxed);
  size_t length = page;
  if (before + 1 >= kLostAtOnce) length = slot->end.load(std::memory_order_relaxed) - start;
  void* replaced = mmap(reinterpret_cast<void*>(start), length, slot->prot.load(std::memory_order_relaxed),
                        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (replaced == MAP_FAILED) return false;
  if (slot->lost.fetch_add(static_cast<uint32_t>(length / page), std::memory_order_relaxed) == 0) {
    generation.fetch_add(1, std::memory_order_release);
    Signal(slot->program_notify.load(std::memory_order_relaxed));
    Signal(slot->loop_notify.load(std::memory_order_relaxed));
  }
  return true;
}

void Handler(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // BUS_ADRERR: the page is beyond the end of the file. BUS_MCEERR_AR: its memory failed.
  const bool fault = info->si_code == BUS_ADRERR || info->si_code == BUS_MCEERR_AR;
  if (fault && Contain(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = saved;
    return;
  }
  errno = saved;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_IGN && info->si_code <= 0) {
    return;
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &action, nullptr);
    // A fault happens again when the instruction is run again; a signal that was sent has to be sent again.
    if (info->si_code <= 0) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGBUS);
  } else {
    previous.sa_handler(signal);
  }
}

void Install() {
  if (installed) return;
  struct sigaction action = {};
  action.sa_sigaction = Handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  installed = sigaction(SIGBUS, &action, &previous) == 0;
}

}  // namespace

FaultSlot* RegisterMapping(void* base, size_t length, size_t page, int prot) {
  const std::lock_guard<std::mutex> lock(registry);
  Install();
  for (size_t b = 0; b < kBlocks; b++) {
    Block* block = blocks[b].load(std::memory_order_relaxed);
    if (block == nullptr) {
      block = new (std::nothrow) Block();
      if (block == nullptr) return nullptr;
      blocks[b].store(block, std::memory_order_release);
    }
    for (FaultSlot& slot : block->slots) {
      if (slot.end.load(std::memory_order_relaxed) != 0) continue;
      const uintptr_t begin = reinterpret_cast<uintptr_t>(base);
      slot.page.store(page, std::memory_order_relaxed);
      slot.prot.store(prot, std::memory_order_relaxed);
      slot.lost.store(0, std::memory_order_relaxed);
      slot.program_notify.store(-1, std::memory_order_relaxed);
      slot.loop_notify.store(-1, std::memory_order_relaxed);
      slot.end.store(begin + length, std::memory_order_relaxed);
      slot.begin.store(begin, std::memory_order_release);
      return &slot;
    }
  }
  return nullptr;
}

void UnregisterMapping(FaultSlot* slot) {
  const std::lock_guard<std::mutex> lock(registry);
  slot->begin.store(0, std::memory_order_release);
  slot->program_notify.store(-1, std::memory_order_relaxed);
  slot->loop_notify.store(-1, std::memory_order_relaxed);
  slot->end.store(0, std::memory_order_relaxed);
}

uint32_t FaultGeneration() { return generation.load(std::memory_order_acquire); }

}  // namespace vfio
