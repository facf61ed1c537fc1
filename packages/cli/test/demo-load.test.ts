import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { command, Serving, start, text } from './helpers/command.js';
import { folder } from './helpers/run.js';

const PF = '0000:05:00.0';
const SET_UP = ['--driver-override', `${PF}=mlx5_core`, '--sriov-numvfs', `${PF}=1`];

async function side() {
  const at = mkdtempSync(join(folder, 'l-'));
  const [socket, control] = [join(at, 'socket'), join(at, 'control')];
  const server = new Serving(['0000:05:00.1', ...SET_UP, '--socket-path', socket, '--control-path', control]);
  await server.next('ready');
  return { server, socket, control };
}

test('a load follows its function there and back, and finds all right wherever it goes', async () => {
  const [a, b] = await Promise.all([side(), side()]);
  const load = start(['demo', 'load', a.socket, b.socket]);
  const out = text(load.stdout);
  const says = async (pattern: RegExp): Promise<void> => {
    let all = '';
    const onData = (piece: string): void => {
      all += piece;
    };
    load.stdout?.on('data', onData);
    while (!pattern.test(all)) await new Promise((resolve) => setTimeout(resolve, 10));
    load.stdout?.off('data', onData);
  };
  await says(/at work/);
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const found = says(/^\d+ turns: .*\n/m);
    const { code, err } = await command(['migrate', '--from', from.control, '--to', to.control]);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    await found;
  }
  const closed = once(load, 'close');
  load.kill('SIGTERM');
  expect(await closed).toEqual([0, null]);
  const lines = (await out).trimEnd().split('\n');
  expect(lines.filter((line) => line.startsWith('moved to'))).toEqual([`moved to ${b.socket}`, `moved to ${a.socket}`]);
  const checks = lines.filter((line) => line.includes('turns:'));
  expect(checks).toHaveLength(3);
  for (const line of checks)
    expect(line).toMatch(/^\d+ turns: data and checksums right, counters right, interrupts right$/);
  expect([await a.server.end(), await b.server.end()]).toEqual([0, 0]);
});

test('a load whose server dies says so and exits with 1', async () => {
  const { server, socket } = await side();
  const load = start(['demo', 'load', socket]);
  await once(load.stdout as NodeJS.ReadableStream, 'data');
  const closed = once(load, 'close');
  const err = text(load.stderr);
  server.child.kill('SIGKILL');
  expect(await closed).toEqual([1, null]);
  expect(await err).toMatch(/ERR_VFIO_DISCONNECTED/);
});
