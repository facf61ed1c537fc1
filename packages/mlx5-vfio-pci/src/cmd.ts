import { type DmaBuffer, DMA_PAGE as PAGE } from '@vfio/core';
import { CommandInput } from './hca/bits.js';
import type { Hca } from './hca/hca.js';
import { CMD } from './hca/opcodes.js';

/** Which half of a function stops or runs: the numbers of SUSPEND and RESUME are swapped. */
const SUSPEND_OP = { INITIATOR: 0, RESPONDER: 1 } as const;
const RESUME_OP = { RESPONDER: 0, INITIATOR: 1 } as const;

const FLAG_INCREMENTAL = 0x80000000;
const FLAG_CHUNK = 0x40000000;
const FLAG_TRACK = 0x40000000;

/** Local and remote, read and write; a list of pages (MTT). */
const MKEY_RIGHTS = (1 << 10) | (1 << 11) | (1 << 8);
/** The byte of a key that its maker chooses. */
const MKEY_VARIANT = 0x6d;
const ANY_QPN = 0xffffff;

/** The largest image that one LOAD or SAVE can carry: sizes have 32 bits. */
export const MAX_LOAD_SIZE = 0xffffffff;
export const MAX_SAVE_SIZE = 0x100000000 - PAGE;

/** What QUERY_VHCA_MIGRATION_STATE says when all that was saved so far is worth nothing. */
export const STATE_INIT = 4;

/** A function whose state commands are about. */
export interface Vhca {
  readonly hca: Hca;
  readonly vhcaId: number;
}

export interface StateQuery {
  /** Bytes that the next SAVE needs. */
  readonly required: number;
  /** Bytes of all that is left: the same without chunks. */
  readonly total: number;
  readonly migrationState: number;
}

export async function suspendInitiator({ hca, vhcaId }: Vhca): Promise<void> {
  await hca.execute('SUSPEND_VHCA', new CommandInput(CMD.SUSPEND_VHCA, 16, SUSPEND_OP.INITIATOR).u16(10, vhcaId));
}

export async function suspendResponder({ hca, vhcaId }: Vhca): Promise<void> {
  await hca.execute('SUSPEND_VHCA', new CommandInput(CMD.SUSPEND_VHCA, 16, SUSPEND_OP.RESPONDER).u16(10, vhcaId));
}

export async function resumeResponder({ hca, vhcaId }: Vhca): Promise<void> {
  await hca.execute('RESUME_VHCA', new CommandInput(CMD.RESUME_VHCA, 16, RESUME_OP.RESPONDER).u16(10, vhcaId));
}

export async function resumeInitiator({ hca, vhcaId }: Vhca): Promise<void> {
  await hca.execute('RESUME_VHCA', new CommandInput(CMD.RESUME_VHCA, 16, RESUME_OP.INITIATOR).u16(10, vhcaId));
}

export async function queryState(vhca: Vhca, options: { incremental: boolean; chunk: boolean }): Promise<StateQuery> {
  const flags = (options.incremental ? FLAG_INCREMENTAL : 0) | (options.chunk ? FLAG_CHUNK : 0);
  const input = new CommandInput(CMD.QUERY_VHCA_MIGRATION_STATE).u32(8, (flags | vhca.vhcaId) >>> 0);
  const output = await vhca.hca.execute('QUERY_VHCA_MIGRATION_STATE', input, 64);
  const required = output.getUint32(0x10);
  return {
    required,
    total: options.chunk ? Number(output.getBigUint64(0x18)) : required,
    migrationState: output.getUint32(0x0c) >>> 28,
  };
}

/** Memory that the firmware may read and write, with its key. */
export interface KeyedBuffer {
  readonly buffer: DmaBuffer;
  readonly key: number;
}

export async function save(
  vhca: Vhca,
  { key, buffer }: KeyedBuffer,
  options: { incremental: boolean; track: boolean },
): Promise<{ readonly imageBytes: number; readonly nextBytes: number }> {
  const flags = (options.incremental ? FLAG_INCREMENTAL : 0) | (options.track ? FLAG_TRACK : 0);
  const input = new CommandInput(CMD.SAVE_VHCA_STATE, 32)
    .u32(8, (flags | vhca.vhcaId) >>> 0)
    .u32(0x18, key)
    .u32(0x1c, buffer.bytes.length);
  const output = await vhca.hca.execute('SAVE_VHCA_STATE', input);
  return { imageBytes: output.getUint32(8), nextBytes: output.getUint32(12) };
}

/** Loads the first `size` bytes of a buffer. */
export async function load(vhca: Vhca, { key }: KeyedBuffer, size: number): Promise<void> {
  const input = new CommandInput(CMD.LOAD_VHCA_STATE, 32).u16(10, vhca.vhcaId).u32(0x18, key).u32(0x1c, size);
  await vhca.hca.execute('LOAD_VHCA_STATE', input);
}

export async function allocPd(hca: Hca): Promise<number> {
  return (await hca.execute('ALLOC_PD', new CommandInput(CMD.ALLOC_PD))).getUint32(8) & 0xffffff;
}

export async function deallocPd(hca: Hca, pd: number): Promise<void> {
  await hca.execute('DEALLOC_PD', new CommandInput(CMD.DEALLOC_PD).u32(8, pd));
}

/** Registers a buffer's pages with the firmware. */
export async function createMkey(hca: Hca, pd: number, buffer: DmaBuffer): Promise<number> {
  const count = buffer.bytes.length / PAGE;
  const octwords = Math.ceil(count / 2);
  const input = new CommandInput(CMD.CREATE_MKEY, 272 + 16 * octwords)
    .u32(0x10, MKEY_RIGHTS)
    .u32(0x14, ((ANY_QPN << 8) | MKEY_VARIANT) >>> 0)
    .u32(0x1c, pd)
    .u64(0x28, buffer.bytes.length)
    .u32(0x44, octwords)
    .u32(0x48, 12)
    .u32(0x60, octwords);
  for (let i = 0; i < count; i++) input.u64(272 + 8 * i, buffer.iova + i * PAGE);
  const output = await hca.execute('CREATE_MKEY', input);
  return (((output.getUint32(8) & 0xffffff) << 8) | MKEY_VARIANT) >>> 0;
}

export async function destroyMkey(hca: Hca, key: number): Promise<void> {
  await hca.execute('DESTROY_MKEY', new CommandInput(CMD.DESTROY_MKEY).u32(8, key >>> 8));
}
