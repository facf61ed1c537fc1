import type { ReceivedReply } from '../connection.js';

/** One command of a client. */
export interface Call {
  readonly command: number;
  readonly pieces: readonly Uint8Array[];
  /** They stay the caller's. */
  readonly fds?: readonly number[];
}

/**
 * What a client does for one call of its user: commands, each with its reply. Written once, and run by the client that
 * waits by promise as well as by the one that blocks.
 */
export type Procedure<T> = Generator<Call, T, ReceivedReply>;

/** Runs a procedure by promises. */
export async function runAsync<T>(procedure: Procedure<T>, send: (call: Call) => Promise<ReceivedReply>): Promise<T> {
  let step = procedure.next();
  while (!step.done) {
    let reply: ReceivedReply;
    try {
      reply = await send(step.value);
    } catch (error) {
      step = procedure.throw(error);
      continue;
    }
    step = procedure.next(reply);
  }
  return step.value;
}

/** Runs a procedure at once; `send` blocks. */
export function runSync<T>(procedure: Procedure<T>, send: (call: Call) => ReceivedReply): T {
  let step = procedure.next();
  while (!step.done) {
    let reply: ReceivedReply;
    try {
      reply = send(step.value);
    } catch (error) {
      step = procedure.throw(error);
      continue;
    }
    step = procedure.next(reply);
  }
  return step.value;
}
