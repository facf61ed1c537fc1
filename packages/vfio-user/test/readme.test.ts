import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import * as limits from '../src/limits.js';

const root = join(import.meta.dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
// Those of the control socket are the command's.
const [page = ''] = readFileSync(join(root, '../../docs/architecture/limits.md'), 'utf8').split(
  '\n## What one client of the control',
);

test('the example serves a device, uses it, and prints what it says', async () => {
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  const [, printed] = /console\.log\(.*\); \/\/ (.*)/.exec(code) ?? [];
  // In this folder, so that packages are found; the socket elsewhere.
  const folder = mkdtempSync(join(import.meta.dirname, 'readme-'));
  const sockets = mkdtempSync(join(tmpdir(), 'vfio-readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    const source = JSON.stringify(join(root, 'src/index.ts'));
    writeFileSync(
      file,
      code.replace("'@vfio/vfio-user'", source).replaceAll('/tmp/edu.sock', join(sockets, 'edu.sock')),
    );
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls.map((words) => words.join(' '))).toEqual([printed]);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
    rmSync(sockets, { recursive: true });
  }
});

test('the table of options names every option of the server, with its default', () => {
  const source = readFileSync(join(root, 'src/server.ts'), 'utf8');
  const body = /export interface VfioUserServerOptions \{([\s\S]*?)\n\}/.exec(source)?.[1] ?? '';
  const options = [...body.matchAll(/readonly (\w+)\?:/g)].map(([, name]) => name as string);
  expect(options.length).toBeGreaterThan(10);
  const section = readme.slice(readme.indexOf('## Server'), readme.indexOf('### Order and time'));
  const listed = [...section.matchAll(/^\| `(\w+)` +\| /gm)].map(([, name]) => name as string);
  for (const name of options) expect(listed).toContain(name);
  for (const [name, value] of [
    ['deadlineMs', limits.DEFAULT_DEADLINE_MS],
    ['watchdogMs', limits.DEFAULT_WATCHDOG_MS],
    ['versionTimeoutMs', limits.VERSION_TIMEOUT_MS],
    ['maxDmaMaps', limits.MAX_DMA_MAPS],
    ['maxMsgFds', limits.MAX_SCM_FDS],
  ] as const) {
    expect(section).toMatch(new RegExp(`^\\| \`${name}\` +\\| ${value} +\\|`, 'm'));
  }
});

/** `8 TiB` and `4000 ms` as numbers. */
function numberOf(text: string): bigint {
  const [, digits = '', unit = ''] = /^(\d+)(?: (\w+))?$/.exec(text) ?? [];
  const shift = { KiB: 10n, MiB: 20n, GiB: 30n, TiB: 40n }[unit] ?? 0n;
  return BigInt(digits) << shift;
}

test('the page of limits has every limit of a peer, with its value', () => {
  const listed = new Map(
    [...page.matchAll(/`([A-Z_]+)` +\| +([^|]+?) +\|/g)].map(([, name = '', value = '']) => [name, value]),
  );
  // What bounds nothing of a peer's: settings of our own, sizes of messages, what others set.
  const notLimits = new Set([
    'MIN_DATA_XFER_SIZE',
    'MAX_FIXED_PAYLOAD',
    'MAX_SCM_FDS',
    'QEMU_MAX_MSG_FDS',
    'DMA_PAGE_SIZE',
    'DEFAULT_WATCHDOG_MS',
    'RETRY_ACCEPT_MS',
    'CLOSE_GRACE_MS',
  ]);
  for (const [name, value] of Object.entries(limits)) {
    if (typeof value === 'function' || notLimits.has(name)) continue;
    expect(`${name} ${numberOf(listed.get(name) ?? '0')}`).toBe(`${name} ${BigInt(value)}`);
    listed.delete(name);
  }
  expect([...listed.keys()]).toEqual([]);
});
