import { mlx5VfioPciDriver } from '@vfio/mlx5-vfio-pci';
import { type ContractSubject, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { withKernelStreams } from '../src/kernel-streams.js';
import { LOST_PAGE, MIGRATION_FAULTS, runFaulty } from '../src/migration-faults.js';
import { mlx5Functions, mlx5State, mlx5Workload } from '../src/mlx5.js';
import { dmaAlloc, handles, local, overDevice, Served } from '../src/subjects.js';
import { wholeDma } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

// Each on its own ConnectX, whose two functions are the two ends of a migration.
describe('mlx5-vfio-pci on a virtual function', async () => {
  const [direct, below, socket, others, larger] = await Promise.all([
    mlx5Functions(),
    mlx5Functions(),
    mlx5Functions(),
    mlx5Functions(),
    mlx5Functions(32),
  ]);
  afterAll(async () => {
    for (const one of [direct, below, socket, others, larger]) await one.close();
  });
  const versions = {
    async otherVersion() {
      const { device, close } = await local(others.devices[0]!);
      return { device: withKernelStreams(device), close };
    },
    incompatible: () => local(larger.devices[0]!),
  };
  const about = { driver: mlx5VfioPciDriver(), function: direct.devices[0]!.function };
  const state = mlx5State;
  const skip = {
    'a memory BAR cannot be reached while memory decode is off: EIO':
      'a virtual function always decodes (SR-IOV 3.4.1.3)',
  };

  describeVariantDriver(runner, {
    name: 'called directly',
    driver: about,
    workload: mlx5Workload(wholeDma.map),
    state,
    skip,
    // What the firmware holds for the driver counts too.
    handles: () => handles() + direct.held(),
    open: () => local(direct.devices[0]!),
    peer: () => local(direct.devices[1]!),
    ...versions,
  });

  const [first, second] = below.devices.map((device) => overDevice(device, vfioPciDriver()));
  describeVariantDriver(runner, {
    name: 'below the generic driver',
    workload: mlx5Workload(wholeDma.map),
    state,
    skip,
    handles: () => handles() + below.held(),
    open: async () => local(await first!),
    peer: async () => local(await second!),
    ...versions,
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
    const workload = mlx5Workload(dmaAlloc);
    describeVariantDriver(runner, {
      name: 'each',
      driver: about,
      workload,
      state,
      skip,
      handles: () => handles() + socket.held(),
      open: open(0),
      peer: open(1),
      ...versions,
    });
  });

  test.each([LOST_PAGE, ...MIGRATION_FAULTS])('the suite catches %s', async (_what, fault, rule) => {
    const run = runFaulty(fault, rule, {
      workload: mlx5Workload(wholeDma.map),
      state,
      open: () => local(direct.devices[0]!),
      peer: () => local(direct.devices[1]!),
    });
    await expect(run).rejects.toBeInstanceOf(Error);
  });
});
