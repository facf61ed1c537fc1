/**
 * Every limit of this implementation in one place, each with the reason for its value. What a peer sends is compared
 * with these before anything is allocated for it.
 */
import { VFIO_USER_HEADER_SIZE } from '@vfio/uapi';

/** Bytes of data in one message that this side takes and sends: what the specification assumes where nothing is said,
 * and what QEMU and libvfio-user use. It must hold a whole ROM (QEMU reads one in a single message). */
export const MAX_DATA_XFER_SIZE = 1024 * 1024;

/** Least `max_data_xfer_size` that may be configured: QEMU reads the 4096 bytes of config space in one message and
 * refuses a device where that does not fit. */
export const MIN_DATA_XFER_SIZE = 4096;

/** Bytes of the longest fixed part that stands before data in a message: REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE
 * have 16, the dirty bitmap of DMA_UNMAP 40, a dirty log report 32. */
export const MAX_FIXED_PAYLOAD = 48;

/** Bytes of a message that are always taken, however little data was agreed on: VERSION comes before anything is, and
 * region info has its own size. */
export const MIN_MESSAGE_SIZE = 64 * 1024;

/** Bytes of the largest message for a given `max_data_xfer_size`. */
export function maxMessageSize(maxDataXferSize: number): number {
  return Math.max(MIN_MESSAGE_SIZE, VFIO_USER_HEADER_SIZE + MAX_FIXED_PAYLOAD + maxDataXferSize);
}

/** Descriptors in one message that Linux passes at all (SCM_MAX_FD). */
export const MAX_SCM_FDS = 253;

/** `max_msg_fds` that QEMU takes at most in a reply; above it refuses the device. Offered to everybody who does not
 * offer more himself. */
export const QEMU_MAX_MSG_FDS = 16;

/** Descriptors that a message may carry on receipt. More than we announce: Cloud Hypervisor sends 16 whatever the
 * server says, libvfio-user takes 1024. */
export const MAX_RECEIVED_FDS = MAX_SCM_FDS;

/** Mappings of one client: what the specification assumes, and the kernel's limit for one container. */
export const MAX_DMA_MAPS = 65535;

/** Bytes of one mapping: libvfio-user's 8 TiB. Bounds what a client can make us reserve in address space. */
export const MAX_DMA_MAP_SIZE = 8n << 40n;

/** Bytes of all mappings of one client that are mapped here. A process has 128 TiB of address space (x86-64, arm64 with 4
 * levels of page tables), and one that has none left dies of its next allocation. */
export const MAX_MAPPED_BYTES = MAX_DMA_MAP_SIZE;

/** Bytes of the pieces in which memory is mapped. The engine answers a longer buffer with a full garbage collection, and
 * hugetlbfs pages (up to 1 GiB) are not cut. */
export const MAX_MAPPED_PART = 1 << 30;

/** Pieces in which one client's memory is mapped here: half of the mappings that Linux allows to a process
 * (vm.max_map_count, 65530). A process that has no more dies of its next allocation. */
export const MAX_MAPPED_PARTS = 32768;

/** Mappings of one client that are reached by their file (FILE_IO): each keeps a descriptor, and processes start with a
 * limit of 1024. Guests behind such a client have a handful. */
export const MAX_FILE_MAPS = 64;

/** Files behind one client's mappings of which a descriptor is kept, so that another process can take the client over. Guests
 * have one file or two, and processes start with a limit of 1024 descriptors. */
export const MAX_KEPT_FILES = 64;

/** Granularity of DMA_MAP, and `pgsizes` of the reply: the specification's default; every client aligns to it. */
export const DMA_PAGE_SIZE = 4096;

/** Vectors in one SET_IRQS: the size of the largest MSI-X table. */
export const MAX_IRQ_COUNT = 2048;

/** Messages that wait behind an operation which has not ended, before the socket is left unread. QEMU has one awaited
 * message open and posts up to 1024 writes before it gathers them into REGION_WRITE_MULTI. */
export const MAX_WAITING_MESSAGES = 1024;

/** Bytes of those messages. */
export const MAX_WAITING_BYTES = 4 * 1024 * 1024;

/** Descriptors of those messages: those of one message. More come only where clients arm interrupts while the device
 * hangs, and a process starts with a limit of 1024. */
export const MAX_WAITING_FDS = MAX_RECEIVED_FDS;

/** Bytes that may wait to be sent to a client that does not read. Two of the largest replies: more can only mean that it
 * sends requests without taking answers. */
export const MAX_UNSENT_BYTES = 4 * 1024 * 1024;

/** Our own DMA_READ and DMA_WRITE requests that are under way at once: QEMU serves them one after the other, so more
 * would only fill its memory. Further ones wait here. */
export const MAX_DMA_REQUESTS = 32;

/** Bytes that one DMA_READ of ours asks for. QEMU (to 11.1.3) loses the rest of a reply that its socket takes in part. Linux
 * takes a message whole or not at all where it fits one buffer of the socket, about 48 KiB. */
export const MAX_DMA_READ_SIZE = 32 * 1024;

/** Milliseconds that a DMA_READ or DMA_WRITE of ours may take. QEMU serves them only while no command of its own is open,
 * which it waits for up to 5 seconds: twice that means that nobody serves them at all. */
export const DMA_TIMEOUT_MS = 10_000;

/** Milliseconds that a connected client may be silent before its VERSION: meanwhile nobody else can attach. */
export const VERSION_TIMEOUT_MS = 10_000;

/** Milliseconds after which a command is answered though its operation runs on. QEMU gives up after 5000 and then takes
 * the late reply for a broken stream; a second is left for both sides' scheduling. */
export const DEFAULT_DEADLINE_MS = 4000;

/** Milliseconds that a synchronous operation may take before the watchdog names it. A tenth of what a guest's driver
 * forgives, and far above any register access. */
export const DEFAULT_WATCHDOG_MS = 100;

/** Milliseconds after which a listening socket is tried again that could not accept a client: the process had no
 * descriptor or no memory for it. */
export const RETRY_ACCEPT_MS = 1000;

/** Milliseconds that a closing server gives to the operation under way. */
export const CLOSE_GRACE_MS = 1000;

/** Milliseconds that the server to which a client is handed over has for each answer while the client is served as before: it
 * opens and resets its device meanwhile. */
export const HANDOVER_ANSWER_MS = 10_000;

/** Bytes of one record's payload between servers that move a device. Each side has two buffers of so many for what it sends and
 * two for what it receives, whatever the size of the state. */
export const MAX_MOVE_PAYLOAD = 1024 * 1024;

/** Ranges of memory of a device that comes: what one client can map. */
export const MAX_MOVE_RANGES = MAX_DMA_MAPS;

/** Milliseconds without a byte after which the other side of a move is given up. A driver may take that long for one step; the
 * device runs on, or stands still, until then. */
export const MOVE_STALL_MS = 30_000;

/** Milliseconds that a side which has failed waits for the other to hear why. */
export const MOVE_FAREWELL_MS = 1000;

/** Milliseconds that a client waits for a reply: QEMU's. */
export const CLIENT_TIMEOUT_MS = 5000;

/** Most `max_data_xfer_size` that a client can be given. It receives whole messages, so this is memory of each one. */
export const MAX_CLIENT_XFER_SIZE = 32 * 1024 * 1024;

/** Bytes that may wait to be sent to a server that does not read: 64 of the largest writes of a default connection, or
 * more than a million posted ones. */
export const CLIENT_MAX_UNSENT_BYTES = 64 * 1024 * 1024;

/** Times that a client asks for one region's info: the size that it is told must not grow for ever. */
export const MAX_REGION_INFO_TRIES = 3;

/** `max_msg_fds` that a client announces: a reply carries one descriptor for a region, a VERSION reply one. */
export const CLIENT_MAX_MSG_FDS = 16;

/** `migration.max_bitmap_size` that a client announces: QEMU's, the bitmap of 8 TiB in pages of 4 KiB. */
export const MAX_BITMAP_SIZE = 256 * 1024 * 1024;

/** Bytes of region info that a client makes room for. The largest real ones have a few areas of 16 bytes. */
export const MAX_REGION_INFO_SIZE = 64 * 1024;
