/** The client whose calls block: the same contract as the other one, against a server in a thread of its own. */
import {
  callbackTrigger,
  functionOverDevice,
  type MigrationData,
  type VfioDeviceOps,
  type VfioDeviceProvider,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '@vfio/core';
import { EDU, Edu, EmulatedPciHost } from '@vfio/emulated';
import { closeFd, mappingCount } from '@vfio/native';
import {
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE as MIG_STATE,
  PCI_COMMAND,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VfioUserBlockingClient } from '../src/index.js';
import { acquireSharedLoop, releaseSharedLoop } from '../src/service-loop.js';
import { dma, enable, le, read32 } from './helpers/edu-program.js';
import { bind } from './helpers/generic.js';
import { ends, errorTo, regionPayload, replyTo, versionPayload } from './helpers/played-server.js';
import { bytes, message, type RawClient, type RawMessage, u32, u64, until } from './helpers/raw-client.js';
import { SCRIPT } from './helpers/script.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';
import { serveInThread } from './helpers/thread.js';
import { STATE } from './helpers/toy-migration.js';

const PAGE = 4096;

// The loop stays, so that descriptors can be counted.
beforeAll(acquireSharedLoop);
afterAll(releaseSharedLoop);

/** What the client is presented as. */
const identity = () => new EmulatedPciHost().add({ address: '0000:00:02.0', model: (ctx) => new Edu(ctx) });

async function connected(...job: Parameters<typeof serveInThread>) {
  const { path } = await serveInThread(...job);
  const client = VfioUserBlockingClient.connect(path, identity());
  cleanup(() => client.close());
  return client;
}

const read = (client: VfioUserBlockingClient, offset: number): number => {
  const data = new Uint8Array(4);
  client.read(0, offset, data);
  return new DataView(data.buffer).getUint32(0, true);
};

const turnOn = (client: VfioUserBlockingClient) => client.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, le(0x6, 2));

function transfer(client: VfioUserBlockingClient, from: number, to: number, count: number, command: number): void {
  client.write(0, EDU.DMA_SOURCE, le(from, 8));
  client.write(0, EDU.DMA_DESTINATION, le(to, 8));
  client.write(0, EDU.DMA_COUNT, le(count, 8));
  client.write(0, EDU.DMA_COMMAND, le(EDU.DMA_START | command, 8));
  while ((read(client, EDU.DMA_COMMAND) & EDU.DMA_START) !== 0);
}

test('a server of the same thread is refused before anything is sent', async () => {
  const { path } = await serve(await bind(identity()));
  const before = openFds();
  expect(() => VfioUserBlockingClient.connect(path, identity())).toThrow(
    expect.objectContaining({ code: 'ERR_VFIO_WOULD_DEADLOCK', errno: 'EDEADLK' }),
  );
  expect(openFds()).toBe(before);
});

describe('a device in another thread', () => {
  test('shows its info, registers and memory', async () => {
    const client = await connected('edu');
    expect(client.getInfo()).toMatchObject({ flags: 3, numRegions: 9, numIrqs: 5 });
    expect(client.getRegionInfo(0)).toMatchObject({ size: EDU.BAR_SIZE, flags: 3 });
    expect(client.getIrqInfo(0)).toMatchObject({ index: 0, count: 1, flags: 7 });
    expect(() => client.getRegionInfo(99)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    turnOn(client);
    expect(read(client, EDU.IDENTIFICATION)).toBe(EDU.ID_VALUE);
    expect(client.write(0, EDU.LIVENESS, le(7, 4))).toBe(4);
    expect(read(client, EDU.LIVENESS)).toBe(~7 >>> 0);
    const area = client.mmapArea(2, 0x1000, 0x1000);
    area.memory.bytes[1] = 9;
    const data = new Uint8Array(2);
    client.read(2, 0x1000, data);
    expect([...data]).toEqual([0, 9]);
    client.reset();
    turnOn(client);
    expect(read(client, EDU.LIVENESS)).toBe(0);
  });

  test.each([
    ['mapped', true],
    ['asked for while calls wait', false],
  ])('does DMA to memory that is %s', async (_name, hasFd) => {
    const client = await connected('edu');
    turnOn(client);
    const { fd, bytes: memory } = guestMemory(2 * PAGE);
    client.dmaMap({
      iova: 0x10000n,
      size: BigInt(2 * PAGE),
      readable: true,
      writable: true,
      memory: { bytes: memory, fd: hasFd ? fd : undefined, fdOffset: 0 },
    });
    memory.set([1, 2, 3, 4], PAGE - 2);
    transfer(client, 0x10000 + PAGE - 2, EDU.BUFFER, 4, 0);
    transfer(client, EDU.BUFFER, 0x10000 + 100, 4, EDU.DMA_TO_MEMORY);
    expect([...memory.subarray(100, 104)]).toEqual([1, 2, 3, 4]);
    client.dmaUnmap(0x10000n, BigInt(2 * PAGE));
    expect(() => client.dmaUnmap(0x10000n, BigInt(2 * PAGE))).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
  });

  test('signals triggers of this process, once its event loop runs', async () => {
    const client = await connected('edu');
    turnOn(client);
    let fired = 0;
    const triggers = [callbackTrigger(() => fired++)];
    expect(client.setIrqs({ flags: 0x24, index: 0, start: 0, count: 1, triggers })).toBe(0);
    client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await until(() => fired === 1);
    client.setIrqs({ flags: 0x11, index: 0, start: 0, count: 1 });
    await until(() => fired === 2);
    client.setIrqs({ flags: 0x21, index: 0, start: 0, count: 0 });
  });

  test('hands out its state and takes it', async () => {
    const source = await connected('migratable');
    const target = await connected('migratable');
    const flags = SET | MIG_STATE;
    const from = source.deviceFeature({ flags, value: { state: STATE.STOP_COPY } }) as { data: MigrationData };
    const state = new Uint8Array(30_000);
    expect(from.data.read(state)).toBe(20_000);
    expect(from.data.read(state.subarray(20_000))).toBe(0);
    const to = target.deviceFeature({ flags, value: { state: STATE.RESUMING } }) as { data: MigrationData };
    expect(to.data.write(state.subarray(0, 20_000))).toBe(20_000);
    target.deviceFeature({ flags, value: { state: STATE.STOP_COPY } });
    expect(target.deviceFeature({ flags: GET | MIG_STATE })).toMatchObject({ state: STATE.STOP_COPY });
    expect(() => from.data.write(state)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(() => from.data.precopyInfo()).toThrow(expect.objectContaining({ errno: 'ENOTTY' }));
    from.data.close();
    expect(() => from.data.read(state)).toThrow(expect.objectContaining({ errno: 'ENODEV' }));
  });

  test('has no form for what the protocol has none for', async () => {
    const client = await connected('edu');
    const enotty = expect.objectContaining({ errno: 'ENOTTY' });
    let released = 0;
    const trigger = { ...callbackTrigger(() => {}), release: () => released++ };
    expect(() => client.getHotResetInfo()).toThrow(enotty);
    expect(() => client.hotReset({ flags: 0, owned: [] })).toThrow(enotty);
    expect(() => client.ioeventfd({ region: 0, offset: 0, width: 4, data: 0n, trigger })).toThrow(enotty);
    expect(() => client.deviceFeature({ flags: SET | 999 })).toThrow(enotty);
    expect(released).toBe(1);
  });

  test('leaves nothing behind here when it is closed, nor when closed twice', async () => {
    const { path } = await serveInThread('edu');
    // Counted with one client connected: its server, which has descriptors too, is then done with those before.
    const count = () => {
      const client = VfioUserBlockingClient.connect(path, identity());
      client.getInfo();
      const counts = [openFds(), mappingCount()];
      client.close();
      return counts;
    };
    count();
    const before = count();
    let released = 0;
    for (let round = 0; round < 3; round++) {
      const client = VfioUserBlockingClient.connect(path, identity());
      const memory = { bytes: new Uint8Array(PAGE), fd: undefined, fdOffset: 0 };
      const map = { iova: 0n, size: BigInt(PAGE), readable: true, writable: true, memory };
      client.dmaMap({ ...map, release: () => released++ });
      const view = client.mmapArea(2, 0, PAGE).memory.bytes;
      const triggers = [{ ...callbackTrigger(() => {}), release: () => released++ }];
      client.setIrqs({ flags: 0x24, index: 0, start: 0, count: 1, triggers });
      client.close();
      client.close();
      expect(view.length).toBe(0);
      expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED' }));
    }
    expect(released).toBe(6);
    expect(count()).toEqual(before);
  });

  test('that closes in the middle of a call fails it, and the client is of no more use', async () => {
    const client = await connected('scripted');
    const triggers = [{ ...callbackTrigger(() => {}), release: () => released++ }];
    let released = 0;
    client.setIrqs({ flags: 0x24, index: 2, start: 0, count: 1, triggers });
    expect(client.read(0, 0, new Uint8Array(4))).toBe(4);
    const gone = expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED', errno: 'ENOTCONN' });
    expect(() => client.read(0, SCRIPT.CLOSE, new Uint8Array(4))).toThrow(gone);
    expect(() => client.getInfo()).toThrow(gone);
    expect(released).toBe(0);
    client.close();
    expect(released).toBe(1);
  });

  test('that does not answer in time fails the call, and the client is of no more use', async () => {
    const { path } = await serveInThread('scripted');
    const client = VfioUserBlockingClient.connect(path, identity(), { timeoutMs: 300 });
    cleanup(() => client.close());
    expect(() => client.read(0, SCRIPT.STALL, new Uint8Array(4))).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT', errno: 'ETIMEDOUT', op: 'REGION_READ' }),
    );
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED' }));
  });
});

/** A blocking client whose server's answers are in the socket before it asks: `answers` gets the ids that it will use. */
function against(...answers: readonly ((to: RawMessage) => Uint8Array | readonly [Uint8Array, readonly number[]])[]) {
  const { fd, server } = ends();
  const all = [(to: RawMessage) => replyTo(to, versionPayload({ max_msg_fds: 16 })), ...answers];
  const connect = async (commands: readonly number[], options = {}) => {
    for (const [at, answer] of all.entries()) {
      const to = { id: at + 1, command: commands[at - 1] ?? 1 } as RawMessage;
      const made = answer(to);
      if (made instanceof Uint8Array) await server.send(made);
      else await server.send(made[0], made[1]);
    }
    const client = VfioUserBlockingClient.connect({ fd }, identity(), options);
    cleanup(() => client.close());
    return client;
  };
  return { server, connect };
}

const GET_INFO = 4;
const GET_REGION_INFO = 5;
const INFO = u32(16, 3, 9, 5);

describe('a server that breaks the protocol', () => {
  test.each<[string, (to: RawMessage) => Uint8Array, string]>([
    ['[vfio-user 7.6] by another id', (to) => replyTo(to, INFO, { id: to.id + 5 }), 'ERR_VFIO_DISCONNECTED'],
    ['[vfio-user 7.6] by another command', (to) => replyTo(to, INFO, { command: 7 }), 'ERR_VFIO_PROTOCOL'],
    ['by a size below the header', () => bytes(u32(2, 15, 1, 0)), 'ERR_VFIO_PROTOCOL'],
    ['by a size above the largest', () => bytes(u32(2, 1 << 30, 1, 0)), 'ERR_VFIO_PROTOCOL'],
  ])('%s is left', async (_name, answer, code) => {
    const { connect, server } = against(answer);
    const client = await connect([GET_INFO]);
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code, op: 'DEVICE_GET_INFO' }));
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED' }));
    await server.untilClosed();
  });

  test.each<[string, (to: RawMessage) => Uint8Array, object]>([
    ['an error', (to) => errorTo(to, 13), { code: 'ERR_VFIO_REMOTE', errno: 'EACCES' }],
    ['an error without errno', (to) => errorTo(to, 0), { code: 'ERR_VFIO_REMOTE', errno: 'EINVAL' }],
    ['an errno that is none', (to) => errorTo(to, 5000), { code: 'ERR_VFIO_REMOTE', errno: 'EINVAL' }],
    ['an answer cut short', (to) => replyTo(to, u32(16)), { code: 'ERR_VFIO_INVALID_STRUCT' }],
  ])('by %s fails one call, and the next is answered', async (_name, answer, error) => {
    const { connect } = against(answer, (to) => replyTo(to, INFO));
    const client = await connect([GET_INFO, GET_INFO]);
    expect(() => client.getInfo()).toThrow(expect.objectContaining(error));
    expect(client.getInfo()).toMatchObject({ numRegions: 9 });
  });

  test('[vfio-user 7.7] by descriptors that nobody wants leaves none of them', async () => {
    const given = eventfd();
    const { connect } = against(
      (to) => [replyTo(to, INFO), [given, given]],
      (to) => [replyTo(to, regionPayload(0, PAGE, 32, 7)), [given, given]],
      (to) => [errorTo(to, 5), [given]],
      (to) => [replyTo(to, INFO, { id: 77 }), [given]],
    );
    const client = await connect([GET_INFO, GET_REGION_INFO, GET_INFO, GET_INFO]);
    const before = openFds();
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_PROTOCOL' }));
    client.getRegionInfo(0);
    expect(openFds()).toBe(before + 1);
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ errno: 'EIO' }));
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED' }));
    client.close();
    expect(openFds()).toBe(before - 1);
  });

  test.each<[string, Uint8Array]>([
    ['a major version', versionPayload({}, 0).fill(1, 0, 2)],
    ['no JSON', bytes(u32(0), '{', [0])],
    ['a second socket that was not offered', versionPayload({ twin_socket: { supported: true } })],
  ])('by %s in VERSION is refused, and nothing stays open', async (_name, payload) => {
    const before = openFds();
    const { fd, server } = ends();
    await server.send(replyTo({ id: 1, command: 1 } as RawMessage, payload));
    expect(() => VfioUserBlockingClient.connect({ fd }, identity())).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/ERR_VFIO_(PROTOCOL|INVALID_STRUCT)/) }),
    );
    server.close();
    expect(openFds()).toBe(before);
  });

  test('by options out of range is not even asked', () => {
    for (const options of [{ maxDataXferSize: 0 }, { timeoutMs: -1 }]) {
      expect(() => VfioUserBlockingClient.connect('/nowhere', identity(), options)).toThrow(
        expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT' }),
      );
    }
  });
});

describe('[vfio-user 7.24] a server’s command before its reply', () => {
  async function asked(server: RawClient, client: VfioUserBlockingClient, ...commands: Uint8Array[]) {
    for (const command of commands) await server.send(command);
    await server.send(replyTo({ id: 3, command: GET_INFO } as RawMessage, INFO));
    client.getInfo();
    await server.receive();
    await server.receive();
    const replies = [];
    expect((await server.receive()).command).toBe(GET_INFO);
    for (const command of commands) {
      const isPosted = (command[8]! & 0x10) !== 0;
      if (!isPosted) replies.push(await server.receive());
    }
    return replies;
  }

  test('is served: memory in order, what cannot be had with an errno, what is posted without an answer', async () => {
    const { connect, server } = against((to) => replyTo(to));
    const client = await connect([2]);
    const data = new Uint8Array(PAGE).fill(8);
    client.dmaMap({
      iova: 0x1000n,
      size: BigInt(PAGE),
      readable: true,
      writable: true,
      memory: { bytes: data, fd: undefined, fdOffset: 0 },
    });
    const replies = await asked(
      server,
      client,
      message(90, 11, u64(0x1000, 2)),
      message(91, 12, bytes(u64(0x1004, 2), [1, 2]), 0x10),
      message(92, 12, bytes(u64(0x1006, 1), [3])),
      message(93, 11, u64(0x1004, 3)),
      message(94, 11, u64(0x9000, 2)),
      message(95, 99, u64(0)),
    );
    expect(replies.map(({ id, flags, errno }) => [id, flags, errno])).toEqual([
      [90, 1, 0],
      [92, 1, 0],
      [93, 1, 0],
      [94, 0x21, 19],
      [95, 0x21, 38],
    ]);
    expect([...replies[0]!.payload.subarray(16)]).toEqual([8, 8]);
    expect([...replies[2]!.payload.subarray(16)]).toEqual([1, 2, 3]);
  });

  test('is answered EFAULT for memory that this thread would have to wait for, and nothing is started', async () => {
    const { connect, server } = against((to) => replyTo(to));
    const client = await connect([2]);
    const started: string[] = [];
    const remote = {
      read: async () => void started.push('read'),
      write: async () => void started.push('write'),
    };
    client.dmaMap({ iova: 0x1000n, size: 4096n, readable: true, writable: true, memory: undefined, remote });
    const replies = await asked(
      server,
      client,
      message(1, 11, u64(0x1000, 2)),
      message(2, 12, bytes(u64(0x1000, 1), [1])),
    );
    expect(replies.map(({ flags, errno }) => [flags, errno])).toEqual([
      [0x21, 14],
      [0x21, 14],
    ]);
    expect(started).toEqual([]);
  });

  test('does not keep a call beyond its time, however many there are', async () => {
    const { connect, server } = against();
    const client = await connect([], { timeoutMs: 200 });
    for (let n = 0; n < 50; n++) await server.send(message(n, 11, u64(0, 1)));
    expect(() => client.getInfo()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT' }));
  });
});

describe('as the base of another device', () => {
  async function over(ops: (core: VfioDeviceOps) => VfioDeviceOps) {
    const { path } = await serveInThread('edu');
    const fn = identity();
    const below: VfioDeviceProvider = {
      function: fn,
      name: 'vfio-user',
      open: async () => VfioUserBlockingClient.connect(path, fn),
    };
    const device = vfioPciCoreAllocDevice(functionOverDevice(below), ops);
    await vfioPciCoreRegisterDevice(device);
    return { device, below, path };
  }

  /** A variant that hides the second half of BAR 2. */
  const half = (core: VfioDeviceOps): VfioDeviceOps => ({
    ...core,
    name: 'half',
    getRegionInfo(dev, index) {
      const info = core.getRegionInfo(dev, index);
      return index === 2 ? { ...info, size: info.size / 2, flags: 3, caps: [] } : info;
    },
    read(dev, region, offset, data) {
      if (region === 2 && offset >= 0x2000) throw dev.error('EINVAL', 'read', 'hidden');
      return core.read(dev, region, offset, data);
    },
  });

  test('a vfio-user peer carries a variant: what it overrides is its own, the rest is the peer’s', async () => {
    const { device } = await over(half);
    const opened = await device.open();
    cleanup(() => opened.close());
    expect(opened.getRegionInfo(2)).toMatchObject({ size: 0x2000, flags: 3 });
    expect(() => opened.read(2, 0x2000, new Uint8Array(4))).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    opened.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, le(6, 2));
    opened.write(2, 0x1ffc, le(0x12345678, 4));
    const data = new Uint8Array(4);
    opened.read(2, 0x1ffc, data);
    expect([...data]).toEqual([0x78, 0x56, 0x34, 0x12]);
    let fired = 0;
    const triggers = [callbackTrigger(() => fired++)];
    opened.setIrqs({ flags: 0x24, index: 0, start: 0, count: 1, triggers });
    opened.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await until(() => fired === 1);
  });

  test('the peer is left when the device is closed, and found again when it is opened', async () => {
    const { device } = await over((core) => ({ ...core, name: 'plain' }));
    const found: number[] = [];
    for (let round = 0; round < 3; round++) {
      const opened = await device.open();
      const data = new Uint8Array(2);
      opened.read(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, data);
      found.push(data[0]!);
      opened.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, le(6, 2));
      await opened.close();
    }
    expect(found).toEqual([found[0], found[0], found[0]]);
    expect(found[0]! & 4).toBe(0);
  });

  test.each([
    ['mapped', false],
    ['reached by messages here', true],
  ])(
    'it can be served again: a guest’s memory that is %s reaches the device at the end',
    async (_name, messagesOnly) => {
      const { device } = await over((core) => ({ ...core, name: 'plain' }));
      const { connect, idle } = await serve(device);
      const client = await connect();
      await enable(client);
      const memory = await client.dmaAlloc({ iova: 0x10000n, size: PAGE, messagesOnly });
      memory.bytes.set([5, 6, 7, 8]);
      await dma(client, 0x10000n, BigInt(EDU.BUFFER), 4, 0);
      await dma(client, BigInt(EDU.BUFFER), 0x10010n, 4, EDU.DMA_TO_MEMORY);
      // A blocking client has no way to wait for memory that is itself messages away: the device gets nothing, and says so.
      expect([...memory.bytes.subarray(16, 20)]).toEqual(messagesOnly ? [0, 0, 0, 0] : [5, 6, 7, 8]);
      expect(await read32(client, 0, EDU.IDENTIFICATION)).toBe(EDU.ID_VALUE);
      await client.close();
      await idle();
    },
  );

  test('the generic driver runs on it', async () => {
    const { below } = await over((core) => ({ ...core, name: 'plain' }));
    const device = await bind(functionOverDevice(below), vfioPciDriver());
    const opened = await device.open();
    expect(opened.name).toBe('vfio-pci');
    expect(opened.getInfo().numRegions).toBe(9);
    await opened.close();
  });
});

test('a connected socket can be given', async () => {
  const { fd, server } = ends();
  await server.send(replyTo({ id: 1, command: 1 } as RawMessage, versionPayload()));
  const client = VfioUserBlockingClient.connect({ fd }, identity());
  expect(client.limits).toMatchObject({ maxMsgFds: 1, maxDataXferSize: 1 << 20, migration: false });
  client.close();
  expect(() => closeFd(fd)).toThrow();
});
