import { Socket } from 'node:net';
import { RECORD_HEADER } from '../../src/move/wire.js';

/** A record on its way, header included. */
export interface PassingRecord {
  readonly type: number;
  readonly bytes: Buffer;
}

/**
 * Two sockets whose records go from one to the other. `pass` says of each what is to come through in its place; undefined: the
 * connection is cut there.
 */
export function relay(
  a: number,
  b: number,
  pass: (record: PassingRecord, isForward: boolean) => Buffer | undefined,
): { readonly cut: () => void } {
  const sockets = [a, b].map((fd) => new Socket({ fd, readable: true, writable: true })) as [Socket, Socket];
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  for (const [index, socket] of sockets.entries()) {
    const other = sockets[1 - index]!;
    let held = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('end', () => other.end());
    socket.on('data', (bytes: Buffer) => {
      held = Buffer.concat([held, bytes]);
      while (held.length >= RECORD_HEADER) {
        const length = RECORD_HEADER + held.readUInt32LE(4);
        if (held.length < length) return;
        const out = pass({ type: held.readUInt16LE(0), bytes: Buffer.from(held.subarray(0, length)) }, index === 0);
        held = held.subarray(length);
        if (out === undefined) return cut();
        if (!other.destroyed) other.write(out);
      }
    });
  }
  return { cut };
}
