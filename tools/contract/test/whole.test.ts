import type { VfioDeviceProvider } from '@vfio/core';
import { type ContractSubject, type DeviceDma, describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import type { VfioUserClient } from '@vfio/vfio-user';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { bound, handles, local, overDevice, Served, sharedMemory } from '../src/subjects.js';
import { wholeDma, wholeDriver, wholeFunction } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

async function whole(): Promise<VfioDeviceProvider> {
  const { host, fn } = wholeFunction({ memory: sharedMemory });
  return bound(host, fn, wholeDriver());
}

const above = async () => overDevice(await whole(), vfioPciDriver());

// A device that has everything to which a rule applies: what our own devices leave unsaid is said here, on every base.
describe('a device with all abilities', () => {
  const about = { driver: wholeDriver(), function: wholeFunction().fn };

  for (const [name, make] of [
    ['called directly', whole],
    ['over a VFIO device', above],
  ] as const) {
    const device = make();
    const open = async () => local(await device);
    describeVariantDriver(runner, { name, driver: about, dma: wholeDma, handles, open });
  }

  for (const [name, make, messagesOnly, twinSocket] of [
    ['through a socket, memory by descriptor', whole, false, true],
    ['through a socket, memory by messages on a second one', whole, true, true],
    ['through a socket, memory by messages on the same one', whole, true, false],
    ['over a VFIO device, through a socket, memory by descriptor', above, false, true],
  ] as const) {
    describe(name, () => {
      let served: Served | undefined;
      beforeAll(async () => {
        served = await Served.start(await make(), { twinSocket });
      });
      afterAll(async () => served?.stop());
      const dma: DeviceDma = {
        ...wholeDma,
        // The subject opened it: it is a client of a socket.
        map: async (device, iova, size) =>
          (await (device as VfioUserClient).dmaAlloc({ iova, size, messagesOnly })).bytes,
      };
      const open = (): Promise<ContractSubject> => served?.open() ?? Promise.reject(new Error('not served'));
      describeVariantDriver(runner, { name, driver: about, dma, handles, open });
    });
  }
});
