import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** An hour: longer than any run. */
const FOR_EVER_MS = 3_600_000;

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

/** What a server of ours says of its heap. */
export interface HeapState {
  readonly scavenges: number;
  readonly heapUsed: number;
  /** After the collection that follows. */
  readonly heapLeft: number;
}

/** A folder with the compiled C programs and the sockets; gone with {@link Programs.close}, with every process it started. */
export class Programs {
  readonly folder = mkdtempSync(join(tmpdir(), 'vfio-bench-'));
  readonly #children: ChildProcess[] = [];

  constructor() {
    for (const name of ['client', 'floor', 'pipe']) {
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
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
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
  edu(sockets: readonly string[]): Promise<ChildProcess> {
    return this.start(process.execPath, [join(import.meta.dirname, 'edu-server.js'), ...sockets], sockets);
  }

  /** What our server has collected and holds; it then collects all garbage. */
  async collections(server: ChildProcess): Promise<HeapState> {
    const line = once(server.stdout as Readable, 'data');
    server.kill('SIGUSR2');
    return JSON.parse(String((await line)[0])) as HeapState;
  }

  /** A Node that does nothing: what every program of it costs. */
  async idle(): Promise<ChildProcess> {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1 << 30); console.log()'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#children.push(child);
    await once(child.stdout, 'data');
    return child;
  }

  /** A client that is attached to every socket until it is ended. */
  async hold(sockets: readonly string[]): Promise<ChildProcess> {
    const [first = '', ...others] = sockets;
    const child = spawn(join(this.folder, 'client'), [first, 'hold', ...others], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#children.push(child);
    await once(child.stdout, 'data');
    return child;
  }

  /** A client that reads as fast as it can, until it is stopped. */
  load(socket: string, ...args: readonly number[]): { stop(): Promise<void> } {
    const child = spawn(join(this.folder, 'client'), [socket, 'load', ...args.map(String), String(FOR_EVER_MS)], {
      stdio: 'ignore',
    });
    this.#children.push(child);
    return { stop: () => this.end(child) };
  }

  async end(child: ChildProcess): Promise<void> {
    this.#children.splice(this.#children.indexOf(child), 1);
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
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

  /** Runs a program to its end. @returns the JSON that it prints */
  async run<T>(command: string, args: readonly string[]): Promise<T> {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#children.push(child);
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    const [code] = (await once(child, 'close')) as [number | null];
    this.#children.splice(this.#children.indexOf(child), 1);
    if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}`);
    return JSON.parse(output) as T;
  }

  /** So many bytes from one process of C to another. */
  pipe(bytes: number): Promise<{ readonly seconds: number }> {
    return this.run(join(this.folder, 'pipe'), [String(bytes)]);
  }

  /** A device with so many bytes of state from one server of ours to another, each in a process. */
  async move(bytes: number): Promise<{ readonly seconds: number; readonly grownBytes: number }> {
    const meeting = this.socket('move');
    const end = (...direction: string[]) =>
      this.run<{ seconds: number; grownBytes: number }>(process.execPath, [
        join(import.meta.dirname, 'move-end.js'),
        meeting,
        this.folder,
        String(bytes),
        ...direction,
      ]);
    const taken = end();
    for (let n = 0; !existsSync(meeting); n++) {
      if (n > 500) throw new Error('the destination does not wait within 10 s');
      await sleep(20);
    }
    const [out, into] = await Promise.all([end('out'), taken]);
    return { seconds: out.seconds, grownBytes: Math.max(out.grownBytes, into.grownBytes) };
  }

  socket(name: string): string {
    return join(this.folder, `${name}.sock`);
  }

  close(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}
