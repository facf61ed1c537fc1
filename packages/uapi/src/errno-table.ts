/**
 * What bad input gets: each row is one mistake in one call and the errno that the kernel gives for it (Linux 7.3; where
 * older kernels differ, `older` says how). Tests are driven from this table: each row of the layer `ioctl` has a numbered
 * test here, each row of the layer `device` one in the package that has the device.
 *
 * `ioctl`: decidable from the bytes and the device's counts (regions, interrupts, functions of a reset), and decided by
 * `dispatchIoctl`. `device`: needs the state of a device.
 */
import type { ErrnoName } from './errno.js';

/** One mistake. */
export interface ErrnoRow {
  /** Call and number: `SET_IRQS.3`. Stable. */
  readonly id: string;
  /** The call, without its prefix. */
  readonly call: string;
  /** What is wrong, or what is asked. */
  readonly condition: string;
  /** `undefined`: the call succeeds, as `result` says. */
  readonly errno: ErrnoName | undefined;
  readonly layer: 'ioctl' | 'device';
  /** What a call without an errno gives. */
  readonly result?: string;
  /** What kernels before the one described give. */
  readonly older?: string;
}

type Row = readonly [
  layer: ErrnoRow['layer'],
  errno: ErrnoName | undefined,
  condition: string,
  more?: { readonly result?: string; readonly older?: string },
];

function rows(call: string, list: readonly Row[]): ErrnoRow[] {
  return list.map(([layer, errno, condition, more], index) => ({
    id: `${call}.${index + 1}`,
    call,
    condition,
    errno,
    layer,
    ...more,
  }));
}

/** Every row, in the order of the calls. New rows go to the end of their call, so that numbers stay. */
export const ERRNO_TABLE: readonly ErrnoRow[] = [
  ...rows('GET_INFO', [
    ['ioctl', 'EFAULT', 'fewer than 16 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 16'],
    ['ioctl', undefined, 'argsz is too small for the capabilities', { result: 'CAPS set, cap_offset 0, argsz raised' }],
    ['ioctl', 'EFAULT', 'argsz says more than can be written, and the reply needs it'],
    ['ioctl', undefined, 'argsz is 16', { result: 'the first 16 bytes of the struct' }],
  ]),
  ...rows('GET_REGION_INFO', [
    ['ioctl', 'EFAULT', 'fewer than 32 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 32'],
    ['ioctl', 'EINVAL', 'the index is not below the number of regions'],
    ['ioctl', undefined, 'argsz is too small for the capabilities', { result: 'CAPS set, cap_offset 0, argsz raised' }],
    ['ioctl', 'EFAULT', 'argsz says more than can be written, and the reply needs it'],
    ['device', undefined, 'a BAR of no size', { result: 'size 0, flags 0' }],
    ['device', undefined, 'a ROM without readable content', { result: 'size 0' }],
    ['device', 'EINVAL', 'the VGA region of a device without one'],
  ]),
  ...rows('GET_IRQ_INFO', [
    ['ioctl', 'EFAULT', 'fewer than 16 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 16'],
    ['ioctl', 'EINVAL', 'the index is not below the number of interrupt indexes'],
    ['device', undefined, 'ERR of a device that is not PCI Express', { result: 'count 1', older: 'EINVAL' }],
  ]),
  ...rows('SET_IRQS', [
    ['ioctl', 'EFAULT', 'fewer than 20 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 20'],
    ['ioctl', 'EINVAL', 'the index is not below the number of interrupt indexes'],
    ['ioctl', 'EINVAL', 'count is 2^32-1 - start or more'],
    ['ioctl', 'EINVAL', 'an unknown flag bit'],
    ['ioctl', 'EINVAL', 'start is not below the number of interrupts, also with a count of 0'],
    ['ioctl', 'EINVAL', 'start + count is above the number of interrupts'],
    ['ioctl', 'EINVAL', 'no data type, or more than one'],
    ['ioctl', 'EINVAL', 'argsz is too small for count elements of the data type'],
    ['ioctl', 'EFAULT', 'the data cannot be read'],
    ['ioctl', 'ENOTTY', 'an action that the index does not have, none, or more than one'],
    ['ioctl', undefined, 'fewer vectors than asked can be had', { result: 'their positive number' }],
    ['device', 'EINVAL', 'another index than the active one of INTx, MSI and MSI-X'],
    ['device', 'EINVAL', 'disabling an index that is not active'],
    ['device', 'EINVAL', 'INTx with a start other than 0 or a count other than 1, except to disable it'],
    ['device', 'EINVAL', 'INTx mask or unmask while it is not active'],
    ['device', 'ENOTTY', 'INTx MASK with an eventfd'],
    ['device', 'EBUSY', 'a second eventfd for INTx UNMASK'],
    ['device', 'ENODEV', 'INTx of a device without a line'],
    ['device', 'ERANGE', 'MSI or MSI-X enabled with start + count of 0'],
    ['device', 'EINVAL', 'MSI or NORESIZE vectors beyond those that are allocated'],
    ['device', 'EINVAL', 'loopback trigger of INTx while it is not active'],
    ['device', 'EINVAL', 'ERR or REQ with a start other than 0 or a count above 1'],
    ['device', 'EINVAL', 'ERR or REQ trigger by DATA_NONE without a registered eventfd'],
    ['device', 'EINVAL', 'ERR or REQ with DATA_BOOL or DATA_EVENTFD and a count of 0'],
    ['device', 'EINVAL', 'ERR or REQ with an eventfd below -1'],
  ]),
  ...rows('RESET', [
    ['device', 'EINVAL', 'the function cannot be reset'],
    ['device', 'EAGAIN', 'a lock is contended'],
  ]),
  ...rows('GET_PCI_HOT_RESET_INFO', [
    ['ioctl', 'EFAULT', 'fewer than 12 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 12'],
    ['ioctl', 'ENOSPC', 'argsz is too small for the functions; count is written'],
    ['device', 'ENODEV', 'neither a slot nor a bus reset is possible'],
    ['device', 'EPERM', 'a function without an IOMMU group, opened through the group'],
  ]),
  ...rows('PCI_HOT_RESET', [
    ['ioctl', 'EFAULT', 'fewer than 12 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 12'],
    ['ioctl', 'EINVAL', 'flags are not 0'],
    ['ioctl', 'EINVAL', 'no descriptors on a device opened through its group'],
    ['ioctl', 'EINVAL', 'descriptors on a device opened through its own node'],
    ['device', 'ENODEV', 'neither a slot nor a bus reset is possible'],
    ['ioctl', 'EINVAL', 'more descriptors than affected functions'],
    ['ioctl', 'EFAULT', 'the descriptors cannot be read'],
    ['device', 'EBADF', 'a descriptor that is not open'],
    ['device', 'EINVAL', 'a descriptor of something else than a group'],
    ['device', 'EINVAL', 'an affected function that is not in the set or not owned'],
    ['device', 'EBUSY', 'the memory lock of an affected function is taken'],
  ]),
  ...rows('IOEVENTFD', [
    ['ioctl', 'EFAULT', 'fewer than 28 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 28'],
    ['ioctl', 'EINVAL', 'an unknown flag'],
    ['ioctl', 'EINVAL', 'no size flag, or more than one'],
    ['ioctl', 'EINVAL', 'a descriptor below -1'],
    ['ioctl', 'EINVAL', 'an offset outside the BARs'],
    ['device', 'EINVAL', 'beyond the end of the BAR'],
    ['device', 'EINVAL', 'over the MSI-X table'],
    ['device', undefined, '64 bits wide', { result: '0', older: 'EINVAL on machines without 64-bit writes' }],
    ['device', 'ENODEV', 'the BAR has no resource or cannot be mapped'],
    ['device', 'EBUSY', 'the BAR could not be reserved'],
    ['device', 'EEXIST', 'the same BAR, offset, data and size again'],
    ['device', 'ENODEV', 'removing one that is not there'],
    ['device', 'ENOSPC', '1000 are there already'],
    ['device', 'ENOMEM', 'mapping the BAR failed'],
  ]),
  ...rows('FEATURE', [
    ['ioctl', 'EFAULT', 'fewer than 8 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 8'],
    ['ioctl', 'EINVAL', 'an unknown flag bit'],
    ['ioctl', 'EINVAL', 'GET and SET without PROBE'],
    [
      'device',
      'ENOTTY',
      'a feature that the device does not have',
      { older: 'EINVAL of drivers without a feature op' },
    ],
    ['device', 'ENOTTY', 'a migration feature of a device without migration'],
    ['device', 'ENOTTY', 'a DMA logging feature of a device without it'],
    ['ioctl', 'EINVAL', 'GET or SET that the feature does not have, also with PROBE'],
    ['ioctl', undefined, 'PROBE of what the feature has', { result: '0, without data' }],
    ['ioctl', 'EINVAL', 'neither GET, SET nor PROBE'],
    ['ioctl', 'EINVAL', 'argsz is too small for the data of the feature'],
    ['ioctl', 'EFAULT', 'the data cannot be read'],
    ['device', 'EINVAL', 'MIG_PRECOPY_INFOv2 of a device without PRE_COPY, also with PROBE'],
    ['ioctl', 'EINVAL', 'LOW_POWER_ENTRY_WITH_WAKEUP with an eventfd below 0'],
    ['device', 'EINVAL', 'low power entry while it is engaged'],
    ['ioctl', 'EINVAL', 'ZPCI_ERROR without a buffer'],
    ['device', 'ENOMSG', 'ZPCI_ERROR with nothing pending'],
    ['device', 'ENODEV', 'ZPCI_ERROR of a function that is not zPCI'],
  ]),
  ...rows('DMA_BUF', [
    ['device', 'EOPNOTSUPP', 'a driver that has no dma-bufs, also with PROBE'],
    ['ioctl', 'EINVAL', 'no ranges'],
    ['ioctl', 'EINVAL', 'flags are not 0'],
    ['ioctl', 'ENODEV', 'a region that is not a BAR'],
    ['ioctl', 'EFAULT', 'the ranges cannot be read'],
    ['ioctl', 'EINVAL', 'an offset or length that is 0 or no whole pages'],
    ['ioctl', 'EOVERFLOW', 'offset + length, or the sum of the lengths, beyond 64 bits'],
    ['device', 'EINVAL', 'past the end of the BAR'],
    ['device', 'ENODEV', 'a BAR that is not mapped'],
  ]),
  ...rows('LOGGING_START', [
    ['ioctl', 'EINVAL', 'no ranges'],
    ['ioctl', 'E2BIG', 'more ranges than fit a page of the host (256 of 4 KiB)'],
    ['ioctl', 'EFAULT', 'the ranges cannot be read'],
    ['ioctl', 'EINVAL', 'iova or length is no multiple of the page size'],
    ['ioctl', 'EOVERFLOW', 'iova + length beyond 64 bits'],
    ['ioctl', 'EINVAL', 'ranges that overlap'],
    ['device', 'EINVAL', 'logging is started already'],
  ]),
  ...rows('LOGGING_REPORT', [
    ['ioctl', 'EINVAL', 'a page size below 4096'],
    ['ioctl', 'EINVAL', 'a page size that is no power of two'],
    ['ioctl', 'EOVERFLOW', 'iova + length beyond 64 bits'],
    ['ioctl', 'EFAULT', 'the bitmap cannot be reached'],
    ['device', 'EINVAL', 'logging is not started'],
  ]),
  ...rows('MIG_DEVICE_STATE', [
    ['device', 'EINVAL', 'a state that is unknown, ERROR, or not supported by the device'],
    ['device', 'EINVAL', 'the device is in the state ERROR'],
    ['device', 'EINVAL', 'from STOP_COPY to a PRE_COPY state'],
    ['ioctl', undefined, 'any error of the device', { result: 'the errno, and the struct comes back with data_fd -1' }],
  ]),
  ...rows('MIG_GET_PRECOPY_INFO', [
    ['ioctl', 'ENOTTY', 'another request on the data descriptor'],
    ['ioctl', 'EFAULT', 'fewer than 24 bytes can be read'],
    ['ioctl', 'EINVAL', 'argsz is below 24'],
    ['device', 'EINVAL', 'outside PRE_COPY and PRE_COPY_P2P'],
  ]),
  ...rows('ioctl', [
    ['ioctl', 'ENOTTY', 'a request that is not known'],
    ['ioctl', 'EINVAL', 'any request but BIND_IOMMUFD on a device node that is not bound'],
    ['device', 'EINVAL', 'read, write or mmap on a device node that is not bound'],
  ]),
  ...rows('BIND_IOMMUFD', [
    ['ioctl', 'EINVAL', 'argsz is below 16'],
    ['ioctl', 'E2BIG', 'longer than known, and not all zeros there'],
    ['ioctl', 'EINVAL', 'an iommufd below 0'],
    ['ioctl', 'EINVAL', 'an unknown flag'],
    ['ioctl', 'EINVAL', 'opened through the group'],
    ['ioctl', 'EINVAL', 'bound already'],
    ['ioctl', 'EFAULT', 'argsz cannot be read, or says more than can be'],
    ['ioctl', 'EFAULT', 'the token cannot be read'],
    ['device', 'EINVAL', 'the device is open elsewhere'],
    ['device', 'EBUSY', 'the group is open'],
    ['device', 'EBADF', 'a descriptor that is not open'],
    ['device', 'EBADFD', 'a descriptor of something else than an iommufd'],
    ['device', 'EINVAL', 'a token for a device that takes none'],
    ['device', 'EACCES', 'a missing or wrong token'],
  ]),
  ...rows('ATTACH_IOMMUFD_PT', [
    ['ioctl', 'ENOTTY', 'opened through the group'],
    ['ioctl', 'EFAULT', 'fewer than 12 bytes can be read, or 16 with a PASID'],
    ['ioctl', 'EINVAL', 'argsz is below 12, or below 16 with a PASID'],
    ['ioctl', 'EINVAL', 'an unknown flag'],
    ['device', 'EOPNOTSUPP', 'a PASID on a device without them'],
    ['device', 'EBUSY', 'the device or one of its group is being reset'],
  ]),
  ...rows('DETACH_IOMMUFD_PT', [
    ['ioctl', 'ENOTTY', 'opened through the group'],
    ['ioctl', 'EFAULT', 'fewer than 8 bytes can be read, or 12 with a PASID'],
    ['ioctl', 'EINVAL', 'argsz is below 8, or below 12 with a PASID'],
    ['ioctl', 'EINVAL', 'an unknown flag'],
    ['device', 'EOPNOTSUPP', 'a PASID on a device without them'],
  ]),
  ...rows('read/write', [
    ['device', 'EINVAL', 'the index is not below the number of regions'],
    ['device', undefined, 'a count of 0', { result: '0' }],
    ['device', 'EINVAL', 'a write to the ROM'],
    ['device', 'EINVAL', 'a position at or past the end of a BAR'],
    ['device', undefined, 'a range that ends past the end of a BAR', { result: 'the tail is clipped' }],
    ['device', 'EINVAL', 'a BAR without a resource'],
    ['device', 'EBUSY', 'a BAR that could not be reserved'],
    ['device', 'EIO', 'a memory BAR or the ROM while memory decode is off or the function is in D3'],
    ['device', undefined, 'an I/O BAR or VGA while memory decode is off', { result: 'the access' }],
    ['device', 'EFAULT', 'config space beyond its end, tested for the whole request first'],
    ['device', 'EIO', 'the function cannot be resumed'],
    ['device', 'ENOMEM', 'a BAR whose mapping failed'],
    ['device', 'ENOMEM', 'a read of a ROM without a valid image'],
    ['device', 'EINVAL', 'VGA outside its memory and port ranges'],
  ]),
  ...rows('mmap', [
    ['device', 'EINVAL', 'not MAP_SHARED'],
    ['device', 'EINVAL', 'ROM, config space or VGA'],
    ['device', 'EINVAL', 'a BAR that cannot be mapped'],
    ['device', 'EINVAL', 'beyond the length rounded up to a page'],
    ['device', 'EINVAL', 'a device region without the MMAP flag or a hook'],
    ['device', 'EBUSY', 'a BAR that could not be reserved'],
    ['device', undefined, 'an access to a mapping while memory is disabled or in low power', { result: 'SIGBUS' }],
  ]),
];

/** The rows that a layer decides. */
export function errnoRows(layer: ErrnoRow['layer']): readonly ErrnoRow[] {
  return ERRNO_TABLE.filter((row) => row.layer === layer);
}

/** The row of an id. @throws Error for an id that the table does not have: a mistake in a test. */
export function errnoRow(id: string): ErrnoRow {
  const row = ERRNO_TABLE.find((candidate) => candidate.id === id);
  if (row === undefined) throw new Error(`no row ${id} in the errno table`);
  return row;
}
