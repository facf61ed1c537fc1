import { type ChildProcess, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { tail } from './command.js';
import type { DeviceSpec } from './guest.js';
import { freshFolder } from './logs.js';

/** What `vfio serve --json` prints, one a line. */
export interface ServerEvent {
  type: 'listening' | 'waiting' | 'ready' | 'attached' | 'detached' | 'warning';
  address?: string | null;
  driver?: string;
  ops?: string;
  peer?: string;
  reason?: string;
  message?: string;
}

export interface DeviceServerOptions {
  /** Names the server's log folder. */
  name: string;
  /** The function of the emulated host that is served. */
  address: string;
  /** Driver by name; the best one that is installed by default. */
  driver?: string;
  /** Where the command is started: the nearest package.json says which drivers there are. Default: this package. */
  cwd?: string;
  /** Words before `serve`: how the emulated host is set up. */
  setup?: readonly string[];
  /** More words for `vfio serve`. */
  args?: readonly string[];
  /** The socket, for a server that takes the place of another. Default: one of its own. */
  socket?: string;
  /** Waits for the client of a server that hands it over, and has its socket then. */
  takesOver?: DeviceServer;
  /** Keeps a trace; VFIO_E2E_TRACE=1 keeps one of every server. */
  trace?: boolean;
}

const { VFIO_E2E_TIME_SCALE, VFIO_E2E_TRACE } = process.env;
const SCALE = Number(VFIO_E2E_TIME_SCALE || 1);
const START_MS = 60_000;
const STOP_MS = 30_000;

/** The program as a user runs it: built, and with the drivers that this package depends on. */
export const CLI = join(dirname(createRequire(import.meta.url).resolve('@vfio/cli/package.json')), 'dist/bin.js');
const PACKAGE = join(import.meta.dirname, '..');

/** One `vfio serve` that serves one function of the emulated host. */
export class DeviceServer {
  /** Folder with events.log (what it printed), errors.log and, where one is kept, trace.log. */
  readonly logs: string;
  readonly socket: string;
  /** The control socket. */
  readonly control: string;
  /** Where a server waits that takes another one's client over. */
  readonly incoming: string;
  /** Every event so far, in order. */
  readonly events: ServerEvent[] = [];
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #changes = new EventEmitter();
  readonly #work: string;

  private constructor(logs: string, options: DeviceServerOptions) {
    this.logs = logs;
    this.#work = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
    this.socket = options.socket ?? options.takesOver?.socket ?? join(this.#work, 'device');
    this.control = join(this.#work, 'control');
    this.incoming = join(this.#work, 'incoming');
    this.#changes.setMaxListeners(0);
    const where = options.takesOver === undefined ? ['--socket-path', this.socket] : ['--incoming', this.incoming];
    const argv = [
      ...(options.setup ?? []),
      'serve',
      options.address,
      ...where,
      '--control-path',
      this.control,
      '--json',
    ];
    if (options.driver !== undefined) argv.push('--driver', options.driver);
    if (options.trace === true || VFIO_E2E_TRACE) argv.push('--trace', join(logs, 'trace.log'));
    argv.push(...(options.args ?? []));
    const errors = openSync(join(logs, 'errors.log'), 'a');
    // It ends with the process that started it, however that one ends.
    this.#process = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, CLI, ...argv], {
      cwd: options.cwd ?? PACKAGE,
      stdio: ['ignore', 'pipe', errors],
    });
    closeSync(errors);
    this.#exited = once(this.#process, 'close').catch(() => undefined);
    this.#exited.then(() => this.#changes.emit('change'));
    createInterface({ input: this.#process.stdout! }).on('line', (line) => {
      this.events.push(JSON.parse(line) as ServerEvent);
      this.#changes.emit('change');
    });
  }

  /** Starts a server and returns when it listens. Nothing is left running when it does not. */
  static async start(parent: string, options: DeviceServerOptions): Promise<DeviceServer> {
    const server = new DeviceServer(freshFolder(parent, `server-${options.name}`), options);
    try {
      await server.waitFor('ready', { timeoutMs: START_MS });
      return server;
    } catch (error) {
      await server.kill();
      throw error;
    }
  }

  get pid(): number {
    return this.#process.pid!;
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** The device that a guest gets: QEMU's client on this server's socket, or on another that leads to it. */
  device(properties: Partial<DeviceSpec> = {}, socket: string = this.socket): DeviceSpec {
    return { driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, ...properties };
  }

  /** Waits for the `count`-th event of a type; one that was already seen counts too. */
  async waitFor(type: ServerEvent['type'], options: { count?: number; timeoutMs?: number } = {}): Promise<ServerEvent> {
    const { count = 1, timeoutMs = 30_000 } = options;
    const deadline = Date.now() + timeoutMs * SCALE;
    for (;;) {
      const event = this.events.filter((one) => one.type === type)[count - 1];
      if (event !== undefined) return event;
      const left = deadline - Date.now();
      const failed = this.running ? undefined : `ended with ${this.#process.exitCode ?? this.#process.signalCode}`;
      if (failed !== undefined || left <= 0) {
        const what = failed ?? `did not say '${type}' ${count} times within ${timeoutMs} ms`;
        throw new Error(`vfio serve ${what}\n${this.lastWords()}`);
      }
      await once(this.#changes, 'change', { signal: AbortSignal.timeout(left) }).catch(() => undefined);
    }
  }

  /** Sentences of the server's warnings so far, but for those that only say how busy the machine is. */
  get warnings(): string[] {
    const all = this.events.filter(({ type }) => type === 'warning').map(({ message }) => message ?? '');
    return all.filter((message) => !/ blocked this thread for \d+ ms$/.test(message));
  }

  /** The messages so far, a line each, of a server that keeps a trace. */
  trace(): string[] {
    return readFileSync(join(this.logs, 'trace.log'), 'utf8').trimEnd().split('\n');
  }

  /** Resolves with its exit code when it has ended by itself. */
  async ended(): Promise<number | null> {
    await this.#exited;
    return this.#process.exitCode;
  }

  /** Asks it to end, as a service manager does, and gives its exit code. */
  async stop(): Promise<number | null> {
    this.#process.kill('SIGTERM');
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MS * SCALE);
    await this.#exited;
    clearTimeout(timer);
    this.#cleanUp();
    return this.#process.exitCode;
  }

  /** Ends it at once: what it held in memory is lost. Its socket file stays behind. */
  async kill(): Promise<void> {
    if (this.running) this.#process.kill('SIGKILL');
    await this.#exited;
    this.#cleanUp();
  }

  /** The last lines of what it printed, for a message about a failure. */
  lastWords(): string {
    const part = (name: string) => {
      const file = join(this.logs, name);
      return existsSync(file) ? `--- ${name}\n${tail(readFileSync(file, 'utf8'), 30)}\n` : '';
    };
    const events = this.events.map((event) => JSON.stringify(event)).join('\n');
    return `--- events\n${tail(events, 30)}\n${part('errors.log')}--- logs: ${this.logs}`;
  }

  #cleanUp(): void {
    rmSync(this.#work, { recursive: true, force: true });
  }
}
