import {
  closeFd,
  eventfdCreate,
  LOOP_EVENT,
  LOOP_SLOT,
  memfdCreate,
  recvMessage,
  sendMessage,
  setNonBlocking,
  setSendBuffer,
  statFd,
} from '@vfio/native';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { leakedFds, openFds } from './helpers/fds.js';
import { concat, frame } from './helpers/frames.js';
import { TestLoop } from './helpers/test-loop.js';

/** Reads what is there, at most `most` bytes; descriptors are pushed to `fds`. */
function readSome(peer: number, most: number, fds: number[] = []): Uint8Array {
  setNonBlocking(peer, true);
  const bytes = new Uint8Array(most);
  const received = new Int32Array(16);
  let length = 0;
  while (length < most) {
    const part = recvMessage(peer, bytes, length, most - length, received);
    if (part === undefined || part.bytes === 0) break;
    length += part.bytes;
    fds.push(...received.subarray(0, part.fdCount));
  }
  return bytes.subarray(0, length);
}

/** Reads, with steps of the loop in between, until nothing more comes. */
function readAll(t: TestLoop, peer: number, fds: number[] = []): Uint8Array {
  const parts: Uint8Array[] = [];
  for (;;) {
    // First: what is read before has made room for what waits in the loop.
    t.drain();
    const part = readSome(peer, 1 << 20, fds);
    if (part.length === 0) return concat(parts);
    parts.push(part.slice());
  }
}

describe('what a peer does not read', () => {
  test('waits and comes in order, replies and sends alike, however much is read at a time', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ body: fc.oneof(fc.nat(100), fc.integer({ min: 10_000, max: 90_000 })), reply: fc.boolean() }),
          {
            minLength: 1,
            maxLength: 15,
          },
        ),
        fc.integer({ min: 1000, max: 200_000 }),
        (messages, most) => {
          const t = new TestLoop();
          const { id, peer } = t.connect();
          const frames = messages.map(({ body }, n) => frame(n, 1, body, n * 11));
          const parts: Uint8Array[] = [];
          for (const [n, { reply }] of messages.entries()) {
            const bytes = frames[n] as Uint8Array;
            if (reply) {
              t.loop.tx.set(bytes);
              t.loop.reply(id, bytes.length);
            } else {
              t.loop.send(id, bytes);
            }
            expect(t.next()).toBeUndefined();
            if (n % 3 === 2) parts.push(readSome(peer, most).slice());
          }
          parts.push(readAll(t, peer));
          t.close();
          expect(Buffer.compare(concat(parts), concat(frames))).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('of a message with descriptors keeps them with its first byte, once', async () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    const file = memfdCreate('file', { size: 1 });
    expect(
      await leakedFds(5, () => {
        // Fills the socket: the next one waits as a whole, its descriptors are copied.
        while (t.loop.send(id, frame(1, 1, 60_000)));
        const copy = memfdCreate('copy', { size: 1 });
        const { ino } = statFd(copy);
        expect(t.loop.send(id, frame(2, 2, 5), [copy, file])).toBe(false);
        closeFd(copy);
        const fds: number[] = [];
        const bytes = readAll(t, peer, fds);
        expect(Buffer.compare(bytes.subarray(-21), frame(2, 2, 5))).toBe(0);
        expect(fds.map((fd) => statFd(fd).ino)).toEqual([ino, statFd(file).ino]);
        fds.forEach(closeFd);
      }),
    ).toBe(0);
    closeFd(file);
  });

  test('does not keep other peers waiting', () => {
    const t = new TestLoop();
    const deaf = t.connect();
    const other = t.connect();
    while (t.loop.send(deaf.id, frame(1, 1, 60_000)));
    sendMessage(other.peer, [frame(5, 1)]);
    expect(t.next()).toMatchObject({ source: other.id, id: 5 });
    expect(t.loop.send(other.id, frame(5, 1))).toBe(true);
    expect(readSome(other.peer, 100).length).toBe(16);
  });

  test('from a quarter of the limit on stops its requests until it reads', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect({ maxQueuedBytes: 400_000 });
    while (t.loop.send(id, frame(1, 1, 16_000)));
    sendMessage(peer, [frame(2, 2)]);
    expect(t.next()).toMatchObject({ id: 2 });
    for (let n = 0; n < 7; n++) t.loop.send(id, frame(1, 1, 16_000));
    sendMessage(peer, [frame(3, 2)]);
    expect(t.drain()).toEqual([]);
    readSome(peer, 300_000);
    expect(t.drain()).toMatchObject([{ id: 3 }]);
  });

  test('above the limit ends the connection with ENOBUFS', async () => {
    expect(
      await leakedFds(5, () => {
        const t = new TestLoop();
        const { id, peer } = t.connect({ maxQueuedBytes: 50_000 });
        const file = memfdCreate('file', { size: 1 });
        sendMessage(peer, [frame(7, 7)]);
        while (t.loop.send(id, frame(1, 1, 8000), [file]));
        const overflow = () => {
          for (;;) t.loop.send(id, frame(1, 1, 8000), [file]);
        };
        expect(overflow).toThrow(
          expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno: 'ENOBUFS', op: 'sendmsg' }),
        );
        // At once: who does not read is not served.
        expect(t.next()).toMatchObject({ kind: LOOP_EVENT.CLOSED, source: id, errno: 105 });
        expect(t.next()).toBeUndefined();
        closeFd(file);
        t.close();
      }),
    ).toBe(0);
  });

  test('is dropped with the socket, descriptors included', async () => {
    expect(
      await leakedFds(5, () => {
        const t = new TestLoop();
        const { id } = t.connect();
        const file = memfdCreate('file', { size: 1 });
        while (t.loop.send(id, frame(1, 1, 60_000), [file]));
        t.loop.send(id, frame(1, 1), [file]);
        closeFd(file);
        t.loop.remove(id);
        t.close();
      }),
    ).toBe(0);
  });
});

describe('a reply', () => {
  test('larger than the socket’s buffer goes in parts and arrives whole', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    setSendBuffer(t.loop.fdOf(id), 8192);
    const bytes = frame(3, 9, 1 << 20, 0x77);
    t.loop.tx.set(bytes);
    t.loop.reply(id, bytes.length);
    expect(t.next()).toBeUndefined();
    // `tx` is free again as soon as the step is done.
    t.loop.tx.fill(0);
    expect(Buffer.compare(readAll(t, peer), bytes)).toBe(0);
    expect(t.loop.stats().queued).toBe(1);
  });

  test('to a peer that has gone is no error of the step; the end of the connection follows', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    t.hangUp(peer);
    t.loop.reply(id, 16);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.CLOSED, source: id });
    expect(() => t.loop.send(id, frame(1, 1))).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
    expect(t.loop.trySendTx(id, 16)).toBe(-32);
  });

  test('is sent once', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    t.loop.tx.set(frame(1, 1));
    t.loop.reply(id, 16);
    for (let n = 0; n < 3; n++) t.next();
    expect(readSome(peer, 100).length).toBe(16);
    expect(t.loop.state[LOOP_SLOT.REPLY_SOCKET]).toBe(-1);
  });

  test('to a socket that was removed, of no length or longer than tx goes nowhere', () => {
    const t = new TestLoop({ maxMessageSize: 4096 });
    const { id, peer } = t.connect();
    for (const length of [0, -1, 4097]) {
      t.loop.reply(id, length);
      t.next();
    }
    t.loop.reply(id, 16, 254);
    t.next();
    expect(readSome(peer, 100).length).toBe(0);
    t.loop.remove(id);
    t.loop.reply(id, 16);
    expect(t.next()).toBeUndefined();
  });
});

test('a connection that is removed with requests unread ends for its peer, who is not sent a reset', () => {
  const t = new TestLoop();
  const { id, peer } = t.connect();
  const eventfd = eventfdCreate();
  const before = openFds().size;
  t.loop.send(id, frame(1, 0));
  for (let request = 0; request < 100; request++) sendMessage(peer, [frame(1, 100)], [eventfd]);
  t.loop.remove(id);
  expect(openFds().size).toBe(before - 1);
  const bytes = new Uint8Array(64);
  const fds = new Int32Array(1);
  expect(recvMessage(peer, bytes, 0, 64, fds)?.bytes).toBe(16);
  expect(recvMessage(peer, bytes, 0, 64, fds)?.bytes).toBe(0);
  expect(() => sendMessage(peer, [frame(1, 0)])).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
  closeFd(eventfd);
});

describe('sending', () => {
  test('a descriptor that is not open fails with EBADF, sends nothing and leaves the connection', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    expect(() => t.loop.send(id, frame(1, 1), [987_654])).toThrow(expect.objectContaining({ errno: 'EBADF' }));
    expect(readSome(peer, 100).length).toBe(0);
    expect(t.loop.send(id, frame(2, 1))).toBe(true);
    expect(readSome(peer, 100)).toEqual(frame(2, 1));
  });

  test('nothing, or more descriptors than a message can have, is refused', () => {
    const t = new TestLoop();
    const { id } = t.connect();
    expect(() => t.loop.send(id, new Uint8Array())).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(() => t.loop.send(id, frame(1, 1), new Array(254).fill(0))).toThrow(
      expect.objectContaining({ errno: 'EINVAL' }),
    );
    expect(t.loop.trySendTx(id, t.loop.tx.length + 1)).toBe(-22);
  });
});
