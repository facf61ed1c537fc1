import type { NvmeCommand } from './command.js';
import { IO, NSID_ALL } from './constants.js';
import type { NvmeHealth } from './health.js';
import type { NvmeNamespace } from './namespace.js';
import { STATUS } from './status.js';
import type { PrpTransfer } from './transfer.js';

/** What I/O commands work on. */
export interface IoHost {
  readonly namespaces: ReadonlyMap<number, NvmeNamespace>;
  readonly health: NvmeHealth;
  readonly transfer: PrpTransfer;
  /** Most bytes of one transfer (MDTS). */
  readonly maxTransfer: number;
  /** The status for a namespace id that no namespace has. */
  missing(nsid: number): number;
  /** Blocks of a namespace are other ones now, or none. */
  changed(nsid: number, start: number, blocks: number, isDeallocated: boolean): void;
}

const FUA = 0x40000000;
const DSM_DEALLOCATE = 0x4;
const DSM_RANGE = 16;
/** Blocks compared or verified at a time. */
const PIECE = 0x10000;

/** Executes commands of the NVM command set (NVM Express 1.4, section 6). */
export class IoCommands {
  readonly #host: IoHost;
  /** One buffer serves all transfers that end at once; one that waits for messages has its own. */
  readonly #buffer: Uint8Array;
  #bufferTaken = false;

  constructor(host: IoHost) {
    this.#host = host;
    this.#buffer = new Uint8Array(host.maxTransfer);
  }

  /** The status, or a promise of it. */
  execute(command: NvmeCommand): number | Promise<number> {
    if (command.flags !== 0) return command.fail(STATUS.INVALID_FIELD, 1);
    const { opcode, nsid } = command;
    if (opcode === IO.FLUSH && nsid === NSID_ALL) return this.flush([...this.#host.namespaces.values()]);
    if (!isKnown(opcode)) return command.fail(STATUS.INVALID_OPCODE, 0);
    const namespace = this.#host.namespaces.get(nsid);
    if (namespace === undefined) return command.fail(this.#host.missing(nsid), 4);
    switch (opcode) {
      case IO.FLUSH:
        return this.flush([namespace]);
      case IO.READ:
        return this.#read(command, namespace);
      case IO.WRITE:
        return this.#write(command, namespace);
      case IO.COMPARE:
        return this.#compare(command, namespace);
      case IO.WRITE_ZEROES:
        return this.#writeZeroes(command, namespace);
      case IO.DATASET_MANAGEMENT:
        return this.#datasetManagement(command, namespace);
      default:
        return this.#verify(command, namespace);
    }
  }

  #read(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const length = this.#transferLength(command, namespace);
    if (length < 0) return -length;
    const at = command.quad(40) * 2 ** namespace.blockShift;
    const read = (): number | Promise<number> => {
      const buffer = this.#take(length);
      const data = buffer.subarray(0, length);
      const status = this.#media(command, STATUS.UNRECOVERED_READ_ERROR, () => namespace.cache.read(at, data));
      if (status !== STATUS.SUCCESS) {
        this.#give(buffer);
        return status;
      }
      const { health } = this.#host;
      health.readCommands += 1;
      health.blocksRead += length / 512;
      return this.#given(buffer, this.#host.transfer.move(command, data, 'to-host'));
    };
    return this.#mapped(command, length, () => this.#committed(command, namespace, read));
  }

  #write(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const length = this.#transferLength(command, namespace);
    if (length < 0) return -length;
    const at = command.quad(40) * 2 ** namespace.blockShift;
    const through = (command.dword(12) & FUA) !== 0;
    return this.#withData(command, length, (data) => {
      const status = this.#media(command, STATUS.WRITE_FAULT, () => namespace.cache.write(at, data, through));
      if (status !== STATUS.SUCCESS) return status;
      const { health } = this.#host;
      health.writeCommands += 1;
      health.blocksWritten += length / 512;
      this.#host.changed(namespace.nsid, command.quad(40), length / 2 ** namespace.blockShift, false);
      if (!through && namespace.cache.enabled) return STATUS.SUCCESS;
      return this.#settle([namespace]);
    });
  }

  #compare(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const length = this.#transferLength(command, namespace);
    if (length < 0) return -length;
    const start = command.quad(40) * 2 ** namespace.blockShift;
    const compare = (data: Uint8Array): number => {
      const stored = new Uint8Array(Math.min(PIECE, length));
      let isEqual = true;
      const status = this.#media(command, STATUS.UNRECOVERED_READ_ERROR, () => {
        for (let done = 0; done < length; done += PIECE) {
          const piece = stored.subarray(0, Math.min(PIECE, length - done));
          namespace.cache.read(start + done, piece);
          for (let i = 0; i < piece.length; i++) if (piece[i] !== data[done + i]) isEqual = false;
        }
      });
      return status === STATUS.SUCCESS && !isEqual ? STATUS.COMPARE_FAILURE : status;
    };
    return this.#withData(command, length, (data) => this.#committed(command, namespace, () => compare(data)));
  }

  #verify(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const length = this.#blockLength(command, namespace);
    if (length < 0) return -length;
    const start = command.quad(40) * 2 ** namespace.blockShift;
    const piece = new Uint8Array(Math.min(PIECE, length));
    const verify = (): number =>
      this.#media(command, STATUS.UNRECOVERED_READ_ERROR, () => {
        for (let done = 0; done < length; done += PIECE)
          namespace.cache.read(start + done, piece.subarray(0, Math.min(PIECE, length - done)));
      });
    return this.#committed(command, namespace, verify);
  }

  #writeZeroes(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const length = this.#blockLength(command, namespace);
    if (length < 0) return -length;
    const at = command.quad(40) * 2 ** namespace.blockShift;
    const status = this.#media(command, STATUS.WRITE_FAULT, () => namespace.cache.discard(at, length));
    if (status !== STATUS.SUCCESS) return status;
    this.#host.changed(namespace.nsid, command.quad(40), length / 2 ** namespace.blockShift, true);
    this.#host.health.writeCommands += 1;
    const through = (command.dword(12) & FUA) !== 0;
    return through || !namespace.cache.enabled ? this.#settle([namespace]) : STATUS.SUCCESS;
  }

  #datasetManagement(command: NvmeCommand, namespace: NvmeNamespace): number | Promise<number> {
    const count = (command.dword(10) & 0xff) + 1;
    const deallocate = (command.dword(11) & DSM_DEALLOCATE) !== 0;
    return this.#withData(command, count * DSM_RANGE, (data) => {
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      const { blocks, blockShift } = namespace;
      const ranges: [number, number][] = [];
      for (let at = 0; at < data.length; at += DSM_RANGE) {
        const length = view.getUint32(at + 4, true);
        const start = view.getUint32(at + 12, true) * 0x100000000 + view.getUint32(at + 8, true);
        if (start + length > blocks) {
          command.errorLba = start;
          return STATUS.LBA_OUT_OF_RANGE;
        }
        ranges.push([start * 2 ** blockShift, length * 2 ** blockShift]);
      }
      // The other attributes are hints that nothing here profits from.
      if (!deallocate) return STATUS.SUCCESS;
      return this.#media(command, STATUS.WRITE_FAULT, () => {
        for (const [start, length] of ranges) {
          if (length === 0) continue;
          namespace.cache.discard(start, length);
          this.#host.changed(namespace.nsid, start / 2 ** blockShift, length / 2 ** blockShift, true);
        }
      });
    });
  }

  /** Touches the media; the status says whether it went well. */
  #media(command: NvmeCommand, failure: number, work: () => void): number {
    try {
      work();
      return STATUS.SUCCESS;
    } catch {
      this.#host.health.mediaErrors += 1;
      command.errorLba = command.quad(40);
      return failure;
    }
  }

  /** With Force Unit Access what is read must be on the media first (6.9). */
  #committed(
    command: NvmeCommand,
    namespace: NvmeNamespace,
    then: () => number | Promise<number>,
  ): number | Promise<number> {
    if ((command.dword(12) & FUA) === 0) return then();
    const status = this.flush([namespace]);
    if (typeof status === 'number') return status === STATUS.SUCCESS ? then() : status;
    return status.then((result) => (result === STATUS.SUCCESS ? then() : result));
  }

  /** Makes everything that namespaces hold in their caches durable; the status, or a promise of it. */
  flush(namespaces: readonly NvmeNamespace[]): number | Promise<number> {
    try {
      for (const namespace of namespaces) namespace.cache.writeBack();
    } catch {
      return STATUS.WRITE_FAULT;
    }
    return this.#settle(namespaces);
  }

  /** Waits until what the stores took is durable. */
  #settle(namespaces: readonly NvmeNamespace[]): number | Promise<number> {
    let waits: Promise<void>[] | undefined;
    try {
      for (const namespace of namespaces) {
        const wait = namespace.store.flush();
        if (wait === undefined) continue;
        waits ??= [];
        waits.push(wait);
      }
    } catch {
      return STATUS.WRITE_FAULT;
    }
    if (waits === undefined) return STATUS.SUCCESS;
    return Promise.all(waits).then(
      () => STATUS.SUCCESS,
      () => STATUS.WRITE_FAULT,
    );
  }

  /** Bytes of a command's blocks, or the negative of a status. */
  #blockLength(command: NvmeCommand, namespace: NvmeNamespace): number {
    const start = command.quad(40);
    const blocks = (command.dword(12) & 0xffff) + 1;
    if (start + blocks > namespace.blocks) {
      command.errorLba = Math.min(start, Number.MAX_SAFE_INTEGER);
      return -command.fail(STATUS.LBA_OUT_OF_RANGE, 40);
    }
    return blocks * 2 ** namespace.blockShift;
  }

  #transferLength(command: NvmeCommand, namespace: NvmeNamespace): number {
    const blocks = (command.dword(12) & 0xffff) + 1;
    if (blocks * 2 ** namespace.blockShift > this.#host.maxTransfer) return -command.fail(STATUS.INVALID_FIELD, 48);
    return this.#blockLength(command, namespace);
  }

  #mapped(command: NvmeCommand, length: number, then: () => number | Promise<number>): number | Promise<number> {
    const status = this.#host.transfer.map(command, length);
    if (typeof status === 'number') return status === STATUS.SUCCESS ? then() : status;
    return status.then((result) => (result === STATUS.SUCCESS ? then() : result));
  }

  /** Fetches a command's data and hands it on. */
  #withData(
    command: NvmeCommand,
    length: number,
    use: (data: Uint8Array) => number | Promise<number>,
  ): number | Promise<number> {
    return this.#mapped(command, length, () => {
      const buffer = this.#take(length);
      const data = buffer.subarray(0, length);
      const moved = this.#host.transfer.move(command, data, 'from-host');
      if (typeof moved === 'number') {
        const status = moved === STATUS.SUCCESS ? use(data) : moved;
        this.#give(buffer);
        return status;
      }
      return this.#given(
        buffer,
        moved.then((status) => (status === STATUS.SUCCESS ? use(data) : status)),
      );
    });
  }

  #take(length: number): Uint8Array {
    if (this.#bufferTaken || length > this.#buffer.length) return new Uint8Array(length);
    this.#bufferTaken = true;
    return this.#buffer;
  }

  #give(buffer: Uint8Array): void {
    if (buffer === this.#buffer) this.#bufferTaken = false;
  }

  #given(buffer: Uint8Array, status: number | Promise<number>): number | Promise<number> {
    if (typeof status === 'number') {
      this.#give(buffer);
      return status;
    }
    return status.finally(() => this.#give(buffer));
  }
}

function isKnown(opcode: number): boolean {
  for (const known of OPCODES) if (known === opcode) return true;
  return false;
}

const OPCODES: readonly number[] = Object.values(IO);
