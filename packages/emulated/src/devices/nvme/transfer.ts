import type { TrackedDma } from '../tracked-dma.js';
import type { NvmeCommand } from './command.js';
import { STATUS } from './status.js';

/** Which way data goes. */
export type Direction = 'to-host' | 'from-host';

/**
 * Moves data between buffers and the memory that a command's PRPs name. Returns a status: at once where everything is
 * mapped in this process, by promise where a part is reached by messages.
 */
export class PrpTransfer {
  readonly #dma: TrackedDma;
  /** Bytes of a memory page (CC.MPS). */
  pageSize = 4096;
  /** Changes what goes to the host: for tests. */
  alter: ((data: Uint8Array) => void) | undefined;

  constructor(dma: TrackedDma) {
    this.#dma = dma;
  }

  /** Fills the command's list of memory from its PRPs (NVM Express 1.4, 4.3) for `length` bytes. */
  map(command: NvmeCommand, length: number): number | Promise<number> {
    const { addresses, lengths, prp1, prp2 } = command;
    const page = this.pageSize;
    addresses.length = 0;
    lengths.length = 0;
    if (prp1 % 4 !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 24);
    const first = Math.min(length, page - (prp1 % page));
    append(command, prp1, first);
    const rest = length - first;
    if (rest === 0) return STATUS.SUCCESS;
    if (rest <= page) {
      if (prp2 % page !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 32);
      append(command, prp2, rest);
      return STATUS.SUCCESS;
    }
    if (prp2 % 8 !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 32);
    return this.#mapList(command, prp2, rest);
  }

  /** Copies the whole of `data` after {@link PrpTransfer.map} of its length. */
  move(command: NvmeCommand, data: Uint8Array, direction: Direction): number | Promise<number> {
    const { addresses, lengths } = command;
    if (direction === 'to-host') this.alter?.(data);
    let waits: Promise<void>[] | undefined;
    let at = 0;
    try {
      for (let i = 0; i < addresses.length; i++) {
        const address = addresses[i] ?? 0;
        const part = data.subarray(at, at + (lengths[i] ?? 0));
        const result = direction === 'to-host' ? this.#dma.write(address, part) : this.#dma.read(address, part);
        if (result !== undefined) {
          waits ??= [];
          waits.push(result);
        }
        at += part.length;
      }
    } catch {
      if (waits === undefined) return STATUS.DATA_TRANSFER_ERROR;
      return Promise.allSettled(waits).then(() => STATUS.DATA_TRANSFER_ERROR);
    }
    if (waits === undefined) return STATUS.SUCCESS;
    // All have ended before the status is known: nothing of a finished command may still touch memory.
    return Promise.allSettled(waits).then((results) =>
      results.every((result) => result.status === 'fulfilled') ? STATUS.SUCCESS : STATUS.DATA_TRANSFER_ERROR,
    );
  }

  /** Both steps. */
  run(command: NvmeCommand, data: Uint8Array, direction: Direction): number | Promise<number> {
    const mapped = this.map(command, data.length);
    if (typeof mapped === 'number') return mapped === STATUS.SUCCESS ? this.move(command, data, direction) : mapped;
    return mapped.then((status) => (status === STATUS.SUCCESS ? this.move(command, data, direction) : status));
  }

  #mapList(command: NvmeCommand, listAddress: number, length: number): number | Promise<number> {
    const page = this.pageSize;
    let at = listAddress;
    let rest = length;
    for (;;) {
      const needed = Math.ceil(rest / page);
      const room = (page - (at % page)) / 8;
      // The last entry of a full list page points to the next list, where more than it is left.
      const isLast = needed <= room;
      const entries = isLast ? needed : room;
      const list = new Uint8Array(entries * 8);
      let wait: void | Promise<void>;
      try {
        wait = this.#dma.read(at, list);
      } catch {
        return STATUS.DATA_TRANSFER_ERROR;
      }
      if (wait !== undefined) {
        const remaining = rest;
        return wait.then(
          () => {
            const next = this.#take(command, list, remaining, isLast);
            return next <= 0 ? -next : this.#mapList(command, next, remaining - (entries - 1) * page);
          },
          () => STATUS.DATA_TRANSFER_ERROR,
        );
      }
      const next = this.#take(command, list, rest, isLast);
      if (next <= 0) return -next;
      rest -= (entries - 1) * page;
      at = next;
    }
  }

  /** Takes the entries of one list page. The address of the next page, or a status as a number that is not positive. */
  #take(command: NvmeCommand, list: Uint8Array, length: number, isLast: boolean): number {
    const page = this.pageSize;
    const view = new DataView(list.buffer);
    const entries = list.length / 8;
    let rest = length;
    for (let i = 0; i < entries; i++) {
      const address = view.getUint32(8 * i + 4, true) * 0x100000000 + view.getUint32(8 * i, true);
      if (address % page !== 0) return -command.fail(STATUS.PRP_OFFSET_INVALID, 32);
      if (!isLast && i === entries - 1) return address === 0 ? -STATUS.DATA_TRANSFER_ERROR : address;
      append(command, address, Math.min(rest, page));
      rest -= page;
    }
    return -STATUS.SUCCESS;
  }
}

function append(command: NvmeCommand, address: number, length: number): void {
  const { addresses, lengths } = command;
  const last = addresses.length - 1;
  const lastLength = lengths[last] ?? 0;
  if (last >= 0 && (addresses[last] ?? 0) + lastLength === address) lengths[last] = lastLength + length;
  else {
    addresses.push(address);
    lengths.push(length);
  }
}
