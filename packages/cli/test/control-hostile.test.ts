import { once, setMaxListeners } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ControlClient } from '../src/serve/control/client.js';
import { MAX_CALLS, MAX_CONNECTIONS, MAX_HEADER_SIZE, MAX_REQUEST_SIZE } from '../src/serve/control/protocol.js';
import { controlled } from './helpers/control.js';

const EDU = '0000:00:02.0';

const descriptors = (): number => readdirSync('/proc/self/fd').length;

/** Until something holds, which must be soon. */
async function until(holds: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`never so: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const frame = (body: string | object): string => {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
};

const request = (id: number | string, method: string, params?: unknown): object => ({
  jsonrpc: '2.0',
  id,
  method,
  ...(params === undefined ? {} : { params }),
});

async function raw(path: string): Promise<Socket & { received: string }> {
  const socket = Object.assign(connect(path), { received: '' });
  socket.on('error', () => {});
  socket.setEncoding('utf8').on('data', (text: string) => {
    socket.received += text;
  });
  await once(socket, 'connect');
  return socket;
}

/** Sends bytes; resolves when the server has let this client go. */
async function sendAndBeLeft(path: string, ...pieces: (string | Uint8Array)[]): Promise<string> {
  const socket = await raw(path);
  const closed = once(socket, 'close');
  for (const piece of pieces) socket.write(piece);
  await closed;
  return socket.received;
}

/** The server answers a client that behaves. */
async function alive(path: string): Promise<void> {
  await using client = await ControlClient.connect(path);
  expect(await client.call('state', {})).toMatchObject({ address: EDU, inUse: false });
}

test.each<[string, string]>([
  ['bytes without a line', 'x'.repeat(MAX_HEADER_SIZE)],
  ['a line that is no header', 'GET / HTTP/1.1\r\n\r\n'],
  ['no size', 'Content-Type: text\r\n\r\n{}'],
  ['a size that is no number', 'Content-Length: many\r\n\r\n{}'],
  ['a negative size', 'Content-Length: -5\r\n\r\n{}'],
  ['a size in another base', 'Content-Length: 0x10\r\n\r\n{}'],
  ['two sizes', 'Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}'],
  ['a size of 0', 'Content-Length: 0\r\n\r\n'],
  ['a size above the limit', `Content-Length: ${MAX_REQUEST_SIZE + 1}\r\n\r\n`],
  ['a giant size', 'Content-Length: 999999999999999\r\n\r\n'],
  ['a size that no number holds', `Content-Length: ${'9'.repeat(400)}\r\n\r\n`],
  ['a body that is no JSON', frame('{"jsonrpc"')],
  ['JSON that is no object', frame('7')],
  ['null', frame('null')],
  ['a batch', frame([request(1, 'info')])],
  ['another version of JSON-RPC', frame({ id: 1, method: 'info' })],
  ['a cancellation of nothing', frame({ jsonrpc: '2.0', method: '$/cancelRequest' })],
])('a client that sends %s is let go, and the next one is served', async (_, bytes) => {
  const { path } = await controlled(EDU);
  expect(await sendAndBeLeft(path, bytes)).toBe('');
  await alive(path);
});

test('any bytes at all: the server lives on', async () => {
  const { path, warnings } = await controlled(EDU);
  const piece = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 64 }),
    fc.constantFrom('Content-Length: 10\r\n\r\n', '\r\n\r\n', '{"jsonrpc":"2.0"', frame(request(1, 'hello'))),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 8 }), async (pieces) => {
      const socket = await raw(path);
      for (const bytes of pieces) socket.write(bytes);
      socket.end();
      await once(socket, 'close');
    }),
    { numRuns: 100 },
  );
  await alive(path);
  expect(warnings).toEqual([]);
});

test('a message may come in pieces of any size, and many in one piece', async () => {
  const { path } = await controlled(EDU);
  const all = [1, 2, 3].map((id) => frame(request(id, 'hello'))).join('');
  for (const size of [1, 7, all.length]) {
    const socket = await raw(path);
    for (let at = 0; at < all.length; at += size) {
      socket.write(all.slice(at, at + size));
      await new Promise(setImmediate);
    }
    await until(() => (socket.received.match(/"id":[123],/g) ?? []).length === 3);
    socket.destroy();
  }
});

test('what is a message and no call is passed over', async () => {
  const { path } = await controlled(EDU);
  const socket = await raw(path);
  for (const odd of [
    { jsonrpc: '2.0' },
    { jsonrpc: '2.0', id: 5, result: 1 },
    { jsonrpc: '2.0', id: null, error: { code: 1, message: 'x' } },
    { jsonrpc: '2.0', method: 'info' },
    { jsonrpc: '2.0', method: '$/progress', params: { token: 'x', value: 1 } },
    { jsonrpc: '2.0', method: '$/cancelRequest', params: { id: 'never' } },
    { jsonrpc: '2.0', id: {}, method: 'info' },
  ]) {
    socket.write(frame(odd));
  }
  socket.write(frame(request('last', 'hello')));
  await until(() => socket.received.includes('"id":"last"'));
  socket.destroy();
  await alive(path);
});

test.each<[string, string, unknown, number, RegExp]>([
  ['a method that is none', 'frobnicate', {}, -32601, /no method is called \\"frobnicate\\"/],
  ['a name of every object', 'constructor', {}, -32601, /no method is called/],
  ['the prototype', '__proto__', {}, -32601, /no method is called/],
  ['parameters by position', 'info', [1], -32602, /parameters go by name/],
  ['a parameter with the name of every object', 'info', { constructor: 1 }, -32602, /no parameter is called/],
])('an answer with the code of JSON-RPC, and the connection goes on: %s', async (_, method, params, code, message) => {
  const { path } = await controlled(EDU);
  const socket = await raw(path);
  socket.write(frame(request(1, method, params)));
  await until(() => socket.received.endsWith('}'));
  expect(socket.received).toContain(`"code":${code}`);
  expect(socket.received).toMatch(message);
  expect(socket.received).toContain('"data":{"code":"ERR_VFIO_');
  socket.write(frame(request(2, 'hello')));
  await until(() => socket.received.includes('"id":2'));
  socket.destroy();
});

test('a client that goes in the middle of a call: the call ends, and nothing of it is left', async () => {
  const { path, served } = await controlled(EDU);
  let traces = 0;
  const { addTrace } = served.server;
  served.server.addTrace = (sink) => {
    traces++;
    const end = addTrace.call(served.server, sink);
    return () => {
      traces--;
      end();
    };
  };
  const before = descriptors();
  for (let round = 0; round < 20; round++) {
    const socket = await raw(path);
    for (let id = 0; id < 3; id++) socket.write(frame(request(id, 'trace', { action: 'stream', progressToken: id })));
    await until(() => traces === 3);
    // In order, at once, and with half a message sent.
    if (round % 3 === 0) socket.end();
    else if (round % 3 === 1) socket.destroy();
    else socket.end('Content-Length: 50\r\n\r\n{"json');
    await until(() => traces === 0);
  }
  await until(() => descriptors() <= before);
  await alive(path);
});

test('1,000 connections: as many as allowed are kept, the others let go at once, and all are forgotten when they go', async () => {
  const { path } = await controlled(EDU);
  const before = descriptors();
  const sockets: Socket[] = [];
  let left = 0;
  for (let n = 0; n < 1000; n++) {
    const socket = connect(path);
    socket.on('error', () => {});
    socket.once('close', () => left++);
    socket.resume();
    sockets.push(socket);
    if (n % 50 === 49) await new Promise(setImmediate);
  }
  await until(() => left === 1000 - MAX_CONNECTIONS);
  await expect(ControlClient.connect(path)).rejects.toThrow(/is not the control socket|ECONN|EPIPE/);
  for (const socket of sockets) socket.destroy();
  await until(() => left === 1000);
  await until(() => descriptors() <= before);
  await alive(path);
});

test('calls beyond the limit of a client are refused, those that run go on, and other clients are served', async () => {
  const { path } = await controlled(EDU);
  await using greedy = await ControlClient.connect(path);
  const stop = new AbortController();
  setMaxListeners(MAX_CALLS, stop.signal);
  const streams = Array.from({ length: MAX_CALLS }, () =>
    greedy.call('trace', { action: 'stream' }, { signal: stop.signal }),
  );
  await expect(greedy.call('info', {})).rejects.toMatchObject({ code: 'ERR_VFIO_LIMIT', errno: 'EAGAIN' });
  await alive(path);
  stop.abort();
  expect(await Promise.all(streams)).toEqual(streams.map(() => ({ file: null })));
  expect(await greedy.call('info', {})).toMatchObject({ address: EDU });
});

test('a client that asks and asks and never reads is let go, without much being kept for it', async () => {
  const { path } = await controlled(EDU);
  const socket = connect(path);
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.pause();
  const many = Array.from({ length: 200 }, (_, id) => frame(request(id, 'metrics'))).join('');
  let isOver = false;
  socket.once('close', () => {
    isOver = true;
  });
  const before = process.memoryUsage().heapUsed;
  while (!isOver) {
    if (!socket.write(many)) {
      // Either it takes more, or it has let us go.
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {});
    }
  }
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 * 1024 ** 2);
  await alive(path);
});

test('the server ends while calls run: clients hear that it is gone, its calls are cancelled', async () => {
  const { path, control, thread } = await controlled(EDU);
  await using client = await ControlClient.connect(path);
  const call = client.call('trace', { action: 'stream' });
  await client.call('state', {});
  control.close();
  await expect(call).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED', errno: 'ENOTCONN' });
  await thread.end();
  await expect(client.call('state', {})).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
});

test('a thread that is gone fails the calls that wait, and those that come', async () => {
  const { path, calls } = await controlled(EDU);
  await using client = await ControlClient.connect(path);
  const call = client.call('trace', { action: 'stream' });
  await client.call('state', {});
  calls.end('the thread that served the function has ended');
  await expect(call).rejects.toMatchObject({ errno: 'ENODEV', device: EDU, message: /has ended/ });
  await expect(client.call('state', {})).rejects.toMatchObject({ errno: 'ENODEV' });
});

test('a client cancels: the call ends as the method says, or with the reason where it was cancelled before', async () => {
  const { path } = await controlled(EDU);
  await using client = await ControlClient.connect(path);
  const stop = new AbortController();
  const call = client.call('trace', { action: 'stream' }, { signal: stop.signal });
  await client.call('state', {});
  stop.abort(new Error('enough'));
  expect(await call).toEqual({ file: null });
  await expect(client.call('info', {}, { signal: stop.signal })).rejects.toThrow('enough');
});
