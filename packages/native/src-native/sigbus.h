// Containment of SIGBUS. A client that cuts the file behind a mapping makes the next access to the lost pages raise SIGBUS.
// For faults inside a registered mapping the handler puts zeroed pages there and counts; others go to the handler that was
// installed before, or kill the process as ever.
#ifndef VFIO_NATIVE_SIGBUS_H_
#define VFIO_NATIVE_SIGBUS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vfio {

// One registered mapping. Shared with the signal handler of every thread, hence atomic; slots are never freed, only reused.
struct FaultSlot {
  // 0 while unused; stored last when the slot is filled and first when it is emptied.
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<size_t> page{0};
  std::atomic<int> prot{0};
  // Pages replaced.
  std::atomic<uint32_t> lost{0};
  // Eventfds written at the first lost page, -1 for none: a program's and a message loop's. Owned by whoever stored them
  // (Memory and EventLoop), who takes them out before closing them.
  std::atomic<int> program_notify{-1};
  std::atomic<int> loop_notify{-1};
};

// Registers [base, base + length). `page` is the size of the mapping's pages (hugetlbfs has larger ones). Installs the
// handler the first time. Null when out of memory.
FaultSlot* RegisterMapping(void* base, size_t length, size_t page, int prot);

// Must come before the munmap: the address range may belong to somebody else right after it.
void UnregisterMapping(FaultSlot* slot);

// Grows with every first lost page of a mapping; cheap to compare.
uint32_t FaultGeneration();

}  // namespace vfio

#endif  // VFIO_NATIVE_SIGBUS_H_
