import { type CheckStatus, canPassThrough, examine } from '@vfio/linux';
import type { Io } from '../io.js';
import { paint, printJson, type Style } from '../output.js';
import type { LinuxSession } from '../session.js';

/** What `vfio doctor --json` shows: schemas/doctor.json. */
export interface DoctorReport {
  /** Whether passthrough can work: no check failed. */
  readonly ok: boolean;
  readonly checks: readonly {
    readonly name: string;
    readonly status: CheckStatus;
    readonly found: string;
    readonly advice: string | null;
  }[];
}

const MARKS: Readonly<Record<CheckStatus, readonly [mark: string, style: Style]>> = {
  ok: ['ok     ', 'green'],
  warn: ['warn   ', 'yellow'],
  fail: ['FAIL   ', 'red'],
  unknown: ['unknown', 'yellow'],
};

/** `vfio doctor`: what passthrough needs of this machine, what is there, and what to do. Returns whether it can work. */
export function doctor(session: LinuxSession, options: { readonly json?: boolean }, io: Io): boolean {
  const checks = examine(session.host, { installed: (fn) => session.drivers.best(fn) });
  const ok = canPassThrough(checks);
  if (options.json === true) {
    const list = checks.map(({ advice, ...check }) => ({ ...check, advice: advice ?? null }));
    printJson(io, { ok, checks: list } satisfies DoctorReport);
    return ok;
  }
  for (const { name, status, found, advice } of checks) {
    const [mark, style] = MARKS[status];
    io.out(`${paint(io, style, mark)} ${paint(io, 'bold', name)}: ${found}\n`);
    if (advice !== undefined) io.out(`        ${advice}\n`);
  }
  io.out(ok ? 'passthrough can work on this machine\n' : 'passthrough cannot work on this machine as it is\n');
  return ok;
}
