import type { SubmissionQueue } from './queues.js';

/** A command as it was fetched, with what its execution needs. Reused: a controller keeps a stock of them. */
export class NvmeCommand {
  readonly bytes = new Uint8Array(64);
  readonly #view = new DataView(this.bytes.buffer);
  sq: SubmissionQueue | undefined;
  /** Resets seen when it was fetched; what ends after another one is forgotten. */
  epoch = 0;
  /** An asynchronous event request that waits: no longer one of its queue's commands in flight. */
  isHeld = false;
  /** Dword 0 of the completion. */
  result = 0;
  /** For the error log: byte of the command where an error lies, 0xffff where it lies nowhere in particular. */
  errorAt = 0xffff;
  /** First logical block that an error concerns. */
  errorLba = 0;
  /** Memory of the command's data, in order, neighbours merged. */
  readonly addresses: number[] = [];
  readonly lengths: number[] = [];

  begin(sq: SubmissionQueue, epoch: number): void {
    this.sq = sq;
    this.epoch = epoch;
    this.isHeld = false;
    this.result = 0;
    this.errorAt = 0xffff;
    this.errorLba = 0;
  }

  get opcode(): number {
    return this.#view.getUint8(0);
  }

  /** Fused operation and PRP-or-SGL bits; only 0 is supported. */
  get flags(): number {
    return this.#view.getUint8(1);
  }

  get cid(): number {
    return this.#view.getUint16(2, true);
  }

  get nsid(): number {
    return this.#view.getUint32(4, true);
  }

  get prp1(): number {
    return this.quad(24);
  }

  get prp2(): number {
    return this.quad(32);
  }

  /** Command dword 0 to 15, unsigned. */
  dword(index: number): number {
    return this.#view.getUint32(4 * index, true);
  }

  /** A 64-bit field. Above 2^53 it is not exact, and then beyond every address and block that there is. */
  quad(offset: number): number {
    return this.#view.getUint32(offset + 4, true) * 0x100000000 + this.#view.getUint32(offset, true);
  }

  /** Records where in the command the error lies and gives its status. */
  fail(status: number, byte: number): number {
    this.errorAt = byte;
    return status;
  }
}
