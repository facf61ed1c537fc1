import type { VfioDeviceProvider } from '@vfio/core';
import { type ContractSubject, contractCases, type DeviceWorkload, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import type { VfioUserClient } from '@vfio/vfio-user';
import { serialVfioPciDriver } from '@vfio-examples/serial-vfio-pci';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  allowsEveryArc,
  changesByte,
  dropsByte,
  losesInterrupt,
  resetsNothing,
  streams,
} from '../src/faulty-client.js';
import { serialCard, serialState, serialWorkload } from '../src/serial.js';
import { handles, local, overDevice, Served } from '../src/subjects.js';
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
    const map: DeviceWorkload['map'] = async (device, iova, size) =>
      (await (device as VfioUserClient).dmaAlloc({ iova, size })).bytes;
    describeVariantDriver(runner, {
      name: 'each',
      driver: about,
      state: serialState,
      workload: serialWorkload(map),
      handles,
      otherVersion: each(older),
      open: (): Promise<ContractSubject> => socket?.open() ?? Promise.reject(new Error('not served')),
    });
  });

  const moved = 'what one device saves another loads, in pieces of any size, and has the same state then';
  test.each([
    ['a byte of the stream that is lost', streams(dropsByte), moved],
    ['a byte of the stream that is changed', streams(changesByte), moved],
    [
      'an interrupt that is lost',
      losesInterrupt,
      'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come',
    ],
    [
      'a reset that does not lead to RUNNING',
      resetsNothing,
      'a reset in any state leads to RUNNING, and ends the stream with ENODEV',
    ],
    [
      'an arc that there is not',
      allowsEveryArc,
      'a state that the device lacks, and a way that there is not, are refused with EINVAL; state and stream go on',
    ],
  ] as const)('the suite catches %s', async (_what, fault, rule) => {
    const cases = contractCases({
      ...inProcess,
      name: 'faulty',
      async open() {
        const { device, close } = await local(first);
        return { device: fault(device), close };
      },
      peer: each(second),
    });
    const found = cases.find(({ name }) => name === rule);
    await expect(found?.run()).rejects.toBeInstanceOf(Error);
  });

  test('a workload that neither writes nor signals is none', async () => {
    const workload: DeviceWorkload = { map: wholeDma.map, run: async () => [] };
    const cases = contractCases({ ...inProcess, name: 'idle', workload, open: each(first), peer: each(second) });
    const rule = 'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come';
    await expect(cases.find(({ name }) => name === rule)?.run()).rejects.toThrow('nothing was written');
  });
});
