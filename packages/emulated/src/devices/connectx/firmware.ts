import { hex } from '@vfio/uapi';
import { Call, type Command, CommandError, SYNDROME } from './command.js';
import { COMMANDS } from './commands/index.js';
import { DELIVERY, EVENT, STATUS } from './constants.js';
import type { FunctionRecord } from './function-record.js';
import type { HcaFunction } from './hca.js';
import type { FirmwareVersion } from './init-segment.js';

/** What happened to one command. */
export interface CommandRecord {
  /** 0: the physical function; n: virtual function n - 1. */
  readonly functionId: number;
  readonly opcode: number;
  /** `QUERY_HCA_CAP`; the number where the model does not know it. */
  readonly name: string;
  readonly opMod: number;
  readonly status: number;
  readonly syndrome: number;
  /** Why it was refused. */
  readonly reason: string | undefined;
}

/** What goes wrong with a command, to see what a driver makes of it. */
export type CommandFault =
  /** It is refused, and so not carried out. */
  | { readonly status: number; readonly syndrome?: number }
  /** It does not reach the firmware. */
  | { readonly delivery: number }
  /** It is carried out, and its output is made another. */
  | { readonly output: (output: Uint8Array) => void }
  /** It never ends: it is not carried out, or is and its answer is lost. */
  | 'stalls'
  | 'is not answered';

export interface FirmwareOptions {
  readonly version: FirmwareVersion;
  /** PSID of the board, at most 16 characters. */
  readonly boardId: string;
  /** MSI-X vectors of each function. */
  readonly vectors: number;
  /** Told of every command when it has ended. */
  readonly onCommand?: (record: CommandRecord) => void;
}

/** The common first bytes of every output. */
const OUTPUT = { STATUS: 0, SYNDROME: 4, MINIMUM: 8 } as const;

const NEVER = new Promise<never>(() => {});

/** The firmware of a device: carries out what comes through the functions' command queues. */
export class Firmware {
  readonly version: FirmwareVersion;
  readonly boardId: string;
  readonly vectors: number;
  /** The register of this name: 0 little-endian, 0x80 big-endian. */
  hostEndianness = 0;
  readonly #onCommand: ((record: CommandRecord) => void) | undefined;
  readonly #records = new Map<number, FunctionRecord>();
  /** What goes wrong with the next commands, by opcode. */
  readonly #faults = new Map<number, CommandFault[]>();
  #isDead = false;
  /** Asked of every command: what goes wrong with it. */
  misbehave: ((functionId: number, opcode: number) => CommandFault | undefined) | undefined;

  constructor(options: FirmwareOptions) {
    this.version = options.version;
    this.boardId = options.boardId;
    this.vectors = options.vectors;
    this.#onCommand = options.onCommand;
  }

  /** The version as one number, as the health buffer shows it. */
  get versionNumber(): number {
    const { major, minor, subminor } = this.version;
    return ((major << 24) | (minor << 16) | subminor) >>> 0;
  }

  add(record: FunctionRecord): void {
    this.#records.set(record.id, record);
  }

  /** @throws RangeError for a function that the device cannot have: a mistake of the model. */
  record(id: number): FunctionRecord {
    const record = this.#records.get(id);
    if (record === undefined) throw new RangeError(`function ${id}`);
    return record;
  }

  get records(): Iterable<FunctionRecord> {
    return this.#records.values();
  }

  /** The function that `fn` means by a number: 0 is itself, others only the physical function may name. */
  recordById(fn: HcaFunction, id: number): FunctionRecord | undefined {
    if (id === 0) return fn.record;
    return fn.id === 0 ? this.#records.get(id) : undefined;
  }

  /** The function with a VHCA id, while it is there. */
  functionByVhca(vhcaId: number): HcaFunction | undefined {
    for (const record of this.#records.values()) if (record.vhcaId === vhcaId) return record.live;
    return undefined;
  }

  /** Starts anew: the physical function was reset. */
  forget(): void {
    for (const record of this.#records.values()) {
      record.live?.stop();
      record.forget();
    }
    this.hostEndianness = 0;
    this.#isDead = false;
  }

  /** Something goes wrong with the next command of this kind; said twice, with the one after it too. */
  fault(opcode: number, fault: CommandFault): void {
    const waiting = this.#faults.get(opcode) ?? [];
    waiting.push(fault);
    this.#faults.set(opcode, waiting);
  }

  /** The next command of this kind ends with a status, without having been carried out. */
  inject(opcode: number, status: number): void {
    this.fault(opcode, { status });
  }

  /** The next command of this kind never ends. */
  stall(opcode: number): void {
    this.fault(opcode, 'stalls');
  }

  /**
   * The firmware has met an error that it does not survive: no command ends any more, until the physical function is
   * reset. Its health says so, and an event where `isTold`.
   */
  die(syndrome: number, isTold: boolean): void {
    const owner = this.#records.get(0)?.live;
    owner?.segment.reportHealth(syndrome, 0, true);
    if (isTold) void owner?.post(EVENT.INTERNAL_ERROR, 0, () => {});
    this.#isDead = true;
  }

  /** Tells software, where it has said that it wants to know, how many pages a function needs or can give back. */
  askForPages(record: FunctionRecord): void {
    const owner = this.#records.get(0)?.live;
    // Without a queue for it nobody would hear; asked again when there is one.
    if (owner?.hears(EVENT.PAGE_REQUEST) !== true) return;
    const wanted = record.pages.wanted();
    if (wanted === 0) return;
    void owner.post(EVENT.PAGE_REQUEST, 0, (data) => {
      data.setUint16(2, record.id);
      data.setInt32(4, wanted);
    });
  }

  /** Runs one command. Returns the delivery status. */
  async execute(fn: HcaFunction, input: Uint8Array, output: Uint8Array, _slot: number): Promise<number> {
    const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
    const opcode = view.getUint16(0);
    const fault = this.misbehave?.(fn.id, opcode) ?? this.#faults.get(opcode)?.shift();
    if (this.#isDead || fault === 'stalls') await NEVER;
    if (typeof fault === 'object' && 'delivery' in fault) return fault.delivery;
    const known = COMMANDS.get(opcode);
    const out = new DataView(output.buffer, output.byteOffset, output.byteLength);
    let failure: CommandError | undefined;
    try {
      if (known === undefined)
        throw new CommandError(STATUS.BAD_OP, SYNDROME.UNKNOWN_OPCODE, `opcode ${hex(opcode)} is not known`);
      this.#check(fn, known, input, output);
      if (typeof fault === 'object' && 'status' in fault)
        throw new CommandError(fault.status, fault.syndrome ?? SYNDROME.INJECTED, 'injected');
      await known.run(new Call(fn, known, input, output));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      failure = error;
      output.fill(0);
    }
    out.setUint8(OUTPUT.STATUS, failure?.status ?? STATUS.OK);
    out.setUint32(OUTPUT.SYNDROME, failure?.syndrome ?? 0);
    this.#onCommand?.({
      functionId: fn.id,
      opcode,
      name: known?.name ?? hex(opcode),
      opMod: input.length >= 8 ? view.getUint16(6) : 0,
      status: failure?.status ?? STATUS.OK,
      syndrome: failure?.syndrome ?? 0,
      reason: failure?.message,
    });
    if (typeof fault === 'object' && 'output' in fault) fault.output(output);
    if (fault === 'is not answered') await NEVER;
    return DELIVERY.OK;
  }

  #check(fn: HcaFunction, known: Command, input: Uint8Array, output: Uint8Array): void {
    if (input.length < known.input.bytes)
      throw new CommandError(
        STATUS.INPUT_LENGTH,
        SYNDROME.SHORT_INPUT,
        `${input.length} bytes of input, ${known.input.bytes} are needed`,
      );
    if (output.length < Math.max(known.outputBytes, OUTPUT.MINIMUM))
      throw new CommandError(
        STATUS.OUTPUT_LENGTH,
        SYNDROME.SHORT_OUTPUT,
        `room for ${output.length} bytes of output, ${known.outputBytes} are needed`,
      );
    const reserved = known.input.firstReserved(input);
    if (reserved >= 0)
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.RESERVED_BIT, `a reserved bit is set in byte ${reserved}`);
    if (!known.early && fn.phase === 'disabled')
      throw new CommandError(STATUS.BAD_SYS_STATE, SYNDROME.NOT_ENABLED, 'the function is not enabled');
  }
}
