import {
  closeFd,
  isFdOpen,
  LOOP_EVENT,
  memfdCreate,
  recvMessage,
  sendMessage,
  shutdownSocket,
  statFd,
} from '@vfio/native';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { leakedFds } from './helpers/fds.js';
import { announce, concat, frame } from './helpers/frames.js';
import { TestLoop } from './helpers/test-loop.js';

const FILES = Array.from({ length: 5 }, (_, n) => memfdCreate(`file${n}`, { size: 1 }));
const INODES = FILES.map((fd) => statFd(fd).ino);
afterAll(() => FILES.forEach(closeFd));

/** Which of FILES the received descriptors are; closes them. */
function which(fds: readonly number[]): number[] {
  return fds.map((fd) => {
    const { ino } = statFd(fd);
    closeFd(fd);
    return INODES.indexOf(ino);
  });
}

/** Bytes that may wait in a socket with its default buffer, small sends included. */
const UNREAD_BYTES = 64 * 1024;
const UNREAD_SENDS = 64;

interface Plan {
  readonly body: number;
  readonly files: readonly number[];
}

const message: fc.Arbitrary<Plan> = fc.record({
  body: fc.oneof(
    { weight: 6, arbitrary: fc.nat(64) },
    { weight: 2, arbitrary: fc.nat(5000) },
    { weight: 1, arbitrary: fc.integer({ min: 30_000, max: 48_000 }) },
  ),
  files: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fc.nat(FILES.length - 1), { minLength: 1, maxLength: 4 }) },
  ),
});

describe('messages', () => {
  test('come whole, in order and with their own descriptors, however the stream is cut and read', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect({ maxFds: 4 });
    fc.assert(
      fc.property(
        fc.array(message, { minLength: 1, maxLength: 12 }),
        fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 20_000 })), { maxLength: 30 }),
        fc.array(fc.boolean(), { maxLength: 60 }),
        (plans, cuts, reads) => {
          const frames = plans.map(({ body }, n) => frame(n + 1, 9, body, n * 37));
          const stream = concat(frames);
          // A sender starts a message with descriptors in a send of its own, and nothing follows in the same send.
          const boundaries = new Set([stream.length]);
          const starts = new Map<number, readonly number[]>();
          let at = 0;
          for (const [n, { files }] of plans.entries()) {
            const length = (frames[n] as Uint8Array).length;
            if (files.length > 0) {
              starts.set(at, files);
              boundaries.add(at).add(at + length);
            }
            at += length;
          }
          for (let cut = 0, n = 0; n < cuts.length; n++) {
            cut += cuts[n] as number;
            if (cut < stream.length) boundaries.add(cut);
          }
          const got: { bytes: Uint8Array; files: number[]; source: number; kind: number }[] = [];
          const read = () => {
            for (const seen of t.drain()) got.push({ ...seen, files: which(seen.fds) });
          };
          let [from, unreadBytes, unreadSends] = [0, 0, 0];
          for (const [n, to] of [...boundaries].sort((a, b) => a - b).entries()) {
            if (to === 0) continue;
            const files = starts.get(from) ?? [];
            expect(
              sendMessage(
                peer,
                [stream.subarray(from, to)],
                files.map((file) => FILES[file] as number),
              ),
            ).toBe(to - from);
            unreadBytes += to - from;
            unreadSends++;
            from = to;
            if (reads[n] === true || unreadBytes > UNREAD_BYTES || unreadSends > UNREAD_SENDS) {
              read();
              [unreadBytes, unreadSends] = [0, 0];
            }
          }
          read();
          expect(got.length).toBe(plans.length);
          for (const [n, { bytes, files, source, kind }] of got.entries()) {
            expect([kind, source]).toEqual([LOOP_EVENT.MESSAGE, id]);
            // A comparison of typed arrays by expect is slow.
            expect(Buffer.compare(bytes, frames[n] as Uint8Array)).toBe(0);
            expect(files).toEqual(plans[n]?.files);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test('tell their header', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    const bytes = frame(0xfffe, 0x8001, 3, 0xab);
    new DataView(bytes.buffer).setUint32(8, 0x8000_0031, true);
    new DataView(bytes.buffer).setUint32(12, 71, true);
    sendMessage(peer, [bytes]);
    expect(t.next()).toMatchObject({
      kind: LOOP_EVENT.MESSAGE,
      source: id,
      id: 0xfffe,
      command: 0x8001,
      flags: 0x8000_0031 | 0,
      errno: 71,
      length: 19,
      bytes,
      truncated: false,
    });
    expect(t.next()).toBeUndefined();
  });

  test('of the largest size come whole, one after the other', () => {
    const t = new TestLoop({ maxMessageSize: 100_000 });
    const { peer } = t.connect();
    for (let n = 0; n < 5; n++) {
      const bytes = frame(n, 10, 100_000 - 16, n);
      sendMessage(peer, [bytes]);
      expect(Buffer.compare(t.next()?.bytes as Uint8Array, bytes)).toBe(0);
    }
  });

  test('of several sockets are never mixed', () => {
    const t = new TestLoop();
    const ends = Array.from({ length: 20 }, () => t.connect());
    for (const cut of [7, 20, 21]) {
      for (const [n, { peer }] of ends.entries()) sendMessage(peer, [frame(n, n, 5, n).subarray(0, cut)]);
      expect(t.drain().filter(({ kind }) => kind === LOOP_EVENT.MESSAGE).length).toBe(cut >= 21 ? 20 : 0);
      for (const [n, { peer }] of ends.entries()) sendMessage(peer, [frame(n, n, 5, n).subarray(cut)]);
      const seen = t.drain();
      for (const { id, source, bytes } of seen) {
        expect(source).toBe(ends[id]?.id);
        expect(bytes).toEqual(frame(id, id, 5, id));
      }
      expect(seen.length).toBe(cut >= 21 ? 0 : 20);
    }
  });
});

describe('descriptors', () => {
  test('of a batch go to the message that they were sent with, as the kernel cuts its reads', () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    const sends: [string, number[]][] = [
      ['A', []],
      ['B', []],
      ['C', [0]],
      ['D', []],
      ['E', [1, 2]],
      ['F', [3]],
      ['G', []],
    ];
    for (const [name, files] of sends) {
      sendMessage(
        peer,
        [frame(name.charCodeAt(0), 1)],
        files.map((file) => FILES[file] as number),
      );
    }
    expect(t.drain().map(({ id, fds }) => [String.fromCharCode(id), which(fds)])).toEqual(sends);
  });

  test('go to the last message that starts in their send', () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    sendMessage(peer, [frame(1, 1, 4), frame(2, 1, 4), frame(3, 1, 4)], [FILES[0] as number]);
    expect(t.drain().map(({ id, fds }) => [id, which(fds)])).toEqual([
      [1, []],
      [2, []],
      [3, [0]],
    ]);
  });

  test('come together where a message brings them in several sends', () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    const bytes = frame(1, 1, 30);
    for (const [file, [from, to]] of [
      [0, 5],
      [5, 17],
      [17, 46],
    ].entries()) {
      sendMessage(peer, [bytes.subarray(from, to)], [FILES[file] as number]);
      if (file < 2) expect(t.next()).toBeUndefined();
    }
    expect(which(t.next()?.fds as number[])).toEqual([0, 1, 2]);
  });

  test('that are not taken are closed by the next step, taken ones are not', async () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    expect(
      await leakedFds(20, () => {
        sendMessage(peer, [frame(1, 1)], FILES);
        t.next(0, false);
        const taken = t.loop.takeFd(2);
        expect(() => t.loop.takeFd(2)).toThrow(
          expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EBADF' }),
        );
        expect(() => t.loop.takeFd(FILES.length)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
        expect(() => t.loop.takeFd(-1)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
        expect(t.next()).toBeUndefined();
        expect(() => t.loop.takeFd(0)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
        expect(which([taken])).toEqual([2]);
      }),
    ).toBe(0);
  });

  test('above the number that a socket allows are all closed, and the message says so', async () => {
    const t = new TestLoop();
    const { peer } = t.connect({ maxFds: 2 });
    expect(
      await leakedFds(20, () => {
        sendMessage(peer, [frame(1, 1)], FILES.slice(0, 3));
        sendMessage(peer, [frame(2, 1)], FILES.slice(0, 2));
        const [first, second] = t.drain();
        expect([first?.id, first?.truncated, first?.fds]).toEqual([1, true, []]);
        expect([second?.id, second?.truncated, which(second?.fds ?? [])]).toEqual([2, false, [0, 1]]);
      }),
    ).toBe(0);
  });

  test('up to 253 come with one message, and not one more over several sends', async () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    const many = Array.from({ length: 253 }, () => FILES[0] as number);
    expect(
      await leakedFds(3, () => {
        sendMessage(peer, [frame(1, 1)], many);
        expect(which(t.next()?.fds as number[]).length).toBe(253);
        sendMessage(peer, [frame(2, 1).subarray(0, 8)], many);
        sendMessage(peer, [frame(2, 1).subarray(8)], many.slice(0, 1));
        expect(t.next()).toMatchObject({ id: 2, truncated: true, fds: [] });
      }),
    ).toBe(0);
  });

  test('of a message that never comes whole are closed with the connection', async () => {
    const t = new TestLoop();
    expect(
      await leakedFds(10, () => {
        const { id, peer } = t.connect();
        sendMessage(peer, [frame(1, 1)], [FILES[0] as number]);
        sendMessage(peer, [frame(2, 1).subarray(0, 10)], FILES);
        expect(which(t.next()?.fds as number[])).toEqual([0]);
        t.hangUp(peer);
        expect(t.next()).toMatchObject({ kind: LOOP_EVENT.CLOSED, length: 10, fds: [] });
        t.loop.remove(id);
      }),
    ).toBe(0);
  });

  test('that were received and not delivered are closed when the socket is removed or the loop closed', async () => {
    expect(
      await leakedFds(10, () => {
        const t = new TestLoop();
        for (const end of ['remove', 'close']) {
          const { id, peer } = t.connect();
          sendMessage(peer, [frame(1, 1).subarray(0, 10)], FILES);
          expect(t.next()).toBeUndefined();
          sendMessage(peer, [frame(1, 1).subarray(10), frame(2, 2)], FILES);
          t.next(0, false);
          if (end === 'remove') t.loop.remove(id);
        }
        t.close();
      }),
    ).toBe(0);
  });

  test('for a reply stay the sender’s', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    const received = new Int32Array(4);
    const receive = () => {
      const { fdCount } = recvMessage(peer, new Uint8Array(64), 0, 64, received) as { fdCount: number };
      return which([...received.subarray(0, fdCount)]);
    };
    t.loop.replyFds.set([FILES[3] as number, FILES[1] as number, FILES[0] as number]);
    t.loop.tx.set(frame(9, 4));
    t.loop.reply(id, 16, 2);
    t.next();
    expect(receive()).toEqual([3, 1]);
    t.loop.send(id, frame(10, 4), [FILES[2] as number]);
    expect(receive()).toEqual([2]);
    for (const fd of FILES) expect(isFdOpen(fd)).toBe(true);
  });
});

describe('a bad size', () => {
  test.each([0, 1, 15, 100_001, 0x7fff_ffff, 0xffff_ffff])(
    'of %i ends the stream and keeps what came before',
    (size) => {
      const t = new TestLoop({ maxMessageSize: 100_000 });
      const { id, peer } = t.connect();
      sendMessage(peer, [frame(1, 1, 3), announce(frame(7, 9, 8), size), frame(3, 1)]);
      expect(t.next()).toMatchObject({ kind: LOOP_EVENT.MESSAGE, id: 1 });
      expect(t.next()).toMatchObject({ kind: LOOP_EVENT.BAD_SIZE, source: id, id: 7, command: 9, length: size | 0 });
      sendMessage(peer, [frame(4, 1)]);
      expect(t.next()).toBeUndefined();
      // An error reply can still be sent.
      t.loop.tx.set(frame(7, 9));
      t.loop.reply(id, 16);
      expect(t.next()).toBeUndefined();
      t.loop.remove(id);
    },
  );

  test('is that of the socket where it allows less than the loop', () => {
    const t = new TestLoop();
    const { peer } = t.connect({ maxMessageSize: 64 });
    sendMessage(peer, [frame(1, 1, 48), frame(2, 1, 49)]);
    expect(t.drain().map(({ kind }) => kind)).toEqual([LOOP_EVENT.MESSAGE, LOOP_EVENT.BAD_SIZE]);
  });

  test('is seen as soon as the header is there', () => {
    const t = new TestLoop();
    const { peer } = t.connect();
    const bad = announce(frame(1, 1), 3);
    sendMessage(peer, [bad.subarray(0, 15)]);
    expect(t.next()).toBeUndefined();
    sendMessage(peer, [bad.subarray(15)]);
    expect(t.next()?.kind).toBe(LOOP_EVENT.BAD_SIZE);
  });
});

describe('a peer that leaves', () => {
  test('is heard to its last whole message', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    sendMessage(peer, [frame(1, 1), frame(2, 1), frame(3, 1).subarray(0, 12)]);
    t.hangUp(peer);
    expect(
      t.drain().map(({ kind, id: message, source, errno, length }) => [kind, message, source, errno, length]),
    ).toEqual([
      [LOOP_EVENT.MESSAGE, 1, id, 0, 16],
      [LOOP_EVENT.MESSAGE, 2, id, 0, 16],
      [LOOP_EVENT.CLOSED, 2, id, 0, 12],
    ]);
  });

  test('is heard to its last whole message although it does not take the reply to the first', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    // More than one read takes.
    for (let n = 1; n <= 40; n++) sendMessage(peer, [frame(n, 1, 4000)]);
    t.hangUp(peer);
    let count = 0;
    for (let seen = t.next(); seen?.kind === LOOP_EVENT.MESSAGE; seen = t.next()) {
      expect(seen.id).toBe(++count);
      t.loop.reply(id, 16);
    }
    expect(count).toBe(40);
    expect(t.loop.state[0]).toBe(LOOP_EVENT.CLOSED);
    expect(t.next()).toBeUndefined();
  });

  test('is heard to its last message where it leaves replies unread', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    sendMessage(peer, [frame(1, 1)]);
    t.next();
    t.loop.reply(id, 16);
    expect(t.next()).toBeUndefined();
    sendMessage(peer, [frame(2, 1)]);
    t.hangUp(peer);
    expect(t.drain().map(({ kind }) => kind)).toEqual([LOOP_EVENT.MESSAGE, LOOP_EVENT.CLOSED]);
  });

  test('is also seen where it only ends its sending; replies still reach it', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    sendMessage(peer, [frame(1, 1)]);
    shutdownSocket(peer, 1);
    expect(t.next()?.kind).toBe(LOOP_EVENT.MESSAGE);
    expect(t.loop.send(id, frame(1, 1))).toBe(true);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.CLOSED, errno: 0 });
    expect(t.loop.send(id, frame(2, 1))).toBe(true);
  });

  test('is silent until it is removed, then its id means nothing', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    t.hangUp(peer);
    expect(t.drain().map(({ kind }) => kind)).toEqual([LOOP_EVENT.CLOSED]);
    t.loop.resume(id);
    expect(t.next()).toBeUndefined();
    t.loop.remove(id);
    for (const use of [
      () => t.loop.remove(id),
      () => t.loop.pause(id),
      () => t.loop.resume(id),
      () => t.loop.fdOf(id),
      () => t.loop.send(id, frame(1, 1)),
    ]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno: 'ENOENT' }));
    }
    const next = t.connect();
    expect(next.id).not.toBe(id);
    expect(t.socket(id).rx.length).toBe(0);
  });
});
