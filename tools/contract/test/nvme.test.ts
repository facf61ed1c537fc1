import { nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import { type ContractSubject, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LOST_PAGE, MIGRATION_FAULTS, runFaulty } from '../src/migration-faults.js';
import { nvmeFunctions, nvmeState, nvmeWorkload } from '../src/nvme.js';
import { dmaAlloc, handles, local, overDevice, Served } from '../src/subjects.js';
import { wholeDma } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

// Each on its own drive, whose two functions are the two ends of a migration.
describe('nvme-vfio-pci on a virtual function', async () => {
  const [direct, below, socket] = await Promise.all([nvmeFunctions(), nvmeFunctions(), nvmeFunctions()]);
  afterAll(async () => {
    for (const one of [direct, below, socket]) await one.close();
  });
  const about = { driver: nvmeVfioPciDriver(), function: direct.devices[0]!.function };
  const state = nvmeState;
  const skip = {
    'a memory BAR cannot be reached while memory decode is off: EIO':
      'a virtual function always decodes (SR-IOV 3.4.1.3)',
  };

  describeVariantDriver(runner, {
    name: 'called directly',
    driver: about,
    workload: nvmeWorkload(wholeDma.map),
    state,
    skip,
    handles,
    open: () => local(direct.devices[0]!),
    peer: () => local(direct.devices[1]!),
  });

  const [first, second] = below.devices.map((device) => overDevice(device, vfioPciDriver()));
  describeVariantDriver(runner, {
    name: 'below the generic driver',
    workload: nvmeWorkload(wholeDma.map),
    state,
    skip,
    handles,
    open: async () => local(await first!),
    peer: async () => local(await second!),
  });

  describe('through a socket', () => {
    const served: Served[] = [];
    beforeAll(async () => {
      for (const device of socket.devices) served.push(await Served.start(device));
    });
    afterAll(async () => {
      for (const one of served) await one.stop();
    });
    const open = (at: number) => (): Promise<ContractSubject> =>
      served[at]?.open() ?? Promise.reject(new Error('not served'));
    const workload = nvmeWorkload(dmaAlloc);
    describeVariantDriver(runner, {
      name: 'each',
      driver: about,
      workload,
      state,
      skip,
      handles,
      open: open(0),
      peer: open(1),
    });
  });

  test.each([LOST_PAGE, ...MIGRATION_FAULTS])('the suite catches %s', async (_what, fault, rule) => {
    const run = runFaulty(fault, rule, {
      workload: nvmeWorkload(wholeDma.map),
      state,
      open: () => local(direct.devices[0]!),
      peer: () => local(direct.devices[1]!),
    });
    await expect(run).rejects.toBeInstanceOf(Error);
  });
});
