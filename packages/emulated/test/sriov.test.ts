import type { PciFunction } from '@vfio/core';
import { PCI_COMMAND, PCI_EXT_CAP_ID_SRIOV, PCI_SRIOV_CTRL, PCI_SRIOV_NUM_VF } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { EDU, SRIOV_EDU_VF_DEVICE, SriovEdu } from '../src/index.js';
import { MemorySpace } from './helpers/memory-space.js';
import { findExtended, manualHost, setMaster } from './helpers/setup.js';

function pf(totalVfs = 4) {
  const { host, deferred } = manualHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 3 });
  const fn = host.add({ address: '0000:03:00.0', model: (ctx) => new SriovEdu(ctx, { totalVfs }) });
  const { sriov } = fn;
  if (sriov === undefined) throw new Error('not a physical function');
  const at = findExtended(fn, PCI_EXT_CAP_ID_SRIOV);
  const vf = (index: number) => host.find(`0000:03:00.${index + 1}`);
  return { host, fn, sriov, at, vf, deferred };
}

describe('enabling', () => {
  test('the host announces each VF, with its PF, index and ids', () => {
    const { host, fn, sriov, vf } = pf();
    const added: PciFunction[] = [];
    host.watch({ added: (function_) => void added.push(function_) });
    sriov.enable(3);
    expect(added.map((f) => f.address)).toEqual(['0000:03:00.1', '0000:03:00.2', '0000:03:00.3']);
    expect(added.map((f) => [f.physfn, f.vfIndex, f.vendor, f.device, f.subvendor])).toEqual(
      [0, 1, 2].map((index) => [fn, index, 0x1234, SRIOV_EDU_VF_DEVICE, 0x1af4]),
    );
    expect(sriov.numVfs).toBe(3);
    expect(vf(3)).toBeUndefined();
    expect(host.functions().map((f) => f.address)).toContain('0000:03:00.2');
  });

  test('each announcement finds exactly the VFs before it and itself', () => {
    const { host, sriov } = pf();
    const counts: number[] = [];
    host.watch({ added: () => void counts.push(host.functions().filter((f) => f.vfIndex !== undefined).length) });
    sriov.enable(3);
    expect(counts).toEqual([1, 2, 3]);
  });

  test('each VF has a group of its own', () => {
    const { fn, sriov, vf } = pf();
    sriov.enable(2);
    expect(new Set([fn.iommuGroup, vf(0)?.iommuGroup, vf(1)?.iommuGroup]).size).toBe(3);
  });

  test.each([
    ['none', 0, 'EINVAL'],
    ['more than there are', 5, 'EINVAL'],
    ['a part of one', 1.5, 'EINVAL'],
  ])('%s is refused', (_name, count, errno) => {
    const { sriov } = pf();
    expect(() => sriov.enable(count)).toThrow(expect.objectContaining({ errno }));
    expect(sriov.numVfs).toBe(0);
  });

  test('a second time is EBUSY', () => {
    const { sriov } = pf();
    sriov.enable(1);
    expect(() => sriov.enable(2)).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
    expect(sriov.numVfs).toBe(1);
  });

  test('the number of VFs cannot change while they are enabled, nor exceed the total', () => {
    const { fn, sriov, at } = pf();
    fn.config.write(at + PCI_SRIOV_NUM_VF, 2, 9);
    expect(fn.config.read(at + PCI_SRIOV_NUM_VF, 2)).toBe(0);
    sriov.enable(2);
    fn.config.write(at + PCI_SRIOV_NUM_VF, 2, 1);
    expect(fn.config.read(at + PCI_SRIOV_NUM_VF, 2)).toBe(2);
  });

  test('software that sets VF Enable itself makes VFs that the host does not know', () => {
    const { host, fn, at } = pf();
    fn.config.write(at + PCI_SRIOV_NUM_VF, 2, 2);
    fn.config.write(at + PCI_SRIOV_CTRL, 2, 0x9);
    expect(host.functions().some((f) => f.vfIndex !== undefined)).toBe(false);
  });
});

describe('a VF', () => {
  test('reads its ids as all ones, has no BAR registers, no pin, and only bus mastering in COMMAND', () => {
    const { sriov, vf } = pf();
    sriov.enable(1);
    const config = vf(0)?.config;
    expect(config?.read(0, 4)).toBe(-1);
    config?.write(0x10, 4, -1);
    expect(config?.read(0x10, 4)).toBe(0);
    expect(config?.read(0x3d, 1)).toBe(0);
    config?.write(PCI_COMMAND, 2, 0xffff);
    expect(config?.read(PCI_COMMAND, 2)).toBe(4);
  });

  test('has its part of the VF BAR, decoded while the PF says so', () => {
    const { fn, sriov, at, vf } = pf();
    sriov.enable(2);
    const [first, second] = [vf(0)?.resources[0], vf(1)?.resources[0]];
    expect(second?.start).toBe((first?.start ?? 0) + EDU.BAR_SIZE);
    const space = vf(1)?.open(0);
    expect(space?.read(EDU.IDENTIFICATION, 4)).toBe(EDU.ID_VALUE);
    fn.config.write(at + PCI_SRIOV_CTRL, 2, 1);
    expect(space?.read(EDU.IDENTIFICATION, 4)).toBe(-1);
    fn.config.write(at + PCI_SRIOV_CTRL, 2, 9);
    expect(space?.read(EDU.IDENTIFICATION, 4)).toBe(EDU.ID_VALUE);
    fn.setPowerState(3);
    expect(space?.read(EDU.IDENTIFICATION, 4)).toBe(-1);
  });

  test('is a device of its own: registers, DMA and interrupts', () => {
    const { sriov, vf, deferred } = pf();
    sriov.enable(2);
    const memory = new MemorySpace(0x4000);
    const [a, b] = [vf(0), vf(1)];
    if (a === undefined || b === undefined) throw new Error('no VFs');
    a.open(0).write(EDU.LIVENESS, 4, 5);
    expect(b.open(0).read(EDU.LIVENESS, 4)).toBe(0);
    setMaster(b, true);
    b.attachDma(memory);
    let count = 0;
    b.interrupts.allocVectors('msi', 1);
    b.interrupts.setVectorHandler(0, () => count++);
    b.open(0).write(EDU.DMA_SOURCE, 4, EDU.BUFFER);
    b.open(0).write(EDU.DMA_DESTINATION, 4, 0x100);
    b.open(0).write(EDU.DMA_COUNT, 4, 8);
    b.open(0).write(EDU.DMA_COMMAND, 4, 7);
    deferred.run();
    expect(memory.log).toHaveLength(1);
    expect(count).toBe(1);
    expect(b.interrupts.intxLine).toBeUndefined();
    expect(b.resetMethods).toEqual(['flr', 'pm']);
  });

  test('is reset alone', () => {
    const { sriov, vf } = pf();
    sriov.enable(2);
    vf(0)?.open(0).write(EDU.LIVENESS, 4, 5);
    vf(1)?.open(0).write(EDU.LIVENESS, 4, 5);
    vf(0)?.tryResetFunction();
    expect(vf(0)?.open(0).read(EDU.LIVENESS, 4)).toBe(0);
    expect(vf(1)?.open(0).read(EDU.LIVENESS, 4)).toBe(~5);
  });
});

describe('disabling', () => {
  test('watchers let go of each VF before it is gone, the last one first', async () => {
    const { host, sriov, vf } = pf();
    sriov.enable(2);
    const log: string[] = [];
    const one = vf(0);
    host.watch({
      removing: async (fn) => {
        log.push(`going ${fn.address}`);
        await Promise.resolve();
        log.push(`gone ${fn.address} ${one?.open(0).read(0, 4)}`);
      },
    });
    await sriov.disable();
    expect(log).toEqual([
      'going 0000:03:00.2',
      `gone 0000:03:00.2 ${EDU.ID_VALUE}`,
      'going 0000:03:00.1',
      `gone 0000:03:00.1 ${EDU.ID_VALUE}`,
    ]);
    expect(one?.open(0).read(0, 4)).toBe(-1);
    expect(host.functions().some((f) => f.vfIndex !== undefined)).toBe(false);
    sriov.enable(4);
    expect(sriov.numVfs).toBe(4);
  });

  test('a reset of the PF takes the VFs away until VF Enable is set again', () => {
    const { fn, sriov, at, vf } = pf();
    sriov.enable(2);
    const saved = Array.from({ length: 16 }, (_, i) => fn.config.read(at + 4 * i, 4));
    const command = fn.config.read(PCI_COMMAND, 2);
    const bar = fn.config.read(0x10, 4);
    fn.tryResetFunction();
    const one = vf(0);
    expect(one?.open(0).read(0, 4)).toBe(-1);
    fn.config.write(0x10, 4, bar);
    fn.config.write(PCI_COMMAND, 2, command);
    for (const i of [9, 8, 4, 2]) fn.config.write(at + 4 * i, 4, saved[i] as number);
    expect(one?.open(0).read(0, 4)).toBe(EDU.ID_VALUE);
  });

  test('a bus reset of the port keeps the VFs', () => {
    const { fn, sriov, vf } = pf();
    sriov.enable(2);
    expect(fn.resetScope?.functions().map((f) => f.address)).toEqual(['0000:03:00.0', '0000:03:00.1', '0000:03:00.2']);
    fn.resetScope?.tryReset();
    expect(vf(1)?.open(0).read(0, 4)).toBe(EDU.ID_VALUE);
    expect(sriov.numVfs).toBe(2);
  });

  test('removing the PF removes its VFs; removing a VF alone is EBUSY', async () => {
    const { host, sriov } = pf();
    sriov.enable(2);
    expect(() => host.remove('0000:03:00.1')).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
    const gone: string[] = [];
    host.watch({ removing: (fn) => void gone.push(fn.address) });
    await host.remove('0000:03:00.0');
    expect(gone).toEqual(['0000:03:00.2', '0000:03:00.1', '0000:03:00.0']);
    expect(host.functions().map((f) => f.address)).toEqual(['0000:00:1c.0']);
  });
});
