import { deviceOf, OpsRegistry, PciBus, type VfioDeviceClient, type VfioDeviceProvider } from '@vfio/core';
import { ConnectX, EmulatedPciHost, CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { mlx5VfioPciDriver } from '@vfio/mlx5-vfio-pci';
import { type Mlx5Core, mlx5CoreDriver } from '@vfio/mlx5-vfio-pci/hca';
import type { DeviceState, DeviceWorkload } from '@vfio/testing';
import { VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import { sharedMemory } from './subjects.js';

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
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(mlx5CoreDriver());
  await bus.register(mlx5VfioPciDriver());
  await bus.bindOverride(pf, 'mlx5_core');
  await bus.sriovConfigure(pf, 2);
  const devices: VfioDeviceProvider[] = [];
  for (const address of ['0000:01:00.1', '0000:01:00.2']) {
    const fn = host.find(address);
    if (fn === undefined) throw new Error(`no ${address}`);
    await bus.bindOverride(fn, 'mlx5_vfio_pci');
    devices.push(deviceOf(bus, fn));
  }
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

async function read(device: VfioDeviceClient, register: number): Promise<number> {
  const bytes = new Uint8Array(4);
  await device.read(0, ENGINE.BASE + register, bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}

async function write(device: VfioDeviceClient, register: number, value: number): Promise<void> {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  await device.write(0, ENGINE.BASE + register, bytes);
}

/** Registers that mean nothing to the engine, which must be moved for that very reason. */
export const mlx5State: DeviceState = {
  async put(device, seed) {
    for (let at = ENGINE.SCRATCH; at < ENGINE.END; at += 4)
      await write(device, at, Math.imul(seed + at, 0x9e3779b1) >>> 0);
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
    await write(device, ENGINE.CONTROL, 0);
    await write(device, ENGINE.RING_LOW, Number(iova & 0xffffffffn));
    await write(device, ENGINE.RING_HIGH, Number(iova >> 32n));
    await write(device, ENGINE.RING_LOG_SIZE, LOG_RING);
    await write(device, ENGINE.VECTOR, VECTOR);
    await write(device, ENGINE.CONTROL, ENGINE.CONTROL_ENABLE);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const ranges = [{ iova, length: BigInt(COPIES * ENGINE.DESCRIPTOR_BYTES) }];
    bytes.fill(0x5a, COPIES * ENGINE.DESCRIPTOR_BYTES, PAGE);
    for (let n = 0; n < COPIES; n++) {
      // Each to a part of its own: what one has copied no other overwrites.
      const part = Math.floor((bytes.length - PAGE) / COPIES);
      const length = ENGINE.DESCRIPTOR_BYTES + Math.floor(random() * (PAGE - ENGINE.DESCRIPTOR_BYTES));
      const to = PAGE + n * part + Math.floor(random() * (part - length));
      const at = n * ENGINE.DESCRIPTOR_BYTES;
      view.setUint32(at, (ENGINE.COPY | (n === COPIES - 1 ? ENGINE.INTERRUPT : 0)) >>> 0, true);
      view.setUint32(at + 4, length, true);
      view.setBigUint64(at + 8, iova, true);
      view.setBigUint64(at + 16, iova + BigInt(to), true);
      ranges.push({ iova: iova + BigInt(to), length: BigInt(length) });
    }
    await write(device, ENGINE.PRODUCER, COPIES);
    while ((await read(device, ENGINE.CONSUMER)) !== COPIES) {
      if (((await read(device, ENGINE.STATUS)) & ENGINE.STATUS_ERROR) !== 0) throw new Error('the engine stands still');
      await new Promise((resolve) => setImmediate(resolve));
    }
    return ranges;
  },
  interrupt: { index: VFIO_PCI_MSIX_IRQ_INDEX, vector: VECTOR },
});
