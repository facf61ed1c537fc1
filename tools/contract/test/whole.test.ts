import { type ContractSubject, type DeviceDma, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import type { VfioUserClient } from '@vfio/vfio-user';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { bound, local, openDescriptors, overDevice, Served } from '../src/subjects.js';
import { wholeDma, wholeDriver, wholeFunction } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

async function whole() {
  const { host, fn } = wholeFunction();
  return bound(host, fn, wholeDriver());
}

// A device that has everything to which a rule applies: what our own devices leave unsaid is said here, on every base.
describe('a device with all abilities', () => {
  const about = { driver: wholeDriver(), function: wholeFunction().fn };

  const direct = whole();
  describeVariantDriver(runner, {
    name: 'called directly',
    driver: about,
    dma: wholeDma,
    open: async () => local(await direct),
  });

  const above = (async () => overDevice(await whole(), vfioPciDriver()))();
  describeVariantDriver(runner, {
    name: 'over a VFIO device',
    driver: about,
    dma: wholeDma,
    open: async () => local(await above),
  });

  let served: Served | undefined;
  beforeAll(async () => {
    served = await Served.start(await whole());
  });
  afterAll(async () => served?.stop());
  const overSocket: DeviceDma = {
    ...wholeDma,
    // The subject opened it: it is a client of a socket.
    map: async (device, iova, size) => (await (device as VfioUserClient).dmaAlloc({ iova, size })).bytes,
  };
  const open = (): Promise<ContractSubject> => served?.open() ?? Promise.reject(new Error('not served'));
  describeVariantDriver(runner, {
    name: 'through a socket',
    driver: about,
    dma: overSocket,
    handles: openDescriptors,
    open,
  });
});
