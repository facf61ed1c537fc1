import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { ListReport } from '../src/commands/list.js';
import { BIN, command, plainEnv, start } from './helpers/command.js';
import { folder, ROOT } from './helpers/run.js';

test('the process exits with 0, 1 or 2, and writes errors to standard error', async () => {
  expect(await command(['list'])).toMatchObject({ code: 0, err: '' });
  expect(await command(['match', '7f:00.0'])).toMatchObject({ code: 1, out: '' });
  expect(await command(['lst'])).toMatchObject({ code: 2, out: '' });
});

test('a pipe gets no colours unless FORCE_COLOR says so', async () => {
  expect((await command(['list'])).out).not.toContain('\x1b');
  expect((await command(['list'], { env: { FORCE_COLOR: '1' } })).out).toContain('\x1b[1m');
});

test('a terminal gets colours unless NO_COLOR says not to', () => {
  const onTerminal = (env: NodeJS.ProcessEnv): string =>
    spawnSync('python3', ['-c', 'import pty, sys; pty.spawn(sys.argv[1:])', process.execPath, BIN, 'list'], {
      env: { PATH: process.env['PATH'], TERM: 'xterm', VFIO_CACHE: join(folder, 'cache'), ...env },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    }).stdout;
  expect(onTerminal({})).toContain('\x1b[1m');
  expect(onTerminal({ NO_COLOR: '1' })).toMatch(/^ADDRESS/);
});

test('a working directory that was removed is an error in a sentence', () => {
  const script = `mkdir gone && cd gone && rmdir ../gone && exec ${process.execPath} ${BIN} list`;
  const { status, stderr } = spawnSync('sh', ['-c', script], { cwd: folder, encoding: 'utf8', env: plainEnv() });
  expect(status).toBe(1);
  expect(stderr).toMatch(/^vfio: working directory: ENOENT \(ERR_VFIO_SYSCALL, ENOENT\)$/m);
  expect(stderr).not.toMatch(/^ +at /m);
});

test('a reader that goes away is no failure and no message', () => {
  const run = spawnSync('sh', ['-c', `(${process.execPath} ${BIN} demo; echo "exit $?" >&2) | head -c 1`], {
    cwd: ROOT,
    encoding: 'utf8',
    env: plainEnv(),
  });
  expect(run.stdout).toBe('\n');
  expect(run.stderr).toMatch(/^exit [01]\n$/);
});

test('output that cannot be written is a failure', () => {
  const run = spawnSync('sh', ['-c', `${process.execPath} ${BIN} list > /dev/full`], { encoding: 'utf8' });
  expect(run.status).toBe(1);
  expect(run.stderr).toMatch(/^vfio: cannot write to standard output: ENOSPC/);
});

test('a command that waits is ended by Ctrl-C at once', async () => {
  const path = join(folder, 'silent.sock');
  const silent = createServer().listen(path);
  await once(silent, 'listening');
  const child = start(['info', path]);
  await once(silent, 'connection');
  const closed = once(child, 'close');
  child.kill('SIGINT');
  expect(await closed).toEqual([null, 'SIGINT']);
  silent.close();
});

test('far from any project the generic driver that comes with the command is found', async () => {
  const { code, out } = await command(['list', '--json'], { cwd: folder });
  expect(code).toBe(0);
  const drivers = new Set((JSON.parse(out) as ListReport).functions.map(({ best }) => best));
  expect(drivers).toContain('vfio-pci');
});
