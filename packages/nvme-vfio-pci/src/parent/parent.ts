import { type AllocateMemory, DMA_PAGE, type DmaBuffer, DmaPool, plainMemory, type VfioDevice } from '@vfio/core';
import { errnoError, VFIO_PCI_BAR0_REGION_INDEX } from '@vfio/uapi';
import { Controller } from '../controller.js';
import { AdminQueue } from './admin-queue.js';

const ADMIN_IDENTIFY = 0x06;
const CNS = { CONTROLLER: 0x01, SECONDARY_CONTROLLERS: 0x15, CONTROLLER_STATE_FORMATS: 0x20 } as const;
const IDENTIFY_BYTES = 4096;

/** The most data that one command carries, whatever the controller would take: what one page of a PRP list describes, and less. */
const MAX_TRANSFER = 0x40000;

export interface NvmeParentOptions {
  /** Milliseconds for a command. @default 60000, as Linux's nvme driver waits for admin commands */
  readonly commandTimeoutMs?: number;
  /** Memory that the function's DMA may reach. @default plain memory, for functions that are emulated in this process */
  readonly allocate?: AllocateMemory;
}

/** What a controller says of its part in migrations (Identify Controller, figure 312). */
export interface ParentCapabilities {
  readonly vendor: number;
  /** It manages the migration of others: HMLMS. */
  readonly managesMigration: boolean;
  /** It tracks which host memory others write: THMCS. */
  readonly tracksMemory: boolean;
  readonly tracking: TrackingLimits;
}

export interface TrackingLimits {
  readonly maxDescriptors: number;
  /** Powers of two of 4 KiB. */
  readonly minGranularity: number;
  readonly maxGranularity: number;
  /** Lengths are powers of two: MRTLL. */
  readonly powersOfTwo: boolean;
}

/** How the state of other controllers can be read and written (figure 329). Indexes into these lists begin at 1. */
export interface StateFormats {
  readonly versions: readonly number[];
  /** In hex. */
  readonly uuids: readonly string[];
}

/** A physical function's controller as its driver has it: enabled, with an admin queue and no other. */
export class NvmeParent {
  readonly address: string;
  readonly maxTransfer: number;
  readonly capabilities: ParentCapabilities;
  /** Ranges of memory that are tracked for virtual functions: they share the controller's descriptors. */
  trackedRanges = 0;
  readonly #controller: Controller;
  readonly #pool: DmaPool;
  readonly #queue: AdminQueue;
  readonly #data: DmaBuffer;
  readonly #list: DmaBuffer;
  /** Commands go one after the other: they share a buffer. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(
    address: string,
    controller: Controller,
    pool: DmaPool,
    queue: AdminQueue,
    buffers: readonly [DmaBuffer, DmaBuffer],
    identity: DataView,
  ) {
    this.address = address;
    this.#controller = controller;
    this.#pool = pool;
    this.#queue = queue;
    [this.#data, this.#list] = buffers;
    const mdts = identity.getUint8(77);
    this.maxTransfer = mdts === 0 || mdts > 6 ? MAX_TRANSFER : DMA_PAGE << mdts;
    const attributes = identity.getUint8(576);
    this.capabilities = {
      vendor: identity.getUint16(0, true),
      managesMigration: (identity.getUint16(256, true) & 0x800) !== 0,
      tracksMemory: (attributes & 1) !== 0,
      tracking: {
        maxDescriptors: identity.getUint16(570, true),
        minGranularity: identity.getUint8(574),
        maxGranularity: identity.getUint8(575),
        powersOfTwo: (attributes & 4) !== 0,
      },
    };
  }

  /** Takes an opened function. @throws EIO, what a command answered; everything is undone then. */
  static async start(device: VfioDevice, address: string, options: NvmeParentOptions = {}): Promise<NvmeParent> {
    const { commandTimeoutMs = 60_000, allocate = plainMemory } = options;
    const controller = new Controller({
      address,
      read: (register, into) => device.read(VFIO_PCI_BAR0_REGION_INDEX, register, into),
      write: (register, from) => device.write(VFIO_PCI_BAR0_REGION_INDEX, register, from),
    });
    const pool = new DmaPool(device, allocate);
    try {
      const queue = await AdminQueue.start(address, controller, pool, commandTimeoutMs);
      const buffers = [pool.buffer(MAX_TRANSFER), pool.page()] as const;
      await queue.execute('Identify Controller', {
        opcode: ADMIN_IDENTIFY,
        dwords: [CNS.CONTROLLER],
        prp1: buffers[0].iova,
      });
      return new NvmeParent(address, controller, pool, queue, buffers, buffers[0].view);
    } catch (error) {
      await controller.disable().catch(() => undefined);
      await pool.close();
      throw error;
    }
  }

  /** Shuts the controller down, and gives the memory back. */
  async stop(shutdownTimeoutMs: number): Promise<void> {
    this.#queue.abandon('its driver has let go of it');
    await this.#last;
    try {
      await this.#controller.shutdown(shutdownTimeoutMs);
    } finally {
      await this.#controller.disable().catch(() => undefined);
      await this.#pool.close();
    }
  }

  /** Executes a command without data; gives dword 0 of its completion. @throws see {@link AdminQueue.execute} */
  send(name: string, opcode: number, dwords: readonly number[], data?: Uint8Array): Promise<number> {
    return this.#alone(() => {
      if (data === undefined) return this.#queue.execute(name, { opcode, dwords });
      this.#data.bytes.set(data);
      return this.#queue.execute(name, { opcode, dwords, ...this.#prps(data.length) });
    });
  }

  /** Executes a command that gives data, which is copied. */
  receive(
    name: string,
    opcode: number,
    dwords: readonly number[],
    length: number,
  ): Promise<{ readonly result: number; readonly data: Uint8Array<ArrayBuffer> }> {
    return this.#alone(async () => {
      this.#data.bytes.fill(0, 0, length);
      const result = await this.#queue.execute(name, { opcode, dwords, ...this.#prps(length) });
      return { result, data: new Uint8Array(this.#data.bytes.subarray(0, length)) };
    });
  }

  /** The id of the controller of a virtual function, counted from 1; undefined: there is none. */
  async controllerOf(vfNumber: number): Promise<number | undefined> {
    const name = 'Identify (secondary controllers)';
    const dwords = [CNS.SECONDARY_CONTROLLERS];
    const { data } = await this.receive(name, ADMIN_IDENTIFY, dwords, IDENTIFY_BYTES);
    const view = new DataView(data.buffer);
    const count = view.getUint8(0);
    if (count > 127) throw this.#lie(`${name}: ${count} entries, 127 have room`);
    for (let at = 32; at <= 32 * count; at += 32)
      if (view.getUint16(at + 8, true) === vfNumber) return view.getUint16(at, true);
    return undefined;
  }

  async stateFormats(): Promise<StateFormats> {
    const name = 'Identify (controller state formats)';
    const dwords = [CNS.CONTROLLER_STATE_FORMATS];
    const { data } = await this.receive(name, ADMIN_IDENTIFY, dwords, IDENTIFY_BYTES);
    const view = new DataView(data.buffer);
    const [versions, uuids] = [view.getUint8(0), view.getUint8(1)];
    const end = 2 + 2 * versions;
    if (end + 16 * uuids > IDENTIFY_BYTES) throw this.#lie(`${name}: more entries than have room`);
    return {
      versions: Array.from({ length: versions }, (_, n) => view.getUint16(2 + 2 * n, true)),
      uuids: Array.from({ length: uuids }, (_, n) => hexOf(data.subarray(end + 16 * n, end + 16 * (n + 1)))),
    };
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** PRP entries of the data buffer, which is in one piece. */
  #prps(length: number): { prp1: number; prp2: number } {
    const { iova } = this.#data;
    const pages = Math.ceil(length / DMA_PAGE);
    if (pages <= 2) return { prp1: iova, prp2: pages === 2 ? iova + DMA_PAGE : 0 };
    for (let page = 1; page < pages; page++)
      this.#list.view.setBigUint64(8 * (page - 1), BigInt(iova + page * DMA_PAGE), true);
    return { prp1: iova, prp2: this.#list.iova };
  }

  #lie(message: string): Error {
    return errnoError('EIO', message, { op: 'identify', device: this.address });
  }
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
