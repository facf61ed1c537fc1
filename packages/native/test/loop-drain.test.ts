import {
  closeFd,
  isSameFile,
  LOOP_EVENT,
  LOOP_SLOT,
  memfdCreate,
  recvMessage,
  sendMessage,
  setNonBlocking,
} from '@vfio/native';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { concat, frame } from './helpers/frames.js';
import { type Seen, TestLoop } from './helpers/test-loop.js';

const FILES = [memfdCreate('a', { size: 1 }), memfdCreate('b', { size: 1 })];
afterAll(() => FILES.forEach(closeFd));

/** Which of {@link FILES} these descriptors are; closes them. */
const which = (fds: readonly number[]): number[] =>
  fds.map((fd) => {
    const file = FILES.findIndex((known) => isSameFile(known, fd));
    closeFd(fd);
    return file;
  });

/** Everything that comes up to the border. */
function drain(t: TestLoop, id: number): Seen[] {
  t.loop.drain(id);
  const seen: Seen[] = [];
  for (let event = t.next(); event !== undefined; event = t.next()) {
    if (event.kind === LOOP_EVENT.DRAINED) {
      expect(event.source).toBe(id);
      return seen;
    }
    seen.push(event);
  }
  throw new Error('no border was reached');
}

describe('a socket that is drained', () => {
  test('stops at once where nothing has begun, and takes nothing that comes later', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    expect(drain(t, id)).toEqual([]);
    sendMessage(peer, [frame(1, 2)]);
    expect(t.next()).toBeUndefined();
    t.loop.drain(id, false);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.MESSAGE, id: 1 });
  });

  test('waits for the rest of a message that has begun, and for nothing behind it', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    const first = frame(1, 9, 100);
    sendMessage(peer, [first.subarray(0, 7)]);
    expect(t.next()).toBeUndefined();
    t.loop.drain(id);
    expect(t.next()).toBeUndefined();
    sendMessage(peer, [first.subarray(7), frame(2, 9, 5)]);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.MESSAGE, id: 1, length: 116 });
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.DRAINED });
    expect(t.next()).toBeUndefined();
    const fd = t.loop.fdOf(id);
    t.loop.remove(id, true);
    const other = new TestLoop();
    other.loop.addSocket(fd);
    expect(other.loop.step()).toBe(LOOP_EVENT.MESSAGE);
    expect(other.loop.state[LOOP_SLOT.ID]).toBe(2);
  });

  test('sends first what waits for the peer', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    setNonBlocking(peer, true);
    const big = frame(3, 1, 1 << 20);
    expect(t.loop.send(id, big)).toBe(false);
    t.loop.drain(id);
    expect(t.next()).toBeUndefined();
    const buffer = new Uint8Array(1 << 16);
    const receive = () => recvMessage(peer, buffer, 0, buffer.length, new Int32Array(1))?.bytes ?? 0;
    let [left, event] = [big.length, t.next()];
    for (; event === undefined; event = t.next()) {
      expect(left).toBeGreaterThan(0);
      left -= receive();
    }
    expect(event.kind).toBe(LOOP_EVENT.DRAINED);
    // The rest is with the kernel.
    for (let got = receive(); got > 0; got = receive()) left -= got;
    expect(left).toBe(0);
  });

  test('does not tell that its peer has gone before it is read again', () => {
    const t = new TestLoop();
    const { id, peer } = t.connect();
    expect(drain(t, id)).toEqual([]);
    sendMessage(peer, [frame(7, 1)]);
    t.hangUp(peer);
    expect(t.next()).toBeUndefined();
    t.loop.drain(id, false);
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.MESSAGE, id: 7 });
    expect(t.next()).toMatchObject({ kind: LOOP_EVENT.CLOSED, errno: 0 });
  });

  test('of an unknown id is ENOENT', () => {
    const t = new TestLoop();
    expect(() => t.loop.drain(12345)).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
  });

  test('goes from loop to loop without losing, doubling or reordering a byte or a descriptor', () => {
    const message = fc.record({
      body: fc.integer({ min: 0, max: 300 }),
      files: fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 2 }),
    });
    fc.assert(
      fc.property(
        fc.array(message, { minLength: 1, maxLength: 12 }),
        // Where each send ends, and whether the socket moves on after it.
        fc.array(fc.record({ length: fc.integer({ min: 1, max: 400 }), moves: fc.boolean() }), { maxLength: 40 }),
        (plans, sends) => {
          const loops = [new TestLoop(), new TestLoop()] as const;
          const { id: firstId, peer } = loops[0].connect();
          let [at, id] = [0, firstId];
          const got: { bytes: Uint8Array; files: number[] }[] = [];
          const take = (events: readonly Seen[]) => {
            for (const { kind, bytes, fds } of events) {
              expect(kind).toBe(LOOP_EVENT.MESSAGE);
              got.push({ bytes, files: which(fds) });
            }
          };
          const move = () => {
            take(drain(loops[at] as TestLoop, id));
            const { loop } = loops[at] as TestLoop;
            const fd = loop.fdOf(id);
            loop.remove(id, true);
            at = 1 - at;
            id = (loops[at] as TestLoop).adopt(fd);
          };
          const frames = plans.map(({ body }, n) => frame(n + 1, 9, body, n * 37));
          const stream = concat(frames);
          const starts = new Map<number, readonly number[]>();
          let offset = 0;
          for (const [n, { files }] of plans.entries()) {
            starts.set(offset, files);
            offset += (frames[n] as Uint8Array).length;
          }
          const borders = [...starts.keys(), stream.length];
          // A message with descriptors starts in a send of its own, and nothing follows in the same send.
          const cuts = borders.filter((border, n) =>
            [starts.get(border), starts.get(borders[n - 1] ?? -1)].some((files) => (files?.length ?? 0) > 0),
          );
          let from = 0;
          for (const { length, moves } of [...sends, { length: stream.length, moves: true }]) {
            for (let rest = Math.min(length, stream.length - from); rest > 0; ) {
              const next = cuts.find((cut) => cut > from) ?? stream.length;
              const to = Math.min(from + rest, next);
              const files = (starts.get(from) ?? []).map((file) => FILES[file] as number);
              sendMessage(peer, [stream.subarray(from, to)], files);
              rest -= to - from;
              from = to;
            }
            if (moves && borders.includes(from)) move();
            else if (moves) {
              // In the middle of a message: the border is reached once the peer has sent the rest.
              const loop = loops[at] as TestLoop;
              take(loop.drain());
              const end = borders.find((border) => border > from) as number;
              loop.loop.drain(id);
              sendMessage(peer, [stream.subarray(from, end)]);
              from = end;
              move();
            }
          }
          take((loops[at] as TestLoop).drain());
          expect(got.map(({ bytes }) => bytes.length)).toEqual(frames.map(({ length }) => length));
          expect(Buffer.compare(concat(got.map(({ bytes }) => bytes)), stream)).toBe(0);
          expect(got.map(({ files }) => files)).toEqual(plans.map(({ files }) => files));
          for (const loop of loops) loop.close();
        },
      ),
      { numRuns: 100 },
    );
  });
});
