import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { closeFd, listenUnix, socketpair } from '@vfio/native';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import { command, Serving, start, text } from './helpers/command.js';
import { folder } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const CONFIG_REGION = 7;
const EDU_IDENTIFICATION = 0x010000ed;

/** A place for the sockets of one test. */
const place = (): string => mkdtempSync(join(folder, 's-'));

async function ids(path: string): Promise<string> {
  await using client = await VfioUserClient.connect(path);
  const bytes = new Uint8Array(4);
  await client.read(CONFIG_REGION, 0, bytes);
  const view = new DataView(bytes.buffer);
  return `${view.getUint16(0, true).toString(16)}:${view.getUint16(2, true).toString(16)}`;
}

test('[vfio-user 7.31] serves until SIGTERM: events as the schema says, sockets gone at the end, exit code 0', async () => {
  const path = join(place(), 'nvme');
  const server = new Serving(['01:00.0', '--socket-path', path]);
  const ready = await server.next('ready');
  expect(ready.devices).toEqual([{ driver: 'vfio-user-pci', socket: { type: 'unix', path } }]);
  expect(ready.commandLine).toContain('share=on');
  expect(ready.note).toMatch(/do not migrate/);
  expect(await ids(path)).toBe('1b36:10');
  await server.next('detached');
  expect(await server.end()).toBe(0);
  expect(existsSync(path)).toBe(false);
  for (const event of server.events) expectSchema('serve', event);
  expect(server.events.map(({ type }) => type)).toEqual(['listening', 'ready', 'attached', 'detached']);
  expect(server.events[0]).toEqual({
    type: 'listening',
    address: '0000:01:00.0',
    driver: 'nvme_vfio_pci',
    ops: 'nvme-vfio-pci',
    socket: path,
  });
  expect(server.events[2]).toMatchObject({ peer: 'other', pid: process.pid });
});

test.each(['SIGINT', 'SIGTERM'] as const)(
  '[vfio-user 7.31] %s ends it in order while a client is attached',
  async (signal) => {
    const path = join(place(), 'edu');
    const server = new Serving(['00:02.0', '--socket-path', path]);
    await server.next('ready');
    await using _client = await VfioUserClient.connect(path);
    await server.next('attached');
    expect(await server.end(signal)).toBe(0);
    expect(server.events.at(-1)).toMatchObject({ type: 'detached' });
    expect(existsSync(path)).toBe(false);
  },
);

test('two functions in two threads: each has its socket and driver, and one client does not keep the other', async () => {
  const [a, b] = [join(place(), 'a'), join(place(), 'b')];
  const args = ['01:00.0', '00:02.0', '--socket-path', a, '--socket-path', b, '--threads', '2'];
  const server = new Serving([...args, '--driver', 'vfio-pci']);
  const ready = await server.next('ready');
  expect(ready.devices.map(({ socket }) => socket.path)).toEqual([a, b]);
  await using _held = await VfioUserClient.connect(a);
  expect(await ids(b)).toBe('1234:11e8');
  expect(server.events.filter(({ type }) => type === 'listening')).toHaveLength(2);
  expect(await server.end()).toBe(0);
});

test('with a namespace in a file, threads that do not serve its controller leave the file alone', async () => {
  const at = place();
  const file = join(at, 'disk');
  const sockets = ['--socket-path', join(at, 'a'), '--socket-path', join(at, 'b')];
  const args = ['00:02.0', '01:00.0', ...sockets, '--threads', '2', '--nvme-file', file, '--nvme-size', '64M'];
  for (let run = 0; run < 2; run++) {
    const server = new Serving(args);
    await server.next('ready');
    expect(await server.end()).toBe(0);
    expect(server.events.filter(({ type }) => type === 'warning')).toEqual([]);
    expect(statSync(file).size).toBe(64 * 1024 ** 2);
  }
});

test('for people: what is served, a command line for QEMU, and the warning about migration', async () => {
  const path = join(place(), "it's");
  const child = start(['serve', '00:02.0', '--socket-path', path]);
  const out = text(child.stdout);
  while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 20));
  await expect(ids(path)).resolves.toBe('1234:11e8');
  const closed = once(child, 'close');
  child.kill();
  expect(await closed).toEqual([0, null]);
  expect(await out).toContain(`0000:00:02.0  driver vfio-pci, on ${path}\n`);
  expect(await out).toContain(
    `  -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"${path.replace("'", "'\\''")}"}}'`,
  );
  expect(await out).toMatch(/^note: do not migrate a guest/m);
  expect(await out).toMatch(/^0000:00:02.0 {2}client attached: other, pid \d+$/m);
});

test('a reader of its events that goes away ends it in order', async () => {
  const path = join(place(), 'edu');
  const child = start(['serve', '00:02.0', '--socket-path', path, '--json']);
  await once(child.stdout as NodeJS.ReadableStream, 'readable');
  child.stdout?.destroy();
  while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 20));
  const closed = once(child, 'close');
  // Attaching and going are events, which nobody reads any more.
  await ids(path).catch(() => {});
  expect(await closed).toEqual([0, null]);
  expect(existsSync(path)).toBe(false);
});

test('[vfio-user 7.31] --fd takes over a socket that was inherited', async () => {
  const path = join(place(), 'inherited');
  const fd = listenUnix(path);
  const server = new Serving(['00:02.0', '--fd', '3'], { stdio: ['ignore', 'pipe', 'pipe', fd] });
  const ready = await server.next('ready');
  expect(ready).toMatchObject({ devices: [], commandLine: null });
  expect(server.events[0]).toMatchObject({ type: 'listening', socket: null });
  expect(await ids(path)).toBe('1234:11e8');
  expect(await server.end()).toBe(0);
});

test('--fd serves an inherited connection, and ends in order when its client goes: nobody else can come', async () => {
  const [ours, theirs] = socketpair();
  const server = new Serving(['00:02.0', '--fd', '3'], { stdio: ['ignore', 'pipe', 'pipe', theirs] });
  const closed = once(server.child, 'close');
  closeFd(theirs);
  await server.next('ready');
  closeFd(ours);
  await server.next('detached');
  expect(await closed).toEqual([0, null]);
});

test('--socket-mode and --socket-group are the socket file, 0600 without them', async () => {
  const at = place();
  const modeOf = async (path: string, ...args: string[]): Promise<[string, number]> => {
    const server = new Serving(['00:02.0', '--socket-path', path, ...args]);
    await server.next('ready');
    const { mode, gid } = statSync(path);
    await server.end();
    return [(mode & 0o777).toString(8), gid];
  };
  const group = process.getgid?.() ?? 0;
  expect(await modeOf(join(at, 'a'))).toEqual(['600', group]);
  expect(await modeOf(join(at, 'b'), '--socket-mode', '640')).toEqual(['640', group]);
  expect(await modeOf(join(at, 'c'), '--socket-group', String(group))).toEqual(['660', group]);
});

test('--trace appends one decoded line for each message, of every function', async () => {
  const at = place();
  const trace = join(at, 'trace');
  writeFileSync(trace, 'what was there\n');
  const server = new Serving(['00:02.0', '--socket-path', join(at, 'edu'), '--trace', trace]);
  await server.next('ready');
  {
    await using client = await VfioUserClient.connect(join(at, 'edu'));
    await client.write(CONFIG_REGION, 4, Uint8Array.of(2, 0));
    const bytes = new Uint8Array(4);
    await client.read(0, 0, bytes);
    expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(EDU_IDENTIFICATION);
  }
  await server.next('detached');
  await server.end();
  const lines = readFileSync(trace, 'utf8').trimEnd().split('\n');
  expect(lines.shift()).toBe('what was there');
  for (const line of lines) expect(line).toMatch(/^ *\d+\.\d{6} 0000:00:02.0 ([<>] 0x[0-9a-f]{4} [A-Z_]+|- end:)/);
  expect(lines.some((line) => /> 0x[0-9a-f]{4} REGION_READ region 0 offset 0x0 count 4/.test(line))).toBe(true);
  expect(lines.some((line) => /< 0x[0-9a-f]{4} REGION_READ reply .*ed 00 00 01/.test(line))).toBe(true);
});

test('a socket file that a dead server left is taken over, one that is in use is not', async () => {
  const at = place();
  const path = join(at, 'edu');
  const first = new Serving(['00:02.0', '--socket-path', path]);
  await first.next('ready');
  const second = await command(['serve', '00:02.0', '--socket-path', path]);
  expect(second).toMatchObject({ code: 1 });
  expect(second.err).toMatch(/a server answers there \(ERR_VFIO_BUSY, EADDRINUSE\)\ntry: name another socket/);
  expect(await ids(path)).toBe('1234:11e8');
  await first.end('SIGKILL');
  expect(existsSync(path)).toBe(true);
  const third = new Serving(['00:02.0', '--socket-path', path]);
  await third.next('ready');
  expect(await ids(path)).toBe('1234:11e8');
  expect(await third.end()).toBe(0);
});

test('when one function cannot be served none is, and nothing stays behind', async () => {
  const at = place();
  mkdirSync(join(at, 'folder'));
  for (const threads of ['1', '2']) {
    const sockets = ['--socket-path', join(at, 'a'), '--socket-path', join(at, 'nosuch/b')];
    const { code, err } = await command(['serve', '01:00.0', '00:02.0', ...sockets, '--threads', threads]);
    expect(code).toBe(1);
    expect(err).toMatch(/^vfio: bind .*nosuch\/b: ENOENT .*\ntry: is the path right/);
    expect(existsSync(join(at, 'a'))).toBe(false);
  }
});

test.each<[string, readonly string[], RegExp]>([
  [
    'a descriptor that is not open',
    ['00:02.0', '--fd', '77'],
    /descriptor 77: EBADF.*\ntry: the descriptor of a socket/,
  ],
  [
    'a descriptor that is no socket',
    ['00:02.0', '--fd', '3'],
    /descriptor 3: ENOTSOCK.*\ntry: the descriptor of a socket/,
  ],
  ['a group that is not there', ['00:02.0', '--socket-path', 'S', '--socket-group', 'nosuch'], /group nosuch: .*none/],
  [
    'a driver that is not there',
    ['00:02.0', '--socket-path', 'S', '--driver', 'nosuch'],
    /no driver is called "nosuch"/,
  ],
  ['a bridge', ['00:1c.0', '--socket-path', 'S'], /bridges cannot be VFIO devices/],
  ['a function that is not there', ['7f:00.0', '--socket-path', 'S'], /no function 0000:7f:00.0/],
  [
    'a trace that cannot be written',
    ['00:02.0', '--socket-path', 'S', '--trace', '/nosuch/t'],
    /trace file \/nosuch\/t: ENOENT \(ERR_VFIO_SYSCALL, ENOENT\)/,
  ],
  [
    'a file that cannot be made',
    ['01:00.0', '--socket-path', 'S', '--nvme-file', '/nosuch/f'],
    /open \/nosuch\/f: ENOENT \(ERR_VFIO_SYSCALL, ENOENT\)/,
  ],
])('exit code 1 and a sentence: %s', async (_, args, message) => {
  const path = join(place(), 'socket');
  const { code, out, err } = await command(['serve', ...args.map((word) => (word === 'S' ? path : word))]);
  expect({ code, out }).toEqual({ code: 1, out: '' });
  expect(err).toMatch(message);
  expect(err).not.toMatch(/^ +at /m);
  expect(existsSync(path)).toBe(false);
});

test('a plain file in the place of the socket is not taken for a stale one', async () => {
  const path = join(place(), 'precious');
  writeFileSync(path, 'data');
  const { code, err } = await command(['serve', '00:02.0', '--socket-path', path]);
  expect(code).toBe(1);
  expect(err).toMatch(/precious: a file that is not a socket is there .*EADDRINUSE\)\ntry: name another socket$/m);
  expect(readFileSync(path, 'utf8')).toBe('data');
});

test('a socket on which somebody else listens is left alone', async () => {
  const path = join(place(), 'other');
  const other = createServer().listen(path);
  await once(other, 'listening');
  expect((await command(['serve', '00:02.0', '--socket-path', path])).code).toBe(1);
  expect(existsSync(path)).toBe(true);
  other.close();
});
