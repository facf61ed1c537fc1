import { PciBus } from '@vfio/core';
import { describe, expect, test } from 'vitest';
import { LinuxPciHost, LinuxSystem } from '../src/index.js';
import { FakeKernel } from './helpers/fake-kernel.js';

const PORT = { address: '0000:00:1c.0', class: 0x060400, bridge: true, driver: 'pcieport', group: 1 } as const;
const BELOW = { at: 'pci0000:00/0000:00:1c.0', vendor: 0x15b3, device: 0x101e } as const;
const PF = { ...BELOW, address: '0000:01:00.0', device: 0x101d, group: 2, numVfs: 2 } as const;
const DRIVERS = [{ name: 'pcieport' }, { name: 'mlx5_core', module: 'mlx5_core' }];

const machine = () =>
  new FakeKernel({
    drivers: DRIVERS,
    functions: [
      PORT,
      { ...PF, driver: 'mlx5_core', numaNode: 1 },
      { ...BELOW, address: '0000:01:00.1', group: 3, physfn: PF.address },
      { ...BELOW, address: '0000:01:00.2', group: 4, physfn: PF.address, override: 'x' },
    ],
  });

describe('LinuxPciHost', () => {
  test('has every function of sysfs, ordered by address as numbers', () => {
    const addresses = ['10000:00:00.0', '0000:0a:00.0', '0000:01:00.0', '0001:00:00.0'];
    const host = new LinuxPciHost(new FakeKernel({ functions: addresses.map((address) => ({ address })) }));
    expect(host.functions().map((fn) => fn.address)).toEqual([
      '0000:01:00.0',
      '0000:0a:00.0',
      '0001:00:00.0',
      '10000:00:00.0',
    ]);
  });

  test('reads ids, class, revision and kind of header', () => {
    const host = new LinuxPciHost(machine());
    expect(host.find(PF.address)).toMatchObject({
      vendor: 0x15b3,
      device: 0x101d,
      subvendor: 0,
      subdevice: 0,
      class: 0x020000,
      revision: 1,
      headerType: 0,
    });
    expect(host.find(PORT.address)).toMatchObject({ class: 0x060400, headerType: 1 });
  });

  test('links virtual functions with their physical one, both ways', () => {
    const host = new LinuxPciHost(machine());
    const pf = host.find(PF.address);
    const vf = host.find('0000:01:00.2');
    expect(vf?.physfn).toBe(pf);
    expect(vf?.vfIndex).toBe(1);
    expect(pf?.virtfns.map((fn) => fn.address)).toEqual(['0000:01:00.1', '0000:01:00.2']);
    expect(pf?.physfn).toBeUndefined();
    expect(pf?.vfIndex).toBeUndefined();
  });

  test('tells who has a function as it is now, not as it was', () => {
    const kernel = machine();
    const fn = new LinuxPciHost(kernel).find(PF.address);
    expect([fn?.driver, fn?.driverModule, fn?.driverOverride]).toEqual(['mlx5_core', 'mlx5_core', undefined]);
    kernel.write(kernel.sys('bus/pci/devices', PF.address, 'driver/unbind'), PF.address);
    kernel.write(kernel.sys('bus/pci/devices', PF.address, 'driver_override'), 'vfio-pci');
    expect([fn?.driver, fn?.driverModule, fn?.driverOverride]).toEqual([undefined, undefined, 'vfio-pci']);
  });

  test('a group has its members, bridges too; NUMA node -1 is none', () => {
    const kernel = new FakeKernel({ drivers: DRIVERS, functions: [PORT, { ...PF, group: 1 }] });
    const host = new LinuxPciHost(kernel);
    expect(host.group(1).map((fn) => fn.address)).toEqual([PORT.address, PF.address]);
    expect(host.group(9)).toEqual([]);
    expect(host.find(PORT.address)?.numaNode).toBeUndefined();
    expect(new LinuxPciHost(machine()).find(PF.address)?.numaNode).toBe(1);
  });

  test('a machine without PCI, without IOMMU, or without sysfs has what there is', () => {
    expect(new LinuxPciHost(new LinuxSystem({ root: '/nonexistent' })).functions()).toEqual([]);
    const host = new LinuxPciHost(new FakeKernel({ functions: [{ address: '0000:00:01.0' }] }));
    expect(host.find('0000:00:01.0')?.iommuGroup).toBeUndefined();
  });

  test.each([
    ['a modalias that is none', 'modalias', 'usb:v1\n'],
    ['an empty modalias', 'modalias', ''],
    ['bytes that are no text', 'modalias', '\0\0\xff'],
  ])('%s: that function is left out and named, the others are there', (_, name, content) => {
    const functions = [{ address: '0000:00:01.0', files: { [name]: content } }, { address: '0000:00:02.0' }];
    const host = new LinuxPciHost(new FakeKernel({ functions }));
    expect(host.functions().map((fn) => fn.address)).toEqual(['0000:00:02.0']);
    expect(host.problems).toEqual([{ address: '0000:00:01.0', message: expect.stringContaining('modalias') }]);
  });

  test('what is no address is left out and named', () => {
    const kernel = machine();
    kernel.link('/sys/bus/pci/devices/..x', '/sys');
    expect(new LinuxPciHost(kernel).problems).toEqual([
      { address: '..x', message: expect.stringContaining('not a PCI address') },
    ]);
  });

  test('links and numbers that lie give nothing', () => {
    const kernel = new FakeKernel({
      functions: [{ address: '0000:00:01.0', files: { sriov_numvfs: '99999999999999\n', numa_node: 'x\n' } }],
    });
    kernel.link('/sys/bus/pci/devices/0000:00:01.0/iommu_group', '/sys/kernel/iommu_groups/x1');
    kernel.link('/sys/bus/pci/devices/0000:00:01.0/physfn', '/sys/devices/nowhere');
    const fn = new LinuxPciHost(kernel).find('0000:00:01.0');
    expect([fn?.iommuGroup, fn?.physfn, fn?.virtfns, fn?.numaNode]).toEqual([undefined, undefined, [], undefined]);
  });

  test('resources are those of the kernel: BARs, the ROM and its copy in memory; unassigned and empty ones told apart', () => {
    const none = '0x0000000000000000 0x0000000000000000 0x0000000000000000';
    const resource = [
      '0x0000004000000000 0x000000400007ffff 0x0000000000142204',
      none,
      '0x000000000000c000 0x000000000000c0ff 0x0000000000040101',
      '0x0000000000000000 0x0000000000000fff 0x0000000020040200',
      none,
      '0x0000000000002000 0x0000000000001fff 0x0000000000040200',
      '0x00000000000c0000 0x00000000000dffff 0x0000000000000212',
      '0x0000004000100000 0x00000040001fffff 0x0000000000140204',
    ].join('\n');
    const kernel = new FakeKernel({ functions: [{ address: '0000:00:01.0', files: { resource } }] });
    expect(new LinuxPciHost(kernel).find('0000:00:01.0')?.resources).toEqual([
      { start: 0x4000000000, size: 0x80000, io: false, prefetchable: true, is64Bit: true },
      undefined,
      { start: 0xc000, size: 0x100, io: true, prefetchable: false, is64Bit: false },
      { start: 0, size: 0x1000, io: false, prefetchable: false, is64Bit: false },
      undefined,
      undefined,
      { start: 0xc0000, size: 0x20000, io: false, prefetchable: false, is64Bit: false, shadowLength: 0x20000 },
    ]);
  });

  test('config space is as long as the kernel gives it; a function that has gone is ENODEV', () => {
    const kernel = new FakeKernel({ functions: [{ address: '0000:00:01.0', files: { config: 'x'.repeat(64) } }] });
    const fn = new LinuxPciHost(kernel).find('0000:00:01.0');
    expect(fn?.readConfig()).toHaveLength(64);
    kernel.unplug('0000:00:01.0');
    expect(fn?.isPresent).toBe(false);
    expect(fn?.driver).toBeUndefined();
    expect(() => fn?.readConfig()).toThrow(expect.objectContaining({ errno: 'ENODEV', device: '0000:00:01.0' }));
  });

  test('refresh tells a bus what has come and gone, and keeps the others', async () => {
    const kernel = machine();
    const host = new LinuxPciHost(kernel);
    const bus = new PciBus(host);
    const kept = host.find(PORT.address);
    kernel.unplug('0000:01:00.2');
    kernel.plug({ address: '0000:02:00.0' });
    await host.refresh();
    expect(bus.functions().map((fn) => fn.address)).toEqual([PORT.address, PF.address, '0000:01:00.1', '0000:02:00.0']);
    expect(host.find(PORT.address)).toBe(kept);
    await bus.close();
  });

  test('a function that was replaced by another at the same place has gone and come', async () => {
    const kernel = new FakeKernel({ functions: [{ address: '0000:02:00.0' }] });
    const host = new LinuxPciHost(kernel);
    const old = host.find('0000:02:00.0');
    const seen: string[] = [];
    const off = host.watch({
      added: (fn) => void seen.push(`added ${fn.device.toString(16)}`),
      removing: (fn) => void seen.push(`removing ${fn.device.toString(16)}`),
    });
    kernel.unplug('0000:02:00.0');
    kernel.plug({ address: '0000:02:00.0', device: 0x1234 });
    await host.refresh();
    expect(seen).toEqual(['removing 10d3', 'added 1234']);
    expect(host.find('0000:02:00.0')).not.toBe(old);
    off();
    kernel.unplug('0000:02:00.0');
    await host.refresh();
    expect(seen).toHaveLength(2);
  });
});
