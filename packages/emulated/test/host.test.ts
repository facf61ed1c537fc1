import { type PciFunction, platformToken } from '@vfio/core';
import { PCI_COMMAND, PCI_PRIMARY_BUS, PCI_SECONDARY_BUS } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { createDemoHost, DEMO, Edu, NvmeController, type RootPortOptions, SriovEdu } from '../src/index.js';
import { bareModel, manualHost, setCommand } from './helpers/setup.js';

const edu = (ctx: ConstructorParameters<typeof Edu>[0]): Edu => new Edu(ctx);

function withPort(options: Partial<RootPortOptions> = {}) {
  const setup = manualHost();
  const port = setup.host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1, ...options });
  return { ...setup, port };
}

describe('topology', () => {
  test('functions are listed by address and found by it', () => {
    const { host } = withPort();
    host.add({ address: '0000:01:00.0', model: edu });
    host.add({ address: '0000:00:02.0', model: edu });
    host.add({ address: '0001:00:00.0', model: edu });
    const addresses = ['0000:00:02.0', '0000:00:1c.0', '0000:01:00.0', '0001:00:00.0'];
    expect(host.functions().map((fn) => fn.address)).toEqual(addresses);
    for (const address of addresses) expect(host.find(address)?.address).toBe(address);
    expect(host.find('0000:07:00.0')).toBeUndefined();
  });

  test.each([
    ['malformed', '00:02.0', 'EINVAL'],
    ['a device number beyond 31', '0000:00:20.0', 'EINVAL'],
    ['a bus that is not there', '0000:05:00.0', 'EINVAL'],
    ['a second device below a root port', '0000:01:01.0', 'EINVAL'],
    ['a function without function 0', '0000:00:03.1', 'EINVAL'],
    ['a place that is taken', '0000:00:1c.0', 'EEXIST'],
  ])('%s is refused and nothing changes', (_name, address, errno) => {
    const { host } = withPort();
    const before = host.functions().length;
    expect(() => host.add({ address, model: edu })).toThrow(expect.objectContaining({ errno }));
    expect(host.functions()).toHaveLength(before);
  });

  test.each([
    ['a bus number that is taken', '0000:00:1d.0', 1, 'EEXIST'],
    ['bus 0', '0000:00:1d.0', 0, 'EINVAL'],
    ['a root port that is not on bus 0', '0000:01:00.0', 2, 'EINVAL'],
  ])('a root port with %s is refused', (_name, address, secondaryBus, errno) => {
    const { host } = withPort();
    expect(() => host.addRootPort({ address, secondaryBus })).toThrow(expect.objectContaining({ errno }));
  });

  test('a second function makes function 0 multi-function', () => {
    const { host } = manualHost();
    const first = host.add({ address: '0000:00:03.0', model: edu });
    expect(first.config.read(0x0e, 1)).toBe(0);
    host.add({ address: '0000:00:03.1', model: edu });
    expect(first.config.read(0x0e, 1)).toBe(0x80);
    expect(first.headerType).toBe(0);
  });

  test('a root port is a bridge that knows its buses', () => {
    const { port } = withPort();
    expect(port.headerType).toBe(1);
    expect(port.class).toBe(0x060400);
    expect([port.config.read(PCI_PRIMARY_BUS, 1), port.config.read(PCI_SECONDARY_BUS, 1)]).toEqual([0, 1]);
  });

  test('platform facts are found by their token only', () => {
    const { host } = manualHost();
    const token = platformToken<number>('fact');
    const fn = host.add({ address: '0000:00:02.0', model: edu, platform: [[token, 42]] });
    expect(fn.platform(token)).toBe(42);
    expect(fn.platform(platformToken<number>('fact'))).toBeUndefined();
  });
});

describe('IOMMU groups', () => {
  test('functions of one device share a group, other devices have their own', () => {
    const { host } = manualHost();
    const groups = ['0000:00:02.0', '0000:00:02.1', '0000:00:03.0'].map(
      (address) => host.add({ address, model: edu }).iommuGroup,
    );
    expect(groups[0]).toBe(groups[1]);
    expect(groups[0]).not.toBe(groups[2]);
  });

  test.each([true, false])('a port shares its group with what is below it exactly where it has no ACS (%s)', (acs) => {
    const { host, port } = withPort({ acs });
    const fn = host.add({ address: '0000:01:00.0', model: edu });
    expect(fn.iommuGroup === port.iommuGroup).toBe(!acs);
  });

  test('there are none without an IOMMU, and a given one is taken', () => {
    const { host } = manualHost({ iommu: false });
    expect(host.add({ address: '0000:00:02.0', model: edu }).iommuGroup).toBeUndefined();
    const other = manualHost();
    expect(other.host.add({ address: '0000:00:02.0', model: edu, iommuGroup: 77 }).iommuGroup).toBe(77);
  });
});

describe('BARs', () => {
  const model = bareModel((ctx) => {
    ctx.bar(0, { size: 0x1000, memory: true });
    ctx.bar(1, { size: 0x20, io: true });
    ctx.bar(2, { size: 0x2000, is64Bit: true, prefetchable: true, memory: true });
    ctx.rom(Uint8Array.of(0x55, 0xaa, 1));
  });

  test('resources say address, size and kind; the upper half of a 64-bit BAR is none', () => {
    const { host } = withPort();
    const fn = host.add({ address: '0000:01:00.0', model });
    expect(fn.resources.map((r) => r && [r.size, r.io, r.prefetchable, r.is64Bit])).toEqual([
      [0x1000, false, false, false],
      [0x20, true, false, false],
      [0x2000, false, true, true],
      undefined,
      undefined,
      undefined,
      [0x800, false, false, false],
    ]);
    for (const resource of fn.resources) if (resource !== undefined) expect(resource.start % resource.size).toBe(0);
    expect(fn.resources[2]?.start).toBeGreaterThan(0xffffffff);
  });

  test('no two BARs of the host overlap', () => {
    const { host } = withPort();
    for (const address of ['0000:00:02.0', '0000:00:03.0', '0000:01:00.0']) host.add({ address, model });
    const ranges = host.functions().flatMap((fn) => fn.resources.filter((r) => r !== undefined));
    for (const a of ranges)
      for (const b of ranges)
        if (a !== b && a.io === b.io) expect(a.start + a.size <= b.start || b.start + b.size <= a.start).toBe(true);
  });

  test('sizing by writing ones shows size and type, and the address comes back', () => {
    const { host } = manualHost();
    const { config } = host.add({ address: '0000:00:02.0', model });
    const before = [0, 1, 2, 3].map((i) => config.read(0x10 + 4 * i, 4));
    for (let i = 0; i < 4; i++) config.write(0x10 + 4 * i, 4, -1);
    expect([0, 1, 2, 3].map((i) => config.read(0x10 + 4 * i, 4) >>> 0)).toEqual([
      0xfffff000, 0xffffffe1, 0xffffe00c, 0xffffffff,
    ]);
    for (let i = 0; i < 4; i++) config.write(0x10 + 4 * i, 4, before[i] as number);
    expect([0, 1, 2, 3].map((i) => config.read(0x10 + 4 * i, 4))).toEqual(before);
  });

  test.each([
    [0, 2, 1],
    [1, 1, 2],
    [2, 2, 1],
  ])('BAR %i answers exactly while its space bit (%i) is set', (index, bit, other) => {
    const { host } = withPort();
    const fn = host.add({ address: '0000:01:00.0', model });
    const space = fn.open(index);
    setCommand(fn, 3, 0);
    expect(space.read(0, 4)).toBe(0);
    setCommand(fn, 0, bit);
    expect([space.read(0, 4), space.read(0, 2), space.read(0, 1)]).toEqual([-1, 0xffff, 0xff]);
    space.write(0, 4, 0x1234);
    setCommand(fn, bit, other);
    expect(space.read(0, 4)).toBe(0);
  });

  test('a BAR whose register is moved away answers no longer at its old address', () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model });
    const address = fn.config.read(0x10, 4);
    fn.config.write(0x10, 4, 0);
    expect(fn.open(0).read(0, 4)).toBe(-1);
    fn.config.write(0x10, 4, address);
    expect(fn.open(0).read(0, 4)).toBe(0);
  });

  test.each([
    ['memory decoding', PCI_COMMAND, 2, 5],
    ['its memory window', 0x20, 4, 0x0000fff0],
  ] as const)('a bridge without %s forwards nothing', (_name, register, width, value) => {
    const { host, port } = withPort();
    const fn = host.add({ address: '0000:01:00.0', model });
    const before = port.config.read(register, width);
    port.config.write(register, width, value);
    expect(fn.open(0).read(0, 4)).toBe(-1);
    port.config.write(register, width, before);
    expect(fn.open(0).read(0, 4)).toBe(0);
  });

  test('the ROM answers while memory decoding and its own enable bit are on', () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model });
    const rom = fn.open(6);
    expect(rom.read(0, 2)).toBe(0xffff);
    fn.config.write(0x30, 4, fn.config.read(0x30, 4) | 1);
    expect([rom.read(0, 2), rom.read(0, 4) >>> 0, rom.read(4, 1)]).toEqual([0xaa55, 0xff01aa55, 0xff]);
    rom.write(0, 1, 0);
    expect(rom.read(0, 1)).toBe(0x55);
  });

  test('memory BARs offer their memory, and it is what accesses reach', () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model });
    const space = fn.open(0);
    expect(space.mmapAreas.map(({ offset, size }) => [offset, size])).toEqual([[0, 0x1000]]);
    space.write(8, 4, 0x11223344);
    expect([...(space.mmapAreas[0]?.memory.bytes.subarray(8, 12) ?? [])]).toEqual([0x44, 0x33, 0x22, 0x11]);
    space.write(9, 1, 0xff);
    expect(space.read(8, 2)).toBe(0xff44);
  });

  test('the memory provider is asked for memory that can be shared', () => {
    const asked: unknown[] = [];
    const { host } = manualHost({
      memory: {
        allocate: (size, options) => {
          asked.push([size, options?.shared]);
          return { bytes: new Uint8Array(size), fd: 9, fdOffset: 0 };
        },
      },
    });
    const fn = host.add({ address: '0000:00:02.0', model });
    expect(asked).toEqual([
      [0x1000, true],
      [0x2000, true],
    ]);
    expect(fn.open(0).mmapAreas[0]?.memory.fd).toBe(9);
  });

  test.each([
    ['not a power of two', { size: 0x1800 }],
    ['smaller than 16 bytes', { size: 8 }],
    ['an I/O BAR of 2 bytes', { size: 2, io: true }],
    ['a 64-bit I/O BAR', { size: 16, io: true, is64Bit: true }],
    ['4 GiB in 32 bits', { size: 2 ** 32 }],
  ])('a BAR that is %s is refused', (_name, options) => {
    const { host } = manualHost();
    expect(() => host.add({ address: '0000:00:02.0', model: bareModel((ctx) => void ctx.bar(0, options)) })).toThrow(
      expect.objectContaining({ errno: 'EINVAL' }),
    );
  });

  test('a BAR larger than the window of its port is refused, and its room is free again', () => {
    const { host } = withPort();
    const huge = bareModel((ctx) => {
      ctx.bar(0, { size: 0x800000 });
      ctx.bar(1, { size: 0x2000000 });
    });
    expect(() => host.add({ address: '0000:01:00.0', model: huge })).toThrow(
      expect.objectContaining({ errno: 'ENOSPC' }),
    );
    const fits = bareModel((ctx) => void ctx.bar(0, { size: 0x1000000 }));
    expect(host.add({ address: '0000:01:00.0', model: fits }).resources[0]?.size).toBe(0x1000000);
  });

  test('a BAR that is not there cannot be opened', () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model });
    expect(() => fn.open(3)).toThrow(expect.objectContaining({ errno: 'ENODEV' }));
  });
});

describe('hot plug', () => {
  test('watchers hear of what comes and goes, until they stop watching', async () => {
    const { host } = withPort();
    const log: string[] = [];
    const stop = host.watch({
      added: (fn: PciFunction) => log.push(`+${fn.address}`),
      removing: (fn: PciFunction) => void log.push(`-${fn.address}`),
    });
    host.add({ address: '0000:01:00.0', model: edu });
    await host.remove('0000:01:00.0');
    stop();
    stop();
    host.add({ address: '0000:01:00.0', model: edu });
    expect(log).toEqual(['+0000:01:00.0', '-0000:01:00.0']);
  });

  test('a function stays until everybody has let go of it', async () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model: edu });
    let letGo = (): void => {};
    host.watch({ removing: () => new Promise<void>((resolve) => (letGo = resolve)) });
    const removal = host.remove('0000:00:02.0');
    expect(host.find('0000:00:02.0')).toBe(fn);
    expect(fn.config.read(0, 2)).toBe(0x1234);
    letGo();
    await removal;
    expect(host.find('0000:00:02.0')).toBeUndefined();
    expect(fn.config.read(0, 4)).toBe(-1);
    expect(fn.open(0).read(0, 4)).toBe(-1);
  });

  test('one that is pulled out stops answering before anybody hears of it', async () => {
    const { host } = manualHost();
    const fn = host.add({ address: '0000:00:02.0', model: edu });
    const seen: number[] = [];
    host.watch({ removing: () => void seen.push(fn.config.read(0, 4), fn.open(0).read(0, 4)) });
    await host.surpriseRemove('0000:00:02.0');
    expect(seen).toEqual([-1, -1]);
  });

  test('one that is pulled out does not come back with a bus reset', async () => {
    const { host, port } = withPort();
    const fn = host.add({ address: '0000:01:00.0', model: edu });
    const seen: number[] = [];
    host.watch({
      removing: () => {
        port.model.resetSecondaryBus();
        seen.push(fn.config.read(0, 4));
      },
    });
    await host.surpriseRemove('0000:01:00.0');
    expect(seen).toEqual([-1]);
  });

  test.each([
    ['0000:00:05.0', 'ENODEV'],
    ['0000:00:1c.0', 'EBUSY'],
  ])('%s cannot be removed: %s', (address, errno) => {
    const { host } = withPort();
    host.add({ address: '0000:01:00.0', model: edu });
    expect(() => host.remove(address)).toThrow(expect.objectContaining({ errno }));
  });

  test('the room of what was removed is used again', async () => {
    const { host } = withPort();
    const model = bareModel((ctx) => void ctx.bar(0, { size: 0x1000000 }));
    for (let i = 0; i < 3; i++) {
      host.add({ address: '0000:01:00.0', model });
      await host.remove('0000:01:00.0');
    }
    await host.remove('0000:00:1c.0');
    const again = host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    expect(again.config.read(0x20, 2)).toBe(0xc000);
  });
});

describe('the demo host', () => {
  test('has its functions at the documented addresses', () => {
    const host = createDemoHost();
    expect(
      host
        .functions()
        .map((fn) => `${fn.address} ${fn.vendor.toString(16)}:${fn.device.toString(16)} ${fn.class.toString(16)}`),
    ).toEqual([
      '0000:00:00.0 1b36:8 60000',
      '0000:00:01.0 1234:1111 38000',
      '0000:00:02.0 1234:11e8 ff00',
      '0000:00:1c.0 1b36:c 60400',
      '0000:00:1c.1 1b36:c 60400',
      '0000:00:1c.2 1b36:c 60400',
      '0000:00:1c.3 1b36:c 60400',
      '0000:00:1c.4 1b36:c 60400',
      '0000:00:1c.5 1b36:c 60400',
      '0000:01:00.0 1b36:10 10802',
      '0000:02:00.0 1b36:10 10802',
      '0000:03:00.0 1234:11e9 ff00',
      '0000:04:00.0 15b3:101e 20000',
      '0000:05:00.0 15b3:1021 20700',
      '0000:06:00.0 1b36:10 10802',
    ]);
    for (const address of Object.values(DEMO)) expect(host.find(address), address).toBeDefined();
    expect(host.find(DEMO.nvme)?.model).toBeInstanceOf(NvmeController);
    expect(host.find(DEMO.sriov)?.model).toBeInstanceOf(SriovEdu);
  });

  test('what can be handed to a user is alone in its IOMMU group', () => {
    const host = createDemoHost();
    for (const address of [DEMO.display, DEMO.edu, DEMO.nvme, DEMO.nvmeLarge, DEMO.sriov, DEMO.nic, DEMO.connectx]) {
      const group = host.find(address)?.iommuGroup;
      expect(
        host.functions().filter((fn) => fn.iommuGroup === group),
        address,
      ).toHaveLength(1);
    }
  });
});
