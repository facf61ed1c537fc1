/** What a command may touch of the process: commands are run in tests without one. */
export interface Io {
  /** Writes to standard output, as given. */
  out(text: string): void;
  /** Writes to standard error. */
  err(text: string): void;
  /** Whether standard output takes colours. */
  readonly color: boolean;
  /** Columns of the terminal; undefined where there is none. */
  readonly columns: number | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Aborted when the process is asked to end (SIGINT, SIGTERM). */
  readonly signal: AbortSignal;
}

/** The process itself. `signal` is made by the caller, who owns the signal handlers. */
export function processIo(signal: AbortSignal): Io {
  const { stdout, env } = process;
  const forced = env['FORCE_COLOR'] !== undefined && env['FORCE_COLOR'] !== '0';
  const refused = (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb';
  return {
    out: (text) => void stdout.write(text),
    err: (text) => void process.stderr.write(text),
    color: forced || (!refused && stdout.isTTY === true),
    columns: stdout.isTTY === true ? stdout.columns : undefined,
    env,
    cwd: process.cwd(),
    signal,
  };
}
