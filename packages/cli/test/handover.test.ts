import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import { ControlClient } from '../src/serve/control/client.js';
import { command, Serving } from './helpers/command.js';
import { EDU_PROJECT } from './helpers/movable-edu.js';
import { folder, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const LIVENESS = 4;
const EDU = '0000:03:00.0';

/** A project with a later version of the same driver. */
const NEWER_PROJECT = join(folder, 'newer');
cpSync(EDU_PROJECT, NEWER_PROJECT, { recursive: true, verbatimSymlinks: true });
const manifest = join(NEWER_PROJECT, 'node_modules/movable-edu/package.json');
writeFileSync(manifest, readFileSync(manifest, 'utf8').replace('"1.2.3"', '"1.3.0"'));

const value = (byte: number) => Uint8Array.of(~byte & 0xff, 0xff, 0xff, 0xff);

async function read(client: VfioUserClient): Promise<number | undefined> {
  const bytes = new Uint8Array(4);
  await client.read(0, LIVENESS, bytes);
  return bytes[0];
}

/** A server with a client of this process, which has set its device to something. */
async function served(stateBytes = 4096) {
  const at = mkdtempSync(join(folder, 'h-'));
  const [socket, control] = [join(at, 'socket'), join(at, 'control')];
  const env = { EDU_STATE_BYTES: String(stateBytes) };
  const server = new Serving([EDU, '--socket-path', socket, '--control-path', control], { cwd: EDU_PROJECT, env });
  await server.next('ready');
  const client = await VfioUserClient.connect(socket);
  await client.write(7, 4, Uint8Array.of(6, 0));
  await client.write(0, LIVENESS, value(0x5a));
  return { server, client, socket, control };
}

/** A server that waits for a client of another one. */
async function waiting(cwd = EDU_PROJECT, stateBytes = 4096) {
  const at = mkdtempSync(join(folder, 'w-'));
  const [incoming, control] = [join(at, 'incoming'), join(at, 'control')];
  const env = { EDU_STATE_BYTES: String(stateBytes) };
  const server = new Serving([EDU, '--incoming', incoming, '--control-path', control], { cwd, env });
  const event = await server.next('waiting');
  expectSchema('serve', event);
  expect(event).toMatchObject({ address: EDU, driver: 'movable_edu', incoming });
  await server.next('ready');
  return { server, incoming, control };
}

async function info(control: string) {
  await using client = await ControlClient.connect(control);
  return await client.call('info', {});
}

test('a device changes its process and the version of its driver under its client', async () => {
  const a = await served();
  const b = await waiting(NEWER_PROJECT);
  const ended = once(a.server.child, 'close');
  expect((await info(a.control)).version).toBe('1.2.3');
  const { code, out, err } = await command(['handover', '--from', a.control, '--to', b.incoming, '--json']);
  expect([code, err]).toEqual([0, '']);
  const result = JSON.parse(out);
  expectSchema('handover', result);
  expect(result).toMatchObject({ address: EDU, pid: b.server.child.pid, stateBytes: 4100, maps: 0 });
  expect(await read(a.client)).toBe(0x5a);
  expect(await info(b.control)).toMatchObject({ version: '1.3.0', socket: a.socket, client: { pid: process.pid } });
  // The first one has nothing left to do.
  await expect(a.server.next('warning')).rejects.toThrow('ended');
  expect([(await ended)[0], await a.server.stderr]).toEqual([0, '']);
  expect([existsSync(a.control), existsSync(b.incoming), existsSync(a.socket)]).toEqual([false, false, true]);

  // And back to the older one, which is only another handover.
  const c = await waiting();
  const back = await command(['handover', '--from', b.control, '--to', c.incoming]);
  expect(back.out).toMatch(new RegExp(`^${EDU}  handed over, now served by pid ${c.server.child.pid}\n  pause: .* ms`));
  await a.client.write(0, LIVENESS, value(0x77));
  expect(await read(a.client)).toBe(0x77);
  await a.client.close();
  // The next client finds the last server at the path of the first one.
  await c.server.next('detached');
  const next = await VfioUserClient.connect(a.socket);
  await next.close();
  expect(await c.server.end()).toBe(0);
  expect(existsSync(a.socket)).toBe(false);
}, 60_000);

test('a server that dies in the middle leaves the client where it was', async () => {
  const size = 48 * 1024 * 1024;
  const a = await served(size);
  const b = await waiting(EDU_PROJECT, size);
  const handover = command(['handover', '--from', a.control, '--to', b.incoming, '--max-pause', '4000']);
  await using control = await ControlClient.connect(a.control);
  while ((await control.call('state', {})).migration !== 'STOP_COPY') await delay(5);
  b.server.child.kill('SIGKILL');
  const { code, err } = await handover;
  expect([code, err]).toEqual([1, expect.stringContaining('the other server has left')]);
  expect(await read(a.client)).toBe(0x5a);
  expect((await control.call('state', {})).migration).toBe('RUNNING');
  // It can be tried again.
  const c = await waiting(EDU_PROJECT, 4096);
  const refused = await command(['handover', '--from', a.control, '--to', c.incoming, '--max-pause', '4000']);
  expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('of the state is wrong')]);
  expect(await read(a.client)).toBe(0x5a);
  await a.client.close();
}, 60_000);

test('a server that has no room for the descriptors says so, and the client stays', async () => {
  const a = await served();
  const b = await waiting();
  const { pid } = b.server.child;
  // Room for the connection of the other server, and for nothing that comes with it.
  const limit = readdirSync(`/proc/${pid}/fd`).length + 1;
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${limit}:${limit}`]);
  const { code, err } = await command(['handover', '--from', a.control, '--to', b.incoming]);
  expect([code, err]).toEqual([1, expect.stringMatching(/no room for the descriptors.*EMFILE/)]);
  expect(await read(a.client)).toBe(0x5a);
  await a.client.close();
}, 60_000);

test('what cannot be is said: nobody waits, no client, another function, options that do not go together', async () => {
  const a = await served();
  const nobody = await vfio(['handover', '--from', a.control, '--to', '/nowhere']);
  expect([nobody.code, nobody.err]).toEqual([1, expect.stringContaining('ENOENT')]);
  await a.client.close();
  await a.server.next('detached');
  const b = await waiting();
  const alone = await vfio(['handover', '--from', a.control, '--to', b.incoming]);
  expect([alone.code, alone.err]).toEqual([1, expect.stringContaining('no client has attached')]);
  for (const wrong of [
    ['serve', EDU, '--incoming', 'x', '--socket-path', 'y'],
    ['serve', EDU, '--incoming', 'x', '--fd', '3'],
    ['serve', EDU, '--incoming', ''],
    ['serve', EDU, '--incoming', 'x', '--control-path', 'x'],
    ['serve', EDU, '0000:00:02.0', '--incoming', 'x'],
    ['handover', '--from', 'x'],
    ['handover', '--from', 'x', '--to', 'y', '--max-pause', '5000'],
  ]) {
    expect((await vfio(wrong)).code, wrong.join(' ')).toBe(2);
  }
}, 60_000);
