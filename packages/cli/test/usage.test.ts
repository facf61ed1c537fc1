import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { takesColor } from '../src/io.js';
import { vfio } from './helpers/run.js';

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

test('--version is the version of the package, --help lists every command and the exit codes', async () => {
  expect(await vfio(['--version'])).toEqual({ code: 0, out: `${version}\n`, err: '' });
  const { code, out, err } = await vfio(['--help']);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  for (const command of ['list', 'match', 'info', 'serve', 'demo'])
    expect(out).toMatch(new RegExp(`^ {2}${command} `, 'm'));
  expect(out).toContain('Exit codes: 0 done, 1 failed, 2 the command line is wrong.');
});

test.each([
  ['no command', [], /Usage: vfio/],
  ['a command that is not there; the nearest is named', ['lst'], /unknown command 'lst'\n\(Did you mean list\?\)/],
  [
    'an option that is not there; the nearest is named',
    ['list', '--jsn'],
    /unknown option '--jsn'\n\(Did you mean --json\?\)/,
  ],
  ['an argument too few', ['info'], /missing required argument 'what'/],
  ['an argument too many', ['list', 'x'], /too many arguments/],
  ['a host that is not there', ['--host', 'vmware', 'list'], /Allowed choices are emulated/],
  ['serve without a socket', ['serve', '00:02.0'], /functions: 1, --socket-path: 0;/],
  ['an address that is none', ['serve', 'zz', '--socket-path', '/tmp/s'], /"zz" is not a PCI address/],
  ['threads out of range', ['serve', '00:02.0', '--threads', '0'], /a whole number from 1 to 64/],
  ['standard output as a socket', ['serve', '00:02.0', '--fd', '1'], /a whole number from 3 to/],
  ['a mode that is not octal', ['serve', '00:02.0', '--socket-mode', '698'], /octal, as for chmod/],
  ['a size that is no whole number of pages', ['serve', '01:00.0', '--nvme-size', '1000'], /a multiple of 4096 bytes/],
  [
    'a client behaviour that nobody has',
    ['serve', '00:02.0', '--compat', 'x'],
    /auto, strict, qemu, rust, spdk, other/,
  ],
] as const)('exit code 2, a sentence and no stack: %s', async (_, args, message) => {
  const { code, out, err } = await vfio(args);
  expect({ code, out }).toEqual({ code: 2, out: '' });
  expect(err).toMatch(message);
  expect(err).toMatch(args.length === 0 ? /^Usage: / : /^vfio: /);
  expect(err).not.toMatch(/^ +at /m);
});

test('the stack of an error is shown with --debug only, wherever it stands', async () => {
  const args = ['match', '0000:7f:00.0'];
  expect((await vfio(args)).err).not.toMatch(/^ +at /m);
  expect((await vfio(['--debug', ...args])).err).toMatch(/^ +at /m);
  expect((await vfio([...args, '--debug'])).err).toMatch(/^ +at /m);
});

test.each([
  [{}, true, true],
  [{}, false, false],
  [{ NO_COLOR: '1' }, true, false],
  [{ NO_COLOR: '' }, true, true],
  [{ TERM: 'dumb' }, true, false],
  [{ FORCE_COLOR: '1' }, false, true],
  [{ FORCE_COLOR: '1', NO_COLOR: '1' }, false, true],
  [{ FORCE_COLOR: '0' }, true, false],
])('with %j on a terminal (%s) there are colours: %s', (env, isTerminal, colours) => {
  expect(takesColor(env, isTerminal)).toBe(colours);
});
