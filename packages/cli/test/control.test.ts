import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { listenUnix } from '@vfio/native';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import { ControlClient } from '../src/serve/control/client.js';
import type { TraceProgress } from '../src/serve/methods/trace.js';
import { command, Serving } from './helpers/command.js';
import { folder } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const CONFIG_REGION = 7;

/** A server of an NVMe and an edu function, in two threads, with a control socket. */
async function serving(...more: string[]) {
  const at = mkdtempSync(join(folder, 'c-'));
  const [nvme, edu, control] = [join(at, 'nvme'), join(at, 'edu'), join(at, 'control')];
  const sockets = ['--socket-path', nvme, '--socket-path', edu, '--control-path', control];
  const server = new Serving(['01:00.0', '00:02.0', '--threads', '2', ...sockets, ...more]);
  const ready = await server.next('ready');
  return { server, ready, at, nvme, edu, control };
}

const NVME = '0000:01:00.0';
const EDU = '0000:00:02.0';

test('the control socket is the owner’s alone, the server says where it is, and it goes with the server', async () => {
  const { server, ready, control } = await serving();
  expect(ready.control).toBe(control);
  expect((statSync(control).mode & 0o777).toString(8)).toBe('600');
  expect(await server.end()).toBe(0);
  expect(existsSync(control)).toBe(false);
});

test('a control socket that a dead server left is replaced, one on which somebody listens is not', async () => {
  const { server, control, at } = await serving();
  const args = ['serve', '00:02.0', '--socket-path', join(at, 'other'), '--control-path', control];
  const { code, err } = await command(args);
  expect(code).toBe(1);
  expect(err).toMatch(/EADDRINUSE/);
  expect(existsSync(join(at, 'other'))).toBe(false);
  server.child.kill('SIGKILL');
  const again = new Serving(args.slice(1));
  expect((await again.next('ready')).control).toBe(control);
  expect(await again.end()).toBe(0);
});

test('the methods answer for each function, in its thread, and as the schema says', async () => {
  const { server, control, nvme } = await serving();
  for (const method of ['info', 'state', 'metrics']) {
    const { code, out } = await command(['control', method, control, '--json']);
    expect(code).toBe(0);
    const document = JSON.parse(out) as { functions: { address: string }[] };
    expect(document.functions.map(({ address }) => address)).toEqual([NVME, EDU]);
    expectSchema(`control-${method}`, document);
  }
  await using client = await ControlClient.connect(control);
  expect(client.hello).toMatchObject({ server: 'vfio serve', pid: server.child.pid, functions: [NVME, EDU] });
  expect(await client.call('info', {}, { address: NVME })).toMatchObject({
    ids: '1b36:0010',
    driver: 'nvme_vfio_pci',
    ops: 'nvme-vfio-pci',
    version: expect.stringMatching(/^\d+\.\d+\.\d+/),
    socket: nvme,
    client: null,
    pid: server.child.pid,
  });
  await server.end();
});

test('a client that attaches, reads and goes is seen by info, state and metrics', async () => {
  const { server, control, edu } = await serving();
  await using client = await ControlClient.connect(control);
  const options = { address: EDU };
  const started = Date.now();
  {
    await using user = await VfioUserClient.connect(edu);
    await user.read(CONFIG_REGION, 0, new Uint8Array(4));
    const { client: attached } = await client.call('info', {}, options);
    expect(attached).toMatchObject({ peer: 'other', pid: process.pid });
    expect(Date.parse(attached?.since ?? '')).toBeGreaterThanOrEqual(started - 1);
    expect(await client.call('state', {}, options)).toMatchObject({ inUse: true, power: 'D0', streaming: false });
    const metrics = await client.call('metrics', {}, options);
    expect(metrics).toMatchObject({ clients: 1, queue: { messages: 0, bytes: 0, running: null } });
    expect(metrics.commands['REGION_READ']).toEqual({ messages: 1, errors: 0, bytes: 32 });
    const received = Object.values(metrics.commands).reduce((sum, { bytes }) => sum + bytes, 0);
    expect(metrics.bytes.received).toBe(received);
    expect(metrics.bytes.sent).toBeGreaterThan(32);
  }
  await server.next('detached');
  expect(await client.call('state', {}, options)).toMatchObject({ inUse: false, client: null });
  // The other function's counts are its own.
  expect(await client.call('metrics', {}, { address: NVME })).toMatchObject({ clients: 0, commands: {} });
  await server.end();
});

test('trace to the caller: every message as a line, until the call is cancelled', async () => {
  const { server, control, edu } = await serving();
  await using client = await ControlClient.connect(control);
  const stop = new AbortController();
  const lines: string[] = [];
  let enough = (): void => {};
  const seen = new Promise<void>((resolve) => {
    enough = resolve;
  });
  const onProgress = (progress: TraceProgress): void => {
    lines.push(...progress.lines);
    if (lines.some((line) => line.includes('end:'))) enough();
  };
  const tracing = client.call('trace', { action: 'stream' }, { address: EDU, onProgress, signal: stop.signal });
  // Answered after the trace has begun: calls of one client arrive in order.
  await client.call('state', {}, { address: EDU });
  {
    await using user = await VfioUserClient.connect(edu);
    await user.read(CONFIG_REGION, 0, new Uint8Array(4));
  }
  await seen;
  stop.abort();
  expect(await tracing).toEqual({ file: null });
  expect(lines.filter((line) => line.includes('REGION_READ'))).toHaveLength(2);
  await server.end();
});

test('trace to a file: it is written whoever stays connected, once at a time, until it is stopped', async () => {
  const { server, control, edu, at } = await serving();
  const file = join(at, 'trace');
  const trace = (...args: string[]) => command(['control', 'trace', control, '--address', '00:02.0', ...args]);
  expect(await trace('--file', file)).toMatchObject({ code: 0, out: `the trace goes to ${file}\n` });
  expect((await trace('--file', file)).err).toMatch(/goes to .*trace already \(ERR_VFIO_EXISTS, EEXIST\)/);
  await (await VfioUserClient.connect(edu)).close();
  await server.next('detached');
  expect(await trace('--stop')).toMatchObject({ code: 0, out: 'no trace is written any more\n' });
  expect((await trace('--stop')).err).toMatch(/no trace goes to a file/);
  const written = readFileSync(file, 'utf8');
  expect(written).toMatch(/> 0x[0-9a-f]{4} VERSION/);
  await (await VfioUserClient.connect(edu)).close();
  await server.next('detached');
  expect(readFileSync(file, 'utf8')).toBe(written);
  expect((await trace('--file', '/nosuch/trace')).err).toMatch(/trace file \/nosuch\/trace: ENOENT/);
  await server.end();
});

test('bad parameters are refused with a sentence, whoever finds them: the socket or the method', async () => {
  const { server, control } = await serving();
  await using client = await ControlClient.connect(control);
  const refused = async (method: 'info' | 'trace', params: object, message: RegExp): Promise<void> => {
    const call = client.call(method, params as never);
    await expect(call).rejects.toMatchObject({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL' });
    await expect(call).rejects.toThrow(message);
  };
  const address = EDU;
  await refused('info', { address, colour: 'red' }, /^info: no parameter is called "colour"; it takes none$/);
  await refused('info', { address: '0000:7f:00.0' }, /0000:7f:00.0 is not served here/);
  await refused('info', { address: 'here' }, /"here"/);
  await refused('info', { address: 5 }, /address is one of 0000:01:00.0, 0000:00:02.0/);
  await refused('info', {}, /address is one of/);
  await refused('info', { address, progressToken: {} }, /progressToken is a string or a number/);
  await refused('trace', { address }, /action is undefined: one of stream, start, stop/);
  await refused('trace', { address, action: 'go' }, /action is "go"/);
  await refused('trace', { address, action: 'start' }, /file is missing/);
  await refused('trace', { address, action: 'start', file: 7 }, /file is 7/);
  await refused('trace', { address, action: 'start', file: '/a\0b' }, /without NUL/);
  await refused('trace', { address, action: 'start', file: 'trace' }, /not absolute/);
  await refused('trace', { address, action: 'stop', file: '/t' }, /no parameter is called "file"; it takes action/);
  await server.end();
});

test.each<[string, (at: string) => string, RegExp]>([
  ['nothing is there', (at) => join(at, 'none'), /ENOENT \(ERR_VFIO_SYSCALL, ENOENT\)\ntry: is the path right/],
  ['a socket for VMMs', (at) => join(at, 'edu'), /edu is not the control socket of a vfio serve.*EPROTO/],
  ['a file', (at) => join(at, 'plain'), /plain: ECONNREFUSED/],
])('vfio control says what is wrong with the path: %s', async (_, path, message) => {
  const { server, at } = await serving();
  writeFileSync(join(at, 'plain'), '');
  const { code, err, out } = await command(['control', 'info', path(at)]);
  expect({ code, out }).toEqual({ code: 1, out: '' });
  expect(err).toMatch(message);
  await server.end();
});

test('a socket that nobody accepts on is given up in time', async () => {
  const path = join(mkdtempSync(join(folder, 'c-')), 'silent');
  listenUnix(path);
  await expect(ControlClient.connect(path, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'ERR_VFIO_TIMEOUT' });
});
