import { isVfioError, messageOf, type VfioError } from '@vfio/core';
import { CommanderError } from 'commander';
import type { Io } from './io.js';
import { paint } from './output.js';
import { createProgram } from './program.js';
import { UsageError } from './usage-error.js';

/** Exit codes, documented in docs/reference/cli.md. */
const FAILURE = 1;
const USAGE = 2;

const SOCKET_FD =
  'the descriptor of a socket, open when the command starts, as `--fd 3` with systemd or a shell that opens 3';

/** What to try, by errno where that tells more, by code otherwise. */
const HINTS: Readonly<Partial<Record<string, string>>> = {
  EBADF: SOCKET_FD,
  ENOTSOCK: SOCKET_FD,
  ECONNREFUSED: 'nobody listens there: `vfio serve` makes such a socket',
  ENOENT: 'is the path right? `vfio serve` makes a socket, but not its folder',
  EACCES: 'you may not do that there: name a place of your own, as in `/tmp`',
  EADDRINUSE: 'name another socket',
  ERR_VFIO_INVALID_ID: '`vfio list` shows the addresses and ids of this host',
  ERR_VFIO_NO_DEVICE: '`vfio list` shows the functions of this host',
  ERR_VFIO_NO_DRIVER: '`vfio match ADDRESS --all` shows which drivers are installed and why none takes it',
  ERR_VFIO_NATIVE_UNAVAILABLE: '`npm run build:native -w @vfio/native` builds the addon from source',
  ERR_VFIO_BUSY: 'another program may have the device',
  ERR_VFIO_TIMEOUT:
    'a server takes one client at a time, and answers nobody while its device hangs; its own output says which of the two it is',
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
    // Whoever stopped it knows.
    if (io.signal.aborted && error === io.signal.reason) return FAILURE;
    report(error, program.opts<{ debug?: boolean }>().debug === true, io);
    return error instanceof UsageError || isVfioError(error, 'ERR_VFIO_INVALID_ID') ? USAGE : FAILURE;
  }
}

/** What the error itself says to try: where it was thrown more is known. */
function ownHint(error: VfioError): string | undefined {
  const hint = error.details?.['try'];
  return typeof hint === 'string' ? hint : undefined;
}

function report(error: unknown, debug: boolean, io: Io): void {
  const known = isVfioError(error);
  const where = known && error.device !== undefined ? `${error.device}: ` : '';
  const what = known ? ` (${[error.code, error.errno].filter((part) => part !== undefined).join(', ')})` : '';
  const message = messageOf(error);
  const sentence = message.includes(where) ? message : `${where}${message}`;
  io.err(`${paint(io, 'red', 'vfio')}: ${sentence}${what}\n`);
  const hint = known ? (ownHint(error) ?? HINTS[error.errno ?? ''] ?? HINTS[error.code]) : undefined;
  if (hint !== undefined) io.err(`try: ${hint}\n`);
  if (debug && error instanceof Error) io.err(`${error.stack}\n`);
}
