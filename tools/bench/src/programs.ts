import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const sources = resolve(import.meta.dirname, '../c');

/** What the C client prints of one measurement; times in microseconds. */
export interface Measurement {
  readonly count: number;
  readonly perSecond: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** A folder with the compiled C programs and the sockets; gone with {@link Programs.close}, with every process it started. */
export class Programs {
  readonly folder = mkdtempSync(join(tmpdir(), 'vfio-bench-'));
  readonly #children: ChildProcess[] = [];

  constructor() {
    for (const name of ['client', 'floor']) {
      const built = spawnSync(
        'gcc',
        ['-O2', '-Wall', '-Wextra', '-o', join(this.folder, name), join(sources, `${name}.c`)],
        {
          encoding: 'utf8',
        },
      );
      if (built.status !== 0) throw new Error(`gcc ${name}.c: ${built.error?.message ?? built.stderr}`);
    }
  }

  /** Starts a program and waits until its sockets are there. */
  async start(command: string, args: readonly string[], sockets: readonly string[]): Promise<ChildProcess> {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    this.#children.push(child);
    for (let n = 0; !sockets.every((path) => existsSync(path)); n++) {
      if (child.exitCode !== null) throw new Error(`${command} ${args.join(' ')} ended with ${child.exitCode}`);
      if (n > 500) throw new Error(`${command} made no socket within 10 s`);
      await sleep(20);
    }
    return child;
  }

  floor(socket: string): Promise<ChildProcess> {
    return this.start(join(this.folder, 'floor'), [socket], [socket]);
  }

  /** Our server with an edu behind each socket, in one process. */
  edu(sockets: readonly string[], nodeOptions: readonly string[] = []): Promise<ChildProcess> {
    return this.start(
      process.execPath,
      [...nodeOptions, join(import.meta.dirname, 'edu-server.js'), ...sockets],
      sockets,
    );
  }

  /** One measurement of the C client. */
  async measure(
    socket: string,
    mode: string,
    ...args: readonly (string | number)[]
  ): Promise<Record<string, Measurement>> {
    const child = spawn(join(this.folder, 'client'), [socket, mode, ...args.map(String)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#children.push(child);
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    const [code] = (await once(child, 'close')) as [number | null];
    this.#children.splice(this.#children.indexOf(child), 1);
    if (code !== 0) throw new Error(`client ${mode} on ${socket} ended with ${code}`);
    return JSON.parse(output) as Record<string, Measurement>;
  }

  /** Ends clients that are still measuring; their promise rejects. */
  stopLoad(): void {
    for (const child of this.#children) if (child.spawnfile.endsWith('/client')) child.kill('SIGKILL');
  }

  socket(name: string): string {
    return join(this.folder, `${name}.sock`);
  }

  close(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}
