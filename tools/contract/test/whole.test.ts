import type { VfioDeviceProvider } from '@vfio/core';
import { type ContractSubject, type DeviceDma, describeVariantDriver } from '@vfio/testing';
import { VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { vfioPciDriver } from '@vfio/vfio-pci';
import type { VfioUserClient } from '@vfio/vfio-user';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { bound, handles, local, overDevice, Served, sharedMemory } from '../src/subjects.js';
import { ALL_MIGRATION, wholeDma, wholeDriver, wholeFunction, wholeState } from '../src/whole-device.js';
import type { StreamVersion } from '../src/whole-migration.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

async function whole(flags = ALL_MIGRATION, version: StreamVersion = 1): Promise<VfioDeviceProvider> {
  const { host, fn } = wholeFunction({ memory: sharedMemory });
  return bound(host, fn, wholeDriver(undefined, flags, version));
}

const opens = (made: Promise<VfioDeviceProvider>) => async () => local(await made);

const above = async (flags?: number, version?: StreamVersion) =>
  overDevice(await whole(flags, version), vfioPciDriver());

const [STOP_COPY, P2P, PRE_COPY] = [VFIO_MIGRATION_STOP_COPY, VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY];

// A device that has everything to which a rule applies: what our own devices leave unsaid is said here, on every base.
describe('a device with all abilities', () => {
  const about = { driver: wholeDriver(), function: wholeFunction().fn };

  for (const [name, make, flags] of [
    ['called directly', whole, ALL_MIGRATION],
    ['over a VFIO device', above, ALL_MIGRATION],
    ['that only stops and copies', whole, STOP_COPY],
    ['without PRE_COPY', whole, STOP_COPY | P2P],
    ['without P2P', whole, STOP_COPY | PRE_COPY],
    ['without migration', whole, 0],
  ] as const) {
    const [open, peer] = [opens(make(flags)), opens(make(flags))];
    const [otherVersion, incompatible] = [opens(make(flags, 2)), opens(make(flags, 3))];
    const options = { driver: about, dma: wholeDma, state: wholeState, handles };
    describeVariantDriver(runner, { name, ...options, open, peer, otherVersion, incompatible });
  }

  for (const [name, make, messagesOnly, twinSocket] of [
    ['through a socket, memory by descriptor', whole, false, true],
    ['through a socket, memory by messages on a second one', whole, true, true],
    ['through a socket, memory by messages on the same one', whole, true, false],
    ['over a VFIO device, through a socket, memory by descriptor', above, false, true],
  ] as const) {
    describe(name, () => {
      const [otherVersion, incompatible] = [opens(whole(ALL_MIGRATION, 2)), opens(whole(ALL_MIGRATION, 3))];
      let served: Served | undefined;
      let second: Served | undefined;
      beforeAll(async () => {
        served = await Served.start(await make(), { twinSocket });
        second = await Served.start(await make(), { twinSocket });
      });
      afterAll(async () => {
        await served?.stop();
        await second?.stop();
      });
      const dma: DeviceDma = {
        ...wholeDma,
        // The subject opened it: it is a client of a socket.
        map: async (device, iova, size) =>
          (await (device as VfioUserClient).dmaAlloc({ iova, size, messagesOnly })).bytes,
      };
      const opened = (one: Served | undefined): Promise<ContractSubject> =>
        one?.open() ?? Promise.reject(new Error('not served'));
      const open = () => opened(served);
      const peer = () => opened(second);
      const options = { driver: about, dma, state: wholeState, handles };
      describeVariantDriver(runner, { name, ...options, open, peer, otherVersion, incompatible });
    });
  }
});
