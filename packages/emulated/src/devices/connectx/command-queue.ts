import type { TrackedDma } from '../tracked-dma.js';
import { DELIVERY } from './constants.js';
import { getNumber64 } from './fields.js';

/** A command entry: where the input lies, where the output goes, and who owns it. */
const ENTRY = {
  SIZE: 64,
  TYPE: 0x00,
  INPUT_LENGTH: 0x04,
  INPUT_POINTER: 0x08,
  INPUT_INLINE: 0x10,
  OUTPUT_INLINE: 0x20,
  OUTPUT_POINTER: 0x30,
  OUTPUT_LENGTH: 0x38,
  TOKEN: 0x3c,
  SIGNATURE: 0x3d,
  STATUS: 0x3f,
  /** The only transport. */
  TYPE_PCI: 7,
  OWNED_BY_HARDWARE: 1,
  INLINE: 16,
} as const;

/** A mailbox: a piece of input or output that does not fit the entry. */
const MAILBOX = {
  SIZE: 576,
  DATA: 512,
  NEXT: 0x230,
  BLOCK: 0x238,
  TOKEN: 0x23d,
  CONTROL_SIGNATURE: 0x23e,
  SIGNATURE: 0x23f,
  /** Bits 8:0 of a pointer are reserved. */
  ALIGNMENT: 512,
} as const;

/** More than any command has: CREATE_MKEY with the pages of 4 GiB, which is as much as a SAVE or LOAD can name. */
const MAX_MESSAGE = 0x1000000;

/** Which signatures are looked at; see the capability `cmdif_checksum`. */
export const CHECKSUM = { NONE: 0, INITIAL: 1, ALL: 3 } as const;

/** Runs a delivered command: fills the output and says by what delivery status it ends. */
export type Execute = (input: Uint8Array, output: Uint8Array, slot: number) => number | Promise<number>;

class DeliveryError extends Error {
  readonly delivery: number;

  constructor(delivery: number, message: string) {
    super(message);
    this.delivery = delivery;
  }
}

const xor = (bytes: Uint8Array, from = 0, to = bytes.length): number => {
  let sum = 0;
  for (let i = from; i < to; i++) sum ^= bytes[i] ?? 0;
  return sum;
};

/** The value that makes the bytes' XOR 0xff. */
const signatureOf = (bytes: Uint8Array, from: number, to: number): number => ~xor(bytes, from, to) & 0xff;

/** Takes commands out of software's queue, and gives them back with what became of them. */
export class CommandQueue {
  readonly #dma: TrackedDma;
  readonly #execute: Execute;
  /** Slots whose command has not ended. */
  #busy = 0;

  constructor(dma: TrackedDma, execute: Execute) {
    this.#dma = dma;
    this.#execute = execute;
  }

  get busySlots(): number {
    return this.#busy;
  }

  reset(): void {
    this.#busy = 0;
  }

  /**
   * Runs the command of one slot. Resolves to true when software has it back; false where it was not the hardware's, or
   * where memory does not answer (nobody can be told then), or where `isCurrent` says that a reset came between.
   */
  async run(address: number, slot: number, checksum: number, isCurrent: () => boolean): Promise<boolean> {
    const bit = 1 << slot;
    if ((this.#busy & bit) !== 0) return false;
    this.#busy |= bit;
    try {
      const at = address + slot * ENTRY.SIZE;
      const entry = new Uint8Array(ENTRY.SIZE);
      await this.#dma.read(at, entry);
      if (((entry[ENTRY.STATUS] ?? 0) & ENTRY.OWNED_BY_HARDWARE) === 0) return false;
      const delivery = await this.#deliver(entry, slot, checksum, isCurrent);
      if (!isCurrent()) return false;
      entry[ENTRY.STATUS] = delivery << 1;
      entry[ENTRY.SIGNATURE] = 0;
      entry[ENTRY.SIGNATURE] = signatureOf(entry, 0, ENTRY.SIZE);
      // Ownership goes back last, when software may find the rest.
      await this.#dma.write(at, entry.subarray(0, ENTRY.STATUS));
      await this.#dma.write(at + ENTRY.STATUS, entry.subarray(ENTRY.STATUS));
      return true;
    } catch {
      return false;
    } finally {
      if (isCurrent()) this.#busy &= ~bit;
    }
  }

  async #deliver(entry: Uint8Array, slot: number, checksum: number, isCurrent: () => boolean): Promise<number> {
    const view = new DataView(entry.buffer);
    try {
      if (view.getUint8(ENTRY.TYPE) !== ENTRY.TYPE_PCI)
        throw new DeliveryError(DELIVERY.BAD_DESCRIPTOR, `transport ${view.getUint8(ENTRY.TYPE)}`);
      if ((view.getUint32(ENTRY.TYPE) & 0xffffff) !== 0)
        throw new DeliveryError(DELIVERY.RESERVED_NOT_CLEAR, 'reserved bits of the entry');
      if (checksum !== CHECKSUM.NONE && xor(entry) !== 0xff)
        throw new DeliveryError(DELIVERY.SIGNATURE, 'signature of the entry');
      const inputLength = view.getUint32(ENTRY.INPUT_LENGTH);
      const outputLength = view.getUint32(ENTRY.OUTPUT_LENGTH);
      if (inputLength < 8 || inputLength > MAX_MESSAGE)
        throw new DeliveryError(DELIVERY.INPUT_LENGTH, `${inputLength} bytes of input`);
      if (outputLength < 8 || outputLength > MAX_MESSAGE)
        throw new DeliveryError(DELIVERY.OUTPUT_LENGTH, `${outputLength} bytes of output`);
      const token = view.getUint8(ENTRY.TOKEN);
      const all = checksum === CHECKSUM.ALL;
      const input = await this.#readMessage(
        entry.subarray(ENTRY.INPUT_INLINE, ENTRY.INPUT_INLINE + ENTRY.INLINE),
        inputLength,
        pointer(view, ENTRY.INPUT_POINTER, DELIVERY.INPUT_POINTER),
        token,
        all,
      );
      const blocks = await this.#outputBlocks(
        outputLength,
        pointer(view, ENTRY.OUTPUT_POINTER, DELIVERY.OUTPUT_POINTER),
        token,
        all,
      );
      const output = new Uint8Array(Math.max(outputLength, ENTRY.INLINE));
      const delivery = await this.#execute(input, output.subarray(0, outputLength), slot);
      if (!isCurrent()) return delivery;
      entry.set(output.subarray(0, ENTRY.INLINE), ENTRY.OUTPUT_INLINE);
      await this.#writeBlocks(blocks, output);
      return delivery;
    } catch (error) {
      if (error instanceof DeliveryError) return error.delivery;
      throw error;
    }
  }

  async #readMessage(
    inline: Uint8Array,
    length: number,
    first: number,
    token: number,
    checked: boolean,
  ): Promise<Uint8Array> {
    const message = new Uint8Array(length);
    message.set(inline.subarray(0, Math.min(length, ENTRY.INLINE)));
    let address = first;
    for (let at: number = ENTRY.INLINE, block = 0; at < length; at += MAILBOX.DATA, block++) {
      const mailbox = await this.#mailbox(address, block, token, checked, DELIVERY.INPUT_POINTER);
      message.set(mailbox.subarray(0, Math.min(MAILBOX.DATA, length - at)), at);
      address = nextOf(mailbox, DELIVERY.INPUT_POINTER);
    }
    return message;
  }

  /** The mailboxes that the output goes to: with software's control fields, which stay as they are. */
  async #outputBlocks(length: number, first: number, token: number, checked: boolean): Promise<OutputBlock[]> {
    const blocks: OutputBlock[] = [];
    let address = first;
    for (let at: number = ENTRY.INLINE; at < length; at += MAILBOX.DATA) {
      const mailbox = await this.#mailbox(address, blocks.length, token, checked, DELIVERY.OUTPUT_POINTER);
      blocks.push({ address, mailbox });
      address = nextOf(mailbox, DELIVERY.OUTPUT_POINTER);
    }
    return blocks;
  }

  async #writeBlocks(blocks: readonly OutputBlock[], output: Uint8Array): Promise<void> {
    for (const [index, { address, mailbox }] of blocks.entries()) {
      const start = ENTRY.INLINE + index * MAILBOX.DATA;
      mailbox.fill(0, 0, MAILBOX.DATA);
      mailbox.set(output.subarray(start, start + MAILBOX.DATA));
      mailbox[MAILBOX.SIGNATURE] = signatureOf(mailbox, 0, MAILBOX.SIGNATURE);
      await this.#dma.write(address, mailbox);
    }
  }

  async #mailbox(
    address: number,
    block: number,
    token: number,
    checked: boolean,
    badPointer: number,
  ): Promise<Uint8Array> {
    if (address === 0) throw new DeliveryError(badPointer, `block ${block} is missing`);
    const mailbox = new Uint8Array(MAILBOX.SIZE);
    await this.#dma.read(address, mailbox);
    if (mailbox[MAILBOX.TOKEN] !== token) throw new DeliveryError(DELIVERY.TOKEN, `token of block ${block}`);
    if (new DataView(mailbox.buffer).getUint32(MAILBOX.BLOCK) !== block)
      throw new DeliveryError(DELIVERY.BLOCK_NUMBER, `number of block ${block}`);
    if (checked && (xor(mailbox) !== 0xff || xor(mailbox, MAILBOX.DATA, MAILBOX.SIGNATURE) !== 0xff))
      throw new DeliveryError(DELIVERY.SIGNATURE, `signature of block ${block}`);
    return mailbox;
  }
}

interface OutputBlock {
  readonly address: number;
  readonly mailbox: Uint8Array;
}

function pointer(view: DataView, offset: number, delivery: number): number {
  const address = getNumber64(view, offset);
  if (address === undefined || address % MAILBOX.ALIGNMENT !== 0)
    throw new DeliveryError(delivery, 'pointer to a mailbox that is not aligned');
  return address;
}

function nextOf(mailbox: Uint8Array, delivery: number): number {
  return pointer(new DataView(mailbox.buffer), MAILBOX.NEXT, delivery);
}
