/**
 * Constants of `linux/vfio.h` and `linux/vfio_zdev.h`, in their spelling. Some are newer than many an installed header;
 * which ones, and what an older kernel does instead, is said where it matters to a caller.
 */

export const VFIO_API_VERSION = 0;

/* IOMMU types and extensions (VFIO_CHECK_EXTENSION, VFIO_SET_IOMMU) */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_SPAPR_TCE_IOMMU = 2;
export const VFIO_TYPE1v2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;
export const VFIO_EEH = 5;
export const VFIO_TYPE1_NESTING_IOMMU = 6;
export const VFIO_SPAPR_TCE_v2_IOMMU = 7;
export const VFIO_NOIOMMU_IOMMU = 8;
export const VFIO_UNMAP_ALL = 9;
export const VFIO_UPDATE_VADDR = 10;

/* Request numbers: `_IO(';', 100 + n)`, no size and no direction in them */
export const VFIO_TYPE = 0x3b;
export const VFIO_BASE = 100;
export const VFIO_GET_API_VERSION = 0x3b64;
export const VFIO_CHECK_EXTENSION = 0x3b65;
export const VFIO_SET_IOMMU = 0x3b66;
export const VFIO_GROUP_GET_STATUS = 0x3b67;
export const VFIO_GROUP_SET_CONTAINER = 0x3b68;
export const VFIO_GROUP_UNSET_CONTAINER = 0x3b69;
export const VFIO_GROUP_GET_DEVICE_FD = 0x3b6a;
export const VFIO_DEVICE_GET_INFO = 0x3b6b;
export const VFIO_DEVICE_GET_REGION_INFO = 0x3b6c;
export const VFIO_DEVICE_GET_IRQ_INFO = 0x3b6d;
export const VFIO_DEVICE_SET_IRQS = 0x3b6e;
export const VFIO_DEVICE_RESET = 0x3b6f;
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = 0x3b70;
export const VFIO_DEVICE_PCI_HOT_RESET = 0x3b71;
export const VFIO_DEVICE_QUERY_GFX_PLANE = 0x3b72;
export const VFIO_DEVICE_GET_GFX_DMABUF = 0x3b73;
export const VFIO_DEVICE_IOEVENTFD = 0x3b74;
export const VFIO_DEVICE_FEATURE = 0x3b75;
export const VFIO_DEVICE_BIND_IOMMUFD = 0x3b76;
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3b77;
export const VFIO_DEVICE_DETACH_IOMMUFD_PT = 0x3b78;
export const VFIO_MIG_GET_PRECOPY_INFO = 0x3b79;

/* The container uses numbers of the device again */
export const VFIO_IOMMU_GET_INFO = 0x3b70;
export const VFIO_IOMMU_MAP_DMA = 0x3b71;
export const VFIO_IOMMU_UNMAP_DMA = 0x3b72;
export const VFIO_IOMMU_ENABLE = 0x3b73;
export const VFIO_IOMMU_DISABLE = 0x3b74;
export const VFIO_IOMMU_DIRTY_PAGES = 0x3b75;

/* VFIO_GROUP_GET_STATUS */
export const VFIO_GROUP_FLAGS_VIABLE = 0x1;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 0x2;

/* VFIO_DEVICE_GET_INFO */
export const VFIO_DEVICE_FLAGS_RESET = 0x1;
export const VFIO_DEVICE_FLAGS_PCI = 0x2;
export const VFIO_DEVICE_FLAGS_PLATFORM = 0x4;
export const VFIO_DEVICE_FLAGS_AMBA = 0x8;
export const VFIO_DEVICE_FLAGS_CCW = 0x10;
export const VFIO_DEVICE_FLAGS_AP = 0x20;
export const VFIO_DEVICE_FLAGS_FSL_MC = 0x40;
export const VFIO_DEVICE_FLAGS_CAPS = 0x80;
export const VFIO_DEVICE_FLAGS_CDX = 0x100;
export const VFIO_DEVICE_API_PCI_STRING = 'vfio-pci';
export const VFIO_DEVICE_API_PLATFORM_STRING = 'vfio-platform';
export const VFIO_DEVICE_API_AMBA_STRING = 'vfio-amba';
export const VFIO_DEVICE_API_CCW_STRING = 'vfio-ccw';
export const VFIO_DEVICE_API_AP_STRING = 'vfio-ap';
export const VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1;
export const VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2;
export const VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3;
export const VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4;
export const VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5;
export const VFIO_PCI_ATOMIC_COMP32 = 0x1;
export const VFIO_PCI_ATOMIC_COMP64 = 0x2;
export const VFIO_PCI_ATOMIC_COMP128 = 0x4;
export const VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH = 0x1;

/* VFIO_DEVICE_GET_REGION_INFO */
export const VFIO_REGION_INFO_FLAG_READ = 0x1;
export const VFIO_REGION_INFO_FLAG_WRITE = 0x2;
export const VFIO_REGION_INFO_FLAG_MMAP = 0x4;
export const VFIO_REGION_INFO_FLAG_CAPS = 0x8;
export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
export const VFIO_REGION_INFO_CAP_TYPE = 2;
export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;
export const VFIO_REGION_INFO_CAP_NVLINK2_SSATGT = 4;
export const VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD = 5;
export const VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 0x80000000;
export const VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xffff;
export const VFIO_REGION_TYPE_GFX = 1;
export const VFIO_REGION_TYPE_CCW = 2;
export const VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2;
export const VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3;
export const VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM = 1;
export const VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD = 1;
export const VFIO_REGION_SUBTYPE_GFX_EDID = 1;
export const VFIO_DEVICE_GFX_LINK_STATE_UP = 1;
export const VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2;
export const VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD = 1;
export const VFIO_REGION_SUBTYPE_CCW_SCHIB = 2;
export const VFIO_REGION_SUBTYPE_CCW_CRW = 3;
export const VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED = 1;

/* Region indexes of a PCI device; device-specific regions start at VFIO_PCI_NUM_REGIONS */
export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_BAR1_REGION_INDEX = 1;
export const VFIO_PCI_BAR2_REGION_INDEX = 2;
export const VFIO_PCI_BAR3_REGION_INDEX = 3;
export const VFIO_PCI_BAR4_REGION_INDEX = 4;
export const VFIO_PCI_BAR5_REGION_INDEX = 5;
export const VFIO_PCI_ROM_REGION_INDEX = 6;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_VGA_REGION_INDEX = 8;
export const VFIO_PCI_NUM_REGIONS = 9;

/* VFIO_DEVICE_GET_IRQ_INFO */
export const VFIO_IRQ_INFO_EVENTFD = 0x1;
export const VFIO_IRQ_INFO_MASKABLE = 0x2;
export const VFIO_IRQ_INFO_AUTOMASKED = 0x4;
export const VFIO_IRQ_INFO_NORESIZE = 0x8;

/* VFIO_DEVICE_SET_IRQS */
export const VFIO_IRQ_SET_DATA_NONE = 0x1;
export const VFIO_IRQ_SET_DATA_BOOL = 0x2;
export const VFIO_IRQ_SET_DATA_EVENTFD = 0x4;
export const VFIO_IRQ_SET_ACTION_MASK = 0x8;
export const VFIO_IRQ_SET_ACTION_UNMASK = 0x10;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 0x20;
export const VFIO_IRQ_SET_DATA_TYPE_MASK = 0x7;
export const VFIO_IRQ_SET_ACTION_TYPE_MASK = 0x38;

/* Interrupt indexes of a PCI device */
export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_ERR_IRQ_INDEX = 3;
export const VFIO_PCI_REQ_IRQ_INDEX = 4;
export const VFIO_PCI_NUM_IRQS = 5;

/* Region and interrupt indexes of vfio-ccw and vfio-ap devices */
export const VFIO_CCW_CONFIG_REGION_INDEX = 0;
export const VFIO_CCW_NUM_REGIONS = 1;
export const VFIO_CCW_IO_IRQ_INDEX = 0;
export const VFIO_CCW_CRW_IRQ_INDEX = 1;
export const VFIO_CCW_REQ_IRQ_INDEX = 2;
export const VFIO_CCW_NUM_IRQS = 3;
export const VFIO_AP_REQ_IRQ_INDEX = 0;
export const VFIO_AP_CFG_CHG_IRQ_INDEX = 1;
export const VFIO_AP_NUM_IRQS = 2;

/* VFIO_DEVICE_GET_PCI_HOT_RESET_INFO; `devid` values of a device opened through its own node */
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 0x1;
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 0x2;
export const VFIO_PCI_DEVID_OWNED = 0;
export const VFIO_PCI_DEVID_NOT_OWNED = -1;

/* VFIO_DEVICE_QUERY_GFX_PLANE */
export const VFIO_GFX_PLANE_TYPE_PROBE = 0x1;
export const VFIO_GFX_PLANE_TYPE_DMABUF = 0x2;
export const VFIO_GFX_PLANE_TYPE_REGION = 0x4;

/* VFIO_DEVICE_IOEVENTFD */
export const VFIO_DEVICE_IOEVENTFD_8 = 0x1;
export const VFIO_DEVICE_IOEVENTFD_16 = 0x2;
export const VFIO_DEVICE_IOEVENTFD_32 = 0x4;
export const VFIO_DEVICE_IOEVENTFD_64 = 0x8;
export const VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xf;

/* VFIO_DEVICE_BIND_IOMMUFD, VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_DETACH_IOMMUFD_PT */
export const VFIO_DEVICE_BIND_FLAG_TOKEN = 0x1;
export const VFIO_DEVICE_ATTACH_PASID = 0x1;
export const VFIO_DEVICE_DETACH_PASID = 0x1;

/* VFIO_DEVICE_FEATURE */
export const VFIO_DEVICE_FEATURE_MASK = 0xffff;
export const VFIO_DEVICE_FEATURE_GET = 0x10000;
export const VFIO_DEVICE_FEATURE_SET = 0x20000;
export const VFIO_DEVICE_FEATURE_PROBE = 0x40000;
export const VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0;
export const VFIO_DEVICE_FEATURE_MIGRATION = 1;
export const VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2;
export const VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3;
export const VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4;
export const VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7;
export const VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8;
export const VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9;
export const VFIO_DEVICE_FEATURE_BUS_MASTER = 10;
export const VFIO_DEVICE_FEATURE_DMA_BUF = 11;
export const VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12;
export const VFIO_DEVICE_FEATURE_ZPCI_ERROR = 13;
export const VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0;
export const VFIO_DEVICE_FEATURE_SET_MASTER = 1;

/* Migration: what a device can do, and its states */
export const VFIO_MIGRATION_STOP_COPY = 0x1;
export const VFIO_MIGRATION_P2P = 0x2;
export const VFIO_MIGRATION_PRE_COPY = 0x4;
export const VFIO_DEVICE_STATE_ERROR = 0;
export const VFIO_DEVICE_STATE_STOP = 1;
export const VFIO_DEVICE_STATE_RUNNING = 2;
export const VFIO_DEVICE_STATE_STOP_COPY = 3;
export const VFIO_DEVICE_STATE_RESUMING = 4;
export const VFIO_DEVICE_STATE_RUNNING_P2P = 5;
export const VFIO_DEVICE_STATE_PRE_COPY = 6;
export const VFIO_DEVICE_STATE_PRE_COPY_P2P = 7;
export const VFIO_DEVICE_STATE_NR = 8;
export const VFIO_PRECOPY_INFO_REINIT = 0x1;

/* Migration version 1, gone; a kernel before 5.18 may still show its region */
export const VFIO_DEVICE_STATE_V1_STOP = 0;
export const VFIO_DEVICE_STATE_V1_RUNNING = 0x1;
export const VFIO_DEVICE_STATE_V1_SAVING = 0x2;
export const VFIO_DEVICE_STATE_V1_RESUMING = 0x4;
export const VFIO_DEVICE_STATE_MASK = 0x7;

/* Type 1 IOMMU: VFIO_IOMMU_GET_INFO, MAP_DMA, UNMAP_DMA, DIRTY_PAGES */
export const VFIO_IOMMU_INFO_PGSIZES = 0x1;
export const VFIO_IOMMU_INFO_CAPS = 0x2;
export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
export const VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;
export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;
export const VFIO_DMA_MAP_FLAG_READ = 0x1;
export const VFIO_DMA_MAP_FLAG_WRITE = 0x2;
export const VFIO_DMA_MAP_FLAG_VADDR = 0x4;
export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 0x1;
export const VFIO_DMA_UNMAP_FLAG_ALL = 0x2;
export const VFIO_DMA_UNMAP_FLAG_VADDR = 0x4;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 0x1;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 0x2;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 0x4;
