import {
  adoptEventFd,
  closeFd,
  dupFd,
  EFD_SEMAPHORE,
  EventFd,
  eventfdCreate,
  eventfdRead,
  eventfdWrite,
  isFdOpen,
  memfdCreate,
  POLLIN,
  pollFd,
  setNonBlocking,
  socketpair,
  tryEventfdWrite,
} from '@vfio/native';
import { afterEach, describe, expect, test } from 'vitest';
import { projectWithNative, runModule } from './helpers/child.js';
import { leakedFds } from './helpers/fds.js';

const open: EventFd[] = [];
afterEach(() => {
  for (const event of open.splice(0)) event.close();
});

function eventFd(initial = 0, flags = 0): EventFd {
  const event = EventFd.create(initial, flags);
  open.push(event);
  return event;
}

describe('the counter', () => {
  test('adds up and is taken as a whole', () => {
    const event = eventFd(3);
    event.signal();
    event.signal(10);
    expect(event.read()).toBe(14);
    expect(event.read()).toBe(0);
  });

  test('is taken by ones with EFD_SEMAPHORE', () => {
    const event = eventFd(2, EFD_SEMAPHORE);
    expect([event.read(), event.read(), event.read()]).toEqual([1, 1, 0]);
  });

  test('is exact up to 2^53 - 1', () => {
    const event = eventFd();
    event.signal(Number.MAX_SAFE_INTEGER);
    expect(event.read()).toBe(Number.MAX_SAFE_INTEGER);
  });

  test('that is full is signalled already: writing neither blocks nor fails', () => {
    const event = eventFd();
    for (let n = 0; n < 2048; n++) event.signal(Number.MAX_SAFE_INTEGER);
    // 2^64 - 2 is the most that it holds: one write more would not fit.
    event.signal(Number.MAX_SAFE_INTEGER);
    expect(tryEventfdWrite(event.fd)).toBe(0);
    expect(pollFd(event.fd, POLLIN, 0)).toBe(POLLIN);
    expect(event.read()).toBeGreaterThan(2 ** 62);
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses to add %d', (value) => {
    const event = eventFd();
    expect(() => event.signal(value)).toThrow(expect.objectContaining({ errno: 'EINVAL', op: 'write' }));
    expect(event.read()).toBe(0);
  });
});

describe('errors', () => {
  test('of a closed descriptor are EBADF', () => {
    expect(() => eventfdWrite(987_654)).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno: 'EBADF' }));
    expect(() => eventfdRead(987_654)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
    expect(tryEventfdWrite(987_654)).toBe(-9);
  });
});

describe('a descriptor of a stranger', () => {
  test('is made non-blocking, so that no read or write of ours can stop the thread', () => {
    const fd = eventfdCreate();
    setNonBlocking(fd, false);
    adoptEventFd(fd);
    expect(eventfdRead(fd)).toBe(0);
    closeFd(fd);
  });

  test('is refused with EINVAL where it is something else, and EBADF where it is nothing', () => {
    const [a, b] = socketpair();
    const memfd = memfdCreate('m', { size: 8 });
    for (const fd of [a, b, memfd]) {
      expect(() => adoptEventFd(fd)).toThrow(expect.objectContaining({ errno: 'EINVAL', op: 'eventfd' }));
      closeFd(fd);
    }
    expect(() => adoptEventFd(987_654)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
  });
});

describe('waiting', () => {
  test('ends at once where it is signalled already', async () => {
    const event = eventFd(5);
    expect(await event.wait()).toBe(5);
  });

  test('ends when it is signalled later', async () => {
    const event = eventFd();
    const waiting = event.wait();
    setImmediate(() => event.signal(7));
    expect(await waiting).toBe(7);
  });

  test('of several is served in order, one signal each', async () => {
    const event = eventFd();
    const got: string[] = [];
    const waits = ['first', 'second'].map((name) => event.wait().then((count) => got.push(`${name} ${count}`)));
    event.signal(2);
    await waits[0];
    expect(got).toEqual(['first 2']);
    event.signal(3);
    await waits[1];
    expect(got).toEqual(['first 2', 'second 3']);
  });

  test('goes on after the counter was taken by somebody else', async () => {
    const event = eventFd();
    const waiting = event.wait();
    event.signal();
    expect(event.read()).toBe(1);
    setImmediate(() => event.signal(4));
    expect(await waiting).toBe(4);
  });

  test('can be aborted, and takes no signal then', async () => {
    const event = eventFd();
    const abort = new AbortController();
    const waiting = event.wait(abort.signal);
    abort.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    await expect(event.wait(AbortSignal.abort(new Error('before')))).rejects.toThrow('before');
    event.signal(9);
    expect(await event.wait()).toBe(9);
  });

  test('fails when the eventfd is closed meanwhile, and after', async () => {
    const event = eventFd();
    const waiting = event.wait();
    event.close();
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_VFIO_CLOSED', errno: 'EBADF' });
    await expect(event.wait()).rejects.toMatchObject({ code: 'ERR_VFIO_CLOSED' });
    expect(() => event.fd).toThrow(expect.objectContaining({ code: 'ERR_VFIO_CLOSED' }));
  });

  test('as a loop gives each signal and ends when it is closed', async () => {
    const event = eventFd();
    const got: number[] = [];
    const done = (async () => {
      for await (const count of event) {
        got.push(count);
        if (got.length === 3) event.close();
        else setImmediate(() => event.signal(count + 1));
      }
    })();
    event.signal(1);
    await done;
    expect(got).toEqual([1, 2, 3]);
  });

  test('on something that cannot be waited on is refused', async () => {
    const fd = memfdCreate('m', { size: 1 });
    const event = EventFd.from(fd, true);
    await expect(event.wait()).rejects.toMatchObject({ code: 'ERR_VFIO_SYSCALL' });
    event.close();
  });

  test('keeps a process alive while it lasts, an eventfd alone does not', () => {
    const dir = projectWithNative();
    const idle = runModule(dir, `import { EventFd } from '@vfio/native'; EventFd.create(); console.log('made');`);
    expect(idle).toMatchObject({ status: 0, stdout: 'made\n' });
    const waiting = runModule(
      dir,
      `import { EventFd } from '@vfio/native';
       const event = EventFd.create();
       event.wait().then((count) => { console.log(count); });
       setTimeout(() => event.signal(6), 50).unref();`,
    );
    expect(waiting).toMatchObject({ status: 0, stdout: '6\n' });
  });
});

describe('closing', () => {
  test('can be repeated and leaves a borrowed descriptor open', () => {
    const fd = eventfdCreate();
    const borrowed = EventFd.from(fd, false);
    borrowed.close();
    borrowed.close();
    expect(isFdOpen(fd)).toBe(true);
    const owned = EventFd.from(fd, true);
    owned.close();
    owned.close();
    expect(isFdOpen(fd)).toBe(false);
  });

  test('within the callback of a wait is safe', async () => {
    const event = eventFd();
    const first = event.wait().then(() => event.close());
    const second = event.wait();
    event.signal();
    await first;
    await expect(second).rejects.toMatchObject({ code: 'ERR_VFIO_CLOSED' });
  });

  test('leaks no descriptor, waited on or not', async () => {
    expect(
      await leakedFds(50, async () => {
        const event = EventFd.create();
        const copy = dupFd(event.fd);
        const waiting = event.wait();
        event.signal();
        await waiting;
        event.wait().catch(() => undefined);
        event.close();
        closeFd(copy);
      }),
    ).toBe(0);
  });
});
