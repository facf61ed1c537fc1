import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { errnoError } from '@vfio/core';
import type { ServeEvent } from '../commands/serve.js';
import type { Io } from '../io.js';

const BIN = join(dirname(createRequire(import.meta.url).resolve('@vfio/cli/package.json')), 'bin/vfio.js');

/** A `vfio serve` in a process of its own. */
export class ServeProcess {
  readonly #child: ChildProcess;
  readonly #closed: Promise<unknown>;
  readonly #ready: Promise<void>;

  constructor(args: readonly string[], io: Io) {
    const child = spawn(process.execPath, [BIN, 'serve', ...args, '--json'], {
      cwd: io.cwd,
      env: io.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.#closed = once(child, 'close').catch(() => {});
    const errors = text(child.stderr);
    this.#ready = new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if ((JSON.parse(line) as ServeEvent).type === 'ready') resolve();
      });
      child.once('error', reject);
      child.once('close', async () => {
        const why = (await errors).trim().split('\n')[0];
        reject(errnoError('EIO', `the server ended before it served: ${why || 'it was stopped'}`, { op: 'demo' }));
      });
    });
    // Whoever waits for it hears of it.
    this.#ready.catch(() => {});
  }

  /** Settles when it serves. @throws EIO with what it said, where it ended before */
  get ready(): Promise<void> {
    return this.#ready;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Asks it to end, and waits for that. */
  async end(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#closed;
  }
}
