/**
 * Layouts of `linux/vfio.h`, `linux/vfio_zdev.h` and the value types that go with them. Field names are the kernel's words
 * in camelCase. Variable parts (data, capabilities, ranges) follow the fixed part and have their own codecs.
 *
 * 64-bit fields are numbers where they count bytes of a region or a stream, and bigints where they hold an address, a
 * pointer or data of any value.
 */
import { bytes, reserved, type StructOf, s32, struct, u8, u16, u32, u64, u64n } from './struct.js';

/* --- groups and containers --- */

export const vfioGroupStatus = struct('vfio_group_status', { argsz: u32, flags: u32 });
export interface VfioGroupStatus extends StructOf<typeof vfioGroupStatus> {}

export const vfioIommuType1Info = struct('vfio_iommu_type1_info', {
  argsz: u32,
  flags: u32,
  iovaPgsizes: u64,
  capOffset: u32,
  pad: reserved(4, 4),
});
export interface VfioIommuType1Info extends StructOf<typeof vfioIommuType1Info> {}

export const vfioIommuType1DmaMap = struct('vfio_iommu_type1_dma_map', {
  argsz: u32,
  flags: u32,
  vaddr: u64,
  iova: u64,
  size: u64,
});
export interface VfioIommuType1DmaMap extends StructOf<typeof vfioIommuType1DmaMap> {}

export const vfioIommuType1DmaUnmap = struct('vfio_iommu_type1_dma_unmap', {
  argsz: u32,
  flags: u32,
  iova: u64,
  size: u64,
});
export interface VfioIommuType1DmaUnmap extends StructOf<typeof vfioIommuType1DmaUnmap> {}

/** `data` is a pointer in the caller's address space. */
export const vfioBitmap = struct('vfio_bitmap', { pgsize: u64, size: u64, data: u64 });
export interface VfioBitmap extends StructOf<typeof vfioBitmap> {}

export const vfioIommuType1DirtyBitmap = struct('vfio_iommu_type1_dirty_bitmap', { argsz: u32, flags: u32 });
export interface VfioIommuType1DirtyBitmap extends StructOf<typeof vfioIommuType1DirtyBitmap> {}

export const vfioIommuType1DirtyBitmapGet = struct('vfio_iommu_type1_dirty_bitmap_get', {
  iova: u64,
  size: u64,
  bitmapPgsize: u64,
  bitmapSize: u64,
  bitmapData: u64,
});
export interface VfioIommuType1DirtyBitmapGet extends StructOf<typeof vfioIommuType1DirtyBitmapGet> {}

export const vfioIovaRange = struct('vfio_iova_range', { start: u64, end: u64 });
export interface VfioIovaRange extends StructOf<typeof vfioIovaRange> {}

/* --- capabilities of the info calls: the header, and for each capability the body that follows the header --- */

export const vfioInfoCapHeader = struct('vfio_info_cap_header', { id: u16, version: u16, next: u32 });
export interface VfioInfoCapHeader extends StructOf<typeof vfioInfoCapHeader> {}

export const vfioIommuType1InfoCapIovaRange = struct('vfio_iommu_type1_info_cap_iova_range', {
  nrIovas: u32,
  reserved: reserved(4, 4),
});
export interface VfioIommuType1InfoCapIovaRange extends StructOf<typeof vfioIommuType1InfoCapIovaRange> {}

export const vfioIommuType1InfoCapMigration = struct('vfio_iommu_type1_info_cap_migration', {
  flags: u32,
  pad: reserved(4, 4),
  pgsizeBitmap: u64,
  maxDirtyBitmapSize: u64,
});
export interface VfioIommuType1InfoCapMigration extends StructOf<typeof vfioIommuType1InfoCapMigration> {}

export const vfioIommuType1InfoDmaAvail = struct('vfio_iommu_type1_info_dma_avail', {
  avail: u32,
});
export interface VfioIommuType1InfoDmaAvail extends StructOf<typeof vfioIommuType1InfoDmaAvail> {}

export const vfioRegionSparseMmapArea = struct('vfio_region_sparse_mmap_area', { offset: u64n, size: u64n });
export interface VfioRegionSparseMmapArea extends StructOf<typeof vfioRegionSparseMmapArea> {}

export const vfioRegionInfoCapSparseMmap = struct('vfio_region_info_cap_sparse_mmap', {
  nrAreas: u32,
  reserved: reserved(4, 4),
});
export interface VfioRegionInfoCapSparseMmap extends StructOf<typeof vfioRegionInfoCapSparseMmap> {}

export const vfioRegionInfoCapType = struct('vfio_region_info_cap_type', {
  type: u32,
  subtype: u32,
});
export interface VfioRegionInfoCapType extends StructOf<typeof vfioRegionInfoCapType> {}

export const vfioRegionInfoCapNvlink2Ssatgt = struct('vfio_region_info_cap_nvlink2_ssatgt', {
  tgt: u64,
});
export interface VfioRegionInfoCapNvlink2Ssatgt extends StructOf<typeof vfioRegionInfoCapNvlink2Ssatgt> {}

export const vfioRegionInfoCapNvlink2Lnkspd = struct('vfio_region_info_cap_nvlink2_lnkspd', {
  linkSpeed: u32,
  pad: reserved(4, 4),
});
export interface VfioRegionInfoCapNvlink2Lnkspd extends StructOf<typeof vfioRegionInfoCapNvlink2Lnkspd> {}

export const vfioDeviceInfoCapPciAtomicComp = struct('vfio_device_info_cap_pci_atomic_comp', {
  flags: u32,
  reserved: reserved(4, 4),
});
export interface VfioDeviceInfoCapPciAtomicComp extends StructOf<typeof vfioDeviceInfoCapPciAtomicComp> {}

/** Version 1 ends before `fh`, version 2 before `ccdfErrLength`; the size is the same. */
export const vfioDeviceInfoCapZpciBase = struct('vfio_device_info_cap_zpci_base', {
  startDma: u64,
  endDma: u64,
  pchid: u16,
  vfn: u16,
  fmbLength: u16,
  pft: u8,
  gid: u8,
  fh: u32,
  ccdfErrLength: u32,
});
export interface VfioDeviceInfoCapZpciBase extends StructOf<typeof vfioDeviceInfoCapZpciBase> {}

/** Version 1 ends before `imaxstbl`. */
export const vfioDeviceInfoCapZpciGroup = struct('vfio_device_info_cap_zpci_group', {
  dasm: u64,
  msiAddr: u64,
  flags: u64,
  mui: u16,
  noi: u16,
  maxstbl: u16,
  pciVersion: u8,
  reserved: reserved(1),
  imaxstbl: u16,
  pad: reserved(6, 2),
});
export interface VfioDeviceInfoCapZpciGroup extends StructOf<typeof vfioDeviceInfoCapZpciGroup> {}

export const vfioDeviceInfoCapZpciUtil = struct('vfio_device_info_cap_zpci_util', {
  size: u32,
});
export interface VfioDeviceInfoCapZpciUtil extends StructOf<typeof vfioDeviceInfoCapZpciUtil> {}

export const vfioDeviceInfoCapZpciPfip = struct('vfio_device_info_cap_zpci_pfip', {
  size: u32,
});
export interface VfioDeviceInfoCapZpciPfip extends StructOf<typeof vfioDeviceInfoCapZpciPfip> {}

/* --- devices --- */

export const vfioDeviceInfo = struct('vfio_device_info', {
  argsz: u32,
  flags: u32,
  numRegions: u32,
  numIrqs: u32,
  capOffset: u32,
  pad: reserved(4, 4),
});
export interface VfioDeviceInfo extends StructOf<typeof vfioDeviceInfo> {}

export const vfioRegionInfo = struct('vfio_region_info', {
  argsz: u32,
  flags: u32,
  index: u32,
  capOffset: u32,
  size: u64n,
  offset: u64n,
});
export interface VfioRegionInfo extends StructOf<typeof vfioRegionInfo> {}

export const vfioIrqInfo = struct('vfio_irq_info', { argsz: u32, flags: u32, index: u32, count: u32 });
export interface VfioIrqInfo extends StructOf<typeof vfioIrqInfo> {}

export const vfioIrqSet = struct('vfio_irq_set', { argsz: u32, flags: u32, index: u32, start: u32, count: u32 });
export interface VfioIrqSet extends StructOf<typeof vfioIrqSet> {}

/** `groupId` is the `devid` where the reply has VFIO_PCI_HOT_RESET_FLAG_DEV_ID. */
export const vfioPciDependentDevice = struct('vfio_pci_dependent_device', {
  groupId: u32,
  segment: u16,
  bus: u8,
  devfn: u8,
});
export interface VfioPciDependentDevice extends StructOf<typeof vfioPciDependentDevice> {}

export const vfioPciHotResetInfo = struct('vfio_pci_hot_reset_info', { argsz: u32, flags: u32, count: u32 });
export interface VfioPciHotResetInfo extends StructOf<typeof vfioPciHotResetInfo> {}

export const vfioPciHotReset = struct('vfio_pci_hot_reset', { argsz: u32, flags: u32, count: u32 });
export interface VfioPciHotReset extends StructOf<typeof vfioPciHotReset> {}

export const vfioDeviceIoeventfd = struct('vfio_device_ioeventfd', {
  argsz: u32,
  flags: u32,
  offset: u64,
  data: u64,
  fd: s32,
  reserved: reserved(4, 4),
});
export interface VfioDeviceIoeventfd extends StructOf<typeof vfioDeviceIoeventfd> {}

export const vfioDeviceFeature = struct('vfio_device_feature', { argsz: u32, flags: u32 });
export interface VfioDeviceFeature extends StructOf<typeof vfioDeviceFeature> {}

export const vfioDeviceBindIommufd = struct('vfio_device_bind_iommufd', {
  argsz: u32,
  flags: u32,
  iommufd: s32,
  outDevid: u32,
  tokenUuidPtr: u64,
});
export interface VfioDeviceBindIommufd extends StructOf<typeof vfioDeviceBindIommufd> {}

export const vfioDeviceAttachIommufdPt = struct('vfio_device_attach_iommufd_pt', {
  argsz: u32,
  flags: u32,
  ptId: u32,
  pasid: u32,
});
export interface VfioDeviceAttachIommufdPt extends StructOf<typeof vfioDeviceAttachIommufdPt> {}

export const vfioDeviceDetachIommufdPt = struct('vfio_device_detach_iommufd_pt', {
  argsz: u32,
  flags: u32,
  pasid: u32,
});
export interface VfioDeviceDetachIommufdPt extends StructOf<typeof vfioDeviceDetachIommufdPt> {}

/* --- features: what follows vfio_device_feature --- */

/** Feature 0: a UUID, 16 bytes in the order in which its text has them. */
export const vfioDeviceFeaturePciVfToken = struct('vfio_device_feature_pci_vf_token', { uuid: bytes(16) });
export interface VfioDeviceFeaturePciVfToken extends StructOf<typeof vfioDeviceFeaturePciVfToken> {}

export const vfioDeviceFeatureMigration = struct('vfio_device_feature_migration', { flags: u64n });
export interface VfioDeviceFeatureMigration extends StructOf<typeof vfioDeviceFeatureMigration> {}

export const vfioDeviceFeatureMigState = struct('vfio_device_feature_mig_state', { deviceState: u32, dataFd: s32 });
export interface VfioDeviceFeatureMigState extends StructOf<typeof vfioDeviceFeatureMigState> {}

export const vfioDeviceLowPowerEntryWithWakeup = struct('vfio_device_low_power_entry_with_wakeup', {
  wakeupEventfd: s32,
  reserved: reserved(4, 4),
});
export interface VfioDeviceLowPowerEntryWithWakeup extends StructOf<typeof vfioDeviceLowPowerEntryWithWakeup> {}

/** `ranges` is a pointer in the caller's address space; in vfio-user the ranges follow and the pointer is absent. */
export const vfioDeviceFeatureDmaLoggingControl = struct('vfio_device_feature_dma_logging_control', {
  pageSize: u64,
  numRanges: u32,
  reserved: reserved(4, 4),
  ranges: u64,
});
export interface VfioDeviceFeatureDmaLoggingControl extends StructOf<typeof vfioDeviceFeatureDmaLoggingControl> {}

export const vfioDeviceFeatureDmaLoggingRange = struct('vfio_device_feature_dma_logging_range', {
  iova: u64,
  length: u64,
});
export interface VfioDeviceFeatureDmaLoggingRange extends StructOf<typeof vfioDeviceFeatureDmaLoggingRange> {}

/** `bitmap` is a pointer in the caller's address space; in vfio-user it is absent and the reply carries the bitmap. */
export const vfioDeviceFeatureDmaLoggingReport = struct('vfio_device_feature_dma_logging_report', {
  iova: u64,
  length: u64,
  pageSize: u64,
  bitmap: u64,
});
export interface VfioDeviceFeatureDmaLoggingReport extends StructOf<typeof vfioDeviceFeatureDmaLoggingReport> {}

export const vfioDeviceFeatureMigDataSize = struct('vfio_device_feature_mig_data_size', { stopCopyLength: u64 });
export interface VfioDeviceFeatureMigDataSize extends StructOf<typeof vfioDeviceFeatureMigDataSize> {}

export const vfioDeviceFeatureBusMaster = struct('vfio_device_feature_bus_master', { op: u32 });
export interface VfioDeviceFeatureBusMaster extends StructOf<typeof vfioDeviceFeatureBusMaster> {}

export const vfioRegionDmaRange = struct('vfio_region_dma_range', { offset: u64, length: u64 });
export interface VfioRegionDmaRange extends StructOf<typeof vfioRegionDmaRange> {}

export const vfioDeviceFeatureDmaBuf = struct('vfio_device_feature_dma_buf', {
  regionIndex: u32,
  openFlags: u32,
  flags: u32,
  nrRanges: u32,
});
export interface VfioDeviceFeatureDmaBuf extends StructOf<typeof vfioDeviceFeatureDmaBuf> {}

/** Feature 13: `data` points to a buffer in the caller's address space. */
export const vfioDeviceFeatureZpciErr = struct('vfio_device_feature_zpci_err', { data: u64 });
export interface VfioDeviceFeatureZpciErr extends StructOf<typeof vfioDeviceFeatureZpciErr> {}

/* --- migration data descriptor --- */

export const vfioPrecopyInfo = struct('vfio_precopy_info', {
  argsz: u32,
  flags: u32,
  initialBytes: u64,
  dirtyBytes: u64,
});
export interface VfioPrecopyInfo extends StructOf<typeof vfioPrecopyInfo> {}
