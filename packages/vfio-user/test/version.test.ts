/** VERSION: hand-packed, as a client would send it. */
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u16, u32 } from './helpers/raw-client.js';
import { eventfd, serve } from './helpers/serve.js';

const json = (text: string) => bytes(text, [0]);
const caps = (capabilities: object) => json(JSON.stringify({ capabilities }));

async function errnoOf(payload: Uint8Array): Promise<number> {
  const device = new FakeDevice();
  const { raw, idle } = await serve(device);
  const client = raw();
  const errno = await client.fails(1, payload);
  await client.untilClosed();
  await idle();
  expect(device.opens).toBe(0);
  return errno;
}

test.each([
  ['a payload shorter than the two numbers', u16(0)],
  ['another major version', u16(1, 0)],
  ['JSON without its NUL', bytes(u16(0, 1), '{}')],
  ['an empty text', bytes(u16(0, 1), [0])],
  ['JSON without its closing brace', bytes(u16(0, 1), json('{ "capabilities": { "max_msg_fds": 1 }'))],
  ['JSON without a closing quote', bytes(u16(0, 1), json('{ "capabilities: { "max_msg_fds": 1 } }'))],
  ['a text that is no object', bytes(u16(0, 1), json('17'))],
  ['a list for an object', bytes(u16(0, 1), json('[]'))],
  ['capabilities that are no object', bytes(u16(0, 1), json('{ "capabilities": "23" }'))],
  ['max_msg_fds that is a string', bytes(u16(0, 1), caps({ max_msg_fds: '8' }))],
  ['max_msg_fds below 0', bytes(u16(0, 1), caps({ max_msg_fds: -1 }))],
  ['max_msg_fds above 1024', bytes(u16(0, 1), caps({ max_msg_fds: 1025 }))],
  ['max_data_xfer_size of nothing', bytes(u16(0, 1), caps({ max_data_xfer_size: 0 }))],
  ['max_data_xfer_size that is no whole number', bytes(u16(0, 1), caps({ max_data_xfer_size: 1.5 }))],
  ['migration that is no object', bytes(u16(0, 1), caps({ migration: '23' }))],
  ['a migration page size that is a string', bytes(u16(0, 1), caps({ migration: { pgsize: '4096' } }))],
  ['a migration page size that is no page', bytes(u16(0, 1), caps({ migration: { pgsize: 4095 } }))],
  ['twin_socket that is no object', bytes(u16(0, 1), caps({ twin_socket: true }))],
  ['write_multiple that is a number', bytes(u16(0, 1), caps({ write_multiple: 1 }))],
])('%s is answered EINVAL, the connection is closed, the device was not opened', async (_name, payload) => {
  expect(await errnoOf(payload)).toBe(22);
});

test('any other first command is answered EINVAL and the connection is closed', async () => {
  const device = new FakeDevice();
  const { raw } = await serve(device);
  const client = raw();
  expect(await client.fails(4, u32(16, 0, 0, 0))).toBe(22);
  await client.untilClosed();
  expect(device.opens).toBe(0);
});

test('a VERSION with descriptors is refused', async () => {
  const { raw } = await serve(new FakeDevice());
  const client = raw();
  expect(await client.fails(1, bytes(u16(0, 1), json('{}')), [eventfd()])).toBe(22);
  await client.untilClosed();
});

test('a second VERSION is refused, and the connection lives', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  expect(await client.fails(1, bytes(u16(0, 2), json('{}')))).toBe(22);
  await client.ok(4, u32(16, 0, 0, 0));
});

test.each([
  [0, 0],
  [1, 1],
  [2, 2],
  [3, 2],
  [0xffff, 2],
])('a proposal of 0.%i is answered 0.%i', async (proposed, answered) => {
  const { raw } = await serve(new FakeDevice());
  const reply = await raw().ok(1, bytes(u16(0, proposed), json('{}')));
  expect(reply.subarray(0, 4)).toEqual(u16(0, answered));
});

test('without JSON the answer has none; an empty object is answered by one', async () => {
  const { raw, idle } = await serve(new FakeDevice());
  const first = raw();
  expect(await first.ok(1, u16(0, 1))).toEqual(u16(0, 1));
  first.close();
  await idle();
  expect(await raw().ok(1, bytes(u16(0, 1), json('{}')))).toEqual(bytes(u16(0, 1), json('{}')));
});

test('[vfio-user 7.8] only offered keys are answered, with our value; limits may only fall', async () => {
  const { raw, idle } = await serve(new FakeDevice(), { maxDmaMaps: 100, maxDataXferSize: 8192 });
  const answer = async (offer: object) => {
    const client = raw();
    const found = await client.negotiate(offer);
    client.close();
    await idle();
    return found;
  };
  expect(await answer({})).toEqual({});
  expect(await answer({ max_msg_fds: 1, padding: 'x'.repeat(20) })).toEqual({ max_msg_fds: 16 });
  expect(await answer({ max_msg_fds: 253 })).toEqual({ max_msg_fds: 253 });
  expect(await answer({ max_data_xfer_size: 1048576 })).toEqual({ max_data_xfer_size: 8192 });
  expect(await answer({ max_dma_maps: 65535 })).toEqual({ max_dma_maps: 100 });
  expect(await answer({ max_dma_maps: 50 })).toEqual({ max_dma_maps: 50 });
  expect(await answer({ pgsizes: 4096 })).toEqual({ pgsizes: 4096 });
  expect(await answer({ write_multiple: true })).toEqual({ write_multiple: true });
  expect(await answer({ write_multiple: false })).toEqual({});
  expect(await answer({ twin_socket: { supported: false }, padding: 'x'.repeat(40) })).toEqual({});
  expect(await answer({ unknown: 1 })).toEqual({});
  expect(await answer({ migration: { pgsize: 4096 } })).toEqual({});
});

test('migration is answered where the device has it, with the keys that were offered', async () => {
  const device = new FakeDevice({ deviceFeature: () => ({ flags: 1 }) });
  const { raw, idle } = await serve(device);
  const first = raw();
  expect(await first.negotiate({ migration: { pgsize: 4096 } })).toEqual({ migration: { pgsize: 4096 } });
  first.close();
  await idle();
  expect(await raw().negotiate({ migration: { pgsize: 65536, max_bitmap_size: 1000 } })).toEqual({
    migration: { pgsize: 65536, max_bitmap_size: 1000 },
  });
});

test('a second socket is answered with its descriptor, and nothing else came', async () => {
  const { raw } = await serve(new FakeDevice());
  const client = raw();
  const payload = bytes(u16(0, 2), caps({ twin_socket: { supported: true, fd_index: 0 } }));
  const reply = await client.call(1, payload);
  expect(JSON.parse(reply.payload.subarray(4, -1).toString())).toEqual({
    capabilities: { twin_socket: { supported: true, fd_index: 0 } },
  });
  expect(reply.fds).toHaveLength(1);
  for (const fd of reply.fds) (await import('@vfio/native')).closeFd(fd);
});

test('[vfio-user 7.8] the answer is never longer than the request: what does not fit is left out, the least important first', async () => {
  const { raw, idle } = await serve(new FakeDevice());
  const whole =
    '{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1,"max_dma_maps":1,"pgsizes":1,"write_multiple":true}}';
  const client = raw();
  const reply = await client.ok(1, bytes(u16(0, 2), json(whole)));
  expect(reply.length).toBeLessThanOrEqual(4 + whole.length + 1);
  expect(JSON.parse(reply.subarray(4, -1).toString())).toEqual({
    capabilities: { max_data_xfer_size: 1048576, max_msg_fds: 9, max_dma_maps: 1, write_multiple: true },
  });
  client.close();
  await idle();
  const tight = await raw().ok(1, bytes(u16(0, 2), json('{"capabilities":{"max_msg_fds":1}}')));
  expect(tight.subarray(4).toString()).toBe('{"capabilities":{"max_msg_fds":9}}\0');
});

test('a VERSION that wants no answer cannot be agreed on: the connection is closed', async () => {
  const { raw } = await serve(new FakeDevice());
  const client = raw();
  await client.send(message(1, 1, bytes(u16(0, 2), json('{}')), 0x10));
  await client.untilClosed();
});

test('a device that cannot be opened: the client is told why and left, the next one may try', async () => {
  const { errnoError } = await import('@vfio/uapi');
  let attempts = 0;
  const device = new FakeDevice({
    open: async () => {
      if (attempts++ === 0) throw errnoError('EACCES', 'a token is needed');
    },
  });
  const { raw, idle, attached } = await serve(device);
  const client = raw();
  expect(await client.fails(1, bytes(u16(0, 2), json('{}')))).toBe(13);
  await client.untilClosed();
  await idle();
  await attached();
  expect(device.opens).toBe(1);
});

test('a client that says nothing is left after a while, and the next one attaches', async () => {
  const { raw, attached, detached } = await serve(new FakeDevice(), { versionTimeoutMs: 60 });
  const silent = raw();
  const next = attached();
  await silent.untilClosed();
  await next;
  expect(detached[0]).toMatch(/no VERSION within 60 ms/);
});
