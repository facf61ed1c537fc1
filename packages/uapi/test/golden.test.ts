/**
 * Constants and layouts compared with the system's own headers, by a C program that is compiled from our tables. What an
 * older header does not have, or has otherwise, is listed here with its reason: nothing is skipped silently. What this
 * package does not have is a failure up to the version that it was written from, and no news from a newer one.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import * as pciRegs from '../src/pci-regs.js';
import type { Struct } from '../src/struct.js';
import * as constants from '../src/vfio.js';
import * as structs from '../src/vfio-structs.js';
import { headerNames, headerText, headerVersion, printed, structMembers, whyNoHeaders } from './support/c-headers.js';

/** The newest headers of which every name is here. */
const KNOWN_TO: readonly [major: number, minor: number] = [7, 3];

/** Names that the installed header may lack, by what brought them. */
const NEWER: Record<string, readonly (string | RegExp)[]> = {
  'pre-copy migration (Linux 6.2)': [
    'VFIO_MIGRATION_PRE_COPY',
    'VFIO_DEVICE_STATE_PRE_COPY',
    'VFIO_DEVICE_STATE_PRE_COPY_P2P',
    'VFIO_DEVICE_STATE_NR',
    'VFIO_MIG_GET_PRECOPY_INFO',
    'VFIO_DEVICE_FEATURE_MIG_DATA_SIZE',
  ],
  'CDX devices (after Linux 6.1)': [
    'VFIO_DEVICE_FLAGS_CDX',
    'VFIO_DEVICE_FEATURE_BUS_MASTER',
    'VFIO_DEVICE_FEATURE_CLEAR_MASTER',
    'VFIO_DEVICE_FEATURE_SET_MASTER',
  ],
  'AtomicOp completion (after Linux 6.1)': ['VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP', /^VFIO_PCI_ATOMIC_COMP\d+$/],
  'device nodes and iommufd (after Linux 6.1, tokens and PASIDs later)': [
    /^VFIO_DEVICE_(BIND|ATTACH|DETACH)_/,
    /^VFIO_PCI_HOT_RESET_FLAG_/,
    /^VFIO_PCI_DEVID_/,
  ],
  'interrupts of vfio-ap (after Linux 6.1)': [/^VFIO_AP_/],
  'dma-bufs of BARs (Linux 6.19)': ['VFIO_DEVICE_FEATURE_DMA_BUF'],
  'REINIT (about Linux 7.1)': ['VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2', 'VFIO_PRECOPY_INFO_REINIT'],
  'zPCI error records (by Linux 7.3)': ['VFIO_DEVICE_FEATURE_ZPCI_ERROR'],
  'extended capabilities named since Linux 6.1': [
    /^PCI_EXT_CAP_ID_(NPEM|PL_32GT|PL_64GT|DEV3|IDE|VF_REBAR)$/,
    /^PCI_(NPEM|IDE|DEV3|VF_REBAR|SECPCI|PL_32GT|PL_64GT)_/,
    /^PCI_DVSEC_CXL_/,
  ],
  'bits named since Linux 6.1': [
    /^PCI_(PRIMARY|SECONDARY|SUBORDINATE)_BUS_MASK$/,
    'PCI_SEC_LATENCY_TIMER_MASK',
    'PCI_CAP_ID_MASK',
    'PCI_CAP_LIST_NEXT_MASK',
    'PCI_HEADER_TYPE_MFD',
    'PCI_MSIX_ENTRY_CTRL_ST',
    'PCI_PASID_CAP_WIDTH',
    'PCI_PTM_CAP_RES',
    'PCI_ERR_PREFIX_LOG',
    'PCI_DOE_CAP_SIZEOF',
    'PCI_DOE_DATA_OBJECT_DISC_REQ_3_VER',
    'PCI_DOE_DATA_OBJECT_DISC_RSP_3_TYPE',
    /^PCI_EXP_(FLAGS_FLIT|DEVCAP_TEE|RTCTL_RRS_SVE|RTCAP_RRS_SV|RTSTA_PME_RQ_ID|LNKCAP2_SLS|LNKSTA2_FLIT)$/,
    /^PCI_EXP_DEVCAP2_(TPH_COMP_\w+|EE_PREFIX_MAX)$/,
    /^PCI_EXP_DPC_(RP_PIO_LOG_SIZE4|STATUS_TRIGGER_RSN_\w+)$/,
    /^PCI_ERR_UNC_(POISON_BLK|DMWR_BLK|IDE_CHECK|MISR_IDE|PCRC_CHECK|XLAT_BLK)$/,
    /^PCI_ERR_CAP_(PREFIX_LOG_PRESENT|COMP_TIME_LOG|TLP_LOG_FLIT|TLP_LOG_SIZE)$/,
    /^PCI_LTR_NOSNOOP_/,
    /^PCI_TPH_(CTRL|CAP_ST_(NS|IV|DS)|CAP_EXT_TPH|ST_\w+_MODE|REQ_\w+|CTRL_\w+)$/,
    /^PCI_L1SS_CTL2_T_PWR_ON_/,
  ],
};

/** Names that newer headers have dropped or renamed. */
const OLDER: Record<string, readonly (string | RegExp)[]> = {
  'reserved now: nesting was never there': ['VFIO_TYPE1_NESTING_IOMMU'],
  'the same as PCI_VNDR_HEADER': ['PCI_VSEC_HDR', 'PCI_VSEC_HDR_LEN_SHIFT'],
};

/** Values that headers do not agree on: what an older one has, and why ours is the other one. */
const CHANGED: Record<string, { older: number; why: string }> = {
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2: { older: 0x32, why: 'left out the link status 2 register' },
  PCI_EXT_CAP_ID_MAX: { older: 0x2e, why: 'grows with the ids' },
  PCI_REBAR_CAP_SIZES: { older: 0x00fffff0, why: 'sizes above 8 TiB came later' },
};

/** What the headers have and this package does not. */
const LEFT_OUT: Record<string, readonly (string | RegExp)[]> = {
  'PowerPC only': [/^VFIO_IOMMU_SPAPR_/, /^VFIO_EEH_PE_/],
};

/** Kernel structs that need other names for some fields, or that end in another place in older headers. */
interface Layout {
  readonly ours: Struct;
  readonly fields?: Readonly<Record<string, string>>;
  /** Sizes that older headers have. */
  readonly olderSizes?: readonly number[];
}

const CAP_HEADER_SIZE = structs.vfioInfoCapHeader.size;

/** Bodies of capabilities: the kernel's struct has the header before them. */
const CAP_BODIES: ReadonlySet<Struct> = new Set<Struct>([
  structs.vfioIommuType1InfoCapIovaRange,
  structs.vfioIommuType1InfoCapMigration,
  structs.vfioIommuType1InfoDmaAvail,
  structs.vfioRegionInfoCapSparseMmap,
  structs.vfioRegionInfoCapType,
  structs.vfioRegionInfoCapNvlink2Ssatgt,
  structs.vfioRegionInfoCapNvlink2Lnkspd,
  structs.vfioDeviceInfoCapPciAtomicComp,
  structs.vfioDeviceInfoCapZpciBase,
  structs.vfioDeviceInfoCapZpciGroup,
  structs.vfioDeviceInfoCapZpciUtil,
  structs.vfioDeviceInfoCapZpciPfip,
]);

const SPECIAL: readonly Layout[] = [
  { ours: structs.vfioDeviceInfo, olderSizes: [20] },
  {
    ours: structs.vfioIommuType1DirtyBitmapGet,
    fields: { bitmapPgsize: 'bitmap.pgsize', bitmapSize: 'bitmap.size', bitmapData: 'bitmap.data' },
  },
  { ours: structs.vfioDeviceInfoCapZpciGroup, fields: { pciVersion: 'version' } },
];

/** Structs and fields that the installed header may lack. */
const NEWER_STRUCTS: Record<string, string> = {
  vfio_precopy_info: 'Linux 6.2',
  vfio_device_feature_mig_data_size: 'Linux 6.2',
  vfio_device_feature_bus_master: 'after Linux 6.1, CDX',
  vfio_device_info_cap_pci_atomic_comp: 'after Linux 6.1',
  vfio_device_bind_iommufd: 'device nodes, after Linux 6.1',
  vfio_device_attach_iommufd_pt: 'device nodes, after Linux 6.1',
  vfio_device_detach_iommufd_pt: 'device nodes, after Linux 6.1',
  vfio_device_feature_dma_buf: 'Linux 6.19',
  vfio_region_dma_range: 'Linux 6.19',
  vfio_device_feature_zpci_err: 'by Linux 7.3',
};
const NEWER_FIELDS: Record<string, string> = {
  'vfio_device_info_cap_zpci_base.ccdf_err_length': 'version 3, by Linux 7.3',
  'vfio_device_bind_iommufd.token_uuid_ptr': 'later than the struct',
  'vfio_device_attach_iommufd_pt.pasid': 'later than the struct',
  'vfio_device_detach_iommufd_pt.pasid': 'later than the struct',
};
/** Ours: the kernel has no struct for it. */
const NO_KERNEL_STRUCT: Record<string, string> = {
  vfio_device_feature_pci_vf_token: 'described in words: 16 bytes',
};

function isListed(list: Record<string, readonly (string | RegExp)[]>, name: string): boolean {
  return Object.values(list).some((names) =>
    names.some((entry) => (typeof entry === 'string' ? entry === name : entry.test(name))),
  );
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

const ours: ReadonlyMap<string, number | string> = new Map(
  Object.entries<unknown>({ ...pciRegs, ...constants }).filter(
    (entry): entry is [string, number | string] => typeof entry[1] === 'number' || typeof entry[1] === 'string',
  ),
);
const layouts: readonly Layout[] = Object.values(structs).map(
  (struct) => SPECIAL.find((layout) => layout.ours === struct) ?? { ours: struct as Struct },
);

const reason = whyNoHeaders();
const [major, minor] = headerVersion();
const isNewer = major > KNOWN_TO[0] || (major === KNOWN_TO[0] && minor > KNOWN_TO[1]);
const onlyUpTo = isNewer ? ` (skipped: the headers are Linux ${major}.${minor}, newer than ${KNOWN_TO.join('.')})` : '';

describe.skipIf(reason !== undefined)(
  `the system's headers${reason === undefined ? '' : ` (skipped: ${reason})`}`,
  () => {
    let text = '';
    let names: Set<string> = new Set();
    let values: Map<string, string> = new Map();

    beforeAll(() => {
      text = headerText();
      names = headerNames(text, /^(VFIO|PCI|HT)_/);
      const lines = [...ours].flatMap(([name, value]) => {
        if (!names.has(name)) return [];
        return typeof value === 'string'
          ? `printf("${name} %s\\n", ${name});`
          : `printf("${name} %llu\\n", (unsigned long long)(${name}) & 0xffffffffULL);`;
      });
      for (const { ours: struct, fields = {} } of layouts) {
        const members = structMembers(text, struct.name);
        if (members === undefined) continue;
        lines.push(`printf("${struct.name} %zu\\n", sizeof(struct ${struct.name}));`);
        for (const [name, field] of Object.entries(struct.layout)) {
          const member = fields[name] ?? snake(name);
          if (field.reserved || !members.has(member.split('.')[0]!)) continue;
          const place = `offsetof(struct ${struct.name}, ${member})`;
          const size = `sizeof(((struct ${struct.name} *)0)->${member})`;
          lines.push(`printf("${struct.name}.${name} %zu+%zu\\n", ${place}, ${size});`);
        }
      }
      values = printed(lines);
    });

    test('give every constant the value that it has here', () => {
      const wrong = [...ours].filter(([name, value]) => {
        const found = values.get(name);
        if (found === undefined || String(typeof value === 'number' ? value >>> 0 : value) === found) return false;
        return CHANGED[name]?.older !== Number(found);
      });
      expect(wrong.map(([name, value]) => `${name} is ${value} here, ${values.get(name)} there`)).toEqual([]);
      expect(values.size).toBeGreaterThan(1000);
    });

    test('lack no constant but those listed as newer or dropped', () => {
      const missing = [...ours.keys()].filter((name) => !names.has(name));
      expect(missing.filter((name) => !isListed(NEWER, name) && !isListed(OLDER, name))).toEqual([]);
    });

    test.skipIf(isNewer)(`have no constant that is not here, but those listed as left out${onlyUpTo}`, () => {
      expect([...names].filter((name) => !ours.has(name) && !isListed(LEFT_OUT, name))).toEqual([]);
    });

    test('give every struct the size and the fields that it has here', () => {
      const wrong: string[] = [];
      for (const { ours: struct, olderSizes = [] } of layouts) {
        const size = values.get(struct.name);
        if (size === undefined) continue;
        const head = CAP_BODIES.has(struct) ? CAP_HEADER_SIZE : 0;
        if (![struct.size, ...olderSizes].includes(Number(size) - head)) wrong.push(`sizeof ${struct.name}: ${size}`);
        for (const [name, place] of Object.entries(struct.fields)) {
          const found = values.get(`${struct.name}.${name}`);
          if (found !== undefined && found !== `${place.offset + head}+${place.size}`)
            wrong.push(`${struct.name}.${name}: ${found}`);
        }
      }
      expect(wrong).toEqual([]);
    });

    test('lack no struct and no field but those listed as newer', () => {
      const missing: string[] = [];
      for (const { ours: struct, fields = {} } of layouts) {
        if (struct.name in NO_KERNEL_STRUCT) continue;
        const members = structMembers(text, struct.name);
        if (members === undefined) {
          if (!(struct.name in NEWER_STRUCTS)) missing.push(struct.name);
          continue;
        }
        for (const [name, field] of Object.entries(struct.layout)) {
          const key = `${struct.name}.${fields[name] ?? snake(name)}`;
          if (!field.reserved && !values.has(`${struct.name}.${name}`) && !(key in NEWER_FIELDS)) missing.push(key);
        }
      }
      expect(missing).toEqual([]);
    });

    test.skipIf(isNewer)(`have no struct that is not here, but variable parts or left out${onlyUpTo}`, () => {
      const found = [...text.matchAll(/\bstruct\s+(vfio_\w+)\s*\{/g)].map(([, name]) => name!);
      const known = new Set([...layouts.map(({ ours: struct }) => struct.name)]);
      const leftOut: Record<string, string> = {
        vfio_region_gfx_edid: 'registers in a region, not a call',
        vfio_device_migration_info: 'migration version 1',
        vfio_device_gfx_plane_info: 'vGPU displays: no PCI device has them',
        vfio_iommu_spapr_tce_ddw_info: 'PowerPC only',
        vfio_iommu_spapr_tce_info: 'PowerPC only',
        vfio_iommu_spapr_register_memory: 'PowerPC only',
        vfio_iommu_spapr_tce_create: 'PowerPC only',
        vfio_iommu_spapr_tce_remove: 'PowerPC only',
        vfio_eeh_pe_err: 'PowerPC only',
        vfio_eeh_pe_op: 'PowerPC only',
      };
      expect(found.filter((name) => !known.has(name) && !(name in leftOut))).toEqual([]);
    });
  },
);

test('the lists of exceptions name only what is here', () => {
  const all = [...ours.keys()];
  const stale = [...Object.values(NEWER), ...Object.values(OLDER)]
    .flat()
    .filter((entry) => !all.some((name) => (typeof entry === 'string' ? entry === name : entry.test(name))));
  expect(stale).toEqual([]);
  const structNames = layouts.map(({ ours: struct }) => struct.name);
  const staleStructs = [...Object.keys(NEWER_STRUCTS), ...Object.keys(NO_KERNEL_STRUCT)];
  expect(staleStructs.filter((name) => !structNames.includes(name))).toEqual([]);
  expect(Object.keys(CHANGED).filter((name) => !ours.has(name))).toEqual([]);
});
