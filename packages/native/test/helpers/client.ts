import { Worker } from 'node:worker_threads';
import { builtAddon } from './child.js';

const SOURCE = `
  const { workerData } = require('node:worker_threads');
  const native = require(workerData.addon);
  const state = new Int32Array(workerData.state);
  const request = new Uint8Array(workerData.request);
  const reply = new Uint8Array(4096);
  const fds = new Int32Array(16);
  const status = new Int32Array(4);
  // 10 s at most: a server that hangs must not keep the test.
  for (const end = Date.now() + 10_000; Atomics.load(state, 0) === 0 && Date.now() < end; ) {
    if (native.transact(workerData.fd, request, request.length, null, 0, reply, 5000, fds, status) < 0) break;
    Atomics.add(state, 1, 1);
  }
`;

/** A client in a thread of its own: one request after the other, each as soon as the reply is there, until it is stopped. */
export class BusyClient {
  readonly #state = new Int32Array(new SharedArrayBuffer(8));
  readonly #ended: Promise<unknown>;

  constructor(fd: number, request: Uint8Array) {
    const worker = new Worker(SOURCE, {
      eval: true,
      workerData: { addon: builtAddon, fd, request: request.slice().buffer, state: this.#state.buffer },
    });
    this.#ended = new Promise((resolve, reject) => {
      worker.on('exit', resolve);
      worker.on('error', reject);
    });
  }

  /** Replies that it has had. */
  get replies(): number {
    return Atomics.load(this.#state, 1);
  }

  async stop(): Promise<void> {
    Atomics.store(this.#state, 0, 1);
    await this.#ended;
  }
}
