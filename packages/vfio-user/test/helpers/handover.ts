import { acceptUnix, closeFd, eventfdWrite, listenUnix } from '@vfio/native';
import { VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER } from '@vfio/uapi';
import { type VfioUserClient, VfioUserServer, type VfioUserServerOptions } from '../../src/index.js';
import { enable, le, read32 } from './edu-program.js';
import { MOVABLE, type Movable, movable } from './movable.js';
import { ClosedError, message, RawClient, type RawMessage, socketPath, turn } from './raw-client.js';
import { cleanup, eventfd, serve } from './serve.js';

/** A server that waits for another one's client. */
export async function waiting(target: Pick<Movable, 'device'>, options: VfioUserServerOptions = {}) {
  const socket = socketPath();
  cleanup(socket.remove);
  const warnings: string[] = [];
  const server = new VfioUserServer(target.device, {
    onWarning: (text) => warnings.push(text),
    watchdogMs: 60_000,
    ...options,
  });
  cleanup(() => server.close());
  await server.listen({ incoming: { path: socket.path } });
  return { server, warnings, path: socket.path };
}

/** A device with a client that has turned it on. */
export async function served(
  source?: Movable,
  options: Parameters<Awaited<ReturnType<typeof serve>>['connect']>[0] = {},
) {
  const a = source ?? (await movable());
  const server = await serve(a.device);
  const client = await server.connect(options);
  await enable(client);
  return { ...a, ...server, client };
}

/** What a client hands over of an eventfd: only its number. */
export const borrowed = (fd: number) => ({ fd, signal: () => eventfdWrite(fd), watch: () => () => {}, release() {} });

/** Arms vectors; answers their eventfds. */
export async function arm(client: VfioUserClient, index: number, count: number, flags = TRIGGER): Promise<number[]> {
  const fds = Array.from({ length: count }, () => eventfd());
  await client.setIrqs({ index, flags: EVENTFD | flags, start: 0, count, triggers: fds.map(borrowed) });
  return fds;
}

export const add = (client: VfioUserClient, value: number) => client.write(0, MOVABLE.ADD, le(value, 4));

/** What was added, and how often. */
export const sums = async (client: VfioUserClient) => [
  await read32(client, 0, MOVABLE.SUM),
  await read32(client, 0, MOVABLE.COUNT),
];

/** What a {@link relay} does with a message of the source: its number from 0, and what it is. */
export type RelayRule = (n: number, command: number) => 'pass' | 'cut before' | 'cut after' | 'hold';

/** Stands between the two servers of a handover and can cut them apart at any message. */
export function relay(to: string, rule: RelayRule) {
  const socket = socketPath();
  cleanup(socket.remove);
  const listener = listenUnix(socket.path);
  cleanup(() => closeFd(listener));
  const seen: number[] = [];
  const held: (() => Promise<void>)[] = [];
  const done = (async () => {
    let fd = acceptUnix(listener);
    for (; fd === undefined; fd = acceptUnix(listener)) await turn();
    const a = new RawClient(fd);
    const b = RawClient.connect(to);
    cleanup(() => a.close());
    cleanup(() => b.close());
    const pass = async (target: RawClient, one: RawMessage) => {
      const bytes = message(one.id, one.command, one.payload, one.flags);
      await target.send(bytes, one.fds);
      for (const passed of one.fds) closeFd(passed);
    };
    for (;;) {
      const request = await a.receive();
      const what = rule(seen.push(request.command) - 1, request.command);
      if (what === 'hold') {
        held.push(() => pass(b, request));
        await a.untilClosed();
        return;
      }
      if (what === 'cut before') {
        for (const dropped of request.fds) closeFd(dropped);
        break;
      }
      await pass(b, request);
      const reply = await b.receive();
      if (what === 'cut after') break;
      await pass(a, reply);
    }
    a.close();
    b.close();
  })().catch((error: unknown) => {
    if (!(error instanceof ClosedError)) throw error;
  });
  return { path: socket.path, seen, held, done };
}
