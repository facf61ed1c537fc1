import { LOOP_SLOT } from '@vfio/native';
import { VFIO_USER_HEADER_SIZE } from '@vfio/uapi';
import { type Connection, strayReply } from './connection.js';

/**
 * Hands the reply that the loop has just delivered to the command of ours that it answers, with its descriptors.
 * @returns why the stream cannot be trusted any more: see {@link Connection.accept}
 */
export function receiveReply(connection: Connection, offset: number, length: number): string | undefined {
  const { messages } = connection.loop;
  const { state } = messages;
  const { rx } = connection.socket;
  connection.counters?.countReceived(length);
  if (connection.tracer !== undefined) {
    connection.tracer.message(connection.receives, rx.subarray(offset, offset + length), state[LOOP_SLOT.FD_COUNT]!);
  }
  const id = state[LOOP_SLOT.ID]!;
  if (!connection.isExpected(id)) return strayReply(id);
  const fds: number[] = [];
  for (let index = 0; index < state[LOOP_SLOT.FD_COUNT]!; index++) fds.push(messages.takeFd(index));
  const payload = rx.slice(offset + VFIO_USER_HEADER_SIZE, offset + length);
  const header = {
    id,
    command: state[LOOP_SLOT.COMMAND]!,
    flags: state[LOOP_SLOT.FLAGS]!,
    errno: state[LOOP_SLOT.ERRNO]! >>> 0,
  };
  return connection.accept(header, { payload, fds, truncated: state[LOOP_SLOT.TRUNCATED] !== 0 });
}
