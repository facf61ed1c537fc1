import type { VfioDeviceClient } from '@vfio/core';
import { NVME_ADMIN as ADMIN, CC, NVME_IO as IO, NVME_REG as REG } from '@vfio/emulated';
import type { DeviceMemory } from '@vfio/testing';
import { read32, write32 } from './registers.js';

const PAGE = 4096;
const ENTRIES = 16;
const CQ_IRQ_ON = 1 << 1;
const CONTIGUOUS = 1;

/** Pages of its memory: queues, then what its user has there. */
const PAGES = { adminSq: 0, adminCq: 1, ioSq: 2, ioCq: 3, data: 4 } as const;

/** Where the memory of a guest's user begins. */
export const NVME_GUEST_DATA = PAGES.data * PAGE;

/** The vector of its I/O queue. */
export const NVME_GUEST_VECTOR = 1;

export interface NvmeCommand {
  readonly opcode: number;
  readonly nsid?: number;
  readonly prp1?: number;
  readonly prp2?: number;
  readonly dwords?: readonly number[];
}

async function until(device: VfioDeviceClient, isReady: boolean): Promise<void> {
  while (((await read32(device, REG.CSTS)) & 1) !== (isReady ? 1 : 0))
    await new Promise((resolve) => setImmediate(resolve));
}

export async function disableNvme(device: VfioDeviceClient): Promise<void> {
  await write32(device, REG.CC, 0);
  await until(device, false);
}

/** A guest's NVMe driver: an admin and an I/O queue pair in the first pages of a memory. */
export class NvmeGuest {
  readonly #device: VfioDeviceClient;
  readonly #iova: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #tails = [0, 0];

  private constructor(device: VfioDeviceClient, { iova, bytes }: DeviceMemory) {
    this.#device = device;
    this.#iova = Number(iova);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Enables the controller, anew where it was enabled. The memory is zeroed. */
  static async start(device: VfioDeviceClient, memory: DeviceMemory): Promise<NvmeGuest> {
    const guest = new NvmeGuest(device, memory);
    await guest.#enable();
    return guest;
  }

  async #enable(): Promise<void> {
    await disableNvme(this.#device);
    await write32(this.#device, REG.AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    for (const [register, page] of [
      [REG.ASQ, PAGES.adminSq],
      [REG.ACQ, PAGES.adminCq],
    ] as const) {
      await write32(this.#device, register, this.#iova + page * PAGE);
      await write32(this.#device, register + 4, 0);
    }
    await write32(this.#device, REG.CC, 0x00460000 | CC.EN);
    await until(this.#device, true);
    const size = ((ENTRIES - 1) << 16) | 1;
    const [cq, sq] = [this.#iova + PAGES.ioCq * PAGE, this.#iova + PAGES.ioSq * PAGE];
    const interrupt = (NVME_GUEST_VECTOR << 16) | CQ_IRQ_ON;
    await this.run(0, [{ opcode: ADMIN.CREATE_CQ, prp1: cq, dwords: [size, interrupt | CONTIGUOUS] }]);
    await this.run(0, [{ opcode: ADMIN.CREATE_SQ, prp1: sq, dwords: [size, (1 << 16) | CONTIGUOUS] }]);
  }

  /** Hands commands over together, and waits for all of them. */
  async run(queue: 0 | 1, commands: readonly NvmeCommand[]): Promise<void> {
    const first = await this.submit(queue, commands);
    for (const n of commands.keys()) {
      const at = (queue === 0 ? PAGES.adminCq : PAGES.ioCq) * PAGE + (first + n) * 16;
      // A round trip lets the device work.
      while ((this.#view.getUint16(at + 14, true) & 1) === 0) {
        await read32(this.#device, REG.CSTS);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const status = this.#view.getUint16(at + 14, true) >>> 1;
      if (status !== 0) throw new Error(`NVMe status 0x${status.toString(16)}`);
    }
    await write32(this.#device, REG.DOORBELLS + 8 * queue + 4, first + commands.length);
  }

  /** Hands commands over together, and gives the slot of the first. No queue of this guest wraps around. */
  async submit(queue: 0 | 1, commands: readonly NvmeCommand[]): Promise<number> {
    const first = this.#tails[queue] ?? 0;
    for (const [n, { opcode, nsid = 0, prp1 = 0, prp2 = 0, dwords = [] }] of commands.entries()) {
      const at = (queue === 0 ? PAGES.adminSq : PAGES.ioSq) * PAGE + (first + n) * 64;
      this.#view.setUint32(at, opcode | ((first + n) << 16), true);
      this.#view.setUint32(at + 4, nsid, true);
      this.#view.setBigUint64(at + 24, BigInt(prp1), true);
      this.#view.setBigUint64(at + 32, BigInt(prp2), true);
      for (const [i, value] of dwords.entries()) this.#view.setUint32(at + 40 + 4 * i, value, true);
    }
    this.#tails[queue] = first + commands.length;
    await write32(this.#device, REG.DOORBELLS + 8 * queue, first + commands.length);
    return first;
  }

  /** Writes one block and waits for its completion. */
  async writeBlock(lba: number, fill: number): Promise<void> {
    this.#bytes.fill(fill, NVME_GUEST_DATA, NVME_GUEST_DATA + 512);
    await this.run(1, [{ opcode: IO.WRITE, nsid: 1, prp1: this.#iova + NVME_GUEST_DATA, dwords: [lba, 0, 0] }]);
  }

  /** Hands over a flush and waits for nothing. */
  async beginFlush(): Promise<void> {
    await this.submit(1, [{ opcode: IO.FLUSH, nsid: 1 }]);
  }

  /** Takes what the guest itself has written out of its queues. */
  forget(): void {
    for (const page of [PAGES.adminSq, PAGES.ioSq]) this.#bytes.fill(0, page * PAGE, (page + 1) * PAGE);
  }

  /** Entries that were posted to a completion queue. */
  completions(queue: 0 | 1): { readonly iova: bigint; readonly length: bigint } {
    const page = queue === 0 ? PAGES.adminCq : PAGES.ioCq;
    return { iova: BigInt(this.#iova + page * PAGE), length: BigInt(16 * (this.#tails[queue] ?? 0)) };
  }
}
