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
  type CommandRecord,
  ConnectX,
  type ConnectXOptions,
  type ConnectXVf,
  EmulatedPciHost,
  CONNECTX_ENGINE as ENGINE,
} from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
} from '@vfio/uapi';
import { afterEach, expect } from 'vitest';
import { mlx5VfioPciDriver } from '../../src/device.js';
import { type Mlx5Core, type Mlx5CoreOptions, mlx5CoreDriver } from '../../src/hca/index.js';

export const PAGE = 4096;

export const STATE = {
  ERROR: 0,
  STOP: 1,
  RUNNING: 2,
  STOP_COPY: 3,
  RESUMING: 4,
  RUNNING_P2P: 5,
  PRE_COPY: 6,
  PRE_COPY_P2P: 7,
} as const;

const cleanUp: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step();
});

/** A host with a ConnectX, its physical function driven by us, and some virtual ones. */
export async function machine(
  options: { connectx?: ConnectXOptions; core?: Mlx5CoreOptions; vfs?: number; boot?: boolean } = {},
) {
  const commands: CommandRecord[] = [];
  let model: ConnectX | undefined;
  const host = new EmulatedPciHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => {
      model = new ConnectX(ctx, {
        vfMemory: 64 * PAGE,
        onCommand: (record) => commands.push(record),
        ...options.connectx,
      });
      return model;
    },
  });
  const warnings: string[] = [];
  const bus = new PciBus(host, { ops: new OpsRegistry(), warn: ({ message }) => void warnings.push(message) });
  cleanUp.push(() => bus.close());
  await bus.register(mlx5CoreDriver({ commandTimeoutMs: 2000, ...options.core }));
  await bus.register(mlx5VfioPciDriver());
  if (model === undefined) throw new Error('no model');
  const connectx = model;
  if (options.boot !== false) {
    await bus.bindOverride(pf, 'mlx5_core');
    await bus.sriovConfigure(pf, options.vfs ?? 2);
  } else if ((options.vfs ?? 2) > 0) await bus.enableSriov(pf, options.vfs ?? 2);
  const vf = (index: number): PciFunction => {
    const found = host.find(`0000:01:00.${index + 1}`);
    if (found === undefined) throw new Error(`no VF ${index}`);
    return found;
  };
  const hca = () => {
    const core = bus.getDrvdata<Mlx5Core>(pf);
    if (core === undefined) throw new Error('the physical function is not bound');
    return core.hca;
  };
  /** Binds a virtual function and opens it. */
  const open = async (index: number): Promise<Vf> => {
    const fn = vf(index);
    await bus.bindOverride(fn, 'mlx5_vfio_pci');
    const device = await deviceOf(bus, fn).open();
    cleanUp.push(async () => device.close());
    const virtual = connectx.virtualFunctions.get(index);
    if (virtual === undefined) throw new Error(`no model of VF ${index}`);
    return new Vf(device, virtual);
  };
  return { host, bus, pf, vf, open, hca, connectx, commands, warnings };
}

export type Machine = Awaited<ReturnType<typeof machine>>;

/** Where a program's memory is mapped for the device. */
export const MEMORY_BASE = 0x40000000;
export const MEMORY_BYTES = 0x100000;

/** An opened virtual function, and a program that uses its engine. */
export class Vf {
  readonly device: VfioDevice;
  readonly model: ConnectXVf;
  memory: Uint8Array;
  readonly interrupts: number[] = [];
  #producer = 0;

  constructor(device: VfioDevice, model: ConnectXVf) {
    this.device = device;
    this.model = model;
    this.memory = new Uint8Array(MEMORY_BYTES);
    this.#map();
    this.device.setIrqs({
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: 2,
      start: 0,
      count: 4,
      triggers: [0, 1, 2, 3].map((vector) => callbackTrigger(() => void this.interrupts.push(vector))),
    });
    this.#config(4, new Uint8Array([6, 0]));
  }

  #map(): void {
    this.device.dmaMap({
      iova: BigInt(MEMORY_BASE),
      size: BigInt(MEMORY_BYTES),
      readable: true,
      writable: true,
      memory: { bytes: this.memory, fd: undefined, fdOffset: 0 },
    });
  }

  #config(offset: number, bytes: Uint8Array): void {
    void this.device.write(7, offset, bytes);
  }

  register(offset: number): number {
    const bytes = new Uint8Array(4);
    this.device.read(0, ENGINE.BASE + offset, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  write(offset: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    void this.device.write(0, ENGINE.BASE + offset, bytes);
  }

  /** The ring is the first page of memory, and nothing is in it. */
  start(): void {
    this.write(ENGINE.CONTROL, 0);
    this.#producer = 0;
    this.write(ENGINE.RING_LOW, MEMORY_BASE);
    this.write(ENGINE.RING_HIGH, 0);
    this.write(ENGINE.RING_LOG_SIZE, 6);
    this.write(ENGINE.VECTOR, 3);
    this.write(ENGINE.CONTROL, ENGINE.CONTROL_ENABLE);
  }

  /** Puts a descriptor into the ring; offsets are of this program's memory, or of the function's. */
  submit(opcode: number, length: number, source: number, destination: number): number {
    const at = (this.#producer % 64) * 32;
    const view = new DataView(this.memory.buffer, at, 32);
    const kind = opcode & ~ENGINE.INTERRUPT;
    view.setUint32(0, opcode, true);
    view.setUint32(4, length, true);
    view.setBigUint64(8, BigInt(kind === ENGINE.FETCH ? source : MEMORY_BASE + source), true);
    view.setBigUint64(16, BigInt(kind === ENGINE.STORE ? destination : MEMORY_BASE + destination), true);
    view.setBigUint64(24, 0n, true);
    this.#producer++;
    this.write(ENGINE.PRODUCER, this.#producer);
    return at;
  }

  async run(opcode: number, length: number, source: number, destination: number): Promise<number> {
    const at = this.submit(opcode, length, source, destination);
    const view = new DataView(this.memory.buffer, at, 32);
    for (let i = 0; i < 1000 && view.getUint32(24, true) === 0; i++)
      await new Promise((resolve) => setImmediate(resolve));
    return view.getUint32(24, true);
  }

  /** Fills a page of the function's own memory. */
  async store(page: number, byte: number): Promise<void> {
    this.memory.fill(byte, PAGE, 2 * PAGE);
    await this.run(ENGINE.STORE, PAGE, PAGE, page * PAGE);
  }

  /** The program moves to another device with its memory and where it is in the ring. */
  moveTo(other: Vf): void {
    other.memory.set(this.memory);
    other.#producer = this.#producer;
  }

  async state(): Promise<number> {
    const result = await this.device.deviceFeature({
      flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
    });
    return (result as { state: number }).state;
  }

  async set(state: number): Promise<MigrationData | undefined> {
    const result = await this.device.deviceFeature({
      flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
      value: { state },
    });
    return (result as { data: MigrationData | undefined }).data;
  }
}

export async function stream(vf: Vf, state: number): Promise<MigrationData> {
  const data = await vf.set(state);
  if (data === undefined) throw new Error(`no stream in state ${state}`);
  return data;
}

/** Reads until there is nothing now (ENOMSG) or the end. */
export async function drain(data: MigrationData, size = 1000): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const part = new Uint8Array(size);
    let count: number;
    try {
      count = await data.read(part);
    } catch (error) {
      if ((error as { errno?: string }).errno !== 'ENOMSG') throw error;
      break;
    }
    if (count === 0) break;
    parts.push(part.subarray(0, count));
  }
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export async function feed(data: MigrationData, bytes: Uint8Array, size = 777): Promise<void> {
  for (let at = 0; at < bytes.length; at += size) await data.write(bytes.subarray(at, at + size));
}

/** The whole state of a function, which is stopped then. */
export async function saved(vf: Vf): Promise<Uint8Array> {
  const state = await drain(await stream(vf, STATE.STOP_COPY), 10_000);
  await vf.set(STATE.STOP);
  return state;
}

/** Everything that a session takes has been given back. */
export async function nothingHeld({ hca, connectx }: Machine): Promise<void> {
  await expect.poll(() => [connectx.hca.memoryKeys.size, connectx.hca.protectionDomains.size]).toEqual([0, 0]);
  expect(hca().pool.used).toBe(connectx.hca.pages.count + pagesOfVfs(connectx) + 3);
}

const pagesOfVfs = (connectx: Machine['connectx']): number =>
  [...connectx.firmware.records].filter(({ id }) => id > 0).reduce((sum, { pages }) => sum + pages.count, 0);
