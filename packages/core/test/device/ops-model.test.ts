import { VFIO_REGION_INFO_CAP_SPARSE_MMAP } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import {
  functionOverDevice,
  type VfioDevice,
  type VfioOpsFactory,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '../../src/index.js';
import { extraBarOps } from './drivers/extra-bar.js';
import { halfBarOps } from './drivers/half-bar.js';
import { virtioLegacyOps } from './drivers/virtio-legacy.js';
import { type FakeFunction, type FakeFunctionOptions, memoryBar, memoryOf } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, opened, readBytes, rig } from './helpers.js';

type Opener = (options: FakeFunctionOptions, ops: VfioOpsFactory) => Promise<{ device: VfioDevice; fn: FakeFunction }>;

/** The same driver over bare hardware, and over a device of the generic driver. */
const BASES: readonly (readonly [string, Opener])[] = [
  ['bare hardware', (options, ops) => opened(options, ops)],
  [
    'another VFIO device',
    async (options, ops) => {
      const { dev, fn } = await rig(options);
      const upper = vfioPciCoreAllocDevice(functionOverDevice(dev), ops);
      await vfioPciCoreRegisterDevice(upper);
      return { device: await upper.open(), fn };
    },
  ],
];

describe.each(BASES)('over %s', (_name, open) => {
  describe('a driver that hides half of a BAR', () => {
    const options = { bars: { 0: memoryBar(0x1000), 2: memoryBar(0x4000) } };

    test('shows half of it in info, read, write, mmap and ioeventfd, and the other BARs whole', async () => {
      const { device, fn } = await open({ bars: { ...options.bars, 2: memoryBar(0x4000) } }, halfBarOps);
      await enableMemory(device);
      expect(device.name).toBe('half-bar-vfio-pci');
      expect(device.getRegionInfo(2)).toMatchObject({ size: 0x2000, flags: 7, caps: [] });
      expect(device.getRegionInfo(0).size).toBe(0x1000);
      const { bytes } = fn.bars[2]!.space;
      bytes.fill(0x66, 0x2000);
      expect(device.write(2, 0x1ffe, Uint8Array.of(1, 2, 3, 4))).toBe(2);
      expect([...bytes.subarray(0x1ffe, 0x2002)]).toEqual([1, 2, 0x66, 0x66]);
      expect(readBytes(device, 2, 0x1ffe, 8)).toEqual([1, 2]);
      for (const offset of [0x2000, 0x3fff]) {
        expect(errnoOf(() => device.read(2, offset, new Uint8Array(1)))).toBe('EINVAL');
        expect(errnoOf(() => device.write(2, offset, new Uint8Array(1)))).toBe('EINVAL');
      }
      expect(errnoOf(() => device.mmapArea(2, 0x1000, 0x2000))).toBe('EINVAL');
      expect(device.mmapArea(2, 0x1000, 0x1000).memory.bytes[0xffe]).toBe(1);
      const trigger = new CountingTrigger();
      expect(errnoOf(() => device.ioeventfd({ region: 2, offset: 0x2000, width: 4, data: 0n, trigger }))).toBe(
        'EINVAL',
      );
      expect(trigger.releases).toBe(1);
      expect(device.read(2, 0, new Uint8Array(0))).toBe(0);
      await device.close();
    });
  });

  describe('a driver that shows a modern virtio function as a transitional one', () => {
    test('overlays the identity, piece by piece, and nothing else', async () => {
      const { device } = await open({ vendor: 0x1af4, device: 0x1041 }, virtioLegacyOps);
      expect(readBytes(device, 7, 0, 4)).toEqual([0xf4, 0x1a, 0x00, 0x10]);
      expect(readBytes(device, 7, 3, 2)[0]).toBe(0x10);
      expect(readBytes(device, 7, 8, 1)).toEqual([0]);
      expect(readBytes(device, 7, 0x2c, 4)).toEqual([0xf4, 0x1a, 0x01, 0x00]);
      await device.close();
    });

    test('has a software I/O BAR that is sized as one and answers only while I/O decode is on', async () => {
      const { device } = await open(
        { vendor: 0x1af4, device: 0x1041, bars: { 4: memoryBar(0x4000) } },
        virtioLegacyOps,
      );
      expect(device.getRegionInfo(0)).toMatchObject({ size: 0x20, flags: 3 });
      await device.write(7, 0x10, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
      expect(readBytes(device, 7, 0x10, 4)).toEqual([0xe1, 0xff, 0xff, 0xff]);
      await device.write(7, 0x11, Uint8Array.of(0xc0));
      expect(readBytes(device, 7, 0x10, 2)).toEqual([0xe1, 0xc0]);
      expect(errnoOf(() => device.read(0, 0, new Uint8Array(1)))).toBe('EIO');
      await device.write(7, 4, Uint8Array.of(0x01, 0));
      expect(readBytes(device, 7, 4, 1)[0]! & 1).toBe(1);
      device.write(0, 0x12, Uint8Array.of(0x0f));
      expect(readBytes(device, 0, 0x12, 1)).toEqual([0x0f]);
      expect(errnoOf(() => device.read(0, 0x20, new Uint8Array(1)))).toBe('EINVAL');
      expect(errnoOf(() => device.mmapArea(0, 0, 4096))).toBe('EINVAL');
      await enableMemory(device);
      expect(device.read(4, 0, new Uint8Array(4)), 'the real BAR').toBe(4);
      await device.close();
    });
  });

  describe('a driver that shows a 64-bit BAR which the function does not have', () => {
    const REAL = 0x3000;

    test('sizes it as a power of two through both registers', async () => {
      const { device } = await open({}, extraBarOps(memoryOf(new Uint8Array(REAL), 9)));
      await device.write(7, 0x18, new Uint8Array(8).fill(0xff));
      expect(readBytes(device, 7, 0x18, 8)).toEqual([0x0c, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
      await device.write(7, 0x1c, Uint8Array.of(1, 0, 0, 0));
      await device.write(7, 0x18, Uint8Array.of(0, 0, 0, 0x80));
      expect(readBytes(device, 7, 0x18, 8)).toEqual([0x0c, 0, 0, 0x80, 1, 0, 0, 0]);
      expect(readBytes(device, 7, 0x10, 4), 'the real one beside it').not.toEqual([0, 0, 0, 0]);
      await device.close();
    });

    test('is memory as far as there is some, and ones behind it', async () => {
      const bytes = new Uint8Array(REAL).fill(5);
      const { device } = await open({}, extraBarOps(memoryOf(bytes, 9)));
      expect(device.getInfo().numRegions).toBe(9);
      expect(device.getRegionInfo(2)).toMatchObject({
        size: 0x4000,
        flags: 7,
        caps: [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, areas: [{ offset: 0, size: REAL }] }],
      });
      expect(device.write(2, REAL - 2, Uint8Array.of(1, 2, 3, 4))).toBe(4);
      expect(readBytes(device, 2, REAL - 3, 6)).toEqual([5, 1, 2, 0xff, 0xff, 0xff]);
      expect(errnoOf(() => device.read(2, 0x4000, new Uint8Array(1)))).toBe('EINVAL');
      const area = device.mmapArea(2, 0x1000, 0x2000);
      expect([area.memory.fd, area.memory.fdOffset, area.memory.bytes[0x1ffe]]).toEqual([9, 0x1000, 1]);
      expect(errnoOf(() => device.mmapArea(2, 0x1000, 0x3000))).toBe('EINVAL');
      await device.close();
    });
  });
});
