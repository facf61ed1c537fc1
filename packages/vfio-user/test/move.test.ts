/** A device moves from one server to another. */
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { socketpair } from '@vfio/native';
import { VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { loadFrom, saveTo } from '../src/index.js';
import { PAGE, pattern, two } from './helpers/moving.js';
import { cleanup, serve } from './helpers/serve.js';
import { migratable, STATE } from './helpers/toy-migration.js';

test('a device that can only be stopped and copied moves with its memory', async () => {
  const { from, to, move } = await two();
  const [out, into] = await move();
  expect(out).toMatchObject({ status: 'fulfilled', value: { stateBytes: 100_000, memoryBytes: 8 * PAGE } });
  expect(into).toMatchObject({ status: 'fulfilled', value: { stateBytes: 100_000, memoryBytes: 8 * PAGE } });
  expect(to.toy.state).toEqual(pattern(100_000, 7));
  expect(to.memory.bytes).toEqual(from.memory.bytes);
  expect([from.toy.current, to.toy.current]).toEqual([STATE.STOP, STATE.RUNNING]);
  expect([from.toy.streams, to.toy.streams]).toEqual([0, 0]);
});

test('what a device gives while it runs goes before it is stopped, the rest after', async () => {
  const { from, to, move } = await two(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY);
  from.toy.precopyBytes = 50_000;
  const [out] = await move();
  expect(out).toMatchObject({ status: 'fulfilled', value: { stateBytes: 100_000 } });
  expect(to.toy.state).toEqual(pattern(100_000, 7));
});

test('a device is saved into a file while it runs on, and loaded into another from there', async () => {
  const { from, to } = await two();
  const folder = mkdtempSync(join(tmpdir(), 'vfio-move-'));
  cleanup(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'device');
  const [a, b] = socketpair();
  const [out, saved] = await Promise.all([from.server.moveOut({ fd: a }, { purpose: 'save' }), saveTo(file, b)]);
  expect(saved).toMatchObject({ stateBytes: 100_000, memoryBytes: 8 * PAGE });
  expect(out).toMatchObject({ stateBytes: 100_000 });
  expect(from.toy.current).toBe(STATE.RUNNING);
  expect(readdirSync(folder)).toEqual(['device']);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const [c, d] = socketpair();
  await Promise.all([loadFrom(file, { fd: c }), to.server.moveIn({ fd: d })]);
  expect(to.toy.state).toEqual(pattern(100_000, 7));
  expect(to.memory.bytes).toEqual(from.memory.bytes);
  expect(to.toy.current).toBe(STATE.RUNNING);
});

test('what the client writes itself after it was sent goes too; not where it has said that it writes nothing', async () => {
  for (const trustLog of [false, true]) {
    const { from, to, move } = await two(undefined, 64);
    let hasWritten = false;
    const [out] = await move({
      trustLog,
      onProgress: ({ memoryBytes }) => {
        if (memoryBytes < 64 * PAGE || hasWritten) return;
        from.memory.bytes[3 * PAGE + 5]! ^= 0xff;
        hasWritten = true;
      },
    });
    expect(out.status).toBe('fulfilled');
    expect(hasWritten).toBe(true);
    expect(to.memory.bytes.subarray(0, 3 * PAGE)).toEqual(from.memory.bytes.subarray(0, 3 * PAGE));
    expect(to.memory.bytes[3 * PAGE + 5] === from.memory.bytes[3 * PAGE + 5]).toBe(!trustLog);
  }
});

test('other devices of the thread are served while one moves, and its own client until it is stopped', async () => {
  const { from, move } = await two(undefined, 1024);
  const other = await serve((await migratable(VFIO_MIGRATION_STOP_COPY)).device);
  const client = await other.connect();
  let isOver = false;
  const moving = move({ bandwidth: 32 << 20, maxDowntimeMs: 0 }).finally(() => {
    isOver = true;
  });
  let asked = 0;
  while (!isOver) {
    await client.getInfo();
    if (asked++ < 5) await from.client.getInfo();
  }
  expect((await moving).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
  expect(asked).toBeGreaterThan(20);
});
