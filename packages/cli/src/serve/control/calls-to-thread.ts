import { errnoError } from '@vfio/core';
import { type PlainError, plainError } from '../plain-error.js';
import type { AnswerMessage, CallMessage } from './messages.js';

/** A call that did not succeed: as the serving thread said it. */
export class CallError extends Error {
  override readonly name = 'CallError';
  readonly kind: Extract<AnswerMessage, { type: 'error' }>['kind'];
  readonly plain: PlainError;

  constructor(kind: CallError['kind'], plain: PlainError) {
    super(plain.message);
    this.kind = kind;
    this.plain = plain;
  }
}

interface Call {
  readonly onProgress: (value: unknown) => void;
  resolve(value: unknown): void;
  reject(error: CallError): void;
}

/** Calls to one serving thread, by the command's thread. */
export class CallsToThread {
  readonly #post: (message: CallMessage) => void;
  readonly #calls = new Map<number, Call>();
  #lastId = 0;
  #ended: string | undefined;

  constructor(post: (message: CallMessage) => void) {
    this.#post = post;
  }

  /** @throws {@link CallError} */
  call(
    address: string,
    method: string,
    params: unknown,
    options: { readonly onProgress: (value: unknown) => void; readonly signal: AbortSignal },
  ): Promise<unknown> {
    const { onProgress, signal } = options;
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(new CallError('failed', plainError(goneError(this.#ended))));
        return;
      }
      const id = ++this.#lastId;
      const cancel = (): void => this.#post({ type: 'cancel', id });
      const settle = (): void => signal.removeEventListener('abort', cancel);
      this.#calls.set(id, {
        onProgress,
        resolve: (value) => {
          settle();
          resolve(value);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      });
      this.#post({ type: 'call', id, address, method, params });
      signal.addEventListener('abort', cancel, { once: true });
      if (signal.aborted) cancel();
    });
  }

  onAnswer(message: AnswerMessage): void {
    const call = this.#calls.get(message.id);
    if (message.type === 'progress') {
      call?.onProgress(message.value);
      return;
    }
    this.#calls.delete(message.id);
    if (message.type === 'result') call?.resolve(message.value);
    else call?.reject(new CallError(message.kind, message.error));
  }

  /** The thread is gone: what waits fails, and so does all that comes. */
  end(reason: string): void {
    this.#ended = reason;
    for (const call of this.#calls.values()) call.reject(new CallError('failed', plainError(goneError(reason))));
    this.#calls.clear();
  }
}

const goneError = (reason: string): Error => errnoError('ENODEV', reason, { op: 'control' });
