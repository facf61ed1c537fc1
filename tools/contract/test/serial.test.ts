import type { VfioDeviceProvider } from '@vfio/core';
import { type ContractSubject, contractCases, type DeviceWorkload, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { serialVfioPciDriver } from '@vfio-examples/serial-vfio-pci';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MIGRATION_FAULTS, runFaulty } from '../src/migration-faults.js';
import { serialCard, serialState, serialWorkload } from '../src/serial.js';
import { dmaAlloc, handles, local, overDevice, Served } from '../src/subjects.js';
import { wholeDma } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

const [first, second, served] = await Promise.all([serialCard(), serialCard(), serialCard()]);
const about = { driver: serialVfioPciDriver(), function: first.function };
const each = (device: VfioDeviceProvider) => () => local(device);
// A driver that writes the streams of the kernel's mtty, and reads both.
const older = await serialCard(serialVfioPciDriver({ minor: 0 }));
const smaller = await serialCard(serialVfioPciDriver(), { ports: 1 });
const inProcess = {
  state: serialState,
  workload: serialWorkload(wholeDma.map),
  handles,
  otherVersion: each(older),
  incompatible: each(smaller),
};

describe('serial-vfio-pci on a serial card', async () => {
  describeVariantDriver(runner, {
    ...inProcess,
    name: 'called directly',
    driver: about,
    open: each(first),
    peer: each(second),
  });

  const [below, other] = await Promise.all([first, second].map((device) => overDevice(device, vfioPciDriver())));
  describeVariantDriver(runner, {
    ...inProcess,
    name: 'below the generic driver',
    open: each(below!),
    peer: each(other!),
  });

  const [over, peer] = await Promise.all(
    [1, 2].map(async () => overDevice(await serialCard(vfioPciDriver()), serialVfioPciDriver())),
  );
  describeVariantDriver(runner, {
    ...inProcess,
    name: 'over a VFIO device',
    driver: about,
    open: each(over!),
    peer: each(peer!),
  });

  describe('through a socket', () => {
    let socket: Served | undefined;
    beforeAll(async () => {
      socket = await Served.start(served);
    });
    afterAll(async () => socket?.stop());
    describeVariantDriver(runner, {
      name: 'each',
      driver: about,
      state: serialState,
      workload: serialWorkload(dmaAlloc),
      handles,
      otherVersion: each(older),
      open: (): Promise<ContractSubject> => socket?.open() ?? Promise.reject(new Error('not served')),
    });
  });

  test.each(MIGRATION_FAULTS)('the suite catches %s', async (_what, fault, rule) => {
    const run = runFaulty(fault, rule, { ...inProcess, open: each(first), peer: each(second) });
    await expect(run).rejects.toBeInstanceOf(Error);
  });

  test('a workload that neither writes nor signals is none', async () => {
    const workload: DeviceWorkload = { map: wholeDma.map, run: async () => [] };
    const cases = contractCases({ ...inProcess, name: 'idle', workload, open: each(first), peer: each(second) });
    const rule = 'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come';
    await expect(cases.find(({ name }) => name === rule)?.run()).rejects.toThrow('nothing was written');
  });
});
