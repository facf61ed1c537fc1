import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  closeFd,
  eventfdCreate,
  eventfdRead,
  eventfdWrite,
  isFdOpen,
  memfdCreate,
  nativeBinding,
  POLLOUT,
  sendMessage,
  socketpair,
} from '@vfio/native';
import { afterEach, describe, expect, test } from 'vitest';
import { leakedFds } from './helpers/fds.js';
import { collect, collectUntil } from './helpers/gc.js';

type Watcher = Exclude<ReturnType<ReturnType<typeof nativeBinding>['watchFd']>, number>;

/** Events of a libuv poll handle. */
const READABLE = 1;
const WRITABLE = 2;

const undo: (() => unknown)[] = [];
afterEach(() => {
  for (const step of undo.splice(0).reverse()) step();
});

function watch(fd: number, callback: (events: number) => void): Watcher {
  const watcher = nativeBinding().watchFd(fd, callback);
  if (typeof watcher === 'number') throw new Error(`watchFd: ${watcher}`);
  undo.push(() => watcher.close());
  return watcher;
}

function event(): number {
  const fd = eventfdCreate();
  undo.push(() => {
    if (isFdOpen(fd)) closeFd(fd);
  });
  return fd;
}

async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn++) await nextTurn();
}

describe('a watcher', () => {
  test('calls back while its descriptor is ready, until it is stopped', async () => {
    const fd = event();
    const got: number[] = [];
    const watcher = watch(fd, (events) => got.push(events));
    eventfdWrite(fd);
    await turns();
    expect(got).toEqual([]);
    expect(watcher.start(READABLE)).toBe(0);
    await turns();
    expect(got.length).toBeGreaterThan(1);
    expect(new Set(got)).toEqual(new Set([READABLE]));
    eventfdRead(fd);
    await turns();
    const { length } = got;
    await turns();
    expect(got.length).toBe(length);
    eventfdWrite(fd);
    expect(watcher.stop()).toBe(0);
    expect(watcher.stop()).toBe(0);
    await turns();
    expect(got.length).toBe(length);
  });

  test('can be started for other events', async () => {
    const [a, b] = socketpair();
    undo.push(() => [a, b].forEach(closeFd));
    const got: number[] = [];
    const watcher = watch(a, (events) => {
      got.push(events);
      watcher.stop();
    });
    watcher.start(WRITABLE);
    await turns();
    sendMessage(b, [new Uint8Array(1)]);
    watcher.start(READABLE | WRITABLE);
    await turns();
    expect(got).toEqual([WRITABLE, READABLE | WRITABLE]);
    expect(POLLOUT).toBe(4);
  });

  test('may be closed by its own callback, and again', async () => {
    const fd = event();
    let calls = 0;
    const watcher = watch(fd, () => {
      calls++;
      watcher.close();
      watcher.close();
    });
    eventfdWrite(fd);
    watcher.start(READABLE);
    await turns();
    expect(calls).toBe(1);
    expect(watcher.start(READABLE)).toBe(-9);
    expect(watcher.stop()).toBe(0);
    expect(isFdOpen(fd)).toBe(true);
  });

  test('that is closed lets the descriptor be watched again', async () => {
    const fd = event();
    for (let round = 0; round < 5; round++) {
      const got = new Promise((resolve) => {
        const watcher = watch(fd, (events) => {
          watcher.close();
          resolve(events);
        });
        watcher.start(READABLE);
      });
      eventfdWrite(fd);
      expect(await got).toBe(READABLE);
    }
  });

  test('of what cannot be watched is an errno', () => {
    const file = memfdCreate('m', { size: 1 });
    expect(nativeBinding().watchFd(file, () => undefined)).toBe(-1);
    closeFd(file);
    expect(nativeBinding().watchFd(987_654, () => undefined)).toBe(-9);
  });

  test('that nobody holds is collected while it is stopped, and not while it is started', async () => {
    const fd = event();
    let calls = 0;
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    // In a function of its own, so that nothing on the stack holds them.
    const make = (start: boolean): WeakRef<Watcher> => {
      const watcher = nativeBinding().watchFd(fd, () => {
        calls++;
        eventfdRead(fd);
      }) as Watcher;
      registry.register(watcher, undefined);
      if (start) watcher.start(READABLE);
      return new WeakRef(watcher);
    };
    make(false);
    expect(await collectUntil(() => collected === 1)).toBe(true);
    await turns();
    const started = make(true);
    await collect();
    expect(collected).toBe(1);
    eventfdWrite(fd);
    await turns();
    expect(calls).toBe(1);
    started.deref()?.close();
  });

  test('leaks no descriptor', async () => {
    expect(
      await leakedFds(50, async () => {
        const fd = eventfdCreate();
        const watcher = watch(fd, () => undefined);
        watcher.start(READABLE);
        await nextTurn();
        watcher.close();
        closeFd(fd);
      }),
    ).toBe(0);
  });
});
