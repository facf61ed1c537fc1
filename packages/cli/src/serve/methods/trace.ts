import { once } from 'node:events';
import { errnoError } from '@vfio/core';
import { TraceFile } from '../trace-file.js';
import { defineMethod, type Served } from './method.js';

/** Milliseconds for which lines are gathered before they are sent. */
const BATCH_MS = 50;

/** Lines of one batch: a guest that polls makes more than anybody can read. */
const MAX_BATCH = 1000;

export interface TraceParams {
  /** `stream`: lines as progress until the call is cancelled; `start` and `stop`: into a file, whoever stays connected. */
  readonly action: 'stream' | 'start' | 'stop';
  /** For `start`: where lines are appended. */
  readonly file?: string | undefined;
}

export interface TraceProgress {
  readonly lines: readonly string[];
  /** How many lines are missing after these, because there were too many. */
  readonly dropped: number;
}

export interface TraceResult {
  /** The file that is written; null where none is. */
  readonly file: string | null;
}

/** What writes a function's trace into a file, since `start`. */
interface Recording {
  readonly path: string;
  stop(): void;
}

const recordings = new WeakMap<Served, Recording>();

export const trace = defineMethod<TraceParams, TraceResult, TraceProgress>({
  params: (given) => {
    const action = given.oneOf('action', ['stream', 'start', 'stop']);
    return { action, file: action === 'start' ? given.path('file') : undefined };
  },
  run: async (served, { action, file }, { progress, signal }) => {
    if (action === 'start') start(served, file ?? '');
    else if (action === 'stop') stop(served);
    else await stream(served, progress, signal);
    return { file: recordings.get(served)?.path ?? null };
  },
});

function start(served: Served, path: string): void {
  const { server, address, closing, warn } = served;
  const running = recordings.get(served);
  if (running !== undefined) {
    throw errnoError('EEXIST', `the trace goes to ${running.path} already`, { op: 'trace', device: address });
  }
  const file = new TraceFile(path, warn);
  const end = server.addTrace((line) => file.write(line));
  const finish = (): void => {
    closing.removeEventListener('abort', finish);
    recordings.delete(served);
    end();
    file.close();
  };
  recordings.set(served, { path, stop: finish });
  closing.addEventListener('abort', finish, { once: true });
}

function stop(served: Served): void {
  const running = recordings.get(served);
  if (running === undefined) {
    throw errnoError('EINVAL', 'no trace goes to a file', { op: 'trace', device: served.address });
  }
  running.stop();
}

async function stream(
  { server }: Served,
  progress: (value: TraceProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  let lines: string[] = [];
  let dropped = 0;
  const end = server.addTrace((line) => {
    if (lines.length < MAX_BATCH) lines.push(line);
    else dropped++;
  });
  const send = (): void => {
    if (lines.length === 0) return;
    progress({ lines, dropped });
    lines = [];
    dropped = 0;
  };
  const timer = setInterval(send, BATCH_MS);
  try {
    // Asked for until it is cancelled: that is its end, and no failure.
    if (!signal.aborted) await once(signal, 'abort');
    send();
  } finally {
    clearInterval(timer);
    end();
  }
}
