import { systemError } from '@vfio/core';
import type { LinuxSystem } from '@vfio/linux';

/** What a command may touch of the process: commands are run in tests without one. */
export interface Io {
  /** Writes to standard output, as given. */
  out(text: string): void;
  /** Writes to standard error. */
  err(text: string): void;
  /** Whether standard output takes colours. */
  readonly color: boolean;
  /** Standard error, where it is a terminal: progress may be drawn there. */
  readonly terminal?: NodeJS.WriteStream | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** The file of the command, where it is one: installed globally, its drivers are those beside it. */
  readonly script?: string | undefined;
  /** The machine, where it is not the one that this process runs on. */
  readonly machine?: LinuxSystem | undefined;
  /**
   * Aborted when the process is asked to end (SIGINT, SIGTERM) or when nobody reads its output any more. A command that
   * never looks at it is ended by the signal itself.
   */
  readonly signal: AbortSignal;
}

/** The process itself. */
export function processIo(): Io {
  const { stdout, stderr, env } = process;
  const stop = new AbortController();
  let handlesSignals = false;
  // A reader that has gone (`vfio list | head`) is no failure: what would have gone there is dropped.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED') return stop.abort();
    stderr.write(`vfio: cannot write to standard output: ${error.message}\n`);
    return process.exit(1);
  });
  stderr.on('error', () => {});
  return {
    out: (text) => void stdout.write(text),
    err: (text) => void stderr.write(text),
    color: takesColor(env, stdout.isTTY === true),
    terminal: stderr.isTTY === true ? stderr : undefined,
    env,
    // Asked for when it is needed: a folder that was removed is an error of the command, not of the start.
    get cwd() {
      return workingDirectory();
    },
    script: process.argv[1],
    get signal() {
      // Once: a second Ctrl-C ends a command that does not come to its end.
      if (!handlesSignals) for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
      handlesSignals = true;
      return stop.signal;
    },
  };
}

function workingDirectory(): string {
  try {
    return process.cwd();
  } catch (error) {
    throw systemError('working directory', 'getcwd', error);
  }
}

/** Whether to colour: `FORCE_COLOR` decides, then `NO_COLOR` (no-color.org) and `TERM=dumb`, then whether it is a terminal. */
export function takesColor(env: Io['env'], isTerminal: boolean): boolean {
  const forced = env['FORCE_COLOR'];
  if (forced !== undefined && forced !== '') return forced !== '0' && forced !== 'false';
  return isTerminal && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
}
