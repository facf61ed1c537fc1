/** What can go wrong while a device moves: at every message, and in every field of one. */
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { socketpair } from '@vfio/native';
import { VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { isUndecided, type MoveOutOptions } from '../src/index.js';
import { RECORD, RECORD_HEADER } from '../src/move/wire.js';
import { PAGE, pattern, two } from './helpers/moving.js';
import { until } from './helpers/raw-client.js';
import { type PassingRecord, relay } from './helpers/relay.js';
import { openFds, serve } from './helpers/serve.js';
import { migratable, STATE } from './helpers/toy-migration.js';

const FLAGS = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY;
const FORWARD = 'to the destination';
const BACK = 'to the source';

/** Every record of a move, in its order, with its direction. */
type Script = readonly { readonly type: number; readonly isForward: boolean }[];

/** Moves through a relay. Both outcomes, and what went by. */
async function through(
  pass: (record: PassingRecord, isForward: boolean, count: number) => Buffer | undefined,
  options: MoveOutOptions = {},
) {
  const sides = await two(FLAGS, 3);
  const { from, to } = sides;
  from.toy.state = pattern(3000, 7);
  from.toy.precopyBytes = 1000;
  const fds = openFds();
  const [a, relayA] = socketpair();
  const [relayB, b] = socketpair();
  const seen: { type: number; isForward: boolean }[] = [];
  const { cut } = relay(relayA, relayB, (record, isForward) => {
    seen.push({ type: record.type, isForward });
    return pass(record, isForward, seen.length - 1);
  });
  const [out, into] = await Promise.allSettled([
    from.server.moveOut({ fd: a }, { stallMs: 2000, ...options }),
    to.server.moveIn({ fd: b }, { stallMs: 2000 }),
  ]);
  cut();
  // Nothing of the move is open.
  await until(() => openFds() === fds);
  return { ...sides, seen: seen as Script, out, into };
}

const whole = await (async () => {
  const { seen, out, into } = await through(({ bytes }) => bytes);
  expect([out.status, into.status]).toEqual(['fulfilled', 'fulfilled']);
  return seen;
})();

const at = (type: number) => whole.findIndex((record) => record.type === type);

test('a move is what the protocol says', () => {
  const types = whole.map(({ type, isForward }) => (isForward ? type : -type));
  expect(types[0]).toBe(RECORD.HELLO);
  expect(types[1]).toBe(RECORD.RANGES);
  expect(types[2]).toBe(-RECORD.ACCEPT);
  expect(types.slice(-4)).toEqual([RECORD.END, -RECORD.LOADED, RECORD.COMMIT, -RECORD.DONE]);
  for (const type of [RECORD.ROUND, RECORD.STATE, RECORD.MEMORY]) expect(types.slice(3, -4)).toContain(type);
});

describe('where the connection is cut, one device runs and the other does not have its state', () => {
  test.each(whole.map((record, index) => [index, record.type, record.isForward ? FORWARD : BACK] as const))(
    'before record %i, of type %i, %s',
    async (index) => {
      const { from, to, out, into } = await through(({ bytes }, _isForward, count) =>
        count === index ? undefined : bytes,
      );
      expect(out.status).toBe('rejected');
      const reason = (out as PromiseRejectedResult).reason;
      // The destination knows; the source only where it has not committed.
      const isCommitted = index > at(RECORD.COMMIT);
      expect(into.status).toBe(isCommitted ? 'fulfilled' : 'rejected');
      expect(isUndecided(reason)).toBe(index >= at(RECORD.COMMIT));
      expect(to.toy.current).toBe(STATE.RUNNING);
      if (isUndecided(reason)) {
        expect(from.toy.current).toBe(STATE.STOP);
        if (isCommitted) expect(to.toy.state).toEqual(from.toy.state);
        // Whoever has asked the destination lets the source go on.
        else await from.server.takeBack();
      }
      expect(from.toy.current).toBe(isCommitted ? STATE.STOP : STATE.RUNNING);
      expect([from.toy.streams, to.toy.streams]).toEqual([0, 0]);
      if (isCommitted)
        await expect(from.server.moveOut({ fd: socketpair()[0] })).rejects.toMatchObject({ errno: 'EBUSY' });
    },
  );
});

/** Makes other bytes of a record, in place or anew. */
type Change = (bytes: Buffer) => Buffer | undefined;

/** A record with another content, and the checksum that goes with it. */
function remade({ bytes }: PassingRecord, change: Change, isFixed = true): Buffer {
  const copy = Buffer.from(bytes);
  const made = change(copy) ?? copy;
  made.writeUInt32LE(made.length - RECORD_HEADER, 4);
  if (!isFixed) return made;
  const type = made.readUInt16LE(0);
  const isBulk = type === RECORD.STATE || type === RECORD.MEMORY;
  const head = crc32(made.subarray(0, 12));
  made.writeUInt32LE(isBulk || made.length === RECORD_HEADER ? head : crc32(made.subarray(RECORD_HEADER), head), 12);
  return made;
}

/** The bytes were changed where they are. */
const inPlace = (_written: number): undefined => undefined;
const put16 = (value: number, offset: number) => (bytes: Buffer) => inPlace(bytes.writeUInt16LE(value, offset));
const put32 = (value: number, offset: number) => (bytes: Buffer) => inPlace(bytes.writeUInt32LE(value >>> 0, offset));
const put64 = (value: bigint, offset: number) => (bytes: Buffer) =>
  inPlace(bytes.writeBigUInt64LE(value, RECORD_HEADER + offset));
const cutTo = (length: number) => (bytes: Buffer) => bytes.subarray(0, RECORD_HEADER + length);
const grown = (length: number) => (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(length)]);
/** What HELLO and ACCEPT say. Undefined is not said. */
type Said = Readonly<Record<string, unknown>>;
/** Another JSON in a HELLO. */
const said = (change: (value: Said) => unknown) => (bytes: Buffer) => {
  const start = RECORD_HEADER + 16;
  const value = JSON.parse(bytes.toString('utf8', start)) as Said;
  return Buffer.concat([bytes.subarray(0, start), Buffer.from(JSON.stringify(change(value)))]);
};
const hello = (change: Said) => said((value) => ({ ...value, ...change }));
const ofDevice = (change: Said) => said((value) => ({ ...value, device: { ...(value['device'] as Said), ...change } }));
/** Another JSON in an ACCEPT. */
const accept = (change: (device: Said) => unknown) => (bytes: Buffer) => {
  const length = bytes.readUInt32LE(RECORD_HEADER);
  const start = RECORD_HEADER + 4;
  const { device } = JSON.parse(bytes.toString('utf8', start, start + length)) as { device: Said };
  const text = Buffer.from(JSON.stringify({ device: change(device) }));
  const made = Buffer.concat([bytes.subarray(0, start), text, bytes.subarray(start + length)]);
  made.writeUInt32LE(text.length, RECORD_HEADER);
  return made;
};

const FIELDS: readonly (readonly [string, number, Change, RegExp])[] = [
  ['a magic that is another', RECORD.HELLO, put32(0, RECORD_HEADER), /HELLO does not begin/],
  ['a major version that is another', RECORD.HELLO, put16(2, RECORD_HEADER + 8), /version 2\.0, this side speaks 1/],
  ['reserved bytes of HELLO', RECORD.HELLO, put32(1, RECORD_HEADER + 12), /reserved bytes/],
  ['a HELLO that is too short', RECORD.HELLO, cutTo(10), /HELLO does not begin/],
  ['a HELLO without its JSON', RECORD.HELLO, cutTo(16), /no JSON/],
  ['a HELLO whose JSON is a list', RECORD.HELLO, said(() => [1]), /no JSON object/],
  ['a purpose that there is not', RECORD.HELLO, hello({ purpose: 'steal' }), /purpose "steal"/],
  ['a device to be saved', RECORD.HELLO, hello({ purpose: 'save' }), /to be saved/],
  ['more ranges than can be', RECORD.HELLO, hello({ ranges: 65536 }), /ranges is 65536/],
  ['a size of the state below 0', RECORD.HELLO, hello({ stateBytes: -1 }), /stateBytes is -1/],
  ['no device', RECORD.HELLO, hello({ device: undefined }), /what the device is/],
  ['a vendor of 17 bits', RECORD.HELLO, ofDevice({ vendor: 65536 }), /vendor is 65536/],
  ['another vendor', RECORD.HELLO, ofDevice({ vendor: 1 }), /ids 0001:11e8 cannot go to 1234:11e8/],
  ['another subsystem', RECORD.HELLO, ofDevice({ subdevice: 7 }), /subsystem/],
  ['another class', RECORD.HELLO, ofDevice({ class: 7 }), /class 0x7/],
  ['another revision', RECORD.HELLO, ofDevice({ revision: 7 }), /revision 0x7/],
  ['another driver', RECORD.HELLO, ofDevice({ driver: 'other' }), /driver other cannot go to toy/],
  ['no driver', RECORD.HELLO, ofDevice({ driver: undefined }), /name the driver/],
  ['a driver version that is no text', RECORD.HELLO, ofDevice({ driverVersion: 1 }), /version of the driver/],
  ['a host that is no text', RECORD.HELLO, ofDevice({ host: 1 }), /host/],
  [
    'a BAR of another size',
    RECORD.HELLO,
    ofDevice({ regions: [4096, 0, 0, 0, 0, 0, 0, 256, 0] }),
    /region 0 of 0x1000/,
  ],
  ['too few regions', RECORD.HELLO, ofDevice({ regions: [1, 2] }), /regions are needed/],
  ['a source that cannot be migrated', RECORD.HELLO, ofDevice({ migrationFlags: 0 }), /the source cannot/],
  ['a range of no bytes', RECORD.RANGES, put64(0n, 8), /no part of 64-bit/],
  ['a range that wraps', RECORD.RANGES, put64(0xfffffffffffff000n, 8), /no part of 64-bit/],
  ['a range that is not mapped', RECORD.RANGES, put64(0x50000000n, 0), /not mapped at the destination/],
  ['flags of a range that there are not', RECORD.RANGES, put32(8, RECORD_HEADER + 16), /has flags/],
  ['a range that may be used for nothing', RECORD.RANGES, put32(0, RECORD_HEADER + 16), /has flags/],
  ['reserved bytes of a range', RECORD.RANGES, put32(1, RECORD_HEADER + 20), /has flags/],
  ['a part of a range', RECORD.RANGES, cutTo(40), /48 for each/],
  ['no range', RECORD.RANGES, cutTo(0), /48 for each/],
  [
    'a range twice',
    RECORD.RANGES,
    (bytes) => Buffer.concat([bytes, bytes.subarray(RECORD_HEADER)]),
    /overlaps the one before/,
  ],
  ['a round of too few bytes', RECORD.ROUND, cutTo(8), /ROUND has 8 bytes/],
  ['a round in a state that there is not', RECORD.ROUND, put32(8, RECORD_HEADER + 4), /state 8/],
  ['a rest beyond all numbers', RECORD.ROUND, put64(1n << 60n, 8), /bytes remain/],
  ['state without a byte', RECORD.STATE, cutTo(0), /STATE without a byte/],
  ['memory without a byte', RECORD.MEMORY, cutTo(8), /MEMORY without a byte/],
  ['memory without an address', RECORD.MEMORY, cutTo(4), /MEMORY without a byte/],
  ['memory that was not agreed on', RECORD.MEMORY, put64(0x900000n, 0), /not within a range/],
  ['memory over the end of a range', RECORD.MEMORY, put64(0x11000n, 0), /not within a range/],
  ['an end that counts more state', RECORD.END, put64(3001n, 0), /END counts 3001 bytes of state/],
  ['an end that counts less memory', RECORD.END, put64(1n, 8), /and 1 of memory/],
  ['an end of too few bytes', RECORD.END, cutTo(8), /END has 8 bytes/],
  ['a record that there is not', RECORD.ROUND, put16(12, 0), /type 12/],
  ['a record of type 0', RECORD.ROUND, put16(0, 0), /type 0/],
  ['a record that belongs elsewhere', RECORD.ROUND, put16(RECORD.COMMIT, 0), /COMMIT where the state should come/],
  ['flags of a record', RECORD.STATE, put16(1, 2), /has flags 0x1/],
  ['a record that is missing', RECORD.STATE, put32(99, 8), /one is missing or came twice/],
];

const BACK_FIELDS: readonly (readonly [string, number, Change, RegExp])[] = [
  ['an ACCEPT of too few bytes', RECORD.ACCEPT, cutTo(2), /ACCEPT has 2 bytes/],
  ['an ACCEPT for another number of ranges', RECORD.ACCEPT, grown(1), /need another number/],
  [
    'a fate that there is not',
    RECORD.ACCEPT,
    (bytes) => inPlace(bytes.writeUInt8(3, bytes.length - 1)),
    /something unknown of a range/,
  ],
  [
    'another device',
    RECORD.ACCEPT,
    accept((device) => ({ ...device, device: 1 })),
    /ids 1234:11e8 cannot go to 1234:0001/,
  ],
  ['no device in ACCEPT', RECORD.ACCEPT, accept(() => undefined), /ACCEPT does not say/],
  ['a LOADED that counts otherwise', RECORD.LOADED, put64(1n, 0), /LOADED counts 1 bytes/],
  ['a LOADED that comes as DONE', RECORD.LOADED, put16(RECORD.DONE, 0), /DONE for LOADED/],
  ['an answer that is missing', RECORD.LOADED, put32(7, 8), /came twice/],
  [
    'a LOADED beyond all numbers',
    RECORD.LOADED,
    (bytes) => inPlace(bytes.writeUInt8(1, RECORD_HEADER + 15)),
    /LOADED counts/,
  ],
];

/** Changes the first record of a type. */
const changing = (type: number, change: Change, isFixed = true) => {
  let isDone = false;
  return (record: PassingRecord): Buffer => {
    if (record.type !== type || isDone) return record.bytes;
    isDone = true;
    return remade(record, change, isFixed);
  };
};

test.each(FIELDS)('%s is refused by the destination: the source runs on, the destination is reset', async (...row) => {
  const [, type, change, sentence] = row;
  const { from, to, out, into } = await through(changing(type, change));
  expect(into).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(sentence) } });
  // The other side is told why.
  expect(out).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VFIO_REMOTE' } });
  expect((out as PromiseRejectedResult).reason.message).toMatch(sentence);
  expect([from.toy.current, to.toy.current]).toEqual([STATE.RUNNING, STATE.RUNNING]);
  expect([from.toy.streams, to.toy.streams]).toEqual([0, 0]);
});

test.each(BACK_FIELDS)('%s is refused by the source: it runs on, the destination is reset', async (...row) => {
  const [, type, change, sentence] = row;
  const { from, to, out, into } = await through(changing(type, change));
  expect(out).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(sentence) } });
  expect(into.status).toBe('rejected');
  expect([from.toy.current, to.toy.current]).toEqual([STATE.RUNNING, STATE.RUNNING]);
});

test('ranges that nobody announced are refused', async () => {
  const { from, to, out, into } = await through(changing(RECORD.HELLO, hello({ ranges: 0 })));
  expect([out.status, into.status]).toEqual(['rejected', 'rejected']);
  expect([from.toy.current, to.toy.current]).toEqual([STATE.RUNNING, STATE.RUNNING]);
});

test('a changed byte of any record but those of state and memory is found by its checksum', async () => {
  for (const type of [RECORD.HELLO, RECORD.RANGES, RECORD.ROUND, RECORD.END]) {
    const flip = (bytes: Buffer) => inPlace(bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1));
    const { into } = await through(changing(type, flip, false));
    expect(into).toMatchObject({
      reason: { message: expect.stringMatching(/its checksum is wrong/), errno: 'EPROTO' },
    });
  }
});

test('a record longer than any can be is refused before it is received', async () => {
  const { into, from } = await through((record) => {
    if (record.type === RECORD.STATE) record.bytes.writeUInt32LE(0x7fffffff, 4);
    return record.bytes;
  });
  expect(into).toMatchObject({ reason: { message: expect.stringMatching(/announces 2147483647 bytes/) } });
  expect(from.toy.current).toBe(STATE.RUNNING);
});

test('a side that falls silent is given up', async () => {
  for (const silent of [RECORD.ACCEPT, RECORD.LOADED, RECORD.END]) {
    const { from, to, out } = await through(({ type, bytes }) => (type === silent ? Buffer.alloc(0) : bytes), {
      stallMs: 300,
    });
    expect(out.status).toBe('rejected');
    expect([from.toy.current, to.toy.current]).toEqual([STATE.RUNNING, STATE.RUNNING]);
  }
});

test('a destination that cannot start its device says so after COMMIT, and the source goes on', async () => {
  const sides = await two();
  const { from, to, move } = sides;
  const arc = to.toy.ops.setState;
  to.toy.ops.setState = (dev, next) => {
    if (to.toy.current === STATE.STOP && next === STATE.RUNNING && to.toy.arcs.includes('4>1'))
      throw new Error('it does not start');
    return arc(dev, next);
  };
  const [out] = await move();
  expect(out).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(/it does not start/) } });
  expect(isUndecided((out as PromiseRejectedResult).reason)).toBe(false);
  expect(from.toy.current).toBe(STATE.RUNNING);
});

test('a source whose device is slow to stop for good says that it is there, also after END', async () => {
  const { from, to, move } = await two();
  const arc = from.toy.ops.setState;
  from.toy.ops.setState = async (dev, next) => {
    // Longer than it is silent.
    if (from.toy.current === STATE.STOP_COPY && next === STATE.STOP) await delay(1300);
    return arc(dev, next);
  };
  const [out, into] = await move();
  expect([out.status, into.status]).toEqual(['fulfilled', 'fulfilled']);
  expect([from.toy.current, to.toy.current]).toEqual([STATE.STOP, STATE.RUNNING]);
});

test('a driver that refuses the state says so to both', async () => {
  const { from, to, move } = await two();
  const arc = to.toy.ops.setState;
  to.toy.ops.setState = (dev, next) => {
    if (to.toy.current === STATE.RESUMING && next === STATE.STOP) throw new Error('that is no state');
    return arc(dev, next);
  };
  const [out, into] = await move();
  for (const one of [out, into]) {
    expect(one).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(/that is no state/) } });
  }
  expect(from.toy.current).toBe(STATE.RUNNING);
});

test('a client that changes what it maps ends the move', async () => {
  const { from, move } = await two(FLAGS, 512);
  const [out] = await move({
    bandwidth: 2 << 20,
    maxDowntimeMs: 0,
    onProgress: ({ memoryBytes }) => {
      if (memoryBytes > 0) void from.client.dmaUnmap(0x10000n, BigInt(512 * PAGE)).catch(() => {});
    },
  });
  expect(out).toMatchObject({
    status: 'rejected',
    reason: { message: expect.stringMatching(/changed what it maps|mapped at/) },
  });
  expect(from.toy.current).toBe(STATE.RUNNING);
});

test('a signal ends a move that waits for the other side, at once', async () => {
  const { from } = await two();
  const [a] = socketpair();
  const stop = new AbortController();
  const moving = from.server.moveOut({ fd: a }, { signal: stop.signal });
  setTimeout(() => stop.abort(), 20);
  await expect(moving).rejects.toMatchObject({ errno: 'ECANCELED' });
  expect(from.toy.current).toBe(STATE.RUNNING);
});

test('a device that cannot be migrated is refused with the driver’s reason', async () => {
  const { device } = await migratable(VFIO_MIGRATION_STOP_COPY);
  device.migrationOps = undefined;
  device.whyNotMigratable = 'the firmware has no such capability';
  const { from } = await two();
  const plain = await serve(device);
  await plain.connect();
  const [a, b] = socketpair();
  const [out, into] = await Promise.allSettled([from.server.moveOut({ fd: a }), plain.server.moveIn({ fd: b })]);
  expect(into).toMatchObject({ reason: { errno: 'ENOTTY', message: expect.stringMatching(/firmware has no such/) } });
  expect(out).toMatchObject({ reason: { message: expect.stringMatching(/firmware has no such/) } });
});

test('while a device moves nobody else moves it, and its server says so', async () => {
  const { from, to } = await two();
  const [a, b] = socketpair();
  const [c, d] = socketpair();
  const [first, second] = await Promise.allSettled([
    Promise.all([from.server.moveOut({ fd: a }), to.server.moveIn({ fd: b })]),
    from.server.moveOut({ fd: c }),
    to.server.moveIn({ fd: d }),
  ]);
  expect(first.status).toBe('fulfilled');
  expect(second).toMatchObject({ reason: { code: 'ERR_VFIO_BUSY' } });
});
