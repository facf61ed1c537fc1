import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NvmeController, type NvmePersistence } from '../src/index.js';
import { FileStore, filePersistence } from '../src/node/index.js';
import { pattern } from './helpers/nvme-driver.js';
import { MIB, nvme } from './helpers/nvme-setup.js';
import { manualHost } from './helpers/setup.js';

let folder: string;
const stores: FileStore[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-emulated-'));
});

afterEach(() => {
  for (const store of stores.splice(0)) store.close();
  rmSync(folder, { recursive: true, force: true });
});

function open(size = 4 * MIB, name = 'disk'): FileStore {
  const store = new FileStore(join(folder, name), size);
  stores.push(store);
  return store;
}

describe('a namespace in a file', () => {
  test('is sparse: a terabyte takes what was written', () => {
    const store = open(MIB * MIB);
    store.write(MIB * MIB - 4096, pattern(4096, 1));
    const stat = statSync(store.path);
    expect(stat.size).toBe(MIB * MIB);
    expect(stat.blocks * 512).toBeLessThan(MIB);
  });

  test('survives the process: another store on the file reads the same', async () => {
    const store = open();
    store.write(12345, pattern(100_000, 2));
    await store.flush();
    store.close();
    store.close();
    const into = new Uint8Array(100_000);
    open().read(12345, into);
    expect(Buffer.compare(into, pattern(100_000, 2))).toBe(0);
  });

  test('is a plain array of bytes, fresh or opened again', () => {
    const size = 3 * MIB;
    const step = fc.tuple(
      fc.constantFrom('write', 'discard', 'reopen'),
      fc.tuple(fc.nat(size - 1), fc.nat(1.5 * MIB)).map(([at, length]) => [at, Math.min(length, size - at)] as const),
      fc.integer({ min: 1, max: 255 }),
    );
    let run = 0;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
        const name = `disk-${run++}`;
        let store = open(size, name);
        const plain = new Uint8Array(size);
        for (const [kind, [at, length], value] of steps) {
          if (kind === 'write') {
            store.write(at, new Uint8Array(length).fill(value));
            plain.fill(value, at, at + length);
          } else if (kind === 'discard') {
            store.discard(at, length);
            plain.fill(0, at, at + length);
          } else {
            store.close();
            store = open(size, name);
          }
        }
        const all = new Uint8Array(size).fill(1);
        store.read(0, all);
        store.close();
        expect(Buffer.compare(all, plain)).toBe(0);
      }),
      { numRuns: 15 },
    );
  });

  test('discarding the end gives its room back', () => {
    const store = open();
    store.write(0, pattern(4 * MIB, 1));
    store.discard(MIB, 3 * MIB);
    expect(statSync(store.path).blocks * 512).toBeLessThanOrEqual(MIB + 65536);
  });

  test('a file of another size is refused and left as it is', () => {
    writeFileSync(join(folder, 'disk'), 'not a disk');
    expect(() => open()).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(readFileSync(join(folder, 'disk'), 'utf8')).toBe('not a disk');
  });

  test('without a size the file has its own, and a new one is refused', () => {
    open(2 * MIB).close();
    const store = new FileStore(join(folder, 'disk'));
    stores.push(store);
    expect(store.size).toBe(2 * MIB);
    expect(() => new FileStore(join(folder, 'new'))).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL' }));
    expect(() => new FileStore(join(folder, 'new'), 0)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(existsSync(join(folder, 'new'))).toBe(false);
    writeFileSync(join(folder, 'empty'), '');
    expect(() => new FileStore(join(folder, 'empty'))).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('a folder that is not there is told as the failed system call', () => {
    expect(() => new FileStore(join(folder, 'none', 'disk'), MIB)).toThrow(
      expect.objectContaining({
        code: 'ERR_VFIO_SYSCALL',
        errno: 'ENOENT',
        message: expect.stringContaining('ENOENT'),
      }),
    );
  });

  test('a drive over it keeps what was flushed, through the end of its process', async () => {
    const first = nvme({ namespaces: [{ size: 4 * MIB, store: open() }] });
    await first.driver.start();
    await first.driver.write(0, pattern(4096, 1));
    expect((await first.driver.flush()).status).toBe(0);
    await first.driver.write(8, pattern(4096, 2));
    // Nobody flushes and nobody closes: the process is gone.
    const second = nvme({ namespaces: [{ size: 4 * MIB, store: open() }] });
    await second.driver.start();
    const { data } = await second.driver.read(0, 8192);
    expect(Buffer.compare(data.subarray(0, 4096), pattern(4096, 1))).toBe(0);
    expect(data.subarray(4096).every((byte) => byte === 0)).toBe(true);
  });

  test('is closed when its function is removed', async () => {
    const { host } = manualHost();
    const store = open();
    host.add({
      address: '0000:00:02.0',
      model: (ctx) => new NvmeController(ctx, { namespaces: [{ size: 4 * MIB, store }] }),
    });
    await host.remove('0000:00:02.0');
    expect(() => store.read(0, new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL' }));
  });
});

describe('what a drive remembers', () => {
  const path = (): string => join(folder, 'state.json');

  test('counters go on, and a process that ended while the drive was in use is an unsafe shutdown', async () => {
    const first = nvme({ persistence: filePersistence(path()) });
    await first.driver.start();
    await first.driver.write(0, pattern(1024, 1));
    await first.driver.shutDown();
    const second = nvme({ persistence: filePersistence(path()) });
    expect([second.controller.health.unsafeShutdowns, second.controller.health.powerCycles]).toEqual([0, 2]);
    expect(second.controller.health.writeCommands).toBe(1);
    await second.driver.start();
    const third = nvme({ persistence: filePersistence(path()) });
    expect([third.controller.health.unsafeShutdowns, third.controller.health.powerCycles]).toEqual([1, 3]);
    const fourth = nvme({ persistence: filePersistence(path()) });
    expect([fourth.controller.health.unsafeShutdowns, fourth.controller.health.powerCycles]).toEqual([1, 4]);
  });

  test('saved features go on', async () => {
    const first = nvme({ persistence: filePersistence(path()) });
    await first.driver.enable();
    await first.driver.admin({ opcode: 9, dwords: { 10: 0x80000001, 11: 5 } });
    const second = nvme({ persistence: filePersistence(path()) });
    await second.driver.enable();
    expect((await second.driver.admin({ opcode: 10, dwords: { 10: 1 } })).result).toBe(5);
  });

  test('a new drive has no file', () => {
    expect(filePersistence(path()).load()).toBeUndefined();
  });

  test.each([
    ['no JSON', '{'],
    ['no object', '3'],
    ['null', 'null'],
    ['no flag', '{"clean":1}'],
    ['a negative count', state({ powerCycles: -1 })],
    ['a count that is text', state({ mediaErrors: '1' })],
    ['no features', state({ features: null })],
    ['features that are text', state({ features: { '1:0': 'x' } })],
  ])('a file with %s is refused with EINVAL', (_name, text) => {
    writeFileSync(path(), text);
    expect(() => filePersistence(path()).load()).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('what is saved is what is loaded', () => {
    const persistence: NvmePersistence = filePersistence(path());
    const saved = JSON.parse(state({})) as Parameters<NvmePersistence['save']>[0];
    persistence.save(saved);
    expect(persistence.load()).toEqual(saved);
  });
});

function state(change: Record<string, unknown>): string {
  return JSON.stringify({
    clean: true,
    powerCycles: 1,
    unsafeShutdowns: 2,
    blocksRead: 3,
    blocksWritten: 4,
    readCommands: 5,
    writeCommands: 6,
    mediaErrors: 7,
    errorLogEntries: 8,
    features: { '1:0': 5 },
    ...change,
  });
}
