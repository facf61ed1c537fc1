import { VfioError } from '@vfio/uapi';
import { brokenReplyError, closeAll, disconnectedError, type ReceivedReply } from '../connection.js';
import { commandName } from '../trace.js';

/** One command of a client. */
export interface Call {
  readonly command: number;
  readonly pieces: readonly Uint8Array[];
  /** They stay the caller's. */
  readonly fds?: readonly number[];
  /** The reply may carry descriptors, which are the procedure's then. @default false */
  readonly takesFds?: boolean;
}

/**
 * What a client does for one call of its user: commands, each with its reply. Written once, and run by the client that
 * waits by promise as well as by the one that blocks.
 */
export type Procedure<T> = Generator<Call, T, ReceivedReply>;

/** What carries the calls of procedures: `R` is a reply, or a promise of one. */
export interface Wire<R> {
  /** Everything of this client is released: a procedure must not keep anything any more. */
  readonly isClosed: boolean;
  request(call: Call): R;
}

/** Runs a procedure by promises. */
export async function runAsync<T>(procedure: Procedure<T>, wire: Wire<Promise<ReceivedReply>>): Promise<T> {
  let step = procedure.next();
  while (!step.done) {
    let reply: ReceivedReply;
    try {
      reply = await wire.request(step.value);
    } catch (error) {
      step = procedure.throw(error);
      continue;
    }
    step = goOn(procedure, step.value, reply, wire.isClosed);
  }
  return step.value;
}

/** Runs a procedure at once; the wire blocks. */
export function runSync<T>(procedure: Procedure<T>, wire: Wire<ReceivedReply>): T {
  let step = procedure.next();
  while (!step.done) {
    let reply: ReceivedReply;
    try {
      reply = wire.request(step.value);
    } catch (error) {
      step = procedure.throw(error);
      continue;
    }
    step = goOn(procedure, step.value, reply, wire.isClosed);
  }
  return step.value;
}

function goOn<T>(procedure: Procedure<T>, call: Call, reply: ReceivedReply, isClosed: boolean) {
  const error = refusal(call, reply, isClosed);
  if (error === undefined) return procedure.next(reply);
  closeAll(reply.fds);
  return procedure.throw(error);
}

/** Why a procedure does not get its reply. */
function refusal({ command, takesFds }: Call, reply: ReceivedReply, isClosed: boolean): VfioError | undefined {
  // The reply was on its way to the procedure when the client was closed.
  if (isClosed) return disconnectedError(command);
  const { fds, truncated } = reply;
  if (!takesFds && (truncated || fds.length > 0)) return brokenReplyError(command, 'with descriptors, none is wanted');
  if (!truncated) return undefined;
  const op = commandName(command);
  return new VfioError(
    'ERR_VFIO_LIMIT',
    `${op}: the reply's descriptors were lost, this process has no room for more`,
    {
      errno: 'EMFILE',
      op,
    },
  );
}
