import type { VfioDeviceProvider } from '@vfio/core';
import { ConnectX, EmulatedPciHost, CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { mlx5VfioPciDriver } from '@vfio/mlx5-vfio-pci';
import { type Mlx5Core, mlx5CoreDriver } from '@vfio/mlx5-vfio-pci/hca';
import type { DeviceState, DeviceWorkload } from '@vfio/testing';
import { VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import { putCopy, readEngine, startEngine, writeEngine } from './engine.js';
import { sharedMemory, virtualFunctions } from './subjects.js';

const PAGE = 4096;
const VECTOR = 3;
/** Descriptors of a ring that fills a page. */
const LOG_RING = 7;

/** A ConnectX that is driven by us, and two of its virtual functions behind their driver. */
export interface Mlx5Functions {
  readonly devices: readonly VfioDeviceProvider[];
  /** What the driver holds of the firmware: memory keys, domains, queues, trackers and pages. */
  held(): number;
  close(): Promise<void>;
}

/** @param memoryPages pages of each function's own memory: functions of different sizes are not compatible */
export async function mlx5Functions(memoryPages = 16): Promise<Mlx5Functions> {
  const host = new EmulatedPciHost({ memory: sharedMemory });
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const models: ConnectX[] = [];
  const pf = host.add({
    address: '0000:01:00.0',
    model(ctx) {
      const model = new ConnectX(ctx, { vfMemory: memoryPages * PAGE });
      models.push(model);
      return model;
    },
  });
  const { bus, devices } = await virtualFunctions(host, pf, mlx5CoreDriver(), mlx5VfioPciDriver());
  const held = (): number => {
    const { hca } = bus.getDrvdata<Mlx5Core>(pf)!;
    const objects = models.flatMap((model) => {
      const { memoryKeys, protectionDomains, completionQueues, queuePairs, trackers } = model.hca;
      return [memoryKeys, protectionDomains, completionQueues, queuePairs, trackers].map(({ size }) => size);
    });
    return hca.pool.used + objects.reduce((sum, size) => sum + size, 0);
  };
  return { devices, held, close: () => bus.close() };
}

/** Registers that mean nothing to the engine, which must be moved for that very reason. */
export const mlx5State: DeviceState = {
  async put(device, seed) {
    for (let at = ENGINE.SCRATCH; at < ENGINE.END; at += 4)
      await writeEngine(device, at, Math.imul(seed + at, 0x9e3779b1));
  },
  async get(device) {
    const bytes = new Uint8Array(ENGINE.END - ENGINE.SCRATCH);
    for (let at = 0; at < bytes.length; at += 4)
      await device.read(0, ENGINE.BASE + ENGINE.SCRATCH + at, bytes.subarray(at, at + 4));
    return bytes;
  },
};

const COPIES = 5;

/**
 * Descriptors that copy pieces of memory to other places of it. The ring is the first page, into which the engine writes
 * how each ended; what is copied is that page, of which no byte behind the descriptors is 0.
 */
export const mlx5Workload = (map: DeviceWorkload['map']): DeviceWorkload => ({
  map,
  async run(device, { iova, bytes }, random) {
    await startEngine(device, { iova, logSize: LOG_RING, vector: VECTOR });
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const ranges = [{ iova, length: BigInt(COPIES * ENGINE.DESCRIPTOR_BYTES) }];
    bytes.fill(0x5a, COPIES * ENGINE.DESCRIPTOR_BYTES, PAGE);
    for (let n = 0; n < COPIES; n++) {
      // Each to a part of its own: what one has copied no other overwrites.
      const part = Math.floor((bytes.length - PAGE) / COPIES);
      const length = ENGINE.DESCRIPTOR_BYTES + Math.floor(random() * (PAGE - ENGINE.DESCRIPTOR_BYTES));
      const to = PAGE + n * part + Math.floor(random() * (part - length));
      putCopy(view, n * ENGINE.DESCRIPTOR_BYTES, {
        from: iova,
        to: iova + BigInt(to),
        length,
        isLast: n === COPIES - 1,
      });
      ranges.push({ iova: iova + BigInt(to), length: BigInt(length) });
    }
    await writeEngine(device, ENGINE.PRODUCER, COPIES);
    while ((await readEngine(device, ENGINE.CONSUMER)) !== COPIES) {
      if (((await readEngine(device, ENGINE.STATUS)) & ENGINE.STATUS_ERROR) !== 0)
        throw new Error('the engine stands still');
      await new Promise((resolve) => setImmediate(resolve));
    }
    return ranges;
  },
  interrupt: { index: VFIO_PCI_MSIX_IRQ_INDEX, vector: VECTOR },
});
