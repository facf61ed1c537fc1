import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import * as protocol from '../src/serve/control/protocol.js';
import { ROOT } from './helpers/run.js';

test('the page of limits has every limit of the control socket, with its value', () => {
  const page = readFileSync(join(ROOT, 'docs/architecture/limits.md'), 'utf8');
  const [, section = ''] = /\n## What one client of the control socket can take\n([\s\S]*?)\n## /.exec(page) ?? [];
  const units: Readonly<Record<string, number>> = { '': 1, ms: 1, KiB: 1024, MiB: 1024 ** 2 };
  const listed = [...section.matchAll(/`([A-Z_]+)` +\| +(\d+) ?(\w*) +\|/g)].map(([, name, value, unit]) => [
    name,
    Number(value) * (units[unit ?? ''] ?? Number.NaN),
  ]);
  const limits = Object.entries(protocol).filter(([name]) => /^MAX_|_MS$/.test(name));
  expect(limits.length).toBeGreaterThan(5);
  expect(Object.fromEntries(listed)).toEqual(Object.fromEntries(limits));
});
