import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** The host's side of guest/agent.sh: sends scripts, takes their results, and counts how often the guest booted. */
export class Agent {
  readonly #socket: Socket;
  readonly #changes = new EventEmitter();
  readonly #boots: string[] = [];
  #buffer = Buffer.alloc(0);
  #pending: { id: number; done(result: RunResult): void; failed(error: Error): void } | undefined;
  #nextId = 1;
  #closed: Error | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#changes.setMaxListeners(0);
    socket.on('data', (data: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, data]);
      while (this.#takeOne());
    });
    socket.on('error', () => undefined);
    socket.on('close', () => this.fail(new Error('QEMU closed the channel to the agent')));
  }

  /** Whether the channel is gone. */
  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /** How many times an agent has started in this guest. */
  get boots(): number {
    return this.#boots.length;
  }

  /** Resolves when an agent has started for the `count`-th time. */
  booted(count: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const check = () => {
        if (this.#closed) reject(this.#closed);
        else if (this.#boots.length >= count) resolve();
        else return;
        this.#changes.off('change', check);
      };
      this.#changes.on('change', check);
      check();
    });
  }

  /** Runs one script; `seconds` is the guest's own limit, after which it kills the script. */
  run(script: string, seconds: number): Promise<RunResult> {
    if (this.#closed) return Promise.reject(this.#closed);
    if (this.#pending) return Promise.reject(new Error('the agent runs one script at a time'));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending = { id, done: resolve, failed: reject };
      this.#send(id, script, seconds);
    });
  }

  /** Sends a script without waiting for an answer that will not come, such as a reboot. */
  send(script: string): void {
    this.#send(this.#nextId++, script, 3600);
  }

  /** Forgets a script whose answer is no longer waited for. */
  abandon(error: Error): void {
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.failed(error);
  }

  /** Ends everything that is waited for. */
  fail(error: Error): void {
    this.#closed ??= error;
    this.abandon(this.#closed);
    this.#changes.emit('change');
  }

  #send(id: number, script: string, seconds: number): void {
    this.#socket.write(`RUN ${id} ${seconds} ${Buffer.from(script).toString('base64')}\n`);
  }

  #takeOne(): boolean {
    const end = this.#buffer.indexOf(10);
    if (end < 0) return false;
    const [word, ...fields] = this.#buffer.toString('latin1', 0, end).split(' ');
    if (word !== 'RES') {
      this.#buffer = this.#buffer.subarray(end + 1);
      if (word === 'READY') {
        this.#boots.push(fields[0] ?? '');
        // What ran when the guest went down has no result any more.
        this.abandon(new Error('the guest booted again before the script ended'));
        this.#changes.emit('change');
      }
      return true;
    }
    const [id = 0, code = 0, outBytes = 0, errBytes = 0] = fields.map(Number);
    const start = end + 1;
    if (this.#buffer.length < start + outBytes + errBytes) return false;
    const stdout = this.#buffer.toString('utf8', start, start + outBytes);
    const stderr = this.#buffer.toString('utf8', start + outBytes, start + outBytes + errBytes);
    this.#buffer = this.#buffer.subarray(start + outBytes + errBytes);
    if (this.#pending?.id === id) {
      const { done } = this.#pending;
      this.#pending = undefined;
      done({ code, stdout, stderr });
    }
    return true;
  }
}
