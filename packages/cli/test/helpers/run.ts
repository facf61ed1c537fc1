import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { type Io, main } from '../../src/index.js';

/** The repository: its drivers are what is installed for the commands that are tested. */
export const ROOT = join(import.meta.dirname, '../../../..');

/** A folder for one test file, with a name that is short enough for sockets. */
export const folder = mkdtempSync(join(tmpdir(), 'vfio-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

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
    cwd: options.cwd ?? ROOT,
    signal: options.signal ?? new AbortController().signal,
  });
  return { code, out, err };
}
