import type { RegionInfo, VfioDeviceClient } from '@vfio/core';
import {
  PCI_MSIX_ENTRY_SIZE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '@vfio/uapi';
import { bars, decode, msixTable, readBytes, refusal } from '../access.js';
import { check, equal, fails, notApplicable, sameBytes } from '../assert.js';
import type { RuleGroup } from '../contract.js';

const PAGE = 4096;
const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
const VGA_SIZE = 0xc0000;
/** As much of an MSI-X table as a case looks at. */
const ENTRIES = 64;

/** Every region that the device tells of. */
async function allRegions(device: VfioDeviceClient): Promise<RegionInfo[]> {
  const { numRegions } = await device.getInfo();
  const found: RegionInfo[] = [];
  for (let index = 0; index < numRegions; index++) {
    // A device without VGA ranges refuses that index.
    const info = await device.getRegionInfo(index).catch((error: unknown) => {
      if (index === VFIO_PCI_VGA_REGION_INDEX) return undefined;
      throw error;
    });
    if (info !== undefined) found.push(info);
  }
  return found;
}

/** The areas of a region that may be mapped; without a list of them it is the whole region. */
function areasOf({ caps, size }: RegionInfo): readonly { readonly offset: number; readonly size: number }[] {
  const cap = caps.find(({ id }) => id === VFIO_REGION_INFO_CAP_SPARSE_MMAP);
  return cap !== undefined && 'areas' in cap ? cap.areas : [{ offset: 0, size }];
}

const NO_MSIX = 'the device has no MSI-X';

export const regions: RuleGroup = {
  group: 'regions',
  rules: {
    'a region index past the last is refused with EINVAL': async (device) => {
      const { numRegions } = await device.getInfo();
      for (const index of [numRegions, numRegions + 1, 0xffffffff]) {
        await fails(() => device.getRegionInfo(index), 'EINVAL', `getRegionInfo(${index})`);
        await fails(() => readBytes(device, index, 0, 4), 'EINVAL', `read of region ${index}`);
        await fails(() => device.write(index, 0, new Uint8Array(4)), 'EINVAL', `write of region ${index}`);
      }
    },
    'config space is 256 or 4096 bytes, readable and writable, never mapped': async (device) => {
      const { size, flags } = await device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
      check(size === 256 || size === 4096, `config space has ${size} bytes`);
      equal(flags, READ_WRITE, 'flags of config space');
    },
    'a BAR is readable and writable, its size a power of two; one that is not there has neither size nor flags': async (
      device,
    ) => {
      for (let index = 0; index < 6; index++) {
        const { size, flags } = await device.getRegionInfo(index);
        if (size === 0) equal(flags, 0, `flags of BAR ${index} without size`);
        else {
          equal(flags & ~VFIO_REGION_INFO_FLAG_MMAP, READ_WRITE, `flags of BAR ${index}`);
          equal(2 ** Math.floor(Math.log2(size)), size, `size of BAR ${index} as a power of two`);
        }
      }
    },
    'a BAR that is not there cannot be read or written: EINVAL': async (device) => {
      for (let index = 0; index < 6; index++) {
        if ((await device.getRegionInfo(index)).size !== 0) continue;
        await fails(() => readBytes(device, index, 0, 4), 'EINVAL', `read of BAR ${index}`);
        await fails(() => device.write(index, 0, new Uint8Array(4)), 'EINVAL', `write of BAR ${index}`);
        return;
      }
      notApplicable('the device has all its BARs');
    },
    'the ROM is only read, VGA has its legacy size, and each further region says its type': async (device) => {
      for (const { index, flags, size, caps } of await allRegions(device)) {
        if (index === VFIO_PCI_ROM_REGION_INDEX)
          equal(flags, size === 0 ? 0 : VFIO_REGION_INFO_FLAG_READ, 'flags of the ROM');
        if (index === VFIO_PCI_VGA_REGION_INDEX) check(size === 0 || size === VGA_SIZE, `VGA has ${size} bytes`);
        if (index >= VFIO_PCI_NUM_REGIONS)
          check(
            caps.some(({ id }) => id === VFIO_REGION_INFO_CAP_TYPE),
            `region ${index} has no type`,
          );
      }
    },
    'areas that may be mapped are whole pages inside a region that says so, and do not overlap': async (device) => {
      for (const info of await allRegions(device)) {
        if (!info.caps.some(({ id }) => id === VFIO_REGION_INFO_CAP_SPARSE_MMAP)) continue;
        check((info.flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0, `region ${info.index} has areas and no MMAP flag`);
        let end = 0;
        for (const area of [...areasOf(info)].sort((a, b) => a.offset - b.offset)) {
          check(
            area.offset % PAGE === 0 && area.size % PAGE === 0 && area.size > 0,
            `area ${area.offset}+${area.size} is not whole pages`,
          );
          check(area.offset >= end, `areas of region ${info.index} overlap at ${area.offset}`);
          end = area.offset + area.size;
        }
        check(end <= info.size, `an area of region ${info.index} ends at ${end}, past its size ${info.size}`);
      }
    },
    'what may not be mapped is refused with EINVAL': async (device) => {
      for (const info of await allRegions(device)) {
        const { index, flags, size } = info;
        if ((flags & VFIO_REGION_INFO_FLAG_MMAP) === 0)
          await fails(() => device.mmapArea(index, 0, PAGE), 'EINVAL', `mapping region ${index}`);
        else await fails(() => device.mmapArea(index, size, PAGE), 'EINVAL', `mapping region ${index} behind its end`);
      }
    },
    'a read or write at or past the end of a BAR is refused, one that crosses it is cut': async (device) => {
      await decode(device, true);
      for (const { index, size } of await bars(device)) {
        for (const offset of [size, size + PAGE]) {
          await fails(() => readBytes(device, index, offset, 4), 'EINVAL', `read of BAR ${index} past its end`);
          await fails(
            () => device.write(index, offset, new Uint8Array(4)),
            'EINVAL',
            `write of BAR ${index} past its end`,
          );
        }
        const bytes = new Uint8Array(8).fill(0x77);
        equal(await device.read(index, size - 4, bytes), 4, `bytes read across the end of BAR ${index}`);
        sameBytes(bytes.subarray(4), new Uint8Array(4).fill(0x77), 'bytes of the buffer behind those read');
      }
    },
    'an access of no bytes does nothing, and works': async (device) => {
      equal(await device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(0)), 0, 'bytes read');
      equal(await device.write(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(0)), 0, 'bytes written');
    },
    'a memory BAR cannot be reached while memory decode is off: EIO': async (device) => {
      const memory = (await bars(device)).filter(({ io }) => !io);
      if (memory.length === 0) notApplicable('the device has no memory BAR');
      await decode(device, false);
      for (const { index } of memory) {
        await fails(() => readBytes(device, index, 0, 4), 'EIO', `read of BAR ${index} without decode`);
        await fails(() => device.write(index, 0, new Uint8Array(4)), 'EIO', `write of BAR ${index} without decode`);
      }
      await decode(device, true);
      for (const { index } of memory) equal(await device.read(index, 0, new Uint8Array(4)), 4, `bytes of BAR ${index}`);
    },
    'the ROM cannot be written: EINVAL': async (device) => {
      const { size } = await device.getRegionInfo(VFIO_PCI_ROM_REGION_INDEX);
      await fails(() => device.write(VFIO_PCI_ROM_REGION_INDEX, 0, new Uint8Array(4)), 'EINVAL', 'write of the ROM');
      if (size === 0) return;
      await decode(device, true);
      sameBytes(
        await readBytes(device, VFIO_PCI_ROM_REGION_INDEX, 0, 2),
        Uint8Array.of(0x55, 0xaa),
        'start of the ROM',
      );
    },
    'the MSI-X table reads as all ones and takes no writes, to its last byte': async (device) => {
      const table = await msixTable(device);
      if (table === undefined) notApplicable(NO_MSIX);
      await decode(device, true);
      const length = Math.min(table.size, ENTRIES * PCI_MSIX_ENTRY_SIZE);
      const ones = new Uint8Array(length).fill(0xff);
      for (const offset of new Set([table.offset, table.offset + table.size - length])) {
        equal(await device.write(table.bar, offset, new Uint8Array(length)), length, 'bytes of the table written');
        sameBytes(await readBytes(device, table.bar, offset, length), ones, 'the table');
      }
      for (const at of [1, table.size - 1])
        sameBytes(
          await readBytes(device, table.bar, table.offset + at, 1),
          Uint8Array.of(0xff),
          `byte ${at} of the table`,
        );
    },
    'the MSI-X table is mapped only where the device says that it may be': async (device) => {
      const table = await msixTable(device);
      if (table === undefined) notApplicable(NO_MSIX);
      const info = await device.getRegionInfo(table.bar);
      if ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return;
      if (info.caps.some(({ id }) => id === VFIO_REGION_INFO_CAP_MSIX_MAPPABLE)) return;
      for (const { offset, size } of areasOf(info))
        check(
          offset + size <= table.offset || offset >= table.offset + table.size,
          `area ${offset}+${size} covers the MSI-X table at ${table.offset}`,
        );
    },
    'a region whose info is refused has nothing to read': async (device) => {
      if ((await refusal(device.getRegionInfo(VFIO_PCI_VGA_REGION_INDEX))) === undefined)
        notApplicable('the device has VGA ranges');
      await fails(() => readBytes(device, VFIO_PCI_VGA_REGION_INDEX, 0x3c0, 1), 'EINVAL', 'read of VGA');
    },
  },
};
