import { socketpair } from '@vfio/native';
import { type ConnectOptions, VfioUserClient } from '../../src/index.js';
import { bytes, message, RawClient, type RawMessage, u16, u32 } from './raw-client.js';
import { cleanup } from './serve.js';

/** Two ends of a connection: one for a client, the other played by hand. */
export function ends(): { fd: number; server: RawClient } {
  const [fd, theirs] = socketpair();
  const server = new RawClient(theirs);
  cleanup(() => server.close());
  return { fd, server };
}

/** How a played reply differs from a right one. */
export interface ReplyOptions {
  readonly id?: number;
  readonly command?: number;
  readonly flags?: number;
  readonly errno?: number;
}

/** A reply to a received command. */
export function replyTo(to: RawMessage, payload: Uint8Array = Buffer.alloc(0), options: ReplyOptions = {}): Buffer {
  const reply = message(options.id ?? to.id, options.command ?? to.command, payload, options.flags ?? 1);
  reply.writeUInt32LE(options.errno ?? 0, 12);
  return reply;
}

/** An error reply. */
export function errorTo(to: RawMessage, errno: number): Buffer {
  return replyTo(to, undefined, { flags: 0x21, errno });
}

/** The payload of a VERSION reply. */
export function versionPayload(capabilities: object = {}, minor = 2): Buffer {
  return bytes(u16(0, minor), JSON.stringify({ capabilities }), [0]);
}

/** The payload of a region info reply without capabilities. */
export function regionPayload(index: number, size: number, argsz = 32, flags = 3): Buffer {
  return bytes(u32(argsz, flags, index, 0), u32(size, 0, 0, 0));
}

/** A client whose server is played by hand. */
export async function played(capabilities: object = { max_msg_fds: 16 }, options: ConnectOptions = {}) {
  const { fd, server } = ends();
  const connecting = VfioUserClient.connect({ fd }, { twinSocket: false, ...options });
  const version = await server.receive();
  await server.send(replyTo(version, versionPayload(capabilities)));
  const client = await connecting;
  cleanup(() => client.close());
  return { client, server, version };
}
