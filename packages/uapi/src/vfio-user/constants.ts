/**
 * Constants of the vfio-user protocol (QEMU's vfio-user specification, libvfio-user). A name that no C header has is
 * ours, made by the header's rules.
 */

/** Size of the header of every message. */
export const VFIO_USER_HEADER_SIZE = 16;

/** Protocol version that this project speaks. */
export const VFIO_USER_MAJOR = 0;
/** Highest minor that this project speaks. QEMU proposes 0.0 and refuses a reply above it. */
export const VFIO_USER_MINOR = 2;

/* Commands */
export const VFIO_USER_VERSION = 1;
export const VFIO_USER_DMA_MAP = 2;
export const VFIO_USER_DMA_UNMAP = 3;
export const VFIO_USER_DEVICE_GET_INFO = 4;
export const VFIO_USER_DEVICE_GET_REGION_INFO = 5;
export const VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6;
export const VFIO_USER_DEVICE_GET_IRQ_INFO = 7;
export const VFIO_USER_DEVICE_SET_IRQS = 8;
export const VFIO_USER_REGION_READ = 9;
export const VFIO_USER_REGION_WRITE = 10;
export const VFIO_USER_DMA_READ = 11;
export const VFIO_USER_DMA_WRITE = 12;
export const VFIO_USER_DEVICE_RESET = 13;
/** Removed from the protocol (migration version 1); answered as an unknown command. */
export const VFIO_USER_DIRTY_PAGES = 14;
export const VFIO_USER_REGION_WRITE_MULTI = 15;
export const VFIO_USER_DEVICE_FEATURE = 16;
export const VFIO_USER_MIG_DATA_READ = 17;
export const VFIO_USER_MIG_DATA_WRITE = 18;

/* Header flags */
export const VFIO_USER_F_TYPE_MASK = 0xf;
export const VFIO_USER_F_TYPE_COMMAND = 0x0;
export const VFIO_USER_F_TYPE_REPLY = 0x1;
export const VFIO_USER_F_NO_REPLY = 0x10;
export const VFIO_USER_F_ERROR = 0x20;

/* DMA_MAP flags */
export const VFIO_USER_F_DMA_REGION_READ = 0x1;
export const VFIO_USER_F_DMA_REGION_WRITE = 0x2;
export const VFIO_USER_F_DMA_REGION_MMAP = 0x4;
export const VFIO_USER_F_DMA_REGION_FILE_IO = 0x8;
export const VFIO_USER_F_DMA_REGION_MASK = 0xf;

/* DMA_UNMAP flags (libvfio-user; the specification calls the field unused) */
export const VFIO_USER_F_DMA_UNMAP_GET_DIRTY_BITMAP = 0x1;
export const VFIO_USER_F_DMA_UNMAP_ALL = 0x2;
export const VFIO_USER_F_DMA_UNMAP_MASK = 0x3;

/* GET_REGION_IO_FDS entry types */
export const VFIO_USER_IO_FD_TYPE_IOEVENTFD = 0;
export const VFIO_USER_IO_FD_TYPE_IOREGIONFD = 1;
export const VFIO_USER_IO_FD_TYPE_IOEVENTFD_SHADOW = 2;
/** Size of an entry in the specification. */
export const VFIO_USER_IO_FD_ENTRY_SIZE = 40;
/** Size of an entry in libvfio-user, which adds the shadow fields. */
export const VFIO_USER_IO_FD_ENTRY_SIZE_SHADOW = 48;

/* Keys of the JSON in VERSION */
export const VFIO_USER_CAPABILITIES = 'capabilities';
export const VFIO_USER_CAP_MAX_MSG_FDS = 'max_msg_fds';
export const VFIO_USER_CAP_MAX_DATA_XFER_SIZE = 'max_data_xfer_size';
export const VFIO_USER_CAP_MAX_DMA_MAPS = 'max_dma_maps';
export const VFIO_USER_CAP_PGSIZES = 'pgsizes';
export const VFIO_USER_CAP_MIGRATION = 'migration';
export const VFIO_USER_CAP_TWIN_SOCKET = 'twin_socket';
export const VFIO_USER_CAP_WRITE_MULTIPLE = 'write_multiple';

/* What holds where a peer does not say */
export const VFIO_USER_DEFAULT_MAX_MSG_FDS = 1;
export const VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE = 1048576;
export const VFIO_USER_DEFAULT_MAX_DMA_MAPS = 65535;
export const VFIO_USER_DEFAULT_PGSIZES = 4096;

/* Limits */
/** Largest number of descriptors in one message (libvfio-user, and what Linux takes is 253). */
export const VFIO_USER_MAX_MSG_FDS = 1024;
/** Largest message that libvfio-user takes: 1 MiB of data and 32 bytes. */
export const VFIO_USER_MAX_MSG_SIZE = 1048608;
/** Data of one write in REGION_WRITE_MULTI. */
export const VFIO_USER_MULTI_DATA = 8;
/** Most writes that QEMU puts into one REGION_WRITE_MULTI. */
export const VFIO_USER_MULTI_MAX = 200;
/** An `error_no` above this is not an errno; a receiver takes EINVAL instead. */
export const VFIO_USER_MAX_ERRNO = 4096;
