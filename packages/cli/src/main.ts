import { isVfioError, messageOf } from '@vfio/core';
import { CommanderError } from 'commander';
import type { Io } from './io.js';
import { paint } from './output.js';
import { createProgram } from './program.js';

/** Exit codes, documented in docs/reference/cli.md. */
const FAILURE = 1;
const USAGE = 2;

/** What to try, by what went wrong. */
const HINTS: Readonly<Partial<Record<string, string>>> = {
  ERR_VFIO_INVALID_ID: '`vfio list` shows the addresses and ids of this host',
  ERR_VFIO_NO_DRIVER: '`vfio match ADDRESS --all` shows which drivers are installed and why none takes it',
  ERR_VFIO_NATIVE_UNAVAILABLE: '`npm run build:native -w @vfio/native` builds the addon from source',
  ERR_VFIO_BUSY: 'another server may have the socket, or another program the device',
};

/** Runs one command line (without `node` and the script) and says what the process should exit with. */
export async function main(args: readonly string[], io: Io): Promise<number> {
  let exitCode = 0;
  const program = createProgram(io, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    report(error, program.opts<{ debug?: boolean }>().debug === true, io);
    return isVfioError(error) && error.code === 'ERR_VFIO_INVALID_ID' ? USAGE : FAILURE;
  }
}

function report(error: unknown, debug: boolean, io: Io): void {
  const known = isVfioError(error);
  const where = known && error.device !== undefined ? `${error.device}: ` : '';
  const what = known ? ` (${[error.code, error.errno].filter((part) => part !== undefined).join(', ')})` : '';
  const message = messageOf(error);
  const sentence = message.startsWith(where) ? message : `${where}${message}`;
  io.err(`${paint(io, 'red', 'vfio')}: ${sentence}${what}\n`);
  const hint = known ? HINTS[error.code] : undefined;
  if (hint !== undefined) io.err(`try: ${hint}\n`);
  if (debug && error instanceof Error) io.err(`${error.stack}\n`);
}
