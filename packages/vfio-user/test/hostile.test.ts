/** A client that means harm, or is broken: it gets an error or is left, and nothing else happens. */
import { openSync, readFileSync } from 'node:fs';
import { EDU } from '@vfio/emulated';
import { closeFd, eventfdCreate, memfdCreate, recvMessage, shutdownSocket, socketpair } from '@vfio/native';
import { errnoError, isVfioError } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, message, RawClient, turn, u16, u32, u64 } from './helpers/raw-client.js';
import { cleanup, openFds, serve } from './helpers/serve.js';

/** More runs for a night: VFIO_FUZZ_RUNS=100000. */
const RUNS = Number(process.env['VFIO_FUZZ_RUNS'] ?? 120);

const pick = <T>(...values: T[]) => fc.constantFrom(...values);
const word = fc.oneof(
  pick(0, 1, 2, 3, 4, 7, 8, 15, 16, 20, 24, 32, 0x1000, 0x10000, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff),
  fc.nat(64),
  fc.integer({ min: 0, max: 0xffffffff }),
);
const quad = fc.oneof(
  pick(0n, 0x1000n, 0x10000n, 0x20000n, 0x100000n, 1n << 32n, 1n << 53n, (1n << 64n) - 4096n, (1n << 64n) - 1n),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const page = pick(0x10000, 0x11000, 0x20000, 0x100000);
const noise = fc.uint8Array({ maxLength: 40 });

/** What a client says that is in order, more or less. */
const payloads: Record<number, fc.Arbitrary<Uint8Array>> = {
  1: pick('{}', '{"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true}}}', '[', '').map((json) =>
    bytes(u16(0, 2), json, [0]),
  ),
  2: fc
    .tuple(pick(1, 2, 3, 7, 11, 0), pick(0, 0x1000), page, pick(0x1000, 0x2000, 0x10000))
    .map(([flags, offset, iova, size]) => bytes(u32(32, flags), u64(offset, iova, size))),
  3: fc
    .tuple(pick(0, 0, 1, 2), page, pick(0x1000, 0x2000, 0x10000, 0))
    .map(([flags, iova, size]) => bytes(u32(64, flags), u64(flags === 2 ? 0 : iova, size), u64(4096, 8))),
  4: pick(u32(16, 0, 0, 0)),
  5: fc.tuple(pick(32, 64, 4096), fc.nat(9)).map(([argsz, index]) => bytes(u32(argsz, 0, index, 0), u64(0, 0))),
  6: fc.nat(9).map((index) => u32(64, 0, index, 0)),
  7: fc.nat(5).map((index) => u32(16, 0, index, 0)),
  8: fc
    .tuple(pick(0x21, 0x22, 0x24, 0x24, 0x09, 0x11, 0x14), fc.nat(4), fc.nat(2), fc.nat(3))
    .map(([flags, index, start, count]) =>
      bytes(u32(20, flags, index, start, count), new Uint8Array((flags & 2) !== 0 ? count : 0).fill(1)),
    ),
  9: fc
    .tuple(pick(0, EDU.DMA_COMMAND, 0x40, 0xff, 0xfffff), pick(0, 0, 7, 6, 2), pick(0, 1, 3, 4, 8, 256))
    .map(([offset, region, count]) => bytes(u64(offset), u32(region, count))),
  10: fc
    .tuple(
      pick(4, 0x10, 0x3c, EDU.LIVENESS, EDU.FACTORIAL, EDU.INTERRUPT_RAISE, EDU.DMA_SOURCE, EDU.DMA_COMMAND),
      pick(0, 0, 7),
      fc.uint8Array({ maxLength: 9 }),
    )
    .map(([offset, region, data]) => bytes(u64(offset), u32(region, data.length), data)),
  13: pick(new Uint8Array(0)),
  15: fc
    .array(fc.tuple(pick(0, 4, 0x60), pick(0, 7), fc.nat(9)), { maxLength: 4 })
    .map((writes) =>
      bytes(u64(writes.length), ...writes.map(([at, region, count]) => bytes(u64(at), u32(region, count), u64(0)))),
    ),
  16: fc
    .tuple(pick(1, 2, 3, 5, 6, 7, 8, 9, 10), pick(1, 2, 4, 5, 6), noise)
    .map(([index, bits, data]) => bytes(u32(64, (bits << 16) | index), data)),
  17: pick(u32(108, 100)),
  18: noise.map((data) => bytes(u32(8 + data.length, data.length), data)),
  11: noise.map((data) => bytes(u64(0x10000, data.length), data)),
  12: pick(u64(0x10000, 4)),
  99: noise,
};

const FD_KINDS = ['eventfd', 'memory', 'socket', 'file'] as const;

interface Step {
  readonly data: Uint8Array;
  readonly fds: readonly (typeof FD_KINDS)[number][];
  /** Where it is cut in two; 0: not at all. */
  readonly cut: number;
}

/** What is done to a message, once it is built. */
type Mutation = (message: Uint8Array) => Uint8Array;
const patched = (data: Uint8Array, patch: (view: DataView) => void): Uint8Array => {
  const out = Uint8Array.from(data);
  patch(new DataView(out.buffer));
  return out;
};
const keep: Mutation = (data) => data;
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  { weight: 6, arbitrary: fc.constant(keep) },
  {
    weight: 4,
    arbitrary: fc.tuple(fc.nat(12), word).map(
      ([at, value]): Mutation =>
        (data) =>
          data.length < 20 + 4 * at ? data : patched(data, (view) => view.setUint32(16 + 4 * at, value, true)),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.nat(6), quad).map(
      ([at, value]): Mutation =>
        (data) =>
          data.length < 24 + 8 * at ? data : patched(data, (view) => view.setBigUint64(16 + 8 * at, value, true)),
    ),
  },
  {
    // Shorter or longer, and honest about it.
    weight: 3,
    arbitrary: fc.tuple(fc.nat(60), noise).map(
      ([length, more]): Mutation =>
        (data) => {
          const out = bytes(data.subarray(0, Math.max(16, length)), more);
          return patched(out, (view) => view.setUint32(4, out.length, true));
        },
    ),
  },
  {
    weight: 2,
    arbitrary: word.map(
      (value): Mutation =>
        (data) =>
          patched(data, (view) => view.setUint32(8, value, true)),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.oneof(word, fc.nat(100)).map(
      (value): Mutation =>
        (data) =>
          patched(data, (view) => view.setUint32(4, value, true)),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 5 }).map(
      (changes): Mutation =>
        (data) =>
          patched(data, (view) => {
            for (const [at, value] of changes) if (at < data.length) view.setUint8(at, value);
          }),
    ),
  },
);

const step: fc.Arbitrary<Step> = fc
  .constantFrom(...Object.keys(payloads).map(Number))
  .chain((command) =>
    fc.record({
      payload: payloads[command]!,
      id: fc.nat(0xffff),
      flags: command === 11 || command === 12 ? pick(1, 1, 0) : pick(0, 0, 0x10),
      mutate: mutation,
      fds: fc.oneof(
        fc.constant([]),
        fc.constant(command === 2 ? ['memory' as const] : command === 8 ? ['eventfd' as const] : []),
        fc.array(pick(...FD_KINDS), { maxLength: 3 }),
      ),
      cut: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.nat(40)),
      command: fc.constant(command),
    }),
  )
  .map(({ payload, id, flags, mutate, fds, cut, command }) => ({
    data: mutate(message(id, command, payload, flags)),
    fds,
    cut,
  }));

/** Descriptors of each kind, made once. */
function makeFds(): Record<(typeof FD_KINDS)[number], number> {
  const [socket, other] = socketpair();
  const fds = {
    eventfd: eventfdCreate(),
    memory: memfdCreate('hostile', { size: 0x10000, seals: 0 }),
    socket,
    file: openSync('/dev/null', 'r+'),
  };
  for (const fd of [...Object.values(fds), other]) cleanup(() => closeFd(fd));
  return fds;
}

/** Mappings of memory that a client gave. */
const clientMaps = (): number => readFileSync('/proc/self/maps', 'utf8').split('memfd:hostile').length - 1;

/** Everything that the server says until it closes; each message must be whole and one of ours. */
async function readAll(client: RawClient): Promise<void> {
  const buffer = new Uint8Array(1 << 16);
  const fds = new Int32Array(16);
  let pending = Buffer.alloc(0);
  for (let idle = 0; idle < 20_000; ) {
    let got: ReturnType<typeof recvMessage>;
    try {
      got = recvMessage(client.fd, buffer, 0, buffer.length, fds);
    } catch (error) {
      // Closed while bytes of ours were unread.
      if (isVfioError(error) && error.errno === 'ECONNRESET') return;
      throw error;
    }
    if (got === undefined) {
      idle++;
      await turn();
      continue;
    }
    if (got.bytes === 0) {
      expect(pending).toHaveLength(0);
      return;
    }
    idle = 0;
    for (const fd of fds.subarray(0, got.fdCount)) closeFd(fd);
    pending = Buffer.concat([pending, buffer.subarray(0, got.bytes)]);
    for (let size = 16; pending.length >= 16; pending = pending.subarray(size)) {
      size = pending.readUInt32LE(4);
      expect(size).toBeGreaterThanOrEqual(16);
      if (pending.length < size) break;
      const flags = pending.readUInt32LE(8);
      const isError = flags === 0x21;
      const isCommand = flags === 0 && [11, 12].includes(pending.readUInt16LE(2));
      expect(isError || isCommand || flags === 1).toBe(true);
      if (isError) expect(size).toBe(16);
    }
  }
  throw new Error('the server neither answers nor closes');
}

async function play(client: RawClient, steps: readonly Step[], fds: ReturnType<typeof makeFds>): Promise<void> {
  try {
    for (const { data, fds: kinds, cut } of steps) {
      const given = kinds.map((kind) => fds[kind]);
      if (cut > 0 && cut < data.length) {
        await client.send(data.subarray(0, cut), given);
        await turn();
        await client.send(data.subarray(cut));
      } else await client.send(data, given);
    }
    shutdownSocket(client.fd, 1);
  } catch (error) {
    // The server has left already.
    if (!isVfioError(error) || (error.errno !== 'EPIPE' && error.errno !== 'ECONNRESET')) throw error;
  }
  await readAll(client);
}

async function survives(served: Awaited<ReturnType<typeof serve>>, arbitrary: fc.Arbitrary<readonly Step[]>) {
  const { attached, idle, path, warnings } = served;
  const fds = makeFds();
  const connect = () => RawClient.connect(path);
  (await attached()).close();
  await idle();
  await fc.assert(
    fc.asyncProperty(arbitrary, async (steps) => {
      const before = [openFds(), clientMaps()];
      const client = connect();
      await play(client, steps, fds);
      client.close();
      await idle();
      expect([openFds(), clientMaps()]).toEqual(before);
      expect(warnings.filter((text) => /TypeError|RangeError|internal error|is not a function/.test(text))).toEqual([]);
      warnings.length = 0;
    }),
    { numRuns: RUNS },
  );
  const next = connect();
  await next.negotiate();
  await next.ok(4, u32(16, 0, 0, 0));
  next.close();
  await idle();
}

const hello: Step = {
  data: message(1, 1, bytes(u16(0, 2), '{"capabilities":{"max_msg_fds":8}}', [0])),
  fds: [],
  cut: 0,
};
const conversation = fc.array(step, { minLength: 1, maxLength: 14 });

test('[vfio-user 7.30] any conversation, valid or not, ends in order: a PCI device behind it', async () => {
  const { device } = await makeEdu({}, { express: true });
  await survives(
    await serve(device),
    conversation.map((steps) => [hello, ...steps]),
  );
});

test('[vfio-user 7.30] any conversation ends in order: a device with features, streams and operations that take time', async () => {
  const stream = {
    read: (into: Uint8Array) => turn().then(() => Math.min(7, into.length)),
    write: (from: Uint8Array) => Math.min(5, from.length),
    precopyInfo: () => ({ flags: 0, initialBytes: 0n, dirtyBytes: 0n }),
    close: () => {},
  };
  let state = 2;
  const device: FakeDevice = new FakeDevice({
    reset: () => turn(),
    dmaMap: ({ iova, size }) => {
      for (const other of device.maps.values()) {
        if (iova < other.iova + other.size && other.iova < iova + size) throw errnoError('EEXIST', 'overlap');
      }
    },
    dmaUnmap: () => turn(),
    deviceFeature: ({ flags, value }) => {
      const index = flags & 0xffff;
      if (![1, 2, 6, 7, 8].includes(index)) throw errnoError('ENOTTY', 'no such feature');
      if ((flags & (1 << 18)) !== 0 || index > 6) return undefined;
      if (index === 1) return { flags: 1 };
      if (index === 6) return { pageSize: 4096n };
      if ((flags & (1 << 17)) !== 0) state = (value as { state: number }).state & 7;
      return turn().then(() => ({ state, data: state === 3 || state === 4 ? stream : undefined }));
    },
  });
  await survives(
    await serve(device),
    conversation.map((steps) => [hello, ...steps]),
  );
});

test('[vfio-user 7.30] whatever comes first: no VERSION, a broken one, or noise', async () => {
  const raw = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((data): Step => ({ data, fds: ['memory'], cut: 3 }));
  await survives(await serve(new FakeDevice()), fc.oneof(conversation, fc.array(raw, { minLength: 1, maxLength: 3 })));
});

test('[vfio-user 7.30] numbers in a message do not cost memory: it is checked before anything is made', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const huge = 0xffffffff;
  const all: [number, Uint8Array][] = [
    [2, bytes(u32(huge, 3), u64(0, 0, 1n << 62n))],
    [3, bytes(u32(huge, 1), u64(0x10000, 0x1000, 4096, 1n << 40n))],
    [5, bytes(u32(huge, 0, huge, huge), u64(0, 0))],
    [6, u32(huge, 0, huge, 0)],
    [7, u32(huge, huge, huge, huge)],
    [8, u32(huge, 0x24, 0, 0, huge)],
    [8, u32(huge, 0x22, 0, 0, huge)],
    [9, bytes(u64(0), u32(0, huge))],
    [10, bytes(u64(0), u32(0, huge))],
    [15, u64(1n << 60n)],
    [16, bytes(u32(huge, (1 << 17) | 6), u64(4096), u32(huge, 0))],
    [16, bytes(u32(huge, (1 << 16) | 8), u64(0, 1n << 62n, 4096))],
    [17, u32(huge, huge - 8)],
    [18, u32(huge, huge)],
  ];
  const before = process.memoryUsage().arrayBuffers;
  for (let round = 0; round < 20; round++) {
    for (const [command, payload] of all) expect(await client.fails(command, payload)).toBeGreaterThan(0);
  }
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 << 20);
});

test('[vfio-user 7.30] a JSON text is bounded in length, and may be nested as deep as it likes', async () => {
  const { raw, idle } = await serve(new FakeDevice());
  for (const json of ['['.repeat(30_000), `{"capabilities":${'{"a":'.repeat(10_000)}`, `"${'x'.repeat(70_000)}"`]) {
    const client = raw();
    await client.send(message(1, 1, bytes(u16(0, 2), json, [0])));
    expect(await client.receive()).toMatchObject({ flags: 0x21, errno: 22 });
    await client.untilClosed();
    client.close();
    await idle();
  }
});
