/** The three regions that an Intel graphics device has while it is open: what is in them, and when there are none. */
import type { VfioDevice } from '@vfio/core';
import {
  addIgd,
  EmulatedPciHost,
  EmulatedPhysicalMemory,
  Igd,
  makeOpRegion,
  makeVbt,
  StubDevice,
} from '@vfio/emulated';
import { VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { igdVfioPciDriver } from '../src/index.js';
import { bind, bindOver, generic, machine } from './helpers/setup.js';

const OPREGION = 9;
const HOST = 10;
const LPC = 11;

function read(device: VfioDevice, region: number, offset: number, length: number): Uint8Array {
  const data = new Uint8Array(length);
  return data.subarray(0, device.read(region, offset, data));
}

const types = (device: VfioDevice) =>
  Array.from({ length: device.getInfo().numRegions - 9 }, (_, at) => {
    const { size, flags, caps } = device.getRegionInfo(9 + at);
    return { size, flags, caps };
  });

const regionType = (subtype: number) => [expect.objectContaining({ type: 0x80008086, subtype })];

test('OpRegion, host bridge and LPC bridge, read-only, in this order', async () => {
  const { device } = await machine();
  await using opened = await device.open();
  expect(types(opened)).toEqual([
    { size: 0x2000, flags: 1, caps: regionType(1) },
    { size: 0x100, flags: 1, caps: regionType(2) },
    { size: 0x100, flags: 1, caps: regionType(3) },
  ]);
});

describe('the OpRegion', () => {
  /** What a guest must find, written down apart from the driver: raw bytes, the two fields as 2.1 has them, the VBT behind. */
  function expected(raw: Uint8Array, extended: Uint8Array): Buffer {
    const image = Buffer.concat([raw, extended]);
    image.writeBigUInt64LE(extended.length > 0 ? 0x2000n : 0n, 0x3ba);
    if (extended.length > 0 && image.readUInt16LE(0x16) === 0x0200) image.writeUInt16LE(0x0201, 0x16);
    return image;
  }

  const kinds = [
    { version: 0x0100, extended: 0 },
    { version: 0x0200, extended: 0 },
    { version: 0x0201, extended: 0 },
    { version: 0x0200, extended: 0x2000 },
    { version: 0x0201, extended: 0x1801 },
    { version: 0x0300, extended: 0x4000 },
  ];
  test.each(kinds)('of version $version with an extended VBT of $extended bytes, read in any piece', async (kind) => {
    const vbt = makeVbt(kind.extended === 0 ? 0x1000 : kind.extended);
    const { device, opRegion } = await machine({ version: kind.version, vbt });
    const image = expected(opRegion, kind.extended === 0 ? new Uint8Array(0) : vbt);
    await using opened = await device.open();
    expect(opened.getRegionInfo(OPREGION).size).toBe(image.length);
    expect(Buffer.from(read(opened, OPREGION, 0, image.length)).equals(image)).toBe(true);
    const places = fc.oneof(
      fc.nat(image.length - 1),
      fc.integer({ min: 0x10, max: 0x20 }),
      fc.integer({ min: 0x3b0, max: 0x3c8 }),
      fc.integer({ min: 0x1ff0, max: Math.min(0x2010, image.length - 1) }),
    );
    fc.assert(
      fc.property(places, fc.integer({ min: 1, max: 40 }), (offset, length) => {
        const want = image.subarray(offset, offset + length);
        expect(Buffer.from(read(opened, OPREGION, offset, length)).equals(want)).toBe(true);
      }),
    );
  });

  test('a version below 2.0 has no extended VBT, whatever lies in its fields', async () => {
    const { device, opRegion } = await machine({ version: 0x0100 });
    const view = new DataView(opRegion.buffer);
    view.setBigUint64(0x3ba, 0x1234n, true);
    view.setUint32(0x3c2, 0x2000, true);
    await using opened = await device.open();
    expect(opened.getRegionInfo(OPREGION).size).toBe(0x2000);
    expect([...read(opened, OPREGION, 0x3ba, 8)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test.each([
    ['an address without a size', 0x2000n, 0],
    ['a size without an address', 0n, 0x2000],
  ])('%s is no extended VBT, and a guest reads the address as 0', async (_what, rvda, rvds) => {
    const { device, opRegion } = await machine({ version: 0x0201 });
    const view = new DataView(opRegion.buffer);
    view.setBigUint64(0x3ba, rvda, true);
    view.setUint32(0x3c2, rvds, true);
    await using opened = await device.open();
    expect(opened.getRegionInfo(OPREGION).size).toBe(0x2000);
    expect([...read(opened, OPREGION, 0x3ba, 8)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test('a header that names more than an OpRegion has is not believed', async () => {
    const { device } = await machine({ sizeKib: 64 });
    await using opened = await device.open();
    expect(opened.getRegionInfo(OPREGION).size).toBe(0x2000);
  });

  test('a header that names less is', async () => {
    const { device } = await machine({ sizeKib: 4 });
    await using opened = await device.open();
    expect(opened.getRegionInfo(OPREGION).size).toBe(0x1000);
    expect(read(opened, OPREGION, 0xffe, 8)).toHaveLength(2);
  });

  test('what firmware changes while the device is open is seen', async () => {
    const { device, opRegion } = await machine();
    await using opened = await device.open();
    opRegion[0x300] = 0x5a;
    expect([...read(opened, OPREGION, 0x300, 1)]).toEqual([0x5a]);
  });

  test('writes and what lies behind the end are EINVAL, a read over the end is cut', async () => {
    const { device } = await machine();
    await using opened = await device.open();
    for (const region of [OPREGION, HOST, LPC]) {
      const { size } = opened.getRegionInfo(region);
      expect(() => opened.write(region, 0, Uint8Array.of(1))).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      expect(() => read(opened, region, size, 1)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      expect(read(opened, region, size - 3, 8)).toHaveLength(3);
    }
  });

  test('is unmapped at the last close and mapped again at the next open', async () => {
    const { device, memory } = await machine({ vbt: makeVbt(0x2000) });
    const first = await device.open();
    const second = await device.open();
    expect(memory.mappings).toBe(2);
    await first.close();
    expect(memory.mappings).toBe(2);
    await second.close();
    expect(memory.mappings).toBe(0);
    await using third = await device.open();
    expect(types(third)).toHaveLength(3);
    expect(memory.mappings).toBe(2);
  });
});

describe('ASLS, where a guest’s firmware writes the place of its copy', () => {
  const asls = async (device: VfioDevice, value?: number) => {
    const data = new Uint8Array(4);
    const view = new DataView(data.buffer);
    if (value === undefined) device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0xfc, data);
    else {
      view.setUint32(0, value, true);
      await device.write(VFIO_PCI_CONFIG_REGION_INDEX, 0xfc, data);
    }
    return view.getUint32(0, true);
  };

  test('starts as the OpRegion’s address, takes a guest’s, and hardware keeps the host’s', async () => {
    const { device, igd } = await machine({ version: 0x0200, vbt: makeVbt(0x2000) });
    await using opened = await device.open();
    expect(await asls(opened)).toBe(0x7bff8000);
    await asls(opened, 0xdeadb000);
    expect(await asls(opened)).toBe(0xdeadb000);
    expect(igd.config.get(0xfc, 4) >>> 0).toBe(0x7bff8000);
  });

  test('the next user does not see what the last one wrote', async () => {
    const { device } = await machine();
    const first = await device.open();
    await asls(first, 0xdeadb000);
    await first.close();
    await using second = await device.open();
    expect(await asls(second)).toBe(0x7bff8000);
  });
});

describe('the bridges', () => {
  test('their whole configuration, in any piece', async () => {
    const { device, host } = await machine();
    await using opened = await device.open();
    for (const [region, address] of [
      [HOST, '0000:00:00.0'],
      [LPC, '0000:00:1f.0'],
    ] as const) {
      const bridge = host.find(address);
      if (bridge?.base.kind !== 'raw') throw new Error('an emulated function is raw');
      const { config } = bridge.base;
      const image = Uint8Array.from({ length: 0x100 }, (_, at) => config.read(at, 1));
      fc.assert(
        fc.property(fc.nat(0xff), fc.integer({ min: 1, max: 0x100 }), (offset, length) => {
          expect(read(opened, region, offset, length)).toEqual(image.slice(offset, offset + length));
        }),
      );
    }
  });
});

describe('what is not there', () => {
  const alone = async (asls: number | undefined, memory = new EmulatedPhysicalMemory()) => {
    const host = new EmulatedPciHost();
    const igd = host.add({
      address: '0000:00:02.0',
      model: (ctx) => new Igd(ctx, asls === undefined ? {} : { asls, memory }),
    });
    return { host, igd, device: await bind(host, igd, igdVfioPciDriver()) };
  };

  test.each([
    ['0', 0],
    ['all ones', 0xffffffff],
  ])('ASLS of %s: a discrete card or a virtual function, plain passthrough', async (_what, asls) => {
    const { device } = await alone(asls);
    await using opened = await device.open();
    expect(opened.getInfo().numRegions).toBe(9);
  });

  test('without a host bridge there is the OpRegion alone; without an LPC bridge the host bridge too', async () => {
    for (const [removed, left] of [
      ['0000:00:00.0', [1]],
      ['0000:00:1f.0', [1, 2]],
    ] as const) {
      const { host, device } = await machine();
      await host.remove(removed);
      await using opened = await device.open();
      expect(types(opened)).toEqual(left.map((subtype) => expect.objectContaining({ caps: regionType(subtype) })));
    }
  });

  test.each([
    ['the host bridge’s place', '0000:00:00.0', { vendor: 0x8086, device: 1, class: 0x060400 }],
    ['the host bridge’s place, of another vendor', '0000:00:00.0', { vendor: 0x1022, device: 1, class: 0x060000 }],
    ['the LPC bridge’s place', '0000:00:1f.0', { vendor: 0x8086, device: 1, class: 0x060000 }],
  ])('something else in %s fails the open, and nothing stays mapped', async (_what, address, identity) => {
    const { host, device, memory } = await machine();
    await host.remove(address);
    host.add({ address, model: (ctx) => new StubDevice(ctx, { identity }) });
    await expect(device.open()).rejects.toMatchObject({ errno: 'EINVAL', message: expect.stringContaining(address) });
    expect(memory.mappings).toBe(0);
  });

  test.each<[string, (opRegion: Uint8Array) => void]>([
    ['a wrong signature', (opRegion) => opRegion.fill(0x20, 3, 4)],
    ['a size of 0', (opRegion) => opRegion.fill(0, 0x10, 0x14)],
  ])('%s is EINVAL, and nothing stays mapped', async (_what, breakIt) => {
    const { device, memory, opRegion } = await machine();
    breakIt(opRegion);
    await expect(device.open()).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(memory.mappings).toBe(0);
    expect(device.openCount).toBe(0);
  });

  test.each([
    ['nowhere', 0x1000_0000_0000n],
    ['at the end of the address space', 0xffff_ffff_ffff_ffffn],
  ])('an extended VBT %s is ENOMEM, and nothing stays mapped', async (_what, rvda) => {
    const { device, memory, opRegion } = await machine({ version: 0x0200, vbt: makeVbt(0x2000) });
    new DataView(opRegion.buffer).setBigUint64(0x3ba, rvda, true);
    await expect(device.open()).rejects.toMatchObject({ errno: 'ENOMEM' });
    expect(memory.mappings).toBe(0);
  });

  test('an address that leads nowhere is ENOMEM; a host that lets nobody read memory says so', async () => {
    await expect((await alone(0x1000)).device.open()).rejects.toMatchObject({ errno: 'ENOMEM' });
    const host = new EmulatedPciHost();
    const igd = host.add({ address: '0000:00:02.0', model: (ctx) => new Igd(ctx, { asls: 0x1000 }) });
    const device = await bind(host, igd, igdVfioPciDriver());
    await expect(device.open()).rejects.toMatchObject({ errno: 'EPERM', message: expect.stringContaining('0x1000') });
  });

  test('after a failed open the device can be opened again', async () => {
    const { device, opRegion } = await machine();
    const [first] = opRegion;
    opRegion[0] = 0;
    await expect(device.open()).rejects.toMatchObject({ errno: 'EINVAL' });
    opRegion[0] = first!;
    await using opened = await device.open();
    expect(types(opened)).toHaveLength(3);
  });
});

test('over a function that is VFIO already its regions pass through, and none is added', async () => {
  const { device, opRegion } = await machine({ version: 0x0201 });
  const upper = await bindOver(device, igdVfioPciDriver());
  await using opened = await upper.open();
  expect(types(opened)).toHaveLength(3);
  expect(read(opened, OPREGION, 0, 0x100)).toEqual(opRegion.slice(0, 0x100));
});

test('over the generic driver there are none: below it nobody knows of an OpRegion', async () => {
  const host = new EmulatedPciHost();
  const { igd } = addIgd(host);
  const upper = await bindOver(await bind(host, igd, generic), igdVfioPciDriver());
  await using opened = await upper.open();
  expect(types(opened)).toHaveLength(0);
});

test('an extended VBT that is exactly one byte too large for mailbox 4 is outside of it', () => {
  expect(makeOpRegion(0x1000n, { vbt: makeVbt(0x1800) }).extendedVbt).toBeUndefined();
  expect(makeOpRegion(0x1000n, { vbt: makeVbt(0x1801) }).extendedVbt?.address).toBe(0x3000n);
});
