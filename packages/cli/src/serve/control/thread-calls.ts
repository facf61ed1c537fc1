import { setTimeout as delay } from 'node:timers/promises';
import { errnoError } from '@vfio/core';
import { METHODS } from '../methods/index.js';
import type { ControlMethod, Served } from '../methods/method.js';
import { ParamReader } from '../methods/params.js';
import { plainError } from '../plain-error.js';
import type { AnswerMessage, CallMessage } from './messages.js';
import { CALL_GRACE_MS } from './protocol.js';

interface Running {
  readonly stop: AbortController;
  readonly done: Promise<void>;
}

/** Carries out, in a serving thread, the calls that the command's thread has taken. */
export class ThreadCalls {
  readonly #served: ReadonlyMap<string, Served>;
  readonly #tell: (message: AnswerMessage) => void;
  readonly #running = new Map<number, Running>();
  #isEnding = false;

  constructor(served: ReadonlyMap<string, Served>, tell: (message: AnswerMessage) => void) {
    this.#served = served;
    this.#tell = tell;
  }

  onMessage(message: CallMessage): void {
    if (message.type === 'cancel') {
      this.#running.get(message.id)?.stop.abort();
      return;
    }
    const stop = new AbortController();
    if (this.#isEnding) stop.abort();
    const done = this.#run(message, stop.signal).finally(() => this.#running.delete(message.id));
    this.#running.set(message.id, { stop, done });
  }

  async #run(message: Extract<CallMessage, { type: 'call' }>, signal: AbortSignal): Promise<void> {
    const { id, address, params: given } = message;
    // Own properties only: a method called "constructor" is none.
    const method = Object.hasOwn(METHODS, message.method)
      ? (METHODS[message.method as keyof typeof METHODS] as ControlMethod<unknown, unknown, unknown>)
      : undefined;
    const served = this.#served.get(address);
    let kind: 'params' | 'failed' = 'params';
    try {
      if (method === undefined) throw errnoError('ENOSYS', `no method is called "${message.method}"`);
      if (served === undefined) throw errnoError('ENODEV', `${address} is not served here`, { device: address });
      const reader = new ParamReader(message.method, given);
      const params = method.params(reader);
      reader.end();
      kind = 'failed';
      signal.throwIfAborted();
      const progress = (value: unknown): void => this.#tell({ type: 'progress', id, value });
      const value = (await method.run(served, params, { progress, signal })) ?? null;
      this.#tell({ type: 'result', id, value });
    } catch (error) {
      this.#tell({ type: 'error', id, kind: isAbort(error, signal) ? 'cancelled' : kind, error: plainError(error) });
    }
  }

  /** Cancels what runs and gives it time to put things back. */
  async end(): Promise<void> {
    this.#isEnding = true;
    const running = [...this.#running.values()];
    for (const { stop } of running) stop.abort();
    const ended = new AbortController();
    const late = delay(CALL_GRACE_MS, undefined, { signal: ended.signal }).catch(() => {});
    await Promise.race([Promise.all(running.map(({ done }) => done)), late]);
    ended.abort();
  }
}

/** Whether a call failed because it was cancelled: some of Node's functions wrap the signal's reason. */
const isAbort = (error: unknown, signal: AbortSignal): boolean =>
  signal.aborted && (error === signal.reason || (error instanceof Error && error.name === 'AbortError'));
