/**
 * What the info calls return: the kernel's structs without `argsz` and offsets of capabilities, which belong to the
 * bytes (see `@vfio/uapi`, ioctl).
 */

/** A range of a region that may be mapped. */
export interface RegionRange {
  readonly offset: number;
  readonly size: number;
}

/** A capability of GET_REGION_INFO or GET_INFO. Where this library knows the id, the content is typed. */
export type RegionCap =
  | {
      readonly id: typeof import('@vfio/uapi').VFIO_REGION_INFO_CAP_SPARSE_MMAP;
      readonly version: 1;
      readonly areas: readonly RegionRange[];
    }
  | {
      readonly id: typeof import('@vfio/uapi').VFIO_REGION_INFO_CAP_TYPE;
      readonly version: 1;
      readonly type: number;
      readonly subtype: number;
    }
  | { readonly id: typeof import('@vfio/uapi').VFIO_REGION_INFO_CAP_MSIX_MAPPABLE; readonly version: 1 };

/** A device capability: the payload after the 8-byte header, in the byte order of this host. */
export interface DeviceCap {
  readonly id: number;
  readonly version: number;
  readonly data: Uint8Array;
}

/** VFIO_DEVICE_GET_INFO. */
export interface DeviceInfo {
  /** VFIO_DEVICE_FLAGS_*, without CAPS: that one belongs to the bytes. */
  readonly flags: number;
  readonly numRegions: number;
  readonly numIrqs: number;
  readonly caps: readonly DeviceCap[];
}

/** VFIO_DEVICE_GET_REGION_INFO. */
export interface RegionInfo {
  readonly index: number;
  /** VFIO_REGION_INFO_FLAG_*, without CAPS: that one belongs to the bytes. */
  readonly flags: number;
  readonly size: number;
  /** Where the region starts in the device's file, as the base reports it: never computed from the index. */
  readonly offset: number;
  readonly caps: readonly RegionCap[];
}

/** VFIO_DEVICE_GET_IRQ_INFO. */
export interface IrqInfo {
  readonly index: number;
  /** VFIO_IRQ_INFO_*. */
  readonly flags: number;
  readonly count: number;
}

/** One function that a hot reset takes with it. */
export interface HotResetDependent {
  /** Group number, or the device id in cdev mode. */
  readonly id: number;
  readonly segment: number;
  readonly bus: number;
  readonly devfn: number;
}

/** VFIO_DEVICE_GET_PCI_HOT_RESET_INFO. */
export interface HotResetInfo {
  /** VFIO_PCI_HOT_RESET_FLAG_*. */
  readonly flags: number;
  readonly devices: readonly HotResetDependent[];
}
