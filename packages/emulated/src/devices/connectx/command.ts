import { hex } from '@vfio/uapi';
import { STATUS } from './constants.js';
import { type Field, getField, Layout, setField } from './fields.js';
import type { FunctionRecord } from './function-record.js';
import type { HcaFunction } from './hca.js';

/**
 * Why a command was refused, beside its status: the `syndrome`, which the manual leaves to the vendor. These are the
 * model's own.
 */
export const SYNDROME = {
  UNKNOWN_OPCODE: 0x10001,
  RESERVED_BIT: 0x10002,
  SHORT_INPUT: 0x10003,
  SHORT_OUTPUT: 0x10004,
  NOT_ENABLED: 0x10005,
  NOT_INITIALIZED: 0x10006,
  ALREADY: 0x10007,
  PAGES_MISSING: 0x10008,
  NOT_ALLOWED: 0x10009,
  UNKNOWN_FUNCTION: 0x1000a,
  UNKNOWN_RESOURCE: 0x1000b,
  IN_USE: 0x1000c,
  BAD_VALUE: 0x1000d,
  EXHAUSTED: 0x1000e,
  WRONG_STATE: 0x1000f,
  BAD_MKEY: 0x10010,
  TOO_SMALL: 0x10011,
  BAD_IMAGE: 0x10012,
  MEMORY_ERROR: 0x10013,
  NOT_TRACKED: 0x10014,
  INJECTED: 0x10015,
} as const;

/** A command that ends with a status other than OK. */
export class CommandError extends Error {
  readonly status: number;
  readonly syndrome: number;

  constructor(status: number, syndrome: number, message: string) {
    super(message);
    this.name = 'CommandError';
    this.status = status;
    this.syndrome = syndrome;
  }
}

/** The start of every command's input; `uid` says for which user context it is. */
const COMMON = { opcode: [0x00, 16], uid: [0x10, 16], op_mod: [0x30, 16] } as const satisfies Record<string, Field>;

/** A command's description. Input past the layout is a list, whose length the command checks. */
export interface Command<Name extends string = string> {
  readonly opcode: number;
  readonly name: string;
  readonly input: Layout<Name | keyof typeof COMMON>;
  /** Bytes of output, without a list behind them. */
  readonly outputBytes: number;
  /** Answered also before ENABLE_HCA. */
  readonly early: boolean;
  run(call: Call<Name>): void | Promise<void>;
}

/** Describes a command. `input`: its fields after the common ones, and how many bytes they are. */
export function command<Name extends string>(
  opcode: number,
  name: string,
  input: { readonly bytes: number; readonly fields: Readonly<Record<Name, Field>>; readonly early?: boolean },
  outputBytes: number,
  run: (call: Call<Name>) => void | Promise<void>,
): Command<Name> {
  const fields = { ...COMMON, ...input.fields } as Record<Name | keyof typeof COMMON, Field>; // the union of both
  return { opcode, name, input: new Layout(input.bytes, fields), outputBytes, early: input.early === true, run };
}

/** One execution: the input as it was delivered, and the output to fill. */
export class Call<Name extends string = string> {
  /** Whose command queue it came through. */
  readonly fn: HcaFunction;
  readonly command: Command<Name>;
  readonly bytes: Uint8Array;
  readonly input: DataView;
  readonly output: DataView;

  constructor(fn: HcaFunction, command: Command<Name>, input: Uint8Array, output: Uint8Array) {
    this.fn = fn;
    this.command = command;
    this.bytes = input;
    this.input = new DataView(input.buffer, input.byteOffset, input.byteLength);
    this.output = new DataView(output.buffer, output.byteOffset, output.byteLength);
  }

  get(name: Name | keyof typeof COMMON): number {
    return getField(this.input, this.command.input.fields[name]);
  }

  set(field: Field, value: number): void {
    setField(this.output, field, value);
  }

  /** The function that the command is about, by its number: 0 is the one itself. */
  target(functionId: number): FunctionRecord {
    const target = this.fn.firmware.recordById(this.fn, functionId);
    if (target === undefined)
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.UNKNOWN_FUNCTION, `there is no function ${functionId}`);
    return target;
  }

  /** Room for a list of `entries` 64-bit numbers behind the output. */
  requireOutput(bytes: number): void {
    if (this.output.byteLength < bytes)
      throw new CommandError(
        STATUS.OUTPUT_LENGTH,
        SYNDROME.SHORT_OUTPUT,
        `${bytes} bytes of output, there is room for ${this.output.byteLength}`,
      );
  }

  requireInput(bytes: number): void {
    if (this.input.byteLength < bytes)
      throw new CommandError(
        STATUS.INPUT_LENGTH,
        SYNDROME.SHORT_INPUT,
        `${bytes} bytes of input, ${this.input.byteLength} came`,
      );
  }
}

/** A value that is not allowed. */
export function badParameter(what: string, value: number): CommandError {
  return new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_VALUE, `${what} ${hex(value)}`);
}
