import {
  PCI_CAP_ID_MSIX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '@vfio/uapi';
import { bars, decode, findCapability, readBytes, readConfig } from '../access.js';
import { check, equal, fails, sameBytes } from '../assert.js';
import type { RuleGroup } from '../contract.js';

const PAGE = 4096;
const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

export const regions: RuleGroup = {
  group: 'regions',
  rules: {
    'a region index past the last is refused with EINVAL': async (device) => {
      const { numRegions } = await device.getInfo();
      await fails(() => device.getRegionInfo(numRegions), 'EINVAL', `getRegionInfo(${numRegions})`);
      await fails(() => readBytes(device, numRegions, 0, 4), 'EINVAL', `read of region ${numRegions}`);
    },
    'config space is 256 or 4096 bytes, readable and writable': async (device) => {
      const { size, flags } = await device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
      check(size === 256 || size === 4096, `config space has ${size} bytes`);
      equal(flags & READ_WRITE, READ_WRITE, 'flags of config space');
    },
    'a BAR is readable and writable, one that is not there has neither size nor flags': async (device) => {
      for (let index = 0; index < 6; index++) {
        const { size, flags } = await device.getRegionInfo(index);
        if (size === 0) equal(flags, 0, `flags of BAR ${index} without size`);
        else equal(flags & READ_WRITE, READ_WRITE, `flags of BAR ${index}`);
      }
    },
    'areas that may be mapped are whole pages inside a region that says so, and do not overlap': async (device) => {
      const { numRegions } = await device.getInfo();
      for (let index = 0; index < numRegions; index++) {
        const info = await device.getRegionInfo(index).catch(() => undefined);
        const cap = info?.caps.find(({ id }) => id === VFIO_REGION_INFO_CAP_SPARSE_MMAP);
        if (info === undefined || cap === undefined || !('areas' in cap)) continue;
        check((info.flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0, `region ${index} has areas and no MMAP flag`);
        let end = 0;
        for (const area of [...cap.areas].sort((a, b) => a.offset - b.offset)) {
          check(
            area.offset % PAGE === 0 && area.size % PAGE === 0,
            `area ${area.offset}+${area.size} is not whole pages`,
          );
          check(area.offset >= end, `areas of region ${index} overlap at ${area.offset}`);
          end = area.offset + area.size;
        }
        check(end <= info.size, `an area of region ${index} ends at ${end}, past its size ${info.size}`);
      }
    },
    'a read at or past the end of a BAR is refused, one that crosses it is cut': async (device) => {
      await decode(device, true);
      for (const { index, size } of await bars(device)) {
        await fails(() => readBytes(device, index, size, 4), 'EINVAL', `read of BAR ${index} at its end`);
        equal(await device.read(index, size - 4, new Uint8Array(8)), 4, `bytes read across the end of BAR ${index}`);
      }
    },
    'a read of no bytes reads none': async (device) => {
      equal(await device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(0)), 0, 'bytes read');
    },
    'a memory BAR cannot be reached while memory decode is off': async (device) => {
      await decode(device, false);
      for (const { index, io } of await bars(device)) {
        if (!io) await fails(() => readBytes(device, index, 0, 4), 'EIO', `read of BAR ${index} without decode`);
      }
      await decode(device, true);
      for (const { index, io } of await bars(device)) if (!io) await readBytes(device, index, 0, 4);
    },
    'the ROM cannot be written': async (device) => {
      const { size } = await device.getRegionInfo(VFIO_PCI_ROM_REGION_INDEX);
      if (size === 0) return;
      await fails(() => device.write(VFIO_PCI_ROM_REGION_INDEX, 0, new Uint8Array(4)), 'EINVAL', 'write of the ROM');
    },
    'the MSI-X table reads as all ones and takes no writes': async (device) => {
      const at = await findCapability(device, PCI_CAP_ID_MSIX);
      if (at === undefined) return;
      await decode(device, true);
      const table = await readConfig(device, at + 4, 4);
      const [bar, offset] = [table & 7, table & ~7];
      await device.write(bar, offset, new Uint8Array(16));
      sameBytes(await readBytes(device, bar, offset, 16), new Uint8Array(16).fill(0xff), 'first MSI-X table entry');
    },
  },
};
