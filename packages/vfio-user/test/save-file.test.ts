/** A device in a file: what is refused, and what a writer leaves behind. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { socketpair } from '@vfio/native';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { saveTo } from '../src/index.js';
import { SaveReader, SaveWriter } from '../src/move/save-file.js';
import { encodeTotals, RECORD, RECORD_HEADER } from '../src/move/wire.js';
import { pattern, two } from './helpers/moving.js';
import { STATE as STATES } from './helpers/toy-migration.js';

const folder = mkdtempSync(join(tmpdir(), 'vfio-save-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** What compresses and what does not, in a file of a few hundred bytes. */
const STATE = Uint8Array.from({ length: 60 }, (_, at) => (Math.imul(at + 1, 0x9e3779b1) >>> 13) & 0xff);
const MEMORY = new Uint8Array(8 + 4096).fill(7);
const RECORDS: readonly (readonly [number, Uint8Array])[] = [
  [RECORD.HELLO, Buffer.from('a device')],
  [RECORD.STATE, STATE],
  [RECORD.MEMORY, MEMORY],
  [RECORD.END, encodeTotals({ stateBytes: STATE.length, memoryBytes: 4096 })],
];

const path = join(folder, 'device');
let whole = Buffer.alloc(0);
beforeAll(async () => {
  const writer = await SaveWriter.create(path);
  for (const [type, payload] of RECORDS) await writer.record(type, payload);
  await writer.finish();
  whole = readFileSync(path);
});

async function verify(bytes: Uint8Array): Promise<unknown> {
  const changed = join(folder, 'changed');
  writeFileSync(changed, bytes);
  const reader = await SaveReader.open(changed);
  try {
    const totals = await reader.verify();
    for await (const _ of reader.records());
    return totals;
  } finally {
    await reader.close();
  }
}

test('a file gives back the records that were written, and is smaller where they can be', async () => {
  const reader = await SaveReader.open(path);
  expect(await reader.verify()).toEqual({ stateBytes: STATE.length, memoryBytes: 4096 });
  const found: [number, Uint8Array][] = [];
  for await (const { type, payload } of reader.records()) found.push([type, Uint8Array.from(payload)]);
  expect(found).toEqual(RECORDS.map(([type, payload]) => [type, Uint8Array.from(payload)]));
  await reader.close();
  expect(whole.length).toBeLessThan(1000);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('any byte that is another is refused by the name of the file', async () => {
  for (let at = 0; at < whole.length; at++) {
    const bytes = Buffer.from(whole);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8));
    await expect(verify(bytes), `byte ${at}`).rejects.toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      message: expect.stringContaining(join(folder, 'changed')),
    });
  }
});

test('a file that was cut anywhere, or to which something was added, is refused', async () => {
  for (let length = 0; length < whole.length; length++) {
    await expect(verify(whole.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
    });
  }
  await expect(verify(Buffer.concat([whole, Buffer.of(0)]))).rejects.toThrow(/1 bytes come after its end/);
  await expect(verify(Buffer.concat([whole, whole]))).rejects.toThrow(/come after its end/);
});

test('a record that is missing, comes twice or is another’s is refused', async () => {
  const starts: number[] = [];
  for (let at = 32; at < whole.length; at += RECORD_HEADER + whole.readUInt32LE(at + 4)) starts.push(at);
  const parts = starts.map((at, index) => whole.subarray(at, starts[index + 1]));
  const made = (...order: number[]) => Buffer.concat([whole.subarray(0, 32), ...order.map((index) => parts[index]!)]);
  expect(await verify(made(0, 1, 2, 3))).toMatchObject({ stateBytes: STATE.length });
  for (const order of [
    [0, 2, 3],
    [0, 1, 1, 2, 3],
    [0, 2, 1, 3],
    [1, 2, 3],
  ]) {
    await expect(verify(made(...order)), order.join()).rejects.toThrow(/one is missing or came twice/);
  }
});

test('a writer that gives up leaves nothing, and what was there before stays', async () => {
  const place = join(folder, 'kept');
  writeFileSync(place, 'before');
  const writer = await SaveWriter.create(place);
  await writer.record(RECORD.STATE, STATE);
  expect(readFileSync(place, 'utf8')).toBe('before');
  await writer.discard();
  expect(readdirSync(folder).filter((name) => name.includes('kept'))).toEqual(['kept']);
  expect(readFileSync(place, 'utf8')).toBe('before');
});

test('a server that fails in the middle leaves no file, and its device runs', async () => {
  const { from } = await two();
  from.toy.state = pattern(3 << 20);
  const place = join(folder, 'never');
  const [a, b] = socketpair();
  const stop = new AbortController();
  const size = from.toy.ops.getDataSize;
  from.toy.ops.getDataSize = (dev) => {
    if (from.toy.current === STATES.STOP_COPY) stop.abort();
    return size(dev);
  };
  const [out, saved] = await Promise.allSettled([
    from.server.moveOut({ fd: a }, { purpose: 'save', signal: stop.signal }),
    saveTo(place, b),
  ]);
  expect([out.status, saved.status]).toEqual(['rejected', 'rejected']);
  expect(readdirSync(folder).filter((name) => name.includes('never'))).toEqual([]);
  expect(from.toy.current).toBe(STATES.RUNNING);
});
