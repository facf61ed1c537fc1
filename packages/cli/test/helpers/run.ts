import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { type Io, main } from '../../src/index.js';

/** The repository, which is a project with all of its drivers. */
export const ROOT = join(import.meta.dirname, '../../../..');

/** A folder for one test file, with a name that is short enough for sockets. */
export const folder = mkdtempSync(join(tmpdir(), 'vfio-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A project with the generic driver and one variant, whatever else this repository has. */
export const PROJECT = join(folder, 'project');
const DRIVERS = ['@vfio/vfio-pci', '@vfio/nvme-vfio-pci'];
mkdirSync(join(PROJECT, 'node_modules/@vfio'), { recursive: true });
writeFileSync(
  join(PROJECT, 'package.json'),
  JSON.stringify({ name: 'project', dependencies: Object.fromEntries(DRIVERS.map((name) => [name, '*'])) }),
);
for (const name of DRIVERS) {
  symlinkSync(join(ROOT, 'packages', name.replace('@vfio/', '')), join(PROJECT, 'node_modules', name));
}

export interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Io['env'];
  readonly color?: boolean;
  readonly signal?: AbortSignal;
  readonly machine?: Io['machine'];
}

/** Runs one command line in this process: what it wrote and would exit with. */
export async function vfio(args: readonly string[], options: RunOptions = {}): Promise<Result> {
  let out = '';
  let err = '';
  const code = await main(args, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    color: options.color ?? false,
    env: { VFIO_CACHE: join(folder, 'cache'), VFIO_PCI_IDS: join(folder, 'none'), ...options.env },
    cwd: options.cwd ?? PROJECT,
    machine: options.machine,
    signal: options.signal ?? new AbortController().signal,
  });
  return { code, out, err };
}
