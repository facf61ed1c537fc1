import { join } from 'node:path';
import {
  closeFd,
  connectUnix,
  dupFd,
  EFD_SEMAPHORE,
  eventfdCreate,
  eventfdRead,
  eventfdWrite,
  isFdOpen,
  LOOP_EVENT,
  listenUnix,
  MAX_MESSAGE_SIZE,
  MessageLoop,
  memfdCreate,
  mmap,
  pageSize,
  sendMessage,
  setNonBlocking,
  socketpair,
  truncateFd,
} from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { leakedFds, openFds } from './helpers/fds.js';
import { frame } from './helpers/frames.js';
import { tempDir } from './helpers/temp.js';
import { fill, TestLoop } from './helpers/test-loop.js';

const PAGE = pageSize();

describe('a listener', () => {
  test('gives each connection once, closed by the next step where nobody takes it', () => {
    const t = new TestLoop();
    const path = join(tempDir(), 's');
    const listener = t.loop.addListener(listenUnix(path));
    expect(t.next()).toBeUndefined();
    const clients = [connectUnix(path), connectUnix(path), connectUnix(path)];
    const first = t.next();
    expect(first).toMatchObject({ kind: LOOP_EVENT.ACCEPT, source: listener });
    const second = t.next(0, false);
    const leftover = t.loop.fds[0] as number;
    expect(second?.kind).toBe(LOOP_EVENT.ACCEPT);
    expect(isFdOpen(leftover)).toBe(true);
    const third = t.next();
    expect(third?.kind).toBe(LOOP_EVENT.ACCEPT);
    expect(third?.fds[0]).not.toBe(first?.fds[0]);
    expect(t.next()).toBeUndefined();
    expect(() => sendMessage(clients[1] as number, [frame(1, 1)])).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
    const { id } = t.loop.addSocket(first?.fds[0] as number);
    expect(t.loop.send(id, frame(1, 1))).toBe(true);
    for (const fd of [...clients, third?.fds[0] as number]) closeFd(fd);
  });

  test('that is paused leaves connections in the backlog until it is resumed', () => {
    const t = new TestLoop();
    const path = join(tempDir(), 's');
    const listener = t.loop.addListener(listenUnix(path));
    t.loop.pause(listener);
    const client = connectUnix(path);
    expect(t.next()).toBeUndefined();
    t.loop.resume(listener);
    const accepted = t.next();
    expect(accepted?.kind).toBe(LOOP_EVENT.ACCEPT);
    closeFd(accepted?.fds[0] as number);
    closeFd(client);
  });
});

describe('an eventfd', () => {
  test('gives its counter, once for each signal that was not taken yet', () => {
    const t = new TestLoop();
    const fd = eventfdCreate();
    const id = t.loop.addEventFd(fd);
    expect(t.next()).toBeUndefined();
    eventfdWrite(fd, 3);
    eventfdWrite(fd, 2 ** 40);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.EVENTFD, source: id, value: 2 ** 40 + 3 });
    expect(t.next()).toBeUndefined();
    eventfdWrite(fd);
    expect(t.next()).toMatchObject({ source: id, value: 1 });
  });

  test('that was signalled before it came to the loop is seen', () => {
    const t = new TestLoop();
    const id = t.loop.addEventFd(eventfdCreate(5));
    expect(t.next()).toMatchObject({ source: id, value: 5 });
  });

  test('that counts down gives each of its signals', () => {
    const t = new TestLoop();
    t.loop.addEventFd(eventfdCreate(3, EFD_SEMAPHORE));
    expect(t.drain().map(({ value }) => value)).toEqual([1, 1, 1]);
  });

  test('that a peer made blocking and emptied does not stop the thread', () => {
    const t = new TestLoop();
    const fd = eventfdCreate(1);
    const id = t.loop.addEventFd(fd);
    t.loop.pause(id);
    // The loop has heard of the signal and not read it.
    expect(t.next()).toBeUndefined();
    expect(eventfdRead(fd)).toBe(1);
    setNonBlocking(fd, false);
    t.loop.resume(id);
    expect(t.next()).toBeUndefined();
    eventfdWrite(fd, 2);
    expect(t.next()).toMatchObject({ source: id, value: 2 });
  });
});

describe('a timer', () => {
  test('fires once, or again and again with an interval', () => {
    const t = new TestLoop();
    const id = t.loop.addTimer();
    expect(t.next()).toBeUndefined();
    t.loop.setTimer(id, 1);
    expect(t.next(1_000_000)).toMatchObject({ kind: LOOP_EVENT.TIMER, source: id, value: 1 });
    expect(t.next(2000)).toBeUndefined();
    t.loop.setTimer(id, 1, 100);
    for (let n = 0; n < 3; n++) expect(t.next(1_000_000)?.value).toBeGreaterThanOrEqual(1);
  });

  test('that is stopped or set anew forgets an expiry that was not delivered', () => {
    const t = new TestLoop();
    const id = t.loop.addTimer();
    t.loop.setTimer(id, 1);
    t.loop.pause(id);
    expect(t.next(2000)).toBeUndefined();
    t.loop.setTimer(id, 0);
    t.loop.resume(id);
    expect(t.next(2000)).toBeUndefined();
    expect(() => t.loop.setTimer(t.connect().id, 1)).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
  });
});

describe('waking', () => {
  test('by the wake descriptor is an event of its own', () => {
    const t = new TestLoop();
    eventfdWrite(t.loop.wakeFd, 2);
    expect(t.drain().map(({ kind }) => kind)).toEqual([LOOP_EVENT.WAKE]);
  });

  test('ends a step that blocks', () => {
    const t = new TestLoop();
    const id = t.loop.addTimer();
    t.loop.setTimer(id, 20_000);
    expect(t.next(-1)).toMatchObject({ kind: LOOP_EVENT.TIMER });
  });
});

describe('fairness', () => {
  test('every socket has its turn while one never runs dry', () => {
    const t = new TestLoop();
    const busy = t.connect();
    const others = Array.from({ length: 10 }, () => t.connect());
    const one = frame(1, 1);
    fill(busy.peer, one);
    t.next();
    for (const { peer } of others) sendMessage(peer, [one]);
    const seen = new Set<number>();
    for (let n = 0; n < 64 + others.length; n++) {
      const event = t.next();
      if (event?.source !== busy.id) seen.add(event?.source as number);
      // The busy one stays busy.
      else fill(busy.peer, one);
    }
    expect(seen.size).toBe(others.length);
  });

  test('an eventfd and a connection come through a flood', () => {
    const t = new TestLoop();
    const path = join(tempDir(), 's');
    const [a, b] = [t.connect(), t.connect()];
    const event = t.loop.addEventFd(eventfdCreate());
    const listener = t.loop.addListener(listenUnix(path));
    const one = frame(1, 1);
    for (const { peer } of [a, b]) fill(peer, one);
    t.next();
    eventfdWrite(t.loop.fdOf(event));
    const client = connectUnix(path);
    const seen = new Set<number>();
    for (let n = 0; n < 200; n++) {
      const next = t.next();
      seen.add(next?.source as number);
      for (const fd of next?.fds ?? []) closeFd(fd);
      fill(n % 2 === 0 ? a.peer : b.peer, one);
    }
    expect([...seen].sort()).toEqual([a.id, b.id, event, listener].sort());
    closeFd(client);
  });
});

describe('pausing', () => {
  test('keeps the bytes of the last message until the socket is resumed', () => {
    const t = new TestLoop({ maxMessageSize: 4096 });
    const { id, peer } = t.connect();
    sendMessage(peer, [frame(1, 1, 3000, 0x31)]);
    const { bytes } = t.next() as { bytes: Uint8Array };
    t.loop.pause(id);
    for (let n = 2; n < 40; n++) sendMessage(peer, [frame(n, 1, 3000)]);
    expect(t.drain()).toEqual([]);
    expect(t.socket(id).rx.slice(0, 3016)).toEqual(bytes);
    t.loop.resume(id);
    expect(t.drain().map(({ id: message }) => message)).toEqual(Array.from({ length: 38 }, (_, n) => n + 2));
  });

  test('puts off the end of a connection too', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    sendMessage(peer, [frame(1, 1)]);
    t.next();
    t.loop.pause(id);
    t.hangUp(peer);
    expect(t.next()).toBeUndefined();
    t.loop.resume(id);
    expect(t.next()?.kind).toBe(LOOP_EVENT.CLOSED);
  });
});

describe('a mapping that lost its memory', () => {
  /** A mapping of a file that can be cut, watched for a socket. */
  function watched(t: TestLoop, socket: number) {
    const fd = memfdCreate('guest', { size: 4 * PAGE, seals: 0 });
    const map = mmap(fd, 0, 4 * PAGE);
    t.loop.watchMapping(map, socket);
    return { fd, map };
  }

  test('closes the connection that it is watched for, and no other', () => {
    const t = new TestLoop();
    const [one, two] = [t.connect(), t.connect()];
    const { fd, map } = watched(t, one.id);
    const other = watched(t, two.id);
    expect(t.next()).toBeUndefined();
    truncateFd(fd, PAGE);
    expect(t.next()).toBeUndefined();
    map.bytes[3 * PAGE] = 7;
    sendMessage(one.peer, [frame(1, 1)]);
    sendMessage(two.peer, [frame(2, 1)]);
    expect(t.drain().map(({ kind, source }) => [kind, source])).toEqual(
      expect.arrayContaining([
        [LOOP_EVENT.POISONED, one.id],
        [LOOP_EVENT.MESSAGE, two.id],
      ]),
    );
    expect(t.drain()).toEqual([]);
    t.loop.remove(one.id);
    sendMessage(two.peer, [frame(3, 1)]);
    expect(t.next()).toMatchObject({ source: two.id, id: 3 });
    for (const { fd: file, map: mapping } of [{ fd, map }, other]) {
      mapping.unmap();
      closeFd(file);
    }
  });

  test('is reported also where the socket is paused, and ends a step that waits', () => {
    const t = new TestLoop();
    const { id } = t.connect();
    const { fd, map } = watched(t, id);
    t.loop.pause(id);
    truncateFd(fd, 0);
    expect(map.bytes[0]).toBe(0);
    expect(t.next(5_000_000)).toMatchObject({ kind: LOOP_EVENT.POISONED, source: id });
    map.unmap();
    closeFd(fd);
  });

  test('is reported where it was lost before it was watched', () => {
    const t = new TestLoop();
    const { id } = t.connect();
    const fd = memfdCreate('guest', { size: PAGE, seals: 0 });
    const map = mmap(fd, 0, PAGE);
    truncateFd(fd, 0);
    map.bytes[0] = 1;
    t.loop.watchMapping(map, id);
    expect(t.next()?.kind).toBe(LOOP_EVENT.POISONED);
    map.unmap();
    closeFd(fd);
  });

  test('is not reported when it was taken off, unmapped, or its socket removed', () => {
    const t = new TestLoop();
    const [a, b, c] = [t.connect(), t.connect(), t.connect()];
    const maps = [a, b, c].map(({ id }) => watched(t, id));
    t.loop.watchMapping(maps[0]!.map, -1);
    t.loop.remove(b.id);
    for (const { fd, map } of maps) {
      truncateFd(fd, 0);
      map.bytes[0] = 1;
      expect(map.isPoisoned).toBe(true);
    }
    maps[2]!.map.unmap();
    expect(t.drain()).toEqual([]);
    expect(() => t.loop.watchMapping(maps[0]!.map, b.id)).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
    expect(() => t.loop.watchMapping(maps[2]!.map, a.id)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    for (const { fd, map } of maps) {
      map.unmap();
      closeFd(fd);
    }
  });

  test('may be unmapped after the loop that watched it was closed', () => {
    const t = new TestLoop();
    const { fd, map } = watched(t, t.connect().id);
    t.close();
    truncateFd(fd, 0);
    map.bytes[0] = 1;
    expect(map.isPoisoned).toBe(true);
    map.unmap();
    closeFd(fd);
  });
});

describe('descriptors of a loop', () => {
  test('are its own: removing a source closes it, or leaves it with keepFd', () => {
    const t = new TestLoop();
    const fds = [socketpair()[0], eventfdCreate()] as const;
    const ids = [t.loop.addSocket(fds[0]).id, t.loop.addEventFd(fds[1])];
    expect(ids.map((id) => t.loop.fdOf(id))).toEqual([...fds]);
    t.loop.remove(ids[0] as number, true);
    t.loop.remove(ids[1] as number);
    expect(fds.map(isFdOpen)).toEqual([true, false]);
    const again = t.loop.addSocket(fds[0]);
    expect(again.rx.length).toBeGreaterThan(0);
  });

  test('that cannot be watched stay the caller’s', () => {
    const t = new TestLoop();
    const file = memfdCreate('m', { size: 1 });
    for (const add of [
      () => t.loop.addSocket(file),
      () => t.loop.addListener(file),
      () => t.loop.addEventFd(file),
      () => t.loop.addEventFd(987_654),
    ]) {
      expect(add).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', op: 'epoll_ctl' }));
    }
    expect(isFdOpen(file)).toBe(true);
    const [ours] = socketpair();
    t.loop.addSocket(ours);
    expect(() => t.loop.addSocket(ours)).toThrow(expect.objectContaining({ errno: 'EEXIST' }));
    closeFd(file);
  });

  test('that were closed behind its back reach no source that is gone', () => {
    const t = new TestLoop();
    const [ours, theirs] = socketpair();
    const { id } = t.loop.addSocket(ours);
    // The open file lives on in a copy, and with it the entry of the epoll set.
    const copy = dupFd(ours);
    closeFd(ours);
    t.loop.remove(id, true);
    sendMessage(theirs, [frame(1, 1)]);
    expect(t.drain()).toEqual([]);
    closeFd(copy);
    closeFd(theirs);
  });

  test('are all closed with it, and nothing leaks over many loops', async () => {
    expect(
      await leakedFds(30, () => {
        const loop = new MessageLoop({ maxMessageSize: 4096 });
        const [a, b] = socketpair();
        loop.addSocket(a);
        loop.addEventFd(eventfdCreate());
        loop.addTimer();
        loop.start(() => undefined);
        loop.close();
        loop.close();
        closeFd(b);
      }),
    ).toBe(0);
  });
});

describe('a closed loop', () => {
  test('refuses what would need it and answers IDLE', () => {
    const loop = new MessageLoop();
    const { rx, id } = loop.addSocket(socketpair()[0]);
    loop.close();
    expect([loop.isClosed, rx.length, loop.tx.length, loop.step(0), loop.step()]).toEqual([true, 0, 0, 0, 0]);
    const event = eventfdCreate();
    for (const use of [
      () => loop.addSocket(event),
      () => loop.addListener(event),
      () => loop.addEventFd(event),
      () => loop.addTimer(),
      () => loop.start(() => undefined),
    ]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ERR_VFIO_CLOSED', errno: 'EBADF' }));
    }
    expect(loop.trySendTx(id, 16)).toBe(-9);
    loop.stop();
    loop.ref();
    loop.unref();
    closeFd(event);
  });
});

describe('limits', () => {
  test.each([0, 63, MAX_MESSAGE_SIZE + 1, 100.5, Number.NaN])('a message size of %d is refused', (maxMessageSize) => {
    expect(() => new MessageLoop({ maxMessageSize })).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL' }),
    );
    const t = new TestLoop();
    expect(() => t.connect({ maxMessageSize })).toThrow(expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT' }));
  });

  test('a loop costs its descriptors and no memory that nobody touched', () => {
    const before = openFds().size;
    const resident = process.memoryUsage.rss();
    const loops = Array.from({ length: 50 }, () => new MessageLoop({ maxMessageSize: MAX_MESSAGE_SIZE }));
    expect(openFds().size - before).toBe(50 * 5);
    expect(process.memoryUsage.rss() - resident).toBeLessThan(32 << 20);
    for (const loop of loops) loop.close();
  });
});
