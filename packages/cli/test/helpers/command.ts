import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach } from 'vitest';
import type { ServeEvent } from '../../src/commands/serve.js';
import { folder, ROOT } from './run.js';

/** The command as it is shipped. */
export const BIN = join(import.meta.dirname, '../../bin/vfio.js');
if (!existsSync(join(import.meta.dirname, '../../dist/bin.js')))
  throw new Error('these tests run the built command: npm run build');

const running = new Set<ChildProcess>();
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
});

export interface SpawnOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly stdio?: StdioOptions;
}

/** This process's environment without what decides about colours: nx asks its tasks for them. */
export function plainEnv(): NodeJS.ProcessEnv {
  const { NO_COLOR: _no, FORCE_COLOR: _force, ...env } = process.env;
  return env;
}

/** Starts the command as a process of its own. It ends with its test at the latest. */
export function start(args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const child = spawn(process.execPath, [BIN, ...args], {
    cwd: options.cwd ?? ROOT,
    env: { ...plainEnv(), VFIO_CACHE: join(folder, 'cache'), ...options.env },
    stdio: options.stdio ?? ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  child.once('close', () => running.delete(child));
  return child;
}

export async function text(stream: NodeJS.ReadableStream | null): Promise<string> {
  let all = '';
  for await (const piece of stream?.setEncoding('utf8') ?? []) all += piece;
  return all;
}

/** Runs the command to its end. */
export async function command(args: readonly string[], options: SpawnOptions = {}) {
  const child = start(args, options);
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  const [out, err, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
  return { code, signal, out, err };
}

/** A `vfio serve --json` with its events. */
export class Serving {
  readonly child: ChildProcess;
  readonly events: ServeEvent[] = [];
  readonly stderr: Promise<string>;
  readonly #lines: AsyncIterator<string>;

  constructor(args: readonly string[], options: SpawnOptions = {}) {
    this.child = start(['serve', ...args, '--json'], options);
    this.stderr = text(this.child.stderr);
    const { stdout } = this.child;
    if (stdout === null) throw new Error('standard output is read here');
    this.#lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  /** The next event of a type. @throws where the command ends before. */
  async next<T extends ServeEvent['type']>(type: T): Promise<Extract<ServeEvent, { type: T }>> {
    for (;;) {
      const line = await this.#lines.next();
      if (line.done === true) throw new Error(`vfio serve ended before "${type}": ${await this.stderr}`);
      const event = JSON.parse(line.value) as ServeEvent;
      this.events.push(event);
      if (event.type === type) return event as Extract<ServeEvent, { type: T }>;
    }
  }

  /** Asks it to end; its exit code. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const closed = once(this.child, 'close') as Promise<[number | null]>;
    this.child.kill(signal);
    for (;;) {
      const line = await this.#lines.next();
      if (line.done === true) break;
      this.events.push(JSON.parse(line.value) as ServeEvent);
    }
    return (await closed)[0];
  }
}
