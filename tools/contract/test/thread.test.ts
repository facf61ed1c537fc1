import { describeVariantDriver } from '@vfio/testing';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { handles, overDevice } from '../src/subjects.js';
import { ServedInThread } from '../src/thread.js';
import { wholeDma, wholeDriver, wholeFunction, wholeState } from '../src/whole-device.js';

const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };

// A vfio-user peer as a local device, and as the base of another: the client's calls block, so its server is in a thread.
describe('a device with all abilities in another thread', () => {
  let served: ServedInThread | undefined;
  beforeAll(async () => {
    served = await ServedInThread.start();
  });
  afterAll(async () => served?.stop());

  for (const [name, above, driver] of [
    ['called directly', false, wholeDriver()],
    ['below the generic driver', true, vfioPciDriver()],
  ] as const) {
    const about = { driver, function: wholeFunction().fn };
    const open = async () => {
      if (served === undefined) throw new Error('not served');
      const { provider } = served;
      return served.open(above ? await overDevice(provider, vfioPciDriver()) : provider);
    };
    describeVariantDriver(runner, { name, driver: about, dma: wholeDma, state: wholeState, handles, open });
  }
});
