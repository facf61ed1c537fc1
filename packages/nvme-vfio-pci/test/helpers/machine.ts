import {
  callbackTrigger,
  deviceOf,
  type MigrationData,
  OpsRegistry,
  PciBus,
  type PciFunction,
  type VfioDevice,
} from '@vfio/core';
import {
  type EmulatedFunction,
  EmulatedPciHost,
  NvmeController,
  type NvmeOptions,
  SparseMemoryStore,
} from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import { afterEach } from 'vitest';
import { type NvmeCore, type NvmeDriverOptions, nvmeDriver, nvmeVfioPciDriver } from '../../src/index.js';

const cleanUp: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step();
});

export interface MachineOptions {
  readonly drive?: NvmeOptions;
  readonly parent?: NvmeDriverOptions;
  /** Bind the physical function. @default true */
  readonly isOwned?: boolean;
  /** Enable the virtual functions. @default true */
  readonly hasVfs?: boolean;
}

/** A host with a drive, its physical function driven by us, and two virtual ones. */
export async function machine({ drive, parent, isOwned = true, hasVfs = true }: MachineOptions = {}) {
  const store = new SparseMemoryStore();
  const host = new EmulatedPciHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => new NvmeController(ctx, { virtualFunctions: 2, namespaces: [{ size: 0x100000, store }], ...drive }),
  });
  const warnings: string[] = [];
  const bus = new PciBus(host, { ops: new OpsRegistry(), warn: ({ message }) => void warnings.push(message) });
  cleanUp.push(() => bus.close());
  await bus.register(nvmeDriver(parent));
  await bus.register(nvmeVfioPciDriver());
  if (isOwned) await bus.bindOverride(pf, 'nvme');
  if (hasVfs) await bus.enableSriov(pf, 2);
  const vf = (index: number): EmulatedFunction<NvmeController> => {
    const found = host.find(`0000:01:00.${index + 1}`);
    if (found === undefined) throw new Error(`no VF ${index}`);
    return found as EmulatedFunction<NvmeController>;
  };
  return {
    host,
    bus,
    pf,
    vf,
    store,
    warnings,
    core: () => bus.getDrvdata<NvmeCore>(pf),
    /** Binds a virtual function and opens it. */
    async open(index: number): Promise<Vf> {
      const fn: PciFunction = vf(index);
      await bus.bindOverride(fn, 'nvme_vfio_pci');
      const device = await deviceOf(bus, fn).open();
      cleanUp.push(async () => device.close());
      return new Vf(device);
    },
  };
}

export type Machine = Awaited<ReturnType<typeof machine>>;

const RANGE = { iova: 0x100000n, length: 0x20000n };

/** An opened virtual function. */
export class Vf {
  readonly device: VfioDevice;
  readonly interrupts: number[] = [];

  constructor(device: VfioDevice) {
    this.device = device;
    device.setIrqs({
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: VFIO_PCI_MSIX_IRQ_INDEX,
      start: 0,
      count: 2,
      triggers: [0, 1].map((vector) => callbackTrigger(() => void this.interrupts.push(vector))),
    });
  }

  async state(): Promise<number> {
    const flags = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET;
    return ((await this.device.deviceFeature({ flags })) as { state: number }).state;
  }

  async set(state: number): Promise<MigrationData | undefined> {
    const flags = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET;
    return ((await this.device.deviceFeature({ flags, value: { state } })) as { data: MigrationData | undefined }).data;
  }

  /** The whole stream; the device is in STOP_COPY then. */
  async save(): Promise<Uint8Array> {
    const stream = await this.set(VFIO_DEVICE_STATE_STOP_COPY);
    if (stream === undefined) throw new Error('no stream');
    const parts: number[] = [];
    for (const into = new Uint8Array(1000); ; ) {
      const count = await stream.read(into);
      if (count === 0) return Uint8Array.from(parts);
      parts.push(...into.subarray(0, count));
    }
  }

  /** Writes a stream; the device is in RESUMING then. */
  async load(bytes: Uint8Array, size = bytes.length): Promise<void> {
    const stream = await this.set(VFIO_DEVICE_STATE_RESUMING);
    for (let at = 0; at < bytes.length; at += size) await stream?.write(bytes.subarray(at, at + size));
  }

  async startLog(pageSize = 4096n, ranges = [RANGE]): Promise<bigint> {
    const flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET;
    return ((await this.device.deviceFeature({ flags, value: { pageSize, ranges } })) as { pageSize: bigint }).pageSize;
  }

  async stopLog(): Promise<void> {
    await this.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET });
  }

  /** Numbers of the dirty pages of a range, counted from where the guest's memory begins. */
  async dirtyPages(range = RANGE): Promise<number[]> {
    const count = Number(range.length / 4096n);
    const bitmap = new Uint8Array(Math.ceil(count / 64) * 8);
    const flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET;
    await this.device.deviceFeature({ flags, value: { ...range, pageSize: 4096n, bitmap } });
    const first = Number((range.iova - RANGE.iova) / 4096n);
    return Array.from({ length: count }, (_, page) => page)
      .filter((page) => ((bitmap[page >> 3] ?? 0) & (1 << (page & 7))) !== 0)
      .map((page) => first + page);
  }
}
