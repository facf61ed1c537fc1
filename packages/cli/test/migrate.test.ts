import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { closeFd, memfdCreate, mmap } from '@vfio/native';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import { ControlClient } from '../src/serve/control/client.js';
import { command, Serving, start, text } from './helpers/command.js';
import { EDU_PROJECT } from './helpers/movable-edu.js';
import { folder, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const PAGE = 4096;
const IOVA = 0x100000n;
const LIVENESS = 4;
const COMMAND = 4;
const CONFIG_REGION = 7;
/** An edu that can be reset. */
const EDU = '0000:03:00.0';

interface SideOptions {
  readonly pages?: number;
  readonly stateBytes?: number;
  readonly address?: string;
}

/** A `vfio serve` process, with a client of this process that has given it memory. */
async function side({ pages = 16, stateBytes = 4096, address = EDU }: SideOptions = {}) {
  const at = mkdtempSync(join(folder, 'm-'));
  const [socket, control] = [join(at, 'socket'), join(at, 'control')];
  const env = { EDU_STATE_BYTES: String(stateBytes) };
  const server = new Serving([address, '--socket-path', socket, '--control-path', control], { cwd: EDU_PROJECT, env });
  await server.next('ready');
  const client = await VfioUserClient.connect(socket);
  // Memory decode and bus mastering.
  await client.write(CONFIG_REGION, COMMAND, Uint8Array.of(6, 0));
  const fd = memfdCreate('guest', { size: pages * PAGE });
  const { bytes } = mmap(fd, 0, pages * PAGE);
  await client.dmaMap({
    iova: IOVA,
    size: BigInt(bytes.length),
    readable: true,
    writable: true,
    memory: { bytes, fd, fdOffset: 0 },
    release: () => closeFd(fd),
  });
  const write = (value: number) => client.write(0, LIVENESS, Uint8Array.of(~value, 0xff, 0xff, 0xff));
  const read = async () => {
    const value = new Uint8Array(4);
    await client.read(0, LIVENESS, value);
    return value[0];
  };
  const state = async () => {
    await using link = await ControlClient.connect(control);
    return (await link.call('state', {})).migration;
  };
  return { at, server, client, bytes, control, write, read, state };
}

const fillIn = (bytes: Uint8Array, seed: number) => {
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 7 + (at >> 12) + seed) & 0xff;
};

test('a device moves between two servers: its state, its memory; the source stays stopped, its client is refused', async () => {
  const [from, to] = await Promise.all([side(), side()]);
  await from.write(0x5a);
  fillIn(from.bytes, 1);
  const { code, out, err } = await command(['migrate', '--from', from.control, '--to', to.control, '--json']);
  expect([code, err]).toEqual([0, '']);
  const result = JSON.parse(out);
  expectSchema('migrate', result);
  expect(result).toMatchObject({
    outcome: 'moved',
    from: {
      control: from.control,
      address: EDU,
      driver: 'movable_edu',
      driverVersion: '1.2.3',
      migration: ['STOP_COPY'],
    },
    stateBytes: 4100,
    sharedBytes: 0,
  });
  expect(await to.read()).toBe(0x5a);
  expect(to.bytes).toEqual(from.bytes);
  expect([await from.state(), await to.state()]).toEqual(['STOP', 'RUNNING']);
  await expect(from.read()).rejects.toMatchObject({ errno: 'ENODEV' });
  await from.client.reset();
  expect(await from.state()).toBe('RUNNING');
});

test('a device goes into a file and on, and out of it into another; any byte of the file that is changed is refused', async () => {
  const [from, to] = await Promise.all([side(), side()]);
  await from.write(0x33);
  fillIn(from.bytes, 2);
  const saved = await command(['migrate', '--from', from.control, '--save', 'device', '--json'], { cwd: from.at });
  expect([saved.code, saved.err]).toEqual([0, '']);
  const result = JSON.parse(saved.out);
  expectSchema('migrate', result);
  const file = join(from.at, 'device');
  expect(result).toMatchObject({ outcome: 'saved', file, fileBytes: statSync(file).size, to: null });
  expect(readdirSync(from.at).sort()).toEqual(['control', 'device', 'socket']);
  expect(await from.read()).toBe(0x33);
  expect(await from.state()).toBe('RUNNING');

  const whole = readFileSync(file);
  const changed = join(from.at, 'changed');
  for (const at of [0, 9, 40, Math.floor(whole.length / 2), whole.length - 1]) {
    const bytes = Buffer.from(whole);
    bytes[at] = (bytes[at] ?? 0) ^ 4;
    writeFileSync(changed, bytes);
    const { code, err } = await command(['migrate', '--load', changed, '--to', to.control]);
    expect(code).toBe(1);
    expect(err).toContain(`vfio: ${changed}: `);
  }
  expect(to.bytes.every((byte) => byte === 0)).toBe(true);

  const checked = await command(['migrate', '--load', file, '--to', to.control, '--dry-run']);
  expect(checked).toMatchObject({ code: 0, err: '' });
  expect(await to.read()).not.toBe(0x33);
  const loaded = await command(['migrate', '--load', file, '--to', to.control, '--json']);
  expect([loaded.code, loaded.err]).toEqual([0, '']);
  expectSchema('migrate', JSON.parse(loaded.out));
  expect(await to.read()).toBe(0x33);
  expect(to.bytes).toEqual(from.bytes);
});

test('--dry-run says that it can be done, or every reason why not, and touches neither', async () => {
  const [from, to, other] = await Promise.all([side(), side(), side({ address: '0000:00:02.0' })]);
  const good = await command(['migrate', '--from', from.control, '--to', to.control, '--dry-run', '--json']);
  expect(good.code).toBe(0);
  expectSchema('migrate', JSON.parse(good.out));
  expect(JSON.parse(good.out)).toMatchObject({ outcome: 'possible', stateBytes: 0, memoryBytes: 0 });
  const bad = await command(['migrate', '--from', from.control, '--to', other.control, '--dry-run']);
  expect(bad.code).toBe(1);
  expect(bad.err).toMatch(/ids 1234:11e9 cannot go to 1234:11e8/);
  for (const one of [from, to, other]) expect(await one.state()).toBe('RUNNING');
});

/** More memory than goes in a second at 4 MiB/s. */
const SLOW = { pages: 8192 } as const;
const slowly = (from: { control: string }, to: { control: string }) =>
  start(['migrate', '--from', from.control, '--to', to.control, '--bandwidth', '4M', '--max-downtime', '0']);

/** Waits until some memory has come. */
async function arrives({ bytes }: { readonly bytes: Uint8Array }): Promise<void> {
  while (bytes[PAGE] === 0) await new Promise((resolve) => setTimeout(resolve, 10));
}

test('Ctrl-C leaves the source running as it was and the destination clean', async () => {
  const [from, to] = await Promise.all([side(SLOW), side(SLOW)]);
  await from.write(0x44);
  fillIn(from.bytes, 3);
  const child = slowly(from, to);
  await arrives(to);
  child.kill('SIGINT');
  const [err, code] = await Promise.all([text(child.stderr), once(child, 'close').then(([exit]) => exit)]);
  expect(code).toBe(1);
  expect(err).toMatch(/^vfio: 0000:03:00.0: the move was cancelled: the device runs on \(/);
  expect([await from.state(), await to.state()]).toEqual(['RUNNING', 'RUNNING']);
  expect(await from.read()).toBe(0x44);
  // It could be done again at once.
  expect(await command(['migrate', '--from', from.control, '--to', to.control])).toMatchObject({ code: 0, err: '' });
  expect(await to.read()).toBe(0x44);
});

test('a destination that dies leaves the source running; a source that dies leaves the destination clean', async () => {
  const [from, to, third] = await Promise.all([side(SLOW), side(SLOW), side(SLOW)]);
  await from.write(0x55);
  fillIn(from.bytes, 4);
  const first = slowly(from, to);
  await arrives(to);
  to.server.child.kill('SIGKILL');
  expect((await once(first, 'close'))[0]).toBe(1);
  expect(await from.state()).toBe('RUNNING');
  expect(await from.read()).toBe(0x55);

  const second = slowly(from, third);
  await arrives(third);
  from.server.child.kill('SIGKILL');
  expect((await once(second, 'close'))[0]).toBe(1);
  expect(await third.state()).toBe('RUNNING');
  expect(await third.read()).not.toBe(0x55);
});

test('a client that goes ends the move: the other side is as it was', async () => {
  const [from, to] = await Promise.all([side(SLOW), side(SLOW)]);
  fillIn(from.bytes, 5);
  const child = slowly(from, to);
  await arrives(to);
  await to.client.close();
  const [err, code] = await Promise.all([text(child.stderr), once(child, 'close').then(([exit]) => exit)]);
  expect(code).toBe(1);
  expect(err).toMatch(/the client closed the connection/);
  expect(await from.state()).toBe('RUNNING');
  // Nobody has attached to it now.
  const again = await command(['migrate', '--from', from.control, '--to', to.control]);
  expect(again.code).toBe(1);
  expect(again.err).toMatch(/nobody has attached to the device/);
});

test.each([
  ['nothing', []],
  ['a source alone', ['--from', 'a']],
  ['two sources', ['--from', 'a', '--load', 'b', '--to', 'c']],
  ['two destinations', ['--from', 'a', '--to', 'b', '--save', 'c']],
  ['a file into a file', ['--load', 'a', '--save', 'b']],
  ['a dry run of a save', ['--from', 'a', '--save', 'b', '--dry-run']],
  ['a file without memory', ['--load', 'a', '--to', 'b', '--device-only']],
  ['an empty path', ['--from', '', '--to', 'b']],
  ['an address of no server', ['--load', 'a', '--to', 'b', '--from-address', '0000:00:02.0']],
  ['a downtime that is no number', ['--from', 'a', '--to', 'b', '--max-downtime', 'soon']],
  ['a bandwidth of nothing', ['--from', 'a', '--to', 'b', '--bandwidth', '0']],
])('%s is a command line that is wrong', async (_what, args) => {
  const { code, err } = await vfio(['migrate', ...args]);
  expect(code).toBe(2);
  expect(err).not.toBe('');
});

test('a socket where nobody is, and one that is no control socket, are said by name', async () => {
  const { code, err } = await vfio(['migrate', '--from', join(folder, 'none'), '--to', join(folder, 'none')]);
  expect(code).toBe(1);
  expect(err).toContain(join(folder, 'none'));
});
