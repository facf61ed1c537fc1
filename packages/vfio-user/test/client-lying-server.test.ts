/** A client against a server that breaks the protocol: an error that says so, nothing leaked, nothing believed. */
import { callbackTrigger } from '@vfio/core';
import { closeFd, dupFd, socketpair } from '@vfio/native';
import { isVfioError } from '@vfio/uapi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VfioUserClient } from '../src/index.js';
import { acquireSharedLoop, releaseSharedLoop } from '../src/service-loop.js';
import { ends, errorTo, played, regionPayload, replyTo, versionPayload } from './helpers/played-server.js';
import { bytes, message, type RawMessage, u16, u32, u64 } from './helpers/raw-client.js';
import { eventfd, openFds } from './helpers/serve.js';

// The loop stays, so that descriptors can be counted.
beforeAll(acquireSharedLoop);
afterAll(releaseSharedLoop);

const INFO = u32(16, 3, 9, 5);

type Client = Awaited<ReturnType<typeof played>>['client'];

/** Whether a call of the client is still answered. */
async function works({ client, server }: Awaited<ReturnType<typeof played>>): Promise<boolean> {
  const call = client.getInfo().then(
    () => true,
    () => false,
  );
  const request = await server.receive().catch(() => undefined);
  if (request !== undefined) await server.send(replyTo(request, INFO));
  return call;
}

const CALLS: Readonly<Record<string, (client: Client) => Promise<unknown>>> = {
  getInfo: (client) => client.getInfo(),
  getRegionInfo: (client) => client.getRegionInfo(0),
  getIrqInfo: (client) => client.getIrqInfo(1),
  read: (client) => client.read(0, 0, new Uint8Array(4)),
  write: (client) => client.write(0, 0, new Uint8Array(4)),
  setIrqs: (client) => client.setIrqs({ flags: 0x21, index: 1, start: 0, count: 1 }),
  reset: (client) => client.reset(),
  dmaMap: (client) => client.dmaMap({ iova: 0n, size: 4096n, readable: true, writable: true, memory: undefined }),
  dmaUnmap: (client) => client.dmaUnmap(0n, 4096n),
  deviceFeature: (client) => client.deviceFeature({ flags: (1 << 16) | 1 }),
};

describe('an error reply', () => {
  test.each(Object.entries(CALLS))(
    'to %s fails the call with its errno, and the client goes on',
    async (_name, call) => {
      const all = await played();
      const result = call(all.client);
      await all.server.send(errorTo(await all.server.receive(), 5));
      await expect(result).rejects.toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: 'EIO', details: { errno: 5 } });
      expect(await works(all)).toBe(true);
    },
  );

  test.each([
    [0, 'EINVAL'],
    [4097, 'EINVAL'],
    [0xffffffff, 'EINVAL'],
    [4096, 'EIO'],
    [38, 'ENOSYS'],
  ])('[vfio-user 7.6] with errno %i is %s: what is no errno is EINVAL', async (errno, name) => {
    const all = await played();
    const result = all.client.getInfo();
    await all.server.send(errorTo(await all.server.receive(), errno));
    await expect(result).rejects.toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: name });
    expect(await works(all)).toBe(true);
  });

  test('without the reply type is taken as one, as old servers of the Rust crate send it', async () => {
    const all = await played();
    const result = all.client.getInfo();
    await all.server.send(replyTo(await all.server.receive(), undefined, { flags: 0x20, errno: 22 }));
    await expect(result).rejects.toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: 'EINVAL' });
    expect(await works(all)).toBe(true);
  });

  test('to a posted write is dropped, as old servers of the Rust crate send it', async () => {
    const all = await played();
    all.client.post({ region: 0, offset: 0, data: new Uint8Array(4) });
    const posted = await all.server.receive();
    expect(posted.flags).toBe(0x10);
    await all.server.send(errorTo(posted, 22));
    expect(await works(all)).toBe(true);
  });
});

describe('the stream cannot be trusted any more, and the client ends,', () => {
  test.each<[string, (to: RawMessage) => Uint8Array, RegExp]>([
    [
      'when a reply has an id that nobody waits for',
      (to) => replyTo(to, INFO, { id: to.id + 100 }),
      /reply 0x66 to nothing/,
    ],
    [
      '[vfio-user 7.6] when a reply has another command',
      (to) => replyTo(to, INFO, { command: 7 }),
      /DEVICE_GET_IRQ_INFO/,
    ],
    ['when a message is shorter than its header', () => bytes(u16(2, 4), u32(15, 1, 0)), /impossible size/],
    ['when a message is longer than any may be', () => bytes(u16(2, 4), u32(0x7fffffff, 1, 0)), /impossible size/],
    ['when a second reply comes', (to) => bytes(replyTo(to, INFO), replyTo(to, INFO)), /reply 0x2 to nothing/],
  ])('%s', async (_name, answer, reason) => {
    const before = openFds();
    const all = await played();
    const first = all.client.getInfo();
    const second = all.client.reset();
    await all.server.send(answer(await all.server.receive()));
    const errors = await Promise.allSettled([first, second]);
    for (const { status, ...rest } of errors) {
      if (status === 'rejected') expect(isVfioError((rest as { reason: unknown }).reason)).toBe(true);
    }
    expect(errors[1]!.status).toBe('rejected');
    expect(await all.client.closed).toMatch(reason);
    await expect(all.client.getInfo()).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    all.server.close();
    expect(openFds()).toBe(before);
  });

  test('when the server goes in the middle of a reply', async () => {
    const all = await played();
    const call = all.client.read(0, 0, new Uint8Array(64));
    const reply = replyTo(await all.server.receive(), bytes(u64(0), u32(0, 64), new Uint8Array(64)));
    await all.server.send(reply.subarray(0, 40));
    all.server.close();
    await expect(call).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED', errno: 'ENOTCONN' });
    expect(await all.client.closed).toBe('the server closed the connection');
  });

  test('when the server goes, every call that waits says which it was', async () => {
    const all = await played();
    const calls = [all.client.getInfo(), all.client.reset(), all.client.getIrqInfo(0)];
    await all.server.receive();
    all.server.close();
    const messages = (await Promise.allSettled(calls)).map((result) =>
      String((result as { reason?: Error }).reason?.message),
    );
    expect(messages).toEqual([
      'DEVICE_GET_INFO: the server closed the connection',
      'DEVICE_RESET: the server closed the connection',
      'DEVICE_GET_IRQ_INFO: the server closed the connection',
    ]);
  });
});

describe('a reply that cannot be fails its call, and the client goes on:', () => {
  test.each<[string, keyof typeof CALLS, Uint8Array]>([
    ['device info cut short', 'getInfo', u32(16, 3, 9)],
    ['region info cut short', 'getRegionInfo', u32(32, 3, 0, 0)],
    ['region info of another region', 'getRegionInfo', regionPayload(1, 4096)],
    ['region info of 2^63 bytes', 'getRegionInfo', bytes(u32(32, 3, 0, 0), u64(2n ** 63n, 0))],
    ['region info that takes 1 GiB', 'getRegionInfo', regionPayload(0, 4096, 1 << 30)],
    ['region capabilities outside the reply', 'getRegionInfo', bytes(u32(32, 0xb, 0, 4096), u64(4096, 0))],
    ['interrupt info cut short', 'getIrqInfo', u32(16, 1)],
    ['interrupt info of another index', 'getIrqInfo', u32(16, 1, 2, 1)],
    ['nothing for a read', 'read', Buffer.alloc(0)],
    ['more bytes than were asked for', 'read', bytes(u64(0), u32(0, 8), new Uint8Array(8))],
    ['a count of bytes that did not come', 'read', bytes(u64(0), u32(0, 4))],
    ['nothing for a write', 'write', Buffer.alloc(0)],
    ['more bytes written than were sent', 'write', bytes(u64(0), u32(0, 5))],
    ['a feature cut short', 'deviceFeature', u32(16, (1 << 16) | 1)],
    ['another feature', 'deviceFeature', bytes(u32(16, (1 << 16) | 2), u64(0))],
  ])('%s', async (_name, name, payload) => {
    const all = await played();
    const result = CALLS[name]!(all.client);
    await all.server.send(replyTo(await all.server.receive(), payload));
    const error: unknown = await result.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(isVfioError(error)).toBe(true);
    expect(['ERR_VFIO_PROTOCOL', 'ERR_VFIO_INVALID_STRUCT']).toContain((error as { code: string }).code);
    expect(await works(all)).toBe(true);
  });

  test.each(Object.keys(CALLS).filter((name) => name !== 'getRegionInfo'))(
    '[vfio-user 7.7] descriptors with the answer to %s are refused and closed',
    async (name) => {
      const all = await played();
      const fd = eventfd();
      const before = openFds();
      const result = CALLS[name]!(all.client);
      await all.server.send(replyTo(await all.server.receive(), u64(0, 0, 0, 0)), [fd, fd, fd]);
      await expect(result).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL', errno: 'EPROTO' });
      expect(openFds()).toBe(before);
      expect(await works(all)).toBe(true);
    },
  );

  test('region info whose size grows each time is not asked for without end', async () => {
    const all = await played();
    const result = all.client.getRegionInfo(0);
    const asked: number[] = [];
    for (let argsz = 64; argsz < 64 + 3 * 16; argsz += 16) {
      const request = await all.server.receive();
      asked.push(request.payload.readUInt32LE(0));
      await all.server.send(replyTo(request, regionPayload(0, 4096, argsz)));
    }
    await expect(result).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
    expect(asked).toEqual([32, 64, 80]);
    expect(await works(all)).toBe(true);
  });

  test('[vfio-user 7.7] of the descriptors of region info one is kept, also where two calls ask at once', async () => {
    const all = await played();
    const fd = eventfd();
    const before = openFds();
    const calls = [all.client.getRegionInfo(0), all.client.getRegionInfo(0)];
    for (let n = 0; n < 2; n++) {
      await all.server.send(replyTo(await all.server.receive(), regionPayload(0, 4096, 32, 7)), [fd, fd]);
    }
    expect(await Promise.all(calls)).toEqual(Array.from({ length: 2 }, () => expect.objectContaining({ size: 4096 })));
    expect(openFds()).toBe(before + 1);
    await all.client.close();
    expect(openFds()).toBe(before - 1);
  });

  test('region info that cannot be read keeps no descriptor', async () => {
    const all = await played();
    const fd = eventfd();
    const before = openFds();
    const call = all.client.getRegionInfo(0);
    await all.server.send(replyTo(await all.server.receive(), u32(1)), [fd]);
    await expect(call).rejects.toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT' });
    expect(openFds()).toBe(before);
  });
});

describe('a VERSION reply is refused, nothing stays open,', () => {
  const bad: readonly [string, Uint8Array, string][] = [
    ['with another major version', bytes(u16(1, 0), '{}', [0]), 'ERR_VFIO_PROTOCOL'],
    ['with a minor version above the proposed one', bytes(u16(0, 3), '{}', [0]), 'ERR_VFIO_PROTOCOL'],
    ['of no bytes', Buffer.alloc(0), 'ERR_VFIO_INVALID_STRUCT'],
    ['without NUL', bytes(u16(0, 2), '{}'), 'ERR_VFIO_INVALID_STRUCT'],
    ['that is no JSON', bytes(u16(0, 2), '{"capabilities":', [0]), 'ERR_VFIO_INVALID_STRUCT'],
    ['that is no object', bytes(u16(0, 2), '[1]', [0]), 'ERR_VFIO_INVALID_STRUCT'],
    ['with a limit of the wrong type', versionPayload({ max_msg_fds: '16' }), 'ERR_VFIO_INVALID_STRUCT'],
    ['with more descriptors than there can be', versionPayload({ max_msg_fds: 1025 }), 'ERR_VFIO_INVALID_STRUCT'],
    ['with no data at all', versionPayload({ max_data_xfer_size: 0 }), 'ERR_VFIO_PROTOCOL'],
    ['with a negative size', versionPayload({ max_data_xfer_size: -1 }), 'ERR_VFIO_INVALID_STRUCT'],
    ['with no page size', versionPayload({ pgsizes: 0 }), 'ERR_VFIO_PROTOCOL'],
    ['with pages of 512 bytes', versionPayload({ pgsizes: 4096 + 512 }), 'ERR_VFIO_PROTOCOL'],
    [
      'with a second socket that was not offered',
      versionPayload({ twin_socket: { supported: true } }),
      'ERR_VFIO_PROTOCOL',
    ],
  ];
  test.each(bad)('%s', async (_name, payload, code) => {
    const before = openFds();
    const { fd, server } = ends();
    const connecting = VfioUserClient.connect({ fd }, { twinSocket: false });
    await server.send(replyTo(await server.receive(), payload));
    await expect(connecting).rejects.toMatchObject({ code });
    await server.untilClosed();
    server.close();
    expect(openFds()).toBe(before);
  });

  test.each([
    ['naming a descriptor that did not come', { supported: true, fd_index: 1 }],
    ['naming a descriptor when none came', { supported: true }],
  ])('%s', async (_name, twin) => {
    const given = eventfd();
    const before = openFds();
    const { fd, server } = ends();
    const connecting = VfioUserClient.connect({ fd });
    const fds = 'fd_index' in twin ? [given] : [];
    await server.send(replyTo(await server.receive(), versionPayload({ twin_socket: twin })), fds);
    await expect(connecting).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
    await server.untilClosed();
    server.close();
    expect(openFds()).toBe(before);
  });

  test('whose second socket is no socket', async () => {
    const given = eventfd();
    const before = openFds();
    const { fd, server } = ends();
    const connecting = VfioUserClient.connect({ fd });
    await server.send(replyTo(await server.receive(), versionPayload({ twin_socket: { supported: true } })), [given]);
    await expect(connecting).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
    await server.untilClosed();
    server.close();
    expect(openFds()).toBe(before);
  });

  test('and a command before it, too', async () => {
    const { fd, server } = ends();
    const connecting = VfioUserClient.connect({ fd });
    const request = await server.receive();
    await server.send(message(1, 11, u64(0, 4)));
    await server.send(replyTo(request, versionPayload()));
    await expect(connecting).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
  });

  test('and an error is the server’s own', async () => {
    const { fd, server } = ends();
    const connecting = VfioUserClient.connect({ fd });
    await server.send(errorTo(await server.receive(), 16));
    await expect(connecting).rejects.toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: 'EBUSY' });
    await server.untilClosed();
  });
});

test('of the second sockets that a VERSION reply brings, the named one is kept and the others are closed', async () => {
  const before = openFds();
  const { fd, server } = ends();
  const connecting = VfioUserClient.connect({ fd });
  const [a, b] = socketpair();
  const payload = versionPayload({ twin_socket: { supported: true, fd_index: 1 } });
  await server.send(replyTo(await server.receive(), payload), [a, b]);
  const client = await connecting;
  closeFd(a);
  closeFd(b);
  // Both ends of the connection, and the second socket.
  expect(openFds()).toBe(before + 3);
  await client.close();
  server.close();
  expect(openFds()).toBe(before);
});

describe('a call that is not answered in time', () => {
  test('fails alone; its late reply is dropped and its descriptors are closed', async () => {
    const all = await played({ max_msg_fds: 16 }, { timeoutMs: 300 });
    const fd = eventfd();
    const before = openFds();
    const call = all.client.getRegionInfo(0);
    const request = await all.server.receive();
    await expect(call).rejects.toMatchObject({
      code: 'ERR_VFIO_TIMEOUT',
      errno: 'ETIMEDOUT',
      op: 'DEVICE_GET_REGION_INFO',
    });
    await all.server.send(replyTo(request, regionPayload(0, 4096, 32, 7)), [fd]);
    expect(await works(all)).toBe(true);
    expect(openFds()).toBe(before);
  });

  test('does not make the client ask for more: a range of triggers is given up at once', async () => {
    const all = await played({ max_msg_fds: 1 }, { timeoutMs: 300 });
    const released: number[] = [];
    const triggers = [0, 1, 2].map((vector) => ({
      ...callbackTrigger(() => {}),
      release: () => released.push(vector),
    }));
    const call = all.client.setIrqs({ flags: 0x24, index: 2, start: 0, count: 3, triggers });
    await expect(call).rejects.toMatchObject({ code: 'ERR_VFIO_TIMEOUT' });
    await all.server.receive();
    expect(await all.server.isSilent()).toBe(true);
    expect(released).toEqual([0, 1, 2]);
  });
});

test('what a client was about to keep when it was closed is not kept', async () => {
  const before = openFds();
  const all = await played();
  const given = eventfd();
  let released = 0;
  const fd = dupFd(given);
  const release = () => {
    released++;
    closeFd(fd);
  };
  const trigger = { fd, signal() {}, watch: () => () => {}, release };
  const calls = [
    all.client.getRegionInfo(0),
    all.client.setIrqs({ flags: 0x24, index: 1, start: 0, count: 1, triggers: [trigger] }),
    all.client.dmaMap({
      iova: 0n,
      size: 4096n,
      readable: true,
      writable: true,
      memory: undefined,
      release: () => released++,
    }),
  ];
  const requests = [await all.server.receive(), await all.server.receive(), await all.server.receive()];
  for (const { fds } of requests) for (const got of fds) closeFd(got);
  // All replies and the end of the connection come in one burst.
  await all.server.send(replyTo(requests[0]!, regionPayload(0, 4096, 32, 7)), [given]);
  await all.server.send(replyTo(requests[1]!));
  await all.server.send(replyTo(requests[2]!));
  all.server.close();
  for (const result of await Promise.allSettled(calls)) {
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VFIO_DISCONNECTED' } });
  }
  expect(released).toBe(2);
  // The one that was given is the test's.
  expect(openFds()).toBe(before + 1);
});

test('options out of range are refused before anything is opened', async () => {
  const before = openFds();
  for (const options of [
    { maxDataXferSize: 0 },
    { maxDataXferSize: 1.5 },
    { maxDataXferSize: 2 ** 40 },
    { timeoutMs: 0 },
  ]) {
    await expect(VfioUserClient.connect('/nowhere', options)).rejects.toMatchObject({
      code: 'ERR_VFIO_INVALID_ARGUMENT',
      errno: 'EINVAL',
    });
  }
  expect(openFds()).toBe(before);
});
