import type { PciDriver } from '@vfio/core';
import { EmulatedPciHost, NvmeController, SparseMemoryStore } from '@vfio/emulated';
import { nvmeVfioPciDriver } from '@vfio/nvme-vfio-pci';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { VfioUserClient } from '@vfio/vfio-user';
import { describe, expect, test } from 'vitest';
import { NvmeGuest } from '../src/nvme-guest.js';
import { bound, Served } from '../src/subjects.js';

const BLOCKS = 5;
const IOVA = 0x100000n;

/** What is on the media when a client wrote, its socket went, and then the power. */
async function afterLoss(driver: PciDriver, isFlushing: boolean) {
  const store = new SparseMemoryStore();
  const host = new EmulatedPciHost();
  const fn = host.add({
    address: '0000:00:03.0',
    model: (ctx) => new NvmeController(ctx, { namespaces: [{ size: 0x100000, store }] }),
  });
  const served = await Served.start(await bound(host, fn, driver));
  try {
    // A vfio-user client says no goodbye: to the server, closing its end is the same as being killed.
    const client = await VfioUserClient.connect(served.path);
    const memory = await client.dmaAlloc({ iova: IOVA, size: 0x8000 });
    await client.write(7, 4, Uint8Array.of(0x06, 0x04));
    const guest = await NvmeGuest.start(client, { iova: IOVA, bytes: memory.bytes });
    for (let lba = 0; lba < BLOCKS; lba++) await guest.writeBlock(lba, lba + 1);
    if (isFlushing) await guest.beginFlush();
    await client.close();
    await served.idle();
    fn.powerCycle();
    const bytes = new Uint8Array(BLOCKS * 512);
    store.read(0, bytes);
    return {
      blocks: Array.from({ length: BLOCKS }, (_, lba) => bytes[lba * 512]),
      abruptResets: fn.model.abruptResets,
      unsafeShutdowns: fn.model.health.unsafeShutdowns,
    };
  } finally {
    await served.stop();
  }
}

describe('a client that is gone from its socket with writes in the cache of its drive', () => {
  test.each([false, true])('loses nothing with nvme_vfio_pci (a flush under way: %s)', async (isFlushing) => {
    expect(await afterLoss(nvmeVfioPciDriver(), isFlushing)).toEqual({
      blocks: [1, 2, 3, 4, 5],
      abruptResets: 0,
      unsafeShutdowns: 0,
    });
  });

  test('loses them with the generic driver', async () => {
    expect(await afterLoss(vfioPciDriver(), false)).toEqual({
      blocks: [0, 0, 0, 0, 0],
      abruptResets: 1,
      unsafeShutdowns: 1,
    });
  });
});
